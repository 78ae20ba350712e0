//! Whether the operator lives and whether it is ready, for the kubelet: /healthz and /readyz, and /metrics beside them.
//!
//! Written by the controller (watches, passes) and by `main` (role); read by the HTTP servers. /healthz fails only for
//! what a restart may cure: a pass that hangs, a watch that fails for ever. An API server that is down for a while is no
//! reason to restart the operator; it is a reason not to be ready.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// A pass is bounded by the timeouts of its calls; one that takes this long hangs.
const PASS_HANGS: Duration = Duration::from_secs(300);
/// A watch that fails for this long may be cured by a new process: new connections, new credentials.
const WATCH_DEAD: Duration = Duration::from_secs(600);
/// A watch that fails for this long sees nothing of the cluster.
const WATCH_BLIND: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Clone)]
struct Watched {
    listed: bool,
    failing_since: Option<Instant>,
    error: String,
}

#[derive(Debug, Default)]
struct Inner {
    /// Set once this replica leads.
    watches: BTreeMap<&'static str, Watched>,
    passes: BTreeMap<String, Instant>,
    /// Knows who leads.
    elected: bool,
}

/// The state of this process, as far as its health is concerned.
#[derive(Debug, Default, Clone)]
pub struct Health(Arc<Mutex<Inner>>);

impl Health {
    /// The Lease was read or written: there is a leader, this replica or another.
    pub fn elected(&self) {
        self.0.lock().elected = true;
    }

    /// A watch is begun; not ready until it has listed.
    pub fn watch_begins(&self, name: &'static str) {
        self.0.lock().watches.insert(name, Watched::default());
    }

    pub fn watch_listed(&self, name: &'static str) {
        if let Some(watch) = self.0.lock().watches.get_mut(name) {
            *watch = Watched { listed: true, ..Watched::default() };
        }
    }

    pub fn watch_works(&self, name: &'static str) {
        if let Some(watch) = self.0.lock().watches.get_mut(name) {
            watch.failing_since = None;
        }
    }

    pub fn watch_fails(&self, name: &'static str, error: String, now: Instant) {
        if let Some(watch) = self.0.lock().watches.get_mut(name) {
            watch.failing_since.get_or_insert(now);
            watch.error = error;
        }
    }

    pub fn pass_begins(&self, cluster: &str, now: Instant) {
        self.0.lock().passes.insert(cluster.to_owned(), now);
    }

    pub fn pass_ends(&self, cluster: &str) {
        self.0.lock().passes.remove(cluster);
    }

    /// Why a restart is wanted; `None` = alive.
    pub fn dead(&self, now: Instant) -> Option<String> {
        let inner = self.0.lock();
        let hangs = inner.passes.iter().find(|(_, began)| now.saturating_duration_since(**began) > PASS_HANGS);
        if let Some((cluster, _)) = hangs {
            return Some(format!("the pass over {cluster} has hung for more than {} seconds", PASS_HANGS.as_secs()));
        }
        failing(&inner, now, WATCH_DEAD)
    }

    /// What is missing; `None` = ready.
    pub fn not_ready(&self, now: Instant) -> Option<String> {
        let inner = self.0.lock();
        if !inner.elected {
            return Some("it is not known yet who leads".to_owned());
        }
        if let Some((name, watch)) = inner.watches.iter().find(|(_, watch)| !watch.listed) {
            let error = if watch.error.is_empty() { String::new() } else { format!(": {}", watch.error) };
            return Some(format!("{name} are not listed yet{error}"));
        }
        failing(&inner, now, WATCH_BLIND)
    }
}

fn failing(inner: &Inner, now: Instant, longest: Duration) -> Option<String> {
    inner.watches.iter().find_map(|(name, watch)| {
        let since = now.saturating_duration_since(watch.failing_since?);
        (since > longest)
            .then(|| format!("watching {name} has failed for {} seconds: {}", since.as_secs(), watch.error))
    })
}

/// Binds early, so that a taken port is told before anything is done.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves /healthz and /readyz until `stop`.
pub async fn serve_health(
    listener: TcpListener,
    health: Health,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|State(health): State<Health>| async move { answer(health.dead(Instant::now())) }))
        .route("/readyz", get(|State(health): State<Health>| async move { answer(health.not_ready(Instant::now())) }))
        .with_state(health);
    axum::serve(listener, app).with_graceful_shutdown(async move { drop(stop.wait_for(|stop| *stop).await) }).await
}

/// Serves /metrics until `stop`.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let app = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    axum::serve(listener, app).with_graceful_shutdown(async move { drop(stop.wait_for(|stop| *stop).await) }).await
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.text() {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn answer(problem: Option<String>) -> Response {
    match problem {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_ready_when_it_knows_the_leader_and_a_leader_when_it_has_listed() {
        let (health, now) = (Health::default(), Instant::now());
        assert!(health.not_ready(now).unwrap().contains("who leads"));
        health.elected();
        assert_eq!(health.not_ready(now), None);
        health.watch_begins("pods");
        assert_eq!(health.not_ready(now).unwrap(), "pods are not listed yet");
        health.watch_listed("pods");
        assert_eq!(health.not_ready(now), None);
    }

    #[test]
    fn a_failing_watch_is_first_not_ready_and_only_much_later_dead() {
        let (health, now) = (Health::default(), Instant::now());
        health.elected();
        health.watch_begins("pods");
        health.watch_listed("pods");
        health.watch_fails("pods", "refused".into(), now);
        health.watch_fails("pods", "refused".into(), now + Duration::from_secs(25));
        let later = now + Duration::from_secs(31);
        assert!(health.not_ready(later).unwrap().contains("31 seconds: refused"));
        assert_eq!(health.dead(later), None);
        assert!(health.dead(now + Duration::from_secs(601)).is_some());
        health.watch_works("pods");
        assert_eq!(health.not_ready(now + Duration::from_secs(601)), None);
    }

    #[test]
    fn a_hanging_pass_is_dead_and_one_that_ends_is_not() {
        let (health, now) = (Health::default(), Instant::now());
        health.pass_begins("n/x", now);
        assert_eq!(health.dead(now + Duration::from_secs(10)), None);
        assert!(health.dead(now + Duration::from_secs(301)).unwrap().contains("n/x"));
        health.pass_ends("n/x");
        assert_eq!(health.dead(now + Duration::from_secs(301)), None);
    }

    #[tokio::test]
    async fn the_endpoints_answer_and_stop() {
        let (stop, stopped) = watch::channel(false);
        let health = Health::default();
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_health(listener, health.clone(), stopped));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.elected();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        stop.send_replace(true);
        server.await.unwrap().unwrap();
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}
