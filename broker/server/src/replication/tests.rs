//! Stories of brokers in one process; see [`cluster`] for what is real in them.

mod cluster;
mod coordinators;
mod refusals;
mod removal;
mod settings;
mod shutdown;
mod slow_disk;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chronik_core::controller::{Command, DeleteTopic, FenceBroker};
use chronik_model::batch::{BatchBuilder, BatchHeader};
use chronik_model::{ErrorCode, Offset, TopicPartition};
use chronik_wire::encode_request;
use chronik_wire::messages as m;

use self::cluster::{Broker, Quorum, eventually};
use self::slow_disk::{Gate, SlowDisk};
use super::Durability;
use crate::net::Response;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_produced_is_fetched_with_its_offsets() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    for (acks, base) in [(-1, 0), (1, 2)] {
        let produced = broker.produce("t", acks, &["a", "b"]).await;
        assert_eq!((produced.error_code, produced.base_offset), (0, base));
    }
    assert_eq!(broker.manager.snapshot(None).records_in, 4);
    let fetched = broker.fetch("t", 0, 0).await;
    assert_eq!((fetched.error_code, fetched.high_watermark), (0, 4));
    let records = fetched.records.unwrap();
    assert_eq!(BatchHeader::decode(&records).unwrap().base_offset, Offset(0));
    assert_eq!(broker.fetch("t", 3, 0).await.records.unwrap().len(), records.len() / 2, "the whole batch of offset 3");
    assert_eq!(broker.fetch("t", 5, 0).await.error_code, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(broker.fetch("missing", 0, 0).await.error_code, ErrorCode::UnknownTopicOrPartition.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_at_the_end_waits_for_the_next_record() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let started = std::time::Instant::now();
    let (fetched, produced) = tokio::join!(broker.fetch("t", 0, 15_000), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        broker.produce("t", -1, &["late"]).await
    });
    assert_eq!(produced.error_code, 0);
    assert!(!fetched.records.unwrap().is_empty());
    assert!(started.elapsed() < Duration::from_secs(10), "it was not woken");
    assert!(broker.fetch("t", 1, 30).await.records.unwrap().is_empty(), "and gives up at its deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_acks_leave_after_the_sync_and_survive_a_kill() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::EveryAck).await;
    broker.create("t", 1, 1).await;
    for acks in [-1, 1] {
        assert_eq!(broker.produce("t", acks, &["a"]).await.error_code, 0);
        let partition = broker.manager.partition(&TopicPartition::new("t", 0)).unwrap();
        assert!(partition.is_synced());
    }
    let dir = broker.kill();
    let broker = Broker::start_in(&quorum, 1, Durability::EveryAck, dir).await;
    eventually("leads again", || {
        broker.manager.partition(&TopicPartition::new("t", 0)).is_some_and(|p| p.led_epoch().is_some())
    })
    .await;
    // What was found is synced before it is shown.
    assert_eq!(broker.fetch("t", 0, 15_000).await.high_watermark, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_records_are_neither_acknowledged_nor_seen_before_they_are_synced() {
    let quorum = Arc::<Quorum>::default();
    let (gate, dir) = (Gate::default(), tempfile::tempdir().unwrap());
    let disk = SlowDisk::new(dir.path(), &gate);
    let broker = Broker::start_on(&quorum, 1, Durability::EveryAck, dir, disk).await;
    broker.create("t", 1, 1).await;
    let partition = broker.manager.partition(&TopicPartition::new("t", 0)).unwrap();
    gate.close();
    let (produced, fetched) = tokio::join!(broker.produce("t", -1, &["a"]), async {
        eventually("it is in the log", || partition.log_end() == Offset(1)).await;
        let early = broker.fetch("t", 0, 100).await;
        gate.open();
        early
    });
    assert_eq!((fetched.high_watermark, fetched.records.unwrap_or_default().len()), (0, 0));
    assert_eq!(produced.error_code, 0);
    let fetched = broker.fetch("t", 0, 5_000).await;
    assert_eq!((fetched.high_watermark, fetched.records.unwrap().is_empty()), (1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_follower_acknowledges_what_it_found_in_its_log_only_after_a_sync() {
    let quorum = Arc::<Quorum>::default();
    let one = Broker::start(&quorum, 1, Durability::Os).await;
    let two = Broker::start(&quorum, 2, Durability::Os).await;
    one.create("t", 1, 2).await;
    let tp = TopicPartition::new("t", 0);
    let leader_is_one = one.manager.partition(&tp).unwrap().led_epoch().is_some();
    let (leader, follower) = if leader_is_one { (one, two) } else { (two, one) };
    assert_eq!(leader.produce("t", -1, &["a"]).await.error_code, 0);
    let node = follower.manager.meta.node();
    let epoch = quorum.state.read().broker(node).unwrap().epoch;
    let old = Arc::downgrade(&follower.manager);
    let dir = follower.kill();
    // Dead processes hear of nothing, and do not truncate for it.
    eventually("the first life is over", || old.strong_count() == 0).await;
    let committing = Arc::clone(&quorum);
    let fence = Command::FenceBroker(FenceBroker { node, broker_epoch: epoch, reason: "test".into() });
    tokio::task::spawn_blocking(move || committing.commit(fence)).await.unwrap();

    let gate = Gate::default();
    gate.close();
    let disk = SlowDisk::new(dir.path(), &gate);
    let follower = Broker::start_on(&quorum, node.0, Durability::EveryAck, dir, disk).await;
    let partition = follower.manager.partition(&tp).unwrap();
    assert_eq!((partition.log_end(), partition.is_synced()), (Offset(1), false));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(quorum.state.read().partition(&tp).unwrap().isr.len(), 1, "it counted as a copy before it was one");
    gate.open();
    eventually("both in sync", || quorum.state.read().partition(&tp).unwrap().isr.len() == 2).await;
    assert!(partition.is_synced());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_appended_behind_the_sync_that_the_clean_shutdown_marker_vouches_for() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    assert_eq!(broker.produce("t", -1, &["a"]).await.error_code, 0);
    broker.manager.shutdown().unwrap();
    assert_eq!(broker.produce("t", 1, &["late"]).await.error_code, ErrorCode::KafkaStorageError.code());
    assert_eq!(broker.manager.partition(&TopicPartition::new("t", 0)).unwrap().log_end(), Offset(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_opened_takes_the_directory_offline() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    broker.manager.shutdown().unwrap();
    let dir = broker.kill();
    let segment = dir.path().join("data/t-0/00000000000000000000.log");
    std::fs::remove_file(&segment).unwrap();
    std::fs::create_dir(&segment).unwrap();
    let broker = Broker::start_in(&quorum, 1, Durability::Os, dir).await;
    let reason = broker.manager.offline_reason().unwrap();
    assert!(reason.contains("data/t-0"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_hold_what_acks_all_acknowledged_and_lead_when_the_leader_dies() {
    let quorum = Arc::<Quorum>::default();
    let one = Broker::start(&quorum, 1, Durability::Os).await;
    let two = Broker::start(&quorum, 2, Durability::Os).await;
    one.create("t", 1, 2).await;
    let tp = TopicPartition::new("t", 0);
    let leader_is_one = one.manager.partition(&tp).unwrap().led_epoch().is_some();
    let (leader, follower) = if leader_is_one { (one, two) } else { (two, one) };
    for value in ["a", "b", "c"] {
        assert_eq!(leader.produce("t", -1, &[value]).await.error_code, 0);
    }
    let behind = follower.manager.partition(&tp).unwrap();
    assert_eq!(behind.log_end(), Offset(3), "acknowledged means held by the follower");
    assert_eq!(follower.produce("t", -1, &["x"]).await.error_code, ErrorCode::NotLeaderOrFollower.code());

    let dead = leader.manager.meta.node();
    let epoch = quorum.state.read().broker(dead).unwrap().epoch;
    leader.kill();
    let committing = Arc::clone(&quorum);
    let fence = Command::FenceBroker(FenceBroker { node: dead, broker_epoch: epoch, reason: "test".into() });
    tokio::task::spawn_blocking(move || committing.commit(fence)).await.unwrap();
    assert!(behind.led_epoch().is_some(), "{:?}", behind.status());
    let fetched = follower.fetch("t", 0, 1_000).await;
    assert_eq!(fetched.error_code, 0);
    let mut values = 0;
    let mut records = fetched.records.unwrap();
    while !records.is_empty() {
        let header = BatchHeader::decode(&records).unwrap();
        values += header.record_count;
        records = records.slice(header.total_bytes..);
    }
    assert!(values <= 3);
    assert_eq!(behind.log_end(), Offset(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_follower_catches_up_and_joins_the_in_sync_set() {
    let quorum = Arc::<Quorum>::default();
    let one = Broker::start(&quorum, 1, Durability::Os).await;
    let two = Broker::start(&quorum, 2, Durability::EveryAck).await;
    one.create("t", 1, 2).await;
    let tp = TopicPartition::new("t", 0);
    let leader_is_one = one.manager.partition(&tp).unwrap().led_epoch().is_some();
    let (leader, follower) = if leader_is_one { (one, two) } else { (two, one) };
    let node = follower.manager.meta.node();
    let epoch = quorum.state.read().broker(node).unwrap().epoch;
    let dir = follower.kill();
    let committing = Arc::clone(&quorum);
    let fence = Command::FenceBroker(FenceBroker { node, broker_epoch: epoch, reason: "test".into() });
    tokio::task::spawn_blocking(move || committing.commit(fence)).await.unwrap();
    assert_eq!(leader.produce("t", 1, &["while away"]).await.error_code, 0);

    let follower = Broker::start_in(&quorum, node.0, Durability::Os, dir).await;
    eventually("both in sync", || quorum.state.read().partition(&tp).unwrap().isr.len() == 2).await;
    assert_eq!(leader.produce("t", -1, &["after"]).await.error_code, 0);
    assert_eq!(follower.manager.partition(&tp).unwrap().log_end(), Offset(2));
    let snapshot = follower.manager.snapshot(None);
    assert_eq!((snapshot.fetchers.len(), snapshot.partitions[0].role), (1, "follower"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_under_its_name_shows_nothing_of_the_old_one() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    broker.produce("t", -1, &["old"]).await;
    let delete = m::delete_topics::DeleteTopicsRequest {
        topic_names: vec!["t".into()],
        timeout_ms: 5_000,
        ..Default::default()
    };
    assert_eq!(broker.call(5, &delete).await.responses[0].error_code, 0);
    assert!(!broker.dir.path().join("data/t-0").exists());
    broker.create("t", 1, 1).await;
    let fetched = broker.fetch("t", 0, 0).await;
    assert_eq!((fetched.error_code, fetched.high_watermark), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_joins_commits_and_finds_its_offset_after_a_restart() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let find = m::find_coordinator::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    let found = broker.call(2, &find).await;
    assert_eq!((found.error_code, found.node_id), (0, 1));

    let mut join = m::join_group::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![m::join_group::JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::new() }],
        ..Default::default()
    };
    let mut joined = broker.call(9, &join).await;
    for _ in 0..200 {
        if joined.error_code != ErrorCode::CoordinatorLoadInProgress.code() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        joined = broker.call(9, &join).await;
    }
    assert_eq!(joined.error_code, ErrorCode::MemberIdRequired.code());
    join.member_id = joined.member_id.clone();
    let joined = broker.call(9, &join).await;
    assert_eq!((joined.error_code, joined.leader.as_str()), (0, joined.member_id.as_str()));
    let sync = m::sync_group::SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: vec![m::sync_group::SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"mine"),
        }],
        ..Default::default()
    };
    let synced = broker.call(5, &sync).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    let commit = m::offset_commit::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: joined.generation_id,
        member_id: joined.member_id.clone(),
        topics: vec![m::offset_commit::OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![m::offset_commit::OffsetCommitRequestPartition {
                committed_offset: 42,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(broker.call(8, &commit).await.topics[0].partitions[0].error_code, 0);

    broker.manager.shutdown().unwrap();
    let dir = broker.kill();
    let broker = Broker::start_in(&quorum, 1, Durability::Os, dir).await;
    let ask = m::offset_fetch::OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![m::offset_fetch::OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] }]),
        ..Default::default()
    };
    let mut fetched = broker.call(7, &ask).await;
    for _ in 0..200 {
        if fetched.error_code == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        fetched = broker.call(7, &ask).await;
    }
    assert_eq!(fetched.topics[0].partitions[0].committed_offset, 42, "{fetched:?}");
}

async fn committed_offset(broker: &Broker, topic: &str) -> i64 {
    let ask = m::offset_fetch::OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![m::offset_fetch::OffsetFetchRequestTopic { name: topic.into(), partition_indexes: vec![0] }]),
        ..Default::default()
    };
    let mut fetched = broker.call(7, &ask).await;
    for _ in 0..500 {
        if fetched.error_code == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        fetched = broker.call(7, &ask).await;
    }
    assert_eq!(fetched.error_code, 0);
    fetched.topics[0].partitions[0].committed_offset
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_has_no_committed_offsets_even_if_the_coordinator_was_away() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let find = m::find_coordinator::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(broker.call(2, &find).await.error_code, 0);
    let commit = |topic: &str| m::offset_commit::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![m::offset_commit::OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: vec![m::offset_commit::OffsetCommitRequestPartition {
                committed_offset: 42,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    for topic in ["here", "away", "stays"] {
        broker.create(topic, 1, 1).await;
        committed_offset(&broker, topic).await;
        assert_eq!(broker.call(8, &commit(topic)).await.topics[0].partitions[0].error_code, 0);
        assert_eq!(committed_offset(&broker, topic).await, 42);
    }
    let delete = |topic: &str| {
        let topic_id = quorum.state.read().topic(topic).unwrap().id;
        Command::DeleteTopic(DeleteTopic { topic_id })
    };
    let committing = (Arc::clone(&quorum), delete("here"));
    tokio::task::spawn_blocking(move || committing.0.commit(committing.1)).await.unwrap();
    broker.create("here", 1, 1).await;
    assert_eq!(committed_offset(&broker, "here").await, -1);

    broker.manager.shutdown().unwrap();
    let dir = broker.kill();
    let committing = (Arc::clone(&quorum), delete("away"));
    tokio::task::spawn_blocking(move || committing.0.commit(committing.1)).await.unwrap();
    let broker = Broker::start_in(&quorum, 1, Durability::Os, dir).await;
    assert_eq!(committed_offset(&broker, "stays").await, 42);
    broker.create("away", 1, 1).await;
    assert_eq!(committed_offset(&broker, "away").await, -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_advertised_api_is_answered_in_every_version_that_a_default_request_fits() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let ask = m::api_versions::ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
    };
    let advertised = broker.call(3, &ask).await.api_keys;
    assert_eq!(advertised.len(), broker.api.table.entries().count());
    assert!(advertised.iter().any(|api| (api.api_key, api.min_version, api.max_version) == (0, 0, 13)));
    for version in 0..=13 {
        // Version 0 has no null: there the empty list asks for everything.
        let topics = (version == 0).then(Vec::new);
        let response = broker.call(version, &m::metadata::MetadataRequest { topics, ..Default::default() }).await;
        assert_eq!(response.brokers.len(), 1, "v{version}");
    }
    // An unknown version of ApiVersions is answered in the format of version 0.
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 1, b'x', 0]);
    let Response::Frame(slices) = broker.raw(frame.freeze()).await else { panic!("not answered") };
    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!(bytes[8..10], ErrorCode::UnsupportedVersion.code().to_be_bytes());
    for bad in [&[0_u8, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff][..], &[0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff], &[0, 1], &[]] {
        let answer = broker.raw(Bytes::copy_from_slice(bad)).await;
        assert!(matches!(answer, Response::Close(_)), "{bad:?} got {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_pose_as_followers_and_transactions_are_refused_for_good() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    let request = m::fetch::FetchRequest { replica_id: 1, ..Default::default() };
    let frame = encode_request(12, 1, None, &request).unwrap().into_bytes().slice(4..);
    assert!(matches!(broker.raw(frame).await, Response::Close(_)));
    let request =
        m::init_producer_id::InitProducerIdRequest { transactional_id: Some("tx".into()), ..Default::default() };
    let refused = broker.call(4, &request).await;
    assert_eq!(refused.error_code, ErrorCode::TransactionalIdAuthorizationFailed.code());
    let first = broker.call(4, &m::init_producer_id::InitProducerIdRequest::default()).await;
    let second = broker.call(4, &m::init_producer_id::InitProducerIdRequest::default()).await;
    assert_eq!((first.error_code, second.producer_id), (0, first.producer_id + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_assigned_while_the_fetcher_waits_is_replicated_at_once() {
    let quorum = Arc::<Quorum>::default();
    let one = Broker::start(&quorum, 1, Durability::Os).await;
    let two = Broker::start(&quorum, 2, Durability::Os).await;
    let brokers = [one, two];
    let started = std::time::Instant::now();
    for topic in ["a", "b", "c", "d", "e", "f"] {
        brokers[0].create(topic, 1, 2).await;
        let tp = TopicPartition::new(topic, 0);
        let led = |broker: &&Broker| broker.manager.partition(&tp).is_some_and(|p| p.led_epoch().is_some());
        let leader = brokers.iter().find(led).unwrap();
        assert_eq!(leader.produce(topic, -1, &["x"]).await.error_code, 0);
        // Let both fetchers park, so that the next topic finds them waiting.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_returns_drops_what_nobody_else_had_and_takes_over_what_the_new_leader_wrote() {
    let quorum = Arc::<Quorum>::default();
    let one = Broker::start(&quorum, 1, Durability::Os).await;
    let two = Broker::start(&quorum, 2, Durability::Os).await;
    one.create("t", 1, 2).await;
    let tp = TopicPartition::new("t", 0);
    let leader_is_one = one.manager.partition(&tp).unwrap().led_epoch().is_some();
    let (old, new) = if leader_is_one { (one, two) } else { (two, one) };
    assert_eq!(old.produce("t", -1, &["common"]).await.error_code, 0);
    // The follower stops to fetch but stays in sync as far as anybody knows.
    new.manager.stop.send_replace(true);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(old.produce("t", 1, &["lost"]).await.error_code, 0);
    assert_eq!(new.manager.partition(&tp).unwrap().log_end(), Offset(1));

    let node = old.manager.meta.node();
    let epoch = quorum.state.read().broker(node).unwrap().epoch;
    old.manager.shutdown().unwrap();
    let dir = old.kill();
    let committing = Arc::clone(&quorum);
    let fence = Command::FenceBroker(FenceBroker { node, broker_epoch: epoch, reason: "test".into() });
    tokio::task::spawn_blocking(move || committing.commit(fence)).await.unwrap();
    assert_eq!(new.produce("t", 1, &["kept", "kept too"]).await.error_code, 0);

    let old = Broker::start_in(&quorum, node.0, Durability::Os, dir).await;
    eventually("caught up", || old.manager.partition(&tp).is_some_and(|p| p.log_end() == Offset(3))).await;
    let bytes = |broker: &Broker| {
        let partition = broker.manager.partition(&tp).unwrap();
        partition.read_log(Offset(0), 1 << 20, Offset(3)).unwrap()
    };
    assert_eq!(bytes(&old), bytes(&new), "the logs are the same byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_batch_that_is_sent_twice_is_in_the_log_once() {
    use chronik_model::{ProducerEpoch, ProducerId};
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let batch = |sequence| {
        let mut batch =
            BatchBuilder::new(crate::replication::wall_ms()).producer(ProducerId(5), ProducerEpoch(0), sequence);
        batch.push(None, Some(b"v"));
        batch.build()
    };
    let send = |records: Bytes| m::produce::ProduceRequest {
        acks: -1,
        timeout_ms: 5_000,
        topic_data: vec![m::produce::TopicProduceData {
            name: "t".into(),
            partition_data: vec![m::produce::PartitionProduceData { index: 0, records: Some(records) }],
            ..Default::default()
        }],
        ..Default::default()
    };
    for (sequence, expected) in [(0, (0, 0)), (1, (0, 1)), (0, (0, 0)), (1, (0, 1)), (7, (45, -1))] {
        let answer = broker.call(9, &send(batch(sequence))).await.responses.remove(0).partition_responses.remove(0);
        assert_eq!((answer.error_code, answer.base_offset), expected, "sequence {sequence}");
    }
    assert_eq!(broker.fetch("t", 0, 0).await.high_watermark, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_time_and_deleted_records_stay_deleted() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let before = crate::replication::wall_ms();
    for value in ["a", "b", "c"] {
        broker.produce("t", -1, &[value]).await;
    }
    let list = |timestamp| m::list_offsets::ListOffsetsRequest {
        replica_id: -1,
        topics: vec![m::list_offsets::ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![m::list_offsets::ListOffsetsPartition { timestamp, ..Default::default() }],
        }],
        ..Default::default()
    };
    let delete = m::delete_records::DeleteRecordsRequest {
        topics: vec![m::delete_records::DeleteRecordsTopic {
            name: "t".into(),
            partitions: vec![m::delete_records::DeleteRecordsPartition { partition_index: 0, offset: 2 }],
        }],
        timeout_ms: 5_000,
    };
    let mut expected = vec![(-1, 3), (-2, 0), (before, 0), (before + 600_000, -1), (-4, 0), (-5, -1)];
    for round in 0..2 {
        for (timestamp, offset) in &expected {
            let found = broker.call(11, &list(*timestamp)).await.topics.remove(0).partitions.remove(0);
            assert_eq!((found.error_code, found.offset), (0, *offset), "timestamp {timestamp}, round {round}");
        }
        let deleted = broker.call(2, &delete).await.topics.remove(0).partitions.remove(0);
        assert_eq!((deleted.error_code, deleted.low_watermark), (0, 2));
        expected = vec![(-1, 3), (-2, 2), (before, 2)];
    }
    assert_eq!(broker.fetch("t", 1, 0).await.error_code, ErrorCode::OffsetOutOfRange.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_answered_or_gone_waits_nowhere_any_more() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("idle", 1, 1).await;
    broker.create("busy", 1, 1).await;
    let waiting = |topic| {
        let partition = broker.manager.partition(&TopicPartition::new(topic, 0)).unwrap();
        partition.lock().waiting().1
    };
    let topic = |name: &str| m::fetch::FetchTopic {
        topic: name.into(),
        partitions: vec![m::fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }],
        ..Default::default()
    };
    let request = m::fetch::FetchRequest {
        max_wait_ms: 15_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic("idle"), topic("busy")],
        ..Default::default()
    };
    assert!(tokio::time::timeout(Duration::from_millis(30), broker.call(12, &request)).await.is_err(), "it waits");
    assert_eq!((waiting("idle"), waiting("busy")), (0, 0), "its client is gone");
    let (_, ()) = tokio::join!(broker.call(12, &request), async {
        eventually("it waits", || (waiting("idle"), waiting("busy")) == (1, 1)).await;
        broker.produce("busy", 1, &["x"]).await;
    });
    assert_eq!((waiting("idle"), waiting("busy")), (0, 0), "it is answered");
    broker.call(12, &request).await;
    assert_eq!(waiting("idle"), 0, "answered without waiting");
}
