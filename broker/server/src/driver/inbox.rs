//! The Raft thread's inbox: everything that reaches it, and the handles of those who ask it something.
//!
//! Bounded; a full inbox drops messages of peers (Raft repeats them) and refuses questions. Never blocks the caller.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipChange, MembershipError, TransferError};
use chronik_core::controller::{CommandResult, Heartbeat, HeartbeatReply};
use chronik_model::{NodeId, RaftIndex};
use tokio::sync::oneshot;

use super::Shared;
use crate::peer::transport::{PeerEvent, PeerSink, Position};

/// Most inputs that wait.
const LIMIT: usize = 16_384;

/// What became of a proposal.
#[derive(Debug)]
pub enum ProposeAnswer {
    /// Applied at this index with this result.
    Applied(RaftIndex, CommandResult),
    /// This replica does not lead.
    NotLeader(Option<NodeId>),
    /// Not appended, or certainly not committed: may be proposed again.
    Dropped,
    /// May or may not be committed later; proposing again with the same id finds out.
    Unknown,
    /// Will never be accepted.
    Refused(String),
    /// The replica has stopped.
    Stopped,
}

/// Everything that reaches the Raft thread.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "messages are nearly all of the traffic")]
pub enum Input {
    /// A message of a peer.
    Message(RaftMessage),
    /// News of a peer.
    Peer(PeerEvent),
    /// Append this envelope and answer when it is applied.
    Propose(Bytes, oneshot::Sender<ProposeAnswer>),
    /// From which applied index on the local state is linearizable.
    ReadIndex(oneshot::Sender<RaftIndex>),
    /// Change the members; answered when the change is applied.
    Membership(MembershipChange, oneshot::Sender<Result<Membership, MembershipError>>),
    /// Hand over leadership.
    Transfer(Option<NodeId>, oneshot::Sender<Result<NodeId, TransferError>>),
    /// A broker lives; `None` when this replica does not lead.
    Heartbeat(Heartbeat, oneshot::Sender<Option<HeartbeatReply>>),
    /// End the thread.
    Stop,
}

/// Sends inputs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox {
    sender: SyncSender<Input>,
    shared: Arc<Shared>,
}

/// The inbox has no room, or the thread is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the Raft thread takes no more inputs")]
pub struct Full;

impl Inbox {
    /// An inbox and the end that the Raft thread reads.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> (Self, Receiver<Input>) {
        let (sender, receiver) = sync_channel(LIMIT);
        (Self { sender, shared }, receiver)
    }

    /// Puts `input` in.
    ///
    /// # Errors
    /// When there is no room or nobody reads.
    pub fn put(&self, input: Input) -> Result<(), Full> {
        self.sender.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Full,
        })
    }

    /// Puts a question in and returns where its answer will come.
    ///
    /// # Errors
    /// When there is no room or nobody reads.
    pub fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<oneshot::Receiver<T>, Full> {
        let (sender, receiver) = oneshot::channel();
        self.put(question(sender))?;
        Ok(receiver)
    }
}

impl PeerSink for Inbox {
    fn position(&self) -> Position {
        let leadership = *self.shared.leadership.borrow();
        Position {
            term: leadership.term,
            leader: leadership.leader,
            commit: self.shared.applied.borrow().0,
            bootstrap_voters: self.shared.bootstrap_voters.clone(),
        }
    }

    fn message(&self, message: RaftMessage) -> bool {
        self.put(Input::Message(message)).is_ok()
    }

    fn event(&self, event: PeerEvent) {
        if self.put(Input::Peer(event)).is_err() {
            tracing::warn!("news of a peer was lost: the Raft thread takes no more inputs");
        }
    }
}
