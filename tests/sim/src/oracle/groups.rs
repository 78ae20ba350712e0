//! What groups promise, judged by what their members were told (invariant 9).
//!
//! A committed offset is a register: whoever asks for it is given the value of a commit that no other acknowledged commit
//! has certainly replaced. Unknown commits may take effect at any time. One partition has one owner per generation. Once a
//! member was given its assignment for a generation, no commit of an earlier one is accepted any more.

use std::collections::BTreeMap;

use chronik_model::{ErrorCode, Offset, TopicName, TopicPartition};

use super::Violation;
use crate::kernel::Micros;

/// One commit of one offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Commit {
    offset: Offset,
    client: u32,
    generation: i32,
    invoked: Micros,
    /// When it was acknowledged; `None` while that is unknown.
    acked: Option<Micros>,
    /// It certainly did not happen.
    failed: bool,
}

/// A commit request under way.
#[derive(Clone, Debug)]
struct Open {
    group: String,
    /// Partition, and place in its list of commits.
    parts: Vec<(TopicPartition, usize)>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Groups {
    commits: BTreeMap<(String, TopicPartition), Vec<Commit>>,
    open: BTreeMap<u64, Open>,
    next: u64,
    owners: BTreeMap<(String, i32), BTreeMap<TopicPartition, String>>,
    /// When the assignment of a generation was first in the hands of a member.
    formed: BTreeMap<String, BTreeMap<i32, Micros>>,
    /// Offsets of these are not judged: the topics came and went.
    ignored: Vec<TopicName>,
    /// What groups keep was lost beyond what was promised.
    forgiven: bool,
    /// Offsets fetched so far.
    pub fetches: u64,
    broken: Option<Violation>,
}

impl Groups {
    /// A member has its assignment.
    pub fn synced(&mut self, group: &str, generation: i32, member: &str, owned: &[TopicPartition], at: Micros) {
        self.formed.entry(group.to_owned()).or_default().entry(generation).or_insert(at);
        let owners = self.owners.entry((group.to_owned(), generation)).or_default();
        for tp in owned {
            if let Some(other) = owners.insert(tp.clone(), member.to_owned()).filter(|other| other != member)
                && !self.forgiven
            {
                let text = format!("{tp} has two owners in generation {generation} of {group}: {other} and {member}");
                self.broken.get_or_insert(Violation { invariant: 9, text });
            }
        }
    }

    /// A member commits; the number names the request.
    pub fn commit(
        &mut self,
        group: &str,
        client: u32,
        generation: i32,
        offsets: Vec<(TopicPartition, Offset)>,
        at: Micros,
    ) -> u64 {
        let mut parts = Vec::new();
        for (tp, offset) in offsets {
            let list = self.commits.entry((group.to_owned(), tp.clone())).or_default();
            list.push(Commit { offset, client, generation, invoked: at, acked: None, failed: false });
            parts.push((tp, list.len() - 1));
        }
        self.next += 1;
        self.open.insert(self.next, Open { group: group.to_owned(), parts });
        self.next
    }

    /// How a commit ended, per partition; gives back what was accepted.
    pub fn committed(
        &mut self,
        number: u64,
        error: impl Fn(&TopicPartition) -> ErrorCode,
        at: Micros,
    ) -> Vec<(TopicPartition, Offset)> {
        let Some(open) = self.open.remove(&number) else { return Vec::new() };
        let mut accepted = Vec::new();
        for (tp, place) in open.parts {
            let error = error(&tp);
            let list = self.commits.get_mut(&(open.group.clone(), tp.clone()));
            let Some(commit) = list.and_then(|list| list.get_mut(place)) else { continue };
            match error {
                ErrorCode::None => {
                    commit.acked = Some(at);
                    let commit = *commit;
                    self.check_generation(&open.group, &tp, &commit);
                    accepted.push((tp, commit.offset));
                }
                // Refused before anything was written.
                ErrorCode::IllegalGeneration
                | ErrorCode::UnknownMemberId
                | ErrorCode::RebalanceInProgress
                | ErrorCode::CoordinatorLoadInProgress => commit.failed = true,
                _ => {}
            }
        }
        accepted
    }

    fn check_generation(&mut self, group: &str, tp: &TopicPartition, commit: &Commit) {
        let Some(formed) = self.formed.get(group) else { return };
        let later = formed.range(commit.generation + 1..).find(|(_, at)| **at < commit.invoked);
        if let Some((generation, at)) = later
            && !self.forgiven
        {
            let text = format!(
                "group {group} accepted offset {} of {tp} from c{} for generation {}, asked {} ms after generation \
                 {generation} had its assignment",
                commit.offset,
                commit.client,
                commit.generation,
                (commit.invoked - at) / 1_000
            );
            self.broken.get_or_insert(Violation { invariant: 9, text });
        }
    }

