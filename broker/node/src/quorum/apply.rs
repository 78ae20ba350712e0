//! What a quorum does with what is committed, and the proposals that it makes itself.
//!
//! Called by `Quorum::round` and `Quorum::advance` only. What never happens: an entry applied to another state than the
//! one it was committed after; a waiter answered before its entry is in the state.

use std::collections::BTreeSet;

use bytes::Bytes;
use chronik_consensus::{
    CommittedEntry, Membership, MembershipError, Outcome, Payload, ReadState, SnapshotError, StorageFailed,
};
use chronik_core::controller::{Change, CommandResult, Envelope, ProposalId};
use chronik_log::disk::Disk;
use chronik_model::{NodeId, RaftIndex, mutant};

use super::{Host, Now, ProposeAnswer, Quorum, STOOD_STILL_MS, Waiter, decode_image};

fn not_understood(what: &str, index: RaftIndex, problem: String) -> StorageFailed {
    StorageFailed { action: "reading", path: format!("the metadata {what} at {index}"), cause: problem, full: false }
}

impl<D: Disk + Clone, H: Host> Quorum<D, H> {
    /// The state becomes that of `image`.
    ///
    /// # Errors
    /// When it cannot be read: what follows would be applied to another state.
    pub(super) fn install(&mut self, host: &mut H, index: RaftIndex, image: &Bytes) -> Result<(), StorageFailed> {
        match decode_image(image) {
            Ok(state) => {
                let (theirs, ours) = (state.metadata_version(), self.state.read().metadata_version());
                if theirs < ours {
                    // It never falls: whoever made this image did not understand what is in force.
                    let problem = format!("it is of metadata version {theirs}, and {ours} is in force here");
                    return Err(not_understood("snapshot", index, problem));
                }
                tracing::info!(%index, "metadata replaced by a snapshot");
                if !mutant!(InstallKeepsState) {
                    *self.state.write() = state;
                }
            }
            // The image passed its checksums, so only a newer version can have written it.
            Err(problem) => {
                tracing::error!(%index, %problem, "a metadata snapshot cannot be read: this broker must be upgraded");
                return Err(not_understood("snapshot", index, problem));
            }
        }
        self.applied = index;
        for (waiter, outcome) in self.waiters.image_installed(index) {
            self.settle(host, waiter, outcome, None);
        }
        self.since = self.since.split_off(&RaftIndex(index.0 + 1));
        self.learn_addresses(host);
        host.replaced();
        host.applied(index);
        Ok(())
    }

    /// # Errors
    /// When an entry needs a newer release: nothing after it is applied.
    pub(super) fn apply_all(
        &mut self,
        host: &mut H,
        now: Now,
        committed: Vec<CommittedEntry>,
    ) -> Result<(), StorageFailed> {
        let mut changes = Vec::new();
        let mut done = Ok(());
        for entry in committed {
            done = self.apply(host, now, entry, &mut changes);
            if done.is_err() {
                break;
            }
        }
        if !changes.is_empty() {
            host.changes(changes);
        }
        done
    }

