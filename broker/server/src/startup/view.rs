//! What the admin server shows of this broker, gathered from those who know.
//!
//! Made early in the start, when most of it does not exist yet; [`BrokerView::set_data_plane`] adds the rest. Nothing here
//! waits for the Raft thread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chronik_consensus::{NodeStatus, Role};
use chronik_core::controller::{Endpoint, MetadataState};
use chronik_log::{LogDir, LogDirState};
use chronik_model::NodeId;
use futures::future::BoxFuture;

use super::trace::StartupTrace;
use crate::admin::metrics::Sample;
use crate::admin::{PeerAnswer, ProbeFailure, Status, View, process, status as page};
use crate::api::Api;
use crate::config::Config;
use crate::control::Myself;
use crate::driver::meta_client::Meta;
use crate::driver::{Shared, clock};
use crate::net::NetMetrics;
use crate::peer::control::StatusError;
use crate::peer::discovery::Discovery;
use crate::peer::transport::{ConnectError, Transport};
use crate::replication::{Groups, ReplicaManager};
use crate::telemetry::Switch;

/// What exists only once clients are served.
#[derive(Clone)]
pub struct DataPlane {
    /// The replicas.
    pub replicas: Arc<ReplicaManager>,
    /// The groups.
    pub groups: Arc<Groups>,
    /// The handlers.
    pub api: Arc<Api>,
    /// Counters of the client listener.
    pub net: Arc<NetMetrics>,
}

/// The picture of this broker.
pub struct BrokerView {
    /// Settings.
    pub config: Arc<Config>,
    /// The metadata.
    pub meta: Meta,
    /// Peers.
    pub transport: Transport,
    /// Names.
    pub discovery: Arc<Discovery>,
    /// The data directory.
    pub log_dir: Arc<LogDir>,
    /// Start-up.
    pub trace: StartupTrace,
    /// Events.
    pub switch: Switch,
    /// When the process started.
    pub started: Instant,
    /// Told to stop.
    pub stopping: AtomicBool,
    data_plane: OnceLock<DataPlane>,
}

/// Longest wait for a peer's answer to the doctor.
const ASK: Duration = Duration::from_millis(1800);

impl std::fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPlane").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for BrokerView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerView").field("node", &self.config.node_id).finish_non_exhaustive()
    }
}

impl BrokerView {
    /// A picture without data plane.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "each is another owner of facts")]
    pub fn new(
        config: Arc<Config>,
        meta: Meta,
        transport: Transport,
        discovery: Arc<Discovery>,
        log_dir: Arc<LogDir>,
        trace: StartupTrace,
        switch: Switch,
        started: Instant,
    ) -> Arc<Self> {
        let (stopping, data_plane) = (AtomicBool::new(false), OnceLock::new());
        Arc::new(Self { config, meta, transport, discovery, log_dir, trace, switch, started, stopping, data_plane })
    }

    /// Clients are served from now on.
    pub fn set_data_plane(&self, plane: DataPlane) {
        let _first = self.data_plane.set(plane);
    }

    fn shared(&self) -> &Arc<Shared> {
        self.meta.shared()
    }

    fn members(&self) -> BTreeSet<NodeId> {
        let status = self.shared().status.load();
        status.as_ref().map(|s| s.voters.iter().chain(&s.learners).copied().collect()).unwrap_or_default()
    }

    fn peer_ids(&self) -> BTreeSet<NodeId> {
        let mut ids = self.members();
        ids.extend(self.shared().bootstrap_voters.iter().copied());
        ids.extend(self.transport.directory().all().into_iter().map(|(id, _)| id));
        ids.remove(&self.shared().node);
        ids
    }

