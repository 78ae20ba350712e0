//! State images in chunks, so that one fits into a bounded transport message.
//!
//! The sender cuts a `Snapshot` message with [`split`] and sends the chunks in order; the receiver feeds them to its
//! [`Reassembler`] of that peer, which gives the whole message back after the last one, or refuses. Nothing of an
//! image reaches the replica before all of it is there and its checksum is right, so installing is all or nothing. A
//! chunk that starts another transfer abandons the unfinished one; a receiver holds at most one image per peer.

use bytes::{Bytes, BytesMut};

use crate::mirror::{RaftMessage, Snapshot};

/// A part of a `Snapshot` message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotChunk {
    /// Number of the transfer, chosen by the sender; the same in all its chunks.
    #[prost(uint64, tag = "1")]
    pub transfer: u64,
    /// Where `data` belongs in the image.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes of the whole image.
    #[prost(uint64, tag = "3")]
    pub total: u64,
    /// Bytes from `offset` on.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// CRC-32C of `data`.
    #[prost(uint32, tag = "5")]
    pub data_crc: u32,
    /// CRC-32C of the whole image.
    #[prost(uint32, tag = "6")]
    pub image_crc: u32,
    /// The message without its image; only in the first chunk (`offset` 0).
    #[prost(message, optional, tag = "7")]
    pub message: Option<RaftMessage>,
}

/// Why a chunk was refused. The transfer is abandoned; the leader starts another when told that it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The image is larger than this receiver accepts.
    #[error("an image of {total} bytes, the limit is {limit}")]
    TooLarge {
        /// As announced.
        total: u64,
        /// As accepted.
        limit: usize,
    },
    /// A chunk is missing, repeated or of no transfer.
    #[error("expected offset {expected}, got {got}")]
    OutOfOrder {
        /// Next offset.
        expected: u64,
        /// Of the chunk.
        got: u64,
    },
    /// The bytes changed on the way.
    #[error("checksum mismatch")]
    Checksum,
    /// The first chunk carries no snapshot message, or chunks contradict each other.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm yields 32 bits in a 64-bit integer.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Cuts a `Snapshot` message into chunks of at most `chunk_bytes` of image each; at least one, also when it is empty.
/// Lazy: a chunk is made when it is asked for, and its data aliases the image.
pub fn split(
    mut message: RaftMessage,
    transfer: u64,
    chunk_bytes: usize,
) -> impl Iterator<Item = SnapshotChunk> + Send {
    let image = message.snapshot.as_mut().map(|s| std::mem::take(&mut s.data)).unwrap_or_default();
    let chunk_bytes = chunk_bytes.max(1);
    let total = image.len();
    let image_crc = crc32c(&image);
    let mut first = Some(message);
    let mut offset = 0;
    std::iter::from_fn(move || {
        if first.is_none() && offset >= total {
            return None;
        }
        let data = image.slice(offset..total.min(offset + chunk_bytes));
        let chunk = SnapshotChunk {
            transfer,
            offset: offset as u64,
            total: total as u64,
            data_crc: crc32c(&data),
            image_crc,
            message: first.take(),
            data,
        };
        offset += chunk.data.len();
        Some(chunk)
    })
}

#[derive(Debug)]
struct Transfer {
    number: u64,
    total: usize,
    image_crc: u32,
    message: RaftMessage,
    image: BytesMut,
}

/// Puts the chunks of one peer together.
#[derive(Debug)]
pub struct Reassembler {
    max_image_bytes: usize,
    transfer: Option<Transfer>,
}

impl Reassembler {
    /// Accepts images of up to `max_image_bytes`.
    #[must_use]
    pub fn new(max_image_bytes: usize) -> Self {
        Self { max_image_bytes, transfer: None }
    }

    /// Takes the next chunk; gives the whole message after the last one. Memory grows with what arrived, not with
    /// what was announced.
    #[expect(clippy::needless_pass_by_value, reason = "a chunk is used up")]
    pub fn push(&mut self, chunk: SnapshotChunk) -> Result<Option<RaftMessage>, ChunkError> {
        let outcome = self.take(&chunk);
        if outcome.is_err() {
            self.transfer = None;
        }
        outcome
    }

