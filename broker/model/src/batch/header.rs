//! The 61-byte header.

use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Bytes of a batch header, the length field and what precedes it included.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the batch length field does not count: base offset and the length itself.
const LENGTH_OVERHEAD: usize = 12;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;

/// How the records of a batch are compressed (attribute bits 0-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip.
    Gzip,
    /// snappy, Xerial framing.
    Snappy,
    /// LZ4 frame.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

/// Who set the timestamps of a batch (attribute bit 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TimestampType {
    /// The producer.
    CreateTime,
    /// The broker, on append.
    LogAppendTime,
}

/// Why bytes are not a record batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or the stated length need.
    #[error("record batch cut short: {have} bytes where {need} are needed")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A message format other than 2.
    #[error("record batch has magic {0}, only 2 is supported")]
    Magic(i8),
    /// A length that no batch can have.
    #[error("record batch states an impossible length of {0}")]
    Length(i32),
    /// The checksum does not match.
    #[error("record batch checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Crc {
        /// What the batch says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Attributes with an unknown compression.
    #[error("record batch has unknown compression type {0}")]
    Compression(u8),
    /// Count and last offset delta contradict each other or are negative.
    #[error("record batch has {count} records but a last offset delta of {last_offset_delta}")]
    Count {
        /// Record count field.
        count: i32,
        /// Last offset delta field.
        last_offset_delta: i32,
    },
}

/// The decoded header of one batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub total_bytes: usize,
    /// Leader epoch under which the batch was appended.
    pub partition_leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Attribute bits.
    pub attributes: i16,
    /// Offset of the last record minus the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds since 1970.
    pub base_timestamp: i64,
    /// Largest timestamp in the batch, milliseconds since 1970.
    pub max_timestamp: i64,
    /// Producer, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// Epoch of the producer.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record, -1 without a producer.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl BatchHeader {
    /// Decodes the header at the start of `bytes`. Needs only [`HEADER_BYTES`]; checks magic, length, compression and
    /// counts, not the CRC (see [`crc_matches`]).
    ///
    /// # Errors
    /// [`BatchError`], naming the field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Short { have: bytes.len(), need: HEADER_BYTES });
        }
        let magic = i8::from_be_bytes(be(bytes, 16));
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = i32::from_be_bytes(be(bytes, 8));
        let total_bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(LENGTH_OVERHEAD))
            .filter(|total| *total >= HEADER_BYTES)
            .ok_or(BatchError::Length(length))?;
        let header = Self {
            base_offset: Offset(i64::from_be_bytes(be(bytes, 0))),
            total_bytes,
            partition_leader_epoch: LeaderEpoch(i32::from_be_bytes(be(bytes, 12))),
            crc: u32::from_be_bytes(be(bytes, CRC_AT)),
            attributes: i16::from_be_bytes(be(bytes, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(be(bytes, 23)),
            base_timestamp: i64::from_be_bytes(be(bytes, 27)),
            max_timestamp: i64::from_be_bytes(be(bytes, 35)),
            producer_id: ProducerId(i64::from_be_bytes(be(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(be(bytes, 51))),
            base_sequence: i32::from_be_bytes(be(bytes, 53)),
            record_count: i32::from_be_bytes(be(bytes, 57)),
        };
        header.compression()?;
        // Compaction may leave fewer records than offsets, never more.
        if header.last_offset_delta < 0
            || header.record_count < 0
            || i64::from(header.record_count) > i64::from(header.last_offset_delta) + 1
        {
            return Err(BatchError::Count { count: header.record_count, last_offset_delta: header.last_offset_delta });
        }
        Ok(header)
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        // What a damaged file or a peer claims may be as large as numbers get.
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    /// Offset that follows the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    /// Sequence number of the last record; wraps from `i32::MAX` to 0 as Kafka's do.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        i32::try_from(last % (i64::from(i32::MAX) + 1)).unwrap_or(0)
    }

    /// Whether a producer id is set: an idempotent or transactional batch.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id != ProducerId::NONE
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`BatchError::Compression`] for types 5 to 7, which are not defined.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        match self.attributes & 0x07 {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            other => Err(BatchError::Compression(other as u8)),
        }
    }

    /// Who set the timestamps.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & 0x08 == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether the batch holds control records (transaction markers).
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// Decodes the batch at the start of `bytes` and checks that it is all there and its CRC matches.
///
/// # Errors
/// [`BatchError`]; [`BatchError::Short`] when `bytes` ends inside the batch.
pub fn find_batch(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::decode(bytes)?;
    if bytes.len() < header.total_bytes {
        return Err(BatchError::Short { have: bytes.len(), need: header.total_bytes });
    }
    crc_matches(&bytes[..header.total_bytes])?;
    Ok(header)
}

/// CRC-32C over everything from the attributes on.
pub(crate) fn crc_of(batch: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[ATTRIBUTES_AT..]) as u32
}

/// Checks the CRC of exactly one whole batch.
///
/// # Errors
/// [`BatchError::Crc`], or [`BatchError::Short`] for less than a header.
pub fn crc_matches(batch: &[u8]) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Short { have: batch.len(), need: HEADER_BYTES });
    }
    let stored = u32::from_be_bytes(be(batch, CRC_AT));
    let computed = crc_of(batch);
    if stored == computed { Ok(()) } else { Err(BatchError::Crc { stored, computed }) }
}

/// Writes the base offset of a batch in place; the CRC does not cover it. `header` holds at least [`HEADER_BYTES`].
pub fn set_base_offset(header: &mut [u8], offset: Offset) {
    header[0..8].copy_from_slice(&offset.0.to_be_bytes());
}

/// Writes the partition leader epoch of a batch in place; the CRC does not cover it.
pub fn set_partition_leader_epoch(header: &mut [u8], epoch: LeaderEpoch) {
    header[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}
