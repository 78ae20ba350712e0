//! The leader's half: admission of appends, progress of followers, the high watermark and the in-sync set.

use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, mutant};

use super::isr::{Change, Pending};
use super::types::{AckState, Effect, EpochEnd, FetchDecision, FollowerFetch, IsrMember, IsrProposal};
use super::{ALTER_PARTITION_RETRY_MS, PartitionReplica, Role};
use crate::{LeaderRecovery, PartitionState};

impl PartitionReplica {
    /// Admits or refuses a produce before anything is written. On success gives the epoch to stamp into the batches.
    ///
    /// # Errors
    /// `InvalidRequiredAcks`, `NotLeaderOrFollower`, `KafkaStorageError`, or `NotEnoughReplicas` when acks=all and the
    /// committed in-sync set is smaller than the effective `min.insync.replicas`.
    pub fn check_append(&self, acks: i16) -> Result<LeaderEpoch, ErrorCode> {
        if !(-1..=1).contains(&acks) {
            return Err(ErrorCode::InvalidRequiredAcks);
        }
        let (Role::Leader(leadership), Some(state)) = (&self.role, &self.committed) else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        if self.io_fenced {
            return Err(ErrorCode::KafkaStorageError);
        }
        if acks == -1 && self.is_under_min_isr(state) {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        Ok(leadership.epoch)
    }

    /// The leader's log ends at `log_end` now. Wake followers' fetches; a produce waits for this offset.
    pub fn on_append(&mut self, log_end: Offset, now_ms: u64) -> Vec<Effect> {
        assert!(
            self.is_leader() && !self.io_fenced,
            "append without leadership or after a disk error: {:?}",
            self.role
        );
        assert!(log_end >= self.log_end, "an append moved the log end from {} to {log_end}", self.log_end);
        self.log_end = log_end;
        self.advance_high_watermark(now_ms).into_iter().collect()
    }

    /// Where a produce with acks=all stands whose records end before `required`.
    #[must_use]
    pub fn ack_state(&self, required: Offset) -> AckState {
        let (Role::Leader(leadership), Some(state)) = (&self.role, &self.committed) else {
            return AckState::NotLeader;
        };
        if self.high_watermark < required && !mutant!(AckBeforeIsr) {
            AckState::Pending
        } else if leadership.maximal_isr_len(&state.isr) < self.effective_min_isr() {
            AckState::NotEnoughAfterAppend
        } else {
            AckState::Done
        }
    }

    /// A follower fetches. Its fetch offset says what it has, so this is what moves the high watermark and lets it join
    /// the in-sync set. `epoch_end` looks into the leader's epoch cache; see [`EpochEnd`]. `None` means that the epoch is
    /// older than any known one.
    pub fn on_follower_fetch(
        &mut self,
        fetch: &FollowerFetch,
        epoch_end: impl FnOnce(LeaderEpoch) -> Option<EpochEnd>,
        now_ms: u64,
    ) -> FetchDecision {
        match self
            .check_follower(fetch)
            .and_then(|()| self.check_position(fetch.fetch_offset, fetch.last_fetched_epoch, epoch_end))
        {
            Err(error) => FetchDecision::Error(error),
            Ok(Some(end)) => {
                FetchDecision::Diverging { end, high_watermark: self.high_watermark, log_start: self.log_start }
            }
            Ok(None) => {
                let effects = self.on_progress(fetch, now_ms);
                FetchDecision::Read {
                    from: fetch.fetch_offset,
                    until: self.log_end,
                    high_watermark: self.high_watermark,
                    log_start: self.log_start,
                    effects,
                }
            }
        }
    }

    /// Proposes to drop followers that stay behind, repeats proposals whose outcome is unknown, and lets the watermark
    /// go on past a replica that was about to join but stopped. Where nobody leads, tells again how far the log goes.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Effect> {
        if self.io_fenced {
            return Vec::new();
        }
        let mut effects = Vec::new();
        let Role::Leader(leadership) = &self.role else { return self.report_log(now_ms).into_iter().collect() };
        match &leadership.pending {
            Some(pending) if pending.retry_at_ms.is_some_and(|at| at <= now_ms) => {
                let again = pending.clone();
                effects.push(self.send(again.change, again.proposal.isr, again.uncertain));
            }
            Some(_) => {}
            None => effects.extend(self.shrink(now_ms)),
        }
        effects.extend(self.advance_high_watermark(now_ms));
        effects
    }

