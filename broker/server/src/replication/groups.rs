//! Group coordinators on the led partitions of `__consumer_offsets`.
//!
//! The manager reports each change of role of such a partition; a new leadership makes a [`Shard`] whose task loads the
//! coordinator from the log and then serves its timers and finished appends. Requests go to the shard of the group under
//! its lock: decide, append, reply, in the order of the effects. Lock order: shard, then partition; what an append asks
//! of the manager is delivered after the shard's lock is released.
//!
//! What never happens: a reply that depends on a record leaves before the record is on all in-sync replicas; a shard of
//! an old leader epoch appends under a new one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chronik_core::group::{Effect, GroupCoordinator, GroupResponse, ListGroupsRequest, Now, Ticket, partition_for};
use chronik_log::{AppendOrigin, split_batches};
use chronik_model::batch::BatchBuilder;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName};
use chronik_node::partition::Outgoing;
use chronik_wire::records::BatchRecords;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot};

use super::partition::Partition;
use super::status::GroupShardStatus;
use super::waiters::AckWait;
use super::{OFFSETS_TOPIC, ReplicaManager, mono_ms, now, wall_ms};

/// `offsets.commit.timeout.ms`.
const APPEND_TIMEOUT_MS: u64 = 5_000;
/// Bytes read at once while loading.
const LOAD_CHUNK: usize = 1024 * 1024;
/// Decompressed bytes of one batch while loading; what we wrote is not compressed at all.
const MAX_BATCH: usize = 64 * 1024 * 1024;

type Token = oneshot::Sender<GroupResponse>;
type Coordinator = GroupCoordinator<Token>;

struct State {
    coordinator: Coordinator,
    /// Appends that wait for the high watermark, oldest first.
    appends: VecDeque<(Ticket, Arc<AckWait>)>,
    /// Topics that were deleted while this was loading.
    deleted: Vec<TopicName>,
}

struct Shard {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    state: Mutex<State>,
    loading: AtomicBool,
    ended: AtomicBool,
    /// Woken by a new append, an earlier deadline, or the end.
    changed: Notify,
    /// When the task looks at the clock next.
    sleeps_until: AtomicU64,
}

/// See the module documentation.
#[allow(missing_debug_implementations)]
pub struct Groups {
    manager: Arc<ReplicaManager>,
    shards: RwLock<HashMap<PartitionIndex, Arc<Shard>>>,
}

impl Groups {
    /// The coordinators of this broker; make it before [`ReplicaManager::reconcile_all`].
    #[must_use]
    pub fn new(manager: &Arc<ReplicaManager>) -> Arc<Self> {
        let groups = Arc::new(Self { manager: Arc::clone(manager), shards: RwLock::default() });
        manager.set_groups(&groups);
        groups
    }

    /// Runs an operation that is answered through a token.
    ///
    /// # Errors
    /// `InvalidGroupId`, `CoordinatorNotAvailable` or `NotCoordinator`.
    pub(crate) fn ask(
        &self,
        group_id: &str,
        operation: impl FnOnce(&mut Coordinator, Now, Token) -> Vec<Effect<Token>>,
    ) -> Result<oneshot::Receiver<GroupResponse>, ErrorCode> {
        let shard = self.shard_of(group_id)?;
        let (token, answer) = oneshot::channel();
        let out = {
            let mut state = shard.state.lock();
            let effects = operation(&mut state.coordinator, now(), token);
            shard.run(&mut state, effects)
        };
        self.manager.deliver(&shard.partition, out);
        Ok(answer)
    }

