//! Accidents: crashes at any moment, torn and lost writes, full disks, failed and lying syncs, flipped bits.
//!
//! The rule throughout: after recovery the log is a prefix of what was appended, it has everything that was synced, and
//! recovering once more changes nothing. Every failure names its seed; `CHRONIK_SEED=n` runs only that one.

mod support;

use bytes::Bytes;
use chronik_log::disk::{Disk, Fault, MemDisk, Operation, SplitMix64};
use chronik_log::{LogDirState, LogError, OpenOptions, PartitionLog, ProducerStates};
use chronik_model::batch::BatchHeader;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, ProducerId};
use support::*;

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("CHRONIK_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

/// What the log must hold, kept beside it.
struct Model {
    batches: Vec<(BatchHeader, Bytes)>,
    /// Everything below survives any crash.
    durable: i64,
    /// The recovery point that the broker's checkpoint happens to hold.
    checkpointed: Offset,
    sequence: i32,
    epoch: i32,
}

impl Model {
    fn after_open(log: &PartitionLog, checkpointed: Offset, epoch: i32) -> Self {
        let sequence = log.producers().get(ProducerId(7)).and_then(|entry| entry.batches.back());
        Self {
            batches: batches(log),
            durable: 0,
            checkpointed,
            sequence: sequence.map_or(0, |batch| batch.last_sequence + 1),
            epoch,
        }
    }

    fn check(&self, log: &PartitionLog, context: &str) {
        let found = batches(log);
        assert!(
            log.log_end().0 >= self.durable,
            "{context}: synced to {}, log ends at {}",
            self.durable,
            log.log_end()
        );
        assert!(found.len() <= self.batches.len(), "{context}: batches were invented");
        for (position, (found, expected)) in found.iter().zip(&self.batches).enumerate() {
            assert_eq!(found, expected, "{context}: batch {position} differs");
        }
        let mut producers = ProducerStates::default();
        for (header, _) in &found {
            producers.update(header);
            let epoch = log.epochs().iter().rev().find(|entry| entry.start_offset <= header.base_offset);
            assert_eq!(epoch.map(|entry| entry.epoch), Some(header.partition_leader_epoch), "{context}: epoch cache");
        }
        assert_eq!(log.producers(), &producers, "{context}: producer state");
    }
}

/// One random act. Errors only come from injected faults.
fn act(log: &mut PartitionLog, model: &mut Model, rng: &mut SplitMix64) -> Result<(), LogError> {
    match rng.below(20) {
        0..12 => {
            let text = "x".repeat(rng.below(400) as usize);
            let records: Vec<&str> = (0..=rng.below(3)).map(|_| text.as_str()).collect();
            let batch = produced(7, 0, model.sequence, &records);
            let from = log.log_end();
            // Should it fail, the bytes may be there all the same: they are in the model first.
            let mut header = BatchHeader::decode(&batch).unwrap();
            header.base_offset = from;
            header.partition_leader_epoch = LeaderEpoch(model.epoch);
            let mut stamped = bytes::BytesMut::from(&batch[..]);
            chronik_model::batch::set_base_offset(&mut stamped, from);
            chronik_model::batch::set_partition_leader_epoch(&mut stamped, LeaderEpoch(model.epoch));
            model.batches.push((header, stamped.freeze()));
            model.sequence += records.len() as i32;
            append(log, &[batch], model.epoch)?;
        }
        12..14 => {
            let durable = log.flush()?;
            model.durable = durable.0;
            assert_eq!(durable, log.log_end());
        }
        14 => model.checkpointed = log.recovery_point(),
        15 => {
            model.epoch += 1;
            log.assign_epoch(LeaderEpoch(model.epoch))?;
        }
        16 => log.roll()?,
        17..19 => {
            let cut = log.log_end().0 - rng.below(30).min(log.log_end().0 as u64) as i64;
            let end = model.batches.iter().find(|(header, _)| header.next_offset().0 > cut);
            let end = end.map_or(log.log_end().0, |(header, _)| header.base_offset.0);
            model.durable = model.durable.min(end);
            model.epoch += 1;
            let reached = log.truncate_to(Offset(cut))?;
            assert_eq!(reached.0, end);
            model.batches.retain(|(header, _)| header.next_offset().0 <= end);
            model.sequence = log
                .producers()
                .get(ProducerId(7))
                .and_then(|entry| entry.batches.back())
                .map_or(0, |last| last.last_sequence + 1);
        }
        _ => {
            let plan = log.prepare_flush();
            if let Some(plan) = plan {
                plan.run()?;
                model.durable = log.complete_flush(&plan).0;
            }
        }
    }
    Ok(())
}

#[test]
fn after_any_crash_the_log_is_a_prefix_with_everything_that_was_synced() {
    let found_before = [5113];
    for seed in seeds(600).into_iter().chain(found_before) {
        let mut rng = SplitMix64::new(seed);
        let disk = MemDisk::new();
        let mut log = open(&disk);
        let mut model = Model::after_open(&log, at(0), 1);
        for round in 0..4 {
            let context = format!("seed {seed} round {round}");
            if rng.chance(50) {
                let operation =
                    [Operation::Append, Operation::Sync, Operation::SyncDir, Operation::Namespace, Operation::Truncate];
                let fault = operation[rng.below(5) as usize];
                disk.inject(Fault::Fail(fault, 1 + rng.below(20)));
            } else if rng.chance(30) {
                disk.inject(Fault::SpaceLeft(rng.below(8_000)));
            }
            for _ in 0..rng.below(60) {
                if let Err(error) = act(&mut log, &mut model, &mut rng) {
                    assert_eq!(error.code(), ErrorCode::KafkaStorageError, "{context}: {error}");
                    break;
                }
            }
            if rng.chance(80) {
                disk.crash(rng.next_u64());
            } else {
                disk.kill();
                disk.heal();
            }
            let options = OpenOptions { recovery_point: model.checkpointed, now_ms: NOW, ..OpenOptions::default() };
            let (recovered, _) = open_with(&log_dir(disk.clone()), options);
            model.check(&recovered, &context);
            let once = batches(&recovered);
            let epochs = recovered.epochs().to_vec();
            drop(recovered);
            if rng.chance(30) {
                disk.crash(rng.next_u64());
                let (again, _) = open_with(&log_dir(disk.clone()), options);
                model.check(&again, &format!("{context}, crashed after recovery"));
                log = again;
            } else {
                let (again, report) = open_with(&log_dir(disk.clone()), options);
                assert_eq!(report.cut, None, "{context}: recovery is idempotent");
                assert_eq!((batches(&again), again.epochs()), (once, &epochs[..]), "{context}: recovery is idempotent");
                log = again;
            }
            let durable = model.durable;
            model = Model::after_open(&log, model.checkpointed.min(log.recovery_point()), model.epoch + 1);
            model.durable = durable;
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed: u64| {
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 50, 1);
        disk.crash(seed);
        contents(&open(&disk))
    };
    let lengths: Vec<usize> = (0..30).map(|seed| run(seed).len()).collect();
    assert_eq!(lengths, (0..30).map(|seed| run(seed).len()).collect::<Vec<_>>());
    assert!(lengths.contains(&0) && lengths.iter().any(|len| *len > 0), "crashes differ: {lengths:?}");
}

#[test]
fn every_torn_tail_is_cut_at_the_last_whole_batch() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 3, 1);
    let whole = disk.read(&format!("{DIR}/{:020}.log", 0)).unwrap();
    let size = whole.len() / 3;
    for length in 0..whole.len() {
        let disk = MemDisk::new();
        drop(open(&disk));
        let file = disk.open(&format!("{DIR}/{:020}.log", 0)).unwrap();
        file.append(&[&whole[..length]]).unwrap();
        let (log, report) = open_with(&log_dir(disk.clone()), OpenOptions::default());
        let kept = length / size;
        assert_eq!(log.log_end().0 as usize, kept * 2, "of {length} bytes");
        assert_eq!(report.cut.is_some(), length % size != 0);
        assert_eq!(file.len() as usize, kept * size, "the tail is gone from the file");
    }
}

