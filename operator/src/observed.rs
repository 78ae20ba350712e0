//! What a reconcile pass saw, before anything is decided.
//!
//! Filled by [`crate::reconcile`] from the ports; read by `plan`, `build` and `status_of`, which never do I/O. A broker that
//! did not answer is [`Answer::Unknown`], which is never the same as gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::ChronikCluster;
use crate::build::names;
use crate::ports::{Children, Expansion};

/// A broker's id: the ordinal of its pod + 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub i32);

impl NodeId {
    /// Of the pod with this ordinal.
    #[must_use]
    pub const fn of_ordinal(ordinal: i32) -> Self {
        Self(ordinal.saturating_add(1))
    }

    /// Ordinal of its pod.
    #[must_use]
    pub const fn ordinal(self) -> i32 {
        self.0.saturating_sub(1)
    }

    /// Name of its pod.
    #[must_use]
    pub fn pod(self, cluster: &str) -> String {
        format!("{cluster}-{}", self.ordinal())
    }

    /// Name of its disk.
    #[must_use]
    pub fn claim(self, cluster: &str) -> String {
        format!("data-{cluster}-{}", self.ordinal())
    }

    /// From the name of a pod of that cluster.
    #[must_use]
    pub fn of_pod(cluster: &str, pod: &str) -> Option<Self> {
        let ordinal = pod.strip_prefix(cluster)?.strip_prefix('-')?;
        if ordinal.len() > 1 && ordinal.starts_with('0') || !ordinal.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        ordinal.parse().ok().map(Self::of_ordinal)
    }

    /// From the name of a disk of that cluster.
    #[must_use]
    pub fn of_claim(cluster: &str, claim: &str) -> Option<Self> {
        Self::of_pod(cluster, claim.strip_prefix("data-")?)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a broker says about itself and the cluster.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BrokerFacts {
    /// Itself.
    pub myself: SelfFacts,
    /// The cluster as its applied metadata shows it.
    pub cluster: ClusterFacts,
}

/// A broker about itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SelfFacts {
    /// Who answers; 0 = it did not say.
    pub node: i32,
    /// Empty before it knows.
    pub cluster_id: String,
    /// Of this run of its process.
    pub incarnation: String,
    /// Of its data directory; empty before it has one.
    pub directory_id: String,
    /// Release.
    pub version: String,
    /// As its readiness probe says.
    pub ready: bool,
    /// What is missing.
    pub not_ready_because: String,
    /// Bytes used on its disk.
    pub disk_used_bytes: u64,
    /// Size of its disk.
    pub disk_total_bytes: u64,
    /// Bytes of its partition logs: what others would have to take over if it left.
    pub data_bytes: u64,
    /// Its log directory failed.
    pub log_dir_offline: bool,
    /// Since the process began.
    pub uptime_ms: u64,
}

/// The cluster as one broker knows it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ClusterFacts {
    /// Leader of the metadata quorum; None = none known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// How much of the metadata log is applied.
    pub applied_index: u64,
    /// Voting members.
    pub voters: BTreeSet<NodeId>,
    /// Members that only follow.
    pub learners: BTreeSet<NodeId>,
    /// Only from the leader itself.
    pub progress: BTreeMap<NodeId, MemberFacts>,
    /// Registered brokers.
    pub brokers: BTreeMap<NodeId, RegisteredFacts>,
    /// All partitions.
    pub partitions: i32,
    /// Without a leader.
    pub offline_partitions: i32,
    /// With replicas that are not in sync.
    pub under_replicated_partitions: i32,
    /// That accept no acks=all.
    pub under_min_isr_partitions: i32,
    /// Being reassigned.
    pub reassigning_partitions: i32,
    /// Largest replication factor of users' topics.
    pub max_replication_factor: i32,
    /// A topic that has it.
    pub max_replication_factor_topic: String,
    /// Largest replication factor of internal topics.
    pub max_internal_replication_factor: i32,
    /// Unfenced brokers.
    pub live_brokers: i32,
    /// Settings that were given one value for all brokers.
    pub defaults: BTreeMap<String, String>,
}

/// How far a member of the quorum is, as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MemberFacts {
    /// Last entry it is known to have.
    pub matched_index: u64,
    /// Heard of lately.
    pub recently_active: bool,
    /// Would be promoted now.
    pub caught_up: bool,
}

/// A broker as the cluster has it registered.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RegisteredFacts {
    /// Of its registration.
    pub epoch: i64,
    /// Not live.
    pub fenced: bool,
    /// Gets no replicas.
    pub cordoned: bool,
    /// Failure domain.
    pub rack: String,
    /// Release.
    pub version: String,
    /// Of its process.
    pub incarnation: String,
    /// Of its data directory.
    pub directory_id: String,
    /// Partitions whose replica set names it, also as one being added.
    pub replicas: i32,
    /// Partitions that it leads.
    pub leaders: i32,
    /// Its replicas that are not in sync.
    pub out_of_sync: i32,
    /// Partitions that its stop would take below min.insync.replicas or leave without a leader.
    pub restart_blockers: i32,
    /// One of them.
    pub restart_blocker_example: String,
    /// It is leaving in good order.
    pub in_controlled_shutdown: bool,
}

/// A broker's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It answered.
    Known(Box<BrokerFacts>),
    /// It did not: why.
    Unknown(String),
}

impl Answer {
    /// What it said.
    #[must_use]
    pub fn facts(&self) -> Option<&BrokerFacts> {
        match self {
            Self::Known(facts) => Some(facts),
            Self::Unknown(_) => None,
        }
    }
}

/// Whether brokers have been told everything of a kind: their racks, the settings of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// They have.
    pub done: bool,
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Everything that a pass saw.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object, with the status of the last pass.
    pub cluster: ChronikCluster,
    /// What exists in Kubernetes.
    pub children: Children,
    /// Answers of the brokers whose pods exist.
    pub brokers: BTreeMap<NodeId, Answer>,
    /// Whether the disks can grow; only asked when they have to.
    pub expansion: Expansion,
    /// What the API server said when a disk was to grow and it refused.
    pub growth_refused: Option<String>,
}

/// Whether an object belongs to the cluster: owned by it, or by nobody while it has the cluster's label.
#[must_use]
pub fn is_ours(meta: &ObjectMeta, uid: &str, cluster: &str) -> bool {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    match owners.iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid == uid,
        None => meta.labels.as_ref().and_then(|l| l.get(names::CLUSTER_LABEL)).is_some_and(|label| label == cluster),
    }
}
