//! Applying children, and deleting those that are not wanted any more.
//!
//! An object is written when it is missing, when what is wanted changed, or when a field that the operator sets is different in the
//! live object; never otherwise. An object that belongs to somebody else is left alone.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use super::{Error, Pass, doing, observe};
use crate::api::Gate;
use crate::build::{self, names};
use crate::hash;
use crate::observed::is_ours;
use crate::plan::{self, Hold, Plan, Step, View, Wanted};
use crate::ports::{Brokers, Kube, KubeError, Object, ObjectRef, Propagation};

impl<K: Kube, B: Brokers> Pass<'_, K, B> {
    pub(super) fn build_input<'b>(
        &'b self,
        brokers: i32,
        image: &'b str,
        advertised: &'b std::collections::BTreeMap<crate::observed::NodeId, Vec<build::Advertised>>,
    ) -> build::Input<'b> {
        build::Input {
            name: &self.key.name,
            namespace: &self.key.namespace,
            uid: &self.uid,
            spec: &self.observed.cluster.spec,
            status: &self.status,
            brokers,
            image,
            token: &self.token,
            advertised,
            may_evict: true,
        }
    }

    /// Applies what never hurts, the StatefulSet at the size that it has, and deletes orphans. A hold says that a name is taken.
    pub(super) async fn apply_children(
        &mut self,
        wanted: &Wanted,
        view: &View,
        plan: &Plan,
    ) -> Result<Option<Hold>, Error> {
        let advertised = observe::advertised(self.key, &self.observed);
        let image = self.image();
        let brokers = plan::brokers(wanted, view);
        // Nor while the step stops one: the budget is written before the pod is deleted.
        let may_evict = plan::may_evict(wanted, view) && !matches!(plan.step, Step::Restart { .. });
        let input = build::Input { may_evict, ..self.build_input(brokers, &image, &advertised) };
        let mut objects = build::children(&input);
        let set = self.sized(&input, view, view.size());
        // One that is being made anew, or deleted for it, is the step's own business.
        if view.set.as_ref().is_some_and(|set| !set.terminating)
            && !matches!(plan.step, Step::RecreateSet { .. } | Step::Resize { .. })
        {
            objects.push(set);
        }
        let mut kept: BTreeSet<ObjectRef> = objects.iter().map(Object::reference).collect();
        kept.insert(ObjectRef { kind: crate::ports::Kind::StatefulSet, name: self.key.name.clone() });
        let mut hold = None;
        let mut failure = None;
        for object in objects {
            // The size comes from what was read: applied to a StatefulSet that has changed since, it would undo another's change.
            // A secret that was just made by another hand must not be drawn anew.
            let exact = matches!(object, Object::StatefulSet(_) | Object::Secret(_));
            match told(self.apply(object, exact).await) {
                Ok(None) => {}
                Ok(Some(held)) => hold = hold.or(Some(held)),
                // One that is refused must not keep the others from being applied.
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_none() && hold.is_none() {
            failure = self.delete_orphans(&kept).await.err();
        }
        failure.map_or(Ok(hold), Err)
    }

    /// The StatefulSet with so many pods.
    fn sized(&self, input: &build::Input<'_>, view: &View, replicas: i32) -> Object {
        let live = self.observed.children.objects.iter().find_map(|object| match object {
            Object::StatefulSet(set) if object.reference().name == self.key.name => Some(set),
            _ => None,
        });
        let template = live
            .filter(|_| view.set.as_ref().is_some_and(|set| set.claim_size.is_some()))
            .and_then(|set| set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?.spec.as_ref())
            .and_then(|claim| claim.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let size: Quantity = template.cloned().unwrap_or_else(|| self.observed.cluster.spec.storage.size.clone());
        Object::StatefulSet(Box::new(build::stateful_set(input, replicas, &size)))
    }

    /// Gives the StatefulSet another size, if it is still the one that was looked at.
    pub(super) async fn resize(&mut self, wanted: &Wanted, view: &View, to: i32) -> Result<Option<Hold>, Error> {
        let advertised = observe::advertised(self.key, &self.observed);
        let image = self.image();
        let input = self.build_input(plan::brokers(wanted, view), &image, &advertised);
        let object = self.sized(&input, view, to);
        told(self.apply(object, true).await)
    }

    /// Applies one object if that changes anything. `exact` = only if nothing of it changed since it was read.
    async fn apply(&mut self, mut object: Object, exact: bool) -> Result<Option<Hold>, Error> {
        let reference = object.reference();
        let wanted = to_value(&object);
        let digest = hash::digest_of(&wanted);
        let live = self.observed.children.objects.iter().find(|live| live.reference() == reference);
        let meta = match live {
            Some(live) => {
                let meta = live.meta().clone();
                let applied = meta.annotations.as_ref().and_then(|a| a.get(names::APPLIED));
                if applied == Some(&digest) && hash::holds_in(&wanted, &to_value(live)) {
                    return Ok(None);
                }
                Some(meta)
            }
            None => {
                let meta =
                    self.kube.meta(self.key, &reference).await.map_err(doing(format!("looking for {reference}")))?;
                // Just made, and what was read is older.
                if exact && meta.as_ref().is_some_and(|meta| is_ours(meta, &self.uid, &self.key.name)) {
                    let error = KubeError::Conflict(format!("{reference} exists already"));
                    return Err(doing(format!("creating {reference}"))(error));
                }
                meta
            }
        };
        if let Some(meta) = &meta {
            if !is_ours(meta, &self.uid, &self.key.name) {
                let message = format!("{reference} exists and belongs to somebody else");
                return Ok(Some(Hold { gate: Gate::NameTaken, message }));
            }
            if meta.deletion_timestamp.is_some() {
                let error = KubeError::Conflict(format!("{reference} is being deleted"));
                return Err(doing(format!("applying {reference}"))(error));
            }
        }
        let target = object.meta_mut();
        target.annotations.get_or_insert_default().insert(names::APPLIED.to_owned(), digest);
        target.uid = meta.as_ref().and_then(|m| m.uid.clone());
        if exact {
            target.resource_version = meta.and_then(|m| m.resource_version);
        }
        self.kube.apply(self.key, &object).await.map_err(doing(format!("applying {reference}")))?;
        self.writes += 1;
        Ok(None)
    }

    /// Deletes what has this cluster's label, is owned by it, and is not wanted.
    async fn delete_orphans(&mut self, kept: &BTreeSet<ObjectRef>) -> Result<(), Error> {
        let owned = |meta: &ObjectMeta| {
            meta.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == self.uid)
        };
        let orphans: Vec<(ObjectRef, String)> = self
            .observed
            .children
            .objects
            .iter()
            .filter(|object| object.meta().deletion_timestamp.is_none() && owned(object.meta()))
            .map(|object| (object.reference(), object.meta().uid.clone().unwrap_or_default()))
            .filter(|(reference, _)| !kept.contains(reference))
            .collect();
        for (reference, uid) in orphans {
            match self.kube.delete(self.key, &reference, &uid, Propagation::Background).await {
                Ok(()) => self.writes += 1,
                Err(KubeError::NotFound(_)) => {}
                Err(error) => return Err(doing(format!("deleting {reference}"))(error)),
            }
        }
        Ok(())
    }
}

/// What trying again does not cure, as a hold: somebody has to change the specification, a quota, a policy or a permission.
pub(super) fn hold_of(error: &Error) -> Option<Hold> {
    let Error::Kube { doing, error } = error;
    let gate = match error {
        KubeError::Invalid(_) => Gate::SpecInvalid,
        KubeError::Forbidden(_) => Gate::KubernetesRefused,
        KubeError::NotFound(_) | KubeError::Conflict(_) | KubeError::Unavailable(_) => return None,
    };
    Some(Hold { gate, message: format!("{doing}: {error}") })
}

/// What will not be accepted is told, and keeps nothing else from being done.
fn told(applied: Result<Option<Hold>, Error>) -> Result<Option<Hold>, Error> {
    match applied {
        Err(error) => hold_of(&error).map_or(Err(error), |hold| Ok(Some(hold))),
        held => held,
    }
}

fn to_value(object: &Object) -> Value {
    fn json(object: &impl Serialize) -> Value {
        // Objects of Kubernetes are always JSON.
        serde_json::to_value(object).unwrap_or_default()
    }
    match object {
        Object::ServiceAccount(o) => json(o),
        Object::Secret(o) => json(o),
        Object::ConfigMap(o) => json(o),
        Object::Service(o) => json(o),
        Object::StatefulSet(o) => json(o),
        Object::PodDisruptionBudget(o) => json(o),
        Object::NetworkPolicy(o) => json(o),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_impossible_is_told_and_anything_else_is_tried_again() {
        let failed = |error| told(Err(doing("applying StatefulSet x")(error)));
        let held = failed(KubeError::Invalid("resources".into())).unwrap().unwrap();
        assert_eq!(held.gate, Gate::SpecInvalid);
        assert!(held.message.contains("StatefulSet x") && held.message.contains("resources"), "{}", held.message);
        let held = failed(KubeError::Forbidden("exceeded quota".into())).unwrap().unwrap();
        assert_eq!(held.gate, Gate::KubernetesRefused);
        assert!(held.message.contains("exceeded quota"), "{}", held.message);
        assert!(failed(KubeError::Conflict("changed".into())).is_err());
        assert!(failed(KubeError::Unavailable("down".into())).is_err());
        assert_eq!(told(Ok(None)), Ok(None));
    }
}
