//! The end of a run: faults stop, everything is repaired and started, and all must be well within the plan's bound.
//!
//! In order: every partition that anybody may lead takes an acknowledged record from a client; the clients stop and their
//! requests end; every replica is in sync and as long as its leader, every broker active and a member, in the rack that was assigned; readers read
//! everything from the beginning; the oracle judges. What takes too long is a broken promise (invariant 13) like any other.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::group::partition_for;
use chronik_model::{NodeId, Offset, TopicName, TopicPartition};
use chronik_node::settings::OFFSETS_TOPIC;

use super::start::{GROUP, spawn};
use crate::client::{Client, ConsumerConfig, Kind, ProducerConfig};
use crate::kernel::Micros;
use crate::oracle::Violation;
use crate::oracle::history::Outcome;
use crate::plan;
use crate::survey::{self, Surveyed};
use crate::world::World;

/// How often it is looked whether all is well.
const LOOK: Micros = 100_000;
/// Ids of the clients of this phase.
const PROBE: u32 = 900;
const AUDITOR: u32 = 901;
/// How long readers may take to read everything.
const AUDIT: Micros = 60_000_000;

fn late(what: String) -> Violation {
    Violation { invariant: 13, text: what }
}

/// See the module documentation.
pub(crate) fn settle(world: &mut World, topics: &[TopicName]) -> Result<(), Violation> {
    let deadline = world.kernel.now + world.plan.shape.recovery;
    world.kernel.trace.world(world.kernel.now, || "no more faults".to_owned());
    let commits = world.oracle.history.groups.acked();
    let peace = heal(world);
    // An extra producer, in case the others write to some partitions only.
    let probe = ProducerConfig {
        topics: topics.to_vec(),
        acks: -1,
        idempotent: false,
        every_ms: 50,
        max_records: 1,
        in_flight: 1,
        request_timeout_ms: 2_000,
        delivery_timeout_ms: 10_000,
    };
    spawn(world, PROBE, Kind::Producer(probe));
    wait(world, deadline, |world| {
        let mut missing = unwritten(world, topics, peace);
        missing.extend(readers_stuck(world, topics, commits));
        missing
    })?;
    world.kernel.trace.world(world.kernel.now, || "everything was written to; clients stop".to_owned());
    for client in world.clients.values_mut() {
        client.stop();
    }
    wait(world, deadline + world.plan.shape.recovery / 2, |world| {
        let mut missing: Vec<String> =
            world.clients.iter().filter(|(_, c)| !c.is_idle()).map(|(id, _)| format!("c{id} is not idle")).collect();
        missing.extend(survey::complaints(world, &world.budget.gone));
        missing.extend(plan::wrong_racks(world));
        missing
    })?;
    if topics.is_empty() {
        return world.oracle.at_end(&world.hosts, &mut world.kernel);
    }
    world.kernel.trace.world(world.kernel.now, || "all is well; the audit begins".to_owned());
    spawn(world, AUDITOR, Kind::Auditor(ConsumerConfig { topics: topics.to_vec(), max_wait_ms: 500 }));
    let until = world.kernel.now + AUDIT;
    wait(world, until, unread)?;
    world.oracle.at_end(&world.hosts, &mut world.kernel)
}

/// Ends all faults and starts all brokers; since when there is peace.
fn heal(world: &mut World) -> Micros {
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    world.kernel.net.heal();
    world.kernel.net.weather = world.plan.shape.weather;
    world.kernel.net.weather.loss = 0;
    world.kernel.net.weather.late = 0;
    world.budget.end_faults();
    for node in &nodes {
        plan::repair(world, *node);
        if let Some(host) = world.hosts.get_mut(node) {
            // A clock that is an hour wrong makes the records of honest clients invalid.
            host.clock.wall_offset_ms = 0;
        }
        if world.budget.gone.contains(node) {
            world.kill(*node);
        } else {
            world.resume(*node);
            plan::boot(world, *node);
        }
    }
    world.kernel.now
}

