//! Voters that lost their disks: what one must not do itself, and how a leader meets one.
//!
//! A founder whose disk was wiped founds anew: it has its id and its vote, and nothing of what it acknowledged or voted
//! for. Raft's majorities share one voter at least, so one that forgot can be enough to elect somebody who lacks what was
//! committed. Therefore [`Replica::is_unfed`]: who has nothing but its founding gives no vote to whoever has more, until
//! a leader has fed it what was committed when it found it. Called for every message, before raft sees it.
//!
//! Two majorities of an even number of voters share two, so one that forgot harms nothing there, and may vote. It has to:
//! a founder that never got an entry looks the same once it has seen a term in which it did not vote, and with two of four
//! such founders nobody could be elected any more. That counts only where the voters are the founders and never were
//! others: raft commits what stands behind a change of voters by the old ones until the change is applied, so what a
//! candidate by the new ones lacks may be on one of them only. Each request for a vote names the voters if that is so
//! ([`Replica::settled_voters`]); it is written down with the members, and told with each state image.
//!
//! Why that is safe, with one disk lost at a time: a candidate that names `2n` voters has no change of voters in its log.
//! Had one been committed, `n + 1` of the `2n` had it, two of them among the `n + 1` that vote for the candidate, and the
//! one of the two that forgot nothing does not vote for a log without it. So all that was committed, and all who were
//! elected, by these voters had `n + 1` of them, and the same holds for every entry and for the vote of a term.
//!
//! What never happens: a replica that lost its disk votes for a candidate that counts by other voters than its founders, or
//! by an odd number of them, and has more than a founder, before it was fed.

use chronik_log::disk::Disk;
use prost::Message as _;
use raft::eraftpb;

use crate::mirror::{self, ConfChange, ConfChangeType, MessageType, RaftMessage};
use crate::replica::Replica;
use crate::storage::BOOTSTRAP_INDEX;

impl<D: Disk + Clone> Replica<D> {
    /// Whether this replica must not give the vote that `request` asks for.
    pub(crate) fn is_unfed(&self, request: &RaftMessage) -> bool {
        request.index > BOOTSTRAP_INDEX && self.is_stranger() && !self.is_trusted_by(&request.voters)
    }

    /// Whether this may be the empty disk of a voter that once acknowledged entries and gave votes.
    pub(crate) fn is_stranger(&self) -> bool {
        let raft = &self.node.raft;
        // A founder that took part in an election since is none.
        let newborn = raft.raft_log.last_index() <= BOOTSTRAP_INDEX && raft.vote == raft::INVALID_ID;
        newborn || self.is_feeding()
    }

    /// Whether a leader feeds this replica, which has not got all yet that was committed when the leader found it. Then it does
    /// not campaign either: it may have more than another voter and less than was committed.
    pub(crate) fn is_feeding(&self) -> bool {
        self.fed_at.is_some_and(|index| self.node.raft.raft_log.committed < index)
    }

    /// Whether this replica must not campaign, as it is being fed and counts by an odd number or by other voters.
    pub(crate) fn must_not_campaign(&self) -> bool {
        self.is_feeding() && !self.is_trusted_by(&self.settled_voters())
    }

    /// Whether a candidate that counts by these voters may have the vote of one that forgot.
    pub(crate) fn is_trusted_by(&self, voters: &[u64]) -> bool {
        voters.len().is_multiple_of(2) && voters.contains(&self.config.node.raft_id())
    }

    /// This replica, a stranger, gave its vote to a candidate whose log ends at `index`: it stays one to candidates that count
    /// by others.
    pub(crate) fn note_vote(&mut self, index: u64) {
        if index > BOOTSTRAP_INDEX {
            self.fed_at = self.fed_at.max(Some(index));
        }
    }

