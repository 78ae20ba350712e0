//! The one thread that owns the Raft replica and the only writer of the metadata state.
//!
//! Life of one round: wait for an input or the next deadline; take everything that waits; tick; then, while the replica is
//! ready: send what may go before the disk, persist, send the rest, apply what is committed, answer who waited; then let
//! [`Liveness`] propose when this replica leads. Started by `startup` after the gRPC server is up; ends on [`Input::Stop`].
//!
//! What never happens: a panic on anything received; a wait for anybody but the disk; a promise after a storage failure
//! (the thread then only says that it has stopped, and the process stays for people to look at).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use bytes::Bytes;
use chronik_consensus::{
    CommittedEntry, Effects, Membership, MembershipError, Outcome, Payload, ProposeError, ReadToken, Replica, Role,
    StorageFailed, TransferError, Waiters,
};
use chronik_core::controller::{Change, Command, CommandResult, Envelope, Liveness, MetadataState, ProposalId};
use chronik_log::disk::Disk;
use chronik_model::{NodeId, RaftIndex, Term};
use tokio::sync::oneshot;

use super::clock::{mono_ms, wall_ms};
use super::inbox::{Input, Inputs, ProposeAnswer};
use super::{Leadership, Shared};
use crate::peer::directory::{Origin, PeerAddress};
use crate::peer::transport::{PeerEvent, SendOutcome, Transport, node_of};

/// Most inputs taken before the replica is asked what to do.
const BATCH: usize = 1024;
/// Most proposals that wait.
const MAX_WAITING: usize = 65_536;
/// A pause between two rounds after which the sessions of brokers count anew: the machine, the process or its disk
/// stood still, and what the brokers said meanwhile may not have been read yet.
const STOOD_STILL_MS: u64 = 1_000;
/// Least time between two published accounts of the replica.
const STATUS_MS: u64 = 50;

/// Who waits for an entry.
#[allow(clippy::large_enum_variant, reason = "liveness commands are few")]
enum Waiter {
    Client(oneshot::Sender<ProposeAnswer>),
    Membership(oneshot::Sender<Result<Membership, MembershipError>>),
    Liveness(Command),
}

/// The thread's state.
pub struct RaftThread<D: Disk + Clone> {
    replica: Replica<D>,
    shared: Arc<Shared>,
    transport: Transport,
    inputs: Inputs,
    liveness: Liveness,
    waiters: Waiters<Waiter>,
    /// When the proposal at an index was made.
    since: BTreeMap<RaftIndex, u64>,
    reads: Vec<(ReadToken, oneshot::Sender<RaftIndex>)>,
    ready_reads: Vec<(RaftIndex, oneshot::Sender<RaftIndex>)>,
    leading: Option<Term>,
    /// Peers whose process is gone for certain: their connections broke and were refused since.
    gone: BTreeSet<NodeId>,
    published_ms: u64,
    /// When the last round looked at the sessions.
    awake_ms: u64,
}

