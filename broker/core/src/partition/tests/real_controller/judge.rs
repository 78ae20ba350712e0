//! What must be true after every step, and of a cluster that is repaired.

use super::*;

impl Sim {
    pub(super) fn check(&mut self) {
        for (broker, node) in self.brokers.iter_mut().zip(NODES).filter(|(broker, _)| broker.up) {
            broker.replica.check_invariants().unwrap();
            assert_eq!(broker.replica.log_end(), Offset(broker.log.end()), "node {node}");
            let high_watermark = broker.replica.high_watermark();
            assert!(high_watermark >= broker.last_watermark, "node {node}: the watermark fell to {high_watermark}");
            broker.last_watermark = high_watermark;
            let committed = &broker.log.records[..usize::try_from(high_watermark.0).unwrap()];
            let known = committed.len().min(self.visible.len());
            assert_eq!(committed[..known], self.visible[..known], "node {node} shows other records than were seen");
            self.visible.extend_from_slice(&committed[known..]);
        }
        let state = self.state();
        let members = state.isr.iter().chain(&state.elr).chain(&state.last_known_elr);
        let holders: Vec<NodeId> = members.copied().filter(|node| !self.tainted.contains_key(node)).collect();
        assert!(!holders.is_empty(), "nobody is left who lost nothing: {state:?}, tainted {:?}", self.tainted);
        let acked = &self.visible[..self.acked];
        for member in holders {
            let log = &self.brokers[slot(member.0)].log.records;
            assert!(log.starts_with(acked), "node {member} lost nothing and lacks acknowledged records: {state:?}");
        }
    }

    /// Everything is repaired; all replicas must become in sync and equal, and take a record.
    pub(super) fn heal(&mut self) {
        for round in 0..500 {
            for node in NODES {
                let stuck = self.meta.broker(NodeId(node)).is_some_and(|broker| broker.shutting_down.is_some());
                if self.brokers[slot(node)].up && stuck {
                    self.stop(node);
                }
                if !self.brokers[slot(node)].up {
                    self.fence(node);
                    self.restart(node);
                }
                let newest = self.history.len() - 1;
                let effects =
                    self.brokers[slot(node)].replica.apply_config(config(self.history[newest].min_isr), self.now);
                self.run(node, effects);
                self.apply(node, newest);
                self.unfence(node);
                self.fetch(node);
                if round == 400 {
                    self.produce(node);
                }
            }
            for _ in 0..self.net.len() {
                self.deliver();
            }
            self.tick();
            self.check();
        }
        assert_eq!(self.state().isr.len(), 3, "{:?}", self.state());
        let first = &self.brokers[0].log.records;
        assert_eq!(first.last().map(|(_, value)| *value), Some(self.next_value), "the partition takes no records");
        assert_eq!(self.acked, first.len(), "the last record is not acknowledged");
        for broker in &self.brokers {
            assert_eq!(&broker.log.records, first);
            assert_eq!(broker.replica.high_watermark(), Offset(broker.log.end()));
        }
    }
}
