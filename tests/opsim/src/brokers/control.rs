//! The control service: what the operator is told and what it may ask, by the rules of the brokers' own.

use std::sync::Arc;

use chronik_operator::observed::{BrokerFacts, ClusterFacts, MemberFacts, NodeId, RegisteredFacts, SelfFacts};
use chronik_operator::ports::{BrokerError, LeadersMoved, QuorumChange, RebalanceFacts, RebalanceLimits};

use super::quorum::MAX_LAG;
use super::{Brokers, Id};
use crate::rng::Rng;

/// Longest memory of what a broker may still believe.
const VIEWS: usize = 64;

type Result<T> = std::result::Result<T, BrokerError>;

fn refused<T>(why: impl Into<String>) -> Result<T> {
    Err(BrokerError::Refused(why.into()))
}

fn retry<T>(why: impl Into<String>) -> Result<T> {
    Err(BrokerError::Retry(why.into()))
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl Brokers {
    /// What a broker says; None = it does not answer.
    pub fn describe(&self, now: u64, id: Id, rng: &mut Rng) -> Option<BrokerFacts> {
        let process = self.processes.get(&id)?;
        if process.unreachable_until > now || matches!(process.run, super::Run::Crashed(_) | super::Run::Booting { .. })
        {
            return None;
        }
        let disk = self.disk(id).cloned().unwrap_or_default();
        let not_ready = self.not_ready_because(id);
        const GIB: u64 = 1 << 30;
        let myself = SelfFacts {
            node: id,
            cluster_id: disk.cluster.clone(),
            incarnation: process.incarnation.clone(),
            directory_id: disk.directory.clone(),
            version: process.version.clone(),
            ready: not_ready.is_none(),
            not_ready_because: not_ready.unwrap_or_default().to_owned(),
            disk_used_bytes: disk.used * GIB,
            disk_total_bytes: disk.capacity * GIB,
            data_bytes: disk.used * GIB,
            log_dir_offline: false,
            uptime_ms: now.saturating_sub(process.since),
        };
        if disk.raft_index == 0 {
            return Some(BrokerFacts { myself, cluster: ClusterFacts::default() });
        }
        let leads = self.quorum.leader == Some(id);
        let current = leads || !self.quorum.is_member(id) && self.views.is_empty();
        let lag = if current { 0 } else { rng.below(self.pace.view_lag_ms + 1) };
        let until = now.saturating_sub(lag);
        let seen = self.views.iter().rev().find(|(at, _)| *at <= until).or_else(|| self.views.front());
        let mut cluster = match seen {
            Some((_, view)) if !leads => ClusterFacts::clone(view),
            _ => self.facts(),
        };
        cluster.applied_index = disk.raft_index;
        if leads {
            cluster.progress = self.progress();
        }
        Some(BrokerFacts { myself, cluster })
    }

    fn progress(&self) -> std::collections::BTreeMap<NodeId, MemberFacts> {
        let members = self.quorum.voters.union(&self.quorum.learners);
        members
            .map(|id| {
                let matched_index = self.disk(*id).map_or(0, |disk| disk.raft_index);
                let serves = self.serves(*id);
                let caught_up = serves && self.lag(*id) <= MAX_LAG;
                (NodeId(*id), MemberFacts { matched_index, recently_active: serves, caught_up })
            })
            .collect()
    }

    /// The committed metadata.
    fn facts(&self) -> ClusterFacts {
        let live = self.live();
        let counts = self.replica_counts();
        let ids = |set: &std::collections::BTreeSet<Id>| set.iter().map(|id| NodeId(*id)).collect();
        let partitions =
            |test: &dyn Fn(&super::Partition) -> bool| count(self.partitions.iter().filter(|p| test(p)).count());
        let largest = |internal: bool| {
            let of = self.partitions.iter().filter(|p| self.topics[p.topic].internal == internal);
            of.map(|p| (p.target.as_ref().map_or(p.replicas.len(), Vec::len), p.topic)).max()
        };
        let brokers = self.registered.iter().map(|(id, broker)| {
            let out_of_sync = partitions(&|p| p.replicas.contains(id) && !p.isr.contains(id));
            let blocks = |p: &super::Partition| {
                let topic = &self.topics[p.topic];
                topic.replication > topic.min_isr && p.isr.contains(id) && p.isr.len() <= topic.min_isr
            };
            let example = self.partitions.iter().find(|p| blocks(p));
            let facts = RegisteredFacts {
                epoch: i64::try_from(broker.epoch).unwrap_or(0),
                fenced: broker.fenced,
                cordoned: broker.cordoned,
                rack: broker.rack.clone(),
                version: broker.version.clone(),
                incarnation: broker.incarnation.clone(),
                directory_id: broker.directory.clone(),
                replicas: count(counts.get(id).copied().unwrap_or(0)),
                leaders: partitions(&|p| p.leader == Some(*id)),
                out_of_sync,
                restart_blockers: partitions(&blocks),
                restart_blocker_example: example
                    .map(|p| format!("{}-{}", self.topics[p.topic].name, p.number))
                    .unwrap_or_default(),
                in_controlled_shutdown: false,
            };
            (NodeId(*id), facts)
        });
        ClusterFacts {
            leader: self.quorum.leader.map(NodeId),
            term: self.quorum.term,
            applied_index: self.quorum.last,
            voters: ids(&self.quorum.voters),
            learners: ids(&self.quorum.learners),
            progress: Default::default(),
            brokers: brokers.collect(),
            partitions: count(self.partitions.len()),
            offline_partitions: partitions(&|p| p.leader.is_none_or(|leader| !live.contains(&leader))),
            under_replicated_partitions: partitions(&|p| p.isr.len() < p.replicas.len()),
            under_min_isr_partitions: partitions(&|p| p.isr.len() < self.topics[p.topic].min_isr),
            reassigning_partitions: partitions(&|p| p.target.is_some()),
            max_replication_factor: largest(false).map_or(0, |(n, _)| count(n)),
            max_replication_factor_topic: largest(false).map(|(_, t)| self.topics[t].name.clone()).unwrap_or_default(),
            max_internal_replication_factor: largest(true).map_or(0, |(n, _)| count(n)),
            live_brokers: count(live.len()),
            defaults: self.defaults.clone(),
        }
    }

    pub(super) fn remember_view(&mut self, now: u64) {
        if !self.dirty || self.quorum.leader.is_none() {
            return;
        }
        self.dirty = false;
        if self.views.len() == VIEWS {
            self.views.pop_front();
        }
        self.views.push_back((now, Arc::new(self.facts())));
    }

    /// Only with a leader is anything changed; the asked broker has to answer.
    fn leads(&self, now: u64, at: Id) -> Result<Id> {
        let process = self.processes.get(&at);
        if process.is_none_or(|p| p.unreachable_until > now) || !self.serves(at) {
            return Err(BrokerError::Unreachable(format!("broker {at} does not answer")));
        }
        self.quorum.leader.map_or_else(|| retry("no leader of the metadata is known"), Ok)
    }

    /// Answers whether anything changed.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn cordon(&mut self, now: u64, at: Id, id: Id, cordoned: bool) -> Result<bool> {
        self.leads(now, at)?;
        let Some(broker) = self.registered.get_mut(&id) else { return refused(format!("broker {id} is unknown")) };
        if broker.cordoned == cordoned {
            return Ok(false);
        }
        broker.cordoned = cordoned;
        self.tell(format!("broker {id} is {}", if cordoned { "cordoned" } else { "no longer cordoned" }));
        self.commit();
        Ok(true)
    }

    /// Answers whether anything changed.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn assign_rack(&mut self, now: u64, at: Id, id: Id, rack: &str) -> Result<bool> {
        self.leads(now, at)?;
        let Some(broker) = self.registered.get_mut(&id) else { return refused(format!("broker {id} is unknown")) };
        if broker.rack == rack {
            return Ok(false);
        }
        rack.clone_into(&mut broker.rack);
        self.tell(format!("broker {id} is in rack '{rack}'"));
        self.commit();
        Ok(true)
    }

    /// Answers whether anything changed. Every value is taken but `bad`.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn set_default(&mut self, now: u64, at: Id, name: &str, value: Option<&str>) -> Result<bool> {
        self.leads(now, at)?;
        if value == Some("bad") {
            return refused(format!("{name} = 'bad' is not accepted"));
        }
        let before = match value {
            Some(value) => self.defaults.insert(name.to_owned(), value.to_owned()),
            None => self.defaults.remove(name),
        };
        if before.as_deref() == value {
            return Ok(false);
        }
        self.tell(format!("{name} is {value:?} on all brokers"));
        self.commit();
        Ok(true)
    }

    /// Answers whether anything changed.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn rebalance(&mut self, now: u64, at: Id, limits: RebalanceLimits) -> Result<(RebalanceFacts, bool)> {
        self.leads(now, at)?;
        let mut facts = RebalanceFacts::default();
        let allowed = limits.max_in_flight.max(1);
        let mut changed = false;
        loop {
            facts.in_flight = count(self.partitions.iter().filter(|p| p.target.is_some()).count());
            match self.next_move() {
                Err(blocked) => facts.blocked = blocked,
                Ok(None) => {}
                Ok(Some(_)) if facts.in_flight >= allowed => facts.remaining = 1,
                Ok(Some((index, target))) => {
                    changed = true;
                    self.reassign(index, target);
                    continue;
                }
            }
            break;
        }
        if facts.blocked.is_empty() {
            return Ok((facts, changed));
        }
        facts.remaining = facts.remaining.max(1);
        Ok((facts, changed))
    }

    fn reassign(&mut self, index: usize, target: Vec<Id>) {
        let p = &mut self.partitions[index];
        for id in &target {
            if !p.replicas.contains(id) {
                p.replicas.push(*id);
            }
        }
        p.target = Some(target);
        self.commit();
    }

    /// Moves leaderships off `id`.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn move_leaders(&mut self, now: u64, at: Id, id: Id) -> Result<LeadersMoved> {
        self.leads(now, at)?;
        let live = self.live();
        let mut result = LeadersMoved { moved: 0, left: 0 };
        for p in self.partitions.iter_mut().filter(|p| p.leader == Some(id)) {
            match p.isr.iter().copied().find(|other| *other != id && live.contains(other)) {
                Some(heir) => {
                    p.leader = Some(heir);
                    result.moved += 1;
                }
                None => result.left += 1,
            }
        }
        if result.moved > 0 {
            self.tell(format!("{} leaderships left broker {id}", result.moved));
            self.commit();
        }
        Ok(result)
    }

    /// Answers whether anything changed.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn change_quorum(&mut self, now: u64, at: Id, change: QuorumChange, rng: &mut Rng) -> Result<bool> {
        let leader = self.leads(now, at)?;
        if let QuorumChange::TransferLeader(to) = change {
            return self.transfer(now, leader, to.map(|id| id.0));
        }
        if !self.quorum.free() {
            return retry("another change of the members is under way");
        }
        let voters = self.quorum.voters.clone();
        let live = voters.iter().filter(|id| self.serves(**id)).count();
        match change {
            QuorumChange::Promote(NodeId(id)) => {
                if voters.contains(&id) {
                    return Ok(false);
                }
                if !self.quorum.learners.contains(&id) {
                    return refused(format!("{id} is not a member"));
                }
                if !self.serves(id) || self.lag(id) > MAX_LAG {
                    return retry(format!("{id} has not caught up"));
                }
                if live < voters.len().div_ceil(2) {
                    return refused("the voters would lose their majority");
                }
                self.quorum.learners.remove(&id);
                self.quorum.voters.insert(id);
                self.tell(format!("{id} is a voter"));
            }
            QuorumChange::Remove(NodeId(id)) => {
                if self.quorum.learners.remove(&id) {
                    self.tell(format!("learner {id} is removed"));
                } else if !voters.contains(&id) {
                    return Ok(false);
                } else if voters.len() == 1 {
                    return refused("it is the last voter");
                } else if id == leader {
                    return refused("it leads");
                } else if live - usize::from(self.serves(id)) < (voters.len() - 1) / 2 + 1 {
                    return refused("the voters would lose their majority");
                } else {
                    self.quorum.voters.remove(&id);
                    self.tell(format!("voter {id} is removed"));
                }
            }
            QuorumChange::Demote(NodeId(id)) => {
                if self.quorum.learners.contains(&id) {
                    return Ok(false);
                }
                if !voters.contains(&id) {
                    return refused(format!("{id} is not a member"));
                }
                if voters.len() == 1 {
                    return refused("it is the last voter");
                }
                if id == leader {
                    return refused("it leads");
                }
                let needed = (voters.len() - 1) / 2 + 1;
                if live - usize::from(self.serves(id)) < needed {
                    return refused("the voters would lose their majority");
                }
                if self.fit_voters().iter().filter(|voter| **voter != id).count() < needed {
                    return retry("those who are left have not caught up");
                }
                self.quorum.voters.remove(&id);
                self.quorum.learners.insert(id);
                self.tell(format!("voter {id} is a learner"));
            }
            QuorumChange::TransferLeader(_) => {}
        }
        self.commit_members(rng);
        Ok(true)
    }

    fn transfer(&mut self, now: u64, leader: Id, to: Option<Id>) -> Result<bool> {
        if to == Some(leader) {
            return Ok(false);
        }
        let heirs = self.fit_voters();
        let heir = match to {
            Some(to) if heirs.contains(&to) => to,
            Some(to) => return refused(format!("{to} is not fit to lead")),
            None => match heirs.iter().find(|id| **id != leader) {
                Some(heir) => *heir,
                None => return refused("nobody else is fit to lead"),
            },
        };
        self.lead(now, heir, self.quorum.last);
        Ok(true)
    }

    /// Answers whether anything changed.
    ///
    /// # Errors
    /// As the brokers would.
    pub fn unregister(&mut self, now: u64, at: Id, id: Id) -> Result<bool> {
        self.leads(now, at)?;
        let Some(broker) = self.registered.get(&id) else { return Ok(false) };
        if !broker.fenced {
            return refused(format!("broker {id} is alive"));
        }
        if self.replica_counts().get(&id).copied().unwrap_or(0) > 0 {
            return refused(format!("broker {id} hosts replicas"));
        }
        self.registered.remove(&id);
        self.tell(format!("broker {id} is unregistered"));
        self.commit();
        Ok(true)
    }
}
