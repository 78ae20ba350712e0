//! When this replica campaigns: seeded jitter instead of raft's own, first elections and failovers without waiting
//! for a timeout.
//!
//! raft draws its timeouts from the thread's generator, so its timer is put out of reach and this one asks raft to
//! campaign instead; everything else about elections (pre-vote, leases, votes) stays raft's.
//!
//! The shortcut: while nobody leads and a majority of voters is connected, the lowest connected voter campaigns at
//! once and the others a few ticks later, a few times, before the ordinary timeout takes over. It is armed only by
//! events that say why no leader is to be expected: a connection without the hint of a leader, or a leader whose
//! process is certainly gone. It never disturbs a live leader: pre-votes are refused by all who hear one.

use std::collections::BTreeSet;

use chronik_log::disk::SplitMix64;

use crate::types::Role;

/// Attempts of the shortcut per event that arms it.
const ATTEMPTS: u32 = 5;

/// What the timer needs to know of the replica at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) me: u64,
    pub(crate) voters: &'a [u64],
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    /// Ticks since a leader was heard or an election began.
    pub(crate) elapsed: usize,
    /// Ticks since the replica was opened.
    pub(crate) tick: u64,
}

#[derive(Debug)]
pub(crate) struct Election {
    rng: SplitMix64,
    election_tick: usize,
    heartbeat_tick: usize,
    timeout: usize,
    drawn_for: (u64, Role, Option<u64>),
    connected: BTreeSet<u64>,
    attempts: u32,
    next_attempt: Option<u64>,
    /// No shortcut before this tick: somebody is said to lead, or is being elected.
    quiet_until: u64,
}