    fn raft(&self, links: &[crate::peer::transport::LinkStatus], hash: bool) -> page::Raft {
        let shared = self.shared();
        let counters = &shared.counters;
        let now = clock::mono_ms();
        let oldest = counters.oldest_proposal_ms.load(Ordering::Relaxed);
        let mut raft = shared.status.load().as_ref().map(|status| replica(status)).unwrap_or_default();
        let leadership = *shared.leadership.borrow();
        raft.failure = shared.failure.lock().clone();
        if raft.failure.is_some() {
            raft.leader = None;
        }
        raft.term = raft.term.max(leadership.term);
        raft.applied = shared.applied.borrow().0;
        raft.pending_proposals = counters.pending_proposals.load(Ordering::Relaxed);
        raft.oldest_proposal_ms = if oldest == 0 { 0 } else { now.saturating_sub(oldest) };
        raft.leader_changes = counters.leader_changes.load(Ordering::Relaxed);
        raft.entries_applied = counters.entries_applied.load(Ordering::Relaxed);
        for link in links {
            add(&mut raft.messages_out, &link.sent);
            add(&mut raft.messages_in, &link.received);
        }
        if hash {
            raft.metadata_hash = Some(format!("{:016x}", shared.state.read().hash()));
        }
        raft
    }

    fn peers(&self, links: Vec<crate::peer::transport::LinkStatus>) -> Vec<page::Peer> {
        let unresolved = self.discovery.status().unresolved;
        let mut peers: BTreeMap<i32, page::Peer> =
            self.peer_ids().into_iter().map(|id| (id.0, page::Peer { node: id.0, ..page::Peer::default() })).collect();
        for link in links {
            let name = self.transport.directory().get(NodeId(link.peer)).ok().map(|a| a.host().to_owned());
            let peer = page::Peer {
                node: link.peer,
                address: link.address,
                dns_name: name.filter(|host| host.parse::<IpAddr>().is_err()),
                dns_error: unresolved.get(&link.peer).cloned(),
                connected: link.state == "connected",
                last_error: link.last_error,
                last_received_ms_ago: link.inbound.as_ref().map(|inbound| inbound.silent_ms),
                last_sent_ms_ago: link.last_sent_ms_ago,
                sent: link.sent.values().sum(),
                received: link.received.values().sum(),
                dropped: link.send_dropped,
                queued: link.queued as u64,
                connects: link.connects,
            };
            peers.insert(link.peer, peer);
        }
        peers.into_values().collect()
    }

    fn brokers(&self) -> Vec<page::Broker> {
        let state = self.shared().state.read();
        let show = |broker: &chronik_core::controller::Broker| page::Broker {
            node: broker.node.0,
            kafka_address: at(&broker.endpoints.kafka),
            admin_address: at(&broker.endpoints.admin),
            epoch: broker.epoch.0,
            fenced: broker.fenced,
            shutting_down: broker.shutting_down.is_some(),
            rack: broker.rack.clone(),
            log_dir_offline: !broker.offline_dirs.is_empty(),
        };
        state.brokers().map(show).collect()
    }

    fn log_dir_page(&self) -> page::LogDir {
        let space = self.log_dir.disk().space().ok();
        let (state, reason) = match self.log_dir.state() {
            LogDirState::Online => ("online", None),
            LogDirState::Offline { reason } => ("offline", Some(reason)),
        };
        page::LogDir {
            path: self.config.data_dir.display().to_string(),
            state: state.to_owned(),
            reason,
            free_bytes: space.map_or(0, |s| s.free),
            total_bytes: space.map_or(0, |s| s.total),
        }
    }

