//! Which replica of the operator works: a Lease of `coordination.k8s.io`, held by one of them.
//!
//! `decide` is the whole judgement: what to do with the Lease as it was seen, on this process's own clock. [`elector`]
//! reads and writes it. `main` starts the elector, waits until this replica leads, starts the controller, and ends the
//! process when leadership is lost.
//!
//! A Lease is no fence: an operator that was stopped for a minute may finish the request it was sending. Every change
//! is therefore server-side applied or carries a precondition, and [`Fence`] refuses to begin one after the time for
//! which this replica knows that it leads. No clock of another machine is ever compared with ours: a holder is given
//! up when its record has not *changed* for its duration, as seen from here.

pub mod elector;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How a Lease is held.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// After this long without a change anybody may take it.
    pub duration: Duration,
    /// After this long without a successful renewal its holder gives up. Well below `duration`.
    pub renew_deadline: Duration,
    /// Between two looks at it.
    pub period: Duration,
}

impl Terms {
    pub fn of(duration: Duration) -> Self {
        Self { duration, renew_deadline: duration * 2 / 3, period: duration / 7 }
    }
}

/// What the Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Empty: released.
    pub holder: String,
    /// How long its holder asked others to wait.
    pub duration: Duration,
    pub transitions: i32,
    /// The API server's version of the object: changes with every write to it.
    pub version: String,
}

/// The Lease as this process has seen it change.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    record: Option<Record>,
    changed_at: Option<Instant>,
}

impl Observed {
    /// A look at the Lease; `None` = there is none.
    pub fn see(&mut self, record: Option<Record>, now: Instant) {
        if self.record != record || self.changed_at.is_none() {
            self.record = record;
            self.changed_at = Some(now);
        }
    }

    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }
}

/// What to do with the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create,
    /// It is ours: show that we live.
    Renew,
    /// Nobody's, or its holder has been silent for too long.
    Take {
        transitions: i32,
    },
    /// Another replica's, which lives.
    Wait {
        holder: String,
    },
}

pub fn decide(me: &str, observed: &Observed, now: Instant) -> Step {
    let Some(record) = &observed.record else { return Step::Create };
    if record.holder == me {
        return Step::Renew;
    }
    let transitions = record.transitions.saturating_add(1);
    if record.holder.is_empty() {
        return Step::Take { transitions };
    }
    let silent = observed.changed_at.map_or(Duration::ZERO, |changed| now.saturating_duration_since(changed));
    if silent >= record.duration { Step::Take { transitions } } else { Step::Wait { holder: record.holder.clone() } }
}

/// What this replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Not the one that works; who is, as far as known.
    Standby {
        leader: Option<String>,
    },
    Leader,
    /// Was leader, is no more, and never will be again in this process.
    Lost,
}

/// Until when this replica may begin a write.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<Mutex<Option<Until>>>);

#[derive(Debug, Clone, Copy)]
enum Until {
    Instant(Instant),
    Always,
}

impl Fence {
    /// For a process that works without a Lease.
    pub fn open() -> Self {
        Self(Arc::new(Mutex::new(Some(Until::Always))))
    }

    pub fn extend(&self, until: Instant) {
        *self.0.lock() = Some(Until::Instant(until));
    }

    pub fn close(&self) {
        *self.0.lock() = None;
    }

    pub fn holds(&self, now: Instant) -> bool {
        match *self.0.lock() {
            Some(Until::Always) => true,
            Some(Until::Instant(until)) => now < until,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod decisions {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn record(holder: &str, version: &str) -> Option<Record> {
        Some(Record { holder: holder.into(), duration: DURATION, transitions: 4, version: version.into() })
    }

    #[test]
    fn a_missing_lease_is_created_and_an_own_one_renewed() {
        let now = Instant::now();
        let mut observed = Observed::default();
        observed.see(None, now);
        assert_eq!(decide("a", &observed, now), Step::Create);
        observed.see(record("a", "1"), now);
        assert_eq!(decide("a", &observed, now + DURATION * 10), Step::Renew);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let now = Instant::now();
        let mut observed = Observed::default();
        observed.see(record("", "1"), now);
        assert_eq!(decide("a", &observed, now), Step::Take { transitions: 5 });
    }

    #[test]
    fn a_holder_is_given_up_only_after_its_duration_without_a_change_as_seen_from_here() {
        let start = Instant::now();
        let mut observed = Observed::default();
        observed.see(record("b", "1"), start);
        let late = start + DURATION - Duration::from_millis(1);
        assert_eq!(decide("a", &observed, late), Step::Wait { holder: "b".into() });
        // Seen again, unchanged: the clock goes on. Renewed: it starts anew.
        let mut renewed = observed.clone();
        observed.see(record("b", "1"), late);
        assert_eq!(decide("a", &observed, start + DURATION), Step::Take { transitions: 5 });
        renewed.see(record("b", "2"), late);
        assert_eq!(decide("a", &renewed, start + DURATION), Step::Wait { holder: "b".into() });
    }

    #[test]
    fn a_replica_that_just_started_never_takes_a_lease_whose_age_it_does_not_know() {
        let now = Instant::now();
        let mut observed = Observed::default();
        observed.see(record("b", "1"), now);
        assert_eq!(decide("a", &observed, now), Step::Wait { holder: "b".into() });
    }

    #[test]
    fn a_leader_stops_before_anybody_else_may_begin() {
        for seconds in [3, 15, 300] {
            let terms = Terms::of(Duration::from_secs(seconds));
            assert!(terms.renew_deadline < terms.duration);
            assert!(terms.period * 3 < terms.renew_deadline, "two lost renewals are no reason to give up");
        }
    }

    #[test]
    fn a_fence_holds_only_until_its_time() {
        let now = Instant::now();
        let fence = Fence::default();
        assert!(!fence.holds(now));
        fence.extend(now + Duration::from_secs(1));
        assert!(fence.holds(now));
        assert!(!fence.holds(now + Duration::from_secs(1)));
        fence.close();
        assert!(!fence.holds(now));
        assert!(Fence::open().holds(now));
    }
}
