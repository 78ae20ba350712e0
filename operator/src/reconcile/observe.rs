//! Dereferencing: what the brokers say, and what clients from outside can be told.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::build::{Advertised, names, node_port_service};
use crate::observed::{Answer, NodeId, Observed, is_ours};
use crate::plan::{View, Wanted};
use crate::ports::{BrokerAddress, Brokers, Children, Key, Object, Token};

use super::Fresh;

/// The control secret that exists, or a fresh one. Somebody else's says nothing.
pub(super) fn token(key: &Key, uid: &str, children: &Children, fresh: &Fresh) -> Token {
    let name = names::control(&key.name);
    let existing = children.objects.iter().find_map(|object| match object {
        Object::Secret(secret)
            if secret.metadata.name.as_ref() == Some(&name) && is_ours(&secret.metadata, uid, &key.name) =>
        {
            let bytes = secret.data.as_ref()?.get("token")?.0.clone();
            String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
        }
        _ => None,
    });
    Token(existing.unwrap_or_else(|| fresh.token.clone()))
}

/// Asks every broker whose pod has an address, all at once.
pub(super) async fn brokers(
    brokers: &impl Brokers,
    key: &Key,
    children: &Children,
    token: &Token,
) -> BTreeMap<NodeId, Answer> {
    let questions = children.pods.iter().filter_map(|pod| {
        let node = NodeId::of_pod(&key.name, pod.metadata.name.as_deref()?)?;
        Some(async move {
            let Some(at) = address(key, node, pod, token) else {
                return (node, Answer::Unknown("its pod has no address yet".to_owned()));
            };
            let answer = match brokers.describe(&at).await {
                Ok(facts) if facts.myself.node == node.0 => Answer::Known(Box::new(facts)),
                Ok(facts) => Answer::Unknown(format!("broker {} answers in its place", facts.myself.node)),
                Err(error) => Answer::Unknown(error.to_string()),
            };
            (node, answer)
        })
    });
    futures::future::join_all(questions).await.into_iter().collect()
}

/// Where a broker's control service is; None while its pod has no address.
pub(super) fn address(key: &Key, node: NodeId, pod: &Pod, token: &Token) -> Option<BrokerAddress> {
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty())?;
    Some(BrokerAddress {
        node,
        host: names::host(&key.name, &key.namespace, &node.pod(&key.name)),
        ip: Some(ip),
        port: u16::try_from(names::RAFT_PORT).unwrap_or(9192),
        token: token.clone(),
    })
}

/// Whether the disk of a broker is smaller than wanted, so that it matters whether it can grow. Those that removed brokers left stay as they are.
pub(super) fn must_grow(wanted: &Wanted, view: &View) -> bool {
    let small = |size| move |node| view.claims.get(&node).is_some_and(|claim| claim.requested < size);
    wanted.storage.is_some_and(|size| view.members().any(small(size)))
}

/// What clients from outside are told, as far as ports and hosts are known.
pub(super) fn advertised(key: &Key, observed: &Observed) -> BTreeMap<NodeId, Vec<Advertised>> {
    let mut all = BTreeMap::new();
    let spec = &observed.cluster.spec;
    for object in &observed.children.objects {
        let Object::Service(service) = object else { continue };
        let Some(name) = service.metadata.name.as_deref() else { continue };
        let Some(node) = NodeId::of_pod(&key.name, name).filter(|n| node_port_service(&key.name, *n) == name) else {
            continue;
        };
        let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
        let pod = observed.children.pods.iter().find(|p| p.metadata.name.as_deref() == Some(name));
        let node_ip = pod.and_then(|p| p.status.as_ref()).and_then(|s| s.host_ip.clone()).filter(|ip| !ip.is_empty());
        let listeners: Vec<Advertised> = spec
            .nodeport_listeners()
            .filter_map(|listener| {
                let port = ports?.iter().find(|p| p.name.as_ref() == Some(&listener.name))?;
                Some(Advertised {
                    name: listener.name.clone(),
                    port: listener.port,
                    host: listener.advertised_host(node.0).or_else(|| node_ip.clone())?,
                    advertised_port: port.node_port?,
                })
            })
            .collect();
        if !listeners.is_empty() {
            all.insert(node, listeners);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::Secret;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    #[test]
    fn a_secret_that_lost_its_label_keeps_its_token_and_somebody_elses_says_nothing() {
        let secret = |owner: Option<&str>, label: Option<&str>| {
            let owner =
                owner.map(|uid| OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() });
            let metadata = ObjectMeta {
                name: Some("x-control".into()),
                owner_references: owner.map(|owner| vec![owner]),
                labels: label.map(|name| [(names::CLUSTER_LABEL.to_owned(), name.to_owned())].into()),
                ..Default::default()
            };
            let data = Some([("token".to_owned(), ByteString(b"old".to_vec()))].into());
            let object = Object::Secret(Box::new(Secret { metadata, data, ..Default::default() }));
            let children = Children { objects: vec![object], ..Default::default() };
            let fresh = Fresh { cluster_id: String::new(), token: "fresh".into() };
            token(&Key::new("n", "x"), "u", &children, &fresh).0
        };
        assert_eq!(secret(Some("u"), Some("x")), "old");
        assert_eq!(secret(Some("u"), None), "old");
        assert_eq!(secret(None, Some("x")), "old", "left by an earlier cluster");
        assert_eq!(secret(Some("other"), Some("x")), "fresh");
        assert_eq!(secret(None, None), "fresh");
    }
}
