//! A run is decided by its seed alone: nothing that differs between two runs of a process may decide anything.

#![allow(missing_docs)]

use chronik_sim::plan::{Limits, Plan};
use chronik_sim::runner::{Options, run_plan, run_seed};
use chronik_sim::trace::Detail;

/// Short worlds, so that a hundred of them twice take seconds; faults begin within the first three. `run --twice` of the
/// simulator does the same with whole ones.
const SHORT: Limits = Limits { founders: 4, seconds: 5, faults: true };

#[test]
fn a_hundred_seeds_tell_the_same_story_twice() {
    let options = Options { limits: SHORT, detail: Detail::Hash };
    for seed in 0..100 {
        let (first, second) = (run_seed(seed, options), run_seed(seed, options));
        assert_eq!(
            (first.hash, first.events, first.simulated),
            (second.hash, second.events, second.simulated),
            "seed {seed} went two ways"
        );
        assert!(first.events > 100, "seed {seed}: nothing happened in it");
    }
}

#[test]
fn who_watches_changes_nothing() {
    for seed in 0..5 {
        let plan = Plan::draw(seed, SHORT);
        let quiet = run_plan(&plan, Detail::Hash);
        let told = run_plan(&plan, Detail::Whole);
        assert_eq!(
            (quiet.events, quiet.simulated, quiet.hash),
            (told.events, told.simulated, told.hash),
            "seed {seed}"
        );
    }
}

#[test]
fn two_seeds_are_two_stories() {
    let options = Options { limits: SHORT, detail: Detail::Hash };
    assert_ne!(run_seed(1, options).hash, run_seed(2, options).hash);
}
