//! The listening side: streams of other brokers, their snapshots, and control questions.
//!
//! [`serve`] runs until the transport closes. Every stream begins with a greeting that [`super::greeting`] judges; then its
//! messages go to the sink in order. A message that claims another sender or receiver than the stream's is dropped.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chronik_consensus::chunks::{Reassembler, SnapshotChunk};
use chronik_consensus::mirror::RaftMessage;
use chronik_model::NodeId;
use futures::Stream;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::connect;
use super::greeting::{self, Greeting, RefusedGreeting};
use super::status::{Counters, InboundStatus, type_name};
use super::{Inner, PeerEvent, Transport, node_of};
use crate::control::ControlApiServer;
use crate::peer::control::ControlService;
use crate::peer::directory::{Origin, PeerAddress};
use crate::peer::proto::peer_server::{Peer, PeerServer};
use crate::peer::proto::{self, Frame, Reply, frame, refusal, reply};

/// One peer's stream to us.
pub(super) struct Inbound {
    number: u64,
    greeting: Greeting,
    remote: String,
    since: Instant,
    /// When something last arrived, as milliseconds after `since`.
    heard: Arc<AtomicU64>,
}

impl Inbound {
    pub(super) fn status(&self) -> InboundStatus {
        let age = millis(self.since.elapsed());
        InboundStatus {
            address: self.greeting.address.clone(),
            remote: self.remote.clone(),
            incarnation: self.greeting.incarnation.to_string(),
            age_ms: age,
            silent_ms: age.saturating_sub(self.heard.load(Ordering::Relaxed)),
        }
    }
}

/// Serves peers, and operators, on `listener` until the transport closes.
///
/// # Errors
/// When the server cannot run.
pub async fn serve(
    transport: Transport,
    listener: TcpListener,
    control: Arc<dyn ControlService>,
    operators: Option<ControlApiServer>,
) -> Result<(), tonic::transport::Error> {
    let inner = Arc::clone(&transport.inner);
    let limit = inner.config.max_frame_bytes;
    connect::give_up_after(&listener, inner.config.unacknowledged);
    let mut closing = inner.closing.subscribe();
    let service = PeerServer::new(Service { transport, control })
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(inner.config.keepalive))
        .http2_keepalive_timeout(Some(inner.config.keepalive.max(Duration::from_secs(5))))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(256)
        .add_service(service)
        .add_optional_service(operators)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::select! {
        result = serving => result,
        _ = closing.wait_for(|closing| *closing) => Ok(()),
    }
}

/// The right to send us a snapshot, given back when dropped.
struct Receiving {
    inner: Arc<Inner>,
    peer: NodeId,
}

impl Receiving {
    fn begin(inner: &Arc<Inner>, peer: NodeId) -> Result<Self, Status> {
        if inner.receiving.lock().insert(peer) {
            return Ok(Self { inner: Arc::clone(inner), peer });
        }
        Err(Status::resource_exhausted("another snapshot of this node is still being received"))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.inner.receiving.lock().remove(&self.peer);
    }
}

struct Service {
    transport: Transport,
    control: Arc<dyn ControlService>,
}

impl Inner {
    /// Lets a peer in, or says why not.
    fn admit(&self, hello: &proto::Hello) -> Result<Greeting, RefusedGreeting> {
        let cluster_id = self.cluster_id.read().clone();
        let greeting = greeting::check(&self.identity, cluster_id.as_ref(), &self.sink.position(), hello, None)?;
        if greeting.node == self.identity.node {
            let message = format!("node {} connected to itself at {}", greeting.node, self.identity.address);
            return Err(RefusedGreeting::new(refusal::Reason::WrongNode, message));
        }
        if let Some(other) = self.inbound.lock().get(&greeting.node)
            && other.greeting.incarnation != greeting.incarnation
        {
            let message = format!(
                "two brokers with node id {}: one at {} (Kafka {}) is connected, one at {} (Kafka {}) wants to be",
                greeting.node,
                other.greeting.address,
                other.greeting.kafka_address,
                greeting.address,
                greeting.kafka_address
            );
            return Err(RefusedGreeting::new(refusal::Reason::DuplicateNode, message));
        }
        Ok(greeting)
    }

    fn hello(&self) -> proto::Hello {
        greeting::ours(&self.identity, self.cluster_id.read().as_ref(), &self.sink.position(), None)
    }

    fn counters(&self, peer: NodeId) -> Arc<Counters> {
        Arc::clone(self.received.lock().entry(peer).or_default())
    }

    fn deliver(&self, peer: NodeId, message: RaftMessage, counters: &Counters) {
        if node_of(message.from) != peer || node_of(message.to) != self.identity.node {
            counters.drop_one();
            tracing::warn!(%peer, from = message.from, to = message.to, "a message on the wrong stream was dropped");
            return;
        }
        tracing::trace!(%peer, kind = type_name(&message), index = message.index, "message in");
        counters.count(&message);
        if !self.sink.message(message) {
            counters.drop_one();
        }
    }

