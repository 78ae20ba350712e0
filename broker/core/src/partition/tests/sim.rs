//! Three replicas with logs in memory, a controller that keeps the rules of the metadata log, and a seed that decides
//! everything else: who produces, which message is delivered, delayed, lost or reordered, who is fenced, elected or
//! restarted (with or without its tail), and when each broker hears of it.
//!
//! After every step: what was visible below any high watermark never changes, what was acknowledged is on every
//! committed in-sync replica, no high watermark falls, and each replica's own invariants hold.

use chronik_model::ErrorCode;

use super::super::waiters::AckWaiters;
use super::*;

const SEEDS: u64 = 150;
const STEPS: usize = 3_000;
const NODES: [i32; 3] = [1, 2, 3];

/// Splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}

#[derive(Clone, Default)]
pub(super) struct Log {
    pub(super) records: Vec<(i32, u64)>,
    pub(super) epochs: Vec<(i32, i64)>,
}

impl Log {
    pub(super) fn end(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap()
    }

    pub(super) fn latest(&self) -> Option<LeaderEpoch> {
        self.epochs.last().map(|(epoch, _)| LeaderEpoch(*epoch))
    }

    pub(super) fn assign(&mut self, epoch: i32, start: i64) {
        if self.epochs.last().is_none_or(|(latest, _)| *latest < epoch) {
            self.epochs.retain(|(_, at)| *at < start);
            self.epochs.push((epoch, start));
        }
    }

    pub(super) fn append(&mut self, record: (i32, u64)) {
        self.assign(record.0, self.end());
        self.records.push(record);
    }

    pub(super) fn truncate(&mut self, to: i64) {
        self.records.truncate(usize::try_from(to).unwrap());
        self.epochs.retain(|(_, at)| *at < to);
    }

    pub(super) fn facts(&self, high_watermark: i64) -> LogFacts {
        facts(self.end(), high_watermark, self.latest().map(|epoch| epoch.0))
    }
}

struct Broker {
    up: bool,
    log: Log,
    replica: PartitionReplica,
    /// Position in the controller's history; `registered` is where this life begins.
    applied: usize,
    registered: usize,
    parked: AckWaiters<(i64, u64)>,
    last_watermark: Offset,
}

#[derive(Clone)]
pub(super) enum Message {
    Fetch { request: FollowerRequest, fetch: FollowerFetch },
    Fetched { to: i32, reply: FetchReply, records: Vec<(i32, u64)> },
    Alter { proposal: IsrProposal },
    Altered { proposal: IsrProposal, outcome: Result<PartitionState, ErrorCode> },
    Report { claim: LogClaim, last_epoch: LeaderEpoch },
}

type View = [BrokerStatus; 3];

struct Sim {
    random: Random,
    config: ReplicaConfig,
    now: u64,
    brokers: Vec<Broker>,
    state: PartitionState,
    view: View,
    history: Vec<(PartitionState, View)>,
    next_broker_epoch: i64,
    net: Vec<Message>,
    next_value: u64,
    visible: Vec<(i32, u64)>,
    acked: usize,
    seen: Seen,
    digest: u64,
}

/// What happened, to know that the run was not empty.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    acked: usize,
    truncated: usize,
    elected: usize,
    joined: usize,
    left: usize,
    lost_tails: usize,
    refused: usize,
}

