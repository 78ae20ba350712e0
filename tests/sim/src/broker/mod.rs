//! A simulated broker process: what `broker/server` is in production, without threads, tasks and sockets.
//!
//! It is made of production's state machines: the quorum's driver and hosted partitions of `chronik-node`, group
//! coordinators of `chronik-core`, logs of `chronik-log` over a simulated disk. What is written here is the glue that is
//! tasks and threads in the server, each file the twin of one of its modules:
//!
//! - [`boot`]: storage, identity, founders, recovery, in production's order;
//! - `meta`: propose and wait, forwarding, retries, control questions of peers;
//! - `life`: joining, registering, heartbeats; `stop`: the way out;
//! - `replicas`: hosted partitions, reconciled with the metadata; `upkeep`: ticks, checkpoints, flushes;
//! - `pull`: fetchers; `fetch`: fetches served; `serve`: all other requests of clients; `groups`: coordinators.
//!
//! [`World`](crate::world::World) calls one function per event. What follows from an event within the process happens in
//! that event, in production's order: the quorum's turn, then what it said, one after the other, until nothing is left;
//! then one timer is set for the next thing due. What never happens: a wait, a poll, a clock, a random number that does
//! not come from the world's streams.

mod alarms;
mod answer;
pub mod boot;
mod config;
mod fetch;
mod groups;
mod host;
mod life;
mod meta;
mod pull;
mod replicas;
mod serve;
mod stop;
mod upkeep;
mod view;
mod waiters;

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_core::controller::{Change, MetadataState};
use chronik_log::disk::{DiskLock, MemDisk};
use chronik_model::{BrokerEpoch, ClusterId, DirectoryId, IncarnationId, NodeId, PartitionIndex, TopicId};
use chronik_node::Now;
use chronik_node::quorum::{Input, Leadership, Quorum};
use parking_lot::RwLock;

use crate::kernel::{Ctx, Timer};
use crate::net::LinkEvent;
use crate::proto::{Address, ClientReply, Packet, Reply, Request};

use alarms::{Alarm, Alarms};
use host::{Said, SimHost};
use life::Life;
use meta::{Meta, Question};

pub use boot::BootError;
pub use config::{BrokerConfig, RaftSettings};
pub use view::PartitionView;
pub use waiters::{AckTicket, FetchWake, SimPartition};

/// A process of which another one took the place ends with this code.
pub const EXIT_SUPERSEDED: i32 = 66;
/// The code of an end that is worth another start.
pub const EXIT_TEMPORARY: i32 = 75;

/// Rounds of one event after which something certainly turns in circles.
const MOST_ROUNDS: usize = 20_000;

/// Names a partition for ever: a deleted topic that is created again has another id.
pub(crate) type Key = (TopicId, PartitionIndex);

/// See the module documentation.
pub struct Broker {
    config: Arc<BrokerConfig>,
    node: NodeId,
    incarnation: IncarnationId,
    directory: DirectoryId,
    cluster_id: Option<ClusterId>,
    _lock: DiskLock,
    now: Now,
    alarms: Alarms,
    quorum: Quorum<MemDisk, SimHost>,
    host: SimHost,
    state: Arc<RwLock<MetadataState>>,
    leadership: Leadership,
    /// The quorum got an input and has not had its turn.
    touched: bool,
    quorum_wake: u64,
    /// It did not come to an end with an event.
    circles: bool,
    /// Why the quorum stopped.
    failure: Option<String>,
    epoch: BrokerEpoch,
    life: Life,
    meta: Meta,
    /// Questions to peers without answer, by the id of the request.
    asked: BTreeMap<u64, Question>,
    next_request: u64,
    images: meta::Images,
    replicas: replicas::Replicas,
    fetchers: BTreeMap<NodeId, pull::Fetcher>,
    serving: serve::Serving,
    shards: BTreeMap<PartitionIndex, groups::Shard>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("node", &self.node).field("quorum", &self.quorum).finish_non_exhaustive()
    }
}

