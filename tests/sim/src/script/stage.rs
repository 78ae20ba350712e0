//! The world of a script, and its commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_consensus::Role;
use chronik_model::{NodeId, TopicName, TopicPartition};

use super::harness;
use crate::broker::Broker;
use crate::kernel::{Event, Micros};
use crate::oracle::{Oracle, Violation};
use crate::plan::{self, Fault, Plan, Shape};
use crate::proto::Address;
use crate::rules::Rule;
use crate::runner::{self, Failure};
use crate::survey;
use crate::trace::Detail;
use crate::world::World;

/// A request of the script that may still be answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) request: u64,
    /// Its place in the history, for a produce with an answer.
    pub(super) sent: Option<usize>,
    pub(super) batch: Bytes,
    pub(super) tp: TopicPartition,
    pub(super) acks: i16,
}

/// A producer of the script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idempotent {
    pub(super) id: i64,
    pub(super) epoch: i16,
    pub(super) next: i32,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) world: World,
    /// Parts of brokers; of several the first counts when one is named.
    parts: Vec<(String, NodeId)>,
    pub(super) asked: BTreeMap<String, Asked>,
    pub(super) producers: BTreeMap<String, Idempotent>,
    pub(super) topics: Vec<TopicName>,
    /// Numbers requests and makes batches differ.
    pub(super) next: u64,
    detail: Detail,
}

/// What a command answers: lines, or why it cannot be done.
pub(super) type Answer = Result<Vec<String>, Failure>;

pub(super) fn broken(violation: Violation) -> Failure {
    violation.into()
}

/// The `key=value` words and the plain words of a command.
pub(super) struct Words<'a> {
    pairs: BTreeMap<&'a str, &'a str>,
    pub(super) plain: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let (pairs, plain): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|word| word.contains('='));
        Self { pairs: pairs.into_iter().filter_map(|pair| pair.split_once('=')).collect(), plain }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<&'a str> {
        self.pairs.remove(key)
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, key: &str, default: T) -> Result<T, Failure> {
        let Some(text) = self.take(key) else { return Ok(default) };
        text.parse().map_err(|_| harness(format!("{key}={text} is no number that fits")))
    }

    pub(super) fn at(&self, at: usize) -> Result<&'a str, Failure> {
        self.plain.get(at).copied().ok_or_else(|| harness("a word is missing".to_owned()))
    }

    pub(super) fn rest(self) -> Vec<(String, String)> {
        self.pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        self.pairs.keys().next().map_or(Ok(()), |key| Err(harness(format!("{key} is unknown here"))))
    }
}

/// `2s` or `300ms`.
pub(super) fn duration(word: &str) -> Result<Micros, Failure> {
    let (digits, unit) = match word.strip_suffix("ms") {
        Some(digits) => (digits, 1_000),
        None => (word.strip_suffix('s').unwrap_or(""), 1_000_000),
    };
    let number: Micros = digits.parse().map_err(|_| harness(format!("{word} is no time: 2s or 300ms")))?;
    Ok(number * unit)
}

impl Stage {
    pub(super) fn new(detail: Detail) -> Self {
        let shape = Shape::calm(3);
        let plan = Plan { seed: 1, shape, steps: Vec::new() };
        Self {
            world: World::new(1, detail, Oracle::new(), plan),
            parts: Vec::new(),
            asked: BTreeMap::new(),
            producers: BTreeMap::new(),
            topics: Vec::new(),
            next: 0,
            detail,
        }
    }

    pub(super) fn story(&self) -> String {
        self.world.kernel.trace.lines().collect::<Vec<_>>().join("\n")
    }

