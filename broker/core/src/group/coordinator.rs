//! The coordinator: its life from loading to unloading, the door every request comes through, and the timer index.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::{ErrorCode, TopicName, mutant};

use super::codec::RecordError;
use super::config::{GroupConfig, Now};
use super::context::{Cx, Flights, GroupRef, Purpose, offsets_write_error};
use super::messages::{
    DeleteGroupsResponse, Effect, GroupResponse, GroupState, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, LeaveMemberResponse, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopicResponse, SyncGroupRequest,
    SyncGroupResponse, Ticket,
};
use super::offsets::failed_commit;
use super::records::GroupRecord;
use super::state::{Group, StoredOffset};

/// Where the coordinator is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Loading,
    Active,
    Unloaded,
}

/// The groups of one `__consumer_offsets` partition. See the [module documentation](super).
#[derive(Debug)]
pub struct GroupCoordinator<T> {
    pub(super) config: GroupConfig,
    pub(super) phase: Phase,
    pub(super) groups: BTreeMap<String, Group<T>>,
    pub(super) flights: Flights<T>,
    /// Groups by their earliest deadline. An entry may be too early (heartbeats do not move it), never too late.
    timers: BTreeSet<(u64, String)>,
    next_expiry_check: u64,
    incarnations: u64,
}

