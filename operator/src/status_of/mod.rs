//! The status: what was seen and what is being done, for users, and what the next pass must remember.
//!
//! A pure function of the pass; called by [`crate::reconcile`] before and after the act. Equal observations give equal statuses: times are those
//! of changes, kept from the last status while nothing changes, and numbers that move all the time are coarse.

mod conditions;
mod nodes;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{
    BlockedBy, ChronikClusterSpec, ChronikClusterStatus, ListenerStatus, Operation, OperationStatus, Phase,
    QuorumStatus, StorageStatus, StorageType, TemplateStatus,
};
use crate::build::{Advertised, names};
use crate::mutant;
use crate::observed::{ClusterFacts, NodeId, Told};
use crate::plan::{Doing, View, Wanted};

/// What a status is made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// Namespace of the cluster.
    pub namespace: &'a str,
    /// Generation of the specification.
    pub generation: i64,
    /// The specification.
    pub spec: &'a ChronikClusterSpec,
    /// What is wrong with it.
    pub problems: &'a [String],
    /// The same, with defaults.
    pub wanted: &'a Wanted,
    /// What was seen.
    pub view: &'a View,
    /// What is being done.
    pub doing: Option<&'a Doing>,
    /// Everything that waits.
    pub waiting: &'a [Doing],
    /// What clients from outside are told.
    pub advertised: &'a BTreeMap<NodeId, Vec<Advertised>>,
    /// How the brokers' racks are; None = it was not looked at.
    pub racks: Option<&'a Told>,
    /// How the settings of the whole cluster are; None = it was not looked at.
    pub settings: Option<&'a Told>,
}

/// The new status. `last` has identity, founders, retired disks and rebalancing as they shall be; the rest is made anew.
#[must_use]
pub fn status(input: &Input<'_>, last: &ChronikClusterStatus) -> ChronikClusterStatus {
    let view = input.view;
    let now = whole_second(view.now);
    let cluster = best_view(view);
    let paused = input.spec.paused || !input.problems.is_empty();
    // While nothing may be done, the change that was under way stays where it is.
    let operation = if paused { last.operation.clone() } else { input.doing.map(|doing| operation(doing, last, now)) };
    let mut status = ChronikClusterStatus {
        observed_generation: input.generation,
        phase: Phase::Pending,
        conditions: Vec::new(),
        // While the StatefulSet is made anew, its size must not be forgotten.
        replicas: view.set.as_ref().map_or(last.replicas, |set| set.replicas),
        ready_replicas: count(view.members().filter(|node| view.pod_ready(*node))),
        updated_replicas: count(
            view.members().filter(|n| view.pods.get(n).is_some_and(|pod| pod.revision == input.wanted.revision)),
        ),
        selector: selector(&input.wanted.name),
        cluster_id: last.cluster_id.clone(),
        bootstrap: last.bootstrap.clone(),
        quorum: cluster.map(quorum),
        nodes: nodes::nodes(input, cluster, operation.as_ref(), &last.nodes),
        operation,
        rebalance: last.rebalance.clone(),
        listeners: listeners(input),
        storage: storage(input),
        template: Some(template(input, last)),
        version: oldest(view.known().map(|(_, facts)| facts.myself.version.as_str())).or_else(|| last.version.clone()),
        retired: last.retired.clone(),
        settings: last.settings.clone(),
    };
    conditions::fill(input, cluster, last, now, &mut status);
    status
}

/// Times in a status are whole seconds, as the API server keeps them.
#[must_use]
pub fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// The leader's view, or else that of the broker that has applied most. For showing only.
fn best_view(view: &View) -> Option<&ClusterFacts> {
    let leader = view.leader().map(|(_, cluster)| cluster);
    leader.or_else(|| view.known().map(|(_, facts)| &facts.cluster).max_by_key(|c| (c.term, c.applied_index)))
}

