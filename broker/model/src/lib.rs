//! The words that every Chronik crate speaks: ids, offsets and epochs as newtypes, Kafka's error codes, and the view
//! of a record-batch v2.
//!
//! Used by all other crates; depends on none of them. Nothing here does I/O, reads a clock or knows a protocol
//! version. A Kafka offset and a Raft index are different types on purpose: mixing them is a compile error.

pub mod batch;
mod error_code;
mod ids;
pub mod mutant;

pub use error_code::ErrorCode;
pub use ids::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex,
    ProducerEpoch, ProducerId, RaftIndex, Term, TopicId, TopicName, TopicPartition, Uuid,
};
