//! What brokers are configured with: their own settings, those of the whole cluster, and the address book.
//!
//! `broker.yaml` and `cluster.yaml` are JSON, which every YAML reader takes. `broker.yaml` is an annotation of the pod template: a
//! change is a new revision and so a rolling restart, and each pod keeps what its revision said. `cluster.yaml` is a ConfigMap that
//! all share; a change never restarts anybody, so nothing of it may enter the template.
//!
//! Settings of the whole cluster ([`CLUSTER_SETTINGS`]) live in the brokers' metadata and are in force at once. They are in no
//! file but that of the founders, so that the first topic finds them; later the reconciler sets them ([`cluster_settings`]).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Input, names};
use crate::api::{ChronikClusterSpec, UNSET_REPLICATION_FACTOR};
use crate::observed::NodeId;
use crate::quantity;

/// Where both files are mounted.
pub const CONFIG_DIR: &str = "/etc/chronik";
/// Where the Secret is mounted.
pub const CONTROL_DIR: &str = "/etc/chronik-control";
/// Where the disk is mounted.
pub const DATA_DIR: &str = "/var/lib/chronik";

/// Settings of `spec.config` that brokers keep in their metadata, one value for all. Whatever else is in there is a setting of each
/// broker's process.
pub const CLUSTER_SETTINGS: [&str; 17] = [
    "compression.type",
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "log.cleanup.policy",
    "log.flush.interval.messages",
    "log.index.interval.bytes",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.retention.bytes",
    "log.retention.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "message.max.bytes",
    "num.partitions",
    "replica.alter.log.dirs.io.max.bytes.per.second",
    "unclean.leader.election.enable",
];

const REPLICATION_FACTOR: &str = "default.replication.factor";
const MIN_IN_SYNC: &str = "min.insync.replicas";
const REASSIGNMENT_RATE: &str = "reassignment.throttle.rate";

/// The settings of the whole cluster, with so many brokers that can hold replicas.
///
/// Without `minInsyncReplicas` the brokers take one less than each topic has replicas.
#[must_use]
pub fn cluster_settings(spec: &ChronikClusterSpec, brokers: i32) -> BTreeMap<String, String> {
    let chosen = spec.config.iter().filter(|(name, _)| CLUSTER_SETTINGS.contains(&name.as_str()));
    // Brokers keep values without the space around them.
    let mut settings: BTreeMap<String, String> =
        chosen.map(|(name, value)| (name.clone(), value.trim().to_owned())).collect();
    let factor = spec.replication_factor.unwrap_or(UNSET_REPLICATION_FACTOR).min(brokers).max(1);
    settings.insert(REPLICATION_FACTOR.to_owned(), factor.to_string());
    if let Some(least) = spec.min_insync_replicas {
        settings.insert(MIN_IN_SYNC.to_owned(), least.clamp(1, factor).to_string());
    }
    if let Some(rate) = spec.rebalance.throttle.as_ref().and_then(quantity::whole) {
        settings.insert(REASSIGNMENT_RATE.to_owned(), rate.min(i64::MAX.unsigned_abs()).to_string());
    }
    settings
}

/// The settings of each broker's process.
#[must_use]
pub fn broker_yaml(spec: &ChronikClusterSpec) -> String {
    let own = spec.config.iter().filter(|(name, _)| !CLUSTER_SETTINGS.contains(&name.as_str()));
    let mut settings: BTreeMap<&str, String> = own.map(|(name, value)| (name.as_str(), value.clone())).collect();
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
    // One that starts late with an old file must not bring back what was changed since.
    let defaults = if founded { BTreeMap::new() } else { cluster_settings(input.spec, input.brokers) };
    pretty(&json!({
        "clusterId": input.status.cluster_id,
        "bootstrapVoters": bootstrap.voters,
        // Once founded, nobody founds: an empty disk joins.
        "join": founded,
        "clusterDefaults": defaults,
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
