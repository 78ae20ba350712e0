//! Directories of partitions: opening the right log for a topic id, and removing what a committed deletion named.
//!
//! Each partition directory holds `partition.metadata` with the id of its topic, written before the first record. A
//! directory of another topic id is moved aside, never used and never deleted on a mere absence: only a committed
//! deletion of exactly that topic id removes records.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::TopicConfig;
use chronik_log::{
    CheckpointKind, LogConfig, LogDir, LogError, OpenOptions, PartitionLog, partition_dir, read_checkpoint,
};
use chronik_model::batch::TimestampType;
use chronik_model::{Offset, TopicId, TopicPartition};

use super::wall_ms;

const METADATA_FILE: &str = "partition.metadata";

/// What the last run left in its checkpoints.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) high_watermark: BTreeMap<TopicPartition, Offset>,
    pub(super) recovery_point: BTreeMap<TopicPartition, Offset>,
    pub(super) log_start: BTreeMap<TopicPartition, Offset>,
}

impl Checkpoints {
    /// Reads all three; one that cannot be read costs a longer recovery and is reported.
    pub(super) fn read(log_dir: &LogDir) -> Self {
        let read = |kind| {
            read_checkpoint(log_dir, kind).unwrap_or_else(|error| {
                tracing::warn!(%error, "checkpoint not used");
                BTreeMap::new()
            })
        };
        Self {
            high_watermark: read(CheckpointKind::HighWatermark),
            recovery_point: read(CheckpointKind::RecoveryPoint),
            log_start: read(CheckpointKind::LogStart),
        }
    }

    fn take(&mut self, tp: &TopicPartition) -> (Offset, OpenOptions) {
        let options = OpenOptions {
            recovery_point: self.recovery_point.remove(tp).unwrap_or(Offset(0)),
            log_start: self.log_start.remove(tp).unwrap_or(Offset(0)),
            clean_shutdown: false,
            now_ms: wall_ms(),
        };
        (self.high_watermark.remove(tp).unwrap_or(Offset(0)), options)
    }
}

/// The log's view of a topic's settings.
pub(super) fn log_config(topic: &TopicConfig, producer_id_expiration: Duration) -> LogConfig {
    LogConfig {
        producer_id_expiration_ms: i64::try_from(producer_id_expiration.as_millis()).unwrap_or(i64::MAX),
        segment_bytes: usize::try_from(topic.segment_bytes).unwrap_or(usize::MAX),
        segment_ms: topic.segment_ms,
        index_interval_bytes: usize::try_from(topic.index_interval_bytes).unwrap_or(4096),
        max_message_bytes: usize::try_from(topic.max_message_bytes).unwrap_or(usize::MAX),
        retention_ms: (topic.retention_ms >= 0).then_some(topic.retention_ms),
        retention_bytes: u64::try_from(topic.retention_bytes).ok(),
        timestamp_type: if topic.log_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        timestamp_before_max_ms: topic.timestamp_before_max_ms,
        timestamp_after_max_ms: topic.timestamp_after_max_ms,
        ..LogConfig::default()
    }
}

/// Opens the log of a partition, or begins it. Returns it with the high watermark of the checkpoint.
pub(super) fn open(
    log_dir: &Arc<LogDir>,
    tp: &TopicPartition,
    topic_id: TopicId,
    config: LogConfig,
    clean_shutdown: bool,
    checkpoints: &mut Checkpoints,
) -> Result<(PartitionLog, Offset), LogError> {
    let dir = partition_dir(tp);
    let disk = log_dir.disk();
    let fail = |error| log_dir.fail("prepare", &dir, error);
    let exists = disk.exists(&dir).map_err(fail)?;
    let (high_watermark, mut options) = checkpoints.take(tp);
    let found = if exists { stored_id(log_dir, &dir).map_err(fail)? } else { None };
    let ours = found == Some(topic_id);
    if exists && !ours {
        set_aside(log_dir, &dir, found).map_err(fail)?;
    }
    if !ours {
        // Checkpoints of the name belong to the log that was set aside or is gone.
        options = OpenOptions { recovery_point: Offset(0), log_start: Offset(0), ..options };
        disk.create_dir(&dir).map_err(fail)?;
        let text = format!("version: 0\ntopic_id: {topic_id}\n");
        disk.write_atomic(&format!("{dir}/{METADATA_FILE}"), text.as_bytes()).map_err(fail)?;
    }
    options.clean_shutdown = clean_shutdown && ours;
    let (log, report) = PartitionLog::open(log_dir, &dir, config, options)?;
    if report.cut.is_some() || report.scanned_bytes > 0 {
        tracing::info!(
            partition = %tp, scanned = report.scanned_bytes, cut = report.cut_bytes, end = %log.log_end(), "log recovered"
        );
    }
    let high_watermark = if ours { log.clamp_high_watermark(high_watermark) } else { log.log_start() };
    Ok((log, high_watermark))
}

fn stored_id(log_dir: &LogDir, dir: &str) -> io::Result<Option<TopicId>> {
    let bytes = match log_dir.disk().read(&format!("{dir}/{METADATA_FILE}")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().find_map(|line| line.strip_prefix("topic_id: ")?.trim().parse().ok()))
}

fn set_aside(log_dir: &LogDir, dir: &str, found: Option<TopicId>) -> io::Result<()> {
    let owner = found.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    // A dot after the index keeps it from being taken for a partition.
    let aside = format!("{dir}.{owner}.stray");
    tracing::warn!(dir, %aside, "directory of another topic of this name is moved aside");
    let disk = log_dir.disk();
    if disk.exists(&aside)? {
        disk.remove_dir(&aside)?;
    }
    disk.rename(dir, &aside)?;
    disk.sync_dir(chronik_log::disk::parent(dir))
}

/// Removes the log of a partition whose deletion is committed, if what lies there belongs to that topic.
pub(super) fn remove(log_dir: &LogDir, tp: &TopicPartition, topic_id: TopicId) -> Result<(), LogError> {
    let dir = partition_dir(tp);
    let disk = log_dir.disk();
    let act = || -> io::Result<()> {
        if !disk.exists(&dir)? || stored_id(log_dir, &dir)? != Some(topic_id) {
            return Ok(());
        }
        let doomed = format!("{dir}.deleted");
        if disk.exists(&doomed)? {
            disk.remove_dir(&doomed)?;
        }
        disk.rename(&dir, &doomed)?;
        disk.sync_dir(chronik_log::disk::parent(&dir))?;
        disk.remove_dir(&doomed)
    };
    act().map_err(|error| log_dir.fail("delete", &dir, error))
}
