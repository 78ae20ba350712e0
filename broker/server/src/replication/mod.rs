//! The replicas of this broker: their logs, their leadership, and the records that move between brokers.
//!
//! `startup` makes one [`ReplicaManager`] after the metadata has caught up, calls [`ReplicaManager::reconcile_all`], and
//! then hands every list of committed changes to [`ReplicaManager::apply_changes`], in order, from one thread. The APIs
//! produce and fetch through it; a fetcher per leading broker pulls what this broker follows. [`Groups`] runs the group
//! coordinators on the led partitions of `__consumer_offsets`. At shutdown [`ReplicaManager::shutdown`] flushes and
//! writes checkpoints; the clean-shutdown marker is `startup`'s, and comes after it.
//!
//! What never happens: a partition's lock is held across an await, a metadata read, or another partition's lock; record
//! bytes are copied between socket and file; data of a deleted topic is served under a new topic of its name.

mod fetcher;
mod groups;
mod leader_link;
mod lookup;
mod maintenance;
mod manager;
pub mod meta;
mod partition;
mod pauses;
mod read;
mod reaper;
mod status;
mod throttle;
pub mod waiters;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chronik_node::Now;
pub use chronik_node::partition::{AppendOutcome, Durability};
pub(crate) use chronik_node::partition::{FetchedPartition, FoundOffset, ReadKind};
pub use chronik_node::settings::OFFSETS_TOPIC;

pub use groups::Groups;
pub use manager::ReplicaManager;
pub use partition::Partition;
pub(crate) use read::ReadBudget;
pub use status::{FetcherStatus, GroupShardStatus, PartitionStatus, ReplicationSnapshot};

/// Settings of the data plane.
#[derive(Clone, Debug)]
pub struct ReplicationConfig {
    /// When acknowledgements leave.
    pub flush: Durability,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// `replica.fetch.wait.max.ms`.
    pub fetch_max_wait: Duration,
    /// `replica.fetch.backoff.ms`: the longest pause after an error.
    pub fetch_backoff: Duration,
    /// `replica.socket.timeout.ms`: how long an answer may be overdue.
    pub socket_timeout: Duration,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration: Duration,
    /// `replica.fetch.max.bytes`, per partition.
    pub fetch_partition_bytes: i32,
    /// `replica.fetch.response.max.bytes`.
    pub fetch_response_bytes: i32,
    /// `replica.high.watermark.checkpoint.interval.ms`.
    pub checkpoint_interval: Duration,
    /// `log.retention.check.interval.ms`.
    pub retention_interval: Duration,
    /// Produces and fetches that may wait in one partition.
    pub max_waiters: usize,
    /// Settings of group coordinators.
    pub groups: chronik_core::group::GroupConfig,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            flush: Durability::Os,
            lag_max: Duration::from_millis(chronik_core::partition::DEFAULT_REPLICA_LAG_TIME_MAX_MS),
            fetch_max_wait: Duration::from_millis(500),
            fetch_backoff: Duration::from_secs(1),
            socket_timeout: Duration::from_secs(5),
            producer_id_expiration: Duration::from_hours(24),
            fetch_partition_bytes: 1024 * 1024,
            fetch_response_bytes: 10 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(5),
            retention_interval: Duration::from_secs(300),
            max_waiters: 100_000,
            groups: chronik_core::group::GroupConfig::default(),
        }
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds of the monotonic clock since this process first asked.
#[must_use]
pub fn mono_ms() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    // Starts above zero so that "long ago" can be told from "now" right after the start.
    let elapsed = START.get_or_init(std::time::Instant::now).elapsed();
    1_000_000 + u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Both clocks.
pub(crate) fn now() -> Now {
    Now { mono_ms: mono_ms(), wall_ms: wall_ms() }
}
