//! Fetches served, to consumers and to followers: the twin of the server's `api/fetch`.
//!
//! One round reads every wanted partition. Where there is nothing to send and nothing worth telling, the fetch parks in the
//! partitions' lists and looks again when one of them advances, until it has waited long enough.

use bytes::Bytes;
use chronik_core::partition::waiters::FetchWaiterKey;
use chronik_core::partition::{ConsumerFetch, FollowerFetch};
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, TopicPartition};
use chronik_node::partition::{FetchedPartition, ReadBudget, ReadKind};

use super::alarms::{Alarm, AlarmId};
use super::{Broker, Key};
use crate::kernel::Ctx;
use crate::proto::{Address, ClientReply, FetchedData, Reply};

/// No fetch waits longer.
const MAX_WAIT_MS: u64 = 300_000;

/// What is wanted.
#[derive(Debug)]
enum Wanted {
    Consumer(TopicPartition, ConsumerFetch),
    Follower(Vec<(TopicId, PartitionIndex, FollowerFetch)>),
}

/// A fetch that waits.
#[derive(Debug)]
pub(super) struct Parked {
    from: Address,
    request: u64,
    wanted: Wanted,
    deadline_ms: u64,
    alarm: Option<AlarmId>,
    places: Vec<(Key, FetchWaiterKey)>,
}

impl Broker {
    /// A follower pulls.
    pub(super) fn serve_follower(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: Address,
        id: u64,
        partitions: Vec<(TopicId, PartitionIndex, FollowerFetch)>,
        max_wait_ms: u64,
    ) {
        // The answer to an earlier fetch of this follower need not wait any more.
        if let Some(earlier) = self.serving.parked_of.get(&from).copied() {
            self.look_again(ctx, earlier, true);
        }
        self.serve_fetch(ctx, from, id, Wanted::Follower(partitions), max_wait_ms);
    }

    /// A consumer reads.
    #[allow(clippy::too_many_arguments, reason = "the fields of a fetch")]
    pub(super) fn serve_consumer(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: Address,
        id: u64,
        tp: TopicPartition,
        current_leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        last_fetched_epoch: LeaderEpoch,
        max_wait_ms: u64,
    ) {
        let fetch = ConsumerFetch { current_leader_epoch, fetch_offset, last_fetched_epoch, from_follower: false };
        self.serve_fetch(ctx, from, id, Wanted::Consumer(tp, fetch), max_wait_ms);
    }

    fn serve_fetch(&mut self, ctx: &mut Ctx<'_>, from: Address, request: u64, wanted: Wanted, max_wait_ms: u64) {
        let deadline_ms = self.after(max_wait_ms.min(MAX_WAIT_MS));
        let patient = max_wait_ms > 0;
        let mut fetch = Parked { from, request, wanted, deadline_ms, alarm: None, places: Vec::new() };
        self.serving.last += 1;
        let number = self.serving.last;
        let round = self.round(ctx, &mut fetch, number, true, patient);
        if !patient || is_enough(&round) {
            return self.answer_fetch(ctx, fetch, round);
        }
        self.park(number, fetch);
    }

    fn park(&mut self, number: u64, mut fetch: Parked) {
        fetch.alarm = Some(self.alarms.set(fetch.deadline_ms, Alarm::Fetch(number)));
        if matches!(fetch.wanted, Wanted::Follower(_)) {
            self.serving.parked_of.insert(fetch.from, number);
        }
        self.serving.parked.insert(number, fetch);
    }

    /// Something moved, or the fetch has waited long enough (`last`).
    pub(super) fn look_again(&mut self, ctx: &mut Ctx<'_>, number: u64, last: bool) {
        let Some(mut fetch) = self.serving.parked.remove(&number) else { return };
        if self.serving.parked_of.get(&fetch.from) == Some(&number) {
            self.serving.parked_of.remove(&fetch.from);
        }
        self.alarms.clear(&mut fetch.alarm);
        self.leave(&mut fetch);
        let last = last || self.now.mono_ms >= fetch.deadline_ms;
        let round = self.round(ctx, &mut fetch, number, false, !last);
        if last || is_enough(&round) {
            return self.answer_fetch(ctx, fetch, round);
        }
        self.park(number, fetch);
    }

    /// Takes a fetch out of all lists that it is still in.
    fn leave(&mut self, fetch: &mut Parked) {
        for (key, place) in fetch.places.drain(..) {
            if let Some(partition) = self.replicas.by_id.get_mut(&key) {
                partition.forget_fetch(place);
            }
        }
    }

