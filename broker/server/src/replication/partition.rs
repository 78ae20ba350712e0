//! One hosted partition: the replica state machine, its log and its waiters under one short lock.
//!
//! Every public function locks, decides with `chronik-core`, acts on the log, runs the effects in order, publishes the
//! offsets and unlocks; what concerns others (a proposal, a changed role) is returned as [`Outgoing`] for the manager to
//! deliver without the lock. Called from connection tasks (append, read), fetcher tasks (follower functions), the
//! metadata thread (apply) and the maintenance task.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use chronik_core::PartitionState;
use chronik_core::partition::waiters::{AckWaiters, FetchPosition, FetchWaiters};
use chronik_core::partition::{
    AckState, BrokerStatus, Effect, EpochEnd, FetchReply, FollowerAction, FollowerRequest, IsrProposal,
    PartitionReplica, ReplicaConfig,
};
use chronik_log::{AppendOrigin, Committer, FlushPlan, LogConfig, LogError, PartitionLog};
use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};
use parking_lot::Mutex;

use super::waiters::{AckTicket, AckWait, FetchWait};
use super::{mono_ms, wall_ms};

/// What an append or an effect asks of the manager, once the lock is released.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Propose this to the controller and bring the outcome back.
    Propose(IsrProposal),
    /// Leads or follows another leader now, or nobody: look at [`Partition::following`].
    RoleChanged,
    /// No replica of it is here any more.
    Removed,
}

/// How to make appends durable before they are acknowledged.
#[derive(Clone, Debug)]
pub enum Durability {
    /// The page cache is enough.
    Os,
    /// Through this committer.
    EveryAck(Arc<Committer>),
}

/// A produce that reached the log, or was found there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendOutcome {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Time the broker gave the records, -1 if the producer's stand.
    pub log_append_time: i64,
    /// Start of the log.
    pub log_start: Offset,
    /// Whether the acknowledgement is still to come through the ticket.
    pub waits: bool,
}

pub(super) struct Inner {
    pub(super) replica: PartitionReplica,
    pub(super) log: PartitionLog,
    pub(super) acks: AckWaiters<AckTicket>,
    /// Produces with acks=1 that wait for the local sync only.
    syncs: AckWaiters<AckTicket>,
    pub(super) fetches: FetchWaiters<Arc<FetchWait>>,
    pub(super) deletes_old: bool,
    /// Segments that there were when the log was last made durable as a whole.
    pub(super) flushed_segments: usize,
}

/// See the module documentation.
#[allow(missing_debug_implementations)]
pub struct Partition {
    /// Topic and index.
    pub tp: TopicPartition,
    /// Identity of the topic.
    pub topic_id: TopicId,
    durability: Durability,
    pub(super) inner: Mutex<Inner>,
    high_watermark: AtomicI64,
    log_end: AtomicI64,
    log_start: AtomicI64,
    /// Nudges the committer's thread.
    wake_committer: Arc<dyn Fn() + Send + Sync>,
}

/// What a partition is made of.
pub(super) struct Parts {
    pub(super) tp: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) replica: PartitionReplica,
    pub(super) log: PartitionLog,
    pub(super) durability: Durability,
    pub(super) max_waiters: usize,
    pub(super) wake_committer: Arc<dyn Fn() + Send + Sync>,
}

