//! The classic consumer group coordinator of one `__consumer_offsets` partition, as a pure state machine.
//!
//! The broker that leads the partition owns one [`GroupCoordinator`] for it and calls it under one lock:
//!
//! 1. [`GroupCoordinator::new`], then [`GroupCoordinator::load_record`] for every record of the partition in log order,
//!    then [`GroupCoordinator::finish_load`]. Until then every request is answered "loading".
//! 2. Requests (`join`, `sync`, `heartbeat`, `leave`, `commit_offsets`, `fetch_offsets`, `list_groups`,
//!    `describe_groups`, `delete_groups`, `delete_offsets`), and [`GroupCoordinator::tick`] no later than
//!    [`GroupCoordinator::next_deadline`] says. What never waits returns its response; everything else carries a token
//!    and returns [`Effect`]s.
//! 3. [`Effect::Append`] asks for records to be written to the partition with acks=all, in the order of the effects.
//!    [`GroupCoordinator::append_done`] reports that the high watermark passed them, or why it will not. Replies that
//!    depend on the write stay parked here until then.
//! 4. [`GroupCoordinator::unload`] when the broker stops leading the partition: everything parked is answered
//!    "not coordinator".
//!
//! What never happens: a token is answered twice or forgotten; an acknowledged assignment or offset that is not in the
//! log; a clock, a random number or a hash-ordered iteration that would make two runs differ. Time and fresh member
//! ids come from the caller.

mod admin;
mod codec;
mod config;
mod context;
mod coordinator;
mod join;
mod membership;
mod messages;
mod offsets;
mod rebalance;
mod records;
mod state;
#[cfg(test)]
mod tests;

pub use codec::RecordError;

pub use config::{GroupConfig, Now};
pub use coordinator::GroupCoordinator;
pub use messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribedGroup, DescribedMember, Effect, GroupResponse, GroupState,
    HeartbeatRequest, JoinGroupMember, JoinGroupProtocol, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, LeaveMember, LeaveMemberResponse, ListGroupsRequest, ListGroupsResponse, ListedGroup,
    OffsetCommitPartition, OffsetCommitRequest, OffsetCommitTopic, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchPartitionResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopicResponse, OffsetsRecord,
    PartitionError, SyncGroupRequest, SyncGroupResponse, Ticket, TopicErrors, TopicPartitions,
};
pub use records::{CommittedOffset, GroupMetadata, GroupRecord, MemberMetadata};

/// The partition of `__consumer_offsets` that holds `group_id`: Java's `String.hashCode` (over UTF-16), made
/// non-negative as Kafka does, modulo the number of partitions. `None` when there are no partitions.
#[must_use]
pub fn partition_for(group_id: &str, partitions: i32) -> Option<i32> {
    if partitions <= 0 {
        return None;
    }
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    Some((hash & 0x7fff_ffff) % partitions)
}
