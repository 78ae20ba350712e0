//! Removing the broker with the highest id, one at a time.
//!
//! Cordon, move its replicas, look twice whether it is empty, take it out of the quorum, shrink the StatefulSet by exactly one;
//! what it leaves is cleared by [`super::repair`]. Progress lives in the brokers' metadata (cordoned, replicas, members) and, for
//! the second look, in the status. Raising `replicas` takes it back until it has left the quorum; from then on it is finished.

use super::{Doing, Flow, Step, View, Wanted, list, size};
use crate::api::{Gate, Operation, OperationStep};
use crate::mutant;
use crate::observed::{ClusterFacts, NodeId};
use crate::ports::QuorumChange;
use crate::quantity;

const KIND: Operation = Operation::ScaleDown;

/// It has left the quorum empty-handed: there is no way back but a new beginning.
pub(super) fn must_finish(view: &View, cluster: &ClusterFacts, victim: NodeId) -> bool {
    victim.0 > 1
        && view.founded
        && !is_member(cluster, victim)
        && cluster.brokers.get(&victim).is_some_and(|b| b.cordoned && b.replicas == 0)
}

fn is_member(cluster: &ClusterFacts, node: NodeId) -> bool {
    cluster.voters.contains(&node) || cluster.learners.contains(&node)
}

/// The next step of removing `victim`.
pub(super) fn plan(wanted: &Wanted, view: &View, victim: NodeId) -> Flow {
    let begin = || Doing::of(KIND, OperationStep::Begin, victim);
    if !view.settled() {
        let message = "the StatefulSet is not observed or does not have exactly its pods";
        return Flow::Wait(
            Doing::of(KIND, OperationStep::AwaitPods, victim).held(Gate::StatefulSetNotObserved, message),
        );
    }
    let Some((leader, cluster)) = view.leader() else {
        return Flow::Wait(begin().held(Gate::NoQuorumLeader, "no broker answers as leader of the quorum"));
    };
    let registration = cluster.brokers.get(&victim);
    let cordoned = registration.is_some_and(|b| b.cordoned);
    let finishing = must_finish(view, cluster, victim);
    if !finishing && let Some(hold) = forbidden(wanted, cluster, victim) {
        if cordoned {
            let doing = Doing { holds: vec![hold], ..Doing::of(KIND, OperationStep::Uncordon, victim) };
            return Flow::Act(Step::Uncordon(victim), doing, format!("broker {victim} cannot be removed and stays"));
        }
        return Flow::Wait(Doing { holds: vec![hold], ..begin() });
    }
    let down = view.pods.get(&victim).is_some_and(|pod| pod.down);
    let never_ran = registration.is_none() && down;
    let unknown: Vec<NodeId> = view.unknown().into_iter().filter(|node| !(*node == victim && never_ran)).collect();
    if !unknown.is_empty() {
        let message = format!("brokers {} do not answer", list(unknown));
        return Flow::Wait(begin().held(Gate::BrokerStateUnknown, message));
    }
    match registration {
        None if !down => {
            return Flow::Wait(
                begin().held(Gate::BrokerStateUnknown, format!("broker {victim} runs and has not registered")),
            );
        }
        None => {}
        Some(broker) => {
            if !broker.cordoned {
                if let Some(hold) = not_now(view, cluster, leader, victim) {
                    return Flow::Wait(Doing { holds: vec![hold], ..begin() });
                }
                let doing = Doing::of(KIND, OperationStep::Cordon, victim);
                return Flow::Act(Step::Cordon(victim), doing, format!("from {victim} to {} brokers", wanted.replicas));
            }
            if broker.replicas > 0 && !mutant!(ShrinkUndrained) {
                let doing = Doing::of(KIND, OperationStep::MoveReplicas, victim);
                if let Some(blocked) = size::yields_to_roll(wanted, view) {
                    return Flow::Wait(doing.held(Gate::ReplicasNotMoved, blocked));
                }
                return Flow::Act(
                    Step::Rebalance,
                    doing,
                    format!("{} replicas of broker {victim} move", broker.replicas),
                );
            }
            if broker.leaders > 0 {
                let doing = Doing::of(KIND, OperationStep::MoveLeaders, victim);
                return Flow::Act(
                    Step::MoveLeaders(victim),
                    doing,
                    format!("broker {victim} leads {} partitions", broker.leaders),
                );
            }
        }
    }
    leave(wanted, view, victim, leader, cluster)
}

