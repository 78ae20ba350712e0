//! The segments of the Raft log: append-only files of frames.
//!
//! Called by [`super::Store`] only: `open` once, then `append` for every batch and `remove_until` after compaction. A
//! batch is durable when `append` returns. A segment starts with a checkpoint (the whole state but the entries), so
//! segments whose entries are compacted are removed from the oldest on, and what is left is always enough.
//!
//! Recovery cuts a torn batch from the end of the last segment: it was never acknowledged. A damaged frame that is
//! followed by a good one, or that lies in any other segment, cannot come from a power cut, because a frame is
//! written only after the one before it is durable: that is corruption and is refused, with nothing changed. So is a log
//! that ends before a batch of which a mark ([`super::mark`]) says that it was durable.
//!
//! After an error of `append` the log is dead: it answers the same error for ever.

use bytes::{Buf, Bytes};
use chronik_log::disk::{Disk, FileRef};
use chronik_model::{NodeId, mutant};

use super::frame::{FRAME_HEADER, Place, Record, decode_records, encode_records, frame_around, frame_at};
use super::mark::Marks;
use crate::chunks::crc32c;
use crate::error::{OpenError, StorageFailed};

const MAGIC: &[u8; 8] = b"CHRKRAFT";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const SPARE: &str = "spare.seg";

pub(super) fn failed(action: &'static str, path: &str) -> impl FnOnce(std::io::Error) -> StorageFailed {
    let path = path.to_owned();
    move |e| StorageFailed { action, path, cause: e.to_string(), full: e.kind() == std::io::ErrorKind::StorageFull }
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: String,
    file: FileRef,
    /// Highest entry index written to it.
    max_index: u64,
}

/// The segments, oldest first; the last one is appended to.
#[derive(Debug)]
pub(super) struct Segments<D> {
    disk: D,
    dir: String,
    node: NodeId,
    segment_bytes: u64,
    segments: Vec<Segment>,
    next_number: u64,
    next_batch: u64,
    spare: Option<FileRef>,
    marks: Marks,
    failure: Option<StorageFailed>,
}

fn segment_name(number: u64) -> String {
    format!("log-{number:016x}.seg")
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

fn header(node: NodeId, number: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&node.0.to_le_bytes());
    out[16..24].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c(&out[..24]);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
    out
}

enum HeaderProblem {
    Damaged(String),
    WrongNode(NodeId),
}

fn check_header(bytes: &Bytes, node: NodeId, number: u64) -> Result<(), HeaderProblem> {
    let Some(mut head) = bytes.get(..HEADER) else {
        return Err(HeaderProblem::Damaged("the header is cut off".to_owned()));
    };
    if !head.starts_with(MAGIC) {
        return Err(HeaderProblem::Damaged("not a segment of the raft log".to_owned()));
    }
    let crc = crc32c(&head[..24]);
    head.advance(8);
    let version = head.get_u32_le();
    let found_node = NodeId(head.get_i32_le());
    let found_number = head.get_u64_le();
    if head.get_u32_le() != crc {
        return Err(HeaderProblem::Damaged("the checksum of the header is wrong".to_owned()));
    }
    if version != VERSION {
        return Err(HeaderProblem::Damaged(format!("format version {version}, this program knows {VERSION}")));
    }
    if found_number != number {
        return Err(HeaderProblem::Damaged(format!("it is segment {found_number:x} under another name")));
    }
    if found_node != node { Err(HeaderProblem::WrongNode(found_node)) } else { Ok(()) }
}

