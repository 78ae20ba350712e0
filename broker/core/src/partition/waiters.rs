//! Waiting as data: requests parked in a partition until a position moves.
//!
//! The owner of a partition parks a token here under the partition's lock, and under the same lock releases tokens when
//! an effect says that a position moved or that leadership ended. Nothing here sleeps: `next_deadline` says when to call
//! `expire`. Both collections are bounded: a full one hands the token back and the request is refused. A token is
//! released exactly once.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::Offset;

/// Name of a parked token, to take it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WaiterKey {
    position: Offset,
    sequence: u64,
}

/// Tokens ordered by the position that releases them, with a second order by deadline.
#[derive(Debug)]
struct Parked<T> {
    by_position: BTreeMap<WaiterKey, (u64, T)>,
    by_deadline: BTreeSet<(u64, WaiterKey)>,
    next_sequence: u64,
    limit: usize,
}

impl<T> Parked<T> {
    fn with_limit(limit: usize) -> Self {
        Self { by_position: BTreeMap::new(), by_deadline: BTreeSet::new(), next_sequence: 0, limit }
    }

    fn push(&mut self, position: Offset, deadline_ms: u64, token: T) -> Result<WaiterKey, T> {
        if self.by_position.len() >= self.limit {
            return Err(token);
        }
        let key = WaiterKey { position, sequence: self.next_sequence };
        self.next_sequence += 1;
        self.by_position.insert(key, (deadline_ms, token));
        self.by_deadline.insert((deadline_ms, key));
        Ok(key)
    }

    fn take(&mut self, key: WaiterKey) -> Option<T> {
        let (deadline_ms, token) = self.by_position.remove(&key)?;
        self.by_deadline.remove(&(deadline_ms, key));
        Some(token)
    }

    /// Everything that waits for `position` or less, in that order.
    fn release(&mut self, position: Offset) -> Vec<T> {
        let mut released = Vec::new();
        while let Some(entry) = self.by_position.first_entry() {
            if entry.key().position > position {
                break;
            }
            let (key, (deadline_ms, token)) = entry.remove_entry();
            self.by_deadline.remove(&(deadline_ms, key));
            released.push(token);
        }
        released
    }

    /// Everything whose deadline is `now_ms` or earlier, in that order.
    fn expire(&mut self, now_ms: u64) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some((deadline_ms, key)) = self.by_deadline.first().copied() {
            if deadline_ms > now_ms {
                break;
            }
            self.by_deadline.pop_first();
            expired.extend(self.by_position.remove(&key).map(|(_, token)| token));
        }
        expired
    }

    fn drain(&mut self) -> Vec<T> {
        self.by_deadline.clear();
        std::mem::take(&mut self.by_position).into_values().map(|(_, token)| token).collect()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.by_deadline.first().map(|(deadline_ms, _)| *deadline_ms)
    }
}

/// Produces with acks=all that wait for the high watermark.
#[derive(Debug)]
pub struct AckWaiters<T>(Parked<T>);

impl<T> AckWaiters<T> {
    /// Holds at most `limit` tokens.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self(Parked::with_limit(limit))
    }

    /// Parks a produce until the high watermark is at least `required` (the offset after its last record).
    ///
    /// # Errors
    /// Gives the token back when the limit is reached.
    pub fn push(&mut self, required: Offset, deadline_ms: u64, token: T) -> Result<WaiterKey, T> {
        self.0.push(required, deadline_ms, token)
    }

    /// The high watermark is `high_watermark` now: tokens to answer, in offset order. Whether each answer is a success
    /// says `PartitionReplica::ack_state`.
    #[must_use]
    pub fn release(&mut self, high_watermark: Offset) -> Vec<T> {
        self.0.release(high_watermark)
    }

    /// Tokens to answer with a timeout. Their records stay in the log and may still be replicated.
    #[must_use]
    pub fn expire(&mut self, now_ms: u64) -> Vec<T> {
        self.0.expire(now_ms)
    }

    /// All tokens, to answer with one error: leadership ended.
    #[must_use]
    pub fn fail_all(&mut self) -> Vec<T> {
        self.0.drain()
    }

    /// Takes one token back: its connection closed.
    pub fn cancel(&mut self, key: WaiterKey) -> Option<T> {
        self.0.take(key)
    }

    /// When `expire` has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.next_deadline()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.by_position.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which position a parked fetch looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FetchPosition {
    /// Consumers see records below the high watermark.
    HighWatermark,
    /// Followers see the whole log.
    LogEnd,
}

/// Name of a parked fetch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FetchWaiterKey {
    position: FetchPosition,
    key: WaiterKey,
}

/// Long polls that wait for more records. A fetch of several partitions parks one token in each and cancels the others
/// when one of them wakes it.
#[derive(Debug)]
pub struct FetchWaiters<T> {
    consumers: Parked<T>,
    followers: Parked<T>,
}

