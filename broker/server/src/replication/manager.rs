//! The owner of all hosted partitions: reconciles them with committed metadata and delivers what they ask for.
//!
//! [`ReplicaManager::apply_changes`] runs on the thread that reads the changes, because opening a log may take long.
//! Everything before the first [`ReplicaManager::reconcile_all`] is ignored but for deletions: until this process is
//! registered, committed leaderships belong to its predecessor.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use chronik_core::controller::{Change, Command, CommandResult, MetadataState, Topic};
use chronik_core::partition::{BrokerStatus, IsrProposal, REPORT_RETRY_MS};
use chronik_log::{Committer, LogDir, LogDirState};
use chronik_model::{BrokerEpoch, ErrorCode, NodeId, PartitionIndex, TopicId, TopicName, TopicPartition};
use chronik_node::partition::{Durability, HostedPartition, Outgoing, Parts, alter_outcome, alter_partition};
use chronik_node::settings::{BrokerSettings, OFFSETS_TOPIC, Settings, broker_status, replica_statuses};
use chronik_node::storage::{self, Checkpoints};
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::fetcher::Fetchers;
use super::meta::MetaClient;
use super::partition::Partition;
use super::reaper::Reaper;
use super::throttle::Throttles;
use super::{Groups, ReplicationConfig, mono_ms, wall_ms};

/// How long a leader waits for the controller's word on an in-sync set before it counts it as unknown.
const ALTER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Hosted {
    by_name: HashMap<TopicPartition, Arc<Partition>>,
    by_id: HashMap<(TopicId, PartitionIndex), Arc<Partition>>,
}

/// See the module documentation.
#[allow(missing_debug_implementations)]
pub struct ReplicaManager {
    pub(super) meta: Arc<dyn MetaClient>,
    pub(super) config: ReplicationConfig,
    pub(super) log_dir: Arc<LogDir>,
    clean_shutdown: bool,
    checkpoints: Mutex<Checkpoints>,
    hosted: RwLock<Hosted>,
    /// Serialises changes of `hosted`.
    applying: Mutex<()>,
    /// Serialises what follows from a change of role.
    role_changes: Mutex<()>,
    /// Held by whoever maintains the logs: the periodic run, or the shutdown, after which nobody does.
    pub(super) maintaining: Mutex<()>,
    active: AtomicBool,
    pub(super) fetchers: Fetchers,
    pub(super) throttles: Throttles,
    pub(super) committer: Option<Arc<Committer>>,
    pub(super) committer_work: Arc<(Mutex<bool>, Condvar)>,
    pub(super) reaper: Reaper,
    groups: OnceLock<Weak<Groups>>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) runtime: tokio::runtime::Handle,
    /// Bytes appended by clients.
    pub bytes_in: AtomicU64,
    /// Records appended by clients.
    pub records_in: AtomicU64,
    /// Bytes handed to consumers.
    pub bytes_out: AtomicU64,
    /// Bytes appended from leaders.
    pub replicated_in: AtomicU64,
    /// Bytes handed to followers.
    pub replicated_out: AtomicU64,
}

impl ReplicaManager {
    /// A manager of the logs in `log_dir`; call it inside a tokio runtime, which runs its tasks. `clean_shutdown` says that the last run ended in order.
    #[must_use]
    pub fn new(
        meta: Arc<dyn MetaClient>,
        log_dir: Arc<LogDir>,
        clean_shutdown: bool,
        config: ReplicationConfig,
    ) -> Arc<Self> {
        let committer = match config.flush {
            Durability::Os => None,
            Durability::EveryAck => Some(Arc::new(Committer::new(Arc::clone(&log_dir)))),
        };
        Arc::new(Self {
            checkpoints: Mutex::new(Checkpoints::read(&log_dir)),
            meta,
            config,
            log_dir,
            clean_shutdown,
            hosted: RwLock::default(),
            applying: Mutex::new(()),
            role_changes: Mutex::new(()),
            maintaining: Mutex::new(()),
            active: AtomicBool::new(false),
            fetchers: Fetchers::default(),
            throttles: Throttles::default(),
            committer,
            committer_work: Arc::default(),
            reaper: Reaper::default(),
            groups: OnceLock::new(),
            stop: watch::Sender::new(false),
            runtime: tokio::runtime::Handle::current(),
            bytes_in: AtomicU64::new(0),
            records_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            replicated_in: AtomicU64::new(0),
            replicated_out: AtomicU64::new(0),
        })
    }

