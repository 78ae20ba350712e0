//! One task per leading broker pulls everything that this broker follows from it.
//!
//! A fetch is always outstanding at the leader (a long poll in an incremental session), so new records travel at once.
//! What changed here since the last request is in a set of dirty partitions: an answered partition, a new assignment.
//! When something becomes dirty while a poll is outstanding, a second request is sent behind it, and the leader answers
//! the first at once. A partition whose answer was an error leaves the session for a growing pause. The task ends its
//! connection when nothing is assigned, and waits.
//!
//! What never happens: an answer is taken for a request of another epoch or position (each request remembers what it
//! asked); a lost connection is noticed by a timeout only.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chronik_core::partition::{EpochEnd, FetchReply, FollowerAction, FollowerRequest, LeaderMarks};
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId};
use chronik_wire::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic, PartitionData, ReplicaState,
};
use chronik_wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::leader_link::{LeaderLink, LinkError};
use super::partition::Partition;
use super::pauses::Pauses;
use super::status::FetcherStatus;
use super::throttle::{Granted, Turn};
use super::{ReplicaManager, mono_ms};

/// Fetch with topic ids, replica state and the follower's high watermark.
const FETCH_VERSION: i16 = 18;
const LIST_OFFSETS_VERSION: i16 = 9;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const FIRST_RETRY: Duration = Duration::from_millis(10);

type Key = (TopicId, PartitionIndex);

/// What is assigned to one fetcher, shared with its task.
struct Shared {
    leader: NodeId,
    work: Mutex<Work>,
    changed: Notify,
    /// "connecting", "fetching", "idle", or the last error.
    state: Mutex<String>,
    fetches: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Work {
    assigned: HashMap<Key, Arc<Partition>>,
    dirty: HashSet<Key>,
    /// Assigned since the last request, again or for the first time: what they paused for may be over.
    fresh: HashSet<Key>,
}

/// All fetchers.
#[derive(Default)]
pub(super) struct Fetchers {
    by_leader: Mutex<HashMap<NodeId, Arc<Shared>>>,
}

impl Fetchers {
    /// `partition` follows `leader` from now on, or does so under a new epoch.
    pub(super) fn assign(&self, manager: &Arc<ReplicaManager>, partition: &Arc<Partition>, leader: NodeId) {
        let key = (partition.topic_id, partition.tp.partition);
        let mut by_leader = self.by_leader.lock();
        for (node, other) in by_leader.iter() {
            if *node != leader {
                other.forget(&key);
            }
        }
        let shared = by_leader.entry(leader).or_insert_with(|| {
            let shared = Arc::new(Shared {
                leader,
                work: Mutex::default(),
                changed: Notify::new(),
                state: Mutex::new("idle".to_owned()),
                fetches: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            });
            let task = Task::new(manager, Arc::clone(&shared));
            manager.runtime.spawn(task.run(Arc::downgrade(manager), manager.stop.subscribe()));
            shared
        });
        let mut work = shared.work.lock();
        work.assigned.insert(key, Arc::clone(partition));
        work.dirty.insert(key);
        work.fresh.insert(key);
        drop(work);
        shared.changed.notify_one();
    }

    /// `partition` follows nobody.
    pub(super) fn unassign(&self, partition: &Partition) {
        let key = (partition.topic_id, partition.tp.partition);
        for shared in self.by_leader.lock().values() {
            shared.forget(&key);
        }
    }

    pub(super) fn status(&self) -> Vec<FetcherStatus> {
        let mut status: Vec<_> = self
            .by_leader
            .lock()
            .values()
            .map(|shared| FetcherStatus {
                leader: shared.leader.0,
                partitions: shared.work.lock().assigned.len(),
                state: shared.state.lock().clone(),
                fetches: shared.fetches.load(Ordering::Relaxed),
                bytes: shared.bytes.load(Ordering::Relaxed),
            })
            .collect();
        status.sort_by_key(|fetcher| fetcher.leader);
        status
    }
}

impl Shared {
    fn forget(&self, key: &Key) {
        let mut work = self.work.lock();
        if work.assigned.remove(key).is_some() {
            work.fresh.remove(key);
            work.dirty.insert(*key);
            drop(work);
            self.changed.notify_one();
        }
    }

