//! Settings of a replica, validated before it is opened.

use chronik_model::NodeId;

use crate::error::ConfigError;

/// Settings of a replica. The defaults are those of the product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Milliseconds per tick.
    pub tick_ms: u64,
    /// A follower that hears nothing for this many ticks (up to twice as many, jittered) campaigns.
    pub election_tick: usize,
    /// The leader sends heartbeats every so many ticks.
    pub heartbeat_tick: usize,
    /// Bytes of entries per message.
    pub max_size_per_msg: u64,
    /// Append messages on the way to one peer.
    pub max_inflight_msgs: usize,
    /// Ask before disturbing (Raft thesis 9.6).
    pub pre_vote: bool,
    /// A leader that does not hear a majority steps down.
    pub check_quorum: bool,
    /// Bytes of one proposal.
    pub max_proposal_bytes: usize,
    /// Bytes of proposals appended but not committed; more are dropped.
    pub max_uncommitted_bytes: u64,
    /// Bytes of committed entries handed out at once.
    pub max_committed_bytes_per_ready: u64,
    /// Seed of the election jitter; the same seed and inputs give the same run.
    pub seed: u64,
    /// Differs between runs of this node, so that answers meant for an earlier run are recognized.
    pub incarnation: u64,
    /// Compact when the entries in the log take more bytes than this.
    pub compact_bytes: u64,
    /// Compact when the log has more entries than this.
    pub compact_entries: u64,
    /// Entries kept behind the image for followers that lag a little.
    pub compact_keep_entries: u64,
    /// Size of a log segment; one spare is always preallocated.
    pub segment_bytes: u64,
    /// Bytes of a state image.
    pub max_snapshot_bytes: usize,
    /// A learner that lacks more entries is not promoted.
    pub promote_max_lag: u64,
    /// Reads waiting for their index.
    pub max_pending_reads: usize,
}

impl Config {
    /// The defaults for `node`.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            tick_ms: 100,
            election_tick: 10,
            heartbeat_tick: 3,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            pre_vote: true,
            check_quorum: true,
            max_proposal_bytes: 1 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_committed_bytes_per_ready: 4 << 20,
            seed: 0,
            incarnation: 0,
            compact_bytes: 16 << 20,
            compact_entries: 50_000,
            compact_keep_entries: 5_000,
            segment_bytes: 4 << 20,
            max_snapshot_bytes: 512 << 20,
            promote_max_lag: 1_000,
            max_pending_reads: 4_096,
        }
    }

    /// Refuses values that cannot work, naming the first.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, key: &'static str, value: &dyn ToString, accepted: &'static str| {
            if ok { Ok(()) } else { Err(ConfigError { key, value: value.to_string(), accepted }) }
        };
        check(self.node.0 > 0, "node.id", &self.node, "1 or more")?;
        check((1..=60_000).contains(&self.tick_ms), "raft.tick.ms", &self.tick_ms, "1 to 60000")?;
        check((1..=1_000).contains(&self.heartbeat_tick), "raft.heartbeat.tick", &self.heartbeat_tick, "1 to 1000")?;
        check(
            self.election_tick > self.heartbeat_tick && self.election_tick <= 10_000,
            "raft.election.tick",
            &self.election_tick,
            "more than raft.heartbeat.tick, at most 10000",
        )?;
        check(
            (1 << 10..=32 << 20).contains(&self.max_size_per_msg),
            "raft.max.size.per.msg",
            &self.max_size_per_msg,
            "1 KiB to 32 MiB",
        )?;
        check(
            (1..=65_536).contains(&self.max_inflight_msgs),
            "raft.max.inflight.msgs",
            &self.max_inflight_msgs,
            "1 to 65536",
        )?;
        check(
            (1 << 10..=16 << 20).contains(&self.max_proposal_bytes),
            "raft.max.proposal.bytes",
            &self.max_proposal_bytes,
            "1 KiB to 16 MiB",
        )?;
        check(
            self.max_uncommitted_bytes >= self.max_proposal_bytes as u64,
            "raft.max.uncommitted.bytes",
            &self.max_uncommitted_bytes,
            "at least raft.max.proposal.bytes",
        )?;
        check(
            self.max_committed_bytes_per_ready >= 1 << 10,
            "raft.max.committed.bytes.per.ready",
            &self.max_committed_bytes_per_ready,
            "1 KiB or more",
        )?;
        check(self.compact_bytes >= 1 << 10, "raft.compact.bytes", &self.compact_bytes, "1 KiB or more")?;
        check(self.compact_entries >= 1, "raft.compact.entries", &self.compact_entries, "1 or more")?;
        check(
            self.compact_keep_entries < self.compact_entries,
            "raft.compact.keep.entries",
            &self.compact_keep_entries,
            "less than raft.compact.entries",
        )?;
        check(
            (4 << 10..=1 << 30).contains(&self.segment_bytes),
            "raft.segment.bytes",
            &self.segment_bytes,
            "4 KiB to 1 GiB",
        )?;
        check(
            (1 << 10..=2 << 30).contains(&self.max_snapshot_bytes),
            "raft.max.snapshot.bytes",
            &self.max_snapshot_bytes,
            "1 KiB to 2 GiB",
        )?;
        check(self.max_pending_reads >= 1, "raft.max.pending.reads", &self.max_pending_reads, "1 or more")
    }
}
