//! Whether a specification can be obeyed, beyond what the API server checked.
//!
//! Called by [`crate::reconcile`] before anything is planned. The schema's own rules are repeated where breaking them would
//! harm data: an object may be older than the rule. Never changes anything; says every problem at once.

use std::collections::BTreeSet;

use crate::api::{ChronikClusterSpec, ListenerType, MAX_REPLICAS, RESERVED_SETTINGS, StorageType};
use crate::quantity;

/// Everything that is wrong, for people; empty = valid.
#[must_use]
pub fn validate(spec: &ChronikClusterSpec) -> Vec<String> {
    let mut problems = Vec::new();
    if !(1..=MAX_REPLICAS).contains(&spec.replicas) {
        problems.push(format!("spec.replicas is {}; it must be from 1 to {MAX_REPLICAS}", spec.replicas));
    }
    if let Some(voters) = spec.raft.voters
        && (!(1..=7).contains(&voters) || voters % 2 == 0)
    {
        problems.push(format!("spec.raft.voters is {voters}; it must be 1, 3, 5 or 7"));
    }
    if quantity::whole(&spec.storage.size).is_none_or(|size| size == 0) {
        problems.push(format!("spec.storage.size is {:?}; it must be a size such as 10Gi", spec.storage.size.0));
    }
    if let Some(throttle) = &spec.rebalance.throttle
        && quantity::whole(throttle).is_none_or(|rate| rate == 0)
    {
        problems.push(format!("spec.rebalance.throttle is {:?}; it must be bytes per second such as 50Mi", throttle.0));
    }
    for (field, value) in
        [("replicationFactor", spec.replication_factor), ("minInsyncReplicas", spec.min_insync_replicas)]
    {
        if value.is_some_and(|value| value < 1) {
            problems.push(format!("spec.{field} must be at least 1"));
        }
    }
    if spec.stopped && spec.storage.kind == StorageType::Ephemeral {
        // Founded once, never again: empty brokers would wait for others to join.
        problems.push("spec.stopped with storage.type Ephemeral would lose all data for good".to_owned());
    }
    for key in spec.config.keys().filter(|key| RESERVED_SETTINGS.contains(&key.as_str())) {
        problems.push(format!("spec.config sets {key}, which the operator sets itself"));
    }
    listeners(spec, &mut problems);
    problems
}

fn listeners(spec: &ChronikClusterSpec, problems: &mut Vec<String>) {
    let internal = spec.listeners.iter().filter(|l| l.kind == ListenerType::Internal).count();
    if internal != 1 {
        problems.push(format!("spec.listeners has {internal} listeners of type internal; it needs exactly one"));
    }
    let mut names = BTreeSet::from(["raft", "replication", "admin", "control"]);
    let mut ports = BTreeSet::from([9192, 9292, 9392]);
    for listener in &spec.listeners {
        if !names.insert(&listener.name) {
            problems.push(format!("spec.listeners: the name {} is taken", listener.name));
        }
        if !ports.insert(listener.port) || !(1024..=65535).contains(&listener.port) {
            problems.push(format!("spec.listeners: port {} is taken or impossible", listener.port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn the_default_specification_is_valid() {
        assert_eq!(validate(&ChronikClusterSpec::default()), Vec::<String>::new());
    }

    #[test]
    fn a_cluster_without_disks_of_its_own_cannot_be_stopped() {
        let mut spec = ChronikClusterSpec { stopped: true, ..Default::default() };
        assert_eq!(validate(&spec), Vec::<String>::new());
        spec.storage.kind = StorageType::Ephemeral;
        assert!(validate(&spec)[0].contains("spec.stopped"));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut spec = ChronikClusterSpec { replicas: 0, ..Default::default() };
        spec.raft.voters = Some(4);
        spec.storage.size = Quantity("much".to_owned());
        spec.config.insert("node.id".to_owned(), "7".to_owned());
        spec.listeners[0].port = 9192;
        let problems = validate(&spec);
        for word in ["spec.replicas", "raft.voters", "storage.size", "node.id", "port 9192"] {
            assert!(problems.iter().any(|p| p.contains(word)), "{word}: {problems:?}");
        }
        assert_eq!(problems.len(), 5, "{problems:?}");
    }
}
