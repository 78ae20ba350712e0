//! Builds batches for the broker's own topics (`__consumer_offsets`) and for tests.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{HEADER_BYTES, crc_of};
use super::record::put_varlong;
use crate::{Offset, ProducerEpoch, ProducerId};

/// Collects records and seals them into one uncompressed batch.
#[derive(Debug)]
pub struct BatchBuilder {
    base_offset: Offset,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: (ProducerId, ProducerEpoch, i32),
    count: i32,
    records: BytesMut,
}

impl BatchBuilder {
    /// An empty batch whose first record has `timestamp` (milliseconds since 1970). The leader assigns the offset.
    #[must_use]
    pub fn new(timestamp: i64) -> Self {
        Self {
            base_offset: Offset(0),
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            producer: (ProducerId::NONE, ProducerEpoch(-1), -1),
            count: 0,
            records: BytesMut::new(),
        }
    }

    /// Sets the base offset, for tests that play the leader.
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.base_offset = offset;
        self
    }

    /// Sets producer id, epoch and first sequence number.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// Appends a record with the batch's own timestamp.
    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_at(self.base_timestamp, key, value);
    }

    /// Appends a record with a timestamp of its own.
    pub fn push_at(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let mut body = BytesMut::new();
        body.put_i8(0);
        put_varlong(&mut body, timestamp - self.base_timestamp);
        put_varlong(&mut body, i64::from(self.count));
        for part in [key, value] {
            match part {
                Some(bytes) => {
                    put_varlong(&mut body, bytes.len() as i64);
                    body.put_slice(bytes);
                }
                None => put_varlong(&mut body, -1),
            }
        }
        put_varlong(&mut body, 0);
        put_varlong(&mut self.records, body.len() as i64);
        self.records.put_slice(&body);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
    }

    /// Number of records so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The sealed batch. A batch without records is an error of the caller: it would have no last offset.
    #[must_use]
    pub fn build(self) -> Bytes {
        assert!(self.count > 0, "a batch needs at least one record");
        let total = HEADER_BYTES + self.records.len();
        let mut batch = BytesMut::with_capacity(total);
        batch.put_i64(self.base_offset.0);
        batch.put_i32((total - 12) as i32);
        batch.put_i32(-1);
        batch.put_i8(2);
        batch.put_u32(0);
        batch.put_i16(0);
        batch.put_i32(self.count - 1);
        batch.put_i64(self.base_timestamp);
        batch.put_i64(self.max_timestamp);
        batch.put_i64(self.producer.0.0);
        batch.put_i16(self.producer.1.0);
        batch.put_i32(self.producer.2);
        batch.put_i32(self.count);
        batch.put_slice(&self.records);
        let crc = crc_of(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.freeze()
    }
}
