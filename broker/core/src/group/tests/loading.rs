//! Loading and what is answered before it is over.

use super::*;

#[test]
fn a_loading_coordinator_says_so() {
    let mut coordinator: GroupCoordinator<u32> = GroupCoordinator::new(no_delay());
    let now = Now { mono_ms: 0, wall_ms: 0 };
    let error = |effects: Vec<Effect<u32>>| match effects.as_slice() {
        [Effect::Reply { response: GroupResponse::Join(response), .. }] => response.error,
        [Effect::Reply { response: GroupResponse::Sync(response), .. }] => response.error,
        [Effect::Reply { response: GroupResponse::Leave(response), .. }] => response.error,
        [Effect::Reply { response: GroupResponse::OffsetCommit(topics), .. }] => topics[0].partitions[0].error,
        other => panic!("{other:?}"),
    };
    let loading = ErrorCode::CoordinatorLoadInProgress;
    assert_eq!(error(coordinator.join(now, 1, join("", "a"))), loading);
    assert_eq!(error(coordinator.sync(now, 2, sync("a", 1))), ErrorCode::RebalanceInProgress);
    assert_eq!(coordinator.heartbeat(now, &heartbeat("a", 1)), ErrorCode::None);
    let nobody = LeaveGroupRequest { group_id: "g".into(), members: vec![] };
    assert_eq!(error(coordinator.leave(now, 3, nobody)), loading);
    assert_eq!(error(coordinator.commit_offsets(now, 4, commit("", -1, 1))), loading);
    assert_eq!(coordinator.fetch_offsets(&OffsetFetchRequest { group_id: "g".into(), topics: None }).error, loading);
    assert_eq!(coordinator.list_groups(&ListGroupsRequest::default()).error, loading);
    assert_eq!(coordinator.describe_groups(&["g".to_owned()])[0].error, loading);
    assert_eq!(coordinator.next_deadline(), None);
}

#[test]
fn members_carry_on_after_a_failover_and_have_a_whole_session_to_do_so() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a", "b"]);
    let mut story = Story::from_log(no_delay(), story.log);
    assert_eq!(story.state(), Some(GroupState::Stable));
    story.pass(9_999);
    assert_eq!(story.heartbeat("a", generation), ErrorCode::None);
    let token = story.sync("a", generation, &[]);
    assert_eq!(story.synced(token).assignment, bytes("a"));
    story.pass(2);
    assert_eq!(story.heartbeat("b", generation), ErrorCode::UnknownMemberId, "b did not show up");
}

#[test]
fn offsets_committed_after_a_group_was_removed_are_kept() {
    let mut story = Story::new(no_delay());
    story.commit(commit("", -1, 42));
    let mut log = story.log;
    log.insert(0, GroupRecord::group("g", None).unwrap());
    log.push(GroupRecord::group("g", None).unwrap());
    assert_eq!(Story::from_log(no_delay(), log).committed("t", 0), 42);
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_changes_nothing() {
    let mut coordinator: GroupCoordinator<u32> = GroupCoordinator::new(no_delay());
    let key = GroupRecord::group("g", None).unwrap().key;
    assert_eq!(coordinator.load_record(&key, Some(&[0, 9])), Err(RecordError::Version(9)));
    assert_eq!(coordinator.load_record(&key, Some(&[0, 3, 0])), Err(RecordError::Truncated));
    assert_eq!(coordinator.load_record(&[0, 2, 0, 5, b'g'], None), Err(RecordError::Truncated));
    assert_eq!(coordinator.load_record(&[0, 12, 1, 2, 3], Some(b"newer group type")), Ok(()));
    coordinator.finish_load(Now { mono_ms: 0, wall_ms: 0 });
    assert_eq!(coordinator.list_groups(&ListGroupsRequest::default()).groups, []);
}
