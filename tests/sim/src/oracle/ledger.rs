//! What was committed: per partition, every batch below a leader's high watermark, in order, for ever.
//!
//! A leader whose watermark moves writes here; every replica, reader and acknowledgement is compared with it. An entry is
//! taken back only by a [`Cut`], when the disks of all that were obliged to hold it were struck: then, and only then, it may
//! vanish. What never happens: two entries at one offset, a hole, a batch of a producer out of its sequence.

use std::collections::BTreeMap;

use chronik_model::batch::BatchHeader;
use chronik_model::{NodeId, PartitionIndex, TopicId, TopicPartition};

use super::Violation;
use super::history::print_of;
use crate::kernel::Micros;

/// Names a partition for ever.
pub type Key = (TopicId, PartitionIndex);

/// One committed batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Offset after its last record.
    pub next: i64,
    /// Epoch under which it was appended.
    pub epoch: i32,
    /// Checksum.
    pub crc: u32,
    /// See [`print_of`].
    pub print: u64,
    /// Producer id and epoch; id -1 without.
    pub producer: (i64, i16),
    /// First and last sequence.
    pub sequences: (i32, i32),
    /// Epoch of the leader whose watermark passed it.
    pub under: i32,
    /// At least two replicas had to be in sync when it was committed.
    pub strict: bool,
    /// When.
    pub at: Micros,
}

impl Entry {
    fn of(header: &BatchHeader, under: i32, strict: bool, at: Micros) -> Self {
        Self {
            next: header.next_offset().0,
            epoch: header.partition_leader_epoch.0,
            crc: header.crc,
            print: print_of(header),
            producer: (header.producer_id.0, header.producer_epoch.0),
            sequences: (header.base_sequence, header.last_sequence()),
            under,
            strict,
            at,
        }
    }

    fn is(&self, header: &BatchHeader) -> bool {
        self.crc == header.crc && self.epoch == header.partition_leader_epoch.0 && self.next == header.next_offset().0
    }
}

/// From `from` on everything was excused at this time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// When.
    pub at: Micros,
    /// First offset that may be lost.
    pub from: i64,
    /// Where the ledger ended.
    pub until: i64,
    /// Whose disk was struck last.
    pub struck: Option<NodeId>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Ledger {
    /// Topic and index.
    pub tp: TopicPartition,
    /// No topic of this name was there before.
    pub first: bool,
    entries: BTreeMap<i64, Entry>,
    end: i64,
    /// Checksum of whatever was appended anywhere, by base offset and epoch.
    known: BTreeMap<(i64, i32), u32>,
    /// Next sequence of each producer and epoch.
    next_sequence: BTreeMap<(i64, i16), i32>,
    leaders: BTreeMap<i32, (NodeId, Micros)>,
    /// Excuses, in order.
    pub cuts: Vec<Cut>,
    /// What the cuts took back: it may still be on its way to readers.
    excused: Vec<(i64, Entry)>,
    /// Highest log start of any leader: retention has passed it.
    pub log_start: i64,
    /// A disk with a replica was struck.
    pub struck: Option<NodeId>,
    /// When the topic was deleted.
    pub deleted: Option<Micros>,
    /// When a replica was last taken away.
    pub left: Option<Micros>,
}

