//! The bytes of one file: what the page cache shows, and what the platter has.
//!
//! The two agree on a prefix, nearly always on everything that was synced, so only the difference is kept twice: an
//! append and a sync cost what they add and nothing that was there before. The difference is what was cut or written
//! since the last sync, what a failed sync lost, and what a misdirected write damaged.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::SplitMix64;

/// Unit in which a power loss keeps or loses bytes.
pub(super) const BLOCK: usize = 512;

/// A file. Clones share the cached bytes until one of them changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    /// What readers see.
    cache: Arc<Vec<u8>>,
    /// The platter has the same bytes up to here …
    same: usize,
    /// … and these behind.
    tail: Vec<u8>,
    /// Written since the last sync. What differs from the platter outside of these was lost or damaged.
    dirty: Vec<Range<usize>>,
    /// Smallest length the file was cut to since the last sync.
    cut_to: Option<usize>,
    /// A dirty range that the next sync writes to another place, which the seed chooses.
    stray: Option<(Range<usize>, u64)>,
    /// Open handles.
    pub(super) handles: usize,
    /// Whether a name leads here.
    pub(super) linked: bool,
}

impl Inode {
    /// An empty file that has a name.
    pub(super) fn named() -> Self {
        Self { linked: true, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn platter_len(&self) -> usize {
        self.same + self.tail.len()
    }

    /// Memory taken.
    pub(super) fn held(&self) -> usize {
        self.cache.len() + self.tail.len()
    }

    pub(super) fn bytes(&self, position: u64, len: usize) -> &[u8] {
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.cache.len());
        &self.cache[start..start.saturating_add(len).min(self.cache.len())]
    }

    /// Appends up to `room` bytes of the parts. `stray` is the seed of a write that will miss its place.
    pub(super) fn append(&mut self, parts: &[&[u8]], room: usize, stray: Option<u64>) {
        let start = self.cache.len();
        let cache = Arc::make_mut(&mut self.cache);
        let mut rest = room;
        for part in parts {
            let taken = part.len().min(rest);
            cache.extend_from_slice(&part[..taken]);
            rest -= taken;
        }
        let end = cache.len();
        match self.dirty.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ if end > start => self.dirty.push(start..end),
            _ => {}
        }
        if let Some(seed) = stray.filter(|_| end > start) {
            self.stray = Some((start..end, seed));
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        if len >= self.cache.len() {
            return;
        }
        self.part_from(len);
        Arc::make_mut(&mut self.cache).truncate(len);
        self.cut_to = Some(self.cut_to.map_or(len, |cut| cut.min(len)));
        self.forget_dirty_from(len);
    }

    fn forget_dirty_from(&mut self, len: usize) {
        self.dirty.retain(|range| range.start < len);
        for range in &mut self.dirty {
            range.end = range.end.min(len);
        }
    }

    /// From `at` on the two are kept apart.
    fn part_from(&mut self, at: usize) {
        if at < self.same {
            let mut tail = self.cache[at..self.same].to_vec();
            tail.append(&mut self.tail);
            self.tail = tail;
            self.same = at;
        }
    }

    /// Makes everything durable. Returns what went elsewhere instead: the bytes, and the seed of the place.
    pub(super) fn sync(&mut self) -> Option<(Vec<u8>, u64)> {
        if let Some(cut) = self.cut_to.take() {
            self.tail.truncate(cut.saturating_sub(self.same));
        }
        let stray = self.stray.take();
        let mut dirty = std::mem::take(&mut self.dirty);
        for range in dirty.drain(..) {
            self.write_back(&range);
        }
        // Put back, so that a sync does not cost an allocation.
        self.dirty = dirty;
        let (range, seed) = stray?;
        let range = range.start..range.end.min(self.cache.len());
        if range.is_empty() {
            return None;
        }
        let bytes = self.cache[range.clone()].to_vec();
        // Its own place keeps what was there: nothing.
        self.overwrite_platter(range.start, &vec![0; bytes.len()]);
        Some((bytes, seed))
    }

    fn write_back(&mut self, range: &Range<usize>) {
        let end = range.end.min(self.cache.len());
        if range.start >= end {
            return;
        }
        if range.start <= self.same {
            // Nothing lies between: the common prefix grows.
            let covered = end.saturating_sub(self.same).min(self.tail.len());
            self.tail.drain(..covered);
            self.same = self.same.max(end);
            return;
        }
        let (from, to) = (range.start - self.same, end - self.same);
        if self.tail.len() < to {
            self.tail.resize(to, 0);
        }
        self.tail[from..to].copy_from_slice(&self.cache[range.start..end]);
    }

    /// Writes to the platter behind the cache's back, within what is there.
    pub(super) fn overwrite_platter(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len()).min(self.platter_len());
        if at < end {
            self.part_from(at);
            self.tail[at - self.same..end - self.same].copy_from_slice(&bytes[..end - at]);
        }
    }

