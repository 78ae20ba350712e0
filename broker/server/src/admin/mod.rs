//! What a person or a probe sees: `/healthz`, `/readyz`, `/status`, `/metrics`, `/doctor`, and the switch for events.
//!
//! [`startup`](crate::startup) starts the HTTP server as early as it can, so that a broker that waits for its peers can
//! already say so. Everything shown comes from a [`View`], which the running broker implements; this module only asks,
//! formats and diagnoses. Nothing here changes the cluster, and no request waits for the Raft thread.

pub mod client;
pub mod doctor;
mod http;
pub mod metrics;
pub mod process;
pub mod show;
pub mod status;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use http::{Admin, serve};
pub use status::{PeerAnswer, ProbeFailure, Status};

use chronik_model::NodeId;

/// What the admin server asks of the running broker. Cheap calls: they read what others keep up to date.
pub trait View: Send + Sync + 'static {
    /// The whole picture, as `/status` shows it. `detail` adds one entry per hosted partition.
    fn status(&self, detail: bool) -> Status;

    /// Ready = registered, unfenced, caught up with the metadata, and a leader is known. `Err` says what is missing.
    fn ready(&self) -> Result<(), String>;

    /// Peers that may be asked: every registered address and every member of the Raft configuration but this node.
    fn peers(&self) -> Vec<NodeId>;

    /// Asks `peer` for its status over the control connection.
    fn ask(&self, peer: NodeId) -> BoxFuture<'_, Result<PeerAnswer, ProbeFailure>>;

    /// Counters for `/metrics`.
    fn metrics(&self) -> metrics::Sample;

    /// Replaces the event filter of the process, e.g. `info,chronik_broker::peer=trace`.
    ///
    /// # Errors
    /// What is wrong with the filter.
    fn set_tracing(&self, filter: &str) -> Result<(), String>;
}

/// A shared [`View`].
pub type SharedView = Arc<dyn View>;
