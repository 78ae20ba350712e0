//! Changing the members, one at a time, refused with a reason when it would be unsafe.
//!
//! The checks look at what the leader knows now. They are for people and the operator, who must not be able to talk a
//! cluster to death; raft's own rules keep it consistent without them.
//!
//! A demotion is one change, as a promotion is: raft takes the vote and keeps the progress when a voter is added as a
//! learner. At no moment is the node outside.

use bytes::Bytes;
use chronik_log::disk::Disk;
use chronik_model::NodeId;
use prost::Message as _;
use raft::eraftpb;

use crate::error::MembershipError;
use crate::mirror::{ConfChange, ConfChangeType};
use crate::replica::Replica;
use crate::types::{MembershipChange, ProposalToken};

impl<D: Disk + Clone> Replica<D> {
    /// Proposes a change of the members. It is in force when the entry at the token is applied.
    pub fn change_membership(&mut self, change: MembershipChange) -> Result<ProposalToken, MembershipError> {
        if self.stopped() {
            return Err(MembershipError::Stopped);
        }
        if !self.is_leader() {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        }
        if self.node.raft.has_pending_conf() {
            return Err(MembershipError::InProgress);
        }
        let (change_type, node) = match change {
            MembershipChange::AddLearner(node) => (self.may_add_learner(node)?, node),
            MembershipChange::Promote(node) => (self.may_promote(node)?, node),
            MembershipChange::Demote(node) => (self.may_demote(node)?, node),
            MembershipChange::RemoveNode(node) => (self.may_remove(node)?, node),
        };
        let change =
            ConfChange { id: 0, change_type: change_type as i32, node_id: node.raft_id(), context: Bytes::new() };
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(eraftpb::EntryType::EntryConfChange);
        entry.data = change.encode_to_vec().into();
        self.append(entry).ok_or(MembershipError::Dropped)
    }

    /// The members that have nearly the whole log and answer, without this replica; empty unless it leads.
    #[must_use]
    pub fn caught_up(&self) -> Vec<NodeId> {
        if !self.is_leader() {
            return Vec::new();
        }
        let members = self.membership.voters.iter().chain(&self.membership.learners).copied();
        members.filter(|node| *node != self.config.node && self.is_caught_up(*node)).collect()
    }

    fn is_voter(&self, node: NodeId) -> bool {
        self.membership.voters.contains(&node)
    }

    fn is_learner(&self, node: NodeId) -> bool {
        self.membership.learners.contains(&node)
    }

    fn may_add_learner(&self, node: NodeId) -> Result<ConfChangeType, MembershipError> {
        if node.0 <= 0 {
            return Err(MembershipError::InvalidNode(node));
        }
        if self.is_voter(node) {
            return Err(MembershipError::AlreadyVoter(node));
        }
        if self.is_learner(node) {
            return Err(MembershipError::AlreadyLearner(node));
        }
        Ok(ConfChangeType::AddLearnerNode)
    }

    fn may_promote(&self, node: NodeId) -> Result<ConfChangeType, MembershipError> {
        if self.is_voter(node) {
            return Err(MembershipError::AlreadyVoter(node));
        }
        if !self.is_learner(node) {
            return Err(MembershipError::UnknownNode(node));
        }
        if !self.is_caught_up(node) {
            return Err(MembershipError::LearnerNotCaughtUp { node, lag: self.lag(node).1 });
        }
        let mut voters = self.membership.voters.clone();
        voters.push(node);
        self.keeps_majority(&voters)?;
        Ok(ConfChangeType::AddNode)
    }

    fn may_demote(&self, node: NodeId) -> Result<ConfChangeType, MembershipError> {
        if self.is_learner(node) {
            return Err(MembershipError::AlreadyLearner(node));
        }
        let left = self.voters_without(node)?;
        let (voters, needed) = (left.len(), left.len() / 2 + 1);
        let caught_up = left.iter().filter(|voter| self.is_caught_up(**voter)).count();
        if caught_up < needed {
            return Err(MembershipError::VotersNotCaughtUp { voters, caught_up, needed });
        }
        Ok(ConfChangeType::AddLearnerNode)
    }

    fn may_remove(&self, node: NodeId) -> Result<ConfChangeType, MembershipError> {
        if !self.is_learner(node) {
            self.voters_without(node)?;
        }
        Ok(ConfChangeType::RemoveNode)
    }

    /// The voters that are left when `node` votes no more, if they can go on.
    fn voters_without(&self, node: NodeId) -> Result<Vec<NodeId>, MembershipError> {
        if !self.is_voter(node) {
            return Err(MembershipError::UnknownNode(node));
        }
        if self.membership.voters.len() == 1 {
            return Err(MembershipError::LastVoter(node));
        }
        if node == self.config.node {
            return Err(MembershipError::IsLeader(node));
        }
        let left: Vec<NodeId> = self.membership.voters.iter().copied().filter(|v| *v != node).collect();
        self.keeps_majority(&left)?;
        Ok(left)
    }

    /// What a member is known to have of the log, and what it lacks.
    fn lag(&self, node: NodeId) -> (u64, u64) {
        let matched = self.node.raft.prs().get(node.raft_id()).map_or(0, |p| p.matched);
        (matched, self.node.raft.raft_log.last_index().saturating_sub(matched))
    }

    fn is_caught_up(&self, node: NodeId) -> bool {
        let (matched, lag) = self.lag(node);
        // One that has nothing yet lags whatever the numbers say.
        node == self.config.node || (matched > 0 && lag <= self.config.promote_max_lag && self.is_live(node.raft_id()))
    }

    fn keeps_majority(&self, voters: &[NodeId]) -> Result<(), MembershipError> {
        let live = voters.iter().filter(|v| self.is_live(v.raft_id())).count();
        let needed = voters.len() / 2 + 1;
        if live >= needed {
            return Ok(());
        }
        Err(MembershipError::WouldLoseMajority { voters: voters.len(), live, needed })
    }

    /// Leadership goes to a voter when the change that ended this leader's vote was begun by its predecessor, which
    /// could not know. It leads on until one takes over: only the others' disks count.
    pub(crate) fn hand_over_if_voteless(&mut self) {
        let voteless = self.is_leader() && !self.is_voter(self.config.node);
        if voteless
            && self.node.raft.lead_transferee.is_none()
            && let Some(successor) = self.best_successor()
        {
            tracing::info!(target: "raft", to = successor.0, "this leader has no vote any more: it hands over");
            self.node.transfer_leader(successor.raft_id());
        }
    }
}
