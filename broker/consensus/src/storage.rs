//! What a replica must never forget: term, vote, entries, members, and the state image they build on.
//!
//! Owned by the `RawNode` of one replica. Recovery is `open`; afterwards `persist` makes one batch durable with one
//! fsync, `members_changed` records a membership before it has any effect, `save_image` compacts. All entries since
//! the last compaction are in memory too (compaction bounds them), so raft's reads never touch the disk, except for
//! a state image that is sent to a peer.
//!
//! What never happens: a batch that is half there after a crash; an image in force whose file is not durable; an
//! entry removed that the image does not cover; voters taken from configuration when anything is on disk.

mod frame;
mod image;
mod mark;
mod segments;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use chronik_log::disk::{Disk, parent};
use chronik_model::{NodeId, mutant};
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, StorageError};

use frame::Record;
use segments::{Segments, failed};

use crate::error::{OpenError, SnapshotError, StorageFailed};
use crate::mirror::{ConfState, Entry, HardState, Snapshot};

/// Index and term of the image that every founding node starts from: any joiner is behind it, so it gets an image
/// (with the members in it) before the first entry.
pub const BOOTSTRAP_INDEX: u64 = 5;

/// What an empty directory becomes. A directory with anything in it ignores this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// One of the founding nodes; all of them are given the same voters.
    Bootstrap {
        /// The founders.
        voters: Vec<NodeId>,
    },
    /// A node that the leader of an existing cluster will feed.
    Join,
}

/// Index and term of an entry.
type Position = (u64, u64);

fn entry_bytes(entry: &eraftpb::Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 32) as u64
}

/// The durable state of one replica.
#[derive(Debug)]
pub(crate) struct Store<D> {
    disk: D,
    dir: String,
    node: NodeId,
    log: Segments<D>,
    entries: VecDeque<eraftpb::Entry>,
    bytes: u64,
    /// Entries up to here are gone.
    base: Position,
    /// The image in force; (0, 0) for a joiner that has none yet.
    image: Position,
    /// Members in the image: raft refuses an image that does not name its receiver.
    image_members: ConfState,
    hard: HardState,
    members: (u64, ConfState),
    /// A peer needs a newer image than there is (it is not named in it, say), or the image cannot be read.
    image_wanted: Cell<bool>,
    read_problem: RefCell<Option<String>>,
}

/// One batch to make durable.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) hard: Option<HardState>,
    pub(crate) image: Option<Snapshot>,
    pub(crate) entries: Vec<eraftpb::Entry>,
}

impl<D: Disk + Clone> Store<D> {
    /// Recovers what is in `dir`, or makes a start in an empty one.
    pub(crate) fn open(disk: D, dir: &str, node: NodeId, segment_bytes: u64, start: &Start) -> Result<Self, OpenError> {
        if !disk.exists(dir).map_err(failed("looking for", dir))? {
            disk.create_dir(dir).map_err(failed("creating", dir))?;
        }
        // Also when it is there: the run that created it may have died before this.
        disk.sync_dir(parent(dir)).map_err(failed("syncing", parent(dir)))?;
        let (log, records) = Segments::open(disk.clone(), dir, node, segment_bytes)?;
        let mut store = Self {
            disk,
            dir: dir.to_owned(),
            node,
            log,
            entries: VecDeque::new(),
            bytes: 0,
            base: (0, 0),
            image: (0, 0),
            image_members: ConfState::default(),
            hard: HardState::default(),
            members: (0, ConfState::default()),
            image_wanted: Cell::new(false),
            read_problem: RefCell::new(None),
        };
        if records.is_empty() {
            store.start(start)?
        } else {
            store.replay(records)?;
            store.log.begin_marks();
        }
        // Of marks that no sync ever confirmed a power cut may leave none: as after an upgrade, or after a sync that failed.
        store.log.sync_marks();
        if let Some(members) = store.read_image()?.and_then(|image| image.metadata?.conf_state) {
            store.image_members = members;
        }
        image::remove_others(&store.disk, &store.dir, store.image)?;
        store.log.remove_until(store.base.0)?;
        store.log.replenish();
        Ok(store)
    }

