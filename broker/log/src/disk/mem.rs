//! The hostile twin of a disk, for tests and simulation.
//!
//! It keeps apart what was written and what is durable. [`MemDisk::crash`] throws away an arbitrary, seeded part of
//! what was not synced: whole blocks, parts of blocks, creations, renames, removals, truncations. [`Fault`]s make
//! single operations fail or lie. Handles opened before a crash are dead after it, as a process's would be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, FileRef, LockError, SplitMix64, parent};

/// Unit in which a crash keeps or loses bytes.
const BLOCK: usize = 512;

/// What a fault can be attached to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// An append.
    Append,
    /// A read of file bytes.
    Read,
    /// A sync of a file.
    Sync,
    /// A sync of a directory.
    SyncDir,
    /// A creation, rename or removal.
    Namespace,
    /// A truncation.
    Truncate,
}

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The n-th such operation from now (1 is the next) fails with an I/O error. A failing sync marks the pages clean:
    /// the bytes stay readable, a later sync succeeds, a crash loses them.
    Fail(Operation, u64),
    /// Only so many more bytes can be written; the append that exceeds them is torn.
    SpaceLeft(u64),
    /// Every sync answers success and does nothing.
    LyingSync,
}

type InodeId = u64;

#[derive(Debug, Default, Clone)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Written since the last sync; what differs outside these ranges was lost by a failed sync.
    dirty: Vec<Range<usize>>,
    /// Smallest length the file was cut to since the last sync.
    cut_to: Option<usize>,
}

impl Inode {
    fn sync(&mut self) {
        if let Some(cut) = self.cut_to.take() {
            self.durable.truncate(cut);
        }
        for range in std::mem::take(&mut self.dirty) {
            let end = range.end.min(self.current.len());
            if range.start >= end {
                continue;
            }
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[range.start..end].copy_from_slice(&self.current[range.start..end]);
        }
    }

    fn forget_clean(&mut self, from: usize) {
        let cut = self.cut_to.unwrap_or(usize::MAX);
        for at in from..self.current.len() {
            if !self.dirty.iter().any(|range| range.contains(&at)) {
                self.current[at] = self.durable.get(at).copied().filter(|_| at < cut).unwrap_or(0);
            }
        }
    }

    fn crash(&mut self, rng: &mut SplitMix64, keep_percent: u64) {
        let mut survived = std::mem::take(&mut self.durable);
        if let Some(cut) = self.cut_to.take()
            && rng.chance(keep_percent)
        {
            survived.truncate(cut);
        }
        for range in std::mem::take(&mut self.dirty) {
            let mut at = range.start;
            let end = range.end.min(self.current.len());
            while at < end {
                let next = (at / BLOCK * BLOCK + BLOCK).min(end);
                let kept = match rng.below(100) {
                    draw if draw < keep_percent => next,
                    draw if draw % 10 == 9 => at + rng.below((next - at) as u64) as usize,
                    _ => at,
                };
                if kept > at {
                    if survived.len() < kept {
                        survived.resize(kept, 0);
                    }
                    survived[at..kept].copy_from_slice(&self.current[at..kept]);
                }
                at = next;
            }
        }
        self.current.clone_from(&survived);
        self.durable = survived;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(InodeId),
    Dir,
}

type Names = BTreeMap<String, Node>;

/// A change of names that is not durable yet; renames are atomic.
#[derive(Debug, Clone)]
struct NameChange {
    remove: Option<String>,
    insert: Option<(String, Node)>,
    /// What moves along below a renamed directory: old name, new name.
    along: Vec<(String, String, Node)>,
}

impl NameChange {
    fn insert(path: &str, node: Node) -> Self {
        Self { remove: None, insert: Some((path.to_owned(), node)), along: Vec::new() }
    }

    fn remove(path: &str) -> Self {
        Self { remove: Some(path.to_owned()), insert: None, along: Vec::new() }
    }

    fn apply(&self, names: &mut Names) {
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, node)) = &self.insert {
            names.insert(path.clone(), *node);
        }
        for (from, to, node) in &self.along {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }

