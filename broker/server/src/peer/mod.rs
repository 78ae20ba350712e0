//! The other brokers: where they are and how Raft and control messages reach them.
//!
//! [`directory`] holds every peer's address before any Raft object exists; [`discovery`] fills it and keeps it fresh;
//! [`transport`] carries Raft messages, one ordered bounded queue and one stream per peer; [`control`] carries single
//! questions (propose, heartbeat, membership, status) over the same connections.
//!
//! Membership is never decided here: addresses are a directory, members are the Raft configuration.

pub mod cluster_file;
pub mod control;
pub mod directory;
pub mod discovery;
pub mod dns;
pub mod transport;

/// Generated from `proto/peer.proto`.
#[allow(
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::redundant_clone,
    reason = "generated code"
)]
pub mod proto {
    tonic::include_proto!("chronik.peer.v1");
}
