//! One replica of one partition on one broker: who leads, who is in sync, what is committed.
//!
//! The broker's replica manager owns one [`PartitionReplica`] next to the partition's log, both under one lock, and
//! keeps this order:
//!
//! 1. [`PartitionReplica::new`] with the facts of the opened log, then [`PartitionReplica::apply_metadata`] for every
//!    committed state. The effects are run in order before the lock is released; the epoch of a new leadership reaches
//!    the epoch cache before anything is served.
//! 2. As leader, a produce is admitted by `check_append`, written to the log, reported by `on_append`, and parked in
//!    [`waiters::AckWaiters`] until `ack_state` says so. Fetches of followers go through `on_follower_fetch`, those of
//!    consumers through `consumer_fetch`. `tick` runs about every second.
//! 3. As follower, `follower_fetch_request` says what to ask, `on_fetch_response` what to do with the answer, and
//!    `on_follower_append` or `on_truncated` report what was done.
//!
//! What never happens: the high watermark passes a replica that might be in sync, falls without a truncation, or moves
//! while too few replicas are in sync; an append is admitted without leadership or after a disk error; a follower's
//! progress counts when it belongs to another leadership or another incarnation; a follower cuts its log at the high
//! watermark while it has epochs. Record bytes never pass through, and time is an argument.

mod follower;
mod isr;
mod leader;
mod read;
mod types;
pub mod waiters;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, PartitionEpoch, mutant};

use crate::PartitionState;
use isr::Leadership;
pub use types::{
    ALTER_PARTITION_RETRY_MS, AckState, BrokenInvariant, BrokerStatus, ConsumerFetch, DEFAULT_REPLICA_LAG_TIME_MAX_MS,
    Effect, EpochEnd, FetchDecision, FetchReply, FollowerAction, FollowerFetch, FollowerProgress, FollowerRequest,
    IsrMember, IsrProposal, LeaderMarks, LogClaim, LogFacts, REPORT_RETRY_MS, ReplicaConfig,
};

/// What this broker is for the partition.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Role {
    /// No committed state yet, no leader, or no replica here.
    Idle,
    /// Leads.
    Leader(Leadership),
    /// Pulls from the committed leader.
    Follower,
}

/// The replica. See the module for the order of calls.
#[derive(Clone, Debug)]
pub struct PartitionReplica {
    me: NodeId,
    broker_epoch: BrokerEpoch,
    config: ReplicaConfig,
    committed: Option<PartitionState>,
    /// The replicas' brokers, as of the last metadata.
    brokers: BTreeMap<NodeId, BrokerStatus>,
    role: Role,
    log_start: Offset,
    high_watermark: Offset,
    log_end: Offset,
    latest_epoch: Option<LeaderEpoch>,
    io_fenced: bool,
    next_attempt: u64,
    /// When to tell the controller again how far the log goes, if it still asks.
    report_at_ms: u64,
}

impl PartitionReplica {
    /// A replica on broker `me`, registered with `broker_epoch`, over a log that was just opened.
    #[must_use]
    pub fn new(me: NodeId, broker_epoch: BrokerEpoch, config: ReplicaConfig, log: LogFacts) -> Self {
        assert!(log.log_start <= log.log_end, "log start {} is after log end {}", log.log_start, log.log_end);
        Self {
            me,
            broker_epoch,
            config,
            committed: None,
            brokers: BTreeMap::new(),
            role: Role::Idle,
            log_start: log.log_start,
            high_watermark: match log.high_watermark {
                restored if mutant!(UnclampedWatermark) => restored,
                restored => restored.clamp(log.log_start, log.log_end),
            },
            log_end: log.log_end,
            latest_epoch: log.latest_epoch,
            io_fenced: false,
            next_attempt: 0,
            report_at_ms: 0,
        }
    }

