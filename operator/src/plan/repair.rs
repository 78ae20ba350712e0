//! Putting right what is broken, before anything is changed: pods that do not serve and run an old template, the founding, and what
//! brokers that left have left behind.

use std::time::Duration;

use super::{Doing, Flow, Step, View, Wanted, held_for, list, roll};
use crate::api::{Gate, MAX_REPLICAS, Operation, OperationStep};
use crate::mutant;
use crate::observed::NodeId;
use crate::ports::QuorumChange;

/// How long nobody must have served before brokers without a quorum are restarted.
const NOBODY_SERVES: Duration = Duration::from_secs(60);

/// How long a pod must not have run before it is made anew of a template that nobody approved.
const DEAD: Duration = Duration::from_secs(60);

/// How long a pod that runs must not be ready, with a leader of the quorum, before it counts as broken.
const NOT_BROKEN: Duration = Duration::from_secs(10);

/// A process that has run for less has just been restarted.
const JUST_STARTED_MS: u64 = 30_000;

/// Restarts a broker whose log directory is offline once its disk has room: only a start takes a directory in again.
pub(super) fn offline(_: &Wanted, view: &View) -> Flow {
    let room = |total: u64, used: u64| total > 0 && used < total / 10 * 9;
    let failed =
        || view.known().map(|(node, facts)| (node, &facts.myself)).filter(|(_, broker)| broker.log_dir_offline);
    let with_room = failed().find(|(_, broker)| room(broker.disk_total_bytes, broker.disk_used_bytes));
    let Some((node, broker)) = with_room.or_else(|| failed().next()) else { return Flow::Continue };
    let Some(pod) = view.pods.get(&node) else { return Flow::Continue };
    let doing = || Doing::of(Operation::Repair, OperationStep::RestartPod, node);
    if with_room.is_none() {
        let message = format!("the disk of broker {node} is full: raise spec.storage.size or delete data");
        return Flow::Wait(doing().held(Gate::InsufficientDisk, message));
    }
    if broker.uptime_ms < JUST_STARTED_MS {
        return Flow::Wait(doing().held(Gate::PodNotReady, format!("broker {node} has just been started")));
    }
    if view.member_away() {
        return Flow::Wait(doing().held(Gate::PodNotGone, "another pod is being made anew"));
    }
    let Some((leader, cluster)) = view.leader() else {
        return Flow::Wait(doing().held(Gate::NoQuorumLeader, "no broker answers as leader of the quorum"));
    };
    if let Some(hold) = roll::unsafe_to_stop(view, leader, cluster, node) {
        return Flow::Wait(Doing { holds: vec![hold], ..doing() });
    }
    let why = format!("the log directory of broker {node} is offline, and its disk has room");
    Flow::Act(Step::Restart { node, uid: pod.uid.clone() }, doing(), why)
}

