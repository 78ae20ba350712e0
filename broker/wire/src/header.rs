//! The headers in front of requests and responses, and whole frames with them.

use crate::codec::{DecodeError, EncodeError, Encoded, KString, Message, Reader, Request, Version, Wire, Writer};
use crate::versions::ApiKey;

/// Headers themselves are never flexible but for the tagged fields at their end: the client id keeps its two-byte
/// length even in header version 2.
const PLAIN: Version = Version { number: 0, flexible: false };

/// What precedes every request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestHeader {
    /// The API, known or not (see [`ApiKey::from_i16`]).
    pub api_key: i16,
    /// The version of the request, and of its response.
    pub api_version: i16,
    /// Chosen by the client, returned in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<KString>,
}

impl RequestHeader {
    /// Reads the header; the body follows. For an API without messages the tagged fields are left unread, as only its
    /// messages would say whether there are any.
    ///
    /// # Errors
    /// [`DecodeError`]: the connection cannot go on, for there may be no correlation id to answer to.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let api_key = i16::read(reader, PLAIN).map_err(|error| error.at("RequestHeader.api_key"))?;
        let api_version = i16::read(reader, PLAIN).map_err(|error| error.at("RequestHeader.api_version"))?;
        let correlation_id = i32::read(reader, PLAIN).map_err(|error| error.at("RequestHeader.correlation_id"))?;
        let client_id = Wire::read(reader, PLAIN).map_err(|error| error.at("RequestHeader.client_id"))?;
        if header_version(api_key, api_version) >= 2 {
            reader.tagged_fields(|_, _| Ok(false)).map_err(|error| error.at("RequestHeader (tagged fields)"))?;
        }
        Ok(Self { api_key, api_version, correlation_id, client_id })
    }

    /// Writes the header.
    pub fn encode(&self, writer: &mut Writer) {
        self.api_key.write(writer, PLAIN);
        self.api_version.write(writer, PLAIN);
        self.correlation_id.write(writer, PLAIN);
        self.client_id.write(writer, PLAIN);
        if header_version(self.api_key, self.api_version) >= 2 {
            writer.uvarint(0);
        }
    }
}

fn header_version(api_key: i16, api_version: i16) -> i16 {
    ApiKey::from_i16(api_key).map_or(1, |key| key.request_header_version(api_version))
}

/// What precedes every response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseHeader {
    /// The correlation id of the request.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of the response to a request of this API and version.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(reader: &mut Reader, key: ApiKey, version: i16) -> Result<Self, DecodeError> {
        let correlation_id = i32::read(reader, PLAIN).map_err(|error| error.at("ResponseHeader.correlation_id"))?;
        if key.response_header_version(version) >= 1 {
            reader.tagged_fields(|_, _| Ok(false)).map_err(|error| error.at("ResponseHeader (tagged fields)"))?;
        }
        Ok(Self { correlation_id })
    }

    /// Writes the header.
    pub fn encode(self, writer: &mut Writer, key: ApiKey, version: i16) {
        self.correlation_id.write(writer, PLAIN);
        if key.response_header_version(version) >= 1 {
            writer.uvarint(0);
        }
    }
}

/// A whole response frame: length, header, body. Large record payloads are passed on, not copied.
///
/// # Errors
/// [`EncodeError`], a mistake of the broker.
pub fn encode_response<M: Message>(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    response: &M,
) -> Result<Encoded, EncodeError> {
    let mut writer = Writer::framed();
    ResponseHeader { correlation_id }.encode(&mut writer, key, version);
    response.encode(&mut writer, version);
    writer.finish()
}

/// A whole request frame, for brokers that fetch from each other and for tests.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_request<R: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<KString>,
    request: &R,
) -> Result<Encoded, EncodeError> {
    let mut writer = Writer::framed();
    RequestHeader { api_key: R::KEY.as_i16(), api_version: version, correlation_id, client_id }.encode(&mut writer);
    request.encode(&mut writer, version);
    writer.finish()
}
