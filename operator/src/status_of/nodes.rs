//! `status.nodes`.

use super::Input;
use crate::api::{NodeRole, NodeState, NodeStatus, Operation, OperationStatus, OperationStep};
use crate::observed::{ClusterFacts, NodeId};

/// A share of the disk is shown anew when it has moved by so much: it changes all the time.
const DISK_STEP: i32 = 5;

pub(super) fn nodes(
    input: &Input<'_>,
    cluster: Option<&ClusterFacts>,
    operation: Option<&OperationStatus>,
    last: &[NodeStatus],
) -> Vec<NodeStatus> {
    let view = input.view;
    let mut ids: Vec<NodeId> = view.members().chain(view.pods.keys().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(128);
    let one = |node: NodeId| {
        let before = last.iter().find(|n| n.id == node.0);
        let facts = view.facts(node);
        let pod = view.pods.get(&node);
        let registered = cluster.and_then(|c| c.brokers.get(&node));
        // What is not known now is as it was, but whether it serves.
        let text = |now: Option<&str>, then: Option<&String>| {
            now.filter(|text| !text.is_empty()).map(str::to_owned).or_else(|| then.cloned())
        };
        let directory = facts.map(|f| f.myself.directory_id.as_str()).or(registered.map(|b| b.directory_id.as_str()));
        NodeStatus {
            id: node.0,
            pod: node.pod(&input.wanted.name),
            role: role(cluster, node),
            ready: view.pod_ready(node),
            identity: text(directory, before.and_then(|n| n.identity.as_ref())),
            version: text(facts.map(|f| f.myself.version.as_str()), before.and_then(|n| n.version.as_ref())),
            revision: pod.map(|pod| pod.revision.clone()).filter(|revision| !revision.is_empty()),
            replicas: registered.map_or(0, |b| b.replicas),
            leaders: registered.map_or(0, |b| b.leaders),
            disk_used_pct: disk(
                facts.map(|f| (f.myself.disk_used_bytes, f.myself.disk_total_bytes)),
                before.and_then(|n| n.disk_used_pct),
            ),
            state: state(input, node, operation),
        }
    };
    ids.into_iter().map(one).collect()
}

fn role(cluster: Option<&ClusterFacts>, node: NodeId) -> NodeRole {
    match cluster {
        Some(c) if c.leader == Some(node) => NodeRole::Leader,
        Some(c) if c.voters.contains(&node) => NodeRole::Voter,
        Some(c) if c.learners.contains(&node) => NodeRole::Learner,
        _ => NodeRole::None,
    }
}

fn disk(now: Option<(u64, u64)>, before: Option<i32>) -> Option<i32> {
    let Some((used, total)) = now.filter(|(_, total)| *total > 0) else { return before };
    let share = i32::try_from(u128::from(used) * 100 / u128::from(total)).unwrap_or(100).min(100);
    match before {
        Some(before) if (share - before).abs() < DISK_STEP => Some(before),
        _ => Some(share),
    }
}

fn state(input: &Input<'_>, node: NodeId, operation: Option<&OperationStatus>) -> NodeState {
    let view = input.view;
    let step = operation.filter(|op| op.node_id == Some(node.0)).map(|op| (op.kind, op.step));
    match (view.pods.get(&node), step) {
        (Some(pod), _) if pod.terminating && input.wanted.stopped => NodeState::Stopped,
        (Some(pod), Some((Operation::ScaleDown, _))) if pod.terminating => NodeState::Leaving,
        (Some(pod), _) if pod.terminating => NodeState::Restarting,
        (None, _) => NodeState::Pending,
        (Some(_), Some((Operation::ScaleDown, OperationStep::RemoveFromQuorum | OperationStep::ShrinkStatefulSet))) => {
            NodeState::Leaving
        }
        (
            Some(_),
            Some((
                Operation::ScaleDown,
                OperationStep::Cordon
                | OperationStep::MoveReplicas
                | OperationStep::MoveLeaders
                | OperationStep::VerifyEmpty
                | OperationStep::TransferLeader,
            )),
        ) => NodeState::Draining,
        (Some(pod), _) if pod.down => NodeState::Pending,
        (Some(pod), _) if pod.ready && view.facts(node).is_some() => NodeState::Running,
        (Some(_), _) if view.facts(node).is_some() => NodeState::Starting,
        (Some(pod), _) if !pod.ready => NodeState::Starting,
        _ => NodeState::Unknown,
    }
}
