//! Whole quorums in one thread: virtual time, disks and a network in memory.

mod versions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_consensus::{Config, Membership, MembershipChange, Start};
use chronik_core::controller::{
    Change, CommandResult, CreateTopic, Endpoint, Endpoints, Envelope, Heartbeat, HeartbeatReply, LivenessConfig,
    METADATA_VERSION, ProposalId, RegisterBroker,
};
use chronik_log::disk::{Fault, MemDisk, Operation};
use chronik_model::{BrokerEpoch, ClusterId, TopicId, Uuid};

use super::*;

type Number = u32;

/// Notes everything.
#[derive(Default)]
struct Recorder {
    out: Vec<RaftMessage>,
    images: Vec<RaftMessage>,
    leadership: Option<Leadership>,
    members: Vec<NodeId>,
    replaced: usize,
    applied: RaftIndex,
    changes: Vec<Change>,
    addresses: BTreeMap<NodeId, Endpoint>,
    stopped: Vec<String>,
    proposals: u64,
    proposed: BTreeMap<Number, ProposeAnswer>,
    reads: BTreeMap<Number, Option<RaftIndex>>,
    membership: BTreeMap<Number, Result<Membership, MembershipError>>,
    transfers: BTreeMap<Number, Result<NodeId, TransferError>>,
    heartbeats: BTreeMap<Number, Option<HeartbeatReply>>,
    /// Askers that went away.
    away: BTreeSet<Number>,
}

impl Host for Recorder {
    type Propose = Number;
    type Read = Number;
    type Membership = Number;
    type Transfer = Number;
    type Heartbeat = Number;

    fn send(&mut self, message: RaftMessage) -> bool {
        self.out.push(message);
        true
    }
    fn send_snapshot(&mut self, message: RaftMessage) {
        self.images.push(message);
    }
    fn role(&mut self, now: Leadership) {
        self.leadership = Some(now);
    }
    fn members(&mut self, members: &Membership) {
        self.members = members.members();
    }
    fn replaced(&mut self) {
        self.replaced += 1;
    }
    fn applied(&mut self, index: RaftIndex) {
        assert!(index > self.applied, "in order: {index} after {}", self.applied);
        self.applied = index;
    }
    fn changes(&mut self, changes: Vec<Change>) {
        assert!(!changes.is_empty());
        self.changes.extend(changes);
    }
    fn learn_address(&mut self, node: NodeId, control: &Endpoint) {
        self.addresses.insert(node, control.clone());
    }
    fn stopped(&mut self, failure: &StorageFailed) {
        self.stopped.push(failure.to_string());
    }
    fn next_proposal(&mut self) -> u64 {
        self.proposals += 1;
        self.proposals
    }
    fn answer_propose(&mut self, asker: Number, answer: ProposeAnswer) {
        assert_eq!(self.proposed.insert(asker, answer), None, "answered once");
    }
    fn answer_read(&mut self, asker: Number, answer: Option<RaftIndex>) {
        assert_eq!(self.reads.insert(asker, answer), None, "answered once");
    }
    fn answer_membership(&mut self, asker: Number, answer: Result<Membership, MembershipError>) {
        assert_eq!(self.membership.insert(asker, answer), None, "answered once");
    }
    fn answer_transfer(&mut self, asker: Number, answer: Result<NodeId, TransferError>) {
        assert_eq!(self.transfers.insert(asker, answer), None, "answered once");
    }
    fn answer_heartbeat(&mut self, asker: Number, answer: Option<HeartbeatReply>) {
        self.heartbeats.insert(asker, answer);
    }
    fn wants_propose(&self, asker: &Number) -> bool {
        !self.away.contains(asker)
    }
    fn wants_read(&self, asker: &Number) -> bool {
        !self.away.contains(asker)
    }
}

struct Node {
    quorum: Quorum<MemDisk, Recorder>,
    host: Recorder,
    disk: MemDisk,
}

