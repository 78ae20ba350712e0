use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::*;
use crate::api::{AdvertisedSpec, BootstrapStatus, ListenerSpec, ListenerType};

fn status() -> ChronikClusterStatus {
    ChronikClusterStatus {
        cluster_id: Some("id".into()),
        bootstrap: Some(BootstrapStatus { voters: vec![1, 2, 3], completed_at: None }),
        retired: vec!["gone".into()],
        ..Default::default()
    }
}

fn with<T>(spec: &ChronikClusterSpec, brokers: i32, use_it: impl FnOnce(&Input<'_>) -> T) -> T {
    let (status, token, none) = (status(), Token("t".into()), BTreeMap::new());
    use_it(&Input {
        name: "x",
        namespace: "ns",
        uid: "u",
        spec,
        status: &status,
        brokers,
        image: "img:1",
        token: &token,
        advertised: &none,
        may_evict: true,
    })
}

fn set(spec: &ChronikClusterSpec) -> Value {
    with(spec, 3, |input| serde_json::to_value(stateful_set(input, 3, &Quantity("10Gi".into()))).unwrap())
}

fn object(spec: &ChronikClusterSpec, name: &str) -> Value {
    with(spec, 3, |input| {
        let found = children(input).into_iter().find(|o| o.reference().to_string() == name);
        match found.unwrap_or_else(|| panic!("no {name}")) {
            Object::ConfigMap(o) => serde_json::to_value(o).unwrap(),
            Object::Service(o) => serde_json::to_value(o).unwrap(),
            Object::NetworkPolicy(o) => serde_json::to_value(o).unwrap(),
            Object::PodDisruptionBudget(o) => serde_json::to_value(o).unwrap(),
            Object::Secret(o) => serde_json::to_value(o).unwrap(),
            Object::ServiceAccount(o) => serde_json::to_value(o).unwrap(),
            Object::StatefulSet(o) => serde_json::to_value(o).unwrap(),
        }
    })
}

#[test]
fn the_statefulset_starts_pods_together_and_restarts_none() {
    let set = set(&ChronikClusterSpec::default());
    assert_eq!(set["spec"]["podManagementPolicy"], "Parallel");
    assert_eq!(set["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    assert_eq!(set["spec"]["serviceName"], "x-brokers");
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "10Gi");
    assert_eq!(set["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(set["metadata"]["labels"]["chronik.io/cluster"], "x");
}

#[test]
fn whoever_shrinks_the_statefulset_deletes_no_disk() {
    let mut spec = ChronikClusterSpec::default();
    spec.storage.retention.when_scaled = crate::api::RetentionPolicy::Delete;
    spec.storage.retention.when_deleted = crate::api::RetentionPolicy::Delete;
    let policy = &set(&spec)["spec"]["persistentVolumeClaimRetentionPolicy"];
    assert_eq!(*policy, json!({"whenDeleted": "Delete", "whenScaled": "Retain"}));
}

#[test]
fn pods_meet_the_restricted_standard() {
    let set = set(&ChronikClusterSpec::default());
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["fsGroup"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "admin"}));
    assert_eq!(container["readinessProbe"]["periodSeconds"], 1);
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
    assert_eq!(container["args"], json!(["run", "--config", "/etc/chronik/broker.yaml"]));
    assert_eq!(
        container["env"][1],
        json!({"name": "CHRONIK_ADVERTISED_HOST", "value": "$(POD_NAME).x-brokers.ns.svc"})
    );
    assert_eq!(pod["topologySpreadConstraints"].as_array().unwrap().len(), 2);
    assert_eq!(pod["topologySpreadConstraints"][0]["whenUnsatisfiable"], "ScheduleAnyway");
    assert!(pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"].is_array());
}

#[test]
fn nobody_is_evicted_while_a_broker_must_not_stop() {
    let budget = |may_evict, most| {
        let mut spec = ChronikClusterSpec::default();
        spec.pod_disruption_budget.max_unavailable = most;
        with(&spec, 3, |input| disruption_budget(&Input { may_evict, ..input.clone() })).spec.unwrap()
    };
    assert_eq!(budget(true, 2).max_unavailable, Some(IntOrString::Int(2)));
    let held = budget(false, 2);
    assert_eq!(held.max_unavailable, Some(IntOrString::Int(0)));
    assert_eq!(
        held.unhealthy_pod_eviction_policy.as_deref(),
        Some("AlwaysAllow"),
        "a pod that is down holds up no drain"
    );
}

#[test]
fn the_revision_changes_with_settings_and_image_and_never_with_addresses() {
    let spec = ChronikClusterSpec::default();
    let revision_of = |spec: &ChronikClusterSpec, brokers| with(spec, brokers, revision);
    let base = revision_of(&spec, 3);
    assert_eq!(base, revision_of(&spec, 9), "more brokers restart nobody");
    let mut other = spec.clone();
    other.config.insert("log.retention.ms".into(), "1".into());
    (other.replication_factor, other.min_insync_replicas) = (Some(2), Some(1));
    assert_eq!(base, revision_of(&other, 1), "settings of the whole cluster restart nobody");
    other.config.insert("raft.tick.ms".into(), "50".into());
    assert_ne!(base, revision_of(&other, 3));
    let later = ChronikClusterStatus { cluster_id: Some("other".into()), ..Default::default() };
    let same = with(&spec, 3, |input| revision(&Input { status: &later, ..input.clone() }));
    assert_eq!(base, same);
    assert_ne!(base, with(&spec, 3, |input| revision(&Input { image: "img:2", ..input.clone() })));
    assert_eq!(set(&spec)["spec"]["template"]["metadata"]["annotations"][names::REVISION], base);
}

#[test]
fn the_files_are_yaml_that_the_broker_reads() {
    let mut spec = ChronikClusterSpec::default();
    spec.config.insert("raft.tick.ms".into(), "50".into());
    spec.config.insert("log.retention.ms".into(), "1000".into());
    let config = object(&spec, "ConfigMap x-config");
    let read = |text: &Value| serde_yaml::from_str::<Value>(text.as_str().unwrap()).unwrap();
    assert_eq!(config["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["cluster.yaml"], "shared by all");
    let template = set(&spec)["spec"]["template"].clone();
    let files = template["spec"]["volumes"][0]["projected"]["sources"].clone();
    assert_eq!(files[0]["configMap"]["name"], "x-config");
    let own = files[1]["downwardAPI"]["items"][0].clone();
    assert_eq!(
        (own["path"].as_str(), own["fieldRef"]["fieldPath"].as_str()),
        (Some("broker.yaml"), Some("metadata.annotations['chronik.io/broker.yaml']"))
    );
    let broker = read(&template["metadata"]["annotations"][names::SETTINGS]);
    for (key, value) in [
        ("raft.tick.ms", "50"),
        ("kafka.port", "9092"),
        ("cluster.file", "/etc/chronik/cluster.yaml"),
        ("control.secret.file", "/etc/chronik-control/token"),
    ] {
        assert_eq!(broker[key], value, "{key}");
    }
    assert_eq!(broker.get("log.retention.ms"), None, "the cluster's, not the process's");
    let cluster = read(&config["data"]["cluster.yaml"]);
    assert_eq!(cluster["clusterDefaults"], json!({"default.replication.factor": "3", "log.retention.ms": "1000"}));
    assert_eq!((&cluster["clusterId"], &cluster["join"]), (&json!("id"), &json!(false)));
    assert_eq!(cluster["bootstrapVoters"], json!([1, 2, 3]));
    assert_eq!(cluster["retired"], json!(["gone"]));
    assert_eq!(cluster["peers"][2]["host"], "x-2.x-brokers.ns.svc");
    assert_eq!(cluster["peers"][2]["ports"]["raft"], 9192);
}

#[test]
fn nobody_founds_once_the_cluster_is_founded() {
    let spec = ChronikClusterSpec::default();
    let mut founded = status();
    founded.bootstrap.as_mut().unwrap().completed_at =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let text = with(&spec, 3, |input| config::cluster_yaml(&Input { status: &founded, ..input.clone() }));
    let file = serde_json::from_str::<Value>(&text).unwrap();
    assert_eq!((&file["join"], &file["clusterDefaults"]), (&json!(true), &json!({})));
}

#[test]
fn replication_never_exceeds_the_brokers_there_are() {
    let spec = |factor, in_sync| ChronikClusterSpec {
        replication_factor: factor,
        min_insync_replicas: in_sync,
        ..Default::default()
    };
    for (factor, in_sync, brokers, expected) in [
        (None, None, 1, ("1", None)),
        (None, None, 2, ("2", None)),
        (None, None, 5, ("3", None)),
        (Some(5), Some(4), 3, ("3", Some("3"))),
        (Some(1), None, 3, ("1", None)),
    ] {
        let settings = config::cluster_settings(&spec(factor, in_sync), brokers);
        let found = |name: &str| settings.get(name).map(String::as_str);
        assert_eq!((found("default.replication.factor").unwrap(), found("min.insync.replicas")), expected);
    }
}

/// The operator has no part of the brokers' code, so it names the settings again.
#[test]
fn the_settings_of_the_whole_cluster_are_those_of_the_brokers_table() {
    let table = include_str!("../../../broker/core/src/controller/config/table.rs");
    let entries = table.split("\n    topic(\n").skip(1);
    let brokers_name = |entry: &str| entry.lines().nth(1).unwrap().trim().trim_matches([',', '"']).to_owned();
    let mut theirs: Vec<String> = entries
        .map(|entry| match brokers_name(entry).as_str() {
            "throttle::LEADER_RATE" => "leader.replication.throttled.rate".to_owned(),
            "throttle::FOLLOWER_RATE" => "follower.replication.throttled.rate".to_owned(),
            "throttle::REASSIGNMENT_RATE" => "reassignment.throttle.rate".to_owned(),
            name => name.to_owned(),
        })
        .filter(|name| !name.is_empty())
        .collect();
    let mut ours: Vec<String> = config::CLUSTER_SETTINGS.map(str::to_owned).into();
    ours.extend(["default.replication.factor", "min.insync.replicas", "reassignment.throttle.rate"].map(str::to_owned));
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn clients_may_come_from_anywhere_and_only_brokers_and_operator_reach_the_rest() {
    let policy = object(&ChronikClusterSpec::default(), "NetworkPolicy x");
    let rules = policy["spec"]["ingress"].as_array().unwrap();
    let ports = |rule: &Value| -> Vec<i64> {
        rule["ports"].as_array().unwrap().iter().map(|p| p["port"].as_i64().unwrap()).collect()
    };
    assert_eq!((ports(&rules[0]), rules[0].get("from")), (vec![9092, 9392], None));
    assert_eq!((ports(&rules[1]), rules[1]["from"].as_array().unwrap().len()), (vec![9192], 2));
    assert_eq!((ports(&rules[2]), rules[2]["from"].as_array().unwrap().len()), (vec![9292], 1));
    let closed =
        ChronikClusterSpec { network_policy: crate::api::NetworkPolicySpec { enabled: false }, ..Default::default() };
    assert!(with(&closed, 3, children).iter().all(|o| o.kind() != crate::ports::Kind::NetworkPolicy));
}

#[test]
fn each_broker_has_a_service_for_clients_from_outside() {
    let mut spec = ChronikClusterSpec::default();
    spec.listeners.push(ListenerSpec {
        name: "outside".into(),
        port: 9094,
        kind: ListenerType::Nodeport,
        advertised: Some(AdvertisedSpec { host_template: None, node_port_base: Some(31000) }),
    });
    let service = object(&spec, "Service x-2");
    assert_eq!(service["spec"]["type"], "NodePort");
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 31002);
    assert_eq!(service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"], "x-2");
    let headless = object(&spec, "Service x-brokers");
    assert_eq!(
        (&headless["spec"]["clusterIP"], &headless["spec"]["publishNotReadyAddresses"]),
        (&json!("None"), &json!(true))
    );
    let budget = object(&spec, "PodDisruptionBudget x");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}
