//! Joining and leaving the in-sync set.

use chronik_model::ErrorCode;

use super::*;

/// Node 3 is out of sync, caught up, and proposed; time 1.
fn expanding() -> (PartitionReplica, IsrProposal) {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2]);
    served(&mut node, &fetch_of(2, 10), 1);
    let effects = served(&mut node, &fetch_of(3, 10), 1);
    let wanted = proposal(&effects).expect("node 3 is caught up").clone();
    (node, wanted)
}

#[test]
fn a_caught_up_follower_is_proposed_with_the_incarnation_that_caught_up() {
    let (node, wanted) = expanding();
    assert_eq!(nodes(&wanted), [1, 2, 3]);
    assert_eq!(wanted.isr[2].broker_epoch, BrokerEpoch(103));
    assert_eq!((wanted.leader_epoch, wanted.partition_epoch), (LeaderEpoch(5), PartitionEpoch(50)));
    assert!(node.has_pending_proposal());
    node.check_invariants().unwrap();
}

#[test]
fn a_follower_joins_only_at_the_watermark_and_past_the_epoch_start() {
    let mut node = leader(1, facts(10, 6, Some(4)), &[1, 2]);
    assert!(proposal(&served(&mut node, &fetch_of(3, 5), 1)).is_none(), "below the watermark");
    // KAFKA-7128: at the watermark, but possibly without records that the previous leader committed.
    assert!(proposal(&served(&mut node, &fetch_of(3, 6), 1)).is_none(), "below the epoch start");
    assert!(proposal(&served(&mut node, &fetch_of(3, 9), 1)).is_none(), "below the epoch start");
    assert!(proposal(&served(&mut node, &fetch_of(3, 10), 1)).is_some());
}

#[test]
fn a_follower_past_the_epoch_start_but_below_the_watermark_does_not_join() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1]);
    node.on_append(Offset(15), 1);
    assert_eq!(node.high_watermark(), Offset(15));
    assert!(proposal(&served(&mut node, &fetch_of(3, 14), 1)).is_none());
    assert!(proposal(&served(&mut node, &fetch_of(3, 15), 1)).is_some());
}

#[test]
fn fenced_and_stopping_brokers_do_not_join() {
    // KAFKA-9672, 13916, 14140.
    for (fenced, shutting_down) in [(true, false), (false, true)] {
        let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2]);
        let view =
            move |n: NodeId| all_up(n).map(|b| if n.0 == 3 { BrokerStatus { fenced, shutting_down, ..b } } else { b });
        node.apply_brokers(view, 1);
        assert!(proposal(&served(&mut node, &fetch_of(3, 10), 1)).is_none());
        node.apply_brokers(all_up, 2);
        assert!(proposal(&served(&mut node, &fetch_of(3, 10), 2)).is_some());
    }
}

#[test]
fn a_rebooted_follower_does_not_join_on_what_its_earlier_life_had() {
    // KIP-903, KAFKA-15221: node 3 had everything, rebooted as 203 and lost its tail.
    let mut node = leader(1, facts(10, 8, Some(4)), &[1, 2]);
    let rebooted =
        |n: NodeId| all_up(n).map(|b| if n.0 == 3 { BrokerStatus { epoch: BrokerEpoch(203), ..b } } else { b });
    node.apply_brokers(rebooted, 1);
    let old = fetch_of(3, 10);
    let refused = FetchDecision::Error(ErrorCode::NotLeaderOrFollower);
    assert_eq!(node.on_follower_fetch(&old, no_epochs, 1), refused, "a late fetch of the earlier life");
    let unknown = FollowerFetch { replica_epoch: BrokerEpoch::NONE, ..old };
    assert!(proposal(&served(&mut node, &unknown, 1)).is_none(), "an unknown life never joins");
    let short = FollowerFetch { replica_epoch: BrokerEpoch(203), ..fetch_of(3, 4) };
    assert!(proposal(&served(&mut node, &short, 1)).is_none());
    let full = FollowerFetch { replica_epoch: BrokerEpoch(203), ..fetch_of(3, 10) };
    let effects = served(&mut node, &full, 2);
    assert_eq!(proposal(&effects).unwrap().isr[2].broker_epoch, BrokerEpoch(203));
}

