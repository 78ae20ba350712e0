//! The field types, and what a message is.

use std::ops::RangeInclusive;

use bytes::Bytes;
use chronik_model::Uuid;

use super::{DecodeError, DecodeReason, EncodeError, Encoded, KString, Reader, Writer};
use crate::ApiKey;

/// The version a message is read or written in, and whether that version is flexible (compact lengths, tagged fields).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The number.
    pub number: i16,
    /// Whether the encoding is the flexible one (KIP-482).
    pub flexible: bool,
}

/// A type of Kafka's type system.
pub trait Wire: Sized {
    /// The fewest bytes a value takes. Never more than the truth: array lengths are checked against it.
    fn min_bytes(version: Version) -> usize;

    /// Reads a value.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but a well-formed value.
    fn read(reader: &mut Reader, version: Version) -> Result<Self, DecodeError>;

    /// Writes the value.
    fn write(&self, writer: &mut Writer, version: Version);
}

/// A type that has a null.
pub trait NullableWire: Wire + Default {
    /// The fewest bytes a value or null takes.
    fn nullable_min_bytes(version: Version) -> usize;

    /// Reads a value or null.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, DecodeError>;

    /// Writes a value or null.
    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version);
}

/// An `Option`, in versions that have no null for it.
pub trait OptionalWire: Wire {
    /// The fewest bytes a value takes.
    fn present_min_bytes(version: Version) -> usize;

    /// Reads a value; null is an error.
    ///
    /// # Errors
    /// [`DecodeError`], for null too.
    fn read_present(reader: &mut Reader, version: Version) -> Result<Self, DecodeError>;

    /// Writes the value; `None` becomes the empty value, for there is no null.
    fn write_present(&self, writer: &mut Writer, version: Version);
}

impl<T: NullableWire> Wire for Option<T> {
    fn min_bytes(version: Version) -> usize {
        T::nullable_min_bytes(version)
    }

    fn read(reader: &mut Reader, version: Version) -> Result<Self, DecodeError> {
        T::read_nullable(reader, version)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        T::write_nullable(self.as_ref(), writer, version);
    }
}

impl<T: NullableWire> OptionalWire for Option<T> {
    fn present_min_bytes(version: Version) -> usize {
        T::min_bytes(version)
    }

    fn read_present(reader: &mut Reader, version: Version) -> Result<Self, DecodeError> {
        T::read(reader, version).map(Some)
    }

    fn write_present(&self, writer: &mut Writer, version: Version) {
        match self {
            Some(value) => value.write(writer, version),
            None => T::default().write(writer, version),
        }
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn min_bytes(_: Version) -> usize {
                size_of::<Self>()
            }

            fn read(reader: &mut Reader, _: Version) -> Result<Self, DecodeError> {
                reader.array().map(Self::from_be_bytes)
            }

            fn write(&self, writer: &mut Writer, _: Version) {
                writer.slice(&self.to_be_bytes());
            }
        }
    )*};
}

number!(i8, i16, u16, i32, i64);

impl Wire for bool {
    fn min_bytes(_: Version) -> usize {
        1
    }

    fn read(reader: &mut Reader, _: Version) -> Result<Self, DecodeError> {
        reader.array().map(|[byte]| byte != 0)
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.slice(&[u8::from(*self)]);
    }
}

impl Wire for Uuid {
    fn min_bytes(_: Version) -> usize {
        16
    }

    fn read(reader: &mut Reader, _: Version) -> Result<Self, DecodeError> {
        reader.array().map(Self)
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.slice(&self.0);
    }
}

fn length_bytes(version: Version, fixed: usize) -> usize {
    if version.flexible { 1 } else { fixed }
}

fn present<T>(value: Option<T>) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::new(DecodeReason::Null))
}

