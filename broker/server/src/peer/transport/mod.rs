//! Carries Raft messages between brokers (M5): one bounded ordered queue and one stream per peer.
//!
//! `startup` makes one [`Transport`] before the Raft loop exists, serves it ([`inbound`]), and calls
//! [`Transport::prewarm`] once the loop runs. The Raft thread calls [`Transport::send`], which never blocks: a message
//! that cannot be queued is dropped, counted and reported, as Raft expects of a network. Each peer has a task of its own
//! ([`link`]), so a slow or dead peer never delays another. What arrives goes to the [`PeerSink`].
//!
//! A send to a peer that is not in the directory is an ERROR that names it. Nothing is ever delivered out of order, and
//! nothing queued for an earlier connection is delivered on a later one.

mod connect;
pub mod greeting;
mod inbound;
mod link;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_consensus::mirror::RaftMessage;
use chronik_model::{ClusterId, IncarnationId, NodeId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::directory::PeerDirectory;
use super::discovery::Discovery;
use super::dns::Resolver;
use crate::control::secret::Secret;

pub use connect::ConnectError;
pub use greeting::{Greeting, RefusedGreeting};
pub use inbound::serve;
pub use status::{InboundStatus, LinkStatus};

use link::Link;
use status::Counters;

/// Limits and timing, from the `raft.*` settings.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Most messages waiting for one peer.
    pub queue_messages: usize,
    /// Largest gRPC message.
    pub max_frame_bytes: usize,
    /// Size of one piece of a snapshot.
    pub snapshot_chunk_bytes: usize,
    /// Largest snapshot accepted.
    pub max_snapshot_bytes: usize,
    /// Time to connect and be greeted.
    pub connect_timeout: Duration,
    /// HTTP/2 keepalive interval.
    pub keepalive: Duration,
    /// A connection breaks when what was sent over it is not acknowledged for so long.
    pub unacknowledged: Duration,
    /// Bounds of the pause between two attempts to connect.
    pub backoff: (Duration, Duration),
}

impl TransportConfig {
    /// From the configuration.
    #[must_use]
    pub fn from_config(raft: &crate::config::RaftConfig) -> Self {
        Self {
            queue_messages: raft.peer_queue_messages,
            max_frame_bytes: raft.max_frame_bytes,
            snapshot_chunk_bytes: raft.snapshot_chunk_bytes,
            max_snapshot_bytes: 512 << 20,
            connect_timeout: Duration::from_millis(raft.connect_timeout_ms),
            keepalive: Duration::from_millis(raft.keepalive_ms),
            // By then a leader that is not heard has been replaced. A process that stands still does not look like this
            // before its buffers are full: the system acknowledges for it.
            unacknowledged: Duration::from_millis((2 * raft.tick_ms * raft.election_tick as u64).max(1000)),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
        }
    }
}

/// Who we are, as peers are told.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Our node id.
    pub node: NodeId,
    /// This run of our process.
    pub incarnation: IncarnationId,
    /// Where our Raft listener is reached.
    pub address: String,
    /// Where our Kafka listener is reached; for people who look for one of two brokers with the same id.
    pub kafka_address: String,
}

/// What happened on the way to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// Our stream to `peer` is up; the peer said this about itself.
    Connected(NodeId, Box<Greeting>),
    /// Our stream to the peer broke. An attempt to reconnect follows at once.
    Lost(NodeId),
    /// The peer could not be reached.
    Unreachable {
        /// The peer.
        peer: NodeId,
        /// Every address of it refused the connection: no process listens there.
        refused: bool,
        /// The peer had been connected before by this run of our process.
        was_connected: bool,
    },
    /// A snapshot was delivered, or not.
    SnapshotSent {
        /// The receiver.
        peer: NodeId,
        /// Whether it was delivered whole.
        ok: bool,
    },
    /// A peer's own stream to us came up: it is alive and knows us.
    Heard(NodeId),
    /// A peer refused us because another live process uses our node id.
    Duplicate {
        /// Who told us.
        peer: NodeId,
        /// With both addresses.
        message: String,
    },
}

/// Who receives what the transport brings: the Raft thread's inbox.
pub trait PeerSink: Send + Sync + 'static {
    /// Term, leader, commit index and founding voters, for greetings.
    fn position(&self) -> Position;
    /// A message arrived. `false`: no room, dropped.
    fn message(&self, message: RaftMessage) -> bool;
    /// Something happened.
    fn event(&self, event: PeerEvent);
}

