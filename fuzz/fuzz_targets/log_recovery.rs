//! A partition log with everything around it is built, damaged and opened again. Verified from the beginning, it is a
//! run of what was written, byte for byte, from where it begins; trusted as after a clean end, it is at least readable
//! or refused. Opening once more changes nothing, and it can be appended to.
//!
//! With wounds below a clean-shutdown marker nothing is judged but that nothing panics: what is below the recovery point is
//! believed then, and what became of it since is found by whoever reads it. docs/reliability.md says so.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_fuzz::damage::{Kind, Wound, strike};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::MemDisk;
use chronik_log::{
    AppendOrigin, CheckpointKind, LogConfig, LogDir, LogError, OpenOptions, PartitionLog, list_partitions,
    read_checkpoint, write_checkpoint,
};
use chronik_model::batch::{BatchBuilder, find_batch};
use chronik_model::{
    BrokerEpoch, ClusterId, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, TopicPartition, Uuid,
};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "data/topic-0";
const NOW: i64 = 1_700_000_000_000;

type Content = BTreeMap<Offset, Bytes>;

fn dir(disk: &MemDisk) -> Arc<LogDir> {
    LogDir::new(Arc::new(disk.clone()))
}

fn config(u: &mut Unstructured<'_>) -> Result<LogConfig> {
    Ok(LogConfig {
        segment_bytes: u.int_in_range(1_000..=3_000)?,
        index_interval_bytes: u.int_in_range(1..=400)?,
        retention_ms: None,
        ..LogConfig::default()
    })
}

/// Whole batches from the log start to the log end; what cannot be read or has a wrong checksum ends it.
fn readable(log: &PartitionLog) -> std::result::Result<Content, String> {
    let mut found = Content::new();
    let mut at = log.log_start();
    while at < log.log_end() {
        let bytes = log.read_bytes(at, 900, log.log_end()).map_err(|error| error.to_string())?;
        if bytes.is_empty() {
            return Err(format!("nothing to read at {at} of {}", log.log_end()));
        }
        let mut position = 0;
        while position < bytes.len() {
            let header = find_batch(&bytes[position..]).map_err(|error| error.to_string())?;
            let end = position + header.total_bytes;
            if header.base_offset > at || header.last_offset() < at {
                return Err(format!("batch {} where {at} was asked for", header.base_offset));
            }
            found.insert(header.base_offset, bytes.slice(position..end));
            (at, position) = (header.next_offset(), end);
        }
    }
    Ok(found)
}

fn append(log: &mut PartitionLog, u: &mut Unstructured<'_>, sequence: &mut i32, epoch: i32) -> Result<()> {
    let records = u.int_in_range(1..=3)?;
    let mut builder = BatchBuilder::new(NOW + i64::from(u.int_in_range(0..=50_u8)?));
    if u.arbitrary()? {
        builder = builder.producer(ProducerId(7), ProducerEpoch(0), *sequence);
        *sequence += records;
    }
    for _ in 0..records {
        let value = vec![u.arbitrary()?; u.int_in_range(0..=250)?];
        builder.push(Some(b"key"), Some(&value));
    }
    log.append_as_leader(&[builder.build()], LeaderEpoch(epoch), NOW, AppendOrigin::Client).expect("a sound batch");
    Ok(())
}

/// An epoch to append with. The checksum does not cover those of batches: a damaged one may be believed to be large.
fn next_epoch(log: &PartitionLog) -> i32 {
    log.latest_epoch().map_or(1_000, |epoch| epoch.0.max(1_000))
}

/// A log that was built.
struct Built {
    /// What is in it.
    content: Content,
    /// That, and what was deleted at the beginning.
    ever: Content,
    /// It was closed in order.
    clean: bool,
}

fn build(disk: &MemDisk, config: LogConfig, u: &mut Unstructured<'_>) -> Result<Built> {
    let log_dir = dir(disk);
    log_dir.claim(&ClusterId::from("cluster"), NodeId(1), Uuid::from_u128(1)).expect("an empty disk is claimed");
    let (mut log, _) = PartitionLog::open(&log_dir, DIR, config, OpenOptions::default()).expect("it is created");
    let (mut sequence, mut epoch, mut ever) = (0, 1, Content::new());
    let mut options = OpenOptions { now_ms: NOW, ..OpenOptions::default() };
    for _ in 0..u.int_in_range(1..=40)? {
        match u.int_in_range(0..=15_u8)? {
            0..10 => append(&mut log, u, &mut sequence, epoch)?,
            10 => {
                epoch += 1;
                log.assign_epoch(LeaderEpoch(epoch)).expect("epochs grow");
            }
            11 => log.roll().expect("it rolls"),
            12 | 13 => {
                options.recovery_point = log.flush().expect("it flushes");
            }
            14 => {
                let end = Offset(u.int_in_range(log.log_start().0..=log.log_end().0)?);
                epoch += 1;
                let reached = log.truncate_to(end).expect("it is cut");
                options.recovery_point = options.recovery_point.min(reached);
                ever.retain(|offset, _| *offset < reached);
                let known = log.producers().get(ProducerId(7)).and_then(|entry| entry.batches.back());
                sequence = known.map_or(0, |last| last.last_sequence + 1);
            }
            _ => {
                let start = Offset(u.int_in_range(log.log_start().0..=log.log_end().0)?);
                ever.extend(readable(&log).expect("a sound log can be read"));
                log.set_log_start_offset(start).expect("the start moves");
            }
        }
    }
    let content = readable(&log).expect("a sound log can be read");
    // What was cut off at the end is gone; what was deleted at the beginning comes back when the checkpoint is lost.
    let begin = content.keys().next().copied().unwrap_or(log.log_end());
    ever.retain(|offset, _| *offset < begin);
    ever.extend(content.clone());
    options.log_start = log.log_start();
    let clean = u.arbitrary()?;
    if clean {
        options.recovery_point = log.close().expect("it closes");
        log_dir.write_clean_shutdown(BrokerEpoch(5)).expect("the marker is written");
    }
    let tp = TopicPartition::new("topic", 0);
    for (kind, offset) in
        [(CheckpointKind::RecoveryPoint, options.recovery_point), (CheckpointKind::LogStart, options.log_start)]
    {
        write_checkpoint(&log_dir, kind, &BTreeMap::from([(tp.clone(), offset)])).expect("a checkpoint is written");
    }
    Ok(Built { content, ever, clean })
}

