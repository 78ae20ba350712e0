//! From a seed to a plan.
//!
//! Swarm style: which kinds of faults happen at all is drawn first, so that one seed is all about power cuts and the next
//! about a ring of cut ways while clocks jump; everything at once hides more than it shows. A kind that is on has a weight;
//! episodes are drawn by weight and each leaves the step that ends it beside the one that begins it.

use chronik_log::disk::{Operation, SplitMix64};
use chronik_model::NodeId;

use super::{Damage, Fault, Plan, Shape, Step, Target, Workload};
use crate::kernel::Micros;
use crate::net::Weather;

/// A simulated second.
const SECOND: Micros = 1_000_000;

/// What may be drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most brokers that found the cluster.
    pub founders: u8,
    /// Most simulated seconds of faults.
    pub seconds: u64,
    /// Whether faults happen at all.
    pub faults: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { founders: 5, seconds: 60, faults: true }
    }
}

/// The kinds of episodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Kill,
    KillSome,
    KillAll,
    Stop,
    Roll,
    Pause,
    PowerCut,
    PowerCutAll,
    Cut,
    Isolate,
    Bridge,
    Ring,
    Hide,
    Storm,
    Slow,
    Reset,
    Clock,
    Move,
    SlowDisk,
    Full,
    IoError,
    DieWriting,
    CutWriting,
    FailSync,
    Lie,
    Misdirect,
    Spoil,
    Wipe,
    Join,
    Remove,
    Reassign,
    Drain,
    Leaders,
    Demote,
    Racks,
}

const KINDS: &[Kind] = &[
    Kind::Kill,
    Kind::KillSome,
    Kind::KillAll,
    Kind::Stop,
    Kind::Roll,
    Kind::Pause,
    Kind::PowerCut,
    Kind::PowerCutAll,
    Kind::Cut,
    Kind::Isolate,
    Kind::Bridge,
    Kind::Ring,
    Kind::Hide,
    Kind::Storm,
    Kind::Slow,
    Kind::Reset,
    Kind::Clock,
    Kind::Move,
    Kind::SlowDisk,
    Kind::Full,
    Kind::IoError,
    Kind::DieWriting,
    Kind::CutWriting,
    Kind::FailSync,
    Kind::Lie,
    Kind::Misdirect,
    Kind::Spoil,
    Kind::Wipe,
    Kind::Join,
    Kind::Remove,
    Kind::Reassign,
    Kind::Drain,
    Kind::Leaders,
    Kind::Demote,
    Kind::Racks,
];

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, limits: Limits) -> Self {
        // A stream of its own: the world's chance does not depend on how many steps were drawn.
        let mut random = SplitMix64::new(seed ^ 0x706c_616e);
        let shape = draw_shape(&mut random, limits);
        let steps = if limits.faults { draw_steps(&mut random, &shape) } else { Vec::new() };
        Self { seed, shape, steps }
    }
}

