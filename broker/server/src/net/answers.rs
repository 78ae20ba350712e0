//! The memory that answers take until their peers have taken them, of one listener.
//!
//! A connection counts its answers in [`Held`] from the moment they are made to the moment they are written. While the
//! listener holds as much as it may, a connection that holds anything starts no further request, and a fetch that is
//! started answers with little ([`AnswerMemory::left`]). So many peers that ask for much and read nothing cost a bounded
//! amount besides one small answer each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of answers that all connections of a listener hold.
#[derive(Debug)]
pub struct AnswerMemory {
    held: AtomicUsize,
    limit: usize,
}

impl AnswerMemory {
    /// Nothing held, `limit` bytes at most.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// How much more may be held.
    #[must_use]
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.held.load(Ordering::Relaxed))
    }
}

/// What one connection holds of it; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<AnswerMemory>,
    bytes: usize,
}

impl Held {
    pub(super) fn new(memory: Arc<AnswerMemory>) -> Self {
        Self { memory, bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether another answer may be added: a connection without any may always have one.
    pub(super) fn has_room(&self) -> bool {
        self.bytes == 0 || self.memory.left() > 0
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}
