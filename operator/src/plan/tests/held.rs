//! What hangs or is held back, and what goes on all the same.

use super::*;
use crate::api::ChronikClusterStatus;

/// Broker 4 was removed, and its pod does not end.
fn hanging() -> View {
    let mut view = healthy(4);
    let set = view.set.as_mut().unwrap();
    set.replicas = 3;
    view.pods.get_mut(&NodeId(4)).unwrap().terminating = true;
    view.brokers.insert(NodeId(4), Answer::Unknown("?".into()));
    cluster(&mut view, |c| {
        assert!(c.voters.remove(&NodeId(4)));
        let b = c.brokers.get_mut(&NodeId(4)).unwrap();
        (b.replicas, b.fenced, b.cordoned) = (0, true, true);
    });
    view
}

#[test]
fn a_removed_pod_that_never_ends_keeps_nothing_else_from_being_done() {
    let waits = plan(&wanted(3), &hanging());
    assert_eq!((waits.step.clone(), gates(&waits)), (Step::None, vec![Gate::PodNotGone]));

    let roll = Wanted { revision: NEW.into(), ..wanted(3) };
    assert_eq!(restarted(&plan(&roll, &hanging())), Some(2), "a rolling restart");

    let mut view = hanging();
    let pod = view.pods.get_mut(&NodeId(3)).unwrap();
    (pod.ready, pod.down) = (false, true);
    assert_eq!(restarted(&plan(&roll, &view)), Some(3), "a pod that does not run gets the new template");

    let mut view = hanging();
    if let Some(Answer::Known(facts)) = view.brokers.get_mut(&NodeId(2)) {
        (facts.myself.log_dir_offline, facts.myself.uptime_ms) = (true, 60_000);
    }
    assert_eq!(restarted(&plan(&wanted(3), &view)), Some(2), "a log directory that is offline");

    let mut view = hanging();
    cluster(&mut view, |c| {
        assert!(c.voters.remove(&NodeId(3)) && c.learners.insert(NodeId(3)));
    });
    assert_eq!(plan(&wanted(3), &view).step, Step::Quorum(QuorumChange::Promote(NodeId(3))), "a voter is missing");

    let mut view = hanging();
    view.set.as_mut().unwrap().claim_size = Some(5);
    assert_eq!(plan(&wanted(3), &view).step, Step::RecreateSet { uid: "set".into() }, "disks grow");

    let mut view = hanging();
    view.rebalance = Some(RebalanceStatus::default());
    assert_eq!(plan(&wanted(3), &view).step, Step::Rebalance);
}

#[test]
fn nobody_joins_or_goes_before_a_removed_broker_is_forgotten() {
    for replicas in [2, 4, 5] {
        let held = plan(&wanted(replicas), &hanging());
        assert_eq!(held.step, Step::None, "{replicas}");
        assert!(gates(&held).contains(&Gate::PodNotGone), "{replicas}: {held:?}");
    }
    // Its pod has ended, but another one is on its way, so that its disk is not retired yet.
    let mut view = hanging();
    view.pods.remove(&NodeId(4));
    view.pods.get_mut(&NodeId(2)).unwrap().terminating = true;
    assert_eq!(plan(&wanted(4), &view).step, Step::None);
}

#[test]
fn a_disk_is_deleted_only_when_it_is_marked_and_before_its_broker_is_forgotten() {
    let keep = wanted(3);
    let delete = Wanted { delete_disks: true, ..wanted(3) };
    let mut view = hanging();
    view.pods.remove(&NodeId(4));
    view.brokers.remove(&NodeId(4));
    view.set.as_mut().unwrap().status_replicas = 3;
    let retire = Step::Retire { node: NodeId(4), directory: "dir-4".into(), claim: Some("claim-4".into()) };
    assert_eq!(plan(&delete, &view).step, retire);
    view.retired.insert("dir-4".into());
    assert_eq!(plan(&delete, &view).step, Step::Unregister(NodeId(4)), "a disk that could not be marked stays");
    view.claims.get_mut(&NodeId(4)).unwrap().retired.insert("dir-4".into());
    assert_eq!(plan(&delete, &view).step, Step::DeleteClaim { node: NodeId(4), uid: "claim-4".into() });
    assert_eq!(plan(&keep, &view).step, Step::Unregister(NodeId(4)));
    view.claims.get_mut(&NodeId(4)).unwrap().terminating = true;
    assert_eq!(plan(&delete, &view).step, Step::Unregister(NodeId(4)), "once is enough");
    view.claims.remove(&NodeId(4));
    assert_eq!(plan(&delete, &view).step, Step::Unregister(NodeId(4)), "it has gone meanwhile");
}

