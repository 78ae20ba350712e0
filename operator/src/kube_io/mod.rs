//! Kubernetes as a reconcile pass sees it: the [`Kube`] port over kube's client.
//!
//! The controller makes one for each pass ([`KubeIo::for_pass`]); the pass is the only caller.
//!
//! **Nothing that a pass reads is cached.** The controller's watches only say *when* to look; what is decided upon is read
//! from the API server at that moment, by label, nine small lists at once. A stale cache can therefore not make the operator
//! draw a secret anew or shrink a StatefulSet that it has just shrunk. What may still change between read and write is
//! guarded by preconditions (uid, resourceVersion) in the write itself. The exception are labels of nodes ([`nodes`]).
//!
//! Every call is bounded in time; every write asks the [`Fence`] first, so that an operator that has lost its Lease begins
//! none. Writes are server-side applied with one field manager, or carry the object's uid.
//!
//! # What it must be allowed to do
//!
//! In each namespace that it watches (a Role there, or a ClusterRole for all of them):
//!
//! | group | resources | verbs |
//! |---|---|---|
//! | chronik.io | chronikclusters | get list watch |
//! | chronik.io | chronikclusters/status | get update patch |
//! | chronik.io | chronikclusters/finalizers | update |
//! | (core) | configmaps secrets services serviceaccounts | get list watch create patch delete |
//! | (core) | pods | get list watch patch delete |
//! | (core) | persistentvolumeclaims | get list watch patch delete |
//! | apps | statefulsets | get list watch create patch delete |
//! | policy | poddisruptionbudgets | get list watch create patch delete |
//! | networking.k8s.io | networkpolicies | get list watch create patch delete |
//! | events.k8s.io | events | create patch |
//!
//! In its own namespace: coordination.k8s.io leases get create update. For the whole cluster, and only if permitted:
//! storage.k8s.io storageclasses get list (without it, whether disks can grow is found out by trying) and (core) nodes get (without
//! it, `rack.topologyKey` has no effect). `crds apply` needs apiextensions.k8s.io customresourcedefinitions get create patch.

pub mod crds;
mod errors;
pub mod events;
mod nodes;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
    PropagationPolicy,
};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::api::{ChronikCluster, ChronikClusterStatus};
use crate::build::names;
use crate::lease::Fence;
use crate::metrics::Metrics;
use crate::ports::{
    Children, ClaimPatch, Event, Expansion, FIELD_MANAGER, Key, Kind, Kube, KubeError, Object, ObjectRef, Propagation,
};
use errors::convert;
use events::Recorder;

/// The label by which everything of one cluster is found.
pub const CLUSTER_LABEL: &str = "chronik.io/cluster";
/// How Kubernetes marks the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Larger lists come in several answers.
const PAGE: u32 = 500;
/// A cluster has some dozens of children; far more than that is somebody else's labels.
const MOST_PAGES: usize = 20;

/// Kubernetes for one pass.
#[derive(Clone)]
pub struct KubeIo {
    client: Client,
    fence: Fence,
    metrics: Arc<Metrics>,
    recorder: Arc<Recorder>,
    nodes: Arc<nodes::Answers>,
    patience: Duration,
}