impl<T> GroupCoordinator<T> {
    /// A coordinator that has to be loaded first.
    #[must_use]
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            phase: Phase::Loading,
            groups: BTreeMap::new(),
            flights: Flights::new(),
            timers: BTreeSet::new(),
            next_expiry_check: u64::MAX,
            incarnations: 0,
        }
    }

    /// Takes the next record of the partition, while loading. Keys of other group types are skipped. An error names a
    /// record that cannot be read; it changes nothing, and loading can go on.
    pub fn load_record(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        if self.phase != Phase::Loading {
            return Ok(());
        }
        match GroupRecord::decode(key, value)? {
            GroupRecord::Offset { .. } if mutant!(ForgetOffsets) => {}
            GroupRecord::Offset { group_id, partition, value: Some(committed) } => {
                let group = self.group_or_new(&group_id);
                group.offsets.insert(partition, StoredOffset { committed, ticket: Ticket(0) });
            }
            GroupRecord::Offset { group_id, partition, value: None } => {
                if let Some(group) = self.groups.get_mut(&group_id) {
                    group.offsets.remove(&partition);
                    self.settle(&group_id);
                }
            }
            GroupRecord::Group { group_id, value: Some(metadata) } => self.group_or_new(&group_id).restore(metadata),
            GroupRecord::Group { group_id, value: None } => {
                // Offsets committed after the removal of a group are a group without members.
                if let Some(old) = self.groups.remove(&group_id)
                    && !old.offsets.is_empty()
                {
                    self.group_or_new(&group_id).offsets = old.offsets;
                }
            }
            GroupRecord::Unknown(_) => {}
        }
        Ok(())
    }

    fn group_or_new(&mut self, group_id: &str) -> &mut Group<T> {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        self.groups.entry(group_id.to_owned()).or_insert_with(|| Group::new(group_id, incarnation))
    }

    /// All records were given: begins to serve. Members get a whole session to show themselves.
    pub fn finish_load(&mut self, now: Now) -> Vec<Effect<T>> {
        if self.phase != Phase::Loading {
            return Vec::new();
        }
        self.phase = Phase::Active;
        self.next_expiry_check = now.after(self.config.offsets_retention_check_interval_ms);
        let mut effects = Vec::new();
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            let max_size = self.config.max_size;
            self.with_group(now, &id, &mut effects, |group, cx| {
                group.members.values_mut().for_each(|member| member.renew_session(cx.now));
                if group.members.len() > max_size {
                    // Gives members a chance to commit before the surplus is turned away.
                    group.prepare_rebalance(cx);
                }
            });
        }
        effects
    }

    /// This broker no longer leads the partition: everything parked is answered `NotCoordinator`, and so is whatever
    /// comes later.
    pub fn unload(&mut self) -> Vec<Effect<T>> {
        self.phase = Phase::Unloaded;
        self.timers.clear();
        self.next_expiry_check = u64::MAX;
        let error = ErrorCode::NotCoordinator;
        let mut effects = Vec::new();
        let mut reply = |token, response| effects.push(Effect::Reply { token, response });
        for (_, mut group) in std::mem::take(&mut self.groups) {
            for (id, member) in &mut group.members {
                if let Some(token) = member.joining.take() {
                    reply(token, JoinGroupResponse::failed(id, error));
                }
                if let Some(token) = member.syncing.take() {
                    reply(token, SyncGroupResponse::failed(error));
                }
            }
        }
        for (_, purpose) in std::mem::take(&mut self.flights.under_way) {
            match purpose {
                Purpose::Offsets { token, mut response, .. } => {
                    failed_commit(&mut response, error);
                    reply(token, GroupResponse::OffsetCommit(response));
                }
                Purpose::DeleteGroups { token, results, .. } => {
                    let results = results.into_iter().map(|(id, _)| (id, error)).collect();
                    reply(token, GroupResponse::DeleteGroups(DeleteGroupsResponse { results }));
                }
                Purpose::DeleteOffsets { token, .. } => {
                    reply(token, GroupResponse::OffsetDelete(OffsetDeleteResponse { error, topics: Vec::new() }));
                }
                // Their tokens were parked with the members.
                Purpose::Assignment { .. }
                | Purpose::StaticMember { .. }
                | Purpose::ForgetOffsets { .. }
                | Purpose::Background => {}
            }
        }
        effects
    }

    /// Topics that some group has committed offsets for. Ask after [`Self::finish_load`], and bring those that do not
    /// exist to [`Self::topic_deleted`]: they were deleted while nobody led this partition.
    #[must_use]
    pub fn committed_topics(&self) -> BTreeSet<TopicName> {
        self.groups.values().flat_map(|group| group.offsets.keys().map(|partition| partition.topic.clone())).collect()
    }

    /// These topics are deleted: what was committed for them is dropped, whoever is subscribed, so that a new topic
    /// of the same name is read from its beginning. Call it for every deleted topic while this broker leads.
    pub fn topic_deleted(&mut self, now: Now, names: &[TopicName]) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        if self.phase != Phase::Active {
            return effects;
        }
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.with_group(now, &id, &mut effects, |group, cx| group.forget_topics(cx, names));
        }
        effects
    }

    /// JoinGroup.
    pub fn join(&mut self, now: Now, token: T, request: JoinGroupRequest) -> Vec<Effect<T>> {
        let config = &self.config;
        let session_ok =
            (config.min_session_timeout_ms..=config.max_session_timeout_ms).contains(&request.session_timeout_ms);
        let known = self.groups.contains_key(&request.group_id);
        let refusal = match self.refusal(&request.group_id) {
            Some(error) => Some(error),
            None if !session_ok => Some(ErrorCode::InvalidSessionTimeout),
            None if !known && !request.member_id.is_empty() => Some(ErrorCode::UnknownMemberId),
            None if !known && self.groups.len() >= self.config.max_groups => Some(ErrorCode::PolicyViolation),
            None => None,
        };
        if let Some(error) = refusal {
            return vec![Effect::Reply { token, response: JoinGroupResponse::failed(&request.member_id, error) }];
        }
        let group_id = request.group_id.clone();
        self.group_or_new(&group_id);
        let mut effects = Vec::new();
        self.with_group(now, &group_id, &mut effects, |group, cx| group.join(cx, token, request));
        effects
    }

    /// SyncGroup.
    pub fn sync(&mut self, now: Now, token: T, request: SyncGroupRequest) -> Vec<Effect<T>> {
        let error = match self.refusal(&request.group_id) {
            // The rebalance this belongs to is forgotten. Older clients do not expect "loading" here.
            Some(ErrorCode::CoordinatorLoadInProgress) => Some(ErrorCode::RebalanceInProgress),
            None if !self.groups.contains_key(&request.group_id) => Some(ErrorCode::UnknownMemberId),
            refusal => refusal,
        };
        if let Some(error) = error {
            return vec![Effect::Reply { token, response: SyncGroupResponse::failed(error) }];
        }
        let group_id = request.group_id.clone();
        let mut effects = Vec::new();
        self.with_group(now, &group_id, &mut effects, |group, cx| group.sync(cx, token, request));
        effects
    }

    /// Heartbeat. Never waits and never changes more than the member's session.
    pub fn heartbeat(&mut self, now: Now, request: &HeartbeatRequest) -> ErrorCode {
        match self.refusal(&request.group_id) {
            // The member may well be known once loading is over.
            Some(ErrorCode::CoordinatorLoadInProgress) => return ErrorCode::None,
            Some(error) => return error,
            None => {}
        }
        let Some(group) = self.groups.get_mut(&request.group_id) else { return ErrorCode::UnknownMemberId };
        // The timer index keeps the earlier deadline: the next tick looks again.
        let mut effects = Vec::new();
        let mut cx = Cx { now, config: &self.config, flights: &mut self.flights, effects: &mut effects };
        group.heartbeat(&mut cx, request)
    }

    /// LeaveGroup. Answered at once; other members may be answered with it.
    pub fn leave(&mut self, now: Now, token: T, request: LeaveGroupRequest) -> Vec<Effect<T>> {
        let dead = |group: &Group<T>| group.state == GroupState::Dead;
        let error = match self.refusal(&request.group_id) {
            None if self.groups.get(&request.group_id).is_some_and(dead) => ErrorCode::CoordinatorNotAvailable,
            refusal => refusal.unwrap_or(ErrorCode::None),
        };
        let mut effects = Vec::new();
        let mut members = Vec::new();
        if error == ErrorCode::None {
            for member in request.members {
                let unknown = LeaveMemberResponse {
                    member_id: member.member_id.clone(),
                    group_instance_id: member.group_instance_id.clone(),
                    error: ErrorCode::UnknownMemberId,
                };
                let left = self.with_group(now, &request.group_id, &mut effects, |group, cx| group.leave(cx, member));
                members.push(left.unwrap_or(unknown));
            }
        }
        let response = GroupResponse::Leave(LeaveGroupResponse { error, members });
        effects.push(Effect::Reply { token, response });
        effects
    }

    /// OffsetCommit.
    pub fn commit_offsets(&mut self, now: Now, token: T, request: OffsetCommitRequest) -> Vec<Effect<T>> {
        let known = self.groups.contains_key(&request.group_id);
        let refusal = match self.phase_refusal() {
            Some(error) => Some(error),
            None if !known && request.generation_id >= 0 => Some(ErrorCode::IllegalGeneration),
            None if !known && self.groups.len() >= self.config.max_groups => Some(ErrorCode::PolicyViolation),
            None => None,
        };
        if let Some(error) = refusal {
            return vec![Effect::Reply { token, response: GroupResponse::OffsetCommit(request.refused(error)) }];
        }
        let group_id = request.group_id.clone();
        self.group_or_new(&group_id);
        let mut effects = Vec::new();
        self.with_group(now, &group_id, &mut effects, |group, cx| group.commit_offsets(cx, token, request));
        effects
    }

    /// OffsetFetch of one group.
    #[must_use]
    pub fn fetch_offsets(&self, request: &OffsetFetchRequest) -> OffsetFetchResponse {
        if let Some(error) = self.phase_refusal() {
            return OffsetFetchResponse { error, topics: Vec::new() };
        }
        let topics = match self.groups.get(&request.group_id) {
            Some(group) => group.fetch_offsets(request.topics.as_deref()),
            None => OffsetFetchTopicResponse::nothing(request.topics.as_deref().unwrap_or_default()),
        };
        OffsetFetchResponse { error: ErrorCode::None, topics }
    }

    /// OffsetDelete.
    pub fn delete_offsets(&mut self, now: Now, token: T, request: OffsetDeleteRequest) -> Vec<Effect<T>> {
        let error = match self.refusal(&request.group_id) {
            None if !self.groups.contains_key(&request.group_id) => Some(ErrorCode::GroupIdNotFound),
            refusal => refusal,
        };
        if let Some(error) = error {
            let response = OffsetDeleteResponse { error, topics: Vec::new() };
            return vec![Effect::Reply { token, response: GroupResponse::OffsetDelete(response) }];
        }
        let group_id = request.group_id.clone();
        let mut effects = Vec::new();
        self.with_group(now, &group_id, &mut effects, |group, cx| group.delete_offsets(cx, token, request));
        effects
    }

    /// The records of this append are below the high watermark, or will not get there. A ticket that is not known
    /// (after [`Self::unload`]) is ignored.
    pub fn append_done(&mut self, now: Now, ticket: Ticket, result: Result<(), ErrorCode>) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        let Some(purpose) = self.flights.under_way.remove(&ticket) else { return effects };
        match purpose {
            Purpose::Assignment { group, generation, assignments } => {
                self.with_life(now, &group, &mut effects, |group, cx| {
                    group.assignment_stored(cx, generation, assignments, result);
                });
            }
            Purpose::StaticMember { group, takeover } => {
                self.with_life(now, &group, &mut effects, |group, cx| group.takeover_stored(cx, *takeover, result));
            }
            Purpose::Offsets { group, token, mut response, accepted } => {
                self.with_life(now, &group, &mut effects, |group, _| {
                    group.offsets_stored(ticket, accepted, result.is_ok());
                });
                if let Err(error) = result {
                    failed_commit(&mut response, error);
                }
                effects.push(Effect::Reply { token, response: GroupResponse::OffsetCommit(response) });
            }
            Purpose::DeleteOffsets { group, token, mut response, removing } => {
                match result {
                    Ok(()) => {
                        self.with_life(now, &group, &mut effects, |group, _| group.offsets_deleted(ticket, &removing));
                    }
                    Err(error) => {
                        response = OffsetDeleteResponse { error: offsets_write_error(error), topics: Vec::new() }
                    }
                }
                effects.push(Effect::Reply { token, response: GroupResponse::OffsetDelete(response) });
            }
            Purpose::DeleteGroups { token, results, deleting } => {
                let response = self.groups_deleted(now, results, &deleting, result);
                effects.push(Effect::Reply { token, response: GroupResponse::DeleteGroups(response) });
            }
            // When the write failed, retention removes them from the log in the end; nobody sees them before.
            Purpose::ForgetOffsets { group, removing } => {
                self.with_life(now, &group, &mut effects, |group, _| group.offsets_deleted(ticket, &removing));
            }
            Purpose::Background => {}
        }
        effects
    }

    /// Does what the clock demands; call it at [`Self::next_deadline`] or later.
    pub fn tick(&mut self, now: Now) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        let mut due = Vec::new();
        while let Some((deadline, _)) = self.timers.first()
            && *deadline <= now.mono_ms
        {
            due.extend(self.timers.pop_first());
        }
        for (_, id) in due {
            if let Some(group) = self.groups.get_mut(&id) {
                group.scheduled = None;
            }
            self.with_group(now, &id, &mut effects, Group::expire);
        }
        if self.next_expiry_check <= now.mono_ms {
            self.next_expiry_check = now.after(self.config.offsets_retention_check_interval_ms.max(1));
            self.expire_offsets(now, &mut effects);
        }
        effects
    }

    fn expire_offsets(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            let dead = self.with_group(now, &id, effects, |group, cx| {
                let (records, dead) = group.expire_offsets(cx);
                if !records.is_empty() {
                    cx.append(records, Purpose::Background);
                }
                dead
            });
            if dead == Some(true) {
                self.forget(&id);
            }
        }
    }

    /// The monotonic time at which [`Self::tick`] is due, if at all. It may turn out that nothing was due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let check = (self.next_expiry_check != u64::MAX && !self.groups.is_empty()).then_some(self.next_expiry_check);
        self.timers.first().map(|(deadline, _)| *deadline).into_iter().chain(check).min()
    }

    /// Why no request can be served now.
    pub(super) fn phase_refusal(&self) -> Option<ErrorCode> {
        match self.phase {
            Phase::Loading => Some(ErrorCode::CoordinatorLoadInProgress),
            Phase::Active => None,
            Phase::Unloaded => Some(ErrorCode::NotCoordinator),
        }
    }

    /// Why a request that needs a group by name cannot be served now.
    fn refusal(&self, group_id: &str) -> Option<ErrorCode> {
        if group_id.is_empty() { Some(ErrorCode::InvalidGroupId) } else { self.phase_refusal() }
    }

    /// Runs one event of a group, then keeps the timer index and drops the group if nothing of it is left.
    pub(super) fn with_group<R>(
        &mut self,
        now: Now,
        id: &str,
        effects: &mut Vec<Effect<T>>,
        run: impl FnOnce(&mut Group<T>, &mut Cx<'_, T>) -> R,
    ) -> Option<R> {
        let group = self.groups.get_mut(id)?;
        let mut cx = Cx { now, config: &self.config, flights: &mut self.flights, effects };
        let result = run(group, &mut cx);
        self.settle(id);
        Some(result)
    }

    /// The same, if the group is still the one the append was made for.
    fn with_life(
        &mut self,
        now: Now,
        life: &GroupRef,
        effects: &mut Vec<Effect<T>>,
        run: impl FnOnce(&mut Group<T>, &mut Cx<'_, T>),
    ) {
        if self.groups.get(&life.id).is_some_and(|group| group.incarnation == life.incarnation) {
            self.with_group(now, &life.id, effects, run);
        }
    }

    pub(super) fn settle(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        if group.is_blank() {
            return self.forget(id);
        }
        let next = group.next_deadline().filter(|_| self.phase == Phase::Active);
        if next != group.scheduled {
            if let Some(old) = std::mem::replace(&mut group.scheduled, next) {
                self.timers.remove(&(old, id.to_owned()));
            }
            if let Some(next) = next {
                self.timers.insert((next, id.to_owned()));
            }
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        if let Some(group) = self.groups.remove(id)
            && let Some(scheduled) = group.scheduled
        {
            self.timers.remove(&(scheduled, id.to_owned()));
        }
    }
}
