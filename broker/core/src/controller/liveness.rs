//! Which brokers are alive, decided by the Raft leader alone and in memory: sessions, fast fencing, unfencing,
//! controlled shutdown, periodic balance.
//!
//! The Raft leader's driver calls [`Liveness::become_leader`] once its own term's first entry is applied, then
//! [`Liveness::on_heartbeat`] and [`Liveness::on_connection_refused`] as they happen, and [`Liveness::tick`] after each of
//! them, after each applied entry and at [`Liveness::next_deadline`]; it proposes the commands that tick returns, and
//! calls [`Liveness::resign`] when it stops leading. What is decided here becomes true only by a committed command; the
//! epoch in each of them keeps a late one from hitting a newer registration.

use std::collections::BTreeMap;

use chronik_model::{BrokerEpoch, DirectoryId, NodeId, RaftIndex, mutant};

use super::command::{
    BeginControlledShutdown, Command, ElectLeaders, ElectionType, FenceBroker, OfflineDirs, UnfenceBroker,
};
use super::state::{Broker, MetadataState};

/// Times and thresholds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LivenessConfig {
    /// A broker not heard of for so long is fenced.
    pub session_timeout_ms: u64,
    /// A proposal without visible effect is made again after so long.
    pub proposal_retry_ms: u64,
    /// Heartbeats so soon after a refused connection were sent before the process died.
    pub refused_quarantine_ms: u64,
    /// How often preferred leaders are considered.
    pub rebalance_interval_ms: u64,
    /// Preferred leaders are elected when one broker misses more than this share of its leaderships.
    pub imbalance_percent: usize,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            session_timeout_ms: 3_000,
            proposal_retry_ms: 1_000,
            refused_quarantine_ms: 1_000,
            rebalance_interval_ms: 300_000,
            imbalance_percent: 10,
        }
    }
}

/// What a broker says of itself every half second.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The broker.
    pub node: NodeId,
    /// Its registration.
    pub broker_epoch: BrokerEpoch,
    /// The last metadata entry that it applied.
    pub applied: RaftIndex,
    /// It wants to stop.
    pub wants_shutdown: bool,
    /// Its failed log directories.
    pub offline_dirs: Vec<DirectoryId>,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatReply {
    /// The broker is fenced.
    pub fenced: bool,
    /// The broker may stop now: others have taken over and know it.
    pub may_shut_down: bool,
    /// The epoch is not the registered one; the heartbeat did not count. The broker has to register (again).
    pub stale_epoch: bool,
}

#[derive(Clone, Debug)]
struct Session {
    epoch: BrokerEpoch,
    deadline: u64,
    /// A heartbeat came in this leadership.
    heard: bool,
    applied: RaftIndex,
    wants_shutdown: bool,
    offline_dirs: Vec<DirectoryId>,
    may_shut_down: bool,
    /// The process was found dead; heartbeats before this time do not count.
    refused_until: Option<u64>,
    /// What was proposed and shows no effect yet, and when to propose it again.
    pending: Option<(Command, u64)>,
}

impl Session {
    fn fresh(epoch: BrokerEpoch, deadline: u64) -> Self {
        Self {
            epoch,
            deadline,
            heard: false,
            applied: RaftIndex(0),
            wants_shutdown: false,
            offline_dirs: Vec::new(),
            may_shut_down: false,
            refused_until: None,
            pending: None,
        }
    }

