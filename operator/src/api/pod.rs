//! What a user may say about the brokers' pods beyond where they run.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{defaults, schema};

/// Labels and annotations of the pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateSpec {
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    #[x_kube(validation = Rule::new(
        "self.all(k, !k.startsWith('chronik.io/') && !(k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by']))"
    ).message(
        "podTemplate.labels cannot name chronik.io/* or app.kubernetes.io/name, instance, component and managed-by: the operator finds its pods by them"
    ))]
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('chronik.io/'))").message(
        "podTemplate.annotations cannot name chronik.io/*: the operator writes those"
    ))]
    pub annotations: BTreeMap<String, String>,
}

/// How many brokers a node drain may stop at a time, while none must be kept from stopping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudgetSpec {
    /// Brokers that may be missing.
    #[serde(default = "defaults::max_unavailable")]
    #[schemars(range(min = 0, max = 99))]
    pub max_unavailable: i32,
    /// Whether pods that are not ready may always be evicted.
    #[serde(default)]
    pub unhealthy_pod_eviction_policy: UnhealthyPodEvictionPolicy,
}

/// Whether pods that are not ready may always be evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnhealthyPodEvictionPolicy {
    #[default]
    AlwaysAllow,
    IfHealthyBudget,
}

impl UnhealthyPodEvictionPolicy {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlwaysAllow => "AlwaysAllow",
            Self::IfHealthyBudget => "IfHealthyBudget",
        }
    }
}

/// Who may connect to the ports that are not for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Keeps the brokers' own ports to the brokers and the operator.
    #[serde(default = "defaults::yes")]
    pub enabled: bool,
}
