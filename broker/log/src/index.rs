//! The sparse index of one segment: offset -> position and timestamp -> position.
//!
//! Kept in memory; written to `.index` and `.timeindex` when the segment is sealed or the log closed in order, without
//! a sync, because both are derived: each carries a checksum and the length of the log file it covers, and is rebuilt
//! from the batches whenever anything about it is wrong.

use bytes::{Buf, BufMut};
use chronik_model::batch::BatchHeader;

use crate::sealed::{seal, unseal};

const OFFSET_MAGIC: [u8; 4] = *b"ChIX";
const TIME_MAGIC: [u8; 4] = *b"ChTX";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    /// Base offset of a batch, relative to the segment.
    relative: u32,
    /// Where the batch begins.
    position: u32,
    /// Largest timestamp of all batches before it.
    max_timestamp_before: i64,
}

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentIndex {
    entries: Vec<Entry>,
    bytes_since_entry: usize,
    /// Largest timestamp of the segment, and the relative offset of the first batch that has it.
    max_timestamp: i64,
    max_timestamp_at: u32,
    /// Timestamp of the first batch, for rolling by time.
    first_timestamp: Option<i64>,
}

impl Default for SegmentIndex {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            bytes_since_entry: 0,
            max_timestamp: -1,
            max_timestamp_at: 0,
            first_timestamp: None,
        }
    }
}

impl SegmentIndex {
    /// Notes an appended batch.
    pub(crate) fn add(&mut self, relative: u32, position: u32, header: &BatchHeader, interval: usize) {
        if self.bytes_since_entry >= interval {
            self.entries.push(Entry { relative, position, max_timestamp_before: self.max_timestamp });
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += header.total_bytes;
        if header.max_timestamp > self.max_timestamp {
            self.max_timestamp = header.max_timestamp;
            self.max_timestamp_at = relative;
        }
        if self.first_timestamp.is_none() {
            self.first_timestamp = Some(header.max_timestamp);
        }
    }

    /// Position of an indexed batch at or before `relative`.
    pub(crate) fn position_for(&self, relative: u32) -> u64 {
        let after = self.entries.partition_point(|entry| entry.relative <= relative);
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position))
    }

    /// The last indexed batch boundary at or before `position`.
    pub(crate) fn boundary_before(&self, position: u64) -> u64 {
        let after = self.entries.partition_point(|entry| u64::from(entry.position) <= position);
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position))
    }

    /// Position before which no batch has a timestamp of `timestamp` or later.
    pub(crate) fn position_for_timestamp(&self, timestamp: i64) -> u64 {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp);
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position))
    }

    /// Largest timestamp (-1 without any) and the relative offset of the first batch that has it.
    pub(crate) fn max_timestamp(&self) -> (i64, u32) {
        (self.max_timestamp, self.max_timestamp_at)
    }

    pub(crate) fn first_timestamp(&self) -> Option<i64> {
        self.first_timestamp
    }

    /// Content of `.index` and `.timeindex` for a file of `covered` bytes that ends at relative offset `next_relative`.
    pub(crate) fn encode(&self, covered: u64, next_relative: u64) -> (Vec<u8>, Vec<u8>) {
        let mut offsets = Vec::with_capacity(24 + self.entries.len() * 8);
        offsets.put_u64(covered);
        offsets.put_u64(next_relative);
        offsets.put_u64(self.bytes_since_entry as u64);
        let mut times = Vec::with_capacity(29 + self.entries.len() * 12);
        times.put_u64(covered);
        times.put_i64(self.max_timestamp);
        times.put_u32(self.max_timestamp_at);
        times.put_u8(u8::from(self.first_timestamp.is_some()));
        times.put_i64(self.first_timestamp.unwrap_or_default());
        for entry in &self.entries {
            offsets.put_u32(entry.relative);
            offsets.put_u32(entry.position);
            times.put_i64(entry.max_timestamp_before);
            times.put_u32(entry.relative);
        }
        (seal(OFFSET_MAGIC, 1, &offsets), seal(TIME_MAGIC, 1, &times))
    }

    /// Reads both files back, with the relative offset at which the segment ends; `None` unless they are whole, agree
    /// with each other and cover exactly `covered` bytes.
    pub(crate) fn decode(offsets: &[u8], times: &[u8], covered: u64) -> Option<(Self, u64)> {
        let mut offsets = unseal(OFFSET_MAGIC, 1, offsets).ok()?;
        let mut times = unseal(TIME_MAGIC, 1, times).ok()?;
        if offsets.try_get_u64().ok()? != covered || times.try_get_u64().ok()? != covered {
            return None;
        }
        let next_relative = offsets.try_get_u64().ok()?;
        let bytes_since_entry = usize::try_from(offsets.try_get_u64().ok()?).ok()?;
        let max_timestamp = times.try_get_i64().ok()?;
        let max_timestamp_at = times.try_get_u32().ok()?;
        let has_first = times.try_get_u8().ok()? == 1;
        let first = times.try_get_i64().ok()?;
        if offsets.len() % 8 != 0 || times.len() % 12 != 0 || offsets.len() / 8 != times.len() / 12 {
            return None;
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(offsets.len() / 8);
        while !offsets.is_empty() {
            let entry = Entry {
                relative: offsets.get_u32(),
                position: offsets.get_u32(),
                max_timestamp_before: times.get_i64(),
            };
            let grows = entries.last().is_none_or(|last| {
                last.relative < entry.relative
                    && last.position < entry.position
                    && last.max_timestamp_before <= entry.max_timestamp_before
            });
            if times.get_u32() != entry.relative
                || !grows
                || u64::from(entry.position) >= covered
                || u64::from(entry.relative) >= next_relative
            {
                return None;
            }
            entries.push(entry);
        }
        let first_timestamp = has_first.then_some(first);
        Some((Self { entries, bytes_since_entry, max_timestamp, max_timestamp_at, first_timestamp }, next_relative))
    }
}
