//! Stories of the coordinator, one per rule, and the harness that tells them.

mod joining;
mod loading;
mod offsets;
mod random;
mod rebalancing;
mod record_format;
mod static_members;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName};

use super::*;

/// A coordinator with its log and its clients. Appends succeed at once unless `hold_appends`.
struct Story {
    coordinator: GroupCoordinator<u32>,
    now: Now,
    next_token: u32,
    log: Vec<OffsetsRecord>,
    answers: BTreeMap<u32, GroupResponse>,
    held: VecDeque<(Ticket, Vec<OffsetsRecord>)>,
    hold_appends: bool,
}

fn no_delay() -> GroupConfig {
    GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() }
}

impl Story {
    fn new(config: GroupConfig) -> Self {
        Self::from_log(config, Vec::new())
    }

    fn from_log(config: GroupConfig, log: Vec<OffsetsRecord>) -> Self {
        let mut coordinator = GroupCoordinator::new(config);
        for record in &log {
            coordinator.load_record(&record.key, record.value.as_deref()).unwrap();
        }
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let mut story = Self {
            coordinator,
            now,
            next_token: 0,
            log,
            answers: BTreeMap::new(),
            held: VecDeque::new(),
            hold_appends: false,
        };
        let effects = story.coordinator.finish_load(now);
        story.take(effects);
        story
    }

    fn take(&mut self, effects: Vec<Effect<u32>>) {
        for effect in effects {
            match effect {
                Effect::Reply { token, response } => {
                    assert!(token <= self.next_token, "token {token} was never given");
                    assert_eq!(self.answers.insert(token, response), None, "token {token} answered twice");
                }
                Effect::Append { ticket, records } => {
                    assert!(!records.is_empty());
                    self.held.push_back((ticket, records));
                }
            }
        }
        if !self.hold_appends {
            self.release(Ok(()));
        }
    }

    /// Finishes the appends held so far, in order.
    fn release(&mut self, result: Result<(), ErrorCode>) {
        while let Some((ticket, records)) = self.held.pop_front() {
            if result.is_ok() {
                self.log.extend(records);
            }
            let effects = self.coordinator.append_done(self.now, ticket, result);
            self.take(effects);
        }
    }

    fn token(&mut self) -> u32 {
        self.next_token += 1;
        self.next_token
    }

    fn join(&mut self, request: JoinGroupRequest) -> u32 {
        let token = self.token();
        let effects = self.coordinator.join(self.now, token, request);
        self.take(effects);
        token
    }

    fn sync(&mut self, member: &str, generation: i32, assignments: &[(&str, &str)]) -> u32 {
        let token = self.token();
        let assignments = assignments.iter().map(|(id, part)| ((*id).to_owned(), bytes(part))).collect();
        let request = SyncGroupRequest { assignments, ..sync(member, generation) };
        let effects = self.coordinator.sync(self.now, token, request);
        self.take(effects);
        token
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> ErrorCode {
        self.coordinator.heartbeat(self.now, &heartbeat(member, generation))
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let token = self.token();
        let member = |(id, instance): &(&str, Option<&str>)| LeaveMember {
            member_id: (*id).to_owned(),
            group_instance_id: instance.map(str::to_owned),
        };
        let request = LeaveGroupRequest { group_id: "g".into(), members: members.iter().map(member).collect() };
        let effects = self.coordinator.leave(self.now, token, request);
        self.take(effects);
        match self.answers.remove(&token) {
            Some(GroupResponse::Leave(response)) => response.members.into_iter().map(|member| member.error).collect(),
            other => panic!("leave answered {other:?}"),
        }
    }

    fn commit(&mut self, request: OffsetCommitRequest) -> u32 {
        let token = self.token();
        let effects = self.coordinator.commit_offsets(self.now, token, request);
        self.take(effects);
        token
    }

    fn committed(&self, topic: &str, partition: i32) -> i64 {
        self.fetched(topic, partition).offset.0
    }

    fn fetched(&self, topic: &str, partition: i32) -> OffsetFetchPartitionResponse {
        let topics = Some(vec![TopicPartitions { name: topic.into(), partitions: vec![PartitionIndex(partition)] }]);
        let request = OffsetFetchRequest { group_id: "g".into(), topics };
        let mut response = self.coordinator.fetch_offsets(&request);
        assert_eq!(response.error, ErrorCode::None);
        response.topics.remove(0).partitions.remove(0)
    }

    fn delete_groups(&mut self, ids: &[&str]) -> u32 {
        let token = self.token();
        let request = DeleteGroupsRequest { group_ids: ids.iter().map(|id| (*id).to_owned()).collect() };
        let effects = self.coordinator.delete_groups(self.now, token, request);
        self.take(effects);
        token
    }

    /// Lets time pass, obeying every deadline on the way.
    fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while let Some(deadline) = self.coordinator.next_deadline().filter(|deadline| *deadline <= end) {
            self.set_time(deadline.max(self.now.mono_ms));
            let effects = self.coordinator.tick(self.now);
            self.take(effects);
        }
        self.set_time(end);
    }

