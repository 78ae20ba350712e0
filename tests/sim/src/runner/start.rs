//! From a shape to a world that is about to begin.

use chronik_model::{NodeId, TopicName};

use crate::broker::BrokerConfig;
use crate::client::{AdminConfig, Client, ConsumerConfig, Kind, MemberConfig, ProducerConfig, TopicSpec};
use crate::kernel::Event;
use crate::oracle::Oracle;
use crate::plan::{Plan, Shape};
use crate::trace::Detail;
use crate::world::World;

/// The group of the workload.
pub(super) const GROUP: &str = "readers";
/// The topic that comes and goes.
const CHURNED: &str = "churn";

/// The topics of the workload.
#[must_use]
pub(super) fn topics(shape: &Shape) -> Vec<TopicName> {
    (0..shape.topics).map(|number| TopicName::from(format!("t{number}"))).collect()
}

/// Settings of one broker of a world of this shape.
#[must_use]
pub fn broker_config(shape: &Shape, node: NodeId) -> BrokerConfig {
    let voters: Vec<NodeId> = shape.founders().collect();
    let mut config = BrokerConfig::new(node, &voters);
    config.every_ack = shape.durable;
    // From a fast disk to one that takes its time: what is lost in between must not have been acknowledged.
    config.flush_delay_ms = if shape.durable { [0, 2, 20, 100][shape.victim.0.unsigned_abs() as usize % 4] } else { 0 };
    config.lag_max_ms = shape.lag_max_ms;
    config.raft.compact_entries = shape.image_every;
    config.raft.compact_keep_entries = (shape.image_every / 5).max(1);
    config.defaults = vec![
        ("default.replication.factor".to_owned(), shape.replication_factor.to_string()),
        ("min.insync.replicas".to_owned(), shape.min_insync.to_string()),
        ("log.segment.bytes".to_owned(), shape.segment_bytes.to_string()),
    ];
    config
}

/// The world of a plan, about to begin: machines are there, founders start within a second, so do the clients.
#[must_use]
pub fn build(plan: &Plan, detail: Detail) -> World {
    let shape = &plan.shape;
    let mut world = World::new(plan.seed, detail, Oracle::new(), plan.clone());
    world.kernel.net.weather = shape.weather;
    for node in shape.founders() {
        world.add_host(broker_config(shape, node));
    }
    for (node, ppm) in shape.brokers().zip(&shape.drift_ppm) {
        if let Some(host) = world.hosts.get_mut(&node) {
            host.clock.drift_ppm = *ppm;
        }
    }
    for node in shape.founders() {
        let after = world.kernel.streams.schedule.below(1_000_000);
        world.kernel.after(after, Event::Boot(node));
    }
    spawn_clients(&mut world, shape);
    world
}

/// Adds a client to a world.
pub(crate) fn spawn(world: &mut World, id: u32, kind: Kind) {
    let brokers: Vec<NodeId> = world.hosts.keys().copied().collect();
    let client = Client::spawn(kind, id, &brokers, &mut world.kernel);
    world.clients.insert(id, client);
}

fn spec(shape: &Shape, name: TopicName) -> TopicSpec {
    let configs = vec![
        ("min.insync.replicas".to_owned(), shape.min_insync.to_string()),
        ("segment.bytes".to_owned(), shape.segment_bytes.to_string()),
    ];
    let replication_factor = i32::from(shape.replication_factor);
    TopicSpec { name, partitions: shape.partitions, replication_factor, configs }
}

fn spawn_clients(world: &mut World, shape: &Shape) {
    let topics = topics(shape);
    let work = shape.workload;
    let churn = if work.admins > 0 { vec![spec(shape, TopicName::from(CHURNED))] } else { Vec::new() };
    let create: Vec<TopicSpec> = topics.iter().map(|name| spec(shape, name.clone())).collect();
    let mut kinds = vec![Kind::Admin(AdminConfig {
        create,
        every_ms: if work.admins > 0 { 2_000 } else { 0 },
        churn,
        // What is promised depends on it: never less than the shape says.
        min_isr: if work.raise_min {
            vec![shape.min_insync.into(), shape.replication_factor.into()]
        } else {
            Vec::new()
        },
        segments: work.admins > 0,
    })];
    let mut producer = |topics: Vec<TopicName>, acks: i16, idempotent: bool, in_flight: usize| {
        kinds.push(Kind::Producer(ProducerConfig {
            topics,
            acks,
            idempotent,
            every_ms: work.pause_ms,
            max_records: 3,
            in_flight,
            request_timeout_ms: 1_500,
            delivery_timeout_ms: 15_000,
        }));
    };
    for number in 0..work.idempotent_producers {
        producer(topics.clone(), -1, true, 1 + number as usize * 2);
    }
    for number in 0..work.plain_producers {
        producer(topics.clone(), [-1, 1, 0][number as usize % 3], false, 1);
    }
    if work.admins > 0 {
        producer(vec![TopicName::from(CHURNED)], -1, true, 2);
    }
    for _ in 0..work.consumers {
        kinds.push(Kind::Consumer(ConsumerConfig { topics: topics.clone(), max_wait_ms: 500 }));
    }
    for number in 0..work.group_members {
        kinds.push(Kind::Member(MemberConfig {
            group: GROUP.to_owned(),
            topics: topics.clone(),
            session_timeout_ms: 6_000,
            heartbeat_ms: 1_000,
            commit_ms: 200,
            leave_every_ms: if number == 0 { 0 } else { 4_000 },
        }));
    }
    for (id, kind) in kinds.into_iter().enumerate() {
        spawn(world, id as u32 + 1, kind);
    }
}
