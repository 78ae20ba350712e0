//! Quorums in memory.
