//! The modelled brokers: what is true, whatever the operator believes.
//!
//! The world ([`crate::world`]) starts and stops processes as Kubernetes' pods come and go, calls [`Brokers::tick`] once per
//! simulated step, and hands requests of the operator to [`Brokers::answer`](control). There is one truth, the committed metadata
//! ([`Quorum`], [`Partition`]); what a broker other than the leader tells may be old.
//!
//! Data is abstract: a partition counts records, a disk remembers how many of each partition it holds. That is enough to say
//! that an acknowledged record is nowhere any more.

mod control;
mod partitions;
mod process;
mod quorum;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronik_operator::observed::ClusterFacts;

pub use partitions::{Partition, Topic};
pub use process::{ClusterFile, Process, Run, Volume};
pub use quorum::Quorum;

/// A broker's id: ordinal + 1.
pub type Id = i32;

/// How long a silent broker counts as alive.
pub const SESSION_MS: u64 = 3_000;

/// After so long without a leader, stopping somebody harms nobody.
const LEADERLESS_MS: u64 = 50_000;

/// What the committed metadata knows of a broker.
#[derive(Clone, Default, Debug)]
pub struct Registration {
    /// Grows with each registration.
    pub epoch: u64,
    /// Silent, or not caught up: leads nothing and is in no in-sync set.
    pub fenced: bool,
    /// Gets no replicas.
    pub cordoned: bool,
    /// As it was assigned; empty = none.
    pub rack: String,
    /// Of its data directory.
    pub directory: String,
    /// Of the run of its process.
    pub incarnation: String,
    /// Of its software.
    pub version: String,
    /// Last heartbeat.
    pub seen: u64,
}

/// What the environment makes of the brokers, from the plan.
#[derive(Clone, Debug)]
pub struct Pace {
    /// From the start of a process until it serves.
    pub boot_ms: (u64, u64),
    /// From SIGTERM until the process is gone.
    pub stop_ms: (u64, u64),
    /// Records per second that a copy gains.
    pub copy_per_s: u64,
    /// How old the metadata may be that a broker other than the leader tells.
    pub view_lag_ms: u64,
}

/// All brokers of one cluster, their processes and their data.
#[derive(Debug)]
pub struct Brokers {
    /// Pace of things.
    pub pace: Pace,
    /// Members, leader, committed index.
    pub quorum: Quorum,
    /// Registered brokers.
    pub registered: BTreeMap<Id, Registration>,
    /// Settings that were given one value for all of them.
    pub defaults: BTreeMap<String, String>,
    /// Topics.
    pub topics: Vec<Topic>,
    /// Their partitions.
    pub partitions: Vec<Partition>,
    /// Running processes.
    pub processes: BTreeMap<Id, Process>,
    /// The disk that each broker last had.
    pub homes: BTreeMap<Id, String>,
    /// Everything a volume holds, by the uid of its claim.
    pub volumes: BTreeMap<String, Volume>,
    /// How often a cluster was founded.
    pub foundings: u32,
    /// What has gone wrong for good, if anything has.
    pub damage: Option<String>,
    /// Since when each broker has been unhealthy (no process that serves, or fenced).
    pub unhealthy_since: BTreeMap<Id, u64>,
    /// Since when stopping a broker has been harmful, and why.
    pub harmful_since: BTreeMap<Id, (u64, String)>,
    /// Since when each member has been too far behind to vote.
    pub lagging_since: BTreeMap<Id, u64>,
    /// How long nobody has led.
    pub leaderless_ms: u64,
    /// Its user deletes it with all its data.
    pub doomed: bool,
    /// Since when the same member has led.
    pub leader_since: u64,
    /// Events of the current step, for the trace.
    pub told: Vec<String>,
    views: VecDeque<(u64, Arc<ClusterFacts>)>,
    dirty: bool,
}

impl Brokers {
    /// No broker yet.
    #[must_use]
    pub fn new(pace: Pace, topics: Vec<Topic>) -> Self {
        Self {
            pace,
            quorum: Quorum::default(),
            registered: BTreeMap::new(),
            defaults: BTreeMap::new(),
            topics,
            partitions: Vec::new(),
            processes: BTreeMap::new(),
            homes: BTreeMap::new(),
            volumes: BTreeMap::new(),
            foundings: 0,
            damage: None,
            unhealthy_since: BTreeMap::new(),
            harmful_since: BTreeMap::new(),
            lagging_since: BTreeMap::new(),
            leaderless_ms: 0,
            doomed: false,
            leader_since: 0,
            told: Vec::new(),
            views: VecDeque::new(),
            dirty: true,
        }
    }

