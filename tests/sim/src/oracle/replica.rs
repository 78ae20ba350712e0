//! One replica of one partition as the oracle saw it last, and the rules for how it may change from one event to the next.
//!
//! Everything appended is read once. What lies below the watermark is compared with the [`Ledger`] and forgotten; what lies
//! above is kept as the tail, so that it is known at any time, also while the process is dead, how much of what was
//! committed this replica holds.

use std::collections::BTreeMap;

use chronik_model::batch::BatchHeader;
use chronik_model::{NodeId, Offset};

use super::Violation;
use super::ledger::Ledger;
use crate::kernel::Micros;

/// Where a replica stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Log start.
    pub start: i64,
    /// Log end.
    pub end: i64,
    /// High watermark.
    pub high_watermark: i64,
    /// What consumers may see.
    pub visible: i64,
    /// Everything below is synced.
    pub synced: i64,
    /// The epoch that it leads, if it leads.
    pub leads: Option<i32>,
    /// Its log cannot be trusted any more.
    pub fenced: bool,
}

/// How the last process ended, as far as it matters to what a log must still have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Killed: everything written is there.
    Kept,
    /// Stopped in order, with every log settled: everything is there.
    Settled,
    /// The power failed and the disk is honest: everything synced is there.
    PowerLost,
    /// An exit on an error, or a damaged disk: nothing is certain.
    Uncertain,
}

/// Batches of a log, from one offset to another.
pub type Read<'a> = &'a dyn Fn(i64, i64) -> Vec<BatchHeader>;

/// What a leader's watermark is judged by.
#[derive(Clone, Debug)]
pub struct InSync {
    /// Other members of the committed in-sync set, and the largest log end that each ever told.
    pub told: Vec<(NodeId, Option<i64>)>,
    /// Size of the committed in-sync set.
    pub size: usize,
    /// Effective `min.insync.replicas`.
    pub min: usize,
    /// The set was another one before this event: the watermark may have moved in between, while there were more.
    pub changed: bool,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The run of the process that was seen.
    pub run: u64,
    /// Where it stands.
    pub marks: Marks,
    /// Compared with the ledger up to here.
    pub verified: i64,
    tail: BTreeMap<i64, BatchHeader>,
    /// Largest log end that a leader may have heard of.
    pub told: i64,
    /// Its disk was struck and its log was not seen since: what it holds is not known.
    pub struck: bool,
    /// Where its log ends at least, after its process stopped in the middle of a change.
    floor: i64,
    /// How its last process ended.
    pub ended: Ended,
    /// Files of it may have been damaged where no recovery looks.
    pub damaged: bool,
    /// The committed assignment was without it: its log goes, or has gone.
    pub dismissed: bool,
    /// The tail has to be read again: the ledger was cut under it.
    stale: bool,
}

