//! What a cluster looks like from outside, for plans, the end of a run, and scenario scripts.
//!
//! Only looks, never acts. Nobody in the world knows this much; nothing a broker or client does may depend on it.

use std::collections::BTreeSet;

use chronik_consensus::{NodeStatus, Role};
use chronik_core::PartitionState;
use chronik_core::controller::Broker as Registered;
use chronik_log::LogDirState;
use chronik_log::disk::Disk as _;
use chronik_model::{NodeId, Offset, TopicId, TopicPartition};

use crate::broker::Broker;
use crate::world::World;

/// A partition as the leader of the quorum knows it.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Which.
    pub tp: TopicPartition,
    /// Id of its topic.
    pub topic: TopicId,
    /// Committed state.
    pub state: PartitionState,
    /// How many replicas have to be in sync (`min.insync.replicas` in force).
    pub min_isr: usize,
}

/// The process of a broker that runs and is not paused.
#[must_use]
pub fn up(world: &World, node: NodeId) -> Option<&Broker> {
    world.hosts.get(&node).filter(|host| host.is_up())?.process.as_ref()
}

/// The leader of the quorum: of those that believe they lead, the one with the latest term.
#[must_use]
pub fn quorum_leader(world: &World) -> Option<(NodeId, NodeStatus)> {
    let statuses = world.hosts.keys().filter_map(|node| Some((*node, up(world, *node)?.quorum_status())));
    statuses.filter(|(_, status)| status.role == Role::Leader).max_by_key(|(_, status)| status.term)
}

/// All partitions as the leader of the quorum knows them; none without a leader.
#[must_use]
pub fn partitions(world: &World) -> Vec<Surveyed> {
    let Some(broker) = quorum_leader(world).and_then(|(leader, _)| up(world, leader)) else { return Vec::new() };
    let state = broker.metadata().read();
    let all = state.partitions().map(|(topic, index, partition)| Surveyed {
        tp: TopicPartition { topic: topic.name.clone(), partition: index },
        topic: topic.id,
        state: partition.clone(),
        min_isr: partition.min_isr(state.configured_min_isr(topic)),
    });
    all.collect()
}

/// All brokers as the leader of the quorum knows them; none without a leader.
#[must_use]
pub fn brokers(world: &World) -> Vec<Registered> {
    let Some(broker) = quorum_leader(world).and_then(|(leader, _)| up(world, leader)) else { return Vec::new() };
    broker.metadata().read().brokers().cloned().collect()
}

/// Whether every voter but `except` runs and has all that the quorum committed.
#[must_use]
pub fn rest_is_well(world: &World, except: NodeId) -> bool {
    let Some((_, leader)) = quorum_leader(world) else { return false };
    leader.voters.iter().filter(|voter| **voter != except).all(|voter| {
        let Some(status) = up(world, *voter).map(Broker::quorum_status) else { return false };
        status.term == leader.term && status.persisted >= leader.commit
    })
}

/// Whether some partition has nobody else in sync who runs, or nobody knows.
#[must_use]
pub fn is_needed(world: &World, node: NodeId) -> bool {
    if quorum_leader(world).is_none() {
        return true;
    }
    let other = |state: &PartitionState| state.isr.iter().any(|member| *member != node && up(world, *member).is_some());
    partitions(world).iter().any(|p| p.state.replicas.contains(&node) && !other(&p.state))
}

/// Whether `node` has all again that it should have: what is committed, and the records of every replica on it.
#[must_use]
pub fn is_restored(world: &World, node: NodeId) -> bool {
    let Some((_, leader)) = quorum_leader(world) else { return false };
    // Before it is registered anew nobody knows yet that it is not what it was.
    let Some(status) = up(world, node).filter(|broker| broker.is_registered()).map(Broker::quorum_status) else {
        return false;
    };
    let member = leader.voters.contains(&node) || leader.learners.contains(&node);
    let knows = member && status.persisted >= leader.commit;
    knows && partitions(world).iter().all(|p| !p.state.replicas.contains(&node) || p.state.isr.contains(&node))
}

/// What is not as it should be once nothing goes wrong any more; empty when all is well. `gone` are brokers that were
/// removed for good.
#[must_use]
pub fn complaints(world: &World, gone: &BTreeSet<NodeId>) -> Vec<String> {
    let Some((leader, status)) = quorum_leader(world) else { return vec!["the quorum has no leader".to_owned()] };
    let mut found = Vec::new();
    for node in world.hosts.keys().filter(|node| !gone.contains(node)) {
        let Some(broker) = up(world, *node) else {
            found.push(format!("b{node} does not run"));
            continue;
        };
        if !status.voters.contains(node) && !status.learners.contains(node) {
            found.push(format!("b{node} is no member"));
        }
        let applied = broker.quorum_status().applied;
        if applied < status.commit {
            found.push(format!("b{node} applied {applied} of {}", status.commit));
        }
    }
    let Some(broker) = up(world, leader) else { return found };
    {
        let state = broker.metadata().read();
        for node in world.hosts.keys().filter(|node| !gone.contains(node)) {
            match state.broker(*node) {
                None => found.push(format!("b{node} is not registered")),
                Some(known) if !known.is_active() => found.push(format!("b{node} is registered and not active")),
                Some(_) => {}
            }
        }
    }
    for partition in partitions(world) {
        complain_about(world, &partition, gone, &mut found);
        complain_about_moved(world, &partition, gone, &mut found);
    }
    found
}

