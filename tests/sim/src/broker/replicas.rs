//! The owner of all hosted partitions: the twin of the server's `replication/manager`.
//!
//! Everything before [`Broker::start_data_plane`] is only kept: until this process is registered, committed leaderships
//! belong to its predecessor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_core::controller::{Change, CommandResult, MetadataState, Topic};
use chronik_core::partition::{BrokerStatus, IsrProposal, REPORT_RETRY_MS};
use chronik_log::{Committer, LogDir};
use chronik_model::{BrokerEpoch, ErrorCode, NodeId, TopicId, TopicName, TopicPartition};
use chronik_node::partition::{Durability, Outgoing, Parts, alter_outcome, alter_partition};
use chronik_node::settings::{BrokerSettings, OFFSETS_TOPIC, Settings, broker_status, replica_statuses};
use chronik_node::storage::{self, Checkpoints};

use super::meta::{NoResult, Purpose};
use super::waiters::{SimPartition, Woken, WokenList};
use super::{Broker, Key};
use crate::kernel::Ctx;

/// Bytes of a log from one entry of its index to the next.
const INDEX_INTERVAL_BYTES: usize = 512;
/// How long a leader waits for the controller's word on an in-sync set before it counts it as unknown.
const ALTER_TIMEOUT_MS: u64 = 10_000;
/// Changes kept before the data plane starts; more are replaced by a look at everything, which comes anyway.
const MOST_EARLY_CHANGES: usize = 100_000;

/// What this broker hosts.
#[derive(Debug)]
pub(super) struct Replicas {
    log_dir: Arc<LogDir>,
    clean_shutdown: bool,
    pub(super) by_id: BTreeMap<Key, SimPartition>,
    pub(super) by_name: BTreeMap<TopicPartition, Key>,
    checkpoints: Option<Checkpoints>,
    pub(super) written: Checkpoints,
    active: bool,
    early: Vec<Change>,
    pub(super) committer: Option<Committer>,
    pub(super) woken: WokenList,
    pub(super) next_checkpoint_ms: u64,
    pub(super) next_retention_ms: u64,
    pub(super) flush_due: bool,
    pub(super) flush_alarm: bool,
}

impl Replicas {
    pub(super) fn new(log_dir: Arc<LogDir>, clean_shutdown: bool, every_ack: bool) -> Self {
        Self {
            clean_shutdown,
            by_id: BTreeMap::new(),
            by_name: BTreeMap::new(),
            checkpoints: None,
            written: Checkpoints::default(),
            active: false,
            early: Vec::new(),
            committer: every_ack.then(|| Committer::new(Arc::clone(&log_dir))),
            woken: WokenList::default(),
            next_checkpoint_ms: 0,
            next_retention_ms: 0,
            flush_due: false,
            flush_alarm: false,
            log_dir,
        }
    }

    pub(super) fn log_dir(&self) -> &Arc<LogDir> {
        &self.log_dir
    }

    pub(super) fn next_woken(&self) -> Option<Woken> {
        self.woken.next()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.by_id.keys().copied().collect()
    }
}

impl Broker {
    /// This process is registered: what the metadata says about it counts.
    pub(super) fn start_data_plane(&mut self, ctx: &mut Ctx<'_>) {
        self.replicas.checkpoints = Some(Checkpoints::read(&self.replicas.log_dir));
        self.begin_upkeep();
        self.reconcile_all(ctx);
        let early = std::mem::take(&mut self.replicas.early);
        self.apply_changes(ctx, early);
    }

    /// Brings the hosted partitions in line with the whole metadata.
    fn reconcile_all(&mut self, ctx: &mut Ctx<'_>) {
        self.replicas.active = true;
        let me = self.node;
        let (wanted, gone) = {
            let state = self.state.read();
            let wanted: Vec<_> = state
                .partitions_hosted_by(me)
                .map(|(topic, index, _)| TopicPartition::new(topic.name.clone(), index))
                .collect();
            let hosted = |key: &Key| state.partition_by_id(key.0, key.1).is_some_and(|p| p.replicas.contains(&me));
            let gone: Vec<Key> = self.replicas.by_id.keys().copied().filter(|key| !hosted(key)).collect();
            (wanted, gone)
        };
        for key in gone {
            self.remove(ctx, key);
        }
        self.remove_moved_away(ctx, &wanted);
        // First what the settings are now: by an older min.insync.replicas too much would be committed.
        self.apply_topic_config(ctx, None);
        for tp in wanted {
            self.apply_partition(ctx, &tp);
        }
        self.apply_brokers_to_all(ctx);
    }

