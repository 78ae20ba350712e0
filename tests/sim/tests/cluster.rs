//! Whole clusters of simulated brokers, asked by hand: what a broker process must be able to before any fault plan runs.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_log::CheckpointKind;
use chronik_model::batch::BatchBuilder;
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, TopicPartition};
use chronik_sim::broker::{Broker, BrokerConfig};
use chronik_sim::kernel::Event;
use chronik_sim::oracle::Oracle;
use chronik_sim::plan::{Limits, Plan};
use chronik_sim::proto::{Address, ClientReply, ClientRequest, Packet, Reply, Request};
use chronik_sim::trace::Detail;
use chronik_sim::world::World;

const ME: Address = Address::Client(900);
const SECOND: u64 = 1_000_000;
/// These worlds have no plan of their own.
const CALM: Limits = Limits { founders: 3, seconds: 1, faults: false };

struct Sim {
    world: World,
    requests: u64,
}

fn nodes(count: i32) -> Vec<NodeId> {
    (1..=count).map(NodeId).collect()
}

impl Sim {
    /// A cluster whose brokers start at once.
    fn new(seed: u64, brokers: i32, change: impl Fn(&mut BrokerConfig)) -> Self {
        let mut world = World::new(seed, Detail::Last, Oracle::new(), Plan::draw(seed, CALM));
        let voters = nodes(brokers);
        for node in &voters {
            let mut config = BrokerConfig::new(*node, &voters);
            change(&mut config);
            world.add_host(config);
            world.kernel.after(1, Event::Boot(*node));
        }
        Self { world, requests: 0 }
    }

    /// A cluster that has formed, with topic `t` of one partition on three brokers.
    fn with_topic(seed: u64, change: impl Fn(&mut BrokerConfig)) -> Self {
        let mut sim = Self::new(seed, 3, change);
        sim.until(5 * SECOND, |sim| nodes(3).iter().all(|node| sim.serves(*node)));
        let create = ClientRequest::CreateTopic {
            name: "t".into(),
            partitions: 1,
            replication_factor: 3,
            configs: vec![("min.insync.replicas".into(), "2".into())],
        };
        let made = sim.ask(NodeId(1), create);
        assert!(matches!(made, Some(ClientReply::Done(ErrorCode::None))), "{made:?}");
        sim.until(5 * SECOND, |sim| sim.isr().len() == 3);
        sim
    }

    fn run(&mut self, micros: u64) {
        let until = self.world.kernel.now + micros;
        if let Err(violation) = self.world.run_until(until) {
            panic!("{violation:?}\n{}", self.story());
        }
    }

    fn story(&self) -> String {
        self.world.kernel.trace.lines().collect::<Vec<_>>().join("\n")
    }

    /// Runs until `done`; fails when it takes longer than `within`.
    fn until(&mut self, within: u64, done: impl Fn(&Self) -> bool) {
        let limit = self.world.kernel.now + within;
        while !done(self) {
            assert!(self.world.kernel.now < limit, "not within {within} us:\n{}", self.story());
            self.run(10_000);
        }
    }

    fn broker(&self, node: NodeId) -> Option<&Broker> {
        self.world.hosts.get(&node).and_then(|host| host.process.as_ref())
    }

    fn serves(&self, node: NodeId) -> bool {
        self.broker(node).is_some_and(Broker::serves)
    }

    fn exits(&self, node: NodeId) -> Vec<Option<i32>> {
        self.world.hosts.get(&node).map(|host| host.exits.clone()).unwrap_or_default()
    }

    /// The partition as the broker that serves and knows most of it says.
    fn partition(&self) -> Option<chronik_core::PartitionState> {
        let tp = TopicPartition::new("t", 0);
        let all = self.world.hosts.values().filter_map(|host| host.process.as_ref());
        let newest = all.max_by_key(|broker| broker.quorum().applied)?;
        newest.metadata().read().partition(&tp).cloned()
    }

    fn isr(&self) -> Vec<NodeId> {
        self.partition().map(|partition| partition.isr).unwrap_or_default()
    }

    fn leader(&self) -> Option<NodeId> {
        self.partition().and_then(|partition| partition.leader)
    }

    /// Asks, and waits up to fifteen simulated seconds for the answer.
    fn ask(&mut self, node: NodeId, request: ClientRequest) -> Option<ClientReply> {
        self.requests += 1;
        let id = self.requests;
        let body = Box::new(Request::Client(request));
        self.world.kernel.send(ME, Address::Broker(node), Packet::Request { id, body });
        for _ in 0..1500 {
            self.run(10_000);
            for (_, letter) in std::mem::take(&mut self.world.letters) {
                match letter {
                    Packet::Reply { id: of, body } if of == id => {
                        if let Reply::Client(reply) = *body {
                            return Some(reply);
                        }
                    }
                    Packet::Refused { id: of } if of == id => return None,
                    _ => {}
                }
            }
        }
        None
    }