/// Runs until nothing is missing.
pub(crate) fn wait(
    world: &mut World,
    deadline: Micros,
    missing: impl Fn(&World) -> Vec<String>,
) -> Result<(), Violation> {
    loop {
        let found = missing(world);
        if found.is_empty() {
            return Ok(());
        }
        if world.kernel.now >= deadline {
            let more = found.len().saturating_sub(6);
            let mut text = found.into_iter().take(6).collect::<Vec<_>>().join("; ");
            if more > 0 {
                text.push_str(&format!("; and {more} more"));
            }
            return Err(late(format!("{} s after the last fault: {text}", world.plan.shape.recovery / 1_000_000)));
        }
        // A process that ended or refused its storage meanwhile is somebody's to start: the supervisor's.
        let down: Vec<NodeId> =
            world.hosts.iter().filter(|(_, host)| host.process.is_none()).map(|(node, _)| *node).collect();
        for node in down {
            plan::boot(world, node);
        }
        plan::end_cordons(world);
        plan::repeat_racks(world);
        world.run_until((world.kernel.now + LOOK).min(deadline))?;
    }
}

/// Partitions of the workload that no client wrote to since there is peace.
fn unwritten(world: &World, topics: &[TopicName], since: Micros) -> Vec<String> {
    let wanted: BTreeSet<&TopicName> = topics.iter().collect();
    let partitions = survey::partitions(world);
    if partitions.is_empty() && survey::quorum_leader(world).is_none() {
        return vec!["the quorum has no leader".to_owned()];
    }
    let mut found: Vec<String> = wanted
        .iter()
        .filter(|name| !partitions.iter().any(|partition| partition.tp.topic == ***name))
        .map(|name| format!("topic {name} does not exist"))
        .collect();
    let mut acked: BTreeMap<&TopicPartition, Micros> = BTreeMap::new();
    for sent in world.oracle.history.sent.iter().rev().filter(|sent| sent.acks == -1) {
        if matches!(sent.outcome, Outcome::Acked(_)) && sent.invoked >= since {
            acked.insert(&sent.tp, sent.resolved);
        }
        if sent.invoked < since {
            break;
        }
    }
    for partition in partitions.iter().filter(|partition| wanted.contains(&partition.tp.topic)) {
        if survey::can_commit(partition, &world.budget.gone) && !acked.contains_key(&partition.tp) {
            found.push(format!("{} takes no record: {:?}", partition.tp, partition.state));
        }
    }
    found
}

/// What the auditor has not read, of what anybody can.
fn unread(world: &World) -> Vec<String> {
    let Some(open) = world.clients.get(&AUDITOR).and_then(Client::unread) else {
        return vec!["the auditor knows no partition".to_owned()];
    };
    let surveyed = survey::partitions(world);
    let most = |tp: &TopicPartition| {
        let known = surveyed.iter().find(|known| known.tp == *tp)?;
        survey::shows_at_most(world, known, &world.budget.gone)
    };
    let missing = |(tp, at): &(TopicPartition, Offset)| match most(tp) {
        None => Some(format!("{tp} was not read to its end")),
        Some(mark) => (*at < mark).then(|| format!("{tp} was read to {at}, and {mark} is the watermark")),
    };
    open.iter().filter_map(missing).collect()
}

/// Whether the workload's group commits again. It has to where there is anything to read, and where its offsets go.
fn readers_stuck(world: &World, topics: &[TopicName], before: usize) -> Option<String> {
    let partitions = survey::partitions(world);
    let can_commit = |partition: &Surveyed| survey::can_commit(partition, &world.budget.gone);
    let of_groups: Vec<&Surveyed> =
        partitions.iter().filter(|known| known.tp.topic.as_str() == OFFSETS_TOPIC).collect();
    let coordinated = i32::try_from(of_groups.len()).ok().and_then(|count| partition_for(GROUP, count));
    let kept = of_groups.into_iter().filter(|known| Some(known.tp.partition.0) == coordinated).all(can_commit);
    let readable = partitions.iter().any(|known| topics.contains(&known.tp.topic) && can_commit(known));
    let stuck = world.plan.shape.workload.group_members > 0 && world.oracle.history.groups.acked() == before;
    (stuck && kept && readable).then(|| format!("group {GROUP} has committed nothing since"))
}
