//! A few worlds, always the same ones; thousands are for `tests/tools/opsim.sh`, which builds the simulation to be fast.

use chronik_opsim::plan::Plan;
use chronik_opsim::runner::{run, run_plan};

#[test]
fn a_few_worlds_end_well() {
    let plans = (1..=8).map(Plan::new).chain((1..=4).map(Plan::among_strangers));
    for plan in plans {
        let (seed, report) = (plan.seed, run_plan(plan, false));
        assert!(
            report.failure.is_none(),
            "{}\nseed {seed}: {}\nreplay: cargo run -p chronik-opsim --profile sim -- replay {seed} --trace",
            report.story,
            report.failure.unwrap_or_default()
        );
    }
}

#[test]
fn one_seed_tells_the_same_story_twice() {
    for seed in [3, 17] {
        let (first, second) = (run(seed, true), run(seed, true));
        assert_eq!(first.story, second.story);
        assert_eq!(first.hash, second.hash);
        assert!(first.events > 20, "a story is told");
    }
    assert_ne!(run(3, false).hash, run(17, false).hash);
}

#[test]
fn operators_are_killed_and_pass_again_all_the_same() {
    let (mut kills, mut passes) = (0, 0);
    for seed in 300..306 {
        let report = run(seed, false);
        kills += report.kills;
        passes += report.passes;
    }
    assert!(kills > 5, "{kills} kills");
    assert!(passes > 150, "{passes} passes");
}
