//! Kafka handlers, one file per API.
