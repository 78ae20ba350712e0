//! JoinGroup: ids, protocols, refusals, room.

use super::*;

fn v4(member: &str, fresh: &str) -> JoinGroupRequest {
    JoinGroupRequest { require_known_member_id: true, ..join(member, fresh) }
}

#[test]
fn a_modern_member_is_given_an_id_first_and_joins_with_it() {
    let mut story = Story::new(no_delay());
    let first = story.join(v4("", "m1"));
    let first = story.joined(first);
    assert_eq!((first.error, first.member_id.as_str()), (ErrorCode::MemberIdRequired, "m1"));
    let second = story.join(v4("m1", "unused"));
    let second = story.joined(second);
    assert_eq!((second.error, second.generation_id, second.leader.as_str()), (ErrorCode::None, 1, "m1"));
    assert_eq!(second.members.len(), 1);
    assert_eq!(second.protocol_name.as_deref(), Some("range"));
    assert_eq!(second.protocol_type.as_deref(), Some("test"));
}

#[test]
fn an_old_member_joins_in_one_round() {
    let mut story = Story::new(no_delay());
    let token = story.join(join("", "m1"));
    assert_eq!(story.joined(token).error, ErrorCode::None);
}

#[test]
fn an_id_that_is_not_used_lapses_and_leaves_no_group_behind() {
    let mut story = Story::new(no_delay());
    story.join(v4("", "m1"));
    assert_eq!(story.state(), Some(GroupState::Empty));
    story.pass(10_001);
    assert!(!story.describe("g").found);
    let token = story.join(v4("m1", "unused"));
    assert_eq!(story.joined(token).error, ErrorCode::UnknownMemberId);
    assert_eq!(story.log, []);
}

#[test]
fn ids_handed_out_and_not_used_are_bounded() {
    let mut story = Story::new(GroupConfig { max_pending_members: 2, ..no_delay() });
    let tokens: Vec<u32> = (0..3).map(|index| story.join(v4("", &format!("m{index}")))).collect();
    let errors: Vec<ErrorCode> = tokens.into_iter().map(|token| story.joined(token).error).collect();
    assert_eq!(errors, [ErrorCode::MemberIdRequired, ErrorCode::MemberIdRequired, ErrorCode::GroupMaxSizeReached]);
}

#[test]
fn the_number_of_groups_is_bounded() {
    let mut story = Story::new(GroupConfig { max_groups: 1, ..no_delay() });
    story.stable(&["a"]);
    let token = story.join(JoinGroupRequest { group_id: "other".into(), ..join("", "b") });
    assert_eq!(story.joined(token).error, ErrorCode::PolicyViolation);
    let token = story.commit(OffsetCommitRequest { group_id: "other".into(), ..commit("", -1, 5) });
    assert_eq!(story.commit_errors(token), [ErrorCode::PolicyViolation]);
}

#[test]
fn a_session_timeout_out_of_range_is_refused() {
    let mut story = Story::new(no_delay());
    for session_timeout_ms in [-1, 0, 5_999, 1_800_001] {
        let token = story.join(JoinGroupRequest { session_timeout_ms, ..join("", "m1") });
        assert_eq!(story.joined(token).error, ErrorCode::InvalidSessionTimeout);
    }
    assert!(!story.describe("g").found);
}

#[test]
fn a_group_needs_a_name() {
    let mut story = Story::new(no_delay());
    let token = story.join(JoinGroupRequest { group_id: String::new(), ..join("", "m1") });
    assert_eq!(story.joined(token).error, ErrorCode::InvalidGroupId);
    let unnamed = HeartbeatRequest { group_id: String::new(), ..heartbeat("m1", 1) };
    assert_eq!(story.coordinator.heartbeat(story.now, &unnamed), ErrorCode::InvalidGroupId);
    // Offsets without a group id are an old habit that Kafka still serves.
    let token = story.commit(OffsetCommitRequest { group_id: String::new(), ..commit("", -1, 5) });
    assert_eq!(story.commit_errors(token), [ErrorCode::None]);
}

#[test]
fn an_unknown_member_id_does_not_make_a_group() {
    let mut story = Story::new(no_delay());
    let token = story.join(join("ghost", "unused"));
    assert_eq!(story.joined(token).error, ErrorCode::UnknownMemberId);
    story.stable(&["a"]);
    let token = story.join(join("ghost", "unused"));
    assert_eq!(story.joined(token).error, ErrorCode::UnknownMemberId);
    assert_eq!(story.state(), Some(GroupState::Stable));
}