/// A reassignment is complete by now, and whoever is no replica any more has nothing left, in memory or on the disk.
fn complain_about_moved(world: &World, partition: &Surveyed, gone: &BTreeSet<NodeId>, found: &mut Vec<String>) {
    let (tp, state) = (&partition.tp, &partition.state);
    // One that left for good will never be in sync, and without it those who stay may be fewer than have to be.
    if state.is_reassigning() && has_eligible(state, gone) && !state.target_replicas().iter().any(|n| gone.contains(n))
    {
        found.push(format!("{tp} is being reassigned still: {state:?}"));
    }
    let others = world.hosts.iter().filter(|(node, _)| !state.replicas.contains(node) && !gone.contains(node));
    for (node, host) in others {
        if log_end(world, *node, partition).is_some() {
            found.push(format!("{tp}: b{node} hosts it and is no replica"));
        }
        let file = format!("{}/partition.metadata", chronik_log::partition_dir(tp));
        let text = host.disk.observe(|| host.disk.read(&file));
        // Of a damaged one nobody knows whose log it is, and nobody deletes that.
        let line = format!("topic_id: {}", partition.topic);
        let ours = |text: &[u8]| String::from_utf8_lossy(text).lines().any(|found| found.trim_end() == line);
        if text.is_ok_and(|text| ours(&text)) {
            found.push(format!("{tp}: b{node} is no replica and has it on its disk"));
        }
    }
}

fn complain_about(world: &World, partition: &Surveyed, gone: &BTreeSet<NodeId>, found: &mut Vec<String>) {
    let (tp, state) = (&partition.tp, &partition.state);
    if !has_eligible(state, gone) {
        return;
    }
    let Some(leader) = state.leader else {
        found.push(format!("{tp} has no leader: {state:?}"));
        return;
    };
    let Some(end) = log_end(world, leader, partition) else {
        found.push(format!("{tp}: its leader b{leader} does not host it"));
        return;
    };
    // What everybody holds is committed; its leader hears of that with their next fetches. Below min.insync.replicas nothing is.
    if can_commit(partition, gone) && watermark(world, leader, partition) != Some(end) {
        found.push(format!("{tp}: the watermark of its leader b{leader} is not at {end}"));
    }
    for replica in state.replicas.iter().filter(|replica| !gone.contains(replica)) {
        if !state.isr.contains(replica) {
            found.push(format!("{tp}: b{replica} is not in sync"));
        }
        let theirs = log_end(world, *replica, partition);
        if theirs != Some(end) {
            found.push(format!("{tp}: b{replica} ends at {theirs:?}, the leader at {end}"));
        }
    }
}

/// Whether anybody may ever lead it: the last in sync or eligible, as long as they were not removed; where there is none, the one of the
/// last known that has most, once all of them have told how much.
#[must_use]
pub fn has_eligible(state: &PartitionState, gone: &BTreeSet<NodeId>) -> bool {
    let last = &state.last_known_elr;
    let none = state.isr.is_empty() && state.elr.is_empty();
    state.leader.is_some()
        || state.isr.iter().chain(&state.elr).any(|node| !gone.contains(node))
        || none && !last.is_empty() && last.iter().all(|node| !gone.contains(node))
}

/// Whether anything may ever be committed in it again: somebody may lead it, and as many replicas stay as have to be in sync.
#[must_use]
pub fn can_commit(partition: &Surveyed, gone: &BTreeSet<NodeId>) -> bool {
    let stay = partition.state.replicas.iter().filter(|replica| !gone.contains(replica)).count();
    has_eligible(&partition.state, gone) && stay >= partition.min_isr
}

/// How far readers can ever get where that is not to its end: a leader does not tell the end while its watermark is below
/// what it found, and where nothing can be committed any more that stays so. Up to the watermark everything is there to read.
#[must_use]
pub fn shows_at_most(world: &World, partition: &Surveyed, gone: &BTreeSet<NodeId>) -> Option<Offset> {
    let state = &partition.state;
    if !has_eligible(state, gone) {
        return Some(Offset(0));
    }
    if can_commit(partition, gone) {
        return None;
    }
    let leader = state.leader?;
    let mark = watermark(world, leader, partition)?;
    (log_end(world, leader, partition) != Some(mark)).then_some(mark)
}

/// Whether the disk of a broker failed it, so that its log directory or its metadata waits for the next start.
#[must_use]
pub fn is_offline(world: &World, node: NodeId) -> bool {
    let process = world.hosts.get(&node).and_then(|host| host.process.as_ref());
    process.is_some_and(|broker| broker.quorum().failed || broker.log_dir_state() != LogDirState::Online)
}

/// The watermark of a replica, if that broker runs and hosts it.
fn watermark(world: &World, node: NodeId, partition: &Surveyed) -> Option<Offset> {
    let hosted = up(world, node)?.partition(partition.topic, partition.tp.partition)?;
    Some(hosted.replica().high_watermark())
}

/// Where the log of a replica ends, if that broker runs and hosts it.
#[must_use]
pub fn log_end(world: &World, node: NodeId, partition: &Surveyed) -> Option<Offset> {
    let hosted = up(world, node)?.partition(partition.topic, partition.tp.partition)?;
    Some(hosted.log().log_end())
}
