//! The owner of the metadata replica.