/// Where our replica stands, for greetings.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Position {
    /// Current term.
    pub term: u64,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Commit index.
    pub commit: u64,
    /// Voters this broker was founded with; empty for a joiner.
    pub bootstrap_voters: Vec<NodeId>,
}

/// What became of a message given to [`Transport::send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendOutcome {
    /// In the peer's queue.
    Queued,
    /// The peer is not connected; dropped.
    NotConnected,
    /// The peer's queue is full; dropped.
    QueueFull,
    /// The peer has no address; dropped.
    Unregistered,
}

struct Inner {
    identity: Identity,
    cluster_id: RwLock<Option<ClusterId>>,
    config: TransportConfig,
    directory: Arc<PeerDirectory>,
    resolver: Resolver,
    discovery: Option<Arc<Discovery>>,
    secret: Arc<Secret>,
    sink: Arc<dyn PeerSink>,
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    inbound: Mutex<BTreeMap<NodeId, inbound::Inbound>>,
    received: Mutex<BTreeMap<NodeId, Arc<Counters>>>,
    /// Who is sending us a snapshot: one at a time each, since one may be large.
    receiving: Mutex<BTreeSet<NodeId>>,
    complained: Mutex<BTreeMap<NodeId, Instant>>,
    /// Types of messages that never leave, see [`dropped_types`].
    drop_types: Vec<String>,
    closing: watch::Sender<bool>,
    runtime: tokio::runtime::Handle,
}

