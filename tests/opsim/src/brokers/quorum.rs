//! The metadata quorum: who votes, who leads, how far everybody is, and how long brokers count as alive.

use std::collections::BTreeSet;

use super::{Brokers, Id, Registration, Run, SESSION_MS};
use crate::rng::Rng;

/// A learner this far behind is promoted.
pub const MAX_LAG: u64 = 100;

/// The members of the quorum.
#[derive(Clone, Default, Debug)]
pub struct Quorum {
    /// Who votes.
    pub voters: BTreeSet<Id>,
    /// Who follows.
    pub learners: BTreeSet<Id>,
    /// Who leads.
    pub leader: Option<Id>,
    /// Grows with each leader.
    pub term: u64,
    /// On a majority.
    pub committed: u64,
    /// End of the leader's log.
    pub last: u64,
    change_until: u64,
    election_at: Option<u64>,
    now: u64,
}

impl Quorum {
    pub(super) fn found(&mut self, voters: BTreeSet<Id>) {
        *self = Self { voters, committed: 1, last: 1, now: self.now, ..Self::default() };
    }

    /// Voter or learner.
    #[must_use]
    pub fn is_member(&self, id: Id) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// No change of the members is under way.
    #[must_use]
    pub const fn free(&self) -> bool {
        self.change_until <= self.now
    }

    /// How many voters are needed.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

impl Brokers {
    /// Appends an entry; only called while somebody leads.
    pub(super) fn commit(&mut self) {
        self.quorum.last += 1;
        self.dirty = true;
    }

    /// A change of the members takes a while.
    pub(super) fn commit_members(&mut self, rng: &mut Rng) {
        self.quorum.change_until = self.quorum.now + rng.between(50, 1500);
        self.commit();
    }

    /// Voters that serve and are not far behind.
    pub(super) fn fit_voters(&self) -> BTreeSet<Id> {
        let fit = |id: &Id| self.serves(*id) && self.lag(*id) <= MAX_LAG;
        self.quorum.voters.iter().copied().filter(fit).collect()
    }

    /// How many entries `id` lacks.
    pub(super) fn lag(&self, id: Id) -> u64 {
        let matched = self.disk(id).map_or(0, |disk| disk.raft_index);
        if matched == 0 { u64::MAX } else { self.quorum.last.saturating_sub(matched) }
    }

    /// Whether stopping `id` would leave too few voters to survive another failure; a single voter has to be stopped all the same.
    pub(super) fn quorum_needs(&self, id: Id) -> Option<String> {
        let quorum = &self.quorum;
        if quorum.voters.len() <= 1 || !quorum.voters.contains(&id) {
            return None;
        }
        let left: BTreeSet<Id> = self.fit_voters().into_iter().filter(|voter| *voter != id).collect();
        // Of two voters, no restart leaves a majority.
        let needed = quorum.majority().min(quorum.voters.len() - 1);
        (left.len() < needed).then(|| format!("of the voters {:?} only {left:?} would be left", quorum.voters))
    }

    pub(super) fn run_quorum(&mut self, now: u64, step_ms: u64, rng: &mut Rng) {
        self.quorum.now = now;
        if self.quorum.voters.is_empty() {
            return;
        }
        let alive = self.quorum.voters.iter().filter(|id| self.serves(**id)).count();
        let leads = self.quorum.leader.is_some_and(|id| self.serves(id) && self.quorum.voters.contains(&id));
        if alive < self.quorum.majority() || !leads {
            if let Some(old) = self.quorum.leader.take() {
                self.tell(format!("{old} leads no more"));
            }
            if alive < self.quorum.majority() {
                self.quorum.election_at = None;
                return;
            }
            let at = *self.quorum.election_at.get_or_insert(now + rng.between(300, 2000));
            if at > now {
                return;
            }
            self.elect(now, rng);
        }
        self.replicate(step_ms);
    }

    pub(super) fn elect(&mut self, now: u64, rng: &mut Rng) {
        self.quorum.election_at = None;
        let length = |id: Id| self.disk(id).map_or(0, |disk| disk.raft_index);
        let serving: Vec<Id> = self.quorum.voters.iter().copied().filter(|id| self.serves(*id)).collect();
        let longest = serving.iter().map(|id| length(*id)).max().unwrap_or(0);
        let best: Vec<Id> = serving.into_iter().filter(|id| length(*id) == longest).collect();
        let Some(leader) = rng.pick(&best).copied() else { return };
        if longest < self.quorum.committed {
            let committed = self.quorum.committed;
            self.broken(format!("committed metadata is lost: {leader} leads with {longest} of {committed} entries"));
        }
        self.lead(now, leader, longest.max(self.quorum.committed));
    }

