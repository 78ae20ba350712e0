//! Three replicas under the real metadata state machine. A seed decides everything else: who produces, which message is
//! lost, delayed, repeated or reordered, who is fenced, stopped, killed (with or without its tail, or with its whole
//! disk), when min.insync.replicas changes, and when each broker hears of what was committed.
//!
//! What is promised: with acks=all and min.insync.replicas of 2 or more, no acknowledged record is lost, however many are
//! killed, as long as one at a time loses what it had. The seed therefore kills whom it likes, stops everyone in order at
//! any time, and takes its tail or disk from one that is killed when whoever lost his before is in sync again. After
//! every step everyone in sync, eligible or last known to be who lost nothing has all that was acknowledged, and nothing
//! that was visible changed. In the end all is repaired, and the partition must be in sync and take records.

mod judge;
mod strike;

use std::collections::BTreeMap;

use chronik_model::{ErrorCode, PartitionIndex, RaftIndex, TopicId, Uuid};

use super::super::waiters::AckWaiters;
use super::sim::{Log, Message, Random, slot};
use super::*;
use crate::controller::{
    AlterConfigs, AlterPartition, Assignment, BeginControlledShutdown, Command, CommandResult, ConfigChange, ConfigOp,
    ConfigResource, CreateTopic, ElectLeaders, ElectionType, Endpoint, Endpoints, Envelope, FenceBroker,
    IsrMember as Member, METADATA_VERSION, MetadataState, ProposalId, RegisterBroker, ReportLog, UnfenceBroker,
    check_invariants,
};

const SEEDS: u64 = 120;
const STEPS: usize = 2_500;
const NODES: [i32; 3] = [1, 2, 3];

fn topic_id() -> TopicId {
    Uuid::from_u128(42)
}

/// What was committed by one command, as far as replicas look at it.
#[derive(Clone)]
struct Committed {
    state: PartitionState,
    brokers: BTreeMap<NodeId, BrokerStatus>,
    min_isr: usize,
}

struct Broker {
    up: bool,
    /// The epoch in its clean-shutdown file.
    clean: BrokerEpoch,
    directory: u128,
    incarnation: u128,
    log: Log,
    replica: PartitionReplica,
    /// Positions in the history: of the partition's state, of the brokers, of this life's registration.
    applied: usize,
    brokers_seen: usize,
    registered: usize,
    parked: AckWaiters<(i64, u64)>,
    last_watermark: Offset,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    acked: usize,
    truncated: usize,
    elected: usize,
    killed: usize,
    lost_records: usize,
    lost_disks: usize,
    stopped: usize,
    joined: usize,
    eligible: usize,
    leaderless: usize,
    longest: usize,
    repeated: usize,
}

struct Sim {
    random: Random,
    now: u64,
    meta: MetadataState,
    entries: Vec<Vec<u8>>,
    history: Vec<Committed>,
    brokers: Vec<Broker>,
    /// Lost something under this epoch and not in sync again since: its log may lack anything.
    tainted: BTreeMap<NodeId, BrokerEpoch>,
    net: Vec<Message>,
    sequence: u64,
    incarnations: u128,
    next_value: u64,
    visible: Vec<(i32, u64)>,
    acked: usize,
    seen: Seen,
}

fn config(min_isr: usize) -> ReplicaConfig {
    ReplicaConfig { min_insync_replicas: Some(min_isr), ..ReplicaConfig::default() }
}

