//! One fetcher per leading broker pulls everything that this broker follows from it: the twin of the server's
//! `replication/fetcher`, without sessions: each fetch names everything.
//!
//! A fetch is always outstanding at the leader. When something changes here meanwhile, a second one is sent behind it, and
//! the leader answers the first at once. Each fetch remembers what it asked, so that an answer is matched with that. A
//! partition whose answer was an error pauses for a growing time.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::partition::{FetchReply, FollowerAction, FollowerFetch, FollowerRequest, LeaderMarks};
use chronik_model::{LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId};

use super::alarms::{Alarm, AlarmId};
use super::meta::About;
use super::{Broker, Key};
use crate::kernel::Ctx;
use crate::proto::{FetchedData, Request};

const FIRST_BACKOFF_MS: u64 = 20;
const FIRST_RETRY_MS: u64 = 10;
const AWAIT_METADATA_MS: u64 = 200;
const OFFSETS_TIMEOUT_MS: u64 = 3_000;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    assigned: BTreeSet<Key>,
    dirty: BTreeSet<Key>,
    /// Fetches without answer, oldest first: id and what was asked.
    outstanding: Vec<(u64, BTreeMap<Key, FollowerRequest>)>,
    /// Until when partitions pause, and how long the last pause was.
    paused: BTreeMap<Key, (u64, u64)>,
    /// There was nothing to ask the last time: only a change is worth another look.
    asleep: bool,
    /// No connection before this time.
    backoff_until: u64,
    backoff: u64,
    alarm: Option<AlarmId>,
}

impl Fetcher {
    fn may_ask(&self, now_ms: u64) -> bool {
        self.backoff_until <= now_ms
            && !self.assigned.is_empty()
            && match self.outstanding.len() {
                0 => !self.asleep || !self.dirty.is_empty(),
                1 => !self.dirty.is_empty(),
                _ => false,
            }
    }

    /// What ended its pause is asked for again. When the next pause ends: another answer may have begun it, or made it
    /// longer, since the alarm was set, and nothing may be asked until then that would set another one.
    fn end_pauses(&mut self, now_ms: u64) -> Option<u64> {
        let due = self.paused.iter().filter(|(_, (until, _))| *until <= now_ms).map(|(key, _)| *key);
        self.dirty.extend(due);
        self.paused.values().map(|(until, _)| *until).filter(|until| *until > now_ms).min()
    }
}

impl Broker {
    /// `key` follows `leader` from now on, or does so under a new epoch.
    pub(super) fn assign(&mut self, key: Key, leader: NodeId) {
        for (node, fetcher) in &mut self.fetchers {
            if *node != leader && fetcher.assigned.remove(&key) {
                fetcher.dirty.insert(key);
                fetcher.paused.remove(&key);
            }
        }
        let fetcher = self.fetchers.entry(leader).or_default();
        fetcher.assigned.insert(key);
        fetcher.dirty.insert(key);
        // What it paused for may be over.
        fetcher.paused.remove(&key);
    }

    /// `key` follows nobody.
    pub(super) fn unassign(&mut self, key: Key) {
        for fetcher in self.fetchers.values_mut() {
            if fetcher.assigned.remove(&key) {
                fetcher.dirty.insert(key);
                fetcher.paused.remove(&key);
            }
        }
    }

    /// Something changed about what is to be asked for `key`.
    pub(super) fn wants_to_pull(&mut self, key: Key) {
        for fetcher in self.fetchers.values_mut().filter(|fetcher| fetcher.assigned.contains(&key)) {
            fetcher.dirty.insert(key);
        }
    }

    fn pause(&mut self, leader: NodeId, key: Key, first_ms: u64) {
        let (now_ms, most) = (self.now.mono_ms, self.config.fetch_backoff_ms);
        let Some(fetcher) = self.fetchers.get_mut(&leader) else { return };
        let pause = fetcher.paused.get(&key).map_or(first_ms, |(_, last)| *last * 2).min(most);
        fetcher.paused.insert(key, (now_ms + pause, pause));
    }

    /// Lets every fetcher ask that may; true when one did.
    pub(super) fn pull_all(&mut self, ctx: &mut Ctx<'_>) -> bool {
        if !self.listens() {
            return false;
        }
        let now_ms = self.now.mono_ms;
        let due: Vec<NodeId> =
            self.fetchers.iter().filter(|(_, fetcher)| fetcher.may_ask(now_ms)).map(|(leader, _)| *leader).collect();
        let mut asked = false;
        for leader in due {
            asked |= self.pull(ctx, leader);
        }
        asked
    }