    fn set_time(&mut self, mono_ms: u64) {
        self.now.wall_ms += i64::try_from(mono_ms - self.now.mono_ms).unwrap();
        self.now.mono_ms = mono_ms;
    }

    fn is_parked(&self, token: u32) -> bool {
        !self.answers.contains_key(&token)
    }

    fn joined(&mut self, token: u32) -> JoinGroupResponse {
        match self.answers.remove(&token) {
            Some(GroupResponse::Join(response)) => response,
            other => panic!("join answered {other:?}"),
        }
    }

    fn synced(&mut self, token: u32) -> SyncGroupResponse {
        match self.answers.remove(&token) {
            Some(GroupResponse::Sync(response)) => response,
            other => panic!("sync answered {other:?}"),
        }
    }

    fn commit_errors(&mut self, token: u32) -> Vec<ErrorCode> {
        match self.answers.remove(&token) {
            Some(GroupResponse::OffsetCommit(topics)) => {
                topics.into_iter().flat_map(|topic| topic.partitions).map(|partition| partition.error).collect()
            }
            other => panic!("commit answered {other:?}"),
        }
    }

    fn describe(&self, group: &str) -> DescribedGroup {
        self.coordinator.describe_groups(&[group.to_owned()]).remove(0)
    }

    fn state(&self) -> Option<GroupState> {
        self.describe("g").state
    }

    /// Brings the members in one after another and makes the group stable, each member with its own id as assignment.
    fn stable(&mut self, members: &[&str]) -> i32 {
        let mut waiting: Vec<u32> = Vec::new();
        for member in members {
            waiting.push(self.join(join("", member)));
            // Those who are in rejoin for the newcomer.
            for earlier in members.iter().take_while(|earlier| *earlier != member) {
                waiting.push(self.join(join(earlier, "unused")));
            }
        }
        let generation = waiting.into_iter().map(|token| self.joined(token)).map(|joined| joined.generation_id).max();
        let generation = generation.unwrap();
        let leader = members[0];
        let assignments: Vec<(&str, &str)> = members.iter().map(|member| (*member, *member)).collect();
        for member in members.iter().rev() {
            let given = if *member == leader { assignments.as_slice() } else { &[] };
            let token = self.sync(member, generation, given);
            if *member == leader {
                assert_eq!(self.synced(token).assignment, bytes(leader));
            }
        }
        self.answers.clear();
        assert_eq!(self.state(), Some(GroupState::Stable));
        generation
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn protocol(name: &str, metadata: &str) -> JoinGroupProtocol {
    JoinGroupProtocol { name: name.to_owned(), metadata: bytes(metadata) }
}

/// A join of group `g`, version 3 style; a new member gets the id `fresh`.
fn join(member: &str, fresh: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.into(),
        group_instance_id: None,
        protocol_type: "test".into(),
        protocols: vec![protocol("range", "m")],
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        require_known_member_id: false,
        supports_skipping_assignment: false,
        fresh_member_id: fresh.into(),
    }
}

fn static_join(instance: &str, fresh: &str) -> JoinGroupRequest {
    JoinGroupRequest { group_instance_id: Some(instance.into()), ..join("", fresh) }
}

fn sync(member: &str, generation: i32) -> SyncGroupRequest {
    SyncGroupRequest {
        group_id: "g".into(),
        generation_id: generation,
        member_id: member.into(),
        group_instance_id: None,
        protocol_type: None,
        protocol_name: None,
        assignments: Vec::new(),
    }
}

fn heartbeat(member: &str, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: "g".into(),
        generation_id: generation,
        member_id: member.into(),
        group_instance_id: None,
    }
}

fn commit(member: &str, generation: i32, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitPartition {
        partition: PartitionIndex(0),
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(7),
        metadata: Some("note".into()),
    };
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id: generation,
        member_id: member.into(),
        group_instance_id: None,
        retention_time_ms: None,
        topics: vec![OffsetCommitTopic { name: TopicName::from("t"), partitions: vec![partition] }],
    }
}

#[test]
fn a_group_lives_where_javas_string_hash_puts_it() {
    // "consumer-group".hashCode() etc. as Java computes them, among them the famous collision and Integer.MIN_VALUE.
    assert_eq!(partition_for("", 50), Some(0));
    assert_eq!(partition_for("a", 50), Some(97 % 50));
    assert_eq!(partition_for("Aa", 1_000_000), Some(2112));
    assert_eq!(partition_for("BB", 1_000_000), Some(2112));
    assert_eq!(partition_for("polygenelubricants", 50), Some(0), "hash is Integer.MIN_VALUE");
    // One character outside the basic plane is two UTF-16 units: 0xd83d * 31 + 0xde00.
    assert_eq!(partition_for("\u{1f600}", i32::MAX), Some(0xd83d * 31 + 0xde00));
    assert_eq!(partition_for("a", 0), None);
}
