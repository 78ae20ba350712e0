//! The connection of a follower to one leader's replication listener: framed requests out, responses in, in order.
//!
//! Used by the fetcher only. Reads are cancel-safe: a response that arrived in part stays in the buffer.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use chronik_model::NodeId;
use chronik_wire::{DecodeError, EncodeError, KString, Message, Reader, Request, ResponseHeader, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A response is at most this long, whatever the peer says.
const MAX_RESPONSE: usize = 256 * 1024 * 1024;

/// Why the link is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The leader's bytes.
    #[error("malformed response: {0}")]
    Decode(#[from] DecodeError),
    /// Our own.
    #[error("request cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
    /// Something that a leader never sends.
    #[error("{0}")]
    Protocol(String),
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct LeaderLink {
    stream: TcpStream,
    buffer: BytesMut,
    client_id: KString,
    next_correlation: i32,
    expected: std::collections::VecDeque<i32>,
}

impl LeaderLink {
    /// Connects to `address` (`host:port`).
    pub(super) async fn connect(me: NodeId, host: &str, port: u16) -> Result<Self, LinkError> {
        let connecting = TcpStream::connect((host, port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| LinkError::Io(io::ErrorKind::TimedOut.into()))??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
            client_id: format!("broker-{me}-fetcher").into(),
            next_correlation: 0,
            expected: std::collections::VecDeque::new(),
        })
    }

    /// Writes a request.
    pub(super) async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), LinkError> {
        let correlation = self.next_correlation;
        self.next_correlation = self.next_correlation.wrapping_add(1);
        let encoded = encode_request(version, correlation, Some(self.client_id.clone()), request)?;
        self.stream.write_all(&encoded.into_bytes()).await?;
        self.expected.push_back(correlation);
        Ok(())
    }

    /// The frame of the next response. Cancel-safe.
    pub(super) async fn frame(&mut self) -> Result<Bytes, LinkError> {
        loop {
            let missing = match self.buffer.first_chunk::<4>() {
                None => 16 * 1024,
                Some(prefix) => {
                    let stated = i32::from_be_bytes(*prefix);
                    let length = usize::try_from(stated).ok().filter(|length| *length <= MAX_RESPONSE);
                    let length = length.ok_or_else(|| LinkError::Protocol(format!("response of {stated} bytes")))?;
                    if self.buffer.len() >= 4 + length {
                        let mut frame = self.buffer.split_to(4 + length);
                        frame.advance(4);
                        if self.buffer.is_empty() {
                            self.buffer = BytesMut::new();
                        }
                        return Ok(frame.freeze());
                    }
                    4 + length - self.buffer.len()
                }
            };
            self.buffer.reserve(missing);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Decodes the response to the oldest request that has none yet.
    pub(super) fn decode<R: Request>(&mut self, version: i16, frame: Bytes) -> Result<R::Response, LinkError> {
        let mut reader = Reader::new(frame);
        let header = ResponseHeader::decode(&mut reader, R::KEY, version)?;
        if self.expected.pop_front() != Some(header.correlation_id) {
            return Err(LinkError::Protocol(format!("response to unknown request {}", header.correlation_id)));
        }
        Ok(<R::Response as Message>::decode(&mut reader, version)?)
    }

    /// One request and its response, for a link that is used for nothing else.
    pub(super) async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, LinkError> {
        self.send(version, request).await?;
        let frame = self.frame().await?;
        self.decode::<R>(version, frame)
    }
}