    fn take(&mut self, chunk: &SnapshotChunk) -> Result<Option<RaftMessage>, ChunkError> {
        if crc32c(&chunk.data) != chunk.data_crc {
            return Err(ChunkError::Checksum);
        }
        if chunk.offset == 0 {
            self.begin(chunk)?;
        }
        let Some(transfer) = self.transfer.as_mut() else {
            return Err(ChunkError::OutOfOrder { expected: 0, got: chunk.offset });
        };
        let expected = transfer.image.len() as u64;
        if chunk.transfer != transfer.number || chunk.offset != expected {
            return Err(ChunkError::OutOfOrder { expected, got: chunk.offset });
        }
        if chunk.total != transfer.total as u64 || chunk.image_crc != transfer.image_crc {
            return Err(ChunkError::Malformed("chunks of one transfer disagree"));
        }
        if chunk.data.len() > transfer.total - transfer.image.len() {
            return Err(ChunkError::Malformed("more bytes than announced"));
        }
        if chunk.data.is_empty() && transfer.total > 0 {
            return Err(ChunkError::Malformed("an empty chunk"));
        }
        transfer.image.extend_from_slice(&chunk.data);
        if transfer.image.len() < transfer.total {
            return Ok(None);
        }
        let Some(done) = self.transfer.take() else { return Ok(None) };
        if crc32c(&done.image) != done.image_crc {
            return Err(ChunkError::Checksum);
        }
        let mut message = done.message;
        if let Some(snapshot) = message.snapshot.as_mut() {
            snapshot.data = done.image.freeze();
        }
        Ok(Some(message))
    }

    fn begin(&mut self, chunk: &SnapshotChunk) -> Result<(), ChunkError> {
        let total = usize::try_from(chunk.total).unwrap_or(usize::MAX);
        if total > self.max_image_bytes {
            return Err(ChunkError::TooLarge { total: chunk.total, limit: self.max_image_bytes });
        }
        let message = chunk.message.clone().ok_or(ChunkError::Malformed("no message in the first chunk"))?;
        if !message.is_snapshot() || !matches!(&message.snapshot, Some(Snapshot { metadata: Some(_), .. })) {
            return Err(ChunkError::Malformed("not a snapshot message"));
        }
        self.transfer = Some(Transfer {
            number: chunk.transfer,
            total,
            image_crc: chunk.image_crc,
            message,
            image: BytesMut::new(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{MessageType, SnapshotMetadata};

    fn message(image: &[u8]) -> RaftMessage {
        RaftMessage {
            msg_type: MessageType::Snapshot as i32,
            to: 2,
            from: 1,
            term: 3,
            snapshot: Some(Snapshot {
                data: Bytes::copy_from_slice(image),
                metadata: Some(SnapshotMetadata { conf_state: None, index: 9, term: 3 }),
            }),
            ..RaftMessage::default()
        }
    }

    #[test]
    fn a_message_survives_being_cut_whatever_the_chunk_size() {
        let image: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        for (image, chunk_bytes) in [(&image[..], 1), (&image, 7), (&image, 1000), (&image, 4096), (&[][..], 64)] {
            let mut reassembler = Reassembler::new(1000);
            let mut out = None;
            for chunk in split(message(image), 1, chunk_bytes) {
                assert!(out.is_none(), "complete before the last chunk");
                out = reassembler.push(chunk).expect("in order");
            }
            assert_eq!(out, Some(message(image)));
        }
    }

    #[test]
    fn gaps_repeats_damage_and_oversize_are_refused_and_abandon_the_transfer() {
        let chunks: Vec<_> = split(message(&[7; 100]), 1, 30).collect();
        let fresh = || Reassembler::new(100);
        assert_eq!(fresh().push(chunks[1].clone()), Err(ChunkError::OutOfOrder { expected: 0, got: 30 }));

        let mut r = fresh();
        assert_eq!(r.push(chunks[0].clone()), Ok(None));
        assert_eq!(r.push(chunks[2].clone()), Err(ChunkError::OutOfOrder { expected: 30, got: 60 }));
        assert_eq!(r.push(chunks[1].clone()), Err(ChunkError::OutOfOrder { expected: 0, got: 30 }));

        let mut damaged = chunks[0].clone();
        damaged.data = Bytes::from(vec![8; 30]);
        assert_eq!(fresh().push(damaged), Err(ChunkError::Checksum));

        assert_eq!(Reassembler::new(99).push(chunks[0].clone()), Err(ChunkError::TooLarge { total: 100, limit: 99 }));

        let mut other = chunks[1].clone();
        other.transfer = 2;
        let mut r = fresh();
        assert_eq!(r.push(chunks[0].clone()), Ok(None));
        assert_eq!(r.push(other), Err(ChunkError::OutOfOrder { expected: 30, got: 30 }));
    }

    #[test]
    fn a_new_transfer_abandons_the_unfinished_one() {
        let mut r = Reassembler::new(100);
        let old: Vec<_> = split(message(&[1; 100]), 1, 60).collect();
        assert_eq!(r.push(old[0].clone()), Ok(None));
        let mut out = None;
        for chunk in split(message(&[2; 90]), 2, 60) {
            out = r.push(chunk).expect("a fresh transfer");
        }
        assert_eq!(out, Some(message(&[2; 90])));
    }
}
