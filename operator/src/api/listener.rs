//! Where clients connect.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;

/// One listener for Kafka clients, on every broker.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.advertised) || self.type == 'nodeport'").message(
        "listeners[].advertised is for listeners of type nodeport: the internal one is always the pod's own name"
    ),
    validation = Rule::new("!(self.port in [9192, 9292, 9392])").message(
        "listeners[].port 9192, 9292 and 9392 are taken by the brokers' own traffic"
    ),
    validation = Rule::new("!(self.name in ['raft', 'replication', 'admin', 'control'])").message(
        "listeners[].name raft, replication, admin and control are taken by the brokers' own ports"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSpec {
    /// Name of the listener and of its port in Services.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Port in the pod.
    #[serde(default = "defaults::kafka_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
    /// internal = within the Kubernetes cluster. nodeport = from outside, over a port of the nodes for each broker.
    #[serde(rename = "type")]
    pub kind: ListenerType,
    /// What clients of a nodeport listener are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised: Option<AdvertisedSpec>,
}

/// How a listener is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerType {
    Internal,
    Nodeport,
}

/// What clients of a nodeport listener are told.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdvertisedSpec {
    /// Host name of each broker, with {nodeId} for its id, such as broker-{nodeId}.example.com. Absent = the address of the node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^([a-zA-Z0-9.:-]|\{nodeId\})+$"))]
    pub host_template: Option<String>,
    /// Node port of the first broker; the others take those that follow. Absent = Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 30000 && self <= 32669").message(
        "nodePortBase must be from 30000 to 32669: node ports end at 32767 and 99 brokers need room"
    ))]
    pub node_port_base: Option<i32>,
}
