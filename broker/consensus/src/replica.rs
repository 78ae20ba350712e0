//! One replica of the metadata log: raft, its storage, and what the host tells it.
//!
//! Owned and driven by one thread (see the crate's documentation for the loop). This module holds the inputs; each
//! changes state in memory only. What they lead to comes out of `ready`, which also makes it durable first.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use chronik_log::disk::Disk;
use chronik_model::{NodeId, RaftIndex, Term, mutant};
use raft::eraftpb;
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::bridge;
use crate::config::Config;
use crate::election::{Election, View};
use crate::error::{OpenError, ProposeError, ReadError, SnapshotError, StorageFailed, TransferError};
use crate::guard;
use crate::mirror::{MessageType, RaftMessage};
use crate::reads::Reads;
use crate::storage::{Start, Store};
use crate::types::{Membership, ProposalToken, ReadToken, Role, RoleChange, StateImage};

/// Ticks that one call of `tick` makes good at most: a thread that did not run for seconds reads what waits first.
const MAX_TICKS_AT_ONCE: u64 = 2;

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The state that the application starts from; committed entries after it follow through `ready`. Empty data, or
    /// `None` for a joiner that was never fed, is the state before the first command.
    pub image: Option<StateImage>,
    /// Who takes part, as far as known.
    pub membership: Membership,
    /// Term on disk.
    pub term: Term,
}

/// A replica; see the crate's documentation.
pub struct Replica<D: Disk + Clone> {
    pub(crate) config: Config,
    pub(crate) node: RawNode<Store<D>>,
    pub(crate) election: Election,
    pub(crate) reads: Reads,
    pub(crate) membership: Membership,
    /// Messages that this host adds to raft's.
    pub(crate) outbox: Vec<RaftMessage>,
    pub(crate) last_tick_ms: u64,
    pub(crate) ticks: u64,
    /// Tick at which each peer last answered us as leader.
    pub(crate) heard: BTreeMap<u64, u64>,
    pub(crate) told: RoleChange,
    pub(crate) applied: u64,
    pub(crate) image_told: bool,
    pub(crate) image_retry_tick: u64,
    pub(crate) elections_started: u64,
    pub(crate) messages_refused: u64,
    pub(crate) last_error: Option<String>,
    /// Tick at which a pre-vote was turned down because we still heard the leader.
    pub(crate) turned_down: Option<u64>,
    /// What was committed when a leader found this replica with nothing (see `lost_disk`).
    pub(crate) fed_at: Option<u64>,
    /// Index of a state image of which its sender said that its voters are the founders.
    pub(crate) founding_image: Option<u64>,
}

impl<D: Disk + Clone> fmt::Debug for Replica<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("status", &self.status()).finish_non_exhaustive()
    }
}

pub(crate) fn node_id(raft_id: u64) -> NodeId {
    NodeId(i32::try_from(raft_id).unwrap_or(NodeId::NONE.0))
}

pub(crate) fn known(raft_id: u64) -> Option<NodeId> {
    (raft_id != raft::INVALID_ID).then(|| node_id(raft_id))
}

pub(crate) fn membership(index: u64, voters: &[u64], learners: &[u64]) -> Membership {
    let sorted = |ids: &[u64]| {
        let mut ids: Vec<NodeId> = ids.iter().copied().map(node_id).collect();
        ids.sort_unstable();
        ids
    };
    Membership { index: RaftIndex(index), voters: sorted(voters), learners: sorted(learners) }
}

