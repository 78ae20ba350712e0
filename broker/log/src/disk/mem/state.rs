//! All of a [`MemDisk`](super::MemDisk) behind its lock.

use std::collections::BTreeSet;
use std::io;

use super::faults::{Cost, Faults, Operation};
use super::inode::{BLOCK, Inode};
use super::names::{InodeId, Names, Node};
use crate::disk::SplitMix64;

/// Space of a disk that was not given any other.
const DEFAULT_CAPACITY: u64 = 1 << 40;

#[derive(Debug, Clone)]
pub(super) struct State {
    inodes: Vec<Option<Inode>>,
    vacant: Vec<InodeId>,
    /// Whether a file lost its name since the last sweep.
    garbage: bool,
    pub(super) names: Names,
    pub(super) locks: BTreeSet<String>,
    /// Grows when the process ends: older handles are dead.
    pub(super) generation: u64,
    pub(super) faults: Faults,
    pub(super) capacity: u64,
    /// Bytes of all files that have a name or a handle.
    pub(super) used: u64,
    pub(super) cost: Cost,
    pub(super) syncs: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            inodes: Vec::new(),
            vacant: Vec::new(),
            garbage: false,
            names: Names::default(),
            locks: BTreeSet::new(),
            generation: 0,
            faults: Faults::default(),
            capacity: DEFAULT_CAPACITY,
            used: 0,
            cost: Cost::default(),
            syncs: 0,
        }
    }
}

pub(super) fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path} does not exist"))
}

impl State {
    pub(super) fn inode(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(id).and_then(Option::as_mut).ok_or_else(|| io::Error::other("the file is gone"))
    }

    pub(super) fn file(&mut self, path: &str) -> io::Result<&mut Inode> {
        match self.names.get(path) {
            Some(Node::File(id)) => self.inode(id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        }
    }

    pub(super) fn require_dir(&self, path: &str) -> io::Result<()> {
        if self.names.is_dir(path) { Ok(()) } else { Err(not_found(path)) }
    }

    pub(super) fn charge_change(&mut self, operation: Operation) -> io::Result<()> {
        self.cost.changes += 1;
        self.faults.charge(operation)
    }

    pub(super) fn count_sync(&mut self) {
        self.cost.syncs += 1;
        self.syncs += 1;
    }

    /// How many of `wanted` bytes still fit.
    pub(super) fn room(&self, wanted: usize) -> usize {
        wanted.min(usize::try_from(self.free()).unwrap_or(usize::MAX))
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used).min(self.faults.space_left.unwrap_or(u64::MAX))
    }

    pub(super) fn add_inode(&mut self) -> InodeId {
        let inode = Some(Inode::named());
        match self.vacant.pop() {
            Some(id) => {
                self.inodes[id] = inode;
                id
            }
            None => {
                self.inodes.push(inode);
                self.inodes.len() - 1
            }
        }
    }

    /// No name leads to the file any more.
    pub(super) fn unlink(&mut self, id: InodeId) {
        self.garbage = true;
        if let Some(inode) = self.inodes.get_mut(id).and_then(Option::as_mut) {
            inode.linked = false;
            if inode.handles == 0 {
                self.used -= inode.len() as u64;
            }
        }
    }

    pub(super) fn close(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(id).and_then(Option::as_mut) {
            inode.handles -= 1;
            if inode.handles == 0 && !inode.linked {
                self.used -= inode.len() as u64;
            }
        }
    }

    /// Frees files that nobody can reach, now or after a power loss.
    fn sweep(&mut self) {
        if !self.garbage {
            return;
        }
        let mut reachable = vec![false; self.inodes.len()];
        self.names.each_file(|id| reachable[id] = true);
        self.garbage = false;
        for (id, slot) in self.inodes.iter_mut().enumerate() {
            let Some(inode) = slot.as_ref().filter(|_| !reachable[id]) else { continue };
            if inode.handles > 0 {
                self.garbage = true;
            } else {
                *slot = None;
                self.vacant.push(id);
            }
        }
    }

    pub(super) fn sync_names(&mut self, dir: &str) {
        self.names.sync(Some(dir));
        self.sweep();
    }

    pub(super) fn sync_everything(&mut self) -> io::Result<()> {
        self.names.sync(None);
        for id in 0..self.inodes.len() {
            if self.inodes[id].is_some() {
                self.sync_inode(id)?;
            }
        }
        self.sweep();
        Ok(())
    }

    pub(super) fn all_inodes(&mut self) -> impl Iterator<Item = &mut Inode> {
        self.inodes.iter_mut().flatten()
    }

    pub(super) fn len_of(&self, id: InodeId) -> u64 {
        self.inodes.get(id).and_then(Option::as_ref).map_or(0, |inode| inode.len() as u64)
    }

    pub(super) fn memory(&self) -> u64 {
        self.inodes.iter().flatten().map(|inode| inode.held() as u64).sum()
    }

    pub(super) fn sync_inode(&mut self, id: InodeId) -> io::Result<()> {
        if let Some((bytes, seed)) = self.inode(id)?.sync() {
            self.misdirect(&bytes, seed);
        }
        Ok(())
    }

    /// Writes what missed its place into a block of another one. Not where both begin with the same offset: a record batch
    /// does not name its partition, so a whole one in the place of another partition's is beyond anybody's notice.
    fn misdirect(&mut self, bytes: &[u8], seed: u64) {
        let mut rng = SplitMix64::new(seed);
        let mut targets: Vec<&mut Inode> =
            self.inodes.iter_mut().flatten().filter(|inode| inode.linked && inode.platter_len() > 0).collect();
        let chosen = rng.below(targets.len() as u64) as usize;
        if let Some(target) = targets.get_mut(chosen) {
            let blocks = target.platter_len().div_ceil(BLOCK) as u64;
            let place = rng.below(blocks) as usize * BLOCK;
            if !target.begins_alike(place, bytes) {
                target.overwrite_platter(place, bytes);
            }
        }
    }

    /// The process is gone, and with it what it held.
    pub(super) fn end_process(&mut self) {
        self.locks.clear();
        self.generation += 1;
        (self.faults.stop_in, self.faults.stopped) = (None, false);
        self.all_inodes().for_each(|inode| inode.handles = 0);
        self.sweep();
        self.recount();
    }

    pub(super) fn lose_power(&mut self, rng: &mut SplitMix64) {
        // Swarm style: some crashes lose everything, some nothing, most a part.
        let keep_percent = [0, 100, 10, 50, 90][rng.below(5) as usize];
        self.names.lose_power(rng, keep_percent);
        for inode in self.inodes.iter_mut().flatten() {
            inode.lose_power(rng, keep_percent);
            inode.linked = false;
        }
        let Self { names, inodes, .. } = self;
        names.each_file(|id| inodes[id].as_mut().into_iter().for_each(|inode| inode.linked = true));
        self.garbage = true;
        self.end_process();
        self.faults = Faults::default();
    }

    pub(super) fn wipe(&mut self) {
        *self = Self { generation: self.generation + 1, capacity: self.capacity, ..Self::default() };
    }

    /// Counts the bytes in use anew.
    pub(super) fn recount(&mut self) {
        let used = self.inodes.iter().flatten().filter(|inode| inode.linked || inode.handles > 0);
        self.used = used.map(|inode| inode.len() as u64).sum();
    }
}
