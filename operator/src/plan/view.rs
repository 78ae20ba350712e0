//! What the planner looks at: the parts of what was observed that decide anything, in the planner's own terms.
//!
//! Made by [`View::of`] from objects of Kubernetes; tests make it by hand. No I/O, no clock but `now`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::api::{ChronikClusterStatus, Operation, OperationStatus, OperationStep, RebalanceStatus};
use crate::build::names;
use crate::observed::{Answer, BrokerFacts, ClusterFacts, NodeId, Observed, RegisteredFacts, is_ours};
use crate::ports::{Expansion, Object};
use crate::quantity;

/// The StatefulSet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetView {
    /// Which one.
    pub uid: String,
    /// `spec.replicas`.
    pub replicas: i32,
    /// Pods that its controller says exist.
    pub status_replicas: i32,
    /// Its controller has seen the latest specification.
    pub observed: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Bytes that its claim template asks for; None = it has none.
    pub claim_size: Option<u64>,
}

/// A broker's pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodView {
    /// Which one.
    pub uid: String,
    /// Revision of the template that it was made of.
    pub revision: String,
    /// Its readiness probe passes.
    pub ready: bool,
    /// Since when `ready` is what it is.
    pub ready_since: Option<Timestamp>,
    /// Its container does not run: nothing is lost by making the pod anew.
    pub down: bool,
    /// It is being deleted.
    pub terminating: bool,
}

/// A broker's disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimView {
    /// Which one.
    pub uid: String,
    /// Bytes asked for.
    pub requested: u64,
    /// Bytes that it has; 0 = not bound yet.
    pub capacity: u64,
    /// It is being deleted.
    pub terminating: bool,
    /// Directory ids that must not be used again.
    pub retired: BTreeSet<String>,
    /// The cluster whose data it has.
    pub cluster_id: Option<String>,
}

/// Everything that decides.
#[derive(Clone, Debug)]
pub struct View {
    /// Time of the pass.
    pub now: Timestamp,
    /// None = it does not exist.
    pub set: Option<SetView>,
    /// By broker.
    pub pods: BTreeMap<NodeId, PodView>,
    /// By broker.
    pub claims: BTreeMap<NodeId, ClaimView>,
    /// Answers of brokers whose pods exist.
    pub brokers: BTreeMap<NodeId, Answer>,
    /// Whether disks can grow.
    pub expansion: Expansion,
    /// What the API server said when a disk was to grow and it refused.
    pub growth_refused: Option<String>,
    /// `status.replicas`: the size as of the last pass; 0 = stopped or not known.
    pub last_size: i32,
    /// Brokers have to be given their share; what the last call said.
    pub rebalance: Option<RebalanceStatus>,
    /// The change that was under way.
    pub operation: Option<OperationStatus>,
    /// The cluster has been founded.
    pub founded: bool,
    /// Founders.
    pub founders: BTreeSet<NodeId>,
    /// Identity.
    pub cluster_id: String,
    /// Directory ids that must not be used again.
    pub retired: BTreeSet<String>,
}

impl View {
    /// Digests what was observed.
    #[must_use]
    pub fn of(observed: &Observed, status: &ChronikClusterStatus, now: Timestamp) -> Self {
        let meta = &observed.cluster.metadata;
        let (name, uid) = (meta.name.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
        let set = observed.children.objects.iter().find_map(|object| match object {
            // Somebody else's is none.
            Object::StatefulSet(set) if set.metadata.name.as_deref() == Some(name) => {
                is_ours(&set.metadata, uid, name).then(|| set_view(set))
            }
            _ => None,
        });
        let pods = observed.children.pods.iter();
        let claims = observed.children.claims.iter();
        Self {
            now,
            set,
            pods: pods
                .filter_map(|pod| Some((NodeId::of_pod(name, pod.metadata.name.as_deref()?)?, pod_view(pod))))
                .collect(),
            claims: claims
                .filter_map(|claim| Some((NodeId::of_claim(name, claim.metadata.name.as_deref()?)?, claim_view(claim))))
                .collect(),
            brokers: observed.brokers.clone(),
            expansion: observed.expansion,
            growth_refused: observed.growth_refused.clone(),
            last_size: status.replicas,
            rebalance: status.rebalance.clone(),
            operation: status.operation.clone(),
            founded: status.bootstrap.as_ref().is_some_and(|b| b.completed_at.is_some()),
            founders: status.bootstrap.iter().flat_map(|b| b.voters.iter().copied().map(NodeId)).collect(),
            cluster_id: status.cluster_id.clone().unwrap_or_default(),
            retired: status.retired.iter().cloned().collect(),
        }
    }

    /// The quorum's leader and the cluster as it sees it. None when no broker answers as leader, when one knows of a later term, or
    /// when no majority of the voters follows: what a deposed leader says about the cluster decides nothing.
    #[must_use]
    pub fn leader(&self) -> Option<(NodeId, &ClusterFacts)> {
        let newest = self.known().map(|(_, facts)| facts.cluster.term).max()?;
        let (node, facts) = self.known().find(|(node, facts)| {
            let cluster = &facts.cluster;
            cluster.leader == Some(*node) && cluster.term == newest && cluster.voters.contains(node)
        })?;
        let cluster = &facts.cluster;
        let follows = |voter: &&NodeId| {
            **voter == node
                || cluster.progress.get(voter).is_some_and(|p| p.recently_active)
                || self.facts(**voter).is_some_and(|f| f.cluster.leader == Some(node) && f.cluster.term == newest)
        };
        (cluster.voters.iter().filter(follows).count() > cluster.voters.len() / 2).then_some((node, cluster))
    }

    /// Where the change under way is, if it is of that kind and about that broker.
    #[must_use]
    pub fn step_of(&self, kind: Operation, node: NodeId) -> Option<OperationStep> {
        let operation = self.operation.as_ref()?;
        (operation.kind == kind && operation.node_id == Some(node.0)).then_some(operation.step)
    }

    /// Whether a change of that kind is under way.
    #[must_use]
    pub fn doing(&self, kind: Operation) -> bool {
        self.operation.as_ref().is_some_and(|operation| operation.kind == kind)
    }

    /// Members whose state nobody knows.
    #[must_use]
    pub fn unknown(&self) -> Vec<NodeId> {
        self.members().filter(|node| self.facts(*node).is_none()).collect()
    }

    /// Brokers that answered.
    pub fn known(&self) -> impl Iterator<Item = (NodeId, &BrokerFacts)> {
        self.brokers.iter().filter_map(|(node, answer)| answer.facts().map(|facts| (*node, facts)))
    }

    /// What a broker said of itself.
    #[must_use]
    pub fn facts(&self, node: NodeId) -> Option<&BrokerFacts> {
        self.brokers.get(&node).and_then(Answer::facts)
    }

    /// `spec.replicas` of the StatefulSet; 0 without one.
    #[must_use]
    pub fn size(&self) -> i32 {
        self.set.as_ref().map_or(0, |set| set.replicas)
    }

    /// The brokers that the StatefulSet asks for.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.size()).map(NodeId)
    }