    fn start(&mut self, start: &Start) -> Result<(), OpenError> {
        // A founder writes its first image before its first record; any other image belongs to a log that is gone.
        let first = image::path(&self.dir, BOOTSTRAP_INDEX, BOOTSTRAP_INDEX);
        for entry in self.disk.list(&self.dir).map_err(failed("listing", &self.dir))? {
            let path = format!("{}/{}", self.dir, entry.name);
            if entry.name.starts_with("image-") && entry.name.ends_with(".img") && path != first {
                let problem = "a state image without a log: the log was removed".to_owned();
                return Err(OpenError::Corrupted { path, offset: 0, problem });
            }
        }
        self.log.check_gone()?;
        self.log.begin_marks();
        let Start::Bootstrap { voters } = start else {
            // Something durable, so that a restart with other settings does not found a second cluster.
            let members = Record::ConfState { index: 0, state: ConfState::default() };
            return Ok(self.log.append(&[members], Vec::new)?);
        };
        let state = founders(self.node, voters)?;
        let (index, term) = (BOOTSTRAP_INDEX, BOOTSTRAP_INDEX);
        image::write(&self.disk, &self.dir, self.node, index, term, &state, &[])?;
        let hard = HardState { term, vote: 0, commit: index };
        self.log.append(
            &[
                Record::HardState(hard),
                Record::Image { index, term },
                Record::Reset { index, term },
                Record::ConfState { index, state: state.clone() },
            ],
            Vec::new,
        )?;
        self.hard = hard;
        self.base = (index, term);
        self.image = (index, term);
        self.image_members = state.clone();
        self.members = (index, state);
        Ok(())
    }

    fn replay(&mut self, records: Vec<Record>) -> Result<(), OpenError> {
        let reset = records.iter().rposition(|r| matches!(r, Record::Reset { .. }));
        for record in &records {
            match record {
                Record::HardState(hard) => self.hard = *hard,
                Record::ConfState { .. } if mutant!(ForgetMembers) => {}
                Record::ConfState { index, state } => self.members = (*index, state.clone()),
                Record::Image { index, term } => self.image = (*index, *term),
                Record::Compacted { index, term } | Record::Reset { index, term } if *index >= self.base.0 => {
                    self.base = (*index, *term);
                }
                Record::Compacted { .. } | Record::Reset { .. } | Record::Entry(_) => {}
            }
        }
        let corrupted = |problem: String| OpenError::Corrupted { path: self.dir.clone(), offset: 0, problem };
        for record in records.into_iter().skip(reset.map_or(0, |at| at + 1)) {
            let Record::Entry(entry) = record else { continue };
            if entry.index <= self.base.0 {
                // Compacted since, but when it was written it replaced whatever was behind it.
                self.entries.clear();
                continue;
            }
            let due = self.base.0 + 1 + self.entries.len() as u64;
            if entry.index > due {
                return Err(corrupted(format!("entries {due} to {} are missing", entry.index - 1)));
            }
            self.entries.truncate((entry.index - self.base.0 - 1) as usize);
            // A copy, because the entry aliases its whole segment.
            let entry = Entry { data: entry.data.to_vec().into(), context: entry.context.to_vec().into(), ..entry };
            let index = entry.index;
            let entry = entry.try_into().map_err(|e| corrupted(format!("entry {index}: {e}")))?;
            self.entries.push_back(entry);
        }
        let mut before = self.base.1;
        for entry in &self.entries {
            if entry.term < before {
                return Err(corrupted(format!("entry {} is of term {}, below {before}", entry.index, entry.term)));
            }
            before = entry.term;
        }
        self.bytes = self.entries.iter().map(entry_bytes).sum();
        let (last, last_term) = self.last();
        if mutant!(ForgetVote) {
            self.hard = HardState { term: last_term, vote: 0, ..self.hard };
        }
        // The commit index is written with the next batch only; what was applied was committed.
        self.hard.commit = self.hard.commit.max(self.image.0).max(self.members.0);
        if self.hard.commit > last || self.hard.term < last_term {
            let HardState { term, commit, .. } = self.hard;
            return Err(corrupted(format!(
                "commit {commit} in term {term}, but the log ends at {last} in term {last_term}"
            )));
        }
        if self.image.0 < self.base.0 {
            return Err(corrupted(format!("entries from {} on, image of {}", self.base.0 + 1, self.image.0)));
        }
        Ok(())
    }

