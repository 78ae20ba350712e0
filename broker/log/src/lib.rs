//! Partition logs on disk.
pub mod disk;
mod error;
pub use error::LogError;
