//! Reads within bounds from the bytes of one frame.

use bytes::Bytes;

use super::{DecodeError, DecodeReason};

/// A position in one frame. Never reads past its end, never copies strings or records: they are slices of the frame.
#[derive(Clone, Debug)]
pub struct Reader {
    frame: Bytes,
    position: usize,
    end: usize,
    reserved: usize,
}

impl Reader {
    /// Reads `frame` from its start.
    #[must_use]
    pub fn new(frame: Bytes) -> Self {
        let end = frame.len();
        Self { frame, position: 0, end, reserved: 0 }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    /// Bytes of memory that were reserved on the strength of claimed lengths so far. A measure for tests.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// The bytes not yet read, shared.
    #[must_use]
    pub fn rest(&self) -> Bytes {
        self.frame.slice(self.position..self.end)
    }

    fn advance(&mut self, length: usize) -> Result<usize, DecodeError> {
        let have = self.remaining();
        if length > have {
            return Err(DecodeError::new(DecodeReason::Short { need: length, have }));
        }
        let start = self.position;
        self.position += length;
        Ok(start)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let start = self.advance(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.frame[start..start + N]);
        Ok(bytes)
    }

    /// The next `length` bytes, as a slice of the frame.
    pub(crate) fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        let start = self.advance(length)?;
        Ok(self.frame.slice(start..start + length))
    }

    /// An unsigned variable-length integer of at most 32 bits.
    pub(crate) fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u32 = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            // As Kafka does, bits beyond the 32nd are dropped.
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::new(DecodeReason::Varint))
    }

    /// The number of elements of an array, `None` for null. Negative lengths are null, as in Kafka. Refused when the
    /// remaining bytes cannot hold so many elements of at least `min_bytes`.
    pub(crate) fn element_count(&mut self, flexible: bool, min_bytes: usize) -> Result<Option<usize>, DecodeError> {
        let Some(claimed) = self.length(flexible)? else { return Ok(None) };
        let have = self.remaining();
        if claimed > have / min_bytes.max(1) {
            return Err(DecodeError::new(DecodeReason::Elements { claimed, have }));
        }
        Ok(Some(claimed))
    }

    /// Room for `count` elements, but never for more bytes than remain: what is not there yet is not paid for.
    pub(crate) fn reserve<T>(&mut self, count: usize) -> Vec<T> {
        let affordable = self.remaining() / size_of::<T>().max(1);
        let capacity = count.min(affordable);
        self.reserved += capacity * size_of::<T>();
        Vec::with_capacity(capacity)
    }

    /// A length of 32 bits (bytes, arrays), `None` for null.
    pub(crate) fn length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        if flexible { self.compact_length() } else { Ok(usize::try_from(i32::from_be_bytes(self.array()?)).ok()) }
    }

    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok((self.uvarint()? as usize).checked_sub(1))
    }

    /// The length of a string, `None` for null.
    pub(crate) fn string_length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let length =
            if flexible { self.compact_length()? } else { usize::try_from(i16::from_be_bytes(self.array()?)).ok() };
        match length {
            Some(length) if length > i16::MAX as usize => Err(DecodeError::new(DecodeReason::StringLength(length))),
            length => Ok(length),
        }
    }

    /// Reads the tagged fields that end a flexible struct. `field` reads the value of a tag it knows and says so; the
    /// others are skipped. A value must fill the size stated for it.
    pub(crate) fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let start = self.advance(size)?;
            let outer = (self.position, self.end);
            (self.position, self.end) = (start, outer.0);
            let known = field(tag, self);
            let left = self.remaining();
            (self.position, self.end) = outer;
            if known? && left > 0 {
                return Err(DecodeError::new(DecodeReason::TaggedSize(left)));
            }
        }
        Ok(())
    }
}
