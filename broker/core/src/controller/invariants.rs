//! What is true of the metadata after every command. Called by tests and the simulator after each apply.

use std::collections::BTreeSet;

use chronik_model::NodeId;

use super::election::is_complete;
use super::state::{MetadataState, Topic};
use crate::{LeaderRecovery, PartitionState};

/// Checks everything that must hold between two commands.
///
/// # Errors
/// A sentence that names the first thing found broken.
pub fn check_invariants(state: &MetadataState) -> Result<(), String> {
    if state.names.len() != state.topics.len() {
        return Err(format!("{} topic ids for {} topics", state.names.len(), state.topics.len()));
    }
    for (name, topic) in &state.topics {
        if topic.name != *name || state.names.get(&topic.id) != Some(name) {
            return Err(format!("topic {name} is filed under another name or id"));
        }
        for (index, partition) in topic.iter() {
            check_partition(state, topic, partition)
                .map_err(|what| format!("{name}-{index}: {what}: {partition:?}"))?;
        }
    }
    for (node, broker) in &state.brokers {
        if broker.node != *node || u64::try_from(broker.epoch.0).map_or(true, |epoch| epoch > state.applied.0) {
            return Err(format!("broker {node} is registered in the future or under another id: {broker:?}"));
        }
    }
    if let Some(broker) = state.brokers.values().find(|broker| broker.rack_assigned && broker.rack.is_none()) {
        return Err(format!("broker {} was assigned no rack", broker.node));
    }
    if state.next_producer_id < 0 {
        return Err(format!("next producer id {}", state.next_producer_id));
    }
    Ok(())
}

fn check_partition(state: &MetadataState, topic: &Topic, partition: &PartitionState) -> Result<(), &'static str> {
    let set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<NodeId>>();
    let (replicas, isr, elr) = (set(&partition.replicas), set(&partition.isr), set(&partition.elr));
    let last_known = set(&partition.last_known_elr);
    let reported = set(&partition.reports.iter().map(|report| report.node).collect::<Vec<_>>());
    let current = |node: NodeId| state.broker(node).map(|broker| broker.epoch);
    let configured = state.configured_min_isr(topic);
    let min_isr = partition.min_isr(configured);
    let (adding, removing) = (set(&partition.adding), set(&partition.removing));
    let rules = [
        (!replicas.is_empty(), "has no replicas"),
        (replicas.len() == partition.replicas.len(), "names a replica twice"),
        (isr.len() == partition.isr.len() && elr.len() == partition.elr.len(), "names an in-sync replica twice"),
        (
            adding.is_subset(&replicas) && adding.len() == partition.adding.len(),
            "adds a replica twice or one that it does not have",
        ),
        (
            removing.is_subset(&replicas) && removing.len() == partition.removing.len(),
            "removes a replica twice or one that it does not have",
        ),
        (adding.is_disjoint(&removing), "adds and removes one replica"),
        (removing.len() < replicas.len(), "removes all of its replicas"),
        (partition.replication_factor() > 0, "had no replicas before the reassignment"),
        (
            !is_complete(partition, configured, |node| state.is_active(node)),
            "has reached the goal of its reassignment, which is under way still",
        ),
        (isr.is_subset(&replicas), "has an in-sync replica that is no replica"),
        (elr.is_subset(&replicas), "has an eligible leader that is no replica"),
        (isr.is_disjoint(&elr), "has a replica that is in sync and out of sync"),
        (partition.leader.is_none_or(|leader| isr.contains(&leader)), "has a leader that is not in sync"),
        (partition.leader.is_some() || isr.is_empty(), "has in-sync replicas and no leader"),
        (isr.iter().all(|node| state.broker(*node).is_some_and(|b| !b.fenced)), "has a fenced broker in sync"),
        (isr.len() < min_isr || elr.is_empty(), "has eligible leaders although enough replicas are in sync"),
        (
            last_known.is_subset(&replicas) && last_known.len() == partition.last_known_elr.len(),
            "has a last known eligible leader twice or that is no replica",
        ),
        (
            last_known.is_disjoint(&isr) && last_known.is_disjoint(&elr),
            "has a replica that is trusted and only the last known eligible one",
        ),
        (
            isr.len() < min_isr || last_known.is_empty(),
            "has last known eligible leaders although the high watermark may move without them",
        ),
        (partition.leader.is_none() || reported.is_empty(), "has a leader and reports of logs"),
        (
            reported.is_subset(&last_known) && reported.len() == partition.reports.len(),
            "has a report twice or of a replica whose log does not count",
        ),
        (
            partition.reports.iter().all(|report| current(report.node) == Some(report.broker_epoch)),
            "has a report of an earlier registration",
        ),
        (
            partition.recovery == LeaderRecovery::Recovered || isr.len() <= 1,
            "has several in-sync replicas while its leader recovers",
        ),
        (partition.leader_epoch.0 <= partition.partition_epoch.0, "changed its leader without a new version"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
}