    fn replication(&self, detail: bool) -> (page::Replication, Vec<page::Partition>) {
        let me = self.shared().node;
        let mut numbers = count(&self.shared().state.read(), me);
        let Some(plane) = self.data_plane.get() else { return (numbers, Vec::new()) };
        let snapshot = plane.replicas.snapshot(Some(&plane.groups));
        numbers.bytes_in = snapshot.bytes_in;
        numbers.records_in = snapshot.records_in;
        numbers.bytes_out = snapshot.bytes_out;
        numbers.replication_bytes_in = snapshot.replicated_in;
        numbers.groups = snapshot.groups.iter().map(|shard| shard.groups as u64).sum();
        let unloaded = snapshot.groups.into_iter().filter_map(|shard| Some((shard.partition, shard.failed?)));
        numbers.unloaded_groups =
            unloaded.map(|(partition, reason)| page::UnloadedGroups { partition, reason }).collect();
        numbers.connections = plane.net.snapshot().open;
        numbers.fetchers = snapshot
            .fetchers
            .into_iter()
            .map(|f| page::Fetcher { leader: f.leader, partitions: f.partitions as u64, state: f.state })
            .collect();
        let leading = snapshot.partitions.iter().filter(|p| p.role == "leader");
        numbers.max_lag = leading.map(|p| u64::try_from(p.log_end - p.high_watermark).unwrap_or(0)).max().unwrap_or(0);
        if !detail {
            return (numbers, Vec::new());
        }
        let partitions = snapshot.partitions.into_iter().map(|p| page::Partition {
            topic: p.topic,
            partition: p.partition,
            role: if p.offline { "offline".to_owned() } else { p.role.to_owned() },
            leader: (p.leader > 0).then_some(p.leader),
            leader_epoch: p.leader_epoch,
            isr: p.isr,
            replicas: p.replicas,
            high_watermark: p.high_watermark,
            log_end: p.log_end,
            log_start: p.log_start,
            bytes: p.size_bytes,
        });
        (numbers, partitions.collect())
    }

    async fn ask_peer(&self, peer: NodeId) -> Result<PeerAnswer, ProbeFailure> {
        let begin = Instant::now();
        let before = clock::wall_ms();
        let reply = self.meta.control().status(peer, ASK).await.map_err(|error| self.failure(peer, error))?;
        let round_trip = begin.elapsed();
        let other = |error: String| ProbeFailure::Other { address: self.address(peer), error };
        let answer = PeerAnswer::new(&reply.json, reply.wall_ms, before, round_trip);
        let answer = answer.map_err(|error| other(error.to_string()))?;
        match answer.status.node_id {
            0 => Ok(answer),
            node if node == peer.0 => Ok(answer),
            node => Err(other(format!("it is broker {node}"))),
        }
    }

    fn address(&self, peer: NodeId) -> String {
        self.transport.directory().get(peer).map_or_else(|_| "(no address)".to_owned(), |a| a.to_string())
    }

    fn failure(&self, peer: NodeId, error: StatusError) -> ProbeFailure {
        let address = self.address(peer);
        match error {
            StatusError::Timeout => ProbeFailure::Silent { address },
            StatusError::Failed(status) => ProbeFailure::Other { address, error: status.message().to_owned() },
            StatusError::Connect(error) => match error {
                ConnectError::Unregistered(_) => ProbeFailure::Unregistered,
                ConnectError::Dns(error) => {
                    let name = self.transport.directory().get(peer).map(|a| a.host().to_owned()).unwrap_or_default();
                    ProbeFailure::Name { name, error: error.to_string() }
                }
                ConnectError::Refused(_) => ProbeFailure::Refused { address },
                ConnectError::Timeout(_) => ProbeFailure::Silent { address },
                // "No route to host" and its like: nobody answers for the address.
                ConnectError::Socket { .. } => ProbeFailure::Silent { address },
                ConnectError::Protocol { problem, .. } => ProbeFailure::Other { address, error: problem },
                ConnectError::Greeting(refused) => ProbeFailure::Other { address, error: refused.message },
            },
        }
    }
}

