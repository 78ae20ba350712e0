//! Group coordinators on the led partitions of the topic of groups: the twin of the server's `replication/groups`, around
//! `chronik_node`'s shard.
//!
//! A new leadership makes a shard, which loads a little later, in an event of its own, and serves once what it loaded is
//! committed: until then requests are refused. Appends that wait are finished oldest first.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_core::group::{
    Effect, GroupCoordinator, GroupResponse, JoinGroupRequest, OffsetCommitRequest, OffsetFetchResponse,
    PartitionError, Ticket, TopicErrors, partition_for,
};
use chronik_log::AppendOrigin;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName};
use chronik_node::Now;
use chronik_node::groups::{APPEND_TIMEOUT_MS, GroupHost, GroupShard, LOAD_CHUNK, Loader};
use chronik_node::partition::{Append, Outgoing};
use chronik_node::settings::OFFSETS_TOPIC;

use super::alarms::{Alarm, AlarmId};
use super::waiters::{Asker, SimPartition, WokenList};
use super::{Broker, Key};
use crate::kernel::Ctx;
use crate::proto::{Address, ClientReply, ClientRequest};

/// Loading takes up to so long.
const LOADING_MS: u64 = 5;

/// Who waits for a group's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    to: Address,
    id: u64,
    /// What was refused at the door; goes with the rest of the answer.
    refused: Vec<TopicErrors>,
}

type Coordinator = GroupCoordinator<Token>;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Shard {
    key: Key,
    group: GroupShard<Token>,
    /// Appends that wait: number, ticket, and the outcome where it is known.
    appends: VecDeque<(u64, Ticket, Option<ErrorCode>)>,
    alarm: Option<(u64, AlarmId)>,
    /// Records loaded.
    records: u64,
}

/// The group's way to its partition.
struct Host<'a> {
    partition: Option<&'a mut SimPartition>,
    index: PartitionIndex,
    appends: &'a mut VecDeque<(u64, Ticket, Option<ErrorCode>)>,
    last: &'a mut u64,
    woken: WokenList,
    out: Vec<Outgoing>,
    answers: Vec<(Token, GroupResponse)>,
}

impl GroupHost<Token> for Host<'_> {
    fn append(&mut self, now: Now, epoch: LeaderEpoch, ticket: Ticket, batch: Bytes) -> Result<bool, ErrorCode> {
        let Some(partition) = &mut self.partition else { return Err(ErrorCode::NotLeaderOrFollower) };
        *self.last += 1;
        let number = *self.last;
        let batches = [batch];
        let origin = AppendOrigin::Coordinator;
        let request = Append { batches: &batches, acks: -1, origin, only_epoch: Some(epoch) };
        let asker = Asker::Group(self.index, epoch, number);
        let park = |required| Some((now.mono_ms + APPEND_TIMEOUT_MS, self.woken.ticket(required, asker)));
        let outcome = partition.append(&request, park, now, &mut self.out).map_err(|(code, _)| code)?;
        if outcome.waits {
            self.appends.push_back((number, ticket, None));
        }
        Ok(outcome.waits)
    }

    fn reply(&mut self, token: Token, response: GroupResponse) {
        self.answers.push((token, response));
    }
}

impl Broker {
    /// A partition of the topic of groups may lead, or not lead, or lead another epoch now.
    pub(super) fn group_role(&mut self, ctx: &mut Ctx<'_>, key: Key) {
        let index = key.1;
        let led = self.replicas.by_id.get(&key).and_then(SimPartition::led_epoch);
        let known = self.shards.get(&index);
        if known.map(|shard| (shard.key, shard.group.epoch())) == led.map(|epoch| (key, epoch)) {
            return;
        }
        if known.is_some_and(|shard| shard.key != key) && led.is_none() {
            // What ended is not what serves now.
            return;
        }
        if let Some(mut old) = self.shards.remove(&index) {
            if let Some((_, alarm)) = old.alarm.take() {
                self.alarms.cancel(alarm);
            }
            old.appends.clear();
            self.with_host(ctx, &mut old, |group, host, _| group.end(host));
        }
        if let Some(epoch) = led {
            let wait = self.after(1 + ctx.below(LOADING_MS));
            let alarm = self.alarms.set(wait, Alarm::Groups(index));
            let group = GroupShard::new(epoch, self.config.groups.clone());
            let shard = Shard { key, group, appends: VecDeque::new(), alarm: Some((wait, alarm)), records: 0 };
            self.shards.insert(index, shard);
        }
    }

