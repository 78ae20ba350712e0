//! A small HTTP client for admin ports: `status`, `doctor` and `local` ask running brokers with it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Largest answer accepted.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Why an admin port gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody listens there, or the host is unknown.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The connection broke or the answer is not HTTP.
    #[error("{0}: {1}")]
    Http(String, String),
    /// Too late.
    #[error("{0} did not answer within {1:?}")]
    Timeout(String, Duration),
}

/// GETs `path` (with its query) from `address` (`host:port`).
///
/// # Errors
/// [`GetError`]; an answer with any status code is not an error.
pub async fn get(address: &str, path: &str, timeout: Duration) -> Result<(StatusCode, Bytes), GetError> {
    tokio::time::timeout(timeout, exchange(address, path))
        .await
        .map_err(|_| GetError::Timeout(address.to_owned(), timeout))?
}

async fn exchange(address: &str, path: &str) -> Result<(StatusCode, Bytes), GetError> {
    let broken = |error: &dyn std::fmt::Display| GetError::Http(address.to_owned(), error.to_string());
    let stream = TcpStream::connect(address).await.map_err(|e| GetError::Connect(address.to_owned(), e))?;
    stream.set_nodelay(true).map_err(|e| broken(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(http::header::HOST, address)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| broken(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await.map_err(|e| broken(&e))?.to_bytes();
    driver.abort();
    Ok((status, body))
}