#[test]
fn a_broker_that_another_hand_took_away_keeps_its_disk_and_returns() {
    let mut view = hanging();
    view.pods.remove(&NodeId(4));
    view.brokers.remove(&NodeId(4));
    view.set.as_mut().unwrap().status_replicas = 3;
    view.claims.get_mut(&NodeId(4)).unwrap().retired.insert("dir-4".into());
    broker(&mut view, 4, |b| b.replicas = 2);
    let delete = Wanted { delete_disks: true, ..wanted(3) };
    assert_eq!(plan(&delete, &view).step, Step::Resize { from: Some(3), to: 4 });
}

/// What the status shows pass after pass while nothing changes but what the status says.
fn shown_in_turn(to: &Wanted, mut view: View, passes: usize) -> Vec<Operation> {
    let mut shown = Vec::new();
    for _ in 0..passes {
        let next = plan(to, &view);
        assert_eq!(next.step, Step::None);
        let doing_now = next.doing.unwrap();
        shown.push(doing_now.kind);
        doing(&mut view, doing_now.kind, doing_now.step, doing_now.node.map(|n| n.0));
    }
    shown
}

#[test]
fn of_two_changes_that_are_held_back_the_status_shows_one_and_stays_with_it() {
    let mut view = healthy(3);
    view.expansion = Expansion::Refused;
    let to = Wanted { storage: Some(20), revision: NEW.into(), restarts_held: Some("manual".into()), ..wanted(1) };
    let waits: Vec<Operation> = plan(&to, &view).waiting.iter().map(|d| d.kind).collect();
    assert_eq!(waits, [Operation::StorageGrowth, Operation::ScaleDown, Operation::RollingRestart]);
    for kind in waits {
        doing(&mut view, kind, OperationStep::Begin, None);
        assert_eq!(shown_in_turn(&to, view.clone(), 3), [kind; 3]);
    }
    view.operation = None;
    assert_eq!(shown_in_turn(&to, view, 3), [Operation::StorageGrowth; 3]);
}

#[test]
fn a_restart_under_way_is_shown_rather_than_what_waits_for_a_person() {
    let mut view = healthy(3);
    view.expansion = Expansion::Refused;
    let to = Wanted { storage: Some(20), revision: NEW.into(), ..wanted(3) };
    let first = plan(&to, &view);
    assert_eq!(restarted(&first), Some(2));
    doing(&mut view, Operation::RollingRestart, OperationStep::RestartPod, Some(2));
    let pod = view.pods.get_mut(&NodeId(2)).unwrap();
    (pod.revision, pod.ready) = (NEW.into(), false);
    let waits = plan(&to, &view);
    assert_eq!(waits.doing.as_ref().map(|d| (d.kind, d.node)), Some((Operation::RollingRestart, Some(NodeId(2)))));
    assert!(gates(&waits).contains(&Gate::StorageClassNotExpandable));
}

#[test]
fn disks_without_a_mark_are_named_and_hold_up_nothing() {
    let mut view = healthy(3);
    view.claims.get_mut(&NodeId(2)).unwrap().cluster_id = None;
    assert_eq!(unmarked(&view), [(NodeId(2), "claim-2".to_owned())]);
    assert_eq!(restarted(&plan(&Wanted { revision: NEW.into(), ..wanted(3) }, &view)), Some(2));
}

