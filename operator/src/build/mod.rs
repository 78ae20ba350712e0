//! The children of a cluster as they shall be: pure functions of the specification and the size that the plan allows.
//!
//! Called by [`crate::reconcile`] after planning. [`children`] answers everything but the StatefulSet, in the order in which it is
//! applied: the StatefulSet comes last, so that no pod starts before its configuration. Nothing here looks at a clock or draws
//! a random value.

pub mod config;
pub mod names;
mod network;
mod stateful_set;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::{ChronikClusterSpec, ChronikClusterStatus, GROUP, VERSION};
use crate::observed::NodeId;
use crate::ports::{Object, Token};

pub use network::node_port_service;
pub use stateful_set::{revision, stateful_set};

/// A listener of one broker as clients from outside are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertised {
    /// Name of the listener.
    pub name: String,
    /// Port in the pod.
    pub port: i32,
    /// Host.
    pub host: String,
    /// Port of that host.
    pub advertised_port: i32,
}

/// What children are made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// Name of the cluster.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid, for owner references.
    pub uid: &'a str,
    /// What is asked for.
    pub spec: &'a ChronikClusterSpec,
    /// Identity, founders, retired disks.
    pub status: &'a ChronikClusterStatus,
    /// Brokers that may exist during this change: addresses are made for so many.
    pub brokers: i32,
    /// Image of the brokers.
    pub image: &'a str,
    /// The control secret.
    pub token: &'a Token,
    /// What clients from outside are told, as far as it is known.
    pub advertised: &'a BTreeMap<NodeId, Vec<Advertised>>,
    /// Whether any broker may be stopped now without making anything unavailable; until then nobody is evicted.
    pub may_evict: bool,
}

impl Input<'_> {
    fn meta(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(names::labels(self.name)),
            owner_references: Some(vec![OwnerReference {
                controller: Some(true),
                block_owner_deletion: Some(true),
                ..pod_owner(self.name, self.uid)
            }]),
            ..ObjectMeta::default()
        }
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(names::selector(self.name)), ..LabelSelector::default() }
    }
}

/// The cluster as a further owner of a pod, which the StatefulSet controls: while that is made anew, nobody else owns the pod.
#[must_use]
pub fn pod_owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "ChronikCluster".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// Every child but the StatefulSet.
#[must_use]
pub fn children(input: &Input<'_>) -> Vec<Object> {
    let mut objects = vec![
        Object::ServiceAccount(Box::new(ServiceAccount {
            metadata: input.meta(input.name.to_owned()),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        })),
        Object::Secret(Box::new(Secret {
            metadata: input.meta(names::control(input.name)),
            type_: Some("Opaque".to_owned()),
            data: Some([("token".to_owned(), ByteString(input.token.0.clone().into_bytes()))].into()),
            ..Secret::default()
        })),
        Object::ConfigMap(Box::new(ConfigMap {
            metadata: input.meta(names::config(input.name)),
            data: Some([("cluster.yaml".to_owned(), config::cluster_yaml(input))].into()),
            ..ConfigMap::default()
        })),
    ];
    objects.extend(network::services(input).into_iter().map(|service| Object::Service(Box::new(service))));
    objects.push(Object::PodDisruptionBudget(Box::new(disruption_budget(input))));
    if input.spec.network_policy.enabled {
        objects.push(Object::NetworkPolicy(Box::new(network::policy(input))));
    }
    objects
}

fn disruption_budget(input: &Input<'_>) -> PodDisruptionBudget {
    let spec = &input.spec.pod_disruption_budget;
    PodDisruptionBudget {
        metadata: input.meta(input.name.to_owned()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(if input.may_evict { spec.max_unavailable } else { 0 })),
            unhealthy_pod_eviction_policy: Some(spec.unhealthy_pod_eviction_policy.as_str().to_owned()),
            selector: Some(input.selector()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
