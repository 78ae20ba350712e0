//! An in-memory Kubernetes: one namespace, the objects of one ChronikCluster, and the controllers that act on them.
//!
//! [`Cluster`] is the API server: uids, resource versions, generations, preconditions, owners of fields. `workload` is the StatefulSet
//! controller and the kubelets, `storage` the claims, `garbage` the collector. Readers see lists of the past ([`Cluster::lists`]).

mod apply;
mod garbage;
mod storage;
mod strangers;
mod workload;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chronik_operator::api::{ChronikCluster, ChronikClusterSpec, ChronikClusterStatus};
use chronik_operator::ports::{FIELD_MANAGER, Kind, KubeError, Object, ObjectRef, Propagation};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::brokers::ClusterFile;
use crate::plan::RACK_LABELS;

pub use storage::{Claim, gibibytes};
pub use strangers::LABEL;
pub use workload::PodState;

/// The cluster's name.
pub const NAME: &str = "x";
/// Its namespace.
pub const NAMESPACE: &str = "ns";
/// How many versions of each list readers may still see: more than come up within the longest staleness.
const HISTORY: usize = 16;

type Result<T> = std::result::Result<T, KubeError>;

/// One object and who owns its fields.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As it is.
    pub object: Object,
    owners: apply::Owners,
}

/// Lists of the past, newest last.
#[derive(Debug)]
pub struct Versions<T> {
    seen: VecDeque<(u64, Arc<T>)>,
    /// How many there were.
    changes: u64,
    /// Changed since the last one was kept.
    dirty: bool,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self { seen: VecDeque::new(), changes: 0, dirty: true }
    }
}

impl<T> Versions<T> {
    /// How many changes readers may see; None = there is one that they cannot see yet.
    const fn changes(&self) -> Option<u64> {
        if self.dirty { None } else { Some(self.changes) }
    }

    /// The newest that is not younger than `until`, or the oldest that is known, with the time it came up.
    #[must_use]
    pub fn at(&self, until: u64) -> Option<(u64, Arc<T>)> {
        self.seen.iter().rev().find(|(at, _)| *at <= until).or_else(|| self.seen.front()).cloned()
    }

    fn keep(&mut self, now: u64, make: impl FnOnce() -> T) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        self.changes += 1;
        if self.seen.back().is_some_and(|(at, _)| *at == now) {
            self.seen.pop_back();
        } else if self.seen.len() == HISTORY {
            self.seen.pop_front();
        }
        self.seen.push_back((now, Arc::new(make())));
    }
}

/// What readers may see.
#[derive(Debug, Default)]
pub struct Lists {
    /// The ChronikCluster.
    pub cluster: Versions<Option<ChronikCluster>>,
    /// The children but pods and claims.
    pub objects: Versions<Vec<Object>>,
    /// Pods.
    pub pods: Versions<Vec<Pod>>,
    /// Claims.
    pub claims: Versions<Vec<PersistentVolumeClaim>>,
}

impl Lists {
    /// How many changes there were to be seen: what wakes whoever watches.
    #[must_use]
    pub const fn edition(&self) -> u64 {
        self.cluster.changes + self.objects.changes + self.pods.changes + self.claims.changes
    }

    /// None while something has changed that cannot be seen yet.
    const fn settled_edition(&self) -> Option<u64> {
        let dirty = self.cluster.dirty || self.objects.dirty || self.pods.dirty || self.claims.dirty;
        if dirty { None } else { Some(self.edition()) }
    }
}