impl<T> FetchWaiters<T> {
    /// Holds at most `limit` tokens of consumers and as many of followers.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { consumers: Parked::with_limit(limit), followers: Parked::with_limit(limit) }
    }

    /// Parks a fetch until `position` is at least `wake_at`. For "any record after `offset`" that is `offset + 1`;
    /// a larger value is an estimate for a fetch with min_bytes.
    ///
    /// # Errors
    /// Gives the token back when the limit is reached.
    pub fn push(
        &mut self,
        position: FetchPosition,
        wake_at: Offset,
        deadline_ms: u64,
        token: T,
    ) -> Result<FetchWaiterKey, T> {
        let key = self.of(position).push(wake_at, deadline_ms, token)?;
        Ok(FetchWaiterKey { position, key })
    }

    /// The high watermark or the log end moved: tokens to look at again.
    #[must_use]
    pub fn release(&mut self, position: FetchPosition, offset: Offset) -> Vec<T> {
        self.of(position).release(offset)
    }

    /// Tokens to answer with what there is.
    #[must_use]
    pub fn expire(&mut self, now_ms: u64) -> Vec<T> {
        let mut expired = self.consumers.expire(now_ms);
        expired.append(&mut self.followers.expire(now_ms));
        expired
    }

    /// All tokens: leadership changed, so each must be looked at again or refused.
    #[must_use]
    pub fn fail_all(&mut self) -> Vec<T> {
        let mut failed = self.consumers.drain();
        failed.append(&mut self.followers.drain());
        failed
    }

    /// Takes one token back.
    pub fn cancel(&mut self, key: FetchWaiterKey) -> Option<T> {
        self.of(key.position).take(key.key)
    }

    /// When `expire` has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.consumers.next_deadline().into_iter().chain(self.followers.next_deadline()).min()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.consumers.by_position.len() + self.followers.by_position.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn of(&mut self, position: FetchPosition) -> &mut Parked<T> {
        match position {
            FetchPosition::HighWatermark => &mut self.consumers,
            FetchPosition::LogEnd => &mut self.followers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_releases_what_it_reached_in_offset_order() {
        let mut waiters = AckWaiters::with_limit(8);
        for (required, token) in [(30, "c"), (10, "a"), (20, "b"), (10, "a2")] {
            waiters.push(Offset(required), 1_000, token).unwrap();
        }
        assert_eq!(waiters.release(Offset(9)), Vec::<&str>::new());
        assert_eq!(waiters.release(Offset(20)), ["a", "a2", "b"]);
        assert_eq!(waiters.release(Offset(20)), Vec::<&str>::new(), "released once");
        assert_eq!(waiters.expire(1_000), ["c"]);
        assert!(waiters.is_empty());
        assert_eq!(waiters.next_deadline(), None);
    }

    #[test]
    fn a_deadline_takes_only_what_is_due_and_never_what_was_released() {
        let mut waiters = AckWaiters::with_limit(8);
        waiters.push(Offset(1), 300, "late").unwrap();
        waiters.push(Offset(2), 100, "first").unwrap();
        waiters.push(Offset(3), 200, "second").unwrap();
        assert_eq!(waiters.next_deadline(), Some(100));
        assert_eq!(waiters.expire(99), Vec::<&str>::new());
        assert_eq!(waiters.release(Offset(1)), ["late"]);
        assert_eq!(waiters.expire(10_000), ["first", "second"]);
    }

    #[test]
    fn a_full_partition_hands_the_token_back() {
        let mut waiters = AckWaiters::with_limit(1);
        let key = waiters.push(Offset(1), 100, "in").unwrap();
        assert_eq!(waiters.push(Offset(1), 100, "out"), Err("out"));
        assert_eq!(waiters.cancel(key), Some("in"));
        assert_eq!(waiters.cancel(key), None);
        assert!(waiters.push(Offset(1), 100, "out").is_ok());
    }

    #[test]
    fn followers_wake_on_the_log_end_and_consumers_on_the_watermark() {
        let mut waiters = FetchWaiters::with_limit(8);
        waiters.push(FetchPosition::HighWatermark, Offset(6), 500, "consumer").unwrap();
        let key = waiters.push(FetchPosition::LogEnd, Offset(6), 400, "follower").unwrap();
        assert_eq!(waiters.next_deadline(), Some(400));
        assert_eq!(waiters.release(FetchPosition::LogEnd, Offset(6)), ["follower"]);
        assert_eq!(waiters.cancel(key), None);
        assert_eq!(waiters.len(), 1, "the log end does not show records to consumers");
        assert_eq!(waiters.release(FetchPosition::HighWatermark, Offset(6)), ["consumer"]);
    }

    #[test]
    fn the_end_of_a_leadership_empties_everything() {
        let mut waiters = FetchWaiters::with_limit(8);
        waiters.push(FetchPosition::HighWatermark, Offset(6), 500, 1).unwrap();
        waiters.push(FetchPosition::LogEnd, Offset(6), 400, 2).unwrap();
        assert_eq!(waiters.fail_all(), [1, 2]);
        assert!(waiters.is_empty());
        assert_eq!(waiters.expire(u64::MAX), Vec::<i32>::new());
    }
}