impl View for BrokerView {
    fn status(&self, detail: bool) -> Status {
        let links = self.transport.status();
        let ready = self.ready();
        let startup = self.trace.show();
        let state = if self.stopping.load(Ordering::Acquire) {
            "stopping"
        } else if ready.is_ok() {
            "ready"
        } else if startup.current.is_some() {
            "starting"
        } else {
            "not ready"
        };
        let (replication, partitions) = self.replication(detail);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.shared().cluster_id.read().as_ref().map(ToString::to_string),
            node_id: self.shared().node.0,
            incarnation: self.shared().incarnation.to_string(),
            kafka_address: format!("{}:{}", self.config.advertised_host, self.config.advertised_kafka_port()),
            state: state.to_owned(),
            not_ready_because: ready.err(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall_clock_ms: clock::wall_ms(),
            startup,
            raft: self.raft(&links, detail),
            peers: self.peers(links),
            brokers: self.brokers(),
            log_dir: self.log_dir_page(),
            replication,
            partitions,
            process: process::sample(),
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Acquire) {
            return Err("stopping".into());
        }
        self.shared().ready()?;
        if let LogDirState::Offline { reason } = self.log_dir.state() {
            return Err(format!("the log directory is offline: {reason}"));
        }
        match (self.data_plane.get(), self.trace.show().current) {
            (Some(_), None) => Ok(()),
            (_, step) => Err(format!("starting: {}", step.unwrap_or_default())),
        }
    }

    fn peers(&self) -> Vec<NodeId> {
        self.peer_ids().into_iter().collect()
    }

    fn ask(&self, peer: NodeId) -> BoxFuture<'_, Result<PeerAnswer, ProbeFailure>> {
        Box::pin(self.ask_peer(peer))
    }

    fn metrics(&self) -> Sample {
        let counts = self.data_plane.get().map(|plane| plane.api.metrics.snapshot()).unwrap_or_default();
        let requests = counts.into_iter().map(|count| (count.api, count.requests)).collect();
        Sample { status: self.status(false), requests }
    }

    fn set_tracing(&self, filter: &str) -> Result<(), String> {
        self.switch.set(filter)
    }
}

impl Myself for BrokerView {
    fn readiness(&self) -> Result<(), String> {
        self.ready()
    }

    fn space(&self) -> (u64, u64) {
        self.log_dir.disk().space().map_or((0, 0), |space| (space.free, space.total))
    }

