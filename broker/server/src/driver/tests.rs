//! Whole quorums in one process: real threads, real sockets, real files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chronik_consensus::{Config, Replica, Role, Start};
use chronik_core::controller::{
    Command, CommandResult, CreateTopic, Endpoint, Endpoints, Envelope, Liveness, LivenessConfig, METADATA_VERSION,
    NoOp, ProposalId, RegisterBroker, UnfenceBroker,
};
use chronik_log::disk::{Disk, MemDisk};
use chronik_model::{BrokerEpoch, ClusterId, ErrorCode, NodeId, RaftIndex, TopicId, Uuid};
use chronik_node::quorum::restore;
use tokio::net::TcpListener;

use super::contact::Answered;
use super::control::Control;
use super::heartbeat::{Lifecycle, OfflineCheck, Registration};
use super::inbox::{Inbox, Input};
use super::meta_client::Meta;
use super::raft_thread::RaftThread;
use super::{Leadership, Shared, clock, join};
use crate::peer::control::ControlClient;
use crate::peer::directory::{Origin, PeerAddress, PeerDirectory};
use crate::peer::dns::Resolver;
use crate::peer::transport::{Identity, Parts, Transport, TransportConfig, serve};
use crate::replication::meta::ProposeError;

const LONG: Duration = Duration::from_secs(30);

struct Node {
    meta: Meta,
    inbox: Inbox,
    transport: Transport,
    thread: Option<std::thread::JoinHandle<()>>,
    port: u16,
}

struct Cluster {
    ports: BTreeMap<i32, u16>,
    disks: BTreeMap<i32, MemDisk>,
    voters: Vec<NodeId>,
    runs: u8,
}

impl Cluster {
    async fn new(voters: i32, joiners: i32) -> Self {
        let mut ports = BTreeMap::new();
        // Held until all are known, so that no port is given twice.
        let mut held = Vec::new();
        for id in 1..=voters + joiners {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.insert(id, listener.local_addr().unwrap().port());
            held.push(listener);
        }
        let disks = ports.keys().map(|id| (*id, MemDisk::new())).collect();
        Self { ports, disks, voters: (1..=voters).map(NodeId).collect(), runs: 0 }
    }

    async fn start(&mut self, id: i32) -> Node {
        self.runs += 1;
        let node = NodeId(id);
        let founder = self.voters.contains(&node);
        let port = self.ports[&id];
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let incarnation = Uuid([self.runs; 16]);
        let shared = Shared::new(node, incarnation, if founder { self.voters.clone() } else { Vec::new() });
        *shared.cluster_id.write() = Some(ClusterId::from("c"));
        let (inbox, inputs) = Inbox::new(Arc::clone(&shared));
        let directory = Arc::new(PeerDirectory::default());
        for (peer, port) in &self.ports {
            let address = PeerAddress::parse(&format!("127.0.0.1:{port}"), 1).unwrap();
            directory.register(NodeId(*peer), &address, Origin::Configured);
        }
        let config = TransportConfig {
            queue_messages: 1024,
            max_frame_bytes: 8 << 20,
            snapshot_chunk_bytes: 64 << 10,
            max_snapshot_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(2),
            keepalive: Duration::from_secs(2),
            unacknowledged: Duration::from_secs(2),
            backoff: (Duration::from_millis(50), Duration::from_millis(300)),
        };
        let parts = Parts {
            identity: Identity {
                node,
                incarnation,
                address: format!("127.0.0.1:{port}"),
                kafka_address: "127.0.0.1:1".into(),
            },
            cluster_id: Some(ClusterId::from("c")),
            config,
            directory: Arc::clone(&directory),
            resolver: Resolver::new(Some(([127, 0, 0, 1], 9).into()), Duration::from_millis(100)).unwrap(),
            discovery: None,
            secret: crate::control::secret::Secret::new(None),
        };
        let transport = Transport::new(parts, Arc::new(inbox.clone()));
        let control = Control::new(Arc::clone(&shared), inbox.clone(), directory);
        tokio::spawn(serve(transport.clone(), listener, control, None));
        let disk: Arc<dyn Disk> = Arc::new(self.disks[&id].clone());
        let start = if founder { Start::Bootstrap { voters: self.voters.clone() } } else { Start::Join };
        let config = Config { seed: u64::from(self.runs), incarnation: u64::from(self.runs), ..Config::new(node) };
        let (replica, recovered) = Replica::open(config, disk, "raft", &start, clock::mono_ms()).unwrap();
        shared.applied.send_replace(restore(&recovered, &shared.state).unwrap());
        let liveness = Liveness::new(LivenessConfig::default());
        let runner = RaftThread::new(replica, Arc::clone(&shared), transport.clone(), inputs, liveness);
        let thread = std::thread::spawn(move || runner.run());
        transport.prewarm();
        let meta = Meta::new(shared, inbox.clone(), ControlClient::new(transport.clone()));
        Node { meta, inbox, transport, thread: Some(thread), port }
    }
}

