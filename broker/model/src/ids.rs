//! Newtypes for every id, epoch and position.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// A broker's id: pod ordinal + 1, so always positive; also its Raft id.
    NodeId(i32)
);
number!(
    /// Index of a partition in its topic, from 0.
    PartitionIndex(i32)
);
number!(
    /// Position of a record in a partition log.
    Offset(i64)
);
number!(
    /// Number of a partition leadership; grows with each change of leader (KIP-101).
    LeaderEpoch(i32)
);
number!(
    /// Version of a partition's committed state; the compare-and-swap token of AlterPartition (KIP-497).
    PartitionEpoch(i32)
);
number!(
    /// Raft index of the record that registered this broker incarnation.
    BrokerEpoch(i64)
);
number!(
    /// Id of an idempotent or transactional producer (KIP-98).
    ProducerId(i64)
);
number!(
    /// Epoch of a producer id.
    ProducerEpoch(i16)
);
number!(
    /// Index of an entry in the metadata Raft log.
    RaftIndex(u64)
);
number!(
    /// Raft term of the metadata quorum.
    Term(u64)
);

impl NodeId {
    /// "No broker": Kafka writes -1.
    pub const NONE: Self = Self(-1);

    /// The Raft id of this node. Node ids are validated to be positive at configuration time.
    #[must_use]
    pub fn raft_id(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

impl LeaderEpoch {
    /// "No epoch known": Kafka writes -1.
    pub const NONE: Self = Self(-1);
}

impl BrokerEpoch {
    /// "Not registered" or "do not check": Kafka writes -1.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    /// A batch without a producer id: Kafka writes -1.
    pub const NONE: Self = Self(-1);
}

impl Offset {
    /// The offset `n` records further.
    #[must_use]
    pub fn plus(self, n: i64) -> Self {
        Self(self.0 + n)
    }
}

/// A 128-bit id. Printed as Kafka prints it: unpadded URL-safe base64, 22 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// Identity of a topic; a topic that is deleted and created again gets another (KIP-516).
pub type TopicId = Uuid;
/// Identity of one run of a broker process.
pub type IncarnationId = Uuid;
/// Identity of a log directory on disk.
pub type DirectoryId = Uuid;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// "No id".
    pub const ZERO: Self = Self([0; 16]);

    /// Whether this is [`Uuid::ZERO`].
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// From its 128-bit number.
    #[must_use]
    pub fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// As a 128-bit number.
    #[must_use]
    pub fn as_u128(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        // 128 bits are 21 groups of six and one of two, which base64 pads with zero bits on the right.
        let value = self.as_u128();
        for group in 0..21 {
            let index = (value >> (122 - 6 * group)) & 0x3f;
            f.write_char(char::from(BASE64[index as usize]))?;
        }
        f.write_char(char::from(BASE64[((value << 4) & 0x3f) as usize]))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a [`Uuid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 22 characters of unpadded URL-safe base64")]
pub struct ParseUuidError;

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        if text.len() != 22 {
            return Err(ParseUuidError);
        }
        let mut value: u128 = 0;
        for (position, byte) in text.iter().enumerate() {
            let digit = BASE64.iter().position(|c| c == byte).ok_or(ParseUuidError)? as u128;
            if position < 21 {
                value = (value << 6) | digit;
            } else if digit & 0x0f != 0 {
                return Err(ParseUuidError);
            } else {
                value = (value << 2) | (digit >> 4);
            }
        }
        Ok(Self::from_u128(value))
    }
}

macro_rules! shared_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

shared_text!(
    /// Name of a topic; cheap to clone.
    TopicName
);
shared_text!(
    /// Identity of a cluster; brokers of different clusters never talk.
    ClusterId
);

impl TopicName {
    /// Why `name` cannot be a topic, in Kafka's terms; `None` when it can.
    #[must_use]
    pub fn problem(name: &str) -> Option<&'static str> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match name {
            "" => Some("the empty string is not allowed as a topic name"),
            "." | ".." => Some("a topic name cannot be '.' or '..'"),
            name if name.len() > 249 => Some("a topic name cannot be longer than 249 characters"),
            name if !name.chars().all(legal) => {
                Some("a topic name may contain only ASCII letters, digits, '.', '_' and '-'")
            }
            _ => None,
        }
    }
}

/// One partition of one topic, by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition of it.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<TopicName>, partition: impl Into<PartitionIndex>) -> Self {
        Self { topic: topic.into(), partition: partition.into() }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_printed_as_kafka_prints_it_and_read_back() {
        // The pair is Kafka's own reserved metadata topic id (Uuid.METADATA_TOPIC_ID = new Uuid(0, 1)).
        assert_eq!(Uuid::from_u128(1).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            let id = Uuid::from_u128(value);
            assert_eq!(id.to_string().parse::<Uuid>(), Ok(id));
        }
        assert!("short".parse::<Uuid>().is_err());
        assert!("AAAAAAAAAAAAAAAAAAAAA!".parse::<Uuid>().is_err());
    }

    #[test]
    fn topic_names_follow_kafkas_rules() {
        for good in ["a", "a.b_c-D9", &"x".repeat(249)] {
            assert_eq!(TopicName::problem(good), None, "{good}");
        }
        for bad in ["", ".", "..", "a/b", "ü", &"x".repeat(250)] {
            assert!(TopicName::problem(bad).is_some(), "{bad}");
        }
    }
}
