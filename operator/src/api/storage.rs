//! Disks of the brokers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{defaults, schema};

/// Disks of the brokers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new(
        "has(self.storageClass) == has(oldSelf.storageClass) && (!has(self.storageClass) || self.storageClass == oldSelf.storageClass)"
    ).message(
        "storage.storageClass cannot change: Kubernetes cannot move a volume to another class. Create a second cluster with the class and move the data, or keep the class"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of each broker's disk. It can grow and never shrink.
    #[serde(default = "defaults::storage_size")]
    #[schemars(schema_with = "schema::quantity")]
    #[x_kube(
        validation = Rule::new("quantity(self).isGreaterThan(quantity('0'))").message("storage.size must be more than 0"),
        validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message(
            "storage.size can only grow: Kubernetes cannot shrink a volume"
        )
    )]
    pub size: Quantity,
    /// Storage class of the disks. Absent = the default class of the Kubernetes cluster. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,
    /// Persistent = a PersistentVolumeClaim for each broker. Ephemeral = gone with the pod: for tests. Cannot change.
    #[serde(default, rename = "type")]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "storage.type cannot change: the brokers' data would be left behind"
    ))]
    pub kind: StorageType,
    /// What becomes of the disks.
    #[serde(default)]
    pub retention: RetentionSpec,
}

/// Kind of a broker's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    #[default]
    Persistent,
    Ephemeral,
}

/// What becomes of the disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// When the ChronikCluster is deleted.
    #[serde(default)]
    pub when_deleted: RetentionPolicy,
    /// When a broker has been drained and removed.
    #[serde(default)]
    pub when_scaled: RetentionPolicy,
}

/// Whether a disk outlives its purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetentionPolicy {
    #[default]
    Retain,
    Delete,
}

impl RetentionPolicy {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retain => "Retain",
            Self::Delete => "Delete",
        }
    }
}
