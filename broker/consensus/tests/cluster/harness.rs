//! A cluster in one thread: every run with the same calls and seeds is the same run.
//!
//! Checked at every step, in every story: one leader per term, one vote per node and term (crashes included), and
//! every committed entry the same everywhere, for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Buf, BufMut, Bytes};
use chronik_consensus::chunks::{Reassembler, split};
use chronik_consensus::mirror::{MessageType, RaftMessage};
use chronik_consensus::{
    CommittedEntry, Config, Effects, MembershipChange, NodeStatus, OpenError, Outcome, Payload, ProposalToken,
    ReadState, Replica, Role, Start, Waiters,
};
use chronik_log::disk::MemDisk;
use chronik_model::{NodeId, RaftIndex};

pub const TICK_MS: u64 = 100;

pub struct Node {
    pub disk: MemDisk,
    pub replica: Option<Replica<MemDisk>>,
    pub state: Vec<Bytes>,
    pub applied: u64,
    pub waiters: Waiters<u64>,
    pub outcomes: BTreeMap<u64, Outcome>,
    pub reads: Vec<ReadState>,
    pub images_installed: u32,
    pub roles_told: Vec<Role>,
    pub tune: fn(&mut Config),
}

#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<i32, Node>,
    pub now_ms: u64,
    pub seed: u64,
    pub network: VecDeque<RaftMessage>,
    pub cut: BTreeSet<(u64, u64)>,
    pub delivered: BTreeMap<i32, u64>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    committed: BTreeMap<u64, (u64, Bytes)>,
    next_proposal: u64,
    /// Proposals reported as applied: they must never be lost.
    pub acknowledged: BTreeSet<u64>,
}

fn image(state: &[Bytes]) -> Bytes {
    let mut out = Vec::new();
    for command in state {
        out.put_u32(command.len() as u32);
        out.extend_from_slice(command);
    }
    out.into()
}

fn from_image(mut image: Bytes) -> Vec<Bytes> {
    let mut out = Vec::new();
    while !image.is_empty() {
        let length = image.get_u32() as usize;
        out.push(image.split_to(length));
    }
    out
}