    /// The image in force; `None` for a joiner that has none yet.
    pub(crate) fn read_image(&self) -> Result<Option<Snapshot>, OpenError> {
        if self.image.0 == 0 {
            return Ok(None);
        }
        image::read(&self.disk, &self.dir, self.image.0, self.image.1).map(Some)
    }

    fn checkpoint(&self) -> Vec<Record> {
        let (index, term) = self.base;
        let mut records = vec![
            Record::HardState(self.hard),
            Record::ConfState { index: self.members.0, state: self.members.1.clone() },
            Record::Compacted { index, term },
        ];
        if self.image.0 > 0 {
            records.push(Record::Image { index: self.image.0, term: self.image.1 });
        }
        records
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageFailed> {
        let checkpoint = self.checkpoint();
        self.log.append(records, || checkpoint)
    }

    /// Makes one batch durable and shows it to raft. One fsync of the log, and one more file for an image.
    pub(crate) fn persist(&mut self, batch: Batch) -> Result<(), StorageFailed> {
        let mut records = Vec::with_capacity(batch.entries.len() + 4);
        let hard = batch.hard.unwrap_or(self.hard);
        records.push(Record::HardState(hard));
        let installed = batch.image.as_ref().and_then(|s| s.metadata.as_ref());
        let installed = installed.map(|m| ((m.index, m.term), m.conf_state.clone().unwrap_or_default()));
        if let (Some((at, state)), Some(image)) = (&installed, &batch.image) {
            let (index, term) = *at;
            image::write(&self.disk, &self.dir, self.node, index, term, state, &image.data)
                .inspect_err(|failure| self.log.fail(failure.clone()))?;
            records.push(Record::Image { index, term });
            records.push(Record::Reset { index, term });
            records.push(Record::ConfState { index, state: state.clone() });
        }
        records.extend(batch.entries.iter().cloned().map(|e| Record::Entry(e.into())));
        self.append(&records)?;
        self.hard = hard;
        if let Some((at, state)) = installed {
            self.base = at;
            self.image = at;
            self.image_members = state.clone();
            self.members = (at.0, state);
            self.entries.clear();
            self.bytes = 0;
            self.log.forget_entries();
            self.log.sync_marks();
            self.tidy_up()?;
        }
        for entry in batch.entries {
            let keep = entry.index.saturating_sub(self.base.0 + 1) as usize;
            while self.entries.len() > keep {
                self.bytes -= self.entries.pop_back().as_ref().map_or(0, entry_bytes);
            }
            self.bytes += entry_bytes(&entry);
            self.entries.push_back(entry);
        }
        Ok(())
    }

    fn tidy_up(&mut self) -> Result<(), StorageFailed> {
        self.log.remove_until(self.base.0)?;
        // Leftovers cost space only; recovery removes them too.
        let _ = image::remove_others(&self.disk, &self.dir, self.image);
        self.log.replenish();
        Ok(())
    }

    /// Records the members as of `index`, which is committed, before the change has any effect.
    pub(crate) fn members_changed(&mut self, index: u64, mut state: ConfState) -> Result<(), StorageFailed> {
        state.founding = self.members.1.founding && same_ids(&self.members.1.voters, &state.voters);
        let hard = HardState { commit: self.hard.commit.max(index), ..self.hard };
        self.append(&[Record::HardState(hard), Record::ConfState { index, state: state.clone() }])?;
        // Who forgets this may believe to be the only voter.
        self.log.sync_marks();
        self.hard = hard;
        self.members = (index, state);
        Ok(())
    }

    /// Takes over the application's state as of `index`, then drops entries behind it but the last `keep` (fewer when
    /// they take more than `keep_bytes`).
    pub(crate) fn save_image(
        &mut self,
        index: u64,
        data: &[u8],
        keep: u64,
        keep_bytes: u64,
    ) -> Result<(), SnapshotError> {
        let term = self.term_at(index).ok_or(SnapshotError::OutOfRange {
            index,
            oldest: self.base.0,
            newest: self.last().0,
        })?;
        image::write(&self.disk, &self.dir, self.node, index, term, &self.members.1, data)
            .map_err(|failure| SnapshotError::NotWritten(failure.to_string()))?;
        let base = self.base_for(index, keep, keep_bytes);
        let base_term = self.term_at(base).unwrap_or(self.base.1);
        let hard = HardState { commit: self.hard.commit.max(index), ..self.hard };
        self.append(&[
            Record::HardState(hard),
            Record::Image { index, term },
            Record::Compacted { index: base, term: base_term },
        ])?;
        self.hard = hard;
        self.image = (index, term);
        self.image_members = self.members.1.clone();
        for entry in self.entries.drain(..(base - self.base.0) as usize) {
            self.bytes -= entry_bytes(&entry);
        }
        self.base = (base, base_term);
        self.image_wanted.set(false);
        self.tidy_up().map_err(SnapshotError::from)
    }

    fn base_for(&self, index: u64, keep: u64, keep_bytes: u64) -> u64 {
        let covered = self.entries.range(..(index - self.base.0) as usize).rev();
        let kept = covered
            .take(usize::try_from(keep).unwrap_or(usize::MAX))
            .scan(0, |bytes, entry| {
                *bytes += entry_bytes(entry);
                (*bytes <= keep_bytes).then_some(())
            })
            .count();
        index - kept as u64
    }

    fn last(&self) -> Position {
        self.entries.back().map_or(self.base, |e| (e.index, e.term))
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|e| e.term)
    }

