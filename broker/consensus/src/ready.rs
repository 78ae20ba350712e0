//! The durability order, in one pair of functions.
//!
//! `ready` = `collect`, then `complete`. `collect` takes what raft has to say and lets go at once only what may
//! overtake the disk: a leader's messages, as long as its term and vote are durable already (its followers' disks
//! count, not its own). `complete` makes entries, term, vote and image durable with one fsync, and only then releases
//! what promises them: votes, acknowledgements, entries to apply, reads. A change of members is durable before it has
//! any effect. After an error nothing is released, now or later.

use bytes::Bytes;
use chronik_log::disk::Disk;
use chronik_model::{RaftIndex, Term, mutant};
use raft::Ready;
use raft::eraftpb;

use crate::error::StorageFailed;
use crate::mirror::{self, RaftMessage};
use crate::replica::{Replica, membership};
use crate::storage::Batch;
use crate::types::{CommittedEntry, Effects, Payload, RoleChange, StateImage};

impl<D: Disk + Clone> Replica<D> {
    /// Whether `ready` has something to tell.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.node.has_ready() || !self.outbox.is_empty() || (self.wants_image() && !self.image_told)
    }

    /// Makes durable what must be, and tells what to do. `send_now` gets messages that need not wait for the disk; send
    /// them first. An error is final: the replica promises nothing any more.
    pub fn ready(&mut self, send_now: impl FnMut(RaftMessage)) -> Result<Effects, StorageFailed> {
        if let Some(failure) = self.failure() {
            return Err(failure.clone());
        }
        let mut effects = Effects::default();
        if self.node.has_ready() {
            let ready = self.collect(send_now, &mut effects);
            self.complete(ready, &mut effects)?;
        }
        effects.messages.append(&mut self.outbox);
        self.tell_role(&mut effects);
        if self.wants_image() && !self.image_told {
            self.image_told = true;
            effects.snapshot_wanted = true;
        }
        if let Some(problem) = self.node.store().take_read_problem() {
            self.last_error = Some(problem);
        }
        self.consider_election();
        Ok(effects)
    }

    /// Whether entries wait for `ready` to make them durable.
    pub(crate) fn has_unpersisted(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.persisted < log.last_index()
    }

    fn collect(&mut self, mut send_now: impl FnMut(RaftMessage), effects: &mut Effects) -> Ready {
        let mut ready = self.node.ready();
        let durable = self.node.store().hard();
        // A lone voter becomes leader within one step: its learners must not hear of a term that a crash could undo.
        let same_term_and_vote = ready.hs().is_none_or(|hs| hs.term == durable.term && hs.vote == durable.vote);
        let early = if mutant!(SendBeforePersist) { ready.take_persisted_messages() } else { Vec::new() };
        for message in ready.take_messages().into_iter().chain(early) {
            let message = self.outgoing(message);
            if message.is_snapshot() {
                effects.snapshots.push(message);
            } else if same_term_and_vote || mutant!(SendBeforePersist) {
                send_now(message);
            } else {
                effects.messages.push(message);
            }
        }
        ready
    }

    fn complete(&mut self, mut ready: Ready, effects: &mut Effects) -> Result<(), StorageFailed> {
        let mut image = (!ready.snapshot().is_empty()).then(|| mirror::Snapshot::from(ready.snapshot().clone()));
        image.iter_mut().for_each(|image| self.recall_founding(image));
        let entries = ready.take_entries();
        let dropped = !ready.must_sync() && mutant!(DropUnwritten);
        tracing::trace!(target: "raft", entries = entries.len(), image = image.is_some(), sync = ready.must_sync(),
            committed = ready.committed_entries().len(), "ready");
        if ready.must_sync() {
            let hard = mirror::HardState::from(&self.node.raft.hard_state());
            let batch = Batch { hard: Some(hard), image: image.clone(), entries };
            self.node.mut_store().persist(batch)?;
        }

        // From here on it is durable.
        let messages = ready.take_persisted_messages();
        self.release(if dropped { Vec::new() } else { messages }, effects);
        for state in ready.take_read_states() {
            if let Some(token) = self.reads.answered(&state.request_ctx) {
                effects.reads.push(crate::types::ReadState { token, index: RaftIndex(state.index) });
            }
        }
        if let Some(image) = image {
            self.installed(image, effects);
        }
        let mut committed = ready.take_committed_entries();
        let mut light = self.node.advance_append(ready);
        committed.append(&mut light.take_committed_entries());
        self.release(light.take_messages(), effects);
        for entry in committed {
            self.commit(entry, effects)?;
        }
        self.node.advance_apply();
        // A leader answers reads from its first commit on, which its election's empty entry is.
        let first_commit = |e: &CommittedEntry| e.payload == Payload::Empty && e.term.0 == self.node.raft.term;
        if self.is_leader() && effects.committed.iter().any(first_commit) {
            self.ask_reads_again();
        }
        Ok(())
    }

    fn release(&self, messages: Vec<eraftpb::Message>, effects: &mut Effects) {
        for message in messages {
            let message = self.outgoing(message);
            if message.is_snapshot() {
                effects.snapshots.push(message);
            } else {
                effects.messages.push(message);
            }
        }
    }

    fn outgoing(&self, message: eraftpb::Message) -> RaftMessage {
        let mut message = RaftMessage::from(message);
        self.tell_founding(&mut message);
        tracing::trace!(target: "raft", kind = ?message.kind(), to = message.to, term = message.term,
            index = message.index, log_term = message.log_term, commit = message.commit,
            entries = message.entries.len(), reject = message.reject, "message out");
        message
    }

    fn installed(&mut self, image: mirror::Snapshot, effects: &mut Effects) {
        let Some(metadata) = image.metadata else { return };
        let members = metadata.conf_state.unwrap_or_default();
        self.membership = membership(metadata.index, &members.voters, &members.learners);
        self.applied = metadata.index;
        self.image_told = false;
        effects.membership = Some(self.membership.clone());
        tracing::debug!(target: "raft", index = metadata.index, bytes = image.data.len(), "state image installed");
        effects.install =
            Some(StateImage { index: RaftIndex(metadata.index), term: Term(metadata.term), data: image.data });
    }

    fn commit(&mut self, entry: eraftpb::Entry, effects: &mut Effects) -> Result<(), StorageFailed> {
        let (index, term) = (entry.index, entry.term);
        tracing::trace!(target: "raft", index, term, bytes = entry.data.len(), "committed");
        let payload = match entry.get_entry_type() {
            eraftpb::EntryType::EntryNormal if entry.data.is_empty() => Payload::Empty,
            eraftpb::EntryType::EntryNormal => Payload::Command(entry.data),
            eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => {
                // Up to the index on disk the members are in force already: entries are told again after a restart.
                if index > self.node.store().members().0 {
                    self.change_members(&entry, effects)?;
                }
                Payload::Membership(self.membership.clone())
            }
        };
        self.applied = index;
        if self.image_told && self.ticks >= self.image_retry_tick {
            self.image_told = false;
        }
        effects.committed.push(CommittedEntry { index: RaftIndex(index), term: Term(term), payload });
        Ok(())
    }

    fn change_members(&mut self, entry: &eraftpb::Entry, effects: &mut Effects) -> Result<(), StorageFailed> {
        let Some(change) = conf_change(entry.get_entry_type(), entry.data.clone()) else {
            self.last_error = Some(format!("entry {} carries no readable membership change", entry.index));
            return Ok(());
        };
        match self.node.apply_conf_change(&change) {
            Ok(state) => {
                self.membership = membership(entry.index, &state.voters, &state.learners);
                self.node.mut_store().members_changed(entry.index, (&state).into())?;
                self.heard.retain(|id, _| state.voters.contains(id) || state.learners.contains(id));
                tracing::debug!(target: "raft", index = entry.index, members = ?self.membership, "members changed");
                effects.membership = Some(self.membership.clone());
                // Its predecessor began the removal of this leader. Raft has dropped its progress with its membership and panics at the
                // next commit; a demoted leader keeps it, and hands over.
                let me = self.config.node.raft_id();
                if self.is_leader() && !state.voters.contains(&me) && !state.learners.contains(&me) {
                    self.node.raft.become_follower(self.node.raft.term, raft::INVALID_ID);
                }
            }
            // Every replica refuses it alike.
            Err(e) => self.last_error = Some(format!("membership change at {} not applied: {e}", entry.index)),
        }
        Ok(())
    }

    fn tell_role(&mut self, effects: &mut Effects) {
        let now = RoleChange { role: self.role(), leader: self.leader(), term: Term(self.node.raft.term) };
        if now == self.told {
            return;
        }
        if now.role != self.told.role || now.term != self.told.term {
            self.heard.clear();
        }
        tracing::debug!(target: "raft", role = now.role.as_str(), leader = ?now.leader, term = now.term.0, "role");
        if now.leader.is_some() && now.leader != self.told.leader {
            self.ask_reads_again();
        }
        self.told = now;
        effects.role = Some(now);
    }

    fn wants_image(&self) -> bool {
        let store = self.node.store();
        let long = store.log_bytes() > self.config.compact_bytes || store.log_entries() > self.config.compact_entries;
        let newer = self.applied > store.image_index() && self.applied >= store.members().0;
        newer && (long || store.image_wanted()) && self.ticks >= self.image_retry_tick
    }
}

