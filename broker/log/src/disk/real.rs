//! The kernel's files under a root directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use super::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, FileRef, LockError};

/// Most slices that one vectored write takes (the kernel's IOV_MAX).
const MAX_SLICES: usize = 1024;

/// Syncs through one open file, and what became of them.
///
/// The kernel tells of a failed write-back once per open file: of two that sync at the same time one may hear of the
/// failure and the other that all is well, although its pages are gone too. So they go one after the other, and after
/// a failure there is no other answer. What failed before the file was opened is never told: it has to stay open.
#[derive(Debug, Default)]
struct Syncs {
    failed: Mutex<bool>,
}

impl Syncs {
    fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        sync().inspect_err(|_| *failed = true)
    }
}

/// The root directory, open for as long as anybody uses the disk.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    file: File,
    syncs: Syncs,
}

/// A directory of the local filesystem.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: Arc<Root>,
}

impl RealDisk {
    /// A disk whose paths are relative to `root`, which is created if it does not exist.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let path = root.into();
        fs::create_dir_all(&path)?;
        let file = File::open(&path)?;
        Ok(Self { root: Arc::new(Root { path, file, syncs: Syncs::default() }) })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.path.clone() } else { self.root.path.join(path) }
    }
}

/// An open file; the length is kept here so that a failed append is not counted.
#[derive(Debug)]
struct RealFile {
    file: File,
    len: AtomicU64,
    syncs: Syncs,
}

impl RealFile {
    fn shared(file: File) -> io::Result<FileRef> {
        let len = AtomicU64::new(file.metadata()?.len());
        Ok(Arc::new(Self { file, len, syncs: Syncs::default() }))
    }
}

impl DiskFile for RealFile {
    fn append(&self, parts: &[&[u8]]) -> io::Result<u64> {
        let start = self.len.load(Ordering::Acquire);
        let mut position = start;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(MAX_SLICES)];
            match rustix::io::pwritev(&self.file, batch, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.len.store(position, Ordering::Release);
        Ok(start)
    }

    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let available = self.len.load(Ordering::Acquire).saturating_sub(position);
        let want = usize::try_from(available).unwrap_or(usize::MAX).min(len);
        let mut buffer = Vec::with_capacity(want);
        while buffer.len() < want {
            let at = position + buffer.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut buffer), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(want);
        Ok(buffer.into())
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        // Also cuts what a failed append left behind the counted end.
        if len <= self.len() {
            self.file.set_len(len)?;
            self.len.store(len, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.run(|| Ok(rustix::fs::fdatasync(&self.file)?))
    }

    fn forget_clean_pages(&self, position: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, position, None, Advice::DontNeed)?)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let from = self.len();
        if len <= from {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, len - from) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<FileRef> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        RealFile::shared(options.open(self.path(path))?)
    }

    fn open(&self, path: &str) -> io::Result<FileRef> {
        RealFile::shared(OpenOptions::new().read(true).write(true).open(self.path(path))?)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.path(path).try_exists()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            let entry = entry?;
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir_all(self.path(path))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.root.syncs.run(|| Ok(rustix::fs::syncfs(&self.root.file)?))
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(&self.root.path)?;
        Ok(space_of(stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail))
    }

    fn lock(&self, path: &str) -> Result<DiskLock, LockError> {
        let failed = |source: io::Error| LockError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(self.path(path)).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { path: path.to_owned(), pid });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
        Ok(DiskLock::new(file))
    }
}

/// Blocks that only root may use are neither used nor free: a disk is full when nothing is left for us.
fn space_of(block: u64, blocks: u64, free: u64, available: u64) -> DiskSpace {
    let used = blocks.saturating_sub(free);
    DiskSpace { total: used.saturating_add(available).saturating_mul(block), free: available.saturating_mul(block) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_the_last_word_about_a_file() {
        let syncs = Syncs::default();
        syncs.run(|| Ok(())).unwrap();
        assert!(syncs.run(|| Err(io::Error::other("write-back failed"))).is_err());
        // The kernel would say that all is well now.
        assert!(syncs.run(|| Ok(())).is_err());
    }

    #[test]
    fn two_syncs_of_one_file_never_overlap() {
        let (syncs, inside) = (Syncs::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let alone = syncs.run(|| {
                            let others = inside.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            if others == 0 { Ok(()) } else { Err(io::Error::other("not alone")) }
                        });
                        alone.unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn the_file_that_whole_disk_syncs_go_through_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path().join("a")).unwrap();
        // Opened by name each time, it would be another directory now, and errors of the past would not be told.
        fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        disk.sync_all().unwrap();
    }

    #[test]
    fn what_is_reserved_for_root_counts_neither_as_used_nor_as_ours() {
        // As ext4 does it: 5 of 100 blocks are reserved, 20 are used.
        let space = space_of(4096, 100, 80, 75);
        assert_eq!((space.total - space.free, space.free), (20 * 4096, 75 * 4096));
        let full = space_of(4096, 100, 5, 0);
        assert_eq!((full.total - full.free, full.free), (full.total, 0), "full is full");
    }
}
