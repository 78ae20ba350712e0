//! This broker's life in the cluster: let in, registered by a committed record, kept alive by heartbeats. The twin of the
//! server's `driver/join`, `driver/heartbeat` and of the later steps of `startup`.
//!
//! The leader judges; this side only reports. A process whose registration belongs to another one ends.

use chronik_consensus::Membership;
use chronik_core::controller::{
    AlterConfigs, CommandResult, ConfigChange, ConfigOp, ConfigResource, ConfigSource, Endpoint, Endpoints, Heartbeat,
    METADATA_VERSION, RegisterBroker,
};
use chronik_log::LogDirState;
use chronik_model::{BrokerEpoch, ClusterId, ErrorCode, NodeId, RaftIndex};
use chronik_node::quorum::Input;

use super::alarms::{Alarm, AlarmId};
use super::host::Reporter;
use super::meta::{About, NoResult, Purpose};
use super::{Broker, EXIT_SUPERSEDED, EXIT_TEMPORARY};
use crate::kernel::Ctx;
use crate::proto::{HeartbeatAnswer, MembershipRefusal, Request};

/// Longest wait for one registration attempt.
const REGISTER_MS: u64 = 3_000;
/// Pause before another one.
const REGISTER_RETRY_MS: u64 = 100;
/// Time between heartbeats while something is expected of the leader.
const EAGER_MS: u64 = 20;
/// Longest wait for one question about joining, and for the image that follows.
const JOIN_MS: u64 = 5_000;
/// Pause before the next question about joining.
const JOIN_RETRY_MS: u64 = 200;
/// How long the defaults of the cluster may take.
const DEFAULTS_MS: u64 = 10_000;

/// How far this process has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Asks to be a member.
    Joining,
    /// Is a member and does not know of which cluster.
    Naming,
    /// Its registration is not committed yet.
    Registering,
    /// The defaults of the cluster are being set.
    Defaults,
    /// Serves clients.
    Serving,
    /// Wants to stop: leaderships move.
    Leaving,
    /// Leadership of the quorum moves.
    HandingOver,
    /// Open requests end.
    Draining,
}

/// Where the heartbeats are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pulse {
    /// Not begun, or registering again.
    None,
    /// One is on its way.
    Asking,
    /// The next one is due then.
    Resting(Option<AlarmId>),
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) stage: Stage,
    /// The directory bears the cluster's name.
    claimed: bool,
    previous_epoch: BrokerEpoch,
    registering_since: u64,
    /// Alarm of the step that is waited for while joining or registering.
    step: Option<AlarmId>,
    asked_leader: Option<NodeId>,
    turn: usize,
    /// A question about joining is on its way.
    asking: bool,
    pulse: Pulse,
    /// Whom and with which wish the last heartbeat went.
    beat: (Option<NodeId>, bool),
    pub(super) wants_shutdown: bool,
    pub(super) may_stop: bool,
    /// What the metadata last said about this process: fenced or not, if it is registered.
    fenced: Option<bool>,
    /// The newest shutdown of another broker that the leader was told we know.
    told: RaftIndex,
    pub(super) stage_alarm: Option<AlarmId>,
    pub(super) hopeless_since: Option<u64>,
}

impl Life {
    pub(super) fn new(joins: bool, claimed: bool, clean: Option<BrokerEpoch>) -> Self {
        Self {
            stage: if joins { Stage::Joining } else { Stage::Registering },
            claimed,
            previous_epoch: clean.unwrap_or(BrokerEpoch::NONE),
            registering_since: 0,
            step: None,
            asked_leader: None,
            turn: 0,
            asking: false,
            pulse: Pulse::None,
            beat: (None, false),
            wants_shutdown: false,
            may_stop: false,
            fenced: None,
            told: RaftIndex(0),
            stage_alarm: None,
            hopeless_since: None,
        }
    }
}

impl Broker {
    pub(super) fn begin_life(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.stage == Stage::Joining {
            self.join(ctx);
        } else {
            self.begin_registration(ctx);
        }
    }

    /// Whether clients and followers are served.
    pub(super) fn listens(&self) -> bool {
        matches!(self.life.stage, Stage::Serving | Stage::Leaving | Stage::HandingOver)
    }