#[test]
fn any_flipped_bit_cuts_the_log_at_its_batch_and_not_before() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 4, 1);
    fill(&mut log, 26, 2);
    log.flush().unwrap();
    let expected = contents(&log);
    let second = files(&disk, "log")[1].clone();
    let base: i64 = second[..20].parse().unwrap();
    let mut hits = Vec::new();
    for (header, _) in batches(&log).iter().filter(|(header, _)| header.base_offset.0 >= base).take(3) {
        hits.extend(std::iter::repeat_n(header.base_offset.0, header.total_bytes * 8));
    }
    // The index of the sealed segment would vouch for it; without a recovery point it is not asked.
    for (bit, hit) in hits.into_iter().enumerate() {
        let copy = MemDisk::new();
        copy.create_dir(DIR).unwrap();
        for entry in disk.list(DIR).unwrap() {
            let path = format!("{DIR}/{}", entry.name);
            copy.create(&path).unwrap().append(&[&disk.read(&path).unwrap()]).unwrap();
        }
        copy.flip_bit(&format!("{DIR}/{second}"), bit as u64 / 8, (bit % 8) as u8).unwrap();
        let (log, report) = open_with(&log_dir(copy), OpenOptions::default());
        assert_eq!(report.cut.as_ref().map(|(offset, _)| offset.0), Some(hit), "bit {bit}");
        assert_eq!(contents(&log), expected[..hit as usize], "bit {bit}");
    }
}