    /// Takes a committed state over. `broker` is the committed view of the brokers at that state. A state older than the
    /// one known is ignored; states in between may be missing (KAFKA-13790). So is a state older than this broker's own
    /// registration, which a restarted broker replays: it may name an earlier life of it, with a longer log, as leader.
    pub fn apply_metadata(
        &mut self,
        state: &PartitionState,
        broker: impl Fn(NodeId) -> Option<BrokerStatus>,
        now_ms: u64,
    ) -> Vec<Effect> {
        if let Some(known) = &self.committed
            && (state.partition_epoch < known.partition_epoch || state.leader_epoch < known.leader_epoch)
        {
            return Vec::new();
        }
        if broker(self.me).is_some_and(|registered| registered.epoch < self.broker_epoch) {
            return Vec::new();
        }
        self.brokers = state.replicas.iter().filter_map(|node| Some((*node, broker(*node)?))).collect();
        if self.committed.as_ref().is_some_and(|known| known.partition_epoch == state.partition_epoch) {
            if mutant!(WatermarkAwaitsFetch) {
                return Vec::new();
            }
            return self.advance_high_watermark(now_ms).into_iter().collect();
        }
        let previous = self.committed.replace(state.clone());
        let new_leadership =
            previous.as_ref().is_none_or(|p| p.leader_epoch != state.leader_epoch || p.leader != state.leader);
        if !state.replicas.contains(&self.me) && !mutant!(KeepRemovedReplica) {
            return self.become_idle(Effect::Removed);
        }
        match state.leader {
            Some(leader) if leader == self.me => {
                if new_leadership || !self.is_leader() {
                    self.become_leader(state, now_ms)
                } else {
                    self.adopt_isr(previous.as_ref(), state, now_ms)
                }
            }
            Some(leader) => {
                if new_leadership || self.role != Role::Follower {
                    self.become_follower(leader, state.leader_epoch)
                } else {
                    Vec::new()
                }
            }
            None => {
                let mut effects = Vec::new();
                if new_leadership || self.role != Role::Idle {
                    effects = self.become_idle(Effect::NoLeader);
                    self.report_at_ms = now_ms;
                }
                effects.extend(self.report_log(now_ms));
                effects
            }
        }
    }

    /// Tells how far the log goes when that may decide who leads and the controller does not know it yet. The role is
    /// idle by then, so that the log stands still until somebody leads.
    fn report_log(&mut self, now_ms: u64) -> Option<Effect> {
        let state = self.committed.as_ref()?;
        let known = state.report_of(self.me).is_some_and(|report| report.broker_epoch == self.broker_epoch);
        let asked = state.awaits_reports() && state.last_known_elr.contains(&self.me) && self.role == Role::Idle;
        let may = !self.io_fenced && self.broker_epoch != BrokerEpoch::NONE && self.report_at_ms <= now_ms;
        if known || !asked || !may {
            return None;
        }
        self.report_at_ms = now_ms + REPORT_RETRY_MS;
        Some(Effect::ReportLog(LogClaim {
            node: self.me,
            broker_epoch: self.broker_epoch,
            leader_epoch: state.leader_epoch,
            log_end: self.log_end,
        }))
    }

    /// Takes a changed view of the brokers over, when no partition state changed with it: a broker was fenced or
    /// unfenced, or registered anew.
    pub fn apply_brokers(&mut self, broker: impl Fn(NodeId) -> Option<BrokerStatus>, now_ms: u64) -> Vec<Effect> {
        let Some(committed) = &self.committed else { return Vec::new() };
        self.brokers = committed.replicas.iter().filter_map(|node| Some((*node, broker(*node)?))).collect();
        self.advance_high_watermark(now_ms).into_iter().collect()
    }

    /// Takes changed settings over; a lower `min.insync.replicas` may release the high watermark.
    pub fn apply_config(&mut self, config: ReplicaConfig, now_ms: u64) -> Vec<Effect> {
        self.config = config;
        self.advance_high_watermark(now_ms).into_iter().collect()
    }

    /// This broker registered anew without a restart.
    pub fn set_broker_epoch(&mut self, broker_epoch: BrokerEpoch) {
        self.broker_epoch = broker_epoch;
    }

    /// The disk refused a write or a sync, so the log in memory and the one on disk may differ. For the rest of this
    /// replica's life appends, fetches and proposals are refused with `KafkaStorageError` (KAFKA-10778); only opening the
    /// log again in a new process, as after an unclean shutdown, makes it trustworthy.
    pub fn fence_after_io_error(&mut self) -> Vec<Effect> {
        if std::mem::replace(&mut self.io_fenced, true) {
            return Vec::new();
        }
        vec![Effect::FailWaiters(ErrorCode::KafkaStorageError)]
    }

    /// The start of the log moved by retention or DeleteRecords.
    pub fn on_log_start(&mut self, log_start: Offset) -> Option<Effect> {
        assert!(
            self.log_start <= log_start && log_start <= self.log_end,
            "log start moves from {} to {log_start}, log end {}",
            self.log_start,
            self.log_end
        );
        self.log_start = log_start;
        if self.high_watermark < log_start {
            self.high_watermark = log_start;
            return Some(Effect::HighWatermark(log_start));
        }
        None
    }

    /// Leads the partition.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Follows a leader.
    #[must_use]
    pub fn is_follower(&self) -> bool {
        self.role == Role::Follower
    }