impl Ledger {
    /// Nothing is committed.
    #[must_use]
    pub fn new(tp: TopicPartition, first: bool) -> Self {
        Self {
            tp,
            first,
            entries: BTreeMap::new(),
            end: 0,
            known: BTreeMap::new(),
            next_sequence: BTreeMap::new(),
            leaders: BTreeMap::new(),
            cuts: Vec::new(),
            excused: Vec::new(),
            log_start: 0,
            struck: None,
            deleted: None,
            left: None,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Where what was committed with at least two replicas in sync ends.
    #[must_use]
    pub fn strict_end(&self) -> i64 {
        self.entries.values().rev().find(|entry| entry.strict).map_or(0, |entry| entry.next)
    }

    /// Where what leaders before `epoch` committed ends. What they left above their watermarks may be committed later.
    #[must_use]
    pub fn end_before(&self, epoch: i32) -> i64 {
        self.entries.values().rev().find(|entry| entry.under < epoch).map_or(0, |entry| entry.next)
    }

    /// Where what was committed by `at` ends.
    #[must_use]
    pub fn end_at(&self, at: Micros) -> i64 {
        self.entries.values().rev().find(|entry| entry.at <= at).map_or(0, |entry| entry.next)
    }

    /// All entries from `base` on.
    pub fn entries_from(&self, base: i64) -> impl Iterator<Item = (i64, &Entry)> {
        self.entries.range(base..).map(|(base, entry)| (*base, entry))
    }

    /// The entry at this base offset.
    #[must_use]
    pub fn entry(&self, base: i64) -> Option<&Entry> {
        self.entries.get(&base)
    }

    /// Who led, for explanations.
    #[must_use]
    pub fn story(&self) -> String {
        let leaders: Vec<String> = self
            .leaders
            .iter()
            .rev()
            .take(6)
            .map(|(epoch, (node, at))| format!("b{node} epoch {epoch} since {} ms", at / 1_000))
            .collect();
        let cuts: Vec<String> =
            self.cuts.iter().map(|cut| format!("excused from {} at {} ms", cut.from, cut.at / 1_000)).collect();
        format!(
            "led by {}{}{}",
            leaders.join(", before that "),
            if cuts.is_empty() { "" } else { "; " },
            cuts.join(", ")
        )
    }

    /// A replica appended or recovered this batch. Whether it was known already.
    ///
    /// # Errors
    /// Another batch has the same epoch and offset.
    pub fn note(&mut self, node: NodeId, header: &BatchHeader) -> Result<bool, Violation> {
        let (base, epoch) = (header.base_offset.0, header.partition_leader_epoch.0);
        match self.known.insert((base, epoch), header.crc) {
            None => Ok(false),
            Some(crc) if crc == header.crc => Ok(true),
            Some(crc) => Err(Violation {
                invariant: 3,
                text: format!(
                    "{} epoch {epoch} offset {base}: b{node} has a batch with checksum {:08x}, another replica had {crc:08x}",
                    self.tp, header.crc
                ),
            }),
        }
    }

    /// Whether a batch of a replica is the one committed there.
    #[must_use]
    pub fn holds(&self, header: &BatchHeader) -> bool {
        self.entries.get(&header.base_offset.0).is_some_and(|entry| entry.is(header))
    }

    /// Compares a batch below a replica's watermark with what was committed.
    ///
    /// # Errors
    /// It is another one.
    pub fn compare(&self, node: NodeId, header: &BatchHeader) -> Result<(), Violation> {
        if self.holds(header) {
            return Ok(());
        }
        let base = header.base_offset.0;
        let committed = self.entries.range(..=base).next_back();
        let known = committed.map_or_else(
            || "nothing".to_owned(),
            |(at, entry)| format!("{at}..{} epoch {} checksum {:08x}", entry.next, entry.epoch, entry.crc),
        );
        Err(Violation {
            invariant: 3,
            text: format!(
                "{}: below its high watermark b{node} has {base}..{} epoch {} checksum {:08x}, committed was {known}; {}",
                self.tp,
                header.next_offset(),
                header.partition_leader_epoch,
                header.crc,
                self.story()
            ),
        })
    }

    /// The watermark of a leader, in its epoch `under`, passed this batch; it is the next one.
    ///
    /// # Errors
    /// It leaves a hole, or breaks the sequence of its producer.
    pub fn commit(
        &mut self,
        node: NodeId,
        under: i32,
        header: &BatchHeader,
        strict: bool,
        at: Micros,
    ) -> Result<(), Violation> {
        let base = header.base_offset.0;
        if base != self.end {
            let text = format!("{}: b{node} commits {base} after {}: offsets are not dense", self.tp, self.end);
            return Err(Violation { invariant: 5, text });
        }
        let entry = Entry::of(header, under, strict, at);
        if let Some((_, before)) = self.entries.iter().next_back()
            && before.epoch > entry.epoch
        {
            let text =
                format!("{}: b{node} commits {base} of epoch {} after epoch {}", self.tp, entry.epoch, before.epoch);
            return Err(Violation { invariant: 3, text });
        }
        self.check_sequence(node, base, &entry)?;
        self.entries.insert(base, entry);
        self.end = entry.next;
        Ok(())
    }

    fn check_sequence(&mut self, node: NodeId, base: i64, entry: &Entry) -> Result<(), Violation> {
        if entry.producer.0 < 0 {
            return Ok(());
        }
        let after = entry.sequences.1.checked_add(1).unwrap_or(0);
        let expected = match self.next_sequence.insert(entry.producer, after) {
            Some(expected) => expected,
            // A topic that was made again meets producers in the middle of their sequence; so does one that lost its log.
            None if self.first && self.cuts.is_empty() => 0,
            None => return Ok(()),
        };
        if entry.sequences.0 == expected {
            return Ok(());
        }
        let kind = if entry.sequences.0 < expected { "again" } else { "with a gap" };
        Err(Violation {
            invariant: 6,
            text: format!(
                "{}: b{node} committed sequences {}..={} of producer {} epoch {} {kind} at offset {base}, expected {expected}; {}",
                self.tp,
                entry.sequences.0,
                entry.sequences.1,
                entry.producer.0,
                entry.producer.1,
                self.story()
            ),
        })
    }

    /// A broker accepts appends as leader of this epoch.
    ///
    /// # Errors
    /// Another one did.
    pub fn lead(&mut self, node: NodeId, epoch: i32, at: Micros) -> Result<(), Violation> {
        let (other, since) = *self.leaders.entry(epoch).or_insert((node, at));
        if other == node {
            return Ok(());
        }
        let text = format!(
            "{} has two leaders in epoch {epoch}: b{other} since {} ms and b{node} at {} ms",
            self.tp,
            since / 1_000,
            at / 1_000
        );
        Err(Violation { invariant: 2, text })
    }

    /// Everything from `from` on may be lost.
    pub fn cut(&mut self, from: i64, at: Micros) {
        self.cuts.push(Cut { at, from, until: self.end, struck: self.struck });
        // A batch is lost as a whole.
        let from = self.entries.range(..from).next_back().filter(|(_, entry)| entry.next > from).map_or(from, |e| *e.0);
        let lost = self.entries.split_off(&from);
        self.excused.extend(lost);
        self.end = self.entries.values().next_back().map_or(from.min(self.end), |entry| entry.next);
        self.next_sequence.clear();
        for entry in self.entries.values() {
            self.next_sequence.insert(entry.producer, entry.sequences.1.checked_add(1).unwrap_or(0));
        }
    }

    /// Whether a batch with this content was ever committed at this offset.
    #[must_use]
    pub fn ever(&self, base: i64, print: u64) -> bool {
        self.entries.get(&base).is_some_and(|entry| entry.print == print)
            || self.excused.iter().any(|(at, entry)| *at == base && entry.print == print)
    }

    /// Whether it may be lost by now: an excuse covers it, retention passed it, or the topic is gone.
    #[must_use]
    pub fn may_miss(&self, base: i64, print: u64) -> bool {
        self.deleted.is_some()
            || base < self.log_start
            || self.excused.iter().any(|(at, entry)| *at == base && entry.print == print)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use chronik_model::batch::BatchBuilder;
    use chronik_model::batch::{BatchHeader, set_partition_leader_epoch};
    use chronik_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

    use super::*;

    pub(in crate::oracle) fn batch(base: i64, epoch: i32, value: &str, producer: Option<(i64, i32)>) -> BatchHeader {
        let mut builder = BatchBuilder::new(1_000).base_offset(Offset(base));
        if let Some((id, sequence)) = producer {
            builder = builder.producer(ProducerId(id), ProducerEpoch(0), sequence);
        }
        builder.push(None, Some(value.as_bytes()));
        let mut bytes = builder.build().to_vec();
        set_partition_leader_epoch(&mut bytes, LeaderEpoch(epoch));
        BatchHeader::decode(&bytes).unwrap()
    }

    fn ledger() -> Ledger {
        Ledger::new(TopicPartition::new("t0", 0), true)
    }

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn the_same_epoch_and_offset_is_the_same_batch_everywhere() {
        let mut ledger = ledger();
        assert_eq!(ledger.note(A, &batch(0, 1, "x", None)), Ok(false));
        assert_eq!(ledger.note(B, &batch(0, 1, "x", None)), Ok(true));
        assert_eq!(ledger.note(B, &batch(0, 2, "y", None)), Ok(false), "another epoch is another story");
        assert_eq!(ledger.note(B, &batch(0, 1, "y", None)).unwrap_err().invariant, 3);
    }

    #[test]
    fn what_is_committed_stays_and_has_no_holes() {
        let mut ledger = ledger();
        ledger.commit(A, 1, &batch(0, 1, "x", None), true, 5).unwrap();
        assert!(ledger.compare(B, &batch(0, 1, "x", None)).is_ok());
        assert_eq!(ledger.compare(B, &batch(0, 1, "y", None)).unwrap_err().invariant, 3);
        assert_eq!(ledger.compare(B, &batch(0, 2, "x", None)).unwrap_err().invariant, 3, "of another epoch");
        assert_eq!(ledger.commit(A, 1, &batch(2, 1, "z", None), true, 6).unwrap_err().invariant, 5);
        assert_eq!(ledger.commit(A, 0, &batch(1, 0, "z", None), true, 6).unwrap_err().invariant, 3, "epochs go back");
    }

    #[test]
    fn each_sequence_of_a_producer_is_committed_once_and_in_order() {
        let committed = |sequences: &[i32]| {
            let mut ledger = ledger();
            for (at, sequence) in sequences.iter().enumerate() {
                ledger.commit(A, 1, &batch(at as i64, 1, &format!("{at}"), Some((7, *sequence))), true, 0)?;
            }
            Ok::<(), Violation>(())
        };
        assert_eq!(committed(&[0, 1, 2]), Ok(()));
        for broken in [&[0, 1, 1][..], &[0, 2], &[1], &[0, 1, 0]] {
            assert_eq!(committed(broken).unwrap_err().invariant, 6, "{broken:?}");
        }
    }

    #[test]
    fn a_producer_may_begin_anywhere_in_a_topic_that_was_made_again() {
        let mut ledger = Ledger::new(TopicPartition::new("t0", 0), false);
        assert_eq!(ledger.commit(A, 1, &batch(0, 1, "x", Some((7, 4))), true, 0), Ok(()));
        assert_eq!(ledger.commit(A, 1, &batch(1, 1, "y", Some((7, 6))), true, 0).unwrap_err().invariant, 6);
    }

    #[test]
    fn one_epoch_has_one_leader() {
        let mut ledger = ledger();
        ledger.lead(A, 3, 0).unwrap();
        ledger.lead(A, 3, 9).unwrap();
        ledger.lead(B, 4, 10).unwrap();
        assert_eq!(ledger.lead(B, 3, 11).unwrap_err().invariant, 2);
    }

    #[test]
    fn what_a_later_leader_commits_is_not_asked_of_an_earlier_one() {
        let mut ledger = ledger();
        ledger.commit(A, 1, &batch(0, 1, "x", None), true, 0).unwrap();
        ledger.commit(B, 3, &batch(1, 1, "left above the watermark", None), true, 9).unwrap();
        assert_eq!((ledger.end_before(2), ledger.end_before(4)), (1, 2));
    }

    #[test]
    fn a_cut_excuses_what_is_behind_it_and_nothing_else() {
        let mut ledger = ledger();
        for at in 0..4 {
            ledger.commit(A, 1, &batch(at, 1, &format!("{at}"), Some((7, at as i32))), true, 0).unwrap();
        }
        let prints: Vec<u64> = (0..4).map(|at| ledger.entry(at).unwrap().print).collect();
        ledger.cut(2, 50);
        assert_eq!(ledger.end(), 2);
        assert!(!ledger.may_miss(1, prints[1]));
        assert!(ledger.may_miss(2, prints[2]));
        assert!(ledger.ever(3, prints[3]), "it may still be on its way to a reader");
        ledger.commit(B, 2, &batch(2, 2, "other", Some((7, 2))), true, 60).unwrap();
        assert_eq!(ledger.end_before(2), 2);
        assert_eq!(ledger.strict_end(), 3);
    }
}
