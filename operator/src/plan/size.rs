//! How many brokers there are: that they exist at all, stopping and starting, adding, and evening out after that.
//!
//! Removing is in [`super::drain`].

use super::{Doing, Flow, Step, View, Wanted, drain, list, roll};
use crate::api::{Gate, Operation, OperationStep};
use crate::mutant;
use crate::observed::NodeId;

/// The StatefulSet exists, and has pods unless the cluster is stopped.
pub(super) fn exist(wanted: &Wanted, view: &View) -> Flow {
    let Some(set) = &view.set else {
        let to = if wanted.stopped { 0 } else { size_to_return_to(wanted, view) };
        let (kind, step) = if view.doing(Operation::StorageGrowth) {
            (Operation::StorageGrowth, OperationStep::RecreateStatefulSet)
        } else if view.founded {
            (Operation::Repair, OperationStep::ApplyObjects)
        } else {
            (Operation::Bootstrap, OperationStep::ApplyObjects)
        };
        return Flow::Act(
            Step::Resize { from: None, to },
            Doing::new(kind, step),
            format!("StatefulSet with {to} brokers"),
        );
    };
    if set.terminating {
        let doing = Doing::new(Operation::StorageGrowth, OperationStep::RecreateStatefulSet);
        return Flow::Stop(doing.held(Gate::StatefulSetNotObserved, "the old StatefulSet is being deleted"));
    }
    if wanted.stopped {
        if set.replicas > 0 {
            let step = Step::Resize { from: Some(set.replicas), to: 0 };
            return Flow::Act(
                step,
                Doing::new(Operation::Stop, OperationStep::AwaitPodGone),
                "spec.stopped is set".into(),
            );
        }
        if view.pods.is_empty() {
            return Flow::End;
        }
        let doing = Doing::new(Operation::Stop, OperationStep::AwaitPodGone);
        return Flow::Stop(
            doing.held(Gate::PodNotGone, format!("brokers {} are stopping", list(view.pods.keys().copied()))),
        );
    }
    if set.replicas == 0 {
        let to = size_to_return_to(wanted, view);
        let doing = Doing::new(Operation::Start, OperationStep::AwaitPods);
        return Flow::Act(Step::Resize { from: Some(0), to }, doing, format!("{to} brokers start"));
    }
    if view.doing(Operation::Start) && !view.not_ready().is_empty() {
        return Flow::Wait(
            Doing::new(Operation::Start, OperationStep::AwaitPods).held(Gate::PodNotReady, not_ready(view)),
        );
    }
    Flow::Continue
}

/// The size that a StatefulSet without pods, or a new one, must have so that no broker with data is left out. Shrinking is for the drain.
pub(super) fn size_to_return_to(wanted: &Wanted, view: &View) -> i32 {
    let pods = view.pods.iter().filter(|(_, pod)| !pod.terminating).map(|(node, _)| node.0).max().unwrap_or(0);
    if view.last_size > 0 {
        return pods.max(view.last_size);
    }
    let disks = view.claims.iter().filter(|(_, claim)| !claim.terminating && claim.retired.is_empty());
    let founders = view.founders.iter().map(|node| node.0).filter(|_| !view.founded).max().unwrap_or(0);
    // Without a cluster yet, disks of this name say nothing.
    let disks = if view.founded { disks.map(|(node, _)| node.0).max().unwrap_or(0) } else { 0 };
    pods.max(disks).max(founders).max(wanted.replicas)
}

