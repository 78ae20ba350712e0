//! Drives the metadata quorum: the Raft thread, everything that proposes to it, and this broker's own life in the cluster.
//!
//! [`raft_thread`] drives `chronik_node`'s quorum, which owns the replica and applies what is committed to
//! [`Shared::state`]. [`inbox`] is the only way to it; the transport fills it too. [`meta_client`] proposes and waits, here or at the leader. [`control`] answers the
//! questions of other brokers. [`heartbeat`] registers this broker, keeps its session and lets it go in order; [`join`]
//! makes a broker that founded nothing a member.
//!
//! What never happens: the Raft thread waits for anybody but its disk; metadata changes on another way than a committed
//! entry; a proposal is applied twice.

pub mod changes;
pub mod clock;
pub mod contact;
pub mod control;
pub mod heartbeat;
mod host;
pub mod inbox;
pub mod join;
pub mod meta_client;
pub mod raft_thread;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use chronik_consensus::{NodeStatus, Role};
use chronik_core::controller::MetadataState;
use chronik_model::{BrokerEpoch, ClusterId, IncarnationId, NodeId, RaftIndex};
pub use chronik_node::quorum::Leadership;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use changes::ChangeFeed;
use contact::Contact;

/// What the Raft thread shares with everybody else. Written by the Raft thread alone, but for what is marked.
#[derive(Debug)]
pub struct Shared {
    /// This broker.
    pub node: NodeId,
    /// This run of its process.
    pub incarnation: IncarnationId,
    /// Voters this broker was founded with; empty for a joiner.
    pub bootstrap_voters: Vec<NodeId>,
    /// The committed metadata.
    pub state: Arc<RwLock<MetadataState>>,
    /// Last applied index; changes after the state did.
    pub applied: watch::Sender<RaftIndex>,
    /// Who leads.
    pub leadership: watch::Sender<Leadership>,
    /// The replica's own account, at most a tick old; `None` before the thread runs.
    pub status: ArcSwapOption<NodeStatus>,
    /// Changes for the replica manager.
    pub changes: ChangeFeed,
    /// Why the replica stopped, if it did.
    pub failure: Mutex<Option<String>>,
    /// It stopped because its disk is full: a process that starts anew can go on once there is space.
    pub out_of_space: tokio::sync::Notify,
    /// Counters.
    pub counters: Counters,
    /// The epoch of this broker's registration; written by [`heartbeat`].
    epoch: AtomicI64,
    /// Our cluster, when known; written by `startup` and [`join`].
    pub cluster_id: RwLock<Option<ClusterId>>,
    /// Whether the controller answers; written by [`heartbeat`] too.
    pub contact: Contact,
    /// Another process seems to have our node id.
    pub twin: Mutex<Option<Twin>>,
    /// Peers whose connection broke and has not come back, with the (monotonic) moment it broke.
    lost: Mutex<BTreeMap<NodeId, u64>>,
}

/// Another process with our node id, as peers tell. A peer may take the connection of our own dead predecessor for one
/// until its keepalive notices, so only a lasting complaint counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Twin {
    /// Names both addresses.
    pub message: String,
    /// First and last complaint, monotonic.
    pub seen_ms: (u64, u64),
}

/// Counters of the Raft thread.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries applied since the start.
    pub entries_applied: AtomicU64,
    /// Leader changes seen.
    pub leader_changes: AtomicU64,
    /// Proposals waiting for their result.
    pub pending_proposals: AtomicU64,
    /// When the oldest of them was made, monotonic; 0 = none.
    pub oldest_proposal_ms: AtomicU64,
    /// Numbers of proposals of this run.
    pub proposals: AtomicU64,
}

impl Shared {
    /// State before anything was recovered.
    #[must_use]
    pub fn new(node: NodeId, incarnation: IncarnationId, bootstrap_voters: Vec<NodeId>) -> Arc<Self> {
        Arc::new(Self {
            node,
            incarnation,
            bootstrap_voters,
            state: Arc::new(RwLock::new(MetadataState::new())),
            applied: watch::Sender::new(RaftIndex(0)),
            leadership: watch::Sender::new(Leadership { leader: None, term: 0, role: Role::Follower }),
            status: ArcSwapOption::empty(),
            changes: ChangeFeed::default(),
            failure: Mutex::default(),
            out_of_space: tokio::sync::Notify::new(),
            counters: Counters::default(),
            epoch: AtomicI64::new(BrokerEpoch::NONE.0),
            cluster_id: RwLock::default(),
            contact: Contact::default(),
            twin: Mutex::default(),
            lost: Mutex::default(),
        })
    }

