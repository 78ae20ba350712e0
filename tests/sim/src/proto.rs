//! What travels between the processes of a simulated cluster.
//!
//! Typed values instead of bytes: the codecs have tests of their own, and a simulated second must cost less than a
//! millisecond. What production carries as opaque bytes (Raft messages, envelopes, record batches, state images) is the
//! same bytes here.

use bytes::Bytes;
use chronik_consensus::chunks::SnapshotChunk;
use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipChange};
use chronik_core::controller::{CommandResult, Heartbeat, HeartbeatReply};
use chronik_core::group::{
    GroupResponse, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest,
};
use chronik_core::partition::{EpochEnd, FollowerFetch};
use chronik_model::{
    ClusterId, ErrorCode, IncarnationId, LeaderEpoch, NodeId, Offset, PartitionIndex, RaftIndex, TopicId, TopicName,
    TopicPartition,
};

/// Who sends or receives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// A broker.
    Broker(NodeId),
    /// A client of the workload.
    Client(u32),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broker(node) => write!(f, "b{node}"),
            Self::Client(id) => write!(f, "c{id}"),
        }
    }
}

/// One thing on the network.
#[derive(Clone, Debug)]
pub enum Packet {
    /// Between replicas of the quorum; needs a link. May be lost, repeated and reordered.
    Raft(Box<RaftMessage>),
    /// Part of a state image; needs a link.
    Chunk(Box<SnapshotChunk>),
    /// A question. `id` is unique per sender and process run, so that an answer finds its question.
    Request {
        /// Unique per sender.
        id: u64,
        /// What is asked.
        body: Box<Request>,
    },
    /// The answer to a question.
    Reply {
        /// Of the request.
        id: u64,
        /// What is answered.
        body: Box<Reply>,
    },
    /// What became of a part of a state image; needs a link.
    Receipt {
        /// Which transfer.
        transfer: u64,
        /// How it is.
        taken: ChunkTaken,
    },
    /// Nobody listens at the address where a request went; made by the network.
    Refused {
        /// Of the request.
        id: u64,
    },
}

/// What a receiver says to a part of a state image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkTaken {
    /// It waits for the next.
    More,
    /// It has the whole image.
    Whole,
    /// The transfer is over.
    Refused,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// Propose this envelope; to the leader of the quorum.
    Propose(Bytes),
    /// A broker lives; to the leader of the quorum.
    Heartbeat(Heartbeat, IncarnationId),
    /// A broker that founded nothing asks to become a member and learns its cluster.
    Membership(MembershipChange),
    /// A follower pulls.
    FollowerFetch {
        /// Per partition.
        partitions: Vec<(TopicId, PartitionIndex, FollowerFetch)>,
        /// How long the leader may wait for something to send.
        max_wait_ms: u64,
    },
    /// A follower out of range asks for earliest and latest.
    LeaderOffsets(TopicId, PartitionIndex, LeaderEpoch),
    /// From a client.
    Client(ClientRequest),
}

/// What a client asks.
#[derive(Clone, Debug)]
pub enum ClientRequest {
    /// Brokers, topics and leaders as this broker knows them.
    Metadata,
    /// A new topic. `replication_factor` and `partitions` of -1 mean the default.
    CreateTopic {
        /// Name.
        name: TopicName,
        /// How many.
        partitions: i32,
        /// How many replicas each.
        replication_factor: i32,
        /// Settings.
        configs: Vec<(String, String)>,
    },
    /// A topic goes.
    DeleteTopic(TopicName),
    /// One setting of a topic; `None` takes it back.
    AlterTopicConfig(TopicName, String, Option<String>),
    /// This broker is in this rack; `None` takes that back.
    AssignRack(NodeId, Option<String>),
    /// From which index on the metadata of the one asked is as new as any; for scripts.
    ReadIndex,
    /// A producer id for idempotence.
    InitProducerId,
    /// Append one batch (record batch v2, as `BatchBuilder` makes it).
    Produce {
        /// Where to.
        tp: TopicPartition,
        /// 0 (no answer at all), 1 or -1.
        acks: i16,
        /// Longest wait for the in-sync replicas.
        timeout_ms: u64,
        /// Whole batch.
        batch: Bytes,
    },
    /// Read as a consumer.
    Fetch {
        /// From where.
        tp: TopicPartition,
        /// [`LeaderEpoch::NONE`] to skip the check.
        current_leader_epoch: LeaderEpoch,
        /// First offset wanted.
        offset: Offset,
        /// Epoch of the record before (KIP-320); [`LeaderEpoch::NONE`] to skip.
        last_fetched_epoch: LeaderEpoch,
        /// Long poll.
        max_wait_ms: u64,
    },
    /// Earliest (`true`) or latest offset.
    ListOffsets {
        /// Of what.
        tp: TopicPartition,
        /// Earliest instead of latest.
        earliest: bool,
    },
    /// The coordinator of this group.
    FindCoordinator(String),
    /// Join a group.
    JoinGroup(JoinGroupRequest),
    /// Get the assignment.
    SyncGroup(SyncGroupRequest),
    /// Stay a member.
    GroupHeartbeat(HeartbeatRequest),
    /// Leave.
    LeaveGroup(LeaveGroupRequest),
    /// Commit offsets.
    OffsetCommit(OffsetCommitRequest),
    /// Committed offsets.
    OffsetFetch(OffsetFetchRequest),
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To [`Request::Propose`].
    Proposed(Proposed),
    /// To [`Request::Heartbeat`]; `None` when the one asked does not lead.
    Heartbeat(Option<HeartbeatAnswer>),
    /// To [`Request::Membership`].
    Membership(Result<(Membership, Option<ClusterId>), MembershipRefusal>),
    /// To [`Request::FollowerFetch`].
    FollowerFetch(Vec<(TopicId, PartitionIndex, FetchedData)>),
    /// To [`Request::LeaderOffsets`]: earliest and latest.
    LeaderOffsets(Result<(Offset, Offset), ErrorCode>),
    /// To a client.
    Client(ClientReply),
}

