//! Partition logs on disk: what was appended is kept, found again, and never invented.
//!
//! - [`disk`]: files behind a trait, with a hostile twin for tests. The Raft storage builds on it too.
//! - [`LogDir`]: one directory of logs: identity, founders, lock, clean-shutdown marker, online or offline.
//! - [`PartitionLog`]: the log of one partition replica.
//! - [`Committer`]: makes many logs durable together.
//! - [`write_checkpoint`], [`read_checkpoint`]: offsets of all partitions, in one file per kind.
//!
//! Nothing here starts a thread, reads a clock or draws a random number: times and seeds are arguments. The caller
//! holds one lock per partition around its [`PartitionLog`]; bytes are read outside that lock through a [`ReadPlan`],
//! and synced outside it through a [`FlushPlan`].

mod checkpoint;
mod committer;
mod config;
pub mod disk;
mod error;
mod founders;
mod index;
mod leader_epoch;
mod log_dir;
mod partition_log;
mod producer_state;
mod scan;
mod sealed;
mod segment;
mod validate;

pub use checkpoint::{CheckpointKind, read_checkpoint, write_checkpoint};
pub use committer::{Committed, Committer};
pub use config::LogConfig;
pub use error::LogError;
pub use leader_epoch::{EpochEnd, EpochEntry};
pub use log_dir::{Identity, LogDir, LogDirState};
pub use partition_log::{
    AppendInfo, AppendOrigin, FlushPlan, OpenOptions, PartitionLog, ReadPlan, RecoveryReport, RetentionReport,
    TimestampCandidate, list_partitions, parse_partition_dir, partition_dir,
};
pub use producer_state::{BatchMetadata, ProducerEntry, ProducerStates, SequenceCheck};
pub use validate::{split_batches, validate_batch};