    fn wanted(&self, broker: &Broker, now_ms: u64, timeout_ms: u64) -> Option<Command> {
        let (node, broker_epoch) = (broker.node, broker.epoch);
        let lost_dirs: Vec<DirectoryId> =
            self.offline_dirs.iter().copied().filter(|directory| !broker.offline_dirs.contains(directory)).collect();
        if broker.fenced {
            let caught_up = u64::try_from(broker_epoch.0).is_ok_and(|registered| self.applied.0 >= registered);
            let well = self.heard && self.refused_until.is_none() && now_ms < self.deadline && caught_up;
            let stays = !self.wants_shutdown
                && broker.shutting_down.is_none()
                && self.offline_dirs.is_empty()
                && broker.offline_dirs.is_empty();
            return (well && stays).then(|| UnfenceBroker { node, broker_epoch }.into());
        }
        let reason = if self.refused_until.is_some() {
            Some("its connections are refused: the process is gone".to_owned())
        } else if now_ms >= self.deadline {
            Some(format!("no heartbeat for {timeout_ms} ms"))
        } else if self.may_shut_down {
            Some("it was allowed to stop".to_owned())
        } else {
            None
        };
        if let Some(reason) = reason.filter(|_| !mutant!(FenceNobody)) {
            return Some(FenceBroker { node, broker_epoch, reason }.into());
        }
        if !lost_dirs.is_empty() && lost_dirs.iter().all(|directory| broker.directories.contains(directory)) {
            return Some(OfflineDirs { node, broker_epoch, directories: lost_dirs }.into());
        }
        let begin = self.wants_shutdown && broker.shutting_down.is_none();
        begin.then(|| BeginControlledShutdown { node, broker_epoch }.into())
    }
}

/// The Raft leader's view of who is alive.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    config: LivenessConfig,
    leading: bool,
    sessions: BTreeMap<NodeId, Session>,
    next_rebalance: u64,
}

