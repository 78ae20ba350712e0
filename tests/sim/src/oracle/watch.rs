//! From a broker to what the rules want to know: only what changed since the last event is looked at.

use std::collections::BTreeSet;

use chronik_core::controller::{MetadataState, check_invariants};
use chronik_model::batch::{BatchHeader, find_batch};
use chronik_model::{NodeId, Offset};

use super::ledger::Key;
use super::quorum::Seen;
use super::replica::{Ended, InSync, Marks};
use super::{Oracle, Violation};
use crate::broker::{Broker, PartitionView};
use crate::world::Host;

/// Bytes per read of a log.
const READ: usize = 1 << 20;

/// All partitions of one broker as they were after its last event, with their marks; without, where they have to be read again.
#[derive(Debug, Default)]
pub(super) struct Quick {
    pub(super) run: u64,
    partitions: Vec<(Key, Option<Marks>)>,
}

impl Quick {
    /// What the broker hosts has to be read again.
    pub(super) fn forget_marks(&mut self) {
        self.partitions.iter_mut().for_each(|(_, marks)| *marks = None);
    }
}

fn key_of(partition: PartitionView<'_>) -> Key {
    (partition.topic_id(), partition.tp().partition)
}

fn marks_of(partition: PartitionView<'_>) -> Marks {
    let hosted = partition.0;
    let replica = hosted.replica();
    Marks {
        start: replica.log_start().0,
        end: hosted.log().log_end().0,
        high_watermark: replica.high_watermark().0,
        // Also of one that led until this event: a leader acknowledges nothing above what it has synced.
        visible: replica.high_watermark().min(hosted.durable().max(replica.log_start())).0,
        synced: hosted.log().recovery_point().0,
        leads: hosted.led_epoch().map(|epoch| epoch.0),
        fenced: replica.is_io_fenced(),
    }
}

/// The batches between two offsets, up to the first that is damaged. The disk does not notice.
pub(super) fn read_batches(
    host: &Host,
    partition: PartitionView<'_>,
    from: i64,
    to: i64,
    verify: bool,
) -> Vec<BatchHeader> {
    host.disk.observe(|| walk(partition, from, to, verify))
}

fn walk(partition: PartitionView<'_>, from: i64, to: i64, verify: bool) -> Vec<BatchHeader> {
    let mut out = Vec::new();
    let mut next = from;
    while next < to {
        let Ok(bytes) = partition.read(Offset(next), READ, Offset(to)) else { return out };
        let before = next;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let header = if verify { find_batch(rest) } else { BatchHeader::decode(rest) };
            let Ok(header) = header else { return out };
            if rest.len() < header.total_bytes {
                return out;
            }
            rest = &rest[header.total_bytes..];
            next = header.next_offset().0;
            out.push(header);
        }
        if next == before {
            return out;
        }
    }
    out
}

impl Oracle {
    pub(super) fn watch(&mut self, node: NodeId, host: &Host, broker: &Broker) -> Result<(), Violation> {
        let run = host.run;
        let quorum = broker.quorum();
        if !quorum.failed {
            let seen = Seen {
                run,
                term: quorum.term.0,
                vote: quorum.vote,
                leads: quorum.role == chronik_consensus::Role::Leader,
                applied: quorum.applied.0,
            };
            if self.quorum.see(node, seen)? {
                self.quorum.members(node, seen.applied, quorum.voters, quorum.learners)?;
                let state = broker.metadata().read();
                self.quorum.compare(node, &state)?;
                if state.applied().0 > self.applied {
                    self.applied = state.applied().0;
                    self.metadata_changed(&state)?;
                }
            }
        }
        self.watch_partitions(node, host, broker)
    }

    fn metadata_changed(&mut self, state: &MetadataState) -> Result<(), Violation> {
        if let Err(text) = check_invariants(state) {
            return Err(Violation { invariant: 8, text: format!("metadata at index {}: {text}", state.applied()) });
        }
        for broker in state.brokers() {
            self.history.racks.see(broker.node, broker.rack.as_deref())?;
        }
        let mut cut = Vec::new();
        for (topic, index, partition) in state.partitions() {
            if self.logs.version(topic.id, index) == partition.partition_epoch.0 {
                continue;
            }
            let key = (topic.id, index);
            if self.logs.partition_changed(&topic.name, key, partition, self.now)? {
                cut.push(key);
            }
        }
        self.after_cuts(&cut);
        let deletions = &self.history.deletions;
        let deleted = self.logs.topics_are(
            |id| state.topic_by_id(id).is_some(),
            |name| deletions.contains_key(name),
            self.now,
        )?;
        for name in deleted {
            self.history.groups.ignore(&name);
        }
        Ok(())
    }