    /// The outcome of a proposal: the committed state, or why there is none. An outcome that nobody knows (a timeout, a
    /// lost connection) is `RequestTimedOut`. Late outcomes are recognised and ignored.
    pub fn on_alter_partition_result(
        &mut self,
        proposal: &IsrProposal,
        outcome: Result<PartitionState, ErrorCode>,
        now_ms: u64,
    ) -> Vec<Effect> {
        let barrier = self.unchanged_members();
        let (Role::Leader(leadership), Some(committed)) = (&mut self.role, &self.committed) else { return Vec::new() };
        let error = match outcome {
            Ok(state) if state.leader_epoch != committed.leader_epoch || state.leader != committed.leader => {
                return Vec::new(); // The metadata itself brings the change of leadership.
            }
            Ok(state) if state.partition_epoch > committed.partition_epoch => {
                let previous = self.committed.replace(state.clone());
                return self.adopt_isr(previous.as_ref(), &state, now_ms);
            }
            Ok(_) => ErrorCode::None,
            Err(error) => error,
        };
        let Some(pending) = leadership.pending.as_mut().filter(|p| p.proposal.attempt == proposal.attempt) else {
            return Vec::new();
        };
        match error {
            ErrorCode::None | ErrorCode::IneligibleReplica | ErrorCode::OperationNotAttempted => {
                if matches!(pending.change, Change::Expand(_)) && pending.uncertain {
                    // This attempt is settled, an earlier one is not and could still add the replica. Moving the
                    // partition epoch shuts it out; until then the replica counts as in sync. `tick` sends it.
                    pending.retry_at_ms = Some(now_ms + ALTER_PARTITION_RETRY_MS);
                    pending.proposal.isr = barrier;
                    return Vec::new();
                }
                leadership.pending = None;
                self.advance_high_watermark(now_ms).into_iter().collect()
            }
            // Newer metadata is on its way and will settle it.
            ErrorCode::FencedLeaderEpoch
            | ErrorCode::InvalidUpdateVersion
            | ErrorCode::NewLeaderElected
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InvalidRequest => Vec::new(),
            error => {
                let refused = matches!(error, ErrorCode::NotController | ErrorCode::StaleBrokerEpoch);
                pending.uncertain |= !refused;
                pending.retry_at_ms = Some(now_ms + ALTER_PARTITION_RETRY_MS);
                Vec::new()
            }
        }
    }

    /// Whether a proposal is in flight.
    #[must_use]
    pub fn has_pending_proposal(&self) -> bool {
        matches!(&self.role, Role::Leader(leadership) if leadership.pending.is_some())
    }

    /// The smallest log start of the live replicas, which DeleteRecords waits for; `None` when not leading or while a
    /// live follower has not fetched yet.
    #[must_use]
    pub fn low_watermark(&self) -> Option<Offset> {
        let Role::Leader(leadership) = &self.role else { return None };
        let live = |node: &NodeId| self.brokers.get(node).is_some_and(|broker| !broker.fenced);
        leadership
            .followers
            .iter()
            .filter(|(node, _)| live(node))
            .try_fold(self.log_start, |low, (_, progress)| Some(low.min(progress.log_start?)))
    }

    /// How far behind each follower is, for metrics: log end offset, `None` before its first fetch.
    pub fn followers(&self) -> impl Iterator<Item = (NodeId, Option<Offset>)> {
        let followers = match &self.role {
            Role::Leader(leadership) => Some(&leadership.followers),
            Role::Idle | Role::Follower => None,
        };
        followers.into_iter().flatten().map(|(node, progress)| (*node, progress.log_end))
    }