#[test]
fn a_missing_segment_ends_the_log_before_it() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 100, 1);
    log.flush().unwrap();
    let expected = contents(&log);
    let names = files(&disk, "log");
    disk.remove_file(&format!("{DIR}/{}", names[2])).unwrap();
    let options = OpenOptions { recovery_point: at(200), ..OpenOptions::default() };
    let (log, report) = open_with(&log_dir(disk.clone()), options);
    let end: usize = names[2][..20].parse().unwrap();
    assert_eq!(report.cut.map(|(offset, _)| offset.0), Some(end as i64));
    assert_eq!(contents(&log), expected[..end]);
    assert_eq!(files(&disk, "log").len(), 2);
}

#[test]
fn indexes_epochs_and_snapshots_are_derived_again_when_they_are_lost_or_broken() {
    for broken in [false, true] {
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 30, 1);
        for sequence in 0..20 {
            append(&mut log, &[produced(7, 0, sequence, &["value"])], 4).unwrap();
        }
        let (expected, epochs, producers) = (contents(&log), log.epochs().to_vec(), log.producers().clone());
        let recovery_point = log.close().unwrap();
        let mut derived = vec!["leader-epoch-checkpoint".to_owned()];
        for extension in ["index", "timeindex", "snapshot"] {
            derived.extend(files(&disk, extension));
        }
        assert!(derived.len() > 7, "{derived:?}");
        for name in &derived {
            let path = format!("{DIR}/{name}");
            if broken {
                disk.flip_bit(&path, 14, 3).unwrap();
            } else {
                disk.remove_file(&path).unwrap();
            }
        }
        let options = OpenOptions { recovery_point, clean_shutdown: true, ..OpenOptions::default() };
        let (log, report) = open_with(&log_dir(disk.clone()), options);
        assert!(report.rebuilt_epochs && report.rebuilt_indexes == log.segment_count(), "{report:?}");
        assert_eq!(contents(&log), expected);
        assert_eq!(log.epochs(), epochs);
        assert_eq!(log.producers(), &producers);
    }
}