impl Replica {
    /// Never seen before: a new log, which holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            run: 0,
            marks: Marks::default(),
            verified: 0,
            tail: BTreeMap::new(),
            told: 0,
            struck: false,
            floor: 0,
            ended: Ended::Kept,
            damaged: false,
            dismissed: false,
            stale: false,
        }
    }

    /// Up to where it holds what was committed; `None` when that is not known.
    #[must_use]
    pub fn holds(&self, ledger: &Ledger) -> Option<i64> {
        if self.struck {
            return None;
        }
        let mut held = self.verified;
        for (base, header) in self.tail.range(self.verified..) {
            if *base != held || !ledger.holds(header) {
                break;
            }
            held = header.next_offset().0;
        }
        Some(held)
    }

    /// The ledger was cut at `from`.
    pub fn cut(&mut self, from: i64) {
        if self.verified > from {
            self.verified = from;
            self.stale = true;
        }
    }

    /// Its disk is another one: whatever is found there from now on is new.
    pub fn replace(&mut self) {
        *self = Self { told: self.told, ended: Ended::Uncertain, damaged: true, ..Self::new() };
    }

    /// Its log is gone, as it had to: whatever is found there from now on is new.
    pub fn vanish(&mut self) {
        *self = Self { told: self.told, ..Self::new() };
    }

    /// Its process stopped in the middle of a change of some log, so where this one ends is not sure. But nothing takes anything
    /// from the log of a leader, or from a follower's what is below its watermark.
    pub fn interrupted(&mut self, before: &Marks) {
        self.floor = if before.leads.is_some() { before.end } else { before.high_watermark };
    }

    /// Whether the oracle must look at it again although nothing changed.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// A new process opened the log.
    ///
    /// # Errors
    /// It has what it never had, or lacks what it must have.
    pub fn booted(
        &mut self,
        node: NodeId,
        run: u64,
        marks: &Marks,
        read: Read<'_>,
        ledger: &mut Ledger,
    ) -> Result<(), Violation> {
        let first = self.run == 0;
        let before = self.marks;
        let least = match self.ended {
            _ if self.dismissed => 0,
            Ended::Kept if !before.fenced && !self.struck => before.end,
            Ended::Settled if !self.struck => before.end,
            Ended::PowerLost if !before.fenced => before.synced,
            Ended::Kept if !self.struck => self.floor,
            Ended::PowerLost => self.floor.min(before.synced),
            _ => 0,
        };
        if !first && marks.end < least {
            let what = match self.ended {
                Ended::Kept => "its process was killed",
                Ended::Settled => "it stopped in order",
                Ended::PowerLost | Ended::Uncertain => "its power failed",
            };
            let text = format!(
                "{}: the log of b{node} ended at {} (synced to {}) when {what}, and ends at {} after recovery",
                ledger.tp, before.end, before.synced, marks.end
            );
            return Err(Violation { invariant: 11, text });
        }
        self.tail.clear();
        let mut next = None;
        for header in read(marks.start, marks.end) {
            dense(node, ledger, &mut next, &header)?;
            let known = ledger.note(node, &header)?;
            // What was appended in its very last event was not seen.
            let (base, beyond) = (header.base_offset.0, header.base_offset.0 >= before.end);
            if !known && !beyond && ledger.cuts.is_empty() {
                let text = format!("{}: b{node} recovered a batch at {base} that nobody ever had there", ledger.tp);
                return Err(Violation { invariant: 11, text });
            }
            self.tail.insert(base, header);
        }
        self.run = run;
        self.verified = marks.start;
        self.told = self.told.max(marks.end);
        self.marks = *marks;
        self.floor = 0;
        // Judged as if it had just become so.
        self.marks.leads = None;
        self.struck = false;
        self.stale = false;
        self.ended = Ended::Kept;
        Ok(())
    }

    /// Something of it changed within one event of its process.
    ///
    /// # Errors
    /// It changed as it must not.
    pub fn changed(
        &mut self,
        node: NodeId,
        marks: &Marks,
        read: Read<'_>,
        ledger: &mut Ledger,
        in_sync: &InSync,
        now: Micros,
    ) -> Result<(), Violation> {
        let before = self.marks;
        self.positions(node, marks, &before, ledger)?;
        if marks.end < before.end {
            self.tail.split_off(&marks.end);
            self.verified = self.verified.min(marks.end);
            self.told = marks.end;
        }
        self.verified = self.verified.max(marks.start);
        let from =
            if std::mem::take(&mut self.stale) { self.verified } else { before.end.min(marks.end).max(marks.start) };
        let mut next = None;
        for header in read(from, marks.end) {
            dense(node, ledger, &mut next, &header)?;
            ledger.note(node, &header)?;
            self.tail.insert(header.base_offset.0, header);
        }
        self.told = self.told.max(marks.end);
        self.marks = *marks;
        if let Some(epoch) = marks.leads {
            ledger.lead(node, epoch, now)?;
            if before.leads != Some(epoch) {
                self.complete(node, epoch, ledger)?;
            } else if marks.high_watermark > before.high_watermark {
                watermark_moves(node, marks.high_watermark, ledger, in_sync)?;
            }
            ledger.log_start = ledger.log_start.max(marks.start);
        }
        // Lost within the event: what its watermark passed before was acknowledged all the same.
        let led = before.leads.is_some() && marks.leads.is_none();
        let until = match (marks.leads, led) {
            (Some(_), _) | (None, true) => marks.visible,
            (None, false) => marks.high_watermark.min(ledger.end()),
        };
        let under = marks.leads.or(before.leads).unwrap_or(i32::MAX);
        self.verify(node, under, until, ledger, in_sync, now)
    }

    fn positions(&self, node: NodeId, marks: &Marks, before: &Marks, ledger: &Ledger) -> Result<(), Violation> {
        let Marks { start, end, high_watermark, .. } = *marks;
        if start > high_watermark || high_watermark > end {
            let text =
                format!("{}: b{node} has log start {start}, high watermark {high_watermark}, log end {end}", ledger.tp);
            return Err(Violation { invariant: 5, text });
        }
        if high_watermark < before.high_watermark && ledger.cuts.is_empty() {
            let text = format!(
                "{}: the high watermark of b{node} goes back from {} to {high_watermark} (log end {} to {end}); {}",
                ledger.tp,
                before.high_watermark,
                before.end,
                ledger.story()
            );
            return Err(Violation { invariant: 4, text });
        }
        // Nothing deletes records here, and no retention is short enough: a beginning that the disk lost is missed by its note,
        // and nothing is kept behind it.
        if start > 0 {
            let text =
                format!("{}: the log of b{node} begins at {start}, and nobody deleted what was before", ledger.tp);
            return Err(Violation { invariant: 5, text });
        }
        if start < before.start {
            let text = format!("{}: the log start of b{node} goes back from {} to {start}", ledger.tp, before.start);
            return Err(Violation { invariant: 5, text });
        }
        Ok(())
    }

    /// A new leader holds everything that was committed before its epoch.
    fn complete(&self, node: NodeId, epoch: i32, ledger: &Ledger) -> Result<(), Violation> {
        let wanted = ledger.end_before(epoch);
        let held = self.holds(ledger).unwrap_or(i64::MAX).max(self.marks.start);
        if held >= wanted {
            return Ok(());
        }
        let broken = if self.damaged { ", parts of which are damaged" } else { "" };
        let missing = ledger.entries_from(held).next().map_or_else(String::new, |(base, entry)| {
            format!(
                "; first missing: offset {base}..{} of epoch {}, committed at {} ms",
                entry.next,
                entry.epoch,
                entry.at / 1_000
            )
        });
        let text = format!(
            "{}: b{node} leads epoch {epoch} and holds only {held} of {wanted} committed before (log end {}{broken}){missing}; {}",
            ledger.tp,
            self.marks.end,
            ledger.story()
        );
        Err(Violation { invariant: 1, text })
    }

    /// Compares what lies before `until`, and commits what is new there.
    fn verify(
        &mut self,
        node: NodeId,
        under: i32,
        until: i64,
        ledger: &mut Ledger,
        in_sync: &InSync,
        now: Micros,
    ) -> Result<(), Violation> {
        while let Some((base, header)) = self.tail.range(self.verified..).next().map(|(base, header)| (*base, *header))
        {
            let next = header.next_offset().0;
            if next > until {
                break;
            }
            if base >= ledger.end() {
                ledger.commit(node, under, &header, in_sync.min >= 2, now)?;
            } else {
                ledger.compare(node, &header)?;
            }
            self.verified = next;
            self.tail.remove(&base);
        }
        // What lies before was compared.
        if self.tail.first_key_value().is_some_and(|(base, _)| *base < self.verified) {
            self.tail = self.tail.split_off(&self.verified);
        }
        Ok(())
    }
}

