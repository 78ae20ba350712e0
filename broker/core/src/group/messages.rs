//! What goes in and comes out: plain mirrors of the Kafka fields, which the server converts from and to the wire.

use bytes::Bytes;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName};

/// Identifies one [`Effect::Append`] until [`append_done`](super::GroupCoordinator::append_done). Grows with each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A record for the `__consumer_offsets` partition; no value is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetsRecord {
    /// Record key.
    pub key: Bytes,
    /// Record value.
    pub value: Option<Bytes>,
}

/// What the caller has to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect<T> {
    /// Answer the request of this token.
    Reply {
        /// The caller's token, given back.
        token: T,
        /// The answer.
        response: GroupResponse,
    },
    /// Append these records in this order (in one batch or several), acks=all, then call
    /// [`append_done`](super::GroupCoordinator::append_done) exactly once.
    Append {
        /// Names the append.
        ticket: Ticket,
        /// Never empty.
        records: Vec<OffsetsRecord>,
    },
}

/// The answer to a request that may have been parked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupResponse {
    /// To [`join`](super::GroupCoordinator::join).
    Join(JoinGroupResponse),
    /// To [`sync`](super::GroupCoordinator::sync).
    Sync(SyncGroupResponse),
    /// To [`leave`](super::GroupCoordinator::leave).
    Leave(LeaveGroupResponse),
    /// To [`commit_offsets`](super::GroupCoordinator::commit_offsets).
    OffsetCommit(Vec<TopicErrors>),
    /// To [`delete_groups`](super::GroupCoordinator::delete_groups).
    DeleteGroups(DeleteGroupsResponse),
    /// To [`delete_offsets`](super::GroupCoordinator::delete_offsets).
    OffsetDelete(OffsetDeleteResponse),
}

/// State of a group as Kafka names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GroupState {
    /// No members; may hold offsets.
    Empty,
    /// Members are asked to rejoin; joins are parked.
    PreparingRebalance,
    /// The generation is formed; the leader's assignment is awaited.
    CompletingRebalance,
    /// The assignment is in the log and with the members.
    Stable,
    /// Being deleted, or not there at all.
    Dead,
}

impl GroupState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// JoinGroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinGroupRequest {
    /// The group.
    pub group_id: String,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Rebalance timeout; negative (v0 has none) means the session timeout.
    pub rebalance_timeout_ms: i32,
    /// Empty when the member has none yet.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub group_instance_id: Option<String>,
    /// `consumer`, `connect`, ...
    pub protocol_type: String,
    /// Protocols in order of preference.
    pub protocols: Vec<JoinGroupProtocol>,
    /// Of the request header.
    pub client_id: String,
    /// Address of the client, as Kafka prints it (`/10.0.0.1`).
    pub client_host: String,
    /// Version 4 and later: a dynamic member is first given an id and has to join again with it (KIP-394).
    pub require_known_member_id: bool,
    /// Version 9 and later: `skip_assignment` is understood (KIP-814).
    pub supports_skipping_assignment: bool,
    /// An id never used before, taken when this request makes a new member (Kafka: client or instance id, `-`, uuid).
    pub fresh_member_id: String,
}

/// One protocol a member supports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinGroupProtocol {
    /// Name, e.g. `range`.
    pub name: String,
    /// Opaque to the coordinator.
    pub metadata: Bytes,
}

/// Answer to JoinGroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinGroupResponse {
    /// Error.
    pub error: ErrorCode,
    /// -1 on error.
    pub generation_id: i32,
    /// Version 7 and later.
    pub protocol_type: Option<String>,
    /// The chosen protocol. Before version 7 the wire says "" for none.
    pub protocol_name: Option<String>,
    /// Member id of the leader.
    pub leader: String,
    /// KIP-814: the leader must not run the assignor.
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: String,
    /// All members, only for the leader.
    pub members: Vec<JoinGroupMember>,
}

/// A member as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinGroupMember {
    /// Member id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// SyncGroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncGroupRequest {
    /// The group.
    pub group_id: String,
    /// Generation.
    pub generation_id: i32,
    /// Member id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// Version 5 and later.
    pub protocol_type: Option<String>,
    /// Version 5 and later.
    pub protocol_name: Option<String>,
    /// Member id and assignment; only of the leader.
    pub assignments: Vec<(String, Bytes)>,
}

/// Answer to SyncGroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncGroupResponse {
    /// Error.
    pub error: ErrorCode,
    /// Version 5 and later.
    pub protocol_type: Option<String>,
    /// Version 5 and later.
    pub protocol_name: Option<String>,
    /// The member's assignment.
    pub assignment: Bytes,
}

/// Heartbeat; the answer is an [`ErrorCode`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeartbeatRequest {
    /// The group.
    pub group_id: String,
    /// Generation.
    pub generation_id: i32,
    /// Member id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
}

/// LeaveGroup; versions 0-2 name one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaveGroupRequest {
    /// The group.
    pub group_id: String,
    /// Who leaves.
    pub members: Vec<LeaveMember>,
}

/// One leaving member: by member id, or by instance id with an empty member id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaveMember {
    /// Member id, or empty.
    pub member_id: String,
    /// Instance id of a static member.
    pub group_instance_id: Option<String>,
}

