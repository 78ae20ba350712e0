//! The Kafka protocol: framing, headers, the one table of APIs and versions, typed messages, compression of records.
//!
//! Used by the broker's edge in this order: [`frame`] bounds and sizes a request, [`RequestHeader`] says what it is,
//! [`ApiTable`] says whether and by whom it is handled, a [`Message`] is decoded, handled, and its response encoded
//! with [`encode_response`] into the pieces of a gathering write. Nothing here does I/O, keeps state or decides.
//!
//! What a peer sends is hostile: every length is checked against the bytes that are there before anything is reserved,
//! nothing recurses on peer data, nothing panics. Strings and records are slices of the frame, never copies; what
//! outlives the request must be copied out, or it keeps the whole frame alive.

mod codec;
pub mod compression;
pub mod frame;
mod header;
pub mod messages;
pub mod records;
mod versions;

pub use codec::{
    DecodeError, DecodeReason, EncodeError, Encoded, KString, Message, Reader, Request, Version, Wire, Writer,
};
pub use header::{RequestHeader, ResponseHeader, encode_request, encode_response};
pub use versions::{ApiEntry, ApiKey, ApiTable, Lookup};
