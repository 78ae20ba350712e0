//! What a seed wants to happen: the shape of its world and a list of faults, drawn up front.
//!
//! Plain data, so that a shrinker can leave steps out and a file can hold what is left. [`Plan::draw`] makes it from a
//! seed (swarm style: each seed has its own shape, kinds of faults and rates), the runner schedules one
//! [`Event::Fault`](crate::kernel::Event::Fault) per step, and [`perform`] does a step when its time has come.
//!
//! A step that would break the promise's own conditions is declined, for reasons found in the world at that moment
//! ([`budget`]): what destroys data hits one victim only, and only while the rest can bear it. What never happens: a
//! step that draws randomness other than from the seeds in it.

pub mod budget;
mod damage;
mod draw;
mod moves;
mod operator;
mod perform;
mod text;

use chronik_log::disk::Operation;
use chronik_model::NodeId;

use crate::kernel::Micros;
use crate::net::Weather;

pub use budget::Budget;
pub use draw::Limits;
pub(crate) use moves::{end_cordons, send as ask_for_replicas};
pub use operator::Operator;
pub(crate) use operator::{OPERATOR, answered, repeat_racks, wrong_racks};
pub(crate) use perform::{boot, may_cut_power, repair, stopped};
pub use perform::{execute, force, perform};
pub use text::PlanError;

/// The workload of a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Workload {
    /// Producers without idempotence; their acks go round 0, 1, all.
    pub plain_producers: u32,
    /// Idempotent producers, acks=all.
    pub idempotent_producers: u32,
    /// Consumers without a group, reading from the start, checking order and content.
    pub consumers: u32,
    /// Members of the one group.
    pub group_members: u32,
    /// Clients that create and delete topics and change their settings.
    pub admins: u32,
    /// Admins raise `min.insync.replicas` to the number of replicas and take that back.
    pub raise_min: bool,
    /// Mean pause between two batches of a producer.
    pub pause_ms: u64,
}

impl Workload {
    /// Number of all clients.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.plain_producers + self.idempotent_producers + self.consumers + self.group_members + self.admins
    }
}

/// What a world is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// Brokers 1..=founders start together on empty disks and found the cluster.
    pub founders: u8,
    /// Brokers founders+1..=founders+joiners come later, each by a [`Fault::Join`].
    pub joiners: u8,
    /// Topics of the workload, `t0`, `t1`, …
    pub topics: u32,
    /// Partitions of each.
    pub partitions: i32,
    /// Replicas of each.
    pub replication_factor: i16,
    /// `min.insync.replicas` of each.
    pub min_insync: i16,
    /// `flush: every-ack`.
    pub durable: bool,
    /// `segment.bytes` of the workload's topics.
    pub segment_bytes: u32,
    /// Raft log entries after which a state image is made.
    pub image_every: u64,
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
    /// Who works.
    pub workload: Workload,
    /// The network as it is before any fault.
    pub weather: Weather,
    /// Parts per million by which the clocks of brokers 1, 2, … are wrong.
    pub drift_ppm: Vec<i64>,
    /// The only broker whose disk may lose what was promised to be kept.
    pub victim: NodeId,
    /// How long faults happen.
    pub duration: Micros,
    /// Longest time after the faults until everything must be well again.
    pub recovery: Micros,
}

impl Shape {
    /// A world without anything odd, without clients, for scripts.
    #[must_use]
    pub fn calm(founders: u8) -> Self {
        Self {
            founders,
            joiners: 0,
            topics: 0,
            partitions: 1,
            replication_factor: i16::from(founders).min(3),
            min_insync: i16::from(founders).min(2),
            durable: false,
            segment_bytes: 1 << 20,
            image_every: 10_000,
            lag_max_ms: 3_000,
            workload: Workload::default(),
            weather: Weather::default(),
            drift_ppm: Vec::new(),
            victim: NodeId(1),
            duration: 0,
            recovery: 60_000_000,
        }
    }

    /// All brokers, those to come too.
    pub fn brokers(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=i32::from(self.founders) + i32::from(self.joiners)).map(NodeId)
    }

    /// Those that found the cluster.
    pub fn founders(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=i32::from(self.founders)).map(NodeId)
    }

    /// Whether an acknowledged record (acks=all) is promised to survive the loss of one disk.
    #[must_use]
    pub fn survives_a_disk(&self) -> bool {
        self.min_insync >= 2 && self.replication_factor >= self.min_insync && self.founders >= 3
    }
}