    fn apply(
        &mut self,
        host: &mut H,
        now: Now,
        entry: CommittedEntry,
        changes: &mut Vec<Change>,
    ) -> Result<(), StorageFailed> {
        let (index, term) = (entry.index, entry.term);
        let result = match entry.payload {
            Payload::Command(bytes) => {
                let (applied, too_new) = {
                    let mut state = self.state.write();
                    (state.apply(index, &bytes), state.too_new())
                };
                if let Some(problem) = too_new {
                    tracing::error!(%index, %problem, "this broker stops applying metadata");
                    return Err(not_understood("command", index, problem));
                }
                self.commands_applied += 1;
                tracing::debug!(%index, %term, result = ?applied.result, changes = applied.changes.len(), "applied");
                for change in &applied.changes {
                    if let Change::Broker { node } = change {
                        self.learn_address(host, *node);
                    }
                }
                changes.extend(applied.changes);
                Some(applied.result)
            }
            Payload::Empty | Payload::Membership(_) => {
                // The state follows the log index, also where there is no command.
                let _nothing = self.state.write().apply(index, &[]);
                None
            }
        };
        self.applied = index;
        host.applied(index);
        self.since.remove(&index);
        if let Some((waiter, outcome)) = self.waiters.resolve(index, term) {
            self.settle(host, waiter, outcome, result);
        }
        if self.leading == Some(term) && !self.liveness.is_leading() {
            tracing::info!(%term, "driving broker sessions");
            let state = self.state.read();
            self.liveness.become_leader(now.mono_ms, &state);
            // The old leader died before anybody led who could fence it.
            for peer in &self.gone {
                self.liveness.on_connection_refused(now.mono_ms, *peer, &state);
            }
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, host: &mut H, waiter: Waiter<H>, outcome: Outcome, result: Option<CommandResult>) {
        match waiter {
            Waiter::Client(asker) => {
                let answer = match (outcome, result) {
                    (Outcome::Applied(index), Some(result)) => ProposeAnswer::Applied(index, result),
                    (Outcome::Lost, _) => ProposeAnswer::Dropped,
                    (Outcome::Applied(_) | Outcome::Unknown, _) => ProposeAnswer::Unknown,
                };
                host.answer_propose(asker, answer);
            }
            Waiter::Membership(asker) => {
                let answer: Result<Membership, MembershipError> = match outcome {
                    Outcome::Applied(_) => Ok(self.replica.membership().clone()),
                    Outcome::Lost | Outcome::Unknown => Err(MembershipError::Dropped),
                };
                host.answer_membership(asker, answer);
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

    pub(super) fn notice_standstill(&mut self, now: Now) {
        let stood_still_ms = now.mono_ms.saturating_sub(self.awake_ms);
        self.awake_ms = now.mono_ms;
        if stood_still_ms > STOOD_STILL_MS && self.liveness.is_leading() {
            tracing::warn!(ms = stood_still_ms, "the quorum stood still: every broker gets a fresh session");
            self.liveness.become_leader(now.mono_ms, &self.state.read());
        }
    }

    pub(super) fn drive_liveness(&mut self, host: &mut H, now: Now) {
        if !self.liveness.is_leading() {
            return;
        }
        let commands = self.liveness.tick(now.mono_ms, &self.state.read());
        for command in commands {
            tracing::info!(?command, "liveness proposes");
            let id = ProposalId { origin: self.node, incarnation: self.incarnation, sequence: host.next_proposal() };
            let envelope = Envelope::new(id, now.wall_ms, command.clone()).encode();
            match self.replica.propose(envelope.into()) {
                Ok(token) => self.wait(host, now, token, Waiter::Liveness(command)),
                Err(error) => {
                    tracing::debug!(%error, "a liveness command was not proposed");
                    self.liveness.on_proposal_failed(&command);
                }
            }
        }
    }

    /// Raft told from which index on these reads are right.
    pub(super) fn reads_answered(&mut self, answered: Vec<ReadState>) {
        for read in answered {
            if let Some(position) = self.reads.iter().position(|(token, _)| *token == read.token) {
                self.ready_reads.push((read.index, self.reads.swap_remove(position).1));
            }
        }
    }

    pub(super) fn serve_reads(&mut self, host: &mut H) {
        for (index, asker) in std::mem::take(&mut self.ready_reads) {
            if index <= self.applied {
                host.answer_read(asker, Some(index));
            } else if host.wants_read(&asker) {
                self.ready_reads.push((index, asker));
            }
        }
        let replica = &mut self.replica;
        self.reads.retain(|(token, asker)| {
            let wanted = host.wants_read(asker);
            if !wanted {
                replica.forget_read(*token);
            }
            wanted
        });
    }

    pub(super) fn compact(&mut self) -> Result<(), StorageFailed> {
        let (index, image) = {
            let state = self.state.read();
            (state.applied(), Bytes::from(state.encode_snapshot()))
        };
        if index.0 == 0 {
            return Ok(());
        }
        match self.replica.provide_snapshot(index, &image) {
            Ok(()) => tracing::info!(%index, bytes = image.len(), "metadata snapshot taken"),
            Err(SnapshotError::Failed(failed)) => return Err(failed),
            Err(error) => tracing::warn!(%error, "no metadata snapshot"),
        }
        Ok(())
    }

    /// What the metadata says about addresses helps to reach brokers that discovery does not know.
    pub(super) fn learn_addresses(&self, host: &mut H) {
        let nodes: BTreeSet<NodeId> = self.state.read().brokers().map(|broker| broker.node).collect();
        for node in nodes {
            self.learn_address(host, node);
        }
    }

    fn learn_address(&self, host: &mut H, node: NodeId) {
        if node == self.node {
            return;
        }
        // The host is called without the lock: it may want to look at the state.
        let endpoint = self.state.read().broker(node).map(|broker| broker.endpoints.control.clone());
        if let Some(endpoint) = endpoint {
            host.learn_address(node, &endpoint);
        }
    }
}
