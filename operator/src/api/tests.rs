use std::collections::BTreeMap;

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::crd::{crd_yaml, crds};
use super::*;

fn schema_of(path: &[&str]) -> Value {
    let crd = serde_json::to_value(ChronikCluster::crd()).unwrap();
    let mut at = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for part in path {
        at = &at["properties"][part];
    }
    at.clone()
}

fn read(spec: Value) -> ChronikClusterSpec {
    serde_json::from_value(spec).unwrap()
}

#[test]
fn the_printed_definition_is_the_one_that_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/chronikclusters.yaml");
    if std::env::var_os("UPDATE_CRDS").is_some() {
        std::fs::write(path, crd_yaml()).unwrap();
    }
    let checked_in = std::fs::read_to_string(path).unwrap();
    assert!(
        checked_in == crd_yaml(),
        "crds/chronikclusters.yaml is old: chronik-operator crds > crds/chronikclusters.yaml"
    );
}

#[test]
fn what_is_printed_reads_back_as_the_same_definition() {
    let read: Value = serde_yaml::from_str(crd_yaml().trim_start_matches("---\n")).unwrap();
    assert_eq!(read, serde_json::to_value(&crds()[0]).unwrap());
}

#[test]
fn the_definition_is_small_enough_for_client_side_apply() {
    let size = crd_yaml().len();
    assert!(size < 150_000, "{size} bytes");
}

#[test]
fn an_empty_specification_has_the_defaults() {
    let spec = read(json!({}));
    assert_eq!(spec, ChronikClusterSpec::default());
    assert_eq!((spec.replicas, spec.voters()), (3, 3));
    assert_eq!((spec.effective_replication_factor(), spec.effective_min_insync_replicas()), (3, 2));
    assert_eq!(spec.kafka_port(), 9092);
    assert_eq!(spec.storage.size.0, "10Gi");
    assert!(spec.network_policy.enabled);
}

#[test]
fn defaults_of_the_schema_are_what_the_types_take() {
    // What the API server would store for an empty object must mean the same as the empty object.
    let mut defaulted = serde_json::Map::new();
    for (name, property) in schema_of(&["spec"])["properties"].as_object().unwrap() {
        if let Some(default) = property.get("default") {
            defaulted.insert(name.clone(), default.clone());
        }
    }
    for name in [
        "replicas",
        "storage",
        "listeners",
        "rollout",
        "scaleDown",
        "rebalance",
        "podDisruptionBudget",
        "networkPolicy",
        "raft",
    ] {
        assert!(defaulted.contains_key(name), "{name} has no default");
    }
    assert_eq!(read(Value::Object(defaulted)), ChronikClusterSpec::default());
}

#[test]
fn voters_are_odd_and_never_more_than_brokers() {
    for (replicas, asked, voters) in [
        (1, None, 1),
        (2, None, 1),
        (3, None, 3),
        (4, None, 3),
        (5, None, 5),
        (99, None, 5),
        (9, Some(7), 7),
        (3, Some(7), 3),
        (4, Some(5), 3),
        (5, Some(3), 3),
    ] {
        let spec = ChronikClusterSpec { replicas, raft: RaftSpec { voters: asked }, ..Default::default() };
        assert_eq!(spec.voters(), voters, "{replicas} brokers, {asked:?} asked");
    }
}

#[test]
fn replication_follows_the_number_of_brokers_until_it_is_said() {
    for (replicas, factor, in_sync) in [(1, 1, 1), (2, 2, 1), (3, 3, 2), (9, 3, 2)] {
        let spec = ChronikClusterSpec { replicas, ..Default::default() };
        assert_eq!((spec.effective_replication_factor(), spec.effective_min_insync_replicas()), (factor, in_sync));
    }
    let said = read(json!({"replicas": 1, "replicationFactor": 5}));
    assert_eq!((said.effective_replication_factor(), said.effective_min_insync_replicas()), (5, 4));
}

#[test]
fn the_image_is_the_given_one_or_the_default_with_the_version_as_tag() {
    let with = |image: Option<&str>, version: Option<&str>| ChronikClusterSpec {
        image: image.map(str::to_owned),
        version: version.map(str::to_owned),
        ..Default::default()
    };
    assert_eq!(with(Some("a/b:1"), None).image_or("c:2"), "a/b:1");
    assert_eq!(with(None, None).image_or("c:2"), "c:2");
    for (default, image) in [
        ("c:2", "c:3"),
        ("c", "c:3"),
        ("host:5000/c", "host:5000/c:3"),
        ("host:5000/c:2", "host:5000/c:3"),
        ("host:5000/c:2@sha256:00", "host:5000/c:3"),
    ] {
        assert_eq!(with(None, Some("3")).image_or(default), image);
    }
}

#[test]
fn settings_may_be_written_as_numbers() {
    let spec =
        read(json!({"config": {"log.retention.ms": 3_600_000, "raft.tick.ms": "50", "log.retention.bytes": -1}}));
    let expected = [("log.retention.ms", "3600000"), ("raft.tick.ms", "50"), ("log.retention.bytes", "-1")];
    assert_eq!(spec.config, BTreeMap::from(expected.map(|(k, v)| (k.to_owned(), v.to_owned()))));
    assert!(serde_json::from_value::<ChronikClusterSpec>(json!({"config": {"a": {"b": 1}}})).is_err());
}

