//! Topics and their partitions: leaders, in-sync sets, acknowledged records, reassignments, placement.

use std::collections::{BTreeMap, BTreeSet};

use super::{Brokers, Id};

/// A topic of the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Partitions.
    pub partitions: usize,
    /// Replication factor.
    pub replication: usize,
    /// `min.insync.replicas`.
    pub min_isr: usize,
    /// The brokers' own.
    pub internal: bool,
    /// Exists.
    pub created: bool,
}

/// A partition.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Index of its topic.
    pub topic: usize,
    /// Its number in it.
    pub number: usize,
    /// Who has a copy; while it is reassigned, the old ones and the new ones.
    pub replicas: Vec<Id>,
    /// Where it shall be.
    pub target: Option<Vec<Id>>,
    /// In sync.
    pub isr: BTreeSet<Id>,
    /// Who leads.
    pub leader: Option<Id>,
    /// Records acknowledged with acks=all.
    pub acked: u64,
}

impl Brokers {
    pub(super) fn run_partitions(&mut self, _now: u64, step_ms: u64) {
        if self.quorum.leader.is_some() {
            self.create_topics();
        }
        let live = self.live();
        for index in 0..self.partitions.len() {
            let mut p = self.partitions[index].clone();
            if self.quorum.leader.is_some() {
                self.control(&mut p, &live);
            }
            self.move_data(index, &mut p, &live, step_ms);
            if self.quorum.leader.is_some() {
                self.finish_reassignment(index, &mut p);
            }
            self.partitions[index] = p;
        }
        self.check_data();
    }

    /// What the controller decides: fenced brokers leave the in-sync set unless they are the last, and a leader comes from it.
    fn control(&mut self, p: &mut Partition, live: &BTreeSet<Id>) {
        if p.isr.iter().any(|id| live.contains(id)) {
            let before = p.isr.len();
            p.isr.retain(|id| self.registered.get(id).is_some_and(|broker| !broker.fenced));
            if p.isr.is_empty() {
                p.isr = live.iter().copied().filter(|id| p.replicas.contains(id)).take(1).collect();
            }
            if p.isr.len() != before {
                self.commit();
            }
        }
        if p.leader.is_none_or(|leader| !live.contains(&leader) || !p.isr.contains(&leader)) {
            let next = p.replicas.iter().copied().find(|id| live.contains(id) && p.isr.contains(id));
            if next != p.leader {
                p.leader = next;
                self.commit();
            }
        }
    }

    /// What leaders and followers do: producers are acknowledged when everybody in sync has the record; the others copy.
    fn move_data(&mut self, index: usize, p: &mut Partition, live: &BTreeSet<Id>, step_ms: u64) {
        let Some(leader) = p.leader.filter(|leader| live.contains(leader)) else { return };
        let _leads = leader;
        if p.isr.len() >= self.topics[p.topic].min_isr && p.isr.iter().all(|id| live.contains(id)) {
            p.acked += step_ms / 100;
        }
        let pace = (self.pace.copy_per_s * step_ms / 1000).max(1);
        let acked = p.acked;
        for id in p.replicas.clone() {
            if !live.contains(&id) {
                continue;
            }
            let in_sync = p.isr.contains(&id);
            let Some(disk) = self.disk_mut(id) else { continue };
            let log = disk.logs.entry(index).or_default();
            *log = if in_sync { acked } else { acked.min(*log + pace) };
            if !in_sync && *log == acked && self.quorum.leader.is_some() {
                p.isr.insert(id);
                self.commit();
            }
        }
    }

    fn finish_reassignment(&mut self, index: usize, p: &mut Partition) {
        let Some(target) = &p.target else { return };
        if !target.iter().all(|id| p.isr.contains(id)) {
            return;
        }
        let gone: Vec<Id> = p.replicas.iter().copied().filter(|id| !target.contains(id)).collect();
        self.tell(format!("{}-{}: {:?} -> {target:?}", self.topics[p.topic].name, p.number, p.replicas));
        p.replicas.clone_from(target);
        p.target = None;
        p.isr.retain(|id| p.replicas.contains(id));
        if p.leader.is_some_and(|leader| !p.replicas.contains(&leader)) {
            p.leader = p.isr.first().copied();
        }
        for id in gone {
            if let Some(disk) = self.disk_mut(id) {
                disk.logs.remove(&index);
            }
        }
        self.commit();
    }

    /// A broker came back with another disk: it has nothing of what it is believed to have.
    pub(super) fn forget_data(&mut self, id: Id) {
        for p in &mut self.partitions {
            if p.isr.len() > 1 {
                p.isr.remove(&id);
            }
        }
    }

