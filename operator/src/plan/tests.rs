//! Stories of single decisions.

mod held;
mod quorum;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, ToSpan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::api::{BlockedBy, OperationStatus, RebalanceStatus};
use crate::observed::{Answer, BrokerFacts, ClusterFacts, MemberFacts, RegisteredFacts, SelfFacts};
use crate::ports::Expansion;

const OLD: &str = "old";
pub(super) const NEW: &str = "new";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub(super) fn wanted(replicas: i32) -> Wanted {
    Wanted {
        name: "x".into(),
        replicas,
        voters: crate::api::largest_odd_at_most(replicas.min(5)),
        most_voters: 5,
        stopped: false,
        revision: OLD.into(),
        restarts_held: None,
        storage: Some(10),
        storage_text: "10".into(),
        delete_disks: false,
        never_shrink: false,
        drain_timeout: Duration::from_secs(600),
        recover_timeout: Duration::from_secs(1800),
        scale_down_timeout: Duration::from_secs(86_400),
    }
}

/// A healthy cluster of `size` brokers, all of them voters; broker 1 leads.
pub(super) fn healthy(size: i32) -> View {
    let ids = || (1..=size).map(NodeId);
    let registered = RegisteredFacts { epoch: 1, replicas: 4, directory_id: "dir".into(), ..Default::default() };
    let cluster = ClusterFacts {
        leader: Some(NodeId(1)),
        term: 7,
        voters: ids().collect(),
        progress: ids()
            .map(|n| (n, MemberFacts { matched_index: 9, recently_active: true, caught_up: true }))
            .collect(),
        brokers: ids()
            .map(|n| (n, RegisteredFacts { directory_id: format!("dir-{n}"), ..registered.clone() }))
            .collect(),
        live_brokers: size,
        max_replication_factor: 3.min(size),
        max_replication_factor_topic: "orders".into(),
        ..Default::default()
    };
    let pod = |n: NodeId| PodView {
        uid: format!("pod-{n}"),
        revision: OLD.into(),
        ready: true,
        ready_since: Some(now() - 1.hour()),
        down: false,
        terminating: false,
    };
    let claim = |n: NodeId| ClaimView {
        uid: format!("claim-{n}"),
        requested: 10,
        capacity: 10,
        terminating: false,
        retired: BTreeSet::new(),
        cluster_id: Some("c".into()),
    };
    let answer = |n: NodeId| {
        let myself = SelfFacts {
            node: n.0,
            cluster_id: "c".into(),
            ready: true,
            disk_used_bytes: 10,
            disk_total_bytes: 100,
            ..Default::default()
        };
        Answer::Known(Box::new(BrokerFacts { myself, cluster: cluster.clone() }))
    };
    View {
        now: now(),
        set: Some(SetView {
            uid: "set".into(),
            replicas: size,
            status_replicas: size,
            observed: true,
            terminating: false,
            claim_size: Some(10),
        }),
        pods: ids().map(|n| (n, pod(n))).collect(),
        claims: ids().map(|n| (n, claim(n))).collect(),
        brokers: ids().map(|n| (n, answer(n))).collect(),
        expansion: Expansion::Allowed,
        growth_refused: None,
        last_size: size,
        rebalance: None,
        operation: None,
        founded: true,
        founders: ids().take(3).collect(),
        cluster_id: "c".into(),
        retired: BTreeSet::new(),
    }
}

/// Changes what every broker says of the cluster.
pub(super) fn cluster(view: &mut View, change: impl Fn(&mut ClusterFacts)) {
    for answer in view.brokers.values_mut() {
        if let Answer::Known(facts) = answer {
            change(&mut facts.cluster);
        }
    }
}

fn broker(view: &mut View, node: i32, change: impl Fn(&mut RegisteredFacts)) {
    cluster(view, |c| change(c.brokers.get_mut(&NodeId(node)).unwrap()));
}

pub(super) fn doing(view: &mut View, kind: Operation, step: OperationStep, node: Option<i32>) {
    let started_at = Time(view.now);
    view.operation = Some(OperationStatus { kind, step, node_id: node, started_at, blocked_by: Vec::new() });
}

