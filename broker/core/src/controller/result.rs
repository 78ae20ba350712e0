//! What a command came to. Returned by apply, remembered with the proposal id, and sent to the broker that proposed.

use std::collections::BTreeMap;

use chronik_model::{BrokerEpoch, ErrorCode, PartitionIndex, RaftIndex, TopicId, TopicName};
use prost::Message as _;

use super::codec::{DecodeError, EntryProto, Field, PartitionStateProto, record};
use crate::PartitionState;

/// Bytes of a refusal's text. It quotes what the client sent, and is remembered by every broker.
const MAX_MESSAGE: usize = 1024;

record! {
    /// A refusal: Kafka's code and a sentence for people.
    #[derive(thiserror::Error)]
    #[error("{message}")]
    pub CommandError / CommandErrorProto {
        /// Kafka's code.
        code: ErrorCode => i32, [sint32, tag = "1"];
        /// What is wrong, with names and accepted values.
        message: String => String, [string, tag = "2"];
    }
}

impl CommandError {
    /// Refusal with `code`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
            message.push_str("...");
        }
        Self { code, message }
    }
}

record! {
    /// What was created.
    pub CreatedTopic / CreatedTopicProto {
        /// Id of the topic.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "1"];
        /// Its partitions, in all.
        partitions: i32 => i32, [int32, tag = "2"];
        /// Replicas of each.
        replication_factor: i32 => i32, [int32, tag = "3"];
        /// The settings that the topic overrides.
        configs: BTreeMap<String, String> => Vec<EntryProto>, [message, repeated, tag = "4"];
    }
}

record! {
    /// What an election on request came to, for one partition.
    pub ElectionOutcome / ElectionOutcomeProto {
        /// The topic.
        topic: TopicName => String, [string, tag = "1"];
        /// The partition.
        partition: PartitionIndex => i32, [int32, tag = "2"];
        /// [`ErrorCode::None`] when a leader was elected.
        code: ErrorCode => i32, [sint32, tag = "3"];
        /// Why not.
        message: String => String, [string, tag = "4"];
    }
}

record! {
    /// What a wanted reassignment came to, for one partition.
    pub ReassignmentOutcome / ReassignmentOutcomeProto {
        /// The topic.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "1"];
        /// The partition.
        partition: PartitionIndex => i32, [int32, tag = "2"];
        /// [`ErrorCode::None`] when it is under way, or done already.
        code: ErrorCode => i32, [sint32, tag = "3"];
        /// Why not.
        message: String => String, [string, tag = "4"];
    }
}

/// What a command came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandResult {
    /// Refused; the state is as it was.
    Error(CommandError),
    /// Done, nothing to tell. A command that found its goal already reached is done too.
    Done,
    /// The broker is registered under this epoch.
    Registered(BrokerEpoch),
    /// The broker is shutting down since this index; others must replay it before the broker stops.
    ShuttingDown(RaftIndex),
    /// The topic, or the further partitions, exist.
    Created(CreatedTopic),
    /// The partition's new committed state. Its leader may be another broker than the proposer.
    Partition(PartitionState),
    /// Ids from the first on, [`PRODUCER_ID_BLOCK`](super::PRODUCER_ID_BLOCK) of them.
    ProducerIds {
        /// The first of the block.
        first: i64,
        /// How many.
        count: i64,
    },
    /// One outcome per partition.
    Elections(Vec<ElectionOutcome>),
    /// One outcome per partition, in the order asked for.
    Reassignments(Vec<ReassignmentOutcome>),
    /// Leaderships were handed over.
    LeadersMoved {
        /// How many.
        moved: i32,
        /// Still led by the broker, as nobody else is in sync.
        left: i32,
    },
}

impl CommandResult {
    /// The refusal, if it is one.
    ///
    /// # Errors
    /// The refusal.
    pub fn ok(self) -> Result<Self, CommandError> {
        match self {
            Self::Error(error) => Err(error),
            other => Ok(other),
        }
    }

