//! Conditions and the phase.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Input;
use crate::api::{ChronikClusterStatus, ConditionType, Gate, Operation, OperationStatus, Phase};
use crate::observed::ClusterFacts;
use crate::plan::passes_soon;

/// A quorum without a leader for so long is reported, whatever is being done.
const UNLED: Duration = Duration::from_secs(60);
/// A disk beyond this is reported.
const DISK_FULL_PCT: i32 = 90;

struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

fn yes(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { holds: true, reason, message: message.into() }
}

fn no(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { holds: false, reason, message: message.into() }
}

/// Sets conditions and phase.
pub(super) fn fill(
    input: &Input<'_>,
    cluster: Option<&ClusterFacts>,
    last: &ChronikClusterStatus,
    now: Timestamp,
    status: &mut ChronikClusterStatus,
) {
    let degraded = degraded(input, cluster, last, now, status);
    let phase = phase(input, &degraded, status);
    let mut conditions = Vec::new();
    for kind in ConditionType::ALL {
        let verdict = match kind {
            ConditionType::Ready => ready(input, cluster),
            ConditionType::QuorumHealthy => quorum_healthy(input),
            ConditionType::Progressing => progressing(input, status.operation.as_ref()),
            ConditionType::Degraded => match &degraded {
                Some((reason, message)) => yes(reason, message.clone()),
                None => no("AsExpected", ""),
            },
            ConditionType::SpecValid => {
                // What only Kubernetes finds out is a gate, and as wrong.
                let held = input.doing.into_iter().chain(input.waiting).flat_map(|doing| &doing.holds);
                let refused =
                    held.filter(|hold| hold.gate == Gate::SpecInvalid).map(|hold| hold.message.clone()).next();
                match refused {
                    _ if !input.problems.is_empty() => no("SpecInvalid", input.problems.join("; ")),
                    Some(message) => no("SpecInvalid", message),
                    None => yes("Valid", ""),
                }
            }
            ConditionType::ScaleDownBlocked => scale_down_blocked(input),
            ConditionType::StorageGrowthBlocked => storage_growth_blocked(input),
            ConditionType::Paused => {
                if input.spec.paused {
                    yes("Paused", "spec.paused is set: the operator changes nothing")
                } else {
                    no("NotPaused", "")
                }
            }
            ConditionType::RacksAssigned if input.spec.rack.is_none() => continue,
            ConditionType::RacksAssigned | ConditionType::SettingsApplied => {
                let told = if *kind == ConditionType::RacksAssigned { input.racks } else { input.settings };
                let Some(told) = told else {
                    // Nobody could tell in this pass: it is as it was.
                    conditions.extend(last.conditions.iter().find(|c| c.type_ == kind.as_str()).cloned());
                    continue;
                };
                Verdict { holds: told.done, reason: told.reason, message: told.message.clone() }
            }
        };
        let value = if verdict.holds { "True" } else { "False" };
        let before = last.conditions.iter().find(|c| c.type_ == kind.as_str() && c.status == value);
        conditions.push(Condition {
            type_: kind.as_str().to_owned(),
            status: value.to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message,
            observed_generation: Some(input.generation),
            last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
        });
    }
    status.conditions = conditions;
    status.phase = phase;
}

fn ready(input: &Input<'_>, cluster: Option<&ClusterFacts>) -> Verdict {
    if input.wanted.stopped {
        return no("Stopped", "spec.stopped is set");
    }
    if input.view.leader().is_none() {
        return no(Gate::NoQuorumLeader.as_str(), "no broker answers as leader of the metadata quorum");
    }
    let Some(cluster) = cluster else { return no("BrokerStateUnknown", "no broker answers") };
    if !input.view.founded {
        return no("Founding", "not all founding brokers have joined yet");
    }
    if cluster.live_brokers == 0 {
        return no("NoBroker", "no broker is in service");
    }
    if cluster.offline_partitions > 0 {
        return no("OfflinePartitions", format!("{} partitions have no leader", cluster.offline_partitions));
    }
    if cluster.under_min_isr_partitions > 0 {
        let message =
            format!("{} partitions have fewer in-sync replicas than acks=all needs", cluster.under_min_isr_partitions);
        return no("UnderMinIsr", message);
    }
    yes("Serving", "clients can produce with acks=all")
}

fn quorum_healthy(input: &Input<'_>) -> Verdict {
    let Some((leader, cluster)) = input.view.leader() else {
        return no(Gate::NoQuorumLeader.as_str(), "no broker answers as leader of the metadata quorum");
    };
    let fit = |v: &&crate::observed::NodeId| {
        **v == leader || cluster.progress.get(v).is_some_and(|p| p.recently_active && p.caught_up)
    };
    let voters = cluster.voters.len();
    let healthy = cluster.voters.iter().filter(fit).count();
    if healthy < voters {
        return no(Gate::QuorumNotCaughtUp.as_str(), format!("{healthy} of {voters} voters are healthy and caught up"));
    }
    yes("Healthy", format!("broker {leader} leads, all {voters} voters are caught up"))
}

fn progressing(input: &Input<'_>, operation: Option<&OperationStatus>) -> Verdict {
    match operation {
        _ if input.spec.paused => no("Paused", ""),
        None => no("Done", "nothing to do"),
        Some(op) => match op.blocked_by.first() {
            Some(blocked) => no(blocked.gate.as_str(), format!("{}: {}", op.kind.as_str(), blocked.message)),
            None => yes(op.kind.as_str(), format!("{:?}", op.step)),
        },
    }
}

