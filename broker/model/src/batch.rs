//! The record batch, magic 2: a header of 61 bytes in front of records that stay opaque.
//!
//! The CRC-32C covers everything from the attributes on, so that base offset and partition leader epoch, which the
//! leader assigns, are patched in place without touching the CRC. Produce, replication, log recovery and fetch all
//! look at batches through [`BatchHeader`]; only [`BatchBuilder`] writes records, for the broker's own topics, and
//! only [`records`] reads them, uncompressed. Nothing here allocates by a length that a peer claims.
//!
//! Layout: Kafka protocol guide, "Record Batch".

mod builder;
mod header;
mod record;

pub use builder::BatchBuilder;
pub use header::{
    BatchError, BatchHeader, Compression, HEADER_BYTES, TimestampType, crc_matches, find_batch, set_base_offset,
    set_partition_leader_epoch,
};
pub use record::{Record, RecordError, records};