    /// Tells the manager who runs the groups; once, before [`Self::reconcile_all`].
    pub(super) fn set_groups(&self, groups: &Arc<Groups>) {
        let _ = self.groups.set(Arc::downgrade(groups));
    }

    /// The partition of this name, if a replica of it is here.
    #[must_use]
    pub fn partition(&self, tp: &TopicPartition) -> Option<Arc<Partition>> {
        self.hosted.read().by_name.get(tp).cloned()
    }

    /// The partition of this topic id, if a replica of it is here.
    #[must_use]
    pub fn partition_by_id(&self, id: TopicId, partition: PartitionIndex) -> Option<Arc<Partition>> {
        self.hosted.read().by_id.get(&(id, partition)).cloned()
    }

    /// All hosted partitions.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.hosted.read().by_name.values().cloned().collect()
    }

    /// Why the log directory is offline, if it is: for heartbeats and the status page.
    #[must_use]
    pub fn offline_reason(&self) -> Option<String> {
        match self.log_dir.state() {
            LogDirState::Online => None,
            LogDirState::Offline { reason } => Some(reason),
        }
    }

    /// The log directory.
    #[must_use]
    pub fn log_dir(&self) -> &Arc<LogDir> {
        &self.log_dir
    }

    /// Brings the hosted partitions in line with the whole metadata. Call it when this process is registered, and again
    /// after a snapshot replaced the state. Blocks on the disk.
    pub fn reconcile_all(self: &Arc<Self>) {
        let _applying = self.applying.lock();
        self.active.store(true, Ordering::Release);
        let me = self.meta.node();
        let (wanted, gone) = {
            let state = self.meta.state();
            let wanted: Vec<_> = state
                .partitions_hosted_by(me)
                .map(|(topic, index, _)| TopicPartition::new(topic.name.clone(), index))
                .collect();
            let hosted = self.hosted.read();
            let gone: Vec<_> = hosted
                .by_name
                .values()
                .filter(|partition| {
                    let found = state.topic_by_id(partition.topic_id);
                    found.is_none_or(|topic| {
                        topic.partition(partition.tp.partition).is_none_or(|p| !p.replicas.contains(&me))
                    })
                })
                .cloned()
                .collect();
            (wanted, gone)
        };
        self.apply_rates();
        for partition in gone {
            self.remove(&partition);
        }
        self.remove_moved_away(&wanted);
        // First what the settings are now: by an older min.insync.replicas too much would be committed.
        self.apply_topic_config(None);
        for tp in wanted {
            self.apply_partition(&tp);
        }
        self.apply_brokers_to_all();
    }

    /// Removes from the disk what was reassigned to others while this broker was down.
    fn remove_moved_away(&self, wanted: &[TopicPartition]) {
        let wanted: BTreeSet<&TopicPartition> = wanted.iter().collect();
        let found = match storage::others(&self.log_dir, |tp| wanted.contains(tp)) {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "cannot look for replicas that were moved away"),
        };
        for (tp, topic_id) in found {
            // Not when the topic is unknown: an absence removes nothing.
            let moved = {
                let state = self.meta.state();
                let partition = state.partition_by_id(topic_id, tp.partition);
                partition.is_some_and(|partition| !partition.replicas.contains(&self.meta.node()))
            };
            if moved {
                self.doom(&tp, topic_id);
                tracing::info!(partition = %tp, "replica removed, which was moved away");
            }
        }
    }

    /// Applies committed changes, in order.
    pub fn apply_changes(self: &Arc<Self>, changes: &[Change]) {
        let _applying = self.applying.lock();
        let mut brokers_changed = false;
        for change in changes {
            let active = self.active.load(Ordering::Acquire);
            match change {
                Change::TopicDeleted { name, id, partitions } => self.delete_topic(name, *id, *partitions),
                _ if !active => {}
                Change::Partition { topic, partition, .. } => {
                    self.apply_partition(&TopicPartition::new(topic.clone(), *partition));
                }
                Change::Broker { .. } | Change::BrokerRemoved { .. } => brokers_changed = true,
                Change::TopicConfig { name } => self.apply_topic_config(Some(name)),
                Change::ClusterConfig | Change::BrokerConfig { .. } => {
                    self.apply_rates();
                    self.apply_topic_config(None);
                }
                Change::TopicCreated { .. } => {}
            }
        }
        if brokers_changed {
            self.apply_brokers_to_all();
        }
    }

    fn delete_topic(self: &Arc<Self>, name: &TopicName, id: TopicId, partitions: i32) {
        if let Some(groups) = self.groups.get().and_then(Weak::upgrade) {
            groups.on_topic_deleted(name);
        }
        for index in 0..partitions {
            let index = PartitionIndex(index);
            match self.partition_by_id(id, index) {
                Some(partition) => self.remove(&partition),
                None => self.doom(&TopicPartition::new(name.clone(), index), id),
            }
        }
    }

    /// Ends the service of a partition and removes its files; its removal is committed.
    fn remove(self: &Arc<Self>, partition: &Arc<Partition>) {
        {
            let mut hosted = self.hosted.write();
            hosted.by_name.remove(&partition.tp);
            hosted.by_id.remove(&(partition.topic_id, partition.tp.partition));
        }
        partition.end_service();
        self.fetchers.unassign(partition);
        if let Some(committer) = &self.committer {
            committer.forget(&partition.tp);
        }
        self.tell_groups(partition);
        self.doom(&partition.tp, partition.topic_id);
        tracing::info!(partition = %partition.tp, "replica removed");
    }

    /// Takes the files of a partition away; they are deleted when there is time.
    fn doom(&self, tp: &TopicPartition, topic_id: TopicId) {
        match storage::doom(&self.log_dir, tp, topic_id) {
            Ok(Some(doomed)) => self.reaper.put(doomed),
            Ok(None) => {}
            Err(error) => tracing::error!(partition = %tp, %error, "removed partition not taken from the disk"),
        }
    }

    /// Brings one partition in line with the committed state.
    fn apply_partition(self: &Arc<Self>, tp: &TopicPartition) {
        let me = self.meta.node();
        let wanted = {
            let state = self.meta.state();
            state.topic(tp.topic.as_str()).and_then(|topic| {
                let partition = topic.partition(tp.partition)?.clone();
                let brokers = replica_statuses(&state, &partition);
                Some((topic.id, partition, brokers, self.settings(&state, topic)))
            })
        };
        let Some((topic_id, state, brokers, settings)) = wanted else { return };
        let known = self.partition(tp);
        if let Some(other) = known.as_ref().filter(|partition| partition.topic_id != topic_id) {
            // Deleted and created again: the deletion is committed, as the name has another id now.
            self.remove(other);
        }
        let partition = match known.filter(|partition| partition.topic_id == topic_id) {
            Some(partition) => partition,
            None if state.replicas.contains(&me) => match self.open(tp, topic_id, settings) {
                Some(partition) => partition,
                None => return,
            },
            None => return,
        };
        if let Some(topic) = self.meta.state().topic_by_id(topic_id) {
            partition.listed.set(topic, tp.partition, me);
        }
        let mut out = Vec::new();
        partition.apply(&state, |node| brokers.get(&node).copied(), &mut out);
        self.deliver(&partition, out);
        if !state.replicas.contains(&me) {
            self.remove(&partition);
        }
    }

    fn apply_rates(&self) {
        let rates = self.meta.state().replication_rates(self.meta.node());
        self.throttles.set(rates, mono_ms());
    }

    fn settings(&self, state: &MetadataState, topic: &Topic) -> Settings {
        let broker = BrokerSettings {
            lag_max_ms: u64::try_from(self.config.lag_max.as_millis()).unwrap_or(u64::MAX),
            producer_id_expiration_ms: i64::try_from(self.config.producer_id_expiration.as_millis())
                .unwrap_or(i64::MAX),
        };
        Settings::of(state, topic, self.meta.node(), &broker)
    }

    fn open(self: &Arc<Self>, tp: &TopicPartition, topic_id: TopicId, settings: Settings) -> Option<Arc<Partition>> {
        let (log_dir, clean) = (&self.log_dir, self.clean_shutdown);
        let opened = storage::open(log_dir, tp, topic_id, settings.log, clean, &mut self.checkpoints.lock(), wall_ms());
        let storage::Opened { log, high_watermark, created_ms } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Damage is cut away by recovery; what is left is a disk that does not read or write, or that lost what an
                // orderly stop vouched for. The controller has to hear of it, or it goes on electing a replica that nobody serves.
                tracing::error!(partition = %tp, %error, "cannot open the log");
                self.log_dir.fail("open the log in", &chronik_log::partition_dir(tp), std::io::Error::other(error));
                return None;
            }
        };
        let hosted = HostedPartition::new(Parts {
            tp: tp.clone(),
            topic_id,
            me: self.meta.node(),
            broker_epoch: self.meta.broker_epoch(),
            log,
            high_watermark,
            created_ms,
            settings,
            durability: self.config.flush,
            max_waiters: self.config.max_waiters,
        });
        let work = Arc::clone(&self.committer_work);
        let wake_committer = Arc::new(move || {
            *work.0.lock() = true;
            work.1.notify_one();
        });
        let partition = Partition::new(hosted, self.committer.clone(), wake_committer);
        let mut hosted = self.hosted.write();
        hosted.by_name.insert(tp.clone(), Arc::clone(&partition));
        hosted.by_id.insert((topic_id, tp.partition), Arc::clone(&partition));
        Some(partition)
    }

    fn apply_brokers_to_all(self: &Arc<Self>) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let brokers: BTreeMap<NodeId, BrokerStatus> = {
            let state = self.meta.state();
            state.brokers().map(|broker| (broker.node, broker_status(broker))).collect()
        };
        let epoch = self.meta.broker_epoch();
        for partition in self.partitions() {
            let mut out = Vec::new();
            if epoch != BrokerEpoch::NONE {
                partition.set_broker_epoch(epoch);
            }
            partition.apply_brokers(|node| brokers.get(&node).copied(), &mut out);
            self.deliver(&partition, out);
        }
    }

    fn apply_topic_config(self: &Arc<Self>, only: Option<&TopicName>) {
        for partition in self.partitions() {
            if only.is_some_and(|name| *name != partition.tp.topic) {
                continue;
            }
            let settings = {
                let state = self.meta.state();
                state.topic_by_id(partition.topic_id).map(|topic| {
                    partition.listed.set(topic, partition.tp.partition, self.meta.node());
                    self.settings(&state, topic)
                })
            };
            let Some(settings) = settings else { continue };
            let mut out = Vec::new();
            partition.apply_config(settings, &mut out);
            self.deliver(&partition, out);
        }
    }

    /// Does what partitions asked for while they were locked.
    pub(super) fn deliver(self: &Arc<Self>, partition: &Arc<Partition>, out: Vec<Outgoing>) {
        for one in out {
            match one {
                Outgoing::Propose(proposal) => self.propose(partition, proposal),
                Outgoing::Report(command) => self.report(partition, command),
                Outgoing::RoleChanged => {
                    {
                        // Two changes told at once: each looks at the role of this moment, and the later look counts.
                        let _one_after_the_other = self.role_changes.lock();
                        match partition.following() {
                            Some(leader) => self.fetchers.assign(self, partition, leader),
                            None => self.fetchers.unassign(partition),
                        }
                    }
                    self.tell_groups(partition);
                }
                Outgoing::Removed => {
                    // A leader may learn of its own removal by the answer to its proposal. Only `apply_*` changes who
                    // is hosted, in the order of the changes, among which this removal is still to come.
                    self.fetchers.unassign(partition);
                    self.tell_groups(partition);
                }
            }
        }
    }

    fn tell_groups(&self, partition: &Arc<Partition>) {
        if partition.tp.topic.as_str() == OFFSETS_TOPIC
            && let Some(groups) = self.groups.get().and_then(Weak::upgrade)
        {
            groups.on_role(partition);
        }
    }

    /// One at a time for each partition: the next one comes when this one has given up.
    fn report(self: &Arc<Self>, partition: &Arc<Partition>, command: Command) {
        let (manager, tp) = (Arc::clone(self), partition.tp.clone());
        self.runtime.spawn(async move {
            match manager.meta.propose(command, Duration::from_millis(REPORT_RETRY_MS)).await {
                Ok(CommandResult::Error(error)) => {
                    tracing::debug!(partition = %tp, %error, "the end of the log is of no use");
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(partition = %tp, %error, "the controller does not hear of the log's end"),
            }
        });
    }

    fn propose(self: &Arc<Self>, partition: &Arc<Partition>, proposal: IsrProposal) {
        let (manager, partition) = (Arc::clone(self), Arc::clone(partition));
        let command = alter_partition(partition.topic_id, partition.tp.partition, &proposal);
        self.runtime.spawn(async move {
            let outcome = match manager.meta.propose(command, ALTER_TIMEOUT).await {
                Ok(result) => alter_outcome(result),
                // Also an answer that cannot be read is "refused", and that one may be committed.
                Err(_) => Err(ErrorCode::RequestTimedOut),
            };
            if let Err(error) = &outcome {
                tracing::debug!(partition = %partition.tp, %error, ?proposal, "in-sync set not changed");
            }
            let mut out = Vec::new();
            partition.on_alter_result(&proposal, outcome, &mut out);
            manager.deliver(&partition, out);
        });
    }
}