impl Debug for KubeIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeIo").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl KubeIo {
    /// `patience`: how long a call may take. `instance`: who is named in events.
    pub fn new(client: Client, fence: Fence, metrics: Arc<Metrics>, instance: &str, patience: Duration) -> Self {
        let recorder = Arc::new(Recorder::new(client.clone(), instance));
        Self { client, fence, metrics, recorder, nodes: Arc::default(), patience }
    }

    async fn read<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, KubeError> {
        match timeout(self.patience, call).await {
            Ok(answer) => answer.map_err(|error| convert(&error)),
            Err(_) => Err(KubeError::Unavailable(format!("no answer within {:?}", self.patience))),
        }
    }

    async fn write<T>(
        &self,
        verb: &'static str,
        kind: &'static str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, KubeError> {
        if !self.fence.holds(Instant::now()) {
            return Err(KubeError::Unavailable("this replica of the operator no longer leads".to_owned()));
        }
        self.metrics.wrote(verb, kind);
        self.read(call).await
    }

    fn api<K>(&self, key: &Key) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// All of a kind that carry the cluster's label, in full.
    async fn labelled<K>(&self, key: &Key) -> Result<Vec<K>, KubeError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.api(key);
        let mut params = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", key.name)).limit(PAGE);
        let mut all = Vec::new();
        for _ in 0..MOST_PAGES {
            let page = self.read(api.list(&params)).await?;
            let more = page.metadata.continue_.filter(|token| !token.is_empty());
            all.extend(page.items.into_iter().map(trimmed));
            match more {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
        Err(KubeError::Invalid(format!("more than {} objects carry the label {CLUSTER_LABEL}={}", all.len(), key.name)))
    }

    async fn apply_one<K>(&self, key: &Key, kind: Kind, object: &K) -> Result<(), KubeError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Serialize,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api: Api<K> = self.api(key);
        self.write("apply", kind_name(kind), api.patch(&name, &params, &Patch::Apply(object))).await.map(drop)
    }

    /// The object of that name is among those found, though it lost the label by which they are found.
    async fn and_named<K>(&self, key: &Key, name: &str, found: &mut Vec<K>) -> Result<(), KubeError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        if !found.iter().any(|object| object.meta().name.as_deref() == Some(name)) {
            let api: Api<K> = self.api(key);
            found.extend(self.read(api.get_opt(name)).await?.map(trimmed));
        }
        Ok(())
    }

    async fn delete_one(
        &self,
        key: &Key,
        kind: &'static str,
        resource: &ApiResource,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), KubeError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, resource);
        self.write("delete", kind, api.delete(name, params)).await.map(drop)
    }
}

impl Kube for KubeIo {
    async fn cluster(&self, key: &Key) -> Result<Option<ChronikCluster>, KubeError> {
        let api: Api<ChronikCluster> = self.api(key);
        Ok(self.read(api.get_opt(&key.name)).await?.map(trimmed))
    }

    async fn children(&self, key: &Key) -> Result<Children, KubeError> {
        let (accounts, mut secrets, maps, services, mut sets, budgets, policies, pods, claims) = futures::try_join!(
            self.labelled(key),
            self.labelled::<Secret>(key),
            self.labelled(key),
            self.labelled(key),
            self.labelled::<StatefulSet>(key),
            self.labelled(key),
            self.labelled(key),
            self.labelled::<Pod>(key),
            self.labelled::<PersistentVolumeClaim>(key),
        )?;
        self.and_named(key, &names::control(&key.name), &mut secrets).await?;
        self.and_named(key, &key.name, &mut sets).await?;
        let mut objects = Vec::new();
        objects.extend(accounts.into_iter().map(|o| Object::ServiceAccount(Box::new(o))));
        objects.extend(secrets.into_iter().map(|o| Object::Secret(Box::new(o))));
        objects.extend(maps.into_iter().map(|o| Object::ConfigMap(Box::new(o))));
        objects.extend(services.into_iter().map(|o| Object::Service(Box::new(o))));
        objects.extend(sets.into_iter().map(|o| Object::StatefulSet(Box::new(o))));
        objects.extend(budgets.into_iter().map(|o| Object::PodDisruptionBudget(Box::new(o))));
        objects.extend(policies.into_iter().map(|o| Object::NetworkPolicy(Box::new(o))));
        Ok(Children { objects, pods, claims })
    }

    async fn meta(&self, key: &Key, object: &ObjectRef) -> Result<Option<ObjectMeta>, KubeError> {
        let resource = api_resource(object.kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let found = self.read(api.get_metadata_opt(&object.name)).await?;
        Ok(found.map(|found| ObjectMeta { managed_fields: None, ..found.metadata }))
    }

    async fn expansion(&self, class: Option<&str>) -> Result<Expansion, KubeError> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let found = match class {
            // An empty name means: volumes without a class, which nothing grows by itself.
            Some("") => return Ok(Expansion::Unknown),
            Some(class) => self.read(api.get_opt(class)).await,
            None => self.read(api.list(&ListParams::default())).await.map(|classes| default_class(classes.items)),
        };
        match found {
            Ok(Some(class)) if class.allow_volume_expansion == Some(true) => Ok(Expansion::Allowed),
            Ok(Some(_)) => Ok(Expansion::Refused),
            Ok(None) | Err(KubeError::Forbidden(_)) => Ok(Expansion::Unknown),
            Err(error) => Err(error),
        }
    }

