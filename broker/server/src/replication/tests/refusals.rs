//! What clients may not do, and what they are told: the codes that clients act on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use chronik_core::controller::{
    Command, CommandResult, CreateTopic, DeleteTopic, Envelope, FenceBroker, ProposalId, UnregisterBroker,
};
use chronik_model::batch::{BatchBuilder, BatchError, Compression, HEADER_BYTES, crc_matches};
use chronik_model::{ErrorCode, IncarnationId, NodeId, RaftIndex, TopicId, TopicPartition};
use chronik_wire::compression::compress;
use chronik_wire::messages as m;

use super::cluster::{Broker, Quorum, eventually};
use crate::replication::{Durability, Groups, OFFSETS_TOPIC};

fn batch() -> Bytes {
    let mut batch = BatchBuilder::new(crate::replication::wall_ms());
    batch.push(Some(b"k"), Some(b"v"));
    batch.build()
}

/// `plain` with `packed` for its records.
fn zstd(plain: &[u8], packed: &[u8]) -> Bytes {
    let mut zstd = BytesMut::from(&plain[..HEADER_BYTES]);
    zstd.extend_from_slice(packed);
    let length = i32::try_from(zstd.len()).unwrap() - 12;
    zstd[8..12].copy_from_slice(&length.to_be_bytes());
    zstd[22] |= 4;
    let Err(BatchError::Crc { computed, .. }) = crc_matches(&zstd) else { panic!("the attributes are covered") };
    zstd[17..21].copy_from_slice(&computed.to_be_bytes());
    zstd.freeze()
}

async fn produce(broker: &Broker, version: i16, name: &str, topic_id: TopicId, records: Bytes) -> i16 {
    let request = m::produce::ProduceRequest {
        acks: -1,
        timeout_ms: 5_000,
        topic_data: vec![m::produce::TopicProduceData {
            name: name.into(),
            topic_id,
            partition_data: vec![m::produce::PartitionProduceData { index: 0, records: Some(records) }],
        }],
        ..Default::default()
    };
    broker.call(version, &request).await.responses.remove(0).partition_responses.remove(0).error_code
}

