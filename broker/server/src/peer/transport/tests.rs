//! Two and three endpoints in one process, over real loopback sockets.

use std::sync::atomic::{AtomicU64, Ordering};

use chronik_consensus::mirror::{MessageType, Snapshot, SnapshotMetadata};
use chronik_model::Uuid;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::peer::control::ControlService;
use crate::peer::directory::{Origin, PeerAddress};
use crate::peer::proto;

const LONG: Duration = Duration::from_secs(20);

/// Takes what arrives. A gate can be closed to play a receiver that has no room.
struct Sink {
    messages: mpsc::UnboundedSender<RaftMessage>,
    events: mpsc::UnboundedSender<PeerEvent>,
    voters: Vec<NodeId>,
    refuse: AtomicU64,
}

impl PeerSink for Sink {
    fn position(&self) -> Position {
        Position { term: 7, bootstrap_voters: self.voters.clone(), ..Position::default() }
    }
    fn message(&self, message: RaftMessage) -> bool {
        if self.refuse.load(Ordering::Relaxed) > 0 {
            return false;
        }
        self.messages.send(message).is_ok()
    }
    fn event(&self, event: PeerEvent) {
        let _gone = self.events.send(event);
    }
}

struct Silent;

impl ControlService for Silent {
    fn propose(&self, _: proto::ProposeRequest) -> BoxFuture<'_, proto::ProposeReply> {
        Box::pin(async { proto::ProposeReply { outcome: None } })
    }
    fn heartbeat(&self, _: proto::HeartbeatRequest) -> BoxFuture<'_, proto::HeartbeatReply> {
        Box::pin(async { proto::HeartbeatReply { outcome: None } })
    }
    fn membership(&self, _: proto::MembershipRequest) -> BoxFuture<'_, proto::MembershipReply> {
        Box::pin(async { proto::MembershipReply { outcome: None } })
    }
    fn status(&self) -> BoxFuture<'_, proto::StatusReply> {
        Box::pin(async { proto::StatusReply { json: "{}".into(), wall_ms: 5 } })
    }
}

struct Endpoint {
    transport: Transport,
    messages: mpsc::UnboundedReceiver<RaftMessage>,
    events: mpsc::UnboundedReceiver<PeerEvent>,
    sink: Arc<Sink>,
    port: u16,
}

struct Plan {
    node: i32,
    run: u8,
    cluster: &'static str,
    voters: &'static [i32],
    port: u16,
    queue: usize,
}

impl Plan {
    fn node(node: i32) -> Self {
        Self { node, run: node as u8, cluster: "c", voters: &[1, 2, 3], port: 0, queue: 1024 }
    }

    async fn start(self) -> Endpoint {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (messages, message_stream) = mpsc::unbounded_channel();
        let (events, event_stream) = mpsc::unbounded_channel();
        let voters = self.voters.iter().map(|id| NodeId(*id)).collect();
        let sink = Arc::new(Sink { messages, events, voters, refuse: AtomicU64::new(0) });
        let config = TransportConfig {
            queue_messages: self.queue,
            max_frame_bytes: 8 << 20,
            snapshot_chunk_bytes: 1000,
            max_snapshot_bytes: 1 << 20,
            connect_timeout: Duration::from_secs(2),
            keepalive: Duration::from_secs(2),
            unacknowledged: Duration::from_secs(2),
            backoff: (Duration::from_millis(20), Duration::from_millis(100)),
        };
        let identity = Identity {
            node: NodeId(self.node),
            incarnation: Uuid([self.run; 16]),
            address: format!("127.0.0.1:{port}"),
            kafka_address: format!("127.0.0.1:{}", port - 1),
        };
        let parts = Parts {
            identity,
            cluster_id: Some(ClusterId::from(self.cluster)),
            config,
            directory: Arc::new(PeerDirectory::default()),
            resolver: Resolver::new(Some(([127, 0, 0, 1], 9).into()), Duration::from_millis(100)).unwrap(),
            discovery: None,
            secret: Secret::new(None),
        };
        let shared: Arc<dyn PeerSink> = sink.clone();
        let transport = Transport::new(parts, shared);
        tokio::spawn(serve(transport.clone(), listener, Arc::new(Silent), None));
        Endpoint { transport, messages: message_stream, events: event_stream, sink, port }
    }
}