impl Liveness {
    /// Not leading yet.
    #[must_use]
    pub fn new(config: LivenessConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Whether this broker drives liveness now.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// Starts over: every known broker gets a fresh session, because heartbeats went elsewhere until now (KAFKA-18138).
    pub fn become_leader(&mut self, now_ms: u64, state: &MetadataState) {
        self.leading = true;
        self.sessions.clear();
        self.next_rebalance = now_ms.saturating_add(self.config.rebalance_interval_ms);
        self.sync(now_ms, state);
        if mutant!(NoFreshSession) {
            self.sessions.values_mut().for_each(|session| session.deadline = now_ms);
        }
    }

    /// Forgets everything.
    pub fn resign(&mut self) {
        self.leading = false;
        self.sessions.clear();
    }

    /// Gives each registration a session and drops those of the past.
    fn sync(&mut self, now_ms: u64, state: &MetadataState) {
        let deadline = now_ms.saturating_add(self.config.session_timeout_ms);
        self.sessions.retain(|node, session| state.broker(*node).is_some_and(|broker| broker.epoch == session.epoch));
        for broker in state.brokers() {
            self.sessions.entry(broker.node).or_insert_with(|| Session::fresh(broker.epoch, deadline));
        }
    }

    /// A broker reports; `None` when this broker does not lead.
    pub fn on_heartbeat(
        &mut self,
        now_ms: u64,
        heartbeat: &Heartbeat,
        state: &MetadataState,
    ) -> Option<HeartbeatReply> {
        if !self.leading {
            return None;
        }
        self.sync(now_ms, state);
        let known = state.broker(heartbeat.node).filter(|broker| broker.epoch == heartbeat.broker_epoch);
        let (Some(broker), Some(session)) = (known, self.sessions.get_mut(&heartbeat.node)) else {
            return Some(HeartbeatReply { fenced: true, may_shut_down: false, stale_epoch: true });
        };
        if session.refused_until.is_some_and(|until| now_ms < until) {
            return Some(HeartbeatReply { fenced: true, may_shut_down: false, stale_epoch: false });
        }
        session.refused_until = None;
        session.heard = true;
        session.deadline = now_ms.saturating_add(self.config.session_timeout_ms);
        session.applied = heartbeat.applied;
        session.wants_shutdown = heartbeat.wants_shutdown;
        session.offline_dirs.clone_from(&heartbeat.offline_dirs);
        let may_shut_down = heartbeat.wants_shutdown && self.may_shut_down(now_ms, broker, state);
        if let Some(session) = self.sessions.get_mut(&heartbeat.node) {
            session.may_shut_down = may_shut_down;
        }
        Some(HeartbeatReply { fenced: broker.fenced, may_shut_down, stale_epoch: false })
    }

    /// Others lead what they can lead, and every live broker has seen that they do.
    fn may_shut_down(&self, now_ms: u64, broker: &Broker, state: &MetadataState) -> bool {
        if broker.fenced {
            return true;
        }
        let Some(since) = broker.shutting_down else { return false };
        let others_know = state.alive_brokers().filter(|other| other.node != broker.node).all(|other| {
            self.sessions.get(&other.node).is_none_or(|session| now_ms >= session.deadline || session.applied >= since)
        });
        let heir = |replicas: &[NodeId]| replicas.iter().any(|node| *node != broker.node && state.is_active(*node));
        others_know && state.partitions_led_by(broker.node).all(|(_, _, partition)| !heir(&partition.replicas))
    }

    /// The broker's port refuses connections: the process is gone, no need to wait for the session.
    pub fn on_connection_refused(&mut self, now_ms: u64, node: NodeId, state: &MetadataState) {
        if !self.leading {
            return;
        }
        self.sync(now_ms, state);
        if let Some(session) = self.sessions.get_mut(&node) {
            session.refused_until = Some(now_ms.saturating_add(self.config.refused_quarantine_ms));
        }
    }

    /// The proposal of `command` failed; it may be made again at once.
    pub fn on_proposal_failed(&mut self, command: &Command) {
        for session in self.sessions.values_mut() {
            if session.pending.as_ref().is_some_and(|(pending, _)| pending == command) {
                session.pending = None;
            }
        }
    }

    /// The commands to propose now. Each is returned once, and again only when it shows no effect for a while.
    pub fn tick(&mut self, now_ms: u64, state: &MetadataState) -> Vec<Command> {
        if !self.leading {
            return Vec::new();
        }
        self.sync(now_ms, state);
        let mut commands = Vec::new();
        for (node, session) in &mut self.sessions {
            let Some(broker) = state.broker(*node) else { continue };
            let wanted = session.wanted(broker, now_ms, self.config.session_timeout_ms);
            let waits = |command: &Command| {
                session.pending.as_ref().is_some_and(|(pending, retry)| pending == command && now_ms < *retry)
            };
            match wanted {
                Some(command) if !waits(&command) => {
                    let retry = now_ms.saturating_add(self.config.proposal_retry_ms);
                    session.pending = Some((command.clone(), retry));
                    commands.push(command);
                }
                Some(_) => {}
                None => session.pending = None,
            }
        }
        if now_ms >= self.next_rebalance {
            self.next_rebalance = now_ms.saturating_add(self.config.rebalance_interval_ms);
            if self.imbalanced(state) {
                commands.push(ElectLeaders { election: ElectionType::Preferred, partitions: Vec::new() }.into());
            }
        }
        commands
    }

    /// Whether some broker could lead more of what it is preferred for than is tolerated.
    fn imbalanced(&self, state: &MetadataState) -> bool {
        let mut shares: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for (_, _, partition) in state.partitions() {
            let Some(preferred) = partition.replicas.first().copied().filter(|node| state.is_active(*node)) else {
                continue;
            };
            let (all, missed) = shares.entry(preferred).or_default();
            *all += 1;
            *missed += usize::from(partition.leader != Some(preferred) && partition.isr.contains(&preferred));
        }
        shares.values().any(|(all, missed)| missed * 100 > all * self.config.imbalance_percent)
    }

    /// When [`Liveness::tick`] has something to do without any event; `None` = only after an event.
    #[must_use]
    pub fn next_deadline(&self, now_ms: u64, state: &MetadataState) -> Option<u64> {
        if !self.leading {
            return None;
        }
        let of_brokers = state.brokers().filter_map(|broker| {
            let Some(session) = self.sessions.get(&broker.node).filter(|session| session.epoch == broker.epoch) else {
                return Some(now_ms);
            };
            match (session.wanted(broker, now_ms, self.config.session_timeout_ms), &session.pending) {
                (Some(wanted), Some((pending, retry))) if wanted == *pending => Some(*retry),
                (Some(_), _) => Some(now_ms),
                (None, _) => (!broker.fenced).then_some(session.deadline),
            }
        });
        of_brokers.chain([self.next_rebalance]).min()
    }
}
