//! Plans are data: a seed always draws the same one, and a file holds it whole.

#![allow(missing_docs)]

use chronik_sim::plan::{Fault, Limits, Plan};

#[test]
fn a_plan_written_and_read_is_the_same_plan() {
    let mut faults = 0;
    for seed in 0..500 {
        let plan = Plan::draw(seed, Limits::default());
        assert_eq!(plan, Plan::draw(seed, Limits::default()), "seed {seed}");
        faults += plan.steps.len();
        let read: Plan = plan.to_string().parse().unwrap_or_else(|error| panic!("seed {seed}: {error}\n{plan}"));
        assert_eq!(plan, read, "seed {seed}");
        assert!(plan.steps.is_sorted_by_key(|step| step.at), "seed {seed}");
    }
    assert!(faults > 5_000, "{faults} faults in 500 plans are too few");
}

#[test]
fn every_kind_of_fault_is_drawn_by_some_seed() {
    let mut words: Vec<String> = (0..2_000)
        .flat_map(|seed| Plan::draw(seed, Limits::default()).steps)
        .filter_map(|step| step.fault.to_string().split(' ').next().map(str::to_owned))
        .collect();
    words.sort_unstable();
    words.dedup();
    let all = [
        "assign-rack",
        "boot",
        "bridge",
        "cancel",
        "cordon",
        "cut",
        "demote",
        "drain",
        "drift",
        "elect",
        "fail",
        "full",
        "heal",
        "hide",
        "isolate",
        "join",
        "jump",
        "kill",
        "kill-at",
        "lie",
        "mend",
        "misdirect",
        "move",
        "move-leaders",
        "pause",
        "power-cut",
        "power-cut-at",
        "promote",
        "publish",
        "reassign",
        "remove",
        "repair",
        "reset",
        "resume",
        "ring",
        "slow",
        "slow-disk",
        "spoil",
        "stop",
        "uncordon",
        "weather",
        "wipe",
    ];
    assert_eq!(words, all);
}

#[test]
fn a_line_that_is_no_fault_is_refused_by_name() {
    for (text, reason) in [
        ("explode b1", "explode is no fault"),
        ("kill", "brokers are missing"),
        ("kill c1", "c1 is no broker"),
        ("cut b1", "a word is missing"),
        ("stop b1 b2", "b2 is one word too many"),
        ("slow b1 fast", "fast is not a number that fits"),
    ] {
        assert_eq!(text.parse::<Fault>(), Err(reason.to_owned()));
    }
    let error = "seed 1\nnonsense 2".parse::<Plan>().unwrap_err();
    assert_eq!((error.line, error.reason.as_str()), (2, "nonsense is unknown"));
}