impl Sim {
    fn new(seed: u64) -> Self {
        let brokers = NODES.map(|node| Broker {
            up: false,
            clean: BrokerEpoch::NONE,
            directory: 1_000 + u128::from(node.unsigned_abs()),
            incarnation: 0,
            log: Log::default(),
            replica: PartitionReplica::new(NodeId(node), BrokerEpoch::NONE, config(2), LogFacts::default()),
            applied: 0,
            brokers_seen: 0,
            registered: 0,
            parked: AckWaiters::with_limit(10_000),
            last_watermark: Offset(0),
        });
        let mut sim = Self {
            random: Random(seed),
            now: 1,
            meta: MetadataState::new(),
            entries: Vec::new(),
            history: Vec::new(),
            brokers: brokers.into(),
            tainted: BTreeMap::new(),
            net: Vec::new(),
            sequence: 0,
            incarnations: 0,
            next_value: 0,
            visible: Vec::new(),
            acked: 0,
            seen: Seen::default(),
        };
        for node in NODES {
            let registration = sim.registration(node);
            sim.propose(registration);
            sim.propose(UnfenceBroker { node: NodeId(node), broker_epoch: sim.epoch(node) });
        }
        let replicas = NODES.map(NodeId).to_vec();
        let created = sim.propose(CreateTopic {
            name: "t".into(),
            topic_id: topic_id(),
            partitions: -1,
            replication_factor: -1,
            assignments: vec![Assignment { replicas }],
            configs: BTreeMap::new(),
        });
        assert!(matches!(created, CommandResult::Created(_)), "{created:?}");
        for node in NODES {
            sim.open(node, 0, 0);
        }
        sim
    }

    fn epoch(&self, node: i32) -> BrokerEpoch {
        self.meta.broker(NodeId(node)).map_or(BrokerEpoch::NONE, |broker| broker.epoch)
    }

    fn state(&self) -> &PartitionState {
        self.meta.partition_by_id(topic_id(), PartitionIndex(0)).unwrap()
    }

    // The metadata log.

    fn propose(&mut self, command: impl Into<Command>) -> CommandResult {
        self.sequence += 1;
        let id = ProposalId { origin: NodeId(9), incarnation: Uuid::from_u128(9), sequence: self.sequence };
        self.commit(Envelope::new(id, 0, command).encode())
    }

    fn commit(&mut self, entry: Vec<u8>) -> CommandResult {
        let before = self.meta.partition_by_id(topic_id(), PartitionIndex(0)).cloned();
        let applied = self.meta.apply(RaftIndex(self.meta.applied().0 + 1), &entry);
        check_invariants(&self.meta).unwrap();
        self.entries.push(entry);
        let Some(topic) = self.meta.topic("t") else { return applied.result };
        let state = topic.partition(PartitionIndex(0)).unwrap().clone();
        if let Some(before) = before {
            self.seen.elected += usize::from(before.leader_epoch != state.leader_epoch);
            self.seen.joined += usize::from(state.isr.len() > before.isr.len());
            self.seen.eligible += usize::from(!state.elr.is_empty() && before.elr.is_empty());
            let elected = before.leader.is_none() && state.leader.is_some();
            self.seen.longest += usize::from(elected && before.awaits_reports());
            self.seen.leaderless += usize::from(state.leader.is_none() && before.leader.is_some());
        }
        let status = |node: NodeId| {
            let broker = self.meta.broker(node)?;
            let shutting_down = broker.shutting_down.is_some();
            Some((node, BrokerStatus { epoch: broker.epoch, fenced: broker.fenced, shutting_down }))
        };
        let brokers: BTreeMap<NodeId, BrokerStatus> =
            NODES.into_iter().filter_map(|node| status(NodeId(node))).collect();
        let back = |node: &NodeId, killed: &BrokerEpoch| state.isr.contains(node) && brokers[node].epoch != *killed;
        self.tainted.retain(|node, killed| !back(node, killed));
        let min_isr = self.meta.min_insync_replicas(topic);
        self.history.push(Committed { state, brokers, min_isr });
        applied.result
    }

