//! How the committed state of one partition changes: the next in-sync set, the eligible leader replicas, the leader and
//! the epochs (R10, KIP-966). Pure, on one partition; every change of a partition goes through [`Transition::apply`].

use std::collections::BTreeSet;

use chronik_model::{LeaderEpoch, NodeId, PartitionEpoch, mutant};

use crate::{LeaderRecovery, PartitionState, effective_min_isr};

/// Which leader is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preference {
    /// Keep the leader while it is valid.
    Keep,
    /// The first of the assignment, if it is valid.
    Preferred,
    /// Anybody valid but this broker; it keeps what nobody else can lead.
    Away(NodeId),
}

/// Another assignment for a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Assigned {
    pub(super) replicas: Vec<NodeId>,
    adding: Vec<NodeId>,
    removing: Vec<NodeId>,
}

impl Assigned {
    /// The way to `target` (KIP-455): those that are there already stay until the others are in sync. What an earlier
    /// reassignment was adding, and this one does not want, goes at once.
    pub(super) fn towards(state: &PartitionState, target: &[NodeId]) -> Self {
        let original = state.original_replicas();
        let removing: Vec<NodeId> = original.iter().copied().filter(|node| !target.contains(node)).collect();
        let adding = target.iter().copied().filter(|node| !original.contains(node)).collect();
        Self { replicas: target.iter().chain(&removing).copied().collect(), adding, removing }
    }
}

/// Why a replica's log is not trusted any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doubt {
    /// It ended uncleanly (R11): whatever was not on its disk may be gone, or nothing at all.
    Killed(NodeId),
    /// It is on another disk: the log is gone.
    Replaced(NodeId),
}

impl Doubt {
    fn node(self) -> NodeId {
        match self {
            Self::Killed(node) | Self::Replaced(node) => node,
        }
    }
}

/// A wanted change of a partition and the rules around it.
pub(super) struct Transition<'a> {
    /// Brokers that may be elected.
    pub(super) active: &'a BTreeSet<NodeId>,
    /// The in-sync set to have before any election.
    pub(super) isr: Vec<NodeId>,
    /// min.insync.replicas as configured.
    pub(super) min_isr: Option<usize>,
    /// Whether any live replica may lead when nobody better can.
    pub(super) unclean: bool,
    /// A replica whose log is not trusted any more.
    pub(super) doubt: Option<Doubt>,
    /// Which leader is wanted.
    pub(super) preference: Preference,
    /// Another assignment, if there is to be one.
    pub(super) assigned: Option<Assigned>,
}