    /// The StatefulSet is observed and has exactly its pods, none of them going.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.set.as_ref().is_some_and(|set| {
            set.observed
                && !set.terminating
                && set.status_replicas == set.replicas
                && self.pods.len() == usize::try_from(set.replicas).unwrap_or(0)
                && self.members().all(|node| self.pods.get(&node).is_some_and(|pod| !pod.terminating))
        })
    }

    /// Every member has its pod, none of them going; pods of removed brokers may still be on their way out, for ever if their node is lost.
    #[must_use]
    pub fn members_settled(&self) -> bool {
        let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
        self.set.as_ref().is_some_and(|set| {
            set.observed
                && !set.terminating
                && (set.replicas..=count(self.pods.len())).contains(&set.status_replicas)
                && !self.member_away()
                && self.pods.iter().all(|(node, pod)| node.0 <= set.replicas || pod.terminating)
        })
    }

    /// The pod of some member does not exist or is going.
    #[must_use]
    pub fn member_away(&self) -> bool {
        self.members().any(|node| self.pods.get(&node).is_none_or(|pod| pod.terminating))
    }

    /// Its pod runs, is ready and stays.
    #[must_use]
    pub fn pod_ready(&self, node: NodeId) -> bool {
        self.pods.get(&node).is_some_and(|pod| pod.ready && !pod.terminating)
    }

    /// Members whose pods are not ready, for people.
    #[must_use]
    pub fn not_ready(&self) -> Vec<NodeId> {
        self.members().filter(|node| !self.pod_ready(*node)).collect()
    }
}

/// Registration of a broker, as the leader sees it.
#[must_use]
pub fn registered(cluster: &ClusterFacts, node: NodeId) -> Option<&RegisteredFacts> {
    cluster.brokers.get(&node)
}

fn set_view(set: &StatefulSet) -> SetView {
    let spec = set.spec.as_ref();
    let status = set.status.as_ref();
    let replicas = spec.and_then(|s| s.replicas).unwrap_or(1);
    let claims = spec.and_then(|s| s.volume_claim_templates.as_ref()).and_then(|templates| templates.first());
    SetView {
        uid: set.metadata.uid.clone().unwrap_or_default(),
        replicas,
        status_replicas: status.map_or(0, |s| s.replicas),
        observed: status.and_then(|s| s.observed_generation) == set.metadata.generation,
        terminating: set.metadata.deletion_timestamp.is_some(),
        claim_size: claims.map(requested),
    }
}

fn pod_view(pod: &Pod) -> PodView {
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    let container = status
        .and_then(|s| s.container_statuses.as_ref())
        .and_then(|all| all.iter().find(|c| c.name == names::CONTAINER));
    let annotations = pod.metadata.annotations.as_ref();
    PodView {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        revision: annotations.and_then(|a| a.get(names::REVISION)).cloned().unwrap_or_default(),
        ready: ready.is_some_and(|c| c.status == "True"),
        ready_since: ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
        down: container.is_none_or(|c| c.state.as_ref().is_none_or(|state| state.running.is_none())),
        terminating: pod.metadata.deletion_timestamp.is_some(),
    }
}

fn requested(claim: &PersistentVolumeClaim) -> u64 {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).and_then(quantity::whole).unwrap_or(0)
}

fn claim_view(claim: &PersistentVolumeClaim) -> ClaimView {
    let annotation = |name: &str| claim.metadata.annotations.as_ref().and_then(|a| a.get(name)).cloned();
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    ClaimView {
        uid: claim.metadata.uid.clone().unwrap_or_default(),
        requested: requested(claim),
        capacity: capacity.and_then(quantity::whole).unwrap_or(0),
        terminating: claim.metadata.deletion_timestamp.is_some(),
        retired: annotation(names::RETIRED)
            .map(|ids| ids.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default(),
        cluster_id: annotation(names::CLUSTER_ID),
    }
}
