//! How Kafka's types become bytes and back.
//!
//! [`Reader`] and [`Writer`] know bytes and bounds, [`Wire`] is implemented by every field type, and the `messages!`
//! macro turns one declaration per struct into its `Wire` implementation. Only the header code and the messages use
//! this directly; handlers see [`Message`].

mod error;
mod kstring;
pub(crate) mod macros;
mod reader;
mod wire;
mod writer;

pub use error::{DecodeError, DecodeReason, EncodeError};
pub use kstring::KString;
pub(crate) use macros::{api_messages, messages, record_message};
pub use reader::Reader;
pub use wire::{Message, NullableWire, OptionalWire, Request, Version, Wire};
pub use writer::{Encoded, Writer};
