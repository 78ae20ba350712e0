//! Server-side apply and the API server's defaults, on JSON.
//!
//! Each manager owns the leaves that it applied. What an applier leaves out and nobody else owns goes away; what others own stays;
//! what nobody owns (defaults, allocated addresses) stays. Applying the same again changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Way to a leaf: keys, and for items of lists with keys `key=value`.
type Path = Vec<String>;

/// Who owns which leaves.
pub type Owners = BTreeMap<String, BTreeSet<Path>>;

/// Keys of lists that are merged by item; every other list is one leaf.
fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ownerReferences" => Some("uid"),
        "topologySpreadConstraints" => Some("topologyKey"),
        _ => None,
    }
}

fn port_key(item: &Value) -> Option<&'static str> {
    ["containerPort", "port"].into_iter().find(|key| item.get(key).is_some())
}

fn key_of(field: &str, list: &[Value]) -> Option<&'static str> {
    if field == "ports" { list.first().and_then(port_key) } else { list_key(field) }
}

fn item_name(key: &str, item: &Value) -> String {
    format!("{key}={}", item.get(key).unwrap_or(&Value::Null))
}

fn leaves(value: &Value, field: &str, path: &mut Path, into: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                path.push(name.clone());
                leaves(value, name, path, into);
                path.pop();
            }
        }
        Value::Array(list) if key_of(field, list).is_some() => {
            let Some(key) = key_of(field, list) else { return };
            for item in list {
                path.push(item_name(key, item));
                into.insert(path.clone());
                leaves(item, "", path, into);
                path.pop();
            }
        }
        _ => drop(into.insert(path.clone())),
    }
}