    /// The voters by which this replica counts if it campaigns, if the cluster was founded with just these, never had
    /// others, and no change of them waits in the log.
    pub(crate) fn settled_voters(&self) -> Vec<u64> {
        let store = self.node.store();
        let (index, members) = store.members();
        let settled = self.applied.max(index);
        let changes = |entry: &eraftpb::Entry| entry.index > settled && changes_voters(entry, &members.voters);
        if !members.founding || store.entries().chain(&self.node.raft.raft_log.unstable.entries).any(changes) {
            return Vec::new();
        }
        members.voters.clone()
    }

    /// What this replica knows of the founding goes with what it says.
    pub(crate) fn tell_founding(&self, message: &mut RaftMessage) {
        match message.kind() {
            Some(MessageType::RequestVote | MessageType::RequestPreVote) => message.voters = self.settled_voters(),
            Some(MessageType::Snapshot) => {
                // Raft says nothing of it here: whoever has nothing is fed when it has this.
                message.commit = self.node.raft.raft_log.committed;
                if let Some(members) = members_of(message.snapshot.as_mut()) {
                    members.founding = self.node.store().image_founding();
                }
            }
            _ => {}
        }
    }

    /// A state image comes, and raft keeps nothing of what its sender knows of the founding.
    pub(crate) fn note_founding(&mut self, message: &RaftMessage) {
        let metadata = message.snapshot.as_ref().and_then(|image| image.metadata.as_ref());
        if let Some(metadata) = metadata {
            let founding = metadata.conf_state.as_ref().is_some_and(|members| members.founding);
            self.founding_image = founding.then_some(metadata.index);
        }
    }

    /// The image that raft took is made durable with what its sender said.
    pub(crate) fn recall_founding(&self, image: &mut mirror::Snapshot) {
        let index = image.metadata.as_ref().map(|metadata| metadata.index);
        if let Some(members) = members_of(Some(image)) {
            members.founding = index.is_some() && index == self.founding_image;
        }
    }

    /// A leader feeds a replica that has nothing yet: remembers how far it has to come.
    pub(crate) fn note_feeding(&mut self, message: &RaftMessage) {
        let raft = &self.node.raft;
        let stranger = raft.vote == raft::INVALID_ID || self.fed_at.is_some();
        if raft.raft_log.last_index() > BOOTSTRAP_INDEX || !stranger {
            return;
        }
        let image = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.index);
        // A leader has all that is committed: what a vote was given for counts no more.
        self.fed_at = Some(message.commit.max(image));
    }

    /// A follower that refuses entries which it once acknowledged has lost its log: start over with it.
    pub(crate) fn expect_memory(&mut self, message: &RaftMessage) {
        let from = message.from;
        let Some(progress) = self.node.raft.mut_prs().get_mut(from) else { return };
        if message.reject && message.request_snapshot == 0 && message.reject_hint < progress.matched {
            let matched = progress.matched;
            progress.matched = 0;
            progress.become_probe();
            progress.next_idx = message.reject_hint + 1;
            self.last_error =
                Some(format!("node {from} acknowledged {matched} and has only {}: it lost data", message.reject_hint));
            tracing::error!(target: "raft", node = from, matched, has = message.reject_hint, "a peer lost its log");
        }
    }
}

fn members_of(image: Option<&mut mirror::Snapshot>) -> Option<&mut mirror::ConfState> {
    image?.metadata.as_mut()?.conf_state.as_mut()
}

/// Whether the entry gives somebody a vote or takes one away, once applied to these voters. A learner that comes or goes
/// does not; what cannot be read may.
fn changes_voters(entry: &eraftpb::Entry, voters: &[u64]) -> bool {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => false,
        eraftpb::EntryType::EntryConfChangeV2 => true,
        eraftpb::EntryType::EntryConfChange => match ConfChange::decode(entry.data.clone()) {
            Ok(change) => (change.change_type() == ConfChangeType::AddNode) != voters.contains(&change.node_id),
            Err(_) => true,
        },
    }
}