/// `CHRONIK_TEST_DROP_RAFT=MsgAppend,MsgHeartbeat` makes a broker that wins elections and then says nothing, which no cut
/// cable imitates: votes pass, the leader's own messages do not. Tests show the doctor such a cluster.
fn dropped_types() -> Vec<String> {
    let names = std::env::var("CHRONIK_TEST_DROP_RAFT").unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The transport; cheap to clone.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

/// What a [`Transport`] needs to exist.
#[derive(Debug)]
pub struct Parts {
    /// Who we are.
    pub identity: Identity,
    /// Our cluster; `None` for a joiner that does not know it yet.
    pub cluster_id: Option<ClusterId>,
    /// Limits.
    pub config: TransportConfig,
    /// Addresses.
    pub directory: Arc<PeerDirectory>,
    /// Names to addresses.
    pub resolver: Resolver,
    /// Whom to tell that names or connections fail.
    pub discovery: Option<Arc<Discovery>>,
    /// Without it nobody changes the members of the quorum, if there is one.
    pub secret: Arc<Secret>,
}

impl Transport {
    /// A transport without connections. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(parts: Parts, sink: Arc<dyn PeerSink>) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity: parts.identity,
                cluster_id: RwLock::new(parts.cluster_id),
                config: parts.config,
                directory: parts.directory,
                resolver: parts.resolver,
                discovery: parts.discovery,
                secret: parts.secret,
                sink,
                links: RwLock::default(),
                inbound: Mutex::default(),
                received: Mutex::default(),
                receiving: Mutex::default(),
                complained: Mutex::default(),
                drop_types: dropped_types(),
                closing: watch::Sender::new(false),
                runtime: tokio::runtime::Handle::current(),
            }),
        }
    }

    /// Connects to every peer in the directory, now and whenever one is added, until the transport closes.
    pub fn prewarm(&self) {
        let this = self.clone();
        let mut closing = self.inner.closing.subscribe();
        self.inner.runtime.spawn(async move {
            let mut changes = this.inner.directory.watch();
            loop {
                changes.mark_unchanged();
                for (id, _) in this.inner.directory.all() {
                    if id != this.inner.identity.node {
                        this.link(id).kick();
                    }
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    _ = closing.changed() => return,
                }
            }
        });
    }

    /// Queues `message` for its receiver. Never blocks; may be called from any thread.
    pub fn send(&self, message: RaftMessage) -> SendOutcome {
        let peer = node_of(message.to);
        if !self.inner.drop_types.is_empty() && self.inner.drop_types.iter().any(|t| t == status::type_name(&message)) {
            return SendOutcome::NotConnected;
        }
        if let Some(link) = self.inner.links.read().get(&peer) {
            return link.send(message);
        }
        match self.inner.directory.get(peer) {
            Ok(_) => self.link(peer).send(message),
            Err(error) => {
                self.complain(peer, &error);
                SendOutcome::Unregistered
            }
        }
    }

    /// Sends a snapshot message in pieces, apart from the ordered queue. Its fate is told by
    /// [`PeerEvent::SnapshotSent`], always.
    pub fn send_snapshot(&self, message: RaftMessage) {
        let peer = node_of(message.to);
        match self.inner.directory.get(peer) {
            Ok(_) => self.link(peer).send_snapshot(&self.inner, message),
            Err(error) => {
                self.complain(peer, &error);
                self.inner.sink.event(PeerEvent::SnapshotSent { peer, ok: false });
            }
        }
    }

    /// The connection to `peer`, if it is up; for the control client.
    #[must_use]
    pub fn channel(&self, peer: NodeId) -> Option<Channel> {
        self.inner.links.read().get(&peer).and_then(|link| link.channel())
    }

    /// Waits until the connection to `peer` is up, for at most `timeout`.
    pub async fn wait_channel(&self, peer: NodeId, timeout: Duration) -> Option<Channel> {
        self.inner.directory.get(peer).ok()?;
        let link = self.link(peer);
        link.kick();
        let mut channels = link.watch_channel();
        let ready = channels.wait_for(Option::is_some);
        tokio::time::timeout(timeout, ready).await.ok()?.ok()?.clone()
    }

    /// Peers that are connected now.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeId> {
        self.inner.links.read().iter().filter(|(_, link)| link.is_connected()).map(|(id, _)| *id).collect()
    }

    /// Addresses.
    #[must_use]
    pub fn directory(&self) -> &Arc<PeerDirectory> {
        &self.inner.directory
    }

    /// The secret shared by the brokers of the cluster.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.inner.secret
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Our cluster, when known.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.inner.cluster_id.read().clone()
    }

    /// A joiner learned which cluster it is in.
    pub fn set_cluster_id(&self, id: ClusterId) {
        *self.inner.cluster_id.write() = Some(id);
    }

    /// Tries to reach `peer` by a connection of its own: the address tried and how it went.
    pub async fn probe(&self, peer: NodeId) -> Result<String, String> {
        let result = connect::tcp(&self.inner, peer).await;
        match (self.inner.directory.get(peer), result) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(address), Ok((_, remote))) => Ok(format!("{address} ({remote}) accepts connections")),
            (Ok(_), Err(error)) => Err(error.to_string()),
        }
    }

    /// A connection to `peer`: the one in use, or one of its own when our stream is refused or down. For questions that a
    /// broker of another opinion must answer too.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub async fn any_channel(&self, peer: NodeId) -> Result<Channel, ConnectError> {
        match self.channel(peer) {
            Some(channel) => Ok(channel),
            None => connect::channel(&self.inner, peer).await.map(|(channel, _)| channel),
        }
    }

    /// Drops all connections, in and out.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }

    /// Everything about every peer.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        let links = self.inner.links.read();
        let inbound = self.inner.inbound.lock();
        let received = self.inner.received.lock();
        let mut ids: Vec<NodeId> = self.inner.directory.all().into_iter().map(|(id, _)| id).collect();
        ids.extend(links.keys().chain(inbound.keys()).chain(received.keys()));
        ids.sort_unstable();
        ids.dedup();
        let me = self.inner.identity.node;
        let describe = |id: NodeId| {
            let mut status = links.get(&id).map(|link| link.status()).unwrap_or_default();
            status.peer = id.0;
            status.address = self.inner.directory.get(id).ok().map(|a| a.to_string());
            status.received = received.get(&id).map(|c| c.by_type()).unwrap_or_default();
            status.receive_dropped = received.get(&id).map_or(0, |c| c.dropped());
            status.inbound = inbound.get(&id).map(inbound::Inbound::status);
            status
        };
        ids.into_iter().filter(|id| *id != me).map(describe).collect()
    }

    fn link(&self, peer: NodeId) -> Arc<Link> {
        if let Some(link) = self.inner.links.read().get(&peer) {
            return Arc::clone(link);
        }
        let mut links = self.inner.links.write();
        let make = || Link::spawn(&self.inner, peer);
        Arc::clone(links.entry(peer).or_insert_with(make))
    }

    /// One ERROR per peer and minute.
    fn complain(&self, peer: NodeId, error: &super::directory::UnregisteredPeer) {
        let mut complained = self.inner.complained.lock();
        let now = Instant::now();
        if complained.get(&peer).is_none_or(|at| now.duration_since(*at) > Duration::from_secs(60)) {
            complained.insert(peer, now);
            tracing::error!(%peer, %error, "a Raft message cannot be sent");
        }
    }
}

/// The node of a Raft id.
#[must_use]
pub fn node_of(raft_id: u64) -> NodeId {
    i32::try_from(raft_id).map_or(NodeId::NONE, NodeId)
}
