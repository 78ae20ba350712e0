//! Voters that become learners, racks that are assigned: each as a plan of its own, with faults around it.

#![allow(missing_docs)]

use chronik_model::NodeId;
use chronik_sim::plan::{Fault, Plan, Shape, Step};
use chronik_sim::runner::{Outcome, run_plan};
use chronik_sim::trace::Detail;

const SECOND: u64 = 1_000_000;

/// A cluster under load to which this happens.
fn run(founders: u8, steps: &[&str]) -> Outcome {
    let mut shape = Shape { topics: 1, partitions: 2, duration: 20 * SECOND, image_every: 20, ..Shape::calm(founders) };
    shape.workload.idempotent_producers = 1;
    shape.workload.consumers = 1;
    shape.workload.pause_ms = 50;
    let step = |line: &&str| {
        let (at, fault) = line.split_once(' ').expect("a time and a fault");
        Step { at: at.parse().expect("a time"), fault: fault.parse::<Fault>().expect("a fault") }
    };
    let plan = Plan { seed: 1, shape, steps: steps.iter().map(step).collect() };
    let outcome = run_plan(&plan, Detail::Whole);
    assert!(outcome.failure.is_none(), "{:?}\n{}", outcome.failure, outcome.lines.join("\n"));
    outcome
}

fn says(outcome: &Outcome, words: &str) -> bool {
    outcome.lines.iter().any(|line| line.contains(words))
}

fn last_members(outcome: &Outcome) -> &str {
    let line = outcome.lines.iter().rev().find_map(|line| line.split_once("members: "));
    line.map_or("", |(_, members)| members)
}

#[test]
fn of_three_two_may_be_demoted_and_the_last_one_leads_on_with_two_that_follow() {
    let outcome = run(
        3,
        &[
            "5000000 demote b1",
            "6000000 demote b2",
            "7000000 demote b3",
            "9000000 kill b1 b2 b3",
            "10000000 boot b1 b2 b3",
        ],
    );
    assert!(says(&outcome, "transfer leadership first") || says(&outcome, "is the last voter"));
    assert_eq!(outcome.declined, 1, "the leader is not demoted");
    let members = last_members(&outcome);
    let alone = [1, 2, 3].map(NodeId).into_iter().any(|one| members.starts_with(&format!("voters [{one}] learners [")));
    assert!(alone, "{members}");
}

#[test]
fn who_is_needed_for_a_majority_is_not_demoted_and_who_was_may_vote_again() {
    // One of three is down. Whichever of the others leads, the other one is needed.
    let outcome = run(3, &["5000000 kill b3", "10000000 demote b1", "11000000 demote b2", "12000000 demote b3"]);
    assert!(says(&outcome, "transfer leadership first") && says(&outcome, "would be alive"));
    assert_eq!(outcome.declined, 2);
    assert_eq!(last_members(&outcome), "voters [1 2] learners [3]", "the dead one decides nothing anyway");
    let outcome = run(3, &["5000000 demote b3", "6000000 demote b2", "12000000 promote b3", "14000000 promote b2"]);
    assert_eq!(last_members(&outcome), "voters [1 2 3] learners []");
    assert!(says(&outcome, "learners [3]") || says(&outcome, "learners [2]"));
}

#[test]
fn a_rack_is_known_to_all_and_stays_over_restarts_wiped_disks_and_state_images() {
    let outcome = run(
        3,
        &[
            "5000000 assign-rack b1 1",
            "5100000 assign-rack b2 2",
            "7000000 wipe b1",
            "8000000 boot b1",
            "11000000 kill b1 b2 b3",
            "11500000 boot b1 b2 b3",
            "14000000 assign-rack b2 3",
            "15000000 assign-rack b1 0",
        ],
    );
    // That they are as wanted in the end is asked for by the run itself.
    assert!(says(&outcome, "b1: disk wiped"), "the wipe was not declined");
}
