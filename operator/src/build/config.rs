//! The two files that brokers read: their settings, and the address book.
//!
//! Both are JSON, which every YAML reader takes. A change of `broker.yaml` is a new template revision and so a rolling restart; one of
//! `cluster.yaml` never restarts anybody, so nothing of it may enter the template.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Input, names};
use crate::api::{ChronikClusterSpec, UNSET_REPLICATION_FACTOR};
use crate::observed::NodeId;

/// Where the ConfigMap is mounted.
pub const CONFIG_DIR: &str = "/etc/chronik";
/// Where the Secret is mounted.
pub const CONTROL_DIR: &str = "/etc/chronik-control";
/// Where the disk is mounted.
pub const DATA_DIR: &str = "/var/lib/chronik";

/// Replication of new topics with so many brokers: (replication factor, min.insync.replicas).
#[must_use]
pub fn replication(spec: &ChronikClusterSpec, brokers: i32) -> (i32, i32) {
    let factor = spec.replication_factor.unwrap_or(UNSET_REPLICATION_FACTOR).min(brokers).max(1);
    let in_sync = spec.min_insync_replicas.unwrap_or(factor - 1).clamp(1, factor);
    (factor, in_sync)
}

/// The brokers' settings.
#[must_use]
pub fn broker_yaml(spec: &ChronikClusterSpec, brokers: i32) -> String {
    let (factor, in_sync) = replication(spec, brokers);
    let mut settings: BTreeMap<&str, String> = BTreeMap::new();
    settings.insert("offsets.topic.replication.factor", factor.to_string());
    for (key, value) in &spec.config {
        settings.insert(key, value.clone());
    }
    settings.insert("default.replication.factor", factor.to_string());
    settings.insert("min.insync.replicas", in_sync.to_string());
    settings.insert("kafka.port", spec.kafka_port().to_string());
    settings.insert("raft.port", names::RAFT_PORT.to_string());
    settings.insert("replication.port", names::REPLICATION_PORT.to_string());
    settings.insert("admin.port", names::ADMIN_PORT.to_string());
    settings.insert("data.dir", DATA_DIR.to_owned());
    settings.insert("cluster.file", format!("{CONFIG_DIR}/cluster.yaml"));
    settings.insert("control.secret.file", format!("{CONTROL_DIR}/token"));
    pretty(&json!(settings))
}

/// The address book: who the founders are, whether anybody may found, and where everybody is.
#[must_use]
pub fn cluster_yaml(input: &Input<'_>) -> String {
    let bootstrap = input.status.bootstrap.clone().unwrap_or_default();
    let peers: Vec<Value> = (1..=input.brokers)
        .map(|id| {
            let node = NodeId(id);
            let listeners: Vec<Value> = input
                .advertised
                .get(&node)
                .into_iter()
                .flatten()
                .map(|l| {
                    json!({"name": l.name, "port": l.port, "advertisedHost": l.host, "advertisedPort": l.advertised_port})
                })
                .collect();
            json!({
                "id": id,
                "host": names::host(input.name, input.namespace, &node.pod(input.name)),
                "ports": {
                    "kafka": input.spec.kafka_port(),
                    "raft": names::RAFT_PORT,
                    "replication": names::REPLICATION_PORT,
                    "admin": names::ADMIN_PORT,
                },
                "listeners": listeners,
            })
        })
        .collect();
    let founded = bootstrap.completed_at.is_some();
    pretty(&json!({
        "clusterId": input.status.cluster_id,
        "bootstrapVoters": bootstrap.voters,
        // Once founded, nobody founds: an empty disk joins.
        "join": founded,
        "peers": peers,
        "retired": input.status.retired,
    }))
}

fn pretty(value: &Value) -> String {
    // A value of plain maps always becomes text.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