fn pick<T: Copy>(random: &mut SplitMix64, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

fn between(random: &mut SplitMix64, low: u64, high: u64) -> u64 {
    low + random.below(high.saturating_sub(low) + 1)
}

fn draw_shape(random: &mut SplitMix64, limits: Limits) -> Shape {
    let founders = pick(random, &[1, 2, 3, 3, 3, 3, 3, 3, 4, 5]).min(limits.founders.max(1));
    let joiners = if random.chance(30) { between(random, 1, 2) as u8 } else { 0 };
    let replication_factor = i16::from(founders).min(pick(random, &[3, 3, 3, 3, 3, 2, 1]));
    let min_insync = if replication_factor >= 2 && random.chance(90) { 2 } else { 1 };
    let calm = random.chance(40);
    let weather = Weather {
        min: pick(random, &[100, 200, 200, 1_000, 10_000]),
        jitter: pick(random, &[100, 400, 2_000, 20_000]),
        loss: if calm { 0 } else { pick(random, &[0, 0, 1, 5, 20]) },
        twice: if calm { 0 } else { pick(random, &[0, 10, 100]) },
        late: if calm { 0 } else { pick(random, &[0, 0, 2, 20]) },
    };
    let drift = random.chance(30);
    let brokers = u64::from(founders + joiners);
    let drift_ppm = (0..brokers).map(|_| if drift { random.below(2_001) as i64 - 1_000 } else { 0 }).collect();
    Shape {
        founders,
        joiners,
        topics: between(random, 1, 3) as u32,
        partitions: between(random, 1, 3) as i32,
        replication_factor,
        min_insync,
        durable: random.chance(30),
        segment_bytes: pick(random, &[1 << 20, 64 << 10, 16 << 10, 4 << 10]),
        image_every: pick(random, &[10_000, 200, 50, 20]),
        lag_max_ms: pick(random, &[1_500, 3_000, 10_000]),
        workload: draw_workload(random),
        weather,
        drift_ppm,
        victim: NodeId(between(random, 1, u64::from(founders)) as i32),
        duration: between(random, 10.min(limits.seconds), limits.seconds) * SECOND,
        recovery: 60 * SECOND,
    }
}

fn draw_workload(random: &mut SplitMix64) -> Workload {
    let mut workload = Workload {
        plain_producers: random.below(3) as u32,
        idempotent_producers: random.below(4) as u32,
        consumers: random.below(3) as u32,
        group_members: if random.chance(60) { between(random, 1, 3) as u32 } else { 0 },
        admins: u32::from(random.chance(40)),
        raise_min: random.chance(50),
        pause_ms: pick(random, &[20, 50, 100, 200]),
    };
    if workload.plain_producers + workload.idempotent_producers == 0 {
        workload.idempotent_producers = 1;
    }
    workload
}

fn is_on(random: &mut SplitMix64, kind: Kind, shape: &Shape) -> bool {
    let several = shape.founders >= 2;
    let possible = match kind {
        Kind::PowerCutAll => shape.durable,
        Kind::CutWriting => shape.durable || shape.survives_a_disk(),
        Kind::PowerCut | Kind::FailSync | Kind::Lie | Kind::Misdirect | Kind::Spoil | Kind::Wipe => {
            shape.survives_a_disk()
        }
        Kind::Join => shape.joiners > 0,
        Kind::Remove => shape.founders + shape.joiners >= 4,
        Kind::Bridge | Kind::Ring => shape.founders >= 3,
        Kind::Cut | Kind::Isolate | Kind::Leaders | Kind::Demote => several,
        Kind::Reassign | Kind::Drain => shape.founders + shape.joiners >= 2,
        _ => true,
    };
    // Drawn in any case, so that one kind more or less does not change the others.
    let drawn = random.chance(if kind == Kind::Join { 100 } else { 35 });
    possible && drawn
}

fn draw_steps(random: &mut SplitMix64, shape: &Shape) -> Vec<Step> {
    let mut kinds: Vec<(Kind, u64)> = Vec::new();
    for kind in KINDS {
        let on = is_on(random, *kind, shape);
        let weight = between(random, 1, 10);
        if on {
            kinds.push((*kind, weight));
        }
    }
    let mut steps = Vec::new();
    if kinds.is_empty() {
        return steps;
    }
    let total: u64 = kinds.iter().map(|(_, weight)| weight).sum();
    let gap = pick(random, &[300_000, 1_000_000, 2_000_000, 5_000_000]);
    // Some seeds begin in the middle of the formation, some leave it alone.
    let mut at = pick(random, &[0, 200_000, 3_000_000]);
    let mut joined = 0;
    loop {
        at += random.below(2 * gap);
        if at >= shape.duration {
            break;
        }
        let mut ticket = random.below(total);
        let drawn = kinds.iter().find(|(_, weight)| {
            let hit = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            hit
        });
        if let Some((kind, _)) = drawn {
            draw_episode(random, shape, *kind, at, &mut joined, &mut steps);
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn draw_episode(
    random: &mut SplitMix64,
    shape: &Shape,
    kind: Kind,
    at: Micros,
    joined: &mut u8,
    steps: &mut Vec<Step>,
) {
    let present = u64::from(shape.founders + *joined);
    let node = NodeId(between(random, 1, present) as i32);
    let other = NodeId(between(random, 1, present) as i32);
    let long = pick(random, &[200_000, 1_000_000, 4_000_000, 12_000_000]);
    let until = at + 50_000 + random.below(long);
    let seed = random.next_u64();
    let victim = shape.victim;
    let mut step = |at: Micros, fault: Fault| steps.push(Step { at, fault });
    match kind {
        Kind::Kill => {
            step(at, Fault::Kill(vec![node]));
            step(until, Fault::Boot(vec![node]));
        }
        Kind::KillSome => {
            let some: Vec<NodeId> = (1..=present as i32).map(NodeId).filter(|_| random.chance(50)).collect();
            if !some.is_empty() {
                step(at, Fault::Kill(some.clone()));
                step(until, Fault::Boot(some));
            }
        }
        Kind::KillAll => {
            let all: Vec<NodeId> = (1..=present as i32).map(NodeId).collect();
            step(at, Fault::Kill(all.clone()));
            for node in all {
                step(at + random.below(until - at + 1), Fault::Boot(vec![node]));
            }
        }
        Kind::Stop => {
            step(at, Fault::Stop(node));
            step(until + SECOND, Fault::Boot(vec![node]));
        }
        Kind::Roll => {
            for turn in 0..present {
                let begin = at + turn * (until - at + 3 * SECOND);
                let node = NodeId(turn as i32 + 1);
                step(begin, Fault::Stop(node));
                step(begin + 2 * SECOND, Fault::Boot(vec![node]));
            }
        }
        Kind::Pause => {
            step(at, Fault::Pause(node));
            step(until, Fault::Resume(node));
        }
        Kind::PowerCut => {
            step(at, Fault::PowerCut(vec![victim]));
            step(until, Fault::Boot(vec![victim]));
        }
        Kind::PowerCutAll => {
            let all: Vec<NodeId> = (1..=present as i32).map(NodeId).collect();
            step(at, Fault::PowerCut(all.clone()));
            step(until, Fault::Boot(all));
        }
        Kind::Cut => {
            if node != other {
                step(at, Fault::Cut(node, other));
                step(until, Fault::Mend(node, other));
            }
        }
        Kind::Isolate => {
            step(at, Fault::Isolate(node));
            step(until, Fault::Heal);
        }
        Kind::Bridge => {
            step(at, Fault::Bridge(node));
            step(until, Fault::Heal);
        }
        Kind::Ring => {
            step(at, Fault::Ring);
            step(until, Fault::Heal);
        }
        Kind::Hide => {
            step(at, Fault::Hide(node));
            step(until, Fault::Heal);
        }
        Kind::Storm => {
            let storm = Weather {
                min: pick(random, &[200, 5_000, 50_000]),
                jitter: pick(random, &[400, 20_000, 300_000]),
                loss: pick(random, &[0, 20, 100, 300]),
                twice: pick(random, &[0, 50, 300]),
                late: pick(random, &[0, 20, 200]),
            };
            step(at, Fault::Weather(storm));
            step(until, Fault::Weather(shape.weather));
        }
        Kind::Slow => {
            step(at, Fault::Slow(node, pick(random, &[5_000, 50_000, 400_000])));
            step(until, Fault::Slow(node, 0));
        }
        Kind::Reset => step(at, Fault::Reset(node)),
        Kind::Clock => {
            let jump = pick(random, &[-3_600_000, -5_000, -200, 200, 5_000, 3_600_000]);
            step(at, Fault::Jump(node, jump));
            if random.chance(30) {
                step(until, Fault::Drift(node, random.below(4_001) as i64 - 2_000));
            }
        }
        Kind::Move => {
            step(at, Fault::Kill(vec![node]));
            step(at + 1, Fault::Move(node));
            step(at + 100_000, Fault::Boot(vec![node]));
            step(until, Fault::Publish(node));
        }
        Kind::SlowDisk => {
            step(at, Fault::SlowDisk(node, pick(random, &[1_000, 10_000, 100_000])));
            step(until, Fault::SlowDisk(node, 0));
        }
        Kind::Full => {
            step(at, Fault::Full(node, random.below(50_000)));
            step(until, Fault::Repair(node));
        }
        Kind::IoError => {
            let append = Operation::Append;
            let on =
                pick(random, &[append, append, append, Operation::Read, Operation::Namespace, Operation::Truncate]);
            let most = pick(random, &[6, 50]);
            step(at, Fault::Fail(node, on, between(random, 1, most)));
            step(until, Fault::Repair(node));
        }
        Kind::DieWriting => {
            step(at, Fault::KillAt(node, between(random, 1, 30)));
            step(until, Fault::Kill(vec![node]));
            // Some die again while they recover.
            if random.chance(40) {
                step(until + 1, Fault::KillAt(node, between(random, 1, 12)));
                step(until + 2, Fault::Boot(vec![node]));
            }
            step(until + SECOND, Fault::Repair(node));
            step(until + SECOND + 1, Fault::Boot(vec![node]));
        }
        Kind::CutWriting => {
            let node = if shape.durable { node } else { victim };
            step(at, Fault::PowerCutAt(node, between(random, 1, 30)));
            step(until, Fault::PowerCut(vec![node]));
            if random.chance(40) {
                step(until + 1, Fault::PowerCutAt(node, between(random, 1, 12)));
                step(until + 2, Fault::Boot(vec![node]));
            }
            step(until + SECOND, Fault::Repair(node));
            step(until + SECOND + 1, Fault::Boot(vec![node]));
        }
        Kind::FailSync => {
            let on = pick(random, &[Operation::Sync, Operation::Sync, Operation::SyncDir]);
            step(at, Fault::Fail(victim, on, between(random, 1, 10)));
            step(until, Fault::PowerCut(vec![victim]));
            step(until + SECOND, Fault::Boot(vec![victim]));
        }
        Kind::Lie => {
            step(at, Fault::Lie(victim));
            step(until, Fault::PowerCut(vec![victim]));
            step(until + random.below(3 * SECOND), Fault::Boot(vec![victim]));
        }
        Kind::Misdirect => {
            step(at, Fault::Misdirect(victim, between(random, 1, 30), seed));
            step(until, Fault::PowerCut(vec![victim]));
            step(until + random.below(3 * SECOND), Fault::Boot(vec![victim]));
        }
        Kind::Spoil => {
            let target = pick(random, &[Target::Partition, Target::Raft]);
            step(at, Fault::Spoil(victim, target, pick(random, &[Damage::Flip, Damage::LoseEnd]), seed));
            step(until, Fault::Boot(vec![victim]));
        }
        Kind::Wipe => {
            step(at, Fault::Wipe(victim));
            step(until, Fault::Boot(vec![victim]));
        }
        Kind::Join => {
            if *joined < shape.joiners {
                *joined += 1;
                let joiner = NodeId(i32::from(shape.founders + *joined));
                step(at, Fault::Join(joiner));
                if random.chance(60) {
                    step(until + 3 * SECOND, Fault::Promote(joiner));
                }
            }
        }
        Kind::Remove => {
            if node != victim {
                step(at, Fault::Remove(node));
            }
        }
        Kind::Reassign => {
            // A second one may replace the first before that is complete.
            for _ in 0..between(random, 1, 4) {
                step(at + random.below(SECOND), Fault::Reassign(random.next_u64()));
            }
            if random.chance(30) {
                step(at + random.below(until - at), Fault::Cancel(seed));
            }
        }
        Kind::Drain => {
            step(at, Fault::Cordon(node));
            step(at + random.below(100_000), Fault::Drain(node, seed));
            step(at + random.below(until - at), Fault::MoveLeaders(node));
            step(until, Fault::Drain(node, random.next_u64()));
            step(until + SECOND, Fault::Uncordon(node));
        }
        Kind::Leaders => {
            step(at, Fault::MoveLeaders(node));
            step(until, Fault::Elect);
        }
        Kind::Demote => {
            step(at, Fault::Demote(node));
            if random.chance(25) {
                step(at + random.below(SECOND), Fault::Demote(other));
            }
            // Some clusters end with fewer voters than they began with.
            for node in [node, other] {
                if random.chance(65) {
                    step(until + random.below(2 * SECOND), Fault::Promote(node));
                }
            }
        }
        Kind::Racks => {
            for node in (1..=present as i32).map(NodeId) {
                if random.chance(50) {
                    step(at + random.below(SECOND), Fault::AssignRack(node, random.below(4) as u8));
                }
            }
        }
    }
}
