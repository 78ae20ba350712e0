//! The hostile twin of a disk, for tests and simulation.
//!
//! It keeps apart what was written and what is durable. A process that is killed ([`MemDisk::kill`]) loses nothing; a
//! power loss ([`MemDisk::crash`]) throws away an arbitrary, seeded part of what was not synced: whole blocks, parts of
//! blocks, creations, renames, removals, truncations. [`Fault`]s make operations fail, lie or miss their place, and
//! [`MemDisk::flip_bit`], [`MemDisk::lose_end`] and [`MemDisk::wipe`] damage what is durable. Handles opened before a
//! kill or power loss are dead after it, as a process's would be.
//!
//! Nothing here is random by itself and nothing takes time: seeds and damage come from the owner, who may turn the work
//! done ([`MemDisk::take_cost`]) into time of its own.

mod faults;
mod inode;
mod names;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, FileRef, LockError, SplitMix64, parent};
use faults::Faults;
pub use faults::{Cost, Fault, Operation};
use inode::Inode;
use names::{InodeId, Node};
use state::{State, not_found};

/// An in-memory disk; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

impl MemDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.add(fault);
    }

    /// Takes all faults away; what they did stays done.
    pub fn heal(&self) {
        self.state.lock().faults = Faults::default();
    }

    /// The process stops in the middle of what it does: at the n-th change from now (1 is the next) of a file or a name, syncs
    /// included. Neither that change happens nor anything after it, until the process ends ([`Self::kill`],
    /// [`Self::crash`]). `None` takes that back; the answer is how many changes were left.
    pub fn stop_at(&self, change: Option<u64>) -> Option<u64> {
        std::mem::replace(&mut self.state.lock().faults.stop_in, change.map(|nth| nth.max(1)))
    }

    /// Whether the change came at which the process stops.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.lock().faults.stopped
    }

    /// How many bytes all files together may have. Beyond that an append is torn and answers that space is out; what
    /// is removed makes room again.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// Power loss: of everything not synced, `seed` decides what survives. Faults and locks are gone afterwards and
    /// open handles are dead.
    pub fn crash(&self, seed: u64) {
        self.state.lock().lose_power(&mut SplitMix64::new(seed));
    }

    /// The process dies but the machine lives: nothing written is lost; locks and handles are gone. Faults stay.
    pub fn kill(&self) {
        self.state.lock().end_process();
    }

    /// The disk is replaced by an empty one of the same size, without faults.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.wipe();
    }

    /// A disk of its own with the same content, durable or not, and the same faults; nobody has opened it. Bytes are
    /// shared until one of the two changes them.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.end_process();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips one bit of a file, in memory and on the platter.
    ///
    /// # Errors
    /// No such file or byte.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) -> io::Result<()> {
        let at = usize::try_from(byte).unwrap_or(usize::MAX);
        let flipped = self.state.lock().file(path)?.flip_bit(at, bit);
        if flipped { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Cuts a file off at `len`, in memory and on the platter, as if it had never been longer.
    ///
    /// # Errors
    /// No such file.
    pub fn lose_end(&self, path: &str, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut state = self.state.lock();
        state.file(path)?.lose_end(len);
        state.recount();
        Ok(())
    }

    /// All files with their lengths, in order of their names.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let files = state.names.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path.to_owned(), state.len_of(id))),
            Node::Dir => None,
        });
        files.collect()
    }

    /// Number of syncs of files, directories and the whole disk so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Work done since this was asked last.
    #[must_use]
    pub fn take_cost(&self) -> Cost {
        std::mem::take(&mut self.state.lock().cost)
    }

    /// Lets an observer read: nothing done inside counts as work or fails, and no fault comes nearer by it.
    pub fn observe<R>(&self, look: impl FnOnce() -> R) -> R {
        let (faults, cost) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.faults), state.cost)
        };
        let seen = look();
        let mut state = self.state.lock();
        state.faults = faults;
        state.cost = cost;
        seen
    }

    /// Bytes of memory that the content takes, also that of removed files which a power loss could bring back.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.state.lock().memory()
    }

    fn handle(&self, state: &mut State, id: InodeId) -> io::Result<FileRef> {
        state.inode(id)?.handles += 1;
        Ok(Arc::new(MemFile { state: Arc::clone(&self.state), id, generation: state.generation }))
    }
}

#[derive(Debug)]
struct MemFile {
    state: Arc<Mutex<State>>,
    id: InodeId,
    generation: u64,
}

impl MemFile {
    fn with<T>(&self, use_it: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the handle is older than the last crash"));
        }
        use_it(&mut state)
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation == self.generation {
            state.close(self.id);
        }
    }
}