    async fn node_label(&self, node: &str, label: &str) -> Result<Option<String>, KubeError> {
        if let Some(answer) = self.nodes.get(node, label, Instant::now()) {
            return answer;
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let found = self.read(api.get_metadata(node)).await;
        let answer = found.map(|found| found.metadata.labels.and_then(|mut labels| labels.remove(label)));
        self.nodes.keep(node, label, Instant::now(), &answer);
        answer
    }

    async fn apply(&self, key: &Key, object: &Object) -> Result<(), KubeError> {
        let kind = object.kind();
        match object {
            Object::ServiceAccount(o) => self.apply_one(key, kind, o.as_ref()).await,
            Object::Secret(o) => self.apply_one(key, kind, o.as_ref()).await,
            Object::ConfigMap(o) => self.apply_one(key, kind, o.as_ref()).await,
            Object::Service(o) => self.apply_one(key, kind, o.as_ref()).await,
            Object::StatefulSet(o) => self.apply_one(key, kind, o.as_ref()).await,
            Object::PodDisruptionBudget(o) => self.apply_one(key, kind, o.as_ref()).await,
            Object::NetworkPolicy(o) => self.apply_one(key, kind, o.as_ref()).await,
        }
    }

    async fn delete(
        &self,
        key: &Key,
        object: &ObjectRef,
        uid: &str,
        propagation: Propagation,
    ) -> Result<(), KubeError> {
        let policy = match propagation {
            Propagation::Orphan => PropagationPolicy::Orphan,
            Propagation::Background => PropagationPolicy::Background,
        };
        let params = DeleteParams { propagation_policy: Some(policy), ..exactly(uid) };
        self.delete_one(key, kind_name(object.kind), &api_resource(object.kind), &object.name, &params).await
    }

    async fn delete_pod(&self, key: &Key, name: &str, uid: &str) -> Result<(), KubeError> {
        self.delete_one(key, "Pod", &ApiResource::erase::<Pod>(&()), name, &exactly(uid)).await
    }

    async fn own_pod(&self, key: &Key, name: &str, uid: &str, owner: &OwnerReference) -> Result<(), KubeError> {
        let api: Api<Pod> = self.api(key);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // A strategic merge patch adds to this list, by the uid of the owner.
        let body = json!({ "metadata": { "uid": uid, "ownerReferences": [owner] } });
        self.write("patch", "Pod", api.patch(name, &params, &Patch::Strategic(&body))).await.map(drop)
    }

    async fn delete_claim(&self, key: &Key, name: &str, uid: &str) -> Result<(), KubeError> {
        let resource = ApiResource::erase::<PersistentVolumeClaim>(&());
        self.delete_one(key, "PersistentVolumeClaim", &resource, name, &exactly(uid)).await
    }

    async fn patch_claim(&self, key: &Key, name: &str, uid: &str, patch: &ClaimPatch) -> Result<(), KubeError> {
        let api: Api<PersistentVolumeClaim> = self.api(key);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let body = claim_patch(uid, patch);
        self.write("patch", "PersistentVolumeClaim", api.patch(name, &params, &Patch::Merge(&body))).await.map(drop)
    }

    async fn apply_status(
        &self,
        key: &Key,
        uid: &str,
        resource_version: &str,
        status: &ChronikClusterStatus,
    ) -> Result<String, KubeError> {
        let resource = ApiResource::erase::<ChronikCluster>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let status = serde_json::to_value(status).map_err(|error| KubeError::Invalid(error.to_string()))?;
        // A PUT: what the new status leaves out is gone. The API server takes the specification from what it has.
        let mut object =
            DynamicObject::new(&key.name, &resource).within(&key.namespace).data(json!({ "status": status }));
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(resource_version.to_owned());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written =
            self.write("update", "ChronikCluster/status", api.replace_status(&key.name, &params, &object)).await?;
        Ok(written.metadata.resource_version.unwrap_or_default())
    }

    async fn publish(&self, cluster: &ChronikCluster, event: &Event) {
        let about = cluster.object_ref(&());
        self.tell(&about, event).await;
    }
}

impl KubeIo {
    /// Publishes an event about any object; repeated ones are counted, failures logged.
    pub async fn tell(&self, about: &k8s_openapi::api::core::v1::ObjectReference, event: &Event) {
        if !self.fence.holds(Instant::now()) {
            return;
        }
        match timeout(self.patience, self.recorder.publish(about, event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason = event.reason, %error, "could not publish an event"),
            Err(_) => tracing::warn!(reason = event.reason, "could not publish an event in time"),
        }
    }