    /// Produces one record with acks=all wherever the leader is, until it is acknowledged; returns its offset.
    fn produce(&mut self, value: &str) -> Offset {
        for _ in 0..200 {
            let Some(leader) = self.leader().filter(|leader| self.serves(*leader)) else {
                self.run(50_000);
                continue;
            };
            let mut batch = BatchBuilder::new(chronik_sim::kernel::EPOCH_WALL_MS);
            batch.push(None, Some(value.as_bytes()));
            let tp = TopicPartition::new("t", 0);
            let request = ClientRequest::Produce { tp, acks: -1, timeout_ms: 2_000, batch: batch.build() };
            if let Some(ClientReply::Produced { error: ErrorCode::None, base_offset }) = self.ask(leader, request) {
                return Offset(base_offset);
            }
            self.run(50_000);
        }
        panic!("{value} was never acknowledged:\n{}", self.story());
    }

    /// What a consumer finds from the beginning, by offset.
    fn consume(&mut self) -> BTreeMap<i64, String> {
        let mut found = BTreeMap::new();
        let mut next = 0;
        for _ in 0..400 {
            let Some(leader) = self.leader().filter(|leader| self.serves(*leader)) else {
                self.run(50_000);
                continue;
            };
            let request = ClientRequest::Fetch {
                tp: TopicPartition::new("t", 0),
                current_leader_epoch: LeaderEpoch::NONE,
                offset: Offset(next),
                last_fetched_epoch: LeaderEpoch::NONE,
                max_wait_ms: 700,
            };
            match self.ask(leader, request) {
                Some(ClientReply::Fetched(data)) if data.error == ErrorCode::None => {
                    if data.records.is_empty() {
                        return found;
                    }
                    for (offset, value) in values(&data.records) {
                        next = offset + 1;
                        found.insert(offset, value);
                    }
                }
                _ => self.run(50_000),
            }
        }
        panic!("the log has no end:\n{}", self.story());
    }

    fn log_ends(&self) -> Vec<Offset> {
        let all = self.world.hosts.values().filter_map(|host| host.process.as_ref());
        let ours = all.filter_map(|broker| broker.partitions().find(|p| p.tp().topic.as_str() == "t"));
        ours.map(|partition| partition.log_end()).collect()
    }
}

fn values(records: &Bytes) -> Vec<(i64, String)> {
    let batches = chronik_log::split_batches(records).unwrap();
    let opened = batches.iter().map(|batch| chronik_wire::records::BatchRecords::open(batch, 1 << 20).unwrap());
    let mut all = Vec::new();
    for batch in opened {
        for (index, record) in batch.records().enumerate() {
            let value = String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap();
            all.push((batch.header.base_offset.0 + index as i64, value));
        }
    }
    all
}

fn expected(acked: &[(Offset, String)]) -> BTreeMap<i64, String> {
    acked.iter().map(|(offset, value)| (offset.0, value.clone())).collect()
}

fn produce_all(sim: &mut Sim, from: usize, to: usize, acked: &mut Vec<(Offset, String)>) {
    for number in from..to {
        let value = format!("value {number}");
        let offset = sim.produce(&value);
        acked.push((offset, value));
    }
}

/// Every acknowledged record is at its offset. Records of attempts without answer may be there too.
fn assert_kept(sim: &mut Sim, acked: &[(Offset, String)]) {
    let found = sim.consume();
    for (offset, value) in expected(acked) {
        assert_eq!(found.get(&offset), Some(&value), "offset {offset}\n{}", sim.story());
    }
}

#[test]
fn three_brokers_elect_within_two_seconds_and_serve_soon_after() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 3, |_| {});
        sim.until(2 * SECOND, |sim| {
            nodes(3).iter().all(|node| sim.broker(*node).is_some_and(|b| b.known_leader().is_some()))
        });
        sim.until(SECOND, |sim| nodes(3).iter().all(|node| sim.serves(*node)));
        sim.until(SECOND, |sim| {
            let state = sim.broker(NodeId(1)).unwrap().metadata().read();
            state.alive_brokers().count() == 3
        });
        let leaders: Vec<_> = nodes(3).iter().filter_map(|node| sim.broker(*node).unwrap().known_leader()).collect();
        assert!(leaders.iter().all(|leader| *leader == leaders[0]), "seed {seed}: {leaders:?}");
    }
}