pub(super) fn slot(node: i32) -> usize {
    usize::try_from(node - 1).unwrap()
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let config = ReplicaConfig { min_insync_replicas: Some(1 + random.below(2)), ..ReplicaConfig::default() };
        let view = NODES.map(|node| all_up(NodeId(node)).unwrap());
        let brokers = NODES.map(|node| Broker {
            up: true,
            log: Log::default(),
            replica: PartitionReplica::new(
                NodeId(node),
                BrokerEpoch(100 + i64::from(node)),
                config,
                LogFacts::default(),
            ),
            applied: 0,
            registered: 0,
            parked: AckWaiters::with_limit(10_000),
            last_watermark: Offset(0),
        });
        let state = state(1, 0, 0, &NODES);
        let mut sim = Self {
            random,
            config,
            now: 1,
            brokers: brokers.into(),
            history: vec![(state.clone(), view)],
            state,
            view,
            next_broker_epoch: 1_000,
            net: Vec::new(),
            next_value: 0,
            visible: Vec::new(),
            acked: 0,
            seen: Seen::default(),
            digest: 0,
        };
        for node in NODES {
            sim.apply(node, 0);
        }
        sim
    }

    fn any_node(&mut self) -> i32 {
        NODES[self.random.below(3)]
    }

    fn step(&mut self) {
        let node = self.any_node();
        let up = self.brokers[slot(node)].up;
        match self.random.below(1_000) {
            0..140 if up => self.produce(node),
            140..400 if up => self.fetch(node),
            400..740 => self.deliver(),
            740..760 => self.lose(),
            760..820 => self.tick(),
            820..920 if up => self.hear(node),
            920..925 => self.fence(node),
            925..965 => self.unfence(node),
            965..972 => self.elect(Some(node)),
            972..976 if up => self.brokers[slot(node)].up = false,
            976..1_000 if !up => self.restart(node),
            _ => {}
        }
        self.check();
    }

    fn produce(&mut self, node: i32) {
        let now = self.now;
        let broker = &mut self.brokers[slot(node)];
        let Ok(epoch) = broker.replica.check_append(-1) else {
            self.seen.refused += 1;
            return;
        };
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

    /// Any message, whatever its age; sometimes it stays and comes again.
    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let position = self.random.below(self.net.len());
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
            Message::Report { claim, .. } => panic!("this controller asks for no logs: {claim:?}"),
        }
    }

    fn lose(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let position = self.random.below(self.net.len());
        match self.net[position].clone() {
            Message::Fetch { .. } | Message::Fetched { .. } | Message::Report { .. } => {
                self.net.swap_remove(position);
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
        let mut reply = FetchReply {
            request,
            error: ErrorCode::None,
            diverging: None,
            marks: LeaderMarks { high_watermark: Offset(-1), log_start: Offset(-1) },
        };
        let mut records = Vec::new();
        let mut run = Vec::new();
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

    /// The broker applies some of the metadata that it has not seen, with or without the states in between.
    fn hear(&mut self, node: i32) {
        let unseen = self.history.len() - 1 - self.brokers[slot(node)].applied;
        if unseen > 0 {
            let skip = 1 + self.random.below(unseen.min(3));
            self.apply(node, self.brokers[slot(node)].applied + skip);
        }
    }

    fn apply(&mut self, node: i32, position: usize) {
        let (state, view) = self.history[position].clone();
        let broker = &mut self.brokers[slot(node)];
        broker.applied = position;
        let effects = broker.replica.apply_metadata(&state, |n| view.get(slot(n.0)).copied(), self.now);
        self.run(node, effects);
    }

    fn run(&mut self, node: i32, effects: Vec<Effect>) {
        let broker = &mut self.brokers[slot(node)];
        for effect in effects {
            match effect {
                Effect::FailWaiters(_) => drop(broker.parked.fail_all()),
                Effect::BecomeLeader { epoch, epoch_start } => broker.log.assign(epoch.0, epoch_start.0),
                Effect::BecomeFollower { truncate_to, .. } => assert_eq!(truncate_to, None),
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
                Effect::ReportLog(claim) => panic!("this controller distrusts nobody: {claim:?}"),
                Effect::Removed => panic!("nobody removes replicas here"),
            }
        }
    }

    // The controller.

    fn commit(&mut self, next: PartitionState) {
        self.seen.joined += usize::from(next.isr.len() > self.state.isr.len());
        self.seen.left += usize::from(next.isr.len() < self.state.isr.len());
        self.seen.elected += usize::from(next.leader_epoch != self.state.leader_epoch);
        self.state = next;
        self.history.push((self.state.clone(), self.view));
    }

    fn active(&self, node: NodeId) -> bool {
        !self.view[slot(node.0)].fenced
    }

    fn with_leader(&self, mut next: PartitionState, wanted: Option<i32>) -> PartitionState {
        let valid = |node: &NodeId| next.isr.contains(node) && self.active(*node);
        let leader = wanted
            .map(NodeId)
            .filter(valid)
            .or(next.leader.filter(valid))
            .or_else(|| next.replicas.iter().copied().find(valid));
        if leader != next.leader {
            next.leader = leader;
            next.leader_epoch.0 += 1;
        }
        next
    }

    fn elect(&mut self, wanted: Option<i32>) {
        let mut next = self.with_leader(self.state.clone(), wanted);
        if next != self.state {
            next.partition_epoch.0 += 1;
            self.commit(next);
        }
    }

    fn fence(&mut self, node: i32) {
        self.view[slot(node)].fenced = true;
        let mut next = self.state.clone();
        if next.isr.len() > 1 {
            next.isr.retain(|member| member.0 != node);
        }
        let mut next = self.with_leader(next, None);
        if next != self.state {
            next.partition_epoch.0 += 1;
        }
        self.commit(next);
    }

    fn unfence(&mut self, node: i32) {
        let broker = &self.brokers[slot(node)];
        if self.view[slot(node)].fenced && broker.up && broker.applied >= broker.registered {
            self.view[slot(node)].fenced = false;
            let mut next = self.with_leader(self.state.clone(), None);
            next.partition_epoch.0 += i32::from(next != self.state);
            self.commit(next);
        }
    }

    /// A new life registers: fenced, out of the in-sync set unless it is the last of it. Only the last one is sure to
    /// have stopped cleanly; any other may have lost its tail.
    fn restart(&mut self, node: i32) {
        let last = self.state.isr == [NodeId(node)];
        let (tail, keep_watermark) = (self.random.below(6), self.random.below(2) == 0);
        self.view[slot(node)].epoch = BrokerEpoch(self.next_broker_epoch);
        self.fence(node);
        let registered = self.history.len() - 1;
        let early = registered.saturating_sub(self.random.below(4));
        let broker = &mut self.brokers[slot(node)];
        if !last && tail > 0 {
            broker.log.truncate((broker.log.end() - i64::try_from(tail).unwrap()).max(0));
            self.seen.lost_tails += 1;
        }
        let high_watermark = if keep_watermark { broker.replica.high_watermark().0 } else { 0 };
        broker.replica = PartitionReplica::new(
            NodeId(node),
            BrokerEpoch(self.next_broker_epoch),
            self.config,
            broker.log.facts(high_watermark),
        );
        self.next_broker_epoch += 1;
        broker.last_watermark = Offset(0);
        broker.parked = AckWaiters::with_limit(10_000);
        (broker.up, broker.applied, broker.registered) = (true, early, registered);
        self.apply(node, early);
    }

    fn alter(&mut self, proposal: &IsrProposal) -> Result<PartitionState, ErrorCode> {
        let state = &self.state;
        if self.view[slot(proposal.leader.0)].epoch != proposal.broker_epoch {
            return Err(ErrorCode::StaleBrokerEpoch);
        }
        if proposal.leader_epoch < state.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if proposal.partition_epoch < state.partition_epoch {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        let eligible = |member: &IsrMember| {
            let broker = self.view[slot(member.node.0)];
            !broker.fenced && (member.broker_epoch == BrokerEpoch::NONE || member.broker_epoch == broker.epoch)
        };
        if !proposal.isr.iter().all(eligible) {
            return Err(ErrorCode::IneligibleReplica);
        }
        let mut next = state.clone();
        next.isr = proposal.isr.iter().map(|member| member.node).collect();
        next.partition_epoch.0 += 1;
        self.commit(next.clone());
        Ok(next)
    }

    // The judge.

    fn check(&mut self) {
        for (broker, node) in self.brokers.iter_mut().zip(NODES) {
            broker.replica.check_invariants().unwrap();
            assert_eq!(broker.replica.log_end(), Offset(broker.log.end()), "node {node}");
            let high_watermark = broker.replica.high_watermark();
            assert!(high_watermark >= broker.last_watermark, "node {node}: the watermark fell to {high_watermark}");
            broker.last_watermark = high_watermark;
            let committed = &broker.log.records[..usize::try_from(high_watermark.0).unwrap()];
            let known = committed.len().min(self.visible.len());
            assert_eq!(committed[..known], self.visible[..known], "node {node} shows other records than were seen");
            self.visible.extend_from_slice(&committed[known..]);
            let step = u64::try_from(high_watermark.0).unwrap() ^ (broker.log.end().unsigned_abs() << 32);
            self.digest = (self.digest ^ step).wrapping_mul(0x0100_0000_01b3);
        }
        let acked = &self.visible[..self.acked];
        for member in &self.state.isr {
            let log = &self.brokers[slot(member.0)].log.records;
            assert!(log.starts_with(acked), "in-sync node {member} lost acknowledged records: {:?}", self.state);
        }
    }

    /// Everything is repaired; all replicas must become in sync and equal.
    fn heal(&mut self) {
        for _ in 0..400 {
            for node in NODES {
                if !self.brokers[slot(node)].up {
                    self.restart(node);
                }
                let newest = self.history.len() - 1;
                self.apply(node, newest);
                self.unfence(node);
                self.fetch(node);
            }
            for _ in 0..self.net.len() {
                self.deliver();
            }
            self.tick();
            self.check();
        }
        assert_eq!(self.state.isr.len(), 3, "{:?}", self.state);
        let first = &self.brokers[0].log.records;
        for broker in &self.brokers {
            assert_eq!(&broker.log.records, first);
            assert_eq!(broker.replica.high_watermark(), Offset(broker.log.end()));
        }
    }
}

fn run(seed: u64, steps: usize) -> (Seen, u64) {
    let mut sim = Sim::new(seed);
    for _ in 0..steps {
        sim.step();
    }
    sim.heal();
    (sim.seen, sim.digest)
}

#[test]
fn acknowledged_records_survive_whatever_the_seed_does() {
    let mut total = Seen::default();
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed, STEPS));
        let Ok((seen, _)) = outcome else { panic!("seed {seed} broke a rule; its message is above") };
        total.acked += seen.acked;
        total.truncated += seen.truncated;
        total.elected += seen.elected;
        total.joined += seen.joined;
        total.left += seen.left;
        total.lost_tails += seen.lost_tails;
        total.refused += seen.refused;
    }
    let each: [usize; 7] =
        [total.acked, total.truncated, total.elected, total.joined, total.left, total.lost_tails, total.refused];
    assert!(each.iter().all(|count| *count as u64 > 2 * SEEDS), "the seeds do too little: {total:?}");
}

#[test]
fn a_seed_is_a_story_that_can_be_told_again() {
    assert_eq!(run(7, 1_500), run(7, 1_500));
    assert_ne!(run(7, 1_500).1, run(8, 1_500).1);
}