    fn registration(&mut self, node: i32) -> RegisterBroker {
        self.incarnations += 1;
        let broker = &mut self.brokers[slot(node)];
        broker.incarnation = self.incarnations;
        let endpoint = Endpoint { host: format!("broker-{node}"), port: 1 };
        RegisterBroker {
            node: NodeId(node),
            incarnation: Uuid::from_u128(self.incarnations),
            directories: vec![Uuid::from_u128(broker.directory)],
            cluster_id: "chronik".into(),
            endpoints: Endpoints {
                kafka: endpoint.clone(),
                replication: endpoint.clone(),
                control: endpoint.clone(),
                admin: endpoint,
                listeners: Vec::new(),
            },
            rack: None,
            // The file is deleted before anything else is done.
            previous_broker_epoch: std::mem::replace(&mut broker.clean, BrokerEpoch::NONE),
            software_version: String::new(),
            metadata_version: METADATA_VERSION,
        }
    }

    // What happens.

    fn step(&mut self) {
        let node = NODES[self.random.below(3)];
        let up = self.brokers[slot(node)].up;
        match self.random.below(1_000) {
            0..140 if up => self.produce(node),
            140..400 if up => self.fetch(node),
            400..740 => self.deliver(),
            740..770 => self.lose(),
            770..820 => self.tick(),
            820..910 if up => self.hear(node),
            910..918 => self.fence(node),
            918..958 => self.unfence(node),
            958..963 => {
                self.propose(ElectLeaders { election: ElectionType::Preferred, partitions: Vec::new() });
            }
            963..965 => self.change_min_isr(),
            965..967 if up => {
                self.propose(BeginControlledShutdown { node: NodeId(node), broker_epoch: self.epoch(node) });
            }
            967..971 if up => self.stop(node),
            971..976 if up => self.kill(node),
            976..980 => self.repeat(),
            980..1_000 if !up => self.restart(node),
            _ => {}
        }
        self.check();
    }

    fn fence(&mut self, node: i32) {
        let broker_epoch = self.epoch(node);
        self.propose(FenceBroker { node: NodeId(node), broker_epoch, reason: String::new() });
    }

    fn unfence(&mut self, node: i32) {
        let broker = &self.brokers[slot(node)];
        if broker.up && broker.applied >= broker.registered {
            self.propose(UnfenceBroker { node: NodeId(node), broker_epoch: self.epoch(node) });
        }
    }

    /// Not while there are eligible leaders: the change forgets them (R12), and with them who can be trusted.
    fn change_min_isr(&mut self) {
        if !self.state().elr.is_empty() || !self.state().last_known_elr.is_empty() {
            return;
        }
        let value = if self.random.below(2) == 0 { "2" } else { "3" };
        let change =
            ConfigChange { name: "min.insync.replicas".to_owned(), op: ConfigOp::Set, value: Some(value.to_owned()) };
        let resource = ConfigResource::Topic("t".into());
        self.propose(AlterConfigs { resource, changes: vec![change], replace: false });
    }

    /// Raft may bring a proposal a second time.
    fn repeat(&mut self) {
        let entry = self.entries[self.random.below(self.entries.len())].clone();
        let before = self.state().clone();
        self.commit(entry);
        assert_eq!(*self.state(), before, "a proposal was applied twice");
        self.seen.repeated += 1;
    }

    /// In order: the log is complete on disk, and the file says so.
    fn stop(&mut self, node: i32) {
        let broker = &mut self.brokers[slot(node)];
        (broker.up, broker.clean) = (false, broker.replica.broker_epoch);
        self.seen.stopped += 1;
    }

    fn restart(&mut self, node: i32) {
        let registration = self.registration(node);
        let result = self.propose(registration);
        match result {
            CommandResult::Registered(_) => {
                let (early, keeps) = (self.random.below(4), self.random.below(2));
                self.open(node, early, keeps);
            }
            // A new disk has to wait until the old process is known to be gone.
            CommandResult::Error(error) => assert_eq!(error.code, ErrorCode::DuplicateBrokerRegistration),
            other => panic!("a registration is answered {other:?}"),
        }
    }

