//! What all clients share: request ids, timeouts, and the cache of the metadata.
//!
//! A role asks with [`Conn::ask`] and a tag of its own; [`Conn::on_packet`] and [`Conn::on_timer`] give the tag back with
//! what became of the request: exactly once per request, an answer, a refusal or a timeout. An answer that comes after
//! the timeout is dropped. The cache is refreshed when something fails and when it is old; a view with an older leader
//! epoch than the one known does not replace it (KIP-320).

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::{LeaderEpoch, NodeId, TopicId, TopicName, TopicPartition};

use crate::kernel::{Ctx, Event, Micros, Timer};
use crate::proto::{Address, ClientReply, ClientRequest, Packet, PartitionView, Reply, Request, TopicView};

/// The first timer of a client.
pub(super) const BEGIN: Timer = Timer { kind: 0, key: 0 };
/// A request may not have been answered in time.
const TIMEOUT: u16 = 1;
/// Ask for metadata.
const REFRESH: u16 = 2;
/// Kinds from here on belong to the roles.
pub(super) const ROLE: u16 = 10;

/// A cache older than this is refreshed before it is believed for ever (`metadata.max.age.ms`, much shorter here).
const MAX_AGE_MS: u64 = 5_000;
/// Least time between two questions for metadata.
const MIN_PAUSE: Micros = 50_000;
const METADATA_TIMEOUT_MS: u64 = 1_000;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The broker answered.
    Reply(ClientReply),
    /// Nobody listens there, or the connection broke.
    Refused,
    /// Nothing came.
    TimedOut,
}

/// What [`Conn`] made of a packet or timer.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// The end of a request.
    End(T, NodeId, Outcome),
    /// The metadata is newer now.
    Metadata,
    /// Nothing that concerns a role.
    Nothing,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Conn<T> {
    id: u32,
    brokers: Vec<NodeId>,
    next: u64,
    pending: BTreeMap<u64, (NodeId, T, Micros)>,
    /// When which request is given up. Of all of them the kernel holds one timer: nearly none ever matters.
    deadlines: BTreeSet<(Micros, u64)>,
    armed: Option<Micros>,
    topics: BTreeMap<TopicName, TopicView>,
    refreshing: Option<(u64, Micros)>,
    refreshed: Option<Micros>,
    wanted: bool,
    last: usize,
}