    fn say(&self, state: impl Into<String>) {
        *self.state.lock() = state.into();
    }
}

/// What was asked for one partition and can be taken as remembered by the leader's session.
type Asked = HashMap<Key, FollowerRequest>;

struct Task {
    shared: Arc<Shared>,
    me: NodeId,
    max_wait_ms: i32,
    partition_bytes: i32,
    response_bytes: i32,
    backoff_max: Duration,
    /// How long an answer may take: the longest wait at the leader, and what is granted on top.
    patience: Duration,
    /// Id and next epoch of the session at the leader; epoch 0 begins one.
    session: (i32, i32),
    /// A request that begins a session has no answer yet, so its id is not known.
    opening: bool,
    /// The leader has no place for a session: every fetch names everything.
    sessionless: bool,
    /// What the session's partitions were last asked with.
    asked: Asked,
    /// For each request without answer: what it asked where a later request asks something else.
    outstanding: VecDeque<Asked>,
    /// Partitions that pause after an error.
    paused: Pauses<Key>,
    /// Partitions that are throttled, and when they may be asked for again.
    throttled: HashMap<Key, Instant>,
}

impl Task {
    fn new(manager: &ReplicaManager, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            me: manager.meta.node(),
            max_wait_ms: i32::try_from(manager.config.fetch_max_wait.as_millis()).unwrap_or(500),
            partition_bytes: manager.config.fetch_partition_bytes,
            response_bytes: manager.config.fetch_response_bytes,
            backoff_max: manager.config.fetch_backoff,
            patience: manager.config.fetch_max_wait + manager.config.socket_timeout,
            session: (0, 0),
            opening: false,
            sessionless: false,
            asked: HashMap::new(),
            outstanding: VecDeque::new(),
            paused: Pauses::new(manager.config.fetch_backoff),
            throttled: HashMap::new(),
        }
    }