impl Node {
    fn open(id: i32, disk: MemDisk, start: &Start, run: u8, now: Now) -> Self {
        // Small limits, so that a short test sees the log compacted and a state image sent.
        let config = Config {
            seed: u64::from(run),
            incarnation: u64::from(run),
            compact_entries: 20,
            compact_keep_entries: 4,
            ..Config::new(NodeId(id))
        };
        let (replica, recovered) = Replica::open(config, disk.clone(), "raft", start, now.mono_ms).unwrap();
        let state = Arc::new(RwLock::new(MetadataState::new()));
        let applied = restore(&recovered, &state).unwrap();
        let parts = Parts {
            replica,
            state,
            applied,
            incarnation: Uuid([run; 16]),
            liveness: Liveness::new(LivenessConfig::default()),
        };
        let mut host = Recorder { applied, ..Recorder::default() };
        let quorum = Quorum::new(parts, &mut host, now);
        Self { quorum, host, disk }
    }

    fn leads(&self) -> bool {
        self.host.leadership.is_some_and(|l| l.role == Role::Leader)
    }

    fn has_topic(&self, name: &str) -> bool {
        self.quorum.state().read().topic(name).is_some()
    }
}

struct World {
    nodes: BTreeMap<i32, Node>,
    mono_ms: u64,
    /// Nothing comes from or goes to these.
    cut: BTreeSet<i32>,
    asked: Number,
}