    /// How many bytes it takes to remember this.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Elections(_) | Self::Reassignments(_) | Self::Created(_) | Self::Error(_) => self.put().encoded_len(),
            // Ids and one partition's state: too small to be worth measuring.
            _ => 64,
        }
    }

    /// The bytes that travel to the proposer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.put().encode_to_vec()
    }

    /// The result of these bytes.
    ///
    /// # Errors
    /// When they are malformed or of an unknown kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::take(CommandResultProto::decode(bytes)?)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ElectionsProto {
    #[prost(message, repeated, tag = "1")]
    outcomes: Vec<ElectionOutcomeProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReassignmentsProto {
    #[prost(message, repeated, tag = "1")]
    outcomes: Vec<ReassignmentOutcomeProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeadersMovedProto {
    #[prost(int32, tag = "1")]
    moved: i32,
    #[prost(int32, tag = "2")]
    left: i32,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ResultProto {
    #[prost(message, tag = "1")]
    Error(CommandErrorProto),
    #[prost(bool, tag = "2")]
    Done(bool),
    #[prost(int64, tag = "3")]
    Registered(i64),
    #[prost(uint64, tag = "4")]
    ShuttingDown(u64),
    #[prost(message, tag = "5")]
    Created(CreatedTopicProto),
    #[prost(message, tag = "6")]
    Partition(PartitionStateProto),
    #[prost(int64, tag = "7")]
    ProducerIds(i64),
    #[prost(message, tag = "8")]
    Elections(ElectionsProto),
    #[prost(message, tag = "10")]
    Reassignments(ReassignmentsProto),
    #[prost(message, tag = "11")]
    LeadersMoved(LeadersMovedProto),
}

/// [`CommandResult`] as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommandResultProto {
    #[prost(oneof = "ResultProto", tags = "1, 2, 3, 4, 5, 6, 7, 8, 10, 11")]
    result: Option<ResultProto>,
    /// Size of the block of [`ResultProto::ProducerIds`].
    #[prost(int64, tag = "9")]
    count: i64,
}

impl Field<CommandResultProto> for CommandResult {
    fn put(&self) -> CommandResultProto {
        let mut count = 0;
        let result = match self {
            Self::Error(error) => ResultProto::Error(error.put()),
            Self::Done => ResultProto::Done(true),
            Self::Registered(epoch) => ResultProto::Registered(epoch.0),
            Self::ShuttingDown(index) => ResultProto::ShuttingDown(index.0),
            Self::Created(created) => ResultProto::Created(created.put()),
            Self::Partition(state) => ResultProto::Partition(state.put()),
            Self::ProducerIds { first, count: ids } => {
                count = *ids;
                ResultProto::ProducerIds(*first)
            }
            Self::Elections(outcomes) => ResultProto::Elections(ElectionsProto { outcomes: outcomes.put() }),
            Self::Reassignments(outcomes) => {
                ResultProto::Reassignments(ReassignmentsProto { outcomes: outcomes.put() })
            }
            Self::LeadersMoved { moved, left } => {
                ResultProto::LeadersMoved(LeadersMovedProto { moved: *moved, left: *left })
            }
        };
        CommandResultProto { result: Some(result), count }
    }

    fn take(proto: CommandResultProto) -> Result<Self, DecodeError> {
        Ok(match proto.result.ok_or(DecodeError::UnknownKind)? {
            ResultProto::Error(error) => Self::Error(Field::take(error)?),
            ResultProto::Done(_) => Self::Done,
            ResultProto::Registered(epoch) => Self::Registered(BrokerEpoch(epoch)),
            ResultProto::ShuttingDown(index) => Self::ShuttingDown(RaftIndex(index)),
            ResultProto::Created(created) => Self::Created(Field::take(created)?),
            ResultProto::Partition(state) => Self::Partition(Field::take(state)?),
            ResultProto::ProducerIds(first) => Self::ProducerIds { first, count: proto.count },
            ResultProto::Elections(elections) => Self::Elections(Field::take(elections.outcomes)?),
            ResultProto::Reassignments(all) => Self::Reassignments(Field::take(all.outcomes)?),
            ResultProto::LeadersMoved(LeadersMovedProto { moved, left }) => Self::LeadersMoved { moved, left },
        })
    }
}
