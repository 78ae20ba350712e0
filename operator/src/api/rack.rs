//! Racks of the brokers.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// In which rack or zone brokers are.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RackSpec {
    /// Label of the nodes whose value is the rack of the brokers on them, such as topology.kubernetes.io/zone. The operator must be permitted to read nodes.
    #[schemars(length(min = 1, max = 317))]
    #[x_kube(validation = Rule::new(
        "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')"
    ).message("rack.topologyKey must be the name of a label, such as topology.kubernetes.io/zone"))]
    pub topology_key: String,
}
