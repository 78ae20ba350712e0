//! Racks: telling the brokers in which zone the nodes are that they run on.
//!
//! A pod does not know that before it is scheduled, so a broker cannot be configured with it: the operator reads the label of the
//! node and tells the leader of the quorum, which keeps it with the broker's registration. Only what differs is told. No failure
//! here keeps anything else from being done; the condition `RacksAssigned` says what is missing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::Pass;
use crate::api::ConditionType;
use crate::observed::{ClusterFacts, NodeId, Told};
use crate::plan::View;
use crate::ports::{BrokerError, Brokers, Event, Kube, KubeError};

/// Something is on its way; nobody has to be told.
const WAITING: &str = "Waiting";

type Answers = BTreeMap<String, Result<Option<String>, KubeError>>;

fn not_yet(reason: &'static str, message: impl Into<String>) -> Told {
    Told { done: false, reason, message: message.into() }
}

/// What the nodes say.
#[derive(PartialEq, Debug, Default)]
struct Found {
    /// None = in none.
    racks: BTreeMap<NodeId, Option<String>>,
    /// Why some are missing, the first.
    problem: Option<Told>,
}

/// The node of each pod; None = it has none yet.
fn nodes_of_pods(cluster: &str, pods: &[Pod]) -> BTreeMap<NodeId, Option<String>> {
    let node_of = |pod: &Pod| pod.spec.as_ref()?.node_name.clone().filter(|name| !name.is_empty());
    pods.iter()
        .filter_map(|pod| Some((NodeId::of_pod(cluster, pod.metadata.name.as_deref()?)?, node_of(pod))))
        .collect()
}

/// What the answers about the nodes mean for the brokers. What is not known stays as it is.
fn find(label: &str, nodes: &BTreeMap<NodeId, Option<String>>, answers: &Answers) -> Found {
    let mut found = Found::default();
    for (broker, node) in nodes {
        let problem = match node.as_ref().map(|node| (node, answers.get(node))) {
            Some((node, Some(Ok(rack)))) => {
                let rack = rack.clone().filter(|rack| !rack.is_empty());
                let missing = rack.is_none();
                found.racks.insert(*broker, rack);
                if !missing {
                    continue;
                }
                not_yet("LabelMissing", format!("node {node} of broker {broker} has no label {label}"))
            }
            Some((_, Some(Err(KubeError::Forbidden(why))))) => {
                not_yet("NodesForbidden", format!("rack.topologyKey needs permission to read nodes: {why}"))
            }
            Some((node, Some(Err(error)))) => not_yet(WAITING, format!("node {node} of broker {broker}: {error}")),
            Some((_, None)) | None => not_yet(WAITING, format!("the pod of broker {broker} is not scheduled yet")),
        };
        found.problem.get_or_insert(problem);
    }
    found
}

/// Who has to be told what. Whoever has not registered cannot be told yet.
fn differences(found: &mut Found, cluster: &ClusterFacts) -> Vec<(NodeId, Option<String>)> {
    let mut all = Vec::new();
    // The brokers refuse what a member does not understand, and know that of nobody who has not registered.
    if let Some(stranger) = cluster.voters.union(&cluster.learners).find(|node| !cluster.brokers.contains_key(node)) {
        let problem = not_yet(WAITING, format!("broker {stranger} has not registered yet"));
        found.problem.get_or_insert(problem);
        return all;
    }
    for (broker, rack) in &found.racks {
        match cluster.brokers.get(broker) {
            Some(registered) if registered.rack == rack.as_deref().unwrap_or_default() => {}
            Some(_) => all.push((*broker, rack.clone())),
            None => {
                let problem = not_yet(WAITING, format!("broker {broker} has not registered yet"));
                found.problem.get_or_insert(problem);
            }
        }
    }
    all
}

fn verdict(label: &str, found: Found) -> Told {
    let racks: BTreeSet<_> = found.racks.values().flatten().collect();
    let message = format!("{} brokers in {} racks by {label}", found.racks.len(), racks.len());
    found.problem.unwrap_or(Told { done: true, reason: "Assigned", message })
}

