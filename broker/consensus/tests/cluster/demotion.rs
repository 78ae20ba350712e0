//! Taking a vote away, and what that must never cost.

use chronik_consensus::MembershipChange::{Demote, Promote, RemoveNode};
use chronik_consensus::{MembershipError, Role};
use chronik_model::NodeId;

use crate::harness::{Cluster, TICK_MS};

fn ids(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn others(cluster: &Cluster, leader: i32) -> Vec<i32> {
    cluster.running().into_iter().filter(|id| *id != leader).collect()
}

#[test]
fn a_demoted_voter_follows_on_without_a_vote_and_may_be_promoted_again() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    let [demoted, other] = others(&cluster, leader)[..] else { panic!("three") };
    cluster.change(leader, Demote(NodeId(demoted)));
    cluster.ticks(2);
    let left = ids(&[leader.min(other), leader.max(other)]);
    for id in [1, 2, 3] {
        assert_eq!(cluster.status(id).voters, left, "as node {id} sees it");
        assert_eq!(cluster.status(id).learners, ids(&[demoted]), "as node {id} sees it");
    }
    let images = cluster.nodes[&demoted].images_installed;
    cluster.propose_many(leader, 10);
    cluster.ticks(2);
    cluster.agreed();
    assert_eq!(cluster.nodes[&demoted].images_installed, images, "its log went on, it was not fed anew");

    // Its vote is gone, also after a restart: with it there would be a majority of three.
    cluster.kill(demoted);
    cluster.kill(other);
    cluster.restart(demoted);
    cluster.connect_all();
    cluster.ticks(100);
    assert_eq!(cluster.leader(), None, "one of two voters decides nothing");
    assert_eq!(cluster.status(demoted).role, Role::Follower);
    assert_eq!(cluster.status(demoted).elections_started, 0);

    cluster.restart(other);
    cluster.connect_all();
    let leader = cluster.elect();
    assert_ne!(leader, demoted);
    cluster.ticks(5);
    cluster.change(leader, Promote(NodeId(demoted)));
    cluster.ticks(2);
    assert_eq!(cluster.status(demoted).voters, ids(&[1, 2, 3]));
    cluster.propose_many(leader, 3);
    cluster.ticks(2);
    cluster.agreed();
}

#[test]
fn a_demotion_that_would_leave_the_others_unable_to_decide_is_refused() {
    let mut cluster = Cluster::formed_with(3, 1, |config| config.promote_max_lag = 0);
    let leader = cluster.leader().expect("formed");
    let [a, b] = others(&cluster, leader)[..] else { panic!("three") };
    let demote = |cluster: &mut Cluster, id: i32| cluster.replica(leader).change_membership(Demote(NodeId(id)));

    assert_eq!(
        cluster.replica(a).change_membership(Demote(NodeId(b))),
        Err(MembershipError::NotLeader { leader: Some(NodeId(leader)) })
    );
    assert_eq!(demote(&mut cluster, 9), Err(MembershipError::UnknownNode(NodeId(9))));
    assert_eq!(demote(&mut cluster, leader), Err(MembershipError::IsLeader(NodeId(leader))));

    // The two that would be left have to agree, and one of them lacks an entry.
    cluster.propose(leader).expect("leads");
    assert_eq!(demote(&mut cluster, a), Err(MembershipError::VotersNotCaughtUp { voters: 2, caught_up: 1, needed: 2 }));
    cluster.pump();

    // One is dead: without the other living one nobody could decide; without the dead one the others still can.
    cluster.kill(a);
    cluster.ticks(15);
    assert_eq!(demote(&mut cluster, b), Err(MembershipError::WouldLoseMajority { voters: 2, live: 1, needed: 2 }));
    demote(&mut cluster, a).expect("the dead one decides nothing anyway");
    assert_eq!(demote(&mut cluster, b), Err(MembershipError::InProgress));
    cluster.pump();
    assert_eq!(demote(&mut cluster, a), Err(MembershipError::AlreadyLearner(NodeId(a))));
    demote(&mut cluster, b).expect("one is enough for one");
    cluster.pump();
    assert_eq!(demote(&mut cluster, leader), Err(MembershipError::LastVoter(NodeId(leader))));
    assert_eq!(cluster.status(leader).voters, ids(&[leader]));
    cluster.propose_many(leader, 1);
    // Learners may go altogether.
    cluster.change(leader, RemoveNode(NodeId(b)));
    assert_eq!(cluster.status(leader).learners, ids(&[a]));
}