    /// Says in the status of an object that this version of the operator cannot read that it is so. Touches nothing else
    /// of the status, by a field manager of its own.
    pub async fn tell_unreadable(&self, key: &Key, generation: Option<i64>, message: &str) -> Result<(), KubeError> {
        let resource = ApiResource::erase::<ChronikCluster>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let condition = json!({
            "type": crate::api::ConditionType::SpecValid.as_str(),
            "status": "False",
            "reason": "Unreadable",
            "message": message,
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "observedGeneration": generation.unwrap_or(0),
        });
        let mut object = DynamicObject::new(&key.name, &resource).within(&key.namespace);
        object.data = json!({ "status": { "conditions": [condition] } });
        let params = PatchParams::apply(&format!("{FIELD_MANAGER}-unreadable")).force();
        let patch = Patch::Apply(&object);
        let call = api.patch_status(&key.name, &params, &patch);
        self.write("apply", "ChronikCluster/status", call).await.map(drop)
    }
}

fn exactly(uid: &str) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// Bookkeeping of server-side apply that nobody here reads and that is often half of an object.
fn trimmed<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn default_class(classes: Vec<StorageClass>) -> Option<StorageClass> {
    let marked = |class: &StorageClass| {
        class.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
    };
    // Of several, Kubernetes takes the newest.
    classes.into_iter().filter(marked).max_by_key(|class| class.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn claim_patch(uid: &str, patch: &ClaimPatch) -> Value {
    let mut metadata = Map::from_iter([("uid".to_owned(), json!(uid))]);
    if !patch.annotations.is_empty() {
        let annotations: Map<_, _> =
            patch.annotations.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        metadata.insert("annotations".to_owned(), Value::Object(annotations));
    }
    let mut body = Map::from_iter([("metadata".to_owned(), Value::Object(metadata))]);
    if let Some(size) = &patch.size {
        body.insert("spec".to_owned(), json!({ "resources": { "requests": { "storage": size } } }));
    }
    Value::Object(body)
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ServiceAccount => "ServiceAccount",
        Kind::Secret => "Secret",
        Kind::ConfigMap => "ConfigMap",
        Kind::Service => "Service",
        Kind::StatefulSet => "StatefulSet",
        Kind::PodDisruptionBudget => "PodDisruptionBudget",
        Kind::NetworkPolicy => "NetworkPolicy",
    }
}

fn api_resource(kind: Kind) -> ApiResource {
    use k8s_openapi::api::{core, networking, policy};
    match kind {
        Kind::ServiceAccount => ApiResource::erase::<core::v1::ServiceAccount>(&()),
        Kind::Secret => ApiResource::erase::<Secret>(&()),
        Kind::ConfigMap => ApiResource::erase::<core::v1::ConfigMap>(&()),
        Kind::Service => ApiResource::erase::<core::v1::Service>(&()),
        Kind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        Kind::PodDisruptionBudget => ApiResource::erase::<policy::v1::PodDisruptionBudget>(&()),
        Kind::NetworkPolicy => ApiResource::erase::<networking::v1::NetworkPolicy>(&()),
    }
}

#[cfg(test)]
mod tests;