/// The API server's store.
#[derive(Debug)]
pub struct Cluster {
    /// Now, in milliseconds.
    pub now: u64,
    /// The custom resource.
    pub cluster: Option<ChronikCluster>,
    /// Children but pods and claims.
    pub objects: BTreeMap<ObjectRef, Stored>,
    /// Pods by name.
    pub pods: BTreeMap<String, PodState>,
    /// Claims by name.
    pub claims: BTreeMap<String, Claim>,
    /// Lists of the past.
    pub lists: Lists,
    /// Ordinals whose node is down until then.
    pub nodes_down: BTreeMap<i32, u64>,
    /// The zone of each node; None = it has no label.
    pub zones: Vec<Option<u64>>,
    /// Whether claims can grow.
    pub expandable: bool,
    /// How long growing takes.
    pub resize_ms: u64,
    /// Events of the current step, for the trace.
    pub told: Vec<String>,
    versions: u64,
    uids: u64,
    /// What the StatefulSet controller has worked off.
    worked_off: (Option<u64>, Option<u64>, Option<u64>),
    /// What the collector has looked through.
    collected: Option<u64>,
    /// Revision of the template, by uid and generation of the set.
    revision: Option<(String, i64, String)>,
}

/// The operator's revision of a template, from annotations.
#[must_use]
pub fn revision(annotations: Option<&BTreeMap<String, String>>) -> Option<String> {
    annotations?.get("chronik.io/revision").cloned()
}

/// Simulated time as Kubernetes writes it.
#[must_use]
pub fn timestamp(now: u64) -> Timestamp {
    let seconds = 1_767_225_600 + i64::try_from(now / 1000).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn to_value(object: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"] {
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove(field);
        }
    }
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
        map.remove("apiVersion");
        map.remove("kind");
    }
    value
}

