//! Life of a log without accidents: what is appended is read, found by time, cut and retained; on the hostile disk
//! (behaving) and on the real one alike.

mod support;

use bytes::{Bytes, BytesMut};
use chronik_log::disk::{Disk, Fault, MemDisk, Operation, RealDisk};
use chronik_log::{
    AppendOrigin, Committer, LogConfig, LogDirState, LogError, OpenOptions, PartitionLog, list_partitions,
    split_batches,
};
use chronik_model::batch::{BatchHeader, TimestampType, find_batch};
use chronik_model::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use support::*;

/// The basic story, on any disk: append, roll, restart in order, read, truncate, restart without order.
fn basic_story(disk: &(impl Disk + Clone)) {
    let dir = log_dir(disk.clone());
    let (mut log, _) = open_with(&dir, OpenOptions::default());
    fill(&mut log, 100, 1);
    assert!(log.segment_count() > 3, "only {} segments", log.segment_count());
    let before = contents(&log);
    assert_eq!(before.len(), 200);
    assert!(before.iter().enumerate().all(|(n, (offset, _, value))| *offset == n as i64 && *value == format!("v{n}")));
    let recovery_point = log.close().unwrap();
    assert_eq!(recovery_point, at(200));

    let dir = log_dir(disk.clone());
    let options = OpenOptions { recovery_point, clean_shutdown: true, ..OpenOptions::default() };
    let (mut log, report) = open_with(&dir, options);
    assert_eq!((report.scanned_bytes, report.cut), (0, None), "an orderly restart scans nothing");
    assert_eq!(log.prepare_flush().map(|plan| plan.syncs()), None, "and has nothing to sync");
    assert_eq!(contents(&log), before);
    fill(&mut log, 10, 2);
    assert_eq!(log.truncate_to(at(150)).unwrap(), at(150));
    fill(&mut log, 1, 3);
    let expected = contents(&log);
    drop(log);

    let (log, report) = open_with(&log_dir(disk.clone()), OpenOptions { recovery_point, ..OpenOptions::default() });
    assert_eq!(report.cut, None);
    assert_eq!(contents(&log), expected);
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)));
    log.delete().unwrap();
    assert!(list_partitions(&log_dir(disk.clone())).unwrap().is_empty());
    assert!(disk.list("data").unwrap().is_empty());
}

#[test]
fn the_basic_story_holds_in_memory() {
    basic_story(&MemDisk::new());
}

#[test]
fn the_basic_story_holds_on_a_real_disk() {
    let root = tempfile::tempdir().unwrap();
    basic_story(&RealDisk::open(root.path()).unwrap());
}

#[test]
fn a_real_disk_locks_syncs_and_replaces_files_atomically() {
    let root = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(root.path()).unwrap();
    let lock = disk.lock(".lock").unwrap();
    let refused = disk.lock(".lock").unwrap_err().to_string();
    assert!(refused.contains(&std::process::id().to_string()), "{refused}");
    drop(lock);
    disk.lock(".lock").unwrap();
    disk.create_dir("a/b").unwrap();
    disk.write_atomic("a/b/file", b"one").unwrap();
    disk.write_atomic("a/b/file", b"two").unwrap();
    assert_eq!(&disk.read("a/b/file").unwrap()[..], b"two");
    let file = disk.open("a/b/file").unwrap();
    assert_eq!(file.append(&[b"", b"34", b"", b"5"]).unwrap(), 3);
    file.preallocate(1 << 16).unwrap();
    assert_eq!((file.len(), &file.read_at(2, 100).unwrap()[..]), (6, &b"o345"[..]));
    file.truncate(1).unwrap();
    file.sync().unwrap();
    disk.sync_all().unwrap();
    assert_eq!(&disk.read("a/b/file").unwrap()[..], b"t");
    let space = disk.space().unwrap();
    assert!(space.free > 0 && space.total >= space.free);
    let many: Vec<&[u8]> = (0..3_000).map(|_| &b"x"[..]).collect();
    disk.create("many").unwrap().append(&many).unwrap();
    assert_eq!(disk.read("many").unwrap().len(), 3_000);
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_offset_and_stays_within_its_bounds() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 60, 1);
    let one = batches(&log)[0].0.total_bytes;
    for from in 0..120 {
        for bound in from..=120 {
            for max in [1, one, one * 3 + 5, 10_000] {
                let plan = log.read(at(from), max, at(bound), true).unwrap();
                let bytes = plan.read().unwrap();
                let whole = split_batches(&bytes).unwrap();
                let first_fits = bound > from && from / 2 * 2 + 2 <= bound;
                assert_eq!(!whole.is_empty(), first_fits, "from {from} bound {bound} max {max}");
                let Some(first) = whole.first() else { continue };
                assert_eq!(find_batch(first).unwrap().base_offset, at(from / 2 * 2));
                assert_eq!(plan.start_offset(), at(from / 2 * 2));
                let last = find_batch(whole.last().unwrap()).unwrap();
                assert!(last.next_offset() <= at(bound));
                assert!(whole.len() == 1 || bytes.len() <= max);
            }
        }
    }
    assert!(log.read(at(0), 1, at(120), false).unwrap().is_empty(), "without min_one the limit is hard");
    assert!(log.read(at(120), 100, at(120), true).unwrap().is_empty(), "nothing at the end");
    assert!(matches!(log.read(at(121), 100, at(200), true), Err(LogError::OffsetOutOfRange { .. })));
}

