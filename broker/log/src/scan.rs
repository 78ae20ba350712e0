//! Walks over the batches of a file, in large reads, looking at headers or at every byte.
//!
//! Recovery walks with checksums; lookups and replays walk over headers only. The walk ends at the first bytes that
//! are no batch and says why. It never reads past the given end and never allocates by a length that a header claims.

use std::io;

use bytes::Bytes;
use chronik_model::Offset;
use chronik_model::batch::{BatchError, BatchHeader, HEADER_BYTES, crc_matches};

use crate::disk::FileRef;

/// Why the walk ended early.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The bytes at `position` are no sound batch.
    Batch(BatchError),
    /// The disk failed.
    Io(io::Error),
}

/// A batch and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
}

impl Located {
    pub(crate) fn end(&self) -> u64 {
        self.position + self.header.total_bytes as u64
    }
}

/// The walk.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    file: &'a FileRef,
    position: u64,
    end: u64,
    chunk: usize,
    /// Batches that end behind this offset have their checksum verified.
    verify_from: Offset,
    forgotten: bool,
    buffer: Bytes,
    buffer_at: u64,
}

impl<'a> Scanner<'a> {
    /// Walks over headers in `position..end`, reading `chunk` bytes at a time.
    pub(crate) fn headers(file: &'a FileRef, position: u64, end: u64, chunk: usize) -> Self {
        Self {
            file,
            position,
            end,
            chunk: chunk.max(HEADER_BYTES),
            verify_from: Offset(i64::MAX),
            forgotten: false,
            buffer: Bytes::new(),
            buffer_at: position,
        }
    }

    /// Verifies the checksum of every batch with records at or above `offset`.
    pub(crate) fn verifying_from(mut self, offset: Offset) -> Self {
        self.verify_from = offset;
        self
    }

    /// The next batch; `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Located>, ScanError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
        let header = BatchHeader::decode(self.bytes(position, HEADER_BYTES.min(left))?).map_err(ScanError::Batch)?;
        if header.total_bytes > left {
            return Err(ScanError::Batch(BatchError::Short { have: left, need: header.total_bytes }));
        }
        if header.next_offset() > self.verify_from {
            if !self.forgotten {
                // From here on nothing was synced for sure: look at the disk, not at the cache.
                self.forgotten = true;
                self.file.forget_clean_pages(position).map_err(ScanError::Io)?;
                self.buffer = Bytes::new();
                return self.next_batch();
            }
            crc_matches(self.bytes(position, header.total_bytes)?).map_err(ScanError::Batch)?;
        }
        let located = Located { position, header };
        self.position = located.end();
        Ok(Some(located))
    }

    fn bytes(&mut self, position: u64, len: usize) -> Result<&[u8], ScanError> {
        let buffered = self.buffer_at + self.buffer.len() as u64;
        if position < self.buffer_at || position + len as u64 > buffered {
            let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
            self.buffer = self.file.read_at(position, len.max(self.chunk).min(left)).map_err(ScanError::Io)?;
            self.buffer_at = position;
        }
        let start = (position - self.buffer_at) as usize;
        let have = self.buffer.len() - start;
        self.buffer.get(start..start + len).ok_or(ScanError::Batch(BatchError::Short { have, need: len }))
    }
}
