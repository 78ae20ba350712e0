//! A connection to a Kafka listener that carries one request at a time.

use std::io;

use bytes::Bytes;
use chronik_wire::{DecodeError, EncodeError, Message, Reader, Request, ResponseHeader, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing that the probe asks for is answered with more.
const MAX_RESPONSE: usize = 64 << 20;

/// Why the connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("malformed response: {0}")]
    Decode(#[from] DecodeError),
    #[error("request cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
    #[error("a response of {0} bytes: is this a Kafka listener?")]
    Length(i32),
    #[error("a response to a request that was not sent")]
    Correlation,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    address: String,
    correlation: i32,
}

impl Link {
    /// Connects to `host:port`; the port may be left out.
    pub(super) async fn connect(address: &str) -> Result<Self, LinkError> {
        let bare = !address.contains(':') || address.ends_with(']');
        let address = if bare { format!("{address}:9092") } else { address.to_owned() };
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, correlation: 0 })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// One request and its response. Not cancel-safe: a link whose call was given up is of no use.
    pub(super) async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, LinkError> {
        self.correlation = self.correlation.wrapping_add(1);
        let encoded = encode_request(version, self.correlation, Some("chronik-probe".into()), request)?;
        self.stream.write_all(&encoded.into_bytes()).await?;
        let stated = self.stream.read_i32().await?;
        let length = usize::try_from(stated).ok().filter(|n| *n <= MAX_RESPONSE).ok_or(LinkError::Length(stated))?;
        // Grows with what arrives, not with what was claimed.
        let mut frame = Vec::new();
        let mut body = (&mut self.stream).take(length as u64);
        if body.read_to_end(&mut frame).await? < length {
            return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut reader = Reader::new(Bytes::from(frame));
        let header = ResponseHeader::decode(&mut reader, R::KEY, version)?;
        if header.correlation_id != self.correlation {
            return Err(LinkError::Correlation);
        }
        Ok(<R::Response as Message>::decode(&mut reader, version)?)
    }
}
