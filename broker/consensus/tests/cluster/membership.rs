//! Joining, promoting, removing, and the refusals.

use chronik_consensus::MembershipChange::{AddLearner, Promote, RemoveNode};
use chronik_consensus::{MembershipError, Start};
use chronik_model::NodeId;

use crate::harness::{Cluster, voters};

fn ids(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[test]
fn a_joiner_gets_the_image_first_then_follows_is_promoted_and_may_be_removed() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    cluster.propose_many(leader, 10);
    cluster.add(4, &Start::Join);
    cluster.connect_all();
    cluster.change(leader, AddLearner(NodeId(4)));
    cluster.ticks(5);
    assert_eq!(cluster.nodes[&4].images_installed, 1);
    assert_eq!(cluster.status(4).learners, ids(&[4]));
    assert_eq!(cluster.status(4).voters, ids(&[1, 2, 3]));
    cluster.agreed();

    cluster.change(leader, Promote(NodeId(4)));
    cluster.ticks(2);
    assert_eq!(cluster.status(4).voters, ids(&[1, 2, 3, 4]));
    let removed = if leader == 3 { 2 } else { 3 };
    cluster.change(leader, RemoveNode(NodeId(removed)));
    cluster.ticks(2);
    assert!(!cluster.status(leader).voters.contains(&NodeId(removed)));
    // The removed node hears nothing and must not disturb anybody with elections.
    let term = cluster.status(leader).term;
    cluster.ticks(100);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.status(leader).term, term);
}

#[test]
fn members_survive_a_restart_and_configuration_is_not_asked_again() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    cluster.add(4, &Start::Join);
    cluster.connect_all();
    cluster.change(leader, AddLearner(NodeId(4)));
    cluster.ticks(5);
    for id in [1, 2, 3, 4] {
        cluster.kill(id);
    }
    for id in [1, 2, 3, 4] {
        // The harness names other voters on purpose.
        cluster.restart(id);
        assert_eq!(cluster.status(id).voters, ids(&[1, 2, 3]), "before hearing anybody");
        assert_eq!(cluster.status(id).learners, ids(&[4]));
    }
    cluster.connect_all();
    cluster.elect();
    cluster.ticks(5);
    cluster.agreed();
}

#[test]
fn a_joiner_that_restarts_before_it_was_fed_founds_no_cluster() {
    let mut cluster = Cluster::new(1);
    cluster.add(4, &Start::Join);
    cluster.kill(4);
    cluster.open(4, &voters(&[4])).expect("reopens");
    cluster.ticks(50);
    assert_eq!(cluster.leader(), None);
    assert!(cluster.status(4).voters.is_empty());
}

#[test]
fn unsafe_changes_are_refused_with_their_reason() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    let others: Vec<i32> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let change = |cluster: &mut Cluster, change| cluster.replica(leader).change_membership(change);

    assert_eq!(
        cluster.replica(others[0]).change_membership(AddLearner(NodeId(4))),
        Err(MembershipError::NotLeader { leader: Some(NodeId(leader)) })
    );
    assert_eq!(change(&mut cluster, Promote(NodeId(9))), Err(MembershipError::UnknownNode(NodeId(9))));
    assert_eq!(change(&mut cluster, RemoveNode(NodeId(9))), Err(MembershipError::UnknownNode(NodeId(9))));
    assert_eq!(change(&mut cluster, Promote(NodeId(others[0]))), Err(MembershipError::AlreadyVoter(NodeId(others[0]))));
    assert_eq!(change(&mut cluster, AddLearner(NodeId(1))), Err(MembershipError::AlreadyVoter(NodeId(1))));
    assert_eq!(change(&mut cluster, AddLearner(NodeId(0))), Err(MembershipError::InvalidNode(NodeId(0))));
    assert_eq!(change(&mut cluster, RemoveNode(NodeId(leader))), Err(MembershipError::IsLeader(NodeId(leader))));

    // In progress until applied.
    change(&mut cluster, AddLearner(NodeId(4))).expect("allowed");
    assert_eq!(change(&mut cluster, AddLearner(NodeId(5))), Err(MembershipError::InProgress));
    assert!(cluster.status(leader).membership_change_pending);
    cluster.pump();
    assert!(!cluster.status(leader).membership_change_pending);
    assert_eq!(change(&mut cluster, AddLearner(NodeId(4))), Err(MembershipError::AlreadyLearner(NodeId(4))));

    // Node 4 does not exist: it never catches up.
    let refused = change(&mut cluster, Promote(NodeId(4)));
    assert!(matches!(refused, Err(MembershipError::LearnerNotCaughtUp { node: NodeId(4), .. })), "{refused:?}");
    change(&mut cluster, RemoveNode(NodeId(4))).expect("learners may always go");
    cluster.pump();

    // One voter is dead: removing the other live one would leave one of two.
    cluster.kill(others[0]);
    cluster.ticks(15);
    assert_eq!(
        change(&mut cluster, RemoveNode(NodeId(others[1]))),
        Err(MembershipError::WouldLoseMajority { voters: 2, live: 1, needed: 2 })
    );
    change(&mut cluster, RemoveNode(NodeId(others[0]))).expect("removing the dead one helps");
    cluster.pump();
    cluster.ticks(2);
    cluster.propose_many(leader, 1);
    change(&mut cluster, RemoveNode(NodeId(others[1]))).expect("one is enough for one");
    cluster.pump();
    assert_eq!(change(&mut cluster, RemoveNode(NodeId(leader))), Err(MembershipError::LastVoter(NodeId(leader))));
    cluster.propose_many(leader, 1);
}

#[test]
fn one_broker_grows_to_five() {
    let mut cluster = Cluster::new(1);
    cluster.add(1, &voters(&[1]));
    cluster.ticks(1);
    for id in 2..=5 {
        cluster.propose_many(1, 3);
        cluster.add(id, &Start::Join);
        cluster.connect_all();
        cluster.change(1, AddLearner(NodeId(id)));
        cluster.ticks(5);
        cluster.change(1, Promote(NodeId(id)));
        cluster.ticks(2);
    }
    assert_eq!(cluster.status(1).voters, ids(&[1, 2, 3, 4, 5]));
    cluster.agreed();
    cluster.kill(1);
    cluster.ticks(3);
    let new = cluster.leader().expect("the others go on");
    cluster.propose_many(new, 3);
    cluster.ticks(1);
    cluster.agreed();
}

#[test]
fn a_crash_around_a_membership_change_never_brings_the_old_members_back_to_power() {
    // From one voter to two: a node that forgot the change after it was in force could elect itself alone.
    for seed in 0..200 {
        let mut cluster = Cluster::new(seed);
        cluster.add(1, &voters(&[1]));
        cluster.ticks(1);
        cluster.add(2, &Start::Join);
        cluster.connect_all();
        cluster.change(1, AddLearner(NodeId(2)));
        cluster.ticks(5);
        cluster.replica(1).change_membership(Promote(NodeId(2))).expect("caught up");
        for _ in 0..seed % 7 {
            cluster.work(1);
            cluster.work(2);
            if let Some(m) = cluster.network.pop_front() {
                cluster.deliver(&m);
            }
        }
        cluster.work(1);
        let in_force = cluster.status(1).voters.len() == 2;
        cluster.crash(1, seed);
        cluster.restart(1);
        cluster.work(1);
        if in_force {
            assert_eq!(cluster.status(1).voters, ids(&[1, 2]), "seed {seed}");
        }
        cluster.network.clear();
        cluster.connect_all();
        cluster.elect();
        cluster.ticks(10);
        cluster.agreed();
    }
}