    /// The process opens its log and replays the metadata from `early` states before its registration on.
    fn open(&mut self, node: i32, early: usize, keeps_watermark: usize) {
        let registered = self.history.len() - 1;
        let epoch = self.epoch(node);
        let broker = &mut self.brokers[slot(node)];
        let applied = registered.saturating_sub(early);
        let watermark = if keeps_watermark == 0 { 0 } else { broker.replica.high_watermark().0.min(broker.log.end()) };
        let settings = config(self.history[applied].min_isr);
        broker.replica = PartitionReplica::new(NodeId(node), epoch, settings, broker.log.facts(watermark));
        broker.last_watermark = Offset(0);
        broker.parked = AckWaiters::with_limit(10_000);
        (broker.up, broker.applied, broker.brokers_seen, broker.registered) = (true, applied, applied, registered);
        self.apply(node, applied);
    }

    fn produce(&mut self, node: i32) {
        let now = self.now;
        let broker = &mut self.brokers[slot(node)];
        let Ok(epoch) = broker.replica.check_append(-1) else { return };
        self.next_value += 1;
        broker.log.append((epoch.0, self.next_value));
        let end = broker.log.end();
        broker.parked.push(Offset(end), u64::MAX, (end - 1, self.next_value)).unwrap();
        let effects = broker.replica.on_append(Offset(end), now);
        self.run(node, effects);
    }

    fn fetch(&mut self, node: i32) {
        let broker = &self.brokers[slot(node)];
        let Some(request) = broker.replica.follower_fetch_request() else { return };
        let fetch = FollowerFetch {
            replica: NodeId(node),
            replica_epoch: broker.replica.broker_epoch,
            current_leader_epoch: request.current_leader_epoch,
            fetch_offset: request.fetch_offset,
            last_fetched_epoch: request.last_fetched_epoch,
            log_start: request.log_start,
        };
        if self.net.len() < 40 {
            self.net.push(Message::Fetch { request, fetch });
        }
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let position = self.random.below(self.net.len());
        // Proposals linger: what they were made from is often long gone when they are committed.
        if matches!(self.net[position], Message::Alter { .. } | Message::Report { .. }) && self.random.below(4) != 0 {
            return;
        }
        let message =
            if self.random.below(12) == 0 { self.net[position].clone() } else { self.net.swap_remove(position) };
        match message {
            Message::Fetch { request, fetch } => self.serve(request, &fetch),
            Message::Fetched { to, reply, records } => self.replicate(to, &reply, &records),
            Message::Alter { proposal } => {
                let outcome = self.alter(&proposal);
                self.net.push(Message::Altered { proposal, outcome });
            }
            Message::Altered { proposal, outcome } => self.altered(&proposal, outcome),
            Message::Report { claim, last_epoch } => self.report(&claim, last_epoch),
        }
    }

    fn lose(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let position = self.random.below(self.net.len());
        match self.net[position].clone() {
            Message::Fetch { .. } | Message::Fetched { .. } | Message::Report { .. } => {
                drop(self.net.swap_remove(position))
            }
            // The proposer gives up; the proposal itself may still arrive much later.
            Message::Alter { proposal } => self.altered(&proposal, Err(ErrorCode::RequestTimedOut)),
            Message::Altered { proposal, .. } => {
                self.net.swap_remove(position);
                self.altered(&proposal, Err(ErrorCode::RequestTimedOut));
            }
        }
    }