#[test]
fn without_an_approval_only_a_pod_that_has_not_run_for_a_while_gets_the_new_template() {
    let to = Wanted { revision: NEW.into(), restarts_held: Some("manual".into()), ..wanted(3) };
    let broken = |down: bool, seconds: Option<i64>| {
        let mut view = healthy(3);
        let pod = view.pods.get_mut(&NodeId(2)).unwrap();
        (pod.ready, pod.down, pod.ready_since) = (false, down, seconds.map(|s| now() - s.seconds()));
        plan(&to, &view)
    };
    assert_eq!(restarted(&broken(true, Some(60))), Some(2));
    assert_eq!(restarted(&broken(true, None)), Some(2), "one that never was anywhere");
    for (down, seconds) in [(true, 59), (false, 6000)] {
        let waits = broken(down, Some(seconds));
        assert_eq!(waits.step, Step::None);
        let shown = waits.doing.as_ref().unwrap();
        assert_eq!((shown.kind, shown.node), (Operation::RollingRestart, Some(NodeId(2))));
        assert_eq!(shown.holds[0].gate, Gate::ManualApproval);
    }
}

#[test]
fn the_approval_that_a_broken_broker_needs_is_shown_before_what_waits_for_that_broker() {
    let mut view = healthy(3);
    view.rebalance = Some(RebalanceStatus::default());
    view.pods.get_mut(&NodeId(2)).unwrap().ready = false;
    doing(&mut view, Operation::Rebalance, OperationStep::AwaitPods, None);
    let to = Wanted { revision: NEW.into(), restarts_held: Some("manual".into()), ..wanted(3) };
    assert_eq!(shown_in_turn(&to, view, 2), [Operation::RollingRestart; 2]);
}

#[test]
fn what_the_api_server_says_against_a_larger_disk_is_told_and_holds_back_nothing_else() {
    let mut view = healthy(3);
    view.growth_refused = Some("forbidden: exceeded quota".into());
    let to = Wanted { storage: Some(20), revision: NEW.into(), ..wanted(3) };
    let next = plan(&to, &view);
    let hold = &next.waiting.iter().find(|d| d.kind == Operation::StorageGrowth).unwrap().holds[0];
    assert_eq!((hold.gate, hold.message.as_str()), (Gate::KubernetesRefused, "forbidden: exceeded quota"));
    assert_eq!(restarted(&next), Some(2));
}

#[test]
fn a_cluster_of_one_whose_disk_ends_with_its_pod_is_restarted_by_a_person_only() {
    let mut view = healthy(1);
    let persistent = Wanted { revision: NEW.into(), storage: Some(10), ..wanted(1) };
    assert_eq!(restarted(&plan(&persistent, &view)), Some(1));
    let ephemeral = Wanted { storage: None, ..persistent };
    for ready in [true, false] {
        view.pods.get_mut(&NodeId(1)).unwrap().ready = ready;
        let held = plan(&ephemeral, &view);
        assert_eq!((held.step.clone(), gates(&held)[0]), (Step::None, Gate::WouldLoseMajority));
    }
    view.founded = false;
    view.pods.get_mut(&NodeId(1)).unwrap().down = true;
    assert_eq!(restarted(&plan(&ephemeral, &view)), Some(1), "nothing is lost before it is founded");
}

#[test]
fn disks_count_as_the_clusters_from_the_moment_that_founders_lead_and_a_removed_brokers_when_another_has_it() {
    let mut view = healthy(2);
    view.founded = false;
    view.claims.get_mut(&NodeId(1)).unwrap().cluster_id = None;
    view.claims.get_mut(&NodeId(2)).unwrap().cluster_id = Some("an earlier one".into());
    let both = [1, 2].map(|n| (NodeId(n), format!("claim-{n}")));
    assert_eq!(unmarked(&view), both);
    view.brokers.clear();
    assert_eq!(unmarked(&view), [], "nobody leads yet");
    view.founded = true;
    assert_eq!(unmarked(&view), both);
}

