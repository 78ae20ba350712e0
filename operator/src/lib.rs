//! The Kubernetes operator of Chronik.

pub mod api;
pub mod observed;
pub mod ports;