#[test]
fn a_full_disk_takes_the_directory_offline_and_what_was_written_stays_readable() {
    let disk = MemDisk::new();
    let dir = log_dir(disk.clone());
    let (mut log, _) = open_with(&dir, OpenOptions::default());
    fill(&mut log, 5, 1);
    log.flush().unwrap();
    let expected = contents(&log);
    disk.inject(Fault::SpaceLeft(40));
    let error = append(&mut log, &[batch(&["too much"])], 1).unwrap_err();
    assert!(
        matches!(&error, LogError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error}"
    );
    disk.heal();
    let error = append(&mut log, &[batch(&["later"])], 1).unwrap_err();
    assert!(matches!(error, LogError::Offline(_)), "not even with space again: {error}");
    assert_eq!(error.code(), ErrorCode::KafkaStorageError);
    assert!(matches!(dir.state(), LogDirState::Offline { .. }));
    assert_eq!(contents(&log), expected, "reads go on");
    assert!(log.truncate_to(at(0)).is_err() && log.flush().is_err() && log.roll().is_err());
    disk.kill();
    let (mut log, report) = open_with(&log_dir(disk), OpenOptions { recovery_point: at(10), ..OpenOptions::default() });
    assert_eq!((contents(&log), report.cut_bytes), (expected, 40), "the torn append is cut at the restart");
    fill(&mut log, 1, 2);
}

#[test]
fn a_failed_fsync_is_never_retried_and_acknowledges_nothing() {
    for operation in [Operation::Sync, Operation::SyncDir] {
        let disk = MemDisk::new();
        let dir = log_dir(disk.clone());
        let (mut log, _) = open_with(&dir, OpenOptions::default());
        fill(&mut log, 5, 1);
        log.flush().unwrap();
        fill(&mut log, 30, 1);
        let plan = log.prepare_flush().unwrap();
        disk.inject(Fault::Fail(operation, 1));
        assert!(plan.run().is_err());
        assert!(matches!(plan.run(), Err(LogError::Offline(_))), "a second try would lie");
        assert!(log.flush().is_err());
        assert_eq!(log.recovery_point(), at(10));
        disk.crash(3);
        let found = open(&disk).log_end();
        assert!(found >= at(10));
        if operation == Operation::Sync {
            let first = at(files(&disk, "log")[0][..20].parse::<i64>().unwrap());
            assert_eq!(first, at(0));
        }
    }
}

#[test]
fn names_are_not_durable_before_the_flush_and_are_after_it() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 60, 1);
        disk.crash(seed);
        let (log, _) = open_with(&log_dir(disk.clone()), OpenOptions::default());
        lost += usize::from(log.log_end() < at(120));
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 60, 1);
        let synced = log.flush().unwrap();
        disk.crash(seed);
        let (log, report) =
            open_with(&log_dir(disk.clone()), OpenOptions { recovery_point: synced, ..OpenOptions::default() });
        assert_eq!((log.log_end(), report.cut), (at(120), None), "seed {seed}");
    }
    assert!(lost > 10, "the hostile disk is hostile");
}

#[test]
fn a_lying_fsync_costs_records_but_invents_none_and_leaves_no_hole_at_the_beginning() {
    let mut lost = 0;
    for seed in seeds(1_000) {
        let disk = MemDisk::new();
        let mut log = open(&disk);
        disk.inject(Fault::LyingSync);
        fill(&mut log, 40, 1);
        log.flush().unwrap();
        let expected = contents(&log);
        disk.crash(seed);
        let options = OpenOptions { start_noted: true, ..OpenOptions::default() };
        let (log, _) = open_with(&log_dir(disk.clone()), options);
        assert_eq!(log.log_start(), at(0), "seed {seed}");
        let found = contents(&log);
        assert_eq!(found[..], expected[..found.len()], "seed {seed}");
        lost += usize::from(found.len() < expected.len());
    }
    assert!(lost > 0, "the disk did lie");
}

