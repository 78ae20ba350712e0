//! Plans and faults as text: what a shrunk failure is kept as, and what scenario scripts are written in.
//!
//! ```text
//! seed 42
//! shape founders=3 joiners=0 topics=1 …
//! workload plain=0 idempotent=1 …
//! weather min=200 jitter=400 loss=0 twice=0 late=0
//! drift 0 0 0
//! at 1500000 kill b1 b2
//! at 2500000 boot b1 b2
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::{FromStr, SplitWhitespace};

use chronik_log::disk::Operation;
use chronik_model::NodeId;

use super::{Damage, Fault, Plan, Shape, Step, Target, Workload};
use crate::net::Weather;

/// Why a text is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct PlanError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

fn nodes(list: &[NodeId]) -> String {
    let names: Vec<String> = list.iter().map(|node| format!("b{node}")).collect();
    names.join(" ")
}

fn operation(on: Operation) -> &'static str {
    match on {
        Operation::Append => "append",
        Operation::Read => "read",
        Operation::Sync => "sync",
        Operation::SyncDir => "sync-dir",
        Operation::Namespace => "namespace",
        Operation::Truncate => "truncate",
    }
}

fn write_weather(f: &mut fmt::Formatter<'_>, w: &Weather) -> fmt::Result {
    write!(f, "weather min={} jitter={} loss={} twice={} late={}", w.min, w.jitter, w.loss, w.twice, w.late)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(list) => write!(f, "kill {}", nodes(list)),
            Self::Boot(list) => write!(f, "boot {}", nodes(list)),
            Self::PowerCut(list) => write!(f, "power-cut {}", nodes(list)),
            Self::KillAt(n, nth) => write!(f, "kill-at b{n} {nth}"),
            Self::PowerCutAt(n, nth) => write!(f, "power-cut-at b{n} {nth}"),
            Self::Stop(n) => write!(f, "stop b{n}"),
            Self::Pause(n) => write!(f, "pause b{n}"),
            Self::Resume(n) => write!(f, "resume b{n}"),
            Self::Cut(a, b) => write!(f, "cut b{a} b{b}"),
            Self::Mend(a, b) => write!(f, "mend b{a} b{b}"),
            Self::Isolate(n) => write!(f, "isolate b{n}"),
            Self::Hide(n) => write!(f, "hide b{n}"),
            Self::Bridge(n) => write!(f, "bridge b{n}"),
            Self::Ring => f.write_str("ring"),
            Self::Heal => f.write_str("heal"),
            Self::Weather(weather) => write_weather(f, weather),
            Self::Slow(n, extra) => write!(f, "slow b{n} {extra}"),
            Self::Reset(n) => write!(f, "reset b{n}"),
            Self::Jump(n, ms) => write!(f, "jump b{n} {ms}"),
            Self::Drift(n, ppm) => write!(f, "drift b{n} {ppm}"),
            Self::Move(n) => write!(f, "move b{n}"),
            Self::Publish(n) => write!(f, "publish b{n}"),
            Self::SlowDisk(n, cost) => write!(f, "slow-disk b{n} {cost}"),
            Self::Full(n, bytes) => write!(f, "full b{n} {bytes}"),
            Self::Repair(n) => write!(f, "repair b{n}"),
            Self::Fail(n, on, nth) => write!(f, "fail b{n} {} {nth}", operation(*on)),
            Self::Lie(n) => write!(f, "lie b{n}"),
            Self::Misdirect(n, nth, seed) => write!(f, "misdirect b{n} {nth} {seed}"),
            Self::Spoil(n, target, damage, seed) => {
                let target = if *target == Target::Raft { "raft" } else { "partition" };
                let damage = if *damage == Damage::Flip { "flip" } else { "lose-end" };
                write!(f, "spoil b{n} {target} {damage} {seed}")
            }
            Self::Wipe(n) => write!(f, "wipe b{n}"),
            Self::Join(n) => write!(f, "join b{n}"),
            Self::Promote(n) => write!(f, "promote b{n}"),
            Self::Demote(n) => write!(f, "demote b{n}"),
            Self::Remove(n) => write!(f, "remove b{n}"),
            Self::Reassign(seed) => write!(f, "reassign {seed}"),
            Self::Cancel(seed) => write!(f, "cancel {seed}"),
            Self::Drain(n, seed) => write!(f, "drain b{n} {seed}"),
            Self::Cordon(n) => write!(f, "cordon b{n}"),
            Self::Uncordon(n) => write!(f, "uncordon b{n}"),
            Self::AssignRack(n, rack) => write!(f, "assign-rack b{n} {rack}"),
            Self::MoveLeaders(n) => write!(f, "move-leaders b{n}"),
            Self::Elect => f.write_str("elect"),
        }
    }
}

