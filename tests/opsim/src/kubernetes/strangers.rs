//! What others do to the children of a ChronikCluster: people with `kubectl`, and tools that think they know better.

use chronik_operator::ports::{Kind, ObjectRef};
use serde_json::json;

use super::{Cluster, NAME};

/// The label by which the operator finds its children.
pub const LABEL: &str = "chronik.io/cluster";

impl Cluster {
    /// The StatefulSet.
    #[must_use]
    pub fn set_reference() -> ObjectRef {
        ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() }
    }

    /// The bootstrap Service.
    #[must_use]
    pub fn bootstrap_reference() -> ObjectRef {
        ObjectRef { kind: Kind::Service, name: format!("{NAME}-bootstrap") }
    }

    /// `kubectl scale statefulset`, unless that would have its controller delete disks.
    pub fn scale_set(&mut self, replicas: i32) {
        let keeps = self.stateful_set().is_some_and(|set| {
            let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
            set.metadata.deletion_timestamp.is_none() && policy.and_then(|p| p.when_scaled.as_deref()) != Some("Delete")
        });
        if keeps {
            let part = json!({"metadata": {"name": NAME}, "spec": {"replicas": replicas}});
            self.overlay(&Self::set_reference(), "kubectl-scale", &part);
        }
    }

    /// `kubectl delete statefulset`, unless the disks would go with it. Answers whether it is gone.
    pub fn delete_set(&mut self) -> bool {
        let keeps = self.stateful_set().is_some_and(|set| {
            let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
            policy.and_then(|p| p.when_deleted.as_deref()) != Some("Delete")
        });
        if keeps {
            self.objects.remove(&Self::set_reference());
            self.lists.objects.dirty = true;
        }
        keeps
    }

    /// One of the children that are `meant`.
    fn child(&self, which: u64, meant: impl Fn(&ObjectRef) -> bool) -> Option<ObjectRef> {
        let all: Vec<&ObjectRef> = self.objects.keys().filter(|child| meant(child)).collect();
        let at = usize::try_from(which).unwrap_or(0).checked_rem(all.len())?;
        all.get(at).map(|child| (*child).clone())
    }

    /// One of the children but the StatefulSet is deleted.
    pub fn delete_child(&mut self, which: u64) {
        let Some(child) = self.child(which, |child| child.kind != Kind::StatefulSet) else { return };
        self.tell(format!("somebody deletes {child}"));
        self.objects.remove(&child);
        self.lists.objects.dirty = true;
    }

    /// One of them loses its label.
    pub fn unlabel(&mut self, which: u64) {
        let Some(child) = self.child(which, |_| true) else { return };
        let version = self.version();
        let Some(stored) = self.objects.get_mut(&child) else { return };
        let meta = stored.object.meta_mut();
        if let Some(labels) = &mut meta.labels {
            labels.remove(LABEL);
        }
        meta.resource_version = Some(version);
        self.lists.objects.dirty = true;
        self.tell(format!("somebody takes the label off {child}"));
    }

    /// The bootstrap Service is pointed at pods that do not exist.
    pub fn redirect(&mut self) {
        let part = json!({"spec": {"selector": {LABEL: "another"}}});
        self.overlay(&Self::bootstrap_reference(), "somebody-else", &part);
    }
}
