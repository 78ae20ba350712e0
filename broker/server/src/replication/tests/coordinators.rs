//! When a coordinator of groups serves.

use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{Command, FenceBroker};
use chronik_model::{ErrorCode, NodeId, TopicPartition};
use chronik_wire::messages as m;
use tokio::time::Instant;

use super::cluster::{Broker, Quorum, eventually};
use crate::replication::{Durability, Groups, OFFSETS_TOPIC};

/// What the coordinator says of the offset of `t-0`: its error, and the offset.
async fn ask(broker: &Broker) -> (i16, i64) {
    let request = m::offset_fetch::OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![m::offset_fetch::OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] }]),
        ..Default::default()
    };
    let answer = broker.call(7, &request).await;
    let offset = answer.topics.first().and_then(|topic| topic.partitions.first()).map(|one| one.committed_offset);
    (answer.error_code, offset.unwrap_or(-1))
}

async fn commit(broker: &Broker, offset: i64) -> i16 {
    let partition = m::offset_commit::OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
    let request = m::offset_commit::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![m::offset_commit::OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    };
    broker.call(8, &request).await.topics[0].partitions[0].error_code
}

async fn fence(quorum: &Arc<Quorum>, node: NodeId) {
    let broker_epoch = quorum.state.read().broker(node).unwrap().epoch;
    let command = Command::FenceBroker(FenceBroker { node, broker_epoch, reason: "test".into() });
    let quorum = Arc::clone(quorum);
    tokio::task::spawn_blocking(move || quorum.commit(command)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_whose_log_failed_while_it_waited_says_so() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let find = m::find_coordinator::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(broker.call(2, &find).await.error_code, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while commit(&broker, 42).await != 0 {
        assert!(Instant::now() < deadline, "the commit is refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker.manager.log_dir.fail("append to", "a log", std::io::Error::other("the disk is gone"));
    assert_ne!(commit(&broker, 43).await, 0);
    let partition = broker.manager.partition(&TopicPartition::new(OFFSETS_TOPIC, 0)).unwrap();
    let waits = Groups::new(&broker.manager);
    waits.on_role(&partition);
    eventually("given up", || waits.status()[0].failed.is_some()).await;
    let status = waits.status().remove(0);
    assert!(status.loading && status.failed.unwrap().contains("cannot be committed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_serves_nothing_before_what_it_loaded_is_committed() {
    let quorum = Arc::<Quorum>::default();
    let mut brokers = Vec::new();
    for node in 1..=3 {
        brokers.push(Broker::start(&quorum, node, Durability::Os).await);
    }
    brokers[0].create("t", 1, 1).await;
    let find = m::find_coordinator::FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(brokers[0].call(2, &find).await.error_code, 0);
    let tp = TopicPartition::new(OFFSETS_TOPIC, 0);
    let in_sync = || quorum.state.read().partition(&tp).map_or(0, |state| state.isr.len());
    eventually("three replicas in sync", || in_sync() == 3).await;
    let leads = |broker: &Broker| broker.manager.partition(&tp).is_some_and(|p| p.led_epoch().is_some());
    eventually("somebody leads", || brokers.iter().any(leads)).await;
    let at = brokers.iter().position(leads).unwrap();
    let (leader, other, last) = (brokers.remove(at), brokers.remove(0), brokers.remove(0));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let error = commit(&leader, 42).await;
        if error == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the commit is refused with {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One is lost, so what comes now is never committed, and the third has it all the same.
    let dies = async |broker: Broker| {
        let (node, life) = (broker.manager.meta.node(), Arc::downgrade(&broker.manager));
        let dir = broker.kill();
        // A fetch that is parked there holds it.
        let deadline = Instant::now() + Duration::from_secs(60);
        while life.strong_count() > 0 {
            assert!(Instant::now() < deadline, "its life is not over");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (node, dir)
    };
    let returning = dies(other).await;
    let partition = last.manager.partition(&tp).unwrap();
    let before = partition.log_end();
    let commits = async {
        for _ in 0..100 {
            assert_ne!(commit(&leader, 43).await, 0);
        }
    };
    tokio::select! {
        () = commits => panic!("it never gets to the third"),
        () = eventually("the third has it", || partition.log_end() > before) => {}
    }
    // So is the leader: the third one leads, and cannot know what of its log was committed.
    let led = dies(leader).await;
    fence(&quorum, returning.0).await;
    fence(&quorum, led.0).await;
    let (mark, end) = (partition.high_watermark(), partition.log_end());
    assert!(mark < end, "{mark} {end}");
    eventually("the last one leads", || leads(&last)).await;
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        assert_eq!(ask(&last).await.0, ErrorCode::CoordinatorLoadInProgress.code());
        assert_eq!(commit(&last, 7).await, ErrorCode::CoordinatorLoadInProgress.code());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((partition.high_watermark(), partition.log_end()), (mark, end));

    // One returns, and confirms it.
    let (node, dir) = returning;
    let _other = Broker::start_in(&quorum, node.0, Durability::Os, dir).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut answer = ask(&last).await;
    while answer.0 != 0 {
        assert_eq!(answer.0, ErrorCode::CoordinatorLoadInProgress.code());
        assert!(Instant::now() < deadline, "still not served; {} of {end}", partition.high_watermark());
        tokio::time::sleep(Duration::from_millis(10)).await;
        answer = ask(&last).await;
    }
    assert_eq!(answer, (0, 43), "what was not committed is now");
    assert_eq!(partition.high_watermark(), end);
}
