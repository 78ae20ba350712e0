//! Where a log begins, when the disk lost that or has no room to note it.

mod support;

use chronik_log::disk::{Disk, MemDisk};
use chronik_log::{LogDirState, LogError, OpenOptions, PartitionLog};
use support::*;

#[test]
fn a_beginning_that_is_missing_after_an_orderly_stop_is_refused_and_nothing_is_removed() {
    let noted = OpenOptions { start_noted: true, recovery_point: at(200), ..OpenOptions::default() };
    let clean = OpenOptions { clean_shutdown: true, ..noted };
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 100, 1);
    log.close().unwrap();
    let (log, _) = open_with(&log_dir(disk.snapshot()), clean);
    assert_eq!((log.log_start(), log.log_end()), (at(0), at(200)), "as it is");
    let segments = files(&disk, "log");
    // The first one, and all.
    for lost in [1, segments.len()] {
        let disk = disk.snapshot();
        for name in &segments[..lost] {
            disk.remove_file(&format!("{DIR}/{name}")).unwrap();
        }
        let left = disk.files();
        let refused = PartitionLog::open(&log_dir(disk.clone()), DIR, config(), clean).map(drop);
        let Err(LogError::Corrupt { path, .. }) = refused else { panic!("{lost} lost: {refused:?}") };
        assert_eq!(path, format!("{DIR}/{}", segments[0]));
        assert_eq!(disk.files(), left);
        // What is no orderly stop is not trusted either.
        let (log, _) = open_with(&log_dir(disk), noted);
        assert_eq!((log.log_start(), log.log_end()), (at(0), at(0)));
    }
}

#[test]
fn retention_makes_room_on_a_disk_without_a_free_byte() {
    let options = OpenOptions { recovery_point: at(200), start_noted: true, ..OpenOptions::default() };
    for restarted in [false, true] {
        let disk = MemDisk::new();
        let mut log = open(&disk);
        fill(&mut log, 100, 1);
        log.flush().unwrap();
        disk.set_capacity(disk.files().iter().map(|(_, len)| len).sum());
        assert_eq!(disk.space().unwrap().free, 0);
        if restarted {
            drop(log);
            disk.kill();
            log = open_with(&log_dir(disk.clone()), options).0;
        }
        let report = log.set_log_start_offset(at(100)).unwrap();
        assert!(report.segments > 0 && disk.space().unwrap().free > 0, "{report:?}");
        fill(&mut log, 1, 1);
        log.flush().unwrap();
        disk.crash(7);
        let (log, report) = open_with(&log_dir(disk), options);
        assert_eq!((report.cut, log.log_end()), (None, at(202)), "restarted {restarted}");
        assert!(log.log_start() > at(0));
    }
}

#[test]
fn a_note_that_a_full_disk_does_not_take_keeps_no_log_from_opening() {
    let noted = OpenOptions { start_noted: true, recovery_point: at(200), ..OpenOptions::default() };
    let disk = MemDisk::new();
    let mut log = open(&disk);
    fill(&mut log, 100, 1);
    log.flush().unwrap();
    drop(log);
    // By an owner that knows no notes.
    disk.remove_file(&format!("{DIR}/{}", files(&disk, "log")[0])).unwrap();
    let begin = at(files(&disk, "log")[0][..20].parse().unwrap());
    let (mut log, _) = open_with(&log_dir(disk.clone()), OpenOptions { log_start: begin, ..OpenOptions::default() });
    log.flush().unwrap();
    drop(log);
    disk.set_capacity(disk.files().iter().map(|(_, len)| len).sum());
    let dir = log_dir(disk.clone());
    let (mut log, report) = open_with(&dir, OpenOptions { log_start: begin, ..noted });
    assert_eq!((report.cut, log.log_start()), (None, begin));
    assert!(matches!(dir.state(), LogDirState::Online));
    assert!(log.set_log_start_offset(at(100)).unwrap().segments > 0);
    let begin = log.log_start();
    drop(log);
    disk.crash(7);
    // The note that retention wrote is there now.
    let (log, report) = open_with(&log_dir(disk), noted);
    assert_eq!((report.cut, log.log_end()), (None, at(200)));
    assert!(log.log_start() <= begin && log.log_start() > at(0));
}

/// The checksum of a batch does not cover its epoch; the epochs that were noted tell, also where what is below the start of the
/// log was forgotten.
#[test]
fn a_damaged_epoch_of_the_batch_in_which_the_log_begins_is_noticed() {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    append(&mut log, &[batch(&["a", "b"])], 1).unwrap();
    append(&mut log, &[batch(&["c"])], 40).unwrap();
    log.set_log_start_offset(at(1)).unwrap();
    log.flush().unwrap();
    drop(log);
    disk.kill();
    let first = format!("{DIR}/{}", files(&disk, "log")[0]);
    let open_again = |disk: &MemDisk| {
        let options = OpenOptions { log_start: at(1), start_noted: true, ..OpenOptions::default() };
        let (log, report) = open_with(&log_dir(disk.clone()), options);
        (log.log_end(), report.cut.map(|(at, _)| at))
    };
    assert_eq!(open_again(&disk.snapshot()), (at(3), None));
    // The lowest byte of the batch's epoch.
    disk.flip_bit(&first, 15, 5).unwrap();
    assert_eq!(open_again(&disk).1, Some(at(0)));
}
