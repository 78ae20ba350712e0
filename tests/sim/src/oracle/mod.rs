//! The judge: invariants after each event, the history at the end.
//!
//! [`World`](crate::world::World) calls [`Oracle::after_event`] with the broker that was touched; only what changed on it is
//! looked at. Faults that take something from a disk must be told ([`Oracle::power_lost`], [`Oracle::disk_untrusted`],
//! [`Oracle::disk_lost`]), because they alone excuse a loss, and only of what nobody else was obliged to hold. Clients write
//! the [`History`]; what they were told is compared with what was committed. [`Oracle::at_end`] judges the rest, once every
//! fault is over and an auditor has read everything.
//!
//! The numbers are those of the invariants that `docs/reliability.md` lists. What never happens: the oracle changes the
//! world, or a rule depends on anything but what it saw.

pub mod groups;
pub mod history;
pub mod judge;
pub mod ledger;
pub mod logs;
pub mod quorum;
pub mod racks;
pub mod replica;
#[cfg(test)]
mod rules;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use chronik_consensus::MembershipChange;
use chronik_model::NodeId;

use crate::kernel::{Kernel, Micros};
use crate::world::Host;

use history::History;
use logs::{Logs, Strike};
use quorum::Quorum;
use replica::Ended;

/// Most events that may wait in a world.
const MOST_WAITING: usize = 200_000;
/// Most events in one simulated second.
const MOST_EVENTS: u64 = 400_000;
/// Most things that may wait in one broker.
const MOST_IN_BROKER: usize = 50_000;
/// How often bounds are looked at, in events.
const BOUNDS_EVERY: u64 = 512;

/// A rule that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invariant {invariant}: {text}")]
pub struct Violation {
    /// Number of the invariant; 0 when the harness itself is at fault.
    pub invariant: u8,
    /// What was seen.
    pub text: String,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Oracle {
    /// What clients did and saw.
    pub history: History,
    logs: Logs,
    quorum: Quorum,
    quick: BTreeMap<NodeId, watch::Quick>,
    /// Effective `min.insync.replicas` as it was when a watermark was last judged.
    mins: BTreeMap<ledger::Key, usize>,
    /// Version of the in-sync set by which a leader was last judged.
    versions: BTreeMap<(NodeId, ledger::Key), i32>,
    /// Newest metadata looked at.
    applied: u64,
    /// Disks whose syncs may be lies.
    untrusted: BTreeSet<NodeId>,
    /// Disks that acknowledgements wait for.
    durable: BTreeSet<NodeId>,
    /// The second that events are counted in, and their number when it began.
    second: (Micros, u64),
    now: Micros,
    refused: Vec<(Micros, NodeId, String)>,
    /// Found at the end of a process, told after the event.
    pending: Option<Violation>,
}

impl Oracle {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at what the last event changed on `node`.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn after_event(
        &mut self,
        node: NodeId,
        hosts: &BTreeMap<NodeId, Host>,
        kernel: &mut Kernel,
    ) -> Result<(), Violation> {
        self.now = kernel.now;
        if let Some(broken) = self.pending.take() {
            return Err(broken);
        }
        if let Some(host) = hosts.get(&node)
            && let Some(broker) = &host.process
        {
            self.watch(node, host, broker)?;
            if broker.turns_in_circles() {
                return Err(Violation { invariant: 12, text: format!("b{node} turns in circles") });
            }
            if kernel.events.is_multiple_of(BOUNDS_EVERY) {
                bounded("things wait in a broker", broker.waiting(), MOST_IN_BROKER)?;
            }
        }
        self.take_news()?;
        self.bounds(kernel)
    }

    /// A process is about to end by itself: the last look at what it did in its last event.
    pub fn last_look(&mut self, node: NodeId, hosts: &BTreeMap<NodeId, Host>, now: Micros) {
        self.now = now;
        if let Some((host, broker)) = hosts.get(&node).and_then(|host| Some((host, host.process.as_ref()?))) {
            self.pending = self.pending.take().or(self.watch(node, host, broker).err());
        }
    }

    /// Memory and work are bounded (invariant 12).
    fn bounds(&mut self, kernel: &Kernel) -> Result<(), Violation> {
        if kernel.events.is_multiple_of(BOUNDS_EVERY) {
            bounded("events wait", kernel.waiting(), MOST_WAITING)?;
        }
        let second = kernel.now / 1_000_000;
        if second != self.second.0 {
            self.second = (second, kernel.events);
        }
        let served = kernel.events - self.second.1;
        bounded("events in one second", usize::try_from(served).unwrap_or(usize::MAX), MOST_EVENTS as usize)
    }

