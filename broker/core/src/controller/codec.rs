//! How typed values become protobuf and back: a trait per field, and a macro that writes the public struct and its
//! `prost` twin from one list, so that the two cannot drift apart.
//!
//! Used by the commands, the results and the snapshot. Tags are never reused; a new field gets a new tag and a default
//! that old records mean.

use std::collections::BTreeMap;

use chronik_model::{
    BrokerEpoch, ClusterId, ErrorCode, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex, RaftIndex,
    TopicName, Uuid,
};

use crate::{LeaderRecovery, LogReport, PartitionState};

/// Why stored or received bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf of the expected shape.
    #[error("malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Written by a newer release.
    #[error("version {found} is newer than {newest}, the newest this broker understands")]
    Version {
        /// The version found.
        found: u32,
        /// The newest version understood.
        newest: u32,
    },
    /// The kind of command or result is not known here.
    #[error("the record is empty or of a kind that this broker does not know")]
    UnknownKind,
    /// A value is outside what its type can hold.
    #[error("bad value of {0}")]
    Value(&'static str),
}

/// One value and its protobuf form `P`.
pub(super) trait Field<P>: Sized {
    fn put(&self) -> P;
    fn take(proto: P) -> Result<Self, DecodeError>;
}

macro_rules! same {
    ($($ty:ty),*) => {$(
        impl Field<$ty> for $ty {
            fn put(&self) -> $ty { self.clone() }
            fn take(proto: $ty) -> Result<Self, DecodeError> { Ok(proto) }
        }
    )*};
}
same!(bool, i32, i64, u32, u64, String);

macro_rules! newtype {
    ($($ty:ident($inner:ty)),*) => {$(
        impl Field<$inner> for $ty {
            fn put(&self) -> $inner { self.0 }
            fn take(proto: $inner) -> Result<Self, DecodeError> { Ok(Self(proto)) }
        }
    )*};
}
newtype!(
    NodeId(i32),
    PartitionIndex(i32),
    LeaderEpoch(i32),
    PartitionEpoch(i32),
    BrokerEpoch(i64),
    Offset(i64),
    RaftIndex(u64)
);

macro_rules! text {
    ($($ty:ident),*) => {$(
        impl Field<String> for $ty {
            fn put(&self) -> String { self.as_str().to_owned() }
            fn take(proto: String) -> Result<Self, DecodeError> { Ok(Self::from(proto)) }
        }
    )*};
}
text!(TopicName, ClusterId);

impl Field<u32> for u16 {
    fn put(&self) -> u32 {
        u32::from(*self)
    }
    fn take(proto: u32) -> Result<Self, DecodeError> {
        Self::try_from(proto).map_err(|_| DecodeError::Value("a port"))
    }
}

impl Field<Vec<u8>> for Uuid {
    fn put(&self) -> Vec<u8> {
        self.0.to_vec()
    }
    fn take(proto: Vec<u8>) -> Result<Self, DecodeError> {
        match proto.len() {
            0 => Ok(Self::ZERO),
            _ => proto.try_into().map(Self).map_err(|_| DecodeError::Value("an id")),
        }
    }
}

impl Field<i32> for ErrorCode {
    fn put(&self) -> i32 {
        i32::from(self.code())
    }
    fn take(proto: i32) -> Result<Self, DecodeError> {
        let code = i16::try_from(proto).map_err(|_| DecodeError::Value("an error code"))?;
        Ok(Self::from_code(code).unwrap_or(Self::UnknownServerError))
    }
}

impl Field<i32> for LeaderRecovery {
    fn put(&self) -> i32 {
        match self {
            Self::Recovered => 0,
            Self::Recovering => 1,
        }
    }
    fn take(proto: i32) -> Result<Self, DecodeError> {
        match proto {
            0 => Ok(Self::Recovered),
            1 => Ok(Self::Recovering),
            _ => Err(DecodeError::Value("a leader recovery state")),
        }
    }
}

impl<P, T: Field<P>> Field<Vec<P>> for Vec<T> {
    fn put(&self) -> Vec<P> {
        self.iter().map(Field::put).collect()
    }
    fn take(proto: Vec<P>) -> Result<Self, DecodeError> {
        proto.into_iter().map(Field::take).collect()
    }
}

impl<P, T: Field<P>> Field<Option<P>> for Option<T> {
    fn put(&self) -> Option<P> {
        self.as_ref().map(Field::put)
    }
    fn take(proto: Option<P>) -> Result<Self, DecodeError> {
        proto.map(Field::take).transpose()
    }
}

/// One entry of a map of texts.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