#[test]
fn a_follower_that_registered_before_the_leader_heard_of_it_waits() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2]);
    let early = FollowerFetch { replica_epoch: BrokerEpoch(203), ..fetch_of(3, 10) };
    assert!(proposal(&served(&mut node, &early, 1)).is_none());
}

#[test]
fn while_joining_is_uncertain_the_watermark_waits_for_the_joiner_too() {
    let (mut node, wanted) = expanding();
    node.on_append(Offset(15), 2);
    assert_eq!(served(&mut node, &fetch_of(2, 15), 2), []);
    assert_eq!(node.high_watermark(), Offset(10));
    assert_eq!(served(&mut node, &fetch_of(3, 15), 3), [Effect::HighWatermark(Offset(15))], "one in flight");
    let effects = node.on_alter_partition_result(&wanted, Ok(state(1, 5, 51, &[1, 2, 3])), 4);
    assert_eq!(effects, [Effect::IsrChanged { isr: vec![NodeId(1), NodeId(2), NodeId(3)] }]);
    assert!(!node.has_pending_proposal());
}

#[test]
fn a_caught_up_follower_outside_the_set_holds_the_watermark_so_that_it_can_join() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2]);
    let fenced = |n: NodeId| all_up(n).map(|b| BrokerStatus { fenced: n.0 == 3, ..b });
    node.apply_brokers(fenced, 0);
    served(&mut node, &fetch_of(3, 10), 1);
    node.on_append(Offset(12), 2);
    assert_eq!(served(&mut node, &fetch_of(2, 12), 2), [Effect::HighWatermark(Offset(12))], "fenced: not waited for");
    node.apply_brokers(all_up, 3);
    node.on_append(Offset(14), 3);
    assert_eq!(served(&mut node, &fetch_of(2, 14), 3), []);
    // It stops; the watermark goes on by itself.
    assert_eq!(node.tick(2 + LAG + 1), [Effect::HighWatermark(Offset(14))]);
}

#[test]
fn a_follower_that_stops_fetching_is_proposed_to_leave_and_counts_until_that_is_committed() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2, 3]);
    served(&mut node, &fetch_of(2, 10), 1);
    served(&mut node, &fetch_of(3, 10), 1);
    node.on_append(Offset(12), 2);
    assert_eq!(node.tick(1 + LAG), [], "not late yet");
    served(&mut node, &fetch_of(2, 12), 1 + LAG);
    let effects = node.tick(2 + LAG);
    let wanted = proposal(&effects).unwrap().clone();
    assert_eq!(nodes(&wanted), [1, 2]);
    assert_eq!(node.high_watermark(), Offset(10), "the old set counts");
    // KAFKA-13091: success moves the watermark without another fetch.
    let effects = node.on_alter_partition_result(&wanted, Ok(state(1, 5, 51, &[1, 2])), 3 + LAG);
    assert!(effects.contains(&Effect::HighWatermark(Offset(12))), "{effects:?}");
}

#[test]
fn a_follower_at_the_log_end_is_never_late_however_long_nothing_is_written() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2, 3]);
    served(&mut node, &fetch_of(2, 10), 1);
    served(&mut node, &fetch_of(3, 10), 1);
    assert_eq!(node.tick(100 * LAG), []);
}

#[test]
fn a_follower_that_always_reaches_the_end_it_last_saw_is_in_sync_under_steady_writes() {
    let mut node = leader(1, facts(0, 0, None), &[1, 2]);
    let mut now = 0;
    for round in 0..40 {
        now += LAG / 4;
        node.on_append(Offset(10 * (round + 1)), now);
        served(&mut node, &fetch_of(2, 10 * round), now + 1);
        assert_eq!(proposal(&node.tick(now + 2)), None, "round {round}");
    }
}

