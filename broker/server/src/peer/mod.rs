//! Other brokers.