    /// The power of a machine failed; call it before the disk forgets.
    pub fn power_lost(&mut self, node: NodeId) {
        let lied = self.untrusted.remove(&node);
        if lied {
            self.quorum.forget(node);
        }
        let durable = self.durable.contains(&node);
        self.strike(node, Strike::Power { durable, lied });
    }

    /// From now on syncs of this disk, or what they kept, may be lies until the next power cut or restart.
    pub fn disk_untrusted(&mut self, node: NodeId) {
        self.untrusted.insert(node);
    }

    /// What the disk of a broker says of logs that the process of this run has not opened may be wrong.
    pub fn disk_damaged(&mut self, node: NodeId, running: Option<u64>) {
        self.strike(node, Strike::Damage { running });
    }

    /// The disk is empty, or some of its files are damaged.
    pub fn disk_lost(&mut self, node: NodeId) {
        self.quorum.forget(node);
        self.strike(node, Strike::Replaced);
    }

    fn strike(&mut self, node: NodeId, strike: Strike) {
        let cut = self.logs.strike(node, strike, self.now);
        self.after_cuts(&cut);
    }

    fn after_cuts(&mut self, cut: &[ledger::Key]) {
        for key in cut {
            // The replicas that held it have to be read again.
            self.quick.values_mut().for_each(watch::Quick::forget_marks);
            let groups = self.logs.ledger(key).is_some_and(|ledger| ledger.tp.topic.as_str() == "__consumer_offsets");
            if groups {
                self.history.groups.forgive();
            }
        }
    }

    /// A process ended, by itself with a code or killed.
    pub fn process_ended(&mut self, node: NodeId, code: Option<i32>) {
        let run = self.quick.remove(&node).map(|quick| quick.run);
        let how = match code {
            _ if self.untrusted.contains(&node) => Ended::Uncertain,
            None => Ended::Kept,
            Some(0) => Ended::Settled,
            Some(_) => Ended::Uncertain,
        };
        self.logs.ended(node, how, run);
    }

    /// A broker refuses its storage. That is right after damage; without any it is found when it is missed.
    pub fn storage_refused(&mut self, node: NodeId, reason: &str) {
        self.refused.push((self.now, node, reason.to_owned()));
    }

    /// Brokers that refused their storage, when and why.
    #[must_use]
    pub fn refusals(&self) -> &[(Micros, NodeId, String)] {
        &self.refused
    }

    /// Somebody asks for these replicas of a partition.
    pub fn assignment_wanted(&mut self, key: ledger::Key, replicas: &[NodeId]) {
        self.logs.assignment_wanted(key, replicas);
    }

    /// Somebody asks for this change of the members.
    pub fn members_wanted(&mut self, change: MembershipChange) {
        self.quorum.wanted(change);
    }

    /// What was committed.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }
}

fn bounded(what: &str, have: usize, most: usize) -> Result<(), Violation> {
    if have <= most {
        return Ok(());
    }
    Err(Violation { invariant: 12, text: format!("{have} {what}, {most} is the bound") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Event;
    use crate::trace::{Detail, Trace};

    #[test]
    fn a_storm_of_events_is_broken() {
        let mut oracle = Oracle::new();
        let mut kernel = Kernel::new(1, Trace::new(Detail::Hash));
        let hosts = BTreeMap::new();
        assert_eq!(oracle.after_event(NodeId(1), &hosts, &mut kernel), Ok(()));
        kernel.events = MOST_EVENTS + 1;
        assert_eq!(oracle.after_event(NodeId(1), &hosts, &mut kernel).unwrap_err().invariant, 12);
    }

    #[test]
    fn a_queue_without_an_end_is_broken() {
        let mut oracle = Oracle::new();
        let mut kernel = Kernel::new(1, Trace::new(Detail::Hash));
        for _ in 0..=MOST_WAITING {
            kernel.after(1, Event::Boot(NodeId(1)));
        }
        assert_eq!(oracle.after_event(NodeId(1), &BTreeMap::new(), &mut kernel).unwrap_err().invariant, 12);
    }
}
