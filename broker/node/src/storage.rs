//! Directories of partitions: opening the right log for a topic id, and removing what a committed deletion named.
//!
//! Each partition directory holds `partition.metadata` with the id of its topic, written before the first record. A
//! directory of another topic id is moved aside, never used and never deleted on a mere absence: only a committed
//! deletion of exactly that topic id, or a committed assignment of it without this broker, removes records. The same file
//! says that where the log begins is noted ([`OpenOptions::start_noted`]): a broker that lost the note with the first segment knows.
//!
//! A removed log is renamed first, durably, and is then nobody's: deleting its files may take long, is left to others than the
//! thread that follows the metadata, and is done again by the next start when it was interrupted.
//!
//! The owner of the partitions reads the [`Checkpoints`] once, before it opens the first log, and writes them from time
//! to time and after the logs are settled at the end.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use chronik_log::{
    CheckpointKind, LogConfig, LogDir, LogError, OpenOptions, PartitionLog, list_partitions, partition_dir,
    read_checkpoint, write_checkpoint,
};
use chronik_model::{Offset, TopicId, TopicPartition, mutant};

use crate::partition::{HostedPartition, Ticket, Waiter};

const METADATA_FILE: &str = "partition.metadata";
/// Its line in a directory whose log notes where it begins.
const START_NOTED: &str = "start: noted";

/// The checkpoints of all partitions: as the last run left them, or as they are to be written.
///
/// The files name the topic with its id, and when the log was begun. A topic that was deleted and made again has the name
/// of the first, a replica that was moved away and back also its id, and a crash before the next round would leave it the
/// first one's offsets: a log start that deletes its records, a recovery point that trusts what was never synced, a high
/// watermark over what was never committed.
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
        let life = life_of(partition.tp(), partition.topic_id(), partition.created_ms());
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

    fn take(&mut self, life: &TopicPartition, wall_ms: i64) -> (Offset, OpenOptions) {
        let options = OpenOptions {
            recovery_point: self.recovery_point.remove(life).unwrap_or(Offset(0)),
            log_start: self.log_start.remove(life).unwrap_or(Offset(0)),
            clean_shutdown: false,
            start_noted: false,
            now_ms: wall_ms,
        };
        (self.high_watermark.remove(life).unwrap_or(Offset(0)), options)
    }
}

/// A partition of just this topic and this log of it, as checkpoints name it. No topic has a slash in its name.
fn life_of(tp: &TopicPartition, topic_id: TopicId, created_ms: i64) -> TopicPartition {
    let begun = if created_ms == 0 { String::new() } else { format!("/{created_ms}") };
    TopicPartition::new(format!("{}/{topic_id}{begun}", tp.topic), tp.partition)
}

/// What is found of a partition on the disk.
#[derive(Debug)]
pub struct Opened {
    /// Its log.
    pub log: PartitionLog,
    /// The high watermark of the checkpoint.
    pub high_watermark: Offset,
    /// When the log was begun, by the wall clock; 0 when that was not written down.
    pub created_ms: i64,
}

/// Opens the log of a partition, or begins it, at `wall_ms`.
///
/// # Errors
/// The disk does not read or write; damage is cut away by recovery instead. A log that lost its beginning after an orderly stop
/// is refused: the replica is trusted as it was, and would have the others follow it.
pub fn open(
    log_dir: &Arc<LogDir>,
    tp: &TopicPartition,
    topic_id: TopicId,
    config: LogConfig,
    clean_shutdown: bool,
    checkpoints: &mut Checkpoints,
    wall_ms: i64,
) -> Result<Opened, LogError> {
    let dir = partition_dir(tp);
    let disk = log_dir.disk();
    let fail = |error| log_dir.fail("prepare", &dir, error);
    let exists = disk.exists(&dir).map_err(fail)?;
    let found = if exists { stored(log_dir, &dir).map_err(fail)? } else { None };
    let ours = found.is_some_and(|found| found.topic_id == topic_id || mutant!(TrustTopicName));
    let created_ms = found.filter(|_| ours).map_or(wall_ms, |found| found.created_ms);
    let (high_watermark, mut options) = checkpoints.take(&life_of(tp, topic_id, created_ms), wall_ms);
    if exists && !ours {
        set_aside(log_dir, &dir, found.map(|found| found.topic_id)).map_err(fail)?;
    }
    if !ours {
        // Checkpoints of the name belong to the log that was set aside or is gone.
        options = OpenOptions { recovery_point: Offset(0), log_start: Offset(0), ..options };
        disk.create_dir(&dir).map_err(fail)?;
        let text = format!("version: 0\ntopic_id: {topic_id}\ncreated_ms: {created_ms}\n{START_NOTED}\n");
        log_dir.disk().write_atomic(&format!("{dir}/{METADATA_FILE}"), text.as_bytes()).map_err(fail)?;
    }
    options.clean_shutdown = clean_shutdown && ours;
    options.start_noted = !ours || found.is_some_and(|found| found.start_noted);
    let (log, report) = PartitionLog::open(log_dir, &dir, config, options)?;
    if report.cut.is_some() || report.scanned_bytes > 0 {
        tracing::info!(
            partition = %tp, scanned = report.scanned_bytes, cut = report.cut_bytes, end = %log.log_end(), "log recovered"
        );
    }
    let high_watermark = if ours { log.clamp_high_watermark(high_watermark) } else { log.log_start() };
    Ok(Opened { log, high_watermark, created_ms })
}