    /// Runs an operation that is answered at once.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) fn query<R>(
        &self,
        group_id: &str,
        operation: impl FnOnce(&mut Coordinator, Now) -> R,
    ) -> Result<R, ErrorCode> {
        let shard = self.shard_of(group_id)?;
        let mut state = shard.state.lock();
        Ok(operation(&mut state.coordinator, now()))
    }

    /// Runs an operation on every coordinator of this broker.
    pub(crate) fn each<R>(&self, operation: impl Fn(&Coordinator) -> R) -> Vec<R> {
        let shards: Vec<_> = self.shards.read().values().cloned().collect();
        shards.iter().map(|shard| operation(&shard.state.lock().coordinator)).collect()
    }

    fn shard_of(&self, group_id: &str) -> Result<Arc<Shard>, ErrorCode> {
        let count = {
            let state = self.manager.meta.state();
            state.topic(OFFSETS_TOPIC).map(|topic| i32::try_from(topic.partitions.len()).unwrap_or(0))
        };
        let partition = count.and_then(|count| partition_for(group_id, count));
        let partition = partition.ok_or(ErrorCode::CoordinatorNotAvailable)?;
        self.shards.read().get(&PartitionIndex(partition)).cloned().ok_or(ErrorCode::NotCoordinator)
    }

    /// A partition of the topic of groups may lead, or not lead, or lead another epoch now.
    pub(super) fn on_role(self: &Arc<Self>, partition: &Arc<Partition>) {
        let index = partition.tp.partition;
        let (old, new) = {
            let mut shards = self.shards.write();
            // Looked up under the lock: of two changes told at once, the later one must not be overwritten by the earlier.
            let led = partition.led_epoch().filter(|_| self.manager.partition(&partition.tp).is_some());
            if shards.get(&index).map(|shard| shard.epoch) == led {
                return;
            }
            let old = shards.remove(&index);
            let new = led.map(|epoch| {
                let shard = Arc::new(Shard {
                    partition: Arc::clone(partition),
                    epoch,
                    state: Mutex::new(State {
                        coordinator: GroupCoordinator::new(self.manager.config.groups.clone()),
                        appends: VecDeque::new(),
                        deleted: Vec::new(),
                    }),
                    loading: AtomicBool::new(true),
                    ended: AtomicBool::new(false),
                    changed: Notify::new(),
                    sleeps_until: AtomicU64::new(0),
                });
                shards.insert(index, Arc::clone(&shard));
                shard
            });
            (old, new)
        };
        if let Some(old) = old {
            old.end();
        }
        if let Some(shard) = new {
            self.manager.runtime.spawn(serve(Arc::clone(&self.manager), shard));
        }
    }

    /// A topic was deleted: what groups committed for it is dropped, so that a new topic of the name is read from its
    /// beginning.
    pub(super) fn on_topic_deleted(&self, name: &TopicName) {
        let shards: Vec<_> = self.shards.read().values().cloned().collect();
        for shard in shards {
            shard.step(&self.manager, |state| {
                if shard.loading.load(Ordering::Acquire) {
                    state.deleted.push(name.clone());
                    return Vec::new();
                }
                state.coordinator.topic_deleted(now(), std::slice::from_ref(name))
            });
        }
    }

    /// The state for the status page.
    #[must_use]
    pub fn status(&self) -> Vec<GroupShardStatus> {
        let shards: Vec<_> = self.shards.read().values().cloned().collect();
        let mut status: Vec<_> = shards
            .iter()
            .map(|shard| GroupShardStatus {
                partition: shard.partition.tp.partition.0,
                leader_epoch: shard.epoch.0,
                loading: shard.loading.load(Ordering::Acquire),
                groups: shard.state.lock().coordinator.list_groups(&ListGroupsRequest::default()).groups.len(),
            })
            .collect();
        status.sort_by_key(|shard| shard.partition);
        status
    }
}

impl Shard {
    /// Carries effects out in order. What an append asks of the manager is returned, to be delivered without the lock.
    fn run(&self, state: &mut State, effects: Vec<Effect<Token>>) -> Vec<Outgoing> {
        let mut out = Vec::new();
        let mut left = VecDeque::from(effects);
        while let Some(effect) = left.pop_front() {
            match effect {
                // A client that is gone needs no answer.
                Effect::Reply { token, response } => drop(token.send(response)),
                Effect::Append { ticket, records } => {
                    let mut batch = BatchBuilder::new(wall_ms());
                    for record in &records {
                        batch.push(Some(&record.key), record.value.as_deref());
                    }
                    let wait = Arc::new(AckWait::default());
                    let parked = Some((&wait, 0, mono_ms() + APPEND_TIMEOUT_MS));
                    let origin = AppendOrigin::Coordinator;
                    let appended =
                        self.partition.append(&[batch.build()], -1, origin, Some(self.epoch), parked, &mut out);
                    let result = match appended {
                        Ok(outcome) if outcome.waits => {
                            state.appends.push_back((ticket, wait));
                            self.changed.notify_one();
                            continue;
                        }
                        Ok(_) => Ok(()),
                        Err((code, message)) => {
                            tracing::debug!(partition = %self.partition.tp, message, "group record not written");
                            Err(code)
                        }
                    };
                    // What follows from it comes before what was to come after it.
                    for effect in state.coordinator.append_done(now(), ticket, result).into_iter().rev() {
                        left.push_front(effect);
                    }
                }
            }
        }
        if state.coordinator.next_deadline().unwrap_or(u64::MAX) < self.sleeps_until.load(Ordering::Acquire) {
            self.changed.notify_one();
        }
        out
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_one();
        let mut state = self.state.lock();
        let effects = state.coordinator.unload();
        state.appends.clear();
        for effect in effects {
            if let Effect::Reply { token, response } = effect {
                drop(token.send(response));
            }
        }
    }