/// Types whose length field says null: the nullable and the plain form differ only in whether null is accepted.
macro_rules! length_prefixed {
    ($type:ty, [$($generic:tt)*], $length_bytes:literal) => {
        impl<$($generic)*> Wire for $type {
            fn min_bytes(version: Version) -> usize {
                length_bytes(version, $length_bytes)
            }

            fn read(reader: &mut Reader, version: Version) -> Result<Self, DecodeError> {
                Self::read_nullable(reader, version).and_then(present)
            }

            fn write(&self, writer: &mut Writer, version: Version) {
                Self::write_nullable(Some(self), writer, version);
            }
        }
    };
}

length_prefixed!(KString, [], 2);
length_prefixed!(Bytes, [], 4);
length_prefixed!(Vec<T>, [T: Wire], 4);

impl NullableWire for KString {
    fn nullable_min_bytes(version: Version) -> usize {
        Self::min_bytes(version)
    }

    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.string_length(version.flexible)? else { return Ok(None) };
        let bytes = reader.slice(length)?;
        Self::from_utf8(bytes).map(Some).map_err(|_| DecodeError::new(DecodeReason::Utf8))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.string(value.map(|text| &text.as_bytes()[..]), version.flexible);
    }
}

impl NullableWire for Bytes {
    fn nullable_min_bytes(version: Version) -> usize {
        Self::min_bytes(version)
    }

    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.length(version.flexible)? else { return Ok(None) };
        reader.slice(length).map(Some)
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.length(value.map(Bytes::len), version.flexible);
        if let Some(bytes) = value {
            writer.payload(bytes);
        }
    }
}

impl<T: Wire> NullableWire for Vec<T> {
    fn nullable_min_bytes(version: Version) -> usize {
        Self::min_bytes(version)
    }

    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, DecodeError> {
        let Some(count) = reader.element_count(version.flexible, T::min_bytes(version))? else { return Ok(None) };
        let mut elements = reader.reserve(count);
        for _ in 0..count {
            elements.push(T::read(reader, version)?);
        }
        Ok(Some(elements))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.length(value.map(Vec::len), version.flexible);
        for element in value.into_iter().flatten() {
            element.write(writer, version);
        }
    }
}

/// A whole message: what follows a header, or the value of a record of an internal topic.
///
/// A field that a version does not have takes Kafka's default on decode and is left out on encode, whatever its value.
/// Null where a version has no null is refused on decode and becomes the empty value on encode.
pub trait Message: Wire + Default {
    /// The name Kafka gives it.
    const NAME: &'static str;

    /// The versions that can be read and written.
    const VERSIONS: RangeInclusive<i16>;

    /// The first version with compact lengths and tagged fields.
    const FLEXIBLE_FROM: i16;

    /// Reads the message. Bytes behind it are left unread, as in Kafka.
    ///
    /// # Errors
    /// [`DecodeError`] for malformed bytes or a version outside of [`VERSIONS`](Self::VERSIONS).
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        if !Self::VERSIONS.contains(&version) {
            return Err(DecodeError::new(DecodeReason::Version(version)).at(Self::NAME));
        }
        Self::read(reader, Version { number: version, flexible: version >= Self::FLEXIBLE_FROM })
    }

    /// Writes the message. A version outside of [`VERSIONS`](Self::VERSIONS) makes [`Writer::finish`] fail.
    fn encode(&self, writer: &mut Writer, version: i16) {
        if !Self::VERSIONS.contains(&version) {
            return writer.fail(EncodeError::Version(version));
        }
        self.write(writer, Version { number: version, flexible: version >= Self::FLEXIBLE_FROM });
    }

    /// The encoding of the message alone, without header or frame.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn to_encoded(&self, version: i16) -> Result<Encoded, EncodeError> {
        let mut writer = Writer::new();
        self.encode(&mut writer, version);
        writer.finish()
    }
}

/// A request, and what answers it.
pub trait Request: Message {
    /// The API it belongs to.
    const KEY: ApiKey;

    /// Its response.
    type Response: Message;
}
