//! What the committed metadata means for one hosted partition: the settings of its topic, the state of the brokers.

use std::collections::BTreeMap;

use chronik_core::PartitionState;
use chronik_core::controller::{Broker, MetadataState, Topic, TopicConfig};
use chronik_core::partition::{BrokerStatus, DEFAULT_REPLICA_LAG_TIME_MAX_MS, ReplicaConfig};
use chronik_log::LogConfig;
use chronik_model::NodeId;
use chronik_model::batch::TimestampType;

/// The topic that holds groups and committed offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Settings of the broker that concern every partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerSettings {
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self { lag_max_ms: DEFAULT_REPLICA_LAG_TIME_MAX_MS, producer_id_expiration_ms: 24 * 60 * 60 * 1000 }
    }
}

/// What the settings of a topic mean for one of its partitions.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For the log.
    pub log: LogConfig,
    /// For the replica.
    pub replica: ReplicaConfig,
    /// Whether old records may be deleted at all.
    pub deletes_old: bool,
}

impl Settings {
    /// Those of `topic` on broker `me`.
    #[must_use]
    pub fn of(state: &MetadataState, topic: &Topic, me: NodeId, broker: &BrokerSettings) -> Self {
        let config = state.topic_config(topic, Some(me));
        Self {
            log: log_config(&config, broker.producer_id_expiration_ms),
            replica: ReplicaConfig {
                lag_max_ms: broker.lag_max_ms,
                min_insync_replicas: state.configured_min_isr(topic),
            },
            // Committed offsets live as long as the topic: only compaction may shorten it.
            deletes_old: config.cleanup_delete && !config.cleanup_compact && topic.name.as_str() != OFFSETS_TOPIC,
        }
    }
}

/// The log's view of a topic's settings.
#[must_use]
pub fn log_config(topic: &TopicConfig, producer_id_expiration_ms: i64) -> LogConfig {
    LogConfig {
        producer_id_expiration_ms,
        segment_bytes: usize::try_from(topic.segment_bytes).unwrap_or(usize::MAX),
        segment_ms: topic.segment_ms,
        index_interval_bytes: usize::try_from(topic.index_interval_bytes).unwrap_or(4096),
        max_message_bytes: usize::try_from(topic.max_message_bytes).unwrap_or(usize::MAX),
        retention_ms: (topic.retention_ms >= 0).then_some(topic.retention_ms),
        retention_bytes: u64::try_from(topic.retention_bytes).ok(),
        timestamp_type: if topic.log_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        timestamp_before_max_ms: topic.timestamp_before_max_ms,
        timestamp_after_max_ms: topic.timestamp_after_max_ms,
        ..LogConfig::default()
    }
}

/// A broker as replicas see it.
#[must_use]
pub fn broker_status(broker: &Broker) -> BrokerStatus {
    // Without its disk a broker can hold nothing, as if it were fenced.
    let fenced = broker.fenced || !broker.offline_dirs.is_empty();
    BrokerStatus { epoch: broker.epoch, fenced, shutting_down: broker.shutting_down.is_some() }
}

/// The brokers of the replicas of one partition.
#[must_use]
pub fn replica_statuses(state: &MetadataState, partition: &PartitionState) -> BTreeMap<NodeId, BrokerStatus> {
    partition.replicas.iter().filter_map(|node| Some((*node, broker_status(state.broker(*node)?)))).collect()
}
