//! The owner of the metadata replica: the only writer of the metadata state, and who answers everybody that waits for it.
//!
//! Driven by one caller (a thread of the server, an event of the simulator), which for ever does:
//!
//! ```text
//! wait for inputs until quorum.wake_at(now)
//! quorum.handle(&mut host, now, input)      // each input, in the order it came; changes memory only
//! quorum.turn(&mut host, now)?              // tick, make durable, send, apply, answer, drive the sessions of brokers
//! ```
//!
//! The order of durability is in one place, `Quorum::round`. What never happens: a panic on anything received; a wait
//! for anybody but the disk; a message, answer or applied entry that promises what is not durable; a promise after a
//! storage failure. [`Quorum::turn`] then answers everybody who waits, and [`Quorum::handle`] everybody who still comes.

mod apply;
mod host;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{
    MembershipError, NodeStatus, Outcome, ProposalToken, ProposeError, ReadToken, Recovered, Replica, Role,
    StorageFailed, TransferError, Waiters,
};
use chronik_core::controller::{Command, Liveness, MetadataState};
use chronik_log::disk::Disk;
use chronik_model::{IncarnationId, NodeId, RaftIndex, Term};
use parking_lot::RwLock;

pub use crate::Now;
pub use host::{Host, Input, Leadership, ProposeAnswer, Reign};

/// Most proposals that wait, and most reads.
const MAX_WAITING: usize = 65_536;
/// A pause between two turns after which the sessions of brokers count anew: the machine, the process or its disk
/// stood still, and what the brokers said meanwhile may not have been read yet.
const STOOD_STILL_MS: u64 = 1_000;

/// Who waits for an entry.
#[allow(clippy::large_enum_variant, reason = "liveness commands are few")]
enum Waiter<H: Host> {
    Client(H::Propose),
    Membership(H::Membership),
    Liveness(Command),
}

/// What a quorum is made of.
pub struct Parts<D: Disk + Clone> {
    /// The recovered replica.
    pub replica: Replica<D>,
    /// The state that it applies to; others read it. Holds what [`restore`] put there.
    pub state: Arc<RwLock<MetadataState>>,
    /// Last index that is in `state`, as [`restore`] said.
    pub applied: RaftIndex,
    /// This run of this broker.
    pub incarnation: IncarnationId,
    /// Not leading yet.
    pub liveness: Liveness,
}

impl<D: Disk + Clone> fmt::Debug for Parts<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// See the module's documentation.
pub struct Quorum<D: Disk + Clone, H: Host> {
    replica: Replica<D>,
    state: Arc<RwLock<MetadataState>>,
    applied: RaftIndex,
    node: NodeId,
    incarnation: IncarnationId,
    liveness: Liveness,
    waiters: Waiters<Waiter<H>>,
    /// When the proposal at an index was made.
    since: BTreeMap<RaftIndex, u64>,
    reads: Vec<(ReadToken, H::Read)>,
    ready_reads: Vec<(RaftIndex, H::Read)>,
    leading: Option<Term>,
    /// Peers whose process is gone for certain: their connections broke and were refused since.
    gone: BTreeSet<NodeId>,
    /// When the last turn looked at the sessions.
    awake_ms: u64,
    commands_applied: u64,
    failure: Option<StorageFailed>,
}

