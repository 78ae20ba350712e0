//! Following: divergence, truncation and what is taken from an answer.

use chronik_model::ErrorCode;

use super::*;

const MARKS: LeaderMarks = LeaderMarks { high_watermark: Offset(9), log_start: Offset(3) };

fn answer_to(node: &PartitionReplica) -> FetchReply {
    let request = node.follower_fetch_request().unwrap();
    FetchReply { request, error: ErrorCode::None, diverging: None, marks: MARKS }
}

fn diverging(node: &PartitionReplica, epoch: i32, end: i64) -> FetchReply {
    let end = EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end) };
    FetchReply { diverging: Some(end), ..answer_to(node) }
}

#[test]
fn a_follower_asks_at_its_log_end_with_its_latest_epoch() {
    let node = follower(facts(7, 3, Some(4)));
    let request = node.follower_fetch_request().unwrap();
    assert_eq!((request.leader, request.current_leader_epoch), (NodeId(1), LeaderEpoch(5)));
    assert_eq!((request.fetch_offset, request.last_fetched_epoch), (Offset(7), LeaderEpoch(4)));
    let empty = follower(facts(0, 0, None));
    assert_eq!(empty.follower_fetch_request().unwrap().last_fetched_epoch, LeaderEpoch::NONE);
}

#[test]
fn a_follower_with_epochs_is_not_cut_at_its_watermark() {
    // KIP-101, KAFKA-1211: the record above the watermark may be committed; only the leader can tell.
    let mut node = replica(2, 1, facts(2, 1, Some(4)));
    let effects = node.apply_metadata(&state(1, 5, 50, &[1, 2]), all_up, 0);
    assert!(matches!(effects[..], [Effect::BecomeFollower { truncate_to: None, .. }]), "{effects:?}");
    let mut blind = replica(2, 1, facts(2, 1, None));
    let effects = blind.apply_metadata(&state(1, 5, 50, &[1, 2]), all_up, 0);
    assert!(matches!(effects[..], [Effect::BecomeFollower { truncate_to: Some(Offset(1)), .. }]), "{effects:?}");
}

#[test]
fn the_watermark_and_log_start_of_the_leader_are_taken_as_far_as_the_own_log_goes() {
    let mut node = follower(facts(5, 2, Some(4)));
    assert_eq!(node.on_fetch_response(&answer_to(&node), no_epochs), FollowerAction::Append(MARKS));
    let progress = node.on_follower_append(Offset(7), Some(LeaderEpoch(5)), MARKS);
    assert_eq!(progress, FollowerProgress { high_watermark: Offset(7), advanced: true, log_start: Some(Offset(3)) });
    // A new leader that lags behind does not take back what was committed, and garbage moves nothing.
    for told in [4, -1, i64::MIN] {
        let marks = LeaderMarks { high_watermark: Offset(told), log_start: Offset(told.min(0)) };
        let progress = node.on_follower_append(Offset(7), None, marks);
        assert_eq!(progress, FollowerProgress { high_watermark: Offset(7), advanced: false, log_start: None });
    }
    node.check_invariants().unwrap();
}

#[test]
fn an_empty_answer_leaves_the_last_fetched_epoch_alone() {
    // KAFKA-15510.
    let mut node = follower(facts(5, 2, Some(3)));
    node.on_follower_append(Offset(5), None, MARKS);
    assert_eq!(node.follower_fetch_request().unwrap().last_fetched_epoch, LeaderEpoch(3));
    node.on_follower_append(Offset(6), Some(LeaderEpoch(4)), MARKS);
    assert_eq!(node.follower_fetch_request().unwrap().last_fetched_epoch, LeaderEpoch(4));
}

#[test]
fn divergence_cuts_the_log_and_nothing_else_of_that_answer_counts() {
    // KAFKA-14704: the watermark of 9 would be above a log cut to 6, or commit records that are about to be cut.
    let mut node = follower(facts(10, 2, Some(4)));
    let own = cache(&[(1, 0), (3, 4), (4, 8)], 10);
    let action = node.on_fetch_response(&diverging(&node, 3, 6), own);
    assert_eq!(action, FollowerAction::Truncate { to: Offset(6) });
    node.on_truncated(Offset(0), Offset(6), Some(LeaderEpoch(3)));
    assert_eq!((node.high_watermark(), node.log_start()), (Offset(2), Offset(0)));
    let request = node.follower_fetch_request().unwrap();
    assert_eq!((request.fetch_offset, request.last_fetched_epoch), (Offset(6), LeaderEpoch(3)));
}

