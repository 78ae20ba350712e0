//! The Kubernetes operator of Chronik.

pub mod api;
pub mod backoff;
pub mod broker_io;
pub mod build;
pub mod cli;
pub mod controller;
pub mod hash;
pub mod health;
pub mod kube_io;
pub mod lease;
pub mod metrics;
pub mod mutant;
pub mod observed;
pub mod plan;
pub mod ports;
pub mod quantity;
pub mod reconcile;
pub mod status_of;
pub mod validate;
