//! Leadership, admission, the high watermark, acknowledgement and consumer reads.

use chronik_model::ErrorCode;

use super::*;

#[test]
fn a_new_leader_announces_its_epoch_at_its_log_end_before_any_record_follows() {
    // KAFKA-7415: the epoch must be in the cache although nothing is appended.
    let mut node = replica(1, 1, facts(7, 3, Some(4)));
    let effects = node.apply_metadata(&state(1, 5, 50, &[1, 2, 3]), all_up, 0);
    assert_eq!(effects, [Effect::BecomeLeader { epoch: LeaderEpoch(5), epoch_start: Offset(7) }]);
    assert_eq!(node.high_watermark(), Offset(3), "the watermark is kept as known");
    // It follows next, and offers the empty epoch to be compared.
    node.apply_metadata(&state(2, 6, 51, &[1, 2, 3]), all_up, 0);
    assert_eq!(node.follower_fetch_request().unwrap().last_fetched_epoch, LeaderEpoch(5));
}

#[test]
fn older_and_equal_metadata_change_nothing_and_gaps_are_fine() {
    let mut node = leader(1, facts(7, 3, Some(4)), &[1, 2, 3]);
    assert_eq!(node.apply_metadata(&state(2, 4, 49, &[2]), all_up, 0), []);
    assert_eq!(node.apply_metadata(&state(1, 5, 50, &[1, 2, 3]), all_up, 0), []);
    assert_eq!(node.apply_metadata(&state(2, 4, 60, &[2]), all_up, 0), [], "no leader epoch ever falls");
    assert!(node.is_leader());
    // KAFKA-13790: versions 51 to 58 were never seen.
    let effects = node.apply_metadata(&state(1, 5, 59, &[1, 2]), all_up, 0);
    assert_eq!(effects, [Effect::IsrChanged { isr: vec![NodeId(1), NodeId(2)] }]);
    assert_eq!(node.partition_epoch(), Some(PartitionEpoch(59)));
}

#[test]
fn a_restarted_broker_does_not_lead_by_metadata_from_before_its_registration() {
    let mut node = PartitionReplica::new(NodeId(1), BrokerEpoch(201), ReplicaConfig::default(), facts(3, 3, Some(4)));
    assert_eq!(node.apply_metadata(&state(1, 5, 50, &[1, 2]), all_up, 0), []);
    assert_eq!(node.check_append(1), Err(ErrorCode::NotLeaderOrFollower));
    let registered =
        |n: NodeId| all_up(n).map(|b| if n.0 == 1 { BrokerStatus { epoch: BrokerEpoch(201), ..b } } else { b });
    let effects = node.apply_metadata(&state(2, 6, 51, &[2]), registered, 0);
    assert!(matches!(effects[..], [Effect::BecomeFollower { .. }]), "{effects:?}");
}

#[test]
fn losing_the_leadership_fails_parked_requests_and_a_shrunken_isr_does_not() {
    let mut node = leader(1, facts(7, 3, Some(4)), &[1, 2, 3]);
    // KAFKA-15021: only the in-sync set shrank.
    let effects = node.apply_metadata(&state(1, 5, 51, &[1, 2]), all_up, 0);
    assert!(!effects.contains(&Effect::FailWaiters(ErrorCode::NotLeaderOrFollower)), "{effects:?}");
    let effects = node.apply_metadata(&state(2, 6, 52, &[1, 2]), all_up, 0);
    let epoch = LeaderEpoch(6);
    assert_eq!(
        effects,
        [
            Effect::FailWaiters(ErrorCode::NotLeaderOrFollower),
            Effect::BecomeFollower { leader: NodeId(2), epoch, truncate_to: None },
        ]
    );
    assert_eq!(node.check_append(1), Err(ErrorCode::NotLeaderOrFollower));
    assert_eq!(node.ack_state(Offset(1)), AckState::NotLeader);
}

#[test]
fn no_leader_and_removal_stop_the_replica() {
    let mut node = leader(1, facts(7, 3, Some(4)), &[1, 2, 3]);
    let failed = Effect::FailWaiters(ErrorCode::NotLeaderOrFollower);
    assert_eq!(node.apply_metadata(&state(-1, 6, 51, &[1]), all_up, 0), [failed, Effect::NoLeader]);
    assert_eq!(node.follower_fetch_request(), None);
    let mut elsewhere = state(2, 7, 52, &[2]);
    elsewhere.replicas = vec![NodeId(2), NodeId(3)];
    assert_eq!(node.apply_metadata(&elsewhere, all_up, 0), [Effect::Removed]);
    assert_eq!(node.check_append(1), Err(ErrorCode::NotLeaderOrFollower));
}