#[test]
fn a_beginning_that_is_missing_is_told_from_one_that_was_removed() {
    let noted = OpenOptions { start_noted: true, ..OpenOptions::default() };
    for removed in [0, 100] {
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 100, 1);
        log.flush().unwrap();
        log.set_log_start_offset(at(removed)).unwrap();
        disk.crash(7);
        let (log, report) = open_with(&log_dir(disk.clone()), noted);
        let begin = log.log_start();
        assert_eq!((report.cut, log.log_end()), (None, at(200)), "the note is as durable as the removal");
        assert!(begin <= at(removed) && (begin > at(0)) == (removed > 0));
        drop(log);
        let first = format!("{DIR}/{}", files(&disk, "log")[0]);
        disk.remove_file(&first).unwrap();
        // Nobody promised notes: taken for what retention left.
        let copy = disk.snapshot();
        let (log, report) = open_with(&log_dir(copy), OpenOptions::default());
        assert!(report.cut.is_none() && log.log_start() > begin && log.log_end() == at(200));
        // An owner that did not know the notes may have removed it: then its checkpoint says so, and later the note.
        let copy = disk.snapshot();
        let log_start = log.log_start();
        for known in [log_start, at(0)] {
            let (log, report) = open_with(&log_dir(copy.clone()), OpenOptions { log_start: known, ..noted });
            assert_eq!((report.cut, log.log_start(), log.log_end()), (None, log_start, at(200)));
            drop(log);
            copy.crash(9);
        }
        let copy = disk.snapshot();
        let (log, report) = open_with(&log_dir(copy.clone()), noted);
        assert_eq!(report.cut.map(|(offset, _)| offset), Some(begin));
        assert_eq!((log.log_start(), log.log_end(), log.epochs().len()), (begin, begin, 0));
        drop(log);
        copy.crash(3);
        let (mut log, report) = open_with(&log_dir(copy), noted);
        assert_eq!((report.cut, log.log_start(), log.log_end()), (None, begin, begin));
        fill(&mut log, 1, 2);
    }
}

#[test]
fn a_note_of_the_beginning_that_cannot_be_read_costs_nothing() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 100, 1);
    log.flush().unwrap();
    log.set_log_start_offset(at(100)).unwrap();
    disk.flip_bit(&format!("{DIR}/log-start"), 12, 3).unwrap();
    disk.kill();
    let noted = OpenOptions { start_noted: true, ..OpenOptions::default() };
    let (log, report) = open_with(&log_dir(disk.clone()), noted);
    let begin = log.log_start();
    assert!(report.cut.is_none() && begin > at(0) && log.log_end() == at(200));
    drop(log);
    // It was written again.
    disk.crash(5);
    disk.remove_file(&format!("{DIR}/{}", files(&disk, "log")[0])).unwrap();
    let (log, _) = open_with(&log_dir(disk), noted);
    assert_eq!((log.log_start(), log.log_end()), (begin, begin));
}

#[test]
fn retention_interrupted_anywhere_leaves_no_hole() {
    for seed in seeds(200) {
        let mut rng = SplitMix64::new(seed);
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 100, 1);
        log.flush().unwrap();
        let expected = contents(&log);
        let operation = [Operation::Namespace, Operation::SyncDir, Operation::Sync][rng.below(3) as usize];
        disk.inject(Fault::Fail(operation, 1 + rng.below(12)));
        let start = rng.below(200) as i64;
        let _ = log.set_log_start_offset(at(start));
        disk.crash(rng.next_u64());
        // The checkpoint of the log start may or may not have been written.
        let log_start = at(if rng.chance(50) { start } else { 0 });
        let options = OpenOptions { recovery_point: at(200), log_start, start_noted: true, ..OpenOptions::default() };
        let (log, report) = open_with(&log_dir(disk.clone()), options);
        assert_eq!(report.cut, None, "seed {seed}");
        assert!(log.log_start() >= log_start && log.log_start() <= at(start), "seed {seed}");
        assert_eq!(log.log_end(), at(200));
        assert_eq!(log.epochs()[0].start_offset.max(log.log_start()), log.log_start());
        let found: Vec<_> = contents(&log).into_iter().filter(|(offset, _, _)| *offset >= start).collect();
        assert_eq!(found, expected[start as usize..], "seed {seed}");
    }
}