fn gates(plan: &Plan) -> Vec<Gate> {
    plan.waiting.iter().flat_map(|d| d.holds.iter().map(|h| h.gate)).collect()
}

fn restarted(plan: &Plan) -> Option<i32> {
    match &plan.step {
        Step::Restart { node, .. } => Some(node.0),
        _ => None,
    }
}

#[test]
fn a_cluster_as_it_was_asked_for_is_left_alone() {
    for size in [1, 3, 5] {
        let plan = plan(&wanted(size), &healthy(size));
        assert_eq!((plan.step, plan.doing, plan.again), (Step::None, None, STEADY), "{size}");
    }
}

#[test]
fn raising_replicas_adds_all_pods_at_once() {
    assert_eq!(plan(&wanted(5), &healthy(3)).step, Step::Resize { from: Some(3), to: 5 });
}

#[test]
fn learners_become_voters_one_by_one_once_they_are_caught_up() {
    let mut view = healthy(5);
    cluster(&mut view, |c| {
        c.voters = [1, 2, 3].map(NodeId).into();
        c.learners = [4, 5].map(NodeId).into();
        c.progress.get_mut(&NodeId(4)).unwrap().caught_up = false;
    });
    assert_eq!(plan(&wanted(5), &view).step, Step::Quorum(QuorumChange::Promote(NodeId(5))));
    cluster(&mut view, |c| c.progress.get_mut(&NodeId(5)).unwrap().caught_up = false);
    let waiting = plan(&wanted(5), &view);
    assert_eq!((waiting.step.clone(), gates(&waiting)), (Step::None, vec![Gate::QuorumNotCaughtUp]));
}

#[test]
fn new_brokers_get_their_share_and_then_nothing_more_is_done() {
    let mut view = healthy(5);
    view.rebalance = Some(RebalanceStatus::default());
    doing(&mut view, Operation::ScaleUp, OperationStep::AwaitPods, None);
    let moving = plan(&wanted(5), &view);
    assert_eq!((moving.step, moving.doing.map(|d| d.kind)), (Step::Rebalance, Some(Operation::ScaleUp)));
    view.rebalance = None;
    assert_eq!(plan(&wanted(5), &view).doing, None);
}

/// Lets the drain of broker `size` go on as brokers and Kubernetes would, and writes down each act.
fn drained(size: i32, to: i32) -> Vec<String> {
    let mut view = healthy(size);
    cluster(&mut view, |c| c.max_replication_factor = 1);
    let mut story = Vec::new();
    for _ in 0..60 {
        let next = plan(&wanted(to), &view);
        if next.step == Step::None && next.doing.is_none() {
            return story;
        }
        let told = format!("{:?}", next.step);
        if next.step != Step::None && story.last() != Some(&told) {
            story.push(told);
        }
        match &next.doing {
            Some(d) => doing(&mut view, d.kind, d.step, d.node.map(|n| n.0)),
            None => view.operation = None,
        }
        match next.step {
            Step::Cordon(n) => broker(&mut view, n.0, |b| b.cordoned = true),
            Step::Rebalance => {
                let node = view.size();
                broker(&mut view, node, |b| b.replicas -= 2);
            }
            Step::Quorum(QuorumChange::Remove(n)) => cluster(&mut view, |c| {
                c.voters.remove(&n);
            }),
            Step::Resize { to, .. } => {
                let set = view.set.as_mut().unwrap();
                (set.replicas, set.status_replicas) = (to, to);
                view.pods.retain(|n, _| n.0 <= to);
                view.brokers.retain(|n, _| n.0 <= to);
            }
            Step::Retire { directory, .. } => drop(view.retired.insert(directory)),
            Step::Unregister(n) => cluster(&mut view, |c| drop(c.brokers.remove(&n))),
            _ => {}
        }
    }
    panic!("never ends: {story:#?}");
}