impl<D: Disk + Clone> Replica<D> {
    /// Recovers the replica in directory `dir` of `disk`, or makes a start in an empty one. `start` counts only then.
    pub fn open(
        config: Config,
        disk: D,
        dir: &str,
        start: &Start,
        now_ms: u64,
    ) -> Result<(Self, Recovered), OpenError> {
        config.validate()?;
        let store = Store::open(disk, dir, config.node, config.segment_bytes, start)?;
        let image = store.read_image()?;
        let applied = store.image_index();
        let (index, members) = store.members();
        let membership = membership(index, &members.voters, &members.learners);
        let term = Term(store.hard().term);
        let me = config.node.raft_id();
        // raft's own timer would draw from the thread's generator: out of reach (see `election`).
        const NEVER: usize = 1 << 40;
        let raft_config = raft::Config {
            id: me,
            election_tick: config.election_tick,
            heartbeat_tick: config.heartbeat_tick,
            min_election_tick: NEVER,
            max_election_tick: NEVER + 1,
            applied,
            max_size_per_msg: config.max_size_per_msg,
            max_inflight_msgs: config.max_inflight_msgs,
            check_quorum: config.check_quorum && !mutant!(NoCheckQuorum),
            pre_vote: config.pre_vote,
            max_uncommitted_size: config.max_uncommitted_bytes,
            max_committed_size_per_ready: config.max_committed_bytes_per_ready,
            read_only_option: if mutant!(StaleRead) { ReadOnlyOption::LeaseBased } else { ReadOnlyOption::Safe },
            ..raft::Config::default()
        };
        let node = RawNode::new(&raft_config, store, &bridge::logger()).map_err(|e| OpenError::Raft(e.to_string()))?;
        let image = image.and_then(|s| {
            let metadata = s.metadata?;
            Some(StateImage { index: RaftIndex(metadata.index), term: Term(metadata.term), data: s.data })
        });
        let recovered = Recovered { image, membership: membership.clone(), term };
        let mut replica = Self {
            election: Election::new(config.seed, me, term.0, config.election_tick, config.heartbeat_tick),
            reads: Reads::new(me, config.incarnation),
            node,
            membership,
            outbox: Vec::new(),
            last_tick_ms: now_ms,
            ticks: 0,
            heard: BTreeMap::new(),
            told: RoleChange { role: Role::Follower, leader: None, term },
            applied,
            image_told: false,
            image_retry_tick: 0,
            elections_started: 0,
            messages_refused: 0,
            last_error: None,
            turned_down: None,
            fed_at: None,
            founding_image: None,
            config,
        };
        // A lone voter need not wait for anybody.
        replica.consider_election();
        Ok((replica, recovered))
    }

    /// Time passed. May be called at any moment; ticks are counted here.
    pub fn tick(&mut self, now_ms: u64) {
        let due = now_ms.saturating_sub(self.last_tick_ms) / self.config.tick_ms;
        if due == 0 || self.stopped() {
            return;
        }
        self.last_tick_ms =
            if due > MAX_TICKS_AT_ONCE { now_ms } else { self.last_tick_ms + due * self.config.tick_ms };
        for _ in 0..due.min(MAX_TICKS_AT_ONCE) {
            self.ticks += 1;
            self.node.tick();
            self.hand_over_if_voteless();
            self.consider_election();
        }
        for token in self.reads.take_due(self.ticks, self.config.heartbeat_tick as u64) {
            self.ask_read(token);
        }
    }

    /// When `tick` has something to do again.
    #[must_use]
    pub fn next_tick_ms(&self) -> u64 {
        if mutant!(SpinTicks) {
            return self.last_tick_ms;
        }
        self.last_tick_ms + self.config.tick_ms
    }