#[test]
fn protocols_must_have_something_in_common_with_the_group() {
    let mut story = Story::new(no_delay());
    let none = story.join(JoinGroupRequest { protocols: vec![], ..join("", "m0") });
    assert_eq!(story.joined(none).error, ErrorCode::InconsistentGroupProtocol);
    let untyped = story.join(JoinGroupRequest { protocol_type: String::new(), ..join("", "m0") });
    assert_eq!(story.joined(untyped).error, ErrorCode::InconsistentGroupProtocol);
    assert!(!story.describe("g").found);

    story.stable(&["a"]);
    let other = story.join(JoinGroupRequest { protocols: vec![protocol("sticky", "")], ..join("", "b") });
    assert_eq!(story.joined(other).error, ErrorCode::InconsistentGroupProtocol);
    let connect = story.join(JoinGroupRequest { protocol_type: "connect".into(), ..join("", "b") });
    assert_eq!(story.joined(connect).error, ErrorCode::InconsistentGroupProtocol);
    assert_eq!(story.state(), Some(GroupState::Stable));
}

#[test]
fn members_vote_among_the_protocols_all_of_them_know() {
    let mut story = Story::new(GroupConfig::default());
    let with = |fresh: &str, names: &[&str]| JoinGroupRequest {
        protocols: names.iter().map(|name| protocol(name, &format!("{fresh}-{name}"))).collect(),
        ..join("", fresh)
    };
    let leader = story.join(with("a", &["sticky", "range", "roundrobin"]));
    let second = story.join(with("b", &["private", "roundrobin", "range"]));
    let third = story.join(with("c", &["roundrobin", "range"]));
    story.pass(10_000);
    let leader = story.joined(leader);
    // `sticky` and `private` are not common; roundrobin gets two votes of three.
    assert_eq!(leader.protocol_name.as_deref(), Some("roundrobin"));
    let seen: Vec<(&str, &[u8])> = leader.members.iter().map(|m| (m.member_id.as_str(), &m.metadata[..])).collect();
    assert_eq!(seen, [("a", &b"a-roundrobin"[..]), ("b", b"b-roundrobin"), ("c", b"c-roundrobin")]);
    for token in [second, third] {
        let follower = story.joined(token);
        assert_eq!((follower.leader.as_str(), follower.members.len()), ("a", 0), "only the leader gets the members");
    }
}

#[test]
fn a_tie_of_votes_is_broken_by_the_leader() {
    let mut story = Story::new(GroupConfig::default());
    let with = |fresh: &str, names: [&str; 2]| JoinGroupRequest {
        protocols: names.iter().map(|name| protocol(name, "")).collect(),
        ..join("", fresh)
    };
    let leader = story.join(with("z", ["sticky", "range"]));
    story.join(with("a", ["range", "sticky"]));
    story.pass(10_000);
    assert_eq!(story.joined(leader).protocol_name.as_deref(), Some("sticky"));
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut story = Story::new(GroupConfig { max_size: 2, ..no_delay() });
    let generation = story.stable(&["a", "b"]);
    let token = story.join(join("", "c"));
    let refused = story.joined(token);
    assert_eq!((refused.error, refused.member_id.as_str()), (ErrorCode::GroupMaxSizeReached, ""));
    assert_eq!(story.heartbeat("a", generation), ErrorCode::None, "the others are not disturbed");
}

#[test]
fn a_group_that_is_too_large_after_loading_sheds_the_last_to_rejoin() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a", "b", "c"]);
    let mut story = Story::from_log(GroupConfig { max_size: 2, ..no_delay() }, story.log);
    assert_eq!(story.heartbeat("a", generation), ErrorCode::RebalanceInProgress);
    let kept = [story.join(join("c", "unused")), story.join(join("a", "unused"))];
    let shed = story.join(join("b", "unused"));
    assert_eq!(story.joined(shed).error, ErrorCode::GroupMaxSizeReached);
    for token in kept {
        assert_eq!(story.joined(token).error, ErrorCode::None);
    }
}

#[test]
fn a_retried_join_takes_over_from_the_abandoned_one() {
    let mut story = Story::new(no_delay());
    story.stable(&["a", "b"]);
    let abandoned = story.join(join("a", "unused"));
    assert!(story.is_parked(abandoned));
    let retried = story.join(join("a", "unused"));
    assert_eq!(story.joined(abandoned).error, ErrorCode::RebalanceInProgress);
    assert!(story.is_parked(retried));
    story.join(join("b", "unused"));
    assert_eq!(story.joined(retried).error, ErrorCode::None);
}