    /// Replays the partition into the coordinator. Runs on the blocking pool.
    fn load(&self) -> Result<u64, ErrorCode> {
        let end = self.partition.log_end();
        let mut from = self.partition.log_start();
        let mut count = 0;
        while from < end && !self.ended.load(Ordering::Acquire) {
            let records = self.partition.read_log(from, LOAD_CHUNK, end)?;
            let batches = split_batches(&records).map_err(|error| error.code())?;
            let before = from;
            for batch in &batches {
                let opened = BatchRecords::open(batch, MAX_BATCH).map_err(|error| {
                    tracing::error!(partition = %self.partition.tp, offset = %from, %error, "group batch skipped");
                    ErrorCode::CorruptMessage
                });
                let Ok(opened) = opened else { continue };
                from = Offset(opened.header.next_offset().0.max(from.0));
                if opened.header.is_control() {
                    continue;
                }
                let mut state = self.state.lock();
                for record in opened.records().map_while(Result::ok) {
                    count += 1;
                    if let Err(error) = state.coordinator.load_record(record.key.unwrap_or_default(), record.value) {
                        tracing::warn!(partition = %self.partition.tp, %error, "group record skipped");
                    }
                }
            }
            if from == before {
                return Err(ErrorCode::CorruptMessage);
            }
        }
        Ok(count)
    }
}

/// Loads a shard and serves its clock and its appends until its leadership ends.
async fn serve(manager: Arc<ReplicaManager>, shard: Arc<Shard>) {
    let loader = Arc::clone(&shard);
    match tokio::task::spawn_blocking(move || loader.load()).await {
        Ok(Ok(records)) => {
            tracing::info!(partition = %shard.partition.tp, epoch = %shard.epoch, records, "groups loaded");
        }
        // Serving without part of the offsets would make consumers start over: stay "loading", for people to see.
        Ok(Err(error)) => {
            tracing::error!(partition = %shard.partition.tp, %error, "groups cannot be loaded");
            return;
        }
        Err(error) => {
            tracing::error!(partition = %shard.partition.tp, %error, "groups cannot be loaded");
            return;
        }
    }
    if shard.ended.load(Ordering::Acquire) {
        return;
    }
    shard.step(&manager, |state| {
        let mut effects = state.coordinator.finish_load(now());
        // Deletions that were committed while nobody led this partition, or while it was loading.
        let mut gone = std::mem::take(&mut state.deleted);
        {
            let metadata = manager.meta.state();
            let topics = state.coordinator.committed_topics().into_iter();
            gone.extend(topics.filter(|name| metadata.topic(name.as_str()).is_none()));
        }
        if !gone.is_empty() {
            effects.extend(state.coordinator.topic_deleted(now(), &gone));
        }
        shard.loading.store(false, Ordering::Release);
        effects
    });
    let mut stop = manager.stop.subscribe();
    while !shard.ended.load(Ordering::Acquire) {
        let (deadline, oldest) = {
            let state = shard.state.lock();
            (state.coordinator.next_deadline(), state.appends.front().map(|(_, wait)| Arc::clone(wait)))
        };
        shard.sleeps_until.store(deadline.unwrap_or(u64::MAX), Ordering::Release);
        let pause = Duration::from_millis(deadline.map_or(0, |at| at.saturating_sub(mono_ms())));
        tokio::select! {
            () = shard.changed.notified() => {}
            () = tokio::time::sleep(pause), if deadline.is_some() => {
                shard.step(&manager, |state| state.coordinator.tick(now()));
            }
            () = acknowledged(oldest.clone()), if oldest.is_some() => {
                shard.step(&manager, |state| {
                    let Some((ticket, wait)) = state.appends.pop_front() else { return Vec::new() };
                    let error = wait.results().first().map_or(ErrorCode::UnknownServerError, |(_, error)| *error);
                    let result = if error.is_none() { Ok(()) } else { Err(error) };
                    state.coordinator.append_done(now(), ticket, result)
                });
            }
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

impl Shard {
    fn step(&self, manager: &Arc<ReplicaManager>, operation: impl FnOnce(&mut State) -> Vec<Effect<Token>>) {
        let out = {
            let mut state = self.state.lock();
            let effects = operation(&mut state);
            self.run(&mut state, effects)
        };
        manager.deliver(&self.partition, out);
    }
}

async fn acknowledged(wait: Option<Arc<AckWait>>) {
    if let Some(wait) = wait {
        wait.all().await;
    }
}
