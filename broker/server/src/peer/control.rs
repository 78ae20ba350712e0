//! Single questions between brokers: proposals, heartbeats, membership, status, probes.
//!
//! The server side is a [`ControlService`] that the driver implements; [`super::transport`] serves it. The client side is
//! [`ControlClient`], which uses the transport's connection to a peer. Every question has a deadline; which broker leads is the
//! driver's affair.

use std::time::Duration;

use chronik_model::NodeId;
use futures::future::BoxFuture;
use tonic::Status;
use tonic::transport::Channel;

use super::proto::peer_client::PeerClient;
use super::proto::{
    HeartbeatReply, HeartbeatRequest, MembershipReply, MembershipRequest, ProbeReply, ProbeRequest, ProposeReply,
    ProposeRequest, StatusReply, StatusRequest,
};
use super::transport::Transport;

/// Answers peers' questions.
pub trait ControlService: Send + Sync + 'static {
    /// A peer proposes a command.
    fn propose(&self, request: ProposeRequest) -> BoxFuture<'_, ProposeReply>;
    /// A peer says that it lives.
    fn heartbeat(&self, request: HeartbeatRequest) -> BoxFuture<'_, HeartbeatReply>;
    /// A peer, or the operator, wants other members.
    fn membership(&self, request: MembershipRequest) -> BoxFuture<'_, MembershipReply>;
    /// A peer's doctor asks how we are.
    fn status(&self) -> BoxFuture<'_, StatusReply>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The peer is not connected.
    #[error("node {0} is not connected")]
    NotConnected(NodeId),
    /// The peer did not answer in time. Whether it did what was asked is unknown.
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
    /// The peer, or the connection to it, failed. Whether it did what was asked is unknown.
    #[error("node {peer}: {status}")]
    Failed {
        /// The peer.
        peer: NodeId,
        /// What gRPC says.
        status: Box<Status>,
    },
}

/// Why a peer does not say how it is.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] super::transport::ConnectError),
    /// Too late.
    #[error("no answer in time")]
    Timeout,
    /// The peer, or the connection to it, failed.
    #[error("{0}")]
    Failed(Box<Status>),
}

/// Asks peers.
#[derive(Clone, Debug)]
pub struct ControlClient {
    transport: Transport,
}

impl ControlClient {
    /// A client over the connections of `transport`.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self { transport }
    }

    async fn ask<T, F>(
        &self,
        peer: NodeId,
        timeout: Duration,
        question: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, ControlError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let asking = async {
            let channel = self.transport.wait_channel(peer, timeout).await.ok_or(ControlError::NotConnected(peer))?;
            let client =
                PeerClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20);
            let answer = question(client).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| ControlError::Failed { peer, status: Box::new(status) })
        };
        tokio::time::timeout(timeout, asking).await.map_err(|_| ControlError::Timeout(peer))?
    }

    /// Proposes a command at `peer`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn propose(&self, peer: NodeId, request: ProposeRequest) -> Result<ProposeReply, ControlError> {
        let timeout = Duration::from_millis(request.timeout_ms);
        let request = self.signed(peer, request)?;
        self.ask(peer, timeout, |mut client| async move { client.propose(request).await }).await
    }

    /// With the cluster's secret, if there is one: nobody else proposes anything or changes the quorum.
    fn signed<T>(&self, peer: NodeId, message: T) -> Result<tonic::Request<T>, ControlError> {
        let mut request = tonic::Request::new(message);
        let signed = self.transport.secret().sign(request.metadata_mut());
        signed.map_err(|error| ControlError::Failed { peer, status: Box::new(error.into()) })?;
        Ok(request)
    }

    /// Tells `peer` that we live. Without the secret: a broker whose copy of it is late must not be taken for dead.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn heartbeat(
        &self,
        peer: NodeId,
        request: HeartbeatRequest,
        timeout: Duration,
    ) -> Result<HeartbeatReply, ControlError> {
        self.ask(peer, timeout, |mut client| async move { client.heartbeat(request).await }).await
    }

    /// Asks `peer` for other members.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn membership(&self, peer: NodeId, request: MembershipRequest) -> Result<MembershipReply, ControlError> {
        let timeout = Duration::from_millis(request.timeout_ms);
        let request = self.signed(peer, request)?;
        self.ask(peer, timeout, |mut client| async move { client.membership(request).await }).await
    }

    /// Asks `peer` how it is, also when it does not let our stream in.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub async fn status(&self, peer: NodeId, timeout: Duration) -> Result<StatusReply, StatusError> {
        let asking = async {
            let channel = self.transport.any_channel(peer).await?;
            let mut client = PeerClient::new(channel).max_decoding_message_size(64 << 20);
            let answer =
                client.status(StatusRequest {}).await.map_err(|status| StatusError::Failed(Box::new(status)))?;
            Ok(answer.into_inner())
        };
        tokio::time::timeout(timeout, asking).await.map_err(|_| StatusError::Timeout)?
    }

    /// Asks `peer` whether it reaches `node`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn probe(&self, peer: NodeId, node: NodeId, timeout: Duration) -> Result<ProbeReply, ControlError> {
        self.ask(peer, timeout, |mut client| async move { client.probe(ProbeRequest { node: node.0 }).await }).await
    }
}
