//! Stories of the coordinator, one per rule.
