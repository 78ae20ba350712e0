//! From a node id to a connection: address, name, socket, HTTP/2.
//!
//! Called by [`super::link`] for every attempt and by probes. The socket is made here, not by the HTTP library, so that
//! "nobody listens there" is told from every other failure: it is what fast fencing rests on.
//!
//! After a cut every second of waiting is one without the leader, so nothing here waits for the system's own clocks: a
//! lost SYN is not waited for (the next one is sent by another socket), and a connection that gets no acknowledgement is
//! dead long before TCP's retransmissions, ever further apart, would find the network whole again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use chronik_model::NodeId;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Inner, RefusedGreeting};
use crate::peer::directory::UnregisteredPeer;
use crate::peer::dns::DnsError;

/// A SYN that is not answered for so long is followed by another one, on a socket of its own. The system would wait for a
/// second.
const SYN_AGAIN: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address.
    #[error(transparent)]
    Unregistered(#[from] UnregisteredPeer),
    /// No IP address for the name.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// Every address refused: no process listens there.
    #[error("{0} refuses connections: no broker is running there, or on another port")]
    Refused(String),
    /// No answer in time.
    #[error("{0} did not answer in time")]
    Timeout(String),
    /// Another socket error.
    #[error("{address}: {problem}")]
    Socket {
        /// The address.
        address: String,
        /// What the system said.
        problem: String,
    },
    /// The connection was made but the peer does not speak our protocol.
    #[error("{address}: {problem}")]
    Protocol {
        /// The address.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// The peer is not the one that was meant.
    #[error(transparent)]
    Greeting(#[from] RefusedGreeting),
}

/// A fresh socket to `peer`.
pub(super) async fn tcp(inner: &Inner, peer: NodeId) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let address = inner.directory.get(peer)?;
    let resolved = inner.resolver.addresses(address.host()).await;
    if let Some(discovery) = &inner.discovery {
        discovery.resolved(peer, resolved.as_ref().map(drop));
    }
    // A name that does not resolve now may belong to a peer that still is where it was.
    let ips = resolved.or_else(|error| inner.directory.last_ip(peer).map(|ip| vec![ip]).ok_or(error))?;
    let mut last = None;
    for ip in ips {
        let remote = SocketAddr::new(ip, address.port());
        let attempt = tokio::time::timeout(inner.config.connect_timeout, dial(remote)).await;
        let failed = match attempt {
            Ok(Ok(stream)) => {
                let local = ConnectError::Socket { address: address.to_string(), problem: "TCP_NODELAY".into() };
                stream.set_nodelay(true).map_err(|_| local)?;
                give_up_after(&stream, inner.config.unacknowledged);
                inner.directory.reached(peer, ip);
                return Ok((stream, remote));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                ConnectError::Refused(format!("{address} ({remote})"))
            }
            Ok(Err(error)) => {
                ConnectError::Socket { address: format!("{address} ({remote})"), problem: error.to_string() }
            }
            Err(_) => ConnectError::Timeout(format!("{address} ({remote})")),
        };
        last = Some(telling(last, failed));
    }
    Err(last.unwrap_or_else(|| DnsError::Missing(address.host().to_owned()).into()))
}

/// Connects, whichever SYN gets through first. What the first of them is told is the answer.
async fn dial(remote: SocketAddr) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    loop {
        attempts.push(TcpStream::connect(remote));
        tokio::select! {
            Some(answer) = attempts.next() => return answer,
            () = tokio::time::sleep(SYN_AGAIN) => {}
        }
    }
}

/// A connection of `socket`, or to it if it listens, breaks when what was sent is not acknowledged for so long.
pub(super) fn give_up_after(socket: &impl AsFd, unacknowledged: Duration) {
    let ms = u32::try_from(unacknowledged.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(socket, ms) {
        tracing::debug!(%error, "a dead connection to a peer is found by keepalive only");
    }
}

/// Of the failures at two addresses of one peer the one that counts. "Refused" says that its process is gone, so it
/// counts only when every address refuses.
fn telling(earlier: Option<ConnectError>, later: ConnectError) -> ConnectError {
    match earlier {
        Some(earlier) if !matches!(earlier, ConnectError::Refused(_)) => earlier,
        _ => later,
    }
}

/// An HTTP/2 connection to `peer`. It does not reconnect by itself: when it breaks, calls on it fail.
pub(super) async fn channel(inner: &Inner, peer: NodeId) -> Result<(Channel, SocketAddr), ConnectError> {
    let (stream, remote) = tcp(inner, peer).await?;
    let protocol = |problem: String| ConnectError::Protocol { address: remote.to_string(), problem };
    let endpoint = Endpoint::from_shared(format!("http://node-{peer}"))
        .map_err(|error| protocol(error.to_string()))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keep_alive_interval(inner.config.keepalive)
        .keep_alive_timeout(inner.config.keepalive.max(Duration::from_secs(5)))
        .keep_alive_while_idle(true);
    let connecting = endpoint.connect_with_connector(Once(Some(stream)));
    match tokio::time::timeout(inner.config.connect_timeout, connecting).await {
        Ok(Ok(channel)) => Ok((channel, remote)),
        Ok(Err(error)) => Err(protocol(error.to_string())),
        Err(_) => Err(ConnectError::Timeout(remote.to_string())),
    }
}

/// Gives the one socket away, once.
struct Once(Option<TcpStream>);

impl Service<Uri> for Once {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection broke"));
        Box::pin(std::future::ready(stream.map(TokioIo::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_syn_that_was_lost_is_not_waited_for() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let remote = listener.local_addr().unwrap();
        // With its queue full, the system does not answer SYNs at all.
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(remote)).await {
            queued.push(stream.unwrap());
        }
        let begin = std::time::Instant::now();
        let dialling = tokio::spawn(dial(remote));
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in &queued {
            drop(listener.accept().await.unwrap());
        }
        drop(dialling.await.unwrap().unwrap());
        // The system repeats a SYN after a second.
        assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_connection_that_a_listener_took_gives_up_when_the_listener_was_told_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        give_up_after(&listener, Duration::from_millis(1234));
        let _ours = dial(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&theirs).unwrap(), 1234);
    }

    #[test]
    fn a_peer_counts_as_gone_only_when_every_address_of_it_refuses() {
        let refused = || ConnectError::Refused("a".into());
        let silent = || ConnectError::Timeout("b".into());
        assert!(matches!(telling(None, refused()), ConnectError::Refused(_)));
        assert!(matches!(telling(Some(refused()), refused()), ConnectError::Refused(_)));
        assert!(matches!(telling(Some(silent()), refused()), ConnectError::Timeout(_)));
        assert!(matches!(telling(Some(refused()), silent()), ConnectError::Timeout(_)));
    }
}