#[test]
fn a_leader_elected_again_begins_a_new_leadership_and_forgets_what_followers_had() {
    let mut node = leader(1, facts(10, 0, Some(4)), &[1, 2]);
    served(&mut node, &fetch_of(2, 10), 1);
    assert_eq!(node.high_watermark(), Offset(10));
    let effects = node.apply_metadata(&state(1, 6, 51, &[1, 2]), all_up, 2);
    assert_eq!(effects, [Effect::BecomeLeader { epoch: LeaderEpoch(6), epoch_start: Offset(10) }]);
    assert_eq!(node.on_append(Offset(12), 3), [], "node 2 has not fetched in epoch 6");
    assert_eq!(
        node.on_follower_fetch(&fetch_of(2, 12), no_epochs, 4),
        FetchDecision::Error(ErrorCode::FencedLeaderEpoch),
        "a fetch of epoch 5 says nothing about epoch 6"
    );
    assert_eq!(node.ack_state(Offset(12)), AckState::Pending);
}

#[test]
fn produce_is_admitted_by_acks_and_the_committed_isr() {
    let node = leader(2, facts(0, 0, None), &[1]);
    assert_eq!(node.check_append(-1), Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(node.check_append(1), Ok(LeaderEpoch(5)));
    assert_eq!(node.check_append(0), Ok(LeaderEpoch(5)));
    assert_eq!(node.check_append(2), Err(ErrorCode::InvalidRequiredAcks));
    assert_eq!(node.check_append(-2), Err(ErrorCode::InvalidRequiredAcks));
    assert_eq!(leader(2, facts(0, 0, None), &[1, 2]).check_append(-1), Ok(LeaderEpoch(5)));
    // The effective minimum is at most the replication factor.
    assert_eq!(leader(9, facts(0, 0, None), &[1, 2, 3]).check_append(-1), Ok(LeaderEpoch(5)));
    assert_eq!(follower(facts(0, 0, None)).check_append(1), Err(ErrorCode::NotLeaderOrFollower));
}

#[test]
fn a_pending_expansion_does_not_count_for_admission() {
    let mut node = leader(2, facts(0, 0, None), &[1]);
    assert_eq!(nodes(proposal(&served(&mut node, &fetch_of(2, 0), 1)).unwrap()), [1, 2]);
    assert_eq!(node.check_append(-1), Err(ErrorCode::NotEnoughReplicas));
}

#[test]
fn an_append_is_acknowledged_when_the_slowest_in_sync_replica_has_it() {
    let mut node = leader(2, facts(0, 0, None), &[1, 2, 3]);
    assert_eq!(node.on_append(Offset(5), 1), []);
    assert_eq!(served(&mut node, &fetch_of(2, 5), 2), [], "node 3 has not fetched yet");
    assert_eq!(served(&mut node, &fetch_of(3, 3), 3), [Effect::HighWatermark(Offset(3))]);
    assert_eq!(node.ack_state(Offset(5)), AckState::Pending);
    assert_eq!(served(&mut node, &fetch_of(3, 5), 4), [Effect::HighWatermark(Offset(5))]);
    assert_eq!(node.ack_state(Offset(5)), AckState::Done);
}

#[test]
fn a_leader_alone_in_sync_commits_at_once() {
    let mut node = leader(1, facts(4, 2, Some(4)), &[1]);
    assert_eq!(node.high_watermark(), Offset(4), "also when it becomes leader");
    assert_eq!(node.on_append(Offset(6), 1), [Effect::HighWatermark(Offset(6))]);
}

#[test]
fn the_watermark_never_falls_when_a_follower_is_behind_it() {
    let mut node = leader(1, facts(10, 10, Some(4)), &[1, 2]);
    assert_eq!(served(&mut node, &fetch_of(2, 4), 1), []);
    assert_eq!(node.high_watermark(), Offset(10));
}

#[test]
fn below_the_minimum_the_watermark_stands_still_so_the_last_replica_standing_acknowledges_nothing() {
    // KIP-966. A produce with acks=1 is written, but no consumer sees it.
    let mut node = leader(2, facts(4, 4, Some(4)), &[1]);
    assert_eq!(node.on_append(Offset(6), 1), []);
    assert_eq!(node.high_watermark(), Offset(4));
    // The committed set is what counts, not the hoped-for one.
    let effects = served(&mut node, &fetch_of(2, 6), 2);
    let wanted = proposal(&effects).unwrap().clone();
    assert_eq!(node.high_watermark(), Offset(4));
    let effects = node.on_alter_partition_result(&wanted, Ok(state(1, 5, 51, &[1, 2])), 3);
    assert!(effects.contains(&Effect::HighWatermark(Offset(6))), "{effects:?}");
    // A lower minimum releases it as well.
    let mut node = leader(2, facts(4, 3, Some(4)), &[1]);
    let config = ReplicaConfig { min_insync_replicas: Some(1), ..ReplicaConfig::default() };
    assert_eq!(node.apply_config(config, 1), [Effect::HighWatermark(Offset(4))]);
}

#[test]
fn enough_replicas_before_the_append_but_not_after_it_is_its_own_error() {
    let mut node = leader(2, facts(0, 0, None), &[1, 2]);
    node.on_append(Offset(3), 1);
    served(&mut node, &fetch_of(2, 3), 2);
    node.apply_metadata(&state(1, 5, 51, &[1]), all_up, 3);
    assert_eq!(node.ack_state(Offset(3)), AckState::NotEnoughAfterAppend);
    assert_eq!(node.ack_state(Offset(4)), AckState::Pending);
}

#[test]
fn after_a_disk_error_nothing_is_accepted_served_or_proposed() {
    // KAFKA-10778: a later append must not follow one that failed.
    let mut node = leader(1, facts(4, 4, Some(4)), &[1, 2]);
    assert_eq!(node.fence_after_io_error(), [Effect::FailWaiters(ErrorCode::KafkaStorageError)]);
    assert_eq!(node.fence_after_io_error(), []);
    assert_eq!(node.check_append(1), Err(ErrorCode::KafkaStorageError));
    let refused = FetchDecision::Error(ErrorCode::KafkaStorageError);
    assert_eq!(node.on_follower_fetch(&fetch_of(2, 4), no_epochs, 1), refused);
    assert_eq!(node.tick(10 * LAG), []);
    // A new epoch does not mend the disk.
    node.apply_metadata(&state(1, 6, 51, &[1, 2]), all_up, 1);
    assert_eq!(node.check_append(1), Err(ErrorCode::KafkaStorageError));
    let mut other = follower(facts(4, 4, Some(4)));
    other.fence_after_io_error();
    assert_eq!(other.follower_fetch_request(), None);
}

#[test]
fn leader_epochs_and_strangers_are_told_apart() {
    let mut node = leader(1, facts(4, 4, Some(4)), &[1, 2]);
    let mut ask = |fetch: FollowerFetch| node.on_follower_fetch(&fetch, no_epochs, 1);
    let with_epoch = |epoch| FollowerFetch { current_leader_epoch: LeaderEpoch(epoch), ..fetch_of(2, 4) };
    assert_eq!(ask(with_epoch(4)), FetchDecision::Error(ErrorCode::FencedLeaderEpoch));
    assert_eq!(ask(with_epoch(6)), FetchDecision::Error(ErrorCode::UnknownLeaderEpoch));
    assert_eq!(ask(with_epoch(-1)), FetchDecision::Error(ErrorCode::FencedLeaderEpoch), "followers must send it");
    // KAFKA-13837: not a replica, and the leader itself.
    for stranger in [9, 1, -7] {
        assert_eq!(ask(fetch_of(stranger, 4)), FetchDecision::Error(ErrorCode::NotLeaderOrFollower), "{stranger}");
    }
    let decision = follower(facts(4, 4, Some(4))).on_follower_fetch(&fetch_of(3, 4), no_epochs, 1);
    assert_eq!(decision, FetchDecision::Error(ErrorCode::NotLeaderOrFollower));
}

fn consumer(offset: i64) -> ConsumerFetch {
    ConsumerFetch {
        current_leader_epoch: LeaderEpoch(5),
        fetch_offset: Offset(offset),
        last_fetched_epoch: LeaderEpoch::NONE,
        from_follower: false,
    }
}

#[test]
fn consumers_read_below_the_watermark_only_and_get_errors_only_outside_the_log() {
    let mut node = leader(1, LogFacts { log_start: Offset(2), ..facts(10, 6, Some(4)) }, &[1, 2]);
    let until = |node: &PartitionReplica, offset| match node.consumer_fetch(&consumer(offset), no_epochs) {
        FetchDecision::Read { from, until, .. } => Ok((from.0, until.0)),
        FetchDecision::Error(error) => Err(error),
        FetchDecision::Diverging { .. } => panic!("no epoch was given"),
    };
    assert_eq!(until(&node, 2), Ok((2, 6)));
    assert_eq!(until(&node, 6), Ok((6, 6)));
    assert_eq!(until(&node, 8), Ok((8, 8)), "between the watermark and the end: empty, no error");
    assert_eq!(until(&node, 10), Ok((10, 10)));
    assert_eq!(until(&node, 11), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(until(&node, 1), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(until(&node, i64::MIN), Err(ErrorCode::OffsetOutOfRange));
    // KAFKA-9835: an append between two reads shows nothing new before it is replicated.
    node.on_append(Offset(20), 1);
    assert_eq!(until(&node, 2), Ok((2, 6)));
}

#[test]
fn latest_is_not_known_before_the_watermark_reaches_the_epoch_start() {
    let mut node = leader(1, facts(10, 6, Some(4)), &[1, 2]);
    assert_eq!(node.latest_offset(LeaderEpoch(5)), Err(ErrorCode::OffsetNotAvailable));
    assert_eq!(node.latest_offset(LeaderEpoch(4)), Err(ErrorCode::FencedLeaderEpoch));
    served(&mut node, &fetch_of(2, 9), 1);
    assert_eq!(node.latest_offset(LeaderEpoch(5)), Err(ErrorCode::OffsetNotAvailable));
    served(&mut node, &fetch_of(2, 10), 1);
    assert_eq!(node.latest_offset(LeaderEpoch::NONE), Ok(Offset(10)));
    assert_eq!(follower(facts(4, 4, None)).latest_offset(LeaderEpoch(5)), Err(ErrorCode::NotLeaderOrFollower));
}

#[test]
fn a_consumer_with_a_truncated_position_learns_where_its_epoch_ended() {
    // KIP-320: it read up to 12 in epoch 3, which ends at 8 here.
    let node = leader(1, facts(20, 20, Some(4)), &[1]);
    let fetch = ConsumerFetch { last_fetched_epoch: LeaderEpoch(3), ..consumer(12) };
    let decision = node.consumer_fetch(&fetch, cache(&[(2, 0), (3, 5), (4, 8)], 20));
    let end = EpochEnd { epoch: LeaderEpoch(3), end_offset: Offset(8) };
    assert_eq!(decision, FetchDecision::Diverging { end, high_watermark: Offset(20), log_start: Offset(0) });
}

#[test]
fn an_offset_below_the_log_start_wins_over_divergence() {
    // KAFKA-12996.
    let node = leader(1, LogFacts { log_start: Offset(10), ..facts(20, 20, Some(4)) }, &[1]);
    let fetch = ConsumerFetch { last_fetched_epoch: LeaderEpoch(3), ..consumer(9) };
    let decision = node.consumer_fetch(&fetch, cache(&[(2, 10), (4, 12)], 20));
    assert_eq!(decision, FetchDecision::Error(ErrorCode::OffsetOutOfRange));
}

#[test]
fn a_follower_serves_its_own_rack_up_to_its_own_watermark() {
    let node = follower(facts(10, 6, Some(4)));
    assert_eq!(node.consumer_fetch(&consumer(0), no_epochs), FetchDecision::Error(ErrorCode::NotLeaderOrFollower));
    let near = |offset| ConsumerFetch { from_follower: true, ..consumer(offset) };
    let FetchDecision::Read { until, .. } = node.consumer_fetch(&near(0), no_epochs) else { panic!("refused") };
    assert_eq!(until, Offset(6));
    assert_eq!(node.consumer_fetch(&near(11), no_epochs), FetchDecision::Error(ErrorCode::OffsetNotAvailable));
    assert_eq!(node.consumer_fetch(&near(-1), no_epochs), FetchDecision::Error(ErrorCode::OffsetOutOfRange));
}

#[test]
fn delete_records_waits_for_the_live_replicas() {
    let mut node = leader(1, facts(10, 0, Some(4)), &[1, 2, 3]);
    assert_eq!(node.low_watermark(), None, "nobody has fetched yet");
    served(&mut node, &fetch_of(2, 10), 1);
    served(&mut node, &fetch_of(3, 10), 1);
    assert_eq!(node.on_log_start(Offset(7)), None);
    assert_eq!(node.low_watermark(), Some(Offset(0)));
    served(&mut node, &FollowerFetch { log_start: Offset(7), ..fetch_of(2, 10) }, 2);
    let three_down = |n: NodeId| all_up(n).map(|b| BrokerStatus { fenced: n == NodeId(3), ..b });
    assert_eq!(node.low_watermark(), Some(Offset(0)));
    node.apply_brokers(three_down, 3);
    assert_eq!(node.low_watermark(), Some(Offset(7)), "a fenced broker is not waited for");
}
