//! What the promise leaves room for, decided from the world as it is when a step comes.
//!
//! Acknowledged records (acks=all) survive any number of process kills, and the loss of what one disk was told to keep, also
//! both at once.
//! So only the victim's disk loses anything (in durable mode all may lose their power, because nothing acknowledged was
//! unsynced), and not again before the victim has everything back. The quorum asks for more: a disk that forgets what it
//! synced takes the vote and the entries of a voter with it, which a majority bears only while all others have what was
//! committed.

use std::collections::BTreeSet;

use chronik_consensus::MembershipChange;
use chronik_model::NodeId;

use super::Shape;
use super::operator::open_changes;
use crate::survey;
use crate::world::World;

/// What was spent.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// The victim lacks something it once had, or will after its next power cut.
    tainted: bool,
    /// The victim's disk claims to keep what it does not.
    lying: bool,
    /// What the victim's disk says it kept, below any recovery point or clean end, may not be there.
    distrusted: bool,
    /// Their disks failed an operation: nobody trusts their processes until they were started again.
    pub(crate) sick: BTreeSet<NodeId>,
    /// Removed from the cluster for good.
    pub gone: BTreeSet<NodeId>,
    /// Steps that were declined.
    pub declined: u64,
}

impl Budget {
    /// Whether the victim's disk may be told to lose what it synced, now or at its next power cut.
    pub(super) fn may_destroy(&mut self, world: &World, shape: &Shape, node: NodeId) -> Result<(), &'static str> {
        if node != shape.victim {
            return Err("only the victim's disk is destroyed");
        }
        if !shape.survives_a_disk() {
            return Err("one disk is all there is");
        }
        if !self.gone.is_empty() {
            return Err("a broker was removed: one disk is spent");
        }
        self.recover(world, shape);
        if self.tainted || self.lying {
            return Err("the victim has not recovered");
        }
        if !survey::rest_is_well(world, node) {
            return Err("the others do not have everything");
        }
        if !others_decide(world, node) {
            return Err("the others decide nothing without it");
        }
        if survey::is_needed(world, node) { Err("the victim is the last one in sync") } else { Ok(()) }
    }

    /// Whether these may lose their power.
    pub(super) fn may_cut_power(&mut self, world: &World, shape: &Shape, nodes: &[NodeId]) -> Result<(), &'static str> {
        self.recover(world, shape);
        if nodes.iter().any(|node| *node != shape.victim) {
            if !shape.durable {
                return Err("only the victim loses power: records are not synced");
            }
            if self.tainted || self.lying {
                return Err("the victim has not recovered");
            }
            return Ok(());
        }
        if self.lying && !survey::rest_is_well(world, shape.victim) {
            return Err("the others do not have everything");
        }
        if shape.durable && !self.lying {
            return Ok(());
        }
        if !shape.survives_a_disk() {
            return Err("one disk is all there is");
        }
        if survey::is_needed(world, shape.victim) { Err("the victim is the last one in sync") } else { Ok(()) }
    }

    /// Whether `node` may leave for good.
    pub(super) fn may_remove(&mut self, world: &World, shape: &Shape, node: NodeId) -> Result<(), &'static str> {
        self.recover(world, shape);
        if self.tainted || self.lying || node == shape.victim {
            return Err("the victim has not recovered");
        }
        if !survey::rest_is_well(world, NodeId(0)) {
            return Err("not all have everything");
        }
        let Some((leader, status)) = survey::quorum_leader(world) else { return Err("nobody leads") };
        if leader == node || status.voters.len() < 4 + open_demotions(world) || !status.voters.contains(&node) {
            return Err("the quorum would be too small");
        }
        if survey::partitions(world).iter().any(|partition| partition.state.replicas.contains(&node)) {
            return Err("it holds replicas");
        }
        Ok(())
    }

    /// Whether `node` may be asked to go on without a vote. Whether it does is for the quorum to say.
    pub(super) fn may_demote(&mut self, world: &World, shape: &Shape, node: NodeId) -> Result<(), &'static str> {
        self.recover(world, shape);
        let Some((_, status)) = survey::quorum_leader(world) else { return Err("nobody leads") };
        let left: Vec<NodeId> = status.voters.iter().copied().filter(|voter| *voter != node).collect();
        let open = open_demotions(world);
        if (self.tainted || self.lying) && !decide_without(&left, open, shape.victim, left.contains(&shape.victim)) {
            return Err("the victim has not recovered");
        }
        let staying = left.iter().filter(|voter| !self.gone.contains(voter)).count();
        // One that leaves for good may vote still: its removal may have been refused.
        if !self.gone.is_empty() && 2 * staying.saturating_sub(open) <= left.len().saturating_sub(open) {
            return Err("those who stay would be too few");
        }
        Ok(())
    }

    /// Whether `node` may be asked to vote.
    pub(super) fn may_promote(&mut self, world: &World, shape: &Shape, node: NodeId) -> Result<(), &'static str> {
        self.recover(world, shape);
        if (self.tainted || self.lying) && node == shape.victim {
            return Err("the victim has not recovered");
        }
        Ok(())
    }

    /// The victim's disk lost something, or may have.
    pub(super) fn taint(&mut self) {
        self.tainted = true;
    }

    /// The victim's disk will lose synced things at its next power cut.
    pub(super) fn begin_lie(&mut self) {
        self.lying = true;
    }

    /// The victim's disk is not to be believed before it was checked whole.
    pub(super) fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// Whether the disk has to be checked whole since this was asked last.
    pub(super) fn take_distrust(&mut self) -> bool {
        std::mem::take(&mut self.distrusted)
    }

    /// No more faults: what lied is repaired, and what it had lost by then may still come out.
    pub(crate) fn end_faults(&mut self) {
        self.tainted |= self.lying;
        self.lying = false;
    }

    /// The lie came out.
    pub(super) fn end_lie(&mut self) {
        self.lying = false;
    }

    /// Whether the victim's disk claims to keep what it does not.
    pub(super) fn is_lying(&self) -> bool {
        self.lying
    }

    /// Whether the victim may refuse its storage: its disk was damaged and it has not recovered.
    #[must_use]
    pub fn may_refuse(&self) -> bool {
        self.tainted || self.lying
    }

    /// Forgives the victim when it has everything back.
    fn recover(&mut self, world: &World, shape: &Shape) {
        if self.tainted && survey::is_restored(world, shape.victim) {
            self.tainted = false;
        }
    }
}

fn open_demotions(world: &World) -> usize {
    open_changes(world).iter().filter(|change| matches!(change, MembershipChange::Demote(_))).count()
}

/// Whether the others are a majority of the quorum without `node`, whatever becomes of the changes under way.
fn others_decide(world: &World, node: NodeId) -> bool {
    let Some((_, status)) = survey::quorum_leader(world) else { return false };
    let votes = status.voters.contains(&node) || open_changes(world).contains(&MembershipChange::Promote(node));
    decide_without(&status.voters, open_demotions(world), node, votes)
}

fn decide_without(voters: &[NodeId], open_demotions: usize, node: NodeId, votes: bool) -> bool {
    let others = voters.iter().filter(|voter| **voter != node).count();
    others.saturating_sub(open_demotions) > usize::from(votes)
}