#[test]
fn a_broker_is_emptied_leaves_the_quorum_and_only_then_goes() {
    let node = |n: i32| format!("NodeId({n})");
    let expected = |n: i32| {
        let claim = format!("Some(\"claim-{n}\")");
        vec![
            format!("Cordon({})", node(n)),
            "Rebalance".to_owned(),
            format!("Quorum(Remove({}))", node(n)),
            format!("Resize {{ from: Some({n}), to: {} }}", n - 1),
            format!("Retire {{ node: {}, directory: \"dir-{n}\", claim: {claim} }}", node(n)),
            format!("Unregister({})", node(n)),
        ]
    };
    assert_eq!(drained(5, 3), [expected(5), expected(4)].concat());
}

#[test]
fn emptiness_is_looked_at_twice() {
    let mut view = healthy(4);
    broker(&mut view, 4, |b| (b.cordoned, b.replicas) = (true, 0));
    let first = plan(&wanted(3), &view);
    assert_eq!(first.step, Step::None);
    assert_eq!(first.doing.map(|d| d.step), Some(OperationStep::VerifyEmpty));
    doing(&mut view, Operation::ScaleDown, OperationStep::VerifyEmpty, Some(4));
    assert_eq!(plan(&wanted(3), &view).step, Step::Quorum(QuorumChange::Remove(NodeId(4))));
    broker(&mut view, 4, |b| b.replicas = 1);
    assert_eq!(plan(&wanted(3), &view).step, Step::Rebalance);
}

#[test]
fn a_topic_with_more_replicas_than_brokers_would_remain_holds_the_removal_and_takes_a_cordon_back() {
    let mut view = healthy(3);
    let held = plan(&wanted(1), &view);
    assert_eq!((held.step.clone(), gates(&held)), (Step::None, vec![Gate::ReplicationFactorTooHigh]));
    assert!(held.waiting[0].holds[0].message.contains("orders"), "{held:?}");
    broker(&mut view, 3, |b| b.cordoned = true);
    assert_eq!(plan(&wanted(1), &view).step, Step::Uncordon(NodeId(3)));
}

#[test]
fn removal_fails_closed() {
    type Change = fn(&mut View);
    let cases: [(&str, Change, Gate); 6] = [
        (
            "a broker is silent",
            |v| drop(v.brokers.insert(NodeId(2), Answer::Unknown("?".into()))),
            Gate::BrokerStateUnknown,
        ),
        (
            "the victim is silent",
            |v| drop(v.brokers.insert(NodeId(5), Answer::Unknown("?".into()))),
            Gate::BrokerStateUnknown,
        ),
        (
            "the leader is silent",
            |v| drop(v.brokers.insert(NodeId(1), Answer::Unknown("?".into()))),
            Gate::NoQuorumLeader,
        ),
        ("not observed", |v| v.set.as_mut().unwrap().observed = false, Gate::StatefulSetNotObserved),
        ("a pod is not ready", |v| v.pods.get_mut(&NodeId(2)).unwrap().ready = false, Gate::PodNotReady),
        (
            "a full disk",
            |v| {
                if let Some(Answer::Known(f)) = v.brokers.get_mut(&NodeId(5)) {
                    f.myself.data_bytes = 900;
                }
            },
            Gate::InsufficientDisk,
        ),
    ];
    for (name, change, gate) in cases {
        let mut view = healthy(5);
        change(&mut view);
        let held = plan(&wanted(3), &view);
        assert_eq!(held.step, Step::None, "{name}");
        assert!(gates(&held).contains(&gate), "{name}: {held:?}");
    }
}

#[test]
fn a_removal_is_taken_back_until_the_broker_left_the_quorum_and_finished_after_that() {
    let mut view = healthy(5);
    broker(&mut view, 5, |b| b.cordoned = true);
    assert_eq!(plan(&wanted(5), &view).step, Step::Uncordon(NodeId(5)));
    broker(&mut view, 5, |b| b.replicas = 0);
    cluster(&mut view, |c| assert!(c.voters.remove(&NodeId(5))));
    doing(&mut view, Operation::ScaleDown, OperationStep::RemoveFromQuorum, Some(5));
    assert_eq!(plan(&wanted(5), &view).step, Step::Resize { from: Some(5), to: 4 });
}

