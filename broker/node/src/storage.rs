//! Directories of partitions: opening the right log for a topic id, and removing what a committed deletion named.
//!
//! Each partition directory holds `partition.metadata` with the id of its topic, written before the first record. A
//! directory of another topic id is moved aside, never used and never deleted on a mere absence: only a committed
//! deletion of exactly that topic id removes records.
//!
//! The owner of the partitions reads the [`Checkpoints`] once, before it opens the first log, and writes them from time
//! to time and after the logs are settled at the end.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use chronik_log::{
    CheckpointKind, LogConfig, LogDir, LogError, OpenOptions, PartitionLog, partition_dir, read_checkpoint,
    write_checkpoint,
};
use chronik_model::{Offset, TopicId, TopicPartition, mutant};

use crate::partition::{HostedPartition, Ticket, Waiter};

const METADATA_FILE: &str = "partition.metadata";

/// The checkpoints of all partitions: as the last run left them, or as they are to be written.
///
/// The files name the topic with its id. A topic that was deleted and made again has the name of the first, and a crash
/// before the next round would leave it the first one's offsets: a log start that deletes its records, a recovery point
/// that trusts what was never synced, a high watermark over what was never committed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoints {
    high_watermark: BTreeMap<TopicPartition, Offset>,
    recovery_point: BTreeMap<TopicPartition, Offset>,
    log_start: BTreeMap<TopicPartition, Offset>,
}

impl Checkpoints {
    /// Reads all three; one that cannot be read costs a longer recovery and is reported.
    #[must_use]
    pub fn read(log_dir: &LogDir) -> Self {
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

    /// Takes down where a partition is now.
    pub fn note<A: Ticket, F: Waiter>(&mut self, partition: &HostedPartition<A, F>) {
        let life = life_of(partition.tp(), partition.topic_id());
        self.high_watermark.insert(life.clone(), partition.replica().high_watermark());
        self.recovery_point.insert(life.clone(), partition.log().recovery_point());
        self.log_start.insert(life, partition.log().log_start());
    }

    /// Writes those that differ from `last`, which are on disk.
    ///
    /// # Errors
    /// The disk failed, and the directory is offline.
    pub fn write(&self, last: &Self, log_dir: &LogDir) -> Result<(), LogError> {
        let write = |kind, now: &BTreeMap<_, _>, last: &BTreeMap<_, _>| {
            if now == last { Ok(()) } else { write_checkpoint(log_dir, kind, now) }
        };
        write(CheckpointKind::RecoveryPoint, &self.recovery_point, &last.recovery_point)?;
        write(CheckpointKind::LogStart, &self.log_start, &last.log_start)?;
        write(CheckpointKind::HighWatermark, &self.high_watermark, &last.high_watermark)
    }

    fn take(&mut self, tp: &TopicPartition, topic_id: TopicId, wall_ms: i64) -> (Offset, OpenOptions) {
        let life = life_of(tp, topic_id);
        let options = OpenOptions {
            recovery_point: self.recovery_point.remove(&life).unwrap_or(Offset(0)),
            log_start: self.log_start.remove(&life).unwrap_or(Offset(0)),
            clean_shutdown: false,
            now_ms: wall_ms,
        };
        (self.high_watermark.remove(&life).unwrap_or(Offset(0)), options)
    }
}

/// A partition of just this topic, as checkpoints name it. No topic has a slash in its name.
fn life_of(tp: &TopicPartition, topic_id: TopicId) -> TopicPartition {
    TopicPartition::new(format!("{}/{topic_id}", tp.topic), tp.partition)
}

/// Opens the log of a partition, or begins it, at `wall_ms`. Returns it with the high watermark of the checkpoint.
///
/// # Errors
/// The disk does not read or write; damage is cut away by recovery instead.
pub fn open(
    log_dir: &Arc<LogDir>,
    tp: &TopicPartition,
    topic_id: TopicId,
    config: LogConfig,
    clean_shutdown: bool,
    checkpoints: &mut Checkpoints,
    wall_ms: i64,
) -> Result<(PartitionLog, Offset), LogError> {
    let dir = partition_dir(tp);
    let disk = log_dir.disk();
    let fail = |error| log_dir.fail("prepare", &dir, error);
    let exists = disk.exists(&dir).map_err(fail)?;
    let (high_watermark, mut options) = checkpoints.take(tp, topic_id, wall_ms);
    let found = if exists { stored_id(log_dir, &dir).map_err(fail)? } else { None };
    let ours = found == Some(topic_id) || (found.is_some() && mutant!(TrustTopicName));
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
///
/// # Errors
/// The disk failed, and the directory is offline.
pub fn remove(log_dir: &LogDir, tp: &TopicPartition, topic_id: TopicId) -> Result<(), LogError> {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chronik_log::AppendOrigin;
    use chronik_log::disk::MemDisk;
    use chronik_model::LeaderEpoch;
    use chronik_model::batch::BatchBuilder;

    use super::*;

    fn record() -> Bytes {
        let mut builder = BatchBuilder::new(1_000);
        builder.push(None, Some(b"v"));
        builder.build()
    }

    fn open_again(disk: &MemDisk, topic: TopicId) -> (Arc<LogDir>, PartitionLog, Offset) {
        disk.kill();
        let log_dir = LogDir::new(Arc::new(disk.clone()));
        let mut checkpoints = Checkpoints::read(&log_dir);
        let tp = TopicPartition::new("t", 0);
        let opened = open(&log_dir, &tp, topic, LogConfig::default(), false, &mut checkpoints, 1_000);
        let (log, high_watermark) = opened.unwrap();
        (log_dir, log, high_watermark)
    }

    #[test]
    fn a_topic_made_again_has_none_of_the_offsets_of_the_first() {
        let (disk, tp) = (MemDisk::new(), TopicPartition::new("t", 0));
        let (first, second) = (TopicId::from_u128(1), TopicId::from_u128(2));
        let (log_dir, mut log, _) = open_again(&disk, first);
        log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
        let marks = |offset| BTreeMap::from([(life_of(&tp, first), Offset(offset))]);
        let checkpoints = Checkpoints { high_watermark: marks(1), recovery_point: marks(1), log_start: marks(1) };
        checkpoints.write(&Checkpoints::default(), &log_dir).unwrap();
        let (log_dir, log, high_watermark) = open_again(&disk, first);
        assert_eq!((log.log_start(), high_watermark), (Offset(1), Offset(1)), "its own are used");
        drop(log);
        remove(&log_dir, &tp, first).unwrap();
        let (_, mut log, _) = open_again(&disk, second);
        for _ in 0..2 {
            log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
        }
        // The process dies before it wrote checkpoints again.
        let (_, log, high_watermark) = open_again(&disk, second);
        assert_eq!((log.log_start(), log.log_end(), high_watermark), (Offset(0), Offset(2), Offset(0)));
    }
}