    fn serve(&mut self, request: FollowerRequest, fetch: &FollowerFetch) {
        let (node, now, limit) = (request.leader.0, self.now, 1 + self.random.below(4));
        let broker = &mut self.brokers[slot(node)];
        if !broker.up {
            return;
        }
        let lookup = cache(&broker.log.epochs, broker.log.end());
        let unknown = LeaderMarks { high_watermark: Offset(-1), log_start: Offset(-1) };
        let mut reply = FetchReply { request, error: ErrorCode::None, diverging: None, marks: unknown };
        let (mut records, mut run) = (Vec::new(), Vec::new());
        match broker.replica.on_follower_fetch(fetch, lookup, now) {
            FetchDecision::Error(error) => reply.error = error,
            FetchDecision::Diverging { end, high_watermark, log_start } => {
                reply.diverging = Some(end);
                reply.marks = LeaderMarks { high_watermark, log_start };
            }
            FetchDecision::Read { from, until, high_watermark, log_start, effects } => {
                let range = usize::try_from(from.0).unwrap()..usize::try_from(until.0).unwrap();
                records = broker.log.records[range].iter().take(limit).copied().collect();
                reply.marks = LeaderMarks { high_watermark, log_start };
                run = effects;
            }
        }
        self.run(node, run);
        self.net.push(Message::Fetched { to: fetch.replica.0, reply, records });
    }

    fn replicate(&mut self, node: i32, reply: &FetchReply, records: &[(i32, u64)]) {
        let broker = &mut self.brokers[slot(node)];
        if !broker.up {
            return;
        }
        let lookup = cache(&broker.log.epochs, broker.log.end());
        match broker.replica.on_fetch_response(reply, lookup) {
            FollowerAction::Append(marks) => {
                records.iter().for_each(|record| broker.log.append(*record));
                let epoch = records.last().map(|(epoch, _)| LeaderEpoch(*epoch));
                broker.replica.on_follower_append(Offset(broker.log.end()), epoch, marks);
            }
            FollowerAction::Truncate { to } => {
                self.seen.truncated += 1;
                broker.log.truncate(to.0);
                broker.replica.on_truncated(Offset(0), to, broker.log.latest());
            }
            FollowerAction::Drop | FollowerAction::Retry(_) | FollowerAction::AwaitMetadata(_) => {}
            other => panic!("nothing was ever deleted, yet {other:?}"),
        }
    }

    /// The proposal reaches Raft; one attempt is one proposal, however often it comes.
    fn alter(&mut self, proposal: &IsrProposal) -> Result<PartitionState, ErrorCode> {
        let member = |member: &IsrMember| Member { node: member.node, broker_epoch: member.broker_epoch };
        let command = AlterPartition {
            node: proposal.leader,
            broker_epoch: proposal.broker_epoch,
            topic_id: topic_id(),
            partition: PartitionIndex(0),
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            new_isr: proposal.isr.iter().map(member).collect(),
            recovery: proposal.recovery,
        };
        let incarnation = Uuid::from_u128((1 << 100) | u128::from(proposal.broker_epoch.0.unsigned_abs()));
        let id = ProposalId { origin: proposal.leader, incarnation, sequence: proposal.attempt };
        match self.commit(Envelope::new(id, 0, command).encode()) {
            CommandResult::Partition(state) => Ok(state),
            CommandResult::Error(error) => Err(error.code),
            other => panic!("AlterPartition is answered {other:?}"),
        }
    }

    fn altered(&mut self, proposal: &IsrProposal, outcome: Result<PartitionState, ErrorCode>) {
        let now = self.now;
        let broker = &mut self.brokers[slot(proposal.leader.0)];
        if broker.up && broker.replica.broker_epoch == proposal.broker_epoch {
            let effects = broker.replica.on_alter_partition_result(proposal, outcome, now);
            self.run(proposal.leader.0, effects);
        }
    }

    fn tick(&mut self) {
        self.now += self.random.below(1_500) as u64;
        for node in NODES.into_iter().filter(|node| self.brokers[slot(*node)].up).collect::<Vec<_>>() {
            let effects = self.brokers[slot(node)].replica.tick(self.now);
            self.run(node, effects);
        }
    }

