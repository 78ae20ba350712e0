//! Offsets: commits, fetches, deletion, expiry; and deleting groups.

use super::*;

const WEEK_MS: u64 = 7 * 24 * 3_600_000;

fn all(story: &Story) -> Vec<(String, i32, i64)> {
    let response = story.coordinator.fetch_offsets(&OffsetFetchRequest { group_id: "g".into(), topics: None });
    let flat = |topic: OffsetFetchTopicResponse| {
        let name = topic.name.as_str().to_owned();
        topic.partitions.into_iter().map(move |found| (name.clone(), found.partition.0, found.offset.0))
    };
    response.topics.into_iter().flat_map(flat).collect()
}

#[test]
fn an_offset_comes_back_with_its_metadata_and_leader_epoch() {
    let mut story = Story::new(no_delay());
    let token = story.commit(commit("", -1, 42));
    assert_eq!(story.commit_errors(token), [ErrorCode::None]);
    let fetched = story.fetched("t", 0);
    assert_eq!((fetched.offset, fetched.leader_epoch, fetched.metadata.as_str()), (Offset(42), LeaderEpoch(7), "note"));
    let none = story.fetched("t", 1);
    assert_eq!((none.offset, none.leader_epoch, none.metadata.as_str()), (Offset(-1), LeaderEpoch::NONE, ""));
    assert_eq!(all(&story), [("t".to_owned(), 0, 42)]);
}

#[test]
fn an_offset_is_visible_only_when_it_is_written() {
    let mut story = Story::new(no_delay());
    story.hold_appends = true;
    let token = story.commit(commit("", -1, 42));
    assert!(story.is_parked(token));
    assert_eq!(story.committed("t", 0), -1);
    story.release(Ok(()));
    assert_eq!(story.committed("t", 0), 42);
    let token = story.commit(commit("", -1, 50));
    story.release(Err(ErrorCode::NotEnoughReplicasAfterAppend));
    assert_eq!(story.commit_errors(token), [ErrorCode::CoordinatorNotAvailable]);
    assert_eq!(story.committed("t", 0), 42);
}

#[test]
fn a_group_that_never_came_to_be_is_forgotten_with_its_failed_commit() {
    let mut story = Story::new(no_delay());
    story.hold_appends = true;
    story.commit(commit("", -1, 42));
    story.release(Err(ErrorCode::RequestTimedOut));
    assert!(!story.describe("g").found);
}

#[test]
fn of_two_commits_under_way_the_later_one_wins_however_they_are_reported() {
    let mut story = Story::new(no_delay());
    story.hold_appends = true;
    story.commit(commit("", -1, 1));
    story.commit(commit("", -1, 2));
    story.held.make_contiguous().reverse();
    story.release(Ok(()));
    assert_eq!(story.committed("t", 0), 2);
}

#[test]
fn who_may_commit_depends_on_the_group() {
    let mut story = Story::new(no_delay());
    let errors = |story: &mut Story, request: OffsetCommitRequest| {
        let token = story.commit(request);
        story.commit_errors(token).remove(0)
    };
    assert_eq!(errors(&mut story, commit("a", 3, 1)), ErrorCode::IllegalGeneration, "there is no such group");
    let generation = story.stable(&["a"]);
    assert_eq!(errors(&mut story, commit("", -1, 1)), ErrorCode::UnknownMemberId, "the group has members");
    assert_eq!(errors(&mut story, commit("ghost", generation, 1)), ErrorCode::UnknownMemberId);
    assert_eq!(errors(&mut story, commit("a", generation - 1, 1)), ErrorCode::IllegalGeneration);
    assert_eq!(errors(&mut story, commit("a", -1, 1)), ErrorCode::IllegalGeneration);
    assert_eq!(errors(&mut story, commit("a", generation, 1)), ErrorCode::None);
    story.join(join("", "b"));
    assert_eq!(errors(&mut story, commit("a", generation, 2)), ErrorCode::None, "before rejoining");
    story.join(join("a", "unused"));
    assert_eq!(errors(&mut story, commit("a", generation, 3)), ErrorCode::IllegalGeneration);
    assert_eq!(errors(&mut story, commit("a", generation + 1, 3)), ErrorCode::RebalanceInProgress);
    assert_eq!(story.committed("t", 0), 2);
    story.leave(&[("a", None), ("b", None)]);
    assert_eq!(errors(&mut story, commit("a", generation + 1, 4)), ErrorCode::UnknownMemberId);
    assert_eq!(errors(&mut story, commit("", -1, 4)), ErrorCode::None, "an administrator resets an empty group");
}

