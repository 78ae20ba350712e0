//! A member of a group: finds its coordinator, joins, syncs, reads what it was assigned, commits, leaves.
//!
//! Each try to join has a number; what belongs to an earlier one is ignored when it is answered. A member that hears of a
//! rebalance gives its partitions back before it joins again (the eager protocol), so that two members of one generation
//! never own a partition together by the client's own fault.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_core::group::{
    GroupResponse, HeartbeatRequest, JoinGroupProtocol, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveMember, OffsetCommitPartition, OffsetCommitRequest, OffsetCommitTopic, OffsetFetchRequest, SyncGroupRequest,
    TopicPartitions,
};
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicName, TopicPartition};

use super::MemberConfig;
use super::conn::{Conn, Heard, Outcome, ROLE};
use super::reader::{ReadTag, Reader};
use crate::kernel::{Ctx, Micros, Timer};
use crate::oracle::history::History;
use crate::proto::{ClientReply, ClientRequest, Packet};

/// Do the next step of joining.
const STEP: u16 = ROLE;
const HEARTBEAT: u16 = ROLE + 1;
const COMMIT: u16 = ROLE + 2;
const LEAVE: u16 = ROLE + 3;
const TIMEOUT_MS: u64 = 2_000;

#[derive(Debug)]
pub(super) enum Tag {
    Find,
    Join(u64),
    Sync(u64),
    Offsets(u64, Micros),
    Heartbeat(u64),
    Commit(u64, u64),
    Leave,
    Read(ReadTag),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Wants to join.
    Out,
    Joining,
    Syncing,
    /// Assigned; asks for the committed offsets.
    Assigned,
    Stable,
    /// Said goodbye and waits before it comes back, or for ever.
    Gone,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Member {
    config: MemberConfig,
    pub(super) conn: Conn<Tag>,
    reader: Reader,
    state: State,
    /// Number of the try to join.
    round: u64,
    coordinator: Option<NodeId>,
    finding: bool,
    member_id: String,
    generation: i32,
    assigned: Vec<TopicPartition>,
    /// As leader of the group: the partitions that were handed out.
    handed_out: Option<Vec<TopicPartition>>,
    committed: BTreeMap<TopicPartition, Offset>,
    fresh: u64,
    heartbeat_open: bool,
    commit_open: bool,
    stopped: bool,
    farewell: bool,
}

impl Member {
    pub(super) fn new(config: MemberConfig, id: u32, brokers: &[NodeId]) -> Self {
        Self {
            config,
            conn: Conn::new(id, brokers),
            reader: Reader::new(500, false),
            state: State::Out,
            round: 0,
            coordinator: None,
            finding: false,
            member_id: String::new(),
            generation: -1,
            assigned: Vec::new(),
            handed_out: None,
            committed: BTreeMap::new(),
            fresh: 0,
            heartbeat_open: false,
            commit_open: false,
            stopped: false,
            farewell: false,
        }
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stopped && (self.state == State::Gone || self.farewell)
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "member c{} of {}: {:?} generation {} [{}]",
            self.conn.id(),
            self.config.group,
            self.state,
            self.generation,
            self.reader.describe()
        )
    }

    pub(super) fn on_packet(&mut self, ctx: &mut Ctx<'_>, _from: NodeId, packet: Packet, history: &mut History) {
        let heard = self.conn.on_packet(ctx, packet);
        self.heard(ctx, heard, history);
    }