fn merge(live: &mut Value, applied: &Value, field: &str) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            for (name, value) in applied {
                match live.get_mut(name) {
                    Some(old) => merge(old, value, name),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(applied)) if key_of(field, applied).is_some() => {
            let Some(key) = key_of(field, applied) else { return };
            for item in applied {
                match live.iter_mut().find(|old| old.get(key) == item.get(key)) {
                    Some(old) => merge(old, item, ""),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, applied) => *live = applied.clone(),
    }
}

fn remove(live: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    match live {
        Value::Object(map) => {
            if rest.is_empty() {
                map.remove(first);
            } else if let Some(value) = map.get_mut(first) {
                remove(value, rest);
                if matches!(value, Value::Object(left) if left.is_empty()) {
                    map.remove(first);
                }
            }
        }
        Value::Array(list) => {
            let Some((key, _)) = first.split_once('=') else { return };
            let Some(at) = list.iter().position(|item| item_name(key, item) == *first) else { return };
            if rest.is_empty() {
                list.remove(at);
            } else {
                remove(&mut list[at], rest);
            }
        }
        _ => {}
    }
}

/// Applies as `manager`, with force.
pub fn apply(live: &mut Value, owners: &mut Owners, manager: &str, applied: &Value) {
    let mut owned = BTreeSet::new();
    leaves(applied, "", &mut Vec::new(), &mut owned);
    let before = owners.insert(manager.to_owned(), owned.clone()).unwrap_or_default();
    merge(live, applied, "");
    for path in before.difference(&owned) {
        let shared = owners.iter().any(|(other, paths)| other != manager && paths.iter().any(|p| p.starts_with(path)));
        if !shared {
            remove(live, path);
        }
    }
}

fn default(map: &mut Map<String, Value>, name: &str, value: Value) {
    map.entry(name).or_insert(value);
}

fn each<'a>(value: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// What the API server fills in; a client that compares what it wants with what is there sees all of it.
pub fn fill_in(kind: chronik_operator::ports::Kind, object: &mut Value, name: &str) {
    use chronik_operator::ports::Kind;
    match kind {
        Kind::Service => service(object, name),
        Kind::StatefulSet => stateful_set(object),
        Kind::Secret => {
            if let Some(map) = object.as_object_mut() {
                default(map, "type", json!("Opaque"));
            }
        }
        Kind::ServiceAccount | Kind::ConfigMap | Kind::PodDisruptionBudget | Kind::NetworkPolicy => {}
    }
}

fn service(object: &mut Value, name: &str) {
    let Some(spec) = object.get_mut("spec") else { return };
    for port in each(spec, "ports") {
        default(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or_default();
        default(port, "targetPort", number);
    }
    let node_port = spec.get("type").and_then(Value::as_str) == Some("NodePort");
    if node_port {
        for (at, port) in each(spec, "ports").enumerate() {
            let spread = name.bytes().fold(0_usize, |sum, byte| sum * 31 % 2000 + usize::from(byte));
            default(port, "nodePort", json!(30_000 + (spread + at) % 2000));
        }
    }
    let Some(spec) = spec.as_object_mut() else { return };
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    default(spec, "internalTrafficPolicy", json!("Cluster"));
    default(spec, "ipFamilies", json!(["IPv4"]));
    default(spec, "ipFamilyPolicy", json!("SingleStack"));
    default(spec, "clusterIP", json!("10.0.0.9"));
    let address = spec.get("clusterIP").cloned().unwrap_or_default();
    default(spec, "clusterIPs", json!([address]));
}

fn stateful_set(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else { return };
    for claim in each(spec, "volumeClaimTemplates") {
        default(claim, "status", json!({"phase": "Pending"}));
        if let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) {
            default(spec, "volumeMode", json!("Filesystem"));
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        default(spec, "replicas", json!(1));
        default(spec, "revisionHistoryLimit", json!(10));
        default(spec, "podManagementPolicy", json!("OrderedReady"));
        default(spec, "updateStrategy", json!({"type": "RollingUpdate"}));
        default(spec, "persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    }
    let Some(pod) = spec.pointer_mut("/template/spec") else { return };
    for container in each(pod, "containers") {
        default(container, "terminationMessagePath", json!("/dev/termination-log"));
        default(container, "terminationMessagePolicy", json!("File"));
        default(container, "imagePullPolicy", json!("IfNotPresent"));
        default(container, "resources", json!({}));
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
                default(probe, "timeoutSeconds", json!(1));
                default(probe, "periodSeconds", json!(10));
                default(probe, "successThreshold", json!(1));
                default(probe, "failureThreshold", json!(3));
                if let Some(get) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
                    default(get, "scheme", json!("HTTP"));
                }
            }
        }
        for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                default(port, "protocol", json!("TCP"));
            }
        }
        for env in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(from) = env.pointer_mut("/valueFrom/fieldRef").and_then(Value::as_object_mut) {
                default(from, "apiVersion", json!("v1"));
            }
        }
    }
    for volume in each(pod, "volumes") {
        for source in ["configMap", "secret"] {
            if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
                default(source, "defaultMode", json!(420));
            }
        }
    }
    if let Some(pod) = pod.as_object_mut() {
        default(pod, "restartPolicy", json!("Always"));
        default(pod, "dnsPolicy", json!("ClusterFirst"));
        default(pod, "schedulerName", json!("default-scheduler"));
        default(pod, "terminationGracePeriodSeconds", json!(30));
        default(pod, "securityContext", json!({}));
        if let Some(account) = pod.get("serviceAccountName").cloned() {
            default(pod, "serviceAccount", account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(live: &mut Value, owners: &mut Owners, manager: &str, value: &Value) {
        apply(live, owners, manager, value);
    }

    #[test]
    fn what_another_manager_owns_survives_and_what_the_applier_drops_goes() {
        let (mut live, mut owners) = (json!({}), Owners::new());
        applied(
            &mut live,
            &mut owners,
            "operator",
            &json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"x": 1}}),
        );
        applied(&mut live, &mut owners, "user", &json!({"metadata": {"labels": {"c": "3"}}}));
        applied(&mut live, &mut owners, "operator", &json!({"metadata": {"labels": {"a": "1"}}, "spec": {"x": 2}}));
        assert_eq!(live, json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"x": 2}}));
    }

    #[test]
    fn items_of_keyed_lists_are_merged_and_removed_as_items() {
        let (mut live, mut owners) = (json!({}), Owners::new());
        let both = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
        applied(&mut live, &mut owners, "operator", &both);
        live["containers"][1]["imagePullPolicy"] = json!("Always");
        applied(&mut live, &mut owners, "operator", &json!({"containers": [{"name": "a", "image": "3"}]}));
        assert_eq!(live, json!({"containers": [{"name": "a", "image": "3"}]}));
    }

    #[test]
    fn applying_the_same_again_changes_nothing_and_keeps_defaults() {
        let (mut live, mut owners) = (json!({}), Owners::new());
        let wanted = json!({"spec": {"ports": [{"port": 9092}], "clusterIP": "None"}});
        applied(&mut live, &mut owners, "operator", &wanted);
        fill_in(chronik_operator::ports::Kind::Service, &mut live, "x");
        let before = live.clone();
        assert_eq!(before["spec"]["ports"][0]["protocol"], "TCP");
        applied(&mut live, &mut owners, "operator", &wanted);
        fill_in(chronik_operator::ports::Kind::Service, &mut live, "x");
        assert_eq!(live, before);
    }
}