#[test]
fn a_broker_alone_is_a_cluster() {
    let mut sim = Sim::new(1, 1, |_| {});
    sim.until(SECOND, |sim| sim.serves(NodeId(1)));
    let create =
        ClientRequest::CreateTopic { name: "t".into(), partitions: 1, replication_factor: -1, configs: vec![] };
    assert!(matches!(sim.ask(NodeId(1), create), Some(ClientReply::Done(ErrorCode::None))));
    let mut acked = Vec::new();
    produce_all(&mut sim, 0, 3, &mut acked);
    assert_kept(&mut sim, &acked);
}

#[test]
fn acknowledged_records_survive_a_kill_of_each_leader_in_turn() {
    for seed in 0..10 {
        let mut sim = Sim::with_topic(seed, |_| {});
        let mut acked = Vec::new();
        for round in 0..3 {
            produce_all(&mut sim, round * 5, round * 5 + 5, &mut acked);
            let leader = sim.leader().unwrap();
            sim.world.kill(leader);
            sim.run(20_000);
            produce_all(&mut sim, 100 + round, 101 + round, &mut acked);
            sim.world.boot(leader);
            sim.until(20 * SECOND, |sim| sim.isr().len() == 3);
        }
        assert_kept(&mut sim, &acked);
        sim.run(SECOND);
        let ends = sim.log_ends();
        assert!(ends.len() == 3 && ends.iter().all(|end| *end == ends[0]), "seed {seed}: {ends:?}");
    }
}

#[test]
fn a_dead_leader_is_replaced_within_two_seconds() {
    let mut sim = Sim::with_topic(3, |_| {});
    let leader = sim.leader().unwrap();
    sim.world.kill(leader);
    sim.until(2 * SECOND, |sim| sim.leader().is_some_and(|now| now != leader));
}

#[test]
fn a_whole_cluster_killed_at_once_finds_its_logs() {
    for seed in 0..10 {
        let mut sim = Sim::with_topic(seed, |_| {});
        let mut acked = Vec::new();
        produce_all(&mut sim, 0, 10, &mut acked);
        for node in nodes(3) {
            sim.world.kill(node);
        }
        sim.run(SECOND);
        for node in nodes(3) {
            sim.world.boot(node);
        }
        sim.until(20 * SECOND, |sim| sim.isr().len() == 3);
        assert_kept(&mut sim, &acked);
    }
}

#[test]
fn with_durable_acknowledgements_power_loss_of_all_loses_nothing() {
    for seed in 0..20 {
        let mut sim = Sim::with_topic(seed, |config| {
            config.every_ack = true;
            config.flush_delay_ms = seed % 3;
        });
        let mut acked = Vec::new();
        for round in 0..3 {
            produce_all(&mut sim, round * 10, round * 10 + 4, &mut acked);
            for node in nodes(3) {
                sim.world.power_cut(node);
            }
            sim.run(100_000);
            for node in nodes(3) {
                sim.world.boot(node);
            }
            sim.until(30 * SECOND, |sim| sim.leader().is_some_and(|leader| sim.serves(leader)));
        }
        assert_kept(&mut sim, &acked);
    }
}

#[test]
fn a_joiner_becomes_a_member_and_a_replica() {
    for seed in 0..10 {
        let mut sim = Sim::with_topic(seed, |config| config.raft.compact_entries = 25);
        let mut config = BrokerConfig::new(NodeId(4), &nodes(3));
        config.raft.compact_entries = 25;
        sim.world.add_host(config);
        sim.world.boot(NodeId(4));
        sim.until(20 * SECOND, |sim| sim.serves(NodeId(4)));
        let members = sim.broker(NodeId(4)).unwrap().quorum_status();
        assert!(members.learners.contains(&NodeId(4)), "{members:?}");
        let create =
            ClientRequest::CreateTopic { name: "wide".into(), partitions: 1, replication_factor: 4, configs: vec![] };
        assert!(matches!(sim.ask(NodeId(2), create), Some(ClientReply::Done(ErrorCode::None))), "seed {seed}");
        let wide = TopicPartition::new("wide", 0);
        sim.until(10 * SECOND, |sim| {
            let state = sim.broker(NodeId(4)).unwrap().metadata().read();
            state.partition(&wide).is_some_and(|partition| partition.isr.contains(&NodeId(4)))
        });
        assert!(sim.broker(NodeId(4)).unwrap().partitions().any(|partition| *partition.tp() == wide));
        // And it finds itself again.
        sim.world.kill(NodeId(4));
        sim.run(SECOND);
        sim.world.boot(NodeId(4));
        sim.until(20 * SECOND, |sim| sim.serves(NodeId(4)));
    }
}