#[test]
fn a_follower_that_fetches_but_falls_ever_further_behind_is_late() {
    let mut node = leader(1, facts(0, 0, None), &[1, 2]);
    let mut dropped = false;
    for round in 1..=20 {
        let now = round * LAG / 4;
        node.on_append(Offset(i64::try_from(100 * round).unwrap()), now);
        served(&mut node, &fetch_of(2, i64::try_from(round).unwrap()), now);
        dropped |= proposal(&node.tick(now)).is_some();
    }
    assert!(dropped);
}

#[test]
fn only_a_definite_refusal_of_the_only_attempt_rolls_an_expansion_back() {
    for error in [ErrorCode::IneligibleReplica, ErrorCode::OperationNotAttempted] {
        let (mut node, wanted) = expanding();
        node.on_alter_partition_result(&wanted, Err(error), 2);
        assert!(!node.has_pending_proposal(), "{error:?}");
    }
    for error in [
        ErrorCode::FencedLeaderEpoch,
        ErrorCode::InvalidUpdateVersion,
        ErrorCode::InvalidRequest,
        ErrorCode::UnknownTopicOrPartition,
    ] {
        let (mut node, wanted) = expanding();
        node.on_alter_partition_result(&wanted, Err(error), 2);
        assert!(node.has_pending_proposal(), "{error:?}");
        assert_eq!(proposal(&node.tick(LAG)), None, "{error:?} waits for metadata");
    }
}

#[test]
fn an_unknown_outcome_is_repeated_with_the_same_version_until_it_is_settled() {
    // KAFKA-14010.
    let (mut node, wanted) = expanding();
    node.on_alter_partition_result(&wanted, Err(ErrorCode::RequestTimedOut), 2);
    assert_eq!(node.tick(2 + ALTER_PARTITION_RETRY_MS - 1), []);
    let effects = node.tick(2 + ALTER_PARTITION_RETRY_MS);
    let again = proposal(&effects).unwrap().clone();
    assert_eq!((nodes(&again), again.partition_epoch), (nodes(&wanted), wanted.partition_epoch));
    assert_ne!(again.attempt, wanted.attempt);
    assert_eq!(node.tick(LAG - 1), [], "one in flight");
    // The late answer to the first attempt is recognised.
    node.on_alter_partition_result(&wanted, Err(ErrorCode::IneligibleReplica), 600);
    assert!(node.has_pending_proposal());
}

#[test]
fn after_an_unknown_outcome_a_refusal_is_not_believed_before_the_version_moved() {
    // The lost first attempt could still be committed after the second was refused, and then node 3 would be in sync
    // without the records that were acknowledged meanwhile.
    let (mut node, first) = expanding();
    node.on_alter_partition_result(&first, Err(ErrorCode::RequestTimedOut), 2);
    let second = proposal(&node.tick(1_000)).unwrap().clone();
    assert_eq!(node.on_alter_partition_result(&second, Err(ErrorCode::IneligibleReplica), 1_001), []);
    node.on_append(Offset(20), 2 * LAG);
    served(&mut node, &fetch_of(2, 20), 2 * LAG);
    assert_eq!(node.high_watermark(), Offset(10), "node 3 still counts");
    let barrier = proposal(&node.tick(2 * LAG)).unwrap().clone();
    assert_eq!(nodes(&barrier), [1, 2], "the committed set, only to move the version");
    let effects = node.on_alter_partition_result(&barrier, Ok(state(1, 5, 51, &[1, 2])), 2 * LAG + 1);
    assert_eq!(effects, [Effect::HighWatermark(Offset(20))]);
    assert!(!node.has_pending_proposal());
}

