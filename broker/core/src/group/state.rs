//! One group and its members: the data, and the questions about it that change nothing but the data itself.
//!
//! The rules that answer requests and move a group from state to state are in `join`, `rebalance`, `membership` and
//! `offsets`; all of them are methods of [`Group`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_model::{ErrorCode, TopicPartition};

use super::config::{GroupConfig, Now};
use super::context::{Cx, GroupRef};
use super::messages::{
    GroupResponse, GroupState, JoinGroupMember, JoinGroupProtocol, JoinGroupResponse, SyncGroupResponse, Ticket,
};
use super::records::{CommittedOffset, GroupMetadata, MemberMetadata, subscribed_topics};

/// The protocol type of ordinary consumers, whose metadata names the topics.
const CONSUMER: &str = "consumer";

/// A member of the group.
#[derive(Debug)]
pub(super) struct Member<T> {
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocols: Vec<JoinGroupProtocol>,
    pub assignment: Bytes,
    /// Its first join has not been answered yet, so it cannot send heartbeats.
    pub is_new: bool,
    /// Its SyncGroup of this generation was seen.
    pub synced: bool,
    /// Its parked JoinGroup.
    pub joining: Option<T>,
    /// Its parked SyncGroup.
    pub syncing: Option<T>,
    /// When its session ends, unless it waits for us.
    pub deadline: u64,
}

impl<T> Member<T> {
    /// A member that waits for an answer cannot send heartbeats, so its session does not end; except a new one, which
    /// may be gone for good without our noticing.
    pub fn session_end(&self) -> Option<u64> {
        let waits = self.joining.is_some() || self.syncing.is_some();
        (self.is_new || !waits).then_some(self.deadline)
    }

    pub fn renew_session(&mut self, now: Now) {
        self.deadline = now.after(millis(self.session_timeout_ms));
    }

    pub fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|known| Some(known.name.as_str()) == protocol);
        found.map(|protocol| protocol.metadata.clone()).unwrap_or_default()
    }
}

/// A committed offset and the append that brought it: a later append is never overwritten by an earlier one.
#[derive(Clone, Debug)]
pub(super) struct StoredOffset {
    pub committed: CommittedOffset,
    pub ticket: Ticket,
}

/// When a rebalance is completed without those who did not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JoinTimer {
    /// All known members are expected; done as soon as they are there.
    Members { deadline: u64 },
    /// The group was empty: waits the whole delay for more members to come, again and again while new ones do.
    Initial { deadline: u64, delay_ms: u64, remaining_ms: u64 },
}

impl JoinTimer {
    pub fn deadline(self) -> u64 {
        match self {
            Self::Members { deadline } | Self::Initial { deadline, .. } => deadline,
        }
    }
}

/// A group.
#[derive(Debug)]
pub(super) struct Group<T> {
    pub id: String,
    pub incarnation: u64,
    pub state: GroupState,
    /// Wall time of the last change of state; unknown for groups that never had members.
    pub state_since_ms: Option<i64>,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub generation: i32,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member<T>>,
    pub static_members: BTreeMap<String, String>,
    /// Member ids that were handed out, and when they lapse.
    pub pending: BTreeMap<String, u64>,
    /// Topics the members read; `None` when that cannot be known.
    pub subscribed: Option<BTreeSet<String>>,
    pub join_timer: Option<JoinTimer>,
    pub sync_deadline: Option<u64>,
    pub new_member_added: bool,
    /// The leader's assignment of this generation is being written.
    pub storing: bool,
    /// The log may hold a metadata record of this group, so removing the group takes a tombstone.
    pub recorded: bool,
    pub offsets: BTreeMap<TopicPartition, StoredOffset>,
    /// Offsets that are being written, by the last append that writes them.
    pub pending_offsets: BTreeMap<TopicPartition, Ticket>,
    /// The deadline under which the coordinator has this group in its timer index.
    pub scheduled: Option<u64>,
}

/// A timeout of the protocol as a duration: negative is none at all.
pub(super) fn millis(timeout: i32) -> u64 {
    u64::try_from(timeout).unwrap_or(0)
}

impl<T> Group<T> {
    pub fn new(id: &str, incarnation: u64) -> Self {
        Self {
            id: id.to_owned(),
            incarnation,
            state: GroupState::Empty,
            state_since_ms: None,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            subscribed: None,
            join_timer: None,
            sync_deadline: None,
            new_member_added: false,
            storing: false,
            recorded: false,
            offsets: BTreeMap::new(),
            pending_offsets: BTreeMap::new(),
            scheduled: None,
        }
    }

    pub fn identity(&self) -> GroupRef {
        GroupRef { id: self.id.clone(), incarnation: self.incarnation }
    }

    /// Nothing would be lost by forgetting this group.
    pub fn is_blank(&self) -> bool {
        self.state == GroupState::Empty && !self.recorded && self.is_unused()
    }

    /// No members, no offsets, and none on the way.
    pub fn is_unused(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty() && self.offsets.is_empty() && self.pending_offsets.is_empty()
    }

    pub fn next_deadline(&self) -> Option<u64> {
        if self.state == GroupState::Dead {
            return None;
        }
        let sessions = self.members.values().filter_map(Member::session_end);
        let timers = self.join_timer.map(JoinTimer::deadline).into_iter().chain(self.sync_deadline);
        sessions.chain(timers).chain(self.pending.values().copied()).min()
    }

