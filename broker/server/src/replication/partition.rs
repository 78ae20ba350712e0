//! One hosted partition under one short lock, with what the server adds: clocks, the committer, waiting requests.
//!
//! What happens with the lock held is `chronik-node`'s [`HostedPartition`]. Every function here takes the lock, calls it
//! with the time, and hands what has to be synced to the committer before the lock is free again; what concerns others
//! (a proposal, a changed role) is returned as [`Outgoing`] for the manager to deliver without the lock. Called from
//! connection tasks (append, read), fetcher tasks (follower functions), the metadata thread (apply) and the maintenance
//! task.

use std::sync::Arc;

use bytes::Bytes;
use chronik_core::PartitionState;
use chronik_core::partition::{BrokerStatus, FetchReply, FollowerAction, FollowerRequest, IsrProposal};
use chronik_log::{AppendOrigin, Committer, FlushPlan, LogError};
use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};
use chronik_node::partition::{Append, AppendOutcome, HostedPartition, Outgoing, Published, Refusal};
use chronik_node::settings::Settings;
use chronik_node::storage::Checkpoints;
use parking_lot::{Mutex, MutexGuard};

use super::throttle::Listed;
use super::waiters::{AckTicket, AckWait, FetchWait};
use super::{mono_ms, now};

pub(super) type Hosted = HostedPartition<AckTicket, Arc<FetchWait>>;

/// What a broker is to a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Membership {
    /// Holds every acknowledged record.
    pub(super) in_sync: bool,
    /// A reassignment adds it.
    pub(super) being_added: bool,
}

/// See the module documentation.
#[allow(missing_debug_implementations)]
pub struct Partition {
    /// Topic and index.
    pub tp: TopicPartition,
    /// Identity of the topic.
    pub topic_id: TopicId,
    hosted: Mutex<Hosted>,
    published: Arc<Published>,
    /// What its topic says about copying it.
    pub(super) listed: Listed,
    /// With durable acks.
    committer: Option<Arc<Committer>>,
    /// Nudges the committer's thread.
    wake_committer: Arc<dyn Fn() + Send + Sync>,
}

impl Partition {
    pub(super) fn new(
        mut hosted: Hosted,
        committer: Option<Arc<Committer>>,
        wake_committer: Arc<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        // What an earlier run left is wanted on disk at once.
        let found = hosted.take_flush();
        let partition = Self {
            tp: hosted.tp().clone(),
            topic_id: hosted.topic_id(),
            published: Arc::clone(hosted.published()),
            hosted: Mutex::new(hosted),
            listed: Listed::default(),
            committer,
            wake_committer,
        };
        partition.register(found);
        Arc::new(partition)
    }

