//! What the fuzz targets share: the memory limit, every Kafka message behind one function type, damage to files, seeds.
//!
//! A target takes bytes, does with them what the broker would do, and panics when a rule is broken. The rules are
//! written in the targets; the production crates know nothing of this one. Inputs are split by
//! [`arbitrary::Unstructured`], so that a small change of the input is a small change of what happens.

pub mod damage;
pub mod memory;
pub mod messages;
pub mod seeds;