/// The change in an entry, decoded by our own mirror, as raft's type.
fn conf_change(kind: eraftpb::EntryType, data: Bytes) -> Option<eraftpb::ConfChangeV2> {
    use prost::Message as _;
    let singles = match kind {
        eraftpb::EntryType::EntryConfChange => {
            let change = mirror::ConfChange::decode(data).ok()?;
            vec![(change.change_type(), change.node_id)]
        }
        _ => {
            let change = mirror::ConfChangeV2::decode(data).ok()?;
            change.changes.iter().map(|c| (c.change_type(), c.node_id)).collect()
        }
    };
    let changes: Vec<eraftpb::ConfChangeSingle> = singles
        .into_iter()
        .map(|(kind, node)| {
            let mut single = eraftpb::ConfChangeSingle { node_id: node, ..eraftpb::ConfChangeSingle::default() };
            single.set_change_type(match kind {
                mirror::ConfChangeType::AddNode => eraftpb::ConfChangeType::AddNode,
                mirror::ConfChangeType::RemoveNode => eraftpb::ConfChangeType::RemoveNode,
                mirror::ConfChangeType::AddLearnerNode => eraftpb::ConfChangeType::AddLearnerNode,
            });
            single
        })
        .collect();
    let mut out = eraftpb::ConfChangeV2::default();
    out.set_changes(changes.into());
    Some(out)
}