/// Restarts a pod that is not ready and runs an old template: the new one may be the cure. Where restarts have to be approved only one that has
/// not run for a while: nobody loses anything by that, and whoever else deletes it gets the new template as well.
pub(super) fn broken(wanted: &Wanted, view: &View) -> Flow {
    let outdated = |node: &NodeId| view.pods.get(node).is_some_and(|pod| !pod.ready && pod.revision != wanted.revision);
    let mut candidates: Vec<NodeId> = view.members().filter(outdated).collect();
    // The one that was restarted last first, though it is outdated again: another would be a second that is away.
    let last = view.operation.as_ref().filter(|op| op.kind == Operation::RollingRestart).and_then(|op| op.node_id);
    candidates.sort_by_key(|node| last != Some(node.0));
    let Some(first) = candidates.first().copied() else { return Flow::Continue };
    let doing = |node| Doing::of(Operation::RollingRestart, OperationStep::RestartPod, node);
    let waits = |node| Doing::of(Operation::RollingRestart, OperationStep::Begin, node);
    if let Some(hold) = roll::last_copy(wanted, view, first) {
        return Flow::Wait(Doing { holds: vec![hold], ..waits(first) });
    }
    let act = |node: NodeId, why: &str| match view.pods.get(&node) {
        Some(pod) => {
            Flow::Act(Step::Restart { node, uid: pod.uid.clone() }, doing(node), format!("broker {node} {why}"))
        }
        None => Flow::Continue,
    };
    let long = |since, least| Duration::try_from(view.now.duration_since(since)).is_ok_and(|age| age >= least);
    if let Some(message) = &wanted.restarts_held {
        let dead = |pod: &super::PodView| pod.down && pod.ready_since.is_none_or(|since| long(since, DEAD));
        candidates.retain(|node| view.pods.get(node).is_some_and(dead));
        if candidates.is_empty() {
            return Flow::Wait(waits(first).held(Gate::ManualApproval, message.clone()));
        }
    }
    if view.member_away() {
        return Flow::Wait(waits(first).held(Gate::PodNotGone, "another pod is being made anew"));
    }
    if let Some(node) = candidates.iter().find(|node| view.pods.get(node).is_some_and(|pod| pod.down)) {
        return act(*node, "does not run and has an old template");
    }
    let Some(node) = candidates.first().copied() else { return Flow::Continue };
    let Some((leader, cluster)) = view.leader() else {
        let silent =
            |pod: &super::PodView| !pod.ready && pod.ready_since.is_some_and(|since| long(since, NOBODY_SERVES));
        let nobody = view.members().all(|node| view.pods.get(&node).is_some_and(silent));
        return if nobody {
            act(node, "does not serve, like all the others, and has an old template")
        } else {
            Flow::Wait(waits(node).held(Gate::NoQuorumLeader, "no broker answers as leader of the quorum"))
        };
    };
    let recovering = |pod: &super::PodView| !pod.ready && pod.revision == wanted.revision;
    if let Some(other) = view.members().find(|node| view.pods.get(node).is_some_and(recovering)) {
        return Flow::Wait(
            waits(node).held(Gate::PodNotReady, format!("broker {other} has been restarted and is not ready")),
        );
    }
    match roll::unsafe_to_stop(view, leader, cluster, node) {
        Some(hold) => Flow::Wait(Doing { holds: vec![hold], ..waits(node) }),
        // With the quorum's leader brokers come back into service, and nobody has asked them since.
        None if view.step_of(Operation::RollingRestart, node) != Some(OperationStep::TransferLeader)
            && held_for(view, Gate::PodNotReady, Some(node)) < NOT_BROKEN =>
        {
            let message =
                format!("broker {node} is not ready and has an old template; it has a moment to become ready");
            Flow::Wait(waits(node).held(Gate::PodNotReady, message))
        }
        None => roll::hand_over(wanted, view, leader, cluster, node)
            .unwrap_or_else(|| act(node, "is not ready and has an old template")),
    }
}