    /// The alarm of the present step.
    pub(super) fn next_step(&mut self, ctx: &mut Ctx<'_>) {
        self.life.step = None;
        match (self.life.stage, self.life.pulse) {
            (Stage::Joining, _) => self.join(ctx),
            (Stage::Registering, _) | (_, Pulse::None) => self.register(ctx),
            _ => self.beat(ctx),
        }
    }

    fn step_in(&mut self, ms: u64) {
        self.alarms.clear(&mut self.life.step);
        self.life.step = Some(self.alarms.set(self.after(ms), Alarm::Life));
    }

    // Joining.

    fn is_member(&self) -> bool {
        let members = self.quorum.replica().membership();
        members.voters.contains(&self.node) || members.learners.contains(&self.node)
    }

    /// The members or what is applied changed.
    pub(super) fn life_goes_on(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.stage == Stage::Joining && self.is_member() {
            self.alarms.clear(&mut self.life.step);
            ctx.note(|| "is a member".to_owned());
            self.life.stage = Stage::Naming;
        }
        if self.life.stage == Stage::Naming {
            self.name(ctx);
        }
    }

    fn join(&mut self, ctx: &mut Ctx<'_>) {
        if self.is_member() {
            return self.life_goes_on(ctx);
        }
        if self.life.asking {
            return;
        }
        let next = self.life.asked_leader.take().or_else(|| self.whom_to_ask());
        self.life.turn = self.life.turn.wrapping_add(1);
        let Some(peer) = next else { return self.step_in(JOIN_RETRY_MS) };
        let request = Request::Membership(chronik_consensus::MembershipChange::AddLearner(self.node));
        self.life.asking = true;
        self.ask(ctx, peer, request, JOIN_MS, About::Join);
    }

    /// Connected peers in turn: one that knows no leader, or does not answer, must not keep us from the others.
    fn whom_to_ask(&self) -> Option<NodeId> {
        let connected: Vec<NodeId> = self.host.links.iter().copied().collect();
        let peers = if connected.is_empty() { &self.config.peers } else { &connected };
        peers.get(self.life.turn.checked_rem(peers.len())?).copied()
    }