impl<D: Disk + Clone, H: Host> fmt::Debug for Quorum<D, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quorum").field("node", &self.node).field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl<D: Disk + Clone, H: Host> Quorum<D, H> {
    /// A quorum that starts now. Tells `host` the addresses that the restored state knows.
    pub fn new(parts: Parts<D>, host: &mut H, now: Now) -> Self {
        let node = parts.replica.status().node;
        let quorum = Self {
            replica: parts.replica,
            state: parts.state,
            applied: parts.applied,
            node,
            incarnation: parts.incarnation,
            liveness: parts.liveness,
            waiters: Waiters::new(),
            since: BTreeMap::new(),
            reads: Vec::new(),
            ready_reads: Vec::new(),
            leading: None,
            gone: BTreeSet::new(),
            awake_ms: now.mono_ms,
            commands_applied: 0,
            failure: None,
        };
        quorum.learn_addresses(host);
        quorum
    }

    /// The replica, to look at.
    #[must_use]
    pub fn replica(&self) -> &Replica<D> {
        &self.replica
    }

    /// The replica's own account.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.replica.status()
    }

    /// The metadata as of the last entry applied.
    #[must_use]
    pub fn state(&self) -> &Arc<RwLock<MetadataState>> {
        &self.state
    }

    /// The last index applied.
    #[must_use]
    pub fn applied(&self) -> RaftIndex {
        self.applied
    }

    /// Commands applied since the start.
    #[must_use]
    pub fn commands_applied(&self) -> u64 {
        self.commands_applied
    }

    /// Whether this broker decides now which brokers are alive.
    #[must_use]
    pub fn drives_liveness(&self) -> bool {
        self.liveness.is_leading()
    }

    /// Why it stopped, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageFailed> {
        self.failure.as_ref()
    }

    /// How many wait for an entry, and since when the one who waits longest does.
    #[must_use]
    pub fn waiting(&self) -> (usize, Option<u64>) {
        (self.waiters.len(), self.since.values().min().copied())
    }

    /// When the next turn is due if no input comes, by the clock of [`Now::mono_ms`]; not after `now_ms` when it is due
    /// already, `u64::MAX` when there is none because the replica stopped.
    #[must_use]
    pub fn wake_at(&self, now_ms: u64) -> u64 {
        if self.failure.is_some() {
            return u64::MAX;
        }
        if self.replica.has_ready() {
            return now_ms;
        }
        let tick = self.replica.next_tick_ms();
        if !self.liveness.is_leading() {
            return tick;
        }
        let deadline = self.liveness.next_deadline(now_ms, &self.state.read());
        // A deadline that has passed was served by the last turn; what it proposed needs events, not spinning.
        tick.min(deadline.unwrap_or(u64::MAX).max(now_ms + 1))
    }

    /// Takes an input. Nothing of it is durable, sent or answered as done before [`Quorum::turn`].
    pub fn handle(&mut self, host: &mut H, now: Now, input: Input<H>) {
        if self.failure.is_some() {
            return refuse(host, input);
        }
        match input {
            Input::Message(message) => self.replica.step(message),
            Input::PeerConnected { peer, leader } => {
                self.gone.remove(&peer);
                self.replica.peer_connected(peer, leader);
            }
            Input::PeerLost(peer) => self.replica.peer_lost(peer, false),
            Input::PeerUnreachable { peer, gone } => {
                self.replica.peer_lost(peer, gone);
                if gone {
                    self.gone.insert(peer);
                    self.liveness.on_connection_refused(now.mono_ms, peer, &self.state.read());
                }
            }
            Input::SnapshotSent { peer, delivered } => self.replica.report_snapshot(peer, delivered),
            Input::Propose(envelope, asker) => self.propose(host, now, envelope, asker),
            Input::ReadIndex(asker) => self.read(host, asker),
            Input::Membership(change, asker) => match self.replica.change_membership(change) {
                Ok(token) => {
                    tracing::info!(?change, index = %token.index, "membership change proposed");
                    self.wait(host, now, token, Waiter::Membership(asker));
                }
                Err(error) => host.answer_membership(asker, Err(error)),
            },
            Input::Transfer(to, asker) => host.answer_transfer(asker, self.replica.transfer_leader(to)),
            Input::Heartbeat(heartbeat, asker) => {
                let answer = self.liveness.on_heartbeat(now.mono_ms, &heartbeat, &self.state.read());
                host.answer_heartbeat(asker, answer);
            }
        }
    }

    fn propose(&mut self, host: &mut H, now: Now, envelope: Bytes, asker: H::Propose) {
        if !host.wants_propose(&asker) {
            return;
        }
        if self.waiters.len() >= MAX_WAITING {
            return host.answer_propose(asker, ProposeAnswer::Dropped);
        }
        match self.replica.propose(envelope) {
            Ok(token) => {
                tracing::debug!(index = %token.index, term = %token.term, "proposal appended");
                self.wait(host, now, token, Waiter::Client(asker));
            }
            Err(error) => {
                let answer = match error {
                    ProposeError::NotLeader { leader } => ProposeAnswer::NotLeader(leader),
                    ProposeError::Dropped => ProposeAnswer::Dropped,
                    ProposeError::TooLarge { .. } => ProposeAnswer::Refused(error.to_string()),
                    ProposeError::Stopped => ProposeAnswer::Stopped,
                };
                host.answer_propose(asker, answer);
            }
        }
    }

    fn read(&mut self, host: &mut H, asker: H::Read) {
        if self.ready_reads.len() >= MAX_WAITING {
            return host.answer_read(asker, None);
        }
        match self.replica.read_index() {
            Ok(token) => self.reads.push((token, asker)),
            Err(error) => {
                tracing::debug!(%error, "a read index was not asked for");
                host.answer_read(asker, None);
            }
        }
    }

    fn wait(&mut self, host: &mut H, now: Now, token: ProposalToken, waiter: Waiter<H>) {
        self.since.insert(token.index, now.mono_ms);
        if let Some(earlier) = self.waiters.wait(token, waiter) {
            self.settle(host, earlier, Outcome::Lost, None);
        }
    }

    /// Does what is due. What it proposes at its end is made durable by the next turn, which is then due at once.
    ///
    /// # Errors
    /// When the storage failed, or a snapshot cannot be read. That is final: everybody who waited was answered, and every
    /// later turn says the same.
    pub fn turn(&mut self, host: &mut H, now: Now) -> Result<(), StorageFailed> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let done = self.advance(host, now);
        if let Err(failure) = &done {
            self.stop(host, failure);
        }
        done
    }

    fn advance(&mut self, host: &mut H, now: Now) -> Result<(), StorageFailed> {
        self.replica.tick(now.mono_ms);
        while self.replica.has_ready() {
            self.round(host, now)?;
        }
        self.notice_standstill(now);
        self.drive_liveness(host, now);
        Ok(())
    }

    /// The order of durability, all of it.
    fn round(&mut self, host: &mut H, now: Now) -> Result<(), StorageFailed> {
        let mut unsent = BTreeSet::new();
        let mut send = |host: &mut H, message: RaftMessage| {
            let to = node_of(message.to);
            if !host.send(message) {
                unsent.insert(to);
            }
        };
        // 1. What a leader says before its own disk has it: others may store entries first, it does not count itself yet.
        // 2. Entries, vote and term become durable; when that fails nothing below happens.
        let effects = self.replica.ready(|message| send(host, message))?;
        // 3. What promises them: acknowledgements, votes.
        for message in effects.messages {
            send(host, message);
        }
        for snapshot in effects.snapshots {
            host.send_snapshot(snapshot);
        }
        for peer in unsent {
            self.replica.report_unreachable(peer);
        }
        // 4. The role before what is applied in it; a state image before the entries after it.
        if let Some(change) = effects.role {
            self.role_changed(host, Leadership { leader: change.leader, term: change.term.0, role: change.role });
        }
        if let Some(image) = effects.install {
            self.install(host, image.index, &image.data)?;
        }
        // 5. What is committed is applied, and each who waited for an entry is answered once it is.
        self.apply_all(host, now, effects.committed)?;
        // 6. Reads, once the state has what they must see.
        self.reads_answered(effects.reads);
        self.serve_reads(host);
        if let Some(members) = effects.membership {
            tracing::info!(voters = ?members.voters, learners = ?members.learners, "members");
            host.members(&members);
        }
        // 7. The log may be cut behind an image of what is applied.
        if effects.snapshot_wanted {
            self.compact()?;
        }
        Ok(())
    }

    fn role_changed(&mut self, host: &mut H, now: Leadership) {
        tracing::info!(role = now.role.as_str(), term = now.term, leader = ?now.leader.map(|id| id.0), "role");
        host.role(now);
        self.lead(host, (now.role == Role::Leader).then_some(Term(now.term)));
    }

    /// Leads in this term, or not at all.
    fn lead(&mut self, host: &mut H, term: Option<Term>) {
        if self.leading == term {
            return;
        }
        if self.leading.take().is_some() {
            self.liveness.resign();
            for (waiter, outcome) in self.waiters.leadership_lost() {
                self.settle(host, waiter, outcome, None);
            }
            self.since.clear();
        }
        self.leading = term;
    }

    /// Nothing is promised any more: everybody who waits is told what is certain.
    fn stop(&mut self, host: &mut H, failure: &StorageFailed) {
        self.failure = Some(failure.clone());
        host.stopped(failure);
        let term = self.replica.status().term.0;
        self.lead(host, None);
        // It may have been about to lead: who proposed since then waits as well.
        for (waiter, outcome) in self.waiters.leadership_lost() {
            self.settle(host, waiter, outcome, None);
        }
        self.since.clear();
        host.role(Leadership { leader: None, term, role: Role::Follower });
        let reads = std::mem::take(&mut self.reads).into_iter().map(|(_, asker)| asker);
        let ready = std::mem::take(&mut self.ready_reads).into_iter().map(|(_, asker)| asker);
        for asker in reads.chain(ready) {
            host.answer_read(asker, None);
        }
    }
}