impl DiskFile for MemFile {
    fn append(&self, parts: &[&[u8]]) -> io::Result<u64> {
        self.with(|state| {
            state.cost.appends += 1;
            state.faults.charge(Operation::Append)?;
            let stray = state.faults.stray();
            let total: usize = parts.iter().map(|part| part.len()).sum();
            let room = state.room(total);
            let inode = state.inode(self.id)?;
            let start = inode.len() as u64;
            inode.append(parts, room, stray);
            state.cost.written += room as u64;
            state.used += room as u64;
            if let Some(left) = &mut state.faults.space_left {
                *left -= room as u64;
            }
            if room < total { Err(io::ErrorKind::StorageFull.into()) } else { Ok(start) }
        })
    }

    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        self.with(|state| {
            state.faults.charge(Operation::Read)?;
            let bytes = Bytes::copy_from_slice(state.inode(self.id)?.bytes(position, len));
            state.cost.reads += 1;
            state.cost.read += bytes.len() as u64;
            Ok(bytes)
        })
    }

    fn len(&self) -> u64 {
        self.with(|state| Ok(state.inode(self.id)?.len() as u64)).unwrap_or(0)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.charge_change(Operation::Truncate)?;
            let inode = state.inode(self.id)?;
            let before = inode.len();
            inode.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            let freed = before - inode.len();
            state.used -= freed as u64;
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            state.count_sync();
            if let Err(error) = state.faults.charge(Operation::Sync) {
                if !state.faults.stopped {
                    state.inode(self.id)?.forget_dirty();
                }
                return Err(error);
            }
            if state.faults.lying_sync { Ok(()) } else { state.sync_inode(self.id) }
        })
    }

    fn forget_clean_pages(&self, position: u64) -> io::Result<()> {
        self.with(|state| {
            state.inode(self.id)?.forget_clean(usize::try_from(position).unwrap_or(usize::MAX));
            Ok(())
        })
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            let more = len.saturating_sub(state.inode(self.id)?.len() as u64);
            let more = usize::try_from(more).unwrap_or(usize::MAX);
            if state.room(more) < more { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }
}

impl Disk for MemDisk {
    fn create(&self, path: &str) -> io::Result<FileRef> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.charge_change(Operation::Namespace)?;
        state.require_dir(parent(path))?;
        match state.names.get(path) {
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(id)) => {
                let inode = state.inode(id)?;
                let freed = inode.len() as u64;
                inode.truncate(0);
                state.used -= freed;
                self.handle(state, id)
            }
            None => {
                let id = state.add_inode();
                state.names.insert(path, Node::File(id));
                self.handle(state, id)
            }
        }
    }

    fn open(&self, path: &str) -> io::Result<FileRef> {
        let mut state = self.state.lock();
        match state.names.get(path) {
            Some(Node::File(id)) => self.handle(&mut state, id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(path.is_empty() || self.state.lock().names.get(path).is_some())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        state.require_dir(dir)?;
        let entry = |(name, node)| DirEntry { name, is_dir: node == Node::Dir };
        Ok(state.names.children(dir).into_iter().map(entry).collect())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge_change(Operation::Namespace)?;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            match state.names.get(&path[..end]) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => state.names.insert(&path[..end], Node::Dir),
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.require_dir(dir)?;
        state.count_sync();
        state.faults.charge(Operation::SyncDir)?;
        if !state.faults.lying_sync {
            state.sync_names(dir);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge_change(Operation::Namespace)?;
        state.require_dir(parent(to))?;
        let node = state.names.get(from).ok_or_else(|| not_found(from))?;
        match (node, state.names.get(to)) {
            _ if from == to => return Ok(()),
            (Node::Dir, Some(_)) | (Node::File(_), Some(Node::Dir)) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Node::File(_), Some(Node::File(replaced))) => state.unlink(replaced),
            (_, None) => {}
        }
        state.names.rename(from, to, node);
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge_change(Operation::Namespace)?;
        let Some(Node::File(id)) = state.names.get(path) else { return Err(not_found(path)) };
        state.names.remove_file(path);
        state.unlink(id);
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge_change(Operation::Namespace)?;
        state.require_dir(path)?;
        for id in state.names.remove_dir(path) {
            state.unlink(id);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.count_sync();
        if let Err(error) = state.faults.charge(Operation::Sync) {
            if !state.faults.stopped {
                state.all_inodes().for_each(Inode::forget_dirty);
            }
            return Err(error);
        }
        if state.faults.lying_sync { Ok(()) } else { state.sync_everything() }
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let state = self.state.lock();
        let free = state.free();
        Ok(DiskSpace { total: state.used + free, free })
    }

    fn lock(&self, path: &str) -> Result<DiskLock, LockError> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held { path: path.to_owned(), pid: Some(std::process::id()) });
        }
        let (state, path, generation) = (Arc::clone(&self.state), path.to_owned(), state.generation);
        Ok(DiskLock::new(MemLock { state, path, generation }))
    }
}

#[derive(Debug)]
struct MemLock {
    state: Arc<Mutex<State>>,
    path: String,
    generation: u64,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}
