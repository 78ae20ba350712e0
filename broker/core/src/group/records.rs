//! The records of `__consumer_offsets`, in Kafka's own format, so that Kafka's tools can read the topic.
//!
//! Keys carry their type as a version: 0 and 1 are committed offsets, 2 is group metadata; others belong to newer
//! group types and are skipped. Values are read in every version that Kafka has written (0 to 4) and written in
//! version 3, the last one that every Kafka since 2.4 can read. A commit with its own retention is written in
//! version 1, the only one that has the field, as Kafka does.

use bytes::Bytes;
use chronik_model::{LeaderEpoch, Offset, PartitionIndex, TopicName, TopicPartition};

use super::codec::{Reader, RecordError, Writer};
use super::messages::OffsetsRecord;

/// A key and its value, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupRecord {
    /// A committed offset, or its removal.
    Offset {
        /// The group.
        group_id: String,
        /// The partition.
        partition: TopicPartition,
        /// `None` is a tombstone.
        value: Option<CommittedOffset>,
    },
    /// The metadata of a group, or its removal.
    Group {
        /// The group.
        group_id: String,
        /// `None` is a tombstone.
        value: Option<GroupMetadata>,
    },
    /// A key of a type this coordinator does not keep.
    Unknown(i16),
}

/// An offset as it was committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedOffset {
    /// Offset.
    pub offset: Offset,
    /// Leader epoch of the last consumed record, or [`LeaderEpoch::NONE`].
    pub leader_epoch: LeaderEpoch,
    /// Free text.
    pub metadata: String,
    /// Wall time of the commit.
    pub commit_timestamp_ms: i64,
    /// Wall time of expiry, if the commit named its own retention.
    pub expire_timestamp_ms: Option<i64>,
}

/// A group generation as the leader's SyncGroup made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMetadata {
    /// Protocol type.
    pub protocol_type: String,
    /// Generation.
    pub generation: i32,
    /// Chosen protocol; none when there are no members.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Wall time of the last change of state; -1 when not known.
    pub current_state_timestamp_ms: i64,
    /// Members.
    pub members: Vec<MemberMetadata>,
}

/// A member of a [`GroupMetadata`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberMetadata {
    /// Member id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Client address.
    pub client_host: String,
    /// Rebalance timeout.
    pub rebalance_timeout_ms: i32,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Its metadata for the chosen protocol.
    pub subscription: Bytes,
    /// Assignment.
    pub assignment: Bytes,
}

const OFFSET_KEY_OLD: i16 = 0;
const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const FLEXIBLE_FROM: i16 = 4;
const NEWEST_VALUE: i16 = 4;

impl GroupRecord {
    /// Reads one record.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, RecordError> {
        let mut reader = Reader::new(key);
        match reader.i16()? {
            OFFSET_KEY_OLD | OFFSET_KEY => {
                let group_id = reader.string(false)?;
                let topic = TopicName::from(reader.string(false)?);
                let partition = TopicPartition { topic, partition: PartitionIndex(reader.i32()?) };
                reader.end()?;
                Ok(Self::Offset { group_id, partition, value: value.map(CommittedOffset::decode).transpose()? })
            }
            GROUP_KEY => {
                let group_id = reader.string(false)?;
                reader.end()?;
                Ok(Self::Group { group_id, value: value.map(GroupMetadata::decode).transpose()? })
            }
            other => Ok(Self::Unknown(other)),
        }
    }

    /// The record of a committed offset, or its tombstone.
    pub fn offset(
        group_id: &str,
        partition: &TopicPartition,
        value: Option<&CommittedOffset>,
    ) -> Result<OffsetsRecord, RecordError> {
        let mut key = Writer::default();
        key.i16(OFFSET_KEY).string(group_id)?.string(partition.topic.as_str())?.i32(partition.partition.0);
        Ok(OffsetsRecord { key: key.finish(), value: value.map(CommittedOffset::encode).transpose()? })
    }

    /// The record of a group's metadata, or its tombstone.
    pub fn group(group_id: &str, value: Option<&GroupMetadata>) -> Result<OffsetsRecord, RecordError> {
        let mut key = Writer::default();
        key.i16(GROUP_KEY).string(group_id)?;
        Ok(OffsetsRecord { key: key.finish(), value: value.map(GroupMetadata::encode).transpose()? })
    }
}

