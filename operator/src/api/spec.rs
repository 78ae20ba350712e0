//! The specification of a `ChronikCluster`.
//!
//! Rules that need only the object itself are CEL, so that `kubectl apply` says at once what is wrong. `replicas` appears in
//! none of them: `kubectl scale` and autoscalers would otherwise be answered with errors about other fields.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;
use super::listener::ListenerSpec;
use super::pod::{NetworkPolicySpec, PodDisruptionBudgetSpec, PodTemplateSpec};
use super::rack::RackSpec;
use super::schema;
use super::status::ChronikClusterStatus;
use super::storage::StorageSpec;

/// Settings of a broker that the operator writes itself; `config` may not name them.
pub const RESERVED_SETTINGS: [&str; 22] = [
    "admin.port",
    "advertised.host",
    "advertised.kafka.port",
    "bind.address",
    "bootstrap.voters",
    "broker.rack",
    "cluster.file",
    "cluster.id",
    "control.secret.file",
    "data.dir",
    "default.replication.factor",
    "discovery.dns.server",
    "discovery.pod.prefix",
    "discovery.service",
    "discovery.srv.port.name",
    "join",
    "kafka.port",
    "min.insync.replicas",
    "node.id",
    "raft.port",
    "reassignment.throttle.rate",
    "replication.port",
];

/// What a Chronik cluster shall be like.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chronik.io",
    version = "v1alpha1",
    kind = "ChronikCluster",
    plural = "chronikclusters",
    singular = "chronikcluster",
    shortname = "ccl",
    category = "chronik",
    namespaced,
    status = "ChronikClusterStatus",
    derive = "PartialEq",
    doc = "A Kafka-compatible streaming cluster: its brokers, their storage and how they may be changed.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether clients can produce with acks=all"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Brokers that are ready"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Brokers that are asked for"
    ),
    printcolumn(
        name = "Voters",
        type_ = "string",
        json_path = ".status.quorum.voters",
        description = "Voters of the metadata quorum"
    ),
    printcolumn(
        name = "Leader",
        type_ = "integer",
        json_path = ".status.quorum.leaderId",
        description = "Leader of the metadata quorum"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "What the brokers run"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "What is going on"),
    printcolumn(
        name = "Operation",
        type_ = "string",
        json_path = ".status.operation.type",
        description = "The change under way",
        priority = 1
    ),
    printcolumn(
        name = "Step",
        type_ = "string",
        json_path = ".status.operation.step",
        description = "Where that change is",
        priority = 1
    ),
    printcolumn(
        name = "Blocked by",
        type_ = "string",
        json_path = ".status.operation.blockedBy[*].gate",
        description = "What it waits for",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name becomes the name of Services and pods: at most 40 lower-case letters, digits and '-', beginning with a letter and ending with a letter or digit"
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.image) || !has(self.version)").message(
        "give image or version, not both: version chooses the tag of the operator's own default image"
    ),
    validation = Rule::new(
        "!has(self.minInsyncReplicas) || self.minInsyncReplicas <= (has(self.replicationFactor) ? self.replicationFactor : 3)"
    ).message(
        "minInsyncReplicas must not exceed replicationFactor (3 when it is not given): otherwise acks=all could never succeed"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ChronikClusterSpec {
    /// Number of brokers. Changed by `kubectl scale`, too.
    #[serde(default = "defaults::replicas")]
    #[schemars(range(min = 1, max = 99))]
    pub replicas: i32,

    /// Tag of the operator's default broker image. Instead of `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub version: Option<String>,
    /// Broker image. Absent = the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the image is pulled. Absent = as Kubernetes does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets of the registry that holds the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The metadata quorum.
    #[serde(default)]
    pub raft: RaftSpec,

    /// Replicas of a new topic. Absent = 3, or `replicas` where that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 15))]
    pub replication_factor: Option<i32>,
    /// In-sync replicas that acks=all needs, where a topic does not say. Absent = one less than the topic has replicas, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 15))]
    pub min_insync_replicas: Option<i32>,

    /// Disks of the brokers.
    #[serde(default)]
    pub storage: StorageSpec,

    /// Settings of the brokers. Those that kafka-configs knows for a cluster (log.retention.ms, message.max.bytes, ...) are in force at once; a change of any other, as chronik-broker config lists them, restarts the brokers one by one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "schema::settings")]
    #[schemars(schema_with = "schema::settings_schema")]
    #[x_kube(
        validation = Rule::new(reserved_rule()).message(
            "the operator sets this itself: node.id, cluster.id, join, cluster.file, control.secret.file, data.dir, bootstrap.voters, broker.rack, bind.address, advertised.*, discovery.* and ports cannot be in config; default.replication.factor, min.insync.replicas and reassignment.throttle.rate are spec.replicationFactor, spec.minInsyncReplicas and spec.rebalance.throttle"
        ),
        validation = Rule::new("self.all(k, k.matches('^[a-z][a-z0-9]*(\\\\.[a-z0-9]+)*$'))").message(
            "names of settings are lower-case words joined by dots, such as log.retention.ms"
        )
    )]
    pub config: BTreeMap<String, String>,

    /// Where clients connect.
    #[serde(default = "defaults::listeners")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.filter(l, l.type == 'internal').size() == 1").message(
            "listeners needs exactly one of type internal: brokers' own tools and clients within the cluster use it"
        ),
        validation = Rule::new("self.all(l, self.exists_one(m, m.port == l.port))").message(
            "two listeners have the same port"
        ),
        validation = Rule::new(
            "self.all(a, !has(a.advertised) || !has(a.advertised.nodePortBase) || self.all(b, b.name == a.name || !has(b.advertised) || !has(b.advertised.nodePortBase) || b.advertised.nodePortBase - a.advertised.nodePortBase >= 99 || a.advertised.nodePortBase - b.advertised.nodePortBase >= 99))"
        ).message(
            "the nodePortBase of two listeners must be at least 99 apart: each broker takes the base plus its ordinal"
        )
    )]
    pub listeners: Vec<ListenerSpec>,

    /// Processor and memory of each broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub resources: Option<ResourceRequirements>,
    /// Where brokers may run. Absent = preferably on different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub affinity: Option<Affinity>,
    /// How brokers spread. Absent = evenly over zones and hosts where possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::spread_constraints")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// In which rack each broker is, from the node that it runs on: replicas of a partition spread over racks. Absent = brokers have no rack. A change restarts nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<RackSpec>,
    /// Taints that brokers tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Labels of the nodes that brokers may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Labels and annotations of the pods.
    #[serde(default)]
    pub pod_template: PodTemplateSpec,
    /// How many brokers a node drain may stop at a time.
    #[serde(default)]
    pub pod_disruption_budget: PodDisruptionBudgetSpec,
    /// Who may connect to the ports that are not for clients.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// How brokers are restarted when their configuration changed.
    #[serde(default)]
    pub rollout: RolloutSpec,
    /// Whether an upgrade of the operator may restart brokers by itself. Manual = any new revision waits for the annotation chronik.io/approved-revision.
    #[serde(default)]
    pub upgrade_policy: UpgradePolicy,
    /// How brokers are removed.
    #[serde(default)]
    pub scale_down: ScaleDownSpec,
    /// How partitions are moved between brokers.
    #[serde(default)]
    pub rebalance: RebalanceSpec,

    /// The operator only reports and changes nothing.
    #[serde(default)]
    pub paused: bool,
    /// All brokers are stopped; their disks stay.
    #[serde(default)]
    pub stopped: bool,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The metadata quorum.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RaftSpec {
    /// Voters of the metadata quorum: 1, 3, 5 or 7. Absent = the largest odd number up to replicas and 5. Further brokers follow as learners, and so do voters that become too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(validation = Rule::new("self % 2 == 1").message(
        "raft.voters must be odd (1, 3, 5 or 7): an even number of voters tolerates no more failures than one less"
    ))]
    pub voters: Option<i32>,
}