fn json_of(object: &Object) -> Value {
    match object {
        Object::ServiceAccount(o) => to_value(o),
        Object::Secret(o) => to_value(o),
        Object::ConfigMap(o) => to_value(o),
        Object::Service(o) => to_value(o),
        Object::StatefulSet(o) => to_value(o),
        Object::PodDisruptionBudget(o) => to_value(o),
        Object::NetworkPolicy(o) => to_value(o),
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<Box<T>> {
    serde_json::from_value(value).map(Box::new).map_err(|error| KubeError::Invalid(error.to_string()))
}

fn object_of(kind: Kind, value: Value) -> Result<Object> {
    Ok(match kind {
        Kind::ServiceAccount => Object::ServiceAccount(parse(value)?),
        Kind::Secret => Object::Secret(parse(value)?),
        Kind::ConfigMap => Object::ConfigMap(parse(value)?),
        Kind::Service => Object::Service(parse(value)?),
        Kind::StatefulSet => Object::StatefulSet(parse(value)?),
        Kind::PodDisruptionBudget => Object::PodDisruptionBudget(parse(value)?),
        Kind::NetworkPolicy => Object::NetworkPolicy(parse(value)?),
    })
}

impl Cluster {
    /// An empty one.
    #[must_use]
    pub fn new(expandable: bool, resize_ms: u64) -> Self {
        Self {
            now: 0,
            cluster: None,
            objects: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            lists: Lists::default(),
            nodes_down: BTreeMap::new(),
            zones: Vec::new(),
            expandable,
            resize_ms,
            told: Vec::new(),
            versions: 0,
            uids: 0,
            worked_off: (None, None, None),
            collected: None,
            revision: None,
        }
    }

    fn version(&mut self) -> String {
        self.versions += 1;
        self.versions.to_string()
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    /// Keeps what readers may see from now on.
    pub fn publish_lists(&mut self) {
        let now = self.now;
        self.lists.cluster.keep(now, || self.cluster.clone());
        self.lists.objects.keep(now, || self.objects.values().map(|stored| stored.object.clone()).collect());
        self.lists.pods.keep(now, || self.pods.values().map(|state| state.pod.clone()).collect());
        self.lists.claims.keep(now, || self.claims.values().map(|claim| claim.claim.clone()).collect());
    }

    /// A user creates the ChronikCluster.
    pub fn create(&mut self, spec: ChronikClusterSpec) {
        let (uid, version) = (self.uid(), self.version());
        let mut cluster = ChronikCluster::new(NAME, spec);
        cluster.metadata = ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            uid: Some(uid),
            resource_version: Some(version),
            generation: Some(1),
            creation_timestamp: Some(Time(timestamp(self.now))),
            ..ObjectMeta::default()
        };
        self.cluster = Some(cluster);
        self.lists.cluster.dirty = true;
    }

    /// A user changes the spec or the annotations.
    pub fn edit(&mut self, change: impl FnOnce(&mut ChronikCluster)) {
        let version = self.version();
        let Some(cluster) = &mut self.cluster else { return };
        let before = cluster.spec.clone();
        change(cluster);
        if cluster.spec != before {
            cluster.metadata.generation = cluster.metadata.generation.map(|n| n + 1);
        }
        cluster.metadata.resource_version = Some(version);
        self.lists.cluster.dirty = true;
    }

    /// A user deletes the ChronikCluster; the collector does the rest.
    pub fn delete_cluster(&mut self) {
        self.cluster = None;
        self.lists.cluster.dirty = true;
    }

    /// Which parts of the status would change, for the story; when there is no other, which is a hot loop's, how.
    #[must_use]
    pub fn status_changes(&self, next: &ChronikClusterStatus) -> String {
        let part = |status: Option<&ChronikClusterStatus>| serde_json::to_value(status).unwrap_or_default();
        let (old, new) = (part(self.cluster.as_ref().and_then(|c| c.status.as_ref())), part(Some(next)));
        let fields = new.as_object().into_iter().flatten();
        let changed: Vec<(&String, &Value)> = fields.filter(|(name, value)| old.get(*name) != Some(*value)).collect();
        match changed.as_slice() {
            [(name, value)] => format!("{name}: {} -> {value}", old.get(*name).unwrap_or(&Value::Null)),
            all => format!("{:?}", all.iter().map(|(name, _)| name).collect::<Vec<_>>()),
        }
    }

    /// Replaces the status. Answers the resource version and whether anything changed.
    ///
    /// # Errors
    /// When the object is another or has changed.
    pub fn set_status(&mut self, uid: &str, version: &str, status: &ChronikClusterStatus) -> Result<(String, bool)> {
        let next = (self.versions + 1).to_string();
        let Some(cluster) = &mut self.cluster else { return Err(KubeError::NotFound(NAME.into())) };
        let meta = &mut cluster.metadata;
        if meta.uid.as_deref() != Some(uid) || meta.resource_version.as_deref() != Some(version) {
            return Err(KubeError::Conflict(format!("{NAME} has changed")));
        }
        if cluster.status.as_ref() == Some(status) {
            return Ok((version.to_owned(), false));
        }
        cluster.status = Some(status.clone());
        meta.resource_version = Some(next.clone());
        self.versions += 1;
        self.lists.cluster.dirty = true;
        Ok((next, true))
    }

    /// Server-side apply with force. Answers whether anything changed.
    ///
    /// # Errors
    /// As the API server would.
    pub fn apply(&mut self, manager: &str, object: &Object) -> Result<bool> {
        let reference = object.reference();
        let meta = object.meta();
        let old = self.objects.get(&reference).cloned();
        let expects = meta.uid.is_some() || meta.resource_version.is_some();
        match &old {
            None if expects => return Err(KubeError::Conflict(format!("{reference} does not exist"))),
            Some(old) => {
                let live = old.object.meta();
                let other = meta.uid.is_some() && meta.uid != live.uid;
                let changed = meta.resource_version.is_some() && meta.resource_version != live.resource_version;
                if other || changed {
                    return Err(KubeError::Conflict(format!("{reference} has changed")));
                }
            }
            None => {}
        }
        let mut owners = old.as_ref().map(|old| old.owners.clone()).unwrap_or_default();
        let before = old.as_ref().map(|old| json_of(&old.object));
        let mut value = before.clone().unwrap_or_else(|| serde_json::json!({}));
        apply::apply(&mut value, &mut owners, manager, &json_of(object));
        apply::fill_in(reference.kind, &mut value, &reference.name);
        let mut next = object_of(reference.kind, value.clone())?;
        if let (Some(old), Some(before)) = (&old, &before) {
            if reference.kind == Kind::StatefulSet {
                Self::immutable(before, &value)?;
            }
            let unchanged = *before == value;
            let respecified = before.get("spec") != value.get("spec");
            let version = if unchanged { old.object.meta().resource_version.clone() } else { Some(self.version()) };
            let live = old.object.meta();
            let meta = next.meta_mut();
            meta.uid.clone_from(&live.uid);
            meta.creation_timestamp.clone_from(&live.creation_timestamp);
            meta.deletion_timestamp.clone_from(&live.deletion_timestamp);
            meta.generation = live.generation.map(|n| n + i64::from(respecified));
            meta.resource_version = version;
            if let (Object::StatefulSet(next), Object::StatefulSet(old)) = (&mut next, &old.object) {
                next.status.clone_from(&old.status);
            }
            self.objects.insert(reference, Stored { object: next, owners });
            self.lists.objects.dirty = true;
            return Ok(!unchanged);
        }
        let (uid, version, now) = (self.uid(), self.version(), self.now);
        let meta = next.meta_mut();
        meta.namespace = Some(NAMESPACE.to_owned());
        meta.uid = Some(uid);
        meta.resource_version = Some(version);
        meta.generation = Some(1);
        meta.creation_timestamp = Some(Time(timestamp(now)));
        self.objects.insert(reference, Stored { object: next, owners });
        self.lists.objects.dirty = true;
        Ok(true)
    }

    fn immutable(before: &Value, after: &Value) -> Result<()> {
        let fixed = |value: &Value| {
            let mut spec = value.get("spec").cloned().unwrap_or_default();
            if let Some(spec) = spec.as_object_mut() {
                for free in [
                    "replicas",
                    "ordinals",
                    "template",
                    "updateStrategy",
                    "minReadySeconds",
                    "revisionHistoryLimit",
                    "persistentVolumeClaimRetentionPolicy",
                ] {
                    spec.remove(free);
                }
            }
            spec
        };
        if fixed(before) == fixed(after) {
            return Ok(());
        }
        Err(KubeError::Invalid(
            "updates to statefulset spec for fields other than 'replicas', 'template', ... are forbidden".into(),
        ))
    }

    /// Another manager puts an annotation on a child.
    pub fn annotate(&mut self, reference: &ObjectRef, key: &str, value: &str) {
        let part = serde_json::json!({"metadata": {"name": reference.name, "annotations": {key: value}}});
        self.overlay(reference, "somebody", &part);
    }

    /// What `kubectl rollout restart` does.
    pub fn rollout_restart(&mut self, now: u64) {
        let reference = ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() };
        let Some(stored) = self.objects.get(&reference) else { return };
        let mut value = json_of(&stored.object);
        if let Some(template) = value.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
            let annotations = template.entry("annotations").or_insert_with(|| serde_json::json!({}));
            annotations["kubectl.kubernetes.io/restartedAt"] = serde_json::json!(timestamp(now).to_string());
        }
        let annotation =
            value.pointer("/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt").cloned();
        let owned = serde_json::json!({"metadata": {"name": NAME}, "spec": {"template": {"metadata": {"annotations": {
            "kubectl.kubernetes.io/restartedAt": annotation}}}}});
        self.overlay(&reference, "kubectl", &owned);
    }

    /// Another manager's part of a child.
    fn overlay(&mut self, reference: &ObjectRef, manager: &str, part: &Value) {
        let version = self.version();
        let Some(stored) = self.objects.get_mut(reference) else { return };
        let before = json_of(&stored.object);
        let mut value = before.clone();
        apply::apply(&mut value, &mut stored.owners, manager, part);
        let Ok(mut next) = object_of(reference.kind, value.clone()) else { return };
        let live = stored.object.meta();
        let respecified = before.get("spec") != value.get("spec");
        let meta = next.meta_mut();
        meta.uid.clone_from(&live.uid);
        meta.creation_timestamp.clone_from(&live.creation_timestamp);
        meta.deletion_timestamp.clone_from(&live.deletion_timestamp);
        meta.generation = live.generation.map(|n| n + i64::from(respecified));
        meta.resource_version = Some(version);
        if let (Object::StatefulSet(next), Object::StatefulSet(old)) = (&mut next, &stored.object) {
            next.status.clone_from(&old.status);
        }
        stored.object = next;
        self.lists.objects.dirty = true;
    }

    /// Deletes exactly that child.
    ///
    /// # Errors
    /// When it is absent or another.
    pub fn delete(&mut self, reference: &ObjectRef, uid: &str, propagation: Propagation) -> Result<()> {
        let version = self.version();
        let now = timestamp(self.now);
        let Some(stored) = self.objects.get_mut(reference) else {
            return Err(KubeError::NotFound(reference.to_string()));
        };
        let meta = stored.object.meta_mut();
        if meta.uid.as_deref() != Some(uid) {
            return Err(KubeError::Conflict(format!("{reference} is another object now")));
        }
        self.lists.objects.dirty = true;
        if propagation == Propagation::Orphan {
            meta.deletion_timestamp = Some(Time(now));
            meta.finalizers = Some(vec!["orphan".to_owned()]);
            meta.resource_version = Some(version);
        } else {
            self.objects.remove(reference);
        }
        Ok(())
    }

    /// The StatefulSet.
    #[must_use]
    pub fn stateful_set(&self) -> Option<&k8s_openapi::api::apps::v1::StatefulSet> {
        let reference = ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() };
        match &self.objects.get(&reference)?.object {
            Object::StatefulSet(set) => Some(set),
            _ => None,
        }
    }

    /// The operator's revision of the pod template.
    #[must_use]
    pub fn template_revision(&self) -> Option<String> {
        let template = &self.stateful_set()?.spec.as_ref()?.template;
        revision(template.metadata.as_ref()?.annotations.as_ref())
    }

    /// A value of a ConfigMap.
    #[must_use]
    pub fn config(&self, key: &str) -> Option<&str> {
        let reference = ObjectRef { kind: Kind::ConfigMap, name: format!("{NAME}-config") };
        match &self.objects.get(&reference)?.object {
            Object::ConfigMap(map) => map.data.as_ref()?.get(key).map(String::as_str),
            _ => None,
        }
    }

    /// The control secret.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        let reference = ObjectRef { kind: Kind::Secret, name: format!("{NAME}-control") };
        match &self.objects.get(&reference)?.object {
            Object::Secret(secret) => {
                let plain = secret.string_data.as_ref().and_then(|data| data.get("token").cloned());
                let stored = secret.data.as_ref().and_then(|data| data.get("token"));
                plain.or_else(|| stored.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()))
            }
            _ => None,
        }
    }

    /// What a label of a node says. Every node has all labels or none.
    #[must_use]
    pub fn node_label(&self, node: &str, label: &str) -> Option<String> {
        let number: usize = node.strip_prefix("node-")?.parse().ok()?;
        let zone = (*self.zones.get(number)?)?;
        let prefix = if label == RACK_LABELS[0] { "zone" } else { "rack" };
        Some(format!("{prefix}-{zone}"))
    }

    fn owner(kind: &str, uid: &str, name: &str) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".to_owned(),
            block_owner_deletion: Some(true),
            controller: Some(true),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }

    /// The operator's own manager.
    #[must_use]
    pub const fn operator() -> &'static str {
        FIELD_MANAGER
    }
}

/// `cluster.yaml` as a broker reads it; None when it cannot be read.
pub(crate) fn read_cluster_file(text: &str) -> Option<ClusterFile> {
    let document: Value = serde_yaml::from_str(text).ok()?;
    let ids = |field: &str| {
        let list = document.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_i64).filter_map(|id| i32::try_from(id).ok())
    };
    let peers = document.get("peers").and_then(Value::as_array).into_iter().flatten();
    let retired = document.get("retired").and_then(Value::as_array).into_iter().flatten();
    Some(ClusterFile {
        cluster: document.get("clusterId").and_then(Value::as_str).unwrap_or_default().to_owned(),
        bootstrap_voters: ids("bootstrapVoters").collect(),
        join: document.get("join").and_then(Value::as_bool).unwrap_or(false),
        peers: peers.filter_map(|peer| i32::try_from(peer.get("id")?.as_i64()?).ok()).collect(),
        retired: retired.filter_map(|id| id.as_str().map(str::to_owned)).collect(),
    })
}
