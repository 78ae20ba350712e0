//! The harness proves itself: each deliberate defect must be noticed within a budget of seeds.

#![allow(clippy::disallowed_methods, reason = "around worlds, not within")]

use std::sync::atomic::{AtomicUsize, Ordering};

use chronik_model::mutant::{self, Mutant};
use parking_lot::Mutex;

use super::{Failure, Options, run_seed};

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct MutantResult {
    /// Which.
    pub mutant: Mutant,
    /// What caught it, if anything did: a seed, or a scenario by name.
    pub caught: Option<(String, Failure)>,
    /// Worlds run.
    pub worlds: u64,
    /// How often its sites were passed.
    pub reached: u64,
}

/// A scenario by name: what is broken when it is run.
pub type Scenario<'a> = (String, &'a (dyn Fn() -> Option<Failure> + Sync));

/// Runs each mutant on seeds `from..from + seeds`, then on the scenarios, until something notices. `told` hears of each
/// result as it comes; results are in the order of `mutants`. Only a build with the feature `mutants` has any.
pub fn hunt(
    mutants: &[Mutant],
    from: u64,
    seeds: u64,
    threads: usize,
    options: Options,
    scenarios: &[Scenario<'_>],
    told: &(dyn Fn(&MutantResult) + Sync),
) -> Vec<MutantResult> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = one(*mutant, from, seeds, options, scenarios);
                    told(&result);
                    results.lock().push(result);
                }
            });
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|result| result.mutant);
    results
}

fn one(mutant: Mutant, from: u64, seeds: u64, options: Options, scenarios: &[Scenario<'_>]) -> MutantResult {
    let mut result = MutantResult { mutant, caught: None, worlds: 0, reached: 0 };
    if !mutant::select(Some(mutant)) {
        return result;
    }
    for seed in from..from.saturating_add(seeds) {
        result.worlds += 1;
        if let Some(failure) = run_seed(seed, options).failure
            && sound(mutant, seed, options, &mut result)
        {
            result.caught = Some((format!("seed {seed}"), failure));
            break;
        }
    }
    if result.caught.is_none() {
        for (name, run) in scenarios {
            result.worlds += 1;
            if let Some(failure) = run() {
                result.caught = Some((name.clone(), failure));
                break;
            }
        }
    }
    result.reached += mutant::reached();
    let _off = mutant::select(None);
    result
}

/// Whether the seed is well without the mutant: a seed that fails anyway noticed nothing.
fn sound(mutant: Mutant, seed: u64, options: Options, result: &mut MutantResult) -> bool {
    result.reached += mutant::reached();
    let _off = mutant::select(None);
    let sound = run_seed(seed, options).failure.is_none();
    let _on = mutant::select(Some(mutant));
    sound
}