/// Damage to what is on a disk whose process is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// One bit of a file.
    Flip,
    /// The end of a file.
    LoseEnd,
}

/// Which files are damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Of partitions.
    Partition,
    /// Of the Raft log.
    Raft,
}

/// One thing that happens to a world.
#[derive(Clone, PartialEq, Debug)]
pub enum Fault {
    /// SIGKILL.
    Kill(Vec<NodeId>),
    /// Starts what does not run.
    Boot(Vec<NodeId>),
    /// The power of one (the victim), or of all in durable mode.
    PowerCut(Vec<NodeId>),
    /// SIGKILL at its n-th change of a file from now, in the middle of whatever it does then.
    KillAt(NodeId, u64),
    /// The power of this one goes at such a change.
    PowerCutAt(NodeId, u64),
    /// SIGTERM.
    Stop(NodeId),
    /// SIGSTOP.
    Pause(NodeId),
    /// SIGCONT.
    Resume(NodeId),
    /// Nothing gets from the first to the second.
    Cut(NodeId, NodeId),
    /// The way from the first to the second is open again.
    Mend(NodeId, NodeId),
    /// No broker and no client reaches this one, nor it them.
    Isolate(NodeId),
    /// Clients do not reach it; brokers do.
    Hide(NodeId),
    /// Two halves that do not see each other; this one sees both.
    Bridge(NodeId),
    /// Each broker sees a majority, no two the same one.
    Ring,
    /// All ways are open and all brokers are found where they are.
    Heal,
    /// The network behaves like this from now on.
    Weather(Weather),
    /// Extra latency of one broker; 0 takes it away.
    Slow(NodeId, Micros),
    /// Its connections break.
    Reset(NodeId),
    /// Its wall clock jumps by so many milliseconds.
    Jump(NodeId, i64),
    /// Its clocks run wrong by so many parts per million.
    Drift(NodeId, i64),
    /// It gets a new address, which nobody knows yet.
    Move(NodeId),
    /// Its address becomes known.
    Publish(NodeId),
    /// Each sync takes so long; 0 is a fast disk.
    SlowDisk(NodeId, Micros),
    /// Only so many bytes can still be written.
    Full(NodeId, u64),
    /// What was put wrong with its disk (space, errors, lies) is over.
    Repair(NodeId),
    /// The n-th operation of this kind fails. A failing sync loses what it should have kept: victim only.
    Fail(NodeId, Operation, u64),
    /// Syncs of the victim lie from now on; the power cut that tells is a step of its own.
    Lie(NodeId),
    /// The n-th append of the victim misses its place.
    Misdirect(NodeId, u64, u64),
    /// The victim is stopped and this happens to one of its files, chosen by the seed.
    Spoil(NodeId, Target, Damage, u64),
    /// The victim's disk is replaced by an empty one.
    Wipe(NodeId),
    /// A new broker is started on an empty disk and joins.
    Join(NodeId),
    /// A member that follows gets a vote.
    Promote(NodeId),
    /// A voter follows without a vote from now on.
    Demote(NodeId),
    /// The members agree to go on without it, and it is stopped for good.
    Remove(NodeId),
    /// Some partition gets other replicas; the seed says which. If one is being reassigned already, that is replaced.
    Reassign(u64),
    /// Some reassignment under way is cancelled.
    Cancel(u64),
    /// All replicas of this broker go to others.
    Drain(NodeId, u64),
    /// It gets no further replicas.
    Cordon(NodeId),
    /// It gets replicas again.
    Uncordon(NodeId),
    /// It is said to be in the rack of this number; 0 takes that back.
    AssignRack(NodeId, u8),
    /// Others lead what it leads.
    MoveLeaders(NodeId),
    /// The first of each assignment leads, where that is possible.
    Elect,
}

/// A fault and its time.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// When, counted from the beginning of the world.
    pub at: Micros,
    /// What.
    pub fault: Fault,
}

/// What a seed wants to happen.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The seed of the world's chance.
    pub seed: u64,
    /// What it is made of.
    pub shape: Shape,
    /// In order of time.
    pub steps: Vec<Step>,
}