    async fn receive(&self, greeting: &Greeting, frames: &mut Streaming<Frame>, heard: &AtomicU64, since: Instant) {
        let peer = greeting.node;
        let counters = self.counters(peer);
        let mut closing = self.closing.subscribe();
        loop {
            let next = tokio::select! {
                next = frames.message() => next,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(%peer, %status, "stream from the peer broke");
                    return;
                }
            };
            heard.store(millis(since.elapsed()), Ordering::Relaxed);
            let Some(frame::Kind::Messages(messages)) = frame.kind else { continue };
            for bytes in messages.messages {
                match RaftMessage::decode(bytes) {
                    Ok(message) => self.deliver(peer, message, &counters),
                    Err(error) => {
                        counters.drop_one();
                        tracing::warn!(%peer, %error, "an undecodable message was dropped");
                    }
                }
            }
        }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for Service {
    type RaftStream = Replies;

    async fn raft(&self, request: Request<Streaming<Frame>>) -> Result<Response<Replies>, Status> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let remote = request.remote_addr();
        let mut frames = request.into_inner();
        let inner = Arc::clone(&self.transport.inner);
        let first = tokio::time::timeout(inner.config.connect_timeout, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no greeting"))??;
        let Some(frame::Kind::Hello(hello)) = first.and_then(|frame| frame.kind) else {
            return Err(Status::invalid_argument("the first frame must be a greeting"));
        };
        let greeting = match inner.admit(&hello) {
            Ok(greeting) => greeting,
            Err(refused) => return Ok(Response::new(refuse(&hello, refused))),
        };
        let peer = greeting.node;
        if let Ok(address) = PeerAddress::parse(&greeting.address, 9192) {
            inner.directory.register(peer, &address, Origin::Learned);
        }
        let (replies, stream) = mpsc::channel(1);
        let reply = Reply { kind: Some(reply::Kind::Hello(inner.hello())) };
        replies.send(Ok(reply)).await.map_err(|_| Status::cancelled("the peer went away"))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (since, heard) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let entry = Inbound {
            number,
            greeting: greeting.clone(),
            remote: remote.map(|r: SocketAddr| r.to_string()).unwrap_or_default(),
            since,
            heard: Arc::clone(&heard),
        };
        tracing::info!(%peer, remote = entry.remote, address = greeting.address, "peer connected to us");
        inner.inbound.lock().insert(peer, entry);
        inner.sink.event(PeerEvent::Heard(peer));
        self.transport.link(peer).kick();
        tokio::spawn(async move {
            inner.receive(&greeting, &mut frames, &heard, since).await;
            {
                let mut inbound = inner.inbound.lock();
                if inbound.get(&peer).is_some_and(|entry| entry.number == number) {
                    inbound.remove(&peer);
                }
            }
            tracing::info!(%peer, "the peer's stream to us ended");
            drop(replies);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotReceipt>, Status> {
        let inner = &self.transport.inner;
        let mut pieces = request.into_inner();
        let mut whole = Reassembler::new(inner.config.max_snapshot_bytes);
        let mut sender: Option<Receiving> = None;
        while let Some(piece) = pieces.message().await? {
            if let Some(hello) = piece.hello.as_ref().filter(|_| sender.is_none()) {
                let greeting = inner.admit(hello).map_err(|refused| Status::failed_precondition(refused.message))?;
                sender = Some(Receiving::begin(inner, greeting.node)?);
            }
            let Some(peer) = sender.as_ref().map(|sender| sender.peer) else {
                return Err(Status::invalid_argument("the first piece must greet"));
            };
            let chunk =
                SnapshotChunk::decode(piece.data).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let message = whole.push(chunk).map_err(|error| Status::data_loss(error.to_string()))?;
            if let Some(message) = message {
                tracing::info!(%peer, "snapshot received");
                inner.deliver(peer, message, &inner.counters(peer));
                return Ok(Response::new(proto::SnapshotReceipt {}));
            }
        }
        Err(Status::data_loss("the snapshot ended early"))
    }

    async fn propose(&self, request: Request<proto::ProposeRequest>) -> Result<Response<proto::ProposeReply>, Status> {
        self.transport.secret().admit_if_configured(&request)?;
        let request = request.into_inner();
        self.same_cluster(&request.cluster_id)?;
        Ok(Response::new(self.control.propose(request).await))
    }

    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatReply>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster_id)?;
        Ok(Response::new(self.control.heartbeat(request).await))
    }

    async fn membership(
        &self,
        request: Request<proto::MembershipRequest>,
    ) -> Result<Response<proto::MembershipReply>, Status> {
        self.transport.secret().admit_if_configured(&request)?;
        let request = request.into_inner();
        if !request.cluster_id.is_empty() {
            self.same_cluster(&request.cluster_id)?;
        }
        Ok(Response::new(self.control.membership(request).await))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        Ok(Response::new(self.control.status().await))
    }

    async fn probe(&self, request: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeReply>, Status> {
        let node = NodeId(request.into_inner().node);
        let (reachable, detail) = match self.transport.probe(node).await {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Ok(Response::new(proto::ProbeReply { reachable, detail }))
    }
}

impl Service {
    fn same_cluster(&self, theirs: &str) -> Result<(), Status> {
        match self.transport.cluster_id() {
            Some(ours) if ours.as_str() == theirs => Ok(()),
            Some(ours) => {
                Err(Status::failed_precondition(format!("this broker belongs to cluster {ours}, not to '{theirs}'")))
            }
            None => Err(Status::unavailable("this broker has not joined a cluster yet")),
        }
    }
}

fn refuse(hello: &proto::Hello, refused: RefusedGreeting) -> Replies {
    tracing::warn!(node = hello.node_id, address = hello.address, reason = ?refused.reason, "{}", refused.message);
    let refusal = proto::Refusal { reason: refused.reason.into(), message: refused.message };
    let reply = Reply { kind: Some(reply::Kind::Refusal(refusal)) };
    Box::pin(futures::stream::once(std::future::ready(Ok(reply))))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