impl Field<Vec<EntryProto>> for BTreeMap<String, String> {
    fn put(&self) -> Vec<EntryProto> {
        self.iter().map(|(key, value)| EntryProto { key: key.clone(), value: value.clone() }).collect()
    }
    fn take(proto: Vec<EntryProto>) -> Result<Self, DecodeError> {
        Ok(proto.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }
}

/// Declares a public struct and its protobuf twin.
macro_rules! record {
    ($(#[$doc:meta])* $vis:vis $name:ident / $proto:ident {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty => $proto_ty:ty, [$($attr:tt)*];)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        $vis struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct $proto {
            $(#[prost($($attr)*)] pub(super) $field: $proto_ty,)*
        }

        impl $crate::controller::codec::Field<$proto> for $name {
            fn put(&self) -> $proto {
                $proto { $($field: $crate::controller::codec::Field::put(&self.$field),)* }
            }
            #[allow(unused_variables)]
            fn take(proto: $proto) -> Result<Self, $crate::controller::codec::DecodeError> {
                Ok(Self { $($field: $crate::controller::codec::Field::take(proto.$field)?,)* })
            }
        }
    };
}
pub(super) use record;

/// [`LogReport`] as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LogReportProto {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(sint64, tag = "2")]
    broker_epoch: i64,
    #[prost(sint32, tag = "3")]
    last_epoch: i32,
    #[prost(sint64, tag = "4")]
    log_end: i64,
}

impl Field<LogReportProto> for LogReport {
    fn put(&self) -> LogReportProto {
        LogReportProto {
            node: self.node.put(),
            broker_epoch: self.broker_epoch.put(),
            last_epoch: self.last_epoch.put(),
            log_end: self.log_end.put(),
        }
    }
    fn take(proto: LogReportProto) -> Result<Self, DecodeError> {
        Ok(Self {
            node: Field::take(proto.node)?,
            broker_epoch: Field::take(proto.broker_epoch)?,
            last_epoch: Field::take(proto.last_epoch)?,
            log_end: Field::take(proto.log_end)?,
        })
    }
}

/// [`PartitionState`] as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartitionStateProto {
    #[prost(int32, repeated, tag = "1")]
    replicas: Vec<i32>,
    #[prost(int32, repeated, tag = "2")]
    isr: Vec<i32>,
    #[prost(int32, repeated, tag = "3")]
    elr: Vec<i32>,
    /// Written by metadata version 1, which knew one such replica; read still.
    #[prost(int32, optional, tag = "4")]
    last_known_leader: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    leader: Option<i32>,
    #[prost(int32, tag = "6")]
    leader_epoch: i32,
    #[prost(int32, tag = "7")]
    partition_epoch: i32,
    #[prost(int32, tag = "8")]
    recovery: i32,
    #[prost(int32, repeated, tag = "9")]
    adding: Vec<i32>,
    #[prost(int32, repeated, tag = "10")]
    removing: Vec<i32>,
    #[prost(int32, repeated, tag = "11")]
    last_known_elr: Vec<i32>,
    #[prost(message, repeated, tag = "12")]
    reports: Vec<LogReportProto>,
}

impl Field<PartitionStateProto> for PartitionState {
    fn put(&self) -> PartitionStateProto {
        PartitionStateProto {
            replicas: self.replicas.put(),
            isr: self.isr.put(),
            elr: self.elr.put(),
            last_known_leader: None,
            leader: self.leader.put(),
            leader_epoch: self.leader_epoch.put(),
            partition_epoch: self.partition_epoch.put(),
            recovery: self.recovery.put(),
            adding: self.adding.put(),
            removing: self.removing.put(),
            last_known_elr: self.last_known_elr.put(),
            reports: self.reports.put(),
        }
    }
    fn take(proto: PartitionStateProto) -> Result<Self, DecodeError> {
        let mut last_known_elr: Vec<NodeId> = Field::take(proto.last_known_elr)?;
        // One that is trusted still was only noted in advance.
        if let Some(last) = proto.last_known_leader
            && proto.replicas.contains(&last)
            && !proto.isr.contains(&last)
            && !proto.elr.contains(&last)
            && !last_known_elr.contains(&NodeId(last))
        {
            last_known_elr.push(NodeId(last));
        }
        Ok(Self {
            replicas: Field::take(proto.replicas)?,
            isr: Field::take(proto.isr)?,
            elr: Field::take(proto.elr)?,
            last_known_elr,
            reports: Field::take(proto.reports)?,
            leader: Field::take(proto.leader)?,
            leader_epoch: Field::take(proto.leader_epoch)?,
            partition_epoch: Field::take(proto.partition_epoch)?,
            recovery: Field::take(proto.recovery)?,
            adding: Field::take(proto.adding)?,
            removing: Field::take(proto.removing)?,
        })
    }
}