#[test]
fn a_plan_is_readable_after_its_segment_was_deleted() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 60, 1);
    let plan = log.read(at(0), 500, at(120), true).unwrap();
    log.set_log_start_offset(at(110)).unwrap();
    assert_eq!(find_batch(&plan.read().unwrap()).unwrap().base_offset, at(0));
    assert!(matches!(log.read(at(0), 500, at(120), true), Err(LogError::OffsetOutOfRange { .. })));
}

#[test]
fn the_leader_refuses_what_kafka_refuses_and_changes_nothing() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    let code = |log: &mut PartitionLog, batch: Bytes| append(log, &[batch], 1).unwrap_err().code();
    let good = batch(&["value"]);
    let patch = |at: usize, bytes: &[u8], crc: bool| {
        let mut broken = BytesMut::from(&good[..]);
        broken[at..at + bytes.len()].copy_from_slice(bytes);
        if crc {
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &broken[21..]) as u32;
            broken[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        broken.freeze()
    };
    assert_eq!(code(&mut log, patch(70, &[0xff], false)), ErrorCode::CorruptMessage);
    assert_eq!(code(&mut log, patch(16, &[1], false)), ErrorCode::UnsupportedForMessageFormat);
    assert_eq!(code(&mut log, patch(21, &7_i16.to_be_bytes(), true)), ErrorCode::UnsupportedCompressionType);
    assert_eq!(code(&mut log, patch(21, &0x20_i16.to_be_bytes(), true)), ErrorCode::InvalidRecord);
    assert_eq!(code(&mut log, patch(23, &9_i32.to_be_bytes(), true)), ErrorCode::InvalidRecord);
    assert_eq!(code(&mut log, good.slice(..good.len() - 1)), ErrorCode::CorruptMessage);
    assert_eq!(code(&mut log, Bytes::from([&good[..], &good[..]].concat())), ErrorCode::InvalidRecord);
    assert_eq!(code(&mut log, batch_at(NOW + 2 * 3_600_000, &["late"])), ErrorCode::InvalidTimestamp);
    log.set_config(LogConfig { timestamp_before_max_ms: 1_000, ..config() });
    assert_eq!(code(&mut log, batch_at(NOW - 2_000, &["early"])), ErrorCode::InvalidTimestamp);
    log.set_config(LogConfig { max_message_bytes: 100, ..config() });
    assert_eq!(code(&mut log, batch(&["x".repeat(100).as_str()])), ErrorCode::MessageTooLarge);
    log.set_config(config());
    assert_eq!(code(&mut log, batch(&["x".repeat(2_100).as_str()])), ErrorCode::RecordListTooLarge);
    assert_eq!(log.log_end(), at(0));
    let marker = patch(21, &0x20_i16.to_be_bytes(), true);
    log.append_as_leader(&[marker], LeaderEpoch(1), NOW, AppendOrigin::Coordinator).unwrap();
    assert_eq!(log.log_end(), at(1), "the broker itself may write control batches");
    let stale =
        log.append_as_leader(std::slice::from_ref(&good), LeaderEpoch(0), NOW, AppendOrigin::Client).unwrap_err();
    assert_eq!(stale.code(), ErrorCode::FencedLeaderEpoch);
}

