//! Rules for the metadata quorum: terms, votes, and what is applied.
//!
//! One leader per term. A broker's term and its vote in it never change back, also not over restarts, as long as its disk
//! keeps what it synced. Within a run the applied index only grows. Two brokers that have applied the same index have the
//! same metadata: compared by a short fingerprint at each index that is seen, and by everything now and then. They have the
//! same voters and learners, too; nobody gets a vote, loses it, or leaves unless somebody asked for it.

use std::collections::{BTreeMap, BTreeSet};

use chronik_consensus::MembershipChange;
use chronik_core::controller::MetadataState;
use chronik_model::NodeId;

use super::Violation;

/// Fingerprints kept.
const KEPT: usize = 8_192;
/// At every so many indexes the whole state is compared.
const WHOLE_EVERY: u64 = 64;

/// What one broker says of its replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The run of its process.
    pub run: u64,
    /// Term.
    pub term: u64,
    /// Vote in it.
    pub vote: Option<NodeId>,
    /// It leads.
    pub leads: bool,
    /// Applied index.
    pub applied: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Quorum {
    leaders: BTreeMap<u64, NodeId>,
    last: BTreeMap<NodeId, Seen>,
    prints: BTreeMap<u64, (u64, NodeId)>,
    whole: BTreeMap<u64, (u64, NodeId)>,
    members: BTreeMap<u64, (u64, NodeId)>,
    /// The newest members that were seen: applied index, voters, learners.
    newest: (u64, Vec<NodeId>, Vec<NodeId>),
    promoted: BTreeSet<NodeId>,
    demoted: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
}

impl Quorum {
    /// What this broker said last.
    #[must_use]
    pub fn last(&self, node: NodeId) -> Option<&Seen> {
        self.last.get(&node)
    }

    /// What it promised may be forgotten: its disk is.
    pub fn forget(&mut self, node: NodeId) {
        self.last.remove(&node);
    }

    /// A broker after an event. `Ok(true)` when it applied something.
    ///
    /// # Errors
    /// It says what it must not.
    pub fn see(&mut self, node: NodeId, seen: Seen) -> Result<bool, Violation> {
        let before = self.last.insert(node, seen);
        if before == Some(seen) {
            return Ok(false);
        }
        let broken = |invariant, text: String| Err(Violation { invariant, text });
        if seen.leads {
            let leader = *self.leaders.entry(seen.term).or_insert(node);
            if leader != node {
                return broken(2, format!("b{leader} and b{node} both lead the quorum in term {}", seen.term));
            }
        }
        let Some(before) = before else { return Ok(seen.applied > 0) };
        let when = if before.run == seen.run { "" } else { " over a restart" };
        if seen.term < before.term {
            return broken(2, format!("the term of b{node} goes back from {} to {}{when}", before.term, seen.term));
        }
        if seen.term == before.term && before.vote.is_some() && seen.vote != before.vote {
            let vote = seen.vote.map_or_else(|| "nobody".to_owned(), |vote| format!("b{vote}"));
            let old = before.vote.unwrap_or(NodeId::NONE);
            return broken(2, format!("b{node} voted for b{old} in term {}, and then{when} for {vote}", seen.term));
        }
        if seen.run == before.run && seen.applied < before.applied {
            return broken(10, format!("b{node} applied {} and then {}", before.applied, seen.applied));
        }
        Ok(seen.applied != before.applied || seen.run != before.run)
    }

    /// Somebody asks for this change of the members.
    pub fn wanted(&mut self, change: MembershipChange) {
        match change {
            MembershipChange::Promote(node) => self.promoted.insert(node),
            MembershipChange::Demote(node) => self.demoted.insert(node),
            MembershipChange::RemoveNode(node) => self.removed.insert(node),
            // Whoever comes may follow.
            MembershipChange::AddLearner(_) => false,
        };
    }

    /// Who takes part, as a broker says that has applied so much.
    ///
    /// # Errors
    /// Another broker says otherwise, or they changed and nobody asked for it.
    pub fn members(
        &mut self,
        node: NodeId,
        applied: u64,
        voters: &[NodeId],
        learners: &[NodeId],
    ) -> Result<(), Violation> {
        if applied == 0 {
            // It has nothing yet.
            return Ok(());
        }
        let ids = voters.iter().map(|id| id.0 as u64).chain([u64::MAX]).chain(learners.iter().map(|id| id.0 as u64));
        let print = ids.fold(0xcbf2_9ce4_8422_2325_u64, |hash, id| (hash ^ id).wrapping_mul(0x0000_0100_0000_01b3));
        same(&mut self.members, node, applied, print, "members")?;
        if applied <= self.newest.0 {
            return Ok(());
        }
        self.newest.0 = applied;
        if self.newest.1 == voters && self.newest.2 == learners {
            return Ok(());
        }
        let (_, old, followed) = std::mem::replace(&mut self.newest, (applied, voters.to_vec(), learners.to_vec()));
        let broken = |text: String| Err(Violation { invariant: 10, text: format!("{text} at index {applied}") });
        if voters.is_empty() {
            return broken("nobody votes in the quorum".to_owned());
        }
        if old.is_empty() {
            return Ok(());
        }
        for one in old.iter().chain(&followed).filter(|one| !voters.contains(one) && !learners.contains(one)) {
            if !self.removed.contains(one) {
                return broken(format!("b{one} is no member any more and nobody asked to remove it"));
            }
        }
        for one in old.iter().filter(|one| learners.contains(one)) {
            if !self.demoted.contains(one) && !self.removed.contains(one) {
                return broken(format!("b{one} has no vote any more and nobody asked to take it"));
            }
        }
        for one in voters.iter().filter(|one| !old.contains(one)) {
            if !self.promoted.contains(one) {
                return broken(format!("b{one} votes and nobody asked for it"));
            }
        }
        Ok(())
    }

