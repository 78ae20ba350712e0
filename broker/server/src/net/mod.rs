//! Sockets of clients and of following brokers: accept, frame, run in order, answer in order.
//!
//! `startup` binds a [`Listener`] per kind with the [`Service`] that answers its requests, and drains it at shutdown.
//! A connection is one task: it reads frames ahead (within [`Limits`]), starts each request in the order received,
//! and writes the answers in that same order. What never happens: a request starts before its predecessor on the
//! connection had its effect; an answer overtakes another; peers make the broker reserve more memory than
//! [`Limits::queued_request_bytes`] for requests, and as much for answers; a malformed frame does more than close its own
//! connection.

mod answers;
mod connection;
mod listener;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;

use crate::replication::waiters::FetchWait;

pub use answers::AnswerMemory;
pub use listener::Listener;

/// A future that yields the answer to one request.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What the peer gets for one request.
#[derive(Debug)]
pub enum Response {
    /// These slices, written one after the other; the length prefix is part of them.
    Frame(Vec<Bytes>),
    /// Nothing at all (Produce with acks=0).
    Silent,
    /// The connection is closed once earlier answers are written; the reason is logged.
    Close(String),
}

/// How far a request got when [`Service::start`] returned.
#[allow(missing_debug_implementations)]
pub enum Started {
    /// It is answered.
    Answered(Response),
    /// It must finish before the next request of the connection starts.
    Ordered(ResponseFuture),
    /// Its effects are in place and it only waits; the next request may start.
    Parked(ResponseFuture),
}

/// Answers the requests of a listener.
pub trait Service: Send + Sync + 'static {
    /// Starts one request; `frame` is what followed the length prefix. Never blocks, never panics on bad bytes.
    fn start(&self, connection: &Arc<ConnectionInfo>, frame: Bytes) -> Started;
}

/// What requests may know about the connection they came by.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Number of the connection, unique in this process.
    pub id: u64,
    /// Name of the listener by which it came; `None` for the first of its kind.
    pub listener: Option<Arc<str>>,
    /// Address of the other end.
    pub peer: SocketAddr,
    /// Client software name and version, once ApiVersions told them (KIP-511).
    pub software: Mutex<Option<(String, String)>>,
    /// The fetch that waits, if one does: the next fetch of the connection makes it answer.
    pub parked_fetch: Mutex<Option<Weak<FetchWait>>>,
    /// What answers of the listener may take.
    pub answers: Arc<AnswerMemory>,
}

/// Bounds of one listener; from the configuration.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `socket.request.max.bytes`: a longer frame closes the connection.
    pub max_request_bytes: usize,
    /// Requests read ahead per connection.
    pub max_in_flight: usize,
    /// Bytes of requests read ahead, and of answers not yet taken by the peer, per connection.
    pub max_in_flight_bytes: usize,
    /// `queued.max.request.bytes`: bytes of requests held by the whole listener, and as many of answers that peers have
    /// not taken yet.
    pub queued_request_bytes: usize,
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `connections.max.idle.ms`.
    pub max_idle: Duration,
    /// Time after which a peer is closed that sends nothing more in the middle of a large frame, whose memory is reserved.
    pub max_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 100 * 1024 * 1024,
            max_in_flight: 64,
            max_in_flight_bytes: 8 * 1024 * 1024,
            queued_request_bytes: 256 * 1024 * 1024,
            max_connections: 20_000,
            max_connections_per_ip: 20_000,
            max_idle: Duration::from_secs(600),
            max_stall: Duration::from_secs(30),
        }
    }
}

/// Counters of one listener.
#[derive(Debug, Default)]
pub struct NetMetrics {
    /// Connections accepted since the start.
    pub accepted: AtomicU64,
    /// Connections refused because of a limit.
    pub refused: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections closed because of malformed bytes or a request that cannot be answered.
    pub protocol_errors: AtomicU64,
    /// Requests started.
    pub requests: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
}

/// [`NetMetrics`] at one moment.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct NetSnapshot {
    pub accepted: u64,
    pub refused: u64,
    pub open: u64,
    pub protocol_errors: u64,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl NetMetrics {
    /// The numbers now.
    #[must_use]
    pub fn snapshot(&self) -> NetSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetSnapshot {
            accepted: get(&self.accepted),
            refused: get(&self.refused),
            open: get(&self.open),
            protocol_errors: get(&self.protocol_errors),
            requests: get(&self.requests),
            bytes_in: get(&self.bytes_in),
            bytes_out: get(&self.bytes_out),
        }
    }
}