#[test]
fn after_fast_failovers_the_common_prefix_is_found_in_steps() {
    // KIP-279, KAFKA-6361: epochs 2 and 4 exist only here, 1 and 3 there.
    let ours = [(1, 0), (2, 4), (4, 8)];
    let theirs = [(1, 0), (3, 6)];
    let mut leader = leader(1, facts(12, 0, Some(3)), &[1, 2, 3]);
    let mut node = follower(facts(10, 0, Some(4)));
    let mut cuts = Vec::new();
    loop {
        let log_end = node.log_end().0;
        let kept: Vec<_> = ours.into_iter().filter(|(_, start)| *start < log_end).collect();
        let request = node.follower_fetch_request().unwrap();
        let fetch = FollowerFetch { last_fetched_epoch: request.last_fetched_epoch, ..fetch_of(2, log_end) };
        let end = match leader.on_follower_fetch(&fetch, cache(&theirs, 12), 1) {
            FetchDecision::Diverging { end, .. } => end,
            FetchDecision::Read { from, .. } => {
                assert_eq!(from, Offset(4));
                break;
            }
            FetchDecision::Error(error) => panic!("{error}"),
        };
        let answer = diverging(&node, end.epoch.0, end.end_offset.0);
        let FollowerAction::Truncate { to } = node.on_fetch_response(&answer, cache(&kept, log_end)) else {
            panic!("no truncation for {end:?}")
        };
        let latest = kept.iter().rev().find(|(_, start)| *start < to.0).map(|(epoch, _)| LeaderEpoch(*epoch));
        node.on_truncated(Offset(0), to, latest);
        cuts.push(to.0);
    }
    assert_eq!(cuts, [8, 4], "the leader's 3 is unknown here, then 2 is unknown there");
}

#[test]
fn an_epoch_without_records_is_cut_although_the_log_stays_as_long() {
    // It led epoch 4 but wrote nothing; the new leader never heard of it.
    let node = follower(facts(8, 2, Some(4)));
    let action = node.on_fetch_response(&diverging(&node, 3, 12), cache(&[(3, 0), (4, 8)], 8));
    assert_eq!(action, FollowerAction::Truncate { to: Offset(8) });
}

#[test]
fn a_divergence_that_would_change_nothing_is_not_chased_for_ever() {
    let node = follower(facts(8, 2, Some(4)));
    let action = node.on_fetch_response(&diverging(&node, 4, 12), cache(&[(3, 0), (4, 6)], 8));
    assert_eq!(action, FollowerAction::Retry(ErrorCode::UnknownServerError));
    for (epoch, end) in [(-1, -1), (3, -5), (i32::MIN, i64::MIN)] {
        let action = node.on_fetch_response(&diverging(&node, epoch, end), no_epochs);
        assert_eq!(action, FollowerAction::Retry(ErrorCode::UnknownServerError));
    }
}

#[test]
fn a_log_that_shares_nothing_is_dropped_whole_and_the_watermark_follows() {
    // KAFKA-9491: the watermark must not stay above a log that was emptied.
    let log = LogFacts { log_start: Offset(4), ..facts(10, 8, Some(7)) };
    let mut node = replica(2, 1, log);
    node.apply_metadata(&state(1, 8, 50, &[1, 2]), all_up, 0);
    let answer = diverging(&node, 2, 3);
    assert_eq!(node.on_fetch_response(&answer, no_epochs), FollowerAction::ResetTo { offset: Offset(3) });
    node.on_truncated(Offset(3), Offset(3), None);
    assert_eq!(node.high_watermark(), Offset(3));
    node.check_invariants().unwrap();
    let forward = LeaderMarks { high_watermark: Offset(50), log_start: Offset(20) };
    let out = FetchReply { error: ErrorCode::OffsetOutOfRange, marks: forward, ..answer_to(&node) };
    assert_eq!(node.on_fetch_response(&out, no_epochs), FollowerAction::ResetTo { offset: Offset(20) });
    node.on_truncated(Offset(20), Offset(20), None);
    assert_eq!(node.high_watermark(), Offset(20));
}

#[test]
fn an_answer_from_another_leadership_or_position_is_dropped() {
    // KAFKA-18991; KAFKA-7164 and KIP-320 for the fetch that follows.
    let mut node = follower(facts(5, 2, Some(4)));
    let late = answer_to(&node);
    let late_cut = diverging(&node, 1, 1);
    node.apply_metadata(&state(1, 6, 51, &[1, 2]), all_up, 1);
    assert_eq!(node.on_fetch_response(&late, no_epochs), FollowerAction::Drop);
    assert_eq!(node.on_fetch_response(&late_cut, no_epochs), FollowerAction::Drop);
    assert_eq!(node.follower_fetch_request().unwrap().current_leader_epoch, LeaderEpoch(6));
    let before_the_append = answer_to(&node);
    node.on_follower_append(Offset(6), Some(LeaderEpoch(6)), MARKS);
    assert_eq!(node.on_fetch_response(&before_the_append, no_epochs), FollowerAction::Drop);
    let own = answer_to(&node);
    node.apply_metadata(&state(2, 7, 52, &[1, 2]), all_up, 1);
    assert_eq!(node.on_fetch_response(&own, no_epochs), FollowerAction::Drop, "it leads now");
}

