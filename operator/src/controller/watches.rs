//! The watches: which changes in Kubernetes ask for a pass over which cluster.
//!
//! Used by [`super::run`]. Of ChronikClusters the metadata and specification are kept, to know which exist; of everything else
//! only metadata is even asked for, and nothing is kept: a change of an object that carries a cluster's label asks for a
//! pass, and the pass reads. So the memory of the operator hardly grows with its clusters, and no decision rests on what a
//! watch has brought.
//!
//! A watch that fails is repeated with a growing delay and is told to [`Health`]. After a gap it lists anew, and every cluster
//! is looked at.

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::{Client, Resource};
use kube_runtime::reflector::{self, ObjectRef, Store};
use kube_runtime::watcher::{self, Event};
use kube_runtime::{WatchStreamExt as _, watcher as watch_objects};
use serde::de::DeserializeOwned;

use super::{Context, key_of, request_for};
use crate::api::ChronikCluster;
use crate::health::Health;
use crate::kube_io::CLUSTER_LABEL;
use crate::ports::Key;

/// A ChronikCluster, or an object of that kind that this version cannot read.
pub(super) type Guarded = DeserializeGuard<ChronikCluster>;
type Request = Result<ObjectRef<Guarded>, Infallible>;

/// The clusters that exist, and the requests for passes over them.
pub(super) fn requests(
    client: &Client,
    namespace: Option<&str>,
    context: Arc<Context>,
) -> (Store<Guarded>, SelectAll<BoxStream<'static, Request>>) {
    let health = context.health.clone();
    let (store, clusters) = clusters(scoped(client, namespace), context);
    let mut all = SelectAll::new();
    all.push(clusters);
    all.push(children::<StatefulSet>("statefulsets", client, namespace, &health));
    all.push(children::<Pod>("pods", client, namespace, &health));
    all.push(children::<PersistentVolumeClaim>("persistentvolumeclaims", client, namespace, &health));
    all.push(children::<Service>("services", client, namespace, &health));
    all.push(children::<ConfigMap>("configmaps", client, namespace, &health));
    all.push(children::<Secret>("secrets", client, namespace, &health));
    all.push(children::<ServiceAccount>("serviceaccounts", client, namespace, &health));
    all.push(children::<PodDisruptionBudget>("poddisruptionbudgets", client, namespace, &health));
    all.push(children::<NetworkPolicy>("networkpolicies", client, namespace, &health));
    (store, all)
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn clusters(api: Api<Guarded>, context: Arc<Context>) -> (Store<Guarded>, BoxStream<'static, Request>) {
    const NAME: &str = "chronikclusters";
    let (store, writer) = reflector::store();
    let known: Store<Guarded> = store.clone();
    let health = context.health.clone();
    let stream = watch_objects(api, watcher::Config::default())
        .modify(|object: &mut Guarded| {
            object.meta_mut().managed_fields = None;
            if let Ok(cluster) = &mut object.0 {
                cluster.status = None;
            }
        })
        .default_backoff()
        .reflect(writer);
    let requests = watched(NAME, health, stream).flat_map(move |event| {
        let asked: Vec<_> = match &event {
            Event::Apply(object) => key_of(object).into_iter().collect(),
            // Only now does the store have them, and those that went away during a gap are told from those that stayed.
            Event::InitDone => known.state().iter().filter_map(|object| key_of(object)).collect(),
            Event::Delete(object) => {
                key_of(object).iter().for_each(|key| context.gone(key));
                Vec::new()
            }
            Event::Init | Event::InitApply(_) => Vec::new(),
        };
        context.metrics.clusters(known.len());
        stream::iter(asked.into_iter().map(|key| Ok(request_for(&key))))
    });
    (store, requests.boxed())
}

/// Objects that carry the label of a cluster, as requests for that cluster.
fn children<K>(
    name: &'static str,
    client: &Client,
    namespace: Option<&str>,
    health: &Health,
) -> BoxStream<'static, Request>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = scoped(client, namespace);
    let stream = watch_objects(api, watcher::Config::default().labels(CLUSTER_LABEL)).default_backoff();
    let mut listed = false;
    watched(name, health.clone(), stream)
        .filter_map(move |event| {
            let key = match &event {
                Event::Apply(object) | Event::Delete(object) => cluster_of(object.meta()),
                // What exists at the beginning needs no pass of its own: its cluster gets one. After a gap it may have changed.
                Event::InitApply(object) if listed => cluster_of(object.meta()),
                Event::InitDone => {
                    listed = true;
                    None
                }
                Event::Init | Event::InitApply(_) => None,
            };
            std::future::ready(key.map(|key| Ok(request_for(&key))))
        })
        .boxed()
}

/// Tells how a watch is, and drops its errors: the watch repeats itself.
fn watched<K: Send + 'static>(
    name: &'static str,
    health: Health,
    stream: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
) -> impl Stream<Item = Event<K>> + Send + 'static {
    health.watch_begins(name);
    stream.filter_map(move |item| {
        let event = match item {
            Ok(event) => {
                match &event {
                    Event::InitDone => health.watch_listed(name),
                    Event::Init => {}
                    Event::Apply(_) | Event::Delete(_) | Event::InitApply(_) => health.watch_works(name),
                }
                Some(event)
            }
            Err(error) => {
                tracing::warn!(watch = name, %error, "a watch failed and is repeated");
                health.watch_fails(name, error.to_string(), Instant::now());
                None
            }
        };
        std::future::ready(event)
    })
}

fn cluster_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Key> {
    let cluster = meta.labels.as_ref()?.get(CLUSTER_LABEL)?;
    Some(Key::new(meta.namespace.as_deref()?, cluster.as_str()))
}