impl Transition<'_> {
    /// The state after the change; `None` when nothing changes.
    pub(super) fn apply(&self, current: &PartitionState) -> Option<PartitionState> {
        let mut next = current.clone();
        next.isr.clone_from(&self.isr);
        if let Some(assigned) = &self.assigned {
            next.replicas.clone_from(&assigned.replicas);
            next.adding.clone_from(&assigned.adding);
            next.removing.clone_from(&assigned.removing);
        }
        self.complete(&mut next);
        next.elr = self.eligible(current, &next);
        next.last_known_elr = self.last_known(current, &next);
        self.elect(current, &mut next);
        // An election may have been all that was missing.
        self.complete(&mut next);

        if next.leader.is_some() {
            next.reports.clear();
        }
        let members = &next.last_known_elr;
        next.reports.retain(|report| members.contains(&report.node));
        // A shrunken in-sync set alone keeps the leadership, and with it parked produces, alive (KAFKA-15021). Whoever is
        // no replica any more has to notice, and those who read from it.
        let dropped = current.replicas.iter().any(|node| !next.replicas.contains(node));
        if (next.leader != current.leader || dropped) && !mutant!(ReuseLeaderEpoch) {
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
    fn eligible(&self, current: &PartitionState, next: &PartitionState) -> Vec<NodeId> {
        if next.isr.len() >= next.min_isr(self.min_isr) || mutant!(ForgetEligible) {
            return Vec::new();
        }
        let was = |node: &NodeId| current.isr.contains(node) || current.elr.contains(node);
        let doubted = self.doubt.map(Doubt::node).filter(|_| !mutant!(UncleanStaysEligible));
        next.replicas
            .iter()
            .copied()
            .filter(|node| was(node) && !next.isr.contains(node) && doubted != Some(*node))
            .collect()
    }

    /// Who would be in sync or eligible had it not restarted uncleanly. Like the eligible ones they are remembered as
    /// long as the high watermark stands still; who is trusted again is one of them no more.
    fn last_known(&self, current: &PartitionState, next: &PartitionState) -> Vec<NodeId> {
        if next.isr.len() >= next.min_isr(self.min_isr) {
            return Vec::new();
        }
        let killed = |node: &NodeId| {
            self.doubt == Some(Doubt::Killed(*node)) && (current.isr.contains(node) || current.elr.contains(node))
        };
        let member = |node: &NodeId| current.last_known_elr.contains(node) || killed(node);
        let trusted = |node: &NodeId| next.isr.contains(node) || next.elr.contains(node);
        next.replicas
            .iter()
            .copied()
            .filter(|node| member(node) && !trusted(node) && self.doubt != Some(Doubt::Replaced(*node)))
            .collect()
    }

    /// Ends the reassignment when those who stay can do without those who go.
    fn complete(&self, next: &mut PartitionState) {
        if mutant!(CompleteBeforeSync) {
            let late = next.adding.iter().filter(|node| self.active.contains(node) && !next.isr.contains(node));
            let late: Vec<NodeId> = late.copied().collect();
            next.isr.extend(late);
        }
        if !is_complete(next, self.min_isr, |node| self.active.contains(&node)) {
            return;
        }
        let removing = std::mem::take(&mut next.removing);
        next.adding.clear();
        next.replicas.retain(|node| !removing.contains(node));
        next.isr.retain(|node| !removing.contains(node));
        next.elr.clear();
        next.last_known_elr.clear();
    }

    fn elect(&self, current: &PartitionState, next: &mut PartitionState) {
        let active = |node: NodeId| self.active.contains(&node) || mutant!(ElectFenced);
        let unclean = self.unclean || mutant!(ElectUnclean);
        let valid = |node: NodeId| {
            active(node) && (next.isr.contains(&node) || (next.isr.is_empty() && next.elr.contains(&node)))
        };
        let first = next.replicas.first().copied();
        let other = |than: NodeId| next.replicas.iter().copied().find(|node| *node != than && valid(*node));
        let clean = match self.preference {
            Preference::Preferred => first.filter(|node| valid(*node)),
            Preference::Away(node) => other(node),
            Preference::Keep => None,
        }
        .or_else(|| current.leader.filter(|node| valid(*node)))
        .or_else(|| next.replicas.iter().copied().find(|node| valid(*node)))
        // Members of the in-sync set are unfenced; one that is shutting down serves until it is gone.
        .or_else(|| current.leader.filter(|node| next.isr.contains(node)))
        .or_else(|| next.isr.first().copied());
        if let Some(leader) = clean {
            next.leader = Some(leader);
            if next.isr.is_empty() {
                next.isr = vec![leader];
                next.elr.retain(|node| *node != leader);
                if next.isr.len() >= next.min_isr(self.min_isr) {
                    next.elr.clear();
                    next.last_known_elr.clear();
                }
            }
            return;
        }
        let longest = Self::longest_log(next, active);
        // Those that are being added last: they may have nothing yet.
        let by_age = || {
            let (new, old): (Vec<NodeId>, Vec<NodeId>) =
                next.replicas.iter().partition(|node| next.adding.contains(node));
            old.into_iter().chain(new)
        };
        let any = || by_age().find(|node| unclean && active(*node));
        next.leader = longest.or_else(any);
        let Some(leader) = next.leader else { return };
        // Its log becomes the truth as it is; what others hold beyond it is lost.
        next.isr = vec![leader];
        next.elr.clear();
        next.recovery = LeaderRecovery::Recovering;
        next.last_known_elr.retain(|node| *node != leader);
        if longest.is_none() || next.isr.len() >= next.min_isr(self.min_isr) {
            // Elected without asking them, or free to go on without them.
            next.last_known_elr.clear();
        }
    }

    /// Who leads when nobody is left whose log is trusted: the one with the longest log of those that were distrusted
    /// since the high watermark last moved, once all of them are here and told how far they go (KIP-966).
    ///
    /// Each of them held every acknowledged record when it was distrusted, and lost some only if its disk did. If the
    /// disk of at least one, F, kept everything, the elected log, E, has everything too. Recovery and truncation only
    /// take records from the end, so every log is a beginning of what its leaders once sent it. If E and F end in the
    /// same epoch, the longer contains the other, since one leader wrote that epoch. If E ends in a later one, then the
    /// leader of that epoch had everything that was acknowledged before it began, E got that before any of its records,
    /// and nothing was acknowledged in an epoch that F has not seen. The controller cannot tell who is F: that is why
    /// one that is missing is waited for, however long the others' logs are.
    fn longest_log(next: &PartitionState, active: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        if !next.elr.is_empty() {
            return None; // One of them lost nothing, and may return.
        }
        let members = &next.last_known_elr;
        if mutant!(ElectFirstBack) {
            return members.iter().copied().find(|node| active(*node));
        }
        if !members.iter().all(|node| active(*node)) {
            return None;
        }
        if let [only] = members[..] {
            return Some(only);
        }
        let mut longest = None;
        for node in members {
            let report = next.report_of(*node)?;
            let told = (report.last_epoch, report.log_end);
            // Of equals the first of the assignment.
            if longest.is_none_or(|(_, most)| told > most) {
                longest = Some((*node, told));
            }
        }
        longest.map(|(node, _)| node)
    }
}

/// Whether the reassignment under way has reached its goal: every replica that is being added is in sync (KIP-455), and
/// enough of those who stay are, by min.insync.replicas of the new assignment and of the one before. Kafka is content with
/// one of them; but the moment that it ends would close the partition to writers, or, where fewer replicas mean that
/// fewer have to be in sync, give up the eligible replicas with what more were asked for: acknowledged records would be
/// left on too few disks.
pub(super) fn is_complete(state: &PartitionState, min_isr: Option<usize>, active: impl Fn(NodeId) -> bool) -> bool {
    let stays = |node: &&NodeId| !state.removing.contains(node);
    let factor = state.replicas.iter().filter(stays).count();
    let before = effective_min_isr(min_isr, state.original_replicas().len()).min(factor);
    let in_sync = state.isr.iter().filter(stays).count();
    let added = state.adding.iter().all(|node| state.isr.contains(node));
    state.is_reassigning()
        && added
        && in_sync >= effective_min_isr(min_isr, factor).max(before)
        && state.isr.iter().filter(stays).any(|node| active(*node))
}
