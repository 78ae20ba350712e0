//! The pure brain of a broker: what to decide, never how to do it.
//!
//! - [`balance`]: which replicas should move where.
//! - [`controller`]: the metadata state machine that all brokers replay from the Raft log, and the liveness rules that
//!   the Raft leader runs.
//! - [`partition`]: one replica of one partition, as leader or follower.
//! - [`group`]: the classic consumer group coordinator.
//!
//! Nothing here knows tokio, a clock, files or randomness: time and random ids arrive as arguments, decisions leave as
//! values. The broker and the simulator call the same functions. Record bytes never pass through.

pub mod balance;
pub mod controller;
pub mod group;
pub mod partition;
mod partition_state;

pub use partition_state::{LeaderRecovery, LogReport, PartitionState, effective_min_isr};
