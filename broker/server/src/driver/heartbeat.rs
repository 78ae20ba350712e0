//! This broker's life in the cluster: registered by a committed record, kept alive by heartbeats, let go in order.
//!
//! `startup` calls [`Lifecycle::register`] once the local replica is a member, spawns [`Lifecycle::run`], and at a signal calls
//! [`Lifecycle::leave`]. The leader judges ([`chronik_core::controller::Liveness`]); this side only reports. A broker
//! whose registration belongs to another process stops: two processes must never act for one node.

use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{CommandResult, Endpoints, Heartbeat, METADATA_VERSION, RegisterBroker};
use chronik_model::{BrokerEpoch, ClusterId, DirectoryId, ErrorCode, NodeId, RaftIndex};
use chronik_node::quorum::Reign;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::Shared;
use super::clock::{mono_ms, wall_ms};
use super::contact::{Answered, Contact};
use super::inbox::Input;
use super::meta_client::Meta;
use crate::config::LifecycleConfig;
use crate::peer::control::ControlError;
use crate::peer::proto::{self, heartbeat_reply};
use crate::replication::meta::ProposeError;

/// Longest wait for one registration attempt.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Pause before another attempt.
const RETRY: Duration = Duration::from_millis(100);
/// Time between heartbeats while something is expected of the leader: unfencing, or permission to stop.
const EAGER: Duration = Duration::from_millis(20);
/// A broker that wants to stop waits no longer than this when there is no quorum that could let it.
const HOPELESS: Duration = Duration::from_millis(500);

/// Why this process must not go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    /// Another process acts for this node.
    #[error("another process is broker {node}: {detail}")]
    Superseded {
        /// This node.
        node: NodeId,
        /// Both addresses.
        detail: String,
    },
    /// The cluster is another one.
    #[error("the cluster refuses this broker: {0}")]
    Refused(String),
    /// The metadata replica has stopped.
    #[error("the metadata replica has stopped")]
    Stopped,
}

/// What is registered.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Our cluster.
    pub cluster_id: ClusterId,
    /// Our log directory.
    pub directory: DirectoryId,
    /// Where we are reached.
    pub endpoints: Endpoints,
    /// Our failure domain.
    pub rack: Option<String>,
    /// The epoch in the clean-shutdown marker (R11).
    pub previous_epoch: BrokerEpoch,
}

/// Answers whether our log directory is offline.
pub type OfflineCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// This broker's membership.
#[derive(Clone)]
pub struct Lifecycle {
    meta: Meta,
    config: LifecycleConfig,
    registration: Registration,
    /// Where we are reached now; begins as the registration says.
    endpoints: Arc<RwLock<Endpoints>>,
    offline: OfflineCheck,
    wants_shutdown: Arc<watch::Sender<bool>>,
    may_stop: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lifecycle").field("registration", &self.registration).finish_non_exhaustive()
    }
}

/// What the leader said.
enum Answer {
    /// `applied`: what it had applied, if it certainly still led; it may not know yet.
    Ok {
        fenced: bool,
        may_shut_down: bool,
        applied: Option<RaftIndex>,
    },
    Stale {
        epoch: BrokerEpoch,
        address: String,
        other_process: bool,
    },
    /// None in time; it may only be slow.
    Silence,
    /// Nobody that leads could be asked.
    Nothing,
}

/// Whether the leader's answer will soon be another. One without its disk stays fenced until it is started anew, and
/// could be eager for ever.
fn is_expected(fenced: bool, offline: bool, waits_to_stop: bool) -> bool {
    (fenced && !offline) || waits_to_stop
}

/// What the answer to a heartbeat means for the contact with the leader that was asked. `sent`: when, and how long a
/// session lasts from then.
fn note_contact(contact: &Contact, asked: Option<Reign>, sent: (u64, u64), answer: &Answer) {
    let (sent_ms, session_ms) = sent;
    match (answer, asked) {
        (&Answer::Ok { fenced, applied: Some(applied), .. }, Some(asked)) => {
            contact.answered(asked, Answered { sent_ms, session_ms, fenced, applied });
        }
        // The session, as it runs out, will tell.
        (Answer::Silence | Answer::Ok { fenced: false, .. }, Some(_)) => {}
        _ => contact.lost(mono_ms()),
    }
}

