//! Reading: a plan made under the partition lock, bytes read outside it.
//!
//! A plan covers whole batches of one segment. It stays readable after the segment was rolled or deleted; after a
//! truncation it may give other bytes, which is why a leader never truncates below its high watermark.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use chronik_model::{LeaderEpoch, Offset};

use super::PartitionLog;
use crate::disk::FileRef;
use crate::error::LogError;
use crate::scan::Located;
use crate::segment::Segment;

/// Where the bytes of a read are.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    file: Option<FileRef>,
    position: u64,
    len: usize,
    start_offset: Offset,
}

impl ReadPlan {
    fn empty(offset: Offset) -> Self {
        Self { file: None, position: 0, len: 0, start_offset: offset }
    }

    fn of(segment: &Segment, first: &Located, end: u64) -> Self {
        Self {
            file: Some(Arc::clone(&segment.file)),
            position: first.position,
            len: usize::try_from(end - first.position).unwrap_or(usize::MAX),
            start_offset: first.header.base_offset,
        }
    }

    /// Number of bytes; 0 when there is nothing to read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Base offset of the first batch: at or before the offset asked for.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start_offset
    }

    /// The file and the position of the first byte, for a caller that sends from the file.
    #[must_use]
    pub fn source(&self) -> Option<(&FileRef, u64)> {
        self.file.as_ref().map(|file| (file, self.position))
    }

    /// Reads the bytes. Needs no lock.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::UnexpectedEof`] when the log was truncated meanwhile.
    pub fn read(&self) -> io::Result<Bytes> {
        let Some(file) = &self.file else { return Ok(Bytes::new()) };
        let bytes = file.read_at(self.position, self.len)?;
        if bytes.len() < self.len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    }
}

/// The batch in which the answer to a timestamp lookup is, if it is anywhere: the caller looks at its records.
#[derive(Clone, Debug)]
pub struct TimestampCandidate {
    /// Base offset of the batch.
    pub base_offset: Offset,
    /// Offset after its last record: where to go on if no record of it fits.
    pub next_offset: Offset,
    /// Its largest timestamp.
    pub max_timestamp: i64,
    /// Its leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// How to read it.
    pub plan: ReadPlan,
}

impl TimestampCandidate {
    fn new(segment: &Segment, located: &Located) -> Self {
        Self {
            base_offset: located.header.base_offset,
            next_offset: located.header.next_offset(),
            max_timestamp: located.header.max_timestamp,
            leader_epoch: located.header.partition_leader_epoch,
            plan: ReadPlan::of(segment, located, located.end()),
        }
    }
}

impl PartitionLog {
    /// Plans a read that begins with the batch that contains `from`: whole batches of one segment, none with records at
    /// or above `bound`, together at most `max_bytes`. With `min_one` the first batch comes even if it is larger.
    /// Empty when there is nothing between `from` and `bound`.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] below the log start or above the log end; a failed read of the index.
    pub fn read(&self, from: Offset, max_bytes: usize, bound: Offset, min_one: bool) -> Result<ReadPlan, LogError> {
        let log_end = self.log_end();
        if from < self.log_start || from > log_end {
            return Err(LogError::OffsetOutOfRange { offset: from, log_start: self.log_start, log_end });
        }
        let bound = bound.min(log_end);
        if from >= bound {
            return Ok(ReadPlan::empty(from));
        }
        let segment = &self.segments[self.segment_for(from)];
        let Some(first) = segment.locate(&self.dir, from)? else { return Ok(ReadPlan::empty(from)) };
        if first.header.next_offset() > bound {
            return Ok(ReadPlan::empty(from));
        }
        // The batch that holds the bound is out, since batches are not cut.
        let bound_at = match segment.locate(&self.dir, bound)? {
            Some(beyond) => beyond.position,
            None => segment.size,
        };
        let limit = first.position.saturating_add(max_bytes as u64).min(bound_at);
        let mut end = segment.boundary(&self.dir, first.position, limit)?;
        if end <= first.position {
            if !min_one {
                return Ok(ReadPlan::empty(from));
            }
            end = first.end();
        }
        Ok(ReadPlan::of(segment, &first, end))
    }

    /// [`PartitionLog::read`] and the bytes at once.
    ///
    /// # Errors
    /// As [`PartitionLog::read`], or a failed read.
    pub fn read_bytes(&self, from: Offset, max_bytes: usize, bound: Offset) -> Result<Bytes, LogError> {
        self.read(from, max_bytes, bound, true)?.read().map_err(LogError::io("read from", &self.dir))
    }

    /// The first batch at or behind `from` (and the log start) whose largest timestamp is at least `timestamp`.
    ///
    /// # Errors
    /// A failed read.
    pub fn find_by_timestamp(&self, timestamp: i64, from: Offset) -> Result<Option<TimestampCandidate>, LogError> {
        let from = from.max(self.log_start);
        for segment in &self.segments[self.segment_for(from)..] {
            if let Some(located) = segment.locate_timestamp(&self.dir, timestamp, from)? {
                return Ok(Some(TimestampCandidate::new(segment, &located)));
            }
        }
        Ok(None)
    }

    /// The first batch that has the largest timestamp of the log; `None` when there are no timestamps.
    ///
    /// # Errors
    /// A failed read.
    pub fn find_max_timestamp(&self) -> Result<Option<TimestampCandidate>, LogError> {
        // Batches below the log start in the first segment do not count, though its index knows them.
        let largest = self.segments.iter().map(|segment| segment.index.max_timestamp().0).max().unwrap_or(-1);
        if largest < 0 {
            return Ok(None);
        }
        if let Some(found) = self.find_by_timestamp(largest, self.log_start)? {
            return Ok(Some(found));
        }
        let mut best: Option<(Located, &Segment)> = None;
        for segment in &self.segments {
            let mut scanner = segment.scan(0, crate::segment::SCAN_CHUNK);
            while let Some(located) = scanner.next_batch().map_err(|error| segment.scan_failed(&self.dir, error))? {
                let time = located.header.max_timestamp;
                let better = best.as_ref().is_none_or(|(best, _)| time > best.header.max_timestamp);
                if located.header.last_offset() >= self.log_start && time >= 0 && better {
                    best = Some((located, segment));
                }
            }
        }
        Ok(best.map(|(located, segment)| TimestampCandidate::new(segment, &located)))
    }
}
