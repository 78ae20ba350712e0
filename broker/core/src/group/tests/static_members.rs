//! Static membership (KIP-345) and skipping the assignment (KIP-814).

use super::*;

/// A stable group of the static members `i1` (leader, id `s1`) and `i2` (id `s2`), generation 1.
fn two_static_members() -> Story {
    let mut story = Story::new(GroupConfig::default());
    let joins = [story.join(static_join("i1", "s1")), story.join(static_join("i2", "s2"))];
    story.pass(6_000);
    assert_eq!(joins.map(|token| story.joined(token).generation_id), [1, 1]);
    story.sync("s2", 1, &[]);
    story.sync("s1", 1, &[("s1", "one"), ("s2", "two")]);
    story.answers.clear();
    assert_eq!(story.state(), Some(GroupState::Stable));
    story
}

#[test]
fn a_static_member_needs_no_second_round() {
    let mut story = Story::new(no_delay());
    let token = story.join(JoinGroupRequest { require_known_member_id: true, ..static_join("i1", "s1") });
    assert_eq!(story.joined(token).error, ErrorCode::None);
}

#[test]
fn a_restarted_static_member_keeps_its_assignment_without_a_rebalance() {
    let mut story = two_static_members();
    story.hold_appends = true;
    let token = story.join(static_join("i2", "s2b"));
    assert!(story.is_parked(token), "its new id has to reach the log first");
    story.release(Ok(()));
    let joined = story.joined(token);
    assert_eq!((joined.error, joined.generation_id, joined.member_id.as_str()), (ErrorCode::None, 1, "s2b"));
    assert_eq!((joined.leader.as_str(), joined.members.len()), ("s1", 0));
    let token = story.sync("s2b", 1, &[]);
    assert_eq!(story.synced(token).assignment, bytes("two"));
    assert_eq!(story.heartbeat("s1", 1), ErrorCode::None);
    let mut reloaded = Story::from_log(no_delay(), story.log);
    assert_eq!(reloaded.heartbeat("s2b", 1), ErrorCode::None);
}

#[test]
fn the_old_id_of_a_static_member_is_fenced() {
    let mut story = two_static_members();
    story.join(static_join("i2", "s2b"));
    let old = HeartbeatRequest { group_instance_id: Some("i2".into()), ..heartbeat("s2", 1) };
    assert_eq!(story.coordinator.heartbeat(story.now, &old), ErrorCode::FencedInstanceId);
    assert_eq!(story.heartbeat("s2", 1), ErrorCode::UnknownMemberId, "without the instance id it is nobody");
    let token = story.join(JoinGroupRequest { member_id: "s2".into(), ..static_join("i2", "unused") });
    assert_eq!(story.joined(token).error, ErrorCode::FencedInstanceId);
    let token = story.commit(OffsetCommitRequest { group_instance_id: Some("i2".into()), ..commit("s2", 1, 5) });
    assert_eq!(story.commit_errors(token), [ErrorCode::FencedInstanceId]);
    assert_eq!(story.leave(&[("s2", Some("i2"))]), [ErrorCode::FencedInstanceId]);
}

#[test]
fn a_restarted_static_leader_does_not_assign_again() {
    let mut story = two_static_members();
    let old_client = story.join(static_join("i1", "s1b"));
    let joined = story.joined(old_client);
    assert_eq!((joined.leader.as_str(), joined.members.len()), ("s1", 0), "an old client must not think it leads");
    let new_client = story.join(JoinGroupRequest { supports_skipping_assignment: true, ..static_join("i1", "s1c") });
    let joined = story.joined(new_client);
    assert_eq!((joined.leader.as_str(), joined.members.len(), joined.skip_assignment), ("s1c", 2, true));
}

#[test]
fn a_failed_write_gives_the_place_back() {
    let mut story = two_static_members();
    story.hold_appends = true;
    let token = story.join(static_join("i2", "s2b"));
    story.release(Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(story.joined(token).error, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(story.heartbeat("s2", 1), ErrorCode::None);
    assert_eq!(story.heartbeat("s2b", 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_change_of_the_chosen_protocol_does_rebalance() {
    let mut story = Story::new(GroupConfig::default());
    let both = vec![protocol("range", ""), protocol("sticky", "")];
    let first = story.join(JoinGroupRequest { protocols: both.clone(), ..static_join("i1", "s1") });
    story.pass(3_000);
    assert_eq!(story.joined(first).protocol_name.as_deref(), Some("range"));
    story.sync("s1", 1, &[("s1", "one")]);
    let swapped = both.into_iter().rev().collect();
    let token = story.join(JoinGroupRequest { protocols: swapped, ..static_join("i1", "s1b") });
    let joined = story.joined(token);
    assert_eq!((joined.generation_id, joined.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_through_a_rebalance() {
    let mut story = two_static_members();
    let leader = story.join(JoinGroupRequest { member_id: "s1".into(), ..static_join("i1", "unused") });
    // Its session is longer than the rebalance in this story.
    for _ in 0..7 {
        story.pass(8_600);
        let _ = story.heartbeat("s2", 1);
    }
    let joined = story.joined(leader);
    let members: Vec<&str> = joined.members.iter().map(|member| member.member_id.as_str()).collect();
    assert_eq!(members, ["s1", "s2"]);
}

#[test]
fn a_restart_while_the_assignment_is_awaited_starts_over() {
    let mut story = Story::new(no_delay());
    let token = story.join(static_join("i1", "s1"));
    story.joined(token);
    story.hold_appends = true;
    let parked = story.sync("s1", 1, &[("s1", "one")]);
    let token = story.join(static_join("i1", "s1b"));
    assert_eq!(story.synced(parked).error, ErrorCode::FencedInstanceId);
    assert_eq!(story.joined(token).generation_id, 2);
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance_id() {
    let mut story = two_static_members();
    let errors = story.leave(&[("", Some("i2")), ("", Some("nobody")), ("", None)]);
    assert_eq!(errors, [ErrorCode::None, ErrorCode::UnknownMemberId, ErrorCode::UnknownMemberId]);
    assert_eq!(story.heartbeat("s1", 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn an_instance_id_nobody_has_is_an_unknown_member() {
    let mut story = two_static_members();
    let token = story.join(JoinGroupRequest { member_id: "s1".into(), ..static_join("i9", "unused") });
    assert_eq!(story.joined(token).error, ErrorCode::UnknownMemberId);
}