    fn touches(&self, dir: &str) -> bool {
        let here = |path: &str| parent(path) == dir;
        self.remove.as_deref().is_some_and(here) || self.insert.as_ref().is_some_and(|(path, _)| here(path))
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    names: Names,
    durable_names: Names,
    name_changes: Vec<NameChange>,
    locks: BTreeSet<String>,
    generation: u64,
    failures: Vec<(Operation, u64)>,
    space_left: Option<u64>,
    lying_sync: bool,
    syncs: u64,
}

impl State {
    fn charge(&mut self, operation: Operation) -> io::Result<()> {
        let mut failed = false;
        self.failures.retain_mut(|(on, left)| {
            if *on == operation {
                *left = left.saturating_sub(1);
                failed |= *left == 0;
            }
            *left > 0
        });
        if failed { Err(io::Error::other(format!("injected I/O error on {operation:?}"))) } else { Ok(()) }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn require_dir(&self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.names.get(path) == Some(&Node::Dir) { Ok(()) } else { Err(not_found(path)) }
    }

    fn below(&self, dir: &str) -> Vec<(String, Node)> {
        let prefix = format!("{dir}/");
        self.names.iter().filter(|(path, _)| path.starts_with(&prefix)).map(|(p, n)| (p.clone(), *n)).collect()
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path} does not exist"))
}

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
        let mut state = self.state.lock();
        match fault {
            Fault::Fail(operation, nth) => state.failures.push((operation, nth.max(1))),
            Fault::SpaceLeft(bytes) => state.space_left = Some(bytes),
            Fault::LyingSync => state.lying_sync = true,
        }
    }

    /// Takes all faults away; what they did stays done.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.failures.clear();
        state.space_left = None;
        state.lying_sync = false;
    }

    /// Power loss: of everything not synced, `seed` decides what survives. Faults and locks are gone afterwards and
    /// open handles are dead.
    pub fn crash(&self, seed: u64) {
        let mut rng = SplitMix64::new(seed);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        // Swarm style: some crashes lose everything, some nothing, most a part.
        let keep_percent = [0, 100, 10, 50, 90][rng.below(5) as usize];
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.name_changes) {
            if rng.chance(keep_percent) {
                change.apply(&mut names);
            }
        }
        let dirs: BTreeSet<String> = names.iter().filter(|(_, n)| **n == Node::Dir).map(|(p, _)| p.clone()).collect();
        names.retain(|path, _| {
            let mut dir = parent(path);
            while !dir.is_empty() && dirs.contains(dir) {
                dir = parent(dir);
            }
            dir.is_empty()
        });
        for inode in state.inodes.values_mut() {
            inode.crash(&mut rng, keep_percent);
        }
        let alive: BTreeSet<InodeId> =
            names.values().filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None }).collect();
        state.inodes.retain(|id, _| alive.contains(id));
        state.durable_names.clone_from(&names);
        state.names = names;
        state.locks.clear();
        state.generation += 1;
        state.failures.clear();
        state.space_left = None;
        state.lying_sync = false;
    }

    /// The process dies but the machine lives: nothing written is lost; locks and handles are gone.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.locks.clear();
        state.generation += 1;
    }

    /// Flips one bit of a file, in memory and on the platter.
    ///
    /// # Errors
    /// No such file or byte.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(Node::File(id)) = state.names.get(path).copied() else { return Err(not_found(path)) };
        let inode = state.inodes.get_mut(&id).ok_or_else(|| not_found(path))?;
        let at = byte as usize;
        let mask = 1 << (bit % 8);
        *inode.current.get_mut(at).ok_or(io::ErrorKind::InvalidInput)? ^= mask;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= mask;
        }
        Ok(())
    }

    /// Number of syncs of files, directories and the whole disk so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    fn handle(&self, id: InodeId, generation: u64) -> FileRef {
        Arc::new(MemFile { state: Arc::clone(&self.state), id, generation })
    }
}

#[derive(Debug)]
struct MemFile {
    state: Arc<Mutex<State>>,
    id: InodeId,
    generation: u64,
}

impl MemFile {
    fn with<T>(&self, use_it: impl FnOnce(&mut State, &mut Inode) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the handle is older than the last crash"));
        }
        // Taken out and put back, so that counters of the disk and the inode can change together.
        let mut inode = state.inodes.remove(&self.id).ok_or_else(|| io::Error::other("the file is gone"))?;
        let result = use_it(&mut state, &mut inode);
        state.inodes.insert(self.id, inode);
        result
    }
}

