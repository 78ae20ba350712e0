//! Writes small fields into one buffer and keeps large payloads as they are.

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::EncodeError;

/// Payloads of at least this many bytes are passed on instead of copied. Below, copying is cheaper than another piece
/// in the gathering write.
const SHARE_FROM: usize = 4096;
/// A string's longest encoding.
const MAX_STRING: usize = i16::MAX as usize;

#[derive(Debug)]
enum Piece {
    Own(BytesMut),
    Shared(Bytes),
}

/// Collects the encoding of one message. Mistakes (a string too long) are remembered and reported by
/// [`finish`](Writer::finish), so that encoding a field cannot fail.
#[derive(Debug, Default)]
pub struct Writer {
    pieces: Vec<Piece>,
    tail: BytesMut,
    shared: usize,
    framed: bool,
    error: Option<EncodeError>,
}

/// The encoding of a message in pieces; put together they are exactly the plain encoding.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encoded {
    /// The pieces in order.
    pub pieces: Vec<Bytes>,
    /// Bytes of all pieces.
    pub len: usize,
}

impl Writer {
    /// A writer without frame length.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer whose result starts with the 4-byte length of what follows.
    #[must_use]
    pub fn framed() -> Self {
        let mut writer = Self { framed: true, ..Self::default() };
        writer.tail.reserve(256);
        writer.tail.put_i32(0);
        writer
    }

    /// Bytes written so far, the frame length included.
    #[must_use]
    pub fn len(&self) -> usize {
        let own = |piece: &Piece| if let Piece::Own(bytes) = piece { bytes.len() } else { 0 };
        self.shared + self.pieces.iter().map(own).sum::<usize>() + self.tail.len()
    }

    /// Whether nothing is written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    pub(crate) fn slice(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
    }

    /// Appends `bytes` without copying when they are large.
    pub(crate) fn payload(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_FROM {
            return self.slice(bytes);
        }
        if !self.tail.is_empty() {
            self.pieces.push(Piece::Own(self.tail.split()));
        }
        self.shared += bytes.len();
        self.pieces.push(Piece::Shared(bytes.clone()));
    }

    pub(crate) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.tail.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.tail.put_u8(value as u8);
    }

    /// A length of 32 bits (bytes, arrays), `None` for null.
    pub(crate) fn length(&mut self, length: Option<usize>, flexible: bool) {
        let Ok(length) = length.map_or(Ok(-1), i32::try_from) else {
            return self.fail(EncodeError::Length(length.unwrap_or(0)));
        };
        // -1 becomes 0, the compact null; i32::MAX + 1 still is a u32.
        if flexible { self.uvarint(length.wrapping_add(1) as u32) } else { self.tail.put_i32(length) }
    }

    /// A string with its length, `None` for null.
    pub(crate) fn string(&mut self, text: Option<&[u8]>, flexible: bool) {
        let length = text.map_or(-1, |text| text.len() as i64);
        if length > MAX_STRING as i64 {
            return self.fail(EncodeError::StringLength(length as usize));
        }
        if flexible {
            self.uvarint((length + 1) as u32)
        } else {
            self.tail.put_i16(length as i16)
        }
        self.slice(text.unwrap_or_default());
    }

    /// One tagged field: its tag, its size, and what `value` writes.
    pub(crate) fn tagged_field(&mut self, tag: u32, value: impl FnOnce(&mut Self)) {
        let mut inner = Self::new();
        value(&mut inner);
        self.uvarint(tag);
        match u32::try_from(inner.len()) {
            Ok(size) => self.uvarint(size),
            Err(_) => self.fail(EncodeError::Length(inner.len())),
        }
        if let Some(error) = inner.error {
            self.fail(error);
        }
        for piece in inner.pieces {
            match piece {
                Piece::Own(bytes) => self.slice(&bytes),
                Piece::Shared(bytes) => self.payload(&bytes),
            }
        }
        self.slice(&inner.tail);
    }

    /// The encoding, with the frame length filled in.
    ///
    /// # Errors
    /// The first [`EncodeError`] of a field, or a frame longer than its length field can say.
    pub fn finish(mut self) -> Result<Encoded, EncodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let len = self.len();
        if !self.tail.is_empty() {
            self.pieces.push(Piece::Own(self.tail));
        }
        if self.framed {
            let body = i32::try_from(len - 4).map_err(|_| EncodeError::Length(len))?;
            // The first piece starts with the placeholder: a framed writer begins by writing it.
            if let Some(Piece::Own(first)) = self.pieces.first_mut() {
                first[..4].copy_from_slice(&body.to_be_bytes());
            }
        }
        let freeze = |piece| match piece {
            Piece::Own(bytes) => bytes.freeze(),
            Piece::Shared(bytes) => bytes,
        };
        Ok(Encoded { pieces: self.pieces.into_iter().map(freeze).collect(), len })
    }
}

impl Encoded {
    /// The pieces for a vectored write.
    #[must_use]
    pub fn io_slices(&self) -> Vec<IoSlice<'_>> {
        self.pieces.iter().map(|piece| IoSlice::new(piece)).collect()
    }

    /// Drops the first `written` bytes, after a partial write.
    pub fn advance(&mut self, mut written: usize) {
        self.len = self.len.saturating_sub(written);
        let mut done = 0;
        for piece in &mut self.pieces {
            if written < piece.len() {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            done += 1;
        }
        self.pieces.drain(..done);
    }

    /// Everything in one piece; copies unless there is only one.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.remove(0);
        }
        let mut bytes = BytesMut::with_capacity(self.len);
        self.pieces.iter().for_each(|piece| bytes.put_slice(piece));
        bytes.freeze()
    }
}
