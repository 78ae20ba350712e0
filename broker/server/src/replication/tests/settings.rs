//! Which settings of a topic its partitions follow.

use std::sync::Arc;

use chronik_wire::messages as m;

use super::cluster::{Broker, Quorum};
use crate::replication::Durability;

/// A state image replaces the metadata and names no change.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_came_with_a_state_image_are_in_force() {
    let quorum = Arc::<Quorum>::default();
    let broker = Broker::start(&quorum, 1, Durability::Os).await;
    broker.create("t", 1, 1).await;
    let long = "x".repeat(2_000);
    let told = std::mem::take(&mut *quorum.managers.lock());
    let request = m::incremental_alter_configs::IncrementalAlterConfigsRequest {
        resources: vec![m::incremental_alter_configs::AlterConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            configs: vec![m::incremental_alter_configs::AlterableConfig {
                name: "max.message.bytes".into(),
                config_operation: 0,
                value: Some("1000".into()),
            }],
        }],
        ..Default::default()
    };
    assert_eq!(broker.call(1, &request).await.responses[0].error_code, 0);
    *quorum.managers.lock() = told;
    assert_eq!(broker.produce("t", 1, &[&long]).await.error_code, 0, "nobody was told");
    let manager = Arc::clone(&broker.manager);
    tokio::task::spawn_blocking(move || manager.reconcile_all()).await.unwrap();
    assert_eq!(broker.produce("t", 1, &[&long]).await.error_code, 10, "the message is too large now");
}
