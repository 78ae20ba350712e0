//! What the operator answers.
//!
//! Written by the operator only, at each step of a change. Equal observations give equal statuses: no field holds the time of the
//! pass that wrote it, and times are whole seconds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gate::Gate;

/// State of a Chronik cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChronikClusterStatus {
    /// Generation of the specification that this status is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// Summary for people; derived from the rest.
    #[serde(default)]
    pub phase: Phase,
    /// Ready, QuorumHealthy, Progressing, Degraded, SpecValid, ScaleDownBlocked, StorageGrowthBlocked, Paused, SettingsApplied; RacksAssigned where spec.rack is given.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Brokers that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Pods with the current template.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Label selector of the pods, for autoscalers.
    #[serde(default)]
    pub selector: String,
    /// Identity of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// How the cluster was founded; never changes once written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapStatus>,
    /// The metadata quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// The brokers.
    #[serde(default)]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub nodes: Vec<NodeStatus>,
    /// The change under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationStatus>,
    /// Partitions on their way between brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceStatus>,
    /// Where clients connect.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub listeners: Vec<ListenerStatus>,
    /// The disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStatus>,
    /// The pod template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateStatus>,
    /// What the brokers run; the oldest while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Directory ids of disks whose brokers were removed. A broker that finds such a disk moves its data aside and joins empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub retired: Vec<String>,
    /// Settings of the whole cluster that the operator has set; one that leaves the specification goes back to what is built in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub settings: Vec<String>,
}

/// Summary for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing has been done yet, or pods are being created for the first time.
    #[default]
    Pending,
    /// Everything is as it was asked for.
    Running,
    /// A change is under way.
    Progressing,
    /// A change is held back.
    Blocked,
    /// Something is broken.
    Degraded,
    /// The operator only looks.
    Paused,
    /// All brokers are stopped.
    Stopped,
    /// The specification cannot be obeyed.
    Invalid,
}

/// The types of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// Clients can produce with acks=all.
    Ready,
    /// A majority of the voters runs, has a leader, and no voter lags.
    QuorumHealthy,
    /// A change is under way.
    Progressing,
    /// Something is broken or takes longer than it may.
    Degraded,
    /// The specification can be obeyed.
    SpecValid,
    /// Brokers should be removed and cannot.
    ScaleDownBlocked,
    /// Disks should grow and cannot.
    StorageGrowthBlocked,
    /// The operator only looks.
    Paused,
    /// Settings of the whole cluster are in force as the specification has them.
    SettingsApplied,
    /// Brokers have the racks that `spec.rack` asks for; absent without it.
    RacksAssigned,
}

impl ConditionType {
    /// Every type, in the order of the status.
    pub const ALL: &'static [Self] = &[
        Self::Ready,
        Self::QuorumHealthy,
        Self::Progressing,
        Self::Degraded,
        Self::SpecValid,
        Self::ScaleDownBlocked,
        Self::StorageGrowthBlocked,
        Self::Paused,
        Self::SettingsApplied,
        Self::RacksAssigned,
    ];

    /// The name that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::QuorumHealthy => "QuorumHealthy",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::SpecValid => "SpecValid",
            Self::ScaleDownBlocked => "ScaleDownBlocked",
            Self::StorageGrowthBlocked => "StorageGrowthBlocked",
            Self::Paused => "Paused",
            Self::SettingsApplied => "SettingsApplied",
            Self::RacksAssigned => "RacksAssigned",
        }
    }
}

/// How the cluster was founded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapStatus {
    /// The founding voters.
    #[serde(default)]
    #[schemars(length(max = 7))]
    pub voters: Vec<i32>,
    /// When the quorum first answered. From then on nobody founds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}

/// The metadata quorum as its leader, or else the best informed broker, sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Absent = none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_id: Option<i32>,
    /// Term of the leader.
    #[serde(default)]
    pub term: i64,
    /// Those who vote.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub voters: Vec<i32>,
    /// Those who follow.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub learners: Vec<i32>,
}

/// One broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Broker id: ordinal of the pod plus 1.
    pub id: i32,
    /// Its pod.
    pub pod: String,
    /// Its part in the metadata quorum.
    pub role: NodeRole,
    /// Whether it serves clients.
    pub ready: bool,
    /// Directory id of its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Template revision of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Partitions that it holds.
    #[serde(default)]
    pub replicas: i32,
    /// Partitions that it leads.
    #[serde(default)]
    pub leaders: i32,
    /// How full its disk is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used_pct: Option<i32>,
    /// What it is doing.
    pub state: NodeState,
}