    /// Does one command.
    pub(super) fn command(&mut self, text: &str) -> Answer {
        self.world.kernel.trace.world(self.world.kernel.now, || format!("> {text}"));
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        match name {
            "cluster" => self.cluster(rest),
            "topic" => self.topic(rest),
            "create" => self.create(rest),
            "read" => self.read(rest.trim()),
            "let" => self.assign(rest),
            "produce" => self.produce(rest),
            "start" => self.start(rest),
            "again" => self.again(rest),
            "result" => self.result(rest.trim()),
            "producer" => self.producer(rest),
            "fetch" => self.fetch(rest),
            "list" => self.list(rest),
            "config" => self.config(rest),
            "delete-topic" => self.delete_topic(rest.trim()),
            "log" => self.log(rest),
            "epochs" => self.epochs(rest),
            "show" => self.show(rest.trim()),
            "moves" => self.moves(rest.trim()),
            "reassign" if rest.contains('-') => self.reassign(rest),
            "cancel" if rest.contains('-') => self.cancel(rest.trim()),
            "members" => self.members(),
            "roles" => self.roles(),
            "wait" => self.wait(rest),
            "run" => {
                let time = duration(rest.trim())?;
                self.run(time)?;
                Ok(Vec::new())
            }
            "part" => self.cut_off(rest),
            // A plan replaces the disk that a broker refuses; here it just stays down.
            "boot" => {
                let nodes = rest.split_whitespace().map(|word| self.node(word)).collect::<Result<Vec<_>, _>>()?;
                nodes.into_iter().for_each(|node| self.world.boot(node));
                Ok(Vec::new())
            }
            "drop" => self.rule(rest, false),
            "hold" => self.rule(rest, true),
            "held" => Ok(self.world.kernel.rules.held().into_iter().map(|line| self.with_parts(&line)).collect()),
            "release" if rest.trim() == "first" => {
                let Some((from, to, packet)) = self.world.kernel.rules.first() else {
                    return Err(harness("nothing is held".to_owned()));
                };
                self.world.kernel.transmit(from, to, packet);
                Ok(Vec::new())
            }
            "release" => {
                for (from, to, packet) in self.world.kernel.rules.end() {
                    self.world.kernel.transmit(from, to, packet);
                }
                Ok(Vec::new())
            }
            _ => self.fault(text),
        }
    }

    pub(super) fn run(&mut self, time: Micros) -> Result<(), Failure> {
        let until = self.world.kernel.now + time;
        self.world.run_until(until).map_err(broken)
    }