    /// The committed leader.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.committed.as_ref().and_then(|state| state.leader)
    }

    /// The committed leader epoch; [`LeaderEpoch::NONE`] before the first metadata.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.committed.as_ref().map_or(LeaderEpoch::NONE, |state| state.leader_epoch)
    }

    /// The committed partition epoch, if any state is known.
    #[must_use]
    pub fn partition_epoch(&self) -> Option<PartitionEpoch> {
        self.committed.as_ref().map(|state| state.partition_epoch)
    }

    /// The committed state.
    #[must_use]
    pub fn committed(&self) -> Option<&PartitionState> {
        self.committed.as_ref()
    }

    /// First offset of the log.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Everything below is on all in-sync replicas.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Offset of the next record.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// A disk error ended this replica's service.
    #[must_use]
    pub fn is_io_fenced(&self) -> bool {
        self.io_fenced
    }

    /// Checks everything that must hold at any time. For tests, the simulator and the doctor.
    ///
    /// # Errors
    /// The first rule that does not hold, with its values.
    pub fn check_invariants(&self) -> Result<(), BrokenInvariant> {
        let broken = |text: String| Err(BrokenInvariant(text));
        if self.log_start > self.high_watermark || self.high_watermark > self.log_end {
            return broken(format!(
                "log start {} <= high watermark {} <= log end {}",
                self.log_start, self.high_watermark, self.log_end
            ));
        }
        let Role::Leader(leadership) = &self.role else { return Ok(()) };
        let Some(state) = &self.committed else { return broken("a leader without a committed state".into()) };
        if leadership.epoch != state.leader_epoch || state.leader != Some(self.me) {
            return broken(format!(
                "leads epoch {}, but {:?} leads epoch {}",
                leadership.epoch, state.leader, state.leader_epoch
            ));
        }
        if leadership.epoch_start > self.log_end {
            return broken(format!("epoch start {} is after log end {}", leadership.epoch_start, self.log_end));
        }
        if let Some(outsider) = leadership.followers.keys().find(|n| **n == self.me || !state.replicas.contains(n)) {
            return broken(format!("tracks {outsider}, replicas {:?}", state.replicas));
        }
        if let Some(outsider) = state.isr.iter().find(|n| !state.replicas.contains(n)) {
            return broken(format!("in-sync {outsider} is not in replicas {:?}", state.replicas));
        }
        if let Some(pending) = &leadership.pending {
            let proposal = &pending.proposal;
            if let Some(outsider) = proposal.isr.iter().find(|m| !state.replicas.contains(&m.node)) {
                return broken(format!("proposes {outsider:?}, replicas {:?}", state.replicas));
            }
            if !proposal.isr.iter().any(|m| m.node == self.me) {
                return broken(format!("the leader proposes a set without itself: {:?}", proposal.isr));
            }
            if proposal.leader_epoch != state.leader_epoch || proposal.partition_epoch != state.partition_epoch {
                return broken(format!(
                    "pending at epochs {}/{}, committed {}/{}",
                    proposal.leader_epoch, proposal.partition_epoch, state.leader_epoch, state.partition_epoch
                ));
            }
        }
        Ok(())
    }

    fn become_leader(&mut self, state: &PartitionState, now_ms: u64) -> Vec<Effect> {
        let mut leadership = Leadership::begin(state.leader_epoch, self.log_end);
        leadership.set_replicas(self.me, &state.replicas, &state.isr, now_ms);
        self.role = Role::Leader(leadership);
        self.latest_epoch = Some(state.leader_epoch);
        let mut effects = vec![Effect::BecomeLeader { epoch: state.leader_epoch, epoch_start: self.log_end }];
        effects.extend(self.advance_high_watermark(now_ms));
        effects
    }

    fn become_follower(&mut self, leader: NodeId, epoch: LeaderEpoch) -> Vec<Effect> {
        let mut effects = self.leave_role(Role::Follower);
        // With epochs the leader finds the divergence; without any only the watermark is known to be common (KIP-101).
        let cut = (self.latest_epoch.is_none() || mutant!(TruncateToWatermark)) && self.log_end > self.high_watermark;
        let truncate_to = cut.then_some(self.high_watermark);
        effects.push(Effect::BecomeFollower { leader, epoch, truncate_to });
        effects
    }

    fn become_idle(&mut self, why: Effect) -> Vec<Effect> {
        let mut effects = self.leave_role(Role::Idle);
        effects.push(why);
        effects
    }

    fn leave_role(&mut self, next: Role) -> Vec<Effect> {
        // A follower that follows on has only consumers waiting, and these look at the epoch again when they wake.
        let fail = self.is_leader() || (self.role == Role::Follower && next == Role::Idle);
        self.role = next;
        if fail { vec![Effect::FailWaiters(ErrorCode::NotLeaderOrFollower)] } else { Vec::new() }
    }
}
