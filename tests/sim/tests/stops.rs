//! Processes that die, and machines whose power goes, at any change of a file: between the two writes of one step, in the
//! middle of a recovery.

#![allow(missing_docs)]

use chronik_sim::plan::{Fault, Plan, Shape, Step};
use chronik_sim::runner::{Outcome, run_plan};
use chronik_sim::trace::Detail;

const SECOND: u64 = 1_000_000;

/// Three brokers under load, small segments and images, to which this happens.
fn run(durable: bool, faults: &[(u64, String)]) -> Outcome {
    let mut shape =
        Shape { topics: 1, duration: 9 * SECOND, image_every: 10, segment_bytes: 4 << 10, durable, ..Shape::calm(3) };
    shape.workload.idempotent_producers = 1;
    shape.workload.consumers = 1;
    shape.workload.admins = 1;
    shape.workload.pause_ms = 50;
    let step = |(at, fault): &(u64, String)| Step { at: *at, fault: fault.parse::<Fault>().expect("a fault") };
    let plan = Plan { seed: 1, shape, steps: faults.iter().map(step).collect() };
    let outcome = run_plan(&plan, Detail::Whole);
    assert!(outcome.failure.is_none(), "{faults:?}: {:?}\n{}", outcome.failure, outcome.lines.join("\n"));
    outcome
}

fn times(outcome: &Outcome, words: &str) -> usize {
    outcome.lines.iter().filter(|line| line.contains(words)).count()
}

#[test]
fn wherever_a_process_dies_or_its_power_goes_nothing_is_lost() {
    for (fault, durable) in [("kill-at", false), ("power-cut-at", false), ("power-cut-at", true)] {
        for nth in 1..=8 {
            let outcome =
                run(durable, &[(5 * SECOND, format!("{fault} b1 {nth}")), (8 * SECOND, "boot b1".to_owned())]);
            assert_eq!(times(&outcome, "b1 stops in the middle of an event"), 1, "{fault} {nth}");
            assert_eq!(times(&outcome, "b1 started"), 2, "{fault} {nth}");
            assert_eq!(times(&outcome, "b1 loses its power"), usize::from(fault == "power-cut-at"), "{fault} {nth}");
        }
    }
}

#[test]
fn wherever_a_recovery_is_interrupted_the_next_one_ends_it() {
    let mut interrupted = 0;
    for fault in ["kill-at", "power-cut-at"] {
        for nth in 1..=10 {
            let outcome = run(
                false,
                &[
                    (5 * SECOND, "power-cut b1".to_owned()),
                    (6 * SECOND, format!("{fault} b1 {nth}")),
                    (6 * SECOND + 1, "boot b1".to_owned()),
                    (7 * SECOND, "boot b1".to_owned()),
                ],
            );
            interrupted += times(&outcome, "b1 stops while it starts");
        }
    }
    assert!(interrupted >= 8, "{interrupted} recoveries were interrupted");
}
