//! How fast this broker copies replicas that are not in sync: the settings of [`chronik_core::controller::throttle`].
//!
//! The manager hands over the rates and what topics list; the fetchers ask before they name a partition in a request,
//! the leader's side before it reads for a follower. Each rate is a bucket that fills with time and holds one second's
//! worth at most; what was copied is taken out afterwards, so that it may be in debt, and the rate is kept on average
//! whatever the size of a batch. What never happens: an in-sync replica waits here.

use std::sync::atomic::{AtomicU8, Ordering};

use chronik_core::controller::Topic;
use chronik_core::controller::throttle::{FOLLOWER_REPLICAS, LEADER_REPLICAS, ReplicationRates};
use chronik_model::{NodeId, PartitionIndex};
use parking_lot::Mutex;

use super::partition::Partition;

/// Least bytes asked for at a time, so that a slow rate does not mean many small requests.
const LEAST_BYTES: u64 = 16 * 1024;
/// Whoever waits for its turn looks again after this at the latest: the rate may have been changed.
const LONGEST_WAIT_MS: u64 = 500;
/// ... and not before this.
const SHORTEST_WAIT_MS: u64 = 10;

/// What a topic says of one of its partitions here.
#[derive(Debug, Default)]
pub(super) struct Listed(AtomicU8);

impl Listed {
    const AS_LEADER: u8 = 1;
    const AS_FOLLOWER: u8 = 2;

    /// Follows the settings of the topic.
    pub(super) fn set(&self, topic: &Topic, partition: PartitionIndex, me: NodeId) {
        let flag = |setting, flag| if topic.lists_throttled(setting, partition, me) { flag } else { 0 };
        let flags = flag(LEADER_REPLICAS, Self::AS_LEADER) | flag(FOLLOWER_REPLICAS, Self::AS_FOLLOWER);
        self.0.store(flags, Ordering::Relaxed);
    }

    fn has(&self, flag: u8) -> bool {
        self.0.load(Ordering::Relaxed) & flag != 0
    }
}

#[derive(Debug, Default)]
struct State {
    /// Bytes per second; `None` = unlimited.
    rate: Option<u64>,
    /// Thousandths of bytes, so that a slow rate fills it in whole numbers too.
    balance: i128,
    at_ms: u64,
}

/// One rate.
#[derive(Debug, Default)]
struct Bucket(Mutex<State>);

impl Bucket {
    fn set(&self, rate: Option<u64>, now_ms: u64) {
        let mut state = self.0.lock();
        if state.rate != rate {
            *state = State { rate, balance: 0, at_ms: now_ms };
        }
    }

    /// The rate, and what may be copied now; `None` without a limit.
    fn look(&self, now_ms: u64) -> Option<(u64, i128)> {
        let mut state = self.0.lock();
        let rate = state.rate?;
        let passed = now_ms.saturating_sub(state.at_ms);
        let full = i128::from(rate) * 1000;
        state.balance = (state.balance + i128::from(rate) * i128::from(passed)).min(full);
        state.at_ms = state.at_ms.max(now_ms);
        Some((rate, state.balance / 1000))
    }

    fn take(&self, bytes: u64) {
        let mut state = self.0.lock();
        if state.rate.is_some() {
            state.balance -= i128::from(bytes) * 1000;
        }
    }
}

/// Whether a partition may be copied now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// As much as ever.
    Free,
    /// At most so many bytes at once.
    Some(u64),
    /// Not before so many milliseconds.
    Later(u64),
}

/// What was granted to others of the same request and is not copied yet.
#[derive(Debug, Default)]
pub(super) struct Granted {
    follower: u64,
    reassignment: u64,
}

/// The rates of this broker.
#[derive(Debug, Default)]
pub(super) struct Throttles {
    leader: Bucket,
    follower: Bucket,
    reassignment: Bucket,
}

fn turn(bucket: &Bucket, granted: u64, now_ms: u64) -> Turn {
    let Some((rate, balance)) = bucket.look(now_ms) else { return Turn::Free };
    let left = balance - i128::from(granted);
    if left > 0 {
        return Turn::Some((rate / 4).max(LEAST_BYTES));
    }
    let wait_ms = left.unsigned_abs() * 1000 / u128::from(rate.max(1));
    Turn::Later(u64::try_from(wait_ms).unwrap_or(u64::MAX).clamp(SHORTEST_WAIT_MS, LONGEST_WAIT_MS))
}

impl Throttles {
    /// Follows the settings.
    pub(super) fn set(&self, rates: ReplicationRates, now_ms: u64) {
        self.leader.set(rates.leader, now_ms);
        self.follower.set(rates.follower, now_ms);
        self.reassignment.set(rates.reassignment, now_ms);
    }

