//! What must have come about when faults have ended and the operator had time: the cluster is what its user asked for, or what stands in the
//! way is named.

use std::collections::BTreeSet;

use chronik_operator::api::{ChronikCluster, Gate, Phase, RolloutPolicy, ScaleDownPolicy, UpgradePolicy};
use chronik_operator::build::config::cluster_settings;

use crate::brokers::Id;
use crate::kubernetes::{gibibytes, revision};
use crate::world::World;

impl World {
    fn gates(cluster: &ChronikCluster) -> Vec<Gate> {
        let operation = cluster.status.as_ref().and_then(|status| status.operation.as_ref());
        operation.into_iter().flat_map(|operation| operation.blocked_by.iter().map(|held| held.gate)).collect()
    }

    fn says(cluster: &ChronikCluster, condition: &str) -> bool {
        let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == condition && c.status == "True")
    }

    /// What is not as it has to be in the end; None = all is well.
    #[must_use]
    pub fn unsettled(&self) -> Option<String> {
        let Some(cluster) = &self.kube.cluster else { return Some("there is no cluster".into()) };
        let Some(status) = &cluster.status else { return Some("there is no status".into()) };
        if status.observed_generation != cluster.metadata.generation.unwrap_or(0) {
            return Some("the status is about an earlier specification".into());
        }
        let Some(set) = self.kube.stateful_set() else { return Some("there is no StatefulSet".into()) };
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        if let Some(missing) = self.unsettled_children() {
            return Some(missing);
        }
        if cluster.spec.stopped {
            return self.unsettled_stop(status.phase, replicas);
        }
        self.unsettled_size(cluster, replicas)
            .or_else(|| self.unsettled_pods(cluster, replicas))
            .or_else(|| self.unsettled_brokers(cluster, replicas))
            .or_else(|| self.unsettled_storage(cluster, replicas))
            .or_else(|| self.unsettled_settings(cluster, replicas))
            .or_else(|| self.unsettled_racks(cluster))
            .or_else(|| Self::unsettled_words(cluster, replicas))
    }

    fn unsettled_stop(&self, phase: Phase, replicas: i32) -> Option<String> {
        if replicas != 0 || !self.kube.pods.is_empty() {
            return Some(format!("stopped, with {replicas} replicas and {} pods", self.kube.pods.len()));
        }
        (phase != Phase::Stopped).then(|| format!("stopped, and the phase is {phase:?}"))
    }

    /// Most replicas of a topic: below that nobody can shrink.
    fn floor(&self) -> i32 {
        let most = self.brokers.partitions.iter().map(|p| p.replicas.len()).max();
        i32::try_from(most.unwrap_or(1)).unwrap_or(i32::MAX)
    }

    fn unsettled_size(&self, cluster: &ChronikCluster, replicas: i32) -> Option<String> {
        let wanted = cluster.spec.replicas;
        if replicas == wanted {
            return None;
        }
        let blocked = cluster.spec.scale_down.policy == ScaleDownPolicy::Block;
        let held = replicas > wanted && (blocked || self.floor() > wanted);
        if !held {
            return Some(format!("{replicas} replicas, {wanted} are wanted"));
        }
        // Another change that is held back may be the one that is shown.
        if Self::gates(cluster).is_empty() {
            return Some(format!("held at {replicas} replicas and names no gate"));
        }
        (!Self::says(cluster, "ScaleDownBlocked")).then(|| "held, and ScaleDownBlocked is not True".into())
    }

    fn unsettled_pods(&self, cluster: &ChronikCluster, replicas: i32) -> Option<String> {
        let count = i32::try_from(self.kube.pods.len()).unwrap_or(i32::MAX);
        if count != replicas {
            return Some(format!("{count} pods, {replicas} replicas"));
        }
        if let Some((name, _)) = self.kube.pods.iter().find(|(_, state)| !state.is_ready()) {
            return Some(format!("pod {name} is not ready"));
        }
        let spec = &cluster.spec;
        if spec.rollout.policy != RolloutPolicy::Auto || spec.upgrade_policy != UpgradePolicy::Auto {
            return None;
        }
        let wanted = self.kube.template_revision();
        let of = |state: &crate::kubernetes::PodState| revision(state.pod.metadata.annotations.as_ref());
        let outdated = self.kube.pods.iter().find(|(_, state)| of(state) != wanted);
        outdated.map(|(name, state)| format!("pod {name} has template {:?}, the newest is {wanted:?}", of(state)))
    }

    fn unsettled_brokers(&self, cluster: &ChronikCluster, replicas: i32) -> Option<String> {
        let all: BTreeSet<Id> = (1..=replicas).collect();
        let brokers = &self.brokers;
        let registered: BTreeSet<Id> = brokers.registered.keys().copied().collect();
        if registered != all {
            return Some(format!("registered are {registered:?} of {replicas}"));
        }
        if let Some((id, _)) =
            brokers.registered.iter().find(|(id, broker)| broker.cordoned && **id <= cluster.spec.replicas)
        {
            return Some(format!("broker {id} is cordoned and shall stay"));
        }
        let members: BTreeSet<Id> = brokers.quorum.voters.union(&brokers.quorum.learners).copied().collect();
        if members != all {
            return Some(format!("members of the quorum are {members:?} of {replicas}"));
        }
        let voters = i32::try_from(brokers.quorum.voters.len()).unwrap_or(i32::MAX);
        let wanted = cluster.spec.voters();
        let most = cluster.spec.voters_among(cluster.spec.replicas.max(replicas));
        if voters < wanted || voters > most {
            return Some(format!("{voters} voters, {wanted} are wanted"));
        }
        if brokers.partitions.iter().any(|p| p.target.is_some()) {
            return Some("partitions are being moved".into());
        }
        let behind = brokers.partitions.iter().find(|p| p.isr.len() < p.replicas.len() || p.leader.is_none());
        behind.map(|p| {
            format!("{}-{} has {:?} of {:?} in sync", brokers.topics[p.topic].name, p.number, p.isr, p.replicas)
        })
    }

    /// What the specification names is in force, and what it does not name any more is as built in.
    fn unsettled_settings(&self, cluster: &ChronikCluster, replicas: i32) -> Option<String> {
        let leaving =
            self.brokers.registered.iter().filter(|(id, broker)| broker.cordoned && **id > cluster.spec.replicas);
        let lasting = replicas - i32::try_from(leaving.count()).unwrap_or(0);
        let mut wanted = cluster_settings(&cluster.spec, lasting);
        wanted.retain(|_, value| value != "bad");
        (self.brokers.defaults != wanted).then(|| format!("settings are {:?}, not {wanted:?}", self.brokers.defaults))
    }

    fn unsettled_storage(&self, cluster: &ChronikCluster, replicas: i32) -> Option<String> {
        let wanted = gibibytes(&cluster.spec.storage.size);
        let small = |id: &Id| {
            let claim = self.kube.claims.get(&format!("data-{}-{}", crate::kubernetes::NAME, id - 1));
            claim.is_none_or(|claim| claim.capacity() < wanted)
        };
        let id = (1..=replicas).find(small)?;
        if self.plan.expandable {
            return Some(format!("the disk of broker {id} is smaller than {wanted} GiB"));
        }
        // Another change that is held back may be the one that is shown.
        if Self::gates(cluster).is_empty() {
            return Some("disks cannot grow and no gate is named".into());
        }
        (!Self::says(cluster, "StorageGrowthBlocked"))
            .then(|| "disks cannot grow, and StorageGrowthBlocked is not True".into())
    }

    /// Brokers are in the racks of their nodes, or it is said why not.
    fn unsettled_racks(&self, cluster: &ChronikCluster) -> Option<String> {
        let label = cluster.spec.rack.as_ref().map(|rack| rack.topology_key.as_str());
        let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
        let said = conditions.clone().find(|c| c.type_ == "RacksAssigned").map(|c| (c.status == "True", &*c.reason));
        if label.is_some() && !self.plan.may_read_nodes {
            let named = said == Some((false, "NodesForbidden"));
            return (!named).then(|| format!("nodes cannot be read, and RacksAssigned says {said:?}"));
        }
        let mut missing = false;
        for state in self.kube.pods.values() {
            let node = state.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            let rack = label.and_then(|label| self.kube.node_label(node, label)).unwrap_or_default();
            missing |= rack.is_empty();
            let id = state.ordinal + 1;
            let is = self.brokers.registered.get(&id).map(|broker| broker.rack.as_str()).unwrap_or_default();
            if is != rack {
                return Some(format!("broker {id} on {node} is in rack '{is}' and not '{rack}'"));
            }
        }
        let right = match (label, missing) {
            (None, _) => said.is_none(),
            (Some(_), true) => said == Some((false, "LabelMissing")),
            (Some(_), false) => said == Some((true, "Assigned")),
        };
        (!right).then(|| format!("racks by {label:?}, and RacksAssigned says {said:?}"))
    }

    /// The summary agrees.
    fn unsettled_words(cluster: &ChronikCluster, replicas: i32) -> Option<String> {
        let status = cluster.status.as_ref()?;
        if status.ready_replicas != replicas || status.replicas != replicas {
            return Some(format!("the status says {}/{} ready of {replicas}", status.ready_replicas, status.replicas));
        }
        if !Self::says(cluster, "Ready") {
            return Some("the condition Ready is not True".into());
        }
        let gates = Self::gates(cluster);
        match (status.phase, &status.operation) {
            (Phase::Running, None) => None,
            (Phase::Blocked, Some(_)) if !gates.is_empty() => None,
            (phase, operation) => {
                let what = operation.as_ref().map(|o| (o.kind, o.step));
                Some(format!("the phase is {phase:?} with {what:?} held by {gates:?}"))
            }
        }
    }
}