    /// Peers that were lost so lately that the metadata may be about to say so: unless they come back at once, they are
    /// fenced as soon as their connections are refused, and their leaderships move.
    #[must_use]
    pub fn in_doubt(&self) -> Vec<NodeId> {
        let lost = self.lost_within(1000);
        if lost.is_empty() {
            return lost;
        }
        let state = self.state.read();
        lost.into_iter().filter(|peer| state.broker(*peer).is_some_and(|broker| !broker.fenced)).collect()
    }

    /// Peers whose connection broke less than `ms` milliseconds ago and has not come back.
    #[must_use]
    pub fn lost_within(&self, ms: u64) -> Vec<NodeId> {
        let now = clock::mono_ms();
        let lost = self.lost.lock();
        lost.iter().filter(|(_, at)| now.saturating_sub(**at) < ms).map(|(peer, _)| *peer).collect()
    }

    /// The epoch of this broker's registration.
    #[must_use]
    pub fn broker_epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.epoch.load(Ordering::Acquire))
    }

    pub(crate) fn set_broker_epoch(&self, epoch: BrokerEpoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// A number for a proposal of this run.
    pub(crate) fn next_proposal(&self) -> u64 {
        self.counters.proposals.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A peer refused us because of another process with our node id.
    fn twin_seen(&self, message: String) {
        let now = clock::mono_ms();
        let mut twin = self.twin.lock();
        let first = twin.as_ref().map_or(now, |twin| twin.seen_ms.0);
        *twin = Some(Twin { message, seen_ms: (first, now) });
    }

    /// The lasting complaint about another process with our node id, if there is one.
    #[must_use]
    pub fn lasting_twin(&self) -> Option<String> {
        const LASTING_MS: u64 = 12_000;
        let twin = self.twin.lock();
        twin.as_ref().filter(|twin| twin.seen_ms.1 - twin.seen_ms.0 >= LASTING_MS).map(|twin| twin.message.clone())
    }

    /// Whether the metadata knows this run of this broker as unfenced.
    #[must_use]
    pub fn is_unfenced(&self) -> bool {
        let epoch = self.broker_epoch();
        self.state.read().broker(self.node).is_some_and(|broker| broker.epoch == epoch && !broker.fenced)
    }

    /// Whether a majority of the voters can be talked to; this broker counts as one when it votes.
    #[must_use]
    pub fn majority_connected(&self) -> bool {
        let status = self.status.load();
        let Some(status) = status.as_ref() else { return false };
        let reached = status.voters.iter().filter(|id| **id == self.node || status.connected.contains(id)).count();
        reached > status.voters.len() / 2
    }

    /// Why this broker is not ready for clients, if so.
    ///
    /// # Errors
    /// What is missing, in one sentence.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(failure) = &*self.failure.lock() {
            return Err(format!("the metadata replica has stopped: {failure}"));
        }
        let leadership = *self.leadership.borrow();
        if leadership.leader.is_none() {
            return Err("no leader of the metadata quorum is known".into());
        }
        // A leader learns only after an election timeout that it leads nobody any more; its connections know at once.
        if leadership.role == Role::Leader && !self.majority_connected() {
            return Err("leads the metadata quorum, but is not connected to a majority of the voters".into());
        }
        let applied = *self.applied.borrow();
        let state = self.state.read();
        let epoch = self.broker_epoch();
        match state.broker(self.node) {
            _ if epoch == BrokerEpoch::NONE => Err("not registered yet".into()),
            None => Err("not registered yet".into()),
            Some(broker) if broker.epoch != epoch => Err("the registration is not applied yet".into()),
            Some(broker) if broker.fenced => Err("fenced: the leader has not let this broker in yet".into()),
            // All of this may be old: it is what this broker knew when it was last told something.
            Some(_) => self.contact.check(clock::mono_ms(), applied),
        }
    }
}
