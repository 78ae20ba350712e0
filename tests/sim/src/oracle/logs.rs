//! All partitions together: which replicas there are, who is obliged to hold what, and what a struck disk excuses.
//!
//! A committed record must survive as long as one disk that holds it was not struck (in durable mode: what was synced
//! survives a power cut as well). What was committed while one in-sync replica was enough is promised by the in-sync and
//! eligible replicas alone. When no such disk is left, and only then, the ledger is cut; [`Logs::strike`] and
//! [`Logs::partition_changed`] decide that.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::PartitionState;
use chronik_model::{NodeId, PartitionIndex, TopicId, TopicName, TopicPartition};

use super::Violation;
use super::ledger::{Key, Ledger};
use super::replica::{Ended, Replica};
use crate::kernel::Micros;

/// What happened to a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strike {
    /// The power failed: what was not synced is gone. Nothing that counts, if acknowledgements wait for syncs.
    Power {
        /// The disk kept what it synced, and acknowledgements waited for that.
        durable: bool,
        /// The disk may have lied about its syncs.
        lied: bool,
    },
    /// Anything may be gone or wrong of what the process that runs has not opened.
    Damage {
        /// Its run.
        running: Option<u64>,
    },
    /// It is another disk.
    Replaced,
}

/// The committed state of one partition as of the newest metadata seen.
#[derive(Clone, Debug)]
struct Known {
    state: PartitionState,
}

