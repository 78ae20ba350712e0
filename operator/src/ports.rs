//! What one reconcile pass needs of the world: Kubernetes and the brokers, as two traits.
//!
//! [`crate::reconcile`] is the only caller. The process implements them over kube's client and gRPC; the simulator over
//! an in-memory Kubernetes and modelled brokers. Every call is bounded in time by its implementation, and every write
//! may be repeated. Nothing here decides anything.

use std::fmt;
use std::future::Future;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::{ChronikCluster, ChronikClusterStatus};
use crate::observed::{BrokerFacts, NodeId};

/// The one field manager of everything that the reconciler applies.
pub const FIELD_MANAGER: &str = "chronik-operator";

/// Namespace and name of a ChronikCluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// From its two parts.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why Kubernetes did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KubeError {
    /// 404.
    #[error("not found: {0}")]
    NotFound(String),
    /// 409: the object is another one, or has changed, since it was read.
    #[error("conflict: {0}")]
    Conflict(String),
    /// 401 and 403.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// 400 and 422: the same request will never be accepted.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Everything that may go better next time: time-outs, 429, 5xx, no connection. It is not known whether a write happened.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// A child that the operator applies.
#[derive(Clone, PartialEq, Debug)]
pub enum Object {
    /// `x`.
    ServiceAccount(Box<ServiceAccount>),
    /// `x-control`.
    Secret(Box<Secret>),
    /// `x-config`.
    ConfigMap(Box<ConfigMap>),
    /// `x-brokers`, `x-bootstrap`, `x-<ordinal>`.
    Service(Box<Service>),
    /// `x`.
    StatefulSet(Box<StatefulSet>),
    /// `x`.
    PodDisruptionBudget(Box<PodDisruptionBudget>),
    /// `x`.
    NetworkPolicy(Box<NetworkPolicy>),
}

/// Kinds of children.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    ServiceAccount,
    Secret,
    ConfigMap,
    Service,
    StatefulSet,
    PodDisruptionBudget,
    NetworkPolicy,
}

/// One child by kind and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

impl Object {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Secret(_) => Kind::Secret,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Service(_) => Kind::Service,
            Self::StatefulSet(_) => Kind::StatefulSet,
            Self::PodDisruptionBudget(_) => Kind::PodDisruptionBudget,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
        }
    }

    /// Its metadata.
    #[must_use]
    pub const fn meta(&self) -> &ObjectMeta {
        match self {
            Self::ServiceAccount(o) => &o.metadata,
            Self::Secret(o) => &o.metadata,
            Self::ConfigMap(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::StatefulSet(o) => &o.metadata,
            Self::PodDisruptionBudget(o) => &o.metadata,
            Self::NetworkPolicy(o) => &o.metadata,
        }
    }

    /// Its metadata, to be completed.
    pub const fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::ServiceAccount(o) => &mut o.metadata,
            Self::Secret(o) => &mut o.metadata,
            Self::ConfigMap(o) => &mut o.metadata,
            Self::Service(o) => &mut o.metadata,
            Self::StatefulSet(o) => &mut o.metadata,
            Self::PodDisruptionBudget(o) => &mut o.metadata,
            Self::NetworkPolicy(o) => &mut o.metadata,
        }
    }

    /// Kind and name.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef { kind: self.kind(), name: self.meta().name.clone().unwrap_or_default() }
    }
}

/// What exists of one cluster, found by the label `chronik.io/cluster: <name>`; and its control secret, whatever its labels.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Children {
    /// Everything of the kinds that the operator applies.
    pub objects: Vec<Object>,
    /// The brokers' pods.
    pub pods: Vec<Pod>,
    /// The brokers' disks.
    pub claims: Vec<PersistentVolumeClaim>,
}

/// What becomes of dependents when an object is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    /// They stay, without an owner.
    Orphan,
    /// They are collected later.
    Background,
}

/// Whether the claims of a storage class can grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expansion {
    /// `allowVolumeExpansion: true`.
    Allowed,
    /// Not allowed.
    Refused,
    /// Not known: no such class, or reading classes is not permitted (Role-only installations).
    Unknown,
}

/// What is changed of a claim; both at once when both are given.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ClaimPatch {
    /// `spec.resources.requests.storage`.
    pub size: Option<String>,
    /// Annotations to set.
    pub annotations: Vec<(String, String)>,
}

/// Something a user reads in `kubectl describe`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Warning, else Normal.
    pub warning: bool,
    /// CamelCase; gates use their own name.
    pub reason: String,
    /// What the operator did or would do.
    pub action: String,
    /// For people.
    pub note: String,
}

/// Kubernetes.
pub trait Kube: Send + Sync {
    /// The ChronikCluster itself; None when it does not exist.
    fn cluster(&self, key: &Key) -> impl Future<Output = Result<Option<ChronikCluster>, KubeError>> + Send;

    /// All children by label `chronik.io/cluster`; the control secret and the StatefulSet also by name, so that one that lost its label
    /// is neither drawn anew nor taken for missing. May be stale by any amount.
    fn children(&self, key: &Key) -> impl Future<Output = Result<Children, KubeError>> + Send;

    /// Metadata of an object by name, whatever its labels, read past every cache; None when it does not exist.
    fn meta(&self, key: &Key, object: &ObjectRef)
    -> impl Future<Output = Result<Option<ObjectMeta>, KubeError>> + Send;

    /// Whether claims of the class (None = the default class) can grow. Never fails for want of permission.
    fn expansion(&self, class: Option<&str>) -> impl Future<Output = Result<Expansion, KubeError>> + Send;

