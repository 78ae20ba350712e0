//! A leader's memory of one leadership: how far each follower is and which in-sync set it may rely on.
//!
//! Made new for every leader epoch, so nothing of an earlier leadership can leak in. The in-sync set has three states
//! (KIP-497): committed, or one proposal in flight that expands or shrinks it. Until the outcome of a proposal is
//! certain the leader counts with the *maximal* set, the largest one that may be committed: the high watermark never
//! passes a replica that the controller might already take for in sync.

use std::collections::BTreeMap;

use chronik_model::{BrokerEpoch, LeaderEpoch, NodeId, Offset, mutant};

use super::types::{BrokerStatus, IsrProposal};

/// How far one follower is, all fields from one and the same fetch (KAFKA-15221).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Progress {
    /// Its log end offset; `None` until it fetched in this leadership.
    pub(super) log_end: Option<Offset>,
    /// Its log start offset.
    pub(super) log_start: Option<Offset>,
    /// Its incarnation at that fetch.
    pub(super) broker_epoch: Option<BrokerEpoch>,
    /// Leader's log end offset at the previous fetch.
    seen_leader_end: Option<Offset>,
    /// Time of the previous fetch.
    last_fetch_ms: Option<u64>,
    /// Last time at which it had everything that the leader had; `None` is long ago.
    last_caught_up_ms: Option<u64>,
}

impl Progress {
    /// At the start of a leadership an in-sync follower is taken as caught up, any other one is not.
    fn at_start(in_sync: bool, now_ms: u64) -> Self {
        Self { last_caught_up_ms: in_sync.then_some(now_ms), ..Self::default() }
    }

    /// Takes a fetch at `log_end` into account. A follower that reaches the end seen at its previous fetch was caught up
    /// at that time, so a steady stream of appends does not make it late.
    pub(super) fn on_fetch(
        &mut self,
        log_end: Offset,
        log_start: Offset,
        broker_epoch: BrokerEpoch,
        leader_end: Offset,
        now_ms: u64,
    ) {
        let caught_up = if log_end >= leader_end {
            Some(now_ms)
        } else if self.seen_leader_end.is_some_and(|seen| log_end >= seen) {
            self.last_fetch_ms
        } else {
            None
        };
        self.last_caught_up_ms = self.last_caught_up_ms.max(caught_up);
        self.log_end = self.log_end.filter(|_| mutant!(MixedProgress)).max(Some(log_end));
        self.log_start = Some(log_start);
        self.broker_epoch = Some(broker_epoch);
        self.seen_leader_end = Some(leader_end);
        self.last_fetch_ms = Some(now_ms);
    }

    /// Whether it is at the leader's end or was so recently.
    pub(super) fn caught_up(&self, leader_end: Offset, lag_max_ms: u64, now_ms: u64) -> bool {
        self.log_end == Some(leader_end)
            || self.last_caught_up_ms.is_some_and(|at| now_ms.saturating_sub(at) <= lag_max_ms)
    }

    /// Whether the controller would accept it as in sync: unfenced, staying, and the incarnation that fetched is the
    /// registered one (KIP-903).
    pub(super) fn eligible(&self, broker: Option<&BrokerStatus>) -> bool {
        let current = |b: &BrokerStatus| self.broker_epoch == Some(b.epoch) || mutant!(StaleBrokerEpoch);
        broker.is_some_and(|b| !b.fenced && !b.shutting_down && current(b))
    }
}

/// Direction of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// One replica joins.
    Expand(NodeId),
    /// Late replicas leave.
    Shrink,
}

/// The proposal whose outcome is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    /// What it wants.
    pub(super) change: Change,
    /// The attempt last sent.
    pub(super) proposal: IsrProposal,
    /// When to send it again; `None` while an answer is awaited.
    pub(super) retry_at_ms: Option<u64>,
    /// An earlier attempt ended without a definite answer and may still be committed.
    pub(super) uncertain: bool,
}

/// State of one leadership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leadership {
    /// Its number.
    pub(super) epoch: LeaderEpoch,
    /// Log end offset at its begin.
    pub(super) epoch_start: Offset,
    /// Every other replica of the assignment.
    pub(super) followers: BTreeMap<NodeId, Progress>,
    /// The proposal in flight; `None` is the state Committed.
    pub(super) pending: Option<Pending>,
}

impl Leadership {
    pub(super) fn begin(epoch: LeaderEpoch, epoch_start: Offset) -> Self {
        Self { epoch, epoch_start, followers: BTreeMap::new(), pending: None }
    }

    /// Follows a changed assignment; known followers keep their progress.
    pub(super) fn set_replicas(&mut self, me: NodeId, replicas: &[NodeId], isr: &[NodeId], now_ms: u64) {
        self.followers.retain(|node, _| replicas.contains(node) || mutant!(RemovedStillCounts));
        for node in replicas.iter().filter(|node| **node != me) {
            self.followers.entry(*node).or_insert_with(|| Progress::at_start(isr.contains(node), now_ms));
        }
    }

    /// The largest set that may be committed, given the committed one.
    pub(super) fn in_maximal_isr(&self, committed: &[NodeId], node: NodeId) -> bool {
        let joining = matches!(&self.pending, Some(Pending { change: Change::Expand(added), .. }) if *added == node);
        let counts = committed.contains(&node) || mutant!(RemovedStillCounts);
        joining || (counts && !(mutant!(ShrinkBeforeCommit) && self.is_leaving(node)))
    }

    /// Whether the proposal in flight drops `node`, which must not count before it is committed.
    fn is_leaving(&self, node: NodeId) -> bool {
        let pending = self.pending.as_ref().filter(|pending| pending.change == Change::Shrink);
        pending.is_some_and(|pending| !pending.proposal.isr.iter().any(|member| member.node == node))
    }

    /// Size of the maximal set.
    pub(super) fn maximal_isr_len(&self, committed: &[NodeId]) -> usize {
        let joining = match &self.pending {
            Some(Pending { change: Change::Expand(added), .. }) => usize::from(!committed.contains(added)),
            Some(Pending { change: Change::Shrink, .. }) | None => 0,
        };
        committed.len() + joining
    }
}
