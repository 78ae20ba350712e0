//! The operator of a plan: changes of members and racks, which it asks for as a person or a controller does, over the network.
//!
//! It asks once, hears the answer or does not, and remembers what may still come true. A change that the product refuses
//! counts as declined. Racks are level-triggered: what is not as wanted in the end is asked for again
//! ([`repeat_racks`]), by the runner that settles a world.

use std::collections::BTreeMap;

use chronik_consensus::MembershipChange;
use chronik_model::{ErrorCode, NodeId};

use crate::kernel::Micros;
use crate::proto::{Address, ClientReply, ClientRequest, MembershipRefusal, Packet, Reply, Request};
use crate::survey;
use crate::world::World;

/// Its address.
pub(crate) const OPERATOR: Address = Address::Client(u32::MAX);
/// Nothing is on the network for so long.
const ARRIVED: Micros = 15_000_000;
/// A rack that is not assigned by then is asked for again.
const AGAIN: Micros = 2_000_000;

/// What a question was about.
#[derive(Debug)]
enum Asked {
    Change(MembershipChange),
    Rack,
}

/// A change of members that may still be made.
#[derive(Debug)]
struct Open {
    id: u64,
    change: MembershipChange,
    at: Micros,
    term: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Operator {
    last: u64,
    asked: BTreeMap<u64, Asked>,
    open: Vec<Open>,
    /// The rack that a broker shall have, and when that was asked for last.
    racks: BTreeMap<NodeId, (Option<String>, Micros)>,
}

fn ask(world: &mut World, of: NodeId, asked: Asked, request: Request) -> u64 {
    world.operator.last += 1;
    let id = world.operator.last;
    world.operator.asked.insert(id, asked);
    world.kernel.send(OPERATOR, Address::Broker(of), Packet::Request { id, body: Box::new(request) });
    id
}

/// Asks the leader of the quorum.
pub(super) fn change_members(world: &mut World, change: MembershipChange) {
    let Some((leader, status)) = survey::quorum_leader(world) else { return };
    world.oracle.members_wanted(change);
    let id = ask(world, leader, Asked::Change(change), Request::Membership(change));
    let (at, term) = (world.kernel.now, status.term.0);
    world.operator.open.push(Open { id, change, at, term });
}

/// Asks some broker; each knows what to do.
pub(super) fn assign_rack(world: &mut World, node: NodeId, rack: Option<String>) {
    world.operator.racks.insert(node, (rack.clone(), world.kernel.now));
    let up: Vec<NodeId> = world.hosts.keys().copied().filter(|node| survey::up(world, *node).is_some()).collect();
    let turn = usize::try_from(world.operator.last).unwrap_or(0);
    let Some(of) = turn.checked_rem(up.len()).and_then(|at| up.get(at).copied()) else { return };
    let request = Request::Client(ClientRequest::AssignRack(node, rack.clone()));
    let id = ask(world, of, Asked::Rack, request);
    world.oracle.history.racks.asked(id, node, rack, world.kernel.now);
}

/// An answer to the operator.
pub(crate) fn answered(world: &mut World, packet: &Packet) {
    let (id, body) = match packet {
        Packet::Reply { id, body } => (*id, Some(&**body)),
        Packet::Refused { id } => (*id, None),
        _ => return,
    };
    let now = world.kernel.now;
    match world.operator.asked.remove(&id) {
        Some(Asked::Rack) => {
            if matches!(body, Some(Reply::Client(ClientReply::Done(ErrorCode::None)))) {
                world.oracle.history.racks.done(id, now);
            }
        }
        Some(Asked::Change(change)) => {
            let refusal = match body {
                Some(Reply::Membership(Ok(_))) => None,
                Some(Reply::Membership(Err(refusal))) => Some(refusal),
                _ => Some(&MembershipRefusal::NotLeader(None)),
            };
            // "Later" is also said of a change that was under way when its leader went: it may still be committed.
            if !matches!(refusal, Some(MembershipRefusal::Retry(_))) {
                world.operator.open.retain(|open| open.id != id);
            }
            if let Some(refusal) = refusal {
                world.budget.declined += 1;
                world.kernel.trace.world(now, || format!("declined: {change:?} ({refusal:?})"));
            }
        }
        None => {}
    }
}

/// Changes of members that nobody knows the end of. One is over when its question cannot be on the way any more and a
/// leader, of its term or a later one, has nothing that is not committed.
pub(super) fn open_changes(world: &World) -> Vec<MembershipChange> {
    let leader = survey::quorum_leader(world).map(|(_, status)| status);
    let over = |open: &&Open| {
        let quiet = leader.as_ref().is_some_and(|status| {
            status.term.0 >= open.term && status.commit == status.last_index && status.applied == status.commit
        });
        !(quiet && world.kernel.now > open.at + ARRIVED)
    };
    world.operator.open.iter().filter(over).map(|open| open.change).collect()
}

/// The racks that are not as wanted, as somebody who runs knows it.
pub(crate) fn wrong_racks(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for (node, (wanted, _)) in present(world) {
        for knows in world.hosts.keys() {
            let Some(broker) = survey::up(world, *knows) else { continue };
            let rack = broker.metadata().read().broker(*node).and_then(|broker| broker.rack.clone());
            if rack != *wanted {
                found.push(format!("b{knows} knows rack {rack:?} of b{node}, {wanted:?} was assigned"));
            }
        }
    }
    found
}

/// Asks again for every rack that is not as wanted.
pub(crate) fn repeat_racks(world: &mut World) {
    let now = world.kernel.now;
    let known = survey::brokers(world);
    let wrong = |node: NodeId, rack: &Option<String>| known.iter().any(|one| one.node == node && one.rack != *rack);
    let due = present(world).filter(|(node, (rack, at))| now > at + AGAIN && wrong(**node, rack));
    let due: Vec<(NodeId, Option<String>)> = due.map(|(node, (rack, _))| (*node, rack.clone())).collect();
    for (node, rack) in due {
        assign_rack(world, node, rack);
    }
}

fn present(world: &World) -> impl Iterator<Item = (&NodeId, &(Option<String>, Micros))> {
    let racks = world.operator.racks.iter();
    racks.filter(|(node, _)| world.hosts.contains_key(node) && !world.budget.gone.contains(node))
}
