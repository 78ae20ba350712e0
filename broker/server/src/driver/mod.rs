//! Raft thread.