    pub fn transition(&mut self, now: Now, state: GroupState) {
        self.state = state;
        self.state_since_ms = Some(now.wall_ms);
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| millis(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Whether a member with these protocols can be part of the group as it is.
    pub fn supports(&self, protocol_type: &str, protocols: &[JoinGroupProtocol]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| self.all_support(&protocol.name))
    }

    fn all_support(&self, name: &str) -> bool {
        self.members.values().all(|member| member.protocols.iter().any(|known| known.name == name))
    }

    /// Every member votes for the first of its protocols that all know; the leader's preference breaks a tie.
    pub fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|protocol| self.all_support(&protocol.name))?;
            *votes.entry(&vote.name).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        let preferred = leader.into_iter().flat_map(|leader| leader.protocols.iter().map(|known| known.name.as_str()));
        let mut in_order = preferred.chain(votes.keys().copied());
        in_order.find(|name| votes.get(name) == Some(&most)).map(str::to_owned)
    }

    pub fn compute_subscribed(&mut self) {
        let protocol = self.protocol.as_deref();
        let consumers = self.protocol_type.as_deref() == Some(CONSUMER);
        let topics = self.members.values().map(|member| subscribed_topics(&member.metadata(protocol)));
        let topics: Option<Vec<Vec<String>>> = topics.collect();
        self.subscribed = topics.filter(|_| consumers).map(|topics| topics.into_iter().flatten().collect());
    }

    /// Whether the group reads the topic; when that cannot be known for a group of consumers, it does.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or_else(|| self.is_consumer_group(), |topics| topics.contains(topic))
    }

    pub fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// The member behind these ids, or the error that Kafka answers.
    pub fn validate_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                Some(current) if current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
                None => return Err(ErrorCode::UnknownMemberId),
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Members as the leader gets them.
    pub fn member_list(&self) -> Vec<JoinGroupMember> {
        let protocol = self.protocol.as_deref();
        let seen = |(id, member): (&String, &Member<T>)| JoinGroupMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        self.members.iter().map(seen).collect()
    }

    /// The current generation, as JoinGroup tells it to a member.
    pub fn joined(&self, member_id: &str) -> JoinGroupResponse {
        let members = if self.is_leader(member_id) { self.member_list() } else { Vec::new() };
        JoinGroupResponse {
            error: ErrorCode::None,
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members,
        }
    }

    /// Takes a member out, answering what it waits for.
    pub fn remove(&mut self, cx: &mut Cx<'_, T>, member_id: &str) {
        self.pending.remove(member_id);
        let Some(member) = self.members.remove(member_id) else { return };
        if let Some(token) = member.joining {
            // The client may still be there: it starts over as a new member.
            cx.reply(token, JoinGroupResponse::failed("", ErrorCode::UnknownMemberId));
        }
        if let Some(token) = member.syncing {
            cx.reply(token, SyncGroupResponse::failed(ErrorCode::UnknownMemberId));
        }
        if let Some(instance_id) = member.instance_id
            && self.static_members.get(&instance_id).is_some_and(|current| current == member_id)
        {
            self.static_members.remove(&instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// The record of this generation, with these assignments.
    pub fn metadata(&self, assignment_of: impl Fn(&str, &Member<T>) -> Bytes) -> GroupMetadata {
        let protocol = self.protocol.as_deref();
        let member = |(id, member): (&String, &Member<T>)| MemberMetadata {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: assignment_of(id, member),
        };
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp_ms: self.state_since_ms.unwrap_or(-1),
            members: self.members.iter().map(member).collect(),
        }
    }

    /// Takes the state of a record, while loading.
    pub fn restore(&mut self, value: GroupMetadata) {
        self.recorded = true;
        self.state = if value.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        self.state_since_ms = (value.current_state_timestamp_ms >= 0).then_some(value.current_state_timestamp_ms);
        self.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        self.protocol = value.protocol;
        self.generation = value.generation;
        self.members.clear();
        self.static_members.clear();
        let name = self.protocol.clone().unwrap_or_default();
        for member in value.members {
            if let Some(instance_id) = &member.group_instance_id {
                self.static_members.insert(instance_id.clone(), member.member_id.clone());
            }
            let restored = Member {
                instance_id: member.group_instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![JoinGroupProtocol { name: name.clone(), metadata: member.subscription }],
                assignment: member.assignment,
                is_new: false,
                synced: true,
                joining: None,
                syncing: None,
                deadline: u64::MAX,
            };
            self.members.insert(member.member_id, restored);
        }
        self.leader =
            value.leader.filter(|leader| self.members.contains_key(leader)).or(self.members.keys().next().cloned());
        self.compute_subscribed();
    }

    /// Whether another join of this member id still fits (KIP-389).
    pub fn has_room_for(&self, member_id: &str, config: &GroupConfig) -> bool {
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            // Those who rejoined count, so that an oversized group sheds the last to come.
            GroupState::PreparingRebalance => {
                let waits = |member: &Member<T>| member.joining.is_some();
                self.members.get(member_id).is_some_and(waits)
                    || self.members.values().filter(|member| waits(member)).count() < config.max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.members.contains_key(member_id) || self.members.len() < config.max_size
            }
        }
    }
}

impl JoinGroupResponse {
    /// A refusal.
    pub(super) fn failed(member_id: &str, error: ErrorCode) -> GroupResponse {
        GroupResponse::Join(Self {
            error,
            generation_id: -1,
            protocol_type: None,
            protocol_name: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: Vec::new(),
        })
    }
}

impl SyncGroupResponse {
    /// A refusal.
    pub(super) fn failed(error: ErrorCode) -> GroupResponse {
        GroupResponse::Sync(Self { error, protocol_type: None, protocol_name: None, assignment: Bytes::new() })
    }
}