#[test]
fn an_orderly_stop_moves_leaderships_loses_nothing_and_leaves_its_mark() {
    for seed in 0..10 {
        let mut sim = Sim::with_topic(seed, |_| {});
        let mut acked = Vec::new();
        produce_all(&mut sim, 0, 5, &mut acked);
        let leader = sim.leader().unwrap();
        let epoch = sim.broker(leader).unwrap().broker_epoch();
        let epoch_before = sim.partition().unwrap().leader_epoch;
        sim.world.stop(leader);
        sim.until(5 * SECOND, |sim| sim.broker(leader).is_none());
        assert_eq!(sim.exits(leader), [Some(0)], "seed {seed}\n{}", sim.story());
        let now = sim.partition().unwrap();
        assert!(now.leader.is_some_and(|now| now != leader) && now.leader_epoch > epoch_before, "{now:?}");
        let disk = sim.world.hosts.get(&leader).unwrap().disk.snapshot();
        let dir = chronik_log::LogDir::new(std::sync::Arc::new(disk));
        let marks = chronik_log::read_checkpoint(&dir, CheckpointKind::RecoveryPoint).unwrap();
        // Checkpoints name the topic with its id.
        let mark = marks.iter().find(|(life, _)| life.topic.as_str().starts_with("t/") && life.partition.0 == 0);
        assert!(mark.is_some_and(|(_, offset)| *offset >= acked[4].0), "{marks:?}");
        assert_eq!(dir.take_clean_shutdown().unwrap(), Some(epoch), "seed {seed}");
        produce_all(&mut sim, 5, 10, &mut acked);
        sim.world.boot(leader);
        sim.until(20 * SECOND, |sim| sim.isr().len() == 3);
        assert_kept(&mut sim, &acked);
    }
}

#[test]
fn a_whole_cluster_stopped_in_order_comes_back_with_everything() {
    for seed in 0..5 {
        let mut sim = Sim::with_topic(seed, |_| {});
        let mut acked = Vec::new();
        produce_all(&mut sim, 0, 5, &mut acked);
        for node in nodes(3) {
            sim.world.stop(node);
        }
        sim.until(30 * SECOND, |sim| nodes(3).iter().all(|node| sim.broker(*node).is_none()));
        for node in nodes(3) {
            assert_eq!(sim.exits(node), [Some(0)], "seed {seed}\n{}", sim.story());
            sim.world.boot(node);
        }
        sim.until(20 * SECOND, |sim| sim.isr().len() == 3);
        assert_kept(&mut sim, &acked);
    }
}

#[test]
fn producer_ids_are_never_given_twice() {
    let mut sim = Sim::with_topic(1, |_| {});
    let mut given = std::collections::BTreeSet::new();
    for round in 0..30 {
        let node = NodeId(1 + round % 3);
        if let Some(ClientReply::ProducerId(Ok((id, 0)))) = sim.ask(node, ClientRequest::InitProducerId) {
            assert!(given.insert(id), "{id} given twice");
        }
        if round % 10 == 5 {
            sim.world.kill(node);
            sim.run(SECOND);
            sim.world.boot(node);
            sim.until(20 * SECOND, |sim| sim.serves(node));
        }
    }
    assert!(given.len() >= 25, "{given:?}");
}

#[test]
fn a_deleted_topic_leaves_every_disk_and_its_successor_is_empty() {
    let mut sim = Sim::with_topic(2, |_| {});
    let mut acked = Vec::new();
    produce_all(&mut sim, 0, 3, &mut acked);
    let away = NodeId(1 + sim.leader().unwrap().0 % 3);
    sim.world.kill(away);
    let host = nodes(3).into_iter().find(|node| *node != away).unwrap();
    let now = sim.world.kernel.now;
    sim.world.oracle.history.delete_topic(&"t".into(), now);
    assert!(matches!(sim.ask(host, ClientRequest::DeleteTopic("t".into())), Some(ClientReply::Done(ErrorCode::None))));
    let create = ClientRequest::CreateTopic { name: "t".into(), partitions: 1, replication_factor: 2, configs: vec![] };
    assert!(matches!(sim.ask(host, create), Some(ClientReply::Done(ErrorCode::None))));
    sim.world.boot(away);
    sim.until(20 * SECOND, |sim| sim.serves(away));
    sim.run(SECOND);
    assert_eq!(sim.consume(), BTreeMap::new());
}

#[test]
fn the_same_seed_lives_the_same_life() {
    let life = |seed| {
        let mut sim = Sim::with_topic(seed, |_| {});
        let mut acked = Vec::new();
        produce_all(&mut sim, 0, 5, &mut acked);
        let leader = sim.leader().unwrap();
        sim.world.power_cut(leader);
        sim.run(2 * SECOND);
        sim.world.boot(leader);
        sim.run(5 * SECOND);
        (sim.world.kernel.trace.hash(), sim.world.kernel.events)
    };
    for seed in 0..5 {
        assert_eq!(life(seed), life(seed), "seed {seed}");
    }
    assert_ne!(life(1), life(2));
}
