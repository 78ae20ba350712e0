//! The words of the replica state machine: facts that come in, decisions and effects that leave.

use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, PartitionEpoch};

use crate::LeaderRecovery;

/// How long a follower may be behind before its leader proposes to drop it (`replica.lag.time.max.ms`).
pub const DEFAULT_REPLICA_LAG_TIME_MAX_MS: u64 = 10_000;
/// How long a replica waits before it tells again how far its log goes.
pub const REPORT_RETRY_MS: u64 = 5_000;
/// How long a leader waits before it repeats an AlterPartition whose outcome it does not know.
pub const ALTER_PARTITION_RETRY_MS: u64 = 500;

/// Settings of one partition that its replica obeys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
    /// `min.insync.replicas` as configured; see [`PartitionState::min_isr`](crate::PartitionState::min_isr).
    pub min_insync_replicas: Option<usize>,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self { lag_max_ms: DEFAULT_REPLICA_LAG_TIME_MAX_MS, min_insync_replicas: Some(1) }
    }
}

/// What the local log said when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogFacts {
    /// Offset of the next record to be appended (LEO).
    pub log_end: Offset,
    /// Offset of the first record that may be read.
    pub log_start: Offset,
    /// Last high watermark that reached the disk; clamped into the log.
    pub high_watermark: Offset,
    /// Latest epoch of the leader epoch cache, even if no record carries it; `None` for an empty cache.
    pub latest_epoch: Option<LeaderEpoch>,
}

/// A broker as the committed metadata sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerStatus {
    /// Epoch of its registration.
    pub epoch: BrokerEpoch,
    /// Fenced brokers may not be in sync.
    pub fenced: bool,
    /// In controlled shutdown: may not join the in-sync set.
    pub shutting_down: bool,
}

/// End of a leader epoch in a log: the answer to "where does `epoch` end?", for the largest epoch known that is not
/// larger than the one asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    /// The epoch found.
    pub epoch: LeaderEpoch,
    /// First offset after it.
    pub end_offset: Offset,
}

/// What the owner of a replica has to do, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Answer every parked produce and fetch of the partition with this error.
    FailWaiters(ErrorCode),
    /// Write `epoch -> epoch_start` into the leader epoch cache BEFORE anything is appended or served, even if no record
    /// ever follows (KAFKA-7415). When that write fails call `fence_after_io_error`. Wake parked fetches.
    BecomeLeader {
        /// Number of the leadership.
        epoch: LeaderEpoch,
        /// The log end offset at which it begins.
        epoch_start: Offset,
    },
    /// Truncate to `truncate_to` if given (only when the log knows no epochs), then pull from `leader` until told
    /// otherwise. Also issued when the same leader got a new epoch: requests in flight are void.
    BecomeFollower {
        /// Whom to fetch from.
        leader: NodeId,
        /// Epoch to send as the current leader epoch.
        epoch: LeaderEpoch,
        /// Where to cut a log that has records but no epoch information; report it with `on_truncated`.
        truncate_to: Option<Offset>,
    },
    /// The partition has no leader: stop fetching, serve nothing.
    NoLeader,
    /// This broker holds no replica any more: stop; the files may go.
    Removed,
    /// The committed in-sync set is another one now.
    IsrChanged {
        /// The set.
        isr: Vec<NodeId>,
    },
    /// Release acks=all waiters and consumers up to here. Only moves forward between truncations.
    HighWatermark(Offset),
    /// Tell the controller how far this log goes, with the epoch of its last record; until then the partition may stay
    /// without a leader. Whatever becomes of it, nothing is to be reported back: `tick` repeats it as long as need be.
    ReportLog(LogClaim),
    /// Propose this change of the in-sync set and bring the outcome to `on_alter_partition_result`, exactly once.
    ProposeAlterPartition(IsrProposal),
}

/// How far a log goes while its partition has no leader; see [`crate::LogReport`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogClaim {
    /// Whose log it is.
    pub node: NodeId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// The epoch without a leader, in which the log stands still.
    pub leader_epoch: LeaderEpoch,
    /// Offset after its last record.
    pub log_end: Offset,
}

/// A member of a proposed in-sync set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsrMember {
    /// The broker.
    pub node: NodeId,
    /// The incarnation of it that was seen to be in sync; [`BrokerEpoch::NONE`] when it has not fetched yet.
    pub broker_epoch: BrokerEpoch,
}

/// An AlterPartition of this leader. `partition_epoch` is the compare-and-swap token.
///
/// The controller must raise the partition epoch for every accepted proposal, also when `isr` equals the committed
/// set: a leader whose earlier attempt may still be on its way uses such a proposal to shut it out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsrProposal {
    /// Which attempt this is; grows with each proposal of one replica.
    pub attempt: u64,
    /// The leader that proposes.
    pub leader: NodeId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// Its leadership.
    pub leader_epoch: LeaderEpoch,
    /// The committed version that the change starts from.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync set wanted.
    pub isr: Vec<IsrMember>,
    /// Always `Recovered`: a leader that proposes has taken its log as the truth.
    pub recovery: LeaderRecovery,
}