#[test]
fn log_append_time_rewrites_the_header_and_keeps_the_payload() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    log.set_config(LogConfig { timestamp_type: TimestampType::LogAppendTime, ..config() });
    let sent = batch_at(5, &["a", "b"]);
    let info = append(&mut log, std::slice::from_ref(&sent), 4).unwrap();
    assert_eq!(info.log_append_time, Some(NOW));
    let stored = log.read_bytes(at(0), 1_000, at(2)).unwrap();
    let header = find_batch(&stored).expect("the checksum was computed anew");
    assert_eq!((header.max_timestamp, header.timestamp_type()), (NOW, TimestampType::LogAppendTime));
    assert_eq!(header.partition_leader_epoch, LeaderEpoch(4));
    assert_eq!(stored[61..], sent[61..]);
}

#[test]
fn a_follower_keeps_the_leaders_bytes_and_refuses_gaps_old_epochs_and_damage() {
    let leader_disk = MemDisk::new();
    let mut leader = open(&leader_disk);
    fill(&mut leader, 30, 1);
    fill(&mut leader, 30, 3);
    let follower_disk = MemDisk::new();
    let mut follower = open(&follower_disk);
    while follower.log_end() < leader.log_end() {
        let bytes = leader.read_bytes(follower.log_end(), 900, leader.log_end()).unwrap();
        let cut_short = bytes.slice(..bytes.len() - 1);
        if split_batches(&bytes).unwrap().len() > 1 {
            follower.append_as_follower(&cut_short).unwrap();
        } else {
            follower.append_as_follower(&bytes).unwrap();
        }
    }
    assert_eq!(batches(&follower), batches(&leader));
    assert_eq!(follower.epochs(), leader.epochs());
    let end = follower.log_end();

    let again = leader.read_bytes(at(0), 900, end).unwrap();
    assert!(matches!(follower.append_as_follower(&again), Err(LogError::UnexpectedOffset { .. })));
    fill(&mut leader, 1, 4);
    let next = leader.read_bytes(end, 900, leader.log_end()).unwrap();
    let mut damaged = BytesMut::from(&next[..]);
    damaged[70] ^= 1;
    assert_eq!(follower.append_as_follower(&damaged.freeze()).unwrap_err().code(), ErrorCode::CorruptMessage);
    let mut old = BytesMut::from(&next[..]);
    old[12..16].copy_from_slice(&2_i32.to_be_bytes());
    assert!(matches!(follower.append_as_follower(&old.freeze()), Err(LogError::StaleLeaderEpoch { .. })));
    assert_eq!(follower.log_end(), end);
    assert_eq!(follower.append_as_follower(&next).unwrap(), end.plus(2));
}

#[test]
fn producers_are_remembered_across_rolls_restarts_and_truncations() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    for sequence in 0..60 {
        append(&mut log, &[produced(7, 0, sequence, &["some value to fill the segment"])], 1).unwrap();
    }
    assert!(log.segment_count() > 2);
    let known = log.producers().get(ProducerId(7)).unwrap().clone();
    let retry = produced(7, 0, 58, &["some value to fill the segment"]);
    for clean in [false, true] {
        let recovery_point = if clean {
            let (log, _) = open_with(&log_dir(disk.clone()), OpenOptions::default());
            log.close().unwrap()
        } else {
            at(0)
        };
        let options = OpenOptions { recovery_point, clean_shutdown: clean, ..OpenOptions::default() };
        let (mut log, _) = open_with(&log_dir(disk.clone()), options);
        assert_eq!(log.producers().get(ProducerId(7)), Some(&known), "clean {clean}");
        let info = append(&mut log, std::slice::from_ref(&retry), 1).unwrap();
        assert!(info.duplicate);
        assert_eq!((info.first_offset, log.log_end()), (at(58), at(60)));
        assert_eq!(
            append(&mut log, &[produced(7, 0, 61, &["gap"])], 1).unwrap_err().code(),
            ErrorCode::OutOfOrderSequenceNumber
        );
    }
    let mut log = open(&disk);
    log.truncate_to(at(30)).unwrap();
    assert_eq!(log.producers().get(ProducerId(7)).unwrap().batches.back().unwrap().last_sequence, 29);
    let info = append(&mut log, &[produced(7, 0, 30, &["new"]), produced(7, 0, 31, &["newer"])], 2).unwrap();
    assert_eq!((info.first_offset, info.last_offset, info.duplicate), (at(30), at(31), false));
    let both = [produced(7, 0, 30, &["new"]), produced(7, 0, 31, &["newer"])];
    assert!(append(&mut log, &both, 2).unwrap().duplicate);
    assert_eq!(log.producers().get(ProducerId(7)).unwrap().epoch, ProducerEpoch(0));
}