    /// A member was told what is committed; `Offset(-1)` for nothing.
    pub fn fetched(&mut self, group: &str, tp: &TopicPartition, offset: Offset, asked: Micros, at: Micros) {
        self.fetches += 1;
        if self.forgiven || self.ignored.contains(&tp.topic) {
            return;
        }
        let none = Vec::new();
        let list = self.commits.get(&(group.to_owned(), tp.clone())).unwrap_or(&none);
        // Acknowledged before the question: no value that it certainly replaced may come back.
        let settled: Vec<&Commit> = list.iter().filter(|commit| commit.acked.is_some_and(|end| end < asked)).collect();
        let replaced =
            |commit: &Commit| commit.acked.is_some_and(|end| settled.iter().any(|newer| newer.invoked > end));
        let possible = match offset {
            Offset(-1) => settled.is_empty(),
            offset => list
                .iter()
                .any(|commit| commit.offset == offset && !commit.failed && commit.invoked < at && !replaced(commit)),
        };
        if possible {
            return;
        }
        let last = settled.iter().max_by_key(|commit| commit.acked);
        let known = last.map_or_else(
            || "nothing was acknowledged".to_owned(),
            |commit| {
                format!(
                    "c{} had {} acknowledged at {} ms in generation {}",
                    commit.client,
                    commit.offset,
                    commit.acked.unwrap_or(0) / 1_000,
                    commit.generation
                )
            },
        );
        let text = format!("group {group} says offset {offset} of {tp}, asked at {} ms, but {known}", asked / 1_000);
        self.broken.get_or_insert(Violation { invariant: 9, text });
    }

    /// The offsets of this topic go with it.
    pub fn ignore(&mut self, topic: &TopicName) {
        if !self.ignored.contains(topic) {
            self.ignored.push(topic.clone());
        }
    }

    /// What groups keep was lost beyond what was promised: nothing is judged any more.
    pub fn forgive(&mut self) {
        self.forgiven = true;
    }

    /// When a commit of this group was last acknowledged.
    #[must_use]
    pub fn last_commit(&self, group: &str) -> Option<Micros> {
        let of_group = self.commits.iter().filter(|((name, _), _)| name == group);
        of_group.flat_map(|(_, list)| list).filter_map(|commit| commit.acked).max()
    }

    /// Commits acknowledged.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.commits.values().flatten().filter(|commit| commit.acked.is_some()).count()
    }

    pub(super) fn take_broken(&mut self) -> Option<Violation> {
        self.broken.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp() -> TopicPartition {
        TopicPartition::new("t0", 0)
    }

    fn committed(groups: &mut Groups, generation: i32, offset: i64, at: Micros, error: ErrorCode) {
        let number = groups.commit("g", 1, generation, vec![(tp(), Offset(offset))], at);
        groups.committed(number, |_| error, at + 10);
    }

    #[test]
    fn an_acknowledged_offset_may_not_go_back() {
        let mut groups = Groups::default();
        committed(&mut groups, 1, 5, 0, ErrorCode::None);
        committed(&mut groups, 1, 9, 100, ErrorCode::None);
        groups.fetched("g", &tp(), Offset(9), 200, 210);
        assert_eq!(groups.take_broken(), None);
        groups.fetched("g", &tp(), Offset(5), 200, 210);
        assert_eq!(groups.take_broken().map(|v| v.invariant), Some(9));
        groups.fetched("g", &tp(), Offset(-1), 200, 210);
        assert_eq!(groups.take_broken().map(|v| v.invariant), Some(9), "it may not vanish either");
    }

    #[test]
    fn an_unknown_commit_may_take_effect_at_any_time_and_a_refused_one_never() {
        let mut groups = Groups::default();
        committed(&mut groups, 1, 7, 0, ErrorCode::RequestTimedOut);
        committed(&mut groups, 1, 5, 50, ErrorCode::None);
        for value in [7, 5] {
            groups.fetched("g", &tp(), Offset(value), 200, 210);
            assert_eq!(groups.take_broken(), None, "{value}");
        }
        committed(&mut groups, 1, 8, 300, ErrorCode::IllegalGeneration);
        groups.fetched("g", &tp(), Offset(8), 400, 410);
        assert!(groups.take_broken().is_some());
    }

    #[test]
    fn a_value_that_nobody_committed_is_broken() {
        let mut groups = Groups::default();
        groups.fetched("g", &tp(), Offset(3), 10, 20);
        assert!(groups.take_broken().is_some());
    }

    #[test]
    fn one_partition_has_one_owner_per_generation() {
        let mut groups = Groups::default();
        groups.synced("g", 1, "a", &[tp()], 0);
        groups.synced("g", 1, "a", &[tp()], 5);
        groups.synced("g", 2, "b", &[tp()], 10);
        assert_eq!(groups.take_broken(), None);
        groups.synced("g", 2, "a", &[tp()], 11);
        assert!(groups.take_broken().is_some());
    }

    #[test]
    fn a_commit_of_an_earlier_generation_is_refused_once_a_later_one_has_its_assignment() {
        let mut groups = Groups::default();
        groups.synced("g", 1, "a", &[tp()], 0);
        committed(&mut groups, 1, 5, 10, ErrorCode::None);
        groups.synced("g", 2, "b", &[tp()], 100);
        assert_eq!(groups.take_broken(), None);
        committed(&mut groups, 1, 6, 90, ErrorCode::None);
        assert_eq!(groups.take_broken(), None, "asked before the later generation was formed");
        committed(&mut groups, 1, 6, 110, ErrorCode::None);
        assert_eq!(groups.take_broken().map(|v| v.invariant), Some(9));
    }

    #[test]
    fn what_was_lost_beyond_the_promise_is_not_judged() {
        let mut groups = Groups::default();
        committed(&mut groups, 1, 5, 0, ErrorCode::None);
        groups.forgive();
        groups.fetched("g", &tp(), Offset(-1), 200, 210);
        assert_eq!(groups.take_broken(), None);
    }
}
