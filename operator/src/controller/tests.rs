//! The controller against a small API server: one cluster that can be read, one that cannot.

use std::collections::BTreeSet;
use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio::time::timeout;

use super::*;
use crate::lease::Fence;

const LONG: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Api {
    seen: Mutex<Vec<(String, Value)>>,
    changed: tokio::sync::Notify,
}

impl Api {
    fn count(&self, what: &str) -> usize {
        self.seen.lock().iter().filter(|(line, _)| line.starts_with(what)).count()
    }

    async fn until(&self, what: &str) -> Value {
        let found = timeout(LONG, async {
            loop {
                let changed = self.changed.notified();
                if let Some((_, body)) = self.seen.lock().iter().find(|(line, _)| line.starts_with(what)) {
                    return body.clone();
                }
                changed.await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("{what} was not seen among {:?}", self.seen.lock()))
    }
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let watches = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
    let line = format!("{}{} {}", if watches { "WATCH " } else { "" }, parts.method, parts.uri.path());
    api.seen.lock().push((line, serde_json::from_slice(&bytes).unwrap_or(Value::Null)));
    api.changed.notify_waiters();
    if watches {
        return Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()).into_response();
    }
    let cluster = |name: &str, spec: Value| {
        json!({
            "apiVersion": "chronik.io/v1alpha1", "kind": "ChronikCluster", "spec": spec,
            "metadata": { "name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "generation": 4 },
        })
    };
    let path = parts.uri.path();
    let body = match parts.method {
        Method::GET if path.ends_with("/chronikclusters") => json!({
            "metadata": { "resourceVersion": "1" },
            "items": [cluster("bad", json!({ "replicas": "many" })), cluster("good", json!({}))],
        }),
        Method::GET if path.ends_with("/chronikclusters/good") => {
            let body =
                json!({ "kind": "Status", "status": "Failure", "code": 404, "message": "gone", "reason": "NotFound" });
            return (StatusCode::NOT_FOUND, Body::from(body.to_string())).into_response();
        }
        Method::GET => json!({ "metadata": { "resourceVersion": "1" }, "items": [] }),
        _ => json!({ "apiVersion": "v1", "kind": "Any", "metadata": {} }),
    };
    Body::from(body.to_string()).into_response()
}

async fn start(
    namespace: Option<&'static str>,
) -> (Arc<Api>, Arc<Context>, channel::Sender<bool>, tokio::task::JoinHandle<()>) {
    let api = Arc::new(Api::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&api));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let client = Client::try_from(kube::Config::new(uri)).unwrap();
    let metrics = Arc::new(Metrics::new());
    let kube = KubeIo::new(client.clone(), Fence::open(), Arc::clone(&metrics), "op-0", Duration::from_secs(5));
    let brokers = BrokerIo::new(Fence::open(), Duration::from_secs(1));
    let settings = Settings { broker_image: "b:1".into() };
    let health = Health::default();
    health.elected();
    let context = Arc::new(Context::new(kube, brokers, settings, metrics, health));
    let (stop, stopped) = channel::channel(false);
    let task = tokio::spawn(run(client, namespace, 2, Arc::clone(&context), stopped));
    (api, context, stop, task)
}

async fn eventually(holds: impl Fn() -> bool) {
    let waits = timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waits.await.expect("it never held");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_once_and_harms_no_other() {
    let (api, context, stop, task) = start(None).await;
    let told = api.until("PATCH /apis/chronik.io/v1alpha1/namespaces/n/chronikclusters/bad/status").await;
    let condition = &told["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("SpecValid"), &json!("False")));
    assert_eq!(condition["observedGeneration"], 4);
    assert!(condition["message"].as_str().unwrap().contains("cannot read"), "{condition}");
    assert_eq!(told["status"].as_object().unwrap().len(), 1, "nothing else of the status is touched");
    let event = api.until("POST /apis/events.k8s.io/v1/namespaces/n/events").await;
    assert_eq!(event["regarding"]["name"], "bad");
    api.until("GET /apis/chronik.io/v1alpha1/namespaces/n/chronikclusters/good").await;
    // Another request for the same generation is silent.
    let object: Guarded = DeserializeGuard(Err(InvalidObject {
        error: "x".into(),
        metadata: serde_json::from_value(json!({ "name": "bad", "namespace": "n", "generation": 4 })).unwrap(),
    }));
    let told = |api: &Api| api.count("PATCH /apis/chronik.io/v1alpha1/namespaces/n/chronikclusters/bad/status");
    eventually(|| context.told.lock().contains_key(&Key::new("n", "bad"))).await;
    let before = told(&api);
    assert_eq!(pass(Arc::new(object), Arc::clone(&context)).await.unwrap(), Action::await_change());
    assert_eq!((before, told(&api)), (1, 1));
    stop.send_replace(true);
    timeout(LONG, task).await.expect("it stops when it is told to").unwrap();
}

#[tokio::test]
async fn with_a_namespace_nothing_outside_of_it_is_asked_for() {
    let (api, context, stop, task) = start(Some("n")).await;
    eventually(|| context.health.not_ready(Instant::now()).is_none() && api.count("WATCH") >= 10).await;
    api.until("GET /apis/chronik.io/v1alpha1/namespaces/n/chronikclusters/good").await;
    stop.send_replace(true);
    timeout(LONG, task).await.unwrap().unwrap();
    let outside: BTreeSet<_> =
        api.seen.lock().iter().map(|(line, _)| line.clone()).filter(|line| !line.contains("/namespaces/n/")).collect();
    assert_eq!(outside, BTreeSet::new());
}

#[tokio::test]
async fn without_a_namespace_all_are_watched() {
    let (api, _context, stop, task) = start(None).await;
    api.until("WATCH GET /apis/chronik.io/v1alpha1/chronikclusters").await;
    api.until("WATCH GET /api/v1/pods").await;
    api.until("WATCH GET /apis/apps/v1/statefulsets").await;
    stop.send_replace(true);
    timeout(LONG, task).await.unwrap().unwrap();
}