impl Known {
    /// Who has to hold what was committed.
    fn obliged(&self) -> Vec<NodeId> {
        let state = &self.state;
        state.isr.iter().chain(&state.elr).chain(&state.last_known_elr).copied().collect()
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Logs {
    ledgers: BTreeMap<Key, Ledger>,
    replicas: BTreeMap<Key, BTreeMap<NodeId, Replica>>,
    known: BTreeMap<Key, Known>,
    /// The sets of replicas that a partition may come to have: the first, and those that were asked for.
    wanted: BTreeMap<Key, BTreeSet<BTreeSet<NodeId>>>,
    /// All topics that had this name, in order.
    names: BTreeMap<TopicName, Vec<TopicId>>,
    /// Topics that were deleted, and when: a slow broker may open its logs of them after that.
    gone: BTreeMap<TopicId, Micros>,
    /// The newest version of the assignment that was without this broker.
    absent: BTreeMap<(Key, NodeId), i32>,
    /// The newest version of the assignment under which this broker was seen hosting it.
    seen: BTreeMap<(Key, NodeId), i32>,
}

impl Logs {
    /// The ledger of a partition.
    #[must_use]
    pub fn ledger(&self, key: &Key) -> Option<&Ledger> {
        self.ledgers.get(key)
    }

    /// All ledgers.
    pub fn ledgers(&self) -> impl Iterator<Item = (&Key, &Ledger)> {
        self.ledgers.iter()
    }

    /// All topics that ever had this name.
    pub fn lives(&self, tp: &TopicPartition) -> impl Iterator<Item = (TopicId, &Ledger)> {
        let ids = self.names.get(&tp.topic).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| Some((*id, self.ledgers.get(&(*id, tp.partition))?)))
    }

    /// The committed state of a partition as it was last seen.
    #[must_use]
    pub fn state(&self, key: &Key) -> Option<&PartitionState> {
        self.known.get(key).map(|known| &known.state)
    }

    /// A replica as it was last seen.
    #[must_use]
    pub fn replica(&self, key: &Key, node: NodeId) -> Option<&Replica> {
        self.replicas.get(key)?.get(&node)
    }

    /// Ledger and replica, made if need be.
    pub(super) fn both(&mut self, key: Key, tp: &TopicPartition, node: NodeId) -> (&mut Ledger, &mut Replica) {
        let replica = self.replicas.entry(key).or_default().entry(node).or_default();
        let ledger = self.ledgers.entry(key).or_insert_with(|| {
            let lives = self.names.entry(tp.topic.clone()).or_default();
            if !lives.contains(&key.0) {
                lives.push(key.0);
            }
            let mut ledger = Ledger::new(tp.clone(), lives.len() == 1);
            ledger.deleted = self.gone.get(&key.0).copied();
            ledger
        });
        (ledger, replica)
    }

    /// How far the logs of these ever went.
    #[must_use]
    pub fn told(&self, key: &Key, nodes: &[NodeId], except: NodeId) -> Vec<(NodeId, Option<i64>)> {
        let replicas = self.replicas.get(key);
        let told = |node: NodeId| replicas.and_then(|all| all.get(&node)).filter(|r| !r.struck).map(|r| r.told);
        nodes.iter().filter(|node| **node != except).map(|node| (*node, told(*node))).collect()
    }

    /// Partitions of which the ledger was cut under a replica of this broker.
    pub(super) fn is_stale(&self, key: &Key, node: NodeId) -> bool {
        self.replica(key, node).is_some_and(Replica::is_stale)
    }

    /// A process ended. What it never opened is as the process before it left it: only the run that opened a log settles it.
    pub fn ended(&mut self, node: NodeId, how: Ended, run: Option<u64>) {
        for replica in self.replicas.values_mut().filter_map(|all| all.get_mut(&node)) {
            if replica.ended == Ended::Kept && (how != Ended::Settled || run == Some(replica.run)) {
                replica.ended = how;
            }
        }
    }

    /// A disk was struck: what only it held is excused. Partitions of which something was cut.
    pub fn strike(&mut self, node: NodeId, strike: Strike, now: Micros) -> Vec<Key> {
        let mut cut = Vec::new();
        let keys: Vec<Key> =
            self.replicas.iter().filter(|(_, all)| all.contains_key(&node)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(replica) = self.replicas.get_mut(&key).and_then(|all| all.get_mut(&node)) else { continue };
            match strike {
                Strike::Damage { running: Some(run) } if replica.run == run || replica.run == 0 => continue,
                Strike::Power { lied: true, .. } | Strike::Damage { .. } => {
                    replica.ended = Ended::Uncertain;
                    replica.damaged = true;
                }
                // Nothing was seen of it since something worse happened.
                Strike::Power { .. } if replica.ended == Ended::Uncertain => {}
                Strike::Power { durable, .. } => {
                    replica.ended = Ended::PowerLost;
                    if durable {
                        // Synced below, and above it nothing was acknowledged or shown.
                        continue;
                    }
                }
                Strike::Replaced => replica.replace(),
            }
            replica.struck = true;
            if let Some(ledger) = self.ledgers.get_mut(&key) {
                ledger.struck = Some(node);
            }
            if self.excuse(&key, now) {
                cut.push(key);
            }
        }
        cut
    }

    /// Cuts the ledger where nobody can be asked for what was committed any more.
    fn excuse(&mut self, key: &Key, now: Micros) -> bool {
        let (Some(ledger), Some(replicas)) = (self.ledgers.get_mut(key), self.replicas.get_mut(key)) else {
            return false;
        };
        let held = |nodes: Option<&[NodeId]>| {
            let counts = |node: &NodeId| nodes.is_none_or(|nodes| nodes.contains(node));
            let held = replicas.iter().filter(|(node, r)| counts(node) && !r.dismissed);
            let held = held.filter_map(|(_, r)| r.holds(ledger));
            held.max().unwrap_or(0)
        };
        let anybody = held(None);
        let obliged = self.known.get(key).map_or(anybody, |known| held(Some(&known.obliged())));
        // What needed two in sync is promised by every disk that holds it.
        let strict = ledger.entries_from(0).filter(|(_, entry)| entry.strict && entry.next <= anybody).last();
        let from = obliged.max(strict.map_or(0, |(_, entry)| entry.next)).max(ledger.log_start.min(ledger.end()));
        if from >= ledger.end() {
            return false;
        }
        ledger.cut(from, now);
        let end = ledger.end();
        for replica in replicas.values_mut() {
            replica.cut(end);
        }
        true
    }

    /// Somebody asks for these replicas.
    pub fn assignment_wanted(&mut self, key: Key, replicas: &[NodeId]) {
        self.wanted.entry(key).or_default().insert(replicas.iter().copied().collect());
    }

    /// A broker does not host this partition any more.
    ///
    /// # Errors
    /// It has to.
    pub fn vanished(&mut self, key: &Key, node: NodeId, now: Micros) -> Result<(), Violation> {
        let (Some(ledger), Some(all)) = (self.ledgers.get_mut(key), self.replicas.get_mut(key)) else { return Ok(()) };
        let Some(replica) = all.get_mut(&node) else { return Ok(()) };
        // One that was dismissed before its broker had even heard of the assignment has no record of that here.
        let is_replica = self.known.get(key).is_some_and(|known| known.state.replicas.contains(&node));
        // A slow broker goes through what happened long ago: it was none, and it is one again in a future it has not heard of.
        let place = (*key, node);
        let late = self.absent.get(&place).is_some_and(|absent| self.seen.get(&place).is_none_or(|seen| absent > seen));
        if is_replica && !replica.dismissed && !late && ledger.deleted.is_none() {
            let text = format!("{}: the log of b{node} vanished, which is a replica", ledger.tp);
            return Err(Violation { invariant: 11, text });
        }
        ledger.left = Some(now);
        replica.vanish();
        Ok(())
    }

    /// A broker that has seen this version of the assignment hosts the partition.
    pub fn hosted(&mut self, key: &Key, node: NodeId, version: i32) {
        self.seen.insert((*key, node), version);
        let current = self
            .known
            .get(key)
            .is_some_and(|known| known.state.replicas.contains(&node) && known.state.partition_epoch.0 <= version);
        if current && let Some(replica) = self.replicas.get_mut(key).and_then(|all| all.get_mut(&node)) {
            replica.dismissed = false;
        }
    }

    /// The replicas are those that somebody asked for, or on the way from some to others.
    fn assigned(&mut self, tp: &TopicPartition, key: Key, state: &PartitionState) -> Result<(), Violation> {
        let (from, to) = (state.original_replicas(), state.target_replicas());
        let set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<NodeId>>();
        if !self.known.contains_key(&key) {
            self.wanted.entry(key).or_default().insert(set(&from));
        }
        let asked = |nodes: &[NodeId]| self.wanted.get(&key).is_some_and(|all| all.contains(&set(nodes)));
        if asked(&from) && asked(&to) {
            return Ok(());
        }
        let text = format!("{tp}: nobody asked for these replicas: {state:?}");
        Err(Violation { invariant: 8, text })
    }

    /// Whose log may go: those who are no replicas, and those who were none in between. Also where nothing was seen of them yet.
    fn dismiss(&mut self, key: &Key, before: Option<&PartitionState>, state: &PartitionState) {
        let Some(before) = before else { return };
        let version = state.partition_epoch.0;
        // Several versions may be committed within one event; who is in sync was none in none of them.
        let unseen = version > before.partition_epoch.0 + 1;
        for node in before.replicas.iter().chain(&state.replicas) {
            let again = before.replicas.contains(node) && !before.adding.contains(node) && state.adding.contains(node);
            let absent = if !state.replicas.contains(node) {
                version
            } else if again || (unseen && !state.isr.contains(node)) {
                version - 1
            } else {
                continue;
            };
            self.absent.insert((*key, *node), absent);
        }
        let Some(replicas) = self.replicas.get_mut(key) else { return };
        for (node, replica) in replicas {
            let again = before.replicas.contains(node) && !before.adding.contains(node) && state.adding.contains(node);
            replica.dismissed |= !state.replicas.contains(node) || again;
        }
    }

    /// The committed state of a partition changed.
    ///
    /// # Errors
    /// It went back, or nobody who may lead holds what was committed.
    pub fn partition_changed(
        &mut self,
        topic: &TopicName,
        key: Key,
        state: &PartitionState,
        now: Micros,
    ) -> Result<bool, Violation> {
        let tp = TopicPartition { topic: topic.clone(), partition: key.1 };
        self.assigned(&tp, key, state)?;
        let before = self.known.insert(key, Known { state: state.clone() });
        // Whoever is dismissed by this change is still asked for what it holds: a change must not make its own excuse.
        let struck = self.ledgers.get(&key).and_then(|ledger| ledger.struck);
        let cut = struck.is_some() && self.excuse(&key, now);
        self.dismiss(&key, before.as_ref().map(|known| &known.state), state);
        // What the strike took is known once the log was seen again; what is missing later was taken by something else.
        let seen = |node: NodeId| self.replicas.get(&key).and_then(|all| all.get(&node)).is_none_or(|r| !r.struck);
        if struck.is_some_and(seen)
            && let Some(ledger) = self.ledgers.get_mut(&key)
        {
            ledger.struck = None;
        }
        if let Some(before) = before.as_ref().map(|known| &known.state) {
            let back = state.leader_epoch < before.leader_epoch || state.partition_epoch < before.partition_epoch;
            if back {
                let text = format!("{tp}: the committed state goes back from {before:?} to {state:?}");
                return Err(Violation { invariant: 2, text });
            }
            if state.leader != before.leader && state.leader.is_some() && state.leader_epoch == before.leader_epoch {
                let text = format!("{tp}: another leader in the same epoch: {before:?}, then {state:?}");
                return Err(Violation { invariant: 2, text });
            }
        }
        let Some(ledger) = self.ledgers.get(&key) else { return Ok(cut) };
        let wanted = ledger.strict_end();
        let none = BTreeMap::new();
        let replicas = self.replicas.get(&key).unwrap_or(&none);
        let obliged = Known { state: state.clone() }.obliged();
        // One whose disk was struck may hold it or not: it is judged when it leads.
        let held = |node: &NodeId| replicas.get(node).map_or(Some(0), |replica| replica.holds(ledger));
        let fine = |node: &NodeId| held(node).is_none_or(|held| held >= wanted || ledger.log_start >= wanted);
        let elected = state.leader.filter(|leader| before.is_none_or(|known| known.state.leader != Some(*leader)));
        let lacks = elected.filter(|leader| !fine(leader));
        if wanted > 0 && (lacks.is_some() || !obliged.iter().any(fine)) {
            let holders: Vec<String> = replicas
                .iter()
                .map(|(node, replica)| match replica.holds(ledger) {
                    Some(held) => format!("b{node} holds {held}"),
                    None => format!("b{node} is struck"),
                })
                .collect();
            let who = lacks.map_or_else(
                || "nobody who may lead holds them".to_owned(),
                |leader| format!("b{leader} is elected and lacks some"),
            );
            let text = format!(
                "{tp}: {wanted} records are committed and {who}: {state:?}; {}; {}",
                holders.join(", "),
                ledger.story()
            );
            return Err(Violation { invariant: 8, text });
        }
        Ok(cut)
    }

    /// The topics that exist by now; others that were known are deleted.
    ///
    /// # Errors
    /// One vanished that nobody asked to delete.
    pub fn topics_are(
        &mut self,
        exists: impl Fn(TopicId) -> bool,
        asked: impl Fn(&TopicName) -> bool,
        now: Micros,
    ) -> Result<Vec<TopicName>, Violation> {
        for (id, _) in self.known.keys().filter(|(id, _)| !exists(*id)) {
            self.gone.entry(*id).or_insert(now);
        }
        let mut deleted = Vec::new();
        for (key, ledger) in self.ledgers.iter_mut().filter(|(_, ledger)| ledger.deleted.is_none()) {
            if exists(key.0) || !self.known.contains_key(key) {
                continue;
            }
            if !asked(&ledger.tp.topic) {
                let text = format!("topic {} vanished and nobody asked for it", ledger.tp.topic);
                return Err(Violation { invariant: 10, text });
            }
            ledger.deleted = Some(now);
            deleted.push(ledger.tp.topic.clone());
        }
        Ok(deleted)
    }

    /// The known version of a partition's committed state.
    #[must_use]
    pub fn version(&self, topic: TopicId, partition: PartitionIndex) -> i32 {
        self.known.get(&(topic, partition)).map_or(-1, |known| known.state.partition_epoch.0)
    }
}

#[cfg(test)]
mod tests {
    use chronik_model::{LeaderEpoch, PartitionEpoch};