/// One partition of a Fetch by a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerFetch {
    /// Who fetches.
    pub replica: NodeId,
    /// Its registration (KIP-903); [`BrokerEpoch::NONE`] when unknown, then it can never join the in-sync set.
    pub replica_epoch: BrokerEpoch,
    /// The leadership it believes in. Followers must send it.
    pub current_leader_epoch: LeaderEpoch,
    /// Its log end offset.
    pub fetch_offset: Offset,
    /// Latest epoch of its log; [`LeaderEpoch::NONE`] when its log has none.
    pub last_fetched_epoch: LeaderEpoch,
    /// Its log start offset.
    pub log_start: Offset,
}

/// One partition of a Fetch by a consumer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerFetch {
    /// The leadership it believes in; [`LeaderEpoch::NONE`] to skip the check.
    pub current_leader_epoch: LeaderEpoch,
    /// First offset wanted.
    pub fetch_offset: Offset,
    /// Epoch of the record before it; [`LeaderEpoch::NONE`] to skip the check.
    pub last_fetched_epoch: LeaderEpoch,
    /// Whether a follower may answer (KIP-392: the client said its rack).
    pub from_follower: bool,
}

/// The answer to one partition of a Fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchDecision {
    /// Read `from .. until`; nothing at or above `until` may leave. The range may be empty.
    Read {
        /// First offset.
        from: Offset,
        /// End: the log end offset for followers, the high watermark for consumers.
        until: Offset,
        /// This replica's; its owner may tell less (what it has synced).
        high_watermark: Offset,
        /// To send.
        log_start: Offset,
        /// To run: progress of a follower may move the watermark or the in-sync set.
        effects: Vec<Effect>,
    },
    /// The logs differ: send the epoch end and no records.
    Diverging {
        /// To send.
        end: EpochEnd,
        /// Likewise; the receiver does not apply it (KAFKA-14704).
        high_watermark: Offset,
        /// To send; likewise.
        log_start: Offset,
    },
    /// Refused.
    Error(ErrorCode),
}

/// Where an append that wants acks=all stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckState {
    /// Not replicated yet.
    Pending,
    /// On every in-sync replica, and they are enough.
    Done,
    /// On every in-sync replica, but these are fewer than `min.insync.replicas` by now.
    NotEnoughAfterAppend,
    /// This replica does not lead any more.
    NotLeader,
}

/// What a follower asks its leader for; kept until the answer comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerRequest {
    /// Whom to ask.
    pub leader: NodeId,
    /// To send.
    pub current_leader_epoch: LeaderEpoch,
    /// To send.
    pub fetch_offset: Offset,
    /// To send; [`LeaderEpoch::NONE`] if the log has no epoch.
    pub last_fetched_epoch: LeaderEpoch,
    /// To send.
    pub log_start: Offset,
}

/// The leader's answer for one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchReply {
    /// The request that this answers.
    pub request: FollowerRequest,
    /// The error of the partition.
    pub error: ErrorCode,
    /// The diverging epoch, if the leader found one.
    pub diverging: Option<EpochEnd>,
    /// The leader's marks.
    pub marks: LeaderMarks,
}

/// Positions of the leader that travel with its records; negative when the leader did not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderMarks {
    /// Its high watermark.
    pub high_watermark: Offset,
    /// Its log start offset.
    pub log_start: Offset,
}

/// What a follower does with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FollowerAction {
    /// Append the records that came (maybe none), then call `on_follower_append` with these marks.
    Append(LeaderMarks),
    /// Truncate the log AND its epoch cache (every epoch that starts at or after `to`, even if `to` is the log end),
    /// call `on_truncated`, fetch again at once.
    Truncate {
        /// The new log end offset.
        to: Offset,
    },
    /// Drop the whole log and start it anew at `offset`, call `on_truncated`, fetch again at once.
    ResetTo {
        /// The new log start and log end offset.
        offset: Offset,
    },
    /// Ask the leader for its earliest and latest offset and bring them to `on_leader_offsets`.
    AskLeaderOffsets,
    /// The answer belongs to a leadership or position of the past: ignore it, fetch again.
    Drop,
    /// Nothing to do but to fetch again after a pause.
    Retry(ErrorCode),
    /// The leader knows less or more than we do: fetch again only after newer metadata, or after a long pause.
    AwaitMetadata(ErrorCode),
}

/// What changed by an answer of the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerProgress {
    /// The follower's high watermark now.
    pub high_watermark: Offset,
    /// Whether it moved.
    pub advanced: bool,
    /// Where to move the start of the log, if the leader's start is further.
    pub log_start: Option<Offset>,
}

/// A rule that must hold at any time does not; the text has the values.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("broken invariant: {0}")]
pub struct BrokenInvariant(pub String);