#[test]
fn a_commit_keeps_the_member_alive() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a"]);
    for offset in 0..5 {
        story.pass(9_000);
        story.commit(commit("a", generation, offset));
    }
    assert_eq!(story.heartbeat("a", generation), ErrorCode::None);
}

#[test]
fn only_the_partition_with_too_long_metadata_is_refused() {
    let mut story = Story::new(no_delay());
    let mut request = commit("", -1, 1);
    let mut second = request.topics[0].partitions[0].clone();
    second.partition = PartitionIndex(1);
    second.metadata = Some("\u{e9}".repeat(4_097));
    request.topics[0].partitions.push(second.clone());
    second.partition = PartitionIndex(2);
    second.metadata = Some("\u{e9}".repeat(4_096));
    request.topics[0].partitions.push(second);
    let token = story.commit(request);
    let errors = story.commit_errors(token);
    assert_eq!(errors, [ErrorCode::None, ErrorCode::OffsetMetadataTooLarge, ErrorCode::None]);
    assert_eq!([0, 1, 2].map(|partition| story.committed("t", partition)), [1, -1, 1]);
}

#[test]
fn offsets_of_a_simple_group_expire_by_their_own_age_and_the_group_with_them() {
    let mut story = Story::new(no_delay());
    story.commit(commit("", -1, 42));
    story.pass(WEEK_MS - 600_000);
    assert_eq!(story.committed("t", 0), 42);
    story.pass(1_200_000);
    assert!(!story.describe("g").found);
    let reloaded = Story::from_log(no_delay(), story.log);
    assert!(!reloaded.describe("g").found, "tombstones are in the log");
}

#[test]
fn offsets_of_a_group_with_members_expire_a_week_after_the_last_one_left() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a"]);
    story.commit(commit("a", generation, 42));
    for _ in 0..(2 * WEEK_MS / 8_000_000) {
        // Alive all the time, by rare but timely heartbeats in fast motion.
        let end = story.now.mono_ms + 8_000_000;
        story.coordinator.groups.get_mut("g").unwrap().members.get_mut("a").unwrap().deadline = end + 1;
        story.pass(8_000_000);
    }
    assert_eq!(story.committed("t", 0), 42);
    story.leave(&[("a", None)]);
    story.pass(WEEK_MS - 600_000);
    assert_eq!(story.committed("t", 0), 42);
    story.pass(1_200_000);
    assert!(!story.describe("g").found);
    assert!(!Story::from_log(no_delay(), story.log).describe("g").found);
}

#[test]
fn a_commit_with_its_own_retention_expires_by_that() {
    let mut story = Story::new(no_delay());
    story.commit(OffsetCommitRequest { retention_time_ms: Some(3_600_000), ..commit("", -1, 42) });
    let mut story = Story::from_log(no_delay(), story.log);
    story.pass(3_000_000);
    assert_eq!(story.committed("t", 0), 42);
    story.pass(1_800_000);
    assert_eq!(story.committed("t", 0), -1);
}

/// A stable group of one consumer that reads topic `t`.
fn consumer_of_t() -> Story {
    let mut story = Story::new(no_delay());
    let subscription = Bytes::from_static(b"\x00\x01\x00\x00\x00\x01\x00\x01t\xff\xff\xff\xff\x00\x00\x00\x00");
    let protocols = vec![JoinGroupProtocol { name: "range".into(), metadata: subscription }];
    let token = story.join(JoinGroupRequest { protocol_type: "consumer".into(), protocols, ..join("", "a") });
    story.joined(token);
    story.sync("a", 1, &[("a", "0")]);
    story.commit(commit("a", 1, 42));
    let mut other = commit("a", 1, 43);
    other.topics[0].name = "other".into();
    story.commit(other);
    story.answers.clear();
    story
}