impl Lifecycle {
    /// A broker that is not registered yet.
    #[must_use]
    pub fn new(meta: Meta, config: LifecycleConfig, registration: Registration, offline: OfflineCheck) -> Self {
        Self {
            meta,
            config,
            endpoints: Arc::new(RwLock::new(registration.endpoints.clone())),
            registration,
            offline,
            wants_shutdown: Arc::new(watch::Sender::new(false)),
            may_stop: Arc::new(watch::Sender::new(false)),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.meta.shared()
    }

    /// Registers until the registration is committed and applied here. `progress` is told what it waits for.
    ///
    /// # Errors
    /// When this process must not go on.
    pub async fn register(&self, progress: impl Fn(String)) -> Result<BrokerEpoch, Fatal> {
        let node = self.shared().node;
        // The session of a predecessor has to expire first.
        let patience = 3 * self.config.session_timeout_ms + 10_000;
        let begin = mono_ms();
        loop {
            if let Some(detail) = self.shared().lasting_twin() {
                return Err(Fatal::Superseded { node, detail });
            }
            let command = RegisterBroker {
                node,
                incarnation: self.shared().incarnation,
                directories: vec![self.registration.directory],
                cluster_id: self.registration.cluster_id.clone(),
                endpoints: self.endpoints.read().clone(),
                rack: self.registration.rack.clone(),
                previous_broker_epoch: self.registration.previous_epoch,
                software_version: env!("CARGO_PKG_VERSION").to_owned(),
                metadata_version: METADATA_VERSION,
            };
            match self.meta.run(command.into(), ATTEMPT).await {
                Ok(CommandResult::Registered(epoch)) => {
                    self.shared().set_broker_epoch(epoch);
                    return Ok(epoch);
                }
                Ok(CommandResult::Error(error)) if error.code == ErrorCode::DuplicateBrokerRegistration => {
                    progress(error.message.clone());
                    if mono_ms() > begin + patience {
                        let detail = format!("{} (this process is at {})", error.message, self.address());
                        return Err(Fatal::Superseded { node, detail });
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Ok(CommandResult::Error(error)) => return Err(Fatal::Refused(error.message)),
                Ok(other) => return Err(Fatal::Refused(format!("unexpected answer to a registration: {other:?}"))),
                Err(ProposeError::TimedOut) => progress("waiting for the metadata quorum".into()),
                Err(ProposeError::Refused(problem)) => return Err(Fatal::Refused(problem)),
                Err(ProposeError::Stopped) => return Err(Fatal::Stopped),
            }
        }
    }

    /// We are reached elsewhere from now on: registers that, if it is not so registered already.
    ///
    /// # Errors
    /// When this process must not go on.
    pub async fn readdress(&self, endpoints: Endpoints) -> Result<(), Fatal> {
        let known = {
            let state = self.shared().state.read();
            let broker = state.broker(self.shared().node).filter(|b| b.incarnation == self.shared().incarnation);
            broker.is_some_and(|broker| broker.endpoints == endpoints)
        };
        endpoints.clone_into(&mut self.endpoints.write());
        if known {
            return Ok(());
        }
        self.register(|waits| tracing::info!(waits, "registering other addresses")).await.map(drop)
    }

    fn address(&self) -> String {
        let control = &self.registration.endpoints.control;
        format!("{}:{}", control.host, control.port)
    }

    /// Sends heartbeats until dropped.
    ///
    /// # Errors
    /// When this process must not go on.
    pub async fn run(&self) -> Fatal {
        let mut leadership = self.shared().leadership.subscribe();
        let mut wants_shutdown = self.wants_shutdown.subscribe();
        let mut told = RaftIndex(0);
        loop {
            let known = *leadership.borrow_and_update();
            let (leader, reign) = (known.leader, known.reign());
            let leaving = *wants_shutdown.borrow_and_update();
            let mut pause = Duration::from_millis(self.config.heartbeat_interval_ms);
            let mut kept_out = false;
            let sent_ms = mono_ms();
            let answer = tokio::select! {
                answer = self.beat(leader, leaving) => answer,
                // One that leads no more may not answer for long: ask who does.
                _ = leadership.wait_for(|l| l.reign() != reign) => continue,
                _ = wants_shutdown.wait_for(|wants| *wants != leaving) => continue,
            };
            let session_ms = self.config.session_timeout_ms;
            note_contact(&self.shared().contact, reign, (sent_ms, session_ms), &answer);
            match answer {
                Answer::Ok { fenced, may_shut_down, .. } => {
                    kept_out = fenced;
                    if may_shut_down {
                        self.may_stop.send_replace(true);
                    }
                    if is_expected(fenced, (self.offline)(), leaving && !may_shut_down) {
                        pause = pause.min(EAGER);
                    }
                }
                Answer::Stale { epoch, address, other_process: true } => {
                    let detail =
                        format!("one is registered at {address} with epoch {epoch}, this one is at {}", self.address());
                    return Fatal::Superseded { node: self.shared().node, detail };
                }
                Answer::Stale { .. } => {
                    tracing::warn!("the leader does not know this registration: registering again");
                    match self.register(|waits| tracing::info!(waits, "registering again")).await {
                        Ok(epoch) => tracing::info!(%epoch, "registered again"),
                        Err(fatal) => return fatal,
                    }
                    continue;
                }
                Answer::Silence | Answer::Nothing => pause = pause.min(EAGER * 2),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = leadership.wait_for(|l| l.reign() != reign) => {}
                _ = wants_shutdown.wait_for(|wants| *wants != leaving) => {}
                () = self.somebody_waits_for_us(&mut told) => {}
                () = self.let_in(), if kept_out => {}
            }
        }
    }

    /// Completes when this broker, which is fenced, has applied that it is not any more: the leader's word for that is
    /// worth asking for at once.
    async fn let_in(&self) {
        let shared = self.shared();
        let mut applied = shared.applied.subscribe();
        if shared.is_unfenced() {
            return std::future::pending().await;
        }
        while applied.changed().await.is_ok() {
            if shared.is_unfenced() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Completes when this broker has applied that another one is leaving: that one may stop when the leader knows that we
    /// know. `told` is the last such index.
    async fn somebody_waits_for_us(&self, told: &mut RaftIndex) {
        let shared = self.shared();
        let mut applied = shared.applied.subscribe();
        loop {
            let newest = {
                let state = shared.state.read();
                let leaving = state.alive_brokers().filter(|broker| broker.node != shared.node);
                leaving.filter_map(|broker| broker.shutting_down).max()
            };
            if let Some(newest) = newest.filter(|newest| *newest > *told) {
                *told = newest;
                return;
            }
            if applied.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn beat(&self, leader: Option<NodeId>, leaving: bool) -> Answer {
        let Some(leader) = leader else { return Answer::Nothing };
        let shared = self.shared();
        let timeout = Duration::from_millis(self.config.session_timeout_ms / 2);
        let offline_dirs = if (self.offline)() { vec![self.registration.directory] } else { Vec::new() };
        let (node, broker_epoch, applied) = (shared.node, shared.broker_epoch(), *shared.applied.borrow());
        if leader == node {
            let heartbeat = Heartbeat { node, broker_epoch, applied, wants_shutdown: leaving, offline_dirs };
            // An inbox that is full belongs to a thread that is slow.
            let Ok(answer) = self.meta.inbox().ask(|reply| Input::Heartbeat(heartbeat, reply)) else {
                return Answer::Silence;
            };
            return match answer.await {
                Ok(Some(reply)) if reply.stale_epoch => self.stale_here(),
                Ok(Some(reply)) => {
                    // A leader cut off believes for a while that it leads; a majority knows better. One that leaves is
                    // not ready anyhow, and does not wait.
                    let applied = if leaving { None } else { self.meta.read_index(timeout).await.ok() };
                    Answer::Ok { fenced: reply.fenced, may_shut_down: reply.may_shut_down, applied }
                }
                Ok(None) | Err(_) => Answer::Nothing,
            };
        }
        let request = proto::HeartbeatRequest {
            cluster_id: self.registration.cluster_id.as_str().to_owned(),
            node: node.0,
            incarnation: bytes::Bytes::copy_from_slice(&shared.incarnation.0),
            broker_epoch: broker_epoch.0,
            applied: applied.0,
            wants_shutdown: leaving,
            offline_directories: offline_dirs.iter().map(|d| bytes::Bytes::copy_from_slice(&d.0)).collect(),
            wall_ms: wall_ms(),
        };
        match self.meta.control().heartbeat(leader, request, timeout).await.map(|reply| reply.outcome) {
            Ok(Some(heartbeat_reply::Outcome::Ok(ok))) => {
                Answer::Ok { fenced: ok.fenced, may_shut_down: ok.may_shut_down, applied: Some(RaftIndex(ok.applied)) }
            }
            Ok(Some(heartbeat_reply::Outcome::Stale(stale))) => {
                let other_process = stale.incarnation.len() == 16 && stale.incarnation[..] != shared.incarnation.0;
                Answer::Stale { epoch: BrokerEpoch(stale.current_epoch), address: stale.address, other_process }
            }
            // It leads, and its inbox is full.
            Ok(Some(heartbeat_reply::Outcome::NotLeader(other))) if other.leader == leader.0 => Answer::Silence,
            Ok(Some(heartbeat_reply::Outcome::NotLeader(_)) | None) => Answer::Nothing,
            Err(error) => {
                tracing::debug!(%leader, %error, "heartbeat not answered");
                if matches!(error, ControlError::Timeout(_)) { Answer::Silence } else { Answer::Nothing }
            }
        }
    }

    fn stale_here(&self) -> Answer {
        let shared = self.shared();
        let state = shared.state.read();
        match state.broker(shared.node) {
            Some(broker) => Answer::Stale {
                epoch: broker.epoch,
                address: format!("{}:{}", broker.endpoints.control.host, broker.endpoints.control.port),
                other_process: broker.incarnation != shared.incarnation,
            },
            None => Answer::Stale { epoch: BrokerEpoch::NONE, address: String::new(), other_process: false },
        }
    }

    /// Leaves in order: leaderships of partitions move, then that of the quorum. Gives up waiting at the configured time.
    /// Whether the leader gave its permission.
    pub async fn leave(&self) -> bool {
        let timeout = Duration::from_millis(self.config.controlled_shutdown_timeout_ms);
        if self.shared().broker_epoch() == BrokerEpoch::NONE {
            return false;
        }
        self.wants_shutdown.send_replace(true);
        let mut may_stop = self.may_stop.subscribe();
        let allowed = tokio::select! {
            allowed = tokio::time::timeout(timeout, may_stop.wait_for(|may| *may)) => allowed.is_ok(),
            () = self.hopeless() => false,
        };
        if !allowed {
            tracing::warn!("stopping without the leader's permission: leaderships may move only when we are missed");
        }
        self.hand_over_quorum().await;
        allowed
    }

    /// Completes when no quorum could let this broker go: nobody leads, or it leads nobody, for a while.
    async fn hopeless(&self) {
        let mut since = None;
        loop {
            let leadership = *self.shared().leadership.borrow();
            let led = leadership.leader.is_some_and(|leader| leader != self.shared().node);
            if led || self.shared().majority_connected() {
                since = None;
            } else if since.get_or_insert_with(tokio::time::Instant::now).elapsed() >= HOPELESS {
                return;
            }
            // Connections are known by the tick, so looking by the tick misses nothing.
            tokio::time::sleep(HOPELESS / 5).await;
        }
    }

    async fn hand_over_quorum(&self) {
        let me = self.shared().node;
        let mut leadership = self.shared().leadership.subscribe();
        if leadership.borrow().leader != Some(me) {
            return;
        }
        let Ok(answer) = self.meta.inbox().ask(|reply| Input::Transfer(None, reply)) else { return };
        match answer.await {
            Ok(Ok(to)) => {
                let moved = leadership.wait_for(|l| l.leader.is_some_and(|leader| leader != me));
                match tokio::time::timeout(Duration::from_secs(2), moved).await {
                    Ok(_) => tracing::info!(%to, "leadership of the metadata quorum handed over"),
                    Err(_) => tracing::warn!(%to, "leadership of the metadata quorum was not taken over in time"),
                }
            }
            Ok(Err(error)) => tracing::info!(%error, "leadership of the metadata quorum is not handed over"),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_is_slow_is_lost_with_its_session_and_one_that_says_no_at_once() {
        const REIGN: Reign = (NodeId(2), 7);
        let begin = mono_ms();
        let ok = |applied| Answer::Ok { fenced: false, may_shut_down: false, applied };
        let stale = Answer::Stale { epoch: BrokerEpoch(3), address: String::new(), other_process: false };
        // Without an index: the leader itself, to whom a majority did not confirm in time that it leads.
        for (answer, lost) in [(Answer::Silence, false), (ok(None), false), (Answer::Nothing, true), (stale, true)] {
            let contact = Contact::default();
            contact.led_by(Some(REIGN), begin);
            note_contact(&contact, Some(REIGN), (begin, 3000), &ok(Some(RaftIndex(9))));
            assert_eq!(contact.check(begin + 1500, RaftIndex(9)), Ok(()));
            note_contact(&contact, Some(REIGN), (begin + 1000, 3000), &answer);
            assert_eq!(contact.check(begin + 2500, RaftIndex(9)).is_err(), lost);
            assert!(contact.check(begin + 3001, RaftIndex(9)).is_err());
        }
    }
}
