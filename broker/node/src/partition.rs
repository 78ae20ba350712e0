//! One hosted partition: the replica state machine, its log and its waiters, as one value without a lock or a clock.
//!
//! The server keeps each behind one short lock, the simulator owns them plainly. Every function that changes something
//! decides with `chronik-core`, acts on the log, and runs the effects; always in this order:
//!
//! 1. the log: what is to be said has to be there first;
//! 2. the replica: `on_append`, `on_follower_append` and `on_truncated` tell it what the log holds now;
//! 3. the effects of that, in the order given ([`HostedPartition::run`]): only these move the high watermark, and only
//!    behind a moved watermark, or a finished sync, is the high watermark published, are fetches woken and tickets
//!    completed;
//! 4. the other published offsets.
//!
//! What concerns others is data: [`Outgoing`] for the owner to deliver once it holds no lock, and
//! [`HostedPartition::take_flush`] for a sync that durable acknowledgements wait for. The owner asks for that after
//! [`HostedPartition::new`], `apply`, `append` and `on_fetched`, while it still holds the lock; it runs the plan without
//! the lock and brings it to [`HostedPartition::on_flushed`], or the error to [`HostedPartition::on_flush_failed`].
//!
//! What never happens: an acknowledgement or a record leaves before `chronik-core` says so, or, with durable
//! acknowledgements, before it is synced here; a log that failed a write or a sync is served any more.

mod append;
mod follow;
mod load;
mod lookup;
mod proposal;
mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chronik_core::PartitionState;
use chronik_core::controller::Command;
use chronik_core::partition::waiters::{AckWaiters, FetchPosition, FetchWaiterKey, FetchWaiters};
use chronik_core::partition::{AckState, BrokerStatus, Effect, EpochEnd, IsrProposal, LogFacts, PartitionReplica};
use chronik_log::{FlushPlan, LogError, PartitionLog};
use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, TopicId, TopicPartition, mutant};

use crate::settings::Settings;

pub use append::{Append, AppendOutcome, Refusal};
pub use lookup::FoundOffset;
pub use proposal::{alter_outcome, alter_partition, report_log};
pub use read::{FetchedPartition, Planned, ReadBudget, ReadKind};

/// A produce that waits for its acknowledgement.
pub trait Ticket {
    /// The offset after the last record that it stands for.
    fn required(&self) -> Offset;

    /// Tells it how it ended. Called under the partition's lock: it must not come back to the partition.
    fn complete(self, error: ErrorCode);
}

/// A fetch that waits for more. Each partition that it reads keeps a clone.
pub trait Waiter {
    /// Tells it to look again. Called under the partition's lock: it must not come back to the partition.
    fn wake(&self);
}

impl<F: Waiter> Waiter for Arc<F> {
    fn wake(&self) {
        F::wake(self);
    }
}

/// What a partition asks of its owner, once no lock is held.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant)] // Short-lived, and rarely the large one.
pub enum Outgoing {
    /// Propose this to the controller and bring the outcome to [`HostedPartition::on_alter_result`], exactly once.
    Propose(IsrProposal),
    /// Propose this to the controller; whatever becomes of it is of no concern here.
    Report(Command),
    /// Leads or follows another leader now, or nobody: look at [`HostedPartition::following`].
    RoleChanged,
    /// No replica of it is here any more.
    Removed,
}

/// When an acknowledgement may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// When all in-sync replicas hold the records in memory, as Kafka does by default.
    #[default]
    Os,
    /// When they are synced to disk as well.
    EveryAck,
}

/// The offsets of a partition for readers without its lock.
#[derive(Debug)]
pub struct Published {
    high_watermark: AtomicI64,
    log_end: AtomicI64,
    log_start: AtomicI64,
}

impl Published {
    /// What consumers may see.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// Offset of the next record.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        Offset(self.log_end.load(Ordering::Acquire))
    }

    /// First offset.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }
}