    /// Runs an operation with the shard's way to its partition, and does what follows from it.
    fn with_host(
        &mut self,
        ctx: &mut Ctx<'_>,
        shard: &mut Shard,
        operation: impl FnOnce(&mut GroupShard<Token>, &mut Host<'_>, Now),
    ) {
        let mut host = Host {
            partition: self.replicas.by_id.get_mut(&shard.key),
            index: shard.key.1,
            appends: &mut shard.appends,
            last: &mut self.serving.last,
            woken: self.replicas.woken.clone(),
            out: Vec::new(),
            answers: Vec::new(),
        };
        operation(&mut shard.group, &mut host, self.now);
        let (out, answers) = (host.out, host.answers);
        for (token, response) in answers {
            self.answer_group(ctx, &token, response);
        }
        self.may_have_appended(shard.key);
        self.deliver(ctx, shard.key, out);
    }

    fn step(
        &mut self,
        ctx: &mut Ctx<'_>,
        index: PartitionIndex,
        operation: impl FnOnce(&mut GroupShard<Token>, &mut Host<'_>, Now),
    ) {
        let Some(mut shard) = self.shards.remove(&index) else { return };
        self.with_host(ctx, &mut shard, operation);
        let same = |told: &Shard| (told.key, told.group.epoch()) == (shard.key, shard.group.epoch());
        if let Some(told) = self.shards.get(&index)
            && same(told)
        {
            // Told once more of the leadership that it has: after a failure of its log it leads still.
            if let Some((_, alarm)) = self.shards.remove(&index).and_then(|told| told.alarm) {
                self.alarms.cancel(alarm);
            }
        }
        if self.shards.contains_key(&index) {
            // What followed began another leadership.
            shard.appends.clear();
            self.with_host(ctx, &mut shard, |group, host, _| group.end(host));
            return;
        }
        let led = self.replicas.by_id.get(&shard.key).and_then(SimPartition::led_epoch);
        if led != Some(shard.group.epoch()) {
            shard.appends.clear();
            if let Some((_, alarm)) = shard.alarm.take() {
                self.alarms.cancel(alarm);
            }
            self.with_host(ctx, &mut shard, |group, host, _| group.end(host));
            return;
        }
        self.watch_clock(&mut shard);
        self.shards.insert(index, shard);
    }

    /// Keeps the alarm of a shard at its next deadline.
    fn watch_clock(&mut self, shard: &mut Shard) {
        if shard.group.is_loading() {
            return;
        }
        let next = shard.group.next_deadline();
        if shard.alarm.map(|(at, _)| at) == next {
            return;
        }
        if let Some((_, alarm)) = shard.alarm.take() {
            self.alarms.cancel(alarm);
        }
        shard.alarm = next.map(|at| (at, self.alarms.set(at, Alarm::Groups(shard.key.1))));
    }

    /// A deadline of a shard, or its loading.
    pub(super) fn shard_due(&mut self, ctx: &mut Ctx<'_>, index: PartitionIndex) {
        let Some(shard) = self.shards.get_mut(&index) else { return };
        shard.alarm = None;
        if !shard.group.is_loading() {
            return self.step(ctx, index, |group, host, now| group.tick(host, now));
        }
        let (key, epoch) = (shard.key, shard.group.epoch());
        match self.load(index) {
            Ok(end) => {
                let ticket = self.replicas.woken.ticket(end, Asker::Loading(index, epoch));
                if let Some(partition) = self.replicas.by_id.get_mut(&key) {
                    partition.await_committed(epoch, ticket);
                }
            }
            // Serving without part of the offsets would make consumers start over: stays "loading", for people to see.
            Err(error) => ctx.note(|| format!("groups of {}-{index} cannot be loaded: {error}", key.0)),
        }
    }

    /// What a shard loaded is committed, or, with an error, never will be under its leadership.
    pub(super) fn groups_loaded(
        &mut self,
        ctx: &mut Ctx<'_>,
        index: PartitionIndex,
        epoch: LeaderEpoch,
        error: ErrorCode,
    ) {
        let Some(shard) = self.shards.get(&index).filter(|shard| shard.group.epoch() == epoch) else { return };
        if !error.is_none() || !shard.group.is_loading() {
            return;
        }
        let records = shard.records;
        ctx.note(|| format!("groups of partition {index} loaded, {records} records"));
        let state = std::sync::Arc::clone(&self.state);
        self.step(ctx, index, |group, host, now| {
            group.finish_load(host, now, |name| state.read().topic(name.as_str()).is_some());
        });
    }

    /// Replays the partition into the coordinator; up to where.
    fn load(&mut self, index: PartitionIndex) -> Result<Offset, ErrorCode> {
        let shard = self.shards.get_mut(&index).ok_or(ErrorCode::NotCoordinator)?;
        let partition = self.replicas.by_id.get(&shard.key).ok_or(ErrorCode::NotCoordinator)?;
        let mut loader = Loader::new(partition.log().log_start(), partition.log().log_end());
        while let Some((from, end)) = loader.wanted() {
            let plan = partition.plan_log(from, LOAD_CHUNK, end)?;
            let records = plan.read().map_err(|_| ErrorCode::KafkaStorageError)?;
            loader.take(&records, |batch| shard.records += shard.group.replay(batch))?;
        }
        Ok(loader.end())
    }

    /// An append of a shard ended; what waits is finished oldest first.
    pub(super) fn group_append_ended(
        &mut self,
        ctx: &mut Ctx<'_>,
        index: PartitionIndex,
        epoch: LeaderEpoch,
        number: u64,
        error: ErrorCode,
    ) {
        let Some(shard) = self.shards.get_mut(&index).filter(|shard| shard.group.epoch() == epoch) else { return };
        if let Some(append) = shard.appends.iter_mut().find(|append| append.0 == number) {
            append.2 = Some(error);
        }
        while let Some(shard) = self.shards.get_mut(&index)
            && let Some((_, ticket, Some(error))) = shard.appends.front().copied()
        {
            shard.appends.pop_front();
            let result = if error.is_none() { Ok(()) } else { Err(error) };
            self.step(ctx, index, |group, host, now| group.on_appended(host, now, ticket, result));
        }
    }

    /// A topic was deleted: what groups committed for it is dropped.
    pub(super) fn groups_forget_topic(&mut self, ctx: &mut Ctx<'_>, name: &TopicName) {
        let shards: Vec<PartitionIndex> = self.shards.keys().copied().collect();
        for index in shards {
            self.step(ctx, index, |group, host, now| group.on_topic_deleted(host, now, name));
        }
    }

    fn shard_of(&self, group_id: &str) -> Result<PartitionIndex, ErrorCode> {
        let count = {
            let state = self.state.read();
            state.topic(OFFSETS_TOPIC).map(|topic| i32::try_from(topic.partitions.len()).unwrap_or(0))
        };
        let partition = count.and_then(|count| partition_for(group_id, count));
        let index = PartitionIndex(partition.ok_or(ErrorCode::CoordinatorNotAvailable)?);
        if self.shards.contains_key(&index) { Ok(index) } else { Err(ErrorCode::NotCoordinator) }
    }

    /// Operations of groups.
    pub(super) fn serve_group(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, request: ClientRequest) {
        let token = Token { to: from, id, refused: Vec::new() };
        match request {
            ClientRequest::JoinGroup(join) => {
                let fresh_member_id = format!("{}-{}", join.client_id, ctx.uuid());
                let join = JoinGroupRequest { fresh_member_id, ..join };
                let group = join.group_id.clone();
                self.ask_group(ctx, token, &group, |coordinator, now, token| coordinator.join(now, token, join));
            }
            ClientRequest::SyncGroup(sync) => {
                let group = sync.group_id.clone();
                self.ask_group(ctx, token, &group, |coordinator, now, token| coordinator.sync(now, token, sync));
            }
            ClientRequest::LeaveGroup(leave) => {
                let group = leave.group_id.clone();
                self.ask_group(ctx, token, &group, |coordinator, now, token| coordinator.leave(now, token, leave));
            }
            ClientRequest::OffsetCommit(commit) => self.commit_offsets(ctx, token, commit),
            ClientRequest::GroupHeartbeat(heartbeat) => {
                let code = match self.shard_of(&heartbeat.group_id) {
                    Err(error) => error,
                    Ok(index) => {
                        let mut code = ErrorCode::NotCoordinator;
                        self.step(ctx, index, |group, _, now| {
                            code = group.query(now, |coordinator, now| coordinator.heartbeat(now, &heartbeat));
                        });
                        code
                    }
                };
                self.reply_client(ctx, from, id, ClientReply::GroupError(code));
            }
            ClientRequest::OffsetFetch(fetch) => {
                let refused = |error| OffsetFetchResponse { error, topics: Vec::new() };
                let answer = match self.shard_of(&fetch.group_id).map(|index| self.shards.get(&index)) {
                    Err(error) => refused(error),
                    Ok(None) => refused(ErrorCode::NotCoordinator),
                    Ok(Some(shard)) => shard.group.coordinator().fetch_offsets(&fetch),
                };
                self.reply_client(ctx, from, id, ClientReply::Offsets(answer));
            }
            // Everything else is served elsewhere.
            _ => self.reply_client(ctx, from, id, ClientReply::GroupError(ErrorCode::InvalidRequest)),
        }
    }

    fn ask_group(
        &mut self,
        ctx: &mut Ctx<'_>,
        token: Token,
        group: &str,
        operation: impl FnOnce(&mut Coordinator, Now, Token) -> Vec<Effect<Token>>,
    ) {
        match self.shard_of(group) {
            Err(error) => self.reply_client(ctx, token.to, token.id, ClientReply::GroupError(error)),
            Ok(index) => self.step(ctx, index, |group, host, now| {
                group.ask(host, now, |coordinator, now| operation(coordinator, now, token));
            }),
        }
    }

    /// Partitions that do not exist are refused at the door.
    fn commit_offsets(&mut self, ctx: &mut Ctx<'_>, mut token: Token, mut commit: OffsetCommitRequest) {
        {
            let state = self.state.read();
            for topic in &mut commit.topics {
                let known = state.topic(topic.name.as_str());
                let exists = |index: PartitionIndex| known.is_some_and(|known| known.partition(index).is_some());
                let refused: Vec<PartitionError> = topic
                    .partitions
                    .iter()
                    .filter(|one| !exists(one.partition))
                    .map(|one| PartitionError { partition: one.partition, error: ErrorCode::UnknownTopicOrPartition })
                    .collect();
                topic.partitions.retain(|one| exists(one.partition));
                if !refused.is_empty() {
                    token.refused.push(TopicErrors { name: topic.name.clone(), partitions: refused });
                }
            }
        }
        commit.topics.retain(|topic| !topic.partitions.is_empty());
        if commit.topics.is_empty() && !token.refused.is_empty() {
            return self.answer_group(ctx, &token, GroupResponse::OffsetCommit(Vec::new()));
        }
        let group = commit.group_id.clone();
        self.ask_group(ctx, token, &group, |coordinator, now, token| coordinator.commit_offsets(now, token, commit));
    }

    fn answer_group(&mut self, ctx: &mut Ctx<'_>, token: &Token, mut response: GroupResponse) {
        if let GroupResponse::OffsetCommit(topics) = &mut response {
            let mut by_name: BTreeMap<&TopicName, Vec<PartitionError>> = BTreeMap::new();
            for topic in &token.refused {
                by_name.entry(&topic.name).or_default().extend(topic.partitions.iter().cloned());
            }
            for topic in topics.iter_mut() {
                topic.partitions.extend(by_name.remove(&topic.name).unwrap_or_default());
            }
            let rest = by_name.into_iter().map(|(name, partitions)| TopicErrors { name: name.clone(), partitions });
            topics.extend(rest.collect::<Vec<_>>());
        }
        self.reply_client(ctx, token.to, token.id, ClientReply::Group(response));
    }
}
