//! Group coordinators on the led partitions of `__consumer_offsets`.
//!
//! The manager reports each change of role of such a partition; a new leadership makes a [`Shard`] whose task loads the
//! coordinator from the log, waits until what it loaded is committed, and then serves its timers and finished appends. Requests go to the shard of the group under
//! its lock: decide, append, reply, in the order of the effects. Lock order: shard, then partition; what an append asks
//! of the manager is delivered after the shard's lock is released.
//!
//! What never happens: a reply that depends on a record leaves before the record is on all in-sync replicas; a shard of
//! an old leader epoch appends under a new one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use chronik_core::group::{Effect, GroupCoordinator, GroupResponse, ListGroupsRequest, Now, Ticket, partition_for};
use chronik_log::AppendOrigin;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName};
use chronik_node::groups::{APPEND_TIMEOUT_MS, GroupHost, GroupShard, LOAD_CHUNK, Loader};
use chronik_node::partition::Outgoing;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot, watch};

use super::partition::Partition;
use super::status::GroupShardStatus;
use super::waiters::AckWait;
use super::{OFFSETS_TOPIC, ReplicaManager, mono_ms, now};

type Token = oneshot::Sender<GroupResponse>;
type Coordinator = GroupCoordinator<Token>;

struct State {
    group: GroupShard<Token>,
    /// Appends that wait for the high watermark, oldest first.
    appends: VecDeque<(Ticket, Arc<AckWait>)>,
}

struct Shard {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    state: Mutex<State>,
    ended: AtomicBool,
    /// Why it cannot be loaded, if so.
    failed: OnceLock<String>,
    /// Woken by a new append, an earlier deadline, or the end.
    changed: Notify,
    /// When the task looks at the clock next.
    sleeps_until: AtomicU64,
}

/// The group's way to its partition, while its shard is locked.
struct Host<'a> {
    shard: &'a Shard,
    appends: &'a mut VecDeque<(Ticket, Arc<AckWait>)>,
    out: Vec<Outgoing>,
}

impl GroupHost<Token> for Host<'_> {
    fn append(&mut self, now: Now, epoch: LeaderEpoch, ticket: Ticket, batch: Bytes) -> Result<bool, ErrorCode> {
        let Self { shard, appends, out } = self;
        let wait = Arc::new(AckWait::default());
        let parked = Some((&wait, 0, now.mono_ms + APPEND_TIMEOUT_MS));
        match shard.partition.append(&[batch], -1, AppendOrigin::Coordinator, Some(epoch), parked, out) {
            Ok(outcome) => {
                if outcome.waits {
                    appends.push_back((ticket, wait));
                    shard.changed.notify_one();
                }
                Ok(outcome.waits)
            }
            Err((code, message)) => {
                tracing::debug!(partition = %shard.partition.tp, message, "group record not written");
                Err(code)
            }
        }
    }

    fn reply(&mut self, token: Token, response: GroupResponse) {
        // A client that is gone needs no answer.
        drop(token.send(response));
    }
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
        shard.step(&self.manager, |group, host| {
            group.ask(host, now(), |coordinator, now| operation(coordinator, now, token));
        });
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
        Ok(state.group.query(now(), operation))
    }

    /// Runs an operation on every coordinator of this broker.
    pub(crate) fn each<R>(&self, operation: impl Fn(&Coordinator) -> R) -> Vec<R> {
        let shards: Vec<_> = self.shards.read().values().cloned().collect();
        shards.iter().map(|shard| operation(shard.state.lock().group.coordinator())).collect()
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
                        group: GroupShard::new(epoch, self.manager.config.groups.clone()),
                        appends: VecDeque::new(),
                    }),
                    ended: AtomicBool::new(false),
                    failed: OnceLock::new(),
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
            shard.step(&self.manager, |group, host| group.on_topic_deleted(host, now(), name));
        }
    }

    /// The state for the status page.
    #[must_use]
    pub fn status(&self) -> Vec<GroupShardStatus> {
        let shards: Vec<_> = self.shards.read().values().cloned().collect();
        let mut status: Vec<_> = shards
            .iter()
            .map(|shard| {
                let group = &shard.state.lock().group;
                GroupShardStatus {
                    partition: shard.partition.tp.partition.0,
                    leader_epoch: shard.epoch.0,
                    loading: group.is_loading(),
                    failed: shard.failed.get().cloned(),
                    groups: group.coordinator().list_groups(&ListGroupsRequest::default()).groups.len(),
                }
            })
            .collect();
        status.sort_by_key(|shard| shard.partition);
        status
    }
}