    use super::super::ledger::tests::batch;
    use super::super::replica::{InSync, Marks};
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn key() -> Key {
        (TopicId::from_u128(7), PartitionIndex(0))
    }

    fn tp() -> TopicPartition {
        TopicPartition::new("t0", 0)
    }

    fn state(version: i32, leader: Option<NodeId>, isr: &[NodeId], elr: &[NodeId]) -> PartitionState {
        PartitionState {
            replicas: vec![A, B, C],
            isr: isr.to_vec(),
            elr: elr.to_vec(),
            last_known_elr: Vec::new(),
            reports: Vec::new(),
            leader,
            leader_epoch: LeaderEpoch(version),
            partition_epoch: PartitionEpoch(version),
            recovery: chronik_core::LeaderRecovery::Recovered,
            adding: Vec::new(),
            removing: Vec::new(),
        }
    }

    /// A leads and has committed two records, B holds them, C holds one. `min` had to be in sync.
    fn logs(min: usize) -> Logs {
        let mut logs = Logs::default();
        logs.partition_changed(&tp().topic, key(), &state(1, Some(A), &[A, B], &[]), 0).unwrap();
        let all = [batch(0, 1, "x", None), batch(1, 1, "y", None)];
        for (node, count) in [(A, 2_usize), (B, 2), (C, 1)] {
            let read = move |from: i64, to: i64| {
                let some = all.iter().take(count).filter(|b| b.base_offset.0 >= from && b.base_offset.0 < to);
                some.copied().collect()
            };
            let (ledger, replica) = logs.both(key(), &tp(), node);
            let leads = (node == A).then_some(1);
            let mark = if node == A { 2 } else { 0 };
            let marks = Marks { end: count as i64, high_watermark: mark, visible: mark, leads, ..Marks::default() };
            replica.booted(node, 1, &marks, &read, ledger).unwrap();
            let in_sync = InSync { told: Vec::new(), size: 2, min, changed: false };
            replica.changed(node, &marks, &read, ledger, &in_sync, 0).unwrap();
        }
        assert_eq!(logs.ledger(&key()).unwrap().end(), 2);
        logs
    }