impl Broker {
    /// A packet arrives.
    pub fn on_packet(&mut self, ctx: &mut Ctx<'_>, from: Address, packet: Packet) {
        self.look_at_the_clock(ctx);
        match packet {
            Packet::Raft(message) => self.tell_quorum(Input::Message(*message)),
            Packet::Chunk(chunk) => self.on_chunk(ctx, from, *chunk),
            Packet::Receipt { transfer, taken } => self.on_receipt(ctx, from, transfer, taken),
            Packet::Request { id, body } => self.on_request(ctx, from, id, *body),
            Packet::Reply { id, body } => self.on_reply(ctx, from, id, Some(*body)),
            Packet::Refused { id } => self.on_reply(ctx, from, id, None),
        }
        self.pump(ctx);
    }

    /// A timer fires.
    pub fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer) {
        if !self.alarms.fired(timer.key) {
            return;
        }
        self.look_at_the_clock(ctx);
        while let Some(alarm) = self.alarms.take(self.now.mono_ms) {
            self.on_alarm(ctx, alarm);
            self.pump_without_arming(ctx);
            if ctx.exit.is_some() {
                return;
            }
        }
        self.pump(ctx);
    }

    fn on_alarm(&mut self, ctx: &mut Ctx<'_>, alarm: Alarm) {
        match alarm {
            Alarm::Attempt(sequence) => self.attempt(ctx, sequence),
            Alarm::Deadline(sequence) => self.proposal_expired(ctx, sequence),
            Alarm::Question(id) => self.question_failed(ctx, id),
            Alarm::Life => self.next_step(ctx),
            Alarm::Stage => self.stage_expired(ctx),
            Alarm::Hope => self.look_for_hope(ctx),
            Alarm::Fetcher(leader) => self.fetcher_due(ctx, leader),
            Alarm::Fetch(id) => self.look_again(ctx, id, true),
            Alarm::Produce(id) => self.produce_expired(ctx, id),
            Alarm::Maintenance => self.maintain(ctx),
            Alarm::Flush => self.commit(ctx),
            Alarm::Groups(partition) => self.shard_due(ctx, partition),
            Alarm::Image(peer) => self.image_expired(peer),
        }
    }

    /// News of the link to a peer.
    pub fn on_link(&mut self, ctx: &mut Ctx<'_>, event: LinkEvent) {
        self.look_at_the_clock(ctx);
        match event {
            LinkEvent::Connected(peer, leader) => {
                self.host.links.insert(peer);
                self.tell_quorum(Input::PeerConnected { peer, leader });
            }
            LinkEvent::Lost(peer) => {
                self.host.links.remove(&peer);
                self.tell_quorum(Input::PeerLost(peer));
                self.image_lost(peer);
                self.peer_lost(ctx, peer);
            }
            LinkEvent::Refused { peer, was_connected } => {
                // A refusal by an address that never worked may be a wrong address: it says nothing about the process.
                self.tell_quorum(Input::PeerUnreachable { peer, gone: was_connected });
            }
        }
        self.pump(ctx);
    }

    /// Whom it takes for the leader of the quorum; told to peers when a link is made.
    #[must_use]
    pub fn known_leader(&self) -> Option<NodeId> {
        self.leadership.leader
    }

    fn look_at_the_clock(&mut self, ctx: &Ctx<'_>) {
        // Faults may set drift back; a monotonic clock never goes back for its process.
        self.now = Now { mono_ms: self.now.mono_ms.max(ctx.mono_ms()), wall_ms: ctx.wall_ms() };
    }

    fn after(&self, ms: u64) -> u64 {
        self.now.mono_ms.saturating_add(ms)
    }

    fn tell_quorum(&mut self, input: Input<SimHost>) {
        self.quorum.handle(&mut self.host, self.now, input);
        self.touched = true;
    }

    fn pump(&mut self, ctx: &mut Ctx<'_>) {
        self.pump_without_arming(ctx);
        if ctx.exit.is_some() {
            return;
        }
        if let Some((at_ms, generation)) = self.alarms.arm(self.quorum_wake) {
            ctx.timer_at(at_ms, Timer { kind: 0, key: generation });
        }
    }

    /// Does what follows, until nothing does.
    fn pump_without_arming(&mut self, ctx: &mut Ctx<'_>) {
        for _ in 0..MOST_ROUNDS {
            if ctx.exit.is_some() {
                return;
            }
            if let Some(said) = self.host.said.pop_front() {
                self.on_said(ctx, said);
            } else if self.touched || self.quorum_wake <= self.now.mono_ms {
                self.take_turn(ctx);
            } else if let Some(woken) = self.replicas.next_woken() {
                self.on_woken(ctx, woken);
            } else if !self.flush_and_pull(ctx) {
                self.consider_end(ctx);
                return;
            }
        }
        ctx.note(|| "turns in circles".to_owned());
        self.circles = true;
        self.quorum_wake = self.after(1);
    }

    fn take_turn(&mut self, ctx: &mut Ctx<'_>) {
        self.touched = false;
        let gone = ctx.is_stopped();
        // Why it stopped is said by the host.
        let _failed = self.quorum.turn(&mut self.host, self.now);
        self.quorum_wake = self.quorum.wake_at(self.now.mono_ms);
        for message in std::mem::take(&mut self.host.sent) {
            let to = Address::Broker(chronik_node::quorum::node_of(message.to));
            // Said before the write at which the process stopped, if it did: what comes after a failed one is not said.
            if !gone {
                ctx.kernel.send(ctx.me, to, Packet::Raft(Box::new(message)));
            }
        }
        for message in std::mem::take(&mut self.host.images) {
            self.send_image(ctx, message);
        }
    }

    fn on_said(&mut self, ctx: &mut Ctx<'_>, said: Said) {
        match said {
            Said::Role(now) => self.on_leadership(ctx, now),
            Said::Members(members) => {
                ctx.note(|| format!("members: voters {} learners {}", ids(&members.voters), ids(&members.learners)));
                self.life_goes_on(ctx);
            }
            Said::Replaced => {
                ctx.note(|| "metadata replaced by a state image".to_owned());
                self.metadata_replaced(ctx);
                self.somebody_waits(ctx);
            }
            Said::Applied(_) => {
                self.proposals_applied(ctx);
                self.life_goes_on(ctx);
            }
            Said::Changes(changes) => {
                let brokers = changes.iter().any(|change| matches!(change, Change::Broker { .. }));
                self.apply_changes(ctx, changes);
                if brokers {
                    self.note_standing(ctx);
                    self.somebody_waits(ctx);
                }
            }
            Said::Stopped(reason) => {
                ctx.note(|| format!("the metadata replica stops: {reason}"));
                self.failure = Some(reason);
            }
            Said::Propose(proposer, answer) => self.on_proposed(ctx, proposer, answer),
            Said::Read(to, id, answer) => self.reply_client(ctx, to, id, ClientReply::ReadIndex(answer)),
            Said::Membership(to, id, answer) => self.answer_membership(ctx, to, id, answer),
            Said::Transfer(answer) => self.on_transfer(ctx, answer),
            Said::Heartbeat(reporter, answer) => self.answer_heartbeat(ctx, reporter, answer),
        }
    }

    fn on_leadership(&mut self, ctx: &mut Ctx<'_>, now: Leadership) {
        ctx.note(|| {
            let leader = now.leader.map_or_else(|| "nobody".to_owned(), |leader| format!("b{leader}"));
            format!("{} in term {}, leader {leader}", now.role.as_str(), now.term)
        });
        let other = self.leadership.leader != now.leader;
        self.leadership = now;
        self.retry_proposals(ctx, other);
        if other {
            self.leader_changed(ctx);
        }
    }

    fn reply(&mut self, ctx: &mut Ctx<'_>, to: Address, id: u64, body: Reply) {
        ctx.send(to, Packet::Reply { id, body: Box::new(body) });
    }

    fn reply_client(&mut self, ctx: &mut Ctx<'_>, to: Address, id: u64, body: ClientReply) {
        self.reply(ctx, to, id, Reply::Client(body));
    }

    /// Asks a peer; `Question` says what the answer is for.
    fn ask(&mut self, ctx: &mut Ctx<'_>, peer: NodeId, request: Request, timeout_ms: u64, about: meta::About) -> u64 {
        self.next_request += 1;
        let id = self.next_request;
        let alarm = self.alarms.set(self.after(timeout_ms), Alarm::Question(id));
        self.asked.insert(id, Question { peer, alarm, about });
        ctx.send(Address::Broker(peer), Packet::Request { id, body: Box::new(request) });
        id
    }
}

fn ids(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(" "))
}