/// Part in the metadata quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeRole {
    /// Leads the quorum.
    Leader,
    /// Votes.
    Voter,
    /// Follows.
    Learner,
    /// Not a member, or not known.
    #[default]
    None,
}

/// What a broker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeState {
    /// Its pod does not exist or has not started.
    Pending,
    /// Its process runs and is not ready.
    Starting,
    /// It serves.
    Running,
    /// It is being restarted.
    Restarting,
    /// Its replicas and leaderships are being moved away.
    Draining,
    /// It left the quorum and its pod is being removed.
    Leaving,
    /// Stopped, as asked.
    Stopped,
    /// It does not answer.
    #[default]
    Unknown,
}

/// The change under way.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// What is changed.
    #[serde(rename = "type")]
    pub kind: Operation,
    /// Where the change is.
    pub step: OperationStep,
    /// The broker that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<i32>,
    /// When the change began.
    pub started_at: Time,
    /// What holds it back; empty = it proceeds.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["gate".into()]))]
    pub blocked_by: Vec<BlockedBy>,
}

/// Kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operation {
    /// The cluster is founded.
    Bootstrap,
    /// Brokers are added.
    ScaleUp,
    /// A broker is removed.
    ScaleDown,
    /// Voters of the metadata quorum are added or removed.
    QuorumChange,
    /// Partitions are spread anew.
    Rebalance,
    /// Brokers are restarted one by one.
    RollingRestart,
    /// Disks grow.
    StorageGrowth,
    /// All brokers are stopped.
    Stop,
    /// Stopped brokers are started.
    Start,
    /// A broken part is put right.
    Repair,
}

impl Operation {
    /// The name that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "Bootstrap",
            Self::ScaleUp => "ScaleUp",
            Self::ScaleDown => "ScaleDown",
            Self::QuorumChange => "QuorumChange",
            Self::Rebalance => "Rebalance",
            Self::RollingRestart => "RollingRestart",
            Self::StorageGrowth => "StorageGrowth",
            Self::Stop => "Stop",
            Self::Start => "Start",
            Self::Repair => "Repair",
        }
    }
}

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperationStep {
    /// Before its first act.
    Begin,
    /// Objects of Kubernetes are created or changed.
    ApplyObjects,
    /// Pods are on their way.
    AwaitPods,
    /// The quorum is on its way.
    AwaitQuorum,
    /// Brokers register.
    AwaitBrokers,
    /// The broker is told to take nothing new.
    Cordon,
    /// The broker may take replicas again: its removal was taken back.
    Uncordon,
    /// Replicas are moved.
    MoveReplicas,
    /// Leaderships are moved.
    MoveLeaders,
    /// Whether the broker is empty is looked at twice.
    VerifyEmpty,
    /// A learner becomes a voter.
    PromoteVoter,
    /// A surplus voter becomes a learner.
    DemoteVoter,
    /// A member leaves the quorum.
    RemoveFromQuorum,
    /// Another voter takes over the quorum.
    TransferLeader,
    /// The StatefulSet shrinks by one.
    ShrinkStatefulSet,
    /// The removed pod ends.
    AwaitPodGone,
    /// The cluster forgets the broker.
    Unregister,
    /// Its disk is marked as retired and its address forgotten.
    RetireDisk,
    /// The pod is deleted so that it starts anew.
    RestartPod,
    /// The restarted broker catches up.
    AwaitRecovery,
    /// Claims are grown.
    GrowVolumes,
    /// The StatefulSet is made anew around its running pods.
    RecreateStatefulSet,
}

/// What holds a change back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedBy {
    /// Which gate.
    pub gate: Gate,
    /// For people.
    pub message: String,
    /// Since when.
    pub since: Time,
}

/// Partitions on their way between brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceStatus {
    /// Partitions that are moving.
    #[serde(default)]
    pub in_flight: i32,
    /// Partitions that will move after them.
    #[serde(default)]
    pub remaining: i32,
    /// Bytes still to copy for those that are moving.
    #[serde(default)]
    pub bytes_remaining: i64,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
}

/// Where clients connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Name of the listener.
    pub name: String,
    /// Value of bootstrap.servers: addresses joined by commas.
    #[serde(default)]
    pub bootstrap_servers: String,
    /// Address of each broker, by id.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub addresses: Vec<String>,
}

/// The disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// What is asked for.
    #[serde(default)]
    pub requested: String,
    /// The smallest disk that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Disks that are still growing.
    #[serde(default)]
    pub growing: i32,
}

/// The pod template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateStatus {
    /// Revision that brokers run or are being restarted to.
    #[serde(default)]
    pub revision: String,
    /// Revision that waits for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_revision: Option<String>,
}