#[test]
fn offsets_are_found_by_timestamp() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    // Rising, with one batch far ahead in the middle.
    for n in 0..100_i64 {
        let time = if n == 40 { NOW + 500_000 } else { NOW + n * 10 };
        append(&mut log, &[batch_at(time, &["some value to fill the segment"])], 1).unwrap();
    }
    for disturbed in [false, true] {
        if disturbed {
            for extension in ["timeindex", "index"] {
                for name in files(&disk, extension) {
                    disk.flip_bit(&format!("{DIR}/{name}"), 30, 2).unwrap();
                }
            }
            log = open(&disk);
        }
        let find =
            |time: i64, from: i64| log.find_by_timestamp(time, at(from)).unwrap().map(|found| found.base_offset.0);
        assert_eq!(find(0, 0), Some(0));
        for n in 0..40 {
            assert_eq!(find(NOW + n * 10, 0), Some(n), "batch {n}");
            assert_eq!(find(NOW + n * 10 - 9, 0), Some(n), "just before batch {n}");
        }
        assert_eq!(find(NOW + 900, 0), Some(40), "the first batch that is late enough");
        assert_eq!(find(NOW + 900, 41), Some(90), "and the next one behind it");
        assert_eq!(find(NOW + 600_000, 0), None);
        let largest = log.find_max_timestamp().unwrap().unwrap();
        assert_eq!((largest.base_offset, largest.max_timestamp), (at(40), NOW + 500_000));
        assert_eq!(find_batch(&largest.plan.read().unwrap()).unwrap().base_offset, at(40));
    }
    log.set_log_start_offset(at(50)).unwrap();
    assert_eq!(log.find_by_timestamp(0, at(0)).unwrap().unwrap().base_offset, at(50));
    assert_eq!(log.find_max_timestamp().unwrap().unwrap().base_offset, at(99), "what was deleted does not count");
}

#[test]
fn retention_deletes_the_oldest_segments_but_never_above_the_high_watermark() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 100, 1);
    let keep = |ms: Option<i64>, bytes: Option<u64>| LogConfig { retention_ms: ms, retention_bytes: bytes, ..config() };
    log.set_config(keep(Some(1_000), None));
    assert_eq!(log.apply_retention(NOW + 1_000, at(200)).unwrap().segments, 0, "not old enough");
    assert_eq!(log.apply_retention(NOW + 1_001, at(3)).unwrap().segments, 0, "the first segment is not replicated");
    log.set_config(keep(None, Some(4_500)));
    let report = log.apply_retention(NOW, at(200)).unwrap();
    assert!(report.segments > 0 && report.bytes > 0);
    assert!((4_500..4_500 + 2_000).contains(&log.size()), "{}", log.size());
    assert_eq!(log.epochs()[0].start_offset, log.log_start());
    assert_eq!(contents(&log)[0].0, log.log_start().0);
    log.set_config(keep(Some(1_000), None));
    log.apply_retention(NOW + 2_000, at(200)).unwrap();
    assert_eq!(
        (log.log_start(), log.log_end(), log.size()),
        (at(200), at(200), 0),
        "everything is old: only the end stays"
    );
    assert_eq!((files(&disk, "log").len(), files(&disk, "index").len()), (1, 0));
    drop(log);
    let mut log = open(&disk);
    assert_eq!((log.log_start(), log.log_end()), (at(200), at(200)));
    fill(&mut log, 1, 2);
    assert_eq!(contents(&log)[0].0, 200);
}