/// Answer to LeaveGroup. Versions 0-2: the top-level error is the only member's error when `error` is `None`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaveGroupResponse {
    /// Error of the whole request; then there are no members.
    pub error: ErrorCode,
    /// Per member, in request order.
    pub members: Vec<LeaveMemberResponse>,
}

/// Result for one leaving member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaveMemberResponse {
    /// As in the request.
    pub member_id: String,
    /// As in the request.
    pub group_instance_id: Option<String>,
    /// Error.
    pub error: ErrorCode,
}

/// OffsetCommit. The server has checked that the topics exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommitRequest {
    /// The group.
    pub group_id: String,
    /// -1 outside group membership.
    pub generation_id: i32,
    /// Empty outside group membership.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// Versions 2-4, when not -1: expire at that age instead of the broker's retention.
    pub retention_time_ms: Option<i64>,
    /// What to commit.
    pub topics: Vec<OffsetCommitTopic>,
}

/// Offsets of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommitTopic {
    /// Topic.
    pub name: TopicName,
    /// Partitions.
    pub partitions: Vec<OffsetCommitPartition>,
}

/// Offset of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommitPartition {
    /// Partition.
    pub partition: PartitionIndex,
    /// Offset.
    pub offset: Offset,
    /// Leader epoch of the last consumed record, or [`LeaderEpoch::NONE`].
    pub leader_epoch: LeaderEpoch,
    /// Free text.
    pub metadata: Option<String>,
}

/// Errors of the partitions of one topic, in request order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicErrors {
    /// Topic.
    pub name: TopicName,
    /// Partitions.
    pub partitions: Vec<PartitionError>,
}

/// Error of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionError {
    /// Partition.
    pub partition: PartitionIndex,
    /// Error.
    pub error: ErrorCode,
}

/// OffsetFetch of one group; versions 8 and later ask for several groups at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetFetchRequest {
    /// The group.
    pub group_id: String,
    /// `None`: everything the group has committed.
    pub topics: Option<Vec<TopicPartitions>>,
}

/// Answer to OffsetFetch for one group. Version 1 has no top-level error: put it on every partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetFetchResponse {
    /// Error of the group; then there are no topics.
    pub error: ErrorCode,
    /// Per topic, in request order.
    pub topics: Vec<OffsetFetchTopicResponse>,
}

/// Offsets of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetFetchTopicResponse {
    /// Topic.
    pub name: TopicName,
    /// Partitions.
    pub partitions: Vec<OffsetFetchPartitionResponse>,
}

/// Committed offset of one partition; offset -1, epoch -1 and "" when there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetFetchPartitionResponse {
    /// Partition.
    pub partition: PartitionIndex,
    /// Offset.
    pub offset: Offset,
    /// Leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// Metadata.
    pub metadata: String,
}

/// ListGroups; empty filters match all, names are compared without case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListGroupsRequest {
    /// Version 4 and later.
    pub states_filter: Vec<String>,
    /// Version 5 and later; only `classic` exists here.
    pub types_filter: Vec<String>,
}

/// Answer to ListGroups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListGroupsResponse {
    /// `CoordinatorLoadInProgress` while this partition is loading.
    pub error: ErrorCode,
    /// Groups, by id. Their type is `classic`.
    pub groups: Vec<ListedGroup>,
}

/// One group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedGroup {
    /// Group id.
    pub group_id: String,
    /// "" for a group that only holds offsets.
    pub protocol_type: String,
    /// State.
    pub state: GroupState,
}

/// One group of DescribeGroups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedGroup {
    /// Error. A group that does not exist is no error but state `Dead` with `found` false: version 6 and later
    /// answer `GroupIdNotFound` for it.
    pub error: ErrorCode,
    /// Whether the group exists.
    pub found: bool,
    /// Group id.
    pub group_id: String,
    /// State; `None` on error (the wire says "").
    pub state: Option<GroupState>,
    /// Protocol type.
    pub protocol_type: String,
    /// Chosen protocol, only in state `Stable`.
    pub protocol: String,
    /// Members.
    pub members: Vec<DescribedMember>,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedMember {
    /// Member id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Client address.
    pub client_host: String,
    /// Metadata for the chosen protocol, only in state `Stable`.
    pub metadata: Bytes,
    /// Assignment, only in state `Stable`.
    pub assignment: Bytes,
}

/// DeleteGroups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteGroupsRequest {
    /// Groups of this coordinator.
    pub group_ids: Vec<String>,
}

/// Answer to DeleteGroups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteGroupsResponse {
    /// Per group, in request order.
    pub results: Vec<(String, ErrorCode)>,
}

/// OffsetDelete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetDeleteRequest {
    /// The group.
    pub group_id: String,
    /// Partitions.
    pub topics: Vec<TopicPartitions>,
}

/// Partitions of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPartitions {
    /// Topic.
    pub name: TopicName,
    /// Partitions.
    pub partitions: Vec<PartitionIndex>,
}

/// Answer to OffsetDelete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetDeleteResponse {
    /// Error of the group; then there are no topics.
    pub error: ErrorCode,
    /// Per topic.
    pub topics: Vec<TopicErrors>,
}
