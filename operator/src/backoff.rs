//! How long a cluster whose pass failed is left alone: growing with every failure in a row, spread, bounded.
//!
//! Asked by the controller after each pass, per object. A pass that came to its end, even one that waits for something,
//! starts anew. Never longer than a minute: what is cured is noticed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use parking_lot::Mutex;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// The delay after that many failures in a row (1 = the first), within a quarter more or less of the doubled value;
/// which part of it is decided by `salt`.
pub fn delay(failures: u32, salt: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let quarter = whole / 4;
    let spread = quarter.as_millis().saturating_mul(2).max(1);
    let part = u64::try_from(u128::from(salt) % spread).unwrap_or(0);
    (whole - quarter + Duration::from_millis(part)).min(LONGEST)
}

/// The failures in a row of each object. Holds only objects whose last pass failed.
#[derive(Debug)]
pub struct Backoffs<K> {
    failures: Mutex<HashMap<K, u32>>,
    seed: u64,
}

impl<K: Hash + Eq + Clone> Backoffs<K> {
    /// `seed` differs between processes, so that two operators of two clusters do not knock in step.
    pub fn new(seed: u64) -> Self {
        Self { failures: Mutex::new(HashMap::new()), seed }
    }

    /// One more failure: how long to wait.
    pub fn failed(&self, object: &K) -> Duration {
        let count = {
            let mut failures = self.failures.lock();
            let count = failures.entry(object.clone()).or_insert(0);
            *count = count.saturating_add(1);
            *count
        };
        let mut salt = DefaultHasher::new();
        (self.seed, count).hash(&mut salt);
        object.hash(&mut salt);
        delay(count, salt.finish())
    }

    /// The pass came to its end, or the object is gone.
    pub fn forget(&self, object: &K) {
        self.failures.lock().remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_stays_within_its_bounds_whatever_the_salt() {
        for failures in 0..40 {
            for salt in [0, 1, 12_345, u64::MAX / 2, u64::MAX] {
                let delay = delay(failures, salt);
                assert!(delay >= Duration::from_millis(375) && delay <= LONGEST, "{failures}: {delay:?}");
            }
        }
        // Even the longest second delay is shorter than the shortest fourth.
        for (salt, other) in [(0, u64::MAX), (u64::MAX, 0), (7, 999)] {
            assert!(delay(2, salt) < delay(4, other));
        }
    }

    #[test]
    fn two_objects_do_not_wait_equally_long() {
        let backoffs = Backoffs::new(1);
        let delays: std::collections::HashSet<_> = (0..20).map(|n| backoffs.failed(&n)).collect();
        assert!(delays.len() > 5, "{delays:?}");
    }

    #[test]
    fn a_pass_that_comes_to_its_end_starts_anew() {
        let backoffs = Backoffs::new(1);
        for _ in 0..10 {
            backoffs.failed(&"x");
        }
        assert!(backoffs.failed(&"x") > Duration::from_secs(30));
        backoffs.forget(&"x");
        assert!(backoffs.failed(&"x") < Duration::from_secs(1));
    }
}