    fn power() -> Strike {
        Strike::Power { durable: false, lied: false }
    }

    #[test]
    fn one_struck_disk_excuses_nothing_that_another_one_holds() {
        for strike in [power(), Strike::Damage { running: None }, Strike::Replaced] {
            let mut logs = logs(2);
            assert!(logs.strike(A, strike, 1).is_empty(), "{strike:?}");
            assert_eq!(logs.ledger(&key()).unwrap().end(), 2);
        }
    }

    #[test]
    fn a_disk_that_was_struck_once_and_seen_since_excuses_no_later_change() {
        let mut logs = logs(2);
        logs.strike(C, power(), 1);
        let nothing = |_, _| Vec::new();
        let (ledger, replica) = logs.both(key(), &tp(), C);
        replica.booted(C, 2, &Marks::default(), &nothing, ledger).unwrap();
        logs.partition_changed(&tp().topic, key(), &state(2, Some(A), &[A, B], &[]), 2).unwrap();
        assert_eq!(logs.ledger(&key()).unwrap().struck, None);

        // The strike itself excuses no change that gives up everybody who holds what was committed.
        logs.strike(C, power(), 3);
        logs.assignment_wanted(key(), &[C]);
        let only = PartitionState { replicas: vec![C], ..state(3, Some(C), &[C], &[]) };
        let violation = logs.partition_changed(&tp().topic, key(), &only, 3);
        assert_eq!(logs.ledger(&key()).unwrap().end(), 2, "{violation:?}");
    }