impl DiskFile for MemFile {
    fn append(&self, parts: &[&[u8]]) -> io::Result<u64> {
        self.with(|state, inode| {
            state.charge(Operation::Append)?;
            let start = inode.current.len();
            let total: usize = parts.iter().map(|part| part.len()).sum();
            let room = state.space_left.map_or(total, |left| total.min(left as usize));
            let mut rest = room;
            for part in parts {
                let taken = part.len().min(rest);
                inode.current.extend_from_slice(&part[..taken]);
                rest -= taken;
            }
            match inode.dirty.last_mut() {
                Some(last) if last.end == start => last.end = start + room,
                _ => inode.dirty.push(start..start + room),
            }
            if let Some(left) = &mut state.space_left {
                *left -= room as u64;
            }
            if room < total { Err(io::ErrorKind::StorageFull.into()) } else { Ok(start as u64) }
        })
    }

    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        self.with(|state, inode| {
            state.charge(Operation::Read)?;
            let start = usize::try_from(position).unwrap_or(usize::MAX).min(inode.current.len());
            let end = start.saturating_add(len).min(inode.current.len());
            Ok(Bytes::copy_from_slice(&inode.current[start..end]))
        })
    }

    fn len(&self) -> u64 {
        self.with(|_, inode| Ok(inode.current.len() as u64)).unwrap_or(0)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|state, inode| {
            state.charge(Operation::Truncate)?;
            let len = len as usize;
            if len < inode.current.len() {
                inode.current.truncate(len);
                inode.cut_to = Some(inode.cut_to.map_or(len, |cut| cut.min(len)));
                inode.dirty.retain(|range| range.start < len);
                for range in &mut inode.dirty {
                    range.end = range.end.min(len);
                }
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, inode| {
            state.syncs += 1;
            if let Err(error) = state.charge(Operation::Sync) {
                inode.dirty.clear();
                return Err(error);
            }
            if !state.lying_sync {
                inode.sync();
            }
            Ok(())
        })
    }

    fn forget_clean_pages(&self, position: u64) -> io::Result<()> {
        self.with(|_, inode| {
            inode.forget_clean(position as usize);
            Ok(())
        })
    }

    fn preallocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for MemDisk {
    fn create(&self, path: &str) -> io::Result<FileRef> {
        let mut state = self.state.lock();
        state.charge(Operation::Namespace)?;
        state.require_dir(parent(path))?;
        if state.names.get(path) == Some(&Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let generation = state.generation;
        if let Some(Node::File(id)) = state.names.get(path).copied() {
            if let Some(inode) = state.inodes.get_mut(&id) {
                inode.current.clear();
                inode.dirty.clear();
                inode.cut_to = Some(0);
            }
            return Ok(self.handle(id, generation));
        }
        let id = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(id, Inode::default());
        state.change(NameChange::insert(path, Node::File(id)));
        Ok(self.handle(id, generation))
    }

    fn open(&self, path: &str) -> io::Result<FileRef> {
        let state = self.state.lock();
        match state.names.get(path) {
            Some(Node::File(id)) => Ok(self.handle(*id, state.generation)),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(path.is_empty() || self.state.lock().names.contains_key(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        state.require_dir(dir)?;
        let children = state.names.iter().filter(|(path, _)| parent(path) == dir);
        Ok(children
            .map(|(path, node)| DirEntry {
                name: path.rsplit('/').next().unwrap_or(path).to_owned(),
                is_dir: *node == Node::Dir,
            })
            .collect())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge(Operation::Namespace)?;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            match state.names.get(&path[..end]) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => state.change(NameChange::insert(&path[..end], Node::Dir)),
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.require_dir(dir)?;
        state.syncs += 1;
        state.charge(Operation::SyncDir)?;
        if state.lying_sync {
            return Ok(());
        }
        for change in std::mem::take(&mut state.name_changes) {
            if change.touches(dir) {
                change.apply(&mut state.durable_names);
            } else {
                state.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge(Operation::Namespace)?;
        state.require_dir(parent(to))?;
        let node = *state.names.get(from).ok_or_else(|| not_found(from))?;
        let mut along = Vec::new();
        if node == Node::Dir {
            if state.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            for (path, node) in state.below(from) {
                let moved = format!("{to}{}", &path[from.len()..]);
                along.push((path, moved, node));
            }
        }
        state.change(NameChange { remove: Some(from.to_owned()), insert: Some((to.to_owned(), node)), along });
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge(Operation::Namespace)?;
        match state.names.get(path) {
            Some(Node::File(_)) => {
                state.change(NameChange::remove(path));
                Ok(())
            }
            _ => Err(not_found(path)),
        }
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.charge(Operation::Namespace)?;
        state.require_dir(path)?;
        for (below, _) in state.below(path) {
            state.change(NameChange::remove(&below));
        }
        state.change(NameChange::remove(path));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.syncs += 1;
        if let Err(error) = state.charge(Operation::Sync) {
            for inode in state.inodes.values_mut() {
                inode.dirty.clear();
            }
            return Err(error);
        }
        if !state.lying_sync {
            for change in std::mem::take(&mut state.name_changes) {
                change.apply(&mut state.durable_names);
            }
            for inode in state.inodes.values_mut() {
                inode.sync();
            }
        }
        Ok(())
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let state = self.state.lock();
        let used: u64 = state.inodes.values().map(|inode| inode.current.len() as u64).sum();
        let free = state.space_left.unwrap_or(1 << 40);
        Ok(DiskSpace { total: used + free, free })
    }

    fn lock(&self, path: &str) -> Result<DiskLock, LockError> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held { path: path.to_owned(), pid: Some(std::process::id()) });
        }
        Ok(DiskLock::new(MemLock {
            state: Arc::clone(&self.state),
            path: path.to_owned(),
            generation: state.generation,
        }))
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