/// What a leader says to a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatAnswer {
    /// Its word.
    pub reply: HeartbeatReply,
    /// The broker is registered by another process than the one that reports.
    pub other_process: bool,
    /// What the leader has applied.
    pub applied: RaftIndex,
}

/// How a proposal ended at the one asked.
#[derive(Clone, Debug)]
pub enum Proposed {
    /// Applied at this index.
    Applied(RaftIndex, Box<CommandResult>),
    /// Ask this one, if anybody is known.
    NotLeader(Option<NodeId>),
    /// It was not and will not be applied from this attempt; ask again.
    Dropped,
    /// It may or may not be applied; ask again with the same id.
    Unknown,
    /// It can never be proposed.
    Refused(String),
}

/// Why a change of the members was not made.
#[derive(Clone, Debug)]
pub enum MembershipRefusal {
    /// Ask this one, if anybody is known.
    NotLeader(Option<NodeId>),
    /// Later.
    Retry(String),
    /// Never.
    Refused(String),
}

/// One partition's answer to a fetch.
#[derive(Clone, Debug)]
pub struct FetchedData {
    /// Error; then only hints follow.
    pub error: ErrorCode,
    /// High watermark, -1 on error.
    pub high_watermark: i64,
    /// Log start, -1 on error.
    pub log_start: i64,
    /// Where the reader's log leaves this one.
    pub diverging: Option<EpochEnd>,
    /// Whole batches.
    pub records: Bytes,
    /// The leader as known there.
    pub leader: Option<(NodeId, LeaderEpoch)>,
}

/// What a client is answered.
#[derive(Clone, Debug)]
pub enum ClientReply {
    /// To [`ClientRequest::Metadata`].
    Metadata(MetadataView),
    /// To the changes of topics and racks.
    Done(ErrorCode),
    /// To [`ClientRequest::ReadIndex`]; `None` when the one asked cannot say.
    ReadIndex(Option<RaftIndex>),
    /// To [`ClientRequest::InitProducerId`].
    ProducerId(Result<(i64, i16), ErrorCode>),
    /// To [`ClientRequest::Produce`] with acks 1 or -1.
    Produced {
        /// `None` = acknowledged.
        error: ErrorCode,
        /// First offset, -1 on error.
        base_offset: i64,
    },
    /// To [`ClientRequest::Fetch`].
    Fetched(FetchedData),
    /// To [`ClientRequest::ListOffsets`].
    Offset(Result<Offset, ErrorCode>),
    /// To [`ClientRequest::FindCoordinator`].
    Coordinator(Result<NodeId, ErrorCode>),
    /// To the operations of a group.
    Group(GroupResponse),
    /// To [`ClientRequest::GroupHeartbeat`], and when a group's request is refused at the door.
    GroupError(ErrorCode),
    /// To [`ClientRequest::OffsetFetch`].
    Offsets(OffsetFetchResponse),
}

/// What a broker knows, for clients.
#[derive(Clone, Debug, Default)]
pub struct MetadataView {
    /// Unfenced brokers.
    pub brokers: Vec<NodeId>,
    /// Name, id and partitions (leader, leader epoch, in-sync set).
    pub topics: Vec<TopicView>,
}

/// A topic, for clients.
#[derive(Clone, Debug)]
pub struct TopicView {
    /// Name.
    pub name: TopicName,
    /// Id.
    pub id: TopicId,
    /// By index.
    pub partitions: Vec<PartitionView>,
}

/// A partition, for clients.
#[derive(Clone, Debug)]
pub struct PartitionView {
    /// Leader, if any.
    pub leader: Option<NodeId>,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
    /// In-sync replicas.
    pub isr: Vec<NodeId>,
}
