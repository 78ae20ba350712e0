//! Doing a step.

use chronik_consensus::MembershipChange;
use chronik_log::disk::{self, Disk};
use chronik_model::NodeId;

use super::operator::{assign_rack, change_members};
use super::{Budget, Fault, Shape, damage, moves};
use crate::kernel::Micros;
use crate::survey;
use crate::world::{Doom, EXIT_REFUSED, World};

/// Does the step of this number, if the budget allows.
pub fn perform(world: &mut World, step: usize) {
    let Some(fault) = world.plan.steps.get(step).map(|step| step.fault.clone()) else { return };
    execute(world, &fault);
}

/// Does this now, if the budget allows; whether it was done.
pub fn execute(world: &mut World, fault: &Fault) -> bool {
    let mut budget = std::mem::take(&mut world.budget);
    let shape = world.plan.shape.clone();
    let allowed = match fault {
        Fault::PowerCut(nodes) => budget.may_cut_power(world, &shape, nodes),
        Fault::PowerCutAt(node, _) => budget.may_cut_power(world, &shape, &[*node]),
        Fault::Lie(node) | Fault::Misdirect(node, ..) | Fault::Spoil(node, ..) | Fault::Wipe(node) => {
            budget.may_destroy(world, &shape, *node)
        }
        Fault::Fail(node, disk::Operation::Sync | disk::Operation::SyncDir, _) => {
            budget.may_destroy(world, &shape, *node)
        }
        Fault::Remove(node) => budget.may_remove(world, &shape, *node),
        Fault::Demote(node) => budget.may_demote(world, &shape, *node),
        Fault::Promote(node) => budget.may_promote(world, &shape, *node),
        Fault::Join(node) if world.hosts.contains_key(node) => Err("it is there already"),
        _ => Ok(()),
    };
    if let Err(reason) = allowed {
        budget.declined += 1;
        world.budget = budget;
        world.kernel.trace.world(world.kernel.now, || format!("declined: {fault} ({reason})"));
        return false;
    }
    match fault {
        Fault::PowerCut(nodes) => spend_power(&mut budget, &shape, nodes),
        Fault::Misdirect(..) | Fault::Lie(_) => {
            budget.begin_lie();
            budget.distrust();
        }
        Fault::Fail(_, disk::Operation::Sync | disk::Operation::SyncDir, _) => budget.begin_lie(),
        Fault::Spoil(..) | Fault::Wipe(_) => budget.taint(),
        Fault::Remove(node) => {
            budget.gone.insert(*node);
        }
        _ => {}
    }
    if let Fault::Fail(node, ..) = fault {
        budget.sick.insert(*node);
    }
    world.budget = budget;
    act(world, fault);
    true
}

fn spend_power(budget: &mut Budget, shape: &Shape, nodes: &[NodeId]) {
    if nodes.contains(&shape.victim) {
        if nodes.len() == 1 && (!shape.durable || budget.is_lying()) {
            budget.taint();
        }
        budget.end_lie();
    }
}

/// Whether the power of this one may go at the next change of its disk.
pub(crate) fn may_cut_power(world: &mut World, node: NodeId) -> bool {
    let mut budget = std::mem::take(&mut world.budget);
    let shape = world.plan.shape.clone();
    let allowed = budget.may_cut_power(world, &shape, &[node]).is_ok();
    world.budget = budget;
    allowed
}

/// A process stopped in the middle of an event, as was asked for.
pub(crate) fn stopped(world: &mut World, node: NodeId) {
    let Some(doom) = world.hosts.get_mut(&node).and_then(|host| host.doom.take()) else { return };
    // What the event did before it was interrupted may have made this one the last that has something.
    if doom.power && (doom.forced || may_cut_power(world, node)) {
        let shape = world.plan.shape.clone();
        spend_power(&mut world.budget, &shape, &[node]);
        act(world, &Fault::PowerCut(vec![node]));
    } else {
        world.kill(node);
        // It may have been starting: then nobody had its files yet but the disk.
        if let Some(host) = world.hosts.get(&node) {
            host.disk.kill();
        }
    }
}

/// Does this now, whatever the budget says; the disk that it destroys is the victim's from now on.
pub fn force(world: &mut World, fault: &Fault) {
    let victim = match fault {
        Fault::PowerCut(nodes) => nodes.first(),
        Fault::PowerCutAt(node, _) => Some(node),
        Fault::Lie(node) | Fault::Misdirect(node, ..) | Fault::Spoil(node, ..) | Fault::Wipe(node) => Some(node),
        Fault::Remove(node) => {
            world.budget.gone.insert(*node);
            None
        }
        _ => None,
    };
    if let Some(victim) = victim {
        world.plan.shape.victim = *victim;
        world.budget.taint();
    }
    act(world, fault);
    if let Fault::PowerCutAt(node, _) = fault
        && let Some(doom) = world.hosts.get_mut(node).and_then(|host| host.doom.as_mut())
    {
        doom.forced = true;
    }
}

