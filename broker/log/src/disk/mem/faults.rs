//! What goes wrong on a [`MemDisk`](super::MemDisk), and what work it did.

use std::io;

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
    /// the bytes stay readable, a later sync succeeds, a power loss loses them.
    Fail(Operation, u64),
    /// Every operation fails with an I/O error until the disk is healed.
    Dead,
    /// Only so many more bytes can be written, whatever is removed; the append that exceeds them is torn.
    SpaceLeft(u64),
    /// Every sync answers success and does nothing.
    LyingSync,
    /// The n-th append from now (1 is the next) will, when synced, reach another place of the platter: somewhere in a
    /// file that the seed chooses. Its own place has zeros instead. The cache shows neither until power is lost.
    Misdirect {
        /// Which append.
        nth: u64,
        /// Decides where its bytes go.
        seed: u64,
    },
}

/// Work done by a disk, for whoever charges time for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Appends.
    pub appends: u64,
    /// Bytes appended.
    pub written: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read: u64,
    /// Syncs of files, directories and the whole disk.
    pub syncs: u64,
    /// Creations, renames, removals and truncations.
    pub changes: u64,
}

/// The faults in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    failures: Vec<(Operation, u64)>,
    misdirected: Vec<(u64, u64)>,
    pub(super) space_left: Option<u64>,
    pub(super) lying_sync: bool,
    dead: bool,
    /// Changes until the process stops; the last one does not happen.
    pub(super) stop_in: Option<u64>,
    pub(super) stopped: bool,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Fail(operation, nth) => self.failures.push((operation, nth.max(1))),
            Fault::Dead => self.dead = true,
            Fault::SpaceLeft(bytes) => self.space_left = Some(bytes),
            Fault::LyingSync => self.lying_sync = true,
            Fault::Misdirect { nth, seed } => self.misdirected.push((nth.max(1), seed)),
        }
    }

    /// Counts an operation, which may be the one to fail.
    pub(super) fn charge(&mut self, operation: Operation) -> io::Result<()> {
        if let Some(left) = self.stop_in.as_mut().filter(|_| operation != Operation::Read) {
            *left = left.saturating_sub(1);
            self.stopped |= *left == 0;
        }
        if self.stopped {
            return Err(io::Error::other("the process stops here"));
        }
        let mut failed = self.dead;
        if !self.failures.is_empty() {
            self.failures.retain_mut(|(on, left)| {
                if *on == operation {
                    *left -= 1;
                    failed |= *left == 0;
                }
                *left > 0
            });
        }
        if failed { Err(io::Error::other(format!("injected I/O error on {operation:?}"))) } else { Ok(()) }
    }

    /// Counts an append; the seed of its place if it is the one to miss.
    pub(super) fn stray(&mut self) -> Option<u64> {
        let mut stray = None;
        self.misdirected.retain_mut(|(left, seed)| {
            *left -= 1;
            if *left == 0 {
                stray = Some(*seed);
            }
            *left > 0
        });
        stray
    }
}