    /// Removes from the disk what was reassigned to others while this broker was down.
    fn remove_moved_away(&self, ctx: &mut Ctx<'_>, wanted: &[TopicPartition]) {
        let wanted: BTreeSet<&TopicPartition> = wanted.iter().collect();
        let found = match storage::others(&self.replicas.log_dir, |tp| wanted.contains(tp)) {
            Ok(found) => found,
            Err(error) => return ctx.note(|| format!("cannot look for replicas that were moved away: {error}")),
        };
        for (tp, topic_id) in found {
            // Not when the topic is unknown: an absence removes nothing.
            let moved = {
                let state = self.state.read();
                let partition = state.partition_by_id(topic_id, tp.partition);
                partition.is_some_and(|partition| !partition.replicas.contains(&self.node))
            };
            if moved {
                let removed = storage::remove(&self.replicas.log_dir, &tp, topic_id);
                ctx.note(|| format!("{tp} removed, which was moved away: {removed:?}"));
            }
        }
    }

    /// The state was replaced as a whole.
    pub(super) fn metadata_replaced(&mut self, ctx: &mut Ctx<'_>) {
        self.replicas.early.clear();
        if self.replicas.active {
            self.reconcile_all(ctx);
        }
    }

    /// Applies committed changes, in order.
    pub(super) fn apply_changes(&mut self, ctx: &mut Ctx<'_>, changes: Vec<Change>) {
        if !self.replicas.active {
            if self.replicas.early.len() + changes.len() > MOST_EARLY_CHANGES {
                self.replicas.early.clear();
            }
            return self.replicas.early.extend(changes);
        }
        let mut brokers_changed = false;
        for change in changes {
            match change {
                Change::TopicDeleted { name, id, partitions } => self.delete_topic(ctx, &name, id, partitions),
                Change::Partition { topic, partition, .. } => {
                    self.apply_partition(ctx, &TopicPartition::new(topic, partition));
                }
                Change::Broker { .. } | Change::BrokerRemoved { .. } => brokers_changed = true,
                Change::TopicConfig { name } => self.apply_topic_config(ctx, Some(&name)),
                Change::ClusterConfig | Change::BrokerConfig { .. } => self.apply_topic_config(ctx, None),
                Change::TopicCreated { .. } => {}
            }
        }
        if brokers_changed {
            self.apply_brokers_to_all(ctx);
        }
    }

    fn delete_topic(&mut self, ctx: &mut Ctx<'_>, name: &TopicName, id: TopicId, partitions: i32) {
        self.groups_forget_topic(ctx, name);
        for index in 0..partitions {
            let key = (id, index.into());
            if self.replicas.by_id.contains_key(&key) {
                self.remove(ctx, key);
            } else {
                let tp = TopicPartition::new(name.clone(), index);
                if let Err(error) = storage::remove(&self.replicas.log_dir, &tp, id) {
                    ctx.note(|| format!("{tp} not removed from disk: {error}"));
                }
            }
        }
    }

    /// Ends the service of a partition and removes its files; its removal is committed.
    fn remove(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let Some(mut partition) = self.replicas.by_id.remove(&key) else { return };
        let tp = partition.tp().clone();
        if self.replicas.by_name.get(&tp) == Some(&key) {
            self.replicas.by_name.remove(&tp);
        }
        partition.end_service(self.now.mono_ms);
        self.unassign(key);
        if let Some(committer) = &self.replicas.committer {
            committer.forget(&tp);
        }
        self.tell_groups(ctx, &tp, key);
        drop(partition);
        ctx.note(|| format!("{tp} removed"));
        if let Err(error) = storage::remove(&self.replicas.log_dir, &tp, key.0) {
            ctx.note(|| format!("{tp} not removed from disk: {error}"));
        }
    }

    fn settings_of_brokers(&self) -> BrokerSettings {
        BrokerSettings {
            lag_max_ms: self.config.lag_max_ms,
            producer_id_expiration_ms: self.config.producer_id_expiration_ms,
        }
    }

