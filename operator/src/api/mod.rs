//! `ChronikCluster`, the custom resource: what a user asks for, what the operator answers, and the rules between them.
//!
//! Everything else of the operator reads these types and nothing else decides defaults: what the API server can fill in is a
//! default in the schema, what depends on another field is a method of [`ChronikClusterSpec`]. [`crd`] prints the definition that
//! is checked in as `crds/chronikclusters.yaml`. The types do no input or output and know no time.
//!
//! A field that nothing implements does not exist here: what a user writes is obeyed or refused, never ignored.

pub mod crd;
mod defaults;
mod gate;
mod listener;
mod pod;
mod rack;
mod schema;
mod spec;
mod status;
mod storage;

#[cfg(test)]
mod tests;

pub use defaults::{DEFAULT_KAFKA_PORT, MAX_REPLICAS, MAX_VOTERS, UNSET_REPLICATION_FACTOR, largest_odd_at_most};
pub use gate::Gate;
pub use listener::{AdvertisedSpec, ListenerSpec, ListenerType};
pub use pod::{NetworkPolicySpec, PodDisruptionBudgetSpec, PodTemplateSpec, UnhealthyPodEvictionPolicy};
pub use rack::RackSpec;
pub use spec::{
    ChronikCluster, ChronikClusterSpec, ImagePullPolicy, RESERVED_SETTINGS, RaftSpec, RebalanceSpec, RolloutPolicy,
    RolloutSpec, ScaleDownPolicy, ScaleDownSpec, UpgradePolicy,
};
pub use status::{
    BlockedBy, BootstrapStatus, ChronikClusterStatus, ConditionType, ListenerStatus, NodeRole, NodeState, NodeStatus,
    Operation, OperationStatus, OperationStep, Phase, QuorumStatus, RebalanceStatus, StorageStatus, TemplateStatus,
};
pub use storage::{RetentionPolicy, RetentionSpec, StorageSpec, StorageType};

/// API group of everything of Chronik.
pub const GROUP: &str = "chronik.io";
/// Version of the API.
pub const VERSION: &str = "v1alpha1";
/// Put on a `ChronikCluster` by a user: the template revision whose restarts are approved where `rollout.policy` or
/// `upgradePolicy` is `Manual`.
pub const APPROVED_REVISION_ANNOTATION: &str = "chronik.io/approved-revision";