    /// A message of a peer, in the order it arrived. What makes no sense is counted and dropped.
    pub fn step(&mut self, mut message: RaftMessage) {
        if self.stopped() {
            return;
        }
        let kind = match guard::check(&message, self.me()) {
            Ok(kind) => kind,
            Err(reason) => return self.refuse(&message, reason),
        };
        tracing::trace!(target: "raft", ?kind, from = message.from, term = message.term, index = message.index,
            log_term = message.log_term, commit = message.commit, entries = message.entries.len(),
            reject = message.reject, "message in");
        match self.beware(kind, &mut message) {
            Ok(true) => {}
            Ok(false) => return,
            Err(reason) => return self.refuse(&message, reason),
        }
        let from = message.from;
        let in_term = message.term == self.node.raft.term;
        if kind == MessageType::RequestPreVote && ![raft::INVALID_ID, from].contains(&self.node.raft.leader_id) {
            self.turned_down = Some(self.ticks);
        }
        let message = match eraftpb::Message::try_from(message) {
            Ok(message) => message,
            Err(e) => {
                self.last_error = Some(e.to_string());
                self.messages_refused += 1;
                return;
            }
        };
        if mutant!(VoteTwice) && kind == MessageType::RequestVote {
            self.node.raft.vote = raft::INVALID_ID;
        }
        let (index, stranger) = (message.index, kind == MessageType::RequestVote && self.is_stranger());
        match self.node.step(message) {
            Ok(()) if stranger && self.node.raft.vote == from => self.note_vote(index),
            Ok(()) => {}
            // Answers of a node that was removed meanwhile.
            Err(raft::Error::StepPeerNotFound) => return,
            Err(e) => {
                tracing::debug!(target: "raft", from, ?kind, error = %e, "message not taken");
                return;
            }
        }
        let answer = matches!(kind, MessageType::AppendResponse | MessageType::HeartbeatResponse);
        if answer && in_term && self.is_leader() {
            self.heard.insert(from, self.ticks);
            // raft 0.7.0 can let `next` of a probed peer fall to `matched` or below.
            if let Some(progress) = self.node.raft.mut_prs().get_mut(from) {
                progress.next_idx = progress.next_idx.max(progress.matched + 1);
            }
        }
        self.consider_election();
    }

    fn refuse(&mut self, message: &RaftMessage, reason: &'static str) {
        self.messages_refused += 1;
        self.last_error = Some(format!("refused a message of node {}: {reason}", message.from));
        tracing::warn!(target: "raft", from = message.from, kind = message.msg_type, reason, "message refused");
    }