/// The words of one line, taken one after the other.
struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "a word is missing".to_owned())
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("{word} is not a number that fits"))
    }

    fn node(&mut self) -> Result<NodeId, String> {
        parse_node(self.word()?)
    }

    fn rest(self) -> Result<Vec<NodeId>, String> {
        let list = self.0.map(parse_node).collect::<Result<Vec<_>, _>>()?;
        if list.is_empty() { Err("brokers are missing".to_owned()) } else { Ok(list) }
    }

    fn end(mut self) -> Result<(), String> {
        self.0.next().map_or(Ok(()), |word| Err(format!("{word} is one word too many")))
    }
}

/// `b3` is broker 3.
pub(crate) fn parse_node(word: &str) -> Result<NodeId, String> {
    let digits = word.strip_prefix('b').unwrap_or("");
    digits.parse().ok().filter(|id| *id > 0).map(NodeId).ok_or_else(|| format!("{word} is no broker"))
}

/// `key=value` words, each of which must be asked for.
struct Pairs<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Pairs<'a> {
    fn read(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let pair = |word: &'a str| word.split_once('=').ok_or_else(|| format!("{word} has no ="));
        Ok(Self(words.map(pair).collect::<Result<_, _>>()?))
    }

    fn take<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        let text = self.0.remove(key).ok_or_else(|| format!("{key} is missing"))?;
        text.parse().map_err(|_| format!("{key}={text} does not fit"))
    }

    /// What plans of an earlier version do not have.
    fn take_or<T: FromStr>(&mut self, key: &str, otherwise: T) -> Result<T, String> {
        if self.0.contains_key(key) { self.take(key) } else { Ok(otherwise) }
    }

    fn end(self) -> Result<(), String> {
        self.0.keys().next().map_or(Ok(()), |key| Err(format!("{key} is unknown")))
    }
}

fn parse_weather<'a>(words: impl Iterator<Item = &'a str>) -> Result<Weather, String> {
    let mut pairs = Pairs::read(words)?;
    let weather = Weather {
        min: pairs.take("min")?,
        jitter: pairs.take("jitter")?,
        loss: pairs.take("loss")?,
        twice: pairs.take("twice")?,
        late: pairs.take("late")?,
    };
    pairs.end()?;
    Ok(weather)
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Words(text.split_whitespace());
        let name = words.word()?;
        match name {
            "kill" => return Ok(Self::Kill(words.rest()?)),
            "boot" => return Ok(Self::Boot(words.rest()?)),
            "power-cut" => return Ok(Self::PowerCut(words.rest()?)),
            "weather" => return Ok(Self::Weather(parse_weather(words.0)?)),
            _ => {}
        }
        let fault = match name {
            "ring" => Self::Ring,
            "heal" => Self::Heal,
            "kill-at" => Self::KillAt(words.node()?, words.number()?),
            "power-cut-at" => Self::PowerCutAt(words.node()?, words.number()?),
            "stop" => Self::Stop(words.node()?),
            "pause" => Self::Pause(words.node()?),
            "resume" => Self::Resume(words.node()?),
            "cut" => Self::Cut(words.node()?, words.node()?),
            "mend" => Self::Mend(words.node()?, words.node()?),
            "isolate" => Self::Isolate(words.node()?),
            "hide" => Self::Hide(words.node()?),
            "bridge" => Self::Bridge(words.node()?),
            "slow" => Self::Slow(words.node()?, words.number()?),
            "reset" => Self::Reset(words.node()?),
            "jump" => Self::Jump(words.node()?, words.number()?),
            "drift" => Self::Drift(words.node()?, words.number()?),
            "move" => Self::Move(words.node()?),
            "publish" => Self::Publish(words.node()?),
            "slow-disk" => Self::SlowDisk(words.node()?, words.number()?),
            "full" => Self::Full(words.node()?, words.number()?),
            "repair" => Self::Repair(words.node()?),
            "fail" => {
                let (node, on) = (words.node()?, words.word()?);
                let on = OPERATIONS.iter().find(|known| operation(**known) == on);
                let on = on.ok_or_else(|| "no such operation".to_owned())?;
                Self::Fail(node, *on, words.number()?)
            }
            "lie" => Self::Lie(words.node()?),
            "misdirect" => Self::Misdirect(words.node()?, words.number()?, words.number()?),
            "spoil" => {
                let node = words.node()?;
                let target = match words.word()? {
                    "raft" => Target::Raft,
                    "partition" => Target::Partition,
                    other => return Err(format!("{other} cannot be spoiled")),
                };
                let damage = match words.word()? {
                    "flip" => Damage::Flip,
                    "lose-end" => Damage::LoseEnd,
                    other => return Err(format!("{other} is no damage")),
                };
                Self::Spoil(node, target, damage, words.number()?)
            }
            "wipe" => Self::Wipe(words.node()?),
            "join" => Self::Join(words.node()?),
            "promote" => Self::Promote(words.node()?),
            "demote" => Self::Demote(words.node()?),
            "remove" => Self::Remove(words.node()?),
            "reassign" => Self::Reassign(words.number()?),
            "cancel" => Self::Cancel(words.number()?),
            "drain" => Self::Drain(words.node()?, words.number()?),
            "cordon" => Self::Cordon(words.node()?),
            "uncordon" => Self::Uncordon(words.node()?),
            "assign-rack" => Self::AssignRack(words.node()?, words.number()?),
            "move-leaders" => Self::MoveLeaders(words.node()?),
            "elect" => Self::Elect,
            other => return Err(format!("{other} is no fault")),
        };
        words.end()?;
        Ok(fault)
    }
}