    /// The partition itself, to ask; what changes it has a function of its own.
    pub(super) fn lock(&self) -> MutexGuard<'_, Hosted> {
        self.hosted.lock()
    }

    /// Registered under the lock: of two plans the committer keeps the one that came last, which must be the later one.
    fn register_flush(&self, hosted: &mut Hosted) {
        self.register(hosted.take_flush());
    }

    fn register(&self, plan: Option<FlushPlan>) {
        if let Some(plan) = plan
            && let Some(committer) = &self.committer
            && committer.register(self.tp.clone(), plan)
        {
            (self.wake_committer)();
        }
    }

    /// The high watermark, without the lock.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.published.high_watermark()
    }

    /// The log end offset, without the lock.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.published.log_end()
    }

    /// The log start offset, without the lock.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.published.log_start()
    }

    /// Leader and leader epoch as this replica knows them, for hints to clients (KIP-951).
    #[must_use]
    pub fn leader(&self) -> (Option<NodeId>, LeaderEpoch) {
        let hosted = self.lock();
        (hosted.replica().leader(), hosted.replica().leader_epoch())
    }

    /// The epoch under which this broker leads, if it does.
    #[must_use]
    pub fn led_epoch(&self) -> Option<LeaderEpoch> {
        self.lock().led_epoch()
    }

    /// Whom this replica pulls from, if it follows.
    pub(super) fn following(&self) -> Option<NodeId> {
        self.lock().following()
    }

    /// What `node` is to the partition by the committed state; `None` before there is one.
    pub(super) fn membership(&self, node: NodeId) -> Option<Membership> {
        let hosted = self.lock();
        let state = hosted.replica().committed()?;
        Some(Membership { in_sync: state.isr.contains(&node), being_added: state.adding.contains(&node) })
    }

    /// Appends whole batches as leader, `only_epoch` if given. `wait` gets a ticket unless the outcome is known at once.
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
    ) -> Result<AppendOutcome, Refusal> {
        let request = Append { batches, acks, origin, only_epoch };
        let ticket = |required| wait.map(|(wait, index, deadline_ms)| (deadline_ms, wait.ticket(index, required)));
        let mut hosted = self.lock();
        let appended = hosted.append(&request, ticket, now(), out);
        self.register_flush(&mut hosted);
        appended
    }

    /// What a coordinator of `epoch` waits with until all below `end` is committed.
    pub(super) fn await_committed(&self, epoch: LeaderEpoch, end: Offset) -> Arc<AckWait> {
        let wait = Arc::new(AckWait::default());
        let ticket = wait.ticket(0, end);
        self.lock().await_committed(epoch, ticket);
        wait
    }

    /// A round of the committer covered this partition.
    pub(super) fn on_flushed(&self, plan: &FlushPlan) {
        self.lock().on_flushed(plan);
    }

    /// Makes what is in the log now durable. The lock is free while the disk works, so that nobody waits for it.
    pub(super) fn sync_now(&self, out: &mut Vec<Outgoing>) {
        let Some(plan) = self.lock().prepare_flush() else { return };
        match plan.run() {
            Ok(()) => self.on_flushed(&plan),
            Err(error) => self.lock().on_flush_failed(&error, out),
        }
    }

    /// Makes the log durable if it began a new segment since the last time.
    pub(super) fn sync_if_rolled(&self) -> Result<(), LogError> {
        let plan = self.lock().flush_if_rolled();
        if let Some(plan) = plan {
            plan.run()?;
            self.on_flushed(&plan);
        }
        Ok(())
    }

    /// The log directory went offline.
    pub(super) fn fence(&self, out: &mut Vec<Outgoing>) {
        self.lock().fence(out);
    }

    /// Takes a committed state over.
    pub(super) fn apply(
        &self,
        state: &PartitionState,
        broker: impl Fn(NodeId) -> Option<BrokerStatus>,
        out: &mut Vec<Outgoing>,
    ) {
        let mut hosted = self.lock();
        hosted.apply(state, broker, mono_ms(), out);
        // One that leads now may have what is not synced, and not only after a truncation: what was found is synced at
        // once, maybe before the committer finds this partition among those that it can tell.
        self.register_flush(&mut hosted);
    }

    /// Takes a changed view of the brokers over.
    pub(super) fn apply_brokers(&self, broker: impl Fn(NodeId) -> Option<BrokerStatus>, out: &mut Vec<Outgoing>) {
        self.lock().apply_brokers(broker, mono_ms(), out);
    }

    /// Takes changed settings over.
    pub(super) fn apply_config(&self, settings: Settings, out: &mut Vec<Outgoing>) {
        self.lock().apply_config(settings, mono_ms(), out);
    }

    pub(super) fn set_broker_epoch(&self, epoch: BrokerEpoch) {
        self.lock().set_broker_epoch(epoch);
    }

    /// Repeats and shrinks what is due.
    pub(super) fn tick(&self, out: &mut Vec<Outgoing>) {
        self.lock().tick(mono_ms(), out);
    }

    /// Deletes what the retention settings do not keep.
    pub(super) fn retain(&self, out: &mut Vec<Outgoing>) {
        self.lock().retain(now(), out);
    }

    /// Takes down where the partition is now.
    pub(super) fn checkpoint(&self, checkpoints: &mut Checkpoints) {
        checkpoints.note(&self.lock());
    }

    /// Ends appends, and makes all of it durable.
    pub(super) fn settle(&self) -> Result<(), LogError> {
        self.lock().settle()
    }

    /// The outcome of a proposal.
    pub(super) fn on_alter_result(
        &self,
        proposal: &IsrProposal,
        outcome: Result<PartitionState, ErrorCode>,
        out: &mut Vec<Outgoing>,
    ) {
        self.lock().on_alter_result(proposal, outcome, mono_ms(), out);
    }

    /// What to ask the leader next, if it may be asked already.
    pub(super) fn follower_request(&self) -> Option<FollowerRequest> {
        self.lock().follower_request()
    }

    /// The leader's answer: appends, truncates, or says what else to do. What is returned is left to the fetcher.
    pub(super) fn on_fetched(&self, reply: &FetchReply, records: &Bytes, out: &mut Vec<Outgoing>) -> FollowerAction {
        let mut hosted = self.lock();
        let action = hosted.on_fetched(reply, records, out);
        self.register_flush(&mut hosted);
        action
    }

    /// The leader's earliest and latest offset.
    pub(super) fn on_leader_offsets(
        &self,
        request_epoch: LeaderEpoch,
        earliest: Offset,
        latest: Offset,
        out: &mut Vec<Outgoing>,
    ) -> FollowerAction {
        self.lock().on_leader_offsets(request_epoch, earliest, latest, out)
    }

    /// Reads whole batches below `bound`, regardless of the high watermark: for the broker's own topics.
    ///
    /// # Errors
    /// Kafka's code for what the log says.
    pub(super) fn read_log(&self, from: Offset, max_bytes: usize, bound: Offset) -> Result<Bytes, ErrorCode> {
        let plan = self.lock().plan_log(from, max_bytes, bound)?;
        plan.read().map_err(|error| {
            tracing::error!(partition = %self.tp, %error, "read failed");
            ErrorCode::KafkaStorageError
        })
    }

    /// Whether everything appended is synced; always true without durable acks.
    pub(super) fn is_synced(&self) -> bool {
        self.lock().is_synced()
    }

    /// The partition is deleted or moved away: nobody is served any more.
    pub(super) fn end_service(&self) {
        self.lock().end_service(mono_ms());
    }
}

