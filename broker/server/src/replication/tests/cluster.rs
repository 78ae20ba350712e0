//! Brokers in one process: the real metadata state machine behind a fake quorum, real logs in a temporary directory,
//! real sockets for replication, and Kafka frames through the real handlers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chronik_core::controller::{
    Change, Command, Endpoint, Endpoints, Envelope, METADATA_VERSION, MetadataState, ProposalId, RegisterBroker,
    UnfenceBroker,
};
use chronik_log::LogDir;
use chronik_log::disk::{Disk, RealDisk};
use chronik_model::batch::BatchBuilder;
use chronik_model::{BrokerEpoch, ClusterId, IncarnationId, NodeId, RaftIndex, Uuid};
use chronik_wire::messages as m;
use chronik_wire::{Message, Reader, Request, ResponseHeader, encode_request};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::watch;

use crate::api::{Api, ApiConfig, KafkaService, ReplicationService};
use crate::net::{ConnectionInfo, Limits, Listener, NetMetrics, Response, Service, Started};
use crate::replication::meta::{MetaClient, ProposeError, ProposeFuture};
use crate::replication::{Durability, Groups, ReplicaManager, ReplicationConfig};

/// The metadata of all brokers of a test; every proposal is committed at once.
#[derive(Default)]
pub(super) struct Quorum {
    pub(super) state: RwLock<MetadataState>,
    index: AtomicU64,
    pub(super) managers: Mutex<Vec<Weak<ReplicaManager>>>,
    committing: Mutex<VecDeque<Vec<Change>>>,
}

impl Quorum {
    pub(super) fn commit(&self, command: Command) -> chronik_core::controller::CommandResult {
        let index = self.index.fetch_add(1, Ordering::SeqCst) + 1;
        let id = ProposalId { origin: NodeId(9), incarnation: IncarnationId::from_u128(1), sequence: index };
        let mut queue = self.committing.lock();
        let applied = self
            .state
            .write()
            .apply_envelope(RaftIndex(index), &Envelope::new(id, crate::replication::wall_ms(), command));
        queue.push_back(applied.changes);
        while let Some(changes) = queue.pop_front() {
            let managers: Vec<_> = self.managers.lock().iter().filter_map(Weak::upgrade).collect();
            for manager in managers {
                manager.apply_changes(&changes);
            }
        }
        applied.result
    }
}

pub(super) struct Member {
    quorum: Arc<Quorum>,
    node: NodeId,
}

impl MetaClient for Member {
    fn node(&self) -> NodeId {
        self.node
    }

    fn broker_epoch(&self) -> BrokerEpoch {
        self.quorum.state.read().broker(self.node).map_or(BrokerEpoch::NONE, |broker| broker.epoch)
    }

    fn state(&self) -> RwLockReadGuard<'_, MetadataState> {
        self.quorum.state.read()
    }

    fn propose(&self, command: Command, _: Duration) -> ProposeFuture {
        let quorum = Arc::clone(&self.quorum);
        Box::pin(async move {
            tokio::task::spawn_blocking(move || quorum.commit(command)).await.map_err(|_| ProposeError::Stopped)
        })
    }
}

pub(super) struct Broker {
    pub(super) manager: Arc<ReplicaManager>,
    pub(super) api: Arc<Api>,
    service: KafkaService,
    connection: Arc<ConnectionInfo>,
    stop: watch::Sender<bool>,
    pub(super) dir: tempfile::TempDir,
}

