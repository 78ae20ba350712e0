//! Propose-and-wait (M7): the one way by which anything on this broker changes the cluster's metadata.
//!
//! A proposal goes to the Raft thread when this broker leads, else to the leader over the control connection. "No leader
//! yet" waits; a lost answer is asked for again with the same proposal id, and the state machine applies it at most once.
//! On success the local state has applied it too, so the caller reads its own write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chronik_core::controller::{Command, CommandResult, Envelope, MetadataState, ProposalId};
use chronik_model::{BrokerEpoch, NodeId, RaftIndex};
use futures::future::BoxFuture;
use parking_lot::RwLockReadGuard;
use tokio::time::Instant;

use super::Shared;
use super::clock::wall_ms;
use super::inbox::{Inbox, Input, ProposeAnswer};
use crate::peer::control::ControlClient;
use crate::peer::proto::{self, propose_reply::Outcome};
use crate::replication::meta::{MetaClient, ProposeError, ProposeFuture};

/// Pause before an attempt that failed for a reason that nothing announces the end of.
const RETRY: Duration = Duration::from_millis(20);
/// Longest wait for one attempt at a remote leader before somebody else is asked.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Access to the cluster's metadata; cheap to clone.
#[derive(Clone, Debug)]
pub struct Meta {
    shared: Arc<Shared>,
    inbox: Inbox,
    control: ControlClient,
}

/// What one attempt came to.
enum Attempt {
    Applied(RaftIndex, CommandResult),
    /// This one leads, says the one asked.
    Elsewhere(Option<NodeId>),
    Again,
    Never(ProposeError),
}

impl Meta {
    /// A client of this broker's Raft thread and of its peers.
    #[must_use]
    pub fn new(shared: Arc<Shared>, inbox: Inbox, control: ControlClient) -> Self {
        Self { shared, inbox, control }
    }

    /// What is shared with the Raft thread.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The Raft thread's inbox.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Questions to peers.
    #[must_use]
    pub fn control(&self) -> &ControlClient {
        &self.control
    }

    /// Proposes `command` and waits until it is applied here, for at most `timeout`. Where it needs a newer metadata version
    /// than is in force, that is proposed first.
    ///
    /// # Errors
    /// When there is no result; see [`ProposeError`].
    pub async fn run(&self, command: Command, timeout: Duration) -> Result<CommandResult, ProposeError> {
        let begin = Instant::now();
        let raise = self.shared.state.read().raise_for(&command, &self.members());
        match raise {
            Ok(None) => {}
            Ok(Some(raise)) => {
                tracing::info!(version = raise.version, command = command.name(), "raising the metadata version");
                if let CommandResult::Error(error) = self.submit(raise.into(), timeout).await? {
                    return Ok(CommandResult::Error(error));
                }
            }
            Err(error) => return Ok(CommandResult::Error(error)),
        }
        self.submit(command, timeout.saturating_sub(begin.elapsed())).await
    }

    /// Voters and learners of the quorum.
    fn members(&self) -> Vec<NodeId> {
        let status = self.shared.status.load();
        status.as_ref().map(|status| [&status.voters[..], &status.learners].concat()).unwrap_or_default()
    }

