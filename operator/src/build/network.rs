//! How brokers are reached: Services, and who may connect.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Input, names};
use crate::observed::NodeId;

/// Kubernetes labels each pod of a StatefulSet with its own name.
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";

/// Name of the Service of one broker for clients from outside.
#[must_use]
pub fn node_port_service(cluster: &str, node: NodeId) -> String {
    node.pod(cluster)
}

pub(super) fn services(input: &Input<'_>) -> Vec<Service> {
    let internal = input.spec.internal_listener().map_or("kafka", |l| l.name.as_str());
    let kafka = port(internal, input.spec.kafka_port());
    let mut services = vec![
        Service {
            metadata: input.meta(names::headless(input.name)),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                // Brokers must find each other before they are ready.
                publish_not_ready_addresses: Some(true),
                selector: Some(names::selector(input.name)),
                ports: Some(vec![
                    kafka.clone(),
                    port("raft", names::RAFT_PORT),
                    port("replication", names::REPLICATION_PORT),
                    port("admin", names::ADMIN_PORT),
                ]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        },
        Service {
            metadata: input.meta(names::bootstrap(input.name)),
            spec: Some(ServiceSpec {
                type_: Some("ClusterIP".to_owned()),
                selector: Some(names::selector(input.name)),
                ports: Some(vec![kafka]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        },
    ];
    if input.spec.nodeport_listeners().next().is_some() {
        services.extend((1..=input.brokers).map(|id| of_broker(input, NodeId(id))));
    }
    services
}

fn of_broker(input: &Input<'_>, node: NodeId) -> Service {
    let ports = input.spec.nodeport_listeners().map(|listener| ServicePort {
        node_port: listener.node_port(node.ordinal()),
        ..port(&listener.name, listener.port)
    });
    let mut selector = names::selector(input.name);
    selector.insert(POD_NAME_LABEL.to_owned(), node.pod(input.name));
    Service {
        metadata: input.meta(node_port_service(input.name, node)),
        spec: Some(ServiceSpec {
            type_: Some("NodePort".to_owned()),
            selector: Some(selector),
            ports: Some(ports.collect()),
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

/// Clients may come from anywhere; brokers' own ports are for brokers and the operator; probes come from the nodes.
pub(super) fn policy(input: &Input<'_>) -> NetworkPolicy {
    let labelled =
        |labels: BTreeMap<String, String>| LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
    let brokers = NetworkPolicyPeer { pod_selector: Some(input.selector()), ..NetworkPolicyPeer::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(labelled([("app.kubernetes.io/name".to_owned(), "chronik-operator".to_owned())].into())),
        ..NetworkPolicyPeer::default()
    };
    let on = |number: i32| NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    let open = input.spec.listeners.iter().map(|l| on(l.port)).chain([on(names::ADMIN_PORT)]);
    NetworkPolicy {
        metadata: input.meta(input.name.to_owned()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(input.selector()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { ports: Some(open.collect()), from: None },
                NetworkPolicyIngressRule {
                    ports: Some(vec![on(names::RAFT_PORT)]),
                    from: Some(vec![brokers.clone(), operator]),
                },
                NetworkPolicyIngressRule { ports: Some(vec![on(names::REPLICATION_PORT)]), from: Some(vec![brokers]) },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}