    /// A newer committed state of the same leadership: whatever was pending started from an older one and can no longer
    /// be committed, also when the sets look alike (KAFKA-12751).
    pub(super) fn adopt_isr(
        &mut self,
        previous: Option<&PartitionState>,
        state: &PartitionState,
        now_ms: u64,
    ) -> Vec<Effect> {
        let Role::Leader(leadership) = &mut self.role else { return Vec::new() };
        if !mutant!(PendingStays) {
            leadership.pending = None;
        }
        leadership.set_replicas(self.me, &state.replicas, &state.isr, now_ms);
        let mut effects = Vec::new();
        if previous.is_none_or(|p| p.isr != state.isr) {
            effects.push(Effect::IsrChanged { isr: state.isr.clone() });
        }
        if mutant!(WatermarkAwaitsFetch) {
            return effects;
        }
        effects.extend(self.advance_high_watermark(now_ms));
        effects
    }

    /// Moves the high watermark to the smallest log end of the replicas that are or might be in sync, and of those that
    /// are about to join. It never falls, and stands still while too few replicas are in sync (KIP-966).
    pub(super) fn advance_high_watermark(&mut self, now_ms: u64) -> Option<Effect> {
        let (Role::Leader(leadership), Some(state)) = (&self.role, &self.committed) else { return None };
        if self.io_fenced || self.is_under_min_isr(state) {
            return None;
        }
        let mut lowest = self.log_end;
        for (node, progress) in &leadership.followers {
            if mutant!(WatermarkFromLogEnd) || (progress.log_end.is_none() && mutant!(WatermarkIgnoresSilent)) {
                continue;
            }
            let in_sync = leadership.in_maximal_isr(&state.isr, *node);
            if in_sync && self.left_by_now(*node, progress.broker_epoch) {
                return None;
            }
            let counts = in_sync
                || (progress.caught_up(self.log_end, self.config.lag_max_ms, now_ms)
                    && progress.eligible(self.brokers.get(node)));
            if counts {
                lowest = lowest.min(progress.log_end?);
            }
        }
        if lowest <= self.high_watermark {
            return None;
        }
        self.high_watermark = lowest;
        Some(Effect::HighWatermark(lowest))
    }

    /// Whether nothing may be committed with acks=all. Eligible leaders, also distrusted ones, exist only where the
    /// controller counts the in-sync set as too small; they are in the same record as the set, while a changed
    /// `min.insync.replicas` may reach us later. To commit past them by the old setting would lose it when one of them
    /// is elected.
    fn is_under_min_isr(&self, state: &PartitionState) -> bool {
        let remembered = !state.elr.is_empty() || !state.last_known_elr.is_empty();
        (state.isr.len() < self.effective_min_isr() || remembered) && !mutant!(IgnoreMinIsr)
    }

    /// Whether the committed in-sync set that we know is outdated as to `node`: a fenced broker is never in sync, and
    /// neither is one that registered again, which its fetch tells us before the metadata does. What only it and we
    /// have is then no longer safe, because it may not be elected.
    fn left_by_now(&self, node: NodeId, fetched_as: Option<BrokerEpoch>) -> bool {
        self.brokers.get(&node).is_some_and(|known| known.fenced || fetched_as.is_some_and(|epoch| epoch > known.epoch))
    }

    fn effective_min_isr(&self) -> usize {
        if mutant!(IgnoreMinIsr) {
            return 1;
        }
        self.committed.as_ref().map_or(1, |state| state.min_isr(self.config.min_insync_replicas))
    }

