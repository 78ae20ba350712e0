//! The HTTP server of the admin port.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

use super::{SharedView, doctor, metrics};

/// The admin server's handle to the broker, set as soon as there is something to look at.
#[derive(Clone, Default)]
pub struct Admin {
    view: Arc<OnceCell<SharedView>>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("has_view", &self.view.initialized()).finish()
    }
}

impl Admin {
    /// Shows `view` from now on; later calls change nothing.
    pub fn show(&self, view: SharedView) {
        if self.view.set(view).is_err() {
            tracing::error!("the admin server was given a second view; the first one stays");
        }
    }

    fn view(&self) -> Result<&SharedView, Refusal> {
        self.view.get().ok_or_else(|| Refusal(StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned()))
    }
}

/// Why a request gets no ordinary answer.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

/// Serves the admin port until the task is dropped.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    use axum::serve::ListenerExt as _;
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY on an admin connection");
        }
    });
    axum::serve(listener, router(admin)).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .route("/doctor", get(run_doctor))
        .route("/tracing", put(set_tracing))
        .with_state(admin)
}

async fn index() -> &'static str {
    "Chronik broker\n\
     /healthz  the process lives\n\
     /readyz   clients can be served (503 says why not)\n\
     /status   everything this broker knows, JSON; ?detail=true adds partitions\n\
     /metrics  OpenMetrics\n\
     /doctor   findings of this moment; ?format=json\n\
     /tracing  PUT a filter such as info,raft=trace\n"
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<Admin>) -> Result<&'static str, Refusal> {
    match admin.view()?.ready() {
        Ok(()) => Ok("ready\n"),
        Err(reason) => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}"))),
    }
}

#[derive(Deserialize)]
struct StatusQuery {
    #[serde(default)]
    detail: bool,
}

async fn status(State(admin): State<Admin>, Query(query): Query<StatusQuery>) -> Result<Response, Refusal> {
    Ok(Json(admin.view()?.status(query.detail)).into_response())
}

async fn scrape(State(admin): State<Admin>) -> Result<Response, Refusal> {
    let text = metrics::encode(&admin.view()?.metrics());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[derive(Deserialize)]
struct DoctorQuery {
    format: Option<String>,
}

async fn run_doctor(
    State(admin): State<Admin>,
    Query(query): Query<DoctorQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let report = doctor::examine(admin.view()?.as_ref(), Duration::from_secs(2)).await;
    let code = if report.findings.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let wants_json = query.format.as_deref() == Some("json")
        || headers.get(header::ACCEPT).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    Ok(if wants_json { (code, Json(report)).into_response() } else { (code, report.to_string()).into_response() })
}

async fn set_tracing(State(admin): State<Admin>, filter: String) -> Result<String, Refusal> {
    match admin.view()?.set_tracing(filter.trim()) {
        Ok(()) => Ok(format!("events are now filtered by {}\n", filter.trim())),
        Err(problem) => Err(Refusal(StatusCode::BAD_REQUEST, problem)),
    }
}
