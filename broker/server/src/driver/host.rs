//! What the Raft thread's quorum finds in the server: the transport, what is [`Shared`], and channels to answer into.
//!
//! Called on the Raft thread only. Nothing here waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipError, StorageFailed, TransferError};
use chronik_core::controller::{Change, Endpoint, HeartbeatReply};
use chronik_model::{NodeId, RaftIndex};
use chronik_node::quorum::{Host, Leadership, ProposeAnswer};
use tokio::sync::oneshot;

use super::Shared;
use super::clock::mono_ms;
use crate::peer::directory::{Origin, PeerAddress};
use crate::peer::transport::{SendOutcome, Transport};

/// The host of a quorum in a broker.
#[derive(Debug)]
pub struct ServerHost {
    pub(super) shared: Arc<Shared>,
    transport: Transport,
    /// Somebody may wait for what the next account of the replica says.
    pub(super) publish_now: bool,
}

impl ServerHost {
    pub(super) fn new(shared: Arc<Shared>, transport: Transport) -> Self {
        Self { shared, transport, publish_now: true }
    }
}

/// An asker that went away needs no answer.
fn answer<T>(asker: oneshot::Sender<T>, answer: T) {
    let _gone = asker.send(answer);
}

impl Host for ServerHost {
    type Propose = oneshot::Sender<ProposeAnswer>;
    type Read = oneshot::Sender<RaftIndex>;
    type Membership = oneshot::Sender<Result<Membership, MembershipError>>;
    type Transfer = oneshot::Sender<Result<NodeId, TransferError>>;
    type Heartbeat = oneshot::Sender<Option<HeartbeatReply>>;

    fn send(&mut self, message: RaftMessage) -> bool {
        self.transport.send(message) == SendOutcome::Queued
    }

    fn send_snapshot(&mut self, message: RaftMessage) {
        self.transport.send_snapshot(message);
    }

    fn role(&mut self, now: Leadership) {
        // Before anybody can ask the new leader.
        self.shared.contact.led_by(now.reign(), mono_ms());
        let before = self.shared.leadership.send_replace(now);
        if before.leader != now.leader {
            self.shared.counters.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        self.publish_now = true;
    }

    fn members(&mut self, _members: &Membership) {
        self.publish_now = true;
    }

    fn replaced(&mut self) {
        self.shared.changes.replaced();
    }

    fn applied(&mut self, index: RaftIndex) {
        self.shared.applied.send_replace(index);
    }

    fn changes(&mut self, changes: Vec<Change>) {
        self.shared.changes.push(changes);
    }

    fn learn_address(&mut self, node: NodeId, control: &Endpoint) {
        if let Ok(address) = PeerAddress::parse(&control.host, control.port) {
            self.transport.directory().register(node, &address, Origin::Learned);
        }
    }

    fn stopped(&mut self, failure: &StorageFailed) {
        *self.shared.failure.lock() = Some(failure.to_string());
        if failure.full {
            tracing::error!(%failure, "the metadata replica stops");
            self.shared.out_of_space.notify_one();
        } else {
            tracing::error!(%failure, "the metadata replica stops; the process stays so that it can be looked at");
        }
        self.publish_now = true;
    }

    fn next_proposal(&mut self) -> u64 {
        self.shared.next_proposal()
    }

    fn answer_propose(&mut self, asker: Self::Propose, result: ProposeAnswer) {
        answer(asker, result);
    }

    fn answer_read(&mut self, asker: Self::Read, index: Option<RaftIndex>) {
        // Without an index the asker is dropped, and asks again.
        if let Some(index) = index {
            answer(asker, index);
        }
    }

    fn answer_membership(&mut self, asker: Self::Membership, result: Result<Membership, MembershipError>) {
        answer(asker, result);
    }

    fn answer_transfer(&mut self, asker: Self::Transfer, result: Result<NodeId, TransferError>) {
        answer(asker, result);
    }

    fn answer_heartbeat(&mut self, asker: Self::Heartbeat, reply: Option<HeartbeatReply>) {
        answer(asker, reply);
    }

    fn wants_propose(&self, asker: &Self::Propose) -> bool {
        !asker.is_closed()
    }

    fn wants_read(&self, asker: &Self::Read) -> bool {
        !asker.is_closed()
    }
}
