//! The Kubernetes operator of Chronik.