    /// Brings one partition in line with the committed state.
    fn apply_partition(&mut self, ctx: &mut Ctx<'_>, tp: &TopicPartition) {
        let broker = self.settings_of_brokers();
        let wanted = {
            let state = self.state.read();
            state.topic(tp.topic.as_str()).and_then(|topic| {
                let partition = topic.partition(tp.partition)?.clone();
                let brokers = replica_statuses(&state, &partition);
                Some((topic.id, partition, brokers, settings_of(&state, topic, self.node, &broker)))
            })
        };
        let Some((topic_id, state, brokers, settings)) = wanted else { return };
        let key = (topic_id, tp.partition);
        if let Some(other) = self.replicas.by_name.get(tp).copied().filter(|other| *other != key) {
            // Deleted and created again: the deletion is committed, as the name has another id now.
            self.remove(ctx, other);
        }
        if !self.replicas.by_id.contains_key(&key)
            && (!state.replicas.contains(&self.node) || !self.open(ctx, tp, topic_id, settings))
        {
            return;
        }
        let now_ms = self.now.mono_ms;
        let Some(partition) = self.replicas.by_id.get_mut(&key) else { return };
        let before = partition.replica().committed().map(|known| known.isr.clone());
        let mut out = Vec::new();
        partition.apply(&state, |node| brokers.get(&node).copied(), now_ms, &mut out);
        if before.is_some_and(|before| before != state.isr) && partition.replica().is_leader() {
            let (isr, epoch) = (super::ids(&state.isr), state.partition_epoch);
            ctx.note(|| format!("{tp} in-sync set {isr} (partition epoch {epoch})"));
        }
        // A new leader wants what it found synced.
        self.may_have_appended(key);
        self.deliver(ctx, key, out);
    }

