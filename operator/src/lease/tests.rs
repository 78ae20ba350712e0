//! Electors against a small API server that keeps one Lease as the real one does: by versions, with conflicts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::elector::Elector;
use super::*;

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Api {
    lease: Mutex<Option<Lease>>,
    version: Mutex<u64>,
    down: AtomicBool,
}

impl Api {
    fn holder(&self) -> Option<String> {
        self.lease.lock().as_ref()?.spec.as_ref()?.holder_identity.clone()
    }

    fn write(&self, mut lease: Lease) -> Lease {
        let mut version = self.version.lock();
        *version += 1;
        lease.metadata.resource_version = Some(version.to_string());
        *self.lease.lock() = Some(lease.clone());
        lease
    }
}

fn status(code: u16) -> Response {
    let reason = if code == 404 { "NotFound" } else { "Other" };
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": reason });
    (StatusCode::from_u16(code).unwrap(), Body::from(body.to_string())).into_response()
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    if api.down.load(Ordering::Relaxed) {
        return status(500);
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, 1 << 16).await.unwrap();
    let current = api.lease.lock().clone();
    let lease = match (parts.method, current) {
        (Method::GET, Some(lease)) => lease,
        (Method::GET | Method::PUT, None) => return status(404),
        (Method::POST, Some(_)) => return status(409),
        (Method::POST, None) => api.write(serde_json::from_slice(&bytes).unwrap()),
        (Method::PUT, Some(current)) => {
            let wanted: Lease = serde_json::from_slice(&bytes).unwrap();
            if wanted.metadata.resource_version != current.metadata.resource_version {
                return status(409);
            }
            api.write(wanted)
        }
        _ => return status(405),
    };
    Body::from(serde_json::to_vec(&lease).unwrap()).into_response()
}

async fn serve() -> (Arc<Api>, SocketAddr) {
    let api = Arc::new(Api::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&api));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (api, address)
}

struct Replica {
    role: watch::Receiver<Role>,
    stop: watch::Sender<bool>,
    fence: Fence,
    task: tokio::task::JoinHandle<()>,
}

fn replica(address: SocketAddr, me: &str) -> Replica {
    let terms = Terms {
        duration: Duration::from_secs(1),
        renew_deadline: Duration::from_millis(600),
        period: Duration::from_millis(40),
    };
    let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let fence = Fence::default();
    let (elector, role) = Elector::new(client, "n", "chronik-operator", me, terms, fence.clone());
    let (stop, stopped) = watch::channel(false);
    Replica { role, stop, fence, task: tokio::spawn(elector.run(stopped)) }
}

impl Replica {
    async fn becomes(&mut self, wanted: Role) {
        let seen = timeout(LONG, self.role.wait_for(|role| *role == wanted)).await.map(|seen| seen.unwrap().clone());
        assert_eq!(seen.ok(), Some(wanted));
    }
}

fn behind(leader: &str) -> Role {
    Role::Standby { leader: Some(leader.to_owned()) }
}

#[tokio::test]
async fn one_leads_and_the_other_follows_when_it_stops_in_order() {
    let (api, address) = serve().await;
    let mut a = replica(address, "a");
    a.becomes(Role::Leader).await;
    let mut b = replica(address, "b");
    b.becomes(behind("a")).await;
    assert!(a.fence.holds(Instant::now()) && !b.fence.holds(Instant::now()));
    a.stop.send_replace(true);
    a.task.await.unwrap();
    assert!(!a.fence.holds(Instant::now()));
    b.becomes(Role::Leader).await;
    assert_eq!(api.holder().as_deref(), Some("b"));
    let transitions = api.lease.lock().as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions);
    assert_eq!(transitions, Some(1));
}

#[tokio::test]
async fn a_leader_that_dies_is_replaced_after_its_time() {
    let (api, address) = serve().await;
    let mut a = replica(address, "a");
    a.becomes(Role::Leader).await;
    let mut b = replica(address, "b");
    b.becomes(behind("a")).await;
    a.task.abort();
    assert!(a.task.await.unwrap_err().is_cancelled());
    b.becomes(Role::Leader).await;
    assert_eq!(api.holder().as_deref(), Some("b"));
}

#[tokio::test]
async fn a_leader_that_cannot_renew_gives_up_before_its_lease_runs_out() {
    let (api, address) = serve().await;
    let mut a = replica(address, "a");
    a.becomes(Role::Leader).await;
    api.down.store(true, Ordering::Relaxed);
    let began = Instant::now();
    a.becomes(Role::Lost).await;
    assert!(began.elapsed() >= Duration::from_millis(300), "a short failure is no reason to give up");
    assert!(!a.fence.holds(Instant::now()));
    a.task.await.unwrap();
}

#[tokio::test]
async fn a_leader_whose_lease_another_holds_gives_up_at_once() {
    let (api, address) = serve().await;
    let mut a = replica(address, "a");
    a.becomes(Role::Leader).await;
    let mut lease = api.lease.lock().clone().unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
    api.write(lease);
    a.becomes(Role::Lost).await;
    assert_eq!(api.holder().as_deref(), Some("b"), "what another holds is not released");
}

#[tokio::test]
async fn a_deleted_lease_is_made_anew_by_its_holder() {
    let (api, address) = serve().await;
    let mut a = replica(address, "a");
    a.becomes(Role::Leader).await;
    *api.lease.lock() = None;
    let again = timeout(LONG, async {
        while api.holder().as_deref() != Some("a") {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    again.await.unwrap();
    assert_eq!(*a.role.borrow(), Role::Leader);
}
