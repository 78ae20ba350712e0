//! How many voters there are.

use super::*;

fn members(view: &mut View, voters: &[i32], leader: i32) {
    let size = view.size();
    cluster(view, |c| {
        c.voters = voters.iter().copied().map(NodeId).collect();
        c.learners = (1..=size).filter(|n| !voters.contains(n)).map(NodeId).collect();
        c.leader = Some(NodeId(leader));
        c.max_replication_factor = 1;
    });
}

/// Lets the plan change the members until it has nothing more to do with them, and answers who votes then.
fn settle(wanted: &Wanted, view: &mut View) -> (BTreeSet<NodeId>, Vec<QuorumChange>) {
    let mut changes = Vec::new();
    for _ in 0..40 {
        let next = plan(wanted, view);
        if let Some(d) = &next.doing {
            doing(view, d.kind, d.step, d.node.map(|n| n.0));
        }
        let Step::Quorum(change) = next.step else {
            return (view.leader().unwrap().1.voters.clone(), changes);
        };
        changes.push(change);
        cluster(view, |c| match change {
            QuorumChange::Promote(n) => {
                assert!(c.learners.remove(&n) && c.voters.insert(n), "{changes:?}");
            }
            QuorumChange::Demote(n) => {
                assert!(c.voters.remove(&n) && c.learners.insert(n) && c.leader != Some(n), "{changes:?}");
            }
            QuorumChange::TransferLeader(Some(n)) => {
                assert!(c.voters.contains(&n), "{changes:?}");
                (c.leader, c.term) = (Some(n), c.term + 1);
            }
            other => panic!("{other:?} after {changes:?}"),
        });
    }
    panic!("never ends: {changes:?}");
}

fn ids<const N: usize>(nodes: [i32; N]) -> BTreeSet<NodeId> {
    nodes.map(NodeId).into()
}

#[test]
fn an_even_number_of_voters_becomes_odd_without_the_leader_losing_its_vote() {
    for (leader, left, demoted) in [(1, [1, 2, 3], 4), (4, [1, 2, 4], 3)] {
        let mut view = healthy(4);
        members(&mut view, &[1, 2, 3, 4], leader);
        let (voters, changes) = settle(&wanted(4), &mut view);
        assert_eq!((voters, changes), (ids(left), vec![QuorumChange::Demote(NodeId(demoted))]));
    }
}

#[test]
fn fewer_voters_are_had_by_asking_for_fewer() {
    let mut view = healthy(5);
    members(&mut view, &[1, 2, 3, 4, 5], 2);
    let to = Wanted { voters: 3, most_voters: 3, ..wanted(5) };
    let (voters, changes) = settle(&to, &mut view);
    assert_eq!(voters, ids([1, 2, 3]));
    assert_eq!(changes, [5, 4].map(|n| QuorumChange::Demote(NodeId(n))));
    let (voters, _) = settle(&Wanted { voters: 1, most_voters: 1, ..wanted(5) }, &mut view);
    assert_eq!(voters, ids([2]), "the leader stays");
    assert_eq!(settle(&wanted(5), &mut view).0, ids([1, 2, 3, 4, 5]), "and more by asking for more");
}

#[test]
fn nobody_loses_its_vote_before_the_others_are_caught_up_and_one_that_is_not_loses_it_first() {
    let lags = |nodes: &[i32], active: bool| {
        let mut view = healthy(4);
        members(&mut view, &[1, 2, 3, 4], 1);
        for node in nodes {
            cluster(&mut view, |c| {
                let p = c.progress.get_mut(&NodeId(*node)).unwrap();
                (p.caught_up, p.recently_active) = (false, active);
            });
        }
        plan(&wanted(4), &view)
    };
    assert_eq!(lags(&[2], true).step, Step::Quorum(QuorumChange::Demote(NodeId(2))));
    assert_eq!(lags(&[2], false).step, Step::Quorum(QuorumChange::Demote(NodeId(2))));
    let held = lags(&[2, 3], true);
    assert_eq!((held.step.clone(), gates(&held)), (Step::None, vec![Gate::QuorumNotCaughtUp]));
    assert_eq!(held.doing.map(|d| (d.kind, d.step)), Some((Operation::QuorumChange, OperationStep::DemoteVoter)));
}

