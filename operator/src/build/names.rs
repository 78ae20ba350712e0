//! Names, labels, annotations and ports, in one place.

use std::collections::BTreeMap;

/// Name of the brokers' container.
pub const CONTAINER: &str = "broker";
/// On pods: revision of the template.
pub const REVISION: &str = "chronik.io/revision";
/// On pods: the settings of the broker's process, which it reads as a file.
pub const SETTINGS: &str = "chronik.io/broker.yaml";
/// On applied objects: digest of what was applied.
pub const APPLIED: &str = "chronik.io/applied";
/// On claims: directory ids that must not be used again.
pub const RETIRED: &str = "chronik.io/retired";
/// On claims: the cluster whose data it has.
pub const CLUSTER_ID: &str = "chronik.io/cluster-id";
/// On everything: the ChronikCluster.
pub const CLUSTER_LABEL: &str = "chronik.io/cluster";

/// Raft and control.
pub const RAFT_PORT: i32 = 9192;
/// Followers' fetches.
pub const REPLICATION_PORT: i32 = 9292;
/// Probes and metrics.
pub const ADMIN_PORT: i32 = 9392;

/// Labels by which the pods are found; never change.
#[must_use]
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "chronik"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/component", "broker"),
        (CLUSTER_LABEL, cluster),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Labels of everything.
#[must_use]
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "chronik-operator".to_owned());
    labels
}

/// The headless Service.
#[must_use]
pub fn headless(cluster: &str) -> String {
    format!("{cluster}-brokers")
}

/// The bootstrap Service.
#[must_use]
pub fn bootstrap(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// The ConfigMap with the address book.
#[must_use]
pub fn config(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// The Secret.
#[must_use]
pub fn control(cluster: &str) -> String {
    format!("{cluster}-control")
}

/// Host name of a broker within Kubernetes.
#[must_use]
pub fn host(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", headless(cluster))
}
