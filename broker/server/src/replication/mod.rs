//! The replicas of this broker: their logs, their leadership, and the records that move between brokers.

pub mod meta;
pub mod waiters;