impl World {
    fn new(voters: i32) -> Self {
        let mut world = Self { nodes: BTreeMap::new(), mono_ms: 5_000, cut: BTreeSet::new(), asked: 0 };
        let start = Start::Bootstrap { voters: (1..=voters).map(NodeId).collect() };
        for id in 1..=voters {
            world.nodes.insert(id, Node::open(id, MemDisk::new(), &start, id as u8, world.now()));
        }
        world.connect_all();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, wall_ms: 1_000_000 + self.mono_ms as i64 }
    }

    fn connect_all(&mut self) {
        let ids: Vec<i32> = self.nodes.keys().copied().collect();
        for (a, b) in ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b) {
            self.input(a, Input::PeerConnected { peer: NodeId(b), leader: None });
        }
    }

    fn input(&mut self, id: i32, input: Input<Recorder>) {
        let now = self.now();
        let node = self.nodes.get_mut(&id).unwrap();
        node.quorum.handle(&mut node.host, now, input);
    }

    fn ask(&mut self, id: i32, question: impl FnOnce(Number) -> Input<Recorder>) -> Number {
        self.asked += 1;
        self.input(id, question(self.asked));
        self.asked
    }

    /// Every quorum has its turns, and messages arrive, until nothing more happens at this moment.
    fn settle(&mut self) {
        loop {
            let now = self.now();
            let mut mail = VecDeque::new();
            for node in self.nodes.values_mut() {
                let _failed = node.quorum.turn(&mut node.host, now);
                let images = std::mem::take(&mut node.host.images);
                for image in &images {
                    let sent = Input::SnapshotSent { peer: node_of(image.to), delivered: true };
                    node.quorum.handle(&mut node.host, now, sent);
                }
                mail.extend(std::mem::take(&mut node.host.out).into_iter().chain(images));
            }
            let now_ms = self.mono_ms;
            if mail.is_empty() && self.nodes.values().all(|node| node.quorum.wake_at(now_ms) > now_ms) {
                return;
            }
            for message in mail {
                let (from, to) = (message.from as i32, message.to as i32);
                if !self.cut.contains(&from) && !self.cut.contains(&to) && self.nodes.contains_key(&to) {
                    self.input(to, Input::Message(message));
                }
            }
        }
    }

    /// Time goes on from deadline to deadline.
    fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let end = self.mono_ms + 60_000;
        loop {
            self.settle();
            if reached(self) {
                return;
            }
            let wake = self.nodes.values().map(|node| node.quorum.wake_at(self.mono_ms)).min().unwrap();
            assert!(wake < end, "never: {what}");
            self.mono_ms = wake.max(self.mono_ms + 1);
        }
    }

    fn leader(&self) -> Option<i32> {
        let leads = |(id, node): (&i32, &Node)| (!self.cut.contains(id) && node.leads()).then_some(*id);
        self.nodes.iter().find_map(leads)
    }

    fn elect(&mut self) -> i32 {
        self.until("a leader that drives sessions", |world| {
            world.leader().is_some_and(|id| world.nodes[&id].quorum.drives_liveness())
        });
        self.leader().unwrap()
    }

    fn follower(&self) -> i32 {
        *self.nodes.iter().find(|(id, node)| !node.leads() && !self.cut.contains(id)).unwrap().0
    }

    fn propose(&mut self, id: i32, command: impl Into<Command>) -> Number {
        let origin =
            ProposalId { origin: NodeId(id), incarnation: Uuid([200; 16]), sequence: u64::from(self.asked) + 1 };
        let envelope = Envelope::new(origin, 0, command).encode();
        self.ask(id, |asker| Input::Propose(envelope.into(), asker))
    }

    fn answer(&self, id: i32, asked: Number) -> Option<&ProposeAnswer> {
        self.nodes[&id].host.proposed.get(&asked)
    }

    /// Proposes at the leader and waits for the result.
    fn run(&mut self, leader: i32, command: impl Into<Command>) -> CommandResult {
        let asked = self.propose(leader, command);
        self.until("an answer", |world| world.answer(leader, asked).is_some());
        match self.answer(leader, asked) {
            Some(ProposeAnswer::Applied(_, result)) => result.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn register(&mut self, leader: i32, id: i32) -> BrokerEpoch {
        let endpoint = Endpoint { host: format!("host-{id}"), port: 9192 };
        let command = RegisterBroker {
            node: NodeId(id),
            incarnation: Uuid([id as u8; 16]),
            directories: vec![Uuid([100 + id as u8; 16])],
            cluster_id: ClusterId::from("c"),
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
        };
        match self.run(leader, command) {
            CommandResult::Registered(epoch) => epoch,
            other => panic!("{other:?}"),
        }
    }

    fn beat(&mut self, leader: i32, id: i32, broker_epoch: BrokerEpoch) -> Option<HeartbeatReply> {
        let applied = self.nodes[&leader].quorum.applied();
        let beat =
            Heartbeat { node: NodeId(id), broker_epoch, applied, wants_shutdown: false, offline_dirs: Vec::new() };
        let asked = self.ask(leader, |asker| Input::Heartbeat(beat, asker));
        self.nodes[&leader].host.heartbeats[&asked]
    }

    fn is_fenced(&self, at: i32, id: i32) -> bool {
        self.nodes[&at].quorum.state().read().broker(NodeId(id)).unwrap().fenced
    }
}

fn topic(name: &str) -> CreateTopic {
    CreateTopic {
        name: name.into(),
        topic_id: TopicId::from_u128(name.bytes().fold(7, |id, byte| id * 256 + u128::from(byte))),
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: BTreeMap::new(),
    }
}

/// A cluster with one broker that can hold topics.
fn ready(voters: i32) -> (World, i32) {
    let mut world = World::new(voters);
    let leader = world.elect();
    let epoch = world.register(leader, leader);
    world.beat(leader, leader, epoch);
    world.until("the broker is let in", |world| !world.is_fenced(leader, leader));
    (world, leader)
}

#[test]
fn a_proposal_is_answered_when_it_is_applied_and_everybody_applies_it() {
    let (mut world, leader) = ready(3);
    assert!(matches!(world.run(leader, topic("t")), CommandResult::Created(_)));
    assert!(world.nodes[&leader].has_topic("t"), "whoever has the answer reads it here");
    world.until("everybody has it", |world| world.nodes.values().all(|node| node.has_topic("t")));
    for (id, node) in &world.nodes {
        assert_eq!(node.host.applied, node.quorum.applied());
        assert_eq!(node.host.addresses.contains_key(&NodeId(leader)), *id != leader, "addresses of others");
        assert!(node.host.changes.iter().any(|change| matches!(change, Change::Broker { .. })));
    }
    assert_eq!(world.nodes[&leader].quorum.waiting(), (0, None));
}

#[test]
fn who_does_not_lead_says_who_does_and_proposes_nothing() {
    let (mut world, leader) = ready(3);
    let follower = world.follower();
    let asked = world.propose(follower, topic("t"));
    assert_eq!(world.answer(follower, asked), Some(&ProposeAnswer::NotLeader(Some(NodeId(leader)))));
    assert_eq!(world.beat(follower, 1, BrokerEpoch(1)), None);
    let asked = world.ask(follower, |asker| Input::Transfer(None, asker));
    let refused = &world.nodes[&follower].host.transfers[&asked];
    assert!(matches!(refused, Err(TransferError::NotLeader { leader: Some(id) }) if *id == NodeId(leader)));
    world.until("time passes", |world| world.mono_ms > 20_000);
    assert!(!world.nodes[&leader].has_topic("t"));
}

#[test]
fn nothing_is_proposed_for_somebody_who_went_away() {
    let (mut world, leader) = ready(1);
    let before = world.nodes[&leader].quorum.status().last_index;
    world.nodes.get_mut(&leader).unwrap().host.away.insert(world.asked + 1);
    let asked = world.propose(leader, topic("t"));
    world.settle();
    assert_eq!(world.answer(leader, asked), None);
    assert_eq!(world.nodes[&leader].quorum.status().last_index, before);
}

#[test]
fn a_leader_cut_off_tells_its_proposers_that_it_does_not_know_and_what_it_had_is_gone() {
    let (mut world, old) = ready(3);
    world.cut.insert(old);
    let lost = world.propose(old, topic("lost"));
    let members = world.ask(old, |asker| Input::Membership(MembershipChange::AddLearner(NodeId(9)), asker));
    world.settle();
    assert_eq!(world.answer(old, lost), None, "nobody acknowledged it");
    assert_eq!(world.nodes[&old].quorum.waiting().0, 2);
    let new = world.elect();
    assert_ne!(new, old);
    world.run(new, topic("kept"));
    world.until("the old leader notices", |world| !world.nodes[&old].leads());
    assert_eq!(world.answer(old, lost), Some(&ProposeAnswer::Unknown));
    assert!(matches!(world.nodes[&old].host.membership[&members], Err(MembershipError::Dropped)));
    assert_eq!(world.nodes[&old].quorum.waiting(), (0, None));
    assert!(!world.nodes[&old].quorum.drives_liveness());
    world.cut.clear();
    world.until("the old leader follows", |world| world.nodes[&old].has_topic("kept"));
    assert!(world.nodes.values().all(|node| !node.has_topic("lost")));
}

#[test]
fn a_read_is_answered_once_the_state_has_what_was_committed_before_it() {
    let (mut world, leader) = ready(3);
    let follower = world.follower();
    world.run(leader, topic("t"));
    let committed = world.nodes[&leader].quorum.applied();
    let asked = world.ask(follower, Input::ReadIndex);
    world.until("an answer", |world| world.nodes[&follower].host.reads.contains_key(&asked));
    let index = world.nodes[&follower].host.reads[&asked].unwrap();
    assert!(index >= committed && world.nodes[&follower].quorum.applied() >= index);
    assert!(world.nodes[&follower].has_topic("t"));
    // Without a majority nobody may say so.
    world.cut.insert(follower);
    let alone = world.ask(follower, Input::ReadIndex);
    world.until("time passes", |world| world.mono_ms > 30_000);
    assert_eq!(world.nodes[&follower].host.reads.get(&alone), None);
}

#[test]
fn who_was_away_for_long_gets_a_snapshot_and_goes_on_from_there() {
    let (mut world, leader) = ready(3);
    let away = world.follower();
    world.cut.insert(away);
    for number in 0..40 {
        world.run(leader, topic(&format!("t{number}")));
    }
    assert!(world.nodes[&leader].quorum.status().snapshot_index.0 > 0, "compacted");
    world.cut.clear();
    let leader = world.elect();
    let read = world.ask(away, Input::ReadIndex);
    world.run(leader, topic("after"));
    world.until("it has caught up", |world| world.nodes[&away].has_topic("after"));
    world.until("the read is answered", |world| world.nodes[&away].host.reads.contains_key(&read));
    assert_eq!(world.nodes[&away].host.replaced, 1);
    assert!(world.nodes[&away].has_topic("t0") && world.nodes[&away].has_topic("t39"));
    world.until("all agree", |world| {
        let hashes: BTreeSet<u64> = world.nodes.values().map(|node| node.quorum.state().read().hash()).collect();
        hashes.len() == 1
    });
    // And the state comes back from the snapshot and what follows it.
    let disk = world.nodes[&away].disk.clone();
    let hash = world.nodes[&away].quorum.state().read().hash();
    disk.crash(1);
    world.nodes.insert(away, Node::open(away, disk, &Start::Join, 77, world.now()));
    assert!(world.nodes[&away].quorum.applied().0 > 0);
    assert!(world.nodes[&away].host.addresses.contains_key(&NodeId(leader)), "told from the start");
    world.until("as before", |world| world.nodes[&away].quorum.state().read().hash() == hash);
}

#[test]
fn a_storage_failure_ends_all_promises_and_leaves_nobody_waiting() {
    let (mut world, leader) = ready(3);
    world.cut.extend(world.nodes.keys().copied().filter(|id| *id != leader).collect::<Vec<_>>());
    let read = world.ask(leader, Input::ReadIndex);
    world.settle();
    world.nodes[&leader].disk.inject(Fault::Fail(Operation::Append, 1));
    let pending = world.propose(leader, topic("t"));
    let now = world.now();
    let node = world.nodes.get_mut(&leader).unwrap();
    node.host.out.clear();
    let failed = node.quorum.turn(&mut node.host, now).unwrap_err();
    assert_eq!(node.host.stopped, [failed.to_string()]);
    // A later leader may find the entry on some disk; that it is certainly not there nobody can say.
    assert_eq!(node.host.proposed[&pending], ProposeAnswer::Unknown);
    assert_eq!(node.host.reads[&read], None);
    assert_eq!(node.host.leadership.map(|l| (l.role, l.leader)), Some((Role::Follower, None)));
    assert!(!node.quorum.drives_liveness());
    assert_eq!(node.quorum.wake_at(now.mono_ms), u64::MAX);

    let sent = node.host.out.len();
    let propose = world.propose(leader, topic("u"));
    let read = world.ask(leader, Input::ReadIndex);
    let members = world.ask(leader, |asker| Input::Membership(MembershipChange::AddLearner(NodeId(9)), asker));
    let transfer = world.ask(leader, |asker| Input::Transfer(None, asker));
    assert_eq!(world.beat(leader, leader, BrokerEpoch(2)), None);
    let now = world.now();
    let node = world.nodes.get_mut(&leader).unwrap();
    assert_eq!(node.host.proposed[&propose], ProposeAnswer::Stopped);
    assert_eq!(node.host.reads[&read], None);
    assert!(matches!(node.host.membership[&members], Err(MembershipError::Stopped)));
    assert!(matches!(node.host.transfers[&transfer], Err(TransferError::Stopped)));
    let again = node.quorum.turn(&mut node.host, now).unwrap_err();
    assert_eq!(again.to_string(), failed.to_string());
    assert_eq!((node.host.stopped.len(), node.host.out.len()), (1, sent), "said once, and nothing to peers");
}

#[test]
fn who_proposes_to_a_leader_whose_disk_fails_before_it_ever_led_is_answered() {
    let mut world = World::new(3);
    let asked = 'asked: loop {
        let wake = world.nodes.values().map(|node| node.quorum.wake_at(world.mono_ms)).min().unwrap();
        world.mono_ms = wake.max(world.mono_ms + 1);
        let now = world.now();
        let mut mail = Vec::new();
        for node in world.nodes.values_mut() {
            node.quorum.turn(&mut node.host, now).unwrap();
            mail.append(&mut node.host.out);
        }
        for message in mail {
            let to = message.to as i32;
            world.input(to, Input::Message(message));
            // The vote that it needed came a moment ago: it leads, and has not had its turn yet.
            if world.nodes[&to].quorum.replica().brief().role == Role::Leader {
                world.nodes[&to].disk.inject(Fault::Fail(Operation::Append, 1));
                break 'asked (to, world.propose(to, topic("t")));
            }
        }
    };
    assert!(!world.nodes[&asked.0].leads());
    assert_eq!(world.nodes[&asked.0].quorum.waiting().0, 1);
    world.settle();
    assert_eq!(world.answer(asked.0, asked.1), Some(&ProposeAnswer::Unknown));
    assert_eq!(world.nodes[&asked.0].quorum.waiting(), (0, None));
}

