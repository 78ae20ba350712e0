//! What the simulation once found, as plans of its own: what a seed means changes with the simulation, what these say does not.

use chronik_operator::api::RetentionPolicy;
use chronik_opsim::plan::{Action, Plan};
use chronik_opsim::runner::run_plan;

/// Three brokers in a friendly world in which only these things happen, at these seconds.
fn calm(actions: &[(u64, Action)]) -> Plan {
    let mut plan = Plan::new(8);
    plan.spec = chronik_operator::api::ChronikClusterSpec { replicas: 3, ..Default::default() };
    plan.expandable = true;
    (plan.errors, plan.lost_answers, plan.kills, plan.stale_ms, plan.two_operators) = (0, 0, 0, 0, false);
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
