//! Rules about what stays: who the cluster is, whose an object is, what policies forbid, what users are told, and which children there
//! are in the end.

use chronik_operator::api::{ChronikClusterStatus, Phase, ScaleDownPolicy};
use chronik_operator::ports::{Kind, Object, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::brokers::Id;
use crate::kubernetes::{LABEL, NAME, read_cluster_file};
use crate::world::{Pass, World};

/// Within this the leader of the quorum hears that another is away.
const LEADER_KNOWS_MS: u64 = 5_000;

fn controller(meta: &ObjectMeta) -> Option<&str> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl World {
    /// Whoever the cluster is, and whoever founded it, is so for ever; a disk that was retired stays so.
    pub(super) fn judge_identity(&mut self, old: &ChronikClusterStatus, new: &ChronikClusterStatus) {
        if old.cluster_id.is_some() && old.cluster_id != new.cluster_id {
            self.wrong(format!("the cluster was {:?} and becomes {:?}", old.cluster_id, new.cluster_id));
        }
        if let Some(before) = &old.bootstrap {
            let after = new.bootstrap.clone().unwrap_or_default();
            if after.voters != before.voters || before.completed_at.is_some() && after.completed_at.is_none() {
                self.wrong(format!("the founding was {before:?} and becomes {after:?}"));
            }
        }
        if let Some(disk) = old.retired.iter().find(|disk| !new.retired.contains(disk)) {
            self.wrong(format!("the disk {disk} was retired and is no more"));
        }
    }

    /// Nothing is applied to what another controls.
    pub(super) fn judge_owner(&mut self, operator: usize, object: &Object) {
        let reference = object.reference();
        let Some(live) = self.kube.objects.get(&reference).map(|stored| stored.object.meta()) else { return };
        // One that is not the object any more that was looked at is refused.
        let Some(seen) = object.meta().uid.as_ref().filter(|uid| live.uid.as_ref() == Some(*uid)) else { return };
        let owner = controller(live).map(str::to_owned);
        let mine = self.pass(operator).cluster.and_then(|cluster| cluster.metadata.uid);
        if owner.is_some() && owner != mine {
            self.wrong(format!("{reference} ({seen}) belongs to {owner:?} and is applied for {mine:?}"));
        }
    }

    /// What brokers are told about the founding is what the status says: the same founders for ever, and nobody founds twice.
    pub(super) fn judge_address_book(&mut self, operator: usize, object: &Object) {
        let Object::ConfigMap(map) = object else { return };
        let text = map.data.as_ref().and_then(|data| data.get("cluster.yaml"));
        let Some(book) = text.and_then(|text| read_cluster_file(text)) else {
            return self.wrong("cluster.yaml cannot be read".into());
        };
        let status = self.pass(operator).cluster.and_then(|cluster| cluster.status).unwrap_or_default();
        let Some(bootstrap) = status.bootstrap else { return };
        if !book.bootstrap_voters.iter().eq(&bootstrap.voters) {
            self.wrong(format!(
                "the founders are {:?} and brokers are told {:?}",
                bootstrap.voters, book.bootstrap_voters
            ));
        }
        if bootstrap.completed_at.is_some() && !book.join {
            self.wrong("the cluster is founded, and brokers with empty disks may found another".into());
        }
    }

    /// Before a shrink the StatefulSet is at rest: its controller has seen it and has exactly its pods.
    pub(super) fn judge_at_rest(&mut self, operator: usize, old: i32) {
        let Some(set) = self.kube.stateful_set() else { return };
        let status = set.status.clone().unwrap_or_default();
        if status.observed_generation != set.metadata.generation || status.replicas != old {
            self.wrong(format!("a StatefulSet of {old} shrinks and has {} pods or is not observed", status.replicas));
        }
        let policy = self.pass(operator).cluster.map(|cluster| cluster.spec.scale_down.policy);
        if policy == Some(ScaleDownPolicy::Block) {
            self.wrong("the StatefulSet shrinks, and scaleDown.policy is Block".into());
        }
    }

    /// A pass has ended well. Whoever reads the events knows why a broker was restarted, and nobody is evicted who must not stop.
    pub fn judge_told(&mut self, operator: usize) {
        let pass = self.pass(operator);
        if let Some(pod) = pass.restarted.as_ref().filter(|_| !pass.told) {
            self.wrong(format!("pod {pod} was restarted and no event says so"));
        }
        self.judge_evictions(&pass);
    }

    /// The budget of evictions is nothing while stopping a broker would harm, for so long that the quorum's leader knew before the pass.
    fn judge_evictions(&mut self, pass: &Pass) {
        let Some(cluster) = &pass.cluster else { return };
        let status = self.kube.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
        if cluster.spec.paused || status.is_none_or(|status| status.phase == Phase::Invalid) {
            return;
        }
        let budget = ObjectRef { kind: Kind::PodDisruptionBudget, name: NAME.to_owned() };
        let most = self.kube.objects.get(&budget).and_then(|stored| match &stored.object {
            Object::PodDisruptionBudget(budget) => budget.spec.as_ref()?.max_unavailable.clone(),
            _ => None,
        });
        if most.is_none_or(|most| most == IntOrString::Int(0)) {
            return;
        }
        let members = pass.set_replicas.unwrap_or(0);
        let harmful =
            |(id, (since, _)): &(&Id, &(u64, String))| **id <= members && since + LEADER_KNOWS_MS < pass.began;
        let found =
            self.brokers.harmful_since.iter().find(harmful).map(|(id, (since, why))| (*id, *since, why.clone()));
        if let Some((id, since, why)) = found {
            self.wrong(format!("broker {id} may be evicted although {why} (for {} ms)", self.now - since));
        }
    }

    /// A child that is missing, or is not found by its label, or leads elsewhere, in the end.
    #[must_use]
    pub fn unsettled_children(&self) -> Option<String> {
        let named = |kind, suffix: &str| ObjectRef { kind, name: format!("{NAME}{suffix}") };
        let wanted = [
            named(Kind::ServiceAccount, ""),
            named(Kind::Secret, "-control"),
            named(Kind::ConfigMap, "-config"),
            named(Kind::Service, "-brokers"),
            named(Kind::Service, "-bootstrap"),
            named(Kind::StatefulSet, ""),
            named(Kind::PodDisruptionBudget, ""),
            named(Kind::NetworkPolicy, ""),
        ];
        for reference in wanted {
            let Some(stored) = self.kube.objects.get(&reference) else {
                return Some(format!("{reference} does not exist"));
            };
            let meta = stored.object.meta();
            let label = meta.labels.as_ref().and_then(|labels| labels.get(LABEL));
            if label.map(String::as_str) != Some(NAME) {
                return Some(format!("{reference} has the label {label:?}"));
            }
            let uid = self.kube.cluster.as_ref().and_then(|cluster| cluster.metadata.uid.as_deref());
            if controller(meta) != uid {
                return Some(format!("{reference} belongs to {:?}", controller(meta)));
            }
            if let Object::PodDisruptionBudget(budget) = &stored.object {
                let most = budget.spec.as_ref().and_then(|spec| spec.max_unavailable.clone());
                let status = self.kube.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
                let well = status.is_some_and(|status| matches!(status.phase, Phase::Running | Phase::Stopped));
                if well && most != Some(IntOrString::Int(1)) {
                    return Some(format!("{reference} lets {most:?} brokers be evicted, and all is well"));
                }
            }
            if let Object::Service(service) = &stored.object {
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()?.get(LABEL));
                if selector.map(String::as_str) != Some(NAME) {
                    return Some(format!("{reference} leads to pods of {selector:?}"));
                }
            }
        }
        None
    }
}