impl Default for Replica {
    fn default() -> Self {
        Self::new()
    }
}

fn dense(node: NodeId, ledger: &Ledger, next: &mut Option<i64>, header: &BatchHeader) -> Result<(), Violation> {
    let base = header.base_offset.0;
    if next.is_some_and(|next| next != base) {
        let text = format!("{}: the log of b{node} goes on with {base} after {}", ledger.tp, next.unwrap_or(0));
        return Err(Violation { invariant: 5, text });
    }
    *next = Some(header.next_offset().0);
    Ok(())
}

/// A leader's watermark passes nobody in sync, and stands still while too few are.
fn watermark_moves(node: NodeId, to: i64, ledger: &Ledger, in_sync: &InSync) -> Result<(), Violation> {
    if let Some((member, told)) = in_sync.told.iter().find(|(_, told)| told.is_some_and(|told| told < to)) {
        let text = format!(
            "{}: leader b{node} moves its high watermark to {to}, past in-sync b{member}, whose log never went beyond {}; {}",
            ledger.tp,
            Offset(told.unwrap_or(0)),
            ledger.story()
        );
        return Err(Violation { invariant: 1, text });
    }
    if in_sync.size < in_sync.min && !in_sync.changed {
        let text = format!(
            "{}: leader b{node} moves its high watermark to {to} with {} in sync where {} are needed",
            ledger.tp, in_sync.size, in_sync.min
        );
        return Err(Violation { invariant: 1, text });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chronik_model::TopicPartition;

    use super::super::ledger::tests::batch;
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    /// A replica with its log.
    struct Log {
        node: NodeId,
        replica: Replica,
        batches: Vec<BatchHeader>,
        run: u64,
    }

    impl Log {
        fn new(node: NodeId) -> Self {
            Self { node, replica: Replica::new(), batches: Vec::new(), run: 0 }
        }

        fn marks(&self, high_watermark: i64, leads: Option<i32>) -> Marks {
            let end = self.batches.last().map_or(0, |b| b.next_offset().0);
            Marks { end, high_watermark, visible: high_watermark, leads, ..Marks::default() }
        }

        fn see(&mut self, ledger: &mut Ledger, marks: &Marks, in_sync: &InSync) -> Result<(), Violation> {
            let batches = self.batches.clone();
            let read = move |from: i64, to: i64| {
                batches.iter().filter(|b| b.base_offset.0 >= from && b.base_offset.0 < to).copied().collect()
            };
            if self.replica.run != self.run {
                self.replica.booted(self.node, self.run, marks, &read, ledger)?;
            }
            self.replica.changed(self.node, marks, &read, ledger, in_sync, 0)
        }
    }

    fn alone() -> InSync {
        InSync { told: Vec::new(), size: 1, min: 1, changed: false }
    }

    fn with_b(told: i64, size: usize) -> InSync {
        InSync { told: vec![(B, Some(told))], size, min: 2, changed: false }
    }

    fn ledger() -> Ledger {
        Ledger::new(TopicPartition::new("t0", 0), true)
    }

    /// A leader of epoch 1 that committed two batches.
    fn leader(ledger: &mut Ledger) -> Log {
        let mut log = Log::new(A);
        log.run = 1;
        let marks = log.marks(0, Some(1));
        log.see(ledger, &marks, &alone()).unwrap();
        log.batches = vec![batch(0, 1, "x", None), batch(1, 1, "y", None)];
        let marks = log.marks(2, Some(1));
        log.see(ledger, &marks, &with_b(2, 2)).unwrap();
        assert_eq!(ledger.end(), 2);
        log
    }

    #[test]
    fn a_watermark_that_passes_an_in_sync_replica_is_broken() {
        let mut ledger = ledger();
        let mut log = leader(&mut ledger);
        log.batches.push(batch(2, 1, "z", None));
        let marks = log.marks(3, Some(1));
        assert_eq!(log.see(&mut ledger, &marks, &with_b(2, 2)).unwrap_err().invariant, 1);
    }

    #[test]
    fn a_watermark_that_moves_with_too_few_in_sync_is_broken() {
        let mut ledger = ledger();
        let mut log = leader(&mut ledger);
        log.batches.push(batch(2, 1, "z", None));
        let marks = log.marks(3, Some(1));
        let few = InSync { told: Vec::new(), size: 1, min: 2, changed: false };
        assert_eq!(log.see(&mut ledger, &marks, &few).unwrap_err().invariant, 1);
    }

    #[test]
    fn a_watermark_never_goes_back_and_never_leaves_the_log() {
        let mut ledger = ledger();
        let mut log = leader(&mut ledger);
        let marks = log.marks(1, Some(1));
        assert_eq!(log.see(&mut ledger, &marks, &alone()).unwrap_err().invariant, 4);
        let marks = log.marks(9, Some(1));
        assert_eq!(log.see(&mut ledger, &marks, &alone()).unwrap_err().invariant, 5);
    }

    #[test]
    fn a_new_leader_without_a_committed_record_is_broken_and_one_with_an_excuse_is_not() {
        let mut ledger = ledger();
        leader(&mut ledger);
        let mut other = Log::new(B);
        other.run = 1;
        other.batches = vec![batch(0, 1, "x", None)];
        let marks = other.marks(1, Some(2));
        let error = other.see(&mut ledger, &marks, &alone()).unwrap_err();
        assert_eq!(error.invariant, 1, "{error:?}");
        ledger.cut(1, 0);
        let mut other = Log::new(B);
        other.run = 1;
        other.batches = vec![batch(0, 1, "x", None)];
        assert_eq!(other.see(&mut ledger, &marks, &alone()), Ok(()));
    }

    #[test]
    fn a_leader_of_an_old_epoch_need_not_hold_what_later_ones_committed() {
        let mut ledger = ledger();
        leader(&mut ledger);
        let mut late = Log::new(B);
        late.run = 1;
        let marks = late.marks(0, Some(0));
        assert_eq!(late.see(&mut ledger, &marks, &alone()), Ok(()));
    }

    #[test]
    fn a_follower_with_other_records_below_its_watermark_is_broken() {
        let mut ledger = ledger();
        leader(&mut ledger);
        let mut follower = Log::new(B);
        follower.run = 1;
        follower.batches = vec![batch(0, 0, "other", None)];
        let marks = follower.marks(0, None);
        assert_eq!(follower.see(&mut ledger, &marks, &alone()), Ok(()), "above its watermark it may differ");
        assert_eq!(follower.replica.holds(&ledger), Some(0));
        let marks = follower.marks(1, None);
        assert_eq!(follower.see(&mut ledger, &marks, &alone()).unwrap_err().invariant, 3);
    }

    #[test]
    fn what_a_follower_holds_is_known_above_its_watermark_too() {
        let mut ledger = ledger();
        leader(&mut ledger);
        let mut follower = Log::new(B);
        follower.run = 1;
        follower.batches = vec![batch(0, 1, "x", None), batch(1, 1, "y", None)];
        let marks = follower.marks(1, None);
        follower.see(&mut ledger, &marks, &alone()).unwrap();
        assert_eq!((follower.replica.verified, follower.replica.holds(&ledger)), (1, Some(2)));
    }

    #[test]
    fn a_kill_loses_nothing_and_a_power_cut_nothing_that_was_synced() {
        for (ended, synced, left, fine) in [
            (Ended::Kept, 0, 2, true),
            (Ended::Kept, 0, 1, false),
            (Ended::Settled, 0, 2, true),
            (Ended::Settled, 0, 1, false),
            (Ended::PowerLost, 1, 1, true),
            (Ended::PowerLost, 2, 1, false),
            (Ended::Uncertain, 2, 0, true),
        ] {
            let mut ledger = ledger();
            let mut log = leader(&mut ledger);
            log.replica.marks.synced = synced;
            log.replica.ended = ended;
            log.run = 2;
            log.batches.truncate(left);
            let marks = log.marks(0, None);
            let seen = log.see(&mut ledger, &marks, &alone());
            assert_eq!(seen.is_ok(), fine, "{ended:?} synced {synced} left {left}: {seen:?}");
        }
    }

    #[test]
    fn recovery_invents_nothing() {
        let mut ledger = ledger();
        let mut log = leader(&mut ledger);
        log.run = 2;
        log.batches[1] = batch(1, 0, "invented", None);
        let marks = log.marks(0, None);
        assert_eq!(log.see(&mut ledger, &marks, &alone()).unwrap_err().invariant, 11);
    }

    #[test]
    fn a_watermark_that_moves_in_the_event_that_ends_a_leadership_commits() {
        let mut ledger = ledger();
        let mut log = leader(&mut ledger);
        log.batches.push(batch(2, 1, "z", None));
        let marks = log.marks(3, None);
        log.see(&mut ledger, &marks, &alone()).unwrap();
        assert_eq!(ledger.end(), 3);
    }

    #[test]
    fn offsets_are_dense() {
        let mut ledger = ledger();
        let mut log = leader(&mut ledger);
        log.batches.extend([batch(2, 1, "z", None), batch(4, 1, "hole", None)]);
        let marks = log.marks(2, Some(1));
        assert_eq!(log.see(&mut ledger, &marks, &alone()).unwrap_err().invariant, 5);
    }
}