/// It is empty: out of the quorum, then out of the StatefulSet.
fn leave(wanted: &Wanted, view: &View, victim: NodeId, leader: NodeId, cluster: &ClusterFacts) -> Flow {
    let seen_empty = view.step_of(KIND, victim).is_some_and(|step| {
        matches!(
            step,
            OperationStep::VerifyEmpty
                | OperationStep::TransferLeader
                | OperationStep::RemoveFromQuorum
                | OperationStep::ShrinkStatefulSet
        )
    });
    if !seen_empty {
        return Flow::Stop(Doing::of(KIND, OperationStep::VerifyEmpty, victim));
    }
    if !is_member(cluster, victim) || mutant!(RemoveVoterLate) {
        let doing = Doing::of(KIND, OperationStep::ShrinkStatefulSet, victim);
        let step = Step::Resize { from: Some(victim.0), to: victim.0 - 1 - i32::from(mutant!(ShrinkByTwo)) };
        return Flow::Act(step, doing, format!("broker {victim} is empty and no member of the quorum"));
    }
    let doing = Doing::of(KIND, OperationStep::RemoveFromQuorum, victim);
    if cluster.voters.contains(&victim) {
        let others: Vec<NodeId> = cluster.voters.iter().copied().filter(|v| *v != victim).collect();
        let healthy =
            |node: &&NodeId| **node == leader || cluster.progress.get(node).is_some_and(|p| p.recently_active);
        let caught_up = |node: &&NodeId| {
            healthy(node) && (**node == leader || cluster.progress.get(node).is_some_and(|p| p.caught_up))
        };
        let needed = others.len() / 2 + 1;
        if others.iter().filter(healthy).count() < needed {
            let message = format!("of the remaining voters {} fewer than {needed} are healthy", list(others));
            return Flow::Stop(doing.held(Gate::VotersWouldLoseMajority, message));
        }
        if others.iter().filter(caught_up).count() < needed {
            let message = format!("of the remaining voters {} fewer than {needed} are caught up", list(others));
            return Flow::Stop(doing.held(Gate::QuorumNotCaughtUp, message));
        }
        if i32::try_from(others.len()).unwrap_or(i32::MAX) < wanted.voters {
            let message =
                format!("{} voters are wanted, and no learner is caught up to replace broker {victim}", wanted.voters);
            return Flow::Stop(doing.held(Gate::QuorumNotCaughtUp, message));
        }
        if leader == victim {
            let doing = Doing::of(KIND, OperationStep::TransferLeader, victim);
            let successor = others.iter().find(caught_up).copied();
            let why = format!("broker {victim} leaves and leads the quorum");
            return Flow::Act(Step::Quorum(QuorumChange::TransferLeader(successor)), doing, why);
        }
    }
    Flow::Act(Step::Quorum(QuorumChange::Remove(victim)), doing, format!("broker {victim} is empty and leaves"))
}

/// What forbids the removal for as long as the cluster is as it is.
fn forbidden(wanted: &Wanted, cluster: &ClusterFacts, victim: NodeId) -> Option<super::Hold> {
    let hold = |gate, message| Some(super::Hold { gate, message });
    if wanted.never_shrink {
        return hold(Gate::ScaleDownPolicyBlock, format!("{} brokers are wanted, there are {victim}", wanted.replicas));
    }
    if cluster.max_replication_factor > wanted.replicas {
        return hold(
            Gate::ReplicationFactorTooHigh,
            format!(
                "topic {} has {} replicas and needs as many brokers; {} would remain",
                cluster.max_replication_factor_topic, cluster.max_replication_factor, wanted.replicas
            ),
        );
    }
    if cluster.max_internal_replication_factor > wanted.replicas {
        return hold(
            Gate::ReplicationFactorTooHigh,
            format!(
                "an internal topic has {} replicas and needs as many brokers; {} would remain",
                cluster.max_internal_replication_factor, wanted.replicas
            ),
        );
    }
    None
}

/// What keeps the removal from beginning.
fn not_now(view: &View, cluster: &ClusterFacts, leader: NodeId, victim: NodeId) -> Option<super::Hold> {
    let hold = |gate, message| Some(super::Hold { gate, message });
    let not_ready: Vec<NodeId> = view.not_ready();
    if !not_ready.is_empty() {
        return hold(Gate::PodNotReady, format!("pods of brokers {} are not ready", list(not_ready)));
    }
    if !view.founded {
        return hold(Gate::OperationInProgress, "the cluster is being founded".to_owned());
    }
    if cluster.voters.contains(&victim) {
        let others: Vec<NodeId> = cluster.voters.iter().copied().filter(|v| *v != victim).collect();
        let healthy =
            |node: &&NodeId| **node == leader || cluster.progress.get(node).is_some_and(|p| p.recently_active);
        if others.is_empty() || others.iter().filter(healthy).count() < others.len() / 2 + 1 {
            return hold(
                Gate::VotersWouldLoseMajority,
                format!("too few of the remaining voters {} are healthy", list(others)),
            );
        }
    }
    insufficient_disk(view, victim)
}

/// Others take what it has, and are filled to nine tenths at most.
fn insufficient_disk(view: &View, victim: NodeId) -> Option<super::Hold> {
    let data = view.facts(victim)?.myself.data_bytes;
    let others = view.known().filter(|(node, facts)| *node != victim && facts.myself.disk_total_bytes > 0);
    let free: u64 = others
        .map(|(_, facts)| (facts.myself.disk_total_bytes / 10 * 9).saturating_sub(facts.myself.disk_used_bytes))
        .fold(0, u64::saturating_add);
    (data > free).then(|| super::Hold {
        gate: Gate::InsufficientDisk,
        message: format!(
            "broker {victim} holds about {} bytes of records, the others can take {}",
            quantity::coarse(data),
            quantity::coarse(free)
        ),
    })
}
