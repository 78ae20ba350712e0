//! How a process ends without order, and what its log is worth to the controller afterwards.

use super::*;

impl Sim {
    /// A kill keeps the log. The one victim at a time also loses its tail, or its whole disk.
    pub(super) fn kill(&mut self, node: i32) {
        let (what, tail) = (self.random.below(8), self.random.below(6));
        let loses = what < 6 && self.tainted.is_empty();
        if loses {
            self.tainted.insert(NodeId(node), self.brokers[slot(node)].replica.broker_epoch);
        }
        let broker = &mut self.brokers[slot(node)];
        broker.up = false;
        self.seen.killed += 1;
        let end = broker.log.end();
        match what {
            _ if !loses => {}
            0..3 => {
                self.incarnations += 1;
                broker.directory = self.incarnations << 64;
                broker.log = Log::default();
                self.seen.lost_disks += 1;
            }
            _ => broker.log.truncate((end - i64::try_from(tail).unwrap()).max(0)),
        }
        self.seen.lost_records += usize::from(broker.log.end() < end);
    }

    /// The end of a log reaches Raft.
    pub(super) fn report(&mut self, claim: &LogClaim, last_epoch: LeaderEpoch) {
        self.propose(ReportLog {
            node: claim.node,
            broker_epoch: claim.broker_epoch,
            topic_id: topic_id(),
            partition: PartitionIndex(0),
            leader_epoch: claim.leader_epoch,
            last_epoch,
            log_end: claim.log_end,
        });
    }
}
