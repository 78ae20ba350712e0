//! Running plans: one seed, many seeds, a replay, a shrunk plan, mutants, the corpus.
//!
//! [`run_plan`] is the whole life of a world: it is built from the shape, lives with its faults, and is then left in
//! peace, must become well within the plan's bound, and is judged. Everything else repeats that. One world runs in one
//! thread and shares nothing, so several run side by side.

mod corpus;
mod fleet;
mod mutants;
mod report;
mod settle;
mod shrink;
mod start;

pub use corpus::{CorpusError, Entry, read_corpus, read_plan};
pub use fleet::{Fleet, FleetReport};
pub use mutants::{MutantResult, Scenario, ScriptResult, confront, hunt};
pub(crate) use report::guarded;
pub use report::{failure, story};
pub(crate) use settle::settle;
#[cfg(test)]
pub(crate) use settle::wait;
pub use shrink::{Shrunk, shrink};
pub use start::{broker_config, build};

use chronik_log::disk::Disk as _;

use crate::kernel::{Event, Micros};
use crate::oracle::Violation;
use crate::plan::{Limits, Plan};
use crate::trace::Detail;
use crate::world::World;

/// How a world is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What may be drawn.
    pub limits: Limits,
    /// How much of the story is kept.
    pub detail: Detail,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: Limits::default(), detail: Detail::Hash }
    }
}

/// Why a world failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Broken invariant of the reliability document; 0 for the harness itself, [`PANIC`] for a panic.
    pub invariant: u8,
    /// What was seen.
    pub text: String,
}

/// Stands for "a panic" where an invariant's number is expected.
pub const PANIC: u8 = 99;

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self { invariant: violation.invariant, text: violation.text }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.invariant {
            PANIC => write!(f, "panic: {}", self.text),
            number => write!(f, "invariant {number}: {}", self.text),
        }
    }
}

/// How a world ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was broken, if anything.
    pub failure: Option<Failure>,
    /// Of everything that happened.
    pub hash: u64,
    /// Events served.
    pub events: u64,
    /// Simulated time at the end.
    pub simulated: Micros,
    /// Steps that the budget did not allow.
    pub declined: u64,
    /// Batches that were sent, and acknowledged.
    pub batches: (usize, usize),
    /// The lines of the story that were kept.
    pub lines: Vec<String>,
}

/// Runs the plan of a seed.
#[must_use]
pub fn run_seed(seed: u64, options: Options) -> Outcome {
    run_plan(&Plan::draw(seed, options.limits), options.detail)
}

/// Runs a plan. A panic anywhere in the world is a failure like any other.
#[must_use]
pub fn run_plan(plan: &Plan, detail: Detail) -> Outcome {
    let panicked = |text| Failure { invariant: PANIC, text };
    let mut world = match guarded(|| build(plan, detail)) {
        Ok(world) => world,
        Err(text) => return Outcome { failure: Some(panicked(text)), ..Outcome::default() },
    };
    let failure = match guarded(|| live(&mut world)) {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation.into()),
        Err(text) => Some(panicked(text)),
    };
    let whole = guarded(|| mix_remains(&mut world)).map_err(|text| panicked(format!("at the end: {text}")));
    let outcome = summary(&world, failure.or(whole.err()));
    // What a panic left half done may panic once more.
    let _dropped = guarded(move || drop(world));
    outcome
}

fn live(world: &mut World) -> Result<(), Violation> {
    let shape = &world.plan.shape;
    for (number, step) in world.plan.steps.iter().enumerate().filter(|(_, step)| step.at < shape.duration) {
        world.kernel.after(step.at, Event::Fault(number));
    }
    world.run_until(world.plan.shape.duration)?;
    settle(world, &start::topics(&world.plan.shape))
}

/// What is left in the end is part of the story: files with their content, and metadata.
fn mix_remains(world: &mut World) {
    for host in world.hosts.values() {
        for (path, length) in host.disk.files() {
            world.kernel.trace.mix_bytes(path.as_bytes());
            world.kernel.trace.mix(length);
            let content = host.disk.observe(|| host.disk.read(&path));
            world.kernel.trace.mix_bytes(&content.unwrap_or_default());
        }
        if let Some(broker) = &host.process {
            world.kernel.trace.mix(broker.metadata().read().hash());
        }
    }
}

fn summary(world: &World, failure: Option<Failure>) -> Outcome {
    let sent = &world.oracle.history.sent;
    let acked = sent.iter().filter(|sent| matches!(sent.outcome, crate::oracle::history::Outcome::Acked(_))).count();
    Outcome {
        failure,
        hash: world.kernel.trace.hash(),
        events: world.kernel.events,
        simulated: world.kernel.now,
        declined: world.budget.declined,
        batches: (sent.len(), acked),
        lines: world.kernel.trace.lines().map(str::to_owned).collect(),
    }
}