    pub(super) fn lead(&mut self, now: u64, leader: Id, last: u64) {
        self.quorum.leader = Some(leader);
        self.quorum.term += 1;
        self.quorum.last = last;
        self.leader_since = now;
        for broker in self.registered.values_mut() {
            broker.seen = now;
        }
        self.commit();
        self.tell(format!("{leader} leads in term {}", self.quorum.term));
    }

    /// Members follow the leader; what a majority has is committed.
    fn replicate(&mut self, step_ms: u64) {
        self.quorum.last += u64::from(self.quorum.now % 1000 < step_ms);
        let last = self.quorum.last;
        let members: Vec<Id> = self.quorum.voters.union(&self.quorum.learners).copied().collect();
        for id in members {
            if !self.serves(id) {
                continue;
            }
            let leads = self.quorum.leader == Some(id);
            let pace = 20 * step_ms / 100;
            if let Some(disk) = self.disk_mut(id) {
                let near = last.saturating_sub(disk.raft_index) <= pace;
                disk.raft_index = if leads || near { last } else { disk.raft_index + pace };
            }
        }
        let mut lengths: Vec<u64> =
            self.quorum.voters.iter().map(|id| self.disk(*id).map_or(0, |disk| disk.raft_index)).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let on_majority = lengths.get(self.quorum.majority() - 1).copied().unwrap_or(0);
        self.quorum.committed = self.quorum.committed.max(on_majority);
    }

    /// Heartbeats, registration, fencing.
    pub(super) fn run_liveness(&mut self, now: u64) {
        if self.quorum.leader.is_none() {
            return;
        }
        let serving: Vec<Id> =
            self.processes.iter().filter(|(_, p)| matches!(p.run, Run::Serving)).map(|(id, _)| *id).collect();
        for id in serving {
            self.heartbeat(now, id);
        }
        let silent =
            |(id, broker): (&Id, &Registration)| (!broker.fenced && broker.seen + SESSION_MS < now).then_some(*id);
        let silent: Vec<Id> = self.registered.iter().filter_map(silent).collect();
        for id in silent {
            self.fence(id);
        }
    }

    fn heartbeat(&mut self, now: u64, id: Id) {
        let Some(process) = self.processes.get(&id) else { return };
        let (incarnation, version) = (process.incarnation.clone(), process.version.clone());
        let directory = self.disk(id).map(|disk| disk.directory.clone()).unwrap_or_default();
        let caught_up = self.lag(id) <= MAX_LAG;
        let known = self.registered.get(&id);
        if known.is_none_or(|broker| broker.incarnation != incarnation) {
            // Only a member has somewhere to register; one that was removed is told nothing.
            if !self.quorum.is_member(id) {
                return;
            }
            if known.is_some_and(|broker| broker.directory != directory) {
                self.forget_data(id);
            }
            let old = self.registered.remove(&id).unwrap_or_default();
            let epoch = self.quorum.last;
            self.registered
                .insert(id, Registration { epoch, fenced: true, directory, incarnation, version, seen: now, ..old });
            self.tell(format!("broker {id} registers"));
            self.commit();
        }
        let Some(broker) = self.registered.get_mut(&id) else { return };
        broker.seen = now;
        if broker.fenced && caught_up {
            broker.fenced = false;
            self.tell(format!("broker {id} is unfenced"));
            self.commit();
        }
    }

    pub(super) fn fence(&mut self, id: Id) {
        if let Some(broker) = self.registered.get_mut(&id)
            && !broker.fenced
        {
            broker.fenced = true;
            self.tell(format!("broker {id} is fenced"));
            self.commit();
        }
    }

    /// An orderly shutdown: out of the in-sync sets, leaderships handed over, fenced.
    pub(super) fn leave(&mut self, now: u64, id: Id) {
        if self.quorum.leader == Some(id) {
            let heirs: Vec<Id> = self.fit_voters().into_iter().filter(|voter| *voter != id).collect();
            if let Some(heir) = heirs.first().copied()
                && heirs.len() >= self.quorum.majority()
            {
                self.lead(now, heir, self.quorum.last);
            }
        }
        if self.quorum.leader.is_some_and(|leader| leader != id) {
            self.fence(id);
        }
    }
}
