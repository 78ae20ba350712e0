//! What holds where a user says nothing.
//!
//! The functions are the defaults in the schema; the methods are those that depend on another field and so are not stored.

use std::time;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::Duration;

use super::listener::{ListenerSpec, ListenerType};
use super::pod::{NetworkPolicySpec, PodDisruptionBudgetSpec, PodTemplateSpec, UnhealthyPodEvictionPolicy};
use super::spec::{
    ChronikClusterSpec, RaftSpec, RebalanceSpec, RolloutPolicy, RolloutSpec, ScaleDownPolicy, ScaleDownSpec,
    UpgradePolicy,
};
use super::storage::{RetentionSpec, StorageSpec, StorageType};

/// Port of the internal listener where nothing else is said.
pub const DEFAULT_KAFKA_PORT: i32 = 9092;
/// Most brokers of one cluster.
pub const MAX_REPLICAS: i32 = 99;
/// Most voters where `raft.voters` is not given.
pub const MAX_VOTERS: i32 = 5;
/// Replication factor of a new topic where it is not given and there are enough brokers.
pub const UNSET_REPLICATION_FACTOR: i32 = 3;

const MINUTE: u64 = 60;

pub(super) fn replicas() -> i32 {
    3
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn max_unavailable() -> i32 {
    1
}

pub(super) fn kafka_port() -> i32 {
    DEFAULT_KAFKA_PORT
}

pub(super) fn storage_size() -> Quantity {
    Quantity("10Gi".to_owned())
}

pub(super) fn rebalance_max_in_flight() -> i32 {
    8
}

pub(super) fn drain_timeout() -> Duration {
    time::Duration::from_secs(10 * MINUTE).into()
}

pub(super) fn recover_timeout() -> Duration {
    time::Duration::from_secs(30 * MINUTE).into()
}

pub(super) fn scale_down_timeout() -> Duration {
    time::Duration::from_secs(24 * 60 * MINUTE).into()
}

pub(super) fn listeners() -> Vec<ListenerSpec> {
    let kind = ListenerType::Internal;
    vec![ListenerSpec { name: "internal".to_owned(), port: DEFAULT_KAFKA_PORT, kind, advertised: None }]
}

/// The largest odd number up to `n`, at least 1.
#[must_use]
pub fn largest_odd_at_most(n: i32) -> i32 {
    let n = n.max(1);
    if n % 2 == 1 { n } else { n - 1 }
}

impl ChronikClusterSpec {
    /// Voters that the metadata quorum shall have: an odd number, never more than there are brokers.
    #[must_use]
    pub fn voters(&self) -> i32 {
        self.voters_among(self.replicas)
    }

    /// The same if there were so many brokers.
    #[must_use]
    pub fn voters_among(&self, brokers: i32) -> i32 {
        largest_odd_at_most(self.most_voters().min(brokers))
    }

    /// The most voters that there may be, however many brokers.
    #[must_use]
    pub fn most_voters(&self) -> i32 {
        self.raft.voters.unwrap_or(MAX_VOTERS)
    }

    /// Replicas of a new topic.
    #[must_use]
    pub fn effective_replication_factor(&self) -> i32 {
        self.replication_factor.unwrap_or_else(|| UNSET_REPLICATION_FACTOR.min(self.replicas).max(1))
    }

    /// In-sync replicas that acks=all needs, for a new topic.
    #[must_use]
    pub fn effective_min_insync_replicas(&self) -> i32 {
        self.min_insync_replicas.unwrap_or_else(|| (self.effective_replication_factor() - 1).max(1))
    }

    /// The broker image: `image`, or `default_image` with `version` as its tag.
    #[must_use]
    pub fn image_or(&self, default_image: &str) -> String {
        match (&self.image, &self.version) {
            (Some(image), _) => image.clone(),
            (None, Some(version)) => format!("{}:{version}", without_tag(default_image)),
            (None, None) => default_image.to_owned(),
        }
    }

    /// The listener for clients within the Kubernetes cluster; the schema says that there is exactly one.
    #[must_use]
    pub fn internal_listener(&self) -> Option<&ListenerSpec> {
        self.listeners.iter().find(|l| l.kind == ListenerType::Internal)
    }

    /// Port of the internal listener.
    #[must_use]
    pub fn kafka_port(&self) -> i32 {
        self.internal_listener().map_or(DEFAULT_KAFKA_PORT, |l| l.port)
    }

    /// The listeners that are reached over ports of the nodes.
    pub fn nodeport_listeners(&self) -> impl Iterator<Item = &ListenerSpec> {
        self.listeners.iter().filter(|l| l.kind == ListenerType::Nodeport)
    }
}

impl ListenerSpec {
    /// The host that clients of this listener are told for broker `node_id`, when the user said one.
    #[must_use]
    pub fn advertised_host(&self, node_id: i32) -> Option<String> {
        let template = self.advertised.as_ref()?.host_template.as_ref()?;
        Some(template.replace("{nodeId}", &node_id.to_string()))
    }

    /// The node port of the broker with `ordinal`, when the user chose them.
    #[must_use]
    pub fn node_port(&self, ordinal: i32) -> Option<i32> {
        self.advertised.as_ref()?.node_port_base.map(|base| base + ordinal)
    }
}

/// `registry:5000/name:tag@digest` without tag and digest.
fn without_tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((front, tag)) if !tag.contains('/') => front,
        _ => name,
    }
}

impl Default for ChronikClusterSpec {
    fn default() -> Self {
        Self {
            replicas: replicas(),
            version: None,
            image: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            raft: RaftSpec::default(),
            replication_factor: None,
            min_insync_replicas: None,
            storage: StorageSpec::default(),
            config: Default::default(),
            listeners: listeners(),
            resources: None,
            affinity: None,
            topology_spread_constraints: None,
            rack: None,
            tolerations: Vec::new(),
            node_selector: Default::default(),
            priority_class_name: None,
            pod_template: PodTemplateSpec::default(),
            pod_disruption_budget: PodDisruptionBudgetSpec::default(),
            network_policy: NetworkPolicySpec::default(),
            rollout: RolloutSpec::default(),
            upgrade_policy: UpgradePolicy::default(),
            scale_down: ScaleDownSpec::default(),
            rebalance: RebalanceSpec::default(),
            paused: false,
            stopped: false,
        }
    }
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            size: storage_size(),
            storage_class: None,
            kind: StorageType::default(),
            retention: RetentionSpec::default(),
        }
    }
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self { policy: RolloutPolicy::default(), drain_timeout: drain_timeout(), recover_timeout: recover_timeout() }
    }
}

impl Default for ScaleDownSpec {
    fn default() -> Self {
        Self { policy: ScaleDownPolicy::default(), timeout: scale_down_timeout() }
    }
}

impl Default for RebalanceSpec {
    fn default() -> Self {
        Self { max_in_flight: rebalance_max_in_flight(), throttle: None }
    }
}

impl Default for PodDisruptionBudgetSpec {
    fn default() -> Self {
        let unhealthy_pod_eviction_policy = UnhealthyPodEvictionPolicy::default();
        Self { max_unavailable: max_unavailable(), unhealthy_pod_eviction_policy }
    }
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: yes() }
    }
}
