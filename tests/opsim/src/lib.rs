//! The operator against an in-memory Kubernetes and modelled brokers, from a seed.