/// What a hosted partition is made of.
#[derive(Debug)]
pub struct Parts {
    /// Topic and index.
    pub tp: TopicPartition,
    /// Identity of the topic.
    pub topic_id: TopicId,
    /// This broker.
    pub me: NodeId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// The opened log.
    pub log: PartitionLog,
    /// The high watermark of the checkpoint, as [`crate::storage::open`] gave it.
    pub high_watermark: Offset,
    /// When the log was begun, as [`crate::storage::open`] gave it.
    pub created_ms: i64,
    /// What the topic's settings mean for it.
    pub settings: Settings,
    /// When acknowledgements leave.
    pub durability: Durability,
    /// Produces and fetches that may wait.
    pub max_waiters: usize,
}

/// See the module documentation. `A` is what produces wait with, `F` what fetches wait with.
#[derive(Debug)]
pub struct HostedPartition<A, F> {
    tp: TopicPartition,
    topic_id: TopicId,
    created_ms: i64,
    durability: Durability,
    replica: PartitionReplica,
    log: PartitionLog,
    acks: AckWaiters<A>,
    /// Produces with acks=1 that wait for the local sync only.
    syncs: AckWaiters<A>,
    fetches: FetchWaiters<F>,
    /// A coordinator that waits until what it loaded is committed.
    loading: Option<A>,
    deletes_old: bool,
    /// There may be something that acknowledgements or consumers wait to see synced.
    flush_wanted: bool,
    /// Segments that there were when the log was last made durable as a whole.
    flushed_segments: usize,
    published: Arc<Published>,
}

