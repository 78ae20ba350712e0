//! The garbage collector: dependents without an owner go, and those of an orphaning deletion are let go.

use chronik_operator::ports::{Kind, ObjectRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Cluster, NAME};
use crate::rng::Rng;

fn owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

fn disown(meta: &mut ObjectMeta, uid: &str) {
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|owner| owner.uid != uid);
        if owners.is_empty() {
            meta.owner_references = None;
        }
    }
}

impl Cluster {
    /// Collects, some time after the owner went.
    pub fn collect_garbage(&mut self, rng: &mut Rng) {
        let edition = self.lists.settled_edition();
        if !rng.chance(500) || edition.is_some() && edition == self.collected {
            return;
        }
        self.collected = edition;
        self.finish_orphaning();
        let mut alive: Vec<String> = self.cluster.iter().filter_map(|c| c.metadata.uid.clone()).collect();
        alive.extend(self.objects.values().filter_map(|stored| stored.object.meta().uid.clone()));
        alive.extend(self.pods.values().filter_map(|state| state.pod.metadata.uid.clone()));
        let lost = |meta: &ObjectMeta| {
            let owners = meta.owner_references.as_deref().unwrap_or_default();
            !owners.is_empty() && owners.iter().all(|owner| !alive.contains(&owner.uid))
        };
        let objects: Vec<ObjectRef> =
            self.objects.iter().filter(|(_, stored)| lost(stored.object.meta())).map(|(key, _)| key.clone()).collect();
        let pods: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, state)| lost(&state.pod.metadata) && state.pod.metadata.deletion_timestamp.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        let claims: Vec<String> = self
            .claims
            .iter()
            .filter(|(_, claim)| lost(&claim.claim.metadata) && claim.claim.metadata.deletion_timestamp.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        // Who has an owner left loses only the references to those that are gone, and may be adopted.
        let metas = self.pods.values_mut().map(|state| &mut state.pod.metadata);
        for meta in metas.chain(self.claims.values_mut().map(|claim| &mut claim.claim.metadata)) {
            let owners = meta.owner_references.iter().flatten();
            let gone: Vec<String> = owners.map(|owner| owner.uid.clone()).filter(|uid| !alive.contains(uid)).collect();
            if gone.len() < meta.owner_references.iter().flatten().count() {
                gone.iter().for_each(|uid| disown(meta, uid));
            }
        }
        for reference in objects {
            self.tell(format!("{reference} is collected"));
            self.objects.remove(&reference);
            self.lists.objects.dirty = true;
        }
        for name in pods {
            self.tell(format!("pod {name} is collected"));
            self.terminate_pod(&name);
        }
        for name in claims {
            self.tell(format!("claim {name} is collected"));
            self.terminate_claim(&name);
        }
    }

    fn finish_orphaning(&mut self) {
        let reference = ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() };
        let Some(stored) = self.objects.get(&reference) else { return };
        let meta = stored.object.meta();
        if meta.deletion_timestamp.is_none() {
            return;
        }
        let uid = meta.uid.clone().unwrap_or_default();
        for state in self.pods.values_mut().filter(|state| owned_by(&state.pod.metadata, &uid)) {
            disown(&mut state.pod.metadata, &uid);
        }
        for claim in self.claims.values_mut().filter(|claim| owned_by(&claim.claim.metadata, &uid)) {
            disown(&mut claim.claim.metadata, &uid);
        }
        self.objects.remove(&reference);
        self.lists.objects.dirty = true;
        self.lists.pods.dirty = true;
        self.lists.claims.dirty = true;
        self.tell("the StatefulSet is gone, its pods are orphans".into());
    }
}