impl Partition {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { tp, topic_id, replica, log, durability, max_waiters, wake_committer } = parts;
        Arc::new(Self {
            tp,
            topic_id,
            durability,
            high_watermark: AtomicI64::new(replica.high_watermark().0),
            log_end: AtomicI64::new(replica.log_end().0),
            log_start: AtomicI64::new(replica.log_start().0),
            inner: Mutex::new(Inner {
                replica,
                log,
                acks: AckWaiters::with_limit(max_waiters),
                syncs: AckWaiters::with_limit(max_waiters),
                fetches: FetchWaiters::with_limit(max_waiters),
                deletes_old: true,
                flushed_segments: 1,
            }),
            wake_committer,
        })
    }

    /// The high watermark, without the lock.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// The log end offset, without the lock.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        Offset(self.log_end.load(Ordering::Acquire))
    }

    /// The log start offset, without the lock.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Leader and leader epoch as this replica knows them, for hints to clients (KIP-951).
    #[must_use]
    pub fn leader(&self) -> (Option<NodeId>, LeaderEpoch) {
        let inner = self.inner.lock();
        (inner.replica.leader(), inner.replica.leader_epoch())
    }

    /// The epoch under which this broker leads, if it does.
    #[must_use]
    pub fn led_epoch(&self) -> Option<LeaderEpoch> {
        let inner = self.inner.lock();
        inner.replica.is_leader().then(|| inner.replica.leader_epoch())
    }

    /// Whom this replica pulls from, if it follows.
    pub(super) fn following(&self) -> Option<NodeId> {
        self.inner.lock().replica.follower_fetch_request().map(|request| request.leader)
    }

    /// Appends whole batches as leader, `only_epoch` if given. With acks=all, or with durable acks, `wait` gets a ticket unless the outcome is
    /// known at once.
    ///
    /// # Errors
    /// Kafka's code for the refusal and a sentence for people.
    pub(super) fn append(
        &self,
        batches: &[Bytes],
        acks: i16,
        origin: AppendOrigin,
        only_epoch: Option<LeaderEpoch>,
        wait: Option<(&Arc<AckWait>, usize, u64)>,
        out: &mut Vec<Outgoing>,
    ) -> Result<AppendOutcome, (ErrorCode, String)> {
        let now = mono_ms();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let refuse = |code: ErrorCode| (code, code.text().to_owned());
        let epoch = inner.replica.check_append(acks).map_err(refuse)?;
        if only_epoch.is_some_and(|only| only != epoch) {
            return Err(refuse(ErrorCode::NotLeaderOrFollower));
        }
        let info = match inner.log.append_as_leader(batches, epoch, wall_ms(), origin) {
            Ok(info) => info,
            Err(error) => {
                self.after_error(inner, &error, out);
                return Err((error.code(), error.to_string()));
            }
        };
        let required = info.last_offset.plus(1);
        if !info.duplicate {
            let log_end = inner.log.log_end();
            let effects = inner.replica.on_append(log_end, now);
            self.register_flush(inner);
            self.run(inner, effects, now, out);
            self.publish(inner);
            wake(inner.fetches.release(FetchPosition::LogEnd, log_end));
        }
        let mut outcome = AppendOutcome {
            base_offset: info.first_offset,
            log_append_time: info.log_append_time.unwrap_or(-1),
            log_start: info.log_start_offset,
            waits: false,
        };
        let Some((wait, index, deadline_ms)) = wait else { return Ok(outcome) };
        let durable = self.durable(inner) >= required;
        let queue = match acks {
            -1 => match inner.replica.ack_state(required) {
                AckState::Done if durable => return Ok(outcome),
                AckState::NotEnoughAfterAppend => return Err(refuse(ErrorCode::NotEnoughReplicasAfterAppend)),
                AckState::NotLeader => return Err(refuse(ErrorCode::NotLeaderOrFollower)),
                AckState::Done | AckState::Pending => &mut inner.acks,
            },
            1 if !durable => &mut inner.syncs,
            _ => return Ok(outcome),
        };
        let ticket = wait.ticket(index, required);
        let parked = match queue.push(required, deadline_ms, ticket) {
            Ok(_) => Ok(()),
            Err(ticket) => {
                for expired in queue.expire(now) {
                    expired.complete(ErrorCode::RequestTimedOut);
                }
                queue.push(required, deadline_ms, ticket).map(|_| ())
            }
        };
        match parked {
            Ok(()) => outcome.waits = true,
            // It is written, but nobody can wait for it any more: the client has to find out by a retry.
            Err(ticket) => {
                ticket.complete(ErrorCode::RequestTimedOut);
                outcome.waits = true;
            }
        }
        Ok(outcome)
    }

    /// Everything below is on the local disk as far as acknowledgements care.
    fn durable(&self, inner: &Inner) -> Offset {
        match self.durability {
            Durability::Os => Offset(i64::MAX),
            Durability::EveryAck(_) => inner.log.recovery_point(),
        }
    }

    /// What consumers may see: never a record that a power cut of this broker alone could take back.
    pub(super) fn visible(&self, inner: &Inner) -> Offset {
        let high_watermark = inner.replica.high_watermark();
        // A follower's records are synced before its fetch acknowledges them, so its watermark needs no such bound.
        if inner.replica.is_leader() {
            high_watermark.min(self.durable(inner).max(inner.replica.log_start()))
        } else {
            high_watermark
        }
    }

    /// What an earlier run left in the page cache is not on disk yet; until it is, nothing here acknowledges it.
    pub(super) fn sync_what_was_found(&self) {
        self.register_flush(&self.inner.lock());
    }

    fn register_flush(&self, inner: &Inner) {
        if let Durability::EveryAck(committer) = &self.durability
            && let Some(plan) = inner.log.prepare_flush()
            && committer.register(self.tp.clone(), plan)
        {
            (self.wake_committer)();
        }
    }

    /// A round of the committer covered this partition.
    pub(super) fn on_flushed(&self, plan: &FlushPlan) {
        let mut inner = self.inner.lock();
        let durable = inner.log.complete_flush(plan);
        self.on_durable(&mut inner, durable);
    }

    fn on_durable(&self, inner: &mut Inner, durable: Offset) {
        self.release_acks(inner);
        for ticket in inner.syncs.release(durable) {
            ticket.complete(ErrorCode::None);
        }
        let visible = self.visible(inner);
        self.high_watermark.store(visible.0, Ordering::Release);
        wake(inner.fetches.release(FetchPosition::HighWatermark, visible));
    }

    /// Makes what is in the log now durable. The lock is free while the disk works, so that nobody waits for it.
    pub(super) fn sync_now(&self) {
        let Some(plan) = self.inner.lock().log.prepare_flush() else { return };
        match plan.run() {
            Ok(()) => self.on_flushed(&plan),
            Err(error) => self.after_error(&mut self.inner.lock(), &error, &mut Vec::new()),
        }
    }

    fn release_acks(&self, inner: &mut Inner) {
        let reached = inner.replica.high_watermark().min(self.durable(inner));
        for ticket in inner.acks.release(reached) {
            let error = match inner.replica.ack_state(ticket.required) {
                AckState::Done => ErrorCode::None,
                AckState::NotEnoughAfterAppend => ErrorCode::NotEnoughReplicasAfterAppend,
                // A watermark that was reached does not fall while this replica leads.
                AckState::NotLeader | AckState::Pending => ErrorCode::NotLeaderOrFollower,
            };
            ticket.complete(error);
        }
    }

    /// After a failed write or sync nothing of this log may be trusted until a restart.
    pub(super) fn after_error(&self, inner: &mut Inner, error: &LogError, out: &mut Vec<Outgoing>) {
        if error.code() == ErrorCode::KafkaStorageError {
            let effects = inner.replica.fence_after_io_error();
            if !effects.is_empty() {
                tracing::error!(partition = %self.tp, %error, "partition stops: its log cannot be trusted any more");
                out.push(Outgoing::RoleChanged);
            }
            self.run(inner, effects, mono_ms(), out);
        }
    }

    /// The log directory went offline.
    pub(super) fn fence(&self, out: &mut Vec<Outgoing>) {
        let mut inner = self.inner.lock();
        let effects = inner.replica.fence_after_io_error();
        if !effects.is_empty() {
            out.push(Outgoing::RoleChanged);
        }
        self.run(&mut inner, effects, mono_ms(), out);
    }

    /// Runs effects in order. Called with the lock held.
    pub(super) fn run(&self, inner: &mut Inner, effects: Vec<Effect>, now: u64, out: &mut Vec<Outgoing>) {
        for effect in effects {
            match effect {
                Effect::FailWaiters(error) => {
                    for ticket in inner.acks.fail_all().into_iter().chain(inner.syncs.fail_all()) {
                        ticket.complete(error);
                    }
                    wake(inner.fetches.fail_all());
                }
                Effect::BecomeLeader { epoch, epoch_start } => {
                    tracing::info!(partition = %self.tp, %epoch, start = %epoch_start, "leads");
                    out.push(Outgoing::RoleChanged);
                    if let Err(error) = inner.log.assign_epoch(epoch) {
                        self.refuse_service(inner, &error, now, out);
                    }
                    wake(inner.fetches.fail_all());
                }
                Effect::BecomeFollower { leader, epoch, truncate_to } => {
                    tracing::info!(partition = %self.tp, %leader, %epoch, "follows");
                    if let Some(to) = truncate_to {
                        match inner.log.truncate_to(to) {
                            Ok(end) => inner.replica.on_truncated(inner.log.log_start(), end, inner.log.latest_epoch()),
                            Err(error) => self.refuse_service(inner, &error, now, out),
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
                    let visible = self.visible(inner);
                    self.high_watermark.store(visible.0, Ordering::Release);
                    self.release_acks(inner);
                    wake(inner.fetches.release(FetchPosition::HighWatermark, visible));
                }
                Effect::ProposeAlterPartition(proposal) => out.push(Outgoing::Propose(proposal)),
            }
        }
    }

    /// The epoch cache could not be written or cut: whatever the reason, this replica may not serve.
    fn refuse_service(&self, inner: &mut Inner, error: &LogError, now: u64, out: &mut Vec<Outgoing>) {
        tracing::error!(partition = %self.tp, %error, "partition stops");
        let effects = inner.replica.fence_after_io_error();
        self.run(inner, effects, now, out);
    }

    pub(super) fn publish(&self, inner: &Inner) {
        self.high_watermark.store(self.visible(inner).0, Ordering::Release);
        self.log_end.store(inner.replica.log_end().0, Ordering::Release);
        self.log_start.store(inner.replica.log_start().0, Ordering::Release);
    }

    /// Takes a committed state over.
    pub(super) fn apply(
        &self,
        state: &PartitionState,
        broker: impl Fn(NodeId) -> Option<BrokerStatus>,
        out: &mut Vec<Outgoing>,
    ) {
        let now = mono_ms();
        let mut inner = self.inner.lock();
        let effects = inner.replica.apply_metadata(state, broker, now);
        self.run(&mut inner, effects, now, out);
        self.publish(&inner);
    }

    /// Takes a changed view of the brokers over.
    pub(super) fn apply_brokers(&self, broker: impl Fn(NodeId) -> Option<BrokerStatus>, out: &mut Vec<Outgoing>) {
        let now = mono_ms();
        let mut inner = self.inner.lock();
        let effects = inner.replica.apply_brokers(broker, now);
        self.run(&mut inner, effects, now, out);
        self.publish(&inner);
    }

    /// Takes changed settings over.
    pub(super) fn apply_config(
        &self,
        log: LogConfig,
        replica: ReplicaConfig,
        deletes_old: bool,
        out: &mut Vec<Outgoing>,
    ) {
        let now = mono_ms();
        let mut inner = self.inner.lock();
        inner.log.set_config(log);
        inner.deletes_old = deletes_old;
        let effects = inner.replica.apply_config(replica, now);
        self.run(&mut inner, effects, now, out);
        self.publish(&inner);
    }

    pub(super) fn set_broker_epoch(&self, epoch: BrokerEpoch) {
        self.inner.lock().replica.set_broker_epoch(epoch);
    }

    /// Repeats and shrinks what is due.
    pub(super) fn tick(&self, out: &mut Vec<Outgoing>) {
        let now = mono_ms();
        let mut inner = self.inner.lock();
        if !inner.replica.is_leader() {
            return;
        }
        let effects = inner.replica.tick(now);
        for ticket in inner.acks.expire(now).into_iter().chain(inner.syncs.expire(now)) {
            ticket.complete(ErrorCode::RequestTimedOut);
        }
        wake(inner.fetches.expire(now));
        self.run(&mut inner, effects, now, out);
        self.publish(&inner);
    }

    /// The outcome of a proposal.
    pub(super) fn on_alter_result(
        &self,
        proposal: &IsrProposal,
        outcome: Result<PartitionState, ErrorCode>,
        out: &mut Vec<Outgoing>,
    ) {
        let now = mono_ms();
        let mut inner = self.inner.lock();
        let effects = inner.replica.on_alter_partition_result(proposal, outcome, now);
        self.run(&mut inner, effects, now, out);
        self.publish(&inner);
    }

    /// What to ask the leader next. The fetch offset acknowledges all below it, so with durable acks there is nothing
    /// to ask before that is synced.
    pub(super) fn follower_request(&self) -> Option<FollowerRequest> {
        let inner = self.inner.lock();
        let request = inner.replica.follower_fetch_request()?;
        (self.durable(&inner) >= request.fetch_offset).then_some(request)
    }

    /// The leader's answer: appends, truncates, or says what else to do. What is returned is left to the fetcher.
    pub(super) fn on_fetched(&self, reply: &FetchReply, records: &Bytes, out: &mut Vec<Outgoing>) -> FollowerAction {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let log = &inner.log;
        let action = inner.replica.on_fetch_response(reply, |epoch| epoch_end(log, epoch));
        self.follow(inner, action, records, out)
    }

    /// The leader's earliest and latest offset.
    pub(super) fn on_leader_offsets(
        &self,
        request_epoch: LeaderEpoch,
        earliest: Offset,
        latest: Offset,
        out: &mut Vec<Outgoing>,
    ) -> FollowerAction {
        let mut inner = self.inner.lock();
        let action = inner.replica.on_leader_offsets(request_epoch, earliest, latest);
        self.follow(&mut inner, action, &Bytes::new(), out)
    }

    fn follow(
        &self,
        inner: &mut Inner,
        action: FollowerAction,
        records: &Bytes,
        out: &mut Vec<Outgoing>,
    ) -> FollowerAction {
        let done = match action {
            FollowerAction::Append(marks) => {
                let before = inner.log.log_end();
                let appended = if records.is_empty() { Ok(before) } else { inner.log.append_as_follower(records) };
                appended.and_then(|end| {
                    let epoch = if end > before { inner.log.latest_epoch() } else { None };
                    let progress = inner.replica.on_follower_append(end, epoch, marks);
                    if let Some(log_start) = progress.log_start {
                        inner.log.set_log_start_offset(log_start)?;
                    }
                    if progress.advanced {
                        let position = progress.high_watermark;
                        wake(inner.fetches.release(FetchPosition::HighWatermark, position));
                    }
                    if end > before {
                        self.register_flush(inner);
                    }
                    Ok(())
                })
            }
            FollowerAction::Truncate { to } => {
                tracing::info!(partition = %self.tp, from = %inner.log.log_end(), %to, "truncates to what the leader has");
                inner.log.truncate_to(to).map(|end| {
                    inner.replica.on_truncated(inner.log.log_start(), end, inner.log.latest_epoch());
                })
            }
            FollowerAction::ResetTo { offset } => {
                tracing::warn!(partition = %self.tp, from = %inner.log.log_end(), to = %offset, "starts its log anew");
                inner.log.truncate_fully_and_start_at(offset).map(|()| {
                    inner.replica.on_truncated(offset, offset, None);
                })
            }
            FollowerAction::AskLeaderOffsets
            | FollowerAction::Drop
            | FollowerAction::Retry(_)
            | FollowerAction::AwaitMetadata(_) => Ok(()),
        };
        self.publish(inner);
        match done {
            Ok(()) => action,
            Err(error) => {
                self.after_error(inner, &error, out);
                if error.code() != ErrorCode::KafkaStorageError {
                    tracing::warn!(partition = %self.tp, %error, "records of the leader refused");
                }
                FollowerAction::Retry(error.code())
            }
        }
    }

    /// Reads whole batches below `bound`, regardless of the high watermark: for the broker's own topics.
    ///
    /// # Errors
    /// Kafka's code for what the log says.
    pub(super) fn read_log(&self, from: Offset, max_bytes: usize, bound: Offset) -> Result<Bytes, ErrorCode> {
        let plan = self.inner.lock().log.read(from, max_bytes, bound, true).map_err(|error| error.code())?;
        plan.read().map_err(|error| {
            tracing::error!(partition = %self.tp, %error, "read failed");
            ErrorCode::KafkaStorageError
        })
    }

    /// Whether everything appended is synced; always true without durable acks.
    pub(super) fn is_synced(&self) -> bool {
        let inner = self.inner.lock();
        self.durable(&inner) >= inner.log.log_end()
    }

    /// The partition is deleted or moved away: nobody is served any more.
    pub(super) fn end_service(&self) {
        let mut inner = self.inner.lock();
        let Some(mut state) = inner.replica.committed().cloned() else { return };
        state.replicas.clear();
        state.isr.clear();
        state.leader = None;
        state.leader_epoch.0 += 1;
        state.partition_epoch.0 += 1;
        let now = mono_ms();
        let effects = inner.replica.apply_metadata(&state, |_| None, now);
        self.run(&mut inner, effects, now, &mut Vec::new());
        for ticket in inner.acks.fail_all() {
            ticket.complete(ErrorCode::UnknownTopicOrPartition);
        }
        wake(inner.fetches.fail_all());
    }
}

pub(super) fn wake(waiting: Vec<Arc<FetchWait>>) {
    for wait in waiting {
        wait.wake();
    }
}

/// Where `epoch` ends in this log, as `chronik-core` wants to know it.
pub(super) fn epoch_end(log: &PartitionLog, epoch: LeaderEpoch) -> Option<EpochEnd> {
    if let Some(end) = log.epoch_end_offset(epoch) {
        return Some(EpochEnd { epoch: end.epoch, end_offset: end.end_offset });
    }
    // Older than everything known here: it can only have ended where the first known epoch begins.
    log.epochs().first().map(|first| EpochEnd { epoch, end_offset: first.start_offset })
}
