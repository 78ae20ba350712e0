//! The metadata quorum: tikv's raft hosted sans-io over a durable log of its own.
//!
//! The only crate that names `raft`. One thread of the server owns a `Replica` and drives it:
//!
//! ```text
//! let (mut replica, recovered) = Replica::open(config, disk, "raft", &start, now_ms)?;   // D: Disk + Clone
//! // restore the application from recovered.image (empty data = initial state), then loop:
//! //   wait for an input until replica.next_tick_ms()
//! replica.tick(now_ms);                              // may be called at any time; counts ticks itself
//! replica.step(message) ;                            // RaftMessage of a peer; never fails, refuses nonsense
//! replica.propose(data) -> Result<ProposalToken, ProposeError>
//! replica.change_membership(MembershipChange) -> Result<ProposalToken, MembershipError>
//! replica.transfer_leader(Option<NodeId>) -> Result<NodeId, TransferError>
//! replica.read_index() -> Result<ReadToken, ReadError>;  replica.forget_read(token)
//! replica.campaign();
//! replica.peer_connected(node, leader_hint: Option<NodeId>);  replica.peer_lost(node, refused: bool);
//! replica.report_unreachable(node);  replica.report_snapshot(node, delivered: bool);
//! while replica.has_ready() {
//!     let effects = replica.ready(|message| send now)?;   // Effects; Err(StorageFailed) is final
//!     // do effects, field by field, in order
//!     // if effects.snapshot_wanted: replica.provide_snapshot(applied index, &image) -> Result<(), SnapshotError>
//! }
//! replica.status() -> NodeStatus;  replica.leader();  replica.role();  replica.membership()
//! ```
//!
//! No tokio, no clock, no threads, no randomness: time comes in as milliseconds, jitter from a seed, files go through
//! `chronik_log`'s `Disk`. What never happens: a message that promises something before it is durable; a vote given
//! twice in a term; bytes of a peer parsed by raft's own protobuf runtime; anything promised after a storage failure.
//!
//! A voter whose disk was replaced comes back as an empty founder. It refuses to vote for anybody who has more than a
//! founder until a leader has fed it, so that one lost disk loses nothing that was committed; only where an even number
//! founded the cluster, and the voters never were others, it need not (`lost_disk`). Limits: a voter that has seen nothing
//! but its founding cannot warn it; how far it was fed is kept in memory only; a founder that first appears after one
//! of the others is lost for good waits for that one, because it cannot be told from an emptied one; and two voters of
//! which one is emptied wait for a leader for good if neither leads and they are not the founders, or a change of them is
//! under way.

mod bridge;
pub mod chunks;
mod config;
mod election;
mod error;
mod guard;
mod lost_disk;
mod membership;
pub mod mirror;
mod reads;
mod ready;
mod replica;
mod status;
mod storage;
mod types;
mod waiters;

pub use config::Config;
pub use error::{
    ConfigError, MembershipError, OpenError, ProposeError, ReadError, SnapshotError, StorageFailed, TransferError,
};
pub use replica::{Recovered, Replica};
pub use storage::{BOOTSTRAP_INDEX, Start};
pub use types::{
    BriefStatus, CommittedEntry, Effects, Membership, MembershipChange, NodeStatus, Payload, PeerProgress,
    ProgressKind, ProposalToken, ReadState, ReadToken, Role, RoleChange, StateImage,
};
pub use waiters::{Outcome, Waiters};