    /// The state of a broker that applied something.
    ///
    /// # Errors
    /// Another broker had another state at the same index.
    pub fn compare(&mut self, node: NodeId, state: &MetadataState) -> Result<(), Violation> {
        let index = state.applied().0;
        same(&mut self.prints, node, index, print_of(state), "metadata")?;
        if index.is_multiple_of(WHOLE_EVERY) {
            self.compare_whole(node, state)?;
        }
        Ok(())
    }

    /// The same with everything that is in the state; slow.
    ///
    /// # Errors
    /// Another broker had another state at the same index.
    pub fn compare_whole(&mut self, node: NodeId, state: &MetadataState) -> Result<(), Violation> {
        same(&mut self.whole, node, state.applied().0, state.hash(), "metadata")
    }
}

fn same(
    prints: &mut BTreeMap<u64, (u64, NodeId)>,
    node: NodeId,
    index: u64,
    print: u64,
    what: &str,
) -> Result<(), Violation> {
    let (known, other) = *prints.entry(index).or_insert((print, node));
    if prints.len() > KEPT {
        prints.pop_first();
    }
    if known == print {
        return Ok(());
    }
    let text = format!("b{node} and b{other} have different {what} at index {index}");
    Err(Violation { invariant: 10, text })
}

/// What changes most, quickly: partitions, brokers, producer ids.
fn print_of(state: &MetadataState) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |value: u64| {
        hash = (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 31;
    };
    mix(state.next_producer_id() as u64);
    for broker in state.brokers() {
        mix(broker.node.0 as u64);
        mix(broker.epoch.0 as u64);
        broker.rack.iter().flat_map(|rack| rack.bytes()).for_each(|byte| mix(u64::from(byte)));
        mix(u64::from(broker.fenced) | u64::from(broker.shutting_down.is_some()) << 1);
    }
    for topic in state.topics() {
        mix(topic.id.as_u128() as u64);
        mix(topic.configs.len() as u64);
        for (_, partition) in topic.iter() {
            mix(u64::from(partition.partition_epoch.0 as u32) << 32 | u64::from(partition.leader_epoch.0 as u32));
            mix(partition.leader.map_or(0, |leader| leader.0 as u64));
            for node in partition.isr.iter().chain(&partition.elr) {
                mix(node.0 as u64);
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn seen(run: u64, term: u64, vote: Option<NodeId>, leads: bool, applied: u64) -> Seen {
        Seen { run, term, vote, leads, applied }
    }

    #[test]
    fn one_term_has_one_leader() {
        let mut quorum = Quorum::default();
        quorum.see(A, seen(1, 4, Some(A), true, 0)).unwrap();
        quorum.see(A, seen(2, 5, Some(A), true, 0)).unwrap();
        assert_eq!(quorum.see(B, seen(1, 5, Some(B), true, 0)).unwrap_err().invariant, 2);
    }

    #[test]
    fn term_and_vote_never_change_back_unless_the_disk_is_another() {
        for (next, fine) in [
            (seen(2, 5, Some(A), false, 0), true),
            (seen(2, 6, None, false, 0), true),
            (seen(2, 5, None, false, 0), false),
            (seen(2, 5, Some(B), false, 0), false),
            (seen(1, 5, Some(B), false, 0), false),
            (seen(2, 4, Some(A), false, 0), false),
        ] {
            let mut quorum = Quorum::default();
            quorum.see(A, seen(1, 5, Some(A), false, 0)).unwrap();
            assert_eq!(quorum.see(A, next).is_ok(), fine, "{next:?}");
            let mut quorum = Quorum::default();
            quorum.see(A, seen(1, 5, Some(A), false, 0)).unwrap();
            quorum.forget(A);
            assert!(quorum.see(A, next).is_ok(), "{next:?} on a new disk");
        }
    }

    #[test]
    fn the_applied_index_only_grows_within_a_run() {
        let mut quorum = Quorum::default();
        quorum.see(A, seen(1, 5, None, false, 9)).unwrap();
        assert_eq!(quorum.see(A, seen(1, 5, None, false, 8)).unwrap_err().invariant, 10);
        assert_eq!(quorum.see(A, seen(2, 5, None, false, 3)), Ok(true), "a restart replays");
    }

    #[test]
    fn different_metadata_at_one_index_is_broken() {
        let mut prints = BTreeMap::new();
        same(&mut prints, A, 7, 1, "metadata").unwrap();
        same(&mut prints, B, 8, 2, "metadata").unwrap();
        assert_eq!(same(&mut prints, B, 7, 3, "metadata").unwrap_err().invariant, 10);
    }
}
