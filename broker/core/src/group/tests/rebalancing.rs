//! Generations: delays, rejoining, the leader, SyncGroup, heartbeats, leaving, sessions.

use super::*;

#[test]
fn the_first_rebalance_waits_for_more_members_as_long_as_they_come() {
    let mut story = Story::new(GroupConfig::default());
    let first = story.join(join("", "a"));
    story.pass(2_000);
    let second = story.join(join("", "b"));
    story.pass(1_500);
    assert!(story.is_parked(first), "a newcomer buys another delay");
    story.pass(2_500);
    assert_eq!(story.joined(first).generation_id, 1);
    assert_eq!(story.joined(second).generation_id, 1);
}

#[test]
fn the_initial_delay_ends_with_the_rebalance_timeout() {
    let mut story = Story::new(GroupConfig::default());
    let short = |fresh: &str| JoinGroupRequest { rebalance_timeout_ms: 5_000, ..join("", fresh) };
    let first = story.join(short("m0"));
    for second in 1..12 {
        story.pass(1_000);
        if story.is_parked(first) {
            story.join(short(&format!("m{second:02}")));
        }
    }
    assert_eq!(story.joined(first).error, ErrorCode::None);
}

#[test]
fn a_newcomer_makes_the_others_rejoin() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a"]);
    let newcomer = story.join(join("", "b"));
    assert!(story.is_parked(newcomer));
    assert_eq!(story.state(), Some(GroupState::PreparingRebalance));
    assert_eq!(story.heartbeat("a", generation), ErrorCode::RebalanceInProgress);
    let token = story.sync("a", generation, &[]);
    assert_eq!(story.synced(token).error, ErrorCode::RebalanceInProgress);
    let rejoined = story.join(join("a", "unused"));
    let rejoined = story.joined(rejoined);
    assert_eq!((rejoined.generation_id, rejoined.leader.as_str()), (generation + 1, "a"));
    assert_eq!(story.joined(newcomer).leader, "a");
    assert_eq!(story.state(), Some(GroupState::CompletingRebalance));
}

#[test]
fn members_that_do_not_rejoin_in_time_are_dropped_and_another_leads() {
    let mut story = Story::new(no_delay());
    story.stable(&["a", "b"]);
    let follower =
        story.join(JoinGroupRequest { protocols: vec![protocol("range", "changed")], ..join("b", "unused") });
    for _ in 0..7 {
        story.pass(9_000);
        // The leader lives, but does not rejoin.
        let _ = story.heartbeat("a", 2);
    }
    let joined = story.joined(follower);
    assert_eq!((joined.generation_id, joined.leader.as_str(), joined.members.len()), (3, "b", 1));
    assert_eq!(story.heartbeat("a", 3), ErrorCode::UnknownMemberId);
}

#[test]
fn followers_with_unchanged_metadata_do_not_start_a_rebalance_but_the_leader_does() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a", "b"]);
    let follower = story.join(join("b", "unused"));
    let follower = story.joined(follower);
    assert_eq!((follower.generation_id, follower.members.len()), (generation, 0));
    assert_eq!(story.state(), Some(GroupState::Stable));
    let leader = story.join(join("a", "unused"));
    assert!(story.is_parked(leader));
    assert_eq!(story.state(), Some(GroupState::PreparingRebalance));
}

#[test]
fn a_lost_join_answer_is_given_again() {
    let mut story = Story::new(no_delay());
    let first = story.join(join("", "a"));
    let first = story.joined(first);
    let again = story.join(join("a", "unused"));
    assert_eq!(story.joined(again), first);
}

#[test]
fn followers_wait_for_the_leaders_assignment_and_for_the_log() {
    let mut story = Story::new(GroupConfig::default());
    let joins = [story.join(join("", "a")), story.join(join("", "b"))];
    story.pass(6_000);
    assert_eq!(joins.map(|token| story.joined(token).generation_id), [1, 1]);
    let follower = story.sync("b", 1, &[]);
    assert!(story.is_parked(follower));
    story.hold_appends = true;
    let leader = story.sync("a", 1, &[("a", "0,1"), ("b", "2,3"), ("stranger", "4")]);
    assert!(story.is_parked(leader) && story.is_parked(follower));
    assert_eq!(story.state(), Some(GroupState::CompletingRebalance));
    story.release(Ok(()));
    assert_eq!(story.synced(leader).assignment, bytes("0,1"));
    let follower = story.synced(follower);
    assert_eq!(follower.assignment, bytes("2,3"));
    assert_eq!(follower.protocol_name.as_deref(), Some("range"));
    assert_eq!(follower.protocol_type.as_deref(), Some("test"));
    let again = story.sync("b", 1, &[]);
    assert_eq!(story.synced(again).assignment, bytes("2,3"), "a stable group answers at once");
    let description = story.describe("g");
    assert_eq!((description.protocol.as_str(), description.members.len()), ("range", 2));
    assert_eq!(description.members[1].assignment, bytes("2,3"));
}

