//! The smallest plan that still breaks the same invariant.
//!
//! Delta debugging over the steps, then fewer clients, brokers and partitions, less time, better weather, and the steps
//! once more. A plan is data and a world is decided by its plan, so every try is an honest run.

use super::{Failure, run_plan};
use crate::net::Weather;
use crate::plan::{Plan, Workload};
use crate::trace::Detail;

/// What shrinking found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest plan.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// Worlds run.
    pub tries: usize,
}

struct Shrinker<'a> {
    best: Plan,
    failure: Failure,
    tries: usize,
    most: usize,
    progress: &'a mut dyn FnMut(&Plan, usize),
}

/// Shrinks a plan that fails, with at most `most` tries; nothing if it does not fail. `progress` hears of each smaller
/// plan and how many tries it took.
pub fn shrink(plan: &Plan, most: usize, progress: &mut dyn FnMut(&Plan, usize)) -> Option<Shrunk> {
    let failure = run_plan(plan, Detail::Hash).failure?;
    let mut shrinker = Shrinker { best: plan.clone(), failure, tries: 1, most, progress };
    shrinker.duration();
    loop {
        let before = shrinker.size();
        shrinker.steps();
        shrinker.shape();
        shrinker.duration();
        if shrinker.size() >= before || shrinker.tries >= most {
            break;
        }
    }
    Some(Shrunk { plan: shrinker.best, failure: shrinker.failure, tries: shrinker.tries })
}

impl Shrinker<'_> {
    fn size(&self) -> (usize, u32, u8, i32, u64) {
        let shape = &self.best.shape;
        let brokers = shape.founders + shape.joiners;
        (self.best.steps.len(), shape.workload.clients(), brokers, shape.partitions, shape.duration)
    }

    /// Takes the plan if it fails in the same way.
    fn attempt(&mut self, plan: Plan) -> bool {
        if self.tries >= self.most || plan == self.best {
            return false;
        }
        self.tries += 1;
        let failure = run_plan(&plan, Detail::Hash).failure;
        let Some(failure) = failure.filter(|failure| failure.invariant == self.failure.invariant) else { return false };
        self.best = plan;
        self.failure = failure;
        (self.progress)(&self.best, self.tries);
        true
    }

    /// Leaves out ever smaller runs of steps.
    fn steps(&mut self) {
        let mut chunk = self.best.steps.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            let mut shrunk = false;
            while at < self.best.steps.len() {
                let mut plan = self.best.clone();
                let end = (at + chunk).min(plan.steps.len());
                plan.steps.drain(at..end);
                if self.attempt(plan) {
                    shrunk = true;
                } else {
                    at += chunk;
                }
            }
            if chunk == 1 && !shrunk {
                break;
            }
            if !shrunk || chunk > 1 {
                chunk /= 2;
            }
        }
    }

    /// Ends the faults earlier; steps after the end go.
    fn duration(&mut self) {
        for percent in [20, 50, 75, 90] {
            let mut plan = self.best.clone();
            plan.shape.duration = plan.shape.duration * percent / 100;
            let end = plan.shape.duration;
            plan.steps.retain(|step| step.at < end);
            if self.attempt(plan) {
                break;
            }
        }
    }

    fn shape(&mut self) {
        self.attempt_with(|plan| plan.shape.weather = Weather::default());
        self.attempt_with(|plan| plan.shape.drift_ppm.fill(0));
        self.attempt_with(|plan| {
            plan.shape.workload =
                Workload { idempotent_producers: 1, pause_ms: plan.shape.workload.pause_ms, ..Workload::default() }
        });
        let fewer: [fn(&mut Workload) -> &mut u32; 5] = [
            |work| &mut work.admins,
            |work| &mut work.group_members,
            |work| &mut work.consumers,
            |work| &mut work.plain_producers,
            |work| &mut work.idempotent_producers,
        ];
        for field in fewer {
            self.attempt_with(|plan| *field(&mut plan.shape.workload) = 0);
            self.attempt_with(|plan| {
                let count = field(&mut plan.shape.workload);
                *count = (*count).min(1);
            });
        }
        self.attempt_with(|plan| plan.shape.topics = 1);
        self.attempt_with(|plan| plan.shape.partitions = 1);
        self.attempt_with(|plan| plan.shape.joiners = 0);
        self.attempt_with(|plan| plan.shape.durable = false);
        self.attempt_with(|plan| plan.shape.segment_bytes = 1 << 20);
        self.attempt_with(|plan| plan.shape.image_every = 10_000);
        for founders in [3, 2, 1] {
            self.attempt_with(|plan| {
                let shape = &mut plan.shape;
                if founders < shape.founders && i32::from(founders) >= shape.victim.0 {
                    shape.founders = founders;
                    shape.replication_factor = shape.replication_factor.min(i16::from(founders));
                    shape.min_insync = shape.min_insync.min(shape.replication_factor);
                }
            });
        }
    }

    fn attempt_with(&mut self, change: impl FnOnce(&mut Plan)) {
        let mut plan = self.best.clone();
        change(&mut plan);
        self.attempt(plan);
    }
}
