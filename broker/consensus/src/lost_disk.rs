//! Voters that lost their disks: what one must not do itself, and how a leader meets one.
//!
//! A founder whose disk was wiped founds anew: it has its id and its vote, and nothing of what it acknowledged or voted
//! for. Raft's majorities share one voter at least, so one that forgot can be enough to elect somebody who lacks what was
//! committed. Therefore [`Replica::is_unfed`]: who has nothing but its founding gives no vote to whoever has more, until
//! a leader has fed it what was committed when it found it. Called for every message, before raft sees it.
//!
//! Two majorities of an even number of voters share two, so one that forgot harms nothing there, and may vote. It has to:
//! a founder that never got an entry looks the same once it has seen a term in which it did not vote, and with two of four
//! such founders nobody could be elected any more. What counts is how many voters the candidate counts, not with how
//! many this replica was founded: each request for a vote says so ([`Replica::settled_voters`]).
//!
//! Why that is safe, with one disk lost at a time: a candidate that names `2n` voters has no change of members above them in
//! its log. Had a later one been committed, `n + 1` of the `2n` had it, two of them among the `n + 1` that vote for the candidate,
//! and the one of the two that forgot nothing does not vote for a log without it. So all that was committed, and all who were elected,
//! by these voters had `n + 1` of them, and the same holds for every entry and for the vote of a term. (Not covered, as with raft's
//! own changes of members: a leader elected by the voters before the last change, because it did not know yet that the
//! change was committed, in the moments before the disk was lost.)
//!
//! What never happens: a replica that lost its disk votes for a candidate that counts an odd number of voters and has
//! more than it, before it was fed.

use chronik_log::disk::Disk;
use raft::eraftpb;

use crate::mirror::RaftMessage;
use crate::replica::Replica;
use crate::storage::BOOTSTRAP_INDEX;

impl<D: Disk + Clone> Replica<D> {
    /// Whether this replica must not give the vote that `request` asks for.
    pub(crate) fn is_unfed(&self, request: &RaftMessage) -> bool {
        let raft = &self.node.raft;
        // A founder that took part in an election since is no stranger.
        let newborn = raft.raft_log.last_index() <= BOOTSTRAP_INDEX && raft.vote == raft::INVALID_ID;
        let feeding = self.fed_at.is_some_and(|index| raft.raft_log.committed < index);
        let even = request.voters.len().is_multiple_of(2) && request.voters.contains(&self.config.node.raft_id());
        request.index > BOOTSTRAP_INDEX && (newborn || feeding) && !even
    }

    /// The voters by which this replica counts if it campaigns; none while a later change of members may be committed.
    pub(crate) fn settled_voters(&self) -> Vec<u64> {
        let store = self.node.store();
        let settled = self.applied.max(store.members().0);
        let changes =
            |entry: &eraftpb::Entry| entry.index > settled && entry.get_entry_type() != eraftpb::EntryType::EntryNormal;
        if store.entries().chain(&self.node.raft.raft_log.unstable.entries).any(changes) {
            return Vec::new();
        }
        self.membership.voters.iter().map(|voter| voter.raft_id()).collect()
    }

    /// A leader feeds a replica that has nothing yet: remembers how far it has to come.
    pub(crate) fn note_feeding(&mut self, message: &RaftMessage) {
        let raft = &self.node.raft;
        if raft.raft_log.last_index() > BOOTSTRAP_INDEX || raft.vote != raft::INVALID_ID {
            return;
        }
        let image = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.index);
        self.fed_at = self.fed_at.max(Some(message.commit.max(image)));
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
