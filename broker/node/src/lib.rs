//! One broker without its edge: what the server and the simulator of whole clusters run alike.
//!
//! - [`quorum`]: the owner of the metadata replica, of the state it replays and of everybody who waits for it.
//!
//! Nothing here knows tokio, a clock, a thread or randomness: time is an argument, disks and peers are traits, and what
//! callers wait with is a type of theirs. The server adds sockets, threads and clocks; the simulator adds a seed.

pub mod quorum;