const OPERATIONS: [Operation; 6] = [
    Operation::Append,
    Operation::Read,
    Operation::Sync,
    Operation::SyncDir,
    Operation::Namespace,
    Operation::Truncate,
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "shape founders={} joiners={} topics={} partitions={} rf={} min-insync={} durable={} segment-bytes={} \
             image-every={} lag-max-ms={} victim={} duration={} recovery={}",
            self.founders,
            self.joiners,
            self.topics,
            self.partitions,
            self.replication_factor,
            self.min_insync,
            self.durable,
            self.segment_bytes,
            self.image_every,
            self.lag_max_ms,
            self.victim,
            self.duration,
            self.recovery
        )?;
        let work = &self.workload;
        writeln!(
            f,
            "workload plain={} idempotent={} consumers={} members={} admins={} raise-min={} pause-ms={}",
            work.plain_producers,
            work.idempotent_producers,
            work.consumers,
            work.group_members,
            work.admins,
            work.raise_min,
            work.pause_ms
        )?;
        write_weather(f, &self.weather)?;
        let drift: Vec<String> = self.drift_ppm.iter().map(i64::to_string).collect();
        write!(f, "\ndrift {}", drift.join(" "))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}\n{}", self.seed, self.shape)?;
        for step in &self.steps {
            writeln!(f, "at {} {}", step.at, step.fault)?;
        }
        Ok(())
    }
}

/// What was read so far.
#[derive(Default)]
struct Draft {
    seed: Option<u64>,
    shape: Option<Shape>,
    workload: Option<Workload>,
    weather: Option<Weather>,
    drift: Vec<i64>,
    steps: Vec<Step>,
}

impl Draft {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "seed" => self.seed = Some(rest.trim().parse().map_err(|_| "the seed is no number".to_owned())?),
            "shape" => self.shape = Some(parse_shape(rest)?),
            "workload" => {
                let mut pairs = Pairs::read(rest.split_whitespace())?;
                self.workload = Some(Workload {
                    plain_producers: pairs.take("plain")?,
                    idempotent_producers: pairs.take("idempotent")?,
                    consumers: pairs.take("consumers")?,
                    group_members: pairs.take("members")?,
                    admins: pairs.take("admins")?,
                    raise_min: pairs.take_or("raise-min", false)?,
                    pause_ms: pairs.take("pause-ms")?,
                });
                pairs.end()?;
            }
            "weather" => self.weather = Some(parse_weather(rest.split_whitespace())?),
            "drift" => {
                let numbers = rest.split_whitespace().map(str::parse).collect::<Result<_, _>>();
                self.drift = numbers.map_err(|_| "a drift is no number".to_owned())?;
            }
            "at" => {
                let (at, fault) = rest.split_once(' ').ok_or_else(|| "no fault".to_owned())?;
                let at = at.parse().map_err(|_| "the time is no number".to_owned())?;
                self.steps.push(Step { at, fault: fault.parse()? });
            }
            other => return Err(format!("{other} is unknown")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Plan, String> {
        let missing = |what: &str| format!("{what} is missing");
        let mut shape = self.shape.ok_or_else(|| missing("shape"))?;
        shape.workload = self.workload.ok_or_else(|| missing("workload"))?;
        shape.weather = self.weather.ok_or_else(|| missing("weather"))?;
        shape.drift_ppm = self.drift;
        Ok(Plan { seed: self.seed.ok_or_else(|| missing("seed"))?, shape, steps: self.steps })
    }
}

fn parse_shape(rest: &str) -> Result<Shape, String> {
    let mut pairs = Pairs::read(rest.split_whitespace())?;
    let shape = Shape {
        founders: pairs.take("founders")?,
        joiners: pairs.take("joiners")?,
        topics: pairs.take("topics")?,
        partitions: pairs.take("partitions")?,
        replication_factor: pairs.take("rf")?,
        min_insync: pairs.take("min-insync")?,
        durable: pairs.take("durable")?,
        segment_bytes: pairs.take("segment-bytes")?,
        image_every: pairs.take("image-every")?,
        lag_max_ms: pairs.take("lag-max-ms")?,
        victim: NodeId(pairs.take("victim")?),
        duration: pairs.take("duration")?,
        recovery: pairs.take("recovery")?,
        workload: Workload::default(),
        weather: Weather::default(),
        drift_ppm: Vec::new(),
    };
    pairs.end()?;
    Ok(shape)
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let mut draft = Draft::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if !line.is_empty() {
                draft.line(line).map_err(|reason| PlanError { line: at + 1, reason })?;
            }
        }
        draft.finish().map_err(|reason| PlanError { line: text.lines().count(), reason })
    }
}