    fn pull(&mut self, ctx: &mut Ctx<'_>, leader: NodeId) -> bool {
        let now_ms = self.now.mono_ms;
        let Some(fetcher) = self.fetchers.get_mut(&leader) else { return false };
        fetcher.dirty.clear();
        let mut wanted = Vec::new();
        let mut asked = BTreeMap::new();
        let mut wake = u64::MAX;
        for key in &fetcher.assigned {
            if let Some((until, _)) = fetcher.paused.get(key).filter(|(until, _)| *until > now_ms) {
                wake = wake.min(*until);
                continue;
            }
            let Some(partition) = self.replicas.by_id.get(key) else { continue };
            let Some(request) = partition.follower_request().filter(|request| request.leader == leader) else {
                // It waits for the disk, which makes it dirty again, or for metadata, which assigns it elsewhere.
                continue;
            };
            asked.insert(*key, request);
            wanted.push((
                key.0,
                key.1,
                FollowerFetch {
                    replica: self.node,
                    replica_epoch: self.epoch,
                    current_leader_epoch: request.current_leader_epoch,
                    fetch_offset: request.fetch_offset,
                    last_fetched_epoch: request.last_fetched_epoch,
                    log_start: request.log_start,
                },
            ));
        }
        self.alarms.clear(&mut fetcher.alarm);
        if wake < u64::MAX {
            fetcher.alarm = Some(self.alarms.set(wake, Alarm::Fetcher(leader)));
        }
        fetcher.asleep = wanted.is_empty();
        if fetcher.asleep {
            return false;
        }
        if self.state.read().broker(leader).is_none() {
            self.connection_lost(ctx, leader);
            return false;
        }
        let patience = self.config.fetch_wait_max_ms + self.config.socket_timeout_ms;
        let request = Request::FollowerFetch { partitions: wanted, max_wait_ms: self.config.fetch_wait_max_ms };
        let id = self.ask(ctx, leader, request, patience, About::Fetch(leader));
        if let Some(fetcher) = self.fetchers.get_mut(&leader) {
            fetcher.outstanding.push((id, asked));
        }
        true
    }

    /// A pause is over.
    pub(super) fn fetcher_due(&mut self, _ctx: &mut Ctx<'_>, leader: NodeId) {
        let now_ms = self.now.mono_ms;
        let Some(fetcher) = self.fetchers.get_mut(&leader) else { return };
        fetcher.alarm = fetcher.end_pauses(now_ms).map(|until| self.alarms.set(until, Alarm::Fetcher(leader)));
    }

    /// The connection is of no use any more: a new one after a pause.
    fn connection_lost(&mut self, ctx: &mut Ctx<'_>, leader: NodeId) {
        let jitter = 75 + ctx.below(51);
        let (now_ms, most) = (self.now.mono_ms, self.config.fetch_backoff_ms);
        let Some(fetcher) = self.fetchers.get_mut(&leader) else { return };
        let ids: Vec<u64> = fetcher.outstanding.drain(..).map(|(id, _)| id).collect();
        let backoff = fetcher.backoff.max(FIRST_BACKOFF_MS);
        fetcher.backoff = (backoff * 2).min(most);
        fetcher.backoff_until = now_ms + (backoff * jitter / 100).max(1);
        let keys: Vec<Key> = fetcher.assigned.iter().copied().collect();
        fetcher.dirty.extend(keys);
        self.alarms.clear(&mut fetcher.alarm);
        fetcher.alarm = Some(self.alarms.set(fetcher.backoff_until, Alarm::Fetcher(leader)));
        for id in ids {
            if let Some(question) = self.asked.remove(&id) {
                self.alarms.cancel(question.alarm);
            }
        }
    }

    /// The answer to a fetch, or that there is none.
    pub(super) fn on_pulled(
        &mut self,
        ctx: &mut Ctx<'_>,
        leader: NodeId,
        id: u64,
        answer: Option<Vec<(TopicId, PartitionIndex, FetchedData)>>,
    ) {
        let Some(fetcher) = self.fetchers.get_mut(&leader) else { return };
        let Some(place) = fetcher.outstanding.iter().position(|(known, _)| *known == id) else { return };
        let Some(answer) = answer else { return self.connection_lost(ctx, leader) };
        let (_, asked) = fetcher.outstanding.remove(place);
        fetcher.backoff = 0;
        for (topic, partition, data) in answer {
            let key = (topic, partition);
            let Some(request) = asked.get(&key).copied() else { continue };
            if self.fetchers.get(&leader).is_some_and(|fetcher| fetcher.assigned.contains(&key)) {
                self.take_over(ctx, leader, key, request, &data);
            }
        }
    }