    fn log_dir_offline(&self) -> bool {
        matches!(self.log_dir.state(), LogDirState::Offline { .. })
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn sizes(&self) -> Vec<(String, i32, u64)> {
        let Some(plane) = self.data_plane.get() else { return Vec::new() };
        let partitions = plane.replicas.snapshot(None).partitions.into_iter();
        partitions.map(|partition| (partition.topic, partition.partition, partition.size_bytes)).collect()
    }
}

/// How the partitions of the cluster are, seen by `me`.
fn count(state: &MetadataState, me: NodeId) -> page::Replication {
    let mut numbers = page::Replication { topics: state.topics().count() as u64, ..page::Replication::default() };
    let mut awaited = BTreeSet::new();
    for topic in state.topics() {
        let configured = state.configured_min_isr(topic);
        for (_, partition) in topic.iter() {
            numbers.partitions += 1;
            numbers.leaderless += u64::from(partition.leader.is_none());
            awaited.extend(state.awaited(partition).map(|node| node.0));
            numbers.under_replicated += u64::from(partition.isr.len() < partition.replicas.len());
            // Partitions of one topic may have different numbers of replicas.
            numbers.under_min_isr += u64::from(partition.isr.len() < partition.min_isr(configured));
            numbers.leading += u64::from(partition.leader == Some(me));
            numbers.following += u64::from(partition.leader != Some(me) && partition.replicas.contains(&me));
        }
    }
    numbers.awaited = awaited.into_iter().collect();
    numbers
}

fn at(endpoint: &Endpoint) -> String {
    format!("{}:{}", endpoint.host, endpoint.port)
}

fn add(sums: &mut BTreeMap<String, u64>, counts: &BTreeMap<&'static str, u64>) {
    for (kind, count) in counts {
        *sums.entry((*kind).to_owned()).or_default() += count;
    }
}

fn replica(status: &NodeStatus) -> page::Raft {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect();
    let learner = !status.voter && status.role == Role::Follower;
    page::Raft {
        role: if learner { "learner" } else { status.role.as_str() }.to_owned(),
        term: status.term.0,
        vote: status.vote.map(|id| id.0),
        leader: status.leader.map(|id| id.0),
        commit: status.commit.0,
        first_index: status.first_index.0,
        last_index: status.last_index.0,
        snapshot_index: status.snapshot_index.0,
        unstable_entries: status.unstable_entries as u64,
        voters: ids(&status.voters),
        learners: ids(&status.learners),
        elections: status.elections_started,
        progress: status
            .peers
            .iter()
            .map(|peer| page::Progress {
                node: peer.node.0,
                matched: peer.matched.0,
                next: peer.next.0,
                state: peer.state.as_str().to_owned(),
                paused: peer.paused,
                pending_snapshot: peer.pending_snapshot.map_or(0, |index| index.0),
                recent_active: peer.recent_active,
            })
            .collect(),
        ..page::Raft::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chronik_core::controller::{
        AlterReassignments, Assignment, Command, CommandResult, CreateTopic, Endpoints, Envelope, METADATA_VERSION,
        ProposalId, Reassignment, RegisterBroker, UnfenceBroker,
    };
    use chronik_model::{BrokerEpoch, PartitionIndex, RaftIndex, TopicId, Uuid};

    use super::*;

    fn commit(state: &mut MetadataState, command: impl Into<Command>) -> CommandResult {
        let index = RaftIndex(state.applied().0 + 1);
        let id = ProposalId { origin: NodeId(9), incarnation: Uuid([9; 16]), sequence: index.0 };
        state.apply_envelope(index, &Envelope::new(id, 1, command)).result.ok().unwrap()
    }

    #[test]
    fn a_partition_with_fewer_replicas_than_the_others_of_its_topic_is_judged_by_its_own() {
        let mut state = MetadataState::new();
        let ids = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        for node in [1, 2, 3] {
            let endpoint = Endpoint { host: "h".into(), port: 1 };
            let registered = commit(
                &mut state,
                RegisterBroker {
                    node: NodeId(node),
                    incarnation: Uuid([node as u8; 16]),
                    directories: vec![Uuid([100 + node as u8; 16])],
                    cluster_id: "c".into(),
                    endpoints: Endpoints {
                        kafka: endpoint.clone(),
                        replication: endpoint.clone(),
                        control: endpoint.clone(),
                        admin: endpoint,
                        listeners: Vec::new(),
                    },
                    rack: None,
                    previous_broker_epoch: BrokerEpoch::NONE,
                    software_version: String::new(),
                    metadata_version: METADATA_VERSION,
                },
            );
            let CommandResult::Registered(broker_epoch) = registered else { panic!("{registered:?}") };
            commit(&mut state, UnfenceBroker { node: NodeId(node), broker_epoch });
        }
        let replicas = |nodes: &[i32]| Assignment { replicas: ids(nodes) };
        let topic_id = TopicId::from_u128(1);
        commit(
            &mut state,
            CreateTopic {
                name: "t".into(),
                topic_id,
                partitions: 2,
                replication_factor: 3,
                assignments: vec![replicas(&[1, 2, 3]), replicas(&[1, 2, 3])],
                configs: BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]),
            },
        );
        let fewer = Reassignment {
            topic_id,
            partition: PartitionIndex(1),
            target: Some(replicas(&[1])),
            partition_epoch: None,
        };
        commit(&mut state, AlterReassignments { reassignments: vec![fewer], keep_replication_factor: false });
        let numbers = count(&state, NodeId(2));
        assert_eq!(state.topic("t").unwrap().partitions[1].isr, ids(&[1]), "the story needs it");
        assert_eq!((numbers.partitions, numbers.under_min_isr, numbers.under_replicated), (2, 0, 0));
        assert_eq!((numbers.leading, numbers.following), (0, 1));
    }
}