#[test]
fn a_divergence_told_twice_cuts_once() {
    // The first answer led to a cut, then the log grew to the same length again; the repetition speaks of the old tail.
    let mut node = follower(facts(10, 2, Some(4)));
    let told = diverging(&node, 3, 9);
    let own = cache(&[(3, 0), (4, 9)], 10);
    assert_eq!(node.on_fetch_response(&told, &own), FollowerAction::Truncate { to: Offset(9) });
    node.on_truncated(Offset(0), Offset(9), Some(LeaderEpoch(3)));
    node.on_follower_append(Offset(10), Some(LeaderEpoch(5)), MARKS);
    assert_eq!(node.on_fetch_response(&told, cache(&[(3, 0), (5, 9)], 10)), FollowerAction::Drop);
}

#[test]
fn the_same_leader_in_a_new_epoch_is_followed_anew() {
    // KAFKA-7164.
    let mut node = follower(facts(5, 2, Some(4)));
    let effects = node.apply_metadata(&state(1, 9, 55, &[1, 2]), all_up, 1);
    assert_eq!(effects, [Effect::BecomeFollower { leader: NodeId(1), epoch: LeaderEpoch(9), truncate_to: None }]);
    assert_eq!(node.apply_metadata(&state(1, 9, 56, &[1]), all_up, 1), [], "only the in-sync set changed");
}

#[test]
fn a_position_outside_the_leaders_log_is_settled_by_its_ends() {
    let node = follower(LogFacts { log_start: Offset(4), ..facts(10, 8, None) });
    let out = FetchReply { error: ErrorCode::OffsetOutOfRange, ..answer_to(&node) };
    assert_eq!(node.on_fetch_response(&out, no_epochs), FollowerAction::AskLeaderOffsets);
    let ends = |earliest, latest| node.on_leader_offsets(LeaderEpoch(5), Offset(earliest), Offset(latest));
    assert_eq!(ends(20, 30), FollowerAction::ResetTo { offset: Offset(20) });
    assert_eq!(ends(0, 7), FollowerAction::Truncate { to: Offset(7) });
    assert_eq!(ends(0, 2), FollowerAction::ResetTo { offset: Offset(2) });
    assert_eq!(ends(0, 10), FollowerAction::Retry(ErrorCode::OffsetOutOfRange));
    assert_eq!(ends(5, -1), FollowerAction::Retry(ErrorCode::UnknownServerError));
    assert_eq!(node.on_leader_offsets(LeaderEpoch(4), Offset(20), Offset(30)), FollowerAction::Drop);
}

#[test]
fn errors_of_the_leader_are_waited_out() {
    let node = follower(facts(5, 2, Some(4)));
    let answer = |error| node.on_fetch_response(&FetchReply { error, ..answer_to(&node) }, no_epochs);
    let fenced = ErrorCode::FencedLeaderEpoch;
    assert_eq!(answer(fenced), FollowerAction::AwaitMetadata(fenced));
    for error in [ErrorCode::UnknownLeaderEpoch, ErrorCode::NotLeaderOrFollower, ErrorCode::KafkaStorageError] {
        assert_eq!(answer(error), FollowerAction::Retry(error));
    }
}

#[test]
fn a_follower_whose_epoch_is_older_than_the_leaders_first_goes_on_from_the_log_start() {
    // Retention removed epoch 3 at the leader; the follower ends exactly where the leader's log begins.
    let log = LogFacts { log_start: Offset(10), ..facts(20, 20, Some(4)) };
    let mut leader = leader(1, log, &[1]);
    let fetch = FollowerFetch { last_fetched_epoch: LeaderEpoch(3), ..fetch_of(2, 10) };
    let decision = leader.on_follower_fetch(&fetch, cache(&[(4, 10)], 20), 1);
    assert!(matches!(decision, FetchDecision::Read { .. }), "{decision:?}");
    let ahead = FollowerFetch { last_fetched_epoch: LeaderEpoch(3), ..fetch_of(2, 12) };
    let decision = leader.on_follower_fetch(&ahead, cache(&[(4, 10)], 20), 1);
    let end = EpochEnd { epoch: LeaderEpoch(3), end_offset: Offset(10) };
    assert!(matches!(decision, FetchDecision::Diverging { end: found, .. } if found == end), "{decision:?}");
}

#[test]
fn a_diverging_follower_makes_no_progress_at_the_leader() {
    let mut leader = leader(1, facts(10, 4, Some(4)), &[1, 2]);
    let fetch = FollowerFetch { last_fetched_epoch: LeaderEpoch(3), ..fetch_of(2, 10) };
    let decision = leader.on_follower_fetch(&fetch, cache(&[(2, 0), (4, 6)], 10), 1);
    assert!(matches!(decision, FetchDecision::Diverging { .. }), "{decision:?}");
    assert_eq!(leader.high_watermark(), Offset(4));
    assert_eq!(leader.followers().next(), Some((NodeId(2), None)));
}
