//! Steps by which an operator moves replicas and leaderships: reassignments, cordons, hand-overs, elections.
//!
//! Like an operator it looks at what the leader of the quorum knows, asks it once, and does not wait. What is asked may be
//! outdated when it arrives, or lost. Which partition and which brokers a step means is decided by its seed and the world at
//! that moment.

use bytes::Bytes;
use chronik_core::controller::{
    AlterReassignments, Assignment, Command, ElectLeaders, ElectionType, Envelope, MoveLeaders, ProposalId,
    Reassignment, SetCordon,
};
use chronik_log::disk::SplitMix64;
use chronik_model::{NodeId, Uuid};

use super::Fault;
use super::operator::OPERATOR;
use crate::proto::{Address, Packet, Request};
use crate::survey::{self, Surveyed};
use crate::world::World;

/// Does one of these steps.
pub(super) fn act(world: &mut World, fault: &Fault) {
    world.kernel.trace.world(world.kernel.now, || fault.to_string());
    match fault {
        Fault::Reassign(seed) => reassign(world, &mut SplitMix64::new(*seed)),
        Fault::Cancel(seed) => cancel(world, &mut SplitMix64::new(*seed)),
        Fault::Drain(node, seed) => drain(world, *node, &mut SplitMix64::new(*seed)),
        Fault::Cordon(node) => propose(world, SetCordon { node: *node, cordoned: true }),
        Fault::Uncordon(node) => propose(world, SetCordon { node: *node, cordoned: false }),
        Fault::MoveLeaders(node) => propose(world, MoveLeaders { node: *node }),
        Fault::Elect => propose(world, ElectLeaders { election: ElectionType::Preferred, partitions: Vec::new() }),
        _ => {}
    }
}

/// Ends every cordon that is still there.
pub(crate) fn end_cordons(world: &mut World) {
    let cordoned = survey::brokers(world).into_iter().filter(|broker| broker.cordoned);
    for node in cordoned.map(|broker| broker.node).collect::<Vec<_>>() {
        propose(world, SetCordon { node, cordoned: false });
    }
}

fn propose(world: &mut World, command: impl Into<Command>) {
    let Some((leader, _)) = survey::quorum_leader(world) else { return };
    world.proposals += 1;
    let id = ProposalId { origin: NodeId(0), incarnation: Uuid::from_u128(1), sequence: world.proposals };
    let envelope = Bytes::from(Envelope::new(id, 0, command).encode());
    let packet = Packet::Request { id: 0, body: Box::new(Request::Propose(envelope)) };
    world.kernel.send(OPERATOR, Address::Broker(leader), packet);
}

fn one<T>(random: &mut SplitMix64, from: &[T]) -> Option<usize> {
    (!from.is_empty()).then(|| random.below(from.len() as u64) as usize)
}

/// The brokers that may be given a replica of this partition, and those that have one.
fn candidates(world: &World, partition: &Surveyed) -> Vec<NodeId> {
    let brokers = survey::brokers(world).into_iter();
    let free = brokers.filter(|broker| !broker.cordoned || partition.state.replicas.contains(&broker.node));
    free.map(|broker| broker.node).filter(|node| !world.budget.gone.contains(node)).collect()
}

/// Fewer replicas would weaken what is promised.
fn least(world: &World, partition: &Surveyed) -> usize {
    let min = usize::try_from(world.plan.shape.min_insync).unwrap_or(1);
    partition.state.replication_factor().min(min).max(1)
}

/// Asks for these replicas; for `None`, to end what is under way.
pub(crate) fn send(world: &mut World, partition: &Surveyed, target: Option<Vec<NodeId>>) {
    let wanted = target.clone().unwrap_or_else(|| partition.state.original_replicas());
    world.oracle.assignment_wanted((partition.topic, partition.tp.partition), &wanted);
    let reassignment = Reassignment {
        topic_id: partition.topic,
        partition: partition.tp.partition,
        target: target.map(|replicas| Assignment { replicas }),
        partition_epoch: None,
    };
    propose(world, AlterReassignments { reassignments: vec![reassignment], keep_replication_factor: false });
}

fn reassign(world: &mut World, random: &mut SplitMix64) {
    let partitions = survey::partitions(world);
    let Some(partition) = one(random, &partitions).map(|at| &partitions[at]) else { return };
    let mut free = candidates(world, partition);
    let factor = partition.state.replication_factor();
    let wanted = match random.below(6) {
        0 => factor + 1,
        1 => factor.saturating_sub(1),
        _ => factor,
    };
    let wanted = wanted.max(least(world, partition));
    let mut target = Vec::new();
    while target.len() < wanted
        && let Some(at) = one(random, &free)
    {
        target.push(free.swap_remove(at));
    }
    if target.len() == wanted {
        send(world, partition, Some(target));
    }
}

fn cancel(world: &mut World, random: &mut SplitMix64) {
    let mut running = survey::partitions(world);
    running.retain(|partition| partition.state.is_reassigning());
    if let Some(at) = one(random, &running) {
        send(world, &running[at], None);
    }
}

/// Puts another broker in the place of this one wherever there is one; where there is none, does with one replica less if
/// that is enough.
fn drain(world: &mut World, node: NodeId, random: &mut SplitMix64) {
    for partition in survey::partitions(world) {
        let mut target = partition.state.target_replicas();
        let Some(place) = target.iter().position(|replica| *replica == node) else { continue };
        let mut free = candidates(world, &partition);
        free.retain(|other| *other != node && !target.contains(other));
        match one(random, &free) {
            Some(at) => target[place] = free[at],
            None if target.len() > least(world, &partition) => drop(target.remove(place)),
            None => continue,
        }
        send(world, &partition, Some(target));
    }
}