    pub(super) fn on_join_answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        peer: NodeId,
        answer: Option<Result<(Membership, Option<ClusterId>), MembershipRefusal>>,
    ) {
        self.life.asking = false;
        if self.life.stage != Stage::Joining {
            return;
        }
        match answer {
            Some(Ok((_, cluster_id))) => {
                if self.cluster_id.is_none() {
                    self.cluster_id = cluster_id;
                }
                ctx.note(|| format!("b{peer} lets us in"));
                // The image that makes us a member comes soon; asking again meanwhile would do no good.
                self.step_in(JOIN_MS);
                self.life_goes_on(ctx);
            }
            Some(Err(MembershipRefusal::NotLeader(leader))) => {
                self.life.asked_leader = leader.filter(|leader| *leader != peer);
                match self.life.asked_leader {
                    Some(_) => self.join(ctx),
                    None => self.step_in(JOIN_RETRY_MS),
                }
            }
            Some(Err(MembershipRefusal::Refused(problem))) => {
                ctx.note(|| format!("cannot join: b{peer} refuses: {problem}"));
                ctx.exit(EXIT_TEMPORARY);
            }
            Some(Err(MembershipRefusal::Retry(_))) | None => self.step_in(JOIN_RETRY_MS),
        }
    }

    /// The directory is claimed for the cluster; its name came with the answer, or is in the metadata.
    fn name(&mut self, ctx: &mut Ctx<'_>) {
        if self.cluster_id.is_none() {
            if self.quorum.applied() < RaftIndex(1) {
                return;
            }
            self.cluster_id = self.state.read().cluster_id().cloned();
        }
        let Some(cluster_id) = self.cluster_id.clone() else {
            ctx.note(|| "the cluster's id is not known".to_owned());
            return ctx.exit(EXIT_TEMPORARY);
        };
        if !self.life.claimed {
            if let Err(error) = self.replicas.log_dir().claim(&cluster_id, self.node, self.directory) {
                ctx.note(|| format!("cannot claim the directory: {error}"));
                return ctx.exit(EXIT_TEMPORARY);
            }
            self.life.claimed = true;
        }
        self.begin_registration(ctx);
    }

    // Registration.

    fn begin_registration(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.stage < Stage::Serving {
            self.life.stage = Stage::Registering;
        }
        self.life.pulse = Pulse::None;
        self.life.registering_since = self.now.mono_ms;
        self.register(ctx);
    }

    fn register(&mut self, ctx: &mut Ctx<'_>) {
        let Some(cluster_id) = self.cluster_id.clone() else { return };
        let endpoint = |port| Endpoint { host: format!("b{}", self.node), port };
        let command = RegisterBroker {
            node: self.node,
            incarnation: self.incarnation,
            directories: vec![self.directory],
            cluster_id,
            endpoints: Endpoints {
                kafka: endpoint(9092),
                replication: endpoint(9292),
                control: endpoint(9192),
                admin: endpoint(9392),
                listeners: Vec::new(),
            },
            rack: None,
            previous_broker_epoch: self.life.previous_epoch,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata_version: METADATA_VERSION,
        };
        self.propose(ctx, command, REGISTER_MS, Purpose::Register);
    }

    pub(super) fn on_registered(&mut self, ctx: &mut Ctx<'_>, result: Result<CommandResult, NoResult>) {
        match result {
            Ok(CommandResult::Registered(epoch)) => {
                ctx.note(|| format!("registered with epoch {epoch}"));
                self.epoch = epoch;
                if self.life.stage == Stage::Registering {
                    self.set_defaults(ctx);
                } else {
                    self.beat(ctx);
                }
            }
            Ok(CommandResult::Error(error)) if error.code == ErrorCode::DuplicateBrokerRegistration => {
                // The session of a predecessor has to expire first.
                let patience = 3 * self.config.liveness.session_timeout_ms + 10_000;
                if self.now.mono_ms > self.life.registering_since + patience {
                    return ctx.exit(EXIT_SUPERSEDED);
                }
                self.step_in(REGISTER_RETRY_MS);
            }
            Ok(_) | Err(NoResult::Refused(_) | NoResult::Stopped) => ctx.exit(EXIT_TEMPORARY),
            Err(NoResult::TimedOut) => self.register(ctx),
        }
    }

    /// Carries what the configuration file says about topics into the cluster's defaults, once.
    fn set_defaults(&mut self, ctx: &mut Ctx<'_>) {
        self.life.stage = Stage::Defaults;
        let changes: Vec<ConfigChange> = {
            let state = self.state.read();
            let views = state.describe_broker_configs(None);
            let missing = self.config.defaults.iter().filter(|(name, _)| {
                let view = views.iter().find(|view| view.effective.name == name.as_str());
                view.is_some_and(|view| !view.synonyms.iter().any(|known| known.source == ConfigSource::ClusterDefault))
            });
            let set = |(name, value): &(String, String)| ConfigChange {
                name: name.clone(),
                op: ConfigOp::Set,
                value: Some(value.clone()),
            };
            missing.map(set).collect()
        };
        if changes.is_empty() {
            return self.defaults_settled(ctx);
        }
        let command = AlterConfigs { resource: ConfigResource::ClusterDefault, changes, replace: false };
        self.propose(ctx, command, DEFAULTS_MS, Purpose::Defaults);
    }

    /// Done or not: failing is worth a line, not a start.
    pub(super) fn defaults_settled(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.stage != Stage::Defaults {
            return;
        }
        self.life.stage = Stage::Serving;
        self.start_data_plane(ctx);
        ctx.note(|| "serves clients".to_owned());
        self.beat(ctx);
    }

    // Heartbeats.

    /// Reports to the leader.
    pub(super) fn beat(&mut self, ctx: &mut Ctx<'_>) {
        if self.life.pulse == Pulse::Asking || self.life.stage < Stage::Serving {
            return;
        }
        if let Pulse::Resting(Some(alarm)) = self.life.pulse {
            self.alarms.cancel(alarm);
        }
        let leader = self.leadership.leader;
        self.life.beat = (leader, self.life.wants_shutdown);
        let Some(leader) = leader else {
            // A new leader announces itself.
            self.life.pulse = Pulse::Resting(None);
            return;
        };
        self.life.pulse = Pulse::Asking;
        let offline = matches!(self.replicas.log_dir().state(), LogDirState::Offline { .. });
        let heartbeat = Heartbeat {
            node: self.node,
            broker_epoch: self.epoch,
            applied: self.quorum.applied(),
            wants_shutdown: self.life.wants_shutdown,
            offline_dirs: if offline { vec![self.directory] } else { Vec::new() },
        };
        if leader == self.node {
            self.tell_quorum(Input::Heartbeat(heartbeat, Reporter::Own));
        } else {
            let timeout = self.config.liveness.session_timeout_ms / 2;
            self.ask(ctx, leader, Request::Heartbeat(heartbeat, self.incarnation), timeout, About::Heartbeat);
        }
    }

    pub(super) fn on_beat_answered(&mut self, ctx: &mut Ctx<'_>, answer: Option<HeartbeatAnswer>) {
        if self.life.pulse != Pulse::Asking {
            return;
        }
        let mut pause = self.config.heartbeat_interval_ms;
        match answer {
            Some(answer) if answer.reply.stale_epoch && answer.other_process => {
                ctx.note(|| "another process is registered as this broker".to_owned());
                return ctx.exit(EXIT_SUPERSEDED);
            }
            Some(answer) if answer.reply.stale_epoch => {
                ctx.note(|| "the leader does not know this registration: registers again".to_owned());
                return self.begin_registration(ctx);
            }
            Some(answer) => {
                self.life.may_stop |= answer.reply.may_shut_down;
                let leaving = self.life.beat.1;
                if answer.reply.fenced || (leaving && !answer.reply.may_shut_down) {
                    pause = pause.min(EAGER_MS);
                }
            }
            None => pause = pause.min(EAGER_MS * 2),
        }
        let next = self.alarms.set(self.after(pause), Alarm::Life);
        self.life.pulse = Pulse::Resting(Some(next));
        if self.life.beat != (self.leadership.leader, self.life.wants_shutdown) {
            self.beat(ctx);
        } else {
            self.somebody_waits(ctx);
        }
        self.consider_leaving(ctx);
    }

    /// Another leader is known, or none.
    pub(super) fn leader_changed(&mut self, ctx: &mut Ctx<'_>) {
        if matches!(self.life.pulse, Pulse::Resting(_)) {
            self.beat(ctx);
        }
        self.consider_leaving(ctx);
    }

    /// This broker wants to stop.
    pub(super) fn tell_wish(&mut self, ctx: &mut Ctx<'_>) {
        if matches!(self.life.pulse, Pulse::Resting(_)) {
            self.beat(ctx);
        }
    }

    /// Tells the story of being let in and fenced.
    pub(super) fn note_standing(&mut self, ctx: &mut Ctx<'_>) {
        let fenced = {
            let state = self.state.read();
            let ours = state.broker(self.node).filter(|broker| broker.incarnation == self.incarnation);
            ours.map(|broker| broker.fenced)
        };
        if fenced != self.life.fenced {
            self.life.fenced = fenced;
            ctx.note(|| match fenced {
                Some(true) => "fenced".to_owned(),
                Some(false) => "unfenced".to_owned(),
                None => "not registered any more".to_owned(),
            });
        }
    }

    /// Reports at once when this broker has applied that another one is leaving: that one may stop when the leader knows
    /// that we know.
    pub(super) fn somebody_waits(&mut self, ctx: &mut Ctx<'_>) {
        if !matches!(self.life.pulse, Pulse::Resting(_)) {
            return;
        }
        let newest = {
            let state = self.state.read();
            let leaving = state.alive_brokers().filter(|broker| broker.node != self.node);
            leaving.filter_map(|broker| broker.shutting_down).max()
        };
        if let Some(newest) = newest.filter(|newest| *newest > self.life.told) {
            self.life.told = newest;
            self.beat(ctx);
        }
    }
}

impl PartialOrd for Stage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some((*self as u8).cmp(&(*other as u8)))
    }
}
