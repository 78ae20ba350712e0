//! The end of the data plane, beside what still runs.

use std::sync::Arc;

use chronik_log::LogError;
use chronik_node::storage::Checkpoints;

use super::cluster::{Broker, Quorum};
use crate::replication::Durability;

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_beside_a_checkpoint_round_is_clean() {
    for _ in 0..10 {
        let broker = Broker::start(&Arc::<Quorum>::default(), 1, Durability::Os).await;
        broker.create("t", 1, 1).await;
        assert_eq!(broker.produce("t", -1, &["a"]).await.error_code, 0);
        let manager = Arc::clone(&broker.manager);
        let (begun, first_round) = std::sync::mpsc::channel();
        let rounds = std::thread::spawn(move || {
            // As the periodic run does, only without a pause.
            while manager.maintain(false, &Checkpoints::default())?.is_some() {
                let _ = begun.send(());
            }
            Ok::<_, LogError>(())
        });
        first_round.recv().unwrap();
        broker.manager.shutdown().unwrap();
        rounds.join().unwrap().unwrap();
        assert_eq!(broker.manager.offline_reason(), None);
    }
}
