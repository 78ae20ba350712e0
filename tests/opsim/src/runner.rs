//! Runs a seed: steps of the world, polls of the operators in between, faults for a while, calm, and then nothing to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use chronik_operator::ports::Key;
use chronik_operator::reconcile::{Error, Fresh, Outcome, Settings, reconcile};

use crate::client::{Client, Shared, lock};
use crate::kubernetes::{NAME, NAMESPACE, timestamp};
use crate::plan::Plan;
use crate::world::{Pass, World};

/// After the faults, the cluster is as it should be within this simulated time.
const BOUND_MS: u64 = 40 * 60 * 1000;
/// It has to stay so for a while.
const STILL_MS: u64 = 10_000;
/// Then so many passes write nothing: every sixteenth seed looks long, the others only as long as it takes to find a hot loop.
const FORCED_PASSES: (u32, u32) = (100, 6);
/// A pass that takes more polls than this does not end.
const MOST_POLLS: u32 = 20_000;

type Ended = Result<Option<Outcome>, Error>;

/// How a seed ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// What was wrong; None = nothing.
    pub failure: Option<String>,
    /// Of the story.
    pub hash: u64,
    /// Events of the story.
    pub events: u64,
    /// Passes that ended.
    pub passes: u64,
    /// Passes that were killed.
    pub kills: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// The end of the story, or all of it.
    pub story: String,
}

struct Operator {
    number: usize,
    pass: Option<Pin<Box<dyn Future<Output = Ended>>>>,
    next_at: u64,
    /// A watch wakes it from then on, when there is more to see than at the beginning of its last pass.
    wakes_at: u64,
    seen: u64,
    failures: u32,
    polls: u32,
}

impl Operator {
    const fn new(number: usize, next_at: u64) -> Self {
        Self { number, pass: None, next_at, wakes_at: next_at, seen: 0, failures: 0, polls: 0 }
    }
}

struct Runner {
    world: Shared,
    settings: Settings,
    operators: Vec<Operator>,
    passes: u64,
    kills: u64,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, trace: bool) -> Report {
    run_plan(Plan::new(seed), trace)
}

/// Runs one plan.
#[must_use]
pub fn run_plan(plan: Plan, trace: bool) -> Report {
    let seed = plan.seed;
    let plan = Arc::new(plan);
    let world: Shared = Arc::new(Mutex::new(World::new(Arc::clone(&plan), trace)));
    let settings = Settings { broker_image: "local.test/broker:1".to_owned() };
    let mut operators = vec![Operator::new(0, 0)];
    if plan.two_operators {
        operators.push(Operator::new(1, 1_000));
    }
    let mut runner = Runner { world, settings, operators, passes: 0, kills: 0 };
    let failure = runner.story().err();
    // Passes hold the world.
    runner.operators.clear();
    let world = &mut *lock(&runner.world);
    if let Some(failure) = &failure {
        world.tell("end", format_args!("{failure}"));
    }
    Report {
        seed,
        failure,
        hash: world.trace.hash(),
        events: world.trace.count(),
        passes: runner.passes,
        kills: runner.kills,
        simulated_ms: world.now,
        story: world.trace.story(),
    }
}

impl Runner {
    fn story(&mut self) -> Result<(), String> {
        let calm_at = lock(&self.world).plan.calm_at;
        loop {
            self.step()?;
            let world = &mut *lock(&self.world);
            if world.now > calm_at + BOUND_MS {
                return Err("what was planned does not come to its end: a deleted cluster has left something".into());
            }
            if world.now >= calm_at && world.planned_all() {
                world.calm_down();
                break;
            }
        }
        // Whoever was the second has ended by now; the first goes on with what it was doing.
        self.operators.truncate(1);
        let begin = lock(&self.world).now;
        let mut still_since = None;
        loop {
            self.step()?;
            let world = &mut *lock(&self.world);
            let now = world.now;
            match world.unsettled() {
                None => {
                    if now >= *still_since.get_or_insert(now) + STILL_MS {
                        break;
                    }
                }
                Some(what) if now > begin + BOUND_MS => {
                    return Err(format!("{} s after the faults: {what}", (now - begin) / 1000));
                }
                Some(_) => still_since = None,
            }
        }
        self.quiet()
    }

    /// Nothing is to be done, so nothing is written, however often one looks.
    fn quiet(&mut self) -> Result<(), String> {
        let seed = lock(&self.world).plan.seed;
        let passes = if seed.is_multiple_of(16) { FORCED_PASSES.0 } else { FORCED_PASSES.1 };
        lock(&self.world).tell("fate", format_args!("all is well; {passes} forced passes"));
        while self.operators[0].pass.is_some() {
            self.poll(0);
        }
        // What a fault hid from the last pass of all may still have to be said.
        self.begin(0);
        while self.operators[0].pass.is_some() {
            self.poll(0);
        }
        lock(&self.world).step();
        for pass in 0..passes {
            self.begin(0);
            while self.operators[0].pass.is_some() {
                self.poll(0);
            }
            let world = &mut *lock(&self.world);
            world.step();
            if let Some(violation) = world.judge.violation.clone() {
                return Err(violation);
            }
            let writes = world.passes.get(&0).map_or(0, |pass| pass.writes);
            if writes > 0 {
                return Err(format!("all was well, and forced pass {pass} wrote {writes} times"));
            }
        }
        Ok(())
    }

