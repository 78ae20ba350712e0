//! Why bytes are not a message, or a message cannot become bytes.

/// Bytes that are not what the protocol says, with the field that could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct DecodeError {
    /// The innermost field, as `Struct.field`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: DecodeReason,
}

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeReason {
    /// The bytes end inside the field.
    #[error("{need} bytes needed where {have} remain")]
    Short {
        /// Bytes needed.
        need: usize,
        /// Bytes that remain.
        have: usize,
    },
    /// More elements are claimed than the remaining bytes could hold.
    #[error("{claimed} elements claimed where {have} bytes remain")]
    Elements {
        /// Elements claimed.
        claimed: usize,
        /// Bytes that remain.
        have: usize,
    },
    /// Null where this version has no null.
    #[error("null is not allowed in this version")]
    Null,
    /// A string longer than 32767 bytes.
    #[error("string of {0} bytes is longer than 32767")]
    StringLength(usize),
    /// A string that is not UTF-8.
    #[error("string is not UTF-8")]
    Utf8,
    /// A variable-length integer of more than 5 bytes (10 for 64 bits).
    #[error("variable-length integer is too long")]
    Varint,
    /// A known tagged field whose stated size is not the size of its value.
    #[error("{0} bytes of the tagged field were left over")]
    TaggedSize(usize),
    /// A version outside of what the message has.
    #[error("version {0} does not exist")]
    Version(i16),
    /// A record type or marker that is not defined.
    #[error("unknown type {0}")]
    UnknownType(i16),
}

impl DecodeError {
    pub(crate) fn new(reason: DecodeReason) -> Self {
        Self { field: "", reason }
    }

    /// Names the field unless an inner one is already named.
    #[cold]
    pub(crate) fn at(mut self, field: &'static str) -> Self {
        if self.field.is_empty() {
            self.field = field;
        }
        self
    }
}

/// A message that has no encoding. Only the broker's own mistakes and oversized data of users end here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// A string longer than 32767 bytes.
    #[error("string of {0} bytes is longer than 32767")]
    StringLength(usize),
    /// A length that does not fit its field.
    #[error("{0} bytes or elements do not fit the length field")]
    Length(usize),
    /// A version outside of what the message has.
    #[error("version {0} does not exist")]
    Version(i16),
}