impl<D: Disk + Clone> std::fmt::Debug for RaftThread<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftThread").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl<D: Disk + Clone> RaftThread<D> {
    /// A thread for a recovered replica whose image is already in `shared.state`.
    #[must_use]
    pub fn new(
        replica: Replica<D>,
        shared: Arc<Shared>,
        transport: Transport,
        inputs: Inputs,
        liveness: Liveness,
    ) -> Self {
        Self {
            replica,
            shared,
            transport,
            inputs,
            liveness,
            waiters: Waiters::new(),
            since: BTreeMap::new(),
            reads: Vec::new(),
            ready_reads: Vec::new(),
            leading: None,
            gone: BTreeSet::new(),
            published_ms: 0,
            awake_ms: mono_ms(),
        }
    }

    /// Runs on the calling thread until [`Input::Stop`].
    pub fn run(mut self) {
        self.learn_addresses();
        self.publish(true);
        loop {
            match self.round() {
                Ok(true) => {}
                Ok(false) => break,
                Err(failed) => {
                    tracing::error!(%failed, "the metadata replica stops; the process stays so that it can be looked at");
                    *self.shared.failure.lock() = Some(failed.to_string());
                    self.lead(None);
                    self.shared.leadership.send_modify(|l| {
                        l.leader = None;
                        l.role = Role::Follower;
                    });
                    self.publish(true);
                    self.refuse_everything();
                    break;
                }
            }
        }
        self.shared.changes.close();
    }

    /// One round; `false` when told to stop.
    fn round(&mut self) -> Result<bool, StorageFailed> {
        if !self.take_inputs() {
            return Ok(false);
        }
        self.replica.tick(mono_ms());
        while self.replica.has_ready() {
            let mut unsent = Vec::new();
            let transport = &self.transport;
            let effects = self.replica.ready(|message| {
                let to = node_of(message.to);
                if transport.send(message) != SendOutcome::Queued {
                    unsent.push(to);
                }
            })?;
            self.perform(effects, unsent)?;
        }
        self.notice_standstill();
        self.drive_liveness();
        self.publish(false);
        Ok(true)
    }

    fn take_inputs(&mut self) -> bool {
        let now = mono_ms();
        let mut wake = self.replica.next_tick_ms();
        if self.liveness.is_leading() {
            let deadline = self.liveness.next_deadline(now, &self.shared.state.read());
            // A deadline that has passed was served by the last round; what it proposed needs events, not spinning.
            wake = wake.min(deadline.unwrap_or(u64::MAX).max(now + 1));
        }
        let first = if self.replica.has_ready() {
            self.inputs.try_recv().ok()
        } else {
            match self.inputs.recv_timeout(Duration::from_millis(wake.saturating_sub(now))) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        };
        let mut next = first;
        for _ in 0..BATCH {
            match next {
                None => return true,
                Some(Input::Stop) => return false,
                Some(input) => self.handle(input),
            }
            next = self.inputs.try_recv().ok();
        }
        if let Some(input) = next {
            if matches!(input, Input::Stop) {
                return false;
            }
            self.handle(input);
        }
        true
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Message(message) => self.replica.step(message),
            Input::Peer(event) => self.peer(event),
            Input::Propose(envelope, reply) => self.propose(envelope, reply),
            Input::ReadIndex(reply) => match self.replica.read_index() {
                Ok(token) => self.reads.push((token, reply)),
                Err(error) => tracing::debug!(%error, "a read index was not asked for"),
            },
            Input::Membership(change, reply) => match self.replica.change_membership(change) {
                Ok(token) => {
                    tracing::info!(?change, index = %token.index, "membership change proposed");
                    self.wait(token, Waiter::Membership(reply));
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Input::Transfer(to, reply) => drop(reply.send(self.replica.transfer_leader(to))),
            Input::Heartbeat(heartbeat, reply) => {
                let answer = self.liveness.on_heartbeat(mono_ms(), &heartbeat, &self.shared.state.read());
                let _gone = reply.send(answer);
            }
            Input::Stop => {}
        }
    }

    fn peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(peer, greeting) => {
                *self.shared.twin.lock() = None;
                self.gone.remove(&peer);
                self.shared.lost.lock().remove(&peer);
                self.replica.peer_connected(peer, greeting.position.leader);
            }
            PeerEvent::Lost(peer) => {
                self.shared.lost.lock().entry(peer).or_insert_with(mono_ms);
                self.replica.peer_lost(peer, false);
            }
            PeerEvent::Unreachable { peer, refused, was_connected } => {
                // A refusal by an address that never worked may be a wrong address: it says nothing about the process.
                let gone = refused && was_connected;
                self.replica.peer_lost(peer, gone);
                if gone {
                    self.gone.insert(peer);
                    self.liveness.on_connection_refused(mono_ms(), peer, &self.shared.state.read());
                }
            }
            PeerEvent::SnapshotSent { peer, ok } => self.replica.report_snapshot(peer, ok),
            PeerEvent::Heard(_) => {}
            PeerEvent::Duplicate { peer, message } => {
                tracing::warn!(told_by = %peer, "{message}");
                self.shared.twin_seen(message);
            }
        }
    }

    fn propose(&mut self, envelope: Bytes, reply: oneshot::Sender<ProposeAnswer>) {
        if reply.is_closed() {
            return;
        }
        if self.waiters.len() >= MAX_WAITING {
            let _gone = reply.send(ProposeAnswer::Dropped);
            return;
        }
        match self.replica.propose(envelope) {
            Ok(token) => {
                tracing::debug!(index = %token.index, term = %token.term, "proposal appended");
                self.wait(token, Waiter::Client(reply));
            }
            Err(error) => drop(reply.send(match error {
                ProposeError::NotLeader { leader } => ProposeAnswer::NotLeader(leader),
                ProposeError::Dropped => ProposeAnswer::Dropped,
                ProposeError::TooLarge { .. } => ProposeAnswer::Refused(error.to_string()),
                ProposeError::Stopped => ProposeAnswer::Stopped,
            })),
        }
    }

    fn wait(&mut self, token: chronik_consensus::ProposalToken, waiter: Waiter) {
        self.since.insert(token.index, mono_ms());
        if let Some(earlier) = self.waiters.wait(token, waiter) {
            self.settle(earlier, Outcome::Lost, None);
        }
    }

    /// Does what the replica says, in the order of its fields.
    fn perform(&mut self, effects: Effects, mut unsent: Vec<NodeId>) -> Result<(), StorageFailed> {
        for message in effects.messages {
            let to = node_of(message.to);
            if self.transport.send(message) != SendOutcome::Queued {
                unsent.push(to);
            }
        }
        for snapshot in effects.snapshots {
            self.transport.send_snapshot(snapshot);
        }
        unsent.sort_unstable();
        unsent.dedup();
        for peer in unsent {
            self.replica.report_unreachable(peer);
        }
        if let Some(change) = effects.role {
            self.role_changed(Leadership { leader: change.leader, term: change.term.0, role: change.role });
        }
        if let Some(image) = effects.install {
            self.install(image.index, &image.data)?;
        }
        let mut changes = Vec::new();
        for entry in effects.committed {
            self.apply(entry, &mut changes);
        }
        self.shared.changes.push(changes);
        self.ready_reads.extend(effects.reads.into_iter().filter_map(|read| {
            let position = self.reads.iter().position(|(token, _)| *token == read.token)?;
            Some((read.index, self.reads.swap_remove(position).1))
        }));
        self.serve_reads();
        if let Some(membership) = effects.membership {
            tracing::info!(voters = ?membership.voters, learners = ?membership.learners, "members");
            self.publish(true);
        }
        if effects.snapshot_wanted {
            self.compact()?;
        }
        Ok(())
    }

    fn role_changed(&mut self, now: Leadership) {
        let before = *self.shared.leadership.borrow();
        if before.leader != now.leader {
            self.shared.counters.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(role = now.role.as_str(), term = now.term, leader = ?now.leader.map(|id| id.0), "role");
        self.shared.leadership.send_replace(now);
        self.lead((now.role == Role::Leader).then_some(Term(now.term)));
        self.publish(true);
    }

    /// Leads in this term, or not at all.
    fn lead(&mut self, term: Option<Term>) {
        if self.leading == term {
            return;
        }
        if self.leading.take().is_some() {
            self.liveness.resign();
            for (waiter, outcome) in self.waiters.leadership_lost() {
                self.settle(waiter, outcome, None);
            }
            self.since.clear();
        }
        self.leading = term;
    }

    /// The state becomes that of `image`.
    ///
    /// # Errors
    /// When it cannot be read: the thread must end, for it would apply what follows to another state.
    pub(super) fn install(&mut self, index: RaftIndex, image: &Bytes) -> Result<(), StorageFailed> {
        match decode_image(image) {
            Ok(state) => {
                tracing::info!(%index, "metadata replaced by a snapshot");
                *self.shared.state.write() = state;
            }
            // The image passed its checksums, so only a newer version can have written it.
            Err(problem) => {
                tracing::error!(%index, %problem, "a metadata snapshot cannot be read: this broker must be upgraded");
                let path = format!("the metadata snapshot at {index}");
                return Err(StorageFailed { action: "reading", path, cause: problem });
            }
        }
        for (waiter, outcome) in self.waiters.image_installed(index) {
            self.settle(waiter, outcome, None);
        }
        self.since = self.since.split_off(&RaftIndex(index.0 + 1));
        self.learn_addresses();
        self.shared.changes.replaced();
        self.shared.applied.send_replace(index);
        Ok(())
    }

    fn apply(&mut self, entry: CommittedEntry, changes: &mut Vec<Change>) {
        let (index, term) = (entry.index, entry.term);
        let result = match entry.payload {
            Payload::Command(bytes) => {
                let applied = self.shared.state.write().apply(index, &bytes);
                self.shared.counters.entries_applied.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%index, %term, result = ?applied.result, changes = applied.changes.len(), "applied");
                for change in &applied.changes {
                    if let Change::Broker { node } = change {
                        self.learn_address(*node);
                    }
                }
                changes.extend(applied.changes);
                Some(applied.result)
            }
            Payload::Empty | Payload::Membership(_) => {
                // The state follows the log index, also where there is no command.
                let _nothing = self.shared.state.write().apply(index, &[]);
                None
            }
        };
        self.shared.applied.send_replace(index);
        self.since.remove(&index);
        if let Some((waiter, outcome)) = self.waiters.resolve(index, term) {
            self.settle(waiter, outcome, result);
        }
        if self.leading == Some(term) && !self.liveness.is_leading() {
            tracing::info!(%term, "driving broker sessions");
            let state = self.shared.state.read();
            self.liveness.become_leader(mono_ms(), &state);
            // The old leader died before anybody led who could fence it.
            for peer in &self.gone {
                self.liveness.on_connection_refused(mono_ms(), *peer, &state);
            }
        }
    }

    fn settle(&mut self, waiter: Waiter, outcome: Outcome, result: Option<CommandResult>) {
        match waiter {
            Waiter::Client(reply) => {
                let answer = match (outcome, result) {
                    (Outcome::Applied(index), Some(result)) => ProposeAnswer::Applied(index, result),
                    (Outcome::Lost, _) => ProposeAnswer::Dropped,
                    (Outcome::Applied(_) | Outcome::Unknown, _) => ProposeAnswer::Unknown,
                };
                let _gone = reply.send(answer);
            }
            Waiter::Membership(reply) => {
                let answer = match outcome {
                    Outcome::Applied(_) => Ok(self.replica.membership().clone()),
                    Outcome::Lost | Outcome::Unknown => Err(MembershipError::Dropped),
                };
                let _gone = reply.send(answer);
            }
            Waiter::Liveness(command) => match (outcome, result) {
                (Outcome::Applied(_), Some(CommandResult::Error(error))) => {
                    tracing::warn!(command = command.name(), %error, "a liveness command was refused");
                }
                (Outcome::Applied(_), _) => {}
                (Outcome::Lost | Outcome::Unknown, _) => self.liveness.on_proposal_failed(&command),
            },
        }
    }

    fn notice_standstill(&mut self) {
        let now = mono_ms();
        let stood_still_ms = now - self.awake_ms;
        self.awake_ms = now;
        if stood_still_ms > STOOD_STILL_MS && self.liveness.is_leading() {
            tracing::warn!(ms = stood_still_ms, "the Raft thread stood still: every broker gets a fresh session");
            self.liveness.become_leader(now, &self.shared.state.read());
        }
    }

    fn drive_liveness(&mut self) {
        if !self.liveness.is_leading() {
            return;
        }
        let commands = self.liveness.tick(mono_ms(), &self.shared.state.read());
        for command in commands {
            tracing::info!(?command, "liveness proposes");
            let id = ProposalId {
                origin: self.shared.node,
                incarnation: self.shared.incarnation,
                sequence: self.shared.counters.proposals.fetch_add(1, Ordering::Relaxed) + 1,
            };
            let envelope = Envelope::new(id, wall_ms(), command.clone()).encode();
            match self.replica.propose(envelope.into()) {
                Ok(token) => self.wait(token, Waiter::Liveness(command)),
                Err(error) => {
                    tracing::debug!(%error, "a liveness command was not proposed");
                    self.liveness.on_proposal_failed(&command);
                }
            }
        }
    }

    fn serve_reads(&mut self) {
        let applied = *self.shared.applied.borrow();
        for (index, reply) in std::mem::take(&mut self.ready_reads) {
            if index <= applied {
                let _gone = reply.send(index);
            } else {
                self.ready_reads.push((index, reply));
            }
        }
        let replica = &mut self.replica;
        self.reads.retain(|(token, reply)| {
            if reply.is_closed() {
                replica.forget_read(*token);
            }
            !reply.is_closed()
        });
        self.ready_reads.retain(|(_, reply)| !reply.is_closed());
    }

    fn compact(&mut self) -> Result<(), StorageFailed> {
        let (index, image) = {
            let state = self.shared.state.read();
            (state.applied(), Bytes::from(state.encode_snapshot()))
        };
        if index.0 == 0 {
            return Ok(());
        }
        match self.replica.provide_snapshot(index, &image) {
            Ok(()) => tracing::info!(%index, bytes = image.len(), "metadata snapshot taken"),
            Err(chronik_consensus::SnapshotError::Failed(failed)) => return Err(failed),
            Err(error) => tracing::warn!(%error, "no metadata snapshot"),
        }
        Ok(())
    }

    /// What the metadata says about addresses helps to reach brokers that discovery does not know.
    fn learn_addresses(&self) {
        let nodes: Vec<NodeId> = self.shared.state.read().brokers().map(|broker| broker.node).collect();
        for node in nodes {
            self.learn_address(node);
        }
    }

    fn learn_address(&self, node: NodeId) {
        if node == self.shared.node {
            return;
        }
        let endpoint = self.shared.state.read().broker(node).map(|broker| broker.endpoints.control.clone());
        let Some(endpoint) = endpoint else { return };
        if let Ok(address) = PeerAddress::parse(&endpoint.host, endpoint.port) {
            self.transport.directory().register(node, &address, Origin::Learned);
        }
    }

    fn publish(&mut self, now: bool) {
        let time = mono_ms();
        if !now && time < self.published_ms + STATUS_MS {
            return;
        }
        self.published_ms = time;
        let counters = &self.shared.counters;
        counters.pending_proposals.store(self.waiters.len() as u64, Ordering::Relaxed);
        let oldest = self.since.values().min().copied().unwrap_or(0);
        counters.oldest_proposal_ms.store(oldest, Ordering::Relaxed);
        self.shared.status.store(Some(Arc::new(self.replica.status())));
    }

    /// After a storage failure: answers everybody that nothing is promised any more, until told to stop.
    fn refuse_everything(&mut self) {
        while let Ok(input) = self.inputs.recv() {
            match input {
                Input::Stop => return,
                Input::Propose(_, reply) => drop(reply.send(ProposeAnswer::Stopped)),
                Input::Membership(_, reply) => drop(reply.send(Err(MembershipError::Stopped))),
                Input::Transfer(_, reply) => drop(reply.send(Err(TransferError::Stopped))),
                Input::Heartbeat(_, reply) => drop(reply.send(None)),
                Input::ReadIndex(_) | Input::Message(_) | Input::Peer(_) => {}
            }
        }
    }
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