    async fn submit(&self, command: Command, timeout: Duration) -> Result<CommandResult, ProposeError> {
        let id = ProposalId {
            origin: self.shared.node,
            incarnation: self.shared.incarnation,
            sequence: self.shared.next_proposal(),
        };
        let envelope = Bytes::from(Envelope::new(id, wall_ms(), command).encode());
        let deadline = Instant::now() + timeout;
        match tokio::time::timeout_at(deadline, self.until_applied(envelope, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(ProposeError::TimedOut),
        }
    }

    async fn until_applied(&self, envelope: Bytes, deadline: Instant) -> Result<CommandResult, ProposeError> {
        let mut leadership = self.shared.leadership.subscribe();
        loop {
            let known = *leadership.borrow_and_update();
            let attempt = match known.leader {
                None => Attempt::Elsewhere(None),
                Some(leader) if leader == self.shared.node => self.here(envelope.clone()).await,
                Some(leader) => self.there(leader, envelope.clone(), deadline).await,
            };
            match attempt {
                Attempt::Applied(index, result) => {
                    self.applied(index).await;
                    return Ok(result);
                }
                Attempt::Never(error) => return Err(error),
                // Our own view will follow; what the other said may be ahead of it or behind.
                Attempt::Elsewhere(hint) => {
                    tracing::trace!(?hint, "waiting for a leader");
                    if known.leader.is_none() {
                        if leadership.changed().await.is_err() {
                            return Err(ProposeError::Stopped);
                        }
                    } else {
                        let _changed_or_not = tokio::time::timeout(RETRY, leadership.changed()).await;
                    }
                }
                Attempt::Again => {
                    let _changed_or_not = tokio::time::timeout(RETRY, leadership.changed()).await;
                }
            }
        }
    }

    async fn here(&self, envelope: Bytes) -> Attempt {
        let Ok(answer) = self.inbox.ask(|reply| Input::Propose(envelope, reply)) else { return Attempt::Again };
        match answer.await {
            Ok(ProposeAnswer::Applied(index, result)) => Attempt::Applied(index, result),
            Ok(ProposeAnswer::NotLeader(leader)) => Attempt::Elsewhere(leader),
            Ok(ProposeAnswer::Dropped | ProposeAnswer::Unknown) => Attempt::Again,
            Ok(ProposeAnswer::Refused(problem)) => Attempt::Never(ProposeError::Refused(problem)),
            Ok(ProposeAnswer::Stopped) | Err(_) => Attempt::Never(ProposeError::Stopped),
        }
    }

    async fn there(&self, leader: NodeId, envelope: Bytes, deadline: Instant) -> Attempt {
        let timeout = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT);
        let cluster_id = self.shared.cluster_id.read().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
        let request = proto::ProposeRequest {
            cluster_id,
            from: self.shared.node.0,
            envelope,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1),
        };
        // A leader that falls silent is replaced: the attempt ends as soon as that is known.
        let mut leadership = self.shared.leadership.subscribe();
        let asked = tokio::select! {
            asked = self.control.propose(leader, request) => asked,
            _ = leadership.wait_for(|l| l.leader != Some(leader)) => return Attempt::Again,
        };
        match asked.map(|reply| reply.outcome) {
            Ok(Some(Outcome::Applied(applied))) => match CommandResult::decode(&applied.result) {
                Ok(result) => Attempt::Applied(RaftIndex(applied.index), result),
                Err(error) => Attempt::Never(ProposeError::Refused(format!("the leader's answer: {error}"))),
            },
            Ok(Some(Outcome::NotLeader(other))) => Attempt::Elsewhere(Some(NodeId(other.leader)).filter(|id| id.0 > 0)),
            Ok(Some(Outcome::Refused(problem))) => Attempt::Never(ProposeError::Refused(problem)),
            Ok(Some(Outcome::Unknown(_) | Outcome::Dropped(_)) | None) => Attempt::Again,
            Err(error) => {
                tracing::debug!(%leader, %error, "a proposal is tried again");
                Attempt::Again
            }
        }
    }

    /// Waits until the local state has applied `index`.
    pub async fn applied(&self, index: RaftIndex) {
        let mut applied = self.shared.applied.subscribe();
        // The sender lives in `shared`, which we hold.
        let _always = applied.wait_for(|applied| *applied >= index).await;
    }

    /// Waits until the local state is as new as anything committed before this call.
    ///
    /// # Errors
    /// When there is no quorum to say so within `timeout`.
    pub async fn read_index(&self, timeout: Duration) -> Result<RaftIndex, ProposeError> {
        let asking = async {
            loop {
                if let Ok(answer) = self.inbox.ask(Input::ReadIndex)
                    && let Ok(index) = answer.await
                {
                    return index;
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::time::timeout(timeout, asking).await.map_err(|_| ProposeError::TimedOut)
    }
}

impl MetaClient for Meta {
    fn node(&self) -> NodeId {
        self.shared.node
    }

    fn broker_epoch(&self) -> BrokerEpoch {
        self.shared.broker_epoch()
    }

    fn state(&self) -> RwLockReadGuard<'_, MetadataState> {
        self.shared.state.read()
    }

    fn in_doubt(&self) -> Vec<NodeId> {
        self.shared.in_doubt()
    }

    fn lately_lost(&self) -> Vec<NodeId> {
        self.shared.lost_within(10_000)
    }

    fn decided(&self, nodes: Vec<NodeId>, timeout: Duration) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let mut applied = shared.applied.subscribe();
            let decided = async {
                loop {
                    applied.mark_unchanged();
                    let doubt = shared.in_doubt();
                    if !nodes.iter().any(|node| doubt.contains(node)) || applied.changed().await.is_err() {
                        return;
                    }
                }
            };
            // Too late is no error: the caller answers with what is known then.
            let _late = tokio::time::timeout(timeout, decided).await;
        })
    }

    fn propose(&self, command: Command, timeout: Duration) -> ProposeFuture {
        let this = self.clone();
        Box::pin(async move { this.run(command, timeout).await })
    }
}