    /// The broker takes over some of what it has not seen. The partition's state, the brokers and the settings are
    /// read at different moments.
    fn hear(&mut self, node: i32) {
        let newest = self.history.len() - 1;
        let broker = &self.brokers[slot(node)];
        match self.random.below(4) {
            0 => {
                let seen = broker.brokers_seen;
                self.brokers[slot(node)].brokers_seen = seen + self.random.below(newest - seen + 1);
                let view = self.history[self.brokers[slot(node)].brokers_seen].brokers.clone();
                let effects = self.brokers[slot(node)].replica.apply_brokers(|n| view.get(&n).copied(), self.now);
                self.run(node, effects);
            }
            1 => {
                let position = broker.applied + self.random.below(newest - broker.applied + 1);
                let settings = config(self.history[position].min_isr);
                let effects = self.brokers[slot(node)].replica.apply_config(settings, self.now);
                self.run(node, effects);
            }
            _ => {
                let unseen = newest - broker.applied;
                let position = broker.applied + self.random.below(unseen.min(6) + 1);
                self.apply(node, position);
            }
        }
    }

    fn apply(&mut self, node: i32, position: usize) {
        let now = self.now;
        let broker = &mut self.brokers[slot(node)];
        // A state comes with the brokers as of that state, and never from before what was heard already.
        let position = position.max(broker.brokers_seen);
        (broker.applied, broker.brokers_seen) = (position, position);
        let view = self.history[position].brokers.clone();
        let state = self.history[position].state.clone();
        let effects = broker.replica.apply_metadata(&state, |n| view.get(&n).copied(), now);
        self.run(node, effects);
    }

    fn run(&mut self, node: i32, effects: Vec<Effect>) {
        let broker = &mut self.brokers[slot(node)];
        for effect in effects {
            match effect {
                Effect::FailWaiters(_) => drop(broker.parked.fail_all()),
                Effect::BecomeLeader { epoch, epoch_start } => broker.log.assign(epoch.0, epoch_start.0),
                Effect::BecomeFollower { truncate_to, .. } => {
                    // Only a log without any epoch is cut at the watermark, and here that is an empty one.
                    assert_eq!(truncate_to, None);
                }
                Effect::ProposeAlterPartition(proposal) => self.net.push(Message::Alter { proposal }),
                Effect::HighWatermark(high_watermark) => {
                    for (offset, value) in broker.parked.release(high_watermark) {
                        if broker.replica.ack_state(Offset(offset + 1)) == AckState::Done {
                            assert_eq!(broker.log.records[usize::try_from(offset).unwrap()].1, value);
                            self.acked = self.acked.max(usize::try_from(offset + 1).unwrap());
                            self.seen.acked += 1;
                        }
                    }
                }
                Effect::NoLeader | Effect::IsrChanged { .. } => {}
                Effect::ReportLog(claim) => {
                    let last_epoch =
                        broker.log.records.last().map_or(LeaderEpoch::NONE, |(epoch, _)| LeaderEpoch(*epoch));
                    self.net.push(Message::Report { claim, last_epoch });
                }
                Effect::Removed => panic!("nobody removes replicas here"),
            }
        }
    }
}

fn run(seed: u64) -> Seen {
    let mut sim = Sim::new(seed);
    for _ in 0..STEPS {
        sim.step();
    }
    sim.heal();
    sim.seen
}

#[test]
fn acknowledged_records_survive_under_the_real_controller() {
    let mut counts = [0; 12];
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let Ok(s) = outcome else { panic!("seed {seed} broke a rule; its message is above") };
        let of_run = [
            s.acked,
            s.truncated,
            s.elected,
            s.killed,
            s.lost_records,
            s.lost_disks,
            s.stopped,
            s.joined,
            s.eligible,
            s.leaderless,
            s.longest,
            s.repeated,
        ];
        counts.iter_mut().zip(of_run).for_each(|(count, more)| *count += more);
    }
    assert!(counts.iter().all(|count| *count as u64 >= SEEDS / 2), "the seeds do too little: {counts:?}");
}

#[test]
fn a_seed_under_the_real_controller_can_be_told_again() {
    assert_eq!(run(11), run(11));
}
