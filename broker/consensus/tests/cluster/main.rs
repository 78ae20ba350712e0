//! Stories of small clusters in memory: real replicas and storage, message queues for a network, hostile disks.

mod chaos;
mod demotion;
mod durability;
mod election;
mod harness;
mod membership;
mod replication;
