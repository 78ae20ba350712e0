//! Kafka listener: accepting connections, framing, ordered answers.