    fn take_over(&mut self, ctx: &mut Ctx<'_>, leader: NodeId, key: Key, request: FollowerRequest, data: &FetchedData) {
        let Some(partition) = self.replicas.by_id.get_mut(&key) else { return };
        let reply = FetchReply {
            request,
            error: data.error,
            diverging: data.diverging,
            marks: LeaderMarks { high_watermark: Offset(data.high_watermark), log_start: Offset(data.log_start) },
        };
        let before = partition.log().log_end();
        let mut out = Vec::new();
        let action = partition.on_fetched(&reply, &data.records, &mut out);
        let tp = partition.tp().clone();
        self.may_have_appended(key);
        self.deliver(ctx, key, out);
        match action {
            FollowerAction::Append(_) => {
                let paused =
                    self.fetchers.get_mut(&leader).is_some_and(|fetcher| fetcher.paused.remove(&key).is_some());
                // A fetch behind this one may have left it out because it paused: nothing else would name it again.
                if paused || !data.records.is_empty() {
                    self.wants_to_pull(key);
                }
            }
            FollowerAction::Truncate { to } => {
                ctx.note(|| format!("{tp} truncates {before} -> {to} (leader b{leader})"));
                self.wants_to_pull(key);
            }
            FollowerAction::ResetTo { offset } => {
                ctx.note(|| format!("{tp} starts its log anew at {offset}, was {before}"));
                self.wants_to_pull(key);
            }
            FollowerAction::Drop => self.wants_to_pull(key),
            FollowerAction::AskLeaderOffsets => {
                let about = About::Offsets(leader, key, request.current_leader_epoch);
                let asks = self.asked.values().any(|question| question.about == about);
                if !asks {
                    let body = Request::LeaderOffsets(key.0, key.1, request.current_leader_epoch);
                    self.ask(ctx, leader, body, OFFSETS_TIMEOUT_MS, about);
                }
                self.pause(leader, key, FIRST_RETRY_MS);
            }
            FollowerAction::Retry(error) => {
                ctx.note(|| format!("{tp} tries again later: {error}"));
                self.pause(leader, key, FIRST_RETRY_MS);
            }
            // Newer metadata assigns the partition again; the pause is for its absence.
            FollowerAction::AwaitMetadata(_) => self.pause(leader, key, AWAIT_METADATA_MS),
        }
    }

    /// The leader's earliest and latest offset, or that they were not learned.
    pub(super) fn on_offsets_learned(
        &mut self,
        ctx: &mut Ctx<'_>,
        leader: NodeId,
        key: Key,
        epoch: LeaderEpoch,
        offsets: Option<(Offset, Offset)>,
    ) {
        let assigned = self.fetchers.get(&leader).is_some_and(|fetcher| fetcher.assigned.contains(&key));
        let (Some((earliest, latest)), true) = (offsets, assigned) else { return };
        let Some(partition) = self.replicas.by_id.get_mut(&key) else { return };
        let mut out = Vec::new();
        let action = partition.on_leader_offsets(epoch, earliest, latest, &mut out);
        let tp = partition.tp().clone();
        ctx.note(|| format!("{tp} learns {earliest}..{latest} of b{leader}: {action:?}"));
        self.deliver(ctx, key, out);
        if let Some(fetcher) = self.fetchers.get_mut(&leader) {
            fetcher.paused.remove(&key);
        }
        self.wants_to_pull(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_grew_before_its_alarm_ends_all_the_same() {
        let key = (TopicId::from_u128(1), PartitionIndex(0));
        let mut fetcher = Fetcher { asleep: true, ..Fetcher::default() };
        fetcher.assigned.insert(key);
        // The alarm is set for 10; the answer to an earlier fetch made it 20.
        fetcher.paused.insert(key, (20, 20));
        assert_eq!(fetcher.end_pauses(10), Some(20));
        assert!(!fetcher.may_ask(10));
        assert_eq!(fetcher.end_pauses(20), None);
        assert!(fetcher.may_ask(20));
    }
}
