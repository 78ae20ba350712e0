//! Appending: as the leader, who assigns offsets, and as a follower, who takes batches as they are.
//!
//! Order: check everything, make a new leader epoch durable, write with one vectored write, and only then change what
//! readers see. After a failed write nothing changed in memory and the directory is offline; recovery cuts the rest.

use bytes::Bytes;
use chronik_model::batch::{
    BatchError, BatchHeader, HEADER_BYTES, TimestampType, find_batch, set_base_offset, set_partition_leader_epoch,
};
use chronik_model::{LeaderEpoch, Offset};

use super::PartitionLog;
use crate::error::LogError;
use crate::producer_state::SequenceCheck;
use crate::segment::{Segment, segment_path};
use crate::validate::validate_batch;

/// Who wrote the batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendOrigin {
    /// A client: everything is checked.
    Client,
    /// The broker itself, for its own topics and transaction markers: control batches and any timestamp are fine.
    Coordinator,
}

/// What an append did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendInfo {
    /// Offset of the first record.
    pub first_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The time the broker gave the records, with `message.timestamp.type` = LogAppendTime.
    pub log_append_time: Option<i64>,
    /// Log start offset.
    pub log_start_offset: Offset,
    /// Nothing was appended: the offsets are those of the first time.
    pub duplicate: bool,
}