    pub(super) fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer, history: &mut History) {
        match timer.kind {
            STEP => self.step(ctx),
            HEARTBEAT => self.heartbeat(ctx),
            COMMIT => {
                ctx.timer(self.config.commit_ms.max(1), Timer { kind: COMMIT, key: 0 });
                self.commit(ctx, history);
                self.consider_end(ctx);
            }
            LEAVE => self.leave(ctx, true),
            kind => {
                let heard = self.conn.on_timer(ctx, timer);
                if kind == 0 {
                    self.begin(ctx);
                }
                self.heard(ctx, heard, history);
            }
        }
        self.read(ctx);
    }

    fn begin(&mut self, ctx: &mut Ctx<'_>) {
        ctx.timer(self.config.heartbeat_ms.max(1), Timer { kind: HEARTBEAT, key: 0 });
        ctx.timer(self.config.commit_ms.max(1), Timer { kind: COMMIT, key: 0 });
        self.leave_later(ctx);
        self.step(ctx);
    }

    fn leave_later(&mut self, ctx: &mut Ctx<'_>) {
        let every = self.config.leave_every_ms;
        if every > 0 {
            let wait = every / 2 + ctx.kernel.streams.workload.below(every) + 1;
            ctx.timer(wait, Timer { kind: LEAVE, key: 0 });
        }
    }

    fn read(&mut self, ctx: &mut Ctx<'_>) {
        if self.state == State::Stable {
            self.reader.stopped = self.stopped;
            self.reader.pump(ctx, &mut self.conn, Tag::Read);
        }
    }

    fn heard(&mut self, ctx: &mut Ctx<'_>, heard: Heard<Tag>, history: &mut History) {
        let (tag, from, end) = match heard {
            Heard::End(tag, from, end) => (tag, from, end),
            Heard::Metadata => return self.partitions_may_differ(ctx),
            Heard::Nothing => return,
        };
        match tag {
            Tag::Find => {
                self.finding = false;
                if let Outcome::Reply(ClientReply::Coordinator(Ok(node))) = end {
                    self.coordinator = Some(node);
                    self.step(ctx);
                } else {
                    self.step_later(ctx);
                }
            }
            Tag::Join(round) if round == self.round && self.state == State::Joining => self.on_join(ctx, from, end),
            Tag::Sync(round) if round == self.round && self.state == State::Syncing => {
                self.on_sync(ctx, from, end, history);
            }
            Tag::Offsets(round, asked) if round == self.round && self.state == State::Assigned => {
                self.on_offsets(ctx, from, end, asked, history);
            }
            Tag::Heartbeat(round) => {
                self.heartbeat_open = false;
                if round == self.round && matches!(self.state, State::Stable | State::Assigned) {
                    let error = error_of(&end);
                    self.on_error(ctx, from, error);
                }
            }
            Tag::Commit(round, number) => {
                self.commit_open = false;
                let error = self.on_commit(ctx, number, &end, history);
                if round == self.round && self.state == State::Stable {
                    self.on_error(ctx, from, error);
                }
                self.consider_end(ctx);
            }
            Tag::Read(tag) => self.reader.on_end(ctx, &mut self.conn, &tag, end, history),
            Tag::Join(_) | Tag::Sync(_) | Tag::Offsets(..) | Tag::Leave => {}
        }
        self.read(ctx);
    }

    fn step_later(&mut self, ctx: &mut Ctx<'_>) {
        let wait = 50 + ctx.kernel.streams.workload.below(200);
        ctx.timer(wait, Timer { kind: STEP, key: 0 });
    }

    /// The next step on the way into the group.
    fn step(&mut self, ctx: &mut Ctx<'_>) {
        if self.stopped && !matches!(self.state, State::Stable | State::Assigned) {
            self.state = State::Gone;
            return;
        }
        let Some(coordinator) = self.coordinator else { return self.find(ctx) };
        match self.state {
            State::Out => self.join(ctx, coordinator),
            State::Assigned => self.ask_offsets(ctx, coordinator),
            State::Joining | State::Syncing | State::Stable | State::Gone => {}
        }
    }

    fn find(&mut self, ctx: &mut Ctx<'_>) {
        if self.finding {
            return;
        }
        self.finding = true;
        let broker = self.conn.any_broker(ctx);
        let body = ClientRequest::FindCoordinator(self.config.group.clone());
        self.conn.ask(ctx, broker, body, TIMEOUT_MS, Tag::Find);
    }

    /// A leader whose topics have other partitions than it handed out makes the group rebalance.
    fn partitions_may_differ(&mut self, ctx: &mut Ctx<'_>) {
        let now = self.conn.partitions(&self.config.topics);
        let differ = self.handed_out.as_ref().is_some_and(|then| *then != now);
        if differ && self.state == State::Stable && !self.stopped {
            self.rejoin(ctx);
        }
    }

    fn join(&mut self, ctx: &mut Ctx<'_>, coordinator: NodeId) {
        if self.config.topics.iter().any(|topic| self.conn.topic_id(topic).is_none()) {
            self.conn.want_metadata(ctx);
            return self.step_later(ctx);
        }
        self.handed_out = None;
        self.round += 1;
        self.fresh += 1;
        self.state = State::Joining;
        let id = self.conn.id();
        let text: Vec<&str> = self.config.topics.iter().map(TopicName::as_str).collect();
        let request = JoinGroupRequest {
            group_id: self.config.group.clone(),
            session_timeout_ms: self.config.session_timeout_ms,
            rebalance_timeout_ms: self.config.session_timeout_ms,
            member_id: self.member_id.clone(),
            group_instance_id: None,
            protocol_type: "consumer".to_owned(),
            protocols: vec![JoinGroupProtocol { name: "range".to_owned(), metadata: Bytes::from(text.join("\n")) }],
            client_id: format!("c{id}"),
            client_host: format!("/c{id}"),
            require_known_member_id: true,
            supports_skipping_assignment: true,
            fresh_member_id: format!("c{id}-{}", self.fresh),
        };
        // The coordinator answers when everybody is there, at the latest after the rebalance timeout.
        let timeout = u64::try_from(self.config.session_timeout_ms).unwrap_or(10_000) + 3_000;
        self.conn.ask(ctx, coordinator, ClientRequest::JoinGroup(request), timeout, Tag::Join(self.round));
    }

    fn on_join(&mut self, ctx: &mut Ctx<'_>, from: NodeId, end: Outcome) {
        self.state = State::Out;
        let Outcome::Reply(ClientReply::Group(GroupResponse::Join(answer))) = end else {
            let error = error_of(&end);
            self.on_error(ctx, from, error);
            return self.step_later(ctx);
        };
        match answer.error {
            ErrorCode::None => {
                self.member_id.clone_from(&answer.member_id);
                self.generation = answer.generation_id;
                self.sync(ctx, from, &answer);
            }
            ErrorCode::MemberIdRequired => {
                self.member_id = answer.member_id;
                self.step(ctx);
            }
            error => {
                self.on_error(ctx, from, error);
                self.step_later(ctx);
            }
        }
    }

    fn sync(&mut self, ctx: &mut Ctx<'_>, coordinator: NodeId, joined: &JoinGroupResponse) {
        self.state = State::Syncing;
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id && !joined.skip_assignment {
            let members: Vec<&String> = joined.members.iter().map(|member| &member.member_id).collect();
            let partitions = self.conn.partitions(&self.config.topics);
            assignments = assign_range(&members, &partitions);
            self.handed_out = Some(partitions);
        }
        let request = SyncGroupRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: None,
            protocol_type: Some("consumer".to_owned()),
            protocol_name: Some("range".to_owned()),
            assignments,
        };
        let timeout = u64::try_from(self.config.session_timeout_ms).unwrap_or(10_000) + 3_000;
        self.conn.ask(ctx, coordinator, ClientRequest::SyncGroup(request), timeout, Tag::Sync(self.round));
    }

    fn on_sync(&mut self, ctx: &mut Ctx<'_>, from: NodeId, end: Outcome, history: &mut History) {
        self.state = State::Out;
        let Outcome::Reply(ClientReply::Group(GroupResponse::Sync(answer))) = end else {
            let error = error_of(&end);
            self.on_error(ctx, from, error);
            return self.step_later(ctx);
        };
        if !answer.error.is_none() {
            self.on_error(ctx, from, answer.error);
            return self.step_later(ctx);
        }
        self.assigned = read_assignment(&answer.assignment);
        let group = &self.config.group;
        history.groups.synced(group, self.generation, &self.member_id, &self.assigned, ctx.kernel.now);
        ctx.note(|| {
            let owned: Vec<String> = self.assigned.iter().map(ToString::to_string).collect();
            format!("generation {} of {group}: owns [{}]", self.generation, owned.join(" "))
        });
        self.state = State::Assigned;
        self.step(ctx);
    }

    fn ask_offsets(&mut self, ctx: &mut Ctx<'_>, coordinator: NodeId) {
        let mut topics: Vec<TopicPartitions> = Vec::new();
        for tp in &self.assigned {
            match topics.last_mut().filter(|topic| topic.name == tp.topic) {
                Some(topic) => topic.partitions.push(tp.partition),
                None => topics.push(TopicPartitions { name: tp.topic.clone(), partitions: vec![tp.partition] }),
            }
        }
        let request = OffsetFetchRequest { group_id: self.config.group.clone(), topics: Some(topics) };
        let tag = Tag::Offsets(self.round, ctx.kernel.now);
        self.conn.ask(ctx, coordinator, ClientRequest::OffsetFetch(request), TIMEOUT_MS, tag);
    }

    fn on_offsets(&mut self, ctx: &mut Ctx<'_>, from: NodeId, end: Outcome, asked: Micros, history: &mut History) {
        let Outcome::Reply(ClientReply::Offsets(answer)) = end else {
            let error = error_of(&end);
            self.on_error(ctx, from, error);
            return self.step_later(ctx);
        };
        if !answer.error.is_none() {
            self.on_error(ctx, from, answer.error);
            return self.step_later(ctx);
        }
        let mut from_where = Vec::new();
        self.committed.clear();
        for topic in &answer.topics {
            for partition in &topic.partitions {
                let tp = TopicPartition::new(topic.name.clone(), partition.partition);
                history.groups.fetched(&self.config.group, &tp, partition.offset, asked, ctx.kernel.now);
                let known = (partition.offset >= Offset(0)).then_some((partition.offset, partition.leader_epoch));
                if let Some((offset, _)) = known {
                    self.committed.insert(tp.clone(), offset);
                }
                from_where.push((tp, known));
            }
        }
        self.reader.assign(from_where);
        self.state = State::Stable;
    }

    fn heartbeat(&mut self, ctx: &mut Ctx<'_>) {
        ctx.timer(self.config.heartbeat_ms.max(1), Timer { kind: HEARTBEAT, key: 0 });
        self.conn.keep_fresh(ctx);
        if !matches!(self.state, State::Stable | State::Assigned) || self.heartbeat_open {
            return;
        }
        let Some(coordinator) = self.coordinator else { return self.find(ctx) };
        self.heartbeat_open = true;
        let request = HeartbeatRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: None,
        };
        let body = ClientRequest::GroupHeartbeat(request);
        self.conn.ask(ctx, coordinator, body, TIMEOUT_MS, Tag::Heartbeat(self.round));
    }

    fn commit(&mut self, ctx: &mut Ctx<'_>, history: &mut History) {
        if self.state != State::Stable || self.commit_open {
            return;
        }
        let Some(coordinator) = self.coordinator else { return self.find(ctx) };
        let moved: Vec<(TopicPartition, Offset, LeaderEpoch)> = self
            .reader
            .positions()
            .filter(|(tp, offset, _)| self.committed.get(*tp) != Some(offset))
            .map(|(tp, offset, epoch)| (tp.clone(), offset, epoch))
            .collect();
        if moved.is_empty() {
            return;
        }
        let mut topics: Vec<OffsetCommitTopic> = Vec::new();
        for (tp, offset, leader_epoch) in &moved {
            let partition = OffsetCommitPartition {
                partition: tp.partition,
                offset: *offset,
                leader_epoch: *leader_epoch,
                metadata: None,
            };
            match topics.last_mut().filter(|topic| topic.name == tp.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(OffsetCommitTopic { name: tp.topic.clone(), partitions: vec![partition] }),
            }
        }
        let generation = self.generation - i32::from(self.generation > 1 && ctx.kernel.streams.workload.chance(2)); // who missed a rebalance is refused
        let request = OffsetCommitRequest {
            group_id: self.config.group.clone(),
            generation_id: generation,
            member_id: self.member_id.clone(),
            group_instance_id: None,
            retention_time_ms: None,
            topics,
        };
        let offsets = moved.into_iter().map(|(tp, offset, _)| (tp, offset)).collect();
        let number = history.groups.commit(&self.config.group, self.conn.id(), generation, offsets, ctx.kernel.now);
        self.commit_open = true;
        let tag = Tag::Commit(self.round, number);
        self.conn.ask(ctx, coordinator, ClientRequest::OffsetCommit(request), TIMEOUT_MS, tag);
    }

    /// What the whole commit says about the membership.
    fn on_commit(&mut self, ctx: &mut Ctx<'_>, number: u64, end: &Outcome, history: &mut History) -> ErrorCode {
        let now = ctx.kernel.now;
        let Outcome::Reply(ClientReply::Group(GroupResponse::OffsetCommit(topics))) = end else {
            let error = error_of(end);
            history.groups.committed(number, |_| error, now);
            return error;
        };
        let mut errors: BTreeMap<(&TopicName, PartitionIndex), ErrorCode> = BTreeMap::new();
        for topic in topics {
            for partition in &topic.partitions {
                errors.insert((&topic.name, partition.partition), partition.error);
            }
        }
        let error_of = |tp: &TopicPartition| {
            errors.get(&(&tp.topic, tp.partition)).copied().unwrap_or(ErrorCode::UnknownServerError)
        };
        for (tp, offset) in history.groups.committed(number, error_of, now) {
            self.committed.insert(tp, offset);
        }
        errors.values().copied().find(|error| !error.is_none()).unwrap_or(ErrorCode::None)
    }

    /// What an error says about coordinator and membership.
    fn on_error(&mut self, ctx: &mut Ctx<'_>, from: NodeId, error: ErrorCode) {
        match error {
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::BrokerNotAvailable
            | ErrorCode::RequestTimedOut => {
                if self.coordinator == Some(from) {
                    self.coordinator = None;
                }
                if self.state == State::Stable || self.state == State::Assigned {
                    self.find(ctx);
                }
            }
            ErrorCode::RebalanceInProgress => self.rejoin(ctx),
            ErrorCode::IllegalGeneration => self.rejoin(ctx),
            ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => {
                self.member_id.clear();
                self.rejoin(ctx);
            }
            _ => {}
        }
    }

    /// Gives everything back and joins again.
    fn rejoin(&mut self, ctx: &mut Ctx<'_>) {
        self.reader.assign(Vec::new());
        self.assigned.clear();
        self.generation = -1;
        if self.state != State::Gone {
            self.state = State::Out;
            self.step_later(ctx);
        }
    }

    fn leave(&mut self, ctx: &mut Ctx<'_>, come_back: bool) {
        if come_back {
            if self.stopped {
                return;
            }
            self.leave_later(ctx);
        }
        if let Some(coordinator) = self.coordinator.filter(|_| !self.member_id.is_empty()) {
            let member = LeaveMember { member_id: std::mem::take(&mut self.member_id), group_instance_id: None };
            let request = LeaveGroupRequest { group_id: self.config.group.clone(), members: vec![member] };
            self.conn.ask(ctx, coordinator, ClientRequest::LeaveGroup(request), TIMEOUT_MS, Tag::Leave);
        }
        self.round += 1;
        self.rejoin(ctx);
        if !come_back {
            self.state = State::Gone;
        }
    }

    /// After the stop: one last commit, then goodbye.
    fn consider_end(&mut self, ctx: &mut Ctx<'_>) {
        if !self.stopped || self.farewell || self.commit_open {
            return;
        }
        if self.state == State::Stable || self.state == State::Assigned {
            self.farewell = true;
            self.leave(ctx, false);
        } else {
            self.state = State::Gone;
        }
    }
}