#[test]
fn durations_and_addresses_are_read() {
    let spec = read(json!({
        "rollout": {"drainTimeout": "90s"},
        "listeners": [
            {"name": "internal", "type": "internal"},
            {"name": "outside", "type": "nodeport", "port": 9094, "advertised": {"hostTemplate": "b-{nodeId}.example", "nodePortBase": 31000}},
        ],
    }));
    assert_eq!(std::time::Duration::from(spec.rollout.drain_timeout).as_secs(), 90);
    assert_eq!(std::time::Duration::from(spec.rollout.recover_timeout).as_secs(), 1800);
    let outside: Vec<&ListenerSpec> = spec.nodeport_listeners().collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(outside[0].advertised_host(3).as_deref(), Some("b-3.example"));
    assert_eq!((outside[0].node_port(0), outside[0].node_port(2)), (Some(31000), Some(31002)));
    assert_eq!(spec.listeners[0].advertised_host(3), None);
}

/// Calls `visit` with every schema of the definition and its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            walk(property, &format!("{path}.{name}"), visit);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn every_list_and_map_has_a_limit() {
    walk(&schema_of(&[]), "", &mut |path, schema| {
        if schema["type"] == "array" {
            assert!(schema["maxItems"].is_u64(), "{path} has no maxItems");
        }
        if schema["additionalProperties"].is_object() {
            assert!(schema["maxProperties"].is_u64(), "{path} has no maxProperties");
        }
    });
}

#[test]
fn every_rule_has_a_message_and_none_outside_replicas_names_it() {
    let mut rules = 0;
    walk(&schema_of(&[]), "", &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            assert!(rule["message"].is_string(), "{path}: {rule}");
            assert!(!rule["rule"].as_str().unwrap().contains("self.replicas"), "{path}: {rule}");
        }
    });
    assert!(rules >= 15, "{rules} rules");
}

#[test]
fn the_schema_knows_only_formats_that_kubernetes_knows() {
    walk(&schema_of(&[]), "", &mut |path, schema| {
        if let Some(format) = schema["format"].as_str() {
            assert!(["int32", "int64", "date-time"].contains(&format), "{path}: {format}");
        }
        assert!(schema.get("$ref").is_none() && schema.get("oneOf").is_none(), "{path} is not structural");
    });
}

#[test]
fn scale_and_status_are_subresources() {
    let crd = serde_json::to_value(ChronikCluster::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    assert_eq!(
        version["subresources"]["scale"],
        json!({
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        })
    );
    assert!(version["subresources"]["status"].is_object());
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["ccl"]));
    assert_eq!(crd["spec"]["names"]["categories"], json!(["chronik"]));
    assert_eq!(crd["spec"]["group"], json!(GROUP));
    assert_eq!(version["name"], json!(VERSION));
}

#[test]
fn names_of_enums_are_those_in_the_schema() {
    for gate in Gate::ALL {
        assert_eq!(serde_json::to_value(gate).unwrap(), json!(gate.as_str()));
        assert!(!gate.meaning().is_empty() && !gate.remedy().is_empty());
    }
    let gates = schema_of(&["status", "operation", "blockedBy"])["items"]["properties"]["gate"]["enum"].clone();
    let known: Vec<&str> = gates.as_array().unwrap().iter().map(|g| g.as_str().unwrap()).collect();
    assert_eq!(known, Gate::ALL.iter().map(|g| g.as_str()).collect::<Vec<_>>());
    assert_eq!(json!(Operation::RollingRestart), json!(Operation::RollingRestart.as_str()));
    assert_eq!(json!(RetentionPolicy::Delete), json!(RetentionPolicy::Delete.as_str()));
    assert_eq!(json!(ImagePullPolicy::IfNotPresent), json!(ImagePullPolicy::IfNotPresent.as_str()));
}

#[test]
fn a_status_survives_the_way_to_the_api_server_and_back() {
    let status = ChronikClusterStatus { observed_generation: 3, retired: vec!["a".into()], ..Default::default() };
    let there = serde_json::to_value(&status).unwrap();
    assert_eq!(serde_json::from_value::<ChronikClusterStatus>(there).unwrap(), status);
    assert_eq!(serde_json::from_value::<ChronikClusterStatus>(json!({})).unwrap(), ChronikClusterStatus::default());
}

#[test]
fn the_manual_explains_every_gate_condition_phase_and_field_of_the_status() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operator.md")).unwrap();
    for gate in Gate::ALL {
        let row = format!("| {gate} | {} | {} |", gate.meaning(), gate.remedy());
        assert!(manual.contains(&row), "docs/operator.md lacks this row:\n{row}");
    }
    for condition in ConditionType::ALL {
        assert!(manual.contains(&format!("| {} |", condition.as_str())), "{condition:?}");
    }
    let words = |path: &[&str], key: &str| schema_of(path)[key].clone();
    for phase in words(&["status", "phase"], "enum").as_array().unwrap() {
        assert!(manual.contains(phase.as_str().unwrap()), "{phase}");
    }
    let table = manual.split("## Status").nth(1).unwrap();
    for field in words(&["status"], "properties").as_object().unwrap().keys() {
        assert!(table.contains(field.as_str()), "docs/operator.md does not explain status.{field}");
    }
}