    fn open(&mut self, ctx: &mut Ctx<'_>, tp: &TopicPartition, topic_id: TopicId, settings: Settings) -> bool {
        let (clean, wall_ms) = (self.replicas.clean_shutdown, self.now.wall_ms);
        let checkpoints = self.replicas.checkpoints.get_or_insert_with(Checkpoints::default);
        let opened = storage::open(&self.replicas.log_dir, tp, topic_id, settings.log, clean, checkpoints, wall_ms);
        let storage::Opened { log, high_watermark, created_ms } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Damage is cut away by recovery; what is left is a disk that does not read or write. The controller has to
                // hear of it, or it goes on electing a replica that nobody serves.
                ctx.note(|| format!("cannot open {tp}: {error}"));
                let dir = chronik_log::partition_dir(tp);
                self.replicas.log_dir.fail("open the log in", &dir, std::io::Error::other(error));
                return false;
            }
        };
        ctx.note(|| {
            let epoch = log.latest_epoch().map_or(-1, |epoch| epoch.0);
            format!("{tp} opened: {}..{} watermark {high_watermark} epoch {epoch}", log.log_start(), log.log_end())
        });
        let partition = SimPartition::new(Parts {
            tp: tp.clone(),
            topic_id,
            me: self.node,
            broker_epoch: self.epoch,
            log,
            high_watermark,
            created_ms,
            settings,
            durability: if self.replicas.committer.is_some() { Durability::EveryAck } else { Durability::Os },
            max_waiters: self.config.max_waiters,
        });
        let key = (topic_id, tp.partition);
        self.replicas.by_name.insert(tp.clone(), key);
        self.replicas.by_id.insert(key, partition);
        self.may_have_appended(key);
        true
    }

    fn apply_brokers_to_all(&mut self, ctx: &mut Ctx<'_>) {
        if !self.replicas.active {
            return;
        }
        let brokers: BTreeMap<NodeId, BrokerStatus> = {
            let state = self.state.read();
            state.brokers().map(|broker| (broker.node, broker_status(broker))).collect()
        };
        let (epoch, now_ms) = (self.epoch, self.now.mono_ms);
        for key in self.replicas.keys() {
            let Some(partition) = self.replicas.by_id.get_mut(&key) else { continue };
            let mut out = Vec::new();
            if epoch != BrokerEpoch::NONE {
                partition.set_broker_epoch(epoch);
            }
            partition.apply_brokers(|node| brokers.get(&node).copied(), now_ms, &mut out);
            self.deliver(ctx, key, out);
        }
    }

    fn apply_topic_config(&mut self, ctx: &mut Ctx<'_>, only: Option<&TopicName>) {
        let (broker, now_ms) = (self.settings_of_brokers(), self.now.mono_ms);
        for key in self.replicas.keys() {
            let Some(partition) = self.replicas.by_id.get_mut(&key) else { continue };
            if only.is_some_and(|name| *name != partition.tp().topic) {
                continue;
            }
            let settings = {
                let state = self.state.read();
                state.topic_by_id(key.0).map(|topic| settings_of(&state, topic, self.node, &broker))
            };
            let Some(settings) = settings else { continue };
            let mut out = Vec::new();
            partition.apply_config(settings, now_ms, &mut out);
            self.deliver(ctx, key, out);
        }
    }

    /// Does what a partition asked for.
    pub(super) fn deliver(&mut self, ctx: &mut Ctx<'_>, key: Key, out: Vec<Outgoing>) {
        for one in out {
            match one {
                Outgoing::Propose(proposal) => {
                    let isr: Vec<NodeId> = proposal.isr.iter().map(|member| member.node).collect();
                    ctx.note(|| {
                        let name = self.replicas.by_id.get(&key).map(|partition| partition.tp().to_string());
                        format!("{} proposes in-sync set {}", name.unwrap_or_default(), super::ids(&isr))
                    });
                    let command = alter_partition(key.0, key.1, &proposal);
                    self.propose(ctx, command, ALTER_TIMEOUT_MS, Purpose::Alter(key, proposal));
                }
                Outgoing::Report(command) => {
                    let end = self.replicas.by_id.get(&key).map(|partition| partition.replica().log_end());
                    ctx.note(|| {
                        let name = self.replicas.by_id.get(&key).map(|partition| partition.tp().to_string());
                        format!("{} tells that its log ends at {}", name.unwrap_or_default(), end.unwrap_or_default())
                    });
                    self.propose(ctx, command, REPORT_RETRY_MS, Purpose::Report);
                }
                Outgoing::RoleChanged => {
                    let Some(partition) = self.replicas.by_id.get(&key) else { continue };
                    let (tp, following) = (partition.tp().clone(), partition.following());
                    note_role(ctx, partition);
                    match following {
                        Some(leader) => self.assign(key, leader),
                        None => self.unassign(key),
                    }
                    self.tell_groups(ctx, &tp, key);
                }
                Outgoing::Removed => self.remove(ctx, key),
            }
        }
    }

    fn tell_groups(&mut self, ctx: &mut Ctx<'_>, tp: &TopicPartition, key: Key) {
        if tp.topic.as_str() == OFFSETS_TOPIC {
            self.group_role(ctx, key);
        }
    }

    /// The controller's word about an in-sync set.
    pub(super) fn on_altered(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: Key,
        proposal: &IsrProposal,
        result: Result<CommandResult, NoResult>,
    ) {
        let now_ms = self.now.mono_ms;
        let Some(partition) = self.replicas.by_id.get_mut(&key) else { return };
        // Also an answer that cannot be read is "refused", and that one may be committed.
        let outcome = result.map_or(Err(ErrorCode::RequestTimedOut), alter_outcome);
        let mut out = Vec::new();
        partition.on_alter_result(proposal, outcome, now_ms, &mut out);
        self.deliver(ctx, key, out);
    }
}

/// A topic's settings, with a denser index: the batches here are small, and the logs too short for more than a few entries.
fn settings_of(state: &MetadataState, topic: &Topic, me: NodeId, broker: &BrokerSettings) -> Settings {
    let mut settings = Settings::of(state, topic, me, broker);
    settings.log.index_interval_bytes = INDEX_INTERVAL_BYTES;
    settings
}

fn note_role(ctx: &mut Ctx<'_>, partition: &SimPartition) {
    ctx.note(|| {
        let (tp, replica) = (partition.tp(), partition.replica());
        let (epoch, end, mark) = (replica.leader_epoch(), replica.log_end(), replica.high_watermark());
        let role = match (replica.is_io_fenced(), replica.is_leader(), partition.following()) {
            (true, ..) => "stopped after a storage failure".to_owned(),
            (_, true, _) => "leads".to_owned(),
            (_, _, Some(leader)) => format!("follows b{leader}"),
            _ => "has no leader".to_owned(),
        };
        format!("{tp} {role} in epoch {epoch}, log end {end} watermark {mark}")
    });
}