/// Adds brokers, removes one, or evens out.
pub(super) fn plan(wanted: &Wanted, view: &View) -> Flow {
    let size = view.size();
    let leader = view.leader().map(|(_, cluster)| cluster);
    if let Some(cluster) = leader {
        let victim = NodeId(size);
        if drain::must_finish(view, cluster, victim) {
            return drain::plan(wanted, view, victim);
        }
        let spared = |node: &NodeId| wanted.replicas >= size || *node != victim;
        // One that has left the quorum joins it again before it takes anything.
        let member = |node: &NodeId| cluster.voters.contains(node) || cluster.learners.contains(node);
        let cordoned = |node: &NodeId| member(node) && cluster.brokers.get(node).is_some_and(|b| b.cordoned);
        if let Some(node) = view.members().filter(spared).find(cordoned).filter(|_| !mutant!(LeaveCordoned)) {
            let doing = Doing::of(Operation::ScaleUp, OperationStep::Uncordon, node);
            return Flow::Act(Step::Uncordon(node), doing, format!("broker {node} stays"));
        }
    }
    if wanted.replicas > size {
        return grow(wanted, view, size);
    }
    if wanted.replicas < size {
        return drain::plan(wanted, view, NodeId(size));
    }
    if view.rebalance.is_none() {
        return Flow::Continue;
    }
    let kind = if view.doing(Operation::ScaleUp) { Operation::ScaleUp } else { Operation::Rebalance };
    if !view.members_settled() || !view.not_ready().is_empty() {
        return Flow::Wait(Doing::new(kind, OperationStep::AwaitPods).held(Gate::PodNotReady, not_ready(view)));
    }
    let Some(cluster) = leader else {
        let doing = Doing::new(kind, OperationStep::AwaitQuorum);
        return Flow::Wait(doing.held(Gate::NoQuorumLeader, "no broker answers as leader of the quorum"));
    };
    let live = |node: &NodeId| cluster.brokers.get(node).is_some_and(|b| !b.fenced);
    let missing: Vec<NodeId> = view.members().filter(|node| !live(node)).collect();
    if !missing.is_empty() {
        let doing = Doing::new(kind, OperationStep::AwaitBrokers);
        let message = format!("brokers {} have not registered yet", list(missing));
        return Flow::Wait(doing.held(Gate::BrokerStateUnknown, message));
    }
    let doing = Doing::new(kind, OperationStep::MoveReplicas);
    if let Some(blocked) = yields_to_roll(wanted, view) {
        return Flow::Wait(doing.held(Gate::ReplicasNotMoved, blocked));
    }
    Flow::Act(Step::Rebalance, doing, "replicas are spread over all brokers".into())
}

/// Nothing can be moved, and a restart that is due and possible now may be the cure: what stands in the way.
pub(super) fn yields_to_roll(wanted: &Wanted, view: &View) -> Option<String> {
    let blocked = view.rebalance.as_ref().filter(|r| r.in_flight == 0)?.blocked.clone()?;
    matches!(roll::plan(wanted, view), Flow::Act(..)).then_some(blocked)
}

fn grow(wanted: &Wanted, view: &View, size: i32) -> Flow {
    let doing = Doing::new(Operation::ScaleUp, OperationStep::AwaitPods);
    // A disk of an earlier broker may only return once it is sure that the cluster has forgotten that broker.
    let reused = (size + 1..=wanted.replicas).map(NodeId).any(|node| view.claims.contains_key(&node));
    if reused && view.leader().is_none() {
        return Flow::Wait(
            doing.held(
                Gate::NoQuorumLeader,
                "disks of earlier brokers exist, and nobody says whether they are forgotten",
            ),
        );
    }
    if view.pods.keys().any(|node| node.0 > size) {
        return Flow::Wait(doing.held(Gate::PodNotGone, "pods of removed brokers still exist"));
    }
    if let Some((_, cluster)) = view.leader() {
        let known = cluster.voters.iter().chain(&cluster.learners).chain(cluster.brokers.keys());
        if known.copied().any(|node| node.0 > size) {
            return Flow::Wait(doing.held(Gate::OperationInProgress, "removed brokers are not forgotten yet"));
        }
    }
    let why = format!("from {size} to {} brokers", wanted.replicas);
    Flow::Act(Step::Resize { from: Some(size), to: wanted.replicas }, doing, why)
}

/// Whose pods are not ready, for people.
pub(super) fn not_ready(view: &View) -> String {
    let nodes = view.not_ready();
    if nodes.is_empty() {
        "pods are on their way".to_owned()
    } else {
        format!("pods of brokers {} are not ready", list(nodes))
    }
}
