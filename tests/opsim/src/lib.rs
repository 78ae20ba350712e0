//! The operator against an in-memory Kubernetes and modelled brokers, from a seed.
//!
//! [`runner::run`] makes a [`world::World`] from a [`plan::Plan`] and polls the operator's own reconcile pass in it, call by call:
//! [`client`] implements its ports with an await before and after each call, and there a pass can be dropped, which is a kill. What the
//! operator must never do is said in [`judge`]; what must have come about in the end, in [`settled`].
//!
//! Real here: everything of a pass. Modelled: Kubernetes ([`kubernetes`]) and the brokers with their data ([`brokers`]). Nothing reads
//! a clock, a file or an entropy source, so a seed tells the same story every time.

pub mod brokers;
pub mod client;
pub mod judge;
pub mod kubernetes;
pub mod plan;
pub mod rng;
pub mod runner;
pub mod settled;
pub mod shrink;
pub mod trace;
pub mod world;