#[test]
fn what_the_disk_refused_was_promised_to_nobody() {
    let (mut world, leader) = ready(3);
    let follower = world.follower();
    let applied = world.nodes[&follower].quorum.applied();
    world.nodes[&follower].disk.inject(Fault::Fail(Operation::Sync, 1));
    let asked = world.propose(leader, topic("t"));
    world.until("the others go on", |world| world.answer(leader, asked).is_some());
    assert!(matches!(world.answer(leader, asked), Some(ProposeAnswer::Applied(..))));
    let node = &world.nodes[&follower];
    assert!(node.quorum.failure().is_some());
    assert_eq!(node.quorum.applied(), applied);
    let matched = world.nodes[&leader].quorum.status().peers.iter().find(|p| p.node == NodeId(follower)).cloned();
    assert!(matched.unwrap().matched <= applied, "the leader does not count it");
}

#[test]
fn a_snapshot_that_cannot_be_read_stops_the_quorum_instead_of_mixing_two_states() {
    let (mut world, leader) = ready(1);
    let before = world.nodes[&leader].quorum.state().read().hash();
    let node = world.nodes.get_mut(&leader).unwrap();
    let nonsense = Bytes::from_static(b"of a version to come");
    let failed = node.quorum.install(&mut node.host, RaftIndex(99), &nonsense).unwrap_err();
    assert!(failed.to_string().contains("snapshot at 99"), "{failed}");
    assert_eq!(node.quorum.state().read().hash(), before);
    assert_ne!(node.host.applied, RaftIndex(99));
}