pub(crate) fn operation(doing: &Doing, last: &ChronikClusterStatus, now: Timestamp) -> OperationStatus {
    let before = last.operation.as_ref().filter(|op| op.kind == doing.kind);
    let mut blocked_by: Vec<BlockedBy> = Vec::new();
    for hold in &doing.holds {
        if blocked_by.iter().any(|b| b.gate == hold.gate) {
            continue;
        }
        let since = before.and_then(|op| op.blocked_by.iter().find(|b| b.gate == hold.gate)).map(|b| b.since.clone());
        blocked_by.push(BlockedBy {
            gate: hold.gate,
            message: hold.message.clone(),
            since: since.filter(|_| !mutant!(SinceNow)).unwrap_or(Time(now)),
        });
    }
    OperationStatus {
        kind: doing.kind,
        step: doing.step,
        node_id: doing.node.map(|node| node.0),
        // Brokers are removed one by one, and each has its own time.
        started_at: before
            .filter(|op| doing.kind != Operation::ScaleDown || op.node_id == doing.node.map(|node| node.0))
            .map_or(Time(now), |op| op.started_at.clone()),
        blocked_by,
    }
}

fn quorum(cluster: &ClusterFacts) -> QuorumStatus {
    QuorumStatus {
        leader_id: cluster.leader.map(|node| node.0),
        term: i64::try_from(cluster.term).unwrap_or(i64::MAX),
        voters: cluster.voters.iter().map(|n| n.0).collect(),
        learners: cluster.learners.iter().map(|n| n.0).collect(),
    }
}

fn selector(name: &str) -> String {
    names::selector(name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn listeners(input: &Input<'_>) -> Vec<ListenerStatus> {
    let name = &input.wanted.name;
    let mut all = Vec::new();
    if let Some(internal) = input.spec.internal_listener() {
        let at = |host: String| format!("{host}:{}", internal.port);
        all.push(ListenerStatus {
            name: internal.name.clone(),
            bootstrap_servers: at(format!("{}.{}.svc", names::bootstrap(name), input.namespace)),
            addresses: input
                .view
                .members()
                .map(|node| at(names::host(name, input.namespace, &node.pod(name))))
                .collect(),
        });
    }
    for listener in input.spec.nodeport_listeners() {
        let told = input.advertised.iter().filter(|(node, _)| node.0 <= input.view.size());
        let addresses: Vec<String> = told
            .flat_map(|(_, listeners)| listeners.iter().filter(|l| l.name == listener.name))
            .map(|l| format!("{}:{}", l.host, l.advertised_port))
            .collect();
        all.push(ListenerStatus { name: listener.name.clone(), bootstrap_servers: addresses.join(","), addresses });
    }
    all
}

fn storage(input: &Input<'_>) -> Option<StorageStatus> {
    if input.spec.storage.kind != StorageType::Persistent {
        return None;
    }
    let claims = || input.view.members().filter_map(|node| input.view.claims.get(&node)).filter(|c| c.capacity > 0);
    Some(StorageStatus {
        requested: input.spec.storage.size.0.clone(),
        actual: claims().map(|c| c.capacity).min().map(size),
        growing: count(claims().filter(|c| c.capacity < c.requested.max(input.wanted.storage.unwrap_or(0)))),
    })
}

/// 10Gi rather than 10737418240.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

fn template(input: &Input<'_>, last: &ChronikClusterStatus) -> TemplateStatus {
    let outdated = input.view.pods.values().any(|pod| pod.revision != input.wanted.revision);
    if outdated && input.wanted.restarts_held.is_some() {
        let revision = last.template.as_ref().map(|t| t.revision.clone()).filter(|r| !r.is_empty());
        let running = input.view.pods.values().map(|pod| pod.revision.clone()).find(|r| *r != input.wanted.revision);
        return TemplateStatus {
            revision: revision.filter(|r| *r != input.wanted.revision).or(running).unwrap_or_default(),
            pending_revision: Some(input.wanted.revision.clone()),
        };
    }
    TemplateStatus { revision: input.wanted.revision.clone(), pending_revision: None }
}

fn oldest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<String> {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    versions.filter(|v| !v.is_empty()).min_by_key(|v| (numbers(v), (*v).to_owned())).map(str::to_owned)
}