    #[test]
    fn what_no_disk_holds_any_more_is_excused() {
        let mut logs = logs(2);
        logs.strike(A, power(), 1);
        assert_eq!(logs.strike(B, power(), 2), [key()]);
        assert_eq!(logs.ledger(&key()).unwrap().end(), 1, "the first record is still on the third");
    }

    #[test]
    fn a_power_cut_does_not_make_a_lying_disk_honest() {
        let mut logs = logs(2);
        logs.strike(A, Strike::Power { durable: true, lied: true }, 1);
        // A process came and went without opening the log.
        logs.ended(A, Ended::Kept, None);
        logs.strike(A, Strike::Power { durable: true, lied: false }, 2);
        let replica = logs.replica(&key(), A).unwrap();
        assert_eq!((replica.ended, replica.damaged, replica.struck), (Ended::Uncertain, true, true));
    }

    #[test]
    fn damage_excuses_only_what_the_running_process_has_not_opened() {
        for (running, how) in [(Some(1), Ended::Kept), (Some(2), Ended::Uncertain), (None, Ended::Uncertain)] {
            let mut logs = logs(2);
            logs.strike(A, Strike::Damage { running }, 1);
            let replica = logs.replica(&key(), A).unwrap();
            assert_eq!((replica.ended, replica.damaged), (how, how == Ended::Uncertain), "{running:?}");
        }
    }

