//! One broker without its edge: what the server and the simulator of whole clusters run alike.
//!
//! - [`quorum`]: the owner of the metadata replica, of the state it replays and of everybody who waits for it.
//! - [`partition`]: one hosted partition, its replica, log and waiters.
//! - [`groups`]: a coordinator of groups on one led partition.
//! - [`storage`]: the directories of partitions and their checkpoints.
//! - [`settings`]: what the committed metadata means for a hosted partition.
//!
//! Nothing here knows tokio, a clock, a thread or randomness: time is an argument, disks and peers are traits, and what
//! callers wait with is a type of theirs. The server adds sockets, threads and clocks; the simulator adds a seed.

pub mod groups;
pub mod partition;
pub mod quorum;
pub mod settings;
pub mod storage;

pub use chronik_core::group::Now;