    fn check_follower(&self, fetch: &FollowerFetch) -> Result<(), ErrorCode> {
        if fetch.current_leader_epoch == LeaderEpoch::NONE {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        self.check_leader_epoch(fetch.current_leader_epoch)?;
        let Role::Leader(leadership) = &self.role else { return Err(ErrorCode::NotLeaderOrFollower) };
        if self.io_fenced {
            return Err(ErrorCode::KafkaStorageError);
        }
        if !leadership.followers.contains_key(&fetch.replica) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let registered = self.brokers.get(&fetch.replica).map(|broker| broker.epoch);
        let stale = fetch.replica_epoch != BrokerEpoch::NONE && registered.is_some_and(|at| at > fetch.replica_epoch);
        if stale && !mutant!(CountStaleFetch) { Err(ErrorCode::NotLeaderOrFollower) } else { Ok(()) }
    }

    fn on_progress(&mut self, fetch: &FollowerFetch, now_ms: u64) -> Vec<Effect> {
        let Role::Leader(leadership) = &mut self.role else { return Vec::new() };
        if let Some(progress) = leadership.followers.get_mut(&fetch.replica) {
            progress.on_fetch(fetch.fetch_offset, fetch.log_start, fetch.replica_epoch, self.log_end, now_ms);
        }
        let mut effects: Vec<Effect> = self.expand(fetch.replica).into_iter().collect();
        effects.extend(self.advance_high_watermark(now_ms));
        effects
    }

    /// Proposes `node` as in sync when it has everything committed and everything before this leadership (KAFKA-7128).
    fn expand(&mut self, node: NodeId) -> Option<Effect> {
        let (Role::Leader(leadership), Some(state)) = (&self.role, &self.committed) else { return None };
        let progress = leadership.followers.get(&node)?;
        let log_end = progress.log_end?;
        let joins = leadership.pending.is_none()
            && !state.isr.contains(&node)
            && progress.eligible(self.brokers.get(&node))
            && (log_end >= self.high_watermark || mutant!(ExpandTooEarly))
            && (log_end >= leadership.epoch_start || mutant!(ExpandTooEarly) || mutant!(JoinAtWatermark));
        if !joins {
            return None;
        }
        let mut isr = self.members(|_| true);
        isr.push(self.member(node));
        Some(self.send(Change::Expand(node), isr, false))
    }

    fn shrink(&mut self, now_ms: u64) -> Option<Effect> {
        let (Role::Leader(leadership), Some(state)) = (&self.role, &self.committed) else { return None };
        let late = |node: NodeId| {
            leadership
                .followers
                .get(&node)
                .is_some_and(|progress| !progress.caught_up(self.log_end, self.config.lag_max_ms, now_ms))
        };
        if !state.isr.iter().any(|node| late(*node)) {
            return None;
        }
        let isr = self.members(|node| !late(node));
        Some(self.send(Change::Shrink, isr, false))
    }

    /// Members of the committed in-sync set that pass `keep`.
    fn members(&self, keep: impl Fn(NodeId) -> bool) -> Vec<IsrMember> {
        let isr = self.committed.as_ref().map(|state| state.isr.as_slice()).unwrap_or_default();
        isr.iter().filter(|node| keep(**node)).map(|node| self.member(*node)).collect()
    }

    /// The committed in-sync set, claiming nothing about the incarnations of the others.
    fn unchanged_members(&self) -> Vec<IsrMember> {
        let isr = self.committed.as_ref().map(|state| state.isr.as_slice()).unwrap_or_default();
        let epoch = |node| if node == self.me { self.broker_epoch } else { BrokerEpoch::NONE };
        isr.iter().map(|node| IsrMember { node: *node, broker_epoch: epoch(*node) }).collect()
    }

    fn member(&self, node: NodeId) -> IsrMember {
        let seen = match &self.role {
            Role::Leader(leadership) => leadership.followers.get(&node).and_then(|progress| progress.broker_epoch),
            Role::Idle | Role::Follower => None,
        };
        let broker_epoch = if node == self.me { self.broker_epoch } else { seen.unwrap_or(BrokerEpoch::NONE) };
        IsrMember { node, broker_epoch }
    }

    fn send(&mut self, change: Change, isr: Vec<IsrMember>, uncertain: bool) -> Effect {
        let proposal = IsrProposal {
            attempt: self.next_attempt,
            leader: self.me,
            broker_epoch: self.broker_epoch,
            leader_epoch: self.leader_epoch(),
            partition_epoch: self.partition_epoch().unwrap_or_default(),
            isr,
            recovery: LeaderRecovery::Recovered,
        };
        self.next_attempt += 1;
        if let Role::Leader(leadership) = &mut self.role {
            leadership.pending = Some(Pending { change, proposal: proposal.clone(), retry_at_ms: None, uncertain });
        }
        Effect::ProposeAlterPartition(proposal)
    }
}