fn act(world: &mut World, fault: &Fault) {
    match fault {
        Fault::Lie(node)
        | Fault::Misdirect(node, ..)
        | Fault::Fail(node, disk::Operation::Sync | disk::Operation::SyncDir, _) => world.oracle.disk_untrusted(*node),
        _ => {}
    }
    match fault {
        Fault::Kill(nodes) => nodes.iter().for_each(|node| world.kill(*node)),
        Fault::Boot(nodes) => nodes.iter().for_each(|node| boot(world, *node)),
        Fault::PowerCut(nodes) => {
            nodes.iter().for_each(|node| world.power_cut(*node));
            let victim = world.plan.shape.victim;
            if nodes.contains(&victim) && world.budget.take_distrust() {
                check_everything(world, victim);
            }
        }
        Fault::KillAt(node, changes) | Fault::PowerCutAt(node, changes) => {
            tell(world, fault);
            let power = matches!(fault, Fault::PowerCutAt(..));
            if let Some(host) = world.hosts.get_mut(node) {
                host.doom = Some(Doom { changes: *changes, power, forced: false, declined: false });
            }
        }
        Fault::Stop(node) => world.stop(*node),
        Fault::Pause(node) => world.pause(*node),
        Fault::Resume(node) => world.resume(*node),
        Fault::Cut(a, b) => world.cut(*a, *b),
        Fault::Mend(a, b) => world.mend(*a, *b),
        Fault::Isolate(_) | Fault::Hide(_) | Fault::Bridge(_) | Fault::Ring | Fault::Heal => partition(world, fault),
        Fault::Weather(weather) => {
            world.kernel.net.weather = *weather;
            tell(world, fault);
        }
        Fault::Slow(node, extra) => {
            tell(world, fault);
            if *extra == 0 {
                world.kernel.net.slow.remove(node);
            } else {
                world.kernel.net.slow.insert(*node, *extra);
            }
        }
        Fault::Reset(node) => world.reset_links(*node),
        Fault::Jump(node, ms) => {
            tell(world, fault);
            if let Some(host) = world.hosts.get_mut(node) {
                host.clock.wall_offset_ms += ms;
            }
        }
        Fault::Drift(node, ppm) => {
            tell(world, fault);
            if let Some(host) = world.hosts.get_mut(node) {
                host.clock.drift_ppm = *ppm;
            }
        }
        Fault::Move(node) => world.move_address(*node),
        Fault::Publish(node) => {
            tell(world, fault);
            world.publish_address(*node);
        }
        Fault::SlowDisk(node, cost) => slow_disk(world, *node, *cost, fault),
        Fault::Full(node, bytes) => inject(world, *node, disk::Fault::SpaceLeft(*bytes), fault),
        Fault::Fail(node, on, nth) => inject(world, *node, disk::Fault::Fail(*on, *nth), fault),
        Fault::Lie(node) => inject(world, *node, disk::Fault::LyingSync, fault),
        Fault::Misdirect(node, nth, seed) => {
            inject(world, *node, disk::Fault::Misdirect { nth: *nth, seed: *seed }, fault);
        }
        Fault::Repair(node) => repair(world, *node),
        Fault::Spoil(node, target, damage, seed) => {
            world.kill(*node);
            let Some(host) = world.hosts.get(node) else { return };
            if let Some(done) = damage::spoil(&host.disk, *target, *damage, *seed) {
                world.kernel.trace.world(world.kernel.now, || format!("b{node}: {done}"));
                world.oracle.disk_lost(*node);
                check_everything(world, *node);
            }
        }
        Fault::Wipe(node) => world.wipe(*node),
        Fault::Join(node) => {
            let config = crate::runner::broker_config(&world.plan.shape, *node);
            world.add_host(config);
            tell(world, fault);
            world.boot(*node);
        }
        Fault::Promote(node) => {
            tell(world, fault);
            change_members(world, MembershipChange::Promote(*node));
        }
        Fault::Demote(node) => {
            tell(world, fault);
            change_members(world, MembershipChange::Demote(*node));
        }
        Fault::AssignRack(node, rack) => {
            tell(world, fault);
            assign_rack(world, *node, (*rack > 0).then(|| format!("rack-{rack}")));
        }
        Fault::Remove(node) => {
            tell(world, fault);
            change_members(world, MembershipChange::RemoveNode(*node));
            if let Some(host) = world.hosts.get_mut(node) {
                host.supervised = false;
            }
        }
        Fault::Reassign(_)
        | Fault::Cancel(_)
        | Fault::Drain(..)
        | Fault::Cordon(_)
        | Fault::Uncordon(_)
        | Fault::MoveLeaders(_)
        | Fault::Elect => moves::act(world, fault),
    }
}