    /// Whether the platter holds the same first bytes there as `bytes` has.
    pub(super) fn begins_alike(&self, at: usize, bytes: &[u8]) -> bool {
        let length = 8.min(bytes.len());
        let end = at + length;
        let platter = |place: usize| if place < self.same { self.cache[place] } else { self.tail[place - self.same] };
        end <= self.platter_len() && (at..end).zip(bytes).all(|(place, byte)| platter(place) == *byte)
    }

    /// A sync failed: the kernel takes the pages for clean.
    pub(super) fn forget_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Shows the platter where the cache believes to be clean.
    pub(super) fn forget_clean(&mut self, from: usize) {
        let from = from.max(self.same);
        if from >= self.cache.len() {
            return;
        }
        let cut = self.cut_to.unwrap_or(usize::MAX);
        let cache = Arc::make_mut(&mut self.cache);
        for (at, byte) in cache.iter_mut().enumerate().skip(from) {
            if !self.dirty.iter().any(|range| range.contains(&at)) {
                *byte = self.tail.get(at - self.same).copied().filter(|_| at < cut).unwrap_or(0);
            }
        }
    }

    /// Power is lost: of what was not synced, each block survives, is torn or is lost.
    pub(super) fn lose_power(&mut self, rng: &mut SplitMix64, keep_percent: u64) {
        self.stray = None;
        if let Some(cut) = self.cut_to.take()
            && rng.chance(keep_percent)
        {
            self.tail.truncate(cut.saturating_sub(self.same));
        }
        for range in std::mem::take(&mut self.dirty) {
            let mut at = range.start;
            let end = range.end.min(self.cache.len());
            while at < end {
                let next = (at / BLOCK * BLOCK + BLOCK).min(end);
                let kept = match rng.below(100) {
                    draw if draw < keep_percent => next,
                    draw if draw % 10 == 9 => at + rng.below((next - at) as u64) as usize,
                    _ => at,
                };
                self.write_back(&(at..kept));
                at = next;
            }
        }
        if self.same < self.cache.len() || !self.tail.is_empty() {
            let cache = Arc::make_mut(&mut self.cache);
            cache.truncate(self.same);
            cache.append(&mut self.tail);
            self.same = cache.len();
        }
    }

    /// Flips a bit, in the cache and on the platter. False if there is no such byte.
    pub(super) fn flip_bit(&mut self, at: usize, bit: u8) -> bool {
        let mask = 1 << (bit % 8);
        let Some(byte) = Arc::make_mut(&mut self.cache).get_mut(at) else { return false };
        *byte ^= mask;
        if let Some(byte) = at.checked_sub(self.same).and_then(|at| self.tail.get_mut(at)) {
            *byte ^= mask;
        }
        true
    }

    /// Loses the end, in the cache and on the platter.
    pub(super) fn lose_end(&mut self, len: usize) {
        self.tail.truncate(len.saturating_sub(self.same));
        self.same = self.same.min(len);
        Arc::make_mut(&mut self.cache).truncate(len);
        self.forget_dirty_from(len);
    }
}
