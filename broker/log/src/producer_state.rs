//! What the log knows about idempotent producers: the last five batches of each, so that a retry is recognised and a
//! gap refused (KIP-98).
//!
//! The partition log checks a batch before it appends and updates after; followers only update. The state is part of
//! the log: it is rebuilt from a snapshot and the batches behind it after every restart and truncation, so a follower
//! that becomes leader knows the same batches.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, BufMut};
use chronik_model::batch::BatchHeader;
use chronik_model::{Offset, ProducerEpoch, ProducerId, mutant};

use crate::error::LogError;
use crate::sealed::{seal, unseal};

/// Batches remembered per producer: as many as a producer may have in flight.
const REMEMBERED: usize = 5;
const MAGIC: [u8; 4] = *b"ChPS";

/// One remembered batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchMetadata {
    /// Sequence number of the first record.
    pub first_sequence: i32,
    /// Sequence number of the last record.
    pub last_sequence: i32,
    /// Offset of the first record.
    pub first_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// Largest timestamp.
    pub timestamp: i64,
}

/// What is known about one producer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerEntry {
    /// Newest epoch seen.
    pub epoch: ProducerEpoch,
    /// Up to five batches of that epoch, oldest first.
    pub batches: VecDeque<BatchMetadata>,
    /// Timestamp of the last batch or marker.
    pub last_timestamp: i64,
}

/// What to do with a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SequenceCheck {
    /// It is the next one.
    Append,
    /// It was appended before; answer with the offsets it has.
    Duplicate(BatchMetadata),
}

/// All producers of one log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProducerStates {
    producers: HashMap<ProducerId, ProducerEntry>,
}

impl ProducerStates {
    /// Decides about a batch that has a producer; one without is always [`SequenceCheck::Append`].
    ///
    /// # Errors
    /// [`LogError::OutOfOrderSequence`] or [`LogError::InvalidProducerEpoch`].
    pub fn check(&self, header: &BatchHeader) -> Result<SequenceCheck, LogError> {
        if !header.has_producer() {
            return Ok(SequenceCheck::Append);
        }
        // Nothing known, be it a first batch, an expired producer or deleted records: any sequence is a start.
        let Some(entry) = self.producers.get(&header.producer_id) else { return Ok(SequenceCheck::Append) };
        if header.producer_epoch < entry.epoch {
            return Err(LogError::InvalidProducerEpoch {
                producer_id: header.producer_id,
                current: entry.epoch,
                found: header.producer_epoch,
            });
        }
        let expected = if header.producer_epoch > entry.epoch {
            0
        } else {
            let same = |batch: &&BatchMetadata| {
                (batch.first_sequence, batch.last_sequence) == (header.base_sequence, header.last_sequence())
            };
            if let Some(batch) = entry.batches.iter().find(same) {
                return Ok(if mutant!(AppendDuplicate) {
                    SequenceCheck::Append
                } else {
                    SequenceCheck::Duplicate(*batch)
                });
            }
            entry.batches.back().map_or(0, |last| next_sequence(last.last_sequence))
        };
        if header.base_sequence == expected || mutant!(AcceptSequenceGap) {
            return Ok(SequenceCheck::Append);
        }
        Err(LogError::OutOfOrderSequence { producer_id: header.producer_id, expected, found: header.base_sequence })
    }

    /// Notes an appended batch; its offsets are final. Markers only carry epoch and time.
    pub fn update(&mut self, header: &BatchHeader) {
        if !header.has_producer() {
            return;
        }
        let entry = self.producers.entry(header.producer_id).or_insert_with(|| ProducerEntry {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            last_timestamp: header.max_timestamp,
        });
        if header.producer_epoch != entry.epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        entry.last_timestamp = header.max_timestamp;
        if header.is_control() {
            return;
        }
        if entry.batches.len() == REMEMBERED {
            entry.batches.pop_front();
        }
        entry.batches.push_back(BatchMetadata {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            first_offset: header.base_offset,
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp,
        });
    }