    async fn run(mut self, manager: Weak<ReplicaManager>, mut stop: watch::Receiver<bool>) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            while self.shared.work.lock().assigned.is_empty() {
                self.shared.say("idle");
                tokio::select! {
                    () = self.shared.changed.notified() => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
            let error = tokio::select! {
                result = self.connected(&manager) => match result {
                    Ok(()) => {
                        backoff = FIRST_BACKOFF;
                        continue;
                    }
                    Err(error) => error,
                },
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if self.session.0 != 0 {
                // It worked for a while: try again at once, the leader may have restarted.
                backoff = FIRST_BACKOFF;
            }
            tracing::debug!(leader = %self.shared.leader, %error, "replication link lost");
            self.shared.say(error.to_string());
            let jitter = rand::random::<f64>().mul_add(0.5, 0.75);
            tokio::select! {
                () = tokio::time::sleep(backoff.mul_f64(jitter)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            backoff = (backoff * 2).min(self.backoff_max);
        }
    }

    /// Fetches over one connection until it breaks (an error) or nothing is assigned.
    async fn connected(&mut self, manager: &Weak<ReplicaManager>) -> Result<(), LinkError> {
        self.session = (0, 0);
        self.sessionless = false;
        self.opening = false;
        self.outstanding.clear();
        self.shared.say("connecting");
        let mut link = self.connect(manager).await?;
        self.shared.say("fetching");
        let mut heard = Instant::now();
        loop {
            if self.outstanding.is_empty() {
                heard = Instant::now();
            }
            self.unpause();
            self.opening &= !self.outstanding.is_empty();
            let settled = self.session.0 != 0 && !self.opening;
            let more = self.outstanding.len() == 1 && settled && !self.shared.work.lock().dirty.is_empty();
            if self.outstanding.is_empty() || more {
                self.settle(manager).await;
                match self.request(manager) {
                    Some(request) => {
                        link.send(FETCH_VERSION, &request).await?;
                        self.outstanding.push_back(Asked::new());
                        self.shared.fetches.fetch_add(1, Ordering::Relaxed);
                    }
                    // Nothing to ask for now: everything pauses or was taken away.
                    None if self.outstanding.is_empty() && self.shared.work.lock().assigned.is_empty() => return Ok(()),
                    None => {}
                }
            }
            let next_pause = self.paused.next().into_iter().chain(self.throttled.values().copied()).min();
            tokio::select! {
                frame = link.frame() => {
                    let response = link.decode::<FetchRequest>(FETCH_VERSION, frame?)?;
                    let asked = self.outstanding.pop_front().unwrap_or_default();
                    self.process(manager, response, asked).await?;
                    heard = Instant::now();
                }
                () = tokio::time::sleep_until(heard + self.patience), if !self.outstanding.is_empty() => {
                    return Err(LinkError::Protocol(format!("no answer for {} ms", self.patience.as_millis())));
                }
                () = self.shared.changed.notified() => {}
                () = sleep_until(next_pause), if next_pause.is_some() => {}
            }
        }
    }

    async fn connect(&self, manager: &Weak<ReplicaManager>) -> Result<LeaderLink, LinkError> {
        let gone = || LinkError::Protocol("the broker is stopping".to_owned());
        let endpoint = {
            let manager = manager.upgrade().ok_or_else(gone)?;
            let state = manager.meta.state();
            state.broker(self.shared.leader).map(|broker| broker.endpoints.replication.clone())
        };
        let unknown = || LinkError::Protocol(format!("broker {} is not registered", self.shared.leader));
        let endpoint = endpoint.ok_or_else(unknown)?;
        LeaderLink::connect(self.me, &endpoint.host, endpoint.port).await
    }

    fn unpause(&mut self) {
        let now = Instant::now();
        let mut due = self.paused.ended(now);
        due.extend(self.throttled.extract_if(|_, until| *until <= now).map(|(key, _)| key));
        if !due.is_empty() {
            self.shared.work.lock().dirty.extend(due);
        }
    }

    /// Durable acks: syncs what the next request would acknowledge and is not synced, as after a crash, or a truncation,
    /// or while the fetcher of the last leader was still at it.
    async fn settle(&mut self, manager: &Weak<ReplicaManager>) {
        let Some(manager) = manager.upgrade() else { return };
        let Some(committer) = &manager.committer else { return };
        let unsynced: Vec<(Key, Arc<Partition>)> = {
            let work = self.shared.work.lock();
            let full = self.session.1 == 0;
            let named = work.assigned.iter().filter(|(key, _)| full || work.dirty.contains(key));
            named.filter(|(_, partition)| !partition.is_synced()).map(|(key, p)| (*key, Arc::clone(p))).collect()
        };
        if unsynced.is_empty() {
            return;
        }
        let partitions: Vec<_> = unsynced.iter().map(|(_, partition)| Arc::clone(partition)).collect();
        super::maintenance::synced(committer, &manager, &partitions).await;
        for (key, partition) in unsynced {
            if !partition.is_synced() {
                self.pause(key, FIRST_RETRY);
            }
        }
    }

    /// The next request: everything dirty, and what has to be forgotten. `None` when the session would be empty.
    fn request(&mut self, manager: &Weak<ReplicaManager>) -> Option<FetchRequest> {
        let manager = manager.upgrade()?;
        let broker_epoch = manager.meta.broker_epoch();
        let now = Instant::now();
        let (mut granted, mut throttled) = (Granted::default(), HashMap::new());
        let full = self.session.1 == 0;
        let dirty: Vec<(Key, Option<Arc<Partition>>)> = {
            let mut work = self.shared.work.lock();
            for key in std::mem::take(&mut work.fresh) {
                self.paused.forget(&key);
            }
            let mut dirty = std::mem::take(&mut work.dirty);
            if full {
                dirty.extend(work.assigned.keys());
            }
            dirty.into_iter().map(|key| (key, work.assigned.get(&key).cloned())).collect()
        };
        if full {
            for (key, old) in std::mem::take(&mut self.asked) {
                self.remember(key, old);
            }
        }
        let mut wanted: HashMap<TopicId, Vec<FetchPartition>> = HashMap::new();
        let mut forgotten: HashMap<TopicId, Vec<i32>> = HashMap::new();
        for (key, partition) in dirty {
            let request = partition.as_ref().and_then(|partition| partition.follower_request());
            let unsynced = request.is_none() && partition.as_ref().is_some_and(|partition| !partition.is_synced());
            let request = request.filter(|request| request.leader == self.shared.leader);
            let mut most = self.partition_bytes;
            if let (Some(_), Some(partition)) = (&request, &partition) {
                match manager.throttles.follower_turn(partition, self.me, &mut granted, mono_ms()) {
                    Turn::Free => {}
                    Turn::Some(bytes) => most = most.min(i32::try_from(bytes).unwrap_or(i32::MAX)),
                    Turn::Later(wait_ms) => drop(throttled.insert(key, now + Duration::from_millis(wait_ms))),
                }
            }
            let pauses = self.paused.is_on(&key, now) || throttled.contains_key(&key);
            let Some((request, partition)) = request.zip(partition).filter(|_| !pauses) else {
                if request.is_none() {
                    self.paused.forget(&key);
                }
                if unsynced {
                    // Assigned, or appended to by the fetcher of the last leader, after `settle` looked. Without this
                    // nothing would ever name it again.
                    self.pause(key, FIRST_RETRY);
                }
                if let Some(old) = self.asked.remove(&key) {
                    self.remember(key, old);
                    forgotten.entry(key.0).or_default().push(key.1.0);
                }
                continue;
            };
            if let Some(old) = self.asked.insert(key, request) {
                self.remember(key, old);
            }
            wanted.entry(key.0).or_default().push(FetchPartition {
                partition: key.1.0,
                current_leader_epoch: request.current_leader_epoch.0,
                fetch_offset: request.fetch_offset.0,
                last_fetched_epoch: request.last_fetched_epoch.0,
                log_start_offset: request.log_start.0,
                partition_max_bytes: most,
                high_watermark: partition.high_watermark().0,
                ..FetchPartition::default()
            });
        }
        self.throttled.extend(throttled);
        if self.asked.is_empty() {
            // A session without partitions does not exist: the next one replaces it.
            self.session.1 = 0;
            return None;
        }
        let (session_id, session_epoch) = if self.sessionless { (0, -1) } else { self.session };
        if !self.sessionless {
            self.session.1 = if session_epoch == i32::MAX { 1 } else { session_epoch + 1 };
        }
        // The first answer brings the session id, without which nothing can be added: it must come at once.
        let first = session_epoch == 0;
        self.opening |= first;
        Some(FetchRequest {
            max_wait_ms: if first { 0 } else { self.max_wait_ms },
            min_bytes: 1,
            max_bytes: self.response_bytes,
            session_id,
            session_epoch,
            topics: wanted
                .into_iter()
                .map(|(topic_id, partitions)| FetchTopic { topic_id, partitions, ..FetchTopic::default() })
                .collect(),
            forgotten_topics_data: forgotten
                .into_iter()
                .map(|(topic_id, partitions)| ForgottenTopic { topic_id, partitions, ..ForgottenTopic::default() })
                .collect(),
            replica_state: ReplicaState { replica_id: self.me.0, replica_epoch: broker_epoch.0 },
            ..FetchRequest::default()
        })
    }

    /// Keeps what requests without answer had asked for a partition that is asked anew.
    fn remember(&mut self, key: Key, old: FollowerRequest) {
        if let Some(last) = self.outstanding.back_mut() {
            last.entry(key).or_insert(old);
        }
    }

    async fn process(
        &mut self,
        manager: &Weak<ReplicaManager>,
        response: FetchResponse,
        older: Asked,
    ) -> Result<(), LinkError> {
        let error = ErrorCode::from_code(response.error_code).unwrap_or(ErrorCode::UnknownServerError);
        if !error.is_none() {
            // The session is of no use: begin anew, on a new connection.
            return Err(LinkError::Protocol(format!("fetch refused: {error}")));
        }
        self.session.0 = response.session_id;
        if response.session_id == 0 {
            self.sessionless = true;
            self.session.1 = 0;
        }
        let Some(manager) = manager.upgrade() else { return Ok(()) };
        let mut unsynced = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let key = (topic.topic_id, PartitionIndex(data.partition_index));
                let Some(request) = older.get(&key).or_else(|| self.asked.get(&key)).copied() else { continue };
                let Some(partition) = self.shared.work.lock().assigned.get(&key).cloned() else { continue };
                let appended = self.partition(&manager, key, &partition, request, data).await;
                if appended && !partition.is_synced() {
                    unsynced.push(partition);
                }
            }
        }
        // Durable acks: the next fetch is what acknowledges, so it has to wait for the disk.
        if let Some(committer) = &manager.committer
            && !unsynced.is_empty()
        {
            super::maintenance::synced(committer, &manager, &unsynced).await;
        }
        Ok(())
    }

    /// Takes one partition's answer; true when records were appended.
    async fn partition(
        &mut self,
        manager: &Arc<ReplicaManager>,
        key: Key,
        partition: &Arc<Partition>,
        request: FollowerRequest,
        data: PartitionData,
    ) -> bool {
        let records = data.records.unwrap_or_default();
        let diverging = (data.diverging_epoch.epoch >= 0 || data.diverging_epoch.end_offset >= 0).then_some(EpochEnd {
            epoch: LeaderEpoch(data.diverging_epoch.epoch),
            end_offset: Offset(data.diverging_epoch.end_offset),
        });
        let reply = FetchReply {
            request,
            error: ErrorCode::from_code(data.error_code).unwrap_or(ErrorCode::UnknownServerError),
            diverging,
            marks: LeaderMarks {
                high_watermark: Offset(data.high_watermark),
                log_start: Offset(data.log_start_offset),
            },
        };
        manager.throttles.followed(partition, self.me, records.len() as u64);
        let mut out = Vec::new();
        let action = partition.on_fetched(&reply, &records, &mut out);
        manager.deliver(partition, out);
        match action {
            FollowerAction::Append(_) => {
                self.paused.forget(&key);
                if !records.is_empty() {
                    self.shared.bytes.fetch_add(records.len() as u64, Ordering::Relaxed);
                    manager.replicated_in.fetch_add(records.len() as u64, Ordering::Relaxed);
                    self.dirty(key);
                    return true;
                }
                // An empty answer leaves the position as the session has it.
                if partition.follower_request() != self.asked.get(&key).copied() {
                    self.dirty(key);
                }
            }
            FollowerAction::Truncate { .. } | FollowerAction::ResetTo { .. } | FollowerAction::Drop => self.dirty(key),
            FollowerAction::AskLeaderOffsets => {
                let asked = self.leader_offsets(manager, partition, request.current_leader_epoch).await;
                if let Err(error) = asked {
                    tracing::debug!(partition = %partition.tp, %error, "leader's offsets not learned");
                }
                self.pause(key, FIRST_RETRY);
            }
            FollowerAction::Retry(_) => self.pause(key, FIRST_RETRY),
            // Newer metadata assigns the partition again, which ends the pause; it is for its absence.
            FollowerAction::AwaitMetadata(_) => self.pause(key, Duration::from_millis(200)),
        }
        false
    }

    fn dirty(&self, key: Key) {
        self.shared.work.lock().dirty.insert(key);
    }

    fn pause(&mut self, key: Key, first: Duration) {
        self.paused.begin(key, first, Instant::now());
        self.dirty(key);
    }

    /// Asks for the leader's earliest and latest offset, over a connection of its own.
    async fn leader_offsets(
        &self,
        manager: &Arc<ReplicaManager>,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
    ) -> Result<(), LinkError> {
        let mut link = self.connect(&Arc::downgrade(manager)).await?;
        let mut offsets = [Offset(-1); 2];
        for (slot, timestamp) in offsets.iter_mut().zip([-2_i64, -1]) {
            let request = ListOffsetsRequest {
                replica_id: self.me.0,
                topics: vec![ListOffsetsTopic {
                    name: partition.tp.topic.as_str().into(),
                    partitions: vec![ListOffsetsPartition {
                        partition_index: partition.tp.partition.0,
                        current_leader_epoch: epoch.0,
                        timestamp,
                    }],
                }],
                ..ListOffsetsRequest::default()
            };
            let response = link.call(LIST_OFFSETS_VERSION, &request).await?;
            let found = response.topics.first().and_then(|topic| topic.partitions.first());
            let found = found.ok_or_else(|| LinkError::Protocol("no offset in the answer".to_owned()))?;
            if found.error_code != ErrorCode::None.code() {
                return Err(LinkError::Protocol(format!("offset refused with error {}", found.error_code)));
            }
            *slot = Offset(found.offset);
        }
        let mut out = Vec::new();
        partition.on_leader_offsets(epoch, offsets[0], offsets[1], &mut out);
        manager.deliver(partition, out);
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
