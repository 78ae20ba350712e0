//! The next step: a pure function of what is wanted and what was seen.
//!
//! Called once per pass by [`crate::reconcile`]. Order: storage growth, repair, what departed brokers left, brokers that left and stay,
//! voters that are missing, size, rolling restart, voters that are too many. Each part acts, waits or has nothing to do; the first
//! act wins, so there is never more than one per pass; a part that waits keeps none of the others from acting, but where these would
//! be wrong before it.
//! Nothing is remembered here: what must outlive a pass is in the view, which comes from the status and from the brokers themselves.
//!
//! A broker that does not answer is never taken for gone. A claim is deleted only when its broker was drained and its disk is marked,
//! and only if the user wants that.

mod drain;
mod membership;
mod outcast;
mod repair;
mod roll;
mod size;
mod storage;
mod view;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::api::{Gate, Operation, OperationStep};
use crate::mutant;
use crate::observed::NodeId;
use crate::ports::QuorumChange;

pub use view::{ClaimView, PodView, SetView, View, registered};

/// What the specification asks for, with every default resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Name of the cluster.
    pub name: String,
    /// Brokers.
    pub replicas: i32,
    /// Voters.
    pub voters: i32,
    /// The most voters that there may be however many brokers.
    pub most_voters: i32,
    /// No broker shall run.
    pub stopped: bool,
    /// Revision of the pod template.
    pub revision: String,
    /// Restarts wait for a person: the message.
    pub restarts_held: Option<String>,
    /// Bytes of each disk; None = ephemeral.
    pub storage: Option<u64>,
    /// The same as the user wrote it.
    pub storage_text: String,
    /// Brokers are never removed.
    pub never_shrink: bool,
    /// Disks of removed brokers are deleted.
    pub delete_disks: bool,
    /// How long leaderships may take to move.
    pub drain_timeout: Duration,
    /// How long a restarted broker may take.
    pub recover_timeout: Duration,
    /// How long a drain may take.
    pub scale_down_timeout: Duration,
}

/// The one thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing.
    None,
    /// The StatefulSet gets this size.
    Resize {
        /// From; None = it does not exist.
        from: Option<i32>,
        /// To.
        to: i32,
    },
    /// The StatefulSet is deleted without its pods, to be made anew.
    RecreateSet {
        /// Which one.
        uid: String,
    },
    /// A claim is asked to grow.
    GrowClaim {
        /// Whose.
        node: NodeId,
        /// Which one.
        uid: String,
        /// To.
        size: String,
    },
    /// The founding is complete: from now on nobody founds.
    CompleteBootstrap,
    /// The pod is deleted, to be made anew.
    Restart {
        /// Whose.
        node: NodeId,
        /// Which one.
        uid: String,
    },
    /// A broker takes nothing new.
    Cordon(NodeId),
    /// It takes replicas again.
    Uncordon(NodeId),
    /// Replicas are moved.
    Rebalance,
    /// Leaderships are moved away.
    MoveLeaders(NodeId),
    /// The quorum changes.
    Quorum(QuorumChange),
    /// The disk of a broker that is gone is marked, so that its data is never taken for a member's.
    Retire {
        /// Whose.
        node: NodeId,
        /// Its directory.
        directory: String,
        /// The claim, when it still exists.
        claim: Option<String>,
    },
    /// The disk of a broker that is gone is deleted.
    DeleteClaim {
        /// Whose.
        node: NodeId,
        /// Which one.
        uid: String,
    },
    /// The cluster forgets a broker that is gone.
    Unregister(NodeId),
}

impl Step {
    /// Whether it takes something away that serves: at most one of these per pass.
    #[must_use]
    pub const fn is_disruptive(&self) -> bool {
        match self {
            Self::Resize { from: Some(from), to } => *to < *from,
            Self::Restart { .. } | Self::Quorum(_) | Self::Unregister(_) | Self::RecreateSet { .. } => true,
            _ => false,
        }
    }
}

/// Something that holds a change back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Which gate.
    pub gate: Gate,
    /// For people.
    pub message: String,
}

/// A change and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doing {
    /// What is changed.
    pub kind: Operation,
    /// Where it is.
    pub step: OperationStep,
    /// Whom it is about.
    pub node: Option<NodeId>,
    /// What holds it back.
    pub holds: Vec<Hold>,
}

/// What a pass shall do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The one act.
    pub step: Step,
    /// Why, for events and the log.
    pub why: String,
    /// What the status shows as the change under way: that of the act, else the first that waits.
    pub doing: Option<Doing>,
    /// Every change that waits.
    pub waiting: Vec<Doing>,
    /// When to look again.
    pub again: Duration,
}

/// What a part of the planner comes to.
enum Flow {
    /// Nothing to do: the next part.
    Continue,
    /// Does this and nothing else.
    Act(Step, Doing, String),
    /// Waits; parts that come later may still act.
    Wait(Doing),
    /// Waits, and what comes later must wait for it.
    Stop(Doing),
    /// Nothing to do, and nothing that comes later either.
    End,
}

const SOON: Duration = Duration::from_secs(1);
const HELD: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(60);

