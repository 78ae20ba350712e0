//! The edge of the broker: sockets, files, threads and clocks around the pure crates.
//!
//! `main` parses the command line and calls [`startup`]; [`startup`] wires everything else in the order that
//! `ARCHITECTURE.md` gives. [`config`] is read once before anything runs. [`peer`] knows where other brokers are and
//! carries Raft between them. [`driver`] owns the Raft thread and everything that proposes to it. [`net`] and [`api`]
//! serve Kafka clients, [`replication`] moves records between brokers, [`admin`] shows what is happening, [`control`] does
//! what an operator asks.
//!
//! Nothing here decides what the cluster's metadata should be: that is `chronik-core`'s.

pub mod admin;
pub mod api;
pub mod config;
pub mod control;
pub mod driver;
pub mod local;
pub mod net;
pub mod peer;
pub mod probe;
pub mod replication;
pub mod startup;
pub mod telemetry;