#[test]
fn a_failed_write_of_the_assignment_starts_over() {
    let mut story = Story::new(no_delay());
    let joined = story.join(join("", "a"));
    story.joined(joined);
    story.hold_appends = true;
    let token = story.sync("a", 1, &[("a", "0")]);
    story.release(Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(story.synced(token).error, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(story.state(), Some(GroupState::PreparingRebalance));
}

#[test]
fn an_assignment_that_is_late_for_its_generation_changes_nothing() {
    let mut story = Story::new(no_delay());
    let joined = story.join(join("", "a"));
    story.joined(joined);
    story.hold_appends = true;
    let stale = story.sync("a", 1, &[("a", "old")]);
    let newcomer = story.join(join("", "b"));
    assert_eq!(story.synced(stale).error, ErrorCode::RebalanceInProgress);
    let leader = story.join(join("a", "unused"));
    assert_eq!(story.joined(leader).generation_id, 2);
    assert_eq!(story.joined(newcomer).generation_id, 2);
    story.release(Ok(()));
    assert_eq!(story.state(), Some(GroupState::CompletingRebalance));
}

#[test]
fn generation_member_and_protocol_of_a_sync_must_be_the_groups() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a"]);
    let mut errors = Vec::new();
    for request in [
        sync("a", generation + 1),
        sync("ghost", generation),
        SyncGroupRequest { protocol_name: Some("sticky".into()), ..sync("a", generation) },
        SyncGroupRequest { protocol_type: Some("connect".into()), ..sync("a", generation) },
        SyncGroupRequest { group_id: "none".into(), ..sync("a", generation) },
        SyncGroupRequest {
            protocol_type: Some("test".into()),
            protocol_name: Some("range".into()),
            ..sync("a", generation)
        },
    ] {
        let token = story.token();
        let effects = story.coordinator.sync(story.now, token, request);
        story.take(effects);
        errors.push(story.synced(token).error);
    }
    let expected = [
        ErrorCode::IllegalGeneration,
        ErrorCode::UnknownMemberId,
        ErrorCode::InconsistentGroupProtocol,
        ErrorCode::InconsistentGroupProtocol,
        ErrorCode::UnknownMemberId,
        ErrorCode::None,
    ];
    assert_eq!(errors, expected);
}

#[test]
fn heartbeats_are_judged_precisely() {
    let mut story = Story::new(no_delay());
    assert_eq!(story.heartbeat("a", 1), ErrorCode::UnknownMemberId, "no such group");
    let joined = story.join(join("", "a"));
    story.joined(joined);
    assert_eq!(story.heartbeat("a", 1), ErrorCode::None, "already while the assignment is awaited");
    assert_eq!(story.heartbeat("a", 0), ErrorCode::IllegalGeneration);
    assert_eq!(story.heartbeat("ghost", 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_silent_member_is_dropped_after_its_session() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a", "b"]);
    story.pass(9_000);
    assert_eq!(story.heartbeat("a", generation), ErrorCode::None);
    story.pass(1_500);
    assert_eq!(story.heartbeat("b", generation), ErrorCode::UnknownMemberId);
    assert_eq!(story.heartbeat("a", generation), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_member_that_waits_for_an_answer_does_not_lose_its_session() {
    let mut story = Story::new(no_delay());
    story.stable(&["a", "b"]);
    let waiting = story.join(join("a", "unused"));
    for _ in 0..5 {
        story.pass(8_000);
        let _ = story.heartbeat("b", 2);
    }
    assert!(story.is_parked(waiting));
    let other = story.join(join("b", "unused"));
    assert_eq!(story.joined(waiting).error, ErrorCode::None);
    assert_eq!(story.joined(other).error, ErrorCode::None);
}

#[test]
fn a_new_member_that_is_gone_for_good_is_given_up_after_five_minutes() {
    let mut story = Story::new(no_delay());
    let slow = JoinGroupRequest { rebalance_timeout_ms: 3_600_000, ..join("", "a") };
    let first = story.join(slow);
    story.joined(first);
    story.sync("a", 1, &[("a", "0")]);
    let newcomer = story.join(join("", "b"));
    for _ in 0..40 {
        story.pass(8_000);
        let _ = story.heartbeat("a", 1);
    }
    let gone = story.joined(newcomer);
    assert_eq!((gone.error, gone.member_id.as_str()), (ErrorCode::UnknownMemberId, ""));
}

#[test]
fn members_that_never_ask_for_their_assignment_are_dropped() {
    let mut story = Story::new(no_delay());
    story.stable(&["a"]);
    let newcomer = story.join(join("", "b"));
    let leader = story.join(join("a", "unused"));
    story.joined(newcomer);
    story.joined(leader);
    let leader = story.sync("a", 2, &[("a", "0"), ("b", "1")]);
    assert_eq!(story.synced(leader).error, ErrorCode::None);
    for _ in 0..8 {
        story.pass(8_000);
        let _ = story.heartbeat("a", 2);
        let _ = story.heartbeat("b", 2);
    }
    assert_eq!(story.heartbeat("b", 2), ErrorCode::UnknownMemberId, "alive, but it never synced");
    assert_eq!(story.heartbeat("a", 2), ErrorCode::RebalanceInProgress);
}

#[test]
fn leaving_starts_a_rebalance_and_the_last_to_leave_empties_the_group() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a", "b", "c"]);
    assert_eq!(story.leave(&[("a", None)]), [ErrorCode::None]);
    assert_eq!(story.heartbeat("b", generation), ErrorCode::RebalanceInProgress);
    let both = [("b", None), ("ghost", None), ("c", None)];
    assert_eq!(story.leave(&both), [ErrorCode::None, ErrorCode::UnknownMemberId, ErrorCode::None]);
    assert_eq!(story.state(), Some(GroupState::Empty));
    let reloaded = Story::from_log(no_delay(), story.log);
    assert_eq!(reloaded.state(), Some(GroupState::Empty), "the empty generation is in the log");
}

#[test]
fn leaving_answers_what_the_member_still_waits_for() {
    let mut story = Story::new(GroupConfig::default());
    let parked = story.join(join("", "a"));
    let other = story.join(join("", "b"));
    assert_eq!(story.leave(&[("a", None)]), [ErrorCode::None]);
    assert_eq!(story.joined(parked).error, ErrorCode::UnknownMemberId);
    story.pass(10_000);
    assert_eq!(story.joined(other).leader, "b");
}

#[test]
fn an_id_that_was_handed_out_can_be_given_back() {
    let mut story = Story::new(no_delay());
    story.stable(&["a"]);
    story.join(JoinGroupRequest { require_known_member_id: true, ..join("", "b") });
    let leader = story.join(join("a", "unused"));
    assert!(story.is_parked(leader), "the group waits for whoever has an id");
    assert_eq!(story.leave(&[("b", None)]), [ErrorCode::None]);
    assert_eq!(story.joined(leader).generation_id, 2);
}

#[test]
fn an_unloaded_coordinator_answers_everything_that_was_parked() {
    let mut story = Story::new(no_delay());
    story.stable(&["a", "b"]);
    let join_token = story.join(join("a", "unused"));
    story.hold_appends = true;
    let commit_token = story.commit(commit("b", 2, 5));
    let effects = story.coordinator.unload();
    story.take(effects);
    assert_eq!(story.joined(join_token).error, ErrorCode::NotCoordinator);
    assert_eq!(story.commit_errors(commit_token), [ErrorCode::NotCoordinator]);
    story.release(Ok(()));
    assert!(story.answers.is_empty(), "late appends have nobody to tell");
    let token = story.join(join("", "c"));
    assert_eq!(story.joined(token).error, ErrorCode::NotCoordinator);
    assert_eq!(story.heartbeat("a", 2), ErrorCode::NotCoordinator);
    assert_eq!(story.coordinator.next_deadline(), None);
}

#[test]
fn a_retried_sync_of_the_leader_does_not_write_a_second_assignment() {
    let mut story = Story::new(no_delay());
    let joined = story.join(join("", "a"));
    story.joined(joined);
    story.hold_appends = true;
    let abandoned = story.sync("a", 1, &[("a", "first")]);
    let retried = story.sync("a", 1, &[("a", "second")]);
    assert_eq!(story.synced(abandoned).error, ErrorCode::RebalanceInProgress);
    assert_eq!(story.held.len(), 1);
    story.release(Ok(()));
    assert_eq!(story.synced(retried).assignment, bytes("first"), "what is in the log");
}