/// Clears what a removed broker left: its membership, its disk, its registration. That is the last: as long as the cluster knows the
/// broker, an operator that ended in between finds everything again.
pub(super) fn departed(wanted: &Wanted, view: &View) -> Flow {
    let size = view.size();
    let Some((_, cluster)) = view.leader().filter(|_| view.founded) else { return missing_voters(view, size) };
    let known = cluster.voters.iter().chain(&cluster.learners).chain(cluster.brokers.keys());
    let Some(node) = known.copied().filter(|node| node.0 > size).max() else { return Flow::Continue };
    let doing = |step| Doing::of(Operation::ScaleDown, step, node);
    if !view.settled() || view.pods.contains_key(&node) {
        let message = format!("the pod of broker {node} has not ended");
        return Flow::Wait(doing(OperationStep::AwaitPodGone).held(Gate::PodNotGone, message));
    }
    let registration = cluster.brokers.get(&node);
    let replicas = registration.map_or(0, |b| b.replicas);
    // The drain leaves neither behind: another hand took it away. Who is to go holds nothing any more, and may as well go.
    if replicas > 0 || node.0 <= wanted.replicas && cluster.voters.contains(&node) {
        let doing = Doing::of(Operation::Repair, OperationStep::AwaitPods, node);
        let voter = if cluster.voters.contains(&node) { "voter" } else { "broker" };
        let why = format!("{voter} {node} was taken away with {replicas} replicas and returns");
        return Flow::Act(Step::Resize { from: Some(size), to: node.0 }, doing, why);
    }
    if cluster.voters.contains(&node) || cluster.learners.contains(&node) {
        let why = format!("broker {node} is gone");
        return Flow::Act(Step::Quorum(QuorumChange::Remove(node)), doing(OperationStep::RemoveFromQuorum), why);
    }
    let Some(broker) = registration else { return Flow::Continue };
    if !mutant!(ForgetRetired) && !broker.directory_id.is_empty() && !view.retired.contains(&broker.directory_id) {
        let claim = view.claims.get(&node).filter(|c| !c.terminating).map(|c| c.uid.clone());
        let step = Step::Retire { node, directory: broker.directory_id.clone(), claim };
        return Flow::Act(step, doing(OperationStep::RetireDisk), format!("the disk of broker {node} is retired"));
    }
    // What is marked has nothing that anybody counts on.
    let marked = |claim: &&super::ClaimView| !claim.terminating && claim.retired.contains(&broker.directory_id);
    if let Some(claim) = view.claims.get(&node).filter(|_| wanted.delete_disks).filter(marked) {
        let step = Step::DeleteClaim { node, uid: claim.uid.clone() };
        let why = format!("the disk of broker {node} is deleted: storage.retention.whenScaled is Delete");
        return Flow::Act(step, doing(OperationStep::RetireDisk), why);
    }
    Flow::Act(Step::Unregister(node), doing(OperationStep::Unregister), format!("broker {node} is forgotten"))
}

/// Brings back voters without whom nobody can lead. The drain never leaves any behind: another hand took their pods away, or they were
/// overlooked when the brokers were started.
fn missing_voters(view: &View, size: i32) -> Flow {
    let best = view.known().map(|(_, facts)| &facts.cluster).max_by_key(|c| (c.term, c.applied_index));
    let sure = view.founded && view.leader().is_none() && view.unknown().is_empty();
    let Some(cluster) = best.filter(|_| sure) else { return Flow::Continue };
    let here = cluster.voters.iter().filter(|voter| voter.0 <= size).count();
    let last = cluster.voters.last().filter(|voter| voter.0 > size && voter.0 <= MAX_REPLICAS);
    let Some(last) = last.filter(|_| here <= cluster.voters.len() / 2) else { return Flow::Continue };
    let doing = Doing::of(Operation::Repair, OperationStep::AwaitPods, *last);
    let why = format!("only {here} of the voters {} have pods; they return", list(cluster.voters.iter().copied()));
    Flow::Act(Step::Resize { from: Some(size), to: last.0 }, doing, why)
}

/// Waits until the cluster is founded, and says so once.
pub(super) fn bootstrap(_: &Wanted, view: &View) -> Flow {
    if view.founded {
        return Flow::Continue;
    }
    let silent: Vec<NodeId> = view
        .founders
        .iter()
        .copied()
        .filter(|node| view.facts(*node).is_none_or(|facts| facts.myself.cluster_id != view.cluster_id))
        .collect();
    if !silent.is_empty() {
        let doing = Doing::new(Operation::Bootstrap, OperationStep::AwaitPods);
        let message = format!("founding brokers {} have not joined yet", list(silent));
        return Flow::Stop(doing.held(Gate::PodNotReady, message));
    }
    match view.leader() {
        Some((leader, _)) => Flow::Act(
            Step::CompleteBootstrap,
            Doing::new(Operation::Bootstrap, OperationStep::AwaitBrokers),
            format!("broker {leader} leads the quorum"),
        ),
        None => Flow::Stop(
            Doing::new(Operation::Bootstrap, OperationStep::AwaitQuorum)
                .held(Gate::NoQuorumLeader, "the founders have not elected a leader yet"),
        ),
    }
}