impl<D: Disk> Segments<D> {
    /// Opens the log in `dir`, which exists, and returns all its records in order.
    pub(super) fn open(disk: D, dir: &str, node: NodeId, segment_bytes: u64) -> Result<(Self, Vec<Record>), OpenError> {
        let marks = Marks::open(&disk, dir, node);
        let mut log = Self {
            disk,
            dir: dir.to_owned(),
            node,
            segment_bytes,
            segments: Vec::new(),
            next_number: 1,
            next_batch: 1,
            spare: None,
            marks,
            failure: None,
        };
        let listed = log.disk.list(dir).map_err(failed("listing", dir))?;
        let mut numbers: Vec<u64> = listed.iter().filter_map(|entry| segment_number(&entry.name)).collect();
        numbers.sort_unstable();
        let mut records = Vec::new();
        for (at, &number) in numbers.iter().enumerate() {
            let path = log.path(&segment_name(number));
            if at > 0 && numbers[at - 1] + 1 != number {
                return Err(OpenError::Corrupted {
                    path,
                    offset: 0,
                    problem: format!("the segment before it, {:016x}, is missing", number - 1),
                });
            }
            log.recover(number, path, at + 1 == numbers.len(), &mut records)?;
        }
        // The names found, as much as the bytes, may never have been synced.
        log.disk.sync_dir(dir).map_err(failed("syncing", dir))?;
        if listed.iter().any(|entry| entry.name == SPARE) {
            let spare = log.path(SPARE);
            log.disk.remove_file(&spare).map_err(failed("removing", &spare))?;
        }
        Ok((log, records))
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    fn recover(&mut self, number: u64, path: String, last: bool, records: &mut Vec<Record>) -> Result<(), OpenError> {
        let file = self.disk.open(&path).map_err(failed("opening", &path))?;
        if last {
            // The last run may have been killed between a write and its sync, or its sync may have failed: what is
            // found is promised from now on, so it must be what the device has and not what the kernel remembers.
            file.sync().map_err(failed("syncing", &path))?;
            file.forget_clean_pages(0).map_err(failed("reading", &path))?;
        }
        let length = usize::try_from(file.len()).unwrap_or(usize::MAX);
        let bytes = file.read_at(0, length).map_err(failed("reading", &path))?;
        let corrupted = |offset: usize, problem: String| OpenError::Corrupted {
            path: path.clone(),
            offset: offset as u64,
            problem,
        };
        if let Err(problem) = check_header(&bytes, self.node, number) {
            return match problem {
                HeaderProblem::WrongNode(found) => {
                    Err(OpenError::WrongNode { path: self.dir.clone(), found, expected: self.node })
                }
                // The header becomes durable with the first frame: without any, this is a torn creation.
                HeaderProblem::Damaged(_)
                    if last && self.may_be_torn(number) && good_frame_after(number, &bytes, 0).is_none() =>
                {
                    match self.lost_end() {
                        Some(problem) => Err(corrupted(0, problem)),
                        None => self.remove(&path).map_err(OpenError::from),
                    }
                }
                HeaderProblem::Damaged(problem) => Err(corrupted(0, problem)),
            };
        }
        let mut position = HEADER;
        let mut max_index = 0;
        while let Some(frame) = frame_at(number, &bytes, position) {
            if self.next_batch != frame.batch && !(self.segments.is_empty() && position == HEADER) {
                let problem = format!("batch {} where {} was due", frame.batch, self.next_batch);
                return Err(corrupted(position, problem));
            }
            let first = records.len();
            decode_records(frame.body, records).map_err(|problem| corrupted(position, problem))?;
            for record in &records[first..] {
                if let Record::Entry(entry) = record {
                    max_index = max_index.max(entry.index);
                }
            }
            self.next_batch = frame.batch + 1;
            position = frame.end;
        }
        if position < bytes.len() {
            if !last {
                return Err(corrupted(position, "the checksum is wrong in a segment that was complete".to_owned()));
            }
            if good_frame_after(number, &bytes, position + 1).is_some() && !mutant!(TrustShortRaftLog) {
                return Err(corrupted(position, "the checksum is wrong, and good records follow".to_owned()));
            }
        }
        if let Some(problem) = self.lost_end().filter(|_| last) {
            return Err(corrupted(position, problem));
        }
        if position == HEADER {
            if last && self.may_be_torn(number) {
                return self.remove(&path).map_err(OpenError::from);
            }
            return Err(corrupted(HEADER, "no record in a segment that was complete".to_owned()));
        }
        // Frames start at multiples of 8; a cut that took only padding is made good by cutting the frame's end.
        let whole = position as u64;
        if !whole.is_multiple_of(8) {
            let pad = 8 - (whole % 8) as usize;
            file.append(&[&[0; 8][..pad]]).map_err(failed("padding", &path))?;
            file.sync().map_err(failed("syncing", &path))?;
        } else if whole < bytes.len() as u64 {
            tracing::warn!(target: "raft", path, at = whole, bytes = bytes.len() as u64 - whole, "torn batch cut off");
            file.truncate(whole).map_err(failed("truncating", &path))?;
            file.sync().map_err(failed("syncing", &path))?;
        }
        self.segments.push(Segment { number, path, file, max_index });
        self.next_number = number + 1;
        Ok(())
    }

    /// What is wrong when the batches found so far are not all that were durable once.
    fn lost_end(&self) -> Option<String> {
        let (due, marked) = (self.next_batch, self.marks.found());
        // The mutants mark what was not synced.
        let blind = mutant!(TrustLostEnd)
            || mutant!(TrustShortRaftLog)
            || mutant!(SkipRaftSync)
            || mutant!(SkipVoteSync)
            || mutant!(RetryFailedSync)
            || mutant!(SkipDirSync);
        let remedy =
            "wipe the disk of this broker so that it joins anew; where no other broker has the metadata, removing";
        let path = self.marks.path();
        (marked >= due && !blind).then(|| {
            format!(
                "the log ends before batch {due}, and batch {marked} was durable: the disk lost its end; {remedy} {path} accepts the loss"
            )
        })
    }

    /// The marks name a log, and there is none.
    pub(super) fn check_gone(&self) -> Result<(), OpenError> {
        match self.lost_end() {
            Some(problem) => Err(OpenError::Corrupted { path: self.marks.path().to_owned(), offset: 0, problem }),
            None => Ok(()),
        }
    }

    /// Recovery is done: what is made durable from now on is marked.
    pub(super) fn begin_marks(&mut self) {
        self.marks.begin(&self.disk, self.next_batch - 1);
    }

    /// Makes the marks durable, too.
    pub(super) fn sync_marks(&mut self) {
        self.marks.sync(&self.disk, &self.dir);
    }

    /// Whether a segment without a good frame may be one that was just being created. The segments before it are
    /// removed only after that, so only the very first one can be alone.
    fn may_be_torn(&self, number: u64) -> bool {
        number == 1 || !self.segments.is_empty()
    }

    fn remove(&self, path: &str) -> Result<(), StorageFailed> {
        self.disk.remove_file(path).map_err(failed("removing", path))?;
        self.disk.sync_dir(&self.dir).map_err(failed("syncing", &self.dir))
    }

    /// Makes `records` durable, as a whole. `checkpoint` is the state before them, for a new segment to start with.
    pub(super) fn append(
        &mut self,
        records: &[Record],
        checkpoint: impl FnOnce() -> Vec<Record>,
    ) -> Result<(), StorageFailed> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.append_or_die(records, checkpoint).inspect_err(|failure| self.failure = Some(failure.clone()))
    }