    fn follower_buckets(&self, partition: &Partition, me: NodeId) -> [Option<&Bucket>; 2] {
        let (follower, reassignment) = (self.follower.is_set(), self.reassignment.is_set());
        if !follower && !reassignment {
            return [None, None];
        }
        let Some(membership) = partition.membership(me) else { return [None, None] };
        if membership.in_sync {
            return [None, None];
        }
        let listed = follower && partition.listed.has(Listed::AS_FOLLOWER);
        let added = reassignment && membership.being_added;
        [listed.then_some(&self.follower), added.then_some(&self.reassignment)]
    }

    /// Whether the follower `me` may ask for `partition` now. `granted` is what the request holds already.
    pub(super) fn follower_turn(&self, partition: &Partition, me: NodeId, granted: &mut Granted, now_ms: u64) -> Turn {
        let [follower, reassignment] = self.follower_buckets(partition, me);
        let turns = [
            follower.map_or(Turn::Free, |bucket| turn(bucket, granted.follower, now_ms)),
            reassignment.map_or(Turn::Free, |bucket| turn(bucket, granted.reassignment, now_ms)),
        ];
        let strictest = turns.into_iter().fold(Turn::Free, Turn::stricter);
        if let Turn::Some(bytes) = strictest {
            granted.follower += follower.map_or(0, |_| bytes);
            granted.reassignment += reassignment.map_or(0, |_| bytes);
        }
        strictest
    }

    /// The follower `me` copied so much of `partition`. Asked before the log end moves on: who joins by it has copied it.
    pub(super) fn followed(&self, partition: &Partition, me: NodeId, bytes: u64) {
        for bucket in self.follower_buckets(partition, me).into_iter().flatten() {
            bucket.take(bytes);
        }
    }

    /// Whether the leader may send to `follower` of `partition` now.
    pub(super) fn leader_turn(&self, partition: &Partition, follower: NodeId, now_ms: u64) -> Turn {
        let applies = self.leader.is_set()
            && partition.listed.has(Listed::AS_LEADER)
            && partition.membership(follower).is_some_and(|membership| !membership.in_sync);
        if applies { turn(&self.leader, 0, now_ms) } else { Turn::Free }
    }

    /// The leader sent so much of what is throttled.
    pub(super) fn sent(&self, bytes: u64) {
        self.leader.take(bytes);
    }
}

impl Bucket {
    fn is_set(&self) -> bool {
        self.0.lock().rate.is_some()
    }
}

impl Turn {
    fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Later(one), Self::Later(two)) => Self::Later(one.max(two)),
            (Self::Later(wait), _) | (_, Self::Later(wait)) => Self::Later(wait),
            (Self::Some(one), Self::Some(two)) => Self::Some(one.min(two)),
            (Self::Some(bytes), Self::Free) | (Self::Free, Self::Some(bytes)) => Self::Some(bytes),
            (Self::Free, Self::Free) => Self::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_average_whatever_the_size_of_a_batch() {
        let bucket = Bucket::default();
        assert_eq!(turn(&bucket, 0, 0), Turn::Free);
        bucket.set(Some(100_000), 0);
        let (mut copied, mut now_ms) = (0_u64, 0_u64);
        while now_ms < 60_000 {
            match turn(&bucket, 0, now_ms) {
                Turn::Some(_) => {
                    bucket.take(1_000_000);
                    copied += 1_000_000;
                }
                Turn::Later(wait) => now_ms += wait,
                Turn::Free => panic!("there is a limit"),
            }
        }
        assert!((6_000_000..=7_000_000).contains(&copied), "{copied}");
    }

    #[test]
    fn time_without_copying_saves_up_one_second_only() {
        let bucket = Bucket::default();
        bucket.set(Some(1000), 0);
        assert_eq!(bucket.look(3_600_000), Some((1000, 1000)));
        bucket.take(1000);
        assert_eq!(turn(&bucket, 0, 3_600_000), Turn::Later(SHORTEST_WAIT_MS));
        // The same rate again changes nothing, another one begins anew.
        bucket.set(Some(1000), 3_600_500);
        assert_eq!(bucket.look(3_600_500), Some((1000, 500)));
        bucket.set(None, 3_600_500);
        assert_eq!(turn(&bucket, 0, 3_600_500), Turn::Free);
    }

    #[test]
    fn what_a_request_was_granted_is_not_granted_twice() {
        let bucket = Bucket::default();
        bucket.set(Some(1_000_000), 0);
        assert_eq!(turn(&bucket, 0, 100), Turn::Some(250_000));
        assert_eq!(turn(&bucket, 250_000, 100), Turn::Later(150));
    }

    #[test]
    fn the_stricter_of_two_turns_counts() {
        assert_eq!(Turn::Free.stricter(Turn::Some(3)), Turn::Some(3));
        assert_eq!(Turn::Some(3).stricter(Turn::Some(2)), Turn::Some(2));
        assert_eq!(Turn::Later(3).stricter(Turn::Some(2)), Turn::Later(3));
        assert_eq!(Turn::Later(3).stricter(Turn::Later(5)), Turn::Later(5));
    }
}