    /// Somebody must hold what was acknowledged.
    pub(super) fn check_data(&mut self) {
        let lost = self.partitions.iter().enumerate().find_map(|(index, p)| {
            let holds =
                |id: &Id| self.disk(*id).is_some_and(|disk| disk.logs.get(&index).copied().unwrap_or(0) >= p.acked);
            (p.acked > 0 && !p.replicas.iter().any(holds)).then(|| {
                let topic = &self.topics[p.topic].name;
                format!("{topic}-{}: nobody of {:?} holds {} acknowledged records", p.number, p.replicas, p.acked)
            })
        });
        if let Some(lost) = lost {
            self.broken(lost);
        }
    }

    fn create_topics(&mut self) {
        let able: Vec<Id> =
            self.live().into_iter().filter(|id| self.registered.get(id).is_some_and(|b| !b.cordoned)).collect();
        for topic in 0..self.topics.len() {
            if self.topics[topic].created || able.len() < self.topics[topic].replication {
                continue;
            }
            self.topics[topic].created = true;
            for number in 0..self.topics[topic].partitions {
                let replicas: Vec<Id> = (0..self.topics[topic].replication)
                    .map(|k| able[(self.partitions.len() + k) % able.len()])
                    .collect();
                self.partitions.push(Partition {
                    topic,
                    number,
                    isr: replicas.iter().copied().collect(),
                    leader: replicas.first().copied(),
                    replicas,
                    target: None,
                    acked: 0,
                });
            }
            self.tell(format!("topic {} exists", self.topics[topic].name));
            self.commit();
        }
    }

    /// How many replicas each broker has, those to come included.
    #[must_use]
    pub fn replica_counts(&self) -> BTreeMap<Id, usize> {
        let mut counts: BTreeMap<Id, usize> = self.registered.keys().map(|id| (*id, 0)).collect();
        for p in &self.partitions {
            for id in &p.replicas {
                *counts.entry(*id).or_default() += 1;
            }
        }
        counts
    }

    /// The next move of one partition: off a cordoned broker first, then from the fullest to the emptiest.
    pub(super) fn next_move(&self) -> Result<Option<(usize, Vec<Id>)>, String> {
        let live = self.live();
        let able = |id: &Id| live.contains(id) && self.registered.get(id).is_some_and(|b| !b.cordoned);
        let cordoned = |id: &Id| self.registered.get(id).is_some_and(|b| b.cordoned);
        let mut counts: BTreeMap<Id, usize> =
            self.registered.keys().copied().filter(|id| able(id)).map(|id| (id, 0)).collect();
        for p in &self.partitions {
            for id in p.target.as_ref().unwrap_or(&p.replicas) {
                counts.entry(*id).and_modify(|count| *count += 1);
            }
        }
        let emptiest = |except: &[Id]| {
            counts
                .iter()
                .filter(|(id, _)| !except.contains(id))
                .min_by_key(|(id, count)| (**count, **id))
                .map(|(id, _)| *id)
        };
        let mut blocked = None;
        for (index, p) in self.partitions.iter().enumerate().filter(|(_, p)| p.target.is_none()) {
            let Some(leaving) = p.replicas.iter().copied().find(|id| cordoned(id)) else { continue };
            let mut target = p.replicas.clone();
            match emptiest(&p.replicas) {
                Some(heir) => target.iter_mut().filter(|id| **id == leaving).for_each(|id| *id = heir),
                // The brokers' own topics get along with fewer.
                None if self.topics[p.topic].internal && p.replicas.len() > 1 => target.retain(|id| *id != leaving),
                None => {
                    let name = &self.topics[p.topic].name;
                    blocked.get_or_insert(format!("{name}-{}: no broker can take it from {leaving}", p.number));
                    continue;
                }
            }
            return Ok(Some((index, target)));
        }
        if let Some(blocked) = blocked {
            return Err(blocked);
        }
        let Some((fullest, most)) = counts.iter().max_by_key(|(id, count)| (**count, -**id)) else { return Ok(None) };
        let Some(heir) = emptiest(&[]) else { return Ok(None) };
        if counts.get(&heir).copied().unwrap_or(0) + 1 >= *most {
            return Ok(None);
        }
        let from_fullest = self
            .partitions
            .iter()
            .enumerate()
            .find(|(_, p)| p.target.is_none() && p.replicas.contains(fullest) && !p.replicas.contains(&heir));
        Ok(from_fullest
            .map(|(index, p)| (index, p.replicas.iter().map(|id| if id == fullest { heir } else { *id }).collect())))
    }
}