impl<T> Conn<T> {
    pub(super) fn new(id: u32, brokers: &[NodeId]) -> Self {
        Self {
            id,
            brokers: brokers.to_vec(),
            next: 0,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            armed: None,
            topics: BTreeMap::new(),
            refreshing: None,
            refreshed: None,
            wanted: false,
            last: 0,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Requests that `broker` has not answered; those for metadata only wait for their time to be over.
    pub(super) fn waits_for(&self, broker: NodeId) -> Vec<u64> {
        self.pending.iter().filter(|(_, (asked, ..))| *asked == broker).map(|(id, _)| *id).collect()
    }

    /// Requests without an answer, those for metadata apart.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Asks `broker`; ends within `timeout_ms`.
    pub(super) fn ask(&mut self, ctx: &mut Ctx<'_>, broker: NodeId, body: ClientRequest, timeout_ms: u64, tag: T) {
        let id = self.send(ctx, broker, body);
        let deadline = self.limit(ctx, id, timeout_ms);
        self.pending.insert(id, (broker, tag, deadline));
    }

    /// A request ends within `timeout_ms`.
    fn limit(&mut self, ctx: &mut Ctx<'_>, id: u64, timeout_ms: u64) -> Micros {
        let deadline = ctx.kernel.now + timeout_ms.max(1) * 1_000;
        self.deadlines.insert((deadline, id));
        self.arm(ctx);
        deadline
    }

    /// Asks to be told of the first deadline, if the timer held is too late.
    fn arm(&mut self, ctx: &mut Ctx<'_>) {
        let Some((first, _)) = self.deadlines.first().copied() else { return };
        if self.armed.is_some_and(|at| at <= first) {
            return;
        }
        self.armed = Some(first);
        let wait = first.saturating_sub(ctx.kernel.now);
        let timer = Timer { kind: TIMEOUT, key: 0 };
        ctx.kernel.after(wait, Event::Timer { to: ctx.me, run: ctx.run, timer });
    }

    /// One request whose time is over.
    fn expired(&mut self, ctx: &mut Ctx<'_>) -> Option<u64> {
        let now = ctx.kernel.now;
        if self.armed.is_some_and(|at| at <= now) {
            self.armed = None;
        }
        let due = self.deadlines.first().copied().filter(|(at, _)| *at <= now);
        if let Some(due) = due {
            self.deadlines.remove(&due);
        }
        self.arm(ctx);
        due.map(|(_, id)| id)
    }

    /// The question for metadata, if it is the one of this number, is over.
    fn refresh_ended(&mut self, id: u64) -> bool {
        let Some((_, deadline)) = self.refreshing.filter(|(refreshing, _)| *refreshing == id) else { return false };
        self.refreshing = None;
        self.deadlines.remove(&(deadline, id));
        true
    }

    /// Sends something that nobody answers.
    pub(super) fn tell(&mut self, ctx: &mut Ctx<'_>, broker: NodeId, body: ClientRequest) {
        self.send(ctx, broker, body);
    }

    fn send(&mut self, ctx: &mut Ctx<'_>, broker: NodeId, body: ClientRequest) -> u64 {
        self.next += 1;
        let body = Box::new(Request::Client(body));
        ctx.send(Address::Broker(broker), Packet::Request { id: self.next, body });
        self.next
    }

    /// A packet came.
    pub(super) fn on_packet(&mut self, ctx: &mut Ctx<'_>, packet: Packet) -> Heard<T> {
        match packet {
            Packet::Reply { id, body } => {
                let Reply::Client(body) = *body else { return Heard::Nothing };
                if self.refresh_ended(id) {
                    let ClientReply::Metadata(view) = body else { return Heard::Nothing };
                    self.learn(ctx.kernel.now, view.topics);
                    return Heard::Metadata;
                }
                self.end(id, Outcome::Reply(body))
            }
            Packet::Refused { id } => {
                if self.refresh_ended(id) {
                    self.want_metadata(ctx);
                    return Heard::Nothing;
                }
                self.end(id, Outcome::Refused)
            }
            _ => Heard::Nothing,
        }
    }

    /// A timer fired; `Nothing` for those of the role, which it looks at itself.
    pub(super) fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer) -> Heard<T> {
        match timer.kind {
            0 => {
                self.refresh(ctx);
                Heard::Nothing
            }
            TIMEOUT => match self.expired(ctx) {
                Some(id) if self.refresh_ended(id) => {
                    self.want_metadata(ctx);
                    Heard::Nothing
                }
                Some(id) => self.end(id, Outcome::TimedOut),
                None => Heard::Nothing,
            },
            REFRESH => {
                self.wanted = false;
                self.refresh(ctx);
                Heard::Nothing
            }
            _ => Heard::Nothing,
        }
    }

    fn end(&mut self, id: u64, outcome: Outcome) -> Heard<T> {
        match self.pending.remove(&id) {
            Some((broker, tag, deadline)) => {
                self.deadlines.remove(&(deadline, id));
                Heard::End(tag, broker, outcome)
            }
            None => Heard::Nothing,
        }
    }

    /// The metadata is wrong or old.
    pub(super) fn want_metadata(&mut self, ctx: &mut Ctx<'_>) {
        if self.wanted || self.refreshing.is_some() {
            return;
        }
        self.wanted = true;
        let pause = MIN_PAUSE + ctx.kernel.streams.workload.below(MIN_PAUSE);
        ctx.timer(pause / 1_000, Timer { kind: REFRESH, key: 0 });
    }

    /// Asks for metadata if it has become old.
    pub(super) fn keep_fresh(&mut self, ctx: &mut Ctx<'_>) {
        let old = self.refreshed.is_none_or(|at| ctx.kernel.now.saturating_sub(at) > MAX_AGE_MS * 1_000);
        if old {
            self.want_metadata(ctx);
        }
    }

    fn refresh(&mut self, ctx: &mut Ctx<'_>) {
        if self.refreshing.is_some() {
            return;
        }
        let broker = self.any_broker(ctx);
        let id = self.send(ctx, broker, ClientRequest::Metadata);
        self.refreshing = Some((id, self.limit(ctx, id, METADATA_TIMEOUT_MS)));
    }

    /// Another broker than the last time, if there is one.
    pub(super) fn any_broker(&mut self, ctx: &mut Ctx<'_>) -> NodeId {
        let count = self.brokers.len().max(1) as u64;
        let step = 1 + ctx.kernel.streams.workload.below(count.saturating_sub(1).max(1)) as usize;
        self.last = (self.last + step) % self.brokers.len().max(1);
        self.brokers.get(self.last).copied().unwrap_or(NodeId::NONE)
    }

    fn learn(&mut self, now: Micros, topics: Vec<TopicView>) {
        self.refreshed = Some(now);
        let mut known = std::mem::take(&mut self.topics);
        for mut topic in topics {
            if let Some(old) = known.remove(&topic.name).filter(|old| old.id == topic.id) {
                for (index, partition) in old.partitions.into_iter().enumerate() {
                    match topic.partitions.get_mut(index) {
                        Some(new) if new.leader_epoch >= partition.leader_epoch => {}
                        Some(new) => *new = partition,
                        None => topic.partitions.push(partition),
                    }
                }
            }
            self.topics.insert(topic.name.clone(), topic);
        }
    }

    /// A broker said who leads (KIP-951): believed if it is newer than what is known.
    pub(super) fn hint(&mut self, tp: &TopicPartition, leader: Option<(NodeId, LeaderEpoch)>) {
        let Some((leader, epoch)) = leader else { return };
        let Some(view) = self.view_mut(tp) else { return };
        if epoch > view.leader_epoch {
            view.leader = Some(leader);
            view.leader_epoch = epoch;
        }
    }

    fn view_mut(&mut self, tp: &TopicPartition) -> Option<&mut PartitionView> {
        let index = usize::try_from(tp.partition.0).ok()?;
        self.topics.get_mut(&tp.topic)?.partitions.get_mut(index)
    }

    /// The id of a topic as the cache has it.
    pub(super) fn topic_id(&self, name: &TopicName) -> Option<TopicId> {
        self.topics.get(name).map(|topic| topic.id)
    }

    /// All partitions of these topics that the cache knows.
    pub(super) fn partitions(&self, topics: &[TopicName]) -> Vec<TopicPartition> {
        let mut all = Vec::new();
        for topic in topics.iter().filter_map(|name| self.topics.get(name)) {
            for index in 0..topic.partitions.len() {
                all.push(TopicPartition::new(topic.name.clone(), i32::try_from(index).unwrap_or(i32::MAX)));
            }
        }
        all
    }

    /// The leader of a partition and its epoch.
    pub(super) fn leader(&self, tp: &TopicPartition) -> Option<(NodeId, LeaderEpoch)> {
        let index = usize::try_from(tp.partition.0).ok()?;
        let view = self.topics.get(&tp.topic)?.partitions.get(index)?;
        Some((view.leader?, view.leader_epoch))
    }
}