#[test]
fn old_segments_are_rolled_by_the_time_of_the_records() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    log.set_config(LogConfig { segment_ms: 1_000, ..config() });
    append(&mut log, &[batch_at(NOW - 10_000, &["a"])], 1).unwrap();
    append(&mut log, &[batch_at(NOW - 9_001, &["b"])], 1).unwrap();
    assert_eq!(log.segment_count(), 1);
    append(&mut log, &[batch_at(NOW - 9_000, &["c"])], 1).unwrap();
    assert_eq!(log.segment_count(), 2);
}

#[test]
fn truncation_takes_whole_batches_and_epochs_with_it() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 30, 1);
    fill(&mut log, 30, 5);
    log.assign_epoch(LeaderEpoch(9)).unwrap();
    let end = |log: &PartitionLog, epoch: i32| {
        log.epoch_end_offset(LeaderEpoch(epoch)).map(|end| (end.epoch.0, end.end_offset.0))
    };
    assert_eq!(
        (end(&log, 0), end(&log, 3), end(&log, 7), end(&log, 9)),
        (None, Some((1, 60)), Some((5, 120)), Some((9, 120)))
    );
    assert_eq!(log.truncate_to(at(500)).unwrap(), at(120), "nothing to cut, but the empty epoch goes");
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(5)));
    assert_eq!(log.truncate_to(at(91)).unwrap(), at(90), "a batch is whole or gone");
    assert_eq!(log.truncate_to(at(60)).unwrap(), at(60));
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(1)));
    fill(&mut log, 3, 7);
    let expected = contents(&log);
    drop(log);
    let mut log = open(&disk);
    assert_eq!(contents(&log), expected);
    assert_eq!(end(&log, 7), Some((7, 66)));
    log.truncate_fully_and_start_at(at(1_000)).unwrap();
    assert_eq!((log.log_start(), log.log_end(), log.latest_epoch()), (at(1_000), at(1_000), None));
    fill(&mut log, 2, 8);
    let log = open(&disk);
    assert_eq!((log.log_start(), log.log_end()), (at(1_000), at(1_004)));
    assert_eq!(log.clamp_high_watermark(at(5)), at(1_000));
    assert_eq!(log.clamp_high_watermark(Offset(i64::MAX)), at(1_004));
}

#[test]
fn a_committer_makes_few_and_many_partitions_durable_together() {
    for partitions in [2, 40] {
        let disk = MemDisk::new();
        let dir = log_dir(disk.clone());
        let committer = Committer::new(dir.clone());
        let mut logs = Vec::new();
        for n in 0..partitions {
            let tp = TopicPartition::new("topic", n);
            let path = chronik_log::partition_dir(&tp);
            let (mut log, _) = PartitionLog::open(&dir, &path, config(), OpenOptions::default()).unwrap();
            fill(&mut log, 3, 1);
            committer.register(tp.clone(), log.prepare_flush().unwrap());
            fill(&mut log, 3, 1);
            committer.register(tp, log.prepare_flush().unwrap());
            logs.push(log);
        }
        let done = committer.run_once().unwrap();
        assert!(committer.is_idle());
        assert_eq!(done.len(), logs.len());
        for (log, committed) in logs.iter_mut().zip(&done) {
            assert_eq!(log.complete_flush(&committed.plan), at(12));
            assert!(log.prepare_flush().is_none());
        }
        drop(logs);
        disk.crash(0);
        let found = list_partitions(&log_dir(disk.clone())).unwrap();
        assert_eq!(found.len(), partitions as usize);
        for tp in found {
            let options = OpenOptions { recovery_point: at(12), ..OpenOptions::default() };
            let path = chronik_log::partition_dir(&tp);
            let (log, report) = PartitionLog::open(&log_dir(disk.clone()), &path, config(), options).unwrap();
            assert_eq!((log.log_end(), report.cut), (at(12), None));
        }
    }
}

#[test]
fn a_sync_of_the_whole_disk_that_did_nothing_makes_nothing_durable() {
    let disk = SilentSyncAll(MemDisk::new());
    let dir = log_dir(disk.clone());
    let committer = Committer::new(dir.clone());
    let paths: Vec<_> = (0..20).map(|n| TopicPartition::new("topic", n)).collect();
    for tp in &paths {
        let path = chronik_log::partition_dir(tp);
        let (mut log, _) = PartitionLog::open(&dir, &path, config(), OpenOptions::default()).unwrap();
        fill(&mut log, 3, 1);
        committer.register(tp.clone(), log.prepare_flush().unwrap());
    }
    assert_eq!(committer.run_once().unwrap().len(), 20);
    disk.0.crash(0);
    for tp in &paths {
        let path = chronik_log::partition_dir(tp);
        let (log, _) = PartitionLog::open(&log_dir(disk.clone()), &path, config(), OpenOptions::default()).unwrap();
        assert_eq!(log.log_end(), at(6), "{tp}");
    }
}