    pub(crate) fn hard(&self) -> HardState {
        self.hard
    }

    pub(crate) fn members(&self) -> (u64, &ConfState) {
        (self.members.0, &self.members.1)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &eraftpb::Entry> {
        self.entries.iter()
    }

    /// Whether the members in the image are the founders, and never were others.
    pub(crate) fn image_founding(&self) -> bool {
        self.image_members.founding
    }

    pub(crate) fn image_index(&self) -> u64 {
        self.image.0
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn log_entries(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn image_wanted(&self) -> bool {
        self.image_wanted.get()
    }

    pub(crate) fn failure(&self) -> Option<&StorageFailed> {
        self.log.failure()
    }

    pub(crate) fn take_read_problem(&self) -> Option<String> {
        self.read_problem.borrow_mut().take()
    }
}

fn same_ids(one: &[u64], other: &[u64]) -> bool {
    one.len() == other.len() && one.iter().all(|id| other.contains(id))
}

fn founders(node: NodeId, voters: &[NodeId]) -> Result<ConfState, OpenError> {
    let mut ids: Vec<u64> = voters.iter().map(|v| v.raft_id()).collect();
    ids.sort_unstable();
    let distinct = ids.windows(2).all(|pair| pair[0] != pair[1]);
    let problem = if ids.is_empty() {
        Some("none are given".to_owned())
    } else if voters.iter().any(|v| v.0 <= 0) {
        Some("ids are 1 or more".to_owned())
    } else if !distinct {
        Some("one is named twice".to_owned())
    } else if !voters.contains(&node) {
        Some(format!("node {node} is not among them; it has to join"))
    } else {
        None
    };
    match problem {
        Some(problem) => Err(OpenError::Voters(problem)),
        None => Ok(ConfState { voters: ids, founding: true, ..ConfState::default() }),
    }
}

impl<D: Disk + Clone> raft::Storage for Store<D> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.into(), self.members.1.clone().into()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let Some(from) = low.checked_sub(self.base.0 + 1) else {
            return Err(StorageError::Compacted.into());
        };
        let until = high.saturating_sub(self.base.0 + 1);
        if until > self.entries.len() as u64 || from > until {
            return Err(StorageError::Unavailable.into());
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut out = Vec::new();
        for entry in self.entries.range(from as usize..until as usize) {
            size += entry_bytes(entry);
            if size > limit && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let named = self.image_members.voters.contains(&to) || self.image_members.learners.contains(&to);
        if self.image.0 >= request_index && self.image.0 > 0 && named {
            match self.read_image() {
                Ok(Some(image)) => return Ok(image.into()),
                Ok(None) => {}
                Err(problem) => *self.read_problem.borrow_mut() = Some(problem.to_string()),
            }
        }
        self.image_wanted.set(true);
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
