//! What the quorum of a simulated broker finds around it. Everything it says is kept in order until the quorum's turn
//! is over; then the broker acts on it.

use std::collections::{BTreeSet, VecDeque};

use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipError, StorageFailed, TransferError};
use chronik_core::controller::{Change, Endpoint, HeartbeatReply};
use chronik_model::{IncarnationId, NodeId, RaftIndex};
use chronik_node::quorum::{Host, Leadership, ProposeAnswer};

use crate::proto::Address;

/// Who waits for a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proposer {
    /// This broker, under this number.
    Own(u64),
    /// Somebody who sent a request of this id.
    Remote(Address, u64),
}

/// Who waits for the answer to a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reporter {
    /// This broker.
    Own,
    /// A broker that sent a request of this id.
    Remote(Address, u64, NodeId, IncarnationId),
}

/// One thing that the quorum said.
#[derive(Debug)]
pub(super) enum Said {
    /// Who leads.
    Role(Leadership),
    /// The members changed.
    Members(Membership),
    /// The state is another one as a whole.
    Replaced,
    /// Applied up to here.
    Applied(RaftIndex),
    /// What that changed.
    Changes(Vec<Change>),
    /// The replica stopped.
    Stopped(String),
    /// An answer.
    Propose(Proposer, ProposeAnswer),
    /// An answer.
    Read(Address, u64, Option<RaftIndex>),
    /// An answer.
    Membership(Address, u64, Result<Membership, MembershipError>),
    /// An answer.
    Transfer(Result<NodeId, TransferError>),
    /// An answer.
    Heartbeat(Reporter, Option<HeartbeatReply>),
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct SimHost {
    /// Peers that there is a link to.
    pub(super) links: BTreeSet<NodeId>,
    /// Messages, in order.
    pub(super) sent: Vec<RaftMessage>,
    /// State images to send.
    pub(super) images: Vec<RaftMessage>,
    /// Everything else, in order.
    pub(super) said: VecDeque<Said>,
    /// Numbers of proposals.
    pub(super) proposals: u64,
}

impl Host for SimHost {
    type Propose = Proposer;
    type Read = (Address, u64);
    type Membership = (Address, u64);
    type Transfer = ();
    type Heartbeat = Reporter;

    fn send(&mut self, message: RaftMessage) -> bool {
        if !self.links.contains(&chronik_node::quorum::node_of(message.to)) {
            return false;
        }
        self.sent.push(message);
        true
    }

    fn send_snapshot(&mut self, message: RaftMessage) {
        self.images.push(message);
    }

    fn role(&mut self, now: Leadership) {
        self.said.push_back(Said::Role(now));
    }

    fn members(&mut self, members: &Membership) {
        self.said.push_back(Said::Members(members.clone()));
    }

    fn replaced(&mut self) {
        self.said.push_back(Said::Replaced);
    }

    fn applied(&mut self, index: RaftIndex) {
        match self.said.back_mut() {
            Some(Said::Applied(last)) => *last = index,
            _ => self.said.push_back(Said::Applied(index)),
        }
    }

    fn changes(&mut self, changes: Vec<Change>) {
        self.said.push_back(Said::Changes(changes));
    }

    fn learn_address(&mut self, _node: NodeId, _control: &Endpoint) {
        // Addresses are the network's here; it knows who is where, and who believes what about it.
    }

    fn stopped(&mut self, failure: &StorageFailed) {
        self.said.push_back(Said::Stopped(failure.to_string()));
    }

    fn next_proposal(&mut self) -> u64 {
        self.proposals += 1;
        self.proposals
    }

    fn answer_propose(&mut self, asker: Proposer, answer: ProposeAnswer) {
        self.said.push_back(Said::Propose(asker, answer));
    }

    fn answer_read(&mut self, (to, id): (Address, u64), answer: Option<RaftIndex>) {
        self.said.push_back(Said::Read(to, id, answer));
    }

    fn answer_membership(&mut self, (to, id): (Address, u64), answer: Result<Membership, MembershipError>) {
        self.said.push_back(Said::Membership(to, id, answer));
    }

    fn answer_transfer(&mut self, (): (), answer: Result<NodeId, TransferError>) {
        self.said.push_back(Said::Transfer(answer));
    }

    fn answer_heartbeat(&mut self, asker: Reporter, answer: Option<HeartbeatReply>) {
        self.said.push_back(Said::Heartbeat(asker, answer));
    }
}