#[test]
fn a_sync_counts_only_if_the_disk_is_still_there_afterwards() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 3, 1);
    disk.inject(Fault::Fail(Operation::Read, 1));
    log.flush().unwrap_err();
    assert_eq!(log.recovery_point(), at(0));
    assert!(matches!(log.log_dir().state(), LogDirState::Offline { .. }));
}

#[test]
fn a_flush_plan_is_void_for_another_log_of_the_name() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 10, 1);
    let plan = log.prepare_flush().unwrap();
    plan.run().unwrap();
    log.delete().unwrap();
    let mut log = open(&disk);
    fill(&mut log, 20, 1);
    assert_eq!(log.complete_flush(&plan), at(0), "nothing of the new log is synced");
    assert_eq!(log.flush().unwrap(), at(40));
}

#[test]
fn a_flush_plan_is_void_after_a_truncation() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 10, 1);
    let plan = log.prepare_flush().unwrap();
    plan.run().unwrap();
    log.truncate_to(at(4)).unwrap();
    fill(&mut log, 10, 2);
    assert!(log.complete_flush(&plan) <= at(4), "what was appended since is not synced");
    assert_eq!(log.flush().unwrap(), at(24));
}

#[test]
fn batches_are_stamped_with_dense_offsets_and_the_epoch() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    let info = append(&mut log, &[batch(&["a", "b"]), batch(&["c"])], 6).unwrap();
    assert_eq!((info.first_offset, info.last_offset), (at(0), at(2)));
    let headers: Vec<BatchHeader> = batches(&log).into_iter().map(|(header, _)| header).collect();
    assert_eq!(
        headers.iter().map(|h| (h.base_offset.0, h.partition_leader_epoch.0)).collect::<Vec<_>>(),
        [(0, 6), (2, 6)]
    );
}

#[test]
fn a_log_that_lost_its_records_below_its_start_opens_alike_twice() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 3, 1);
    log.flush().unwrap();
    drop(log);
    let path = format!("{DIR}/{}", files(&disk, "log")[0]);
    disk.open(&path).unwrap().truncate(10).unwrap();
    let options = OpenOptions { log_start: at(4), ..OpenOptions::default() };
    let first = open_with(&log_dir(disk.clone()), options).0.epochs().to_vec();
    let second = open_with(&log_dir(disk), options).0.epochs().to_vec();
    assert_eq!(first, second);
}

#[test]
fn a_log_that_could_not_be_emptied_can_still_be_asked() {
    for operation in [Operation::Namespace, Operation::SyncDir] {
        for nth in 1..20 {
            let disk = MemDisk::new();
            let mut log = open(&disk);
            fill(&mut log, 40, 1);
            let written = values(&log);
            disk.inject(Fault::Fail(operation, nth));
            if log.truncate_fully_and_start_at(at(1_000)).is_ok() {
                break;
            }
            assert!(nth < 19, "{operation:?}: never succeeds");
            assert!(log.log_end() >= log.log_start());
            assert!(append(&mut log, &[batch(&["x"])], 1).is_err(), "nothing is appended to a log that failed");
            assert!(log.truncate_to(at(0)).is_err());
            disk.heal();
            let again = open(&disk);
            assert!(written.starts_with(&values(&again)), "{operation:?} {nth}: what is left is a prefix");
        }
    }
}

#[test]
fn a_sync_that_finds_its_log_deleted_does_not_blame_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let dir = log_dir(RealDisk::open(root.path()).unwrap());
    let (mut log, _) = open_with(&dir, OpenOptions::default());
    fill(&mut log, 100, 1);
    let plan = log.prepare_flush().unwrap();
    log.retire();
    std::fs::remove_dir_all(root.path().join("data")).unwrap();
    plan.run().unwrap();
    log.settle().unwrap();
    assert_eq!(dir.state(), LogDirState::Online);
}
