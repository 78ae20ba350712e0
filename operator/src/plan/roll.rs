//! The rolling restart: brokers whose pods have an old template, one at a time, the leader of the quorum last.

use super::{Doing, Flow, Hold, Step, View, Wanted, held_for, list, size};
use crate::api::{Gate, Operation, OperationStep};
use crate::mutant;
use crate::observed::{ClusterFacts, NodeId};
use crate::ports::QuorumChange;

const KIND: Operation = Operation::RollingRestart;

/// The next restart, or what it waits for.
pub(super) fn plan(wanted: &Wanted, view: &View) -> Flow {
    let outdated: Vec<NodeId> =
        view.members().filter(|node| view.pods.get(node).is_some_and(|pod| pod.revision != wanted.revision)).collect();
    let last = view.operation.as_ref().filter(|op| op.kind == KIND).and_then(|op| op.node_id).map(NodeId);
    let awaiting = || Doing { node: last, ..Doing::new(KIND, OperationStep::AwaitRecovery) };
    let unready = !mutant!(RollTwo) && (!view.members_settled() || !view.not_ready().is_empty());
    if outdated.is_empty() {
        if last.is_none() {
            return Flow::Continue;
        }
        if unready {
            return Flow::Wait(awaiting().held(Gate::PodNotReady, size::not_ready(view)));
        }
        let cluster = view.leader().map(|(_, cluster)| cluster);
        let lagging = |node| cluster.is_none_or(|c| c.brokers.get(&node).is_none_or(|b| b.fenced || b.out_of_sync > 0));
        return if last.is_some_and(lagging) {
            Flow::Wait(awaiting().held(Gate::UnderReplicated, "the restarted broker is not in sync yet"))
        } else {
            Flow::Continue
        };
    }
    if let Some(message) = &wanted.restarts_held {
        return Flow::Wait(Doing::new(KIND, OperationStep::Begin).held(Gate::ManualApproval, message.clone()));
    }
    if unready {
        return Flow::Wait(awaiting().held(Gate::PodNotReady, size::not_ready(view)));
    }
    let Some((leader, cluster)) = view.leader() else {
        return Flow::Wait(awaiting().held(Gate::NoQuorumLeader, "no broker answers as leader of the quorum"));
    };
    let unknown = view.unknown();
    if !unknown.is_empty() {
        return Flow::Wait(
            awaiting().held(Gate::BrokerStateUnknown, format!("brokers {} do not answer", list(unknown))),
        );
    }
    let lagging = |node: &NodeId| {
        !outdated.contains(node) && cluster.brokers.get(node).is_some_and(|b| b.fenced || b.out_of_sync > 0)
    };
    if last.as_ref().is_some_and(lagging) {
        return Flow::Wait(awaiting().held(Gate::UnderReplicated, "the restarted broker is not in sync yet"));
    }
    let Some(node) = candidate(&outdated, leader, last) else { return Flow::Continue };
    let began = view.step_of(KIND, node);
    if let Some(hold) = last_copy(wanted, view, node) {
        return Flow::Wait(Doing { holds: vec![hold], ..Doing::of(KIND, OperationStep::Begin, node) });
    }
    if let Some(hold) = unsafe_to_stop(view, leader, cluster, node) {
        let step = began.unwrap_or(OperationStep::Begin);
        return Flow::Wait(Doing { holds: vec![hold], ..Doing::of(KIND, step, node) });
    }
    if let Some(flow) = hand_over(wanted, view, leader, cluster, node) {
        return flow;
    }
    let leads = cluster.brokers.get(&node).map_or(0, |b| b.leaders);
    let patient = patient(wanted, view, node);
    if leads > 0 && view.size() > 1 && began != Some(OperationStep::RestartPod) && patient {
        let doing = Doing::of(KIND, OperationStep::MoveLeaders, node);
        return Flow::Act(
            Step::MoveLeaders(node),
            doing,
            format!("broker {node} is restarted next and leads {leads} partitions"),
        );
    }
    let Some(pod) = view.pods.get(&node) else { return Flow::Continue };
    let why = format!("broker {node} has template {}, wanted is {}", pod.revision, wanted.revision);
    Flow::Act(Step::Restart { node, uid: pod.uid.clone() }, Doing::of(KIND, OperationStep::RestartPod, node), why)
}

/// Moving leaderships is a courtesy: what cannot be moved in time must not keep a restart from curing something.
fn patient(wanted: &Wanted, view: &View, node: NodeId) -> bool {
    [Gate::BrokerRefused, Gate::BrokerStateUnknown, Gate::LeadersNotMoved, Gate::QuorumNotCaughtUp]
        .into_iter()
        .all(|gate| held_for(view, gate, Some(node)) < wanted.drain_timeout)
}

