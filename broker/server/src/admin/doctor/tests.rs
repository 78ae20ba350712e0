//! Each cause has a picture of facts; the rules must tell them apart.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rules::diagnose;
use super::{Facts, Finding};
use crate::admin::status::{Broker, Peer, PeerAnswer, ProbeFailure, Progress, Status, UnloadedGroups};

fn healthy(node: i32) -> Status {
    let mut status = Status { node_id: node, state: "ready".into(), ..Status::default() };
    status.raft.role = if node == 1 { "leader" } else { "follower" }.into();
    status.raft.term = 3;
    status.raft.leader = Some(1);
    status.raft.voters = vec![1, 2, 3];
    (status.raft.commit, status.raft.last_index) = (40, 40);
    status.raft.messages_in = BTreeMap::from([("MsgAppend".to_owned(), 9)]);
    status.log_dir.state = "online".into();
    (status.log_dir.free_bytes, status.log_dir.total_bytes) = (50, 100);
    let peer = |n| Peer {
        node: n,
        address: Some(format!("10.0.0.{n}:9192")),
        connected: true,
        last_received_ms_ago: Some(100),
        ..Peer::default()
    };
    status.peers = (1..=3).filter(|n| *n != node).map(peer).collect();
    status.brokers = (1..=3).map(|n| Broker { node: n, ..Broker::default() }).collect();
    status
}

fn answer(status: Status) -> Result<PeerAnswer, ProbeFailure> {
    Ok(PeerAnswer { status, clock_offset_ms: 0, round_trip_ms: 1 })
}

fn facts() -> Facts {
    Facts { me: healthy(1), answers: BTreeMap::from([(2, answer(healthy(2))), (3, answer(healthy(3)))]) }
}

fn silent(node: i32) -> Result<PeerAnswer, ProbeFailure> {
    Err(ProbeFailure::Silent { address: format!("10.0.0.{node}:9192") })
}

fn change(facts: &mut Facts, node: i32, edit: impl Fn(&mut Status)) {
    if facts.me.node_id == node {
        edit(&mut facts.me);
    } else if let Some(Ok(answer)) = facts.answers.get_mut(&node) {
        edit(&mut answer.status);
    }
}

fn found(facts: &Facts) -> Vec<(String, i32, Option<i32>)> {
    diagnose(facts, None).into_iter().map(|Finding { id, node, peer, .. }| (id, node, peer)).collect()
}

fn one(id: &str, node: i32, peer: Option<i32>) -> Vec<(String, i32, Option<i32>)> {
    vec![(id.to_owned(), node, peer)]
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    assert_eq!(found(&facts()), vec![]);
}

#[test]
fn a_refused_connection_an_unknown_name_and_a_missing_address_are_told_apart() {
    let causes = [
        (ProbeFailure::Refused { address: "a:1".into() }, "peer_unreachable"),
        (ProbeFailure::Name { name: "chronik-1.x".into(), error: "NXDOMAIN".into() }, "dns_name_missing"),
        (ProbeFailure::Unregistered, "peer_unregistered"),
        (ProbeFailure::Other { address: "a:1".into(), error: "cluster id differs".into() }, "peer_refused"),
    ];
    for (failure, id) in causes {
        let mut facts = facts();
        facts.answers.insert(2, Err(failure));
        change(&mut facts, 3, |s| s.peers.retain(|p| p.node != 2));
        assert_eq!(found(&facts), one(id, 2, Some(1)));
    }
}

#[test]
fn a_frozen_peer_is_told_from_one_whose_answers_are_lost_on_the_way() {
    let mut frozen = facts();
    frozen.answers.insert(2, silent(2));
    change(&mut frozen, 3, |s| s.peers[1].last_received_ms_ago = Some(60_000));
    assert_eq!(found(&frozen), one("follower_silent", 2, Some(1)));

    let mut one_way = facts();
    one_way.answers.insert(2, silent(2));
    assert_eq!(found(&one_way), one("answers_not_arriving", 1, Some(2)));
}

