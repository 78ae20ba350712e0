//! Many seeds on several threads.
//!
//! The only place in this crate with threads and a clock: around worlds, never within one. Each thread takes the next
//! number until there are enough, time is up, or somebody failed.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "around worlds, not within")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Failure, Options, run_seed};
use crate::kernel::Micros;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// First seed.
    pub from: u64,
    /// Most seeds.
    pub seeds: u64,
    /// Most time.
    pub time: Option<Duration>,
    /// Threads.
    pub threads: usize,
    /// Whether to go on after a failure.
    pub keep_going: bool,
    /// Whether each seed is run twice, and fails if the two are not one story.
    pub twice: bool,
    /// How each world is run.
    pub options: Options,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct FleetReport {
    /// Seeds that failed, the smallest first.
    pub failed: Vec<(u64, Failure)>,
    /// Worlds that ran.
    pub worlds: u64,
    /// Simulated time of all of them.
    pub simulated: Micros,
    /// Processor time of the threads, together: what else the machine does is not in it.
    pub busy: Duration,
    /// Events of all of them.
    pub events: u64,
    /// Batches acknowledged in all of them.
    pub acked: u64,
    /// Steps declined.
    pub declined: u64,
}

impl FleetReport {
    /// Simulated seconds per second of processor time, that is per real second of one core that does nothing else.
    #[must_use]
    pub fn speed(&self) -> f64 {
        self.simulated as f64 / 1e6 / self.busy.as_secs_f64().max(1e-9)
    }
}

impl Fleet {
    /// Runs it. `progress` is called from time to time with what there is so far.
    pub fn run(&self, progress: &(dyn Fn(&FleetReport) + Sync)) -> FleetReport {
        let begin = Instant::now();
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let report = Mutex::new((FleetReport::default(), begin));
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && self.time.is_none_or(|most| begin.elapsed() < most) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds {
                            break;
                        }
                        self.one(self.from.wrapping_add(number), &stop, &report, progress);
                    }
                });
            }
        });
        let mut report = report.into_inner().0;
        report.failed.sort_by_key(|(seed, _)| *seed);
        report
    }

    fn one(
        &self,
        seed: u64,
        stop: &AtomicBool,
        report: &Mutex<(FleetReport, Instant)>,
        progress: &(dyn Fn(&FleetReport) + Sync),
    ) {
        let begin = (Instant::now(), processor_time());
        let mut outcome = run_seed(seed, self.options);
        if self.twice && outcome.failure.is_none() {
            let again = run_seed(seed, self.options);
            let (first, second) = ((outcome.hash, outcome.events), (again.hash, again.events));
            if first != second {
                let text = format!("two runs are two stories: hash and events {first:x?}, then {second:x?}");
                outcome.failure = Some(Failure { invariant: 0, text });
            }
        }
        let took = match (begin.1, processor_time()) {
            (Some(begin), Some(end)) => end.saturating_sub(begin),
            _ => begin.0.elapsed(),
        };
        let mut guard = report.lock();
        let (report, told) = &mut *guard;
        report.worlds += 1;
        report.simulated += outcome.simulated;
        report.busy += took;
        report.events += outcome.events;
        report.acked += outcome.batches.1 as u64;
        report.declined += outcome.declined;
        if let Some(failure) = outcome.failure {
            report.failed.push((seed, failure));
            if !self.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
        }
        if told.elapsed() > Duration::from_secs(10) {
            *told = Instant::now();
            progress(report);
        }
    }
}

/// Time that this thread was on a processor, if the kernel counts it.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