    #[test]
    fn durable_logs_are_not_excused_by_a_power_cut_of_all() {
        let mut logs = logs(2);
        for node in [A, B, C] {
            assert!(logs.strike(node, Strike::Power { durable: true, lied: false }, 1).is_empty());
        }
        assert_eq!(logs.ledger(&key()).unwrap().end(), 2);
    }

    #[test]
    fn what_one_replica_in_sync_was_enough_for_is_promised_by_that_one_alone() {
        let mut logs = logs(1);
        logs.partition_changed(&tp().topic, key(), &state(2, Some(A), &[A], &[]), 1).unwrap();
        assert_eq!(logs.strike(A, power(), 2), [key()], "B holds it too but was not asked to");
        let mut logs = self::logs(2);
        logs.partition_changed(&tp().topic, key(), &state(2, Some(A), &[A], &[B]), 1).unwrap();
        assert!(logs.strike(A, power(), 2).is_empty());
    }

    #[test]
    fn the_last_holder_may_not_leave_the_in_sync_and_eligible_replicas() {
        let mut logs = logs(2);
        assert!(logs.partition_changed(&tp().topic, key(), &state(2, Some(B), &[B], &[A]), 1).is_ok());
        let error = logs.partition_changed(&tp().topic, key(), &state(3, Some(C), &[C], &[]), 2).unwrap_err();
        assert_eq!(error.invariant, 8);
    }

    #[test]
    fn holders_may_be_distrusted_but_nobody_is_elected_over_them() {
        let distrusted = |version, leader: Option<NodeId>, last_known: &[NodeId]| {
            let isr: Vec<NodeId> = leader.into_iter().collect();
            PartitionState { last_known_elr: last_known.to_vec(), ..state(version, leader, &isr, &[]) }
        };
        let mut logs = logs(2);
        assert!(logs.partition_changed(&tp().topic, key(), &distrusted(2, None, &[A, C]), 1).is_ok());
        assert!(logs.partition_changed(&tp().topic, key(), &distrusted(3, Some(A), &[C]), 2).is_ok());
        let error = logs.partition_changed(&tp().topic, key(), &distrusted(4, Some(C), &[A]), 3).unwrap_err();
        assert_eq!(error.invariant, 8);
        assert!(error.text.contains("is elected"), "{}", error.text);
    }

    #[test]
    fn the_committed_state_never_goes_back_and_an_epoch_keeps_its_leader() {
        let mut logs = logs(2);
        let error = logs.partition_changed(&tp().topic, key(), &state(0, Some(A), &[A, B], &[]), 1).unwrap_err();
        assert_eq!(error.invariant, 2);
        let mut logs = self::logs(2);
        let mut reused = state(2, Some(B), &[A, B], &[]);
        reused.leader_epoch = LeaderEpoch(1);
        assert_eq!(logs.partition_changed(&tp().topic, key(), &reused, 1).unwrap_err().invariant, 2);
    }

    #[test]
    fn a_topic_vanishes_only_when_somebody_asked_for_it() {
        let mut logs = logs(2);
        assert_eq!(logs.topics_are(|_| true, |_| false, 1), Ok(Vec::new()));
        assert_eq!(logs.topics_are(|_| false, |_| false, 1).unwrap_err().invariant, 10);
        assert_eq!(logs.topics_are(|_| false, |_| true, 1), Ok(vec![tp().topic]));
        assert!(logs.ledger(&key()).unwrap().deleted.is_some());
    }
}