    /// Moves everything on to `now`.
    pub fn tick(&mut self, now: u64, step_ms: u64, rng: &mut crate::rng::Rng) {
        self.run_processes(now, rng);
        self.run_quorum(now, step_ms, rng);
        self.run_liveness(now);
        self.run_partitions(now, step_ms);
        self.leaderless_ms = if self.quorum.leader.is_some() { 0 } else { self.leaderless_ms + step_ms };
        self.note_health(now);
        self.remember_view(now);
    }

    /// Whether the process of `id` serves.
    #[must_use]
    pub fn serves(&self, id: Id) -> bool {
        self.processes.get(&id).is_some_and(|process| process.run == Run::Serving)
    }

    /// Whether `id` says of itself that it is ready.
    #[must_use]
    pub fn ready(&self, id: Id) -> bool {
        self.not_ready_because(id).is_none()
    }

    /// Why `id` is not ready.
    #[must_use]
    pub fn not_ready_because(&self, id: Id) -> Option<&'static str> {
        if !self.serves(id) {
            return Some("starting");
        }
        match self.registered.get(&id) {
            None => Some("not registered"),
            Some(broker) if broker.fenced => Some("fenced"),
            Some(_) if self.quorum.leader.is_none() => Some("no leader of the metadata is known"),
            Some(_) => None,
        }
    }

    /// Brokers that serve and are not fenced.
    #[must_use]
    pub fn live(&self) -> BTreeSet<Id> {
        let live = |(id, broker): (&Id, &Registration)| (!broker.fenced && self.serves(*id)).then_some(*id);
        self.registered.iter().filter_map(live).collect()
    }

    fn tell(&mut self, what: String) {
        self.dirty = true;
        self.told.push(what);
    }

    fn broken(&mut self, what: String) {
        if self.doomed {
            return;
        }
        self.told.push(format!("DAMAGE: {what}"));
        self.damage.get_or_insert(what);
    }

    /// Keeps since when brokers are down and since when stopping one would be harmful: the operator is judged by what it could know
    /// when its pass began.
    fn note_health(&mut self, now: u64) {
        let known: BTreeSet<Id> = self.registered.keys().chain(self.processes.keys()).copied().collect();
        self.unhealthy_since.retain(|id, _| known.contains(id));
        self.harmful_since.retain(|id, _| known.contains(id));
        for id in known {
            if self.quorum.leader.is_some() && self.lag(id) <= quorum::MAX_LAG {
                self.lagging_since.remove(&id);
            } else {
                self.lagging_since.entry(id).or_insert(now);
            }
            if self.ready(id) {
                self.unhealthy_since.remove(&id);
            } else {
                self.unhealthy_since.entry(id).or_insert(now);
            }
            match self.harm_of_stopping(id) {
                None => drop(self.harmful_since.remove(&id)),
                Some(why) => match self.harmful_since.entry(id) {
                    std::collections::btree_map::Entry::Occupied(mut at) => at.get_mut().1 = why,
                    std::collections::btree_map::Entry::Vacant(at) => drop(at.insert((now, why))),
                },
            }
        }
    }

    /// What would be lost if `id` stopped now: the quorum's majority, or a partition's minimum of replicas in sync.
    #[must_use]
    pub fn harm_of_stopping(&self, id: Id) -> Option<String> {
        // Where nobody has led for long there is nothing left to take away, and a restart may be the cure.
        if !self.serves(id) || self.leaderless_ms >= LEADERLESS_MS {
            return None;
        }
        if let Some(why) = self.quorum_needs(id) {
            return Some(why);
        }
        self.partitions.iter().find_map(|p| {
            let topic = &self.topics[p.topic];
            (topic.replication > topic.min_isr && p.isr.contains(&id) && p.isr.len() <= topic.min_isr).then(|| {
                format!("{}-{} has only {:?} in sync, {} are needed", topic.name, p.number, p.isr, topic.min_isr)
            })
        })
    }
}
