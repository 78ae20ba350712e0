//! Questions about offsets: by special timestamp, by time, by leader epoch; and the start of the log moved on request.

use std::sync::Arc;

use chronik_core::partition::EpochEnd;
use chronik_log::TimestampCandidate;
use chronik_model::{ErrorCode, LeaderEpoch, Offset};
use chronik_node::partition::FoundOffset;
use chronik_wire::records::BatchRecords;

use super::ReplicaManager;
use super::partition::Partition;

/// Decompressed bytes that one batch may take for a lookup.
const MAX_BATCH: usize = 256 * 1024 * 1024;

impl Partition {
    /// First offset of the log; only the leader says it.
    pub(crate) fn earliest(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        self.lock().earliest(current)
    }

    /// The end that consumers may know.
    pub(crate) fn latest(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        self.lock().latest(current)
    }

    /// The log end, for followers.
    pub(crate) fn end(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        self.lock().end(current)
    }

    /// The first record at or after `timestamp` that consumers may see. Blocks on the disk.
    pub(crate) fn at_or_after(&self, current: LeaderEpoch, timestamp: i64) -> Result<FoundOffset, ErrorCode> {
        let bound = Offset(self.latest(current)?.offset);
        let mut from = Offset(0);
        loop {
            let candidate = {
                let hosted = self.lock();
                hosted.replica().check_leader(current)?;
                hosted.log().find_by_timestamp(timestamp, from).map_err(|error| error.code())?
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
        let candidate = self.lock().log().find_max_timestamp().map_err(|error| error.code())?;
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
        self.lock().end_of_epoch(current, epoch)
    }

    /// The smallest log start of the live replicas.
    pub(crate) fn low_watermark(&self) -> Result<Option<Offset>, ErrorCode> {
        self.lock().low_watermark()
    }

    /// Whether old records may be deleted at all.
    pub(crate) fn deletes_old(&self) -> bool {
        self.lock().deletes_old()
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
        let moved = partition.lock().delete_records(offset, &mut out);
        self.deliver(partition, out);
        moved
    }
}

fn open(candidate: &TimestampCandidate) -> Result<BatchRecords, ErrorCode> {
    let bytes = candidate.plan.read().map_err(|_| ErrorCode::KafkaStorageError)?;
    BatchRecords::open(&bytes, MAX_BATCH).map_err(|error| {
        tracing::error!(offset = %candidate.base_offset, %error, "batch cannot be opened for a lookup by time");
        ErrorCode::CorruptMessage
    })
}
