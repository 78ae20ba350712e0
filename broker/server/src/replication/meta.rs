//! What the data plane needs from the metadata plane: read the committed state, propose a change, learn of changes.
//!
//! The driver implements [`MetaClient`]; tests fake it. The data plane never writes the state, and never holds the read
//! guard across an await or while it takes a partition's lock.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use chronik_core::controller::{Command, CommandResult, MetadataState};
use chronik_model::{BrokerEpoch, NodeId};
use futures::future::BoxFuture;
use parking_lot::RwLockReadGuard;

/// Why a proposal has no result. Whether it was or will be applied is not known then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// The deadline passed, for instance because there is no quorum.
    #[error("the metadata quorum did not answer in time")]
    TimedOut,
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopped,
    /// The command cannot be proposed at all; it was not and will not be applied.
    #[error("the command was refused: {0}")]
    Refused(String),
}

/// Future of [`MetaClient::propose`].
pub type ProposeFuture = Pin<Box<dyn Future<Output = Result<CommandResult, ProposeError>> + Send>>;

/// Access to the cluster's metadata.
pub trait MetaClient: Send + Sync + 'static {
    /// This broker.
    fn node(&self) -> NodeId;

    /// The epoch of this broker's registration; [`BrokerEpoch::NONE`] before it.
    fn broker_epoch(&self) -> BrokerEpoch;

    /// The committed state as this broker has applied it.
    fn state(&self) -> RwLockReadGuard<'_, MetadataState>;

    /// Brokers that may have died a moment ago: the metadata still calls them alive.
    fn in_doubt(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// Brokers that went away some seconds ago and have not come back.
    fn lately_lost(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// Completes when the metadata has decided about `nodes`, they came back, or `timeout` has passed.
    fn decided(&self, _nodes: Vec<NodeId>, _timeout: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Proposes `command` and waits for its result for at most `timeout`. On success the local state has applied it.
    fn propose(&self, command: Command, timeout: Duration) -> ProposeFuture;
}
