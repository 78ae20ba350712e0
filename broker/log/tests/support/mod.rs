//! What the stories share: batches with known content, and logs that are opened as the broker opens them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use chronik_log::disk::{DirEntry, Disk, DiskLock, DiskSpace, FileRef, LockError, MemDisk};
use chronik_log::{AppendInfo, AppendOrigin, LogConfig, LogDir, LogError, OpenOptions, PartitionLog, RecoveryReport};
use chronik_model::batch::{BatchBuilder, BatchHeader, HEADER_BYTES, find_batch, records};
use chronik_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// A disk whose sync of everything answers success and does nothing, as that of a filesystem that was shut down.
#[derive(Clone, Debug)]
pub struct SilentSyncAll(pub MemDisk);

impl Disk for SilentSyncAll {
    fn create(&self, path: &str) -> io::Result<FileRef> {
        self.0.create(path)
    }
    fn open(&self, path: &str) -> io::Result<FileRef> {
        self.0.open(path)
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn space(&self) -> io::Result<DiskSpace> {
        self.0.space()
    }
    fn lock(&self, path: &str) -> Result<DiskLock, LockError> {
        self.0.lock(path)
    }
}

pub const DIR: &str = "data/topic-0";
pub const NOW: i64 = 1_700_000_000_000;

/// Small segments, so that every story crosses some.
pub fn config() -> LogConfig {
    LogConfig { segment_bytes: 2_000, index_interval_bytes: 200, retention_ms: None, ..LogConfig::default() }
}

/// A batch of records with these values, at [`NOW`].
pub fn batch(values: &[&str]) -> Bytes {
    batch_at(NOW, values)
}

pub fn batch_at(timestamp: i64, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(timestamp);
    for value in values {
        builder.push(Some(b"key"), Some(value.as_bytes()));
    }
    builder.build()
}

pub fn produced(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(NOW).producer(ProducerId(producer), ProducerEpoch(epoch), sequence);
    for value in values {
        builder.push(None, Some(value.as_bytes()));
    }
    builder.build()
}

pub fn log_dir(disk: impl Disk) -> Arc<LogDir> {
    LogDir::new(Arc::new(disk))
}

pub fn open_with(log_dir: &Arc<LogDir>, options: OpenOptions) -> (PartitionLog, RecoveryReport) {
    PartitionLog::open(log_dir, DIR, config(), options).expect("the log opens")
}

/// Opens as after a crash, knowing nothing.
pub fn open(disk: &MemDisk) -> PartitionLog {
    open_with(&log_dir(disk.clone()), OpenOptions::default()).0
}

pub fn append(log: &mut PartitionLog, batches: &[Bytes], epoch: i32) -> Result<AppendInfo, LogError> {
    log.append_as_leader(batches, LeaderEpoch(epoch), NOW, AppendOrigin::Client)
}

/// Every batch of the log, read as a consumer would.
pub fn batches(log: &PartitionLog) -> Vec<(BatchHeader, Bytes)> {
    let mut found = Vec::new();
    let mut at = log.log_start();
    while at < log.log_end() {
        let bytes = log.read_bytes(at, 700, log.log_end()).expect("the log can be read");
        assert!(!bytes.is_empty(), "nothing to read at {at} of {}", log.log_end());
        let mut position = 0;
        while position < bytes.len() {
            let header = find_batch(&bytes[position..]).expect("a sound batch");
            assert!(header.base_offset <= at && at <= header.last_offset(), "{header:?} at {at}");
            at = header.next_offset();
            found.push((header, bytes.slice(position..position + header.total_bytes)));
            position += header.total_bytes;
        }
    }
    found
}

/// (offset, leader epoch, value) of every record.
pub fn contents(log: &PartitionLog) -> Vec<(i64, i32, String)> {
    let mut found = Vec::new();
    for (header, bytes) in batches(log) {
        for record in records(&bytes[HEADER_BYTES..], header.record_count) {
            let record = record.expect("a sound record");
            let offset = header.base_offset.0 + i64::from(record.offset_delta);
            let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).expect("text");
            found.push((offset, header.partition_leader_epoch.0, value));
        }
    }
    found
}

pub fn values(log: &PartitionLog) -> Vec<String> {
    contents(log).into_iter().map(|(_, _, value)| value).collect()
}

/// Appends `count` batches of two records each, named after their offsets.
pub fn fill(log: &mut PartitionLog, count: usize, epoch: i32) {
    for _ in 0..count {
        let next = log.log_end().0;
        let names = [format!("v{next}"), format!("v{}", next + 1)];
        append(log, &[batch(&[&names[0], &names[1]])], epoch).expect("the append succeeds");
    }
}

pub fn at(offset: i64) -> Offset {
    Offset(offset)
}

/// Names of the files of the log with this extension.
pub fn files(disk: &dyn Disk, extension: &str) -> Vec<String> {
    let suffix = format!(".{extension}");
    let entries = disk.list(DIR).expect("the directory is there");
    entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(&suffix)).collect()
}