/// The next step.
#[must_use]
pub fn plan(wanted: &Wanted, view: &View) -> Plan {
    let parts: [fn(&Wanted, &View) -> Flow; 11] = [
        storage::plan,
        size::exist,
        repair::offline,
        repair::broken,
        repair::departed,
        outcast::plan,
        repair::bootstrap,
        membership::promote,
        size::plan,
        roll::plan,
        membership::demote,
    ];
    let mut waiting = Vec::new();
    for part in parts {
        match part(wanted, view) {
            Flow::Continue => {}
            Flow::Act(step, doing, why) => {
                return Plan { step, why, doing: Some(doing), waiting, again: SOON };
            }
            Flow::Wait(doing) => waiting.push(doing),
            Flow::Stop(doing) => {
                waiting.push(doing);
                break;
            }
            Flow::End => break,
        }
    }
    let doing = shown(&waiting, view).cloned();
    let again = match &doing {
        // Nothing to do, but not everybody was seen.
        None if !view.unknown().is_empty() => HELD,
        // Nothing but the budget of evictions waits for it.
        None if !all_may_stop(view) => SOON,
        None => STEADY,
        Some(doing) if doing.holds.is_empty() => SOON,
        Some(doing) if doing.holds.iter().all(|hold| passes_soon(hold.gate)) => SOON,
        Some(_) => HELD,
    };
    Plan { step: Step::None, why: String::new(), doing, waiting, again }
}

/// Which of the changes that wait the status shows: one that proceeds, else the repair of a broken broker, as others wait for that,
/// with the approval that it needs or the moment that it has, else one that will go on by itself, else one that is held back. Among
/// equals the one that is shown already, so that two that wait do not take turns; then in the order of the parts.
fn shown<'a>(waiting: &'a [Doing], view: &View) -> Option<&'a Doing> {
    let rank = |doing: &&Doing| {
        let held_by = |gate| doing.holds.iter().any(|hold| hold.gate == gate);
        let moment =
            (doing.kind, doing.step) == (Operation::RollingRestart, OperationStep::Begin) && held_by(Gate::PodNotReady);
        let waits = if doing.holds.is_empty() {
            0
        } else if doing.node.is_some() && (held_by(Gate::ManualApproval) || moment) {
            1
        } else if doing.holds.iter().all(|hold| passes_soon(hold.gate)) {
            2
        } else {
            3
        };
        (waits, !view.doing(doing.kind))
    };
    waiting.iter().min_by_key(rank)
}

/// Disks of this cluster's brokers that are not marked as such yet, as soon as a majority of the founders leads: from then on the cluster
/// exists. What a broker left that was removed from an earlier one counts for that until another starts on the disk.
#[must_use]
pub fn unmarked(view: &View) -> Vec<(NodeId, String)> {
    let other = |id: &Option<String>| id.as_ref() != Some(&view.cluster_id);
    let claim = |node| view.claims.get(&node).filter(|c| other(&c.cluster_id) && !c.terminating && c.capacity > 0);
    let exists = view.founded || view.leader().is_some();
    view.members().filter(|_| exists).filter_map(|node| Some((node, claim(node)?.uid.clone()))).collect()
}

/// Whether any one broker may be stopped now, as far as quorum and replicas go: what a restart waits for, a node drain waits for, too.
#[must_use]
pub fn may_evict(wanted: &Wanted, view: &View) -> bool {
    if mutant!(EvictAlways) {
        return true;
    }
    all_may_stop(view) && !view.members().any(|node| roll::last_copy(wanted, view, node).is_some())
}

fn all_may_stop(view: &View) -> bool {
    let Some(set) = &view.set else { return view.pods.is_empty() };
    // None is left to be evicted when it is stopped.
    let Some((leader, cluster)) = view.leader() else { return set.replicas == 0 };
    !view.members().any(|node| roll::unsafe_to_stop(view, leader, cluster, node).is_some())
}

/// Gates that open by themselves within seconds.
#[must_use]
pub const fn passes_soon(gate: Gate) -> bool {
    matches!(
        gate,
        Gate::StatefulSetNotObserved
            | Gate::PodNotReady
            | Gate::PodNotGone
            | Gate::BrokerStateUnknown
            | Gate::NoQuorumLeader
            | Gate::QuorumNotCaughtUp
            | Gate::UnderReplicated
            | Gate::ReplicasNotMoved
            | Gate::LeadersNotMoved
            | Gate::OperationInProgress
            | Gate::StorageResizePending
            | Gate::BrokerRefused
    )
}

impl Doing {
    fn new(kind: Operation, step: OperationStep) -> Self {
        Self { kind, step, node: None, holds: Vec::new() }
    }

    fn of(kind: Operation, step: OperationStep, node: NodeId) -> Self {
        Self { kind, step, node: Some(node), holds: Vec::new() }
    }

    fn held(mut self, gate: Gate, message: impl Into<String>) -> Self {
        self.holds.push(Hold { gate, message: message.into() });
        self
    }
}

/// `1, 2, 5`.
fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

/// How long a gate has held back the change that is under way.
fn held_for(view: &View, gate: Gate, node: Option<NodeId>) -> Duration {
    let operation = view.operation.as_ref().filter(|op| node.is_none() || op.node_id == node.map(|n| n.0));
    let since = operation.and_then(|op| op.blocked_by.iter().find(|b| b.gate == gate)).map(|b| b.since.0);
    since.and_then(|since| Duration::try_from(view.now.duration_since(since)).ok()).unwrap_or_default()
}

/// The most brokers that may exist in the course of what is under way: addresses and defaults are made for so many.
#[must_use]
pub fn brokers(wanted: &Wanted, view: &View) -> i32 {
    match view.size() {
        0 => size::size_to_return_to(wanted, view).max(wanted.replicas),
        size => size.max(wanted.replicas),
    }
}
