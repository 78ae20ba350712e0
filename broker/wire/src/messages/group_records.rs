//! The records of `__consumer_offsets`: what group coordinators store, as Kafka stores it.
//!
//! Keys and values begin with two bytes. In a key they name the type of the record (0 and 1 a committed offset, 2 the
//! metadata of a classic group, others belong to coordinators we do not have); in a value they are its version. A
//! record without value deletes what its key names. Written by the group coordinator, read when it takes a partition
//! over.

use bytes::Bytes;
use chronik_model::Uuid;

use crate::KString;
use crate::codec::{
    DecodeError, DecodeReason, EncodeError, Message, Reader, Version, Wire, Writer, messages, record_message,
};

record_message!(OffsetCommitValue: 0..=4, flexible 4);
record_message!(GroupMetadataValue: 0..=4, flexible 4);

messages! {
    /// Says whose offset a record holds.
    struct OffsetCommitKey {
        group: KString;
        topic: KString;
        partition: i32;
    }

    /// A committed offset.
    struct OffsetCommitValue {
        offset: i64;
        leader_epoch: i32 = -1, in 3..;
        metadata: KString;
        commit_timestamp: i64;
        expire_timestamp: i64 = -1, in 1..=1;
        topic_id: Uuid, in 4.., tag 0;
    }

    /// Says whose metadata a record holds.
    struct GroupMetadataKey {
        group: KString;
    }

    /// A classic group: generation, protocol, members with subscription and assignment.
    struct GroupMetadataValue {
        protocol_type: KString;
        generation: i32;
        protocol: Option<KString>, null 0..;
        leader: Option<KString>, null 0..;
        current_state_timestamp: i64 = -1, in 2..;
        members: Vec<MemberMetadata>;
    }

    /// One member.
    struct MemberMetadata {
        member_id: KString;
        group_instance_id: Option<KString>, in 3.., null 3..;
        client_id: KString;
        client_host: KString;
        rebalance_timeout: i32 = -1, in 1..;
        session_timeout: i32;
        subscription: Bytes;
        assignment: Bytes;
    }
}

/// The version in which values are written: the last that every Kafka since 2.1 can read.
pub const VALUE_VERSION: i16 = 3;

const KEY_VERSION: Version = Version { number: 0, flexible: false };

/// The key of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupRecordKey {
    /// A committed offset.
    Offset(OffsetCommitKey),
    /// The metadata of a classic group.
    Group(GroupMetadataKey),
}

impl GroupRecordKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`DecodeError`]; [`DecodeReason::UnknownType`] for records of other coordinators, which are to be skipped.
    pub fn decode(key: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(key);
        match i16::read(&mut reader, KEY_VERSION).map_err(|error| error.at("GroupRecordKey.type"))? {
            0 | 1 => OffsetCommitKey::read(&mut reader, KEY_VERSION).map(Self::Offset),
            2 => GroupMetadataKey::read(&mut reader, KEY_VERSION).map(Self::Group),
            other => Err(DecodeError::new(DecodeReason::UnknownType(other)).at("GroupRecordKey.type")),
        }
    }

    /// Writes the key.
    ///
    /// # Errors
    /// [`EncodeError`] for a string that is too long.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        let mut writer = Writer::new();
        match self {
            Self::Offset(key) => {
                1_i16.write(&mut writer, KEY_VERSION);
                key.write(&mut writer, KEY_VERSION);
            }
            Self::Group(key) => {
                2_i16.write(&mut writer, KEY_VERSION);
                key.write(&mut writer, KEY_VERSION);
            }
        }
        Ok(writer.finish()?.into_bytes())
    }
}

/// Reads the value of a record, in whatever version it was written.
///
/// # Errors
/// [`DecodeError`] for malformed bytes or a version from the future.
pub fn decode_value<M: Message>(value: Bytes) -> Result<M, DecodeError> {
    let mut reader = Reader::new(value);
    let version = i16::read(&mut reader, KEY_VERSION).map_err(|error| error.at(M::NAME))?;
    M::decode(&mut reader, version)
}

/// Writes the value of a record in `version` (see [`VALUE_VERSION`]).
///
/// # Errors
/// [`EncodeError`].
pub fn encode_value<M: Message>(value: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    version.write(&mut writer, KEY_VERSION);
    value.encode(&mut writer, version);
    Ok(writer.finish()?.into_bytes())
}
