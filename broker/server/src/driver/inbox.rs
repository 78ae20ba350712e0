//! The Raft thread's inbox: everything that reaches it, and the handles of those who ask it something.
//!
//! Bounded in number and in bytes; a full inbox drops messages of peers (Raft repeats them) and refuses questions. News
//! of peers and the order to stop always find room: nobody says them twice. Never blocks the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipChange, MembershipError, TransferError};
use chronik_core::controller::{Heartbeat, HeartbeatReply};
use chronik_model::{NodeId, RaftIndex};
pub use chronik_node::quorum::ProposeAnswer;
use tokio::sync::oneshot;

use super::Shared;
use crate::peer::transport::{PeerEvent, PeerSink, Position};

/// Most inputs that wait.
const LIMIT: usize = 16_384;
/// Room that only news of peers and the order to stop may take.
const RESERVE: usize = 4_096;
/// Bytes of messages after which more are dropped; one message more than that may wait.
const LIMIT_BYTES: usize = 256 << 20;

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

impl Input {
    /// Whether somebody will say it again, or is told that it was refused.
    fn may_be_refused(&self) -> bool {
        !matches!(self, Self::Peer(_) | Self::Stop)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => {
                let image = message.snapshot.as_ref().map_or(0, |snapshot| snapshot.data.len());
                message.entries.iter().map(|entry| entry.data.len()).sum::<usize>() + image
            }
            Self::Propose(envelope, _) => envelope.len(),
            _ => 0,
        }
    }
}

/// What waits and may be refused.
#[derive(Debug, Default)]
struct Waiting {
    inputs: AtomicUsize,
    bytes: AtomicUsize,
}

/// Sends inputs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox {
    sender: SyncSender<Input>,
    waiting: Arc<Waiting>,
    shared: Arc<Shared>,
}

/// The end that the Raft thread reads.
#[derive(Debug)]
pub struct Inputs {
    receiver: Receiver<Input>,
    waiting: Arc<Waiting>,
}

impl Inputs {
    fn taken(&self, input: Input) -> Input {
        if input.may_be_refused() {
            self.waiting.inputs.fetch_sub(1, Ordering::Relaxed);
            self.waiting.bytes.fetch_sub(input.bytes(), Ordering::Relaxed);
        }
        input
    }

    /// The next input, waiting for it.
    ///
    /// # Errors
    /// Nobody sends any more.
    pub fn recv(&self) -> Result<Input, RecvError> {
        self.receiver.recv().map(|input| self.taken(input))
    }

    /// The next input, waiting for it for at most `timeout`.
    ///
    /// # Errors
    /// None came, or nobody sends any more.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Input, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout).map(|input| self.taken(input))
    }

    /// The next input, if there is one.
    ///
    /// # Errors
    /// There is none, or nobody sends any more.
    pub fn try_recv(&self) -> Result<Input, TryRecvError> {
        self.receiver.try_recv().map(|input| self.taken(input))
    }
}

/// The inbox has no room, or the thread is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the Raft thread takes no more inputs")]
pub struct Full;

impl Inbox {
    /// An inbox and the end that the Raft thread reads.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> (Self, Inputs) {
        let (sender, receiver) = sync_channel(LIMIT);
        let waiting = Arc::<Waiting>::default();
        (Self { sender, waiting: Arc::clone(&waiting), shared }, Inputs { receiver, waiting })
    }

    /// Puts `input` in.
    ///
    /// # Errors
    /// When there is no room or nobody reads.
    pub fn put(&self, input: Input) -> Result<(), Full> {
        if !input.may_be_refused() {
            return self.sender.try_send(input).map_err(|_| Full);
        }
        let bytes = input.bytes();
        let room = self.waiting.inputs.fetch_add(1, Ordering::Relaxed) < LIMIT - RESERVE;
        let light = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed) < LIMIT_BYTES;
        if room && light && self.sender.try_send(input).is_ok() {
            return Ok(());
        }
        self.waiting.inputs.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(Full)
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

#[cfg(test)]
mod tests {
    use chronik_consensus::mirror::{Entry, MessageType};
    use chronik_model::Uuid;

    use super::*;

    fn inbox() -> (Inbox, Inputs) {
        Inbox::new(Shared::new(NodeId(1), Uuid([1; 16]), Vec::new()))
    }

    fn message(bytes: usize) -> RaftMessage {
        let entry = Entry { data: vec![0; bytes].into(), ..Entry::default() };
        RaftMessage { msg_type: MessageType::Append as i32, entries: vec![entry], ..RaftMessage::default() }
    }

    #[test]
    fn an_inbox_full_of_messages_still_takes_news_of_peers_and_the_order_to_stop() {
        let (inbox, inputs) = inbox();
        let taken = std::iter::repeat_with(|| inbox.message(message(1))).take_while(|taken| *taken).count();
        assert_eq!(taken, LIMIT - RESERVE);
        assert_eq!(inbox.ask(|reply| Input::Transfer(None, reply)).err(), Some(Full));
        inbox.put(Input::Peer(PeerEvent::SnapshotSent { peer: NodeId(2), ok: false })).unwrap();
        inbox.put(Input::Stop).unwrap();
        assert!(matches!(inputs.try_recv(), Ok(Input::Message(_))));
        assert!(inbox.message(message(1)), "room again");
        let rest: Vec<Input> = std::iter::from_fn(|| inputs.try_recv().ok()).collect();
        assert!(matches!(&rest[taken - 1..], [Input::Peer(_), Input::Stop, Input::Message(_)]));
    }

    #[test]
    fn large_messages_are_bounded_by_their_bytes() {
        let (inbox, inputs) = inbox();
        let large = message(16 << 20);
        let taken = std::iter::repeat_with(|| inbox.message(large.clone())).take_while(|taken| *taken).count();
        assert_eq!(taken, LIMIT_BYTES / (16 << 20));
        inputs.recv().unwrap();
        assert!(inbox.message(large), "room again");
    }
}
