//! What the simulation once found, as plans of its own: what a seed means changes with the simulation, what these say does not.

use chronik_operator::api::{RetentionPolicy, RolloutPolicy};
use chronik_opsim::plan::{Action, Plan};
use chronik_opsim::runner::run_plan;

/// Three brokers in a friendly world in which only these things happen, at these seconds.
fn calm(actions: &[(u64, Action)]) -> Plan {
    let mut plan = Plan::new(8);
    plan.spec = chronik_operator::api::ChronikClusterSpec { replicas: 3, ..Default::default() };
    plan.expandable = true;
    (plan.errors, plan.lost_answers, plan.kills, plan.stale_ms, plan.two_operators) = (0, 0, 0, 0, false);
    (plan.late_errors, plan.conflicts, plan.refusals, plan.may_read_nodes) = (0, 0, 0, true);
    plan.actions = actions.iter().map(|(at, action)| (at * 1000, action.clone())).collect();
    plan.calm_at = 150_000;
    plan
}

fn ends_well(plan: Plan) {
    let report = run_plan(plan, true);
    assert!(report.failure.is_none(), "{}\n{}", report.story, report.failure.unwrap_or_default());
}

/// Found by seeds 6 and 17: `whenScaled: Delete` is for brokers that were drained; a StatefulSet scaled to nothing lost every disk.
#[test]
fn stopping_keeps_the_disks_although_scaling_down_deletes_them() {
    let mut plan = calm(&[(40, Action::Stop), (80, Action::Start)]);
    plan.spec.storage.retention.when_scaled = RetentionPolicy::Delete;
    ends_well(plan);
}

#[test]
fn a_stop_while_the_disks_grow_keeps_them_too() {
    let mut plan = calm(&[(40, Action::Grow(20)), (41, Action::Stop), (90, Action::Start)]);
    plan.spec.storage.retention.when_scaled = RetentionPolicy::Delete;
    ends_well(plan);
}

#[test]
fn three_brokers_become_five_and_three_again_under_kills() {
    for kills in [10, 30, 60] {
        let mut plan = calm(&[(40, Action::Scale(5)), (100, Action::Scale(3))]);
        plan.kills = kills;
        ends_well(plan);
    }
}

/// Found by seeds 118, 122 and 190: a list that was a moment old had the StatefulSet applied at the size that it had had, when the pod
/// template changed in the same moment: from 5 to 1 brokers at once.
#[test]
fn a_stale_list_never_undoes_a_change_of_the_size() {
    for at in 40..56 {
        let mut plan = calm(&[
            (40, Action::Scale(5)),
            (at, Action::Configure(7)),
            (at + 60, Action::Scale(3)),
            (at + 75, Action::Configure(8)),
        ]);
        plan.spec.replicas = 1;
        plan.stale_ms = 5_000;
        plan.seed = at;
        ends_well(plan);
    }
}

/// Found by seed 89: where storage classes cannot be read, a claim that cannot grow was asked to grow in every pass.
#[test]
fn a_disk_that_cannot_grow_is_not_asked_in_every_pass() {
    let mut plan = calm(&[(40, Action::Grow(20))]);
    (plan.expandable, plan.may_read_classes) = (false, false);
    ends_well(plan);
}

/// A StatefulSet that is made anew is gone for a moment, and its pods belonged to nobody: a cluster that was deleted then left them running.
#[test]
fn a_cluster_that_is_deleted_while_its_statefulset_is_made_anew_leaves_no_pod() {
    for at in 0..12 {
        let mut plan = calm(&[(40, Action::Grow(20)), (41 + at, Action::Recreate(5))]);
        plan.seed = at;
        plan.resize_ms = 500;
        ends_well(plan);
    }
}

/// Of five voters four were left when four of five brokers were.
#[test]
fn four_brokers_have_three_voters() {
    for kills in [0, 30] {
        let mut plan = calm(&[(40, Action::Scale(5)), (100, Action::Scale(4))]);
        plan.kills = kills;
        ends_well(plan);
    }
}

#[test]
fn the_disks_of_drained_brokers_are_deleted_when_the_user_wants_that() {
    for (kills, stale) in [(0, 0), (40, 0), (20, 5_000)] {
        let mut plan = calm(&[(40, Action::Scale(5)), (90, Action::Scale(3)), (140, Action::Scale(5))]);
        plan.spec.storage.retention.when_scaled = RetentionPolicy::Delete;
        (plan.kills, plan.stale_ms) = (kills, stale);
        ends_well(plan);
    }
}

