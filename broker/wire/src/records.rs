//! The records inside a batch, compressed or not.
//!
//! Used to find an offset by timestamp, by the group coordinator to replay its partition, and by tests. The batch is
//! one that was validated on append; damage on disk still ends in an error, never in a panic. [`verify`] is that
//! validation: a leader calls it for what a client sends, because the header's count decides how many offsets are given
//! out, and only the records themselves say whether it is true.

use std::borrow::Cow;
use std::io::Read;

use bytes::Bytes;
use chronik_model::Offset;
use chronik_model::batch::{
    self, BatchError, BatchHeader, Compression, HEADER_BYTES, Record, RecordError, TimestampType,
};

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
    /// There are other records than the header says.
    #[error("the record batch claims {claimed} records and {found}")]
    Count {
        /// As the header says.
        claimed: i32,
        /// What is there instead.
        found: &'static str,
    },
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

/// Checks that the records of a batch are as many as its header says, each well formed and with the offset of its place,
/// and that nothing follows them. Looks at every record without holding them, and decompresses no more than `limit`
/// bytes: beyond a small window, memory is what the decoder itself holds (all of it for Snappy, its window for
/// Zstandard), and never more than that. The CRC is not checked.
///
/// # Errors
/// [`RecordsError`].
pub fn verify(batch: &[u8], limit: usize) -> Result<(), RecordsError> {
    let header = BatchHeader::decode(batch)?;
    let Some(packed) = batch.get(HEADER_BYTES..header.total_bytes) else {
        return Err(BatchError::Short { have: batch.len(), need: header.total_bytes }.into());
    };
    let codec = header.compression()?;
    let source = compression::stream(codec, packed, limit)?;
    let mut walk = match codec {
        Compression::None if packed.len() > limit => return Err(CompressionError::TooLarge { limit }.into()),
        // Nothing to copy: the hot path.
        Compression::None => Walk { source, codec, window: packed.into(), at: 0, end: packed.len(), read: 0, limit },
        _ => Walk { source, codec, window: vec![0; WINDOW].into(), at: 0, end: 0, read: 0, limit },
    };
    let claimed = header.record_count;
    for index in 0..claimed {
        match walk.record(index)? {
            Some(true) => {}
            Some(false) => return Err(RecordError { index }.into()),
            None => return Err(RecordsError::Count { claimed, found: "holds fewer" }),
        }
    }
    if walk.fill()? { Err(RecordsError::Count { claimed, found: "more bytes follow" }) } else { Ok(()) }
}

/// Bytes of records held at a time; more than the fixed fields of any record.
const WINDOW: usize = 16 << 10;

/// Goes over decompressed records once.
struct Walk<'a> {
    source: Box<dyn Read + 'a>,
    codec: Compression,
    /// Uncompressed records as a whole, or a part of what the source gives.
    window: Cow<'a, [u8]>,
    at: usize,
    end: usize,
    /// Bytes taken from the source.
    read: usize,
    limit: usize,
}

