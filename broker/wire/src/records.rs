//! The records inside a batch, compressed or not.
//!
//! Used to find an offset by timestamp, by the group coordinator to replay its partition, and by tests. The batch is
//! one that was validated on append; damage on disk still ends in an error, never in a panic.

use bytes::Bytes;
use chronik_model::Offset;
use chronik_model::batch::{self, BatchError, BatchHeader, HEADER_BYTES, Record, RecordError, TimestampType};

use crate::compression::{self, CompressionError};

/// A batch whose records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Its header is wrong.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Its records do not decompress.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A record is malformed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A batch, its records decompressed.
#[derive(Clone, Debug)]
pub struct BatchRecords {
    /// The header.
    pub header: BatchHeader,
    /// The records behind it, not compressed.
    pub bytes: Bytes,
}

impl BatchRecords {
    /// Opens the batch at the start of `batch`. Decompressed records may take up `limit` bytes. The CRC is not checked.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn open(batch: &Bytes, limit: usize) -> Result<Self, RecordsError> {
        let header = BatchHeader::decode(batch)?;
        if batch.len() < header.total_bytes {
            return Err(BatchError::Short { have: batch.len(), need: header.total_bytes }.into());
        }
        let records = batch.slice(HEADER_BYTES..header.total_bytes);
        let bytes = compression::decompress(header.compression()?, &records, limit)?;
        Ok(Self { header, bytes })
    }

    /// The records in order. Ends at the first malformed one.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
        batch::records(&self.bytes, self.header.record_count)
    }

    /// Offset and timestamp of every record in order. With `LogAppendTime` all have the timestamp of the batch.
    pub fn timestamps(&self) -> impl Iterator<Item = Result<(Offset, i64), RecordError>> {
        let header = self.header;
        self.records().map(move |record| {
            let record = record?;
            let timestamp = match header.timestamp_type() {
                TimestampType::LogAppendTime => header.max_timestamp,
                TimestampType::CreateTime => header.base_timestamp.saturating_add(record.timestamp_delta),
            };
            Ok((Offset(header.base_offset.0.saturating_add(i64::from(record.offset_delta))), timestamp))
        })
    }

    /// The first record whose timestamp is at least `timestamp`.
    ///
    /// # Errors
    /// [`RecordError`] when a record before it is malformed.
    pub fn first_at_or_after(&self, timestamp: i64) -> Result<Option<(Offset, i64)>, RecordError> {
        self.timestamps().find(|found| found.as_ref().map_or(true, |(_, time)| *time >= timestamp)).transpose()
    }
}
