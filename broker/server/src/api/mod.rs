//! The Kafka APIs: one file each, one table that both dispatches and is advertised.
//!
//! `startup` builds one [`Api`] and hands [`KafkaService`] to the client listener and [`ReplicationService`] to the
//! listener for followers. A handler decides at once, or returns a future: `Ordered` when the next request of the
//! connection must see its effect, `Parked` when its effect is in place and it only waits. What never happens: an API
//! is advertised that no handler answers; an error is mapped to success; a handler blocks its worker.

// Every handler has the same signature, so that one table dispatches to all; not each needs to own its request.
#![allow(clippy::needless_pass_by_value)]

mod admin;
mod alter_configs;
mod alter_partition_reassignments;
mod api_versions;
mod configs;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_topic_partitions;
mod elect_leaders;
mod endpoints;
mod errors;
mod fetch;
mod find_coordinator;
mod groups;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod service;
mod sync_group;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chronik_wire::{ApiKey, ApiTable, KString, RequestHeader};
use futures::future::BoxFuture;
use serde::Serialize;

use crate::net::ConnectionInfo;
use crate::replication::meta::MetaClient;
use crate::replication::{Groups, ReplicaManager};

pub use fetch::session::{SessionCache, SessionLimits};
pub use service::{KafkaService, ReplicationService};

/// Settings of the APIs.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `offsets.topic.num.partitions`.
    pub offsets_partitions: i32,
    /// `offsets.topic.replication.factor`; -1 = the cluster's default.
    pub offsets_replication_factor: i32,
    /// `fetch.max.bytes` of the broker: an answer to one Fetch is not larger, but for a single larger batch.
    pub fetch_max_bytes: usize,
    /// Bounds of the fetch session cache.
    pub sessions: SessionLimits,
    /// Answers to DescribeTopicPartitions name at most this many partitions.
    pub max_partitions_per_page: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            auto_create_topics: true,
            offsets_partitions: 16,
            offsets_replication_factor: -1,
            fetch_max_bytes: 55 * 1024 * 1024,
            sessions: SessionLimits::default(),
            max_partitions_per_page: 2000,
        }
    }
}

/// One request: its header and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    pub(crate) header: RequestHeader,
    pub(crate) connection: Arc<ConnectionInfo>,
}

impl Call {
    /// What the client calls itself.
    pub(crate) fn client_id(&self) -> &str {
        self.header.client_id.as_ref().map_or("", KString::as_str)
    }
}

/// How far a handler got.
pub(crate) enum Outcome<R> {
    /// It is answered.
    Done(R),
    /// The next request of the connection must see its effect.
    Ordered(BoxFuture<'static, R>),
    /// Its effect is in place, it only waits.
    Parked(BoxFuture<'static, R>),
    /// No answer is due (acks=0).
    Silent,
    /// No answer can say it: the connection is closed for this reason.
    Close(String),
}

/// Everything the handlers work with.
#[allow(missing_debug_implementations)]
pub struct Api {
    pub(crate) meta: Arc<dyn MetaClient>,
    pub(crate) replicas: Arc<ReplicaManager>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) config: ApiConfig,
    pub(crate) sessions: SessionCache,
    pub(crate) follower_sessions: SessionCache,
    pub(crate) producer_ids: init_producer_id::ProducerIds,
    /// Counters for `/metrics` and `/status`.
    pub metrics: ApiMetrics,
    pub(crate) table: ApiTable<service::Handler>,
    pub(crate) replication_table: ApiTable<service::Handler>,
    started: Instant,
}

impl Api {
    /// Puts the handlers together.
    #[must_use]
    pub fn new(
        meta: Arc<dyn MetaClient>,
        replicas: Arc<ReplicaManager>,
        groups: Arc<Groups>,
        config: ApiConfig,
    ) -> Arc<Self> {
        // Session ids start anywhere, so that a client does not take a session of this run for one of the last.
        let first_session = i32::try_from(rand::random::<u32>() >> 2).unwrap_or(1);
        Arc::new(Self {
            meta,
            replicas,
            groups,
            sessions: SessionCache::new(config.sessions, first_session),
            follower_sessions: SessionCache::new(config.sessions, first_session),
            config,
            producer_ids: init_producer_id::ProducerIds::default(),
            metrics: ApiMetrics::default(),
            table: service::client_table(),
            replication_table: service::replication_table(),
            started: Instant::now(),
        })
    }

    /// Monotonic milliseconds, for session ages.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Requests by API; indexed by the API key.
#[derive(Debug)]
pub struct ApiMetrics {
    requests: Vec<AtomicU64>,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        let last = ApiKey::ALL.iter().map(|key| key.as_i16()).max().unwrap_or(0);
        Self { requests: (0..=last).map(|_| AtomicU64::new(0)).collect() }
    }
}

/// Requests of one API since the start.
#[derive(Clone, Debug, Serialize)]
pub struct ApiCount {
    /// Kafka's name of it.
    pub api: &'static str,
    /// How many were started.
    pub requests: u64,
}

impl ApiMetrics {
    pub(crate) fn count(&self, key: ApiKey) {
        if let Some(counter) = usize::try_from(key.as_i16()).ok().and_then(|index| self.requests.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The APIs that were used.
    #[must_use]
    pub fn snapshot(&self) -> Vec<ApiCount> {
        ApiKey::ALL
            .iter()
            .filter_map(|key| {
                let counter = self.requests.get(usize::try_from(key.as_i16()).ok()?)?;
                let requests = counter.load(Ordering::Relaxed);
                (requests > 0).then_some(ApiCount { api: key.name(), requests })
            })
            .collect()
    }
}

/// A copy of a string of the request that outlives it.
pub(crate) fn owned(text: Option<&KString>) -> Option<String> {
    text.map(|text| text.as_str().to_owned())
}

/// The timeout of an administrative request, within reason.
pub(crate) fn timeout_of(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0).clamp(1_000, 120_000))
}