/// A broker that is restarted next and leads the quorum hands that over first; None = nothing to hand over, or to nobody in time.
pub(super) fn hand_over(
    wanted: &Wanted,
    view: &View,
    leader: NodeId,
    cluster: &ClusterFacts,
    node: NodeId,
) -> Option<Flow> {
    if node != leader || cluster.voters.len() < 2 || !patient(wanted, view, node) {
        return None;
    }
    let fit = |voter: &&NodeId| **voter != node && cluster.progress.get(voter).is_some_and(|p| p.caught_up);
    let step = Step::Quorum(QuorumChange::TransferLeader(cluster.voters.iter().find(fit).copied()));
    let mut doing = Doing::of(KIND, OperationStep::TransferLeader, node);
    if view.step_of(KIND, node) == Some(OperationStep::TransferLeader) {
        doing = doing.held(Gate::QuorumNotCaughtUp, format!("broker {node} still leads the quorum"));
    }
    Some(Flow::Act(step, doing, format!("broker {node} is restarted next and leads the quorum")))
}

/// The one already begun; else the first that does not lead; else the leader.
fn candidate(outdated: &[NodeId], leader: NodeId, last: Option<NodeId>) -> Option<NodeId> {
    if mutant!(LeaderFirst) && outdated.contains(&leader) {
        return Some(leader);
    }
    let begun = last.filter(|node| outdated.contains(node) && (*node != leader || outdated.len() == 1));
    begun.or_else(|| outdated.iter().copied().find(|node| *node != leader)).or_else(|| outdated.first().copied())
}

/// A cluster of one without a disk of its own ends with its pod: the next one finds nothing, and nobody whom it could join.
pub(super) fn last_copy(wanted: &Wanted, view: &View, node: NodeId) -> Option<Hold> {
    (wanted.storage.is_none() && view.founded && view.size() == 1).then(|| {
        let message = format!(
            "broker {node} is the only one and its disk is Ephemeral: with its pod the whole cluster would end. Delete the ChronikCluster \
             and make it again if that is what you want, or scale it up first"
        );
        Hold { gate: Gate::WouldLoseMajority, message }
    })
}

/// Why this broker must not stop now; None = it may. `caught up` counts without the broker itself.
pub(super) fn unsafe_to_stop(view: &View, leader: NodeId, cluster: &ClusterFacts, node: NodeId) -> Option<Hold> {
    if mutant!(SkipRestartGate) || mutant!(RollTwo) {
        return None;
    }
    let voters = cluster.voters.len();
    let others: Vec<NodeId> = cluster.voters.iter().copied().filter(|v| *v != node).collect();
    // With one or two voters there is no restart that keeps a majority.
    let needed = if cluster.voters.contains(&node) { (voters / 2 + 1).min(others.len()) } else { voters / 2 + 1 };
    let active = |v: &&NodeId| **v == leader || cluster.progress.get(v).is_some_and(|p| p.recently_active);
    let caught_up = |v: &&NodeId| active(v) && (**v == leader || cluster.progress.get(v).is_some_and(|p| p.caught_up));
    if others.iter().filter(active).count() < needed {
        let message = format!("without broker {node} fewer than {needed} of the voters {} are healthy", list(others));
        return Some(Hold { gate: Gate::WouldLoseMajority, message });
    }
    if others.iter().filter(caught_up).count() < needed {
        let message = format!("without broker {node} fewer than {needed} of the voters {} are caught up", list(others));
        return Some(Hold { gate: Gate::QuorumNotCaughtUp, message });
    }
    let registered = cluster.brokers.get(&node);
    if let Some(broker) = registered.filter(|b| b.restart_blockers > 0) {
        let message = format!(
            "{} partitions would lose their leader or fall below min.insync.replicas without broker {node}, such as {}",
            broker.restart_blockers, broker.restart_blocker_example
        );
        return Some(Hold { gate: Gate::UnderReplicated, message });
    }
    let away = |other: &NodeId| {
        *other != node && cluster.brokers.get(other).is_none_or(|b| b.fenced || b.in_controlled_shutdown)
    };
    let away: Vec<NodeId> = view.members().filter(away).collect();
    if registered.is_some_and(|b| !b.fenced) && !away.is_empty() {
        let message = format!("brokers {} are not in service", list(away));
        return Some(Hold { gate: Gate::UnderReplicated, message });
    }
    None
}