impl Shard {
    /// Runs an operation under the lock, and delivers what its appends ask of the manager without it.
    fn step(&self, manager: &Arc<ReplicaManager>, operation: impl FnOnce(&mut GroupShard<Token>, &mut Host<'_>)) {
        let out = {
            let mut state = self.state.lock();
            let State { group, appends } = &mut *state;
            let mut host = Host { shard: self, appends, out: Vec::new() };
            operation(group, &mut host);
            let out = host.out;
            if group.next_deadline().unwrap_or(u64::MAX) < self.sleeps_until.load(Ordering::Acquire) {
                self.changed.notify_one();
            }
            out
        };
        manager.deliver(&self.partition, out);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_one();
        let mut state = self.state.lock();
        let State { group, appends } = &mut *state;
        appends.clear();
        group.end(&mut Host { shard: self, appends, out: Vec::new() });
    }

    /// It stays "loading", for people to see why.
    fn give_up(&self, problem: String) {
        tracing::error!(partition = %self.partition.tp, problem, "groups cannot be loaded");
        let _first = self.failed.set(problem);
    }

    /// Replays the partition into the coordinator; how many records up to where. Runs on the blocking pool.
    fn load(&self) -> Result<(u64, Offset), String> {
        let mut loader = Loader::new(self.partition.log_start(), self.partition.log_end());
        let mut count = 0;
        while let Some((from, end)) = loader.wanted()
            && !self.ended.load(Ordering::Acquire)
        {
            let read = self.partition.read_log(from, LOAD_CHUNK, end);
            let taken =
                read.and_then(|records| loader.take(&records, |batch| count += self.state.lock().group.replay(batch)));
            taken.map_err(|error| {
                let at = loader.wanted().map_or(from, |(at, _)| at);
                format!("the batch at offset {at} cannot be read: {}", error.text())
            })?;
        }
        Ok((count, loader.end()))
    }
}

/// Loads a shard and serves its clock and its appends until its leadership ends.
async fn serve(manager: Arc<ReplicaManager>, shard: Arc<Shard>) {
    let loader = Arc::clone(&shard);
    let (records, end) = match tokio::task::spawn_blocking(move || loader.load()).await {
        Ok(Ok(loaded)) => loaded,
        // Serving without part of the offsets would make consumers start over: stay "loading", for people to see.
        failed => {
            shard.give_up(failed.unwrap_or_else(|error| Err(error.to_string())).err().unwrap_or_default());
            return;
        }
    };
    let mut stop = manager.stop.subscribe();
    if !all_committed(&shard, end, &mut stop).await {
        return;
    }
    tracing::info!(partition = %shard.partition.tp, epoch = %shard.epoch, records, "groups loaded");
    shard.step(&manager, |group, host| {
        // Deletions from here on come through `on_topic_deleted`, after this.
        group.finish_load(host, now(), |name| manager.meta.state().topic(name.as_str()).is_some());
    });
    while !shard.ended.load(Ordering::Acquire) {
        let (deadline, oldest) = {
            let state = shard.state.lock();
            (state.group.next_deadline(), state.appends.front().map(|(_, wait)| Arc::clone(wait)))
        };
        shard.sleeps_until.store(deadline.unwrap_or(u64::MAX), Ordering::Release);
        let pause = Duration::from_millis(deadline.map_or(0, |at| at.saturating_sub(mono_ms())));
        tokio::select! {
            () = shard.changed.notified() => {}
            () = tokio::time::sleep(pause), if deadline.is_some() => {
                shard.step(&manager, |group, host| group.tick(host, now()));
            }
            () = acknowledged(oldest.clone()), if oldest.is_some() => {
                shard.step(&manager, |group, host| {
                    let Some((ticket, wait)) = host.appends.pop_front() else { return };
                    let error = wait.results().first().map_or(ErrorCode::UnknownServerError, |(_, error)| *error);
                    let result = if error.is_none() { Ok(()) } else { Err(error) };
                    group.on_appended(host, now(), ticket, result);
                });
            }
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Waits until all that was loaded is committed; false when the leadership, the disk or the broker ends first.
async fn all_committed(shard: &Shard, end: Offset, stop: &mut watch::Receiver<bool>) -> bool {
    let wait = shard.partition.await_committed(shard.epoch, end);
    if wait.results().is_empty() {
        tracing::info!(partition = %shard.partition.tp, %end, "groups wait until what was found is committed");
    }
    loop {
        tokio::select! {
            () = Arc::clone(&wait).all() => break,
            () = shard.changed.notified() => {
                if shard.ended.load(Ordering::Acquire) {
                    return false;
                }
            }
            _ = stop.wait_for(|stop| *stop) => return false,
        }
    }
    let error = wait.results().first().map_or(ErrorCode::UnknownServerError, |(_, error)| *error);
    let ended = shard.ended.load(Ordering::Acquire) || *stop.borrow();
    // Where the leadership ended another shard follows. Otherwise this one stays, and nothing wakes it again.
    if !error.is_none() && error != ErrorCode::NotLeaderOrFollower && !ended {
        shard.give_up(format!("what was found up to offset {end} cannot be committed: {}", error.text()));
    }
    error.is_none() && !ended
}

async fn acknowledged(wait: Option<Arc<AckWait>>) {
    if let Some(wait) = wait {
        wait.all().await;
    }
}
