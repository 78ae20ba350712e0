//! The workload: producers, consumers, group members, an admin, and the reader that audits everything at the end.
//!
//! [`Client::spawn`] makes one and sets its first timer; the world hands it packets and timers; [`Client::stop`] ends its
//! load, and [`Client::is_idle`] says when nothing of it is under way any more. Every invocation and every result goes to
//! the [`History`], unknown outcomes too: a client that gives up never claims to know.
//!
//! Everything is drawn from the workload's stream. What never happens: a request without a timeout, a queue without an
//! end, a value sent twice under two names.

mod admin;
mod conn;
mod consumer;
mod member;
mod producer;
mod reader;

use chronik_model::{NodeId, Offset, TopicName, TopicPartition};

use admin::Admin;
use consumer::Consumer;
use member::Member;
use producer::Producer;

use crate::kernel::{Ctx, Event, Kernel, Timer};
use crate::oracle::history::History;
use crate::proto::{Address, Packet};

/// What a client does.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Produces to all partitions of its topics.
    Producer(ProducerConfig),
    /// Reads all partitions of its topics from the beginning, without a group.
    Consumer(ConsumerConfig),
    /// Reads as a member of a group and commits offsets.
    Member(MemberConfig),
    /// Makes topics, and changes them while the world runs.
    Admin(AdminConfig),
    /// Reads all partitions of its topics from the log start to the end that it found when it began, then is idle. For
    /// the end of a run: what was acknowledged must be among what it sees.
    Auditor(ConsumerConfig),
}

/// A producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Where to.
    pub topics: Vec<TopicName>,
    /// 0, 1 or -1. An idempotent producer needs -1.
    pub acks: i16,
    /// With producer id and sequences.
    pub idempotent: bool,
    /// Mean time between two batches, ms.
    pub every_ms: u64,
    /// Most records of a batch.
    pub max_records: u64,
    /// Batches of one partition under way at once; an idempotent producer has at most 5.
    pub in_flight: usize,
    /// How long a broker may wait for replicas, and about how long the client waits for an answer.
    pub request_timeout_ms: u64,
    /// When a batch is given up; its outcome is unknown then.
    pub delivery_timeout_ms: u64,
}

/// A consumer.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// From where.
    pub topics: Vec<TopicName>,
    /// Long poll.
    pub max_wait_ms: u64,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// The group.
    pub group: String,
    /// What it subscribes to.
    pub topics: Vec<TopicName>,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Time between heartbeats.
    pub heartbeat_ms: u64,
    /// Time between commits.
    pub commit_ms: u64,
    /// Mean time after which it leaves and joins anew; 0 = never.
    pub leave_every_ms: u64,
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name.
    pub name: TopicName,
    /// Partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replication_factor: i32,
    /// Settings.
    pub configs: Vec<(String, String)>,
}

/// An admin.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Topics that it makes first, again and again until they are there.
    pub create: Vec<TopicSpec>,
    /// Mean time between two changes after that, ms; 0 = none.
    pub every_ms: u64,
    /// Topics that it deletes and makes again; the settings of those in `create` it only changes.
    pub churn: Vec<TopicSpec>,
    /// Values that it gives `min.insync.replicas` of topics in `create`; empty = leaves it alone.
    pub min_isr: Vec<i32>,
    /// Whether it changes segment sizes.
    pub segments: bool,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    role: Role,
}

#[derive(Debug)]
enum Role {
    Producer(Box<Producer>),
    Consumer(Box<Consumer>),
    Member(Box<Member>),
    Admin(Box<Admin>),
}

impl Client {
    /// A client that begins now. `brokers` is where it may ask for the first time, as `bootstrap.servers`; `id` is its
    /// address and must not be used by another client of the same world.
    #[must_use]
    pub fn spawn(kind: Kind, id: u32, brokers: &[NodeId], kernel: &mut Kernel) -> Self {
        let role = match kind {
            Kind::Producer(config) => Role::Producer(Box::new(Producer::new(config, id, brokers))),
            Kind::Consumer(config) => Role::Consumer(Box::new(Consumer::new(config, id, brokers, false))),
            Kind::Auditor(config) => Role::Consumer(Box::new(Consumer::new(config, id, brokers, true))),
            Kind::Member(config) => Role::Member(Box::new(Member::new(config, id, brokers))),
            Kind::Admin(config) => Role::Admin(Box::new(Admin::new(config, id, brokers))),
        };
        let soon = 1 + kernel.streams.workload.below(20_000);
        let event = Event::Timer { to: Address::Client(id), run: 0, timer: conn::BEGIN };
        kernel.after(soon, event);
        Self { role }
    }

    /// A packet arrives.
    pub fn on_packet(&mut self, ctx: &mut Ctx<'_>, from: Address, packet: Packet, history: &mut History) {
        let Address::Broker(from) = from else { return };
        match &mut self.role {
            Role::Producer(role) => role.on_packet(ctx, from, packet, history),
            Role::Consumer(role) => role.on_packet(ctx, from, packet, history),
            Role::Member(role) => role.on_packet(ctx, from, packet, history),
            Role::Admin(role) => role.on_packet(ctx, from, packet, history),
        }
    }

    /// A timer fires.
    pub fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer, history: &mut History) {
        match &mut self.role {
            Role::Producer(role) => role.on_timer(ctx, timer, history),
            Role::Consumer(role) => role.on_timer(ctx, timer, history),
            Role::Member(role) => role.on_timer(ctx, timer, history),
            Role::Admin(role) => role.on_timer(ctx, timer, history),
        }
    }

    /// No new load from now on: producers send what they hold, members commit and leave, consumers finish what they
    /// asked, an admin takes nothing new up.
    pub fn stop(&mut self) {
        match &mut self.role {
            Role::Producer(role) => role.stop(),
            Role::Consumer(role) => role.stop(),
            Role::Member(role) => role.stop(),
            Role::Admin(role) => role.stop(),
        }
    }

    /// Its connections to `broker` break: the requests that it gives up, by number.
    #[must_use]
    pub fn waits_for(&self, broker: NodeId) -> Vec<u64> {
        match &self.role {
            Role::Producer(role) => role.conn.waits_for(broker),
            Role::Consumer(role) => role.conn.waits_for(broker),
            Role::Member(role) => role.conn.waits_for(broker),
            Role::Admin(role) => role.conn.waits_for(broker),
        }
    }

    /// Nothing is under way: after [`Client::stop`], or when an auditor has read everything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        match &self.role {
            Role::Producer(role) => role.is_idle(),
            Role::Consumer(role) => role.is_idle(),
            Role::Member(role) => role.is_idle(),
            Role::Admin(role) => role.is_idle(),
        }
    }

    /// The partitions that an auditor has not read to their ends, and how far it got; `None` while it does not know any.
    #[must_use]
    pub fn unread(&self) -> Option<Vec<(TopicPartition, Offset)>> {
        match &self.role {
            Role::Consumer(role) => role.unread(),
            Role::Producer(_) | Role::Member(_) | Role::Admin(_) => None,
        }
    }

    /// What it waits for, for reports.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.role {
            Role::Producer(role) => role.describe(),
            Role::Consumer(role) => role.describe(),
            Role::Member(role) => role.describe(),
            Role::Admin(role) => role.describe(),
        }
    }

    /// An admin has made all the topics that it was told to make; everybody else is always ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.role {
            Role::Admin(role) => role.is_ready(),
            Role::Producer(_) | Role::Consumer(_) | Role::Member(_) => true,
        }
    }
}
