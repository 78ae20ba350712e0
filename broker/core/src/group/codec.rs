//! Kafka's primitive types, big-endian: just what the records of `__consumer_offsets` need.
//!
//! A [`Reader`] never reads past its input, never reserves memory for a length it has not seen the bytes of, and knows
//! both encodings of strings: the old one with a 16-bit length and the flexible one with an unsigned varint.

use bytes::Bytes;

/// Why bytes are not a record of the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes end inside a field.
    #[error("the record ends inside a field")]
    Truncated,
    /// A length is negative where the schema has no null, or larger than what is left.
    #[error("a length in the record is out of range")]
    Length,
    /// A string is not UTF-8.
    #[error("a string in the record is not UTF-8")]
    Text,
    /// Bytes follow the last field.
    #[error("the record has bytes after its last field")]
    Trailing,
    /// A value version that this broker cannot read.
    #[error("version {0} of the record's value is not supported")]
    Version(i16),
    /// A field to be written is too long for the format.
    #[error("a field is too long for the record format")]
    TooLong,
}

/// Reads fields one after another.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Truncated)
    }

    pub fn i16(&mut self) -> Result<i16, RecordError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn unsigned_varint(&mut self) -> Result<u32, RecordError> {
        let mut value: u64 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| RecordError::Length);
            }
        }
        Err(RecordError::Length)
    }

    /// A length in the encoding of the version; `None` is null.
    fn length(&mut self, flexible: bool, wide: bool) -> Result<Option<usize>, RecordError> {
        let length = if flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else if wide {
            i64::from(self.i32()?)
        } else {
            i64::from(self.i16()?)
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| RecordError::Length),
        }
    }

    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<String>, RecordError> {
        let Some(length) = self.length(flexible, false)? else { return Ok(None) };
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|_| RecordError::Text)
    }

    pub fn string(&mut self, flexible: bool) -> Result<String, RecordError> {
        self.nullable_string(flexible)?.ok_or(RecordError::Length)
    }

    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes, RecordError> {
        let length = self.length(flexible, true)?.ok_or(RecordError::Length)?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// The number of elements of an array of which each takes at least `least` bytes.
    pub fn array_length(&mut self, flexible: bool, least: usize) -> Result<usize, RecordError> {
        let length = self.length(flexible, true)?.ok_or(RecordError::Length)?;
        if length > self.rest.len() / least.max(1) {
            return Err(RecordError::Length);
        }
        Ok(length)
    }

    /// Skips the tagged fields of a flexible version: they are additions this broker does not know.
    pub fn skip_tags(&mut self, flexible: bool) -> Result<(), RecordError> {
        if flexible {
            for _ in 0..self.unsigned_varint()? {
                let _tag = self.unsigned_varint()?;
                let size = usize::try_from(self.unsigned_varint()?).map_err(|_| RecordError::Length)?;
                self.take(size)?;
            }
        }
        Ok(())
    }

    pub fn end(&self) -> Result<(), RecordError> {
        if self.rest.is_empty() { Ok(()) } else { Err(RecordError::Trailing) }
    }
}

/// Writes the non-flexible encoding.
#[derive(Debug, Default)]
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn string(&mut self, text: &str) -> Result<&mut Self, RecordError> {
        let length = i16::try_from(text.len()).map_err(|_| RecordError::TooLong)?;
        self.i16(length).out.extend_from_slice(text.as_bytes());
        Ok(self)
    }

    pub fn nullable_string(&mut self, text: Option<&str>) -> Result<&mut Self, RecordError> {
        match text {
            Some(text) => self.string(text),
            None => Ok(self.i16(-1)),
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<&mut Self, RecordError> {
        let length = i32::try_from(bytes.len()).map_err(|_| RecordError::TooLong)?;
        self.i32(length).out.extend_from_slice(bytes);
        Ok(self)
    }

    pub fn finish(self) -> Bytes {
        Bytes::from(self.out)
    }
}
