//! How the committed state of one partition changes: the next in-sync set, the eligible leader replicas, the leader and
//! the epochs (R10, KIP-966). Pure, on one partition; every change of a partition goes through [`Transition::apply`].

use std::collections::BTreeSet;

use chronik_model::{LeaderEpoch, NodeId, PartitionEpoch, mutant};

use crate::{LeaderRecovery, PartitionState};

/// Which leader is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preference {
    /// Keep the leader while it is valid.
    Keep,
    /// The first of the assignment, if it is valid.
    Preferred,
}

/// A wanted change of a partition and the rules around it.
pub(super) struct Transition<'a> {
    /// Brokers that may be elected.
    pub(super) active: &'a BTreeSet<NodeId>,
    /// The in-sync set to have before any election.
    pub(super) isr: Vec<NodeId>,
    /// Effective min.insync.replicas.
    pub(super) min_isr: usize,
    /// Whether any live replica may lead when nobody better can.
    pub(super) unclean: bool,
    /// A replica whose log is not trusted any more (R11, or unregistered).
    pub(super) distrusted: Option<NodeId>,
    /// Forget the eligible leader replicas (R12).
    pub(super) clear_elr: bool,
    /// Which leader is wanted.
    pub(super) preference: Preference,
}

impl Transition<'_> {
    /// The state after the change; `None` when nothing changes.
    pub(super) fn apply(&self, current: &PartitionState) -> Option<PartitionState> {
        let mut next = current.clone();
        next.isr.clone_from(&self.isr);
        next.elr = self.eligible(current);
        self.elect(current, &mut next);

        if next.leader.is_some() {
            next.last_known_leader = None;
        } else if current.leader.is_some() {
            next.last_known_leader = current.leader;
        }
        // A shrunken in-sync set alone keeps the leadership, and with it parked produces, alive (KAFKA-15021).
        if next.leader != current.leader && !mutant!(ReuseLeaderEpoch) {
            next.leader_epoch = LeaderEpoch(current.leader_epoch.0.saturating_add(1));
        }
        if next == *current {
            return None;
        }
        next.partition_epoch = PartitionEpoch(current.partition_epoch.0.saturating_add(1));
        Some(next)
    }

    /// Below min.insync.replicas the high watermark stands still, so whoever leaves the in-sync set from there on still
    /// holds every acknowledged record. At or above it nobody else is known to.
    fn eligible(&self, current: &PartitionState) -> Vec<NodeId> {
        if self.clear_elr || self.isr.len() >= self.min_isr {
            return Vec::new();
        }
        let was = |node: &NodeId| current.isr.contains(node) || current.elr.contains(node);
        current
            .replicas
            .iter()
            .copied()
            .filter(|node| was(node) && !self.isr.contains(node) && self.distrusted != Some(*node))
            .collect()
    }

    fn elect(&self, current: &PartitionState, next: &mut PartitionState) {
        let active = |node: NodeId| self.active.contains(&node) || mutant!(ElectFenced);
        let unclean = self.unclean || mutant!(ElectUnclean);
        let valid = |node: NodeId| {
            active(node) && (next.isr.contains(&node) || (next.isr.is_empty() && next.elr.contains(&node)))
        };
        let first = current.replicas.first().copied();
        let clean = match self.preference {
            Preference::Preferred => first.filter(|node| valid(*node)),
            Preference::Keep => None,
        }
        .or_else(|| current.leader.filter(|node| valid(*node)))
        .or_else(|| current.replicas.iter().copied().find(|node| valid(*node)))
        // Members of the in-sync set are unfenced; one that is shutting down serves until it is gone.
        .or_else(|| current.leader.filter(|node| next.isr.contains(node)))
        .or_else(|| next.isr.first().copied());
        if let Some(leader) = clean {
            next.leader = Some(leader);
            if next.isr.is_empty() {
                next.isr = vec![leader];
                next.elr.retain(|node| *node != leader);
                if next.isr.len() >= self.min_isr {
                    next.elr.clear();
                }
            }
            return;
        }
        let last_known = || current.last_known_leader.filter(|node| next.elr.is_empty() && active(*node));
        let any = || current.replicas.iter().copied().find(|node| unclean && active(*node));
        next.leader = last_known().or_else(any);
        if let Some(leader) = next.leader {
            // Its log becomes the truth as it is; what others hold beyond it is lost.
            next.isr = vec![leader];
            next.elr.clear();
            next.recovery = LeaderRecovery::Recovering;
        }
    }
}
