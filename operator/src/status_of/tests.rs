//! What users are told.

use std::time::Duration;

use super::*;
use crate::api::{ChronikCluster, Gate, OperationStep};
use crate::observed::Observed;
use crate::plan::Hold;
use crate::ports::Expansion;

fn wanted() -> Wanted {
    Wanted {
        name: "x".into(),
        replicas: 3,
        voters: 3,
        most_voters: 5,
        stopped: false,
        revision: "r".into(),
        restarts_held: None,
        storage: None,
        storage_text: String::new(),
        delete_disks: false,
        never_shrink: false,
        drain_timeout: Duration::from_secs(1),
        recover_timeout: Duration::from_secs(1),
        scale_down_timeout: Duration::from_secs(1),
    }
}

fn said(doing: Option<&Doing>, problems: &[String], last: &ChronikClusterStatus) -> ChronikClusterStatus {
    said_of(doing, &[], problems, last)
}

fn said_of(
    doing: Option<&Doing>,
    waiting: &[Doing],
    problems: &[String],
    last: &ChronikClusterStatus,
) -> ChronikClusterStatus {
    let cluster = ChronikCluster::new("x", ChronikClusterSpec::default());
    let spec = cluster.spec.clone();
    let observed = Observed {
        cluster,
        children: Default::default(),
        brokers: BTreeMap::new(),
        expansion: Expansion::Unknown,
        growth_refused: None,
    };
    let view = View::of(&observed, last, Timestamp::from_second(1_800_000_000).unwrap());
    let (wanted, none) = (wanted(), BTreeMap::new());
    let input = Input {
        namespace: "n",
        generation: 1,
        spec: &spec,
        problems,
        wanted: &wanted,
        view: &view,
        doing,
        waiting,
        advertised: &none,
        racks: None,
        settings: None,
    };
    status(&input, last)
}

#[test]
fn what_only_kubernetes_refuses_is_told_by_gate_and_condition_alike_and_once() {
    let condition = |status: &ChronikClusterStatus| {
        let found = status.conditions.iter().find(|c| c.type_ == "SpecValid").unwrap();
        (found.status.clone(), found.reason.clone(), found.message.clone())
    };
    let valid = said(None, &[], &Default::default());
    assert_eq!(condition(&valid), ("True".into(), "Valid".into(), String::new()));
    let message = "applying Service x-0: provided port is already allocated";
    let hold = Hold { gate: Gate::SpecInvalid, message: message.into() };
    let doing = Doing { kind: Operation::Repair, step: OperationStep::ApplyObjects, node: None, holds: vec![hold] };
    let held = said(Some(&doing), &[], &valid);
    assert_eq!(condition(&held), ("False".into(), "SpecInvalid".into(), message.into()));
    assert_eq!(held.operation.as_ref().map(|op| op.blocked_by[0].gate), Some(Gate::SpecInvalid));
    assert_eq!(said(Some(&doing), &[], &held), held, "the same again says the same");
    assert_eq!(condition(&said(None, &["wrong".into()], &held)).2, "wrong");
    assert_eq!(condition(&said(None, &[], &held)).0, "True");
}

#[test]
fn disks_that_cannot_grow_are_told_beside_whatever_else_is_shown() {
    let held = |kind, gate: Gate| {
        let hold = Hold { gate, message: gate.as_str().to_owned() };
        Doing { kind, step: OperationStep::Begin, node: None, holds: vec![hold] }
    };
    let condition = |gate| {
        let (shown, hidden) =
            (held(Operation::ScaleDown, Gate::ReplicationFactorTooHigh), held(Operation::StorageGrowth, gate));
        let status = said_of(Some(&shown), &[hidden, shown.clone()], &[], &Default::default());
        let found = status.conditions.iter().find(|c| c.type_ == "StorageGrowthBlocked").unwrap();
        (found.status.clone(), found.reason.clone())
    };
    assert_eq!(condition(Gate::StorageClassNotExpandable), ("True".into(), "StorageClassNotExpandable".into()));
    assert_eq!(condition(Gate::StorageResizePending), ("False".into(), "NotBlocked".into()));
}

#[test]
fn a_founded_cluster_that_nobody_leads_for_long_is_degraded_whatever_else_is_shown() {
    let at = |seconds: i64| Time(Timestamp::from_second(1_800_000_000 - seconds).unwrap());
    let founded = crate::api::BootstrapStatus { voters: vec![1], completed_at: Some(at(9000)) };
    let last = ChronikClusterStatus { bootstrap: Some(founded), ..Default::default() };
    let mut last = said(None, &[], &last);
    let phase = |last: &ChronikClusterStatus| said(None, &[], last).phase;
    assert_eq!(phase(&last), Phase::Running, "it may be an election");
    let quorum = last.conditions.iter_mut().find(|c| c.type_ == "QuorumHealthy").unwrap();
    quorum.last_transition_time = at(61);
    assert_eq!(phase(&last), Phase::Degraded);
    let found = said(None, &[], &last);
    let degraded = found.conditions.iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "NoQuorumLeader"));
}
