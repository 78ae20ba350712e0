//! The harness proves itself: each deliberate defect must be noticed within a budget of seeds, and each scenario script
//! must notice the defect that it is about.

#![allow(clippy::disallowed_methods, reason = "around worlds, not within")]

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use chronik_model::mutant::{self, Mutant};
use parking_lot::Mutex;

use super::{Failure, Options, PANIC, run_seed};

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct MutantResult {
    /// Which.
    pub mutant: Mutant,
    /// The first seed or script in which it broke an invariant that it is said to break.
    pub caught: Option<(String, Failure)>,
    /// The first seed that failed in another way: a panic, or an invariant that it is not said to break.
    pub otherwise: Option<(String, Failure)>,
    /// The first script that answered something else, where no declared invariant was seen to break.
    pub script: Option<(String, Failure)>,
    /// Worlds run.
    pub worlds: u64,
    /// How often its sites were passed.
    pub reached: u64,
}

impl MutantResult {
    /// Whether it was noticed as it should be: by an invariant that it is said to break, or, if it is said to break none, by a
    /// script that answers something else. A panic, or an invariant that nobody thought of, is not enough: then the list of
    /// mutants says something untrue.
    #[must_use]
    pub fn is_noticed(&self) -> bool {
        let answer = self.script.as_ref().is_some_and(|(_, failure)| failure.invariant != PANIC);
        self.caught.is_some() || (self.mutant.invariants().is_empty() && answer)
    }

    /// Whether nothing but a script noticed it.
    #[must_use]
    pub fn is_by_script_only(&self) -> bool {
        self.caught.is_none() && self.is_noticed()
    }
}

impl fmt::Display for MutantResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, place) = match (&self.caught, &self.script, &self.otherwise) {
            (Some((place, failure)), ..) => (how(failure), place.as_str()),
            (None, Some((place, failure)), _) => (format!("script only: {}", how(failure)), place.as_str()),
            (None, None, Some((place, failure))) => {
                (format!("{}, NOT DECLARED: {:?} is", how(failure), self.mutant.invariants()), place.as_str())
            }
            (None, None, None) => ("SURVIVED".to_owned(), ""),
        };
        write!(f, "| {} | {by} | {place} | {} | {} |", self.mutant.name(), self.worlds, self.reached)
    }
}

/// What noticed it, in a word or two.
fn how(failure: &Failure) -> String {
    match failure.invariant {
        PANIC => "a panic".to_owned(),
        0 => "another answer".to_owned(),
        number => format!("invariant {number}"),
    }
}

/// What became of a script with the mutant that it names.
#[derive(Clone, Debug)]
pub struct ScriptResult {
    /// The script.
    pub name: String,
    /// The mutant.
    pub mutant: Mutant,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// Whether it is well without: one that fails anyway notices nothing.
    pub sound: bool,
    /// How often the mutant's sites were passed.
    pub reached: u64,
}

impl ScriptResult {
    /// Whether the script tells the mutant from its absence.
    #[must_use]
    pub fn is_noticed(&self) -> bool {
        self.sound && self.failure.is_some()
    }
}

impl fmt::Display for ScriptResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match &self.failure {
            _ if !self.sound => "FAILS WITHOUT IT".to_owned(),
            None => "PASSES".to_owned(),
            Some(failure) => {
                let place = failure.text.lines().find(|line| line.starts_with("line "));
                let seen: String =
                    place.or(failure.text.lines().next()).unwrap_or_default().chars().take(100).collect();
                format!("{}: {seen}", how(failure))
            }
        };
        write!(f, "| {} | {} | {by} | {} |", self.name, self.mutant.name(), self.reached)
    }
}

/// A scenario by name: what is broken when it is run.
pub type Scenario<'a> = (String, &'a (dyn Fn() -> Option<Failure> + Sync));

/// Runs a scenario with a mutant and without.
#[must_use]
pub fn confront(scenario: &Scenario<'_>, mutant: Mutant) -> ScriptResult {
    let (name, run) = scenario;
    let _off = mutant::select(None);
    let sound = run().is_none();
    let _on = mutant::select(Some(mutant));
    let failure = run();
    let reached = mutant::reached();
    let _off = mutant::select(None);
    ScriptResult { name: name.clone(), mutant, failure, sound, reached }
}

/// Runs each mutant on seeds `from..from + seeds` until one breaks an invariant that the mutant is said to break, and
/// on the scenarios when none does. Of a mutant that is said to break none, only the scenarios are asked. `told` hears of
/// each result as it comes; results are in the order of `mutants`. Only a build with the feature `mutants` has any.
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
    let mut result = MutantResult { mutant, caught: None, otherwise: None, script: None, worlds: 0, reached: 0 };
    if !mutant::select(Some(mutant)) {
        return result;
    }
    let declared = |failure: &Failure| mutant.invariants().contains(&failure.invariant);
    let seeds = if mutant.invariants().is_empty() { 0 } else { seeds };
    for seed in from..from.saturating_add(seeds) {
        result.worlds += 1;
        let Some(failure) = run_seed(seed, options).failure else { continue };
        let counts = declared(&failure);
        if (!counts && result.otherwise.is_some()) || !sound(mutant, seed, options, &mut result) {
            continue;
        }
        let seen = Some((format!("seed {seed}"), failure));
        if counts {
            result.caught = seen;
            break;
        }
        result.otherwise = seen;
    }
    if result.caught.is_none() {
        for (name, run) in scenarios {
            result.worlds += 1;
            let Some(failure) = run() else { continue };
            let counts = declared(&failure);
            let seen = Some((name.clone(), failure));
            if counts {
                result.caught = seen;
                break;
            }
            result.script = result.script.or(seen);
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

#[cfg(test)]
mod tests {
    use super::{Failure, Mutant, MutantResult, PANIC, ScriptResult};

    fn seen(invariant: u8) -> Option<(String, Failure)> {
        Some(("seed 1".to_owned(), failure(invariant)))
    }

    fn failure(invariant: u8) -> Failure {
        Failure { invariant, text: "line 7: show\n  expected: a".to_owned() }
    }

    #[test]
    fn a_panic_or_an_undeclared_invariant_is_not_enough_and_a_script_is_told_apart() {
        let mut result = MutantResult {
            mutant: Mutant::SkipVoteSync,
            caught: None,
            otherwise: seen(PANIC),
            script: None,
            worlds: 1,
            reached: 1,
        };
        assert!(!result.is_noticed());
        assert!(result.to_string().contains("NOT DECLARED"), "{result}");
        result.script = seen(0);
        assert!(!result.is_noticed(), "it is said to break an invariant");
        result.mutant = Mutant::TrustLostEnd;
        assert!(result.is_noticed() && result.is_by_script_only());
        assert!(result.to_string().contains("script only"), "{result}");
        result.script = seen(PANIC);
        assert!(!result.is_noticed());
        (result.mutant, result.caught) = (Mutant::SkipVoteSync, seen(2));
        assert!(result.is_noticed() && !result.is_by_script_only());
        assert!(result.to_string().contains("invariant 2"), "{result}");
    }

    #[test]
    fn a_script_notices_a_mutant_only_if_it_is_well_without() {
        let mutant = Mutant::SkipVoteSync;
        let mut result = ScriptResult { name: "s".into(), mutant, failure: None, sound: true, reached: 1 };
        assert!(!result.is_noticed());
        result.failure = Some(failure(0));
        assert!(result.is_noticed());
        assert!(result.to_string().contains("line 7: show"), "{result}");
        result.sound = false;
        assert!(!result.is_noticed());
    }
}