fn tell(world: &mut World, fault: &Fault) {
    world.kernel.trace.world(world.kernel.now, || fault.to_string());
}

/// Starts it, unless it left for good. A victim that refuses what became of its disk gets an empty one.
pub(crate) fn boot(world: &mut World, node: NodeId) {
    if world.budget.gone.contains(&node) {
        return;
    }
    let refused = |world: &World| {
        let host = world.hosts.get(&node);
        host.is_some_and(|host| host.process.is_none() && host.exits.last() == Some(&Some(EXIT_REFUSED)))
    };
    if !refused(world) {
        world.boot(node);
    }
    if refused(world)
        && node == world.plan.shape.victim
        && world.budget.may_refuse()
        && survey::rest_is_well(world, node)
    {
        world.wipe(node);
        world.boot(node);
    }
}

/// The next start reads every record, as an operator has a disk checked that is known to be damaged. Without it recovery
/// believes what was synced before its recovery point, and damage there is found by whoever reads it.
fn check_everything(world: &World, node: NodeId) {
    let Some(host) = world.hosts.get(&node) else { return };
    for file in ["clean-shutdown", "recovery-point-offset-checkpoint"] {
        // It may not be there.
        let _absent = host.disk.remove_file(file);
        let _unsynced = host.disk.sync_dir("");
    }
}

fn slow_disk(world: &mut World, node: NodeId, cost: Micros, fault: &Fault) {
    tell(world, fault);
    if let Some(host) = world.hosts.get_mut(&node) {
        host.sync_cost = cost;
    }
}

fn inject(world: &mut World, node: NodeId, what: disk::Fault, fault: &Fault) {
    tell(world, fault);
    let syncs = matches!(fault, Fault::Fail(_, disk::Operation::Sync | disk::Operation::SyncDir, _));
    if syncs || matches!(fault, Fault::Lie(_) | Fault::Misdirect(..)) {
        world.oracle.disk_untrusted(node);
        // The next start, or the one under way, meets it before anybody has seen what its recovery makes of the logs.
        if let Some(host) = world.hosts.get(&node) {
            world.oracle.disk_damaged(node, host.process.as_ref().map(|_| host.run));
        }
    }
    if let Some(host) = world.hosts.get(&node) {
        host.disk.inject(what);
    }
}

/// The disk is as good as it can be again. A lie stays one: what was not synced is still not.
pub(crate) fn repair(world: &mut World, node: NodeId) {
    world.kernel.trace.world(world.kernel.now, || format!("repair b{node}"));
    if let Some(host) = world.hosts.get_mut(&node) {
        host.sync_cost = 0;
        host.doom = None;
        // What lies is only ended by the power cut that tells.
        if !(node == world.plan.shape.victim && world.budget.is_lying()) {
            host.disk.heal();
        }
    }
    if world.budget.sick.remove(&node) || survey::is_offline(world, node) {
        // What a failed operation stopped (a log directory, the loading of a group) waits for another start: part of
        // the repair.
        world.kill(node);
        boot(world, node);
    }
}

/// Cuts and mends ways until just these are open.
fn partition(world: &mut World, fault: &Fault) {
    tell(world, fault);
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    match fault {
        Fault::Heal => {
            world.kernel.net.cuts.clear();
            world.kernel.net.hidden.clear();
            world.kernel.net.published = world.kernel.net.address.clone();
        }
        Fault::Isolate(node) => {
            world.kernel.net.hidden.insert(*node);
            for other in nodes.iter().filter(|other| *other != node) {
                part(world, *node, *other);
            }
        }
        Fault::Hide(node) => {
            world.kernel.net.hidden.insert(*node);
        }
        Fault::Bridge(bridge) => {
            let rest: Vec<NodeId> = nodes.into_iter().filter(|node| node != bridge).collect();
            let (left, right) = rest.split_at(rest.len() / 2);
            for a in left {
                for b in right {
                    part(world, *a, *b);
                }
            }
        }
        Fault::Ring => {
            // Each sees its neighbours on both sides, just as many as make a majority. Of three, one pair is parted.
            let reach = if nodes.len() == 3 { 1 } else { (nodes.len() / 2).div_ceil(2) };
            for (i, a) in nodes.iter().enumerate() {
                for (j, b) in nodes.iter().enumerate().skip(i + 1) {
                    let apart = (j - i).min(nodes.len() - (j - i));
                    if apart > reach || (nodes.len() == 3 && i == 0 && j == 2) {
                        part(world, *a, *b);
                    }
                }
            }
        }
        _ => {}
    }
}

fn part(world: &mut World, a: NodeId, b: NodeId) {
    world.cut(a, b);
    world.cut(b, a);
}