#[test]
fn a_node_drain_waits_for_what_a_restart_waits_for() {
    assert!(may_evict(&wanted(3), &healthy(3)));
    type Change = fn(&mut ClusterFacts);
    let cases: [(&str, Change); 4] = [
        ("a replica is behind", |c| c.brokers.get_mut(&NodeId(2)).unwrap().restart_blockers = 1),
        ("a broker is away", |c| c.brokers.get_mut(&NodeId(3)).unwrap().fenced = true),
        ("a broker stops", |c| c.brokers.get_mut(&NodeId(3)).unwrap().in_controlled_shutdown = true),
        ("a voter lags", |c| c.progress.get_mut(&NodeId(3)).unwrap().caught_up = false),
    ];
    for (name, change) in cases {
        let mut view = healthy(3);
        cluster(&mut view, change);
        assert!(!may_evict(&wanted(3), &view), "{name}");
    }
    let mut silent = healthy(3);
    silent.brokers.clear();
    assert!(!may_evict(&wanted(3), &silent), "nobody knows");
    silent.set.as_mut().unwrap().replicas = 0;
    assert!(may_evict(&wanted(3), &silent), "stopped");
    assert!(may_evict(&wanted(1), &healthy(1)), "one broker cannot be drained without a pause");
    assert!(!may_evict(&Wanted { storage: None, ..wanted(1) }, &healthy(1)), "its data would go with it");
}

/// Passes, a second each, until something is done; says what, and after how many seconds.
fn done_after(to: &Wanted, view: &mut View) -> (Step, i64) {
    for second in 0..60 {
        let next = plan(to, view);
        let last = ChronikClusterStatus { operation: view.operation.clone(), ..Default::default() };
        view.operation = next.doing.as_ref().map(|doing| crate::status_of::operation(doing, &last, view.now));
        if next.step != Step::None {
            return (next.step, second);
        }
        view.now += 1.second();
    }
    panic!("nothing is ever done: {:?}", view.operation);
}

#[test]
fn who_is_not_ready_has_a_moment_and_hands_over_before_a_restart_that_may_cure_it() {
    let to = Wanted { revision: NEW.into(), ..wanted(3) };
    let others: [Option<(Operation, OperationStep)>; 3] = [
        None,
        // Whatever else is under way, and waits for the pods itself.
        Some((Operation::Start, OperationStep::AwaitPods)),
        Some((Operation::ScaleUp, OperationStep::AwaitPods)),
    ];
    for other in others {
        let mut view = healthy(3);
        if let Some((kind, step)) = other {
            doing(&mut view, kind, step, None);
        }
        for node in [1, 3] {
            view.pods.get_mut(&NodeId(node)).unwrap().ready = false;
        }
        let (step, seconds) = done_after(&to, &mut view);
        assert_eq!(step, Step::Quorum(QuorumChange::TransferLeader(Some(NodeId(2)))), "{other:?}");
        assert!((10..15).contains(&seconds), "{other:?}: after {seconds} s");
        // It leads on: asked again at once, and not for ever.
        view.now += 1.second();
        assert!(matches!(done_after(&to, &mut view), (Step::Quorum(_), 0)));
        let mut stubborn = view.clone();
        stubborn.now += 700.seconds();
        assert!(matches!(done_after(&to, &mut stubborn), (Step::Restart { node: NodeId(1), .. }, 0)));
        cluster(&mut view, |c| c.leader = Some(NodeId(2)));
        assert!(matches!(done_after(&to, &mut view), (Step::Restart { node: NodeId(1), .. }, 0)));
    }
}

#[test]
fn the_one_that_was_restarted_last_is_restarted_again_before_another_is_away() {
    let mut view = healthy(3);
    doing(&mut view, Operation::RollingRestart, OperationStep::AwaitRecovery, Some(3));
    for node in [2, 3] {
        view.pods.get_mut(&NodeId(node)).unwrap().ready = false;
    }
    let to = Wanted { revision: NEW.into(), ..wanted(3) };
    assert!(matches!(done_after(&to, &mut view), (Step::Restart { node: NodeId(3), .. }, 10..15)));
}

#[test]
fn evictions_that_wait_are_looked_after_soon() {
    let mut view = healthy(3);
    assert_eq!(plan(&wanted(3), &view).again, STEADY);
    cluster(&mut view, |c| c.brokers.get_mut(&NodeId(2)).unwrap().restart_blockers = 1);
    assert_eq!(plan(&wanted(3), &view).again, SOON);
    view.set = None;
    assert!(!may_evict(&wanted(3), &view), "it is being made anew around its pods");
}