    fn watch_partitions(&mut self, node: NodeId, host: &Host, broker: &Broker) -> Result<(), Violation> {
        let run = host.run;
        let mut quick = self.quick.remove(&node).unwrap_or_default();
        if quick.run != run {
            quick = Quick { run, ..Quick::default() };
            if broker.config().every_ack {
                self.durable.insert(node);
            }
        }
        // Most events change no partition, and nearly none which there are.
        let same = broker.partitions().map(key_of).eq(quick.partitions.iter().map(|(key, _)| *key));
        if !same {
            let keys: BTreeSet<Key> = broker.partitions().map(key_of).collect();
            // A quorum that failed within this event may have applied, before that, what nobody could look at.
            if !broker.quorum().failed {
                for (key, _) in quick.partitions.iter().filter(|(key, _)| !keys.contains(key)) {
                    self.logs.vanished(key, node, self.now)?;
                }
            }
        }
        let mut count = 0;
        for (at, partition) in broker.partitions().enumerate() {
            count += 1;
            let (key, marks) = (key_of(partition), marks_of(partition));
            let now = (key, Some(marks));
            match quick.partitions.get_mut(at) {
                Some(seen) if *seen == now => continue,
                Some(seen) => *seen = now,
                None => quick.partitions.push(now),
            }
            self.watch_partition(node, host, broker, partition, key, &marks)?;
        }
        quick.partitions.truncate(count);
        self.quick.insert(node, quick);
        Ok(())
    }

    fn watch_partition(
        &mut self,
        node: NodeId,
        host: &Host,
        broker: &Broker,
        partition: PartitionView<'_>,
        key: Key,
        marks: &Marks,
    ) -> Result<(), Violation> {
        let run = host.run;
        let in_sync = self.in_sync(node, broker, partition, &key, marks);
        let tp = partition.tp();
        let stale = self.logs.is_stale(&key, node);
        let (ledger, replica) = self.logs.both(key, tp, node);
        if marks.fenced && (replica.run != run || replica.marks.fenced) {
            // Log and memory may differ from here on; nothing is promised from it.
            return Ok(());
        }
        let told = partition.0.replica().log_end().0;
        if told != marks.end && !marks.fenced {
            let text =
                format!("{tp}: the replica on b{node} believes in log end {told}, the log ends at {}", marks.end);
            return Err(Violation { invariant: 5, text });
        }
        if replica.run != run {
            let sound = !replica.struck && !replica.damaged && replica.ended != Ended::Uncertain;
            let read = |from, to| read_batches(host, partition, from, to, true);
            replica.booted(node, run, marks, &read, ledger)?;
            if sound {
                let reached = read(marks.start, marks.end).last().map_or(marks.start, |batch| batch.next_offset().0);
                if reached < marks.end {
                    let text = format!("{tp}: the log of b{node} is damaged at {reached} after recovery");
                    return Err(Violation { invariant: 11, text });
                }
            }
        }
        let unchanged = replica.marks == *marks && !stale;
        if !unchanged {
            let before = replica.marks;
            let read = |from, to| read_batches(host, partition, from, to, false);
            replica.changed(node, marks, &read, ledger, &in_sync, self.now)?;
            if marks.fenced {
                replica.marks.leads = None;
                if host.disk.is_stopped() && !before.fenced {
                    replica.interrupted(&before);
                }
            }
        }
        if let Some(version) = partition.0.replica().partition_epoch() {
            self.logs.hosted(&key, node, version.0);
        }
        Ok(())
    }

    fn in_sync(
        &mut self,
        node: NodeId,
        broker: &Broker,
        partition: PartitionView<'_>,
        key: &Key,
        marks: &Marks,
    ) -> InSync {
        let led = self.logs.replica(key, node).is_some_and(|replica| replica.marks.leads.is_some());
        let Some(state) = partition.0.replica().committed().filter(|_| led || marks.leads.is_some()) else {
            return InSync { told: Vec::new(), size: 0, min: 0, changed: true };
        };
        let metadata = broker.metadata().read();
        let min = metadata.topic_by_id(key.0).map_or(1, |topic| state.min_isr(metadata.configured_min_isr(topic)));
        // The watermark may have moved before the setting changed in the same event.
        let before = self.mins.insert(*key, min).unwrap_or(min);
        let version = state.partition_epoch.0;
        let changed = self.versions.insert((node, *key), version) != Some(version);
        InSync { told: self.logs.told(key, &state.isr, node), size: state.isr.len(), min: min.min(before), changed }
    }
}
