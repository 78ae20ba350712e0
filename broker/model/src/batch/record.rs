//! Records inside a batch, read lazily and within bounds.

use bytes::{BufMut, BytesMut};

/// One record, borrowed from the (uncompressed) batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Timestamp minus the batch's base timestamp, milliseconds.
    pub timestamp_delta: i64,
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Number of headers (skipped over, not decoded).
    pub header_count: i32,
}

/// The bytes of a record do not add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record {index} of the batch is malformed")]
pub struct RecordError {
    /// Position of the record in the batch.
    pub index: i32,
}

/// Iterates over `count` records in `bytes`, the uncompressed part behind the header. Stops at the first malformed
/// one; allocates nothing.
pub fn records(bytes: &[u8], count: i32) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    let mut rest = bytes;
    let mut index = 0;
    std::iter::from_fn(move || {
        if index >= count {
            return None;
        }
        let result = next_record(&mut rest).ok_or(RecordError { index });
        index = if result.is_ok() { index + 1 } else { count };
        Some(result)
    })
}

fn next_record<'a>(rest: &mut &'a [u8]) -> Option<Record<'a>> {
    let length = usize::try_from(varlong(rest)?).ok()?;
    let mut body = take(rest, length)?;
    take(&mut body, 1)?;
    let timestamp_delta = varlong(&mut body)?;
    let offset_delta = i32::try_from(varlong(&mut body)?).ok()?;
    let key = nullable(&mut body)?;
    let value = nullable(&mut body)?;
    let header_count = i32::try_from(varlong(&mut body)?).ok().filter(|count| *count >= 0)?;
    Some(Record { offset_delta, timestamp_delta, key, value, header_count })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

/// `Some(None)` is a null field, `None` malformed bytes.
#[allow(clippy::option_option)]
fn nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varlong(rest)? {
        -1 => Some(None),
        length => Some(Some(take(rest, usize::try_from(length).ok()?)?)),
    }
}

fn varlong(rest: &mut &[u8]) -> Option<i64> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

pub(crate) fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, BatchError, BatchHeader, HEADER_BYTES, find_batch, set_base_offset};
    use super::*;
    use crate::{Offset, ProducerEpoch, ProducerId};

    fn batch() -> bytes::Bytes {
        let mut builder =
            BatchBuilder::new(1_000).producer(ProducerId(7), ProducerEpoch(3), i32::MAX).base_offset(Offset(40));
        builder.push(Some(b"k"), Some(b"v1"));
        builder.push_at(1_500, None, None);
        builder.build()
    }

    #[test]
    fn a_built_batch_is_found_again_with_all_its_fields() {
        let bytes = batch();
        let header = find_batch(&bytes).unwrap();
        assert_eq!((header.base_offset, header.next_offset()), (Offset(40), Offset(42)));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 1_500));
        assert_eq!(header.last_sequence(), 0, "sequence numbers wrap to zero");
        let read: Vec<_> = records(&bytes[HEADER_BYTES..], header.record_count).map(Result::unwrap).collect();
        assert_eq!(read[0].key, Some(&b"k"[..]));
        assert_eq!(read[0].value, Some(&b"v1"[..]));
        assert_eq!((read[1].key, read[1].value, read[1].timestamp_delta), (None, None, 500));
    }

    #[test]
    fn the_leader_may_patch_the_base_offset_but_nothing_else() {
        let mut bytes = batch().to_vec();
        set_base_offset(&mut bytes, Offset(99));
        assert_eq!(find_batch(&bytes).unwrap().base_offset, Offset(99));
        for position in 21..bytes.len() {
            let mut broken = bytes.clone();
            broken[position] ^= 1;
            assert!(find_batch(&broken).is_err(), "a flipped bit at {position} went unnoticed");
        }
    }

    #[test]
    fn every_prefix_is_refused_as_short() {
        let bytes = batch();
        for length in 0..bytes.len() {
            assert!(matches!(find_batch(&bytes[..length]), Err(BatchError::Short { .. })), "{length}");
        }
    }

    #[test]
    fn impossible_lengths_and_counts_are_refused() {
        let mut bytes = batch().to_vec();
        bytes[8..12].copy_from_slice(&(-5_i32).to_be_bytes());
        assert_eq!(BatchHeader::decode(&bytes), Err(BatchError::Length(-5)));
        let mut bytes = batch().to_vec();
        bytes[57..61].copy_from_slice(&3_i32.to_be_bytes());
        assert!(matches!(BatchHeader::decode(&bytes), Err(BatchError::Count { .. })));
    }

    #[test]
    fn malformed_records_end_the_iteration_with_an_error() {
        let read: Vec<_> = records(&[0x80; 20], 1_000_000).collect();
        assert_eq!(read, vec![Err(RecordError { index: 0 })]);
    }
}