fn error_of(end: &Outcome) -> ErrorCode {
    match end {
        Outcome::Reply(ClientReply::GroupError(error)) => *error,
        Outcome::Reply(_) => ErrorCode::UnknownServerError,
        Outcome::Refused => ErrorCode::BrokerNotAvailable,
        Outcome::TimedOut => ErrorCode::RequestTimedOut,
    }
}

/// Each topic's partitions in contiguous ranges, members in order of their ids.
fn assign_range(members: &[&String], partitions: &[TopicPartition]) -> Vec<(String, Bytes)> {
    let mut members: Vec<&String> = members.to_vec();
    members.sort_unstable();
    let mut by_topic: BTreeMap<&TopicName, Vec<&TopicPartition>> = BTreeMap::new();
    for tp in partitions {
        by_topic.entry(&tp.topic).or_default().push(tp);
    }
    let mut out = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let mut lines = Vec::new();
        for partitions in by_topic.values() {
            let (each, more) = (partitions.len() / members.len(), partitions.len() % members.len());
            let begin = at * each + at.min(more);
            let count = each + usize::from(at < more);
            lines.extend(partitions[begin..begin + count].iter().map(|tp| format!("{} {}", tp.topic, tp.partition)));
        }
        out.push(((*member).clone(), Bytes::from(lines.join("\n"))));
    }
    out
}

fn read_assignment(bytes: &[u8]) -> Vec<TopicPartition> {
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .filter_map(|line| {
            let (topic, partition) = line.split_once(' ')?;
            Some(TopicPartition::new(topic, PartitionIndex(partition.parse().ok()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_assignment_gives_every_partition_to_exactly_one_member() {
        let partitions: Vec<TopicPartition> =
            [("a", 3), ("b", 1)].iter().flat_map(|(t, n)| (0..*n).map(move |p| TopicPartition::new(*t, p))).collect();
        for members in 1..6 {
            let names: Vec<String> = (0..members).map(|n| format!("m{n}")).collect();
            let assigned = assign_range(&names.iter().collect::<Vec<_>>(), &partitions);
            let mut given: Vec<TopicPartition> =
                assigned.iter().flat_map(|(_, bytes)| read_assignment(bytes)).collect();
            given.sort();
            assert_eq!(given, partitions, "{members} members");
        }
    }
}