    /// Reads every wanted partition once.
    fn round(
        &mut self,
        ctx: &mut Ctx<'_>,
        fetch: &mut Parked,
        number: u64,
        first: bool,
        park: bool,
    ) -> Vec<FetchedPartition> {
        match &fetch.wanted {
            Wanted::Consumer(tp, wanted) => {
                let found = self.hosted(tp);
                let (kind, limit) = (ReadKind::Consumer(*wanted), self.config.fetch_max_bytes);
                let wait = park.then_some((number, fetch.deadline_ms));
                let one = match found {
                    Ok(key) => self.read(ctx, key, kind, (limit, limit, true), wait, &mut fetch.places),
                    Err(error) => FetchedPartition::refused(error),
                };
                vec![one]
            }
            Wanted::Follower(wanted) => {
                let mut left = self.config.fetch_response_bytes;
                let mut total = 0;
                let mut fetched = Vec::with_capacity(wanted.len());
                for (topic, partition, wanted) in wanted {
                    let key = (*topic, *partition);
                    let kind = if first { ReadKind::Follower(*wanted) } else { ReadKind::FollowerAgain(*wanted) };
                    let limits = (left, self.config.fetch_partition_bytes, total == 0);
                    let wait = (park && total == 0).then_some((number, fetch.deadline_ms));
                    let one = match self.hosted_by_id(key) {
                        Ok(()) => self.read(ctx, key, kind, limits, wait, &mut fetch.places),
                        Err(error) => FetchedPartition::refused(error),
                    };
                    total += one.records.len();
                    left = left.saturating_sub(one.records.len());
                    fetched.push(one);
                }
                fetched
            }
        }
    }

    fn hosted_by_id(&self, key: Key) -> Result<(), ErrorCode> {
        if self.replicas.by_id.contains_key(&key) {
            return Ok(());
        }
        let state = self.state.read();
        match state.topic_by_id(key.0) {
            None => Err(ErrorCode::UnknownTopicId),
            Some(topic) if topic.partition(key.1).is_some() => Err(ErrorCode::NotLeaderOrFollower),
            Some(_) => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }

    fn read(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: Key,
        kind: ReadKind,
        (max_bytes, partition_bytes, min_one): (usize, usize, bool),
        wait: Option<(u64, u64)>,
        places: &mut Vec<(Key, FetchWaiterKey)>,
    ) -> FetchedPartition {
        let wake = wait.map(|(number, deadline_ms)| (self.replicas.woken.fetch(number), deadline_ms));
        let wait = wake.as_ref().map(|(wake, deadline_ms)| (wake, *deadline_ms));
        let budget = ReadBudget { max_bytes, partition_bytes, min_one, wait };
        let now_ms = self.now.mono_ms;
        let Some(partition) = self.replicas.by_id.get_mut(&key) else {
            return FetchedPartition::refused(ErrorCode::NotLeaderOrFollower);
        };
        let mut out = Vec::new();
        let planned = partition.plan(kind, &budget, now_ms, &mut out);
        places.extend(planned.parked.map(|place| (key, place)));
        if !out.is_empty() {
            self.deliver(ctx, key, out);
        }
        let mut fetched = planned.answer;
        match planned.read.map(|plan| plan.read()) {
            None => {}
            Some(Ok(records)) => fetched.records = records,
            // Truncated between plan and read: the reader comes again and learns the new state.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Some(Err(error)) => {
                ctx.note(|| format!("read failed: {error}"));
                return FetchedPartition::refused(ErrorCode::KafkaStorageError);
            }
        }
        fetched
    }

    fn answer_fetch(&mut self, ctx: &mut Ctx<'_>, mut fetch: Parked, round: Vec<FetchedPartition>) {
        self.leave(&mut fetch);
        let (from, request) = (fetch.from, fetch.request);
        match fetch.wanted {
            Wanted::Consumer(tp, _) => {
                let Some(one) = round.into_iter().next() else { return };
                let known = self.known_leader_of(&tp);
                let data = data(one, known);
                self.reply_client(ctx, from, request, ClientReply::Fetched(data));
            }
            Wanted::Follower(wanted) => {
                let named = wanted.into_iter().zip(round);
                let answer = named.map(|((topic, partition, _), one)| (topic, partition, data(one, None))).collect();
                self.reply(ctx, from, request, Reply::FollowerFetch(answer));
            }
        }
    }

    fn known_leader_of(&self, tp: &TopicPartition) -> Option<(NodeId, LeaderEpoch)> {
        let state = self.state.read();
        state.partition(tp).and_then(|partition| Some((partition.leader?, partition.leader_epoch)))
    }
}

fn data(one: FetchedPartition, known: Option<(NodeId, LeaderEpoch)>) -> FetchedData {
    let moved = matches!(one.error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
    FetchedData {
        error: one.error,
        high_watermark: one.high_watermark,
        log_start: one.log_start,
        diverging: one.diverging,
        records: if one.error.is_none() { one.records } else { Bytes::new() },
        leader: if moved { one.leader.or(known) } else { None },
    }
}

/// Whether there is something that the reader should know at once.
fn is_enough(fetched: &[FetchedPartition]) -> bool {
    fetched.iter().any(|one| !one.records.is_empty() || !one.error.is_none() || one.diverging.is_some())
}
