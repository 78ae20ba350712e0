//! Commands of a script that look inside.

use super::ask::describe;
use super::harness;
use super::stage::{Answer, Stage, Words, topic_partition};
use crate::broker::SimPartition;
use crate::runner::Failure;
use crate::survey;

impl Stage {
    /// The replica of a partition in a broker.
    pub(super) fn replica(&self, broker: &str, partition: &str) -> Result<&SimPartition, Failure> {
        let tp = topic_partition(partition)?;
        let process = self.process(broker)?;
        let topic = process.metadata().read().topic(tp.topic.as_ref()).map(|topic| topic.id);
        topic
            .and_then(|topic| process.partition(topic, tp.partition))
            .ok_or_else(|| harness(format!("{broker} does not host {partition}")))
    }

    /// Everything in a replica's log, and its high watermark.
    pub(super) fn log(&self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let replica = self.replica(words.at(0)?, words.at(1)?)?;
        let log = replica.log();
        let bytes = log.read_bytes(log.log_start(), 1 << 30, log.log_end());
        let bytes = bytes.map_err(|error| harness(error.to_string()))?;
        Ok(vec![format!("{}; hw={}", describe(&bytes), replica.replica().high_watermark())])
    }

    /// The leader epochs of a replica's log and where they begin.
    pub(super) fn epochs(&self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let epochs = self.replica(words.at(0)?, words.at(1)?)?.log().epochs();
        let epochs: Vec<String> =
            epochs.iter().map(|entry| format!("{}:{}", entry.epoch, entry.start_offset)).collect();
        Ok(vec![epochs.join(" ")])
    }

    /// The committed state of a partition.
    pub(super) fn show(&self, word: &str) -> Answer {
        let state = self.committed(word)?.state;
        let leader = state.leader.map_or_else(|| "none".to_owned(), |leader| self.part(leader));
        let mut line = format!("leader={leader} epoch={} isr=[{}]", state.leader_epoch, self.part_list(&state.isr));
        if !state.elr.is_empty() {
            line.push_str(&format!(" elr=[{}]", self.part_list(&state.elr)));
        }
        if !state.last_known_elr.is_empty() {
            line.push_str(&format!(" last=[{}]", self.part_list(&state.last_known_elr)));
        }
        Ok(vec![line])
    }

    /// Why a partition is not the same everywhere, if it is not.
    pub(super) fn lagging(&self, partition: &survey::Surveyed) -> Option<String> {
        let state = &partition.state;
        let tp = &partition.tp;
        let Some(leader) = state.leader else { return Some(format!("{tp} has no leader")) };
        let end = survey::log_end(&self.world, leader, partition);
        if end.is_none() {
            return Some(format!("{tp}: its leader does not host it"));
        }
        let led = survey::up(&self.world, leader)?.partition(partition.topic, tp.partition)?.led_epoch();
        if led != Some(state.leader_epoch) {
            return Some(format!("{tp}: its leader does not lead yet"));
        }
        state.replicas.iter().find_map(|replica| {
            let behind = !state.isr.contains(replica) || survey::log_end(&self.world, *replica, partition) != end;
            behind.then(|| format!("{tp}: {} is behind", self.part(*replica)))
        })
    }
}
