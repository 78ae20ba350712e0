//! Partitions that a fetcher leaves alone for a while after something went wrong with them.
//!
//! Owned by one fetcher. A pause grows with every failure in a row; what it grew to is remembered beyond its end, until the
//! partition is answered well. A pause that ended is reported once: what is reported again and again would make the fetcher ask
//! again and again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
struct Pause {
    /// When it ends; `None` when it has ended and that was reported.
    until: Option<Instant>,
    length: Duration,
}

/// The pauses of one fetcher.
#[derive(Debug)]
pub(super) struct Pauses<K> {
    longest: Duration,
    of: HashMap<K, Pause>,
}

impl<K: Copy + Eq + Hash> Pauses<K> {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, of: HashMap::new() }
    }

    /// Another failure: `first` long, or twice as long as the last time.
    pub(super) fn begin(&mut self, key: K, first: Duration, now: Instant) {
        let length = self.of.get(&key).map_or(first, |pause| pause.length * 2).min(self.longest);
        self.of.insert(key, Pause { until: Some(now + length), length });
    }

    /// It works again, or is nobody's business any more.
    pub(super) fn forget(&mut self, key: &K) {
        self.of.remove(key);
    }

    pub(super) fn is_on(&self, key: &K, now: Instant) -> bool {
        self.of.get(key).and_then(|pause| pause.until).is_some_and(|until| until > now)
    }

    /// Those whose pause has ended since the last call.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<K> {
        let over = self.of.iter_mut().filter(|(_, pause)| pause.until.is_some_and(|until| until <= now));
        over.map(|(key, pause)| {
            pause.until = None;
            *key
        })
        .collect()
    }

    /// When the next one ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.of.values().filter_map(|pause| pause.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(10);

    #[test]
    fn a_pause_that_ended_is_reported_once_and_still_counts_for_the_next_one() {
        let start = Instant::now();
        let mut pauses = Pauses::new(Duration::from_millis(35));
        pauses.begin('a', FIRST, start);
        assert!(pauses.is_on(&'a', start) && pauses.next() == Some(start + FIRST));
        assert!(pauses.ended(start).is_empty());
        let later = start + FIRST;
        assert_eq!(pauses.ended(later), ['a']);
        assert!(pauses.ended(later).is_empty() && pauses.next().is_none() && !pauses.is_on(&'a', later));
        pauses.begin('a', FIRST, later);
        assert_eq!(pauses.next(), Some(later + FIRST * 2), "twice as long");
        pauses.begin('a', FIRST, later);
        assert_eq!(pauses.next(), Some(later + Duration::from_millis(35)), "but no longer than the longest");
        pauses.forget(&'a');
        pauses.begin('a', FIRST, later);
        assert_eq!(pauses.next(), Some(later + FIRST), "as if nothing had been");
    }
}