    /// A step of the world, and what the operators manage meanwhile.
    fn step(&mut self) -> Result<(), String> {
        lock(&self.world).step();
        for at in 0..self.operators.len() {
            self.operate(at);
        }
        lock(&self.world).judge.violation.clone().map_or(Ok(()), Err)
    }

    fn operate(&mut self, at: usize) {
        let (now, mut budget, kills) = {
            let world = &mut *lock(&self.world);
            let hostile = world.hostile;
            // The second is slow: it is the one whose lease has run out.
            let most = if !hostile {
                80
            } else if at > 0 && world.rng.chance(700) {
                1
            } else {
                40
            };
            let budget = if hostile { world.rng.between(1, most) } else { most };
            let kill_now = std::mem::take(&mut world.kill_operator);
            (
                world.now,
                budget,
                if kill_now {
                    1000
                } else if hostile {
                    world.plan.kills
                } else {
                    0
                },
            )
        };
        if self.operators[at].pass.is_none() {
            let operator = &self.operators[at];
            let woken = operator.wakes_at <= now && operator.seen != lock(&self.world).kube.lists.edition();
            if operator.next_at > now && !woken {
                return;
            }
            self.begin(at);
        }
        while budget > 0 && self.operators[at].pass.is_some() {
            budget -= 1;
            if kills > 0 && lock(&self.world).rng.chance(kills) {
                return self.kill(at);
            }
            self.poll(at);
        }
    }

    /// The process ends, wherever its pass was, and another starts with a fresh cache.
    fn kill(&mut self, at: usize) {
        self.kills += 1;
        let operator = &mut self.operators[at];
        operator.pass = None;
        operator.failures = 0;
        let world = &mut *lock(&self.world);
        operator.next_at = world.now + world.rng.between(500, 4_000);
        operator.wakes_at = operator.next_at;
        let number = operator.number;
        world.shown.retain(|(other, _), _| *other != number);
        world.tell("fate", format_args!("operator {number} is killed"));
    }

    fn begin(&mut self, at: usize) {
        let operator = &mut self.operators[at];
        operator.polls = 0;
        let client = Client::new(Arc::clone(&self.world), operator.number);
        let world = &mut *lock(&self.world);
        operator.seen = world.kube.lists.edition();
        let now = timestamp(world.now);
        let fresh = Fresh {
            cluster_id: format!("cluster-{:08x}", world.rng.draw() >> 32),
            token: format!("token-{:08x}", world.rng.draw() >> 32),
        };
        world.passes.insert(operator.number, Pass { began: world.now, ..Pass::default() });
        let settings = self.settings.clone();
        operator.pass = Some(Box::pin(async move {
            let key = Key::new(NAMESPACE, NAME);
            reconcile(&client, &client, &key, now, &fresh, &settings).await
        }));
    }

    fn poll(&mut self, at: usize) {
        let operator = &mut self.operators[at];
        let Some(pass) = &mut operator.pass else { return };
        operator.polls += 1;
        let ended = pass.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let world = &mut *lock(&self.world);
        match ended {
            Poll::Pending if operator.polls > MOST_POLLS => {
                world.judge.violation.get_or_insert("a pass does not end".into());
                operator.pass = None;
            }
            Poll::Pending => {}
            Poll::Ready(ended) => {
                operator.pass = None;
                self.passes += 1;
                let wait = match ended {
                    Ok(outcome) => {
                        operator.failures = 0;
                        world.judge_told(operator.number);
                        let asked =
                            outcome.map_or(5_000, |o| u64::try_from(o.requeue_after.as_millis()).unwrap_or(u64::MAX));
                        operator.wakes_at = world.now + world.rng.between(1_000, 4_000);
                        // What it was shown may have been old: a watch would tell it of what it could have seen.
                        let stale = world.hostile && world.plan.stale_ms > 0;
                        asked.min(if stale { world.rng.between(500, 3_000) } else { 60_000 })
                    }
                    Err(error) => {
                        operator.failures = (operator.failures + 1).min(5);
                        world.tell("operator", format_args!("{} gives up: {error}", operator.number));
                        operator.wakes_at = u64::MAX;
                        500 << operator.failures
                    }
                };
                operator.next_at = world.now + wait;
            }
        }
    }
}