    /// A label of a node of Kubernetes; None = it has no such label. May be a minute old. [`KubeError::Forbidden`] where only a Role
    /// is given.
    fn node_label(&self, node: &str, label: &str) -> impl Future<Output = Result<Option<String>, KubeError>> + Send;

    /// Server-side apply (force, [`FIELD_MANAGER`]). `metadata.uid` and `metadata.resourceVersion`, where set, are
    /// preconditions: [`KubeError::Conflict`] when the object is not that one any more.
    fn apply(&self, key: &Key, object: &Object) -> impl Future<Output = Result<(), KubeError>> + Send;

    /// Deletes exactly that object. Its absence, or another object of that name, is `NotFound` or `Conflict`.
    fn delete(
        &self,
        key: &Key,
        object: &ObjectRef,
        uid: &str,
        propagation: Propagation,
    ) -> impl Future<Output = Result<(), KubeError>> + Send;

    /// Deletes exactly that pod, with its own grace period.
    fn delete_pod(&self, key: &Key, name: &str, uid: &str) -> impl Future<Output = Result<(), KubeError>> + Send;

    /// Adds an owner to exactly that pod, beside those that it has.
    fn own_pod(
        &self,
        key: &Key,
        name: &str,
        uid: &str,
        owner: &OwnerReference,
    ) -> impl Future<Output = Result<(), KubeError>> + Send;

    /// Deletes exactly that claim.
    fn delete_claim(&self, key: &Key, name: &str, uid: &str) -> impl Future<Output = Result<(), KubeError>> + Send;

    /// Merge-patches exactly that claim.
    fn patch_claim(
        &self,
        key: &Key,
        name: &str,
        uid: &str,
        patch: &ClaimPatch,
    ) -> impl Future<Output = Result<(), KubeError>> + Send;

    /// Replaces the whole status of exactly that object (uid and resourceVersion are preconditions). Answers the new
    /// resourceVersion.
    fn apply_status(
        &self,
        key: &Key,
        uid: &str,
        resource_version: &str,
        status: &ChronikClusterStatus,
    ) -> impl Future<Output = Result<String, KubeError>> + Send;

    /// Tells the user; repeated ones are counted, failures logged and forgotten.
    fn publish(&self, cluster: &ChronikCluster, event: &Event) -> impl Future<Output = ()> + Send;
}

/// Where a broker's control service is, and what opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerAddress {
    /// Who should be there.
    pub node: NodeId,
    /// Host name.
    pub host: String,
    /// Its address as Kubernetes shows it, which no DNS server has to know yet.
    pub ip: Option<String>,
    /// Port.
    pub port: u16,
    /// The cluster's shared secret.
    pub token: Token,
}

/// The shared secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a broker did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BrokerError {
    /// No answer. It is not known whether it was done.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Will not be done while things are as they are.
    #[error("refused: {0}")]
    Refused(String),
    /// Could not be done now.
    #[error("not now: {0}")]
    Retry(String),
}

/// A change of the metadata quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuorumChange {
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter or learner is a member no more.
    Remove(NodeId),
    /// A voter stays as a learner.
    Demote(NodeId),
    /// Another leads; None = whoever is fit.
    TransferLeader(Option<NodeId>),
}

/// What a rebalancing call answers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RebalanceFacts {
    /// Reassignments under way.
    pub in_flight: i32,
    /// Moves still to do after them.
    pub remaining: i32,
    /// Bytes still to copy.
    pub bytes_remaining: u64,
    /// Leaderships moved by this call.
    pub leaders_moved: i32,
    /// What stands in the way; empty when nothing does.
    pub blocked: String,
    /// A few moves, for people.
    pub moves: Vec<String>,
}

/// What a rebalancing call may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebalanceLimits {
    /// Partitions reassigned at a time.
    pub max_in_flight: i32,
}

/// What moving leaderships away from a broker came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeadersMoved {
    /// Moved by this call.
    pub moved: i32,
    /// Still led by it, as nobody else is in sync.
    pub left: i32,
}

/// The brokers' control service. Changes may be asked of any broker.
pub trait Brokers: Send + Sync {
    /// What the broker knows about itself and the cluster.
    fn describe(&self, at: &BrokerAddress) -> impl Future<Output = Result<BrokerFacts, BrokerError>> + Send;

    /// Cordons or uncordons a broker.
    fn cordon(
        &self,
        at: &BrokerAddress,
        node: NodeId,
        cordoned: bool,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Begins the next few moves.
    fn rebalance(
        &self,
        at: &BrokerAddress,
        limits: RebalanceLimits,
    ) -> impl Future<Output = Result<RebalanceFacts, BrokerError>> + Send;

    /// Moves leaderships away from a broker.
    fn move_leaders(
        &self,
        at: &BrokerAddress,
        node: NodeId,
    ) -> impl Future<Output = Result<LeadersMoved, BrokerError>> + Send;

    /// Changes the metadata quorum.
    fn change_quorum(
        &self,
        at: &BrokerAddress,
        change: QuorumChange,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Forgets a broker that will not return.
    fn unregister(&self, at: &BrokerAddress, node: NodeId) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Says in which rack a broker is; None = not known any more.
    fn assign_rack(
        &self,
        at: &BrokerAddress,
        node: NodeId,
        rack: Option<&str>,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Gives a setting one value for all brokers; None = as built in.
    fn set_default(
        &self,
        at: &BrokerAddress,
        name: &str,
        value: Option<&str>,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;
}