impl Node {
    /// As if the process were killed: nothing is said to anybody.
    async fn kill(mut self) {
        self.transport.close();
        let _full = self.inbox.put(Input::Stop);
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }

    async fn leader(&self) -> NodeId {
        let mut leadership = self.meta.shared().leadership.subscribe();
        let known = tokio::time::timeout(LONG, leadership.wait_for(|l| l.leader.is_some())).await;
        known.expect("no leader").unwrap().leader.unwrap()
    }

    fn lifecycle(&self) -> Lifecycle {
        self.lifecycle_with(Arc::new(|| false))
    }

    fn lifecycle_with(&self, offline: OfflineCheck) -> Lifecycle {
        let endpoint = |port| Endpoint { host: "127.0.0.1".into(), port };
        let node = self.meta.shared().node;
        let registration = Registration {
            cluster_id: ClusterId::from("c"),
            directory: Uuid([100 + node.0 as u8; 16]),
            endpoints: Endpoints {
                kafka: endpoint(1),
                replication: endpoint(2),
                control: endpoint(self.port),
                admin: endpoint(3),
                listeners: Vec::new(),
            },
            rack: None,
            previous_epoch: BrokerEpoch::NONE,
        };
        let config = crate::config::LifecycleConfig {
            heartbeat_interval_ms: 100,
            session_timeout_ms: 3000,
            first_boot_wait_ms: 0,
            controlled_shutdown_timeout_ms: 5000,
            drain_timeout_ms: 0,
        };
        Lifecycle::new(self.meta.clone(), config, registration, offline)
    }

    /// Registered, sending heartbeats, and unfenced.
    async fn live(&self) -> Lifecycle {
        let lifecycle = self.lifecycle();
        tokio::time::timeout(LONG, lifecycle.register(|_| {})).await.expect("not registered").unwrap();
        let beating = lifecycle.clone();
        tokio::spawn(async move { beating.run().await });
        self.until(|meta| meta.shared().is_unfenced()).await;
        lifecycle
    }