    fn append_or_die(
        &mut self,
        records: &[Record],
        checkpoint: impl FnOnce() -> Vec<Record>,
    ) -> Result<(), StorageFailed> {
        let mut body = encode_records(records);
        let room = self
            .segments
            .last()
            .is_some_and(|s| s.file.len() + (FRAME_HEADER + body.len()) as u64 <= self.segment_bytes);
        let new = if room { None } else { Some(self.new_segment()?) };
        let starts_segment = new.is_some();
        if let Some(segment) = new {
            let mut all = encode_records(&checkpoint());
            all.append(&mut body);
            body = all;
            self.segments.push(segment);
        }
        let Some(segment) = self.segments.last_mut() else {
            return Err(StorageFailed {
                action: "finding",
                path: self.dir.clone(),
                cause: "no segment".to_owned(),
                full: false,
            });
        };
        let head = if starts_segment { header(self.node, segment.number).to_vec() } else { Vec::new() };
        let position = segment.file.len() + head.len() as u64;
        let (frame, pad) = frame_around(Place { segment: segment.number, position }, self.next_batch, &body);
        let before = segment.file.len();
        let written = segment
            .file
            .append(&[&head, &frame, &body, pad])
            .map_err(failed("appending to", &segment.path))
            .and_then(|_| sync(&segment.file, records).map_err(failed("syncing", &segment.path)));
        if let Err(failure) = written {
            // After a failed sync the bytes may be readable until the machine stops and gone afterwards: the next
            // process must not build on them. They were never promised.
            let _ = segment.file.truncate(before);
            return Err(failure);
        }
        if starts_segment && !mutant!(SkipDirSync) {
            self.disk.sync_dir(&self.dir).map_err(failed("syncing", &self.dir))?;
        }
        for record in records {
            if let Record::Entry(entry) = record {
                segment.max_index = segment.max_index.max(entry.index);
            }
        }
        self.marks.set(self.next_batch);
        self.next_batch += 1;
        if starts_segment {
            self.replenish();
        }
        Ok(())
    }