/// After a storage failure: nothing is promised any more.
fn refuse<H: Host>(host: &mut H, input: Input<H>) {
    match input {
        Input::Propose(_, asker) => host.answer_propose(asker, ProposeAnswer::Stopped),
        Input::ReadIndex(asker) => host.answer_read(asker, None),
        Input::Membership(_, asker) => host.answer_membership(asker, Err(MembershipError::Stopped)),
        Input::Transfer(_, asker) => host.answer_transfer(asker, Err(TransferError::Stopped)),
        Input::Heartbeat(_, asker) => host.answer_heartbeat(asker, None),
        Input::Message(_)
        | Input::PeerConnected { .. }
        | Input::PeerLost(_)
        | Input::PeerUnreachable { .. }
        | Input::SnapshotSent { .. } => {}
    }
}

/// The node that Raft knows by this id.
#[must_use]
pub fn node_of(raft_id: u64) -> NodeId {
    NodeId(i32::try_from(raft_id).unwrap_or(NodeId::NONE.0))
}

/// Puts what was recovered from disk into `state`; returns the index up to which it is, for [`Parts::applied`]. Committed
/// entries after it follow by themselves.
///
/// # Errors
/// When the image cannot be read: only a newer version can have written it, for its checksums are right.
pub fn restore(recovered: &Recovered, state: &RwLock<MetadataState>) -> Result<RaftIndex, String> {
    let Some(image) = &recovered.image else { return Ok(RaftIndex(0)) };
    *state.write() = decode_image(&image.data)?;
    Ok(image.index)
}

/// The state that an image stands for; an empty image is the state before the first command.
///
/// # Errors
/// When it cannot be read.
pub fn decode_image(image: &[u8]) -> Result<MetadataState, String> {
    if image.is_empty() {
        return Ok(MetadataState::new());
    }
    MetadataState::decode_snapshot(image).map_err(|error| error.to_string())
}
