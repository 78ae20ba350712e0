//! R10 and KIP-966: who may lead after failures.

use super::*;

#[test]
fn a_fenced_broker_is_in_no_in_sync_set() {
    // KAFKA-9672, KAFKA-13916, KAFKA-14140
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    cluster.fence(2);
    for (_, _, partition) in cluster.state.partitions() {
        assert!(!partition.isr.contains(&NodeId(2)) && partition.leader != Some(NodeId(2)));
    }
    let change = cluster.isr_change(&[1, 2, 3]);
    cluster.refuse(change, ErrorCode::IneligibleReplica);
}

#[test]
fn the_last_replica_standing_does_not_decide_alone() {
    // KIP-966: 1 stood alone below min.insync.replicas, so 3, which left after 2, holds all that was acknowledged.
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.fence(2);
    cluster.fence(3);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![3]));
    cluster.fence(1);
    assert_eq!(cluster.view(), (None, vec![], vec![1, 3]));
    assert_eq!(cluster.last_known(), [], "both are trusted");
    cluster.restart(2);
    assert_eq!(cluster.p().leader, None, "2 may lack acknowledged records");
    cluster.restart(3);
    assert_eq!(cluster.view(), (Some(3), vec![3], vec![1]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovered);
    cluster.restart(1);
    cluster.set_isr(&[3, 1]);
    assert_eq!(cluster.view(), (Some(3), vec![3, 1], vec![]));
}

#[test]
fn all_three_killed_and_returned_the_longest_log_leads_whatever_the_order() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut cluster = Cluster::of(3);
        cluster.topic(&[&[1, 2, 3]]);
        cluster.fence(1);
        cluster.fence(2);
        cluster.fence(3);
        assert_eq!(cluster.view(), (None, vec![], vec![2, 3]));
        for node in order {
            cluster.revive(node);
        }
        assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![]), vec![2, 3]), "{order:?}");
        cluster.report(2, 0, 15);
        cluster.report(3, 1, 15);
        assert_eq!(cluster.view(), (Some(3), vec![3], vec![]), "{order:?}");
        assert_eq!(cluster.p().recovery, LeaderRecovery::Recovering);
        cluster.set_isr(&[3]);
        assert_eq!(cluster.p().recovery, LeaderRecovery::Recovered);
        cluster.set_isr(&[3, 1, 2]);
        assert_eq!(cluster.view(), (Some(3), vec![3, 1, 2], vec![]));
    }
}

#[test]
fn all_three_stopped_cleanly_are_available_with_the_second_that_returns() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    for node in [1, 2, 3] {
        cluster.fence(node);
    }
    cluster.restart(1);
    assert_eq!(cluster.p().leader, None);
    cluster.restart(2);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![3]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovered);
}

#[test]
fn a_single_replica_killed_leads_again_when_it_returns() {
    let mut cluster = Cluster::of(1);
    cluster.topic(&[&[1]]);
    cluster.fence(1);
    assert_eq!(cluster.view(), (None, vec![], vec![1]));
    let leaderless = cluster.p().leader_epoch;
    cluster.register(1, BrokerEpoch::NONE);
    assert_eq!(cluster.view(), (None, vec![], vec![]), "still fenced");
    cluster.unfence(1);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
    assert_eq!(cluster.p().leader_epoch.0, leaderless.0 + 1);
}

#[test]
fn a_single_replica_killed_and_restarted_before_anyone_noticed_leads_again() {
    let mut cluster = Cluster::of(1);
    cluster.topic(&[&[1]]);
    cluster.revive(1);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
    assert_eq!(cluster.p().leader_epoch.0, 2, "down and up again");
}

#[test]
fn the_last_known_replica_is_not_elected_while_it_is_fenced() {
    // KAFKA-19522
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.fence(2);
    cluster.fence(1);
    cluster.register(1, BrokerEpoch::NONE);
    cluster.revive(2);
    assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![]), vec![1]));
    cluster.unfence(1);
    assert_eq!(cluster.p().leader, Some(NodeId(1)));
}

#[test]
fn a_better_candidate_that_may_still_return_cleanly_is_waited_for() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    for node in [1, 2, 3] {
        cluster.fence(node);
    }
    cluster.revive(3);
    assert_eq!(cluster.view(), (None, vec![], vec![2]));
    cluster.restart(2);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![]), "2 lost nothing; 3, which led last, may have");
}

#[test]
fn the_leader_may_shrink_below_the_minimum_and_who_left_stays_eligible() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.view(), (Some(1), vec![1, 2], vec![]));
    cluster.set_isr(&[1]);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![2]));
    assert_eq!(cluster.p().leader_epoch.0, 0, "KAFKA-15021: a shrink does not end the leadership");
    cluster.fence(1);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![1]));
}

