//! A string that is a slice of the frame it came in.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// An immutable UTF-8 string that shares its bytes with the frame. A clone costs one reference count; keeping it keeps
/// the whole frame alive, so long-lived state copies instead (`TopicName::from(&*name)`).
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KString(Bytes);

impl KString {
    /// A string of a constant, without allocation.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Takes `bytes` over when they are UTF-8.
    ///
    /// # Errors
    /// The position and kind of the first invalid byte.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self(bytes))
    }

    /// The string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked when it was made. Checking again costs a few nanoseconds; not checking would need `unsafe`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bytes of the string, shared.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Deref for KString {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for KString {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for KString {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Hash for KString {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As `str` hashes, so that maps can be asked with a `&str`.
        self.as_str().hash(state);
    }
}

impl From<&str> for KString {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&String> for KString {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<String> for KString {
    fn from(text: String) -> Self {
        Self(Bytes::from(text.into_bytes()))
    }
}

impl From<Cow<'_, str>> for KString {
    fn from(text: Cow<'_, str>) -> Self {
        Self::from(text.into_owned())
    }
}

impl From<KString> for String {
    fn from(text: KString) -> Self {
        text.as_str().to_owned()
    }
}

impl PartialEq<str> for KString {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for KString {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<String> for KString {
    fn eq(&self, other: &String) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for KString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