impl Broker {
    pub(super) async fn start(quorum: &Arc<Quorum>, node: i32, flush: Durability) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(quorum, node, flush, dir).await
    }

    pub(super) async fn start_in(quorum: &Arc<Quorum>, node: i32, flush: Durability, dir: tempfile::TempDir) -> Self {
        let disk = RealDisk::open(dir.path()).unwrap();
        Self::start_on(quorum, node, flush, dir, disk).await
    }

    pub(super) async fn start_on(
        quorum: &Arc<Quorum>,
        node: i32,
        flush: Durability,
        dir: tempfile::TempDir,
        disk: impl Disk,
    ) -> Self {
        let log_dir = LogDir::new(Arc::new(disk));
        let meta = Arc::new(Member { quorum: Arc::clone(quorum), node: NodeId(node) });
        let mut config = ReplicationConfig {
            flush,
            lag_max: Duration::from_secs(60),
            // Long enough that a wake-up that is missing shows.
            fetch_max_wait: Duration::from_secs(15),
            ..ReplicationConfig::default()
        };
        config.groups.initial_rebalance_delay_ms = 0;
        let manager = ReplicaManager::new(Arc::<Member>::clone(&meta), log_dir, false, config);
        let groups = Groups::new(&manager);
        let api_config = ApiConfig { offsets_partitions: 1, ..ApiConfig::default() };
        let api = Api::new(meta, Arc::clone(&manager), groups, api_config);
        let any = "127.0.0.1:0".parse().unwrap();
        let service = Arc::new(ReplicationService(Arc::clone(&api)));
        let metrics = Arc::new(NetMetrics::default());
        let listener = Listener::bind("replication", any, service, Limits::default(), metrics).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listener.run(stopped, Duration::from_millis(100)));
        let endpoint = Endpoint { host: "127.0.0.1".into(), port };
        let endpoints = Endpoints {
            kafka: endpoint.clone(),
            replication: endpoint.clone(),
            control: endpoint.clone(),
            admin: endpoint,
            listeners: Vec::new(),
        };
        quorum.managers.lock().push(Arc::downgrade(&manager));
        let (quorum, starting) = (Arc::clone(quorum), Arc::clone(&manager));
        tokio::task::spawn_blocking(move || {
            if let Some(old) = quorum.state.read().broker(NodeId(node)).cloned() {
                quorum.managers.lock().retain(|m| m.upgrade().is_some_and(|m| m.meta.node() != NodeId(node)));
                quorum.managers.lock().push(Arc::downgrade(&starting));
                drop(old);
            }
            let epoch = match quorum.commit(Command::RegisterBroker(RegisterBroker {
                node: NodeId(node),
                incarnation: IncarnationId::from_u128(rand::random()),
                directories: vec![Uuid::from_u128(u128::from(node.unsigned_abs()) + 100)],
                cluster_id: ClusterId::from("test"),
                endpoints,
                rack: None,
                previous_broker_epoch: BrokerEpoch::NONE,
                software_version: "test".into(),
                metadata_version: METADATA_VERSION,
            })) {
                chronik_core::controller::CommandResult::Registered(epoch) => epoch,
                other => panic!("not registered: {other:?}"),
            };
            starting.reconcile_all();
            quorum.commit(Command::UnfenceBroker(UnfenceBroker { node: NodeId(node), broker_epoch: epoch }));
        })
        .await
        .unwrap();
        manager.start().unwrap();
        let connection = Arc::new(ConnectionInfo {
            id: 1,
            listener: None,
            peer: "127.0.0.1:9".parse().unwrap(),
            software: Mutex::new(None),
            parked_fetch: Mutex::new(None),
            answers: crate::net::AnswerMemory::new(1 << 30),
        });
        Self { service: KafkaService(Arc::clone(&api)), manager, api, connection, stop, dir }
    }

    /// Stops as a killed process does: nothing is flushed or said.
    pub(super) fn kill(self) -> tempfile::TempDir {
        self.stop.send_replace(true);
        self.manager.stop.send_replace(true);
        self.dir
    }

    pub(super) async fn raw(&self, frame: Bytes) -> Response {
        match self.service.start(&self.connection, frame) {
            Started::Answered(response) => response,
            Started::Ordered(future) | Started::Parked(future) => future.await,
        }
    }

    pub(super) async fn call<R: Request>(&self, version: i16, request: &R) -> R::Response {
        let frame = encode_request(version, 7, Some("test".into()), request).unwrap().into_bytes().slice(4..);
        let response = tokio::time::timeout(Duration::from_secs(20), self.raw(frame)).await.unwrap();
        let Response::Frame(slices) = response else { panic!("no answer to {}: {response:?}", R::NAME) };
        let mut bytes = BytesMut::new();
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        let mut reader = Reader::new(bytes.freeze().slice(4..));
        assert_eq!(ResponseHeader::decode(&mut reader, R::KEY, version).unwrap().correlation_id, 7);
        <R::Response as Message>::decode(&mut reader, version).unwrap()
    }

    pub(super) async fn create(&self, topic: &str, partitions: i32, replicas: i16) {
        let request = m::create_topics::CreateTopicsRequest {
            topics: vec![m::create_topics::CreatableTopic {
                name: topic.into(),
                num_partitions: partitions,
                replication_factor: replicas,
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = self.call(7, &request).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    pub(super) async fn produce(
        &self,
        topic: &str,
        acks: i16,
        values: &[&str],
    ) -> m::produce::PartitionProduceResponse {
        let mut batch = BatchBuilder::new(crate::replication::wall_ms());
        values.iter().for_each(|value| batch.push(Some(b"k"), Some(value.as_bytes())));
        let request = m::produce::ProduceRequest {
            acks,
            timeout_ms: 10_000,
            topic_data: vec![m::produce::TopicProduceData {
                name: topic.into(),
                partition_data: vec![m::produce::PartitionProduceData { index: 0, records: Some(batch.build()) }],
                ..Default::default()
            }],
            ..Default::default()
        };
        self.call(11, &request).await.responses.remove(0).partition_responses.remove(0)
    }

    pub(super) async fn fetch(&self, topic: &str, offset: i64, max_wait_ms: i32) -> m::fetch::PartitionData {
        let request = m::fetch::FetchRequest {
            max_wait_ms,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_epoch: -1,
            topics: vec![m::fetch::FetchTopic {
                topic: topic.into(),
                partitions: vec![m::fetch::FetchPartition {
                    fetch_offset: offset,
                    partition_max_bytes: 1 << 20,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        self.call(12, &request).await.responses.remove(0).partitions.remove(0)
    }
}

pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