/// The old leader begins `change` of another, its heir; everybody stores it, and the old leader dies before it is committed.
fn begun_and_left(change: fn(NodeId) -> chronik_consensus::MembershipChange) -> (Cluster, i32) {
    let mut cluster = Cluster::formed(5, 1);
    let old = cluster.leader().expect("formed");
    cluster.ticks(2);
    let heir = others(&cluster, old)[0];
    cluster.replica(old).change_membership(change(NodeId(heir))).expect("allowed");
    cluster.work(old);
    while let Some(message) = cluster.network.pop_front() {
        cluster.deliver(&message);
    }
    for id in others(&cluster, old) {
        cluster.work(id);
    }
    cluster.kill(old);
    (cluster, heir)
}

/// The heir takes over and commits the change itself.
fn a_leader_that_takes_its_own_vote(change: fn(NodeId) -> chronik_consensus::MembershipChange) -> (Cluster, i32) {
    let (mut cluster, heir) = begun_and_left(change);
    for _ in 0..50 {
        cluster.ticks(1);
        if cluster.nodes[&heir].roles_told.contains(&Role::Leader) {
            break;
        }
    }
    assert!(cluster.nodes[&heir].roles_told.contains(&Role::Leader), "the story needs it to lead for a moment");
    assert!(!cluster.status(heir).voters.contains(&NodeId(heir)), "it committed the end of its own vote");
    (cluster, heir)
}

#[test]
fn a_leader_that_finds_itself_without_a_vote_hands_over() {
    for change in [Demote, RemoveNode] {
        let (mut cluster, heir) = a_leader_that_takes_its_own_vote(change);
        cluster.ticks(10);
        let leader = cluster.elect();
        assert_ne!(leader, heir);
        assert!(cluster.status(leader).voters.contains(&NodeId(leader)));
        assert_ne!(cluster.status(heir).role, Role::Leader);
        let term = cluster.status(leader).term;
        cluster.propose_many(leader, 3);
        cluster.ticks(60);
        assert_eq!((cluster.leader(), cluster.status(leader).term), (Some(leader), term), "and it stays calm");
    }
}

#[test]
fn a_leader_that_commits_its_own_removal_with_more_on_the_way_steps_down_alive() {
    for first in 0..5 {
        let (mut cluster, heir) = begun_and_left(RemoveNode);
        // It proposes with each message that travels while it leads, so that answers come after it committed its removal.
        let mut proposed = 0;
        for _ in 0..50 {
            cluster.now_ms += TICK_MS;
            let now_ms = cluster.now_ms;
            for id in cluster.running() {
                // The others wait, so that the heir is the one.
                cluster.replica(id).tick(if id == heir { now_ms } else { 0 });
            }
            loop {
                for id in cluster.running() {
                    cluster.work(id);
                }
                let leads = cluster.status(heir).role == Role::Leader;
                proposed += i32::from(leads);
                if leads && proposed > first && proposed < first + 4 {
                    cluster.propose(heir).expect("leads");
                }
                let Some(message) = cluster.network.pop_front() else { break };
                cluster.deliver(&message);
            }
            if cluster.nodes[&heir].roles_told.contains(&Role::Leader) {
                break;
            }
        }
        assert!(cluster.nodes[&heir].roles_told.contains(&Role::Leader), "the story needs it to lead for a moment");
        assert_ne!(cluster.status(heir).role, Role::Leader);
        cluster.ticks(30);
        let leader = cluster.elect();
        assert!(!cluster.status(leader).voters.contains(&NodeId(heir)));
        // Nobody feeds it any more.
        cluster.kill(heir);
        cluster.propose_many(leader, 3);
        cluster.ticks(2);
        cluster.agreed();
    }
}

#[test]
fn a_crash_around_a_demotion_never_makes_two_leaders_nor_loses_what_was_acknowledged() {
    for seed in 0..150 {
        let mut cluster = Cluster::formed(3, seed);
        let leader = cluster.leader().expect("formed");
        cluster.propose_many(leader, 3);
        let [a, b] = others(&cluster, leader)[..] else { panic!("three") };
        cluster.replica(leader).change_membership(Demote(NodeId(a))).expect("allowed");
        cluster.propose(leader).expect("leads");
        for _ in 0..seed % 9 {
            for id in [leader, a, b] {
                cluster.work(id);
            }
            if let Some(m) = cluster.network.pop_front() {
                cluster.deliver(&m);
            }
        }
        cluster.crash(if seed % 2 == 0 { leader } else { a }, seed);
        cluster.ticks(30);
        let gone = if seed % 2 == 0 { leader } else { a };
        cluster.restart(gone);
        cluster.connect_all();
        let now = cluster.elect();
        cluster.ticks(20);
        // Begun and stored by a majority or not: everybody agrees on it.
        let voters = cluster.status(now).voters;
        for id in [1, 2, 3] {
            assert_eq!(cluster.status(id).voters, voters, "seed {seed}, node {id}");
        }
        let leader = cluster.leader().expect("all are there");
        assert!(voters.contains(&NodeId(leader)), "seed {seed}: only voters lead");
        cluster.propose_many(leader, 2);
        cluster.ticks(2);
        cluster.agreed();
    }
}