fn delete(story: &mut Story, topics: &[&str]) -> OffsetDeleteResponse {
    let token = story.token();
    let topic = |name: &&str| TopicPartitions { name: (*name).into(), partitions: vec![PartitionIndex(0)] };
    let request = OffsetDeleteRequest { group_id: "g".into(), topics: topics.iter().map(topic).collect() };
    let effects = story.coordinator.delete_offsets(story.now, token, request);
    story.take(effects);
    match story.answers.remove(&token) {
        Some(GroupResponse::OffsetDelete(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_of_a_topic_that_is_read_cannot_be_deleted() {
    let mut story = consumer_of_t();
    let response = delete(&mut story, &["t", "other", "unknown"]);
    let errors: Vec<ErrorCode> = response.topics.iter().map(|topic| topic.partitions[0].error).collect();
    assert_eq!(errors, [ErrorCode::GroupSubscribedToTopic, ErrorCode::None, ErrorCode::None]);
    assert_eq!((story.committed("t", 0), story.committed("other", 0)), (42, -1));
    let reloaded = Story::from_log(no_delay(), story.log.clone());
    assert_eq!((reloaded.committed("t", 0), reloaded.committed("other", 0)), (42, -1));
    story.leave(&[("a", None)]);
    assert_eq!(delete(&mut story, &["t"]).error, ErrorCode::None);
    assert_eq!(story.committed("t", 0), -1);
}

#[test]
fn offsets_of_a_group_of_another_kind_can_be_deleted_only_when_it_is_empty() {
    let mut story = Story::new(no_delay());
    assert_eq!(delete(&mut story, &["t"]).error, ErrorCode::GroupIdNotFound);
    story.stable(&["a"]);
    assert_eq!(delete(&mut story, &["t"]).error, ErrorCode::NonEmptyGroup);
}

#[test]
fn a_stable_group_loses_only_what_it_no_longer_reads() {
    let mut story = consumer_of_t();
    story.now.wall_ms += i64::try_from(WEEK_MS).unwrap() + 1;
    story.coordinator.groups.get_mut("g").unwrap().members.get_mut("a").unwrap().deadline = u64::MAX;
    story.pass(600_000);
    assert_eq!((story.committed("t", 0), story.committed("other", 0)), (42, -1));
}

#[test]
fn nothing_expires_while_the_group_rebalances() {
    let mut story = consumer_of_t();
    let slow = |member: &str, fresh: &str| JoinGroupRequest {
        rebalance_timeout_ms: 3_600_000,
        protocol_type: "consumer".into(),
        ..join(member, fresh)
    };
    story.join(slow("", "b"));
    assert_eq!(story.state(), Some(GroupState::PreparingRebalance));
    story.now.wall_ms += i64::try_from(WEEK_MS).unwrap() + 1;
    let effects = story.coordinator.tick(Now { mono_ms: story.now.mono_ms + 5_000, ..story.now });
    assert_eq!(effects, []);
    story.coordinator.groups.get_mut("g").unwrap().members.get_mut("a").unwrap().deadline = u64::MAX;
    story.coordinator.groups.get_mut("g").unwrap().members.get_mut("b").unwrap().deadline = u64::MAX;
    story.pass(700_000);
    assert_eq!((story.committed("t", 0), story.committed("other", 0)), (42, 43));
}

fn delete_answer(story: &mut Story, token: u32) -> Vec<(String, ErrorCode)> {
    match story.answers.remove(&token) {
        Some(GroupResponse::DeleteGroups(response)) => response.results,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_an_empty_group_can_be_deleted_and_then_it_is_gone_for_good() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a"]);
    story.commit(commit("a", generation, 42));
    let token = story.delete_groups(&["g", "nobody", "g"]);
    let expected = [("g".to_owned(), ErrorCode::NonEmptyGroup), ("nobody".to_owned(), ErrorCode::GroupIdNotFound)];
    assert_eq!(delete_answer(&mut story, token), expected);
    story.leave(&[("a", None)]);
    story.hold_appends = true;
    let token = story.delete_groups(&["g"]);
    assert!(story.is_parked(token));
    assert_eq!(story.state(), Some(GroupState::Dead));
    let meanwhile = story.join(join("", "b"));
    assert_eq!(story.joined(meanwhile).error, ErrorCode::CoordinatorNotAvailable);
    story.release(Ok(()));
    assert_eq!(delete_answer(&mut story, token), [("g".to_owned(), ErrorCode::None)]);
    assert!(!story.describe("g").found);
    assert_eq!(story.committed("t", 0), -1);
    assert!(!Story::from_log(no_delay(), story.log).describe("g").found);
}

#[test]
fn a_group_survives_a_failed_deletion() {
    let mut story = Story::new(no_delay());
    story.commit(commit("", -1, 42));
    story.hold_appends = true;
    let token = story.delete_groups(&["g"]);
    story.release(Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(delete_answer(&mut story, token), [("g".to_owned(), ErrorCode::CoordinatorNotAvailable)]);
    assert_eq!((story.state(), story.committed("t", 0)), (Some(GroupState::Empty), 42));
}

#[test]
fn a_commit_under_way_does_not_survive_the_deletion_of_its_group() {
    let mut story = Story::new(no_delay());
    story.hold_appends = true;
    story.commit(commit("", -1, 42));
    story.delete_groups(&["g"]);
    story.release(Ok(()));
    assert!(!story.describe("g").found);
    assert!(!Story::from_log(no_delay(), story.log).describe("g").found);
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut story = Story::new(no_delay());
    story.stable(&["a"]);
    story.commit(OffsetCommitRequest { group_id: "simple".into(), ..commit("", -1, 1) });
    let list = |states: &[&str], types: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = ListGroupsRequest { states_filter: owned(states), types_filter: owned(types) };
        let groups = story.coordinator.list_groups(&request).groups;
        groups.into_iter().map(|group| (group.group_id, group.protocol_type)).collect::<Vec<_>>()
    };
    let g = ("g".to_owned(), "test".to_owned());
    let simple = ("simple".to_owned(), String::new());
    assert_eq!(list(&[], &[]), [g.clone(), simple.clone()]);
    assert_eq!(list(&["stable"], &["Classic"]), [g]);
    assert_eq!(list(&["Empty"], &[]), [simple]);
    assert_eq!(list(&[], &["consumer"]), []);
}

#[test]
fn a_group_nobody_knows_is_described_as_dead() {
    let story = Story::new(no_delay());
    let described = story.describe("nobody");
    assert_eq!((described.error, described.state, described.found), (ErrorCode::None, Some(GroupState::Dead), false));
}

#[test]
fn the_offsets_of_a_deleted_topic_go_whoever_reads_it_and_do_not_come_back() {
    let mut story = Story::new(no_delay());
    let generation = story.stable(&["a"]);
    let mut request = commit("a", generation, 42);
    let mut other = request.topics[0].clone();
    other.name = TopicName::from("kept");
    request.topics.push(other);
    story.commit(request);
    assert_eq!((story.committed("t", 0), story.committed("kept", 0)), (42, 42));
    assert_eq!(story.coordinator.committed_topics(), [TopicName::from("kept"), TopicName::from("t")].into());

    // One more commit is under way when the topic goes.
    story.hold_appends = true;
    let token = story.commit(commit("a", generation, 43));
    let effects = story.coordinator.topic_deleted(story.now, &[TopicName::from("t")]);
    assert!(matches!(&effects[..], [Effect::Append { records, .. }] if records.len() == 1), "{effects:?}");
    story.take(effects);
    assert_eq!(story.committed("t", 0), -1, "gone at once");
    story.release(Ok(()));
    assert_eq!(story.commit_errors(token), [ErrorCode::None]);
    assert_eq!((story.committed("t", 0), story.committed("kept", 0)), (-1, 42));

    let again = Story::from_log(no_delay(), std::mem::take(&mut story.log));
    assert_eq!((again.committed("t", 0), again.committed("kept", 0)), (-1, 42), "the log says so too");
    assert_eq!(story.coordinator.topic_deleted(story.now, &[TopicName::from("t")]), [], "nothing is left to drop");
}

#[test]
fn a_failed_tombstone_does_not_bring_the_offsets_of_a_deleted_topic_back() {
    let mut story = Story::new(no_delay());
    story.hold_appends = true;
    story.commit(commit("", -1, 42));
    story.release(Ok(()));
    let effects = story.coordinator.topic_deleted(story.now, &[TopicName::from("t")]);
    story.take(effects);
    story.release(Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(story.committed("t", 0), -1);
}
