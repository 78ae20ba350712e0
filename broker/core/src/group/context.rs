//! What one event works with: the time, the settings, the effects it collects, and the appends that are under way.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_model::{ErrorCode, TopicPartition};

use super::config::{GroupConfig, Now};
use super::messages::{
    Effect, GroupResponse, JoinGroupProtocol, OffsetDeleteResponse, OffsetsRecord, Ticket, TopicErrors,
};
use super::records::CommittedOffset;

/// One life of a group: a group that is deleted and made again under its old name is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GroupRef {
    pub id: String,
    pub incarnation: u64,
}

/// What happens when an append is done.
#[derive(Debug)]
pub(super) enum Purpose<T> {
    /// The leader's assignment: members are answered and the group becomes stable.
    Assignment { group: GroupRef, generation: i32, assignments: BTreeMap<String, Bytes> },
    /// A static member took over its instance's place in a stable group.
    StaticMember { group: GroupRef, takeover: Box<Takeover> },
    /// Committed offsets become visible.
    Offsets { group: GroupRef, token: T, response: Vec<TopicErrors>, accepted: Vec<(TopicPartition, CommittedOffset)> },
    /// Groups go away.
    DeleteGroups { token: T, results: Vec<(String, ErrorCode)>, deleting: Vec<GroupRef> },
    /// Offsets go away.
    DeleteOffsets { group: GroupRef, token: T, response: OffsetDeleteResponse, removing: Vec<TopicPartition> },
    /// Offsets of deleted topics go away; nobody waits.
    ForgetOffsets { group: GroupRef, removing: Vec<TopicPartition> },
    /// Nobody waits: an empty generation, an expiry.
    Background,
}

/// What it takes to answer a static member that took over, or to undo it when the write failed.
#[derive(Debug)]
pub(super) struct Takeover {
    pub generation: i32,
    pub instance_id: String,
    pub old_member_id: String,
    pub new_member_id: String,
    pub old_leader: Option<String>,
    pub old_protocols: Vec<JoinGroupProtocol>,
    pub old_rebalance_timeout_ms: i32,
    pub old_session_timeout_ms: i32,
    pub supports_skipping_assignment: bool,
}

/// The appends that are under way.
#[derive(Debug)]
pub(super) struct Flights<T> {
    next: u64,
    pub under_way: BTreeMap<Ticket, Purpose<T>>,
}

impl<T> Flights<T> {
    pub fn new() -> Self {
        Self { next: 1, under_way: BTreeMap::new() }
    }
}

/// The surroundings of one event.
#[derive(Debug)]
pub(super) struct Cx<'a, T> {
    pub now: Now,
    pub config: &'a GroupConfig,
    pub flights: &'a mut Flights<T>,
    pub effects: &'a mut Vec<Effect<T>>,
}

impl<T> Cx<'_, T> {
    pub fn reply(&mut self, token: T, response: GroupResponse) {
        self.effects.push(Effect::Reply { token, response });
    }

    pub fn append(&mut self, records: Vec<OffsetsRecord>, purpose: Purpose<T>) -> Ticket {
        let ticket = Ticket(self.flights.next);
        self.flights.next += 1;
        self.flights.under_way.insert(ticket, purpose);
        self.effects.push(Effect::Append { ticket, records });
        ticket
    }
}

/// What a failed write of group metadata means for the members that wait for it.
pub(super) fn metadata_write_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::RequestTimedOut => ErrorCode::RebalanceInProgress,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}

/// What a failed write of offsets or tombstones means for the client.
pub(super) fn offsets_write_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::InvalidCommitOffsetSize
        }
        other => other,
    }
}