#[test]
fn a_removal_that_is_held_back_costs_no_voter() {
    let mut view = healthy(3);
    members(&mut view, &[1, 2, 3], 1);
    cluster(&mut view, |c| c.max_replication_factor = 3);
    let held = plan(&wanted(1), &view);
    assert_eq!((held.step.clone(), gates(&held)), (Step::None, vec![Gate::ReplicationFactorTooHigh]));
}

#[test]
fn too_many_voters_wait_for_whatever_else_there_is_to_do() {
    let mut view = healthy(4);
    members(&mut view, &[1, 2, 3, 4], 1);
    let roll = Wanted { revision: NEW.into(), ..wanted(4) };
    assert_eq!(restarted(&plan(&roll, &view)), Some(2));
    let held = Wanted { restarts_held: Some("manual".into()), ..roll };
    assert_eq!(plan(&held, &view).step, Step::Quorum(QuorumChange::Demote(NodeId(4))), "but not for a person");
}

#[test]
fn a_leader_that_is_to_go_hands_over_when_only_its_vote_is_too_many() {
    let mut view = healthy(3);
    members(&mut view, &[1, 3], 3);
    cluster(&mut view, |c| c.max_replication_factor = 3);
    let to = Wanted { voters: 1, most_voters: 1, ..wanted(2) };
    let (voters, changes) = settle(&to, &mut view);
    assert_eq!(voters, ids([1]));
    let expected = [QuorumChange::TransferLeader(Some(NodeId(1))), QuorumChange::Demote(NodeId(3))];
    assert_eq!(changes, expected);
}

#[test]
fn whoever_votes_and_whatever_is_asked_for_the_voters_come_to_rest_at_what_was_asked_for() {
    let mut seen = 0;
    for size in 1..=6 {
        for replicas in 1..=size {
            for cap in [1, 3, 5, 7] {
                for set in 1_i32..1 << size {
                    let voters: Vec<i32> = (1..=size).filter(|n| set & (1 << (n - 1)) != 0).collect();
                    let mut view = healthy(size);
                    members(&mut view, &voters, voters[voters.len() / 2]);
                    // What is not about the quorum is held back.
                    cluster(&mut view, |c| c.max_replication_factor = 99);
                    let most = crate::api::largest_odd_at_most(cap.min(size));
                    let to = Wanted {
                        voters: crate::api::largest_odd_at_most(cap.min(replicas)),
                        most_voters: cap,
                        ..wanted(replicas)
                    };
                    let (after, changes) = settle(&to, &mut view);
                    let staying = i32::try_from(after.iter().filter(|n| n.0 <= replicas).count()).unwrap();
                    let count = i32::try_from(after.len()).unwrap();
                    assert!(count <= most && staying >= to.voters, "{voters:?} {to:?}: {after:?} by {changes:?}");
                    assert!(changes.len() <= 12, "{changes:?}");
                    seen += changes.len();
                }
            }
        }
    }
    assert!(seen > 1000, "only {seen} changes");
}

#[test]
fn a_voter_whose_pod_another_hand_took_away_is_not_replaced_while_its_broker_is_wanted() {
    let mut view = healthy(5);
    members(&mut view, &[1, 3, 5], 1);
    view.set.as_mut().unwrap().replicas = 4;
    view.pods.get_mut(&NodeId(5)).unwrap().terminating = true;
    let to = Wanted { voters: 3, ..wanted(5) };
    let next = plan(&to, &view);
    assert_eq!(next.step, Step::None, "{next:?}");
    assert!(gates(&next).iter().all(|gate| *gate == Gate::PodNotGone), "{next:?}");
    view.pods.remove(&NodeId(5));
    view.set.as_mut().unwrap().status_replicas = 4;
    for replicas in [4, 0] {
        broker(&mut view, 5, |b| b.replicas = replicas);
        assert_eq!(plan(&to, &view).step, Step::Resize { from: Some(4), to: 5 }, "{replicas} replicas");
    }
    let fewer = Wanted { voters: 3, ..wanted(4) };
    assert_eq!(plan(&fewer, &view).step, Step::Quorum(QuorumChange::Remove(NodeId(5))), "it was to go and is empty");
}
