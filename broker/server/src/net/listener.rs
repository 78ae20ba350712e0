//! Binds an address, accepts within the limits, and drains at shutdown.
//!
//! Bound by `startup` (bind errors surface there), then [`Listener::run`] is spawned once. Dropping or signalling the
//! shutdown watch stops accepting; connections finish what they started and close.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::{AnswerMemory, ConnectionInfo, Limits, NetMetrics, Service};

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// A bound socket with the service that answers on it.
#[derive(Debug)]
pub struct Listener<S> {
    name: &'static str,
    /// What its clients call it, if it is not the first of its kind.
    listener: Option<Arc<str>>,
    socket: TcpListener,
    service: Arc<S>,
    limits: Arc<Limits>,
    metrics: Arc<NetMetrics>,
}

impl<S: Service> Listener<S> {
    /// Binds `address`; `name` is for logs ("kafka", "replication").
    ///
    /// # Errors
    /// What the operating system says about the address.
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        service: Arc<S>,
        limits: Limits,
        metrics: Arc<NetMetrics>,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { name, listener: None, socket, service, limits: Arc::new(limits), metrics })
    }

    /// The same, for those who know it as `name`: they are told the brokers' addresses of that name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { listener: Some(name.into()), ..self }
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown` becomes true, then lets connections finish for at most `drain` and closes them.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>, drain: Duration) {
        let memory = Arc::new(Semaphore::new(self.limits.queued_request_bytes / Connection::<S>::PERMIT_BYTES));
        let answers = AnswerMemory::new(self.limits.queued_request_bytes);
        let per_ip: Arc<Mutex<HashMap<IpAddr, usize>>> = Arc::default();
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut shutdown) => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "accept failed");
                    // Out of descriptors: accept would fail again at once; give closing connections time.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(guard) = self.admit(peer, &per_ip) else { continue };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(listener = self.name, %peer, %error, "cannot set TCP_NODELAY");
            }
            let info = Arc::new(ConnectionInfo {
                id: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed),
                listener: self.listener.clone(),
                peer,
                software: Mutex::new(None),
                parked_fetch: Mutex::new(None),
                answers: Arc::clone(&answers),
            });
            self.spawn(&mut tasks, stream, info, &memory, shutdown.clone(), guard);
        }
        drop(self.socket);
        let drained = tokio::time::timeout(drain, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::info!(listener = self.name, connections = tasks.len(), "closing connections that did not drain");
            tasks.shutdown().await;
        }
    }

    fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        stream: TcpStream,
        info: Arc<ConnectionInfo>,
        memory: &Arc<Semaphore>,
        shutdown: watch::Receiver<bool>,
        guard: Admitted,
    ) {
        let connection = Connection::new(
            stream,
            Arc::clone(&self.service),
            info,
            Arc::clone(&self.limits),
            Arc::clone(memory),
            Arc::clone(&self.metrics),
        );
        let name = self.name;
        tasks.spawn(async move {
            connection.run(name, shutdown).await;
            drop(guard);
        });
    }

    fn admit(&self, peer: SocketAddr, per_ip: &Arc<Mutex<HashMap<IpAddr, usize>>>) -> Option<Admitted> {
        let open = self.metrics.open.load(Ordering::Relaxed);
        let mut counts = per_ip.lock();
        let count = counts.entry(peer.ip()).or_insert(0);
        if open >= self.limits.max_connections as u64 || *count >= self.limits.max_connections_per_ip {
            if *count == 0 {
                counts.remove(&peer.ip());
            }
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(listener = self.name, %peer, open, "connection refused: limit reached");
            return None;
        }
        *count += 1;
        self.metrics.accepted.fetch_add(1, Ordering::Relaxed);
        self.metrics.open.fetch_add(1, Ordering::Relaxed);
        Some(Admitted { ip: peer.ip(), per_ip: Arc::clone(per_ip), metrics: Arc::clone(&self.metrics) })
    }
}

/// Completes when the shutdown was signalled or its sender is gone.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means the sender is gone, which is a shutdown too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Gives the place of a connection back when it ends, however it ends.
#[derive(Debug)]
struct Admitted {
    ip: IpAddr,
    per_ip: Arc<Mutex<HashMap<IpAddr, usize>>>,
    metrics: Arc<NetMetrics>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.metrics.open.fetch_sub(1, Ordering::Relaxed);
        let mut counts = self.per_ip.lock();
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}