#[test]
fn unclean_election_happens_only_where_it_is_allowed() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.set_isr(&[1]);
    cluster.fence(1);
    assert_eq!(cluster.view(), (None, vec![], vec![1]));
    assert_eq!(cluster.set(on_topic(), "unclean.leader.election.enable", "true"), CommandResult::Done);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovering);
}

#[test]
fn unclean_election_on_request_names_the_partitions_that_cannot_be_helped() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.accept(Cluster::creation("u", &[&[1], &[2]]));
    cluster.set_isr(&[1]);
    cluster.fence(1);
    let CommandResult::Elections(outcomes) =
        cluster.accept(ElectLeaders { election: ElectionType::Unclean, partitions: vec![] })
    else {
        panic!("elections have outcomes");
    };
    let codes: Vec<(&str, i32, ErrorCode)> =
        outcomes.iter().map(|o| (o.topic.as_str(), o.partition.0, o.code)).collect();
    assert_eq!(codes, [("t", 0, ErrorCode::None), ("u", 0, ErrorCode::EligibleLeadersNotAvailable)]);
    assert_eq!(cluster.p().leader, Some(NodeId(2)));
}

#[test]
fn the_preferred_leader_leads_again_once_it_is_in_sync() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.fence(1);
    cluster.restart(1);
    let wanted = PartitionRef { topic: "t".into(), partition: PartitionIndex(0) };
    let elect = ElectLeaders { election: ElectionType::Preferred, partitions: vec![wanted] };
    let code = |result| match result {
        CommandResult::Elections(outcomes) => outcomes[0].code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(cluster.accept(elect.clone())), ErrorCode::PreferredLeaderNotAvailable);
    assert_eq!(cluster.p().leader, Some(NodeId(2)));
    cluster.set_isr(&[2, 3, 1]);
    assert_eq!(code(cluster.accept(elect.clone())), ErrorCode::None);
    assert_eq!(cluster.p().leader, Some(NodeId(1)));
    assert_eq!(cluster.p().leader_epoch.0, 2);
    assert_eq!(code(cluster.accept(elect)), ErrorCode::ElectionNotNeeded);
}

#[test]
fn another_min_isr_clears_the_eligible_replicas_only_where_enough_are_in_sync_by_it() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.accept(Cluster::creation("u", &[&[2, 3]]));
    cluster.set_isr(&[1]);
    assert_eq!(cluster.set(on_topic(), "min.insync.replicas", "3"), CommandResult::Done);
    let mut change = cluster.isr_change(&[1, 2]);
    change.partition_epoch = cluster.p().partition_epoch;
    cluster.accept(change);
    cluster.set_isr(&[1]);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![2, 3]));
    cluster.fence(3);
    cluster.fence(2);
    assert_eq!(cluster.first("u").elr, nodes(&[2]));
    for (resource, value) in [(ConfigResource::ClusterDefault, "2"), (on_topic(), "2"), (on_topic(), "3")] {
        assert_eq!(cluster.set(resource, "min.insync.replicas", value), CommandResult::Done);
        assert_eq!(cluster.view(), (Some(1), vec![1], vec![2, 3]), "{value}: nothing was acknowledged without it");
        assert_eq!(cluster.first("u").elr, nodes(&[2]));
    }
    assert_eq!(cluster.set(on_topic(), "min.insync.replicas", "1"), CommandResult::Done);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
}

#[test]
fn all_three_killed_at_once_unnoticed_are_available_again_when_all_returned() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut cluster = Cluster::of(3);
        cluster.topic(&[&[1, 2, 3]]);
        for node in order {
            cluster.revive(node);
        }
        // When the first of them returned, the other two were enough for the high watermark to move.
        let mut others = order[1..].to_vec();
        others.sort_unstable();
        assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![]), others), "{order:?}");
        cluster.report(order[2], 0, 7);
        cluster.report(order[1], 0, 8);
        assert_eq!(cluster.view(), (Some(order[1]), vec![order[1]], vec![]), "{order:?}");
    }
}

#[test]
fn of_three_whose_logs_survived_two_are_enough() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.restart(1);
    cluster.restart(2);
    assert_eq!(cluster.view(), (Some(3), vec![3], vec![2]), "nobody noticed yet that 3 is gone");
    cluster.fence(3);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![3]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovered);
    cluster.set_isr(&[2, 1]);
    assert_eq!(cluster.view(), (Some(2), vec![2, 1], vec![]));
}