#[test]
fn an_interrupted_full_truncation_leaves_the_old_log_or_the_new_one() {
    for seed in seeds(200) {
        let mut rng = SplitMix64::new(seed);
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 20, 1);
        fill(&mut log, 20, 2);
        log.flush().unwrap();
        let expected = contents(&log);
        let operation = [Operation::Namespace, Operation::SyncDir, Operation::Sync][rng.below(3) as usize];
        disk.inject(Fault::Fail(operation, 1 + rng.below(20)));
        let done = log.truncate_fully_and_start_at(at(1_000)).is_ok();
        disk.crash(rng.next_u64());
        let options = OpenOptions { recovery_point: at(80), start_noted: true, ..OpenOptions::default() };
        let (log, _) = open_with(&log_dir(disk.clone()), options);
        let found = contents(&log);
        if log.log_start() == at(1_000) {
            assert_eq!((found.len(), log.latest_epoch()), (0, None), "seed {seed}");
        } else {
            assert!(!done, "seed {seed}: it was durable");
            assert_eq!(found[..], expected[..found.len()], "seed {seed}");
            assert_eq!(
                log.latest_epoch().map(|epoch| epoch.0),
                found.last().map(|(_, epoch, _)| *epoch),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_log_that_is_begun_anew_further_down_is_the_old_log_or_empty_after_any_crash() {
    for seed in seeds(200) {
        let mut rng = SplitMix64::new(seed);
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 100, 1);
        log.flush().unwrap();
        log.set_log_start_offset(at(100)).unwrap();
        let expected = contents(&log);
        let operation = [Operation::Namespace, Operation::SyncDir, Operation::Sync][rng.below(3) as usize];
        disk.inject(Fault::Fail(operation, 1 + rng.below(20)));
        let done = log.truncate_fully_and_start_at(at(10)).is_ok();
        disk.crash(rng.next_u64());
        let options = OpenOptions { recovery_point: at(200), start_noted: true, ..OpenOptions::default() };
        let (log, _) = open_with(&log_dir(disk.clone()), options);
        let found: Vec<_> = contents(&log).into_iter().filter(|(offset, _, _)| *offset >= 100).collect();
        if log.log_start() == at(10) {
            assert_eq!((log.log_end(), found.len()), (at(10), 0), "seed {seed}");
        } else {
            assert!(!done, "seed {seed}: it was durable");
            assert_eq!(found[..], expected[..found.len()], "seed {seed}");
        }
    }
}

#[test]
fn recovery_readers_survive_arbitrary_bytes() {
    for seed in seeds(300) {
        let mut rng = SplitMix64::new(seed);
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 20, 1);
        let expected = contents(&log);
        log.close().unwrap();
        for entry in disk.list(DIR).unwrap() {
            if rng.chance(40) {
                let path = format!("{DIR}/{}", entry.name);
                let content = disk.read(&path).unwrap();
                let keep = rng.below(content.len() as u64 + 1) as usize;
                let noise: Vec<u8> = (0..rng.below(200)).map(|_| rng.next_u64() as u8).collect();
                disk.create(&path).unwrap().append(&[&content[..keep], &noise]).unwrap();
            }
        }
        let clean_shutdown = rng.chance(50);
        let options = OpenOptions { clean_shutdown, ..OpenOptions::default() };
        let (mut log, _) = open_with(&log_dir(disk.clone()), options);
        if !clean_shutdown {
            let found = contents(&log);
            assert_eq!(found[..], expected[..found.len()], "seed {seed}");
        }
        fill(&mut log, 1, 9);
    }
}