impl Walk<'_> {
    /// Brings more bytes into an empty window; false at the end.
    fn fill(&mut self) -> Result<bool, CompressionError> {
        if self.at < self.end {
            return Ok(true);
        }
        let Cow::Owned(window) = &mut self.window else { return Ok(false) };
        // One byte more than allowed tells whether there is more than allowed.
        let room = (self.limit - self.read).saturating_add(1).min(window.len());
        let source = &mut self.source;
        let filled = loop {
            match source.read(&mut window[..room]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let got = filled.map_err(|source| CompressionError::Malformed { codec: self.codec, source })?;
        (self.at, self.end) = (0, got);
        self.read += got;
        if self.read > self.limit {
            return Err(CompressionError::TooLarge { limit: self.limit });
        }
        Ok(got > 0)
    }

    fn byte(&mut self) -> Result<Option<u8>, CompressionError> {
        if self.at == self.end && !self.fill()? {
            return Ok(None);
        }
        let byte = self.window[self.at];
        self.at += 1;
        Ok(Some(byte))
    }

    fn varlong(&mut self, left: &mut i64) -> Result<Option<i64>, CompressionError> {
        let mut value: u64 = 0;
        // Nearly always all of it is in the window.
        let window = &self.window[self.at..self.end];
        for (bytes, byte) in (1..=10).zip(window) {
            value |= u64::from(byte & 0x7f) << (7 * (bytes - 1));
            if byte & 0x80 == 0 {
                self.at += bytes;
                *left -= bytes as i64;
                return Ok(Some((value >> 1) as i64 ^ -((value & 1) as i64)));
            }
        }
        value = 0;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.byte()? else { return Ok(None) };
            *left -= 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some((value >> 1) as i64 ^ -((value & 1) as i64)));
            }
        }
        Ok(None)
    }

    /// Goes over `length` bytes of a field that may be null; false when the record has not got them.
    fn skip(&mut self, length: i64, left: &mut i64) -> Result<bool, CompressionError> {
        if !(-1..=*left).contains(&length) {
            return Ok(false);
        }
        let mut rest = length.max(0);
        *left -= rest;
        while rest > 0 {
            if !self.fill()? {
                return Ok(false);
            }
            let step = rest.min((self.end - self.at) as i64);
            self.at += step as usize;
            rest -= step;
        }
        Ok(true)
    }

    /// The record at `index`: whether it is well formed; `None` when the records end before it.
    fn record(&mut self, index: i32) -> Result<Option<bool>, CompressionError> {
        if !self.fill()? {
            return Ok(None);
        }
        self.fields(index).map(|whole| Some(whole.is_some()))
    }

    fn fields(&mut self, index: i32) -> Result<Option<()>, CompressionError> {
        let Some(mut left) = self.varlong(&mut 0)?.filter(|length| i32::try_from(*length).is_ok()) else {
            return Ok(None);
        };
        let left = &mut left;
        // Attributes, which have no meaning yet.
        if !self.skip(1, left)? || self.varlong(left)?.is_none() {
            return Ok(None);
        }
        if self.varlong(left)? != Some(i64::from(index)) {
            return Ok(None);
        }
        for _ in 0..2 {
            let Some(length) = self.varlong(left)? else { return Ok(None) };
            if !self.skip(length, left)? {
                return Ok(None);
            }
        }
        let Some(headers) = self.varlong(left)?.filter(|count| (0..=*left / 2).contains(count)) else {
            return Ok(None);
        };
        for _ in 0..headers {
            let Some(key) = self.varlong(left)?.filter(|length| *length >= 0) else { return Ok(None) };
            if !self.skip(key, left)? {
                return Ok(None);
            }
            let Some(value) = self.varlong(left)? else { return Ok(None) };
            if !self.skip(value, left)? {
                return Ok(None);
            }
        }
        Ok((*left == 0).then_some(()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use chronik_model::batch::BatchBuilder;

    use super::*;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// A batch of three records, compressed, that claims `count`.
    fn batch(codec: usize, count: i32, change: fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut builder = BatchBuilder::new(1_000);
        for value in [&b"one"[..], &[7; 20_000], b""] {
            builder.push_at(1_500, Some(b"key"), Some(value));
        }
        let plain = builder.build();
        let mut records = plain[HEADER_BYTES..].to_vec();
        change(&mut records);
        let packed = compression::compress(CODECS[codec], &records).unwrap();
        let mut bytes = BytesMut::from(&plain[..HEADER_BYTES]);
        bytes.extend_from_slice(&packed);
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[22] = codec as u8;
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes.to_vec()
    }

    #[test]
    fn a_count_that_is_not_true_is_refused_in_every_compression() {
        for codec in 0..CODECS.len() {
            verify(&batch(codec, 3, |_| ()), 1 << 20).unwrap();
            let more = verify(&batch(codec, 1_000_000, |_| ()), 1 << 20);
            assert!(matches!(more, Err(RecordsError::Count { claimed: 1_000_000, .. })), "{codec}: {more:?}");
            let fewer = verify(&batch(codec, 2, |_| ()), 1 << 20);
            assert!(matches!(fewer, Err(RecordsError::Count { claimed: 2, .. })), "{codec}: {fewer:?}");
        }
    }

    #[test]
    fn records_that_do_not_add_up_are_refused() {
        for codec in 0..CODECS.len() {
            let offset = verify(&batch(codec, 3, |records| records[4] = 2), 1 << 20);
            assert!(matches!(offset, Err(RecordsError::Record(RecordError { index: 0 }))), "{codec}: {offset:?}");
            let cut = verify(&batch(codec, 3, |records| records.truncate(40)), 1 << 20);
            assert!(matches!(cut, Err(RecordsError::Record(RecordError { index: 1 }))), "{codec}: {cut:?}");
            let header = verify(&batch(codec, 3, |records| *records.last_mut().unwrap() = 2), 1 << 20);
            assert!(matches!(header, Err(RecordsError::Record(RecordError { index: 2 }))), "{codec}: {header:?}");
        }
    }

    #[test]
    fn records_and_their_numbers_may_lie_across_the_ends_of_windows() {
        for pad in 0..310 {
            let mut builder = BatchBuilder::new(1_000);
            builder.push_at(1_500, None, Some(&vec![b'p'; pad]));
            // Long enough for numbers of two bytes; with every padding something else lies at the end of the window.
            for _ in 0..60 {
                builder.push_at(1_500, Some(b"key"), Some(&[b'v'; 290]));
            }
            let plain = builder.build();
            for codec in [2, 3] {
                let packed = compression::compress(CODECS[codec], &plain[HEADER_BYTES..]).unwrap();
                let mut bytes = [&plain[..HEADER_BYTES], &packed[..]].concat();
                let length = bytes.len() as i32 - 12;
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
                bytes[22] = codec as u8;
                verify(&bytes, 1 << 20).unwrap();
            }
        }
    }

    #[test]
    fn no_more_is_decompressed_than_allowed() {
        for codec in 0..CODECS.len() {
            let refused = verify(&batch(codec, 3, |_| ()), 10_000);
            let too_large = matches!(refused, Err(RecordsError::Compression(CompressionError::TooLarge { .. })));
            assert!(too_large, "{codec}: {refused:?}");
        }
    }
}
