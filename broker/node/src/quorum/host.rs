//! What a quorum needs from where it runs, and what it is told: the [`Host`] trait, [`Input`] and plain data.
//!
//! The server's host sends over its transport and answers into channels; the simulator's host is the simulated network.

use std::fmt::Debug;

use bytes::Bytes;
use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipChange, MembershipError, Role, StorageFailed, TransferError};
use chronik_core::controller::{Change, CommandResult, Endpoint, Heartbeat, HeartbeatReply};
use chronik_model::{NodeId, RaftIndex};

/// Who leads, as this broker knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leadership {
    /// The leader; itself when leading.
    pub leader: Option<NodeId>,
    /// Current term.
    pub term: u64,
    /// What this broker is.
    pub role: Role,
}

/// A leader in its term.
pub type Reign = (NodeId, u64);

impl Leadership {
    /// Who leads in which term, if anybody does.
    #[must_use]
    pub fn reign(&self) -> Option<Reign> {
        self.leader.map(|leader| (leader, self.term))
    }
}

/// What became of a proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
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

/// Where a quorum runs. Every call is made from [`super::Quorum::handle`] or [`super::Quorum::turn`] and must not wait.
///
/// The types name what an asker waits with; each is answered exactly once, or dropped when it is no longer open.
pub trait Host {
    /// Waits for a proposal.
    type Propose: Debug;
    /// Waits for a read index.
    type Read: Debug;
    /// Waits for a membership change.
    type Membership: Debug;
    /// Waits for leadership to be handed over.
    type Transfer: Debug;
    /// Waits for the answer to a heartbeat.
    type Heartbeat: Debug;

    /// Puts a message on its way to `message.to`, in order per receiver. `false` when it was dropped.
    fn send(&mut self, message: RaftMessage) -> bool;
    /// Puts a state image on its way; [`Input::SnapshotSent`] tells how it went.
    fn send_snapshot(&mut self, message: RaftMessage);

    /// The role, the term or the known leader changed.
    fn role(&mut self, now: Leadership);
    /// The members changed.
    fn members(&mut self, members: &Membership);
    /// The state was replaced as a whole, by a snapshot.
    fn replaced(&mut self);
    /// The entry at `index` is in the state now.
    fn applied(&mut self, index: RaftIndex);
    /// What the entries just applied changed, in order; never empty.
    fn changes(&mut self, changes: Vec<Change>);
    /// Where the control service of another broker is, as the metadata says.
    fn learn_address(&mut self, node: NodeId, control: &Endpoint);
    /// The replica promises nothing any more. Said once, before anybody is answered so.
    fn stopped(&mut self, failure: &StorageFailed);

    /// A number for a proposal that this run of this broker has not used yet.
    fn next_proposal(&mut self) -> u64;

    /// Answers a proposal.
    fn answer_propose(&mut self, asker: Self::Propose, answer: ProposeAnswer);
    /// Answers a read: linearizable once the state has applied the index, which it has. `None`: ask again.
    fn answer_read(&mut self, asker: Self::Read, answer: Option<RaftIndex>);
    /// Answers a membership change.
    fn answer_membership(&mut self, asker: Self::Membership, answer: Result<Membership, MembershipError>);
    /// Answers who leadership is being handed to.
    fn answer_transfer(&mut self, asker: Self::Transfer, answer: Result<NodeId, TransferError>);
    /// Answers a heartbeat; `None` when this replica does not lead.
    fn answer_heartbeat(&mut self, asker: Self::Heartbeat, answer: Option<HeartbeatReply>);

    /// Whether somebody still waits for this proposal.
    fn wants_propose(&self, _asker: &Self::Propose) -> bool {
        true
    }
    /// Whether somebody still waits for this read.
    fn wants_read(&self, _asker: &Self::Read) -> bool {
        true
    }
}

/// Everything that reaches a quorum from outside.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "messages are nearly all of the traffic")]
pub enum Input<H: Host> {
    /// A message of a peer.
    Message(RaftMessage),
    /// A peer can be talked to; `leader` is whom it says it follows.
    PeerConnected {
        /// The peer.
        peer: NodeId,
        /// Its leader.
        leader: Option<NodeId>,
    },
    /// The connection to a peer broke.
    PeerLost(NodeId),
    /// A peer cannot be connected to. `gone`: its address, which worked before, refuses connections, so that its process
    /// has certainly ended. A refusal by an address that never worked says nothing about the process.
    PeerUnreachable {
        /// The peer.
        peer: NodeId,
        /// Its process has ended.
        gone: bool,
    },
    /// A state image arrived at a peer, or did not.
    SnapshotSent {
        /// The peer.
        peer: NodeId,
        /// It arrived.
        delivered: bool,
    },
    /// Append this envelope and answer when it is applied.
    Propose(Bytes, H::Propose),
    /// From which applied index on is the local state as new as anything committed before.
    ReadIndex(H::Read),
    /// Change the members; answered when the change is applied.
    Membership(MembershipChange, H::Membership),
    /// Hand over leadership, to this voter or to the best prepared one.
    Transfer(Option<NodeId>, H::Transfer),
    /// A broker lives.
    Heartbeat(Heartbeat, H::Heartbeat),
}