/// Commits without telling the replica manager, as if it had not come round to it yet.
fn commit_only(quorum: &Quorum, index: u64, command: Command) {
    let id = ProposalId { origin: NodeId(8), incarnation: IncarnationId::from_u128(2), sequence: index };
    let envelope = Envelope::new(id, crate::replication::wall_ms(), command);
    let result = quorum.state.write().apply_envelope(RaftIndex(index), &envelope).result;
    assert!(!matches!(result, CommandResult::Error(_)), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_write_to_the_topic_of_the_groups() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let find = m::find_coordinator::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(broker.call(3, &find).await.error_code, 0);
    let id = quorum.state.read().topic(OFFSETS_TOPIC).unwrap().id;
    for version in [12, 13] {
        let code = produce(&broker, version, OFFSETS_TOPIC, id, batch()).await;
        assert_eq!(code, ErrorCode::InvalidTopicException.code(), "v{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_produce_by_topic_id_never_reaches_an_older_topic_of_the_same_name() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let old = quorum.state.read().topic("t").unwrap().id;
    let new = TopicId::from_u128(77);
    commit_only(&quorum, 1000, Command::DeleteTopic(DeleteTopic { topic_id: old }));
    let again = CreateTopic {
        name: "t".into(),
        topic_id: new,
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: std::collections::BTreeMap::new(),
    };
    commit_only(&quorum, 1001, Command::CreateTopic(again));
    assert_eq!(produce(&broker, 13, "", new, batch()).await, ErrorCode::NotLeaderOrFollower.code());
    assert_eq!(produce(&broker, 13, "", old, batch()).await, ErrorCode::UnknownTopicId.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn zstd_is_refused_to_clients_that_cannot_read_it() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let plain = batch();
    let zstd = zstd(&plain, &compress(Compression::Zstd, &plain[HEADER_BYTES..]).unwrap());
    assert_eq!(produce(&broker, 3, "t", TopicId::ZERO, zstd.clone()).await, 76);
    assert_eq!(produce(&broker, 7, "t", TopicId::ZERO, zstd).await, 0);
    let fetch = m::fetch::FetchRequest {
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![m::fetch::FetchTopic {
            topic: "t".into(),
            partitions: vec![m::fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    for (version, error) in [(4, 76), (9, 76), (10, 0), (12, 0)] {
        let answer = broker.call(version, &fetch).await.responses.remove(0).partitions.remove(0);
        assert_eq!((answer.error_code, answer.records.unwrap().is_empty()), (error, error != 0), "v{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_refused_before_anybody_looks_into_it() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let nonsense = |bytes| zstd(&batch(), &vec![0xff; bytes]);
    let code = produce(&broker, 9, "t", TopicId::ZERO, nonsense((1 << 20) - 100)).await;
    assert_eq!(code, ErrorCode::CorruptMessage.code());
    let code = produce(&broker, 9, "t", TopicId::ZERO, nonsense((1 << 20) + 100)).await;
    assert_eq!(code, ErrorCode::MessageTooLarge.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_does_not_wait_for_more_bytes_than_its_answer_may_hold() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    broker.produce("t", -1, &["a"]).await;
    let fetch = m::fetch::FetchRequest {
        max_wait_ms: 15_000,
        min_bytes: i32::MAX,
        max_bytes: 10,
        session_epoch: -1,
        topics: vec![m::fetch::FetchTopic {
            topic: "t".into(),
            partitions: vec![m::fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let started = Instant::now();
    let answer = broker.call(12, &fetch).await.responses.remove(0).partitions.remove(0);
    assert!(!answer.records.unwrap().is_empty());
    assert!(started.elapsed() < Duration::from_secs(10), "it waited in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_whose_records_are_damaged_are_not_served_and_the_reason_is_shown() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let find = m::find_coordinator::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(broker.call(3, &find).await.error_code, 0);
    let partition = m::offset_commit::OffsetCommitRequestPartition { committed_offset: 42, ..Default::default() };
    let commit = m::offset_commit::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![m::offset_commit::OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    };
    let committed = async || broker.call(8, &commit).await.topics[0].partitions[0].error_code;
    while committed().await == ErrorCode::CoordinatorLoadInProgress.code() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tp = TopicPartition::new(OFFSETS_TOPIC, 0);
    let partition = broker.manager.partition(&tp).unwrap();
    let load = |groups: &Arc<Groups>| {
        groups.on_role(&partition);
        groups.status().remove(0)
    };
    let whole = Groups::new(&broker.manager);
    load(&whole);
    eventually("loaded", || !whole.status()[0].loading).await;
    assert_eq!((whole.status()[0].groups, &whole.status()[0].failed), (1, &None));

    let log = broker.dir.path().join("data/__consumer_offsets-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let damaged = Groups::new(&broker.manager);
    load(&damaged);
    eventually("given up", || damaged.status()[0].failed.is_some()).await;
    let status = damaged.status().remove(0);
    assert!(status.loading && status.failed.unwrap().contains("the batch at offset"));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_no_brokers_are_refused_with_kafkas_codes() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    for (endpoint_type, code) in [(1, 0), (0, 42), (2, 114), (3, 115)] {
        let ask = m::describe_cluster::DescribeClusterRequest { endpoint_type, ..Default::default() };
        assert_eq!(broker.call(1, &ask).await.error_code, code, "endpoint type {endpoint_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_may_ask_again_while_its_broker_is_between_registrations() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let epoch = quorum.state.read().broker(NodeId(1)).unwrap().epoch;
    commit_only(
        &quorum,
        1000,
        Command::FenceBroker(FenceBroker { node: NodeId(1), broker_epoch: epoch, reason: "test".into() }),
    );
    commit_only(&quorum, 1001, Command::UnregisterBroker(UnregisterBroker { node: NodeId(1) }));
    let refused = broker.call(4, &m::init_producer_id::InitProducerIdRequest::default()).await;
    assert_eq!(refused.error_code, ErrorCode::CoordinatorLoadInProgress.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_quotes_the_longest_name_is_answered_all_the_same() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let config = m::create_topics::CreatableTopicConfig { name: "\u{e9}".repeat(16_383).as_str().into(), value: None };
    let topic = m::create_topics::CreatableTopic {
        name: "t".into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: vec![config],
        ..Default::default()
    };
    let request = m::create_topics::CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    assert_eq!(broker.call(7, &request).await.topics[0].error_code, ErrorCode::InvalidConfig.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_metadata_request_makes_a_bounded_number_of_topics() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let names: Vec<String> = (0..250).map(|n| format!("t{n:03}")).collect();
    let topics = names
        .iter()
        .map(|name| m::metadata::MetadataRequestTopic { name: Some(name.as_str().into()), ..Default::default() });
    let request = m::metadata::MetadataRequest {
        topics: Some(topics.collect()),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    let answer = broker.call(12, &request).await;
    assert_eq!(quorum.state.read().topics().count(), 100);
    let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
    assert!(codes[..100].iter().all(|code| *code == 0), "{codes:?}");
    // The client asks again, and gets further.
    assert!(codes[100..].iter().all(|code| *code == ErrorCode::LeaderNotAvailable.code()), "{codes:?}");
    broker.call(12, &request).await;
    assert_eq!(quorum.state.read().topics().count(), 200);
}
