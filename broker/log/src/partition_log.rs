//! The log of one partition replica: `data/<topic>-<partition>/`.
//!
//! Life: [`PartitionLog::open`] recovers it; then either the leader appends ([`PartitionLog::append_as_leader`], after
//! [`PartitionLog::assign_epoch`]) or a follower does ([`PartitionLog::append_as_follower`],
//! [`PartitionLog::truncate_to`]); readers plan under the partition lock and read outside it; [`PartitionLog::close`]
//! ends it in order. The log knows nothing of high watermarks: bounds are arguments.
//!
//! Never: an offset without a record below the log end; a batch that was not checked with its CRC; an append after a
//! failed write or sync.

mod append;
mod flush;
mod read;
mod recovery;
mod start;
mod truncate;

use std::sync::Arc;

use chronik_model::{LeaderEpoch, Offset, PartitionIndex, TopicPartition, mutant};

pub use append::{AppendInfo, AppendOrigin};
pub use flush::FlushPlan;
pub use read::{ReadPlan, TimestampCandidate};
pub use recovery::{OpenOptions, RecoveryReport};
pub use truncate::RetentionReport;

use crate::config::LogConfig;
use crate::error::LogError;
use crate::leader_epoch::{EpochEnd, EpochEntry, LeaderEpochs};
use crate::log_dir::LogDir;
use crate::producer_state::ProducerStates;
use crate::segment::Segment;

/// The directory of a partition, relative to the log directory.
#[must_use]
pub fn partition_dir(tp: &TopicPartition) -> String {
    format!("data/{}-{}", tp.topic, tp.partition)
}

/// The partition of a directory name below `data/`; `None` for what is no partition, such as one being deleted.
#[must_use]
pub fn parse_partition_dir(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    let index: i32 = partition.parse().ok().filter(|index| *index >= 0)?;
    let tp = TopicPartition::new(topic, PartitionIndex(index));
    (!topic.is_empty() && index.to_string() == partition).then_some(tp)
}

/// The partitions that have a directory. Also finishes deletions that were interrupted.
///
/// # Errors
/// The disk failed.
pub fn list_partitions(log_dir: &LogDir) -> Result<Vec<TopicPartition>, LogError> {
    let disk = log_dir.disk();
    if !disk.exists("data").map_err(LogError::io("look up", "data"))? {
        return Ok(Vec::new());
    }
    let mut partitions = Vec::new();
    for entry in disk.list("data").map_err(LogError::io("list", "data"))? {
        if let Some(tp) = parse_partition_dir(&entry.name) {
            partitions.push(tp);
        } else if entry.is_dir && entry.name.ends_with(DELETED) {
            let path = format!("data/{}", entry.name);
            disk.remove_dir(&path).map_err(log_dir.fatal("remove", &path))?;
        }
    }
    Ok(partitions)
}

/// Suffix of a directory being deleted; no partition index ends like this.
const DELETED: &str = ".deleted";

/// See the module documentation.
#[derive(Debug)]
pub struct PartitionLog {
    log_dir: Arc<LogDir>,
    dir: String,
    config: LogConfig,
    /// Never empty; the last one grows.
    segments: Vec<Segment>,
    log_start: Offset,
    /// What the note says of where the first segment begins; `None` when it cannot be read.
    noted_start: Option<Offset>,
    epochs: LeaderEpochs,
    producers: ProducerStates,
    flush: flush::FlushState,
}

impl PartitionLog {
    /// Offset after the last record.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.active().end
    }

    /// First offset that may be read.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Everything below is durable.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.flush.recovery_point
    }

    /// A high watermark brought into the log: not below the log start, not above the log end.
    #[must_use]
    pub fn clamp_high_watermark(&self, high_watermark: Offset) -> Offset {
        if mutant!(UnclampedWatermark) {
            high_watermark
        } else {
            high_watermark.max(self.log_start).min(self.log_end())
        }
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Number of segments.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The directory, relative to the log directory.
    #[must_use]
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// The log directory it lives in.
    #[must_use]
    pub fn log_dir(&self) -> &Arc<LogDir> {
        &self.log_dir
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Changes the settings; they hold from the next append on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// What is known about producers.
    #[must_use]
    pub fn producers(&self) -> &ProducerStates {
        &self.producers
    }

    /// Forgets producers that were silent for too long.
    pub fn expire_producers(&mut self, now_ms: i64) {
        self.producers.expire(now_ms, self.config.producer_id_expiration_ms);
    }

    /// The newest leader epoch of the log, if there is any.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest()
    }

    /// All leader epochs of the log.
    #[must_use]
    pub fn epochs(&self) -> &[EpochEntry] {
        self.epochs.entries()
    }

    /// Largest epoch not above `epoch` and the offset where it ends; `None` if every known epoch is newer.
    #[must_use]
    pub fn epoch_end_offset(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.epochs.end_offset(epoch, self.log_end())
    }

    /// Notes, durably, that this leader epoch begins at the log end. A new leader does so before it serves anything.
    ///
    /// # Errors
    /// [`LogError::StaleLeaderEpoch`] for an epoch older than the newest one; a failed write.
    pub fn assign_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), LogError> {
        self.log_dir.check()?;
        if let Some(current) = self.epochs.latest().filter(|current| *current > epoch) {
            return Err(LogError::StaleLeaderEpoch { current, found: epoch });
        }
        if self.epochs.assign(epoch, self.log_end()) {
            self.epochs.store(&self.log_dir, &self.dir)?;
        }
        Ok(())
    }

    /// Moves the directory out of the way, durably, and removes it. The name is free for a new log afterwards.
    ///
    /// # Errors
    /// A failed rename or removal.
    pub fn delete(self) -> Result<(), LogError> {
        let doomed = format!("{}{DELETED}", self.dir);
        let disk = self.log_dir.disk();
        let fatal = |operation| self.log_dir.fatal(operation, &self.dir);
        if disk.exists(&doomed).map_err(fatal("look up"))? {
            disk.remove_dir(&doomed).map_err(fatal("remove"))?;
        }
        disk.rename(&self.dir, &doomed).map_err(fatal("rename"))?;
        disk.sync_dir(crate::disk::parent(&self.dir)).map_err(fatal("sync directory of"))?;
        disk.remove_dir(&doomed).map_err(fatal("remove"))
    }

    fn active(&self) -> &Segment {
        &self.segments[self.segments.len() - 1]
    }

    fn active_mut(&mut self) -> &mut Segment {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Index of the segment that holds `offset`; the first one for what lies before.
    fn segment_for(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }
}