#[test]
fn a_deposed_leader_decides_nothing() {
    let mut view = healthy(3);
    if let Some(Answer::Known(facts)) = view.brokers.get_mut(&NodeId(2)) {
        facts.cluster.term = 8;
        facts.cluster.leader = None;
    }
    assert!(view.leader().is_none());
    let mut view = healthy(3);
    cluster(&mut view, |c| c.progress.values_mut().for_each(|p| p.recently_active = false));
    view.brokers.retain(|node, _| node.0 == 1);
    assert!(view.leader().is_none(), "without followers it only believes to lead");
}

#[test]
fn a_roll_restarts_one_at_a_time_and_the_leader_last() {
    let mut view = healthy(3);
    let to = Wanted { revision: NEW.into(), ..wanted(3) };
    let mut order = Vec::new();
    for _ in 0..20 {
        let next = plan(&to, &view);
        match &next.doing {
            Some(d) => doing(&mut view, d.kind, d.step, d.node.map(|n| n.0)),
            None => view.operation = None,
        }
        match next.step {
            Step::Restart { node, .. } => {
                order.push(node.0);
                let pod = view.pods.get_mut(&node).unwrap();
                (pod.revision, pod.ready) = (NEW.into(), false);
                let waits = plan(&to, &view);
                assert_eq!((waits.step.clone(), gates(&waits)), (Step::None, vec![Gate::PodNotReady]));
                view.pods.get_mut(&node).unwrap().ready = true;
                broker(&mut view, node.0, |b| b.out_of_sync = 1);
                let waits = plan(&to, &view);
                assert_eq!((waits.step.clone(), gates(&waits)), (Step::None, vec![Gate::UnderReplicated]));
                broker(&mut view, node.0, |b| b.out_of_sync = 0);
            }
            Step::Quorum(QuorumChange::TransferLeader(Some(to))) => {
                assert_eq!(order, [2, 3]);
                cluster(&mut view, |c| (c.leader, c.term) = (Some(to), c.term + 1));
            }
            Step::None => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [2, 3, 1]);
    assert_eq!(view.operation, None);
}

#[test]
fn leaderships_move_before_a_restart_and_a_restart_waits_no_longer_than_it_may() {
    let mut view = healthy(3);
    let to = Wanted { revision: NEW.into(), ..wanted(3) };
    broker(&mut view, 2, |b| b.leaders = 3);
    assert_eq!(plan(&to, &view).step, Step::MoveLeaders(NodeId(2)));
    doing(&mut view, Operation::RollingRestart, OperationStep::MoveLeaders, Some(2));
    let since = Time(now() - 601.seconds());
    let blocked = BlockedBy { gate: Gate::LeadersNotMoved, message: String::new(), since };
    view.operation.as_mut().unwrap().blocked_by.push(blocked);
    assert_eq!(restarted(&plan(&to, &view)), Some(2));
}

#[test]
fn a_restart_waits_for_every_gate() {
    type Change = fn(&mut View);
    let cases: [(&str, Change, Gate); 5] = [
        ("min.insync", |v| broker(v, 2, |b| b.restart_blockers = 1), Gate::UnderReplicated),
        ("a fenced broker", |v| broker(v, 3, |b| b.fenced = true), Gate::UnderReplicated),
        (
            "a voter lags",
            |v| cluster(v, |c| c.progress.get_mut(&NodeId(3)).unwrap().caught_up = false),
            Gate::QuorumNotCaughtUp,
        ),
        (
            "a voter is away",
            |v| cluster(v, |c| c.progress.get_mut(&NodeId(3)).unwrap().recently_active = false),
            Gate::WouldLoseMajority,
        ),
        (
            "a broker is silent",
            |v| drop(v.brokers.insert(NodeId(3), Answer::Unknown("?".into()))),
            Gate::BrokerStateUnknown,
        ),
    ];
    for (name, change, gate) in cases {
        let mut view = healthy(3);
        change(&mut view);
        let held = plan(&Wanted { revision: NEW.into(), ..wanted(3) }, &view);
        assert_eq!((held.step.clone(), gates(&held)), (Step::None, vec![gate]), "{name}");
    }
}

#[test]
fn under_a_manual_policy_nobody_who_runs_or_has_just_ended_is_restarted() {
    let to = Wanted { revision: NEW.into(), restarts_held: Some("manual".into()), ..wanted(3) };
    let held = plan(&to, &healthy(3));
    assert_eq!((held.step.clone(), gates(&held)), (Step::None, vec![Gate::ManualApproval]));
    let mut broken = healthy(3);
    let pod = broken.pods.get_mut(&NodeId(2)).unwrap();
    (pod.ready, pod.down, pod.ready_since) = (false, true, Some(now() - 10.seconds()));
    assert_eq!(restarted(&plan(&to, &broken)), None);
}

#[test]
fn pods_that_do_not_run_get_the_new_template_without_asking_anybody() {
    let mut view = healthy(3);
    for pod in view.pods.values_mut() {
        (pod.ready, pod.down) = (false, true);
    }
    view.brokers.values_mut().for_each(|a| *a = Answer::Unknown("?".into()));
    let to = Wanted { revision: NEW.into(), ..wanted(3) };
    assert_eq!(restarted(&plan(&to, &view)), Some(1));
    view.pods.get_mut(&NodeId(1)).unwrap().terminating = true;
    assert_eq!(restarted(&plan(&to, &view)), None);
    // The first one alone cannot be ready: the others must follow all the same.
    view.pods.insert(
        NodeId(1),
        PodView { revision: NEW.into(), ready: false, down: false, ..healthy(1).pods[&NodeId(1)].clone() },
    );
    assert_eq!(restarted(&plan(&to, &view)), Some(2));
}

#[test]
fn a_disk_grows_even_when_nothing_else_works() {
    let mut view = healthy(3);
    view.brokers.values_mut().for_each(|a| *a = Answer::Unknown("?".into()));
    view.pods.values_mut().for_each(|p| p.ready = false);
    let to = Wanted { storage: Some(20), storage_text: "20".into(), ..wanted(3) };
    for node in 1..=3 {
        let Step::GrowClaim { node: grown, .. } = plan(&to, &view).step else { panic!("{node}") };
        assert_eq!(grown, NodeId(node));
        let claim = view.claims.get_mut(&grown).unwrap();
        (claim.requested, claim.capacity) = (20, 20);
    }
    assert_eq!(plan(&to, &view).step, Step::RecreateSet { uid: "set".into() });
    view.set = None;
    assert_eq!(plan(&to, &view).step, Step::Resize { from: None, to: 3 });
}

#[test]
fn a_disk_that_cannot_grow_holds_back_nothing_else() {
    let mut view = healthy(3);
    view.expansion = Expansion::Refused;
    let to = Wanted { storage: Some(20), revision: NEW.into(), ..wanted(3) };
    let next = plan(&to, &view);
    assert!(gates(&next).contains(&Gate::StorageClassNotExpandable));
    assert_eq!(restarted(&next), Some(2));
}

#[test]
fn stopping_and_starting_keep_every_broker_with_data() {
    let view = healthy(5);
    let stop = Wanted { stopped: true, ..wanted(3) };
    assert_eq!(plan(&stop, &view).step, Step::Resize { from: Some(5), to: 0 });
    let mut stopped = view;
    let set = stopped.set.as_mut().unwrap();
    (set.replicas, set.status_replicas) = (0, 0);
    (stopped.pods, stopped.brokers, stopped.last_size) = (BTreeMap::new(), BTreeMap::new(), 0);
    assert_eq!(plan(&stop, &stopped).doing, None);
    assert_eq!(plan(&wanted(3), &stopped).step, Step::Resize { from: Some(0), to: 5 });
}

#[test]
fn a_statefulset_that_is_gone_comes_back_with_its_size() {
    let mut view = healthy(5);
    view.set = None;
    assert_eq!(plan(&wanted(3), &view).step, Step::Resize { from: None, to: 5 });
    (view.pods, view.last_size) = (BTreeMap::new(), 4);
    assert_eq!(plan(&wanted(3), &view).step, Step::Resize { from: None, to: 4 });
}

#[test]
fn a_broker_that_another_hand_took_away_with_its_replicas_returns() {
    let mut view = healthy(5);
    let set = view.set.as_mut().unwrap();
    (set.replicas, set.status_replicas) = (3, 3);
    view.pods.retain(|n, _| n.0 <= 3);
    view.brokers.retain(|n, _| n.0 <= 3);
    assert_eq!(plan(&wanted(3), &view).step, Step::Resize { from: Some(3), to: 5 });
}

#[test]
fn voters_that_another_hand_took_away_return_although_nobody_leads() {
    let mut view = healthy(3);
    let set = view.set.as_mut().unwrap();
    (set.replicas, set.status_replicas, view.last_size) = (1, 1, 1);
    view.pods.retain(|n, _| n.0 == 1);
    view.brokers.retain(|n, _| n.0 == 1);
    cluster(&mut view, |c| (c.leader, c.progress) = (None, BTreeMap::new()));
    for replicas in [1, 3] {
        assert_eq!(plan(&wanted(replicas), &view).step, Step::Resize { from: Some(1), to: 3 }, "{replicas}");
    }
    cluster(&mut view, |c| c.voters = [NodeId(1)].into());
    assert_eq!(plan(&wanted(1), &view).step, Step::None, "removed voters stay away");
}

#[test]
fn a_drain_that_cannot_move_anything_lets_the_restart_go_first_that_may_cure_it() {
    let mut view = healthy(5);
    broker(&mut view, 5, |b| b.cordoned = true);
    broker(&mut view, 2, |b| b.leaders = 0);
    view.rebalance = Some(RebalanceStatus { blocked: Some("no room".into()), ..Default::default() });
    assert_eq!(plan(&wanted(4), &view).step, Step::Rebalance, "no restart is due");
    let new = Wanted { revision: NEW.into(), ..wanted(4) };
    let first = plan(&new, &view);
    assert!(restarted(&first).is_some(), "{first:?}");
    broker(&mut view, 2, |b| b.restart_blockers = 1);
    assert_eq!(plan(&new, &view).step, Step::Rebalance, "a restart that is held cures nothing");
}

#[test]
fn a_disk_returns_only_when_its_broker_is_forgotten() {
    let mut view = healthy(3);
    view.claims.insert(NodeId(4), view.claims[&NodeId(3)].clone());
    view.brokers.values_mut().for_each(|a| *a = Answer::Unknown("?".into()));
    let held = plan(&wanted(4), &view);
    assert_eq!((held.step.clone(), gates(&held)), (Step::None, vec![Gate::NoQuorumLeader]));
}

#[test]
fn nothing_but_waiting_before_the_cluster_is_founded() {
    let mut view = healthy(3);
    view.founded = false;
    assert_eq!(plan(&wanted(5), &view).step, Step::CompleteBootstrap);
    view.brokers.insert(NodeId(3), Answer::Unknown("?".into()));
    let waits = plan(&wanted(5), &view);
    assert_eq!((waits.step, waits.doing.map(|d| d.kind)), (Step::None, Some(Operation::Bootstrap)));
}

#[test]
fn a_broker_whose_log_directory_is_offline_is_restarted_once_its_disk_has_room() {
    let failed = |used: u64, uptime_ms: u64| {
        let mut view = healthy(3);
        if let Some(Answer::Known(facts)) = view.brokers.get_mut(&NodeId(2)) {
            (facts.myself.log_dir_offline, facts.myself.uptime_ms) = (true, uptime_ms);
            facts.myself.disk_used_bytes = used;
        }
        view
    };
    let restart = Step::Restart { node: NodeId(2), uid: failed(50, 60_000).pods[&NodeId(2)].uid.clone() };
    assert_eq!(plan(&wanted(3), &failed(50, 60_000)).step, restart);
    assert_eq!(plan(&wanted(3), &failed(95, 60_000)).step, Step::None, "there is no room yet");
    assert_eq!(plan(&wanted(3), &failed(50, 1_000)).step, Step::None, "it has just been restarted");
    let mut view = failed(50, 60_000);
    view.pods.get_mut(&NodeId(3)).unwrap().terminating = true;
    assert_eq!(plan(&wanted(3), &view).step, Step::None, "another one is away");
}