pub fn voters(ids: &[i32]) -> Start {
    Start::Bootstrap { voters: ids.iter().copied().map(NodeId).collect() }
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// A cluster of founding voters 1..=n, all started and connected, with a leader.
    pub fn formed(n: i32, seed: u64) -> Self {
        Self::formed_with(n, seed, |_| {})
    }

    pub fn formed_with(n: i32, seed: u64, tune: fn(&mut Config)) -> Self {
        let ids: Vec<i32> = (1..=n).collect();
        let mut cluster = Self::new(seed);
        for id in &ids {
            cluster.add_with(*id, &voters(&ids), tune);
        }
        cluster.connect_all();
        cluster.pump();
        assert!(cluster.leader().is_some(), "formed without waiting");
        cluster
    }

    pub fn add(&mut self, id: i32, start: &Start) {
        self.add_with(id, start, |_| {});
    }

    pub fn add_with(&mut self, id: i32, start: &Start, tune: fn(&mut Config)) {
        self.on_disk(id, MemDisk::new(), tune);
        self.open(id, start).expect("opens");
    }

    /// A node that is not opened yet.
    pub fn on_disk(&mut self, id: i32, disk: MemDisk, tune: fn(&mut Config)) {
        let node = Node {
            disk,
            replica: None,
            state: Vec::new(),
            applied: 0,
            waiters: Waiters::new(),
            outcomes: BTreeMap::new(),
            reads: Vec::new(),
            images_installed: 0,
            roles_told: Vec::new(),
            tune,
        };
        self.nodes.insert(id, node);
    }

    pub fn open(&mut self, id: i32, start: &Start) -> Result<(), OpenError> {
        let now_ms = self.now_ms;
        let seed = self.seed;
        let node = self.nodes.get_mut(&id).expect("known");
        let mut config = Config::new(NodeId(id));
        config.seed = seed;
        config.incarnation = now_ms ^ seed.rotate_left(17);
        config.segment_bytes = 16 << 10;
        (node.tune)(&mut config);
        let (replica, recovered) = Replica::open(config, node.disk.clone(), "raft", start, now_ms)?;
        let found = recovered.image;
        node.applied = found.as_ref().map_or(0, |i| i.index.0);
        node.state = found.map_or_else(Vec::new, |i| from_image(i.data));
        node.replica = Some(replica);
        node.waiters = Waiters::new();
        Ok(())
    }

    /// A restart: what configuration says must not matter.
    pub fn restart(&mut self, id: i32) {
        self.open(id, &voters(&[id])).expect("reopens");
    }

    pub fn replica(&mut self, id: i32) -> &mut Replica<MemDisk> {
        self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()).expect("running")
    }

    pub fn status(&self, id: i32) -> NodeStatus {
        self.nodes[&id].replica.as_ref().expect("running").status()
    }

    pub fn running(&self) -> Vec<i32> {
        self.nodes.iter().filter(|(_, n)| n.replica.is_some()).map(|(id, _)| *id).collect()
    }

    /// The leader of the highest term among the running.
    pub fn leader(&self) -> Option<i32> {
        self.running()
            .into_iter()
            .filter(|id| self.status(*id).role == Role::Leader)
            .max_by_key(|id| self.status(*id).term)
    }

    fn linked(&self, a: i32, b: i32) -> bool {
        !self.cut.contains(&(a as u64, b as u64)) && !self.cut.contains(&(b as u64, a as u64))
    }

    /// Both sides greet each other.
    pub fn connect(&mut self, a: i32, b: i32) {
        let (hint_a, hint_b) = (self.replica(a).leader(), self.replica(b).leader());
        self.replica(a).peer_connected(NodeId(b), hint_b);
        self.replica(b).peer_connected(NodeId(a), hint_a);
    }

    pub fn connect_all(&mut self) {
        let ids = self.running();
        for (at, a) in ids.iter().enumerate() {
            for b in &ids[at + 1..] {
                if self.linked(*a, *b) {
                    self.connect(*a, *b);
                }
            }
        }
    }

    /// SIGKILL: everything written stays; the others see connections refused.
    pub fn kill(&mut self, id: i32) {
        let node = self.nodes.get_mut(&id).expect("known");
        node.replica = None;
        node.disk.kill();
        self.gone(id);
    }

    /// Power cut: what was not synced is at the mercy of `seed`.
    pub fn crash(&mut self, id: i32, seed: u64) {
        let node = self.nodes.get_mut(&id).expect("known");
        node.replica = None;
        node.disk.crash(seed);
        self.gone(id);
    }

    fn gone(&mut self, id: i32) {
        self.network.retain(|m| m.to != id as u64);
        for other in self.running() {
            self.replica(other).peer_lost(NodeId(id), true);
        }
    }

    pub fn isolate(&mut self, id: i32) {
        for other in self.nodes.keys() {
            self.cut.insert((id as u64, *other as u64));
            self.cut.insert((*other as u64, id as u64));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.connect_all();
    }

    fn remember_vote(&mut self, m: &RaftMessage) {
        if m.kind() == Some(MessageType::RequestVoteResponse) && !m.reject {
            let before = self.votes.insert((m.from, m.term), m.to);
            assert!(before.is_none_or(|to| to == m.to), "node {} voted twice in term {}", m.from, m.term);
        }
    }

    /// Its disk is lost, and its votes with it: of an even number of voters one may vote twice in a term.
    pub fn forget_votes(&mut self, id: i32) {
        self.votes.retain(|(from, _), _| *from != id as u64);
    }

    fn send(&mut self, m: RaftMessage) {
        self.remember_vote(&m);
        self.network.push_back(m);
    }

    fn apply(&mut self, id: i32, entry: &CommittedEntry) {
        let data = match &entry.payload {
            Payload::Command(data) => data.clone(),
            Payload::Empty | Payload::Membership(_) => Bytes::new(),
        };
        let known = self.committed.entry(entry.index.0).or_insert((entry.term.0, data.clone()));
        assert_eq!(*known, (entry.term.0, data), "node {id} commits something else at {}", entry.index);
        let node = self.nodes.get_mut(&id).expect("known");
        assert_eq!(entry.index.0, node.applied + 1, "node {id} applies without a gap");
        node.applied = entry.index.0;
        if let Payload::Command(data) = &entry.payload {
            node.state.push(data.clone());
        }
        if let Some((proposal, outcome)) = node.waiters.resolve(entry.index, entry.term) {
            node.outcomes.insert(proposal, outcome);
            if matches!(outcome, Outcome::Applied(_)) {
                self.acknowledged.insert(proposal);
            }
        }
    }

    fn carry_out(&mut self, id: i32, effects: Effects) {
        for m in effects.messages {
            self.send(m);
        }
        for m in effects.snapshots {
            self.transfer(m);
        }
        if let Some(change) = effects.role {
            if change.role == Role::Leader {
                let other = self.leaders.insert(change.term.0, id as u64);
                assert!(other.is_none_or(|o| o == id as u64), "two leaders in term {}", change.term);
            }
            let node = self.nodes.get_mut(&id).expect("known");
            node.roles_told.push(change.role);
            if change.role != Role::Leader {
                for (proposal, outcome) in node.waiters.leadership_lost() {
                    node.outcomes.insert(proposal, outcome);
                }
            }
        }
        if let Some(found) = effects.install {
            let node = self.nodes.get_mut(&id).expect("known");
            node.state = from_image(found.data);
            node.applied = found.index.0;
            node.images_installed += 1;
            for (proposal, outcome) in node.waiters.image_installed(found.index) {
                node.outcomes.insert(proposal, outcome);
            }
        }
        for entry in &effects.committed {
            self.apply(id, entry);
        }
        let node = self.nodes.get_mut(&id).expect("known");
        node.reads.extend(effects.reads);
        if effects.snapshot_wanted {
            let (index, data) = (RaftIndex(node.applied), image(&node.state));
            // A refusal (too early, no space) leaves everything as it is.
            let _ = self.replica(id).provide_snapshot(index, &data);
        }
    }

    fn transfer(&mut self, m: RaftMessage) {
        let (from, to) = (m.from as i32, m.to as i32);
        let reachable = self.linked(from, to) && self.nodes.get(&to).is_some_and(|n| n.replica.is_some());
        if reachable {
            let mut reassembler = Reassembler::new(64 << 20);
            let mut whole = None;
            for chunk in split(m, 1, 100) {
                whole = reassembler.push(chunk).expect("in order");
            }
            self.network.push_back(whole.expect("complete"));
        }
        self.replica(from).report_snapshot(NodeId(to), reachable);
    }

    /// One node does what it has to. A storage failure stops it.
    pub fn work(&mut self, id: i32) {
        while let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) {
            if !replica.has_ready() || replica.failure().is_some() {
                return;
            }
            let mut at_once = Vec::new();
            let effects = replica.ready(|m| at_once.push(m));
            for m in at_once {
                self.send(m);
            }
            match effects {
                Ok(effects) => self.carry_out(id, effects),
                Err(_) => return,
            }
        }
    }

    /// Everybody works and messages travel until there is nothing left to do. Returns how many were delivered.
    pub fn pump(&mut self) -> usize {
        let mut count = 0;
        loop {
            for id in self.running() {
                self.work(id);
            }
            let Some(m) = self.network.pop_front() else { return count };
            self.deliver(&m);
            count += 1;
            assert!(count < 1_000_000, "the cluster never falls silent");
        }
    }

    pub fn deliver(&mut self, m: &RaftMessage) {
        let to = m.to as i32;
        if self.cut.contains(&(m.from, m.to)) {
            return;
        }
        // The bytes that would travel.
        let m = RaftMessage::decode(m.encode()).expect("decodes");
        if let Some(replica) = self.nodes.get_mut(&to).and_then(|n| n.replica.as_mut()) {
            replica.step(m);
            *self.delivered.entry(to).or_default() += 1;
        }
    }

    pub fn ticks(&mut self, n: u64) {
        for _ in 0..n {
            self.now_ms += TICK_MS;
            for id in self.running() {
                let now_ms = self.now_ms;
                self.replica(id).tick(now_ms);
            }
            self.pump();
        }
    }

    /// Ticks until somebody leads; panics after a minute.
    pub fn elect(&mut self) -> i32 {
        for _ in 0..600 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.ticks(1);
        }
        panic!("no leader within a minute");
    }

    /// Proposes at `id` and returns the number of the proposal.
    pub fn propose(&mut self, id: i32) -> Option<u64> {
        self.next_proposal += 1;
        let number = self.next_proposal;
        let data = Bytes::from(format!("proposal {number}"));
        let token: ProposalToken = self.replica(id).propose(data).ok()?;
        let node = self.nodes.get_mut(&id).expect("known");
        if let Some(lost) = node.waiters.wait(token, number) {
            node.outcomes.insert(lost, Outcome::Lost);
        }
        Some(number)
    }

    pub fn propose_many(&mut self, id: i32, n: usize) {
        for _ in 0..n {
            assert!(self.propose(id).is_some(), "leads");
            self.pump();
        }
    }

    pub fn change(&mut self, id: i32, change: MembershipChange) {
        self.replica(id).change_membership(change).expect("allowed");
        self.pump();
    }

    /// All running nodes have the same state, and every acknowledged proposal is in it.
    pub fn agreed(&self) {
        let ids = self.running();
        let first = &self.nodes[&ids[0]];
        for id in &ids[1..] {
            assert_eq!(self.nodes[id].applied, first.applied, "nodes {} and {id} applied", ids[0]);
            assert_eq!(self.nodes[id].state, first.state, "nodes {} and {id}", ids[0]);
        }
        for number in &self.acknowledged {
            let data = Bytes::from(format!("proposal {number}"));
            let times = first.state.iter().filter(|c| **c == data).count();
            assert_eq!(times, 1, "acknowledged proposal {number} is there once");
        }
    }
}