fn value_version(reader: &mut Reader<'_>) -> Result<i16, RecordError> {
    match reader.i16()? {
        version @ 0..=NEWEST_VALUE => Ok(version),
        version => Err(RecordError::Version(version)),
    }
}

impl CommittedOffset {
    fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(value);
        let version = value_version(&mut reader)?;
        let flexible = version >= FLEXIBLE_FROM;
        let offset = Offset(reader.i64()?);
        let leader_epoch = if version >= 3 { LeaderEpoch(reader.i32()?) } else { LeaderEpoch::NONE };
        let metadata = reader.string(flexible)?;
        let commit_timestamp_ms = reader.i64()?;
        let expire = if version == 1 { reader.i64()? } else { -1 };
        reader.skip_tags(flexible)?;
        reader.end()?;
        let expire_timestamp_ms = (expire != -1).then_some(expire);
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms })
    }

    fn encode(&self) -> Result<Bytes, RecordError> {
        let mut value = Writer::default();
        match self.expire_timestamp_ms {
            Some(expire) => {
                value.i16(1).i64(self.offset.0).string(&self.metadata)?.i64(self.commit_timestamp_ms).i64(expire)
            }
            None => value
                .i16(3)
                .i64(self.offset.0)
                .i32(self.leader_epoch.0)
                .string(&self.metadata)?
                .i64(self.commit_timestamp_ms),
        };
        Ok(value.finish())
    }
}

impl GroupMetadata {
    fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(value);
        let version = value_version(&mut reader)?;
        let flexible = version >= FLEXIBLE_FROM;
        let protocol_type = reader.string(flexible)?;
        let generation = reader.i32()?;
        let protocol = reader.nullable_string(flexible)?;
        let leader = reader.nullable_string(flexible)?;
        let current_state_timestamp_ms = if version >= 2 { reader.i64()? } else { -1 };
        let least_member = if flexible { 14 } else { 18 };
        let count = reader.array_length(flexible, least_member)?;
        let members = (0..count).map(|_| MemberMetadata::decode(&mut reader, version)).collect::<Result<_, _>>()?;
        reader.skip_tags(flexible)?;
        reader.end()?;
        Ok(Self { protocol_type, generation, protocol, leader, current_state_timestamp_ms, members })
    }

    fn encode(&self) -> Result<Bytes, RecordError> {
        let mut value = Writer::default();
        value.i16(3).string(&self.protocol_type)?.i32(self.generation);
        value.nullable_string(self.protocol.as_deref())?.nullable_string(self.leader.as_deref())?;
        value.i64(self.current_state_timestamp_ms);
        value.i32(i32::try_from(self.members.len()).map_err(|_| RecordError::TooLong)?);
        for member in &self.members {
            value.string(&member.member_id)?.nullable_string(member.group_instance_id.as_deref())?;
            value.string(&member.client_id)?.string(&member.client_host)?;
            value.i32(member.rebalance_timeout_ms).i32(member.session_timeout_ms);
            value.bytes(&member.subscription)?.bytes(&member.assignment)?;
        }
        Ok(value.finish())
    }
}

impl MemberMetadata {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, RecordError> {
        let flexible = version >= FLEXIBLE_FROM;
        let member_id = reader.string(flexible)?;
        let group_instance_id = if version >= 3 { reader.nullable_string(flexible)? } else { None };
        let client_id = reader.string(flexible)?;
        let client_host = reader.string(flexible)?;
        let rebalance_timeout_ms = if version >= 1 { Some(reader.i32()?) } else { None };
        let session_timeout_ms = reader.i32()?;
        let subscription = reader.bytes(flexible)?;
        let assignment = reader.bytes(flexible)?;
        reader.skip_tags(flexible)?;
        Ok(Self {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription,
            assignment,
        })
    }
}

/// The topics of a `ConsumerProtocolSubscription`, which `consumer` groups send as member metadata: a 16-bit version
/// and an array of names come first in every version. `None` when the bytes are something else.
pub(super) fn subscribed_topics(metadata: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(metadata);
    if reader.i16().ok()? < 0 {
        return None;
    }
    let count = reader.array_length(false, 2).ok()?;
    (0..count).map(|_| reader.string(false).ok()).collect()
}