impl PartitionLog {
    /// Validates the batches (each element is exactly one), assigns offsets from the log end on, stamps the leader
    /// epoch and appends them with one write. Payloads are not copied. An epoch that is new is assigned first.
    ///
    /// # Errors
    /// The batches are refused, with nothing changed; or the write failed and the directory is offline.
    pub fn append_as_leader(
        &mut self,
        batches: &[Bytes],
        leader_epoch: LeaderEpoch,
        now_ms: i64,
        origin: AppendOrigin,
    ) -> Result<AppendInfo, LogError> {
        self.log_dir.check()?;
        let mut headers = Vec::with_capacity(batches.len());
        for batch in batches {
            headers.push(validate_batch(batch, &self.config, now_ms, origin)?);
        }
        let total: usize = headers.iter().map(|header| header.total_bytes).sum();
        if headers.is_empty() {
            return Err(LogError::InvalidRecord("no record batch"));
        }
        if total > self.config.segment_bytes {
            return Err(LogError::RecordListTooLarge { size: total, max: self.config.segment_bytes });
        }
        if let Some(duplicate) = self.check_producers(&headers)? {
            return Ok(duplicate);
        }
        self.assign_epoch(leader_epoch)?;

        let log_append_time = (self.config.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms);
        let mut patched = Vec::with_capacity(batches.len());
        let mut next = self.log_end();
        let first_offset = next;
        for (header, batch) in headers.iter_mut().zip(batches) {
            let mut bytes = [0_u8; HEADER_BYTES];
            bytes.copy_from_slice(&batch[..HEADER_BYTES]);
            set_base_offset(&mut bytes, next);
            set_partition_leader_epoch(&mut bytes, leader_epoch);
            if let Some(time) = log_append_time {
                stamp_log_append_time(&mut bytes, &batch[HEADER_BYTES..], time);
            }
            *header = BatchHeader::decode(&bytes)?;
            next = header.next_offset();
            patched.push(bytes);
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(batches.len() * 2);
        for (header, batch) in patched.iter().zip(batches) {
            parts.push(header);
            parts.push(&batch[HEADER_BYTES..]);
        }
        self.write(&parts, &headers)?;
        Ok(AppendInfo {
            first_offset,
            last_offset: Offset(next.0 - 1),
            log_append_time,
            log_start_offset: self.log_start,
            duplicate: false,
        })
    }

    /// Appends batches fetched from the leader, unchanged. They begin at the log end, follow each other without gaps,
    /// carry epochs that never go back, and each is verified with its CRC. A last batch that is cut short is left out.
    /// Returns the new log end.
    ///
    /// # Errors
    /// The bytes are refused, with nothing changed; or the write failed and the directory is offline.
    pub fn append_as_follower(&mut self, records: &Bytes) -> Result<Offset, LogError> {
        self.log_dir.check()?;
        let mut headers: Vec<BatchHeader> = Vec::new();
        let mut at = 0;
        let mut expected = self.log_end();
        let mut epoch = self.epochs.latest().unwrap_or(LeaderEpoch::NONE);
        while at < records.len() {
            let header = match find_batch(&records[at..]) {
                Ok(header) => header,
                Err(BatchError::Short { .. }) if !headers.is_empty() => break,
                Err(error) => return Err(error.into()),
            };
            if header.base_offset != expected {
                return Err(LogError::UnexpectedOffset { expected, found: header.base_offset });
            }
            if header.partition_leader_epoch < epoch {
                return Err(LogError::StaleLeaderEpoch { current: epoch, found: header.partition_leader_epoch });
            }
            expected = header.next_offset();
            epoch = header.partition_leader_epoch;
            at += header.total_bytes;
            headers.push(header);
        }
        if headers.is_empty() {
            return Ok(self.log_end());
        }
        let mut news = false;
        for header in &headers {
            news |= self.epochs.assign(header.partition_leader_epoch, header.base_offset);
        }
        if news {
            self.epochs.store(&self.log_dir, &self.dir)?;
        }
        self.write(&[&records[..at]], &headers)?;
        Ok(self.log_end())
    }

    /// The answer for batches that were all appended before; an error for what may not be appended.
    fn check_producers(&self, headers: &[BatchHeader]) -> Result<Option<AppendInfo>, LogError> {
        let mut duplicates = Vec::new();
        if let [only] = headers {
            if let SequenceCheck::Duplicate(batch) = self.producers.check(only)? {
                duplicates.push(batch);
            }
        } else {
            // Several batches of one producer follow each other, so each is tried on top of the one before.
            let mut trial = self.producers.subset(headers.iter());
            for header in headers {
                match trial.check(header)? {
                    SequenceCheck::Append => trial.update(header),
                    SequenceCheck::Duplicate(batch) => duplicates.push(batch),
                }
            }
        }
        let (Some(first), Some(last)) = (duplicates.first(), duplicates.last()) else { return Ok(None) };
        if duplicates.len() < headers.len() {
            return Err(LogError::InvalidRecord("some batches were appended before and some were not"));
        }
        Ok(Some(AppendInfo {
            first_offset: first.first_offset,
            last_offset: last.last_offset,
            log_append_time: (self.config.timestamp_type == TimestampType::LogAppendTime).then_some(first.timestamp),
            log_start_offset: self.log_start,
            duplicate: true,
        }))
    }

    fn write(&mut self, parts: &[&[u8]], headers: &[BatchHeader]) -> Result<(), LogError> {
        let total: u64 = headers.iter().map(|header| header.total_bytes as u64).sum();
        if self.must_roll(total, headers) {
            self.roll()?;
        }
        let step = self.config.preallocate_bytes;
        let segment_bytes = self.config.segment_bytes as u64;
        let interval = self.config.index_interval_bytes;
        let segment = self.active_mut();
        let needed = segment.size + total;
        if step > 0 && segment.size >= step && needed > segment.reserved {
            // Only a hint: if there is no room, the append itself will say so.
            segment.reserved = (needed + step).min(segment_bytes.max(needed));
            let _ = segment.file.preallocate(segment.reserved);
        }
        let written = segment.file.append(parts);
        if let Err(error) = written {
            let path = segment_path(&self.dir, self.active().base, "log");
            return Err(self.log_dir.fail("append to", &path, error));
        }
        for header in headers {
            self.active_mut().push(header, interval);
            self.producers.update(header);
        }
        Ok(())
    }

    fn must_roll(&self, bytes: u64, headers: &[BatchHeader]) -> bool {
        let segment = self.active();
        let last_offset = headers.last().map_or(segment.base, BatchHeader::last_offset);
        if segment.size == 0 {
            return false;
        }
        let full = segment.size + bytes > (self.config.segment_bytes as u64).min(u64::from(u32::MAX));
        let wide = last_offset.0 - segment.base.0 >= i64::from(i32::MAX);
        // Age is measured in the time of the records, as Kafka does: a replay of old records rolls no differently.
        let first = segment.index.first_timestamp().filter(|time| *time >= 0);
        let latest = headers.iter().map(|header| header.max_timestamp).max().unwrap_or(-1);
        let old = first.is_some_and(|first| latest.saturating_sub(first) >= self.config.segment_ms);
        full || wide || old
    }

    /// Seals the active segment and begins the next one at the log end. The sealed file is not synced here: the next
    /// [`FlushPlan`](super::FlushPlan) covers it.
    ///
    /// # Errors
    /// The new file cannot be created: the directory goes offline.
    pub fn roll(&mut self) -> Result<(), LogError> {
        self.log_dir.check()?;
        if self.active().size == 0 {
            return Ok(());
        }
        let end = self.log_end();
        self.active().store_index(&self.log_dir, &self.dir);
        self.store_snapshot();
        // Were a later segment to survive a crash that the first one does not, the log would seem to begin there.
        if self.segments.len() == 1 && self.flush.names_dirty() {
            let dir = &self.dir;
            self.log_dir.disk().sync_dir(dir).map_err(self.log_dir.fatal("sync directory", dir))?;
        }
        let next = Segment::create(&**self.log_dir.disk(), &self.dir, end)
            .map_err(self.log_dir.fatal("create a segment in", &self.dir))?;
        self.segments.push(next);
        self.flush.names_changed();
        Ok(())
    }

    /// Writes the producer state at the log end; not synced, since it can be replayed from the batches.
    pub(super) fn store_snapshot(&self) {
        let end = self.log_end();
        let path = segment_path(&self.dir, end, "snapshot");
        if let Err(error) = self.log_dir.disk().write_hint(&path, &self.producers.encode(end)) {
            tracing::warn!(%path, %error, "producer snapshot not written; the log will be replayed");
        }
    }
}

/// Sets the timestamp type and the largest timestamp, and computes the CRC anew.
fn stamp_log_append_time(header: &mut [u8; HEADER_BYTES], payload: &[u8], time: i64) {
    let attributes = i16::from_be_bytes([header[21], header[22]]) | 0x08;
    header[21..23].copy_from_slice(&attributes.to_be_bytes());
    header[35..43].copy_from_slice(&time.to_be_bytes());
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&header[21..]);
    digest.update(payload);
    header[17..21].copy_from_slice(&(digest.finalize() as u32).to_be_bytes());
}
