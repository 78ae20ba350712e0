//! What is written, and whether what came back is the same. Pure.

use bytes::Bytes;
use chronik_model::batch::{BatchBuilder, BatchHeader, HEADER_BYTES, crc_matches, records};

/// How what was read differs from what was written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("the batch cannot be read: {0}")]
    Batch(String),
    #[error("it begins at offset {found}, not at {wanted}")]
    Offset { found: i64, wanted: i64 },
    #[error("{found} records instead of {wanted}")]
    Count { found: usize, wanted: usize },
    #[error("record {0} has another value")]
    Value(usize),
}

/// Values that no other probe, partition or position shares.
pub(super) fn values(topic: &str, partition: i32, records: u32) -> Vec<String> {
    (0..records).map(|n| format!("{topic}/{partition}/{n}")).collect()
}

/// One batch of these values.
pub(super) fn batch(now_ms: i64, values: &[String]) -> Bytes {
    let mut batch = BatchBuilder::new(now_ms);
    values.iter().for_each(|value| batch.push(None, Some(value.as_bytes())));
    batch.build()
}

/// Whether `fetched` begins with a batch at `offset` that has exactly these values.
pub(super) fn compare(fetched: &[u8], offset: i64, values: &[String]) -> Result<(), Mismatch> {
    let header = BatchHeader::decode(fetched).map_err(|error| Mismatch::Batch(error.to_string()))?;
    let whole = fetched.get(..header.total_bytes).ok_or_else(|| Mismatch::Batch("it is cut off".to_owned()))?;
    crc_matches(whole).map_err(|error| Mismatch::Batch(error.to_string()))?;
    if header.base_offset.0 != offset {
        return Err(Mismatch::Offset { found: header.base_offset.0, wanted: offset });
    }
    let body = whole.get(HEADER_BYTES..).unwrap_or_default();
    let mut found = 0;
    for record in records(body, header.record_count) {
        let record = record.map_err(|error| Mismatch::Batch(error.to_string()))?;
        if values.get(found).is_some_and(|wanted| record.value != Some(wanted.as_bytes())) {
            return Err(Mismatch::Value(found));
        }
        found += 1;
    }
    if found != values.len() {
        return Err(Mismatch::Count { found, wanted: values.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_the_same() {
        let values = values("t", 2, 3);
        assert_eq!(values, ["t/2/0", "t/2/1", "t/2/2"]);
        assert_eq!(compare(&batch(1, &values), 0, &values), Ok(()));
    }

    #[test]
    fn every_difference_is_named() {
        let written = values("t", 0, 3);
        let bytes = batch(1, &written);
        assert_eq!(compare(&bytes, 7, &written), Err(Mismatch::Offset { found: 0, wanted: 7 }));
        assert_eq!(compare(&bytes, 0, &values("t", 0, 4)), Err(Mismatch::Count { found: 3, wanted: 4 }));
        assert_eq!(compare(&bytes, 0, &values("t", 0, 2)), Err(Mismatch::Count { found: 3, wanted: 2 }));
        assert_eq!(compare(&bytes, 0, &values("u", 0, 3)), Err(Mismatch::Value(0)));
        assert!(matches!(compare(&bytes[..bytes.len() - 1], 0, &written), Err(Mismatch::Batch(_))));
        assert!(matches!(compare(&[], 0, &written), Err(Mismatch::Batch(_))));
        let mut damaged = bytes.to_vec();
        let last = damaged.len() - 3;
        damaged[last] ^= 1;
        assert!(matches!(compare(&damaged, 0, &written), Err(Mismatch::Batch(_))));
    }
}