#[test]
fn a_membership_change_is_answered_with_the_members_that_it_made() {
    let (mut world, leader) = ready(1);
    let asked = world.ask(leader, |asker| Input::Membership(MembershipChange::AddLearner(NodeId(2)), asker));
    world.until("an answer", |world| world.nodes[&leader].host.membership.contains_key(&asked));
    let members = world.nodes[&leader].host.membership[&asked].as_ref().unwrap();
    assert_eq!(members.learners, [NodeId(2)]);
    assert_eq!(world.nodes[&leader].host.members, [NodeId(leader), NodeId(2)]);
    // The learner starts with nothing and is fed.
    let now = world.now();
    world.nodes.insert(2, Node::open(2, MemDisk::new(), &Start::Join, 50, now));
    world.connect_all();
    world.until("fed", |world| {
        world.nodes[&2].quorum.state().read().hash() == world.nodes[&leader].quorum.state().read().hash()
    });
}

#[test]
fn a_silent_broker_is_fenced_after_its_session_and_one_that_is_gone_at_once() {
    let (mut world, leader) = ready(3);
    let others: Vec<i32> = world.nodes.keys().copied().filter(|id| *id != leader).collect();
    let epoch = world.nodes[&leader].quorum.state().read().broker(NodeId(leader)).unwrap().epoch;
    for id in &others {
        let epoch = world.register(leader, *id);
        world.beat(leader, *id, epoch);
    }
    world.until("all are in", |world| others.iter().all(|id| !world.is_fenced(leader, *id)));
    let begin = world.mono_ms;
    world.input(leader, Input::PeerUnreachable { peer: NodeId(others[0]), gone: false });
    world.settle();
    assert!(!world.is_fenced(leader, others[0]), "an address that does not answer proves nothing");
    world.input(leader, Input::PeerUnreachable { peer: NodeId(others[0]), gone: true });
    world.settle();
    assert!(world.is_fenced(leader, others[0]));
    assert_eq!(world.mono_ms, begin);
    while !world.is_fenced(leader, others[1]) {
        world.beat(leader, leader, epoch);
        world.mono_ms += 10;
        world.settle();
        assert!(world.mono_ms <= begin + 3_100);
    }
    assert!(world.mono_ms >= begin + 2_900, "{}", world.mono_ms - begin);
    assert!(!world.is_fenced(leader, leader));
}

#[test]
fn a_quorum_that_stood_still_fences_nobody_whose_heartbeats_it_could_not_read() {
    let (mut world, leader) = ready(1);
    let epoch = world.nodes[&leader].quorum.state().read().broker(NodeId(leader)).unwrap().epoch;
    world.mono_ms += 30_000;
    world.settle();
    assert!(!world.is_fenced(leader, leader));
    // Then it is heard again, or its new session ends.
    world.mono_ms += 900;
    world.beat(leader, leader, epoch);
    for _ in 0..29 {
        world.mono_ms += 100;
        world.settle();
    }
    assert!(!world.is_fenced(leader, leader));
    world.mono_ms += 200;
    world.settle();
    assert!(world.is_fenced(leader, leader));
}