    /// What happens behind the last line.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        for (from, to, packet) in self.world.kernel.rules.end() {
            self.world.kernel.transmit(from, to, packet);
        }
        runner::settle(&mut self.world, &self.topics).map_err(broken)
    }

    fn cluster(&mut self, rest: &str) -> Answer {
        let mut words = Words::new(rest);
        let founders: u8 = words.at(0)?.parse().map_err(|_| harness("how many brokers?".to_owned()))?;
        let mut shape = Shape::calm(founders);
        shape.joiners = words.number("joiners", 0)?;
        shape.durable = words.number("durable", false)?;
        shape.lag_max_ms = words.number("lag-ms", shape.lag_max_ms)?;
        shape.image_every = words.number("image-every", shape.image_every)?;
        shape.segment_bytes = words.number("segment-bytes", shape.segment_bytes)?;
        shape.replication_factor = words.number("rf", shape.replication_factor)?;
        shape.min_insync = words.number("min-insync", shape.min_insync)?;
        let seed = words.number("seed", 1)?;
        let boot = words.number("boot", true)?;
        words.end()?;
        let plan = Plan { seed, shape: shape.clone(), steps: Vec::new() };
        self.world = World::new(seed, self.detail, Oracle::new(), plan);
        for node in shape.founders() {
            self.world.add_host(runner::broker_config(&shape, node));
            if boot {
                self.world.kernel.after(0, Event::Boot(node));
            }
        }
        if boot { self.wait_for(60_000_000, |stage| stage.is_active_everywhere()) } else { Ok(Vec::new()) }
    }

    fn is_active_everywhere(&self) -> Option<String> {
        let Some((leader, status)) = survey::quorum_leader(&self.world) else {
            return Some("the quorum has no leader".to_owned());
        };
        for node in self.world.hosts.keys() {
            let knows =
                survey::up(&self.world, *node).is_some_and(|broker| broker.quorum_status().applied >= status.commit);
            let active =
                survey::up(&self.world, leader).is_some_and(|broker| broker.metadata().read().is_active(*node));
            if !knows || !active {
                return Some(format!("{} is not active", self.part(*node)));
            }
        }
        None
    }

    fn assign(&mut self, rest: &str) -> Answer {
        let (part, what) = rest.split_once('=').ok_or_else(|| harness("let X = …".to_owned()))?;
        let words = Words::new(what);
        let node = match words.at(0)? {
            "leader" => self.committed(words.at(1)?)?.state.leader,
            "follower" => {
                let state = self.committed(words.at(1)?)?.state;
                let nth: usize = words.plain.get(2).map_or(Ok(1), |word| word.parse()).unwrap_or(1);
                let mut others = state.replicas.iter().filter(|node| Some(**node) != state.leader);
                others.nth(nth.saturating_sub(1)).copied()
            }
            "spare" => {
                let state = self.committed(words.at(1)?)?.state;
                self.world.hosts.keys().find(|node| !state.replicas.contains(node)).copied()
            }
            "controller" => survey::quorum_leader(&self.world).map(|(leader, _)| leader),
            "other" => {
                // A broker that has none of these parts.
                let taken = words.plain[1..].iter().map(|word| self.node(word)).collect::<Result<Vec<_>, _>>()?;
                self.world.hosts.keys().find(|node| !taken.contains(node)).copied()
            }
            name => Some(self.node(name)?),
        };
        let node = node.ok_or_else(|| harness("there is none".to_owned()))?;
        self.parts.retain(|(known, _)| known != part.trim());
        self.parts.push((part.trim().to_owned(), node));
        Ok(Vec::new())
    }

    /// No broker reaches this one, nor it them; clients do.
    fn cut_off(&mut self, rest: &str) -> Answer {
        let node = self.node(rest.trim())?;
        let others: Vec<NodeId> = self.world.hosts.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            self.world.cut(node, other);
            self.world.cut(other, node);
        }
        Ok(Vec::new())
    }

    fn rule(&mut self, rest: &str, hold: bool) -> Answer {
        let mut words = Words::new(rest);
        let times = words.number("times", u32::MAX)?;
        let who = |stage: &Self, word: &str| match word {
            "*" => Ok(None),
            name => stage.node(name).map(|node| Some(Address::Broker(node))),
        };
        let (from, to) = (who(self, words.at(0)?)?, who(self, words.at(1)?)?);
        self.world.kernel.rules.add(Rule { from, to, kind: words.at(2)?.to_owned(), hold, times });
        Ok(Vec::new())
    }

    /// Anything else is a fault, done whatever the budget says: a script knows what it does.
    fn fault(&mut self, text: &str) -> Answer {
        let named = |word: &str| self.parts.iter().find(|(part, _)| part == word);
        let words = text.split_whitespace().map(|word| match named(word) {
            Some((_, node)) => format!("b{node}"),
            None => word.to_owned(),
        });
        let fault: Fault = words.collect::<Vec<_>>().join(" ").parse().map_err(harness)?;
        plan::force(&mut self.world, &fault);
        Ok(Vec::new())
    }

    /// The broker of a part, or `b3`.
    pub(super) fn node(&self, word: &str) -> Result<NodeId, Failure> {
        let digits = word.strip_prefix('b').and_then(|digits| digits.parse().ok()).map(NodeId);
        let part = self.parts.iter().find(|(part, _)| part == word).map(|(_, node)| *node);
        part.or(digits).ok_or_else(|| harness(format!("{word} is no broker")))
    }

    /// The part of a broker, or `b3`.
    pub(super) fn part(&self, node: NodeId) -> String {
        let part = self.parts.iter().find(|(_, named)| *named == node);
        part.map_or_else(|| format!("b{node}"), |(part, _)| part.clone())
    }

    /// The parts of brokers, sorted.
    pub(super) fn part_list(&self, nodes: &[NodeId]) -> String {
        let mut parts: Vec<String> = nodes.iter().map(|node| self.part(*node)).collect();
        parts.sort();
        parts.join(" ")
    }

    fn with_parts(&self, line: &str) -> String {
        let words =
            line.split(' ').map(|word| self.node(word).map_or_else(|_| word.to_owned(), |node| self.part(node)));
        words.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn process(&self, word: &str) -> Result<&Broker, Failure> {
        let node = self.node(word)?;
        survey::up(&self.world, node).ok_or_else(|| harness(format!("{word} does not run")))
    }

    fn members(&self) -> Answer {
        let Some((_, status)) = survey::quorum_leader(&self.world) else { return Ok(vec!["nobody leads".to_owned()]) };
        let mut lines = vec![format!("voters {}", self.part_list(&status.voters))];
        if !status.learners.is_empty() {
            lines.push(format!("learners {}", self.part_list(&status.learners)));
        }
        Ok(lines)
    }

    fn roles(&self) -> Answer {
        let leads = |node: &NodeId| {
            survey::up(&self.world, *node).is_some_and(|broker| broker.quorum_status().role == Role::Leader)
        };
        let leaders: Vec<NodeId> = self.world.hosts.keys().filter(|node| leads(node)).copied().collect();
        let leaders = if leaders.is_empty() { "nobody".to_owned() } else { self.part_list(&leaders) };
        Ok(vec![format!("leading: {leaders}")])
    }
}

/// `t-0`.
pub(super) fn topic_partition(word: &str) -> Result<TopicPartition, Failure> {
    chronik_log::parse_partition_dir(word).ok_or_else(|| harness(format!("{word} is no partition")))
}