    /// Forgets producers that were silent for longer than `expiration_ms`.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, entry| now_ms.saturating_sub(entry.last_timestamp) < expiration_ms);
    }

    /// What is known about a producer.
    #[must_use]
    pub fn get(&self, id: ProducerId) -> Option<&ProducerEntry> {
        self.producers.get(&id)
    }

    /// Number of producers known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// A copy with only the producers of `headers`, to try several batches of one append.
    pub(crate) fn subset<'a>(&self, headers: impl Iterator<Item = &'a BatchHeader>) -> Self {
        let known = headers.filter_map(|header| self.producers.get_key_value(&header.producer_id));
        Self { producers: known.map(|(id, entry)| (*id, entry.clone())).collect() }
    }

    /// The snapshot of the state at `offset`.
    pub(crate) fn encode(&self, offset: Offset) -> Vec<u8> {
        let mut ids: Vec<_> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        let mut content = Vec::new();
        content.put_i64(offset.0);
        content.put_u32(ids.len() as u32);
        for id in ids {
            let entry = &self.producers[&id];
            content.put_i64(id.0);
            content.put_i16(entry.epoch.0);
            content.put_i64(entry.last_timestamp);
            content.put_u8(entry.batches.len() as u8);
            for batch in &entry.batches {
                content.put_i32(batch.first_sequence);
                content.put_i32(batch.last_sequence);
                content.put_i64(batch.first_offset.0);
                content.put_i64(batch.last_offset.0);
                content.put_i64(batch.timestamp);
            }
        }
        seal(MAGIC, 1, &content)
    }

    /// Reads a snapshot back; `None` if it is not whole or not of `offset`.
    pub(crate) fn decode(sealed: &[u8], offset: Offset) -> Option<Self> {
        let mut content = unseal(MAGIC, 1, sealed).ok()?;
        if content.try_get_i64().ok()? != offset.0 {
            return None;
        }
        let count = content.try_get_u32().ok()?;
        let mut producers = HashMap::new();
        for _ in 0..count {
            let id = ProducerId(content.try_get_i64().ok()?);
            let epoch = ProducerEpoch(content.try_get_i16().ok()?);
            let last_timestamp = content.try_get_i64().ok()?;
            let remembered = usize::from(content.try_get_u8().ok()?);
            if remembered > REMEMBERED {
                return None;
            }
            let mut batches = VecDeque::with_capacity(remembered);
            for _ in 0..remembered {
                batches.push_back(BatchMetadata {
                    first_sequence: content.try_get_i32().ok()?,
                    last_sequence: content.try_get_i32().ok()?,
                    first_offset: Offset(content.try_get_i64().ok()?),
                    last_offset: Offset(content.try_get_i64().ok()?),
                    timestamp: content.try_get_i64().ok()?,
                });
            }
            producers.insert(id, ProducerEntry { epoch, batches, last_timestamp });
        }
        content.is_empty().then_some(Self { producers })
    }
}

/// Sequence numbers wrap from the largest to 0.
fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use chronik_model::batch::BatchBuilder;

    use super::*;

    fn batch(epoch: i16, sequence: i32, records: usize, offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(1_000)
            .producer(ProducerId(9), ProducerEpoch(epoch), sequence)
            .base_offset(Offset(offset));
        for _ in 0..records {
            builder.push(None, Some(b"v"));
        }
        BatchHeader::decode(&builder.build()).unwrap()
    }

    #[test]
    fn each_of_the_last_five_batches_is_a_duplicate_and_older_ones_are_out_of_order() {
        let mut states = ProducerStates::default();
        for n in 0..6 {
            let batch = batch(0, n * 2, 2, i64::from(n) * 2);
            assert_eq!(states.check(&batch).unwrap(), SequenceCheck::Append);
            states.update(&batch);
        }
        for n in 1..6 {
            let SequenceCheck::Duplicate(found) = states.check(&batch(0, n * 2, 2, 999)).unwrap() else {
                panic!("batch {n} is not known")
            };
            assert_eq!(found.first_offset, Offset(i64::from(n) * 2));
        }
        assert!(matches!(states.check(&batch(0, 0, 2, 0)), Err(LogError::OutOfOrderSequence { expected: 12, .. })));
        assert!(matches!(states.check(&batch(0, 13, 1, 0)), Err(LogError::OutOfOrderSequence { .. })));
        assert!(matches!(states.check(&batch(0, 10, 1, 0)), Err(LogError::OutOfOrderSequence { .. })), "half a batch");
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut states = ProducerStates::default();
        states.update(&batch(3, 40, 1, 0));
        assert!(matches!(states.check(&batch(4, 41, 1, 0)), Err(LogError::OutOfOrderSequence { expected: 0, .. })));
        assert_eq!(states.check(&batch(4, 0, 1, 0)).unwrap(), SequenceCheck::Append);
        states.update(&batch(4, 0, 1, 1));
        assert!(matches!(states.check(&batch(3, 41, 1, 0)), Err(LogError::InvalidProducerEpoch { .. })));
    }

    #[test]
    fn sequences_wrap_and_an_unknown_producer_may_start_anywhere() {
        let mut states = ProducerStates::default();
        let last = batch(0, i32::MAX - 1, 2, 0);
        assert_eq!(states.check(&last).unwrap(), SequenceCheck::Append);
        states.update(&last);
        assert_eq!(states.check(&batch(0, 0, 1, 2)).unwrap(), SequenceCheck::Append);
    }

    #[test]
    fn a_silent_producer_is_forgotten() {
        let mut states = ProducerStates::default();
        states.update(&batch(0, 5, 1, 0));
        states.expire(1_500, 1_000);
        assert_eq!(states.len(), 1);
        states.expire(2_000, 1_000);
        assert!(states.is_empty());
        assert_eq!(states.check(&batch(0, 77, 1, 0)).unwrap(), SequenceCheck::Append);
    }

    #[test]
    fn a_snapshot_is_read_back_whole_or_not_at_all() {
        let mut states = ProducerStates::default();
        for n in 0..7 {
            states.update(&batch(0, n, 1, i64::from(n)));
        }
        let sealed = states.encode(Offset(7));
        assert_eq!(ProducerStates::decode(&sealed, Offset(7)).as_ref(), Some(&states));
        assert_eq!(ProducerStates::decode(&sealed, Offset(8)), None);
        for length in 0..sealed.len() {
            assert_eq!(ProducerStates::decode(&sealed[..length], Offset(7)), None);
        }
    }
}