impl<A: Ticket, F: Waiter> HostedPartition<A, F> {
    /// A replica over a log that was just opened. It serves nobody before [`Self::apply`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            tp,
            topic_id,
            me,
            broker_epoch,
            log,
            high_watermark,
            created_ms,
            settings,
            durability,
            max_waiters,
        } = parts;
        let facts = LogFacts {
            log_end: log.log_end(),
            log_start: log.log_start(),
            high_watermark,
            latest_epoch: log.latest_epoch(),
        };
        let replica = PartitionReplica::new(me, broker_epoch, settings.replica, facts);
        Self {
            tp,
            topic_id,
            created_ms,
            durability,
            published: Arc::new(Published {
                high_watermark: AtomicI64::new(replica.high_watermark().0),
                log_end: AtomicI64::new(replica.log_end().0),
                log_start: AtomicI64::new(replica.log_start().0),
            }),
            replica,
            log,
            acks: AckWaiters::with_limit(max_waiters),
            syncs: AckWaiters::with_limit(max_waiters),
            fetches: FetchWaiters::with_limit(max_waiters),
            loading: None,
            deletes_old: settings.deletes_old,
            // What an earlier run left in the page cache is not on disk yet; until it is, nothing here acknowledges it.
            flush_wanted: true,
            flushed_segments: 1,
        }
    }

    /// Topic and index.
    #[must_use]
    pub fn tp(&self) -> &TopicPartition {
        &self.tp
    }

    /// Identity of the topic.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// When its log was begun; 0 when that is not known.
    #[must_use]
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// The replica's state, to look at.
    #[must_use]
    pub fn replica(&self) -> &PartitionReplica {
        &self.replica
    }

    /// The log, to look at.
    #[must_use]
    pub fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// The offsets for readers without the lock.
    #[must_use]
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Whether old records may be deleted at all.
    #[must_use]
    pub fn deletes_old(&self) -> bool {
        self.deletes_old
    }

    /// Produces and fetches that wait.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.acks.len() + self.syncs.len(), self.fetches.len())
    }

    /// The epoch under which this broker leads, if it does.
    #[must_use]
    pub fn led_epoch(&self) -> Option<LeaderEpoch> {
        self.replica.is_leader().then(|| self.replica.leader_epoch())
    }

    /// Whom this replica pulls from, if it follows.
    #[must_use]
    pub fn following(&self) -> Option<NodeId> {
        self.replica.follower_fetch_request().map(|request| request.leader)
    }

    /// Everything below is on the local disk as far as acknowledgements care.
    #[must_use]
    pub fn durable(&self) -> Offset {
        match self.durability {
            Durability::Os => Offset(i64::MAX),
            Durability::EveryAck if mutant!(AckBeforeSync) => Offset(i64::MAX),
            Durability::EveryAck => self.log.recovery_point(),
        }
    }

    /// The watermark that others are told. A leader's is never above a record that a power cut of it alone could take back:
    /// consumers must not see such a one, and a follower that is not in sync must not take it for committed.
    #[must_use]
    pub fn visible(&self) -> Offset {
        let high_watermark = self.replica.high_watermark();
        // A follower tells nobody.
        if self.replica.is_leader() {
            high_watermark.min(self.durable().max(self.replica.log_start()))
        } else {
            high_watermark
        }
    }

    /// Whether everything appended is synced; always true without durable acks.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.durable() >= self.log.log_end()
    }

    /// Takes a committed state over. `broker` is the committed view of the brokers at that state.
    pub fn apply(
        &mut self,
        state: &PartitionState,
        broker: impl Fn(NodeId) -> Option<BrokerStatus>,
        now_ms: u64,
        out: &mut Vec<Outgoing>,
    ) {
        let effects = self.replica.apply_metadata(state, broker, now_ms);
        self.run(effects, out);
        self.publish();
    }

    /// Takes a changed view of the brokers over.
    pub fn apply_brokers(
        &mut self,
        broker: impl Fn(NodeId) -> Option<BrokerStatus>,
        now_ms: u64,
        out: &mut Vec<Outgoing>,
    ) {
        let effects = self.replica.apply_brokers(broker, now_ms);
        self.run(effects, out);
        self.publish();
    }

    /// Takes changed settings over.
    pub fn apply_config(&mut self, settings: Settings, now_ms: u64, out: &mut Vec<Outgoing>) {
        self.log.set_config(settings.log);
        self.deletes_old = settings.deletes_old;
        let effects = self.replica.apply_config(settings.replica, now_ms);
        self.run(effects, out);
        self.publish();
    }

    /// This broker registered anew without a restart.
    pub fn set_broker_epoch(&mut self, epoch: BrokerEpoch) {
        self.replica.set_broker_epoch(epoch);
    }

    /// Repeats and shrinks what is due; about every second.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Outgoing>) {
        let effects = self.replica.tick(now_ms);
        if !self.replica.is_leader() {
            // Nobody's produces or followers wait here; at most the controller is told something.
            return self.run(effects, out);
        }
        for ticket in self.acks.expire(now_ms).into_iter().chain(self.syncs.expire(now_ms)) {
            ticket.complete(ErrorCode::RequestTimedOut);
        }
        wake(self.fetches.expire(now_ms));
        self.run(effects, out);
        self.publish();
    }

    /// The outcome of a proposal; see [`alter_outcome`].
    pub fn on_alter_result(
        &mut self,
        proposal: &IsrProposal,
        outcome: Result<PartitionState, ErrorCode>,
        now_ms: u64,
        out: &mut Vec<Outgoing>,
    ) {
        let effects = self.replica.on_alter_partition_result(proposal, outcome, now_ms);
        self.run(effects, out);
        self.publish();
    }

    /// The log directory went offline.
    pub fn fence(&mut self, out: &mut Vec<Outgoing>) {
        let effects = self.replica.fence_after_io_error();
        if !effects.is_empty() {
            out.push(Outgoing::RoleChanged);
        }
        self.run(effects, out);
    }

    /// The partition is deleted or moved away: nobody is served any more.
    pub fn end_service(&mut self, now_ms: u64) {
        self.log.retire();
        let Some(mut state) = self.replica.committed().cloned() else { return };
        state.replicas.clear();
        state.isr.clear();
        state.leader = None;
        state.leader_epoch.0 += 1;
        state.partition_epoch.0 += 1;
        let effects = self.replica.apply_metadata(&state, |_| None, now_ms);
        self.run(effects, &mut Vec::new());
        for ticket in self.acks.fail_all() {
            ticket.complete(ErrorCode::UnknownTopicOrPartition);
        }
        wake(self.fetches.fail_all());
    }

    /// The end of an orderly shutdown: nothing is appended any more, and everything is on disk.
    ///
    /// # Errors
    /// The disk failed, now or before: the shutdown is not clean. A change of the log that failed half-way left memory and
    /// disk different, so nothing may be written from the one that vouches for the other; the next start recovers the log.
    pub fn settle(&mut self) -> Result<(), LogError> {
        if self.replica.is_io_fenced() {
            return Err(LogError::Offline(format!("{} was stopped by a storage failure", self.tp)));
        }
        // A fetcher or a group may be about to append still: the marker would vouch for what was never synced.
        let effects = self.replica.fence_after_io_error();
        self.run(effects, &mut Vec::new());
        self.log.settle().map(|_| ())
    }

    /// A fetch does not wait here any more.
    pub fn forget_fetch(&mut self, key: FetchWaiterKey) {
        drop(self.fetches.cancel(key));
    }

    /// With durable acks: what has to be synced now, if there is something new since the last time. A plan replaces the
    /// earlier ones, which it contains.
    pub fn take_flush(&mut self) -> Option<FlushPlan> {
        if self.durability == Durability::Os || !std::mem::take(&mut self.flush_wanted) {
            return None;
        }
        self.log.prepare_flush()
    }

    /// What has to be synced to make the whole log durable.
    #[must_use]
    pub fn prepare_flush(&self) -> Option<FlushPlan> {
        self.log.prepare_flush()
    }

    /// The same, but only when a segment began since the last time: recovery after a crash then scans little more than
    /// the last one.
    pub fn flush_if_rolled(&mut self) -> Option<FlushPlan> {
        let segments = self.log.segment_count();
        if std::mem::replace(&mut self.flushed_segments, segments) >= segments {
            return None;
        }
        self.log.prepare_flush()
    }

    /// A plan of this partition was run, and everything in it is on disk.
    pub fn on_flushed(&mut self, plan: &FlushPlan) {
        let durable = self.log.complete_flush(plan);
        self.publish_visible();
        self.release_acks();
        for ticket in self.syncs.release(durable) {
            ticket.complete(ErrorCode::None);
        }
    }

    /// A plan of this partition failed.
    pub fn on_flush_failed(&mut self, error: &LogError, out: &mut Vec<Outgoing>) {
        self.after_error(error, out);
    }

    /// After a failed write or sync nothing of this log may be trusted until a restart.
    fn after_error(&mut self, error: &LogError, out: &mut Vec<Outgoing>) {
        if error.code() == ErrorCode::KafkaStorageError && !mutant!(AppendAfterError) {
            let effects = self.replica.fence_after_io_error();
            if !effects.is_empty() {
                tracing::error!(partition = %self.tp, %error, "partition stops: its log cannot be trusted any more");
                out.push(Outgoing::RoleChanged);
            }
            self.run(effects, out);
        }
    }

    /// Runs effects in order; see the module for what comes before and after.
    fn run(&mut self, effects: Vec<Effect>, out: &mut Vec<Outgoing>) {
        for effect in effects {
            match effect {
                Effect::FailWaiters(error) => {
                    let acks = self.acks.fail_all().into_iter().chain(self.syncs.fail_all());
                    for ticket in acks.chain(self.loading.take()) {
                        ticket.complete(error);
                    }
                    wake(self.fetches.fail_all());
                }
                Effect::BecomeLeader { epoch, epoch_start } => {
                    tracing::info!(partition = %self.tp, %epoch, start = %epoch_start, "leads");
                    out.push(Outgoing::RoleChanged);
                    // Consumers wait for what is not synced here, and maybe nobody appends: what an earlier plan did not
                    // achieve, because a truncation made it void, must not wait for that.
                    self.flush_wanted = true;
                    if !mutant!(EpochWithFirstRecord)
                        && let Err(error) = self.log.assign_epoch(epoch)
                    {
                        self.refuse_service(&error, out);
                    }
                    wake(self.fetches.fail_all());
                }
                Effect::BecomeFollower { leader, epoch, truncate_to } => {
                    tracing::info!(partition = %self.tp, %leader, %epoch, "follows");
                    if let Some(to) = truncate_to {
                        match self.log.truncate_to(to) {
                            Ok(end) => self.replica.on_truncated(self.log.log_start(), end, self.log.latest_epoch()),
                            Err(error) => self.refuse_service(&error, out),
                        }
                    }
                    out.push(Outgoing::RoleChanged);
                }
                Effect::NoLeader => {
                    tracing::info!(partition = %self.tp, "has no leader");
                    out.push(Outgoing::RoleChanged);
                }
                Effect::Removed => out.push(Outgoing::Removed),
                Effect::IsrChanged { isr } => tracing::info!(partition = %self.tp, ?isr, "in-sync set changed"),
                Effect::HighWatermark(_) => {
                    self.publish_visible();
                    self.release_acks();
                }
                Effect::ReportLog(claim) => {
                    let last_epoch = self.last_record_epoch();
                    tracing::info!(
                        partition = %self.tp, log_end = %claim.log_end, %last_epoch, "tells how far its log goes"
                    );
                    out.push(Outgoing::Report(report_log(self.topic_id, self.tp.partition, &claim, last_epoch)));
                }
                Effect::ProposeAlterPartition(proposal) => out.push(Outgoing::Propose(proposal)),
            }
        }
    }

    /// The epoch of the last record. Not simply the latest one that is known: a leader that wrote none may know an epoch
    /// that says nothing of how much it has.
    fn last_record_epoch(&self) -> LeaderEpoch {
        let (start, end) = (self.log.log_start(), self.log.log_end());
        let before_end = |at: Offset| at < end || (start == end && at == end);
        let last = self.log.epochs().iter().rev().find(|entry| before_end(entry.start_offset));
        last.map_or(LeaderEpoch::NONE, |entry| entry.epoch)
    }

    /// Answers the produces that the high watermark, and with durable acks the sync, have reached.
    fn release_acks(&mut self) {
        let reached = self.replica.high_watermark().min(self.durable());
        for ticket in self.acks.release(reached) {
            let error = match self.replica.ack_state(ticket.required()) {
                AckState::Done => ErrorCode::None,
                AckState::NotEnoughAfterAppend => ErrorCode::NotEnoughReplicasAfterAppend,
                // A watermark that was reached does not fall while this replica leads.
                AckState::NotLeader | AckState::Pending => ErrorCode::NotLeaderOrFollower,
            };
            ticket.complete(error);
        }
        self.release_loading();
    }

    /// Shows consumers what they may see now. Comes before the acknowledgements: who has one looks for its records.
    fn publish_visible(&mut self) {
        let visible = self.visible();
        self.published.high_watermark.store(visible.0, Ordering::Release);
        wake(self.fetches.release(FetchPosition::HighWatermark, visible));
    }

    /// The epoch cache could not be written or cut: whatever the reason, this replica may not serve.
    fn refuse_service(&mut self, error: &LogError, out: &mut Vec<Outgoing>) {
        tracing::error!(partition = %self.tp, %error, "partition stops");
        let effects = self.replica.fence_after_io_error();
        self.run(effects, out);
    }

    fn publish(&self) {
        self.published.high_watermark.store(self.visible().0, Ordering::Release);
        self.published.log_end.store(self.replica.log_end().0, Ordering::Release);
        self.published.log_start.store(self.replica.log_start().0, Ordering::Release);
    }
}

fn wake<F: Waiter>(waiting: Vec<F>) {
    for wait in waiting {
        wait.wake();
    }
}

/// Where `epoch` ends in this log, as `chronik-core` wants to know it.
fn epoch_end(log: &PartitionLog, epoch: LeaderEpoch) -> Option<EpochEnd> {
    if let Some(end) = log.epoch_end_offset(epoch) {
        return Some(EpochEnd { epoch: end.epoch, end_offset: end.end_offset });
    }
    // Older than everything known here: it can only have ended where the first known epoch begins.
    log.epochs().first().map(|first| EpochEnd { epoch, end_offset: first.start_offset })
}
