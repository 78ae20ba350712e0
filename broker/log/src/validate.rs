//! What a leader accepts: the checks that need the batch and the settings, but not the state of the log.
//!
//! Records are not decoded; the header and the checksum decide. The header's largest timestamp is taken as it is.

use bytes::Bytes;
use chronik_model::batch::{BatchHeader, HEADER_BYTES, TimestampType, find_batch};

use crate::config::LogConfig;
use crate::error::LogError;
use crate::partition_log::AppendOrigin;

/// Checks one whole batch as sent by a producer: checksum, magic, size, counts, timestamps, producer fields.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate_batch(
    batch: &[u8],
    config: &LogConfig,
    now_ms: i64,
    origin: AppendOrigin,
) -> Result<BatchHeader, LogError> {
    let header = find_batch(batch)?;
    if header.total_bytes != batch.len() {
        return Err(LogError::InvalidRecord("bytes follow the record batch"));
    }
    if header.total_bytes > config.max_message_bytes {
        return Err(LogError::MessageTooLarge { size: header.total_bytes, max: config.max_message_bytes });
    }
    if i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
        return Err(LogError::InvalidRecord("the record count does not match the last offset delta"));
    }
    // A record takes at least seven bytes unless it is compressed: a header cannot claim a billion offsets.
    if header.attributes & 0x07 == 0 && (header.record_count as usize) > (header.total_bytes - HEADER_BYTES) / 7 {
        return Err(LogError::InvalidRecord("more records are claimed than the bytes can hold"));
    }
    if origin == AppendOrigin::Client && header.is_control() {
        return Err(LogError::InvalidRecord("clients may not write control records"));
    }
    if header.has_producer() {
        let sequenced = header.base_sequence >= 0 || header.is_control();
        if header.producer_id.0 < 0 || header.producer_epoch.0 < 0 || !sequenced {
            return Err(LogError::InvalidRecord("a producer id needs an epoch and a sequence number"));
        }
    } else if header.is_transactional() {
        return Err(LogError::InvalidRecord("a transactional batch needs a producer id"));
    }
    if origin == AppendOrigin::Client && config.timestamp_type == TimestampType::CreateTime {
        validate_timestamps(&header, config, now_ms)?;
    }
    Ok(header)
}

fn validate_timestamps(header: &BatchHeader, config: &LogConfig, now_ms: i64) -> Result<(), LogError> {
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(LogError::InvalidTimestamp {
            timestamp: header.max_timestamp,
            reason: "only the broker sets the log append time",
        });
    }
    if header.max_timestamp < 0 {
        // -1 is "no timestamp".
        return Ok(());
    }
    if header.max_timestamp.saturating_sub(now_ms) > config.timestamp_after_max_ms {
        return Err(LogError::InvalidTimestamp {
            timestamp: header.max_timestamp,
            reason: "later than message.timestamp.after.max.ms allows",
        });
    }
    let oldest = header.base_timestamp.min(header.max_timestamp);
    if now_ms.saturating_sub(oldest) > config.timestamp_before_max_ms {
        return Err(LogError::InvalidTimestamp {
            timestamp: oldest,
            reason: "earlier than message.timestamp.before.max.ms allows",
        });
    }
    Ok(())
}

/// Cuts a run of whole batches apart, without copying. Checksums are not verified.
///
/// # Errors
/// Bytes that are no batch, or a last batch that is cut short.
pub fn split_batches(records: &Bytes) -> Result<Vec<Bytes>, LogError> {
    let mut batches = Vec::with_capacity(1);
    let mut at = 0;
    while at < records.len() {
        let header = BatchHeader::decode(&records[at..])?;
        let have = records.len() - at;
        if header.total_bytes > have {
            return Err(chronik_model::batch::BatchError::Short { have, need: header.total_bytes }.into());
        }
        batches.push(records.slice(at..at + header.total_bytes));
        at += header.total_bytes;
    }
    Ok(batches)
}