#[cfg(test)]
mod tests {
    use chronik_core::partition::ReplicaConfig;
    use chronik_core::{LeaderRecovery, PartitionState};
    use chronik_log::disk::MemDisk;
    use chronik_log::{LogConfig, LogDir};
    use chronik_model::batch::BatchBuilder;
    use chronik_model::{PartitionEpoch, Uuid};
    use chronik_node::partition::{Durability, Parts};
    use chronik_node::storage;

    use super::*;

    const TOPIC: TopicId = Uuid([7; 16]);

    fn open(log_dir: &Arc<LogDir>, committer: &Arc<Committer>) -> Arc<Partition> {
        let settings = Settings {
            log: LogConfig::default(),
            replica: ReplicaConfig { min_insync_replicas: Some(1), ..ReplicaConfig::default() },
            deletes_old: true,
        };
        let (tp, mut checkpoints) = (TopicPartition::new("t", 0), Checkpoints::default());
        let opened = storage::open(log_dir, &tp, TOPIC, settings.log, false, &mut checkpoints, 1_000);
        let storage::Opened { log, high_watermark, created_ms } = opened.unwrap();
        let hosted = HostedPartition::new(Parts {
            tp,
            topic_id: TOPIC,
            me: NodeId(1),
            broker_epoch: BrokerEpoch(1),
            log,
            high_watermark,
            created_ms,
            settings,
            durability: Durability::EveryAck,
            max_waiters: 10,
        });
        Partition::new(hosted, Some(Arc::clone(committer)), Arc::new(|| ()))
    }

    fn lead(partition: &Partition) {
        let state = PartitionState {
            replicas: vec![NodeId(1)],
            isr: vec![NodeId(1)],
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            reports: Vec::new(),
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            recovery: LeaderRecovery::Recovered,
            adding: Vec::new(),
            removing: Vec::new(),
        };
        partition.apply(&state, |_| None, &mut Vec::new());
    }

    #[test]
    fn what_an_earlier_run_left_is_shown_though_the_committer_was_done_before_the_partition_could_be_told() {
        let log_dir = LogDir::new(Arc::new(MemDisk::new()));
        let committer = Arc::new(Committer::new(Arc::clone(&log_dir)));
        let earlier = open(&log_dir, &committer);
        lead(&earlier);
        let mut batch = BatchBuilder::new(1_000);
        batch.push(None, Some(b"a"));
        earlier.append(&[batch.build()], 1, AppendOrigin::Client, None, None, &mut Vec::new()).unwrap();
        drop(earlier);

        let partition = open(&log_dir, &committer);
        assert_eq!(committer.run_once().unwrap().len(), 1, "synced, and nobody is told");
        lead(&partition);
        assert_eq!((partition.high_watermark(), partition.log_end()), (Offset(0), Offset(1)));
        for committed in committer.run_once().unwrap() {
            partition.on_flushed(&committed.plan);
        }
        assert_eq!(partition.high_watermark(), Offset(1));
    }
}