    fn new_segment(&mut self) -> Result<Segment, StorageFailed> {
        let number = self.next_number;
        let path = self.path(&segment_name(number));
        let file = match self.spare.take() {
            Some(file) => {
                self.disk.rename(&self.path(SPARE), &path).map_err(failed("renaming to", &path))?;
                file
            }
            None => {
                let file = self.disk.create(&path).map_err(failed("creating", &path))?;
                // Only a hint: without the reservation the appends themselves will tell when space is out.
                let _ = file.preallocate(self.segment_bytes);
                file
            }
        };
        self.next_number += 1;
        Ok(Segment { number, path, file, max_index: 0 })
    }

    /// Keeps one segment's space in reserve, so that a full disk does not stop the quorum at once. Returns whether
    /// there is one now; that there is none is no failure.
    pub(super) fn replenish(&mut self) -> bool {
        if self.spare.is_none() && self.failure.is_none() {
            let path = self.path(SPARE);
            self.spare = self.disk.create(&path).ok().filter(|file| file.preallocate(self.segment_bytes).is_ok());
        }
        self.spare.is_some()
    }

    /// Removes segments from the oldest on as long as all their entries are at or below `index`; the one appended to
    /// stays. Each removal is durable before the next, so there is never a gap.
    pub(super) fn remove_until(&mut self, index: u64) -> Result<(), StorageFailed> {
        while self.segments.len() > 1 && self.segments[0].max_index <= index {
            let segment = self.segments.remove(0);
            if let Err(failure) = self.remove(&segment.path) {
                self.failure = Some(failure.clone());
                return Err(failure);
            }
        }
        Ok(())
    }

    /// All entries so far are gone: an image replaced them.
    pub(super) fn forget_entries(&mut self) {
        for segment in &mut self.segments {
            segment.max_index = 0;
        }
    }

    /// Why the log is dead, if it is.
    pub(super) fn failure(&self) -> Option<&StorageFailed> {
        self.failure.as_ref()
    }

    /// Declares the log dead: an error elsewhere made its promises void.
    pub(super) fn fail(&mut self, failure: StorageFailed) {
        self.failure.get_or_insert(failure);
    }
}

/// Makes `records`, which were just appended, durable. One that fails is never tried again.
fn sync(file: &FileRef, records: &[Record]) -> std::io::Result<()> {
    let entries = records.iter().any(|record| matches!(record, Record::Entry(_)));
    if (entries && mutant!(SkipRaftSync)) || (!entries && mutant!(SkipVoteSync)) {
        return Ok(());
    }
    let synced = file.sync();
    if mutant!(RetryFailedSync) { synced.or_else(|_| file.sync()) } else { synced }
}

/// Position of a good frame at or behind `from`, if any.
fn good_frame_after(number: u64, bytes: &Bytes, from: usize) -> Option<usize> {
    let from = from.max(HEADER).next_multiple_of(8);
    (from..bytes.len()).step_by(8).find(|&position| frame_at(number, bytes, position).is_some())
}
