//! The client against a small HTTP server that records what it is asked: what goes over the wire, and what answers mean.

use std::collections::VecDeque;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;

#[derive(Debug, Clone)]
struct Seen {
    method: String,
    uri: String,
    content_type: String,
    body: Value,
}

#[derive(Debug, Default)]
struct Server {
    seen: Mutex<Vec<Seen>>,
    /// In order; when there are none left, an empty object.
    answers: Mutex<VecDeque<(u16, Value)>>,
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let seen = Seen {
        method: parts.method.to_string(),
        uri: parts.uri.to_string(),
        content_type: parts.headers.get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned(),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    };
    server.seen.lock().push(seen);
    let (code, body) = server.answers.lock().pop_front().unwrap_or((200, json!({ "metadata": {} })));
    (StatusCode::from_u16(code).unwrap(), Body::from(body.to_string())).into_response()
}

async fn kube(answers: &[(u16, Value)], fence: Fence) -> (KubeIo, Arc<Server>) {
    let server = Arc::new(Server { answers: Mutex::new(answers.iter().cloned().collect()), ..Server::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let client = Client::try_from(kube::Config::new(uri)).unwrap();
    (KubeIo::new(client, fence, Arc::new(Metrics::new()), "op-0", Duration::from_secs(5)), server)
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Other" };
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": reason }),
    )
}

fn key() -> Key {
    Key::new("n", "x")
}

fn config_map() -> Object {
    let metadata = ObjectMeta { name: Some("x-config".into()), uid: Some("u1".into()), ..ObjectMeta::default() };
    Object::ConfigMap(Box::new(ConfigMap { metadata, ..ConfigMap::default() }))
}

#[tokio::test]
async fn an_apply_is_server_side_forced_and_by_one_manager() {
    let (kube, server) = kube(&[], Fence::open()).await;
    kube.apply(&key(), &config_map()).await.unwrap();
    let seen = server.seen.lock()[0].clone();
    assert_eq!(seen.method, "PATCH");
    assert!(seen.uri.starts_with("/api/v1/namespaces/n/configmaps/x-config?"), "{}", seen.uri);
    assert!(seen.uri.contains("force=true") && seen.uri.contains("fieldManager=chronik-operator"), "{}", seen.uri);
    assert_eq!(seen.content_type, "application/apply-patch+yaml");
    assert_eq!(seen.body["kind"], "ConfigMap");
    assert_eq!(seen.body["metadata"]["uid"], "u1", "the precondition is sent");
    assert!(kube.metrics.text().unwrap().contains(r#"writes_total{verb="apply",kind="ConfigMap"} 1"#));
}

#[tokio::test]
async fn an_operator_that_no_longer_leads_writes_nothing() {
    let (kube, server) = kube(&[], Fence::default()).await;
    let error = kube.apply(&key(), &config_map()).await.unwrap_err();
    assert!(matches!(error, KubeError::Unavailable(_)), "{error}");
    assert!(kube.delete_pod(&key(), "x-0", "u").await.is_err());
    assert_eq!(server.seen.lock().len(), 0);
}

#[tokio::test]
async fn the_label_of_a_node_is_asked_for_once_a_minute_and_only_its_metadata() {
    let node = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": { "name": "n1", "labels": { "topology.kubernetes.io/zone": "a" } },
    });
    let forbidden = failure(403, "nodes \"n2\" is forbidden");
    let (kube, server) = kube(&[(200, node), forbidden, failure(500, "later")], Fence::open()).await;
    for _ in 0..3 {
        assert_eq!(kube.node_label("n1", "topology.kubernetes.io/zone").await, Ok(Some("a".to_owned())));
    }
    assert_eq!(server.seen.lock().len(), 1);
    assert_eq!(server.seen.lock()[0].uri.split('?').next(), Some("/api/v1/nodes/n1"));
    for _ in 0..3 {
        let error = kube.node_label("n2", "topology.kubernetes.io/zone").await.unwrap_err();
        assert!(matches!(error, KubeError::Forbidden(_)), "{error}");
    }
    assert_eq!(server.seen.lock().len(), 2, "what is forbidden is not asked again and again");
    assert!(matches!(kube.node_label("n3", "z").await, Err(KubeError::Unavailable(_))));
    assert_eq!(kube.node_label("n3", "z").await, Ok(None), "what failed is asked again");
}

#[tokio::test]
async fn a_delete_names_the_object_it_means() {
    let (kube, server) =
        kube(&[failure(409, "the UID in the precondition differs"), failure(404, "gone")], Fence::open()).await;
    let set = ObjectRef { kind: Kind::StatefulSet, name: "x".into() };
    let conflict = kube.delete(&key(), &set, "u1", Propagation::Orphan).await.unwrap_err();
    assert!(matches!(conflict, KubeError::Conflict(_)), "{conflict}");
    let gone = kube.delete_pod(&key(), "x-0", "u2").await.unwrap_err();
    assert!(matches!(gone, KubeError::NotFound(_)), "{gone}");
    let seen = server.seen.lock().clone();
    assert_eq!(seen[0].uri.split('?').next(), Some("/apis/apps/v1/namespaces/n/statefulsets/x"));
    assert_eq!(seen[0].body["preconditions"]["uid"], "u1");
    assert_eq!(seen[0].body["propagationPolicy"], "Orphan");
    assert_eq!(seen[1].body["preconditions"]["uid"], "u2");
    assert_eq!(seen[1].body["gracePeriodSeconds"], Value::Null, "its own grace period");
}

#[tokio::test]
async fn a_status_is_replaced_as_a_whole_on_the_version_that_was_read() {
    let written = json!({ "apiVersion": "chronik.io/v1alpha1", "kind": "ChronikCluster", "metadata": { "resourceVersion": "8" } });
    let (kube, server) = kube(&[(200, written)], Fence::open()).await;
    let status = ChronikClusterStatus { observed_generation: 3, ..ChronikClusterStatus::default() };
    assert_eq!(kube.apply_status(&key(), "u1", "7", &status).await.unwrap(), "8");
    let seen = server.seen.lock()[0].clone();
    assert_eq!(seen.method, "PUT");
    assert!(seen.uri.starts_with("/apis/chronik.io/v1alpha1/namespaces/n/chronikclusters/x/status?"), "{}", seen.uri);
    assert_eq!(seen.body["metadata"]["uid"], "u1");
    assert_eq!(seen.body["metadata"]["resourceVersion"], "7");
    assert_eq!(seen.body["status"]["observedGeneration"], 3);
    assert_eq!(seen.body["spec"], Value::Null);
}

#[tokio::test]
async fn a_claim_is_patched_only_where_something_changes() {
    let (kube, server) = kube(&[], Fence::open()).await;
    let patch = ClaimPatch { size: Some("2Gi".into()), annotations: vec![("a/b".into(), "c".into())] };
    kube.patch_claim(&key(), "data-x-0", "u1", &patch).await.unwrap();
    kube.patch_claim(&key(), "data-x-0", "u1", &ClaimPatch { size: None, ..patch }).await.unwrap();
    let seen = server.seen.lock().clone();
    assert_eq!(seen[0].content_type, "application/merge-patch+json");
    let grown = json!({
        "metadata": { "uid": "u1", "annotations": { "a/b": "c" } },
        "spec": { "resources": { "requests": { "storage": "2Gi" } } },
    });
    assert_eq!(seen[0].body, grown);
    assert_eq!(seen[1].body["spec"], Value::Null);
}

#[tokio::test]
async fn a_missing_object_is_none_and_an_unreachable_server_is_not() {
    let (kube, _server) =
        kube(&[failure(404, "no such"), failure(404, "no such"), failure(500, "etcd")], Fence::open()).await;
    assert_eq!(kube.cluster(&key()).await.unwrap(), None);
    let secret = ObjectRef { kind: Kind::Secret, name: "x-control".into() };
    assert_eq!(kube.meta(&key(), &secret).await.unwrap(), None);
    assert!(matches!(kube.meta(&key(), &secret).await.unwrap_err(), KubeError::Unavailable(_)));
}

#[tokio::test]
async fn whether_disks_can_grow_is_unknown_without_permission_to_read_classes() {
    let class = |name: &str, default: bool, grows: bool, created: &str| {
        json!({
            "metadata": { "name": name, "creationTimestamp": created,
                "annotations": { (DEFAULT_CLASS): if default { "true" } else { "false" } } },
            "provisioner": "p", "allowVolumeExpansion": grows,
        })
    };
    let list = json!({ "metadata": {}, "items": [
        class("old", true, false, "2024-01-01T00:00:00Z"),
        class("new", true, true, "2025-01-01T00:00:00Z"),
        class("other", false, false, "2026-01-01T00:00:00Z"),
    ] });
    let answers = [
        failure(403, "may not"),
        failure(404, "no such"),
        (200, class("fixed", false, false, "2024-01-01T00:00:00Z")),
        (200, list),
        failure(500, "etcd"),
    ];
    let (kube, _server) = kube(&answers, Fence::open()).await;
    assert_eq!(kube.expansion(Some("c")).await.unwrap(), Expansion::Unknown);
    assert_eq!(kube.expansion(Some("c")).await.unwrap(), Expansion::Unknown);
    assert_eq!(kube.expansion(Some("fixed")).await.unwrap(), Expansion::Refused);
    assert_eq!(kube.expansion(None).await.unwrap(), Expansion::Allowed, "the newest of the default classes counts");
    assert!(kube.expansion(None).await.is_err());
}

#[tokio::test]
async fn long_lists_are_read_to_their_end_and_trimmed() {
    let map = |name: &str| json!({ "metadata": { "name": name, "managedFields": [{ "manager": "m" }] } });
    let first = json!({ "metadata": { "continue": "next" }, "items": [map("a")] });
    let second = json!({ "metadata": {}, "items": [map("b")] });
    let (kube, server) = kube(&[(200, first), (200, second)], Fence::open()).await;
    let maps: Vec<ConfigMap> = kube.labelled(&key()).await.unwrap();
    let names: Vec<_> = maps.iter().filter_map(|map| map.metadata.name.as_deref()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(maps.iter().all(|map| map.metadata.managed_fields.is_none()));
    let seen = server.seen.lock().clone();
    assert!(seen[0].uri.contains("labelSelector=chronik.io%2Fcluster%3Dx"), "{}", seen[0].uri);
    assert!(seen[1].uri.contains("continue=next"), "{}", seen[1].uri);
}

#[tokio::test]
async fn the_same_event_goes_over_the_wire_once() {
    let (kube, server) = kube(&[], Fence::open()).await;
    let about = k8s_openapi::api::core::v1::ObjectReference {
        namespace: Some("n".into()),
        name: Some("x".into()),
        uid: Some("u".into()),
        ..Default::default()
    };
    let event = Event { warning: true, reason: "R".into(), action: String::new(), note: "why".into() };
    for _ in 0..5 {
        kube.tell(&about, &event).await;
    }
    let seen = server.seen.lock().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].uri, "/apis/events.k8s.io/v1/namespaces/n/events?");
    assert_eq!(seen[0].body["type"], "Warning");
    assert_eq!(seen[0].body["regarding"]["uid"], "u");
    assert_eq!(seen[0].body["action"], "Reconcile", "the API server wants one");
}

