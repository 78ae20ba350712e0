//! What the promise leaves room for, decided from the world as it is when a step comes.
//!
//! Acknowledged records (acks=all) survive any number of process kills, and the loss of what one disk was told to keep, also
//! both at once.
//! So only the victim's disk loses anything (in durable mode all may lose their power, because nothing acknowledged was
//! unsynced), and not again before the victim has everything back. The quorum asks for more: a disk that forgets what it
//! synced takes the vote and the entries of a voter with it, which a majority bears only while all others have what was
//! committed.

use std::collections::BTreeSet;

use chronik_model::NodeId;

use super::Shape;
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
        if leader == node || status.voters.len() < 4 || !status.voters.contains(&node) {
            return Err("the quorum would be too small");
        }
        if survey::partitions(world).iter().any(|partition| partition.state.replicas.contains(&node)) {
            return Err("it holds replicas");
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
