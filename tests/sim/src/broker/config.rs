//! Settings of one simulated broker: production's names and defaults, with small files so that what is rare happens.

use chronik_core::controller::LivenessConfig;
use chronik_core::group::GroupConfig;
use chronik_model::{ClusterId, NodeId};

/// Settings of the metadata replica that a world may want to change.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// Milliseconds per tick.
    pub tick_ms: u64,
    /// Ticks of silence before a campaign.
    pub election_tick: usize,
    /// Ticks between heartbeats.
    pub heartbeat_tick: usize,
    /// Entries in the log before a state image is taken.
    pub compact_entries: u64,
    /// Entries kept behind it.
    pub compact_keep_entries: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Bytes of one piece of a state image.
    pub chunk_bytes: usize,
}

/// Settings of one broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Its id.
    pub node: NodeId,
    /// The founders of the cluster, as the mounted file says. They count with empty storage only.
    pub voters: Vec<NodeId>,
    /// Founds nothing even if it is named among the voters: asks to be let in.
    pub join: bool,
    /// Brokers whose addresses discovery knows; a joiner asks them.
    pub peers: Vec<NodeId>,
    /// The cluster; founders must agree on it, a joiner may be told later.
    pub cluster_id: Option<ClusterId>,
    /// `flush: every-ack`: acknowledgements wait for the disk.
    pub every_ack: bool,
    /// How long the committer takes to get to work; 0 = within the same event.
    pub flush_delay_ms: u64,
    /// Defaults of the cluster that the configuration file names: proposed at the start where the cluster has none.
    pub defaults: Vec<(String, String)>,
    /// `offsets.topic.num.partitions`.
    pub offsets_partitions: i32,
    /// `offsets.topic.replication.factor`; -1 = the cluster's default.
    pub offsets_replication_factor: i32,
    /// `broker.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: u64,
    /// Sessions of brokers, as the leader of the quorum keeps them.
    pub liveness: LivenessConfig,
    /// `controlled.shutdown.timeout.ms`.
    pub controlled_shutdown_timeout_ms: u64,
    /// `shutdown.drain.timeout.ms`.
    pub drain_timeout_ms: u64,
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
    /// `replica.fetch.wait.max.ms`.
    pub fetch_wait_max_ms: u64,
    /// `replica.fetch.backoff.ms`: the longest pause after an error.
    pub fetch_backoff_ms: u64,
    /// `replica.socket.timeout.ms`.
    pub socket_timeout_ms: u64,
    /// `replica.fetch.max.bytes`.
    pub fetch_partition_bytes: usize,
    /// `replica.fetch.response.max.bytes`.
    pub fetch_response_bytes: usize,
    /// `fetch.max.bytes` for consumers.
    pub fetch_max_bytes: usize,
    /// `replica.high.watermark.checkpoint.interval.ms`.
    pub checkpoint_interval_ms: u64,
    /// `log.retention.check.interval.ms`.
    pub retention_interval_ms: u64,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
    /// Produces and fetches that may wait in one partition.
    pub max_waiters: usize,
    /// Group coordinators.
    pub groups: GroupConfig,
    /// The metadata replica.
    pub raft: RaftSettings,
}

impl BrokerConfig {
    /// A founder of the cluster that `voters` found, or, if it is not one of them, a joiner that knows them.
    #[must_use]
    pub fn new(node: NodeId, voters: &[NodeId]) -> Self {
        let founds = voters.contains(&node);
        let defaults = [("log.segment.bytes", "16384")];
        Self {
            node,
            voters: voters.to_vec(),
            join: !founds,
            peers: voters.iter().copied().filter(|peer| *peer != node).collect(),
            cluster_id: founds.then(|| ClusterId::from("simulated")),
            every_ack: false,
            flush_delay_ms: 0,
            defaults: defaults.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            offsets_partitions: 2,
            offsets_replication_factor: -1,
            heartbeat_interval_ms: 500,
            liveness: LivenessConfig::default(),
            controlled_shutdown_timeout_ms: 15_000,
            drain_timeout_ms: 2_000,
            lag_max_ms: chronik_core::partition::DEFAULT_REPLICA_LAG_TIME_MAX_MS,
            fetch_wait_max_ms: 500,
            fetch_backoff_ms: 1_000,
            socket_timeout_ms: 5_000,
            fetch_partition_bytes: 16 << 10,
            fetch_response_bytes: 64 << 10,
            fetch_max_bytes: 64 << 10,
            checkpoint_interval_ms: 5_000,
            retention_interval_ms: 10_000,
            producer_id_expiration_ms: 24 * 60 * 60 * 1000,
            max_waiters: 10_000,
            groups: GroupConfig::default(),
            raft: RaftSettings {
                tick_ms: 100,
                election_tick: 10,
                heartbeat_tick: 3,
                compact_entries: 100,
                compact_keep_entries: 20,
                segment_bytes: 16 << 10,
                chunk_bytes: 2 << 10,
            },
        }
    }

    /// Whether it founds the cluster when its storage is empty.
    #[must_use]
    pub fn founds(&self) -> bool {
        !self.join && self.voters.contains(&self.node)
    }

    pub(super) fn replica(&self, seed: u64, incarnation: u64) -> chronik_consensus::Config {
        let raft = &self.raft;
        chronik_consensus::Config {
            tick_ms: raft.tick_ms,
            election_tick: raft.election_tick,
            heartbeat_tick: raft.heartbeat_tick,
            compact_entries: raft.compact_entries,
            compact_keep_entries: raft.compact_keep_entries,
            segment_bytes: raft.segment_bytes,
            seed,
            incarnation,
            ..chronik_consensus::Config::new(self.node)
        }
    }
}
