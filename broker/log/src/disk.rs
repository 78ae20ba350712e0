//! Files as the log and the Raft storage use them: a small trait, with the kernel behind it ([`RealDisk`]) or a hostile
//! in-memory twin ([`MemDisk`]) that crashes, tears and lies on demand.
//!
//! Paths are relative to the root of the disk and separated by `/`. A file has one writer; any number of readers use
//! clones of its [`FileRef`] at the same time and without a lock. Bytes are durable after [`DiskFile::sync`], names
//! (creation, rename, removal) after [`Disk::sync_dir`] of the directory that holds them: neither implies the other.
//! A failed sync is never retried by anyone: the kernel marks the pages clean, so a second try would lie.

mod mem;
mod real;
mod rng;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

pub use mem::{Cost, Fault, MemDisk, Operation};
pub use real::RealDisk;
pub use rng::SplitMix64;

/// A shared handle of an open file; clones are cheap and refer to the same file.
pub type FileRef = Arc<dyn DiskFile>;

/// An open file: appended at its end by one writer, read anywhere.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Appends the parts, in order, with one vectored write, and returns the position of the first byte. After an
    /// error the file may end with a part of the bytes: truncate it to the length before it, or never append again.
    ///
    /// # Errors
    /// What the kernel says; out of space is [`io::ErrorKind::StorageFull`].
    fn append(&self, parts: &[&[u8]]) -> io::Result<u64>;

    /// Reads `len` bytes at `position`; fewer only when the file ends before.
    ///
    /// # Errors
    /// What the kernel says.
    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes>;

    /// Length: what was there at open and what was appended since.
    fn len(&self) -> u64;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts the file to `len` bytes (never extends it). Durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// What the kernel says.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable (fdatasync).
    ///
    /// # Errors
    /// What the kernel says; the file must not be trusted afterwards.
    fn sync(&self) -> io::Result<()>;

    /// Drops what the kernel caches from `position` on and believes to be on disk, so that a read shows what really is
    /// there. After a failed sync those two differ, also for the next process; unwritten bytes are not dropped.
    ///
    /// # Errors
    /// What the kernel says.
    fn forget_clean_pages(&self, position: u64) -> io::Result<()>;

    /// Reserves space for the file to grow to `len` bytes without changing its length. A hint: it may do nothing.
    ///
    /// # Errors
    /// Out of space.
    fn preallocate(&self, len: u64) -> io::Result<()>;
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// Its name in the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
}

/// Space on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    /// Bytes that are used, by whomever, and bytes that may still be written; what the filesystem keeps for root is no part of it.
    pub total: u64,
    /// Bytes that may still be written.
    pub free: u64,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error("{path} is locked by {}", holder(.pid))]
    Held {
        /// The lock file.
        path: String,
        /// The process that wrote its id into the file, if it could be read.
        pid: Option<u32>,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock file.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// An exclusive lock; released when dropped or when the process ends.
pub struct DiskLock {
    _held: Box<dyn Send + Sync>,
}

impl DiskLock {
    fn new(held: impl Send + Sync + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// A directory tree. Object-safe; `Arc<D>` is a disk too.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates a file, or empties the one of that name. The name is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the kernel says.
    fn create(&self, path: &str) -> io::Result<FileRef>;

    /// Opens an existing file for reading and appending.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and whatever else the kernel says.
    fn open(&self, path: &str) -> io::Result<FileRef>;

    /// Whether a file or directory of this name exists.
    ///
    /// # Errors
    /// What the kernel says, other than "not found".
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// The entries of a directory, sorted by name. `""` is the root.
    ///
    /// # Errors
    /// What the kernel says.
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>>;

    /// Creates a directory and its missing ancestors; existing ones are fine. Durable after [`Disk::sync_dir`] of the
    /// parent of each one created.
    ///
    /// # Errors
    /// What the kernel says.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the kernel says; the directory must not be trusted afterwards.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Renames a file or directory, replacing a file of the new name atomically.
    ///
    /// # Errors
    /// What the kernel says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Open handles can still read it.
    ///
    /// # Errors
    /// What the kernel says.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Removes a directory with everything in it.
    ///
    /// # Errors
    /// What the kernel says.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// Makes everything on the filesystem durable in one go (syncfs): cheaper than many single syncs.
    ///
    /// # Errors
    /// What the kernel says; no file with unsynced bytes must be trusted afterwards.
    fn sync_all(&self) -> io::Result<()>;

    /// Space of the filesystem that holds the root.
    ///
    /// # Errors
    /// What the kernel says.
    fn space(&self) -> io::Result<DiskSpace>;

    /// Takes an exclusive lock on a file, without waiting, and writes the process id into it.
    ///
    /// # Errors
    /// [`LockError::Held`] with the holder, if it is known.
    fn lock(&self, path: &str) -> Result<DiskLock, LockError>;

    /// The whole of a small file.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(&self, path: &str) -> io::Result<Bytes> {
        let file = self.open(path)?;
        let len = usize::try_from(file.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        file.read_at(0, len)
    }

    /// Replaces a small file atomically and durably: temporary file, sync, rename, sync of the directory. After a
    /// crash the file has either the old content or the new, whole.
    ///
    /// # Errors
    /// What the kernel says. The old content may or may not be replaced.
    fn write_atomic(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{path}.tmp");
        let file = self.create(&temporary)?;
        file.append(&[content])?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_dir(parent(path))
    }

    /// Replaces a small file without making it durable. Only for files that carry a checksum and can be derived from
    /// others (indexes, snapshots).
    ///
    /// # Errors
    /// What the kernel says.
    fn write_hint(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{path}.tmp");
        self.create(&temporary)?.append(&[content])?;
        self.rename(&temporary, path)
    }
}

/// The directory part of a path; `""` is the root.
#[must_use]
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn create(&self, path: &str) -> io::Result<FileRef> {
        (**self).create(path)
    }
    fn open(&self, path: &str) -> io::Result<FileRef> {
        (**self).open(path)
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        (**self).exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        (**self).list(dir)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        (**self).create_dir(path)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        (**self).sync_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        (**self).remove_file(path)
    }
    fn remove_dir(&self, path: &str) -> io::Result<()> {
        (**self).remove_dir(path)
    }
    fn sync_all(&self) -> io::Result<()> {
        (**self).sync_all()
    }
    fn space(&self) -> io::Result<DiskSpace> {
        (**self).space()
    }
    fn lock(&self, path: &str) -> Result<DiskLock, LockError> {
        (**self).lock(path)
    }
}
