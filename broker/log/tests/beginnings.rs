//! Where a log begins, when the disk lost that or has no room to note it.

mod support;

use chronik_log::disk::{Disk, MemDisk};
use chronik_log::OpenOptions;
use support::*;

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