#[test]
fn what_only_another_broker_suffers_is_seen_from_here() {
    let mut facts = facts();
    change(&mut facts, 3, |s| s.peers[1].connected = false);
    assert_eq!(found(&facts), one("answers_not_arriving", 3, Some(2)));
}

#[test]
fn a_lost_quorum_is_reported_with_the_missing_brokers() {
    let mut facts = facts();
    for node in [2, 3] {
        facts.answers.insert(node, Err(ProbeFailure::Refused { address: "a:1".into() }));
    }
    let findings = diagnose(&facts, None);
    let quorum = findings.iter().find(|f| f.id == "quorum_lost").expect("no finding about the quorum");
    assert!(quorum.what.contains("1 of 3") && quorum.what.contains("2, 3"), "{}", quorum.what);
}

#[test]
fn empty_and_different_voters_are_told_apart() {
    let mut empty = facts();
    change(&mut empty, 2, |s| s.raft.voters.clear());
    assert_eq!(found(&empty), one("voters_empty", 2, None));
    let mut different = facts();
    change(&mut different, 3, |s| s.raft.voters = vec![3]);
    assert_eq!(found(&different), one("voters_differ", 3, Some(1)));
}

#[test]
fn a_leader_nobody_hears_is_named() {
    let mut facts = facts();
    for node in [2, 3] {
        change(&mut facts, node, |s| s.raft.leader = None);
    }
    assert_eq!(found(&facts), one("leader_not_broadcasting", 1, Some(2)));
}

#[test]
fn elections_that_are_won_again_and_again_without_one_append_are_named() {
    let mut facts = facts();
    for node in [1, 2, 3] {
        change(&mut facts, node, |s| {
            (s.raft.leader, s.raft.term, s.raft.elections) = (None, 9, 4);
            s.raft.role = "candidate".into();
            s.raft.messages_in.clear();
        });
    }
    assert_eq!(found(&facts), one("leader_not_broadcasting", 1, None));
}

#[test]
fn a_commit_that_stands_still_is_stuck_only_if_it_does_not_move_between_two_looks() {
    let mut stuck = facts();
    change(&mut stuck, 1, |s| {
        (s.raft.last_index, s.raft.oldest_proposal_ms) = (45, 9000);
        s.raft.progress = vec![Progress { node: 2, matched: 40, ..Progress::default() }];
    });
    assert_eq!(found(&stuck), one("commit_stuck", 1, Some(2)));
    let mut earlier = facts();
    change(&mut earlier, 1, |s| s.raft.commit = 12);
    assert_eq!(diagnose(&stuck, Some(&earlier)), vec![]);
}

#[test]
fn clocks_disks_and_fenced_brokers_are_named() {
    let mut skewed = facts();
    if let Some(Ok(answer)) = skewed.answers.get_mut(&2) {
        answer.clock_offset_ms = -1500;
    }
    assert_eq!(found(&skewed), one("clock_skew", 2, Some(1)));

    let told = PeerAnswer::new(r#"{"node_id": 2}"#, i64::MIN, 5, Duration::ZERO).unwrap();
    skewed.answers.insert(2, Ok(told));
    assert!(found(&skewed).contains(&one("clock_skew", 2, Some(1))[0]), "any number may be a clock");

    let mut full = facts();
    change(&mut full, 3, |s| {
        (s.log_dir.state, s.log_dir.reason) = ("offline".into(), Some("No space left on device (os error 28)".into()));
    });
    assert_eq!(found(&full), one("disk_full", 3, None));
    change(&mut full, 3, |s| s.log_dir.reason = Some("Input/output error".into()));
    assert_eq!(found(&full), one("log_dir_offline", 3, None));

    let mut damaged = facts();
    let lost = UnloadedGroups { partition: 7, reason: "rot".into() };
    change(&mut damaged, 2, |s| s.replication.unloaded_groups = vec![lost.clone()]);
    assert_eq!(found(&damaged), one("groups_not_loaded", 2, None));
    assert!(diagnose(&damaged, None)[0].what.contains("__consumer_offsets-7"));

    let mut fenced = facts();
    change(&mut fenced, 1, |s| s.brokers[1].fenced = true);
    assert_eq!(found(&fenced), one("broker_fenced", 2, None));
}
