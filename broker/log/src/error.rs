//! Everything that can go wrong with a log, and how Kafka calls it.

use std::io;

use chronik_model::batch::BatchError;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId};

use crate::disk::LockError;

/// Why an operation on a log was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The kernel reported an error. On a write or sync the whole log directory goes offline.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The log directory went offline earlier; only a restart brings it back.
    #[error("the log directory is offline: {0}")]
    Offline(String),
    /// Bytes that are no sound record batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Larger than `max.message.bytes`.
    #[error("record batch of {size} bytes is larger than max.message.bytes = {max}")]
    MessageTooLarge {
        /// Bytes of the batch.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// Larger than a segment can be.
    #[error("record batches of {size} bytes do not fit a segment of {max} bytes")]
    RecordListTooLarge {
        /// Bytes of all batches of the append.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A timestamp out of the accepted range.
    #[error("timestamp {timestamp} is out of range: {reason}")]
    InvalidTimestamp {
        /// The offending timestamp.
        timestamp: i64,
        /// Which limit it breaks.
        reason: &'static str,
    },
    /// A batch that a client may not send.
    #[error("invalid record batch: {0}")]
    InvalidRecord(&'static str),
    /// Not the next sequence number of the producer.
    #[error("producer {producer_id}: sequence {found} where {expected} is next")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The sequence number that would be accepted.
        expected: i32,
        /// The one that came.
        found: i32,
    },
    /// An epoch that a newer one replaced.
    #[error("producer {producer_id}: epoch {found} is older than {current}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The newest epoch seen.
        current: ProducerEpoch,
        /// The one that came.
        found: ProducerEpoch,
    },
    /// An offset outside the log.
    #[error("offset {offset} is outside {log_start}..={log_end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// First offset of the log.
        log_start: Offset,
        /// Offset after the last record.
        log_end: Offset,
    },
    /// A follower was handed batches that do not begin at its log end.
    #[error("batch at offset {found} where the log ends at {expected}")]
    UnexpectedOffset {
        /// The log end offset.
        expected: Offset,
        /// Where the batch begins.
        found: Offset,
    },
    /// A batch or an assignment with an epoch older than the log's.
    #[error("leader epoch {found} after {current}")]
    StaleLeaderEpoch {
        /// The newest epoch in the log.
        current: LeaderEpoch,
        /// The one that came.
        found: LeaderEpoch,
    },
    /// A file that is not what it should be and that cannot be derived from others.
    #[error("{path} is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory belongs to somebody else. It is never wiped.
    #[error("{path} belongs to {found}, not to {expected}: refusing to use it")]
    WrongIdentity {
        /// The identity file.
        path: String,
        /// Who it names.
        found: String,
        /// Who we are.
        expected: String,
    },
    /// Another process uses the directory.
    #[error(transparent)]
    Locked(#[from] LockError),
}

impl LogError {
    /// The error as Kafka numbers it.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { .. }
            | Self::Offline(_)
            | Self::Corrupt { .. }
            | Self::WrongIdentity { .. }
            | Self::Locked(_) => ErrorCode::KafkaStorageError,
            Self::Batch(BatchError::Magic(_)) => ErrorCode::UnsupportedForMessageFormat,
            Self::Batch(BatchError::Compression(_)) => ErrorCode::UnsupportedCompressionType,
            Self::Batch(BatchError::Count { .. }) => ErrorCode::InvalidRecord,
            Self::Batch(BatchError::Short { .. } | BatchError::Length(_) | BatchError::Crc { .. }) => {
                ErrorCode::CorruptMessage
            }
            Self::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::RecordListTooLarge { .. } => ErrorCode::RecordListTooLarge,
            Self::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::InvalidRecord(_) => ErrorCode::InvalidRecord,
            Self::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::UnexpectedOffset { .. } => ErrorCode::UnknownServerError,
            Self::StaleLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        }
    }

    /// Wraps an I/O error with what was tried on which path.
    pub(crate) fn io(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}
