//! Large replicas are deleted without anybody waiting for it.

use std::sync::Arc;
use std::time::Instant;

use chronik_core::controller::{Command, DeleteTopic};

use super::cluster::{Broker, Quorum, eventually};
use super::slow_disk::{Gate, SlowDisk};
use crate::replication::Durability;

fn left(root: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(root.join("data")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".removed")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_deleted_topic_leaves_the_disk_the_broker_follows_the_metadata() {
    let (quorum, gate) = (Arc::<Quorum>::default(), Gate::default());
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let disk = SlowDisk::slow_to_delete(&root, &gate);
    let broker = Broker::start_on(&quorum, 1, Durability::Os, dir, disk).await;
    gate.close();
    let begin = Instant::now();
    for _ in 0..2 {
        // The same name each time: the lives do not get in each other's way.
        broker.create("t", 2, 1).await;
        assert_eq!(broker.produce("t", -1, &["a"]).await.error_code, 0);
        let topic_id = quorum.state.read().topic("t").unwrap().id;
        let quorum = Arc::clone(&quorum);
        tokio::task::spawn_blocking(move || quorum.commit(Command::DeleteTopic(DeleteTopic { topic_id })))
            .await
            .unwrap();
    }
    broker.create("next", 1, 1).await;
    assert_eq!(broker.produce("next", -1, &["b"]).await.error_code, 0);
    // Four deletions at the closed gate would have taken it minutes.
    assert!(begin.elapsed() < Gate::PATIENCE, "it waited for the disk: {:?}", begin.elapsed());
    assert_eq!(left(&root), 4);
    gate.open();
    eventually("everything deleted", || left(&root) == 0).await;
    assert_eq!(broker.manager.offline_reason(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_deletion_left_is_deleted_by_the_next_start() {
    let quorum = Arc::<Quorum>::default();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    std::fs::create_dir_all(root.join("data/t-0.0.removed")).unwrap();
    std::fs::write(root.join("data/t-0.0.removed/00000000000000000000.log"), b"x").unwrap();
    let _broker = Broker::start_in(&quorum, 1, Durability::Os, dir).await;
    eventually("the rest deleted", || left(&root) == 0).await;
}
