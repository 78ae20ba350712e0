//! A disk on which records reach the platter only when the test says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chronik_log::disk::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, FileRef, LockError, RealDisk};
use parking_lot::{Condvar, Mutex};

/// While it is closed, syncs of segments wait, or deletions of directories.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A failed test does not open it.
    pub(super) const PATIENCE: Duration = Duration::from_secs(60);

    pub(super) fn close(&self) {
        *self.0.0.lock() = true;
    }

    pub(super) fn open(&self) {
        *self.0.0.lock() = false;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.0.0.lock();
        while *closed {
            if self.0.1.wait_for(&mut closed, Self::PATIENCE).timed_out() {
                return;
            }
        }
    }
}

/// [`RealDisk`] behind a [`Gate`].
#[derive(Clone, Debug)]
pub(super) struct SlowDisk {
    disk: RealDisk,
    gate: Gate,
    deletions: Gate,
}

#[derive(Debug)]
struct SlowFile {
    file: FileRef,
    gate: Gate,
}

impl SlowDisk {
    pub(super) fn new(root: &std::path::Path, gate: &Gate) -> Self {
        Self { disk: RealDisk::open(root).unwrap(), gate: gate.clone(), deletions: Gate::default() }
    }

    /// One on which deletions of directories wait.
    pub(super) fn slow_to_delete(root: &std::path::Path, gate: &Gate) -> Self {
        Self { disk: RealDisk::open(root).unwrap(), gate: Gate::default(), deletions: gate.clone() }
    }

    fn wrap(&self, path: &str, file: FileRef) -> FileRef {
        if std::path::Path::new(path).extension().is_some_and(|extension| extension == "log") {
            Arc::new(SlowFile { file, gate: self.gate.clone() })
        } else {
            file
        }
    }
}

impl DiskFile for SlowFile {
    fn append(&self, parts: &[&[u8]]) -> io::Result<u64> {
        self.file.append(parts)
    }
    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        self.file.read_at(position, len)
    }
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync()
    }
    fn forget_clean_pages(&self, position: u64) -> io::Result<()> {
        self.file.forget_clean_pages(position)
    }
    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }
}

impl Disk for SlowDisk {
    fn create(&self, path: &str) -> io::Result<FileRef> {
        Ok(self.wrap(path, self.disk.create(path)?))
    }
    fn open(&self, path: &str) -> io::Result<FileRef> {
        Ok(self.wrap(path, self.disk.open(path)?))
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.deletions.pass();
        self.disk.remove_dir(path)
    }
    fn sync_all(&self) -> io::Result<()> {
        self.disk.sync_all()
    }
    fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space()
    }
    fn lock(&self, path: &str) -> Result<DiskLock, LockError> {
        self.disk.lock(path)
    }
}