/// Found by seeds 276, 865 and 1153: a removal that is held back hid that the disks cannot grow, and (1121) where classes cannot be read the claim
/// was asked again in every pass.
#[test]
fn disks_that_cannot_grow_are_named_beside_another_change_that_is_held_back() {
    for may_read_classes in [true, false] {
        let mut plan = calm(&[(40, Action::Scale(1)), (60, Action::Grow(20)), (90, Action::Grow(30))]);
        plan.topics.iter_mut().for_each(|topic| topic.replication = 3);
        (plan.expandable, plan.may_read_classes) = (false, may_read_classes);
        ends_well(plan);
    }
}

/// Found by seeds 824, 1124, 1191 and 1809: under a manual policy brokers that ended at once with a bad setting did so for ever after it was
/// mended, and where another change waited for them nobody said that an approval was missing.
#[test]
fn brokers_that_do_not_run_are_mended_without_an_approval() {
    for bad in [Action::ConfigureBadly, Action::ImageBadly] {
        for also in [Action::Start, Action::Scale(5), Action::Scale(2)] {
            let mut plan =
                calm(&[(40, bad.clone()), (41, Action::Stop), (60, Action::Start), (70, also), (110, Action::Mend)]);
            plan.spec.rollout.policy = RolloutPolicy::Manual;
            ends_well(plan);
        }
    }
}

/// Found by seed 179 with strangers: the pod of a voter that another hand took away returns, and another broker had become a voter in its place.
#[test]
fn a_voter_whose_pod_was_taken_away_is_not_replaced() {
    for voters in [3, 5] {
        let mut plan = calm(&[(60, Action::ScaleSet(4)), (100, Action::ScaleSet(4))]);
        plan.spec.replicas = 5;
        plan.spec.raft.voters = Some(voters);
        ends_well(plan);
    }
}

/// Found by seed 628: a cluster that is made again smaller than it was, while the last StatefulSet is not gone yet, shrinks nothing.
#[test]
fn a_cluster_that_is_made_again_may_be_smaller() {
    for seconds in 0..8 {
        let mut plan = calm(&[(40, Action::Recreate(seconds)), (40 + seconds, Action::Scale(1))]);
        plan.spec.storage.retention.when_deleted = RetentionPolicy::Delete;
        ends_well(plan);
    }
}

/// Found by seeds 511, 1141 and 1156 with strangers: a broker had left the quorum, empty, when another hand gave the StatefulSet more brokers than
/// it. It stayed, nobody let it in again with what its disk remembered, and every other change waited for it.
#[test]
fn a_broker_that_left_the_quorum_and_stays_begins_anew() {
    for at in 0..10 {
        let mut plan = calm(&[(40, Action::Scale(3)), (47 + at, Action::ScaleSet(6)), (90, Action::Scale(4))]);
        plan.spec.replicas = 4;
        plan.seed = at;
        ends_well(plan);
    }
}

#[test]
fn voters_become_fewer_and_more_as_the_user_says() {
    for (kills, refusals) in [(0, 0), (30, 200)] {
        let voters = [(40, Some(1)), (70, Some(5)), (100, None)];
        let mut plan = calm(&voters.map(|(at, voters)| (at, Action::Voters(voters))));
        plan.spec.replicas = 5;
        (plan.kills, plan.refusals) = (kills, refusals);
        ends_well(plan);
    }
}

#[test]
fn brokers_are_in_the_racks_of_their_nodes_whatever_becomes_of_the_labels() {
    for zones in [vec![Some(0), Some(1), Some(2)], vec![Some(0), None, Some(1), Some(0)]] {
        let labels = [(60, Action::Rack(Some(1))), (70, Action::Label(0, None)), (80, Action::Label(0, Some(3)))];
        let mut actions = vec![(30, Action::Rack(Some(0))), (40, Action::Scale(5)), (50, Action::DeletePod(1))];
        actions.extend(labels);
        actions.push((100, Action::Rack(None)));
        for kept in [6, 7] {
            let mut plan = calm(&actions[..kept]);
            plan.zones.clone_from(&zones);
            ends_well(plan);
        }
    }
}
