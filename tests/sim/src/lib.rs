//! Whole clusters in one thread, from one seed.
//!
//! Production's own state machines ([`chronik_node`], `chronik-consensus`, `chronik-core`, `chronik-log`) run here over
//! simulated disks, clocks and networks that do the worst they may. [`kernel`] has time and chance, [`net`] the network,
//! [`world`] machines and faults, [`broker`] the process (what `broker/server` is in production, without threads),
//! [`client`] the workload, [`oracle`] the invariants and the history, [`plan`] what a seed wants to happen, [`runner`]
//! many seeds, one replay, shrinking and mutants.
//!
//! Nothing here sleeps, reads a clock, starts a thread within a world, or iterates a hash map.

pub mod broker;
pub mod client;
pub mod kernel;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod proto;
pub mod rules;
pub mod runner;
pub mod script;
pub mod survey;
pub mod trace;
pub mod world;