/// Everything that is found was written, and nothing is missing in between.
fn judge(found: &Content, Built { content, ever, .. }: &Built, wounds: &[Wound]) {
    // The checksum does not cover the epoch of a batch; the epoch file does from the log start on, unless it or the
    // checkpoint that holds the log start was hit too.
    let holds = ["leader-epoch-checkpoint", "log-start-offset-checkpoint"];
    let epochs_hit = wounds.iter().any(|wound| holds.iter().any(|file| wound.path.ends_with(file)));
    for (offset, batch) in found {
        let Some(expected) = ever.get(offset) else { panic!("a batch at {offset} was invented: {wounds:?}") };
        let same =
            if epochs_hit { batch[..12] == expected[..12] && batch[16..] == expected[16..] } else { batch == expected };
        assert!(same, "the batch at {offset} is another one: {wounds:?}");
    }
    if let Some(first) = found.keys().next() {
        let behind = ever.range(first..).map(|(offset, _)| offset);
        assert!(behind.zip(found.keys()).all(|(a, b)| a == b), "a batch is missing in between: {wounds:?}");
        let whole = content.keys().next().is_none_or(|begin| first <= begin);
        // With a note that is there and cannot be read, a log that begins with another segment looks like one whose first
        // segment was deleted by retention. A note that is not there at all is missed.
        let deleted = |wound: &Wound| wound.kind == Kind::Delete;
        let note = wounds.iter().rfind(|wound| wound.path.ends_with("/log-start"));
        let headless = wounds.iter().any(|wound| deleted(wound) && wound.path.ends_with(".log"))
            && note.is_some_and(|wound| !deleted(wound));
        assert!(whole || headless, "the log begins at {first}: {wounds:?}");
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let config = config(u)?;
    let disk = MemDisk::new();
    let built = build(&disk, config, u)?;
    disk.kill();
    let mut wounds = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        wounds.extend(strike(&disk, u)?);
    }
    let log_dir = dir(&disk);
    let tp = TopicPartition::new("topic", 0);
    let _ = log_dir.identity();
    let clean = built.clean && log_dir.take_clean_shutdown().expect("the marker can be looked for").is_some();
    let partitions = list_partitions(&log_dir).expect("the directory lists");
    assert!(partitions.iter().all(|found| *found == tp), "a partition was invented: {partitions:?}");
    let checkpoint = |kind| read_checkpoint(&log_dir, kind).ok().and_then(|offsets| offsets.get(&tp).copied());
    let trusted = OpenOptions {
        recovery_point: checkpoint(CheckpointKind::RecoveryPoint).unwrap_or_default(),
        log_start: checkpoint(CheckpointKind::LogStart).unwrap_or_default(),
        clean_shutdown: clean,
        start_noted: true,
        now_ms: NOW,
    };
    if u.arbitrary()? {
        // As after a clean end: what is below the recovery point is not looked at.
        match PartitionLog::open(&log_dir, DIR, config, trusted) {
            Ok((mut log, _)) => {
                let found = readable(&log);
                if wounds.is_empty() {
                    assert_eq!(found.as_ref(), Ok(&built.content), "an undamaged log is another one");
                }
                let _ = log.find_by_timestamp(NOW + 10, log.log_start());
                let _ = log.find_max_timestamp();
                let later = next_epoch(&log);
                append(&mut log, &mut Unstructured::new(&[]), &mut 0, later)?;
                let _ = log.flush();
            }
            Err(LogError::Io { .. } | LogError::Corrupt { .. }) => {}
            Err(error) => panic!("a damaged log gives {error}: {wounds:?}"),
        }
        return Ok(());
    }
    let careful = OpenOptions { recovery_point: Offset(0), clean_shutdown: false, ..trusted };
    let (log, report) = PartitionLog::open(&log_dir, DIR, config, careful).expect("damage is cut away, not refused");
    let found = readable(&log).unwrap_or_else(|error| panic!("a verified log cannot be read: {error}: {wounds:?}"));
    if wounds.is_empty() {
        assert_eq!(found, built.content, "an undamaged log is another one");
        assert_eq!(report.cut, None);
    }
    judge(&found, &built, &wounds);
    let before = (log.log_start(), log.log_end(), log.producers().clone(), log.epochs().to_vec());
    drop(log);
    let (mut log, report) = PartitionLog::open(&dir(&disk), DIR, config, careful).expect("it opens once more");
    assert_eq!(report.cut, None, "the second recovery cuts again: {wounds:?}");
    assert_eq!((log.log_start(), log.log_end(), log.producers().clone(), log.epochs().to_vec()), before, "{wounds:?}");
    let (end, later) = (log.log_end(), next_epoch(&log));
    append(&mut log, &mut Unstructured::new(&[]), &mut 0, later)?;
    assert!(log.log_end() > end);
    let mut grown = readable(&log).expect("a verified log can be read");
    grown.retain(|offset, _| *offset < end);
    assert_eq!(grown, found, "an append changed what was there: {wounds:?}");
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(32 << 20, || {
        let _ = run(&mut Unstructured::new(data));
    });
});