    async fn until(&self, reached: impl Fn(&Meta) -> bool) {
        let mut applied = self.meta.shared().applied.subscribe();
        let waiting = async {
            while !reached(&self.meta) {
                applied.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("never reached");
    }
}

fn topic(name: &str) -> Command {
    CreateTopic {
        name: name.into(),
        topic_id: TopicId::from_u128(name.bytes().map(u128::from).sum()),
        partitions: 3,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: BTreeMap::new(),
    }
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_voters_elect_a_leader_and_a_follower_proposes_through_it() {
    let mut cluster = Cluster::new(3, 0).await;
    let nodes = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    for node in &nodes {
        node.live().await;
    }
    let leader = nodes[0].leader().await;
    let follower = nodes.iter().find(|node| node.meta.shared().node != leader).unwrap();
    let result = follower.meta.run(topic("t"), LONG).await.unwrap();
    assert!(matches!(result, CommandResult::Created(_)), "{result:?}");
    // On success the proposer has applied it; the others follow.
    assert!(follower.meta.shared().state.read().topic("t").is_some());
    for node in &nodes {
        node.until(|meta| meta.shared().state.read().topic("t").is_some()).await;
    }
    let again = follower.meta.run(topic("t"), LONG).await.unwrap().ok().unwrap_err();
    assert_eq!(again.code, ErrorCode::TopicAlreadyExists);
    let index = follower.meta.read_index(LONG).await.unwrap();
    assert!(index <= *follower.meta.shared().applied.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_fenced_at_once_and_the_quorum_goes_on_and_it_comes_back() {
    let mut cluster = Cluster::new(3, 0).await;
    let mut nodes = vec![cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    for node in &nodes {
        node.live().await;
    }
    let leader = nodes[0].leader().await;
    let position = nodes.iter().position(|node| node.meta.shared().node == leader).unwrap();
    nodes.remove(position).kill().await;
    let begin = std::time::Instant::now();
    for node in &nodes {
        node.until(|meta| meta.shared().state.read().broker(leader).is_some_and(|broker| broker.fenced)).await;
    }
    // Far below the session timeout: refused connections say it.
    assert!(begin.elapsed() < Duration::from_millis(2500), "{:?}", begin.elapsed());
    nodes[0].meta.run(topic("after"), LONG).await.unwrap().ok().unwrap();
    let back = cluster.start(leader.0).await;
    back.live().await;
    assert!(back.meta.shared().state.read().topic("after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_becomes_a_learner_and_follows() {
    let mut cluster = Cluster::new(1, 1).await;
    let first = cluster.start(1).await;
    first.live().await;
    first.meta.run(topic("before"), LONG).await.unwrap().ok().unwrap();
    let joiner = cluster.start(2).await;
    let joining = join::become_member(&joiner.meta, &joiner.transport, |_| {});
    tokio::time::timeout(LONG, joining).await.expect("never a member").unwrap();
    joiner.live().await;
    assert!(joiner.meta.shared().state.read().topic("before").is_some());
    joiner.meta.run(NoOp {}.into(), LONG).await.unwrap().ok().unwrap();
    assert!(first.meta.shared().status.load_full().unwrap().learners.contains(&NodeId(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_proposal_ends_at_its_deadline_and_is_applied_at_most_once_later() {
    let mut cluster = Cluster::new(2, 0).await;
    let alone = cluster.start(1).await;
    let error = alone.meta.run(topic("t"), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error, ProposeError::TimedOut);
    let other = cluster.start(2).await;
    alone.live().await;
    other.live().await;
    assert!(alone.meta.run(topic("t"), LONG).await.unwrap().ok().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_leaves_in_order_hands_the_quorum_over_first() {
    let mut cluster = Cluster::new(3, 0).await;
    let nodes = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    let mut lives = Vec::new();
    for node in &nodes {
        lives.push(node.live().await);
    }
    let leader = nodes[0].leader().await;
    let position = nodes.iter().position(|node| node.meta.shared().node == leader).unwrap();
    let begin = std::time::Instant::now();
    assert!(lives[position].leave().await, "the leader did not give its permission");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_ne!(nodes[position].leader().await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_broker_of_a_cluster_does_not_wait_for_a_permission_that_nobody_can_give() {
    let mut cluster = Cluster::new(3, 0).await;
    let mut nodes = vec![cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    let mut lives = Vec::new();
    for node in &nodes {
        lives.push(node.live().await);
    }
    nodes.remove(2).kill().await;
    nodes.remove(1).kill().await;
    let begin = std::time::Instant::now();
    assert!(!lives[0].leave().await);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(nodes[0].meta.shared().ready().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_the_same_broker_is_not_registered_while_the_first_lives() {
    let mut cluster = Cluster::new(1, 0).await;
    let first = cluster.start(1).await;
    first.live().await;
    let endpoint = Endpoint { host: "elsewhere".into(), port: 1 };
    let twin = RegisterBroker {
        node: NodeId(1),
        incarnation: Uuid([99; 16]),
        directories: vec![Uuid([99; 16])],
        cluster_id: ClusterId::from("c"),
        endpoints: Endpoints {
            kafka: endpoint.clone(),
            replication: endpoint.clone(),
            control: endpoint.clone(),
            admin: endpoint,
            listeners: Vec::new(),
        },
        rack: None,
        previous_broker_epoch: BrokerEpoch::NONE,
        software_version: String::new(),
        metadata_version: METADATA_VERSION,
    };
    let refused = first.meta.run(twin.into(), LONG).await.unwrap().ok().unwrap_err();
    assert_eq!(refused.code, ErrorCode::DuplicateBrokerRegistration);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_fences_nobody_whose_heartbeats_it_could_not_read() {
    let mut cluster = Cluster::new(1, 1).await;
    let first = cluster.start(1).await;
    first.live().await;
    let joiner = cluster.start(2).await;
    let joining = join::become_member(&joiner.meta, &joiner.transport, |_| {});
    tokio::time::timeout(LONG, joining).await.expect("never a member").unwrap();
    joiner.live().await;
    let before = *first.meta.shared().applied.borrow();
    let held = first.meta.shared().clone();
    // Longer than a session: the Raft thread cannot go on while somebody reads the state that it must change.
    let change = first.meta.clone();
    let waiting = tokio::spawn(async move { change.run(NoOp {}.into(), LONG).await });
    tokio::task::spawn_blocking(move || {
        let _reading = held.state.read();
        std::thread::sleep(Duration::from_millis(4_500));
    })
    .await
    .unwrap();
    waiting.await.unwrap().unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let fenced: Vec<NodeId> =
            first.meta.shared().state.read().brokers().filter(|broker| broker.fenced).map(|b| b.node).collect();
        assert_eq!(fenced, []);
    }
    let applied = *first.meta.shared().applied.borrow();
    assert_eq!(applied.0, before.0 + 1, "nobody was fenced and let in again");
}

/// Three voters, of which this broker is registered, let in, and follows the second.
fn follower() -> Arc<Shared> {
    let shared = Shared::new(NodeId(1), Uuid([1; 16]), vec![NodeId(1), NodeId(2), NodeId(3)]);
    let endpoint = Endpoint { host: "h".into(), port: 1 };
    let register = RegisterBroker {
        node: NodeId(1),
        incarnation: Uuid([1; 16]),
        directories: vec![Uuid([101; 16])],
        cluster_id: ClusterId::from("c"),
        endpoints: Endpoints {
            kafka: endpoint.clone(),
            replication: endpoint.clone(),
            control: endpoint.clone(),
            admin: endpoint,
            listeners: Vec::new(),
        },
        rack: None,
        previous_broker_epoch: BrokerEpoch::NONE,
        software_version: String::new(),
        metadata_version: METADATA_VERSION,
    };
    let broker_epoch = BrokerEpoch(5);
    let commands: [Command; 2] = [register.into(), UnfenceBroker { node: NodeId(1), broker_epoch }.into()];
    for (sequence, command) in (0..).zip(commands) {
        let id = ProposalId { origin: NodeId(1), incarnation: Uuid([1; 16]), sequence };
        let index = RaftIndex(5 + sequence);
        let applied = shared.state.write().apply_envelope(index, &Envelope::new(id, 0, command));
        applied.result.ok().unwrap();
        shared.applied.send_replace(index);
    }
    shared.set_broker_epoch(broker_epoch);
    assert!(shared.is_unfenced());
    shared
}

#[test]
fn a_broker_that_hears_of_a_leader_again_is_not_ready_before_it_knows_what_happened_meanwhile() {
    let shared = follower();
    let lead = |leader: Option<i32>, term| {
        let now = Leadership { leader: leader.map(NodeId), term, role: Role::Follower };
        shared.contact.led_by(now.reign(), clock::mono_ms());
        shared.leadership.send_replace(now);
    };
    let answered = |leader, term, applied| {
        let (sent_ms, applied) = (clock::mono_ms(), RaftIndex(applied));
        shared
            .contact
            .answered((NodeId(leader), term), Answered { sent_ms, session_ms: 60_000, fenced: false, applied });
    };
    lead(Some(2), 1);
    answered(2, 1, 6);
    assert_eq!(shared.ready(), Ok(()));
    // Cut off; the others elect the third, and it is the first of whom this broker hears again.
    lead(None, 1);
    assert!(shared.ready().unwrap_err().contains("no leader"));
    lead(Some(3), 2);
    assert!(shared.ready().unwrap_err().contains("no contact"));
    answered(3, 2, 9);
    assert!(shared.ready().unwrap_err().contains("up to 6, the controller has 9"));
    shared.applied.send_replace(RaftIndex(9));
    assert_eq!(shared.ready(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_become_ready_by_themselves_and_a_leader_without_followers_does_not_stay_so() {
    let mut cluster = Cluster::new(3, 0).await;
    let mut nodes = vec![cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    for node in &nodes {
        node.live().await;
    }
    let ready = async |node: &Node, expected: bool| {
        let asking = async {
            while node.meta.shared().ready().is_ok() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, asking).await.expect("readiness never changed");
    };
    for node in &nodes {
        ready(node, true).await;
    }
    let leader = nodes[0].leader().await;
    let position = nodes.iter().position(|node| node.meta.shared().node == leader).unwrap();
    let left = nodes.remove(position);
    for node in nodes {
        node.kill().await;
    }
    ready(&left, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_its_disk_does_not_ask_eagerly_for_what_it_will_not_get() {
    let mut cluster = Cluster::new(1, 0).await;
    let node = cluster.start(1).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let looked = Arc::clone(&looks);
    let lifecycle = node.lifecycle_with(Arc::new(move || {
        looked.fetch_add(1, Ordering::Relaxed);
        true
    }));
    lifecycle.register(|_| {}).await.unwrap();
    let begin = std::time::Instant::now();
    let beating = tokio::spawn(async move { lifecycle.run().await });
    // It looks at least once for each heartbeat, and twice at most.
    while looks.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(begin.elapsed() > Duration::from_millis(600), "{:?} for ten heartbeats or more", begin.elapsed());
    assert!(!node.meta.shared().is_unfenced());
    beating.abort();
}