fn scale_down_blocked(input: &Input<'_>) -> Verdict {
    let held = input
        .waiting
        .iter()
        .chain(input.doing)
        .filter(|doing| doing.kind == Operation::ScaleDown)
        .flat_map(|doing| &doing.holds)
        .find(|hold| !matches!(hold.gate, Gate::PodNotGone | Gate::StatefulSetNotObserved));
    match held {
        Some(hold) => yes(hold.gate.as_str(), hold.message.clone()),
        None => no("NotBlocked", ""),
    }
}

/// Said whichever change the status shows: what a person has to settle must not hide behind another that waits.
fn storage_growth_blocked(input: &Input<'_>) -> Verdict {
    let waiting = input.waiting.iter().chain(input.doing).filter(|doing| doing.kind == Operation::StorageGrowth);
    let held = waiting.flat_map(|doing| &doing.holds).find(|hold| !passes_soon(hold.gate));
    match held {
        Some(hold) => yes(hold.gate.as_str(), hold.message.clone()),
        None => no("NotBlocked", ""),
    }
}

/// What is broken or takes too long.
fn degraded(
    input: &Input<'_>,
    cluster: Option<&ClusterFacts>,
    last: &ChronikClusterStatus,
    now: Timestamp,
    status: &ChronikClusterStatus,
) -> Option<(&'static str, String)> {
    if input.wanted.stopped {
        return None;
    }
    let view = input.view;
    let age = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if let Some((node, _)) = view.known().find(|(_, facts)| facts.myself.log_dir_offline) {
        return Some(("LogDirOffline", format!("the log directory of broker {node} failed")));
    }
    if let Some(cluster) = cluster.filter(|c| c.offline_partitions > 0) {
        return Some(("OfflinePartitions", format!("{} partitions have no leader", cluster.offline_partitions)));
    }
    if let Some(node) = status.nodes.iter().find(|n| n.disk_used_pct.is_some_and(|pct| pct >= DISK_FULL_PCT)) {
        return Some((
            "DiskAlmostFull",
            format!("the disk of broker {} is {}% full", node.id, node.disk_used_pct.unwrap_or(0)),
        ));
    }
    // Nobody leads, or the operator reaches nobody.
    let unled =
        last.conditions.iter().find(|c| c.type_ == ConditionType::QuorumHealthy.as_str() && c.status == "False");
    if let Some(since) = unled.map(|c| c.last_transition_time.0).filter(|_| view.founded && view.leader().is_none())
        && age(since) > UNLED
    {
        let silent = view.unknown();
        let message = if silent.is_empty() {
            "no broker leads the metadata quorum".to_owned()
        } else {
            let nodes = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!("no broker answers as leader of the metadata quorum; brokers {nodes} do not answer the operator")
        };
        return Some((Gate::NoQuorumLeader.as_str(), message));
    }
    let operation = status.operation.as_ref();
    if let Some(op) = operation {
        let kind = op.kind.as_str();
        if op.kind == Operation::ScaleDown && age(op.started_at.0) > input.wanted.scale_down_timeout {
            return Some(("ScaleDownTimeout", format!("{kind} takes longer than spec.scaleDown.timeout")));
        }
        // What should pass by itself and does not. How long replicas take to move, and what waits for another, is no sign of harm.
        let waits = |b: &&crate::api::BlockedBy| {
            passes_soon(b.gate) && !matches!(b.gate, Gate::ReplicasNotMoved | Gate::OperationInProgress)
        };
        if let Some(blocked) = op.blocked_by.iter().find(waits)
            && age(blocked.since.0) > input.wanted.recover_timeout
        {
            return Some(("RecoverTimeout", format!("{kind}: {}", blocked.message)));
        }
        let pods_come_and_go = matches!(
            op.kind,
            Operation::Bootstrap | Operation::ScaleUp | Operation::Start | Operation::Stop | Operation::RollingRestart
        );
        // Restarts that a person has to approve do not explain why a pod is not ready.
        let unapproved = op.blocked_by.iter().any(|b| b.gate == Gate::ManualApproval);
        if pods_come_and_go && !unapproved {
            return None;
        }
    }
    let not_ready = view.not_ready();
    if !not_ready.is_empty() {
        let nodes = not_ready.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Some((Gate::PodNotReady.as_str(), format!("pods of brokers {nodes} are not ready")));
    }
    None
}

fn phase(input: &Input<'_>, degraded: &Option<(&'static str, String)>, status: &ChronikClusterStatus) -> Phase {
    let founded = status.bootstrap.as_ref().is_some_and(|b| b.completed_at.is_some());
    if !input.problems.is_empty() {
        return Phase::Invalid;
    }
    if input.spec.paused {
        return Phase::Paused;
    }
    if input.wanted.stopped && input.view.pods.is_empty() {
        return Phase::Stopped;
    }
    if degraded.is_some() {
        return Phase::Degraded;
    }
    match &status.operation {
        _ if !founded => Phase::Pending,
        None => Phase::Running,
        Some(op) if op.blocked_by.iter().all(|b| passes_soon(b.gate)) => Phase::Progressing,
        Some(_) => Phase::Blocked,
    }
}