impl Endpoint {
    fn knows(&self, node: i32, port: u16) {
        let address = PeerAddress::parse(&format!("127.0.0.1:{port}"), 1).unwrap();
        self.transport.directory().register(NodeId(node), &address, Origin::Configured);
    }

    async fn event(&mut self, wanted: impl Fn(&PeerEvent) -> bool) -> PeerEvent {
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the transport is gone");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("no such event")
    }

    async fn connected(&mut self, peer: i32) {
        self.event(|event| matches!(event, PeerEvent::Connected(id, _) if *id == NodeId(peer))).await;
    }

    async fn message(&mut self) -> RaftMessage {
        tokio::time::timeout(LONG, self.messages.recv()).await.expect("no message").unwrap()
    }

    fn status_of(&self, peer: i32) -> LinkStatus {
        self.transport.status().into_iter().find(|status| status.peer == peer).unwrap()
    }
}

fn message(from: u64, to: u64, index: u64) -> RaftMessage {
    RaftMessage { msg_type: MessageType::Heartbeat as i32, from, to, index, ..RaftMessage::default() }
}

async fn pair() -> (Endpoint, Endpoint) {
    let (mut one, mut two) = (Plan::node(1).start().await, Plan::node(2).start().await);
    one.knows(2, two.port);
    two.knows(1, one.port);
    one.transport.prewarm();
    two.transport.prewarm();
    one.connected(2).await;
    two.connected(1).await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_in_order_and_are_counted_by_type() {
    let (one, mut two) = pair().await;
    for index in 0..1000 {
        assert_eq!(one.transport.send(message(1, 2, index)), SendOutcome::Queued, "{index}");
        if index % 500 == 499 {
            for expected in index - 499..=index {
                assert_eq!(two.message().await.index, expected);
            }
        }
    }
    assert_eq!(one.status_of(2).sent["MsgHeartbeat"], 1000);
    assert_eq!(two.status_of(1).received["MsgHeartbeat"], 1000);
    assert_eq!(one.status_of(2).state, "connected");
    assert_eq!(one.status_of(2).peer_term, Some(7));
    assert!(two.status_of(1).inbound.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_nothing_fills_its_own_queue_and_delays_nobody_else() {
    let mut one = Plan { queue: 64, ..Plan::node(1) }.start().await;
    let mut three = Plan::node(3).start().await;
    // Accepts the stream, greets, and then never reads a frame.
    let stuck = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = stuck.local_addr().unwrap().port();
    tokio::spawn(stuck_peer(stuck));
    one.transport.prewarm();
    one.knows(3, three.port);
    one.connected(3).await;
    one.knows(2, port);
    one.connected(2).await;
    let large = |to, index| RaftMessage { context: vec![0; 100_000].into(), ..message(1, to, index) };
    let mut full = 0;
    for index in 0..400 {
        full += u32::from(one.transport.send(large(2, index)) == SendOutcome::QueueFull);
        assert_eq!(one.transport.send(message(1, 3, index)), SendOutcome::Queued);
        assert_eq!(three.message().await.index, index);
    }
    assert!(full > 0, "the stuck peer's queue never filled");
    assert_eq!(one.status_of(2).send_dropped, u64::from(full));
    assert_eq!(one.status_of(3).send_dropped, 0);
}

/// Node 2 as a gRPC server that greets and then ignores its input for ever.
async fn stuck_peer(listener: TcpListener) {
    use crate::peer::proto::peer_server::{Peer, PeerServer};
    use crate::peer::proto::{Frame, Reply, SnapshotChunk, SnapshotReceipt};
    use tonic::{Request, Response, Status, Streaming};
    struct Stuck;
    type Replies = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Reply, Status>> + Send>>;
    #[tonic::async_trait]
    impl Peer for Stuck {
        type RaftStream = Replies;
        async fn raft(&self, request: Request<Streaming<Frame>>) -> Result<Response<Replies>, Status> {
            let identity = Identity {
                node: NodeId(2),
                incarnation: Uuid([2; 16]),
                address: "stuck:1".into(),
                kafka_address: "stuck:2".into(),
            };
            let hello = greeting::ours(&identity, None, &Position::default(), None);
            let first = futures::stream::iter([Ok(Reply { kind: Some(proto::reply::Kind::Hello(hello)) })]);
            let unread = request.into_inner();
            let never = futures::stream::poll_fn(move |_| {
                let _keep = &unread;
                std::task::Poll::Pending
            });
            Ok(Response::new(Box::pin(futures::StreamExt::chain(first, never))))
        }
        async fn snapshot(&self, _: Request<Streaming<SnapshotChunk>>) -> Result<Response<SnapshotReceipt>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn propose(&self, _: Request<proto::ProposeRequest>) -> Result<Response<proto::ProposeReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn heartbeat(
            &self,
            _: Request<proto::HeartbeatRequest>,
        ) -> Result<Response<proto::HeartbeatReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn membership(
            &self,
            _: Request<proto::MembershipRequest>,
        ) -> Result<Response<proto::MembershipReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn probe(&self, _: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeReply>, Status> {
            Err(Status::unimplemented(""))
        }
    }
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = tonic::transport::Server::builder().add_service(PeerServer::new(Stuck)).serve_with_incoming(incoming);
    served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_is_reported_as_refusing_and_reached_again_when_it_is_back() {
    let (mut one, two) = pair().await;
    let port = two.port;
    two.transport.close();
    drop(two);
    one.event(|event| *event == PeerEvent::Lost(NodeId(2))).await;
    let gone = PeerEvent::Unreachable { peer: NodeId(2), refused: true, was_connected: true };
    one.event(|event| *event == gone).await;
    assert_eq!(one.transport.send(message(1, 2, 1)), SendOutcome::NotConnected);
    assert_eq!(one.status_of(2).last_error_kind, Some("refused"));
    let mut again = Plan { port, run: 9, ..Plan::node(2) }.start().await;
    one.connected(2).await;
    assert_eq!(one.transport.send(message(1, 2, 5)), SendOutcome::Queued);
    assert_eq!(again.message().await.index, 5, "something stale came first");
    assert_eq!(one.status_of(2).connects, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_another_cluster_is_refused_and_the_reason_is_shown() {
    let one = Plan::node(1).start().await;
    let stranger = Plan { cluster: "other", ..Plan::node(2) }.start().await;
    stranger.knows(1, one.port);
    let mut stranger = stranger;
    stranger.transport.prewarm();
    stranger.event(|event| matches!(event, PeerEvent::Unreachable { refused: false, .. })).await;
    let status = stranger.status_of(1);
    assert_eq!(status.last_error_kind, Some("wrong_cluster"));
    assert!(status.last_error.unwrap().contains("belongs to cluster c, node 2"));
    assert!(one.transport.status().iter().all(|s| s.inbound.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn founders_with_other_voters_and_wrong_nodes_are_refused() {
    let one = Plan::node(1).start().await;
    let mut other = Plan { voters: &[2], ..Plan::node(2) }.start().await;
    other.knows(1, one.port);
    other.transport.prewarm();
    other.event(|event| matches!(event, PeerEvent::Unreachable { .. })).await;
    assert_eq!(other.status_of(1).last_error_kind, Some("voters_differ"));
    let mut lost = Plan::node(3).start().await;
    lost.knows(2, one.port);
    lost.transport.prewarm();
    lost.event(|event| matches!(event, PeerEvent::Unreachable { .. })).await;
    assert_eq!(lost.status_of(2).last_error_kind, Some("wrong_node"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_broker_with_the_same_id_is_refused_and_both_addresses_are_named() {
    let (one, two) = pair().await;
    let mut twin = Plan { run: 77, ..Plan::node(2) }.start().await;
    twin.knows(1, one.port);
    twin.transport.prewarm();
    let event = twin.event(|event| matches!(event, PeerEvent::Duplicate { .. })).await;
    let PeerEvent::Duplicate { message, .. } = event else { unreachable!() };
    for port in [two.port, twin.port, two.port - 1, twin.port - 1] {
        assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_an_unregistered_peer_is_an_error() {
    let one = Plan::node(1).start().await;
    assert_eq!(one.transport.send(message(1, 9, 1)), SendOutcome::Unregistered);
    assert_eq!(one.transport.probe(NodeId(9)).await.unwrap_err(), "peer 9 has no registered address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_greets_us_is_learned_and_connected_to() {
    let (mut one, mut two) = (Plan::node(1).start().await, Plan::node(2).start().await);
    two.knows(1, one.port);
    two.transport.prewarm();
    two.connected(1).await;
    one.connected(2).await;
    assert_eq!(one.transport.send(message(1, 2, 3)), SendOutcome::Queued);
    assert_eq!(two.message().await.index, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_whole_and_its_fate_is_reported() {
    let (mut one, mut two) = pair().await;
    let image: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let snapshot = Snapshot {
        data: image.clone().into(),
        metadata: Some(SnapshotMetadata { conf_state: None, index: 4, term: 1 }),
    };
    let whole = RaftMessage { msg_type: MessageType::Snapshot as i32, snapshot: Some(snapshot), ..message(1, 2, 0) };
    one.transport.send_snapshot(whole.clone());
    assert_eq!(two.message().await, whole);
    one.event(|event| *event == PeerEvent::SnapshotSent { peer: NodeId(2), ok: true }).await;
    one.transport.send_snapshot(RaftMessage { to: 9, ..whole });
    one.event(|event| *event == PeerEvent::SnapshotSent { peer: NodeId(9), ok: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_under_a_false_name_and_those_without_room_are_dropped_and_counted() {
    let (one, mut two) = pair().await;
    one.transport.send(message(3, 2, 1));
    one.transport.send(message(1, 2, 2));
    assert_eq!(two.message().await.index, 2);
    assert_eq!(two.status_of(1).receive_dropped, 1);
    two.sink.refuse.store(1, Ordering::Relaxed);
    one.transport.send(message(1, 2, 3));
    let client = crate::peer::control::ControlClient::new(one.transport.clone());
    while two.status_of(1).receive_dropped < 2 {
        // Each round trip gives the stream time; the question itself is tested, too.
        assert_eq!(client.status(NodeId(2), LONG).await.unwrap().wall_ms, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_another_cluster_is_refused() {
    let (one, _two) = pair().await;
    let client = crate::peer::control::ControlClient::new(one.transport.clone());
    let request = proto::HeartbeatRequest { cluster_id: "other".into(), ..Default::default() };
    let error = client.heartbeat(NodeId(2), request, LONG).await.unwrap_err();
    assert!(error.to_string().contains("belongs to cluster c"), "{error}");
}

/// Greets whoever comes and throws it out again.
struct Flapper {
    identity: Identity,
    let_in: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl proto::peer_server::Peer for Flapper {
    type RaftStream = futures::stream::Once<std::future::Ready<Result<proto::Reply, tonic::Status>>>;

    async fn raft(
        &self,
        _: tonic::Request<tonic::Streaming<proto::Frame>>,
    ) -> Result<tonic::Response<Self::RaftStream>, tonic::Status> {
        self.let_in.fetch_add(1, Ordering::Relaxed);
        let hello = greeting::ours(&self.identity, Some(&ClusterId::from("c")), &Position::default(), None);
        let reply = proto::Reply { kind: Some(proto::reply::Kind::Hello(hello)) };
        Ok(tonic::Response::new(futures::stream::once(std::future::ready(Ok(reply)))))
    }

    async fn snapshot(
        &self,
        _: tonic::Request<tonic::Streaming<proto::SnapshotChunk>>,
    ) -> Result<tonic::Response<proto::SnapshotReceipt>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
    async fn propose(
        &self,
        _: tonic::Request<proto::ProposeRequest>,
    ) -> Result<tonic::Response<proto::ProposeReply>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
    async fn heartbeat(
        &self,
        _: tonic::Request<proto::HeartbeatRequest>,
    ) -> Result<tonic::Response<proto::HeartbeatReply>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
    async fn membership(
        &self,
        _: tonic::Request<proto::MembershipRequest>,
    ) -> Result<tonic::Response<proto::MembershipReply>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
    async fn status(
        &self,
        _: tonic::Request<proto::StatusRequest>,
    ) -> Result<tonic::Response<proto::StatusReply>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
    async fn probe(
        &self,
        _: tonic::Request<proto::ProbeRequest>,
    ) -> Result<tonic::Response<proto::ProbeReply>, tonic::Status> {
        Err(tonic::Status::unimplemented(""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lets_us_in_and_throws_us_out_is_not_stormed() {
    let one = Plan::node(1).start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let let_in = Arc::new(AtomicU64::new(0));
    let identity = Identity {
        node: NodeId(2),
        incarnation: Uuid([2; 16]),
        address: address.to_string(),
        kafka_address: address.to_string(),
    };
    let flapper = proto::peer_server::PeerServer::new(Flapper { identity, let_in: Arc::clone(&let_in) });
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = tokio::spawn(tonic::transport::Server::builder().add_service(flapper).serve_with_incoming(incoming));
    let address = PeerAddress::parse(&address.to_string(), 1).unwrap();
    one.transport.directory().register(NodeId(2), &address, Origin::Configured);
    one.transport.prewarm();
    tokio::time::sleep(Duration::from_secs(2)).await;
    serving.abort();
    one.transport.close();
    let times = let_in.load(Ordering::Relaxed);
    // Pauses of 20 to 100 ms, half of it random.
    assert!((5..=60).contains(&times), "let in {times} times in two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_questions_to_a_peer_that_is_down_do_not_make_a_storm() {
    let one = Plan::node(1).start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = PeerAddress::parse(&listener.local_addr().unwrap().to_string(), 1).unwrap();
    let came = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&came);
    let hanging_up = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    one.transport.directory().register(NodeId(2), &address, Origin::Configured);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        assert!(one.transport.wait_channel(NodeId(2), Duration::from_millis(1)).await.is_none());
    }
    hanging_up.abort();
    one.transport.close();
    let times = came.load(Ordering::Relaxed);
    assert!((2..=52).contains(&times), "connected {times} times in a second, with pauses of at least 20 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_sends_one_snapshot_at_a_time() {
    let two = Plan::node(2).start().await;
    let one = Plan::node(1).start().await;
    let address = PeerAddress::parse(&format!("127.0.0.1:{}", two.port), 1).unwrap();
    one.transport.directory().register(NodeId(2), &address, Origin::Configured);
    let channel = one.transport.any_channel(NodeId(2)).await.unwrap();
    let position = one.sink.position();
    let hello = greeting::ours(one.transport.identity(), Some(&ClusterId::from("c")), &position, Some(NodeId(2)));
    let first = proto::SnapshotChunk { hello: Some(hello), data: bytes::Bytes::from_static(b"nonsense") };
    let mut client = proto::peer_client::PeerClient::new(channel);
    let mut slow = client.clone();
    let (pieces, stream) = mpsc::channel(1);
    let greeting_only = proto::SnapshotChunk { data: unfinished(), ..first.clone() };
    pieces.send(greeting_only).await.unwrap();
    let waiting = tokio::spawn(async move { slow.snapshot(tokio_stream::wrappers::ReceiverStream::new(stream)).await });
    let wait = async {
        while !two.transport.inner.receiving.lock().contains(&NodeId(1)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap();
    let refused = client.snapshot(futures::stream::iter([first.clone()])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    drop(pieces);
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), tonic::Code::DataLoss);
    let again = client.snapshot(futures::stream::iter([first])).await.unwrap_err();
    assert_ne!(again.code(), tonic::Code::ResourceExhausted, "{again}");
}

/// The first half of a snapshot.
fn unfinished() -> bytes::Bytes {
    use prost::Message as _;
    let metadata = SnapshotMetadata { conf_state: None, index: 9, term: 3 };
    let message = RaftMessage {
        msg_type: MessageType::Snapshot as i32,
        to: 2,
        from: 1,
        term: 3,
        snapshot: Some(Snapshot { data: vec![7; 100].into(), metadata: Some(metadata) }),
        ..RaftMessage::default()
    };
    let mut pieces = chronik_consensus::chunks::split(message, 1, 50);
    pieces.next().unwrap().encode_to_vec().into()
}