/// What a directory says of itself.
#[derive(Clone, Copy, Debug)]
struct Stored {
    topic_id: TopicId,
    /// When it was begun; 0 when that was not written down.
    created_ms: i64,
    /// Whether its log notes where it begins.
    start_noted: bool,
}

fn stored(log_dir: &LogDir, dir: &str) -> io::Result<Option<Stored>> {
    let bytes = match log_dir.disk().read(&format!("{dir}/{METADATA_FILE}")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let value = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
    let created_ms = value("created_ms: ").and_then(|text| text.parse().ok()).unwrap_or(0);
    let start_noted = text.lines().any(|line| line == START_NOTED);
    let topic_id = value("topic_id: ").and_then(|text| text.parse().ok());
    Ok(topic_id.map(|topic_id| Stored { topic_id, created_ms, start_noted }))
}

/// The partitions that lie on the disk, apart from those that `skip` names, each with the id of its topic. For replicas
/// that were moved away while this broker was down: whoever asks removes those of which the committed state says so.
///
/// # Errors
/// The disk failed, and the directory is offline.
pub fn others(
    log_dir: &LogDir,
    skip: impl Fn(&TopicPartition) -> bool,
) -> Result<Vec<(TopicPartition, TopicId)>, LogError> {
    let mut found = Vec::new();
    for tp in list_partitions(log_dir)?.into_iter().filter(|tp| !skip(tp)) {
        let dir = partition_dir(&tp);
        if let Some(stored) = stored(log_dir, &dir).map_err(|error| log_dir.fail("read", &dir, error))? {
            found.push((tp, stored.topic_id));
        }
    }
    Ok(found)
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

/// Ends the names of directories whose deletion is committed; no partition index ends like this.
const REMOVED: &str = ".removed";

/// The directory of a removed log: nobody finds the partition by it any more. To be deleted by [`Doomed::unlink`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doomed(String);

impl Doomed {
    /// Deletes it from the disk, which takes long if it is large. One that is gone is fine.
    ///
    /// # Errors
    /// The disk failed, and the directory is offline.
    pub fn unlink(&self, log_dir: &LogDir) -> Result<(), LogError> {
        match log_dir.disk().remove_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(log_dir.fail("delete", &self.0, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Takes away the log of a partition whose deletion, or removal from this broker, is committed, if what lies there belongs to that
/// topic. Quick, and durable: what is left to do is [`Doomed::unlink`], by whoever has the time.
///
/// # Errors
/// The disk failed, and the directory is offline.
pub fn doom(log_dir: &LogDir, tp: &TopicPartition, topic_id: TopicId) -> Result<Option<Doomed>, LogError> {
    let dir = partition_dir(tp);
    let disk = log_dir.disk();
    let act = || -> io::Result<Option<Doomed>> {
        if !disk.exists(&dir)? || stored(log_dir, &dir)?.is_none_or(|stored| stored.topic_id != topic_id) {
            return Ok(None);
        }
        // Earlier lives of the same name may still be waiting.
        let mut doomed = format!("{dir}.0{REMOVED}");
        for life in 1_u64.. {
            if !disk.exists(&doomed)? {
                break;
            }
            doomed = format!("{dir}.{life}{REMOVED}");
        }
        disk.rename(&dir, &doomed)?;
        disk.sync_dir(chronik_log::disk::parent(&dir))?;
        Ok(Some(Doomed(doomed)))
    };
    act().map_err(|error| log_dir.fail("remove", &dir, error))
}

/// What an earlier run had no time to delete.
///
/// # Errors
/// The disk cannot be read.
pub fn doomed(log_dir: &LogDir) -> Result<Vec<Doomed>, LogError> {
    let list = || -> io::Result<Vec<Doomed>> {
        if !log_dir.disk().exists("data")? {
            return Ok(Vec::new());
        }
        let found = log_dir.disk().list("data")?.into_iter();
        let found = found.filter(|entry| entry.is_dir && entry.name.ends_with(REMOVED));
        Ok(found.map(|entry| Doomed(format!("data/{}", entry.name))).collect())
    };
    list().map_err(|source| LogError::Io { operation: "list", path: "data".to_owned(), source })
}

/// [`doom`] and [`Doomed::unlink`] in one, for who may wait.
///
/// # Errors
/// The disk failed, and the directory is offline.
pub fn remove(log_dir: &LogDir, tp: &TopicPartition, topic_id: TopicId) -> Result<(), LogError> {
    match doom(log_dir, tp, topic_id)? {
        Some(doomed) => doomed.unlink(log_dir),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chronik_log::AppendOrigin;
    use chronik_log::disk::{Disk as _, MemDisk};
    use chronik_model::LeaderEpoch;
    use chronik_model::batch::BatchBuilder;

    use super::*;

    fn record() -> Bytes {
        let mut builder = BatchBuilder::new(1_000);
        builder.push(None, Some(b"v"));
        builder.build()
    }

    fn open_again(disk: &MemDisk, topic: TopicId, wall_ms: i64) -> (Arc<LogDir>, PartitionLog, Offset) {
        disk.kill();
        let log_dir = LogDir::new(Arc::new(disk.clone()));
        let mut checkpoints = Checkpoints::read(&log_dir);
        let tp = TopicPartition::new("t", 0);
        let opened = open(&log_dir, &tp, topic, LogConfig::default(), false, &mut checkpoints, wall_ms);
        let Opened { log, high_watermark, .. } = opened.unwrap();
        (log_dir, log, high_watermark)
    }

    #[test]
    fn a_topic_made_again_has_none_of_the_offsets_of_the_first() {
        let (disk, tp) = (MemDisk::new(), TopicPartition::new("t", 0));
        let (first, second) = (TopicId::from_u128(1), TopicId::from_u128(2));
        let (log_dir, mut log, _) = open_again(&disk, first, 1_000);
        log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
        let marks = |offset| BTreeMap::from([(life_of(&tp, first, 1_000), Offset(offset))]);
        let checkpoints = Checkpoints { high_watermark: marks(1), recovery_point: marks(1), log_start: marks(1) };
        checkpoints.write(&Checkpoints::default(), &log_dir).unwrap();
        let (log_dir, log, high_watermark) = open_again(&disk, first, 1_000);
        assert_eq!((log.log_start(), high_watermark), (Offset(1), Offset(1)), "its own are used");
        drop(log);
        remove(&log_dir, &tp, first).unwrap();
        let (_, mut log, _) = open_again(&disk, second, 2_000);
        for _ in 0..2 {
            log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
        }
        // The process dies before it wrote checkpoints again.
        let (_, log, high_watermark) = open_again(&disk, second, 2_000);
        assert_eq!((log.log_start(), log.log_end(), high_watermark), (Offset(0), Offset(2), Offset(0)));
    }

    #[test]
    fn a_replica_that_was_moved_away_and_back_has_none_of_the_offsets_of_its_first_log() {
        let (disk, tp, topic) = (MemDisk::new(), TopicPartition::new("t", 0), TopicId::from_u128(1));
        let (log_dir, mut log, _) = open_again(&disk, topic, 1_000);
        log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
        let marks = || BTreeMap::from([(life_of(&tp, topic, 1_000), Offset(1))]);
        let checkpoints = Checkpoints { high_watermark: marks(), recovery_point: marks(), log_start: marks() };
        checkpoints.write(&Checkpoints::default(), &log_dir).unwrap();
        drop(log);
        remove(&log_dir, &tp, topic).unwrap();
        let (_, mut log, high_watermark) = open_again(&disk, topic, 2_000);
        assert_eq!((log.log_start(), log.log_end(), high_watermark), (Offset(0), Offset(0), Offset(0)));
        log.append_as_leader(&[record()], LeaderEpoch(0), 2_000, AppendOrigin::Client).unwrap();
        let (_, log, high_watermark) = open_again(&disk, topic, 3_000);
        assert_eq!((log.log_start(), log.log_end(), high_watermark), (Offset(0), Offset(1), Offset(0)));
    }

    #[test]
    fn a_directory_without_a_time_keeps_the_checkpoints_it_had() {
        let (disk, tp, topic) = (MemDisk::new(), TopicPartition::new("t", 0), TopicId::from_u128(1));
        let (log_dir, mut log, _) = open_again(&disk, topic, 1_000);
        log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
        let text = format!("version: 0\ntopic_id: {topic}\n");
        log_dir.disk().write_atomic(&format!("{}/{METADATA_FILE}", partition_dir(&tp)), text.as_bytes()).unwrap();
        let marks = || BTreeMap::from([(life_of(&tp, topic, 0), Offset(1))]);
        let checkpoints = Checkpoints { high_watermark: marks(), recovery_point: marks(), log_start: marks() };
        checkpoints.write(&Checkpoints::default(), &log_dir).unwrap();
        drop(log);
        let (_, log, high_watermark) = open_again(&disk, topic, 2_000);
        assert_eq!((log.log_start(), high_watermark), (Offset(1), Offset(1)));
    }

    #[test]
    fn a_log_that_lost_its_first_segment_is_begun_anew_unless_its_directory_is_of_before_the_notes() {
        let (disk, tp, topic) = (MemDisk::new(), TopicPartition::new("t", 0), TopicId::from_u128(1));
        let (log_dir, mut log, _) = open_again(&disk, topic, 1_000);
        for _ in 0..2 {
            log.append_as_leader(&[record()], LeaderEpoch(0), 1_000, AppendOrigin::Client).unwrap();
            log.roll().unwrap();
        }
        log.flush().unwrap();
        drop((log, log_dir));
        let dir = partition_dir(&tp);
        disk.remove_file(&format!("{dir}/{:020}.log", 0)).unwrap();
        let (_, log, high_watermark) = open_again(&disk.snapshot(), topic, 2_000);
        assert_eq!((log.log_start(), log.log_end(), high_watermark), (Offset(0), Offset(0), Offset(0)));
        let text = format!("version: 0\ntopic_id: {topic}\ncreated_ms: 1000\n");
        disk.write_atomic(&format!("{dir}/{METADATA_FILE}"), text.as_bytes()).unwrap();
        let (_, log, _) = open_again(&disk, topic, 2_000);
        assert_eq!((log.log_start(), log.log_end()), (Offset(1), Offset(2)));
    }

    #[test]
    fn what_else_lies_on_the_disk_is_found_with_its_topic() {
        let (disk, tp, topic) = (MemDisk::new(), TopicPartition::new("t", 0), TopicId::from_u128(1));
        let (log_dir, _, _) = open_again(&disk, topic, 1_000);
        assert_eq!(others(&log_dir, |_| false).unwrap(), [(tp.clone(), topic)]);
        assert_eq!(others(&log_dir, |other| *other == tp).unwrap(), []);
    }

    #[test]
    fn a_removed_log_is_gone_at_once_its_files_later_and_what_a_crash_left_is_found() {
        let (disk, tp, topic) = (MemDisk::new(), TopicPartition::new("t", 0), TopicId::from_u128(1));
        let life = |wall_ms| {
            let (log_dir, mut log, _) = open_again(&disk, topic, wall_ms);
            log.append_as_leader(&[record()], LeaderEpoch(0), wall_ms, AppendOrigin::Client).unwrap();
            (log_dir, log)
        };
        let (log_dir, _log) = life(1_000);
        assert_eq!(doom(&log_dir, &tp, TopicId::from_u128(2)).unwrap(), None, "of another topic");
        let first = doom(&log_dir, &tp, topic).unwrap().expect("it was there");
        assert_eq!(doom(&log_dir, &tp, topic).unwrap(), None);
        let names = || disk.list("data").unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names(), ["t-0.0.removed"]);
        // Moved back and away again before anybody had the time to delete the first one.
        let (log_dir, _log) = life(2_000);
        let second = doom(&log_dir, &tp, topic).unwrap().expect("it was there");
        assert_ne!(first, second);
        disk.crash(7);
        let log_dir = {
            drop(log_dir);
            LogDir::new(Arc::new(disk.clone()))
        };
        assert_eq!(others(&log_dir, |_| false).unwrap(), [], "the rename was durable");
        assert_eq!(doomed(&log_dir).unwrap(), [first.clone(), second.clone()]);
        for doomed in [&first, &second, &second] {
            doomed.unlink(&log_dir).unwrap();
        }
        assert_eq!(names(), [""; 0]);
        assert_eq!(doomed(&log_dir).unwrap(), []);
    }
}