#[tokio::test]
async fn what_must_not_be_made_anew_is_found_without_its_label_and_asked_for_only_then() {
    let list = |items: Value| (200, json!({ "metadata": {}, "items": items }));
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "x-control", "uid": "s" } });
    let mut answers = vec![list(json!([])); 9];
    answers.push((200, secret.clone()));
    answers.push((
        200,
        json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "x", "uid": "w" } }),
    ));
    answers.extend(vec![list(json!([])); 9]);
    answers[12] = list(json!([secret]));
    answers[15] = list(json!([{ "metadata": { "name": "x", "uid": "w" } }]));
    let (kube, server) = kube(&answers, Fence::open()).await;
    for asked in [11, 20] {
        let found = Box::pin(kube.children(&key())).await.unwrap().objects;
        let found: Vec<String> = found.iter().map(|o| o.reference().to_string()).collect();
        assert_eq!(found, ["Secret x-control", "StatefulSet x"]);
        assert_eq!(server.seen.lock().len(), asked);
    }
    let seen = server.seen.lock().clone();
    assert_eq!(seen[9].uri.split('?').next(), Some("/api/v1/namespaces/n/secrets/x-control"));
    assert_eq!(seen[10].uri.split('?').next(), Some("/apis/apps/v1/namespaces/n/statefulsets/x"));
}

#[tokio::test]
async fn a_pod_gets_a_further_owner_and_a_claim_is_deleted_by_its_uid() {
    let (kube, server) = kube(&[], Fence::open()).await;
    let owner = crate::build::pod_owner("x", "c");
    kube.own_pod(&key(), "x-0", "p", &owner).await.unwrap();
    let gone = kube.delete_claim(&key(), "data-x-0", "d").await;
    assert!(gone.is_ok(), "{gone:?}");
    let seen = server.seen.lock().clone();
    assert_eq!(seen[0].content_type, "application/strategic-merge-patch+json");
    assert_eq!(seen[0].body["metadata"]["uid"], "p");
    let expected = json!([{ "apiVersion": "chronik.io/v1alpha1", "kind": "ChronikCluster", "name": "x", "uid": "c" }]);
    assert_eq!(seen[0].body["metadata"]["ownerReferences"], expected, "it neither controls nor blocks");
    assert_eq!(seen[1].uri.split('?').next(), Some("/api/v1/namespaces/n/persistentvolumeclaims/data-x-0"));
    assert_eq!(seen[1].body["preconditions"]["uid"], "d");
}