#[test]
fn metadata_that_overtakes_the_answer_settles_the_proposal_even_with_the_same_set() {
    // KAFKA-12686, 12751: the answer is late, or the new state has the set that was there before.
    let (mut node, wanted) = expanding();
    assert_eq!(node.apply_metadata(&state(1, 5, 51, &[1, 2]), all_up, 2), []);
    assert!(!node.has_pending_proposal());
    assert_eq!(node.on_alter_partition_result(&wanted, Err(ErrorCode::InvalidUpdateVersion), 3), []);
    let effects = served(&mut node, &fetch_of(3, 10), 4);
    assert_eq!(proposal(&effects).unwrap().partition_epoch, PartitionEpoch(51), "and the next one can be sent");
    // An answer older than the metadata does not bring the old set back.
    assert_eq!(node.on_alter_partition_result(&wanted, Ok(state(1, 5, 50, &[1])), 5), []);
    assert_eq!(node.committed().unwrap().isr.len(), 2);
}

#[test]
fn an_answer_of_an_earlier_leadership_is_ignored() {
    let (mut node, wanted) = expanding();
    node.apply_metadata(&state(1, 6, 51, &[1, 2]), all_up, 2);
    assert_eq!(node.on_alter_partition_result(&wanted, Ok(state(1, 5, 51, &[1, 2, 3])), 3), []);
    assert_eq!(node.committed().unwrap().isr.len(), 2);
    node.apply_metadata(&state(2, 7, 52, &[1, 2]), all_up, 4);
    assert_eq!(node.on_alter_partition_result(&wanted, Err(ErrorCode::IneligibleReplica), 5), []);
    assert!(node.is_follower());
}

#[test]
fn a_reassignment_adds_and_removes_followers_within_a_leadership() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2]);
    let mut moved = state(1, 5, 51, &[1, 2]);
    moved.replicas = vec![NodeId(1), NodeId(2), NodeId(4)];
    node.apply_metadata(&moved, all_up, 1);
    node.check_invariants().unwrap();
    let refused = FetchDecision::Error(ErrorCode::NotLeaderOrFollower);
    assert_eq!(node.on_follower_fetch(&fetch_of(3, 10), no_epochs, 2), refused);
    assert_eq!(nodes(proposal(&served(&mut node, &fetch_of(4, 10), 2)).unwrap()), [1, 2, 4]);
}

#[test]
fn while_there_are_eligible_leaders_nothing_is_committed_whatever_the_setting_says() {
    // min.insync.replicas was raised to 2 and node 2 fenced; the set reaches the leader before the setting does.
    let mut leader = leader(1, facts(10, 10, Some(4)), &[1, 2]);
    let mut shrunk = state(1, 5, 51, &[1]);
    shrunk.elr = vec![NodeId(2)];
    leader.apply_metadata(&shrunk, all_up, 1);
    assert_eq!(leader.check_append(-1), Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(leader.check_append(1), Ok(LeaderEpoch(5)));
    assert_eq!(leader.on_append(Offset(11), 2), []);
    assert_eq!(leader.high_watermark(), Offset(10), "node 2 may still be elected and lacks offset 10");
    let mut lowered = state(1, 5, 52, &[1]);
    lowered.elr.clear();
    assert_eq!(leader.apply_metadata(&lowered, all_up, 3), [Effect::HighWatermark(Offset(11))]);
}

#[test]
fn a_member_that_registered_again_commits_nothing_before_the_metadata_knows() {
    let mut leader = leader(2, facts(10, 10, Some(4)), &[1, 2]);
    leader.on_append(Offset(11), 1);
    // Node 2 crashed, and the controller took it out of the in-sync set and of the eligible leaders.
    let reborn = FollowerFetch { replica_epoch: BrokerEpoch(500), ..fetch_of(2, 11) };
    assert_eq!(served(&mut leader, &reborn, 2), []);
    assert_eq!(leader.high_watermark(), Offset(10));
    // The view of the brokers may come before the partition's state.
    let fenced = |node: NodeId| match node {
        NodeId(2) => Some(BrokerStatus { epoch: BrokerEpoch(500), fenced: true, shutting_down: false }),
        other => all_up(other),
    };
    assert_eq!(leader.apply_brokers(fenced, 3), []);
    assert_eq!(leader.high_watermark(), Offset(10));
}