    /// What depends on our own state: nothing that would make raft panic or believe too much gets through. `false`:
    /// nothing is wrong with it, but it comes too late.
    fn beware(&mut self, kind: MessageType, message: &mut RaftMessage) -> Result<bool, &'static str> {
        let last = self.node.raft.raft_log.last_index();
        let term = self.node.raft.term;
        match kind {
            MessageType::Heartbeat if message.commit > last => {
                // The leader counts on entries that this replica lost. raft would panic; and the end of what is left may
                // be what a deposed leader wrote, so nothing of it is committed by this.
                self.last_error = Some(format!(
                    "the leader knows our log up to {} and it ends at {last}: this node lost its data",
                    message.commit
                ));
                if message.term >= term {
                    self.outbox.push(RaftMessage {
                        msg_type: MessageType::AppendResponse as i32,
                        to: message.from,
                        from: self.me(),
                        term: message.term,
                        reject: true,
                        index: message.commit,
                        reject_hint: last,
                        log_term: self.node.raft.raft_log.last_term(),
                        commit: self.node.raft.raft_log.committed,
                        ..RaftMessage::default()
                    });
                }
                message.commit = self.node.raft.raft_log.committed;
                Ok(true)
            }
            MessageType::AppendResponse if self.is_leader() && message.term == term => {
                if !message.reject && message.index > last {
                    return Err("it acknowledges entries that this leader never had");
                }
                self.expect_memory(message);
                Ok(true)
            }
            MessageType::RequestVote | MessageType::RequestPreVote if self.is_unfed(message) => {
                Err("this node's storage is fresh and the cluster is not: it votes again once a leader has fed it")
            }
            MessageType::Append | MessageType::Snapshot if message.term >= term => {
                self.note_feeding(message);
                self.note_founding(message);
                Ok(true)
            }
            // Not asked for: a vote is, and a successor is caught up, when everything is durable.
            MessageType::RequestVoteResponse | MessageType::TimeoutNow if self.has_unpersisted() => Ok(false),
            MessageType::TimeoutNow if self.must_not_campaign() => Ok(false),
            MessageType::ReadIndex if !self.is_leader() => Ok(false),
            MessageType::ReadIndex if self.node.raft.pending_read_count() >= self.config.max_pending_reads => {
                Err("too many reads wait already")
            }
            _ => Ok(true),
        }
    }

    /// Appends a proposal, if this replica leads. `data` must not be empty: empty entries are elections.
    pub fn propose(&mut self, data: Bytes) -> Result<ProposalToken, ProposeError> {
        if self.stopped() {
            return Err(ProposeError::Stopped);
        }
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let limit = self.config.max_proposal_bytes;
        if data.len() > limit {
            return Err(ProposeError::TooLarge { size: data.len(), limit });
        }
        self.append(eraftpb::Entry { data, ..eraftpb::Entry::default() }).ok_or(ProposeError::Dropped)
    }

    pub(crate) fn append(&mut self, entry: eraftpb::Entry) -> Option<ProposalToken> {
        let bytes = entry.data.len();
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.from = self.me();
        message.set_entries(vec![entry].into());
        self.node.raft.step(message).ok()?;
        let token =
            ProposalToken { term: Term(self.node.raft.term), index: RaftIndex(self.node.raft.raft_log.last_index()) };
        tracing::trace!(target: "raft", index = token.index.0, term = token.term.0, bytes, "proposal appended");
        Some(token)
    }

    /// Hands leadership to `to`, or to the voter that is best prepared; returns whom. Done, or given up, within one
    /// election timeout; proposals are dropped meanwhile.
    pub fn transfer_leader(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.stopped() {
            return Err(TransferError::Stopped);
        }
        if !self.is_leader() {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        let to = match to {
            Some(to) if self.membership.voters.contains(&to) => to,
            Some(to) => return Err(TransferError::NotVoter(to)),
            None => self.best_successor().ok_or(TransferError::NoCandidate)?,
        };
        self.node.transfer_leader(to.raft_id());
        Ok(to)
    }

    pub(crate) fn best_successor(&self) -> Option<NodeId> {
        let live = |id: &NodeId| *id != self.config.node && self.is_live(id.raft_id());
        let matched = |id: &NodeId| self.node.raft.prs().get(id.raft_id()).map_or(0, |p| p.matched);
        self.membership.voters.iter().copied().filter(live).max_by_key(|id| (matched(id), std::cmp::Reverse(*id)))
    }

    /// Asks from which applied index on the local state is as new as anything committed before this call. Answered by
    /// `Effects::reads`, however long it takes; with a deadline of your own, call `forget_read`.
    pub fn read_index(&mut self) -> Result<ReadToken, ReadError> {
        if self.stopped() {
            return Err(ReadError::Stopped);
        }
        if self.reads.len() >= self.config.max_pending_reads {
            return Err(ReadError::TooMany(self.reads.len()));
        }
        let token = self.reads.begin(self.ticks);
        self.ask_read(token);
        Ok(token)
    }

    /// Something that made raft drop reads may be over: ask again.
    pub(crate) fn ask_reads_again(&mut self) {
        for token in self.reads.take_due(self.ticks, 0) {
            self.ask_read(token);
        }
    }

    fn ask_read(&mut self, token: ReadToken) {
        let context = self.reads.context(token);
        self.node.read_index(context);
    }

    /// Nobody waits for `token` any more.
    pub fn forget_read(&mut self, token: ReadToken) {
        self.reads.forget(token);
    }

    /// Campaigns now (with a pre-vote). For tools and tests; elections happen by themselves.
    pub fn campaign(&mut self) {
        if !self.stopped() {
            self.start_election();
        }
    }

    /// A peer can be talked to; `leader_hint` is whom it says it follows (itself when it leads).
    pub fn peer_connected(&mut self, peer: NodeId, leader_hint: Option<NodeId>) {
        if self.stopped() || peer == self.config.node {
            return;
        }
        let id = peer.raft_id();
        if self.node.raft.leader_id == id && leader_hint != Some(peer) {
            // It restarted: nobody else will say that it leads no more, and its lease would keep us from voting.
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
            self.election.leader_in_doubt(self.ticks);
        }
        let voters = self.voters();
        let view = self.view(&voters);
        self.election.peer_connected(view, id, leader_hint.map(NodeId::raft_id));
        self.consider_election();
    }

    /// A peer cannot be talked to any more. `refused`: its process is certainly gone, because its address answers
    /// that nobody listens there.
    pub fn peer_lost(&mut self, peer: NodeId, refused: bool) {
        if self.stopped() {
            return;
        }
        let id = peer.raft_id();
        self.election.peer_lost(id);
        if self.node.raft.state == StateRole::Leader {
            let sending = self.node.raft.prs().get(id).is_some_and(|p| p.state == raft::ProgressState::Snapshot);
            if sending {
                self.node.report_snapshot(id, SnapshotStatus::Failure);
            }
            self.node.report_unreachable(id);
        } else if refused && self.node.raft.leader_id == id {
            tracing::debug!(target: "raft", leader = id, "the leader is gone");
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
            self.election.leader_gone();
            // Somebody noticed before us, asked, and was turned down by us: it asks again only after a tick or two.
            if self.turned_down.take().is_some_and(|at| self.ticks <= at + 1) {
                self.election.ask_at_once(self.ticks);
            }
        }
        self.consider_election();
    }

    /// A message to `peer` was dropped.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        if !self.stopped() {
            self.node.report_unreachable(peer.raft_id());
        }
    }

    /// The transfer of a state image to `peer` ended.
    pub fn report_snapshot(&mut self, peer: NodeId, delivered: bool) {
        if !self.stopped() {
            let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            self.node.report_snapshot(peer.raft_id(), status);
        }
    }

    /// The application's state as of `index`, asked for by `Effects::snapshot_wanted`. Compacts the log behind it.
    pub fn provide_snapshot(&mut self, index: RaftIndex, data: &Bytes) -> Result<(), SnapshotError> {
        if let Some(failure) = self.failure() {
            return Err(failure.clone().into());
        }
        let store = self.node.store();
        let oldest = (store.image_index() + 1).max(store.members().0);
        if index.0 < oldest || index.0 > self.applied {
            return Err(SnapshotError::OutOfRange { index: index.0, oldest, newest: self.applied });
        }
        let limit = self.config.max_snapshot_bytes;
        let saved = if data.len() > limit {
            Err(SnapshotError::TooLarge { size: data.len(), limit })
        } else {
            let (keep, keep_bytes) = (self.config.compact_keep_entries, self.config.compact_bytes / 2);
            self.node.mut_store().save_image(index.0, data, keep, keep_bytes)
        };
        match &saved {
            Ok(()) => {
                self.image_told = false;
                tracing::debug!(target: "raft", index = index.0, bytes = data.len(), "state image saved");
            }
            Err(e) => {
                self.image_retry_tick = self.ticks + 5 * self.config.election_tick as u64;
                self.last_error = Some(format!("state image: {e}"));
            }
        }
        saved
    }

    /// Who leads, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        known(self.node.raft.leader_id)
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// What this replica is.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        }
    }

    /// Who takes part.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Why nothing is promised any more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageFailed> {
        self.node.store().failure()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.failure().is_some()
    }

    pub(crate) fn me(&self) -> u64 {
        self.config.node.raft_id()
    }

    /// Whether a member answered within an election timeout; this replica always does.
    pub(crate) fn is_live(&self, id: u64) -> bool {
        let patience = self.config.election_tick as u64;
        id == self.me() || self.heard.get(&id).is_some_and(|tick| self.ticks - tick <= patience)
    }

    fn voters(&self) -> Vec<u64> {
        self.node.raft.prs().conf().voters().ids().iter().collect()
    }

    fn view<'a>(&self, voters: &'a [u64]) -> View<'a> {
        let raft = &self.node.raft;
        View {
            me: self.me(),
            voters,
            role: self.role(),
            term: raft.term,
            leader: (raft.leader_id != raft::INVALID_ID).then_some(raft.leader_id),
            elapsed: raft.election_elapsed,
            tick: self.ticks,
        }
    }

    pub(crate) fn consider_election(&mut self) {
        let voters = self.voters();
        let view = self.view(&voters);
        self.election.observe(view);
        if self.election.due(view) {
            self.start_election();
        }
    }

    fn start_election(&mut self) {
        // raft panics when one who is no voter wins among no voters, or one whose entries are not durable yet wins.
        if !self.node.raft.promotable() || self.has_unpersisted() || self.must_not_campaign() {
            return;
        }
        self.elections_started += 1;
        self.node.raft.election_elapsed = 0;
        if let Err(e) = self.node.campaign() {
            self.last_error = Some(format!("campaign: {e}"));
        }
        let voters = self.voters();
        let view = self.view(&voters);
        self.election.observe(view);
    }
}