/// How brokers are restarted when their configuration changed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Auto = one broker after the other as soon as it is safe. Manual = only after the annotation chronik.io/approved-revision names the revision.
    #[serde(default)]
    pub policy: RolloutPolicy,
    /// How long leaderships may take to move away from a broker before it is restarted all the same.
    #[serde(default = "defaults::drain_timeout")]
    #[schemars(schema_with = "schema::duration")]
    pub drain_timeout: Duration,
    /// How long a restarted broker may take to be in sync again before this is reported as Degraded.
    #[serde(default = "defaults::recover_timeout")]
    #[schemars(schema_with = "schema::duration")]
    pub recover_timeout: Duration,
}

/// Who starts a rolling restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutPolicy {
    #[default]
    Auto,
    Manual,
}

/// Whether an upgrade of the operator may restart brokers by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradePolicy {
    #[default]
    Auto,
    Manual,
}

/// How brokers are removed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleDownSpec {
    /// Drain = move everything away, then remove. Block = never remove a broker.
    #[serde(default)]
    pub policy: ScaleDownPolicy,
    /// How long draining one broker may take before this is reported as Degraded. It is never cut short.
    #[serde(default = "defaults::scale_down_timeout")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Duration,
}

/// Whether brokers may be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScaleDownPolicy {
    #[default]
    Drain,
    Block,
}

/// How partitions are moved between brokers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceSpec {
    /// Partitions that are moved at the same time.
    #[serde(default = "defaults::rebalance_max_in_flight")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_in_flight: i32,
    /// Bytes per second that each broker copies at most, such as 50Mi. Absent = as the brokers are configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    #[x_kube(validation = Rule::new("quantity(self).isGreaterThan(quantity('0'))").message(
        "rebalance.throttle must be more than 0: partitions would never arrive"
    ))]
    pub throttle: Option<Quantity>,
}

/// The CEL rule that keeps [`RESERVED_SETTINGS`] out of `config`.
fn reserved_rule() -> String {
    let names: Vec<String> = RESERVED_SETTINGS.iter().map(|name| format!("'{name}'")).collect();
    format!("self.all(k, !(k in [{}]))", names.join(", "))
}