impl<K: Kube, B: Brokers> Pass<'_, K, B> {
    /// None = nothing is asked for, or nobody can tell now.
    pub(super) async fn assign_racks(&mut self, view: &View) -> Option<Told> {
        let label = self.observed.cluster.spec.rack.as_ref().map(|rack| rack.topology_key.clone());
        let (_, cluster) = view.leader()?;
        let mut found = match &label {
            Some(label) => {
                let nodes = nodes_of_pods(&self.key.name, &self.observed.children.pods);
                find(label, &nodes, &self.ask_nodes(label, &nodes).await)
            }
            // No broker of ours knows a rack but from here.
            None => Found { racks: cluster.brokers.keys().map(|node| (*node, None)).collect(), problem: None },
        };
        for (node, rack) in differences(&mut found, cluster) {
            let Some(at) = self.leader_address(view) else { break };
            self.broker_calls += 1;
            if let Err(error) = self.brokers.assign_rack(&at, node, rack.as_deref()).await {
                let reason = match error {
                    BrokerError::Refused(_) => "BrokerRefused",
                    BrokerError::Unreachable(_) | BrokerError::Retry(_) => WAITING,
                };
                found.problem.get_or_insert(not_yet(reason, format!("the rack of broker {node}: {error}")));
                break;
            }
            let note = match rack {
                Some(rack) => format!("broker {node} is in rack {rack}"),
                None => format!("broker {node} is in no rack"),
            };
            let event = Event { warning: false, reason: "AssignedRack".into(), action: "AssignRack".into(), note };
            self.kube.publish(&self.observed.cluster, &event).await;
        }
        label.map(|label| verdict(&label, found))
    }

    async fn ask_nodes(&self, label: &str, nodes: &BTreeMap<NodeId, Option<String>>) -> Answers {
        let names: BTreeSet<&String> = nodes.values().flatten().collect();
        let asked = names.into_iter().map(async |name| (name.clone(), self.kube.node_label(name, label).await));
        futures::future::join_all(asked).await.into_iter().collect()
    }

    /// An event when something is newly missing that does not come by itself.
    pub(super) async fn tell_of_racks(&self) {
        let Some(racks) = self.racks.as_ref().filter(|racks| !racks.done && racks.reason != WAITING) else {
            return;
        };
        let cluster = &self.observed.cluster;
        let kind = ConditionType::RacksAssigned.as_str();
        let before = cluster.status.iter().flat_map(|status| &status.conditions).find(|c| c.type_ == kind);
        if before.is_some_and(|before| before.reason == racks.reason) {
            return;
        }
        let (reason, note) = (format!("Racks{}", racks.reason), racks.message.clone());
        self.kube.publish(cluster, &Event { warning: true, reason, action: "AssignRack".into(), note }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::RegisteredFacts;

    const ZONE: &str = "topology.kubernetes.io/zone";

    fn pod(name: &str, node: Option<&str>) -> Pod {
        let spec = node.map_or(
            serde_json::json!({ "containers": [] }),
            |node| serde_json::json!({ "containers": [], "nodeName": node }),
        );
        serde_json::from_value(serde_json::json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    }

    fn found_for_test(pods: &[Pod], answers: &[(&str, Result<Option<&str>, KubeError>)]) -> Found {
        let answers = answers
            .iter()
            .map(|(node, answer)| ((*node).to_owned(), answer.clone().map(|rack| rack.map(str::to_owned))));
        find(ZONE, &nodes_of_pods("x", pods), &answers.collect())
    }

    fn registered(racks: &[(i32, &str)]) -> ClusterFacts {
        let facts = |rack: &str| RegisteredFacts { rack: rack.to_owned(), ..RegisteredFacts::default() };
        let brokers = racks.iter().map(|(node, rack)| (NodeId(*node), facts(rack))).collect();
        ClusterFacts { brokers, ..ClusterFacts::default() }
    }

    #[test]
    fn brokers_are_told_what_differs_and_nothing_else() {
        let pods = [pod("x-0", Some("n1")), pod("x-1", Some("n2")), pod("x-2", Some("n1")), pod("other-0", Some("n1"))];
        let mut found = found_for_test(&pods, &[("n1", Ok(Some("a"))), ("n2", Ok(Some("b")))]);
        let told = differences(&mut found, &registered(&[(1, "a"), (2, "a"), (3, "")]));
        assert_eq!(told, [(NodeId(2), Some("b".to_owned())), (NodeId(3), Some("a".to_owned()))]);
        assert_eq!(differences(&mut found, &registered(&[(1, "a"), (2, "b"), (3, "a")])), [], "converged");
        let facts = verdict(ZONE, found);
        assert!(facts.done, "{facts:?}");
        assert_eq!(facts.message, "3 brokers in 2 racks by topology.kubernetes.io/zone");
    }

    #[test]
    fn who_may_not_read_nodes_is_told_so_and_no_rack_is_taken_away() {
        let forbidden = KubeError::Forbidden("nodes \"n1\" is forbidden".into());
        let mut found = found_for_test(&[pod("x-0", Some("n1"))], &[("n1", Err(forbidden))]);
        assert_eq!(differences(&mut found, &registered(&[(1, "a")])), []);
        let facts = verdict(ZONE, found);
        assert_eq!((facts.done, facts.reason), (false, "NodesForbidden"));
        assert!(facts.message.starts_with("rack.topologyKey needs permission to read nodes"), "{facts:?}");
    }

    #[test]
    fn a_node_without_the_label_is_named_and_its_broker_is_in_no_rack() {
        let pods = [pod("x-0", Some("n1")), pod("x-1", Some("n2"))];
        let mut found = found_for_test(&pods, &[("n1", Ok(None)), ("n2", Ok(Some("b")))]);
        let told = differences(&mut found, &registered(&[(1, "a"), (2, "")]));
        assert_eq!(
            told,
            [(NodeId(1), None), (NodeId(2), Some("b".to_owned()))],
            "the other gets its rack all the same"
        );
        let facts = verdict(ZONE, found);
        assert_eq!(facts.reason, "LabelMissing");
        assert_eq!(facts.message, "node n1 of broker 1 has no label topology.kubernetes.io/zone");
    }

    #[test]
    fn pods_that_are_not_scheduled_and_brokers_that_have_not_registered_are_waited_for() {
        let mut found = found_for_test(&[pod("x-0", None), pod("x-1", Some("n2"))], &[("n2", Ok(Some("b")))]);
        assert_eq!(differences(&mut found, &registered(&[(1, "a")])), [], "who is not scheduled keeps what it has");
        assert_eq!(verdict(ZONE, found).reason, WAITING);
        let founding = ClusterFacts { voters: [NodeId(1), NodeId(2)].into(), ..registered(&[(1, "")]) };
        let mut early = found_for_test(&[pod("x-0", Some("n1"))], &[("n1", Ok(Some("a")))]);
        assert_eq!(differences(&mut early, &founding), [], "a founder has not registered");
        assert_eq!(verdict(ZONE, early).reason, WAITING);
        let mut unreadable = find(
            ZONE,
            &nodes_of_pods("x", &[pod("x-0", Some("n1"))]),
            &[("n1".to_owned(), Err(KubeError::Unavailable("later".into())))].into_iter().collect(),
        );
        assert_eq!(differences(&mut unreadable, &registered(&[(1, "a")])), []);
        assert_eq!(verdict(ZONE, unreadable).reason, WAITING);
    }
}