impl Election {
    pub(crate) fn new(seed: u64, me: u64, term: u64, election_tick: usize, heartbeat_tick: usize) -> Self {
        let rng = SplitMix64::new(seed ^ me.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut election = Self {
            rng,
            election_tick,
            heartbeat_tick,
            timeout: 0,
            drawn_for: (term, Role::Follower, None),
            connected: BTreeSet::new(),
            attempts: ATTEMPTS,
            next_attempt: None,
            quiet_until: 0,
        };
        election.draw();
        election
    }

    fn draw(&mut self) {
        self.timeout = self.election_tick + self.rng.below(self.election_tick as u64) as usize;
    }

    pub(crate) fn timeout(&self) -> usize {
        self.timeout
    }

    pub(crate) fn connected(&self) -> &BTreeSet<u64> {
        &self.connected
    }

    /// To be called whenever raft may have changed its mind.
    pub(crate) fn observe(&mut self, view: View<'_>) {
        let now = (view.term, view.role, view.leader);
        if now == self.drawn_for {
            return;
        }
        if view.term > self.drawn_for.0 && view.role == Role::Follower {
            // Somebody else is being elected in the new term: leave it the time to tell.
            self.quiet_until = self.quiet_until.max(view.tick + self.heartbeat_tick as u64);
        }
        if view.leader.is_some() {
            self.attempts = 0;
            self.next_attempt = None;
        }
        self.drawn_for = now;
        self.draw();
    }

    /// A peer is connected and says whom it follows.
    pub(crate) fn peer_connected(&mut self, view: View<'_>, peer: u64, leader_hint: Option<u64>) {
        self.connected.insert(peer);
        // A hint at ourselves is of our previous run.
        if leader_hint.is_some_and(|leader| leader != view.me) {
            self.quiet_until = self.quiet_until.max(view.tick + self.election_tick as u64);
        }
        if view.leader.is_none() {
            self.attempts = ATTEMPTS;
        }
    }

    pub(crate) fn peer_lost(&mut self, peer: u64) {
        self.connected.remove(&peer);
    }

    /// The leader's process is gone for certain: no reason to wait.
    pub(crate) fn leader_gone(&mut self) {
        self.attempts = ATTEMPTS;
        self.next_attempt = None;
        self.quiet_until = 0;
    }

    /// No reason to leave the first attempt to a lower id either.
    pub(crate) fn ask_at_once(&mut self, tick: u64) {
        self.next_attempt = Some(tick);
    }

    /// The leader said itself that it leads no more (it restarted); it may only be late news.
    pub(crate) fn leader_in_doubt(&mut self, tick: u64) {
        self.attempts = ATTEMPTS;
        self.next_attempt = None;
        self.quiet_until = tick + self.heartbeat_tick as u64 + 1;
    }

    /// Whether to campaign now.
    pub(crate) fn due(&mut self, view: View<'_>) -> bool {
        if view.role == Role::Leader || !view.voters.contains(&view.me) {
            return false;
        }
        if view.elapsed >= self.timeout {
            self.draw();
            return true;
        }
        self.shortcut(view)
    }

    fn shortcut(&mut self, view: View<'_>) -> bool {
        // A candidate has a real election going on, which another campaign would only disturb.
        if view.leader.is_some() || view.role == Role::Candidate || self.attempts == 0 || view.tick < self.quiet_until {
            return false;
        }
        let connected = view.voters.iter().filter(|v| **v != view.me && self.connected.contains(v)).count();
        if connected < view.voters.len() / 2 {
            return false;
        }
        let rank = view.voters.iter().filter(|v| **v < view.me && self.connected.contains(v)).count() as u64;
        let due = match self.next_attempt {
            Some(due) => due,
            None if rank == 0 => view.tick,
            None => view.tick + 2 * rank + self.rng.below(2),
        };
        if view.tick < due {
            self.next_attempt = Some(due);
            return false;
        }
        self.attempts -= 1;
        self.next_attempt = Some(view.tick + 1 + 2 * rank + self.rng.below(2));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(me: u64, tick: u64) -> View<'static> {
        View { me, voters: &[1, 2, 3], role: Role::Follower, term: 5, leader: None, elapsed: 0, tick }
    }

    #[test]
    fn the_lowest_connected_voter_campaigns_as_soon_as_a_majority_is_connected() {
        let mut one = Election::new(7, 1, 5, 10, 3);
        assert!(!one.due(view(1, 0)), "alone");
        one.peer_connected(view(1, 0), 3, None);
        assert!(one.due(view(1, 0)));
        assert!(!one.due(view(1, 0)), "once");

        let mut two = Election::new(7, 2, 5, 10, 3);
        two.peer_connected(view(2, 0), 1, None);
        assert!(!two.due(view(2, 0)));
        assert!(!two.due(view(2, 1)));
        assert!((2..=3).any(|tick| two.due(view(2, tick))), "the next one follows a little later");
    }

    #[test]
    fn a_leader_known_to_a_peer_or_to_us_keeps_the_shortcut_shut() {
        let mut election = Election::new(7, 1, 5, 10, 3);
        election.peer_connected(view(1, 0), 2, Some(3));
        assert!((0..10).all(|tick| !election.due(view(1, tick))));

        let mut election = Election::new(7, 1, 5, 10, 3);
        let led = View { leader: Some(2), ..view(1, 0) };
        election.observe(led);
        election.peer_connected(led, 2, Some(2));
        assert!((0..30).all(|tick| !election.due(View { tick, ..led })));
        // Losing it without a reason leaves it to the timeout.
        assert!((0..30).all(|tick| !election.due(view(1, 100 + tick))));
        assert!(election.due(View { elapsed: 20, ..view(1, 140) }));
    }

    #[test]
    fn a_leader_that_is_certainly_gone_is_replaced_at_once() {
        let mut election = Election::new(7, 1, 5, 10, 3);
        election.peer_connected(view(1, 0), 2, None);
        election.peer_connected(view(1, 0), 3, None);
        election.observe(View { leader: Some(3), term: 6, ..view(1, 0) });
        election.peer_lost(3);
        election.leader_gone();
        election.observe(View { term: 6, ..view(1, 50) });
        assert!(election.due(View { term: 6, ..view(1, 50) }));
    }

    #[test]
    fn the_same_seed_draws_the_same_timeouts_within_one_and_two_election_ticks() {
        let draws = |seed| {
            let mut election = Election::new(seed, 1, 5, 10, 3);
            (0..50)
                .map(|term| {
                    election.observe(View { term: 10 + term, ..view(1, 0) });
                    election.timeout()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert!(draws(3).iter().all(|t| (10..20).contains(t)));
    }
}
