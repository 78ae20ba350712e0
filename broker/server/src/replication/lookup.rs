//! Questions about offsets: by special timestamp, by time, by leader epoch; and the start of the log moved on request.

use std::sync::Arc;

use chronik_core::partition::EpochEnd;
use chronik_log::TimestampCandidate;
use chronik_model::{ErrorCode, LeaderEpoch, Offset};
use chronik_wire::records::BatchRecords;

use super::partition::{Outgoing, Partition, epoch_end};
use super::{ReplicaManager, mono_ms};

/// Decompressed bytes that one batch may take for a lookup.
const MAX_BATCH: usize = 256 * 1024 * 1024;

/// An offset that was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FoundOffset {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: LeaderEpoch,
}

impl FoundOffset {
    pub(crate) const NONE: Self = Self { offset: -1, timestamp: -1, leader_epoch: LeaderEpoch::NONE };
}

impl Partition {
    /// First offset of the log; only the leader says it.
    pub(crate) fn earliest(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        let inner = self.inner.lock();
        inner.replica.check_leader(current)?;
        let start = inner.log.log_start();
        let leader_epoch = epoch_of(&inner.log, start);
        Ok(FoundOffset { offset: start.0, timestamp: -1, leader_epoch })
    }

    /// The end that consumers may know.
    pub(crate) fn latest(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        let inner = self.inner.lock();
        let offset = inner.replica.latest_offset(current)?.min(self.visible(&inner));
        // Right after a restart it may be lower than what was shown before.
        if inner.log.epochs().last().is_some_and(|newest| offset < newest.start_offset) {
            return Err(ErrorCode::OffsetNotAvailable);
        }
        Ok(FoundOffset { offset: offset.0, timestamp: -1, leader_epoch: inner.replica.leader_epoch() })
    }

    /// The log end, for followers.
    pub(crate) fn end(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        let inner = self.inner.lock();
        inner.replica.check_leader(current)?;
        Ok(FoundOffset { offset: inner.replica.log_end().0, timestamp: -1, leader_epoch: inner.replica.leader_epoch() })
    }

    /// The first record at or after `timestamp` that consumers may see. Blocks on the disk.
    pub(crate) fn at_or_after(&self, current: LeaderEpoch, timestamp: i64) -> Result<FoundOffset, ErrorCode> {
        let bound = Offset(self.latest(current)?.offset);
        let mut from = Offset(0);
        loop {
            let candidate = {
                let inner = self.inner.lock();
                inner.replica.check_leader(current)?;
                inner.log.find_by_timestamp(timestamp, from).map_err(|error| error.code())?
            };
            let Some(candidate) = candidate.filter(|candidate| candidate.base_offset < bound) else {
                return Ok(FoundOffset::NONE);
            };
            let found = open(&candidate)?.first_at_or_after(timestamp).map_err(|_| ErrorCode::CorruptMessage)?;
            if let Some((offset, timestamp)) = found {
                if offset >= bound {
                    return Ok(FoundOffset::NONE);
                }
                return Ok(FoundOffset { offset: offset.0, timestamp, leader_epoch: candidate.leader_epoch });
            }
            from = candidate.next_offset;
        }
    }

    /// The record with the largest timestamp (the record, not its batch: KAFKA-16310). Blocks on the disk.
    pub(crate) fn max_timestamp(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        let bound = Offset(self.latest(current)?.offset);
        let candidate = self.inner.lock().log.find_max_timestamp().map_err(|error| error.code())?;
        let Some(candidate) = candidate.filter(|candidate| candidate.base_offset < bound) else {
            return Ok(FoundOffset::NONE);
        };
        let batch = open(&candidate)?;
        let mut best = FoundOffset::NONE;
        for record in batch.timestamps() {
            let (offset, timestamp) = record.map_err(|_| ErrorCode::CorruptMessage)?;
            if best.offset < 0 || timestamp > best.timestamp {
                best = FoundOffset { offset: offset.0, timestamp, leader_epoch: candidate.leader_epoch };
            }
        }
        Ok(best)
    }

    /// Where `epoch` ends here.
    pub(crate) fn end_of_epoch(&self, current: LeaderEpoch, epoch: LeaderEpoch) -> Result<Option<EpochEnd>, ErrorCode> {
        let inner = self.inner.lock();
        inner.replica.check_leader(current)?;
        if epoch == inner.replica.leader_epoch() {
            return Ok(Some(EpochEnd { epoch, end_offset: inner.replica.log_end() }));
        }
        if epoch > inner.replica.leader_epoch() || epoch == LeaderEpoch::NONE {
            return Ok(None);
        }
        Ok(epoch_end(&inner.log, epoch))
    }

    fn delete_records(&self, offset: i64, out: &mut Vec<Outgoing>) -> Result<Offset, ErrorCode> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.replica.check_leader(LeaderEpoch::NONE)?;
        let high_watermark = self.visible(inner);
        let to = if offset == -1 { high_watermark } else { Offset(offset) };
        if to < Offset(0) || to > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if to > inner.log.log_start() {
            if let Err(error) = inner.log.set_log_start_offset(to) {
                self.after_error(inner, &error, out);
                return Err(error.code());
            }
            let effects = inner.replica.on_log_start(to);
            self.run(inner, effects.into_iter().collect(), mono_ms(), out);
            self.publish(inner);
        }
        Ok(to)
    }

    /// The smallest log start of the live replicas.
    pub(crate) fn low_watermark(&self) -> Result<Option<Offset>, ErrorCode> {
        let inner = self.inner.lock();
        inner.replica.check_leader(LeaderEpoch::NONE)?;
        Ok(inner.replica.low_watermark())
    }

    /// Whether old records may be deleted at all.
    pub(crate) fn deletes_old(&self) -> bool {
        self.inner.lock().deletes_old
    }
}

impl ReplicaManager {
    /// Moves the start of a led log; returns where to.
    pub(crate) fn delete_records(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<Offset, ErrorCode> {
        let mut out = Vec::new();
        let moved = partition.delete_records(offset, &mut out);
        self.deliver(partition, out);
        moved
    }
}

fn epoch_of(log: &chronik_log::PartitionLog, offset: Offset) -> LeaderEpoch {
    let before = log.epochs().iter().take_while(|entry| entry.start_offset <= offset);
    before.last().map_or(LeaderEpoch::NONE, |entry| entry.epoch)
}

fn open(candidate: &TimestampCandidate) -> Result<BatchRecords, ErrorCode> {
    let bytes = candidate.plan.read().map_err(|_| ErrorCode::KafkaStorageError)?;
    BatchRecords::open(&bytes, MAX_BATCH).map_err(|error| {
        tracing::error!(offset = %candidate.base_offset, %error, "batch cannot be opened for a lookup by time");
        ErrorCode::CorruptMessage
    })
}
