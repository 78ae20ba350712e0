//! Who waits for which proposal.
//!
//! The host registers a waiter with the token that `Replica::propose` returned, and calls `resolve` for every
//! committed entry after applying it, `image_installed` after a state image, and `leadership_lost` when the role
//! changes from leader. A waiter is answered exactly once. Deadlines are the host's: it drops what it waits with.

use std::collections::BTreeMap;

use chronik_model::{RaftIndex, Term};

use crate::types::ProposalToken;

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed and applied at this index.
    Applied(RaftIndex),
    /// Another entry is at its index: it was never committed and never will be.
    Lost,
    /// Leadership was lost, or a state image covered its index: it may or may not be committed. Proposing again with
    /// the same proposal id finds out.
    Unknown,
}

/// The waiters, each with what the host needs to answer it.
#[derive(Debug)]
pub struct Waiters<T> {
    waiting: BTreeMap<RaftIndex, (Term, T)>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new() }
    }
}

impl<T> Waiters<T> {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `waiter` waits for `token`. Returns a waiter of an earlier term that waited at the same index: it is lost.
    #[must_use]
    pub fn wait(&mut self, token: ProposalToken, waiter: T) -> Option<T> {
        self.waiting.insert(token.index, (token.term, waiter)).map(|(_, earlier)| earlier)
    }

    /// The entry at `index`, of `term`, was applied. Indexes come in order, so all below are settled too.
    #[must_use]
    pub fn resolve(&mut self, index: RaftIndex, term: Term) -> Option<(T, Outcome)> {
        let (waited_term, waiter) = self.waiting.remove(&index)?;
        let outcome = if waited_term == term { Outcome::Applied(index) } else { Outcome::Lost };
        Some((waiter, outcome))
    }

    /// A state image replaced everything up to `index`.
    #[must_use]
    pub fn image_installed(&mut self, index: RaftIndex) -> Vec<(T, Outcome)> {
        let later = self.waiting.split_off(&RaftIndex(index.0 + 1));
        let covered = std::mem::replace(&mut self.waiting, later);
        covered.into_values().map(|(_, waiter)| (waiter, Outcome::Unknown)).collect()
    }

    /// This replica leads no more: nobody tells it soon what becomes of its proposals.
    #[must_use]
    pub fn leadership_lost(&mut self) -> Vec<(T, Outcome)> {
        std::mem::take(&mut self.waiting).into_values().map(|(_, waiter)| (waiter, Outcome::Unknown)).collect()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(term: u64, index: u64) -> ProposalToken {
        ProposalToken { term: Term(term), index: RaftIndex(index) }
    }

    #[test]
    fn a_proposal_is_applied_only_by_an_entry_of_its_own_term() {
        let mut waiters = Waiters::new();
        assert!(waiters.wait(token(2, 7), "a").is_none());
        assert!(waiters.wait(token(2, 8), "b").is_none());
        assert_eq!(waiters.resolve(RaftIndex(6), Term(2)), None);
        assert_eq!(waiters.resolve(RaftIndex(7), Term(2)), Some(("a", Outcome::Applied(RaftIndex(7)))));
        assert_eq!(waiters.resolve(RaftIndex(8), Term(3)), Some(("b", Outcome::Lost)));
        assert!(waiters.is_empty());
    }

    #[test]
    fn losing_leadership_or_an_image_leaves_the_outcome_unknown() {
        let mut waiters = Waiters::new();
        for index in 1..=4 {
            assert!(waiters.wait(token(1, index), index).is_none());
        }
        let covered = waiters.image_installed(RaftIndex(2));
        assert_eq!(covered, vec![(1, Outcome::Unknown), (2, Outcome::Unknown)]);
        assert_eq!(waiters.leadership_lost(), vec![(3, Outcome::Unknown), (4, Outcome::Unknown)]);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn a_waiter_at_the_same_index_of_a_later_term_replaces_the_lost_one() {
        let mut waiters = Waiters::new();
        assert!(waiters.wait(token(1, 5), "old").is_none());
        assert_eq!(waiters.wait(token(2, 5), "new"), Some("old"));
        assert_eq!(waiters.resolve(RaftIndex(5), Term(2)), Some(("new", Outcome::Applied(RaftIndex(5)))));
    }
}
