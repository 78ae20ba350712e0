//! Everything that a replica knows about itself, as plain data.

use chronik_log::disk::Disk;
use chronik_model::{RaftIndex, Term};
use raft::{ProgressState, Storage as _};

use crate::replica::{Replica, known, node_id};
use crate::types::{BriefStatus, NodeStatus, PeerProgress, ProgressKind};

impl<D: Disk + Clone> Replica<D> {
    /// A picture of this moment; cheap enough to take many times a second.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let raft = &self.node.raft;
        let store = self.node.store();
        NodeStatus {
            node: self.config.node,
            role: self.role(),
            voter: self.membership.voters.contains(&self.config.node),
            term: Term(raft.term),
            vote: known(raft.vote),
            leader: self.leader(),
            commit: RaftIndex(raft.raft_log.committed),
            applied: RaftIndex(self.applied),
            first_index: RaftIndex(store.first_index().unwrap_or_default()),
            last_index: RaftIndex(raft.raft_log.last_index()),
            persisted: RaftIndex(raft.raft_log.persisted),
            unstable_entries: raft.raft_log.unstable_entries().len(),
            snapshot_index: RaftIndex(store.image_index()),
            log_bytes: store.log_bytes(),
            voters: self.membership.voters.clone(),
            learners: self.membership.learners.clone(),
            peers: if self.is_leader() { self.peers() } else { Vec::new() },
            connected: self.election.connected().iter().copied().map(node_id).collect(),
            membership_change_pending: self.is_leader() && raft.has_pending_conf(),
            transferring_to: raft.lead_transferee.map(node_id),
            election_elapsed: raft.election_elapsed,
            election_timeout: self.election.timeout(),
            elections_started: self.elections_started,
            messages_refused: self.messages_refused,
            pending_reads: self.reads.len(),
            last_error: self.failure().map(ToString::to_string).or_else(|| self.last_error.clone()),
            failed: self.stopped(),
        }
    }

    /// The same in a few words, for who looks after every message.
    #[must_use]
    pub fn brief(&self) -> BriefStatus {
        let raft = &self.node.raft;
        BriefStatus {
            role: self.role(),
            term: Term(raft.term),
            vote: known(raft.vote),
            leader: self.leader(),
            commit: RaftIndex(raft.raft_log.committed),
            last_index: RaftIndex(raft.raft_log.last_index()),
            persisted: RaftIndex(raft.raft_log.persisted),
        }
    }

    fn peers(&self) -> Vec<PeerProgress> {
        let mut peers: Vec<PeerProgress> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != self.me())
            .map(|(id, progress)| PeerProgress {
                node: node_id(*id),
                voter: self.membership.voters.contains(&node_id(*id)),
                matched: RaftIndex(progress.matched),
                next: RaftIndex(progress.next_idx),
                state: match progress.state {
                    ProgressState::Probe => ProgressKind::Probe,
                    ProgressState::Replicate => ProgressKind::Replicate,
                    ProgressState::Snapshot => ProgressKind::Snapshot,
                },
                paused: progress.is_paused(),
                pending_snapshot: (progress.pending_snapshot > 0).then_some(RaftIndex(progress.pending_snapshot)),
                recent_active: self.is_live(*id),
                silent_ms: self.heard.get(id).map(|tick| (self.ticks - tick) * self.config.tick_ms),
            })
            .collect();
        peers.sort_unstable_by_key(|p| p.node);
        peers
    }
}
