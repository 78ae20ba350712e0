//! Random runs: partitions, kills, power cuts, disk failures, membership changes, with the checks of the harness on
//! throughout. Every failure names its seed.

use chronik_consensus::MembershipChange::{AddLearner, Promote, RemoveNode};
use chronik_consensus::{Config, OpenError, Start};
use chronik_log::disk::{Fault, MemDisk, Operation, SplitMix64};
use chronik_model::NodeId;

use crate::harness::{Cluster, voters};

fn tune(config: &mut Config) {
    config.compact_entries = 30;
    config.compact_keep_entries = 8;
    config.max_size_per_msg = 1 << 10;
    config.max_inflight_msgs = 4;
}

fn misfortune(cluster: &mut Cluster, rng: &mut SplitMix64) {
    let ids: Vec<i32> = cluster.nodes.keys().copied().collect();
    let id = ids[rng.below(ids.len() as u64) as usize];
    let up = cluster.nodes[&id].replica.is_some();
    match rng.below(12) {
        0 if up => cluster.kill(id),
        1 if up => cluster.crash(id, rng.next_u64()),
        2 if up => {
            let operation = if rng.chance(50) { Operation::Sync } else { Operation::Append };
            cluster.nodes[&id].disk.inject(Fault::Fail(operation, 1 + rng.below(4)));
        }
        3 => cluster.isolate(id),
        4 => {
            let other = ids[rng.below(ids.len() as u64) as usize];
            cluster.cut.insert((id as u64, other as u64));
        }
        5 | 6 => cluster.heal(),
        7 => {
            if let Some(leader) = cluster.leader() {
                let change = match rng.below(3) {
                    0 => AddLearner(NodeId(id)),
                    1 => Promote(NodeId(id)),
                    _ => RemoveNode(NodeId(id)),
                };
                let _ = cluster.replica(leader).change_membership(change);
            }
        }
        8 => {
            if let Some(leader) = cluster.leader() {
                let _ = cluster.replica(leader).transfer_leader(None);
            }
        }
        9 => {
            let drop = rng.below(3) as usize;
            cluster.network.truncate(cluster.network.len().saturating_sub(drop));
        }
        _ => {}
    }
}

fn run(seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let mut cluster = Cluster::new(seed);
    for id in 1..=3 {
        cluster.add_with(id, &voters(&[1, 2, 3]), tune);
    }
    for id in 4..=5 {
        cluster.add_with(id, &Start::Join, tune);
    }
    cluster.connect_all();
    for _ in 0..150 {
        if rng.chance(30) {
            misfortune(&mut cluster, &mut rng);
        }
        for id in cluster.running() {
            if cluster.status(id).failed {
                cluster.crash(id, rng.next_u64());
            }
        }
        for id in 1..=5 {
            if cluster.nodes[&id].replica.is_none() && rng.chance(15) {
                match cluster.open(id, &voters(&[id])) {
                    Ok(()) => cluster.connect_all(),
                    // The disk failed again; the next attempt finds what this one left.
                    Err(OpenError::Storage(_)) => cluster.crash(id, rng.next_u64()),
                    Err(error) => panic!("node {id}: {error}"),
                }
            }
        }
        if let Some(leader) = cluster.leader() {
            for _ in 0..rng.below(4) {
                cluster.propose(leader);
            }
        }
        // A few messages, then perhaps the next misfortune, with the rest still on the way.
        for _ in 0..rng.below(30) {
            for id in cluster.running() {
                cluster.work(id);
            }
            if let Some(m) = cluster.network.pop_front() {
                cluster.deliver(&m);
            }
        }
        if rng.chance(70) {
            cluster.ticks(1);
        }
    }
    for id in 1..=5 {
        cluster.nodes[&id].disk.heal();
        if cluster.nodes[&id].replica.is_some() && cluster.status(id).failed {
            cluster.crash(id, seed);
        }
        if cluster.nodes[&id].replica.is_none() {
            cluster.restart(id);
        }
    }
    cluster.heal();
    cluster.ticks(60);
    let leader = cluster.elect();
    cluster.propose_many(leader, 3);
    cluster.ticks(30);
    // Who is no member any more keeps what it had; the members agree.
    let members: Vec<i32> =
        cluster.status(leader).voters.iter().chain(&cluster.status(leader).learners).map(|n| n.0).collect();
    cluster.nodes.retain(|id, _| members.contains(id));
    if std::env::var("CHRONIK_SEED").is_ok() {
        for id in cluster.running() {
            eprintln!("{:#?}", cluster.status(id));
        }
    }
    cluster.agreed();
}

#[test]
fn whatever_happens_votes_terms_entries_and_members_are_kept() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = match number("CHRONIK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CHRONIK_SEEDS").unwrap_or(300),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if let Err(problem) = outcome {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(problem);
        }
    }
}

/// Voters that crash and are cut off while one at a time loses its disk and founds anew. A disk is replaced only after
/// the last replaced one was fed, as raft needs a majority that remembers.
fn run_with_lost_disks(seed: u64, founders: &[i32]) -> u32 {
    let mut rng = SplitMix64::new(seed);
    let mut cluster = Cluster::new(seed);
    let odd = !founders.len().is_multiple_of(2);
    for id in founders {
        cluster.add_with(*id, &voters(founders), tune);
    }
    cluster.connect_all();
    let mut unfed: Option<(i32, u64)> = None;
    let mut lost = 0;
    let leader = cluster.elect();
    cluster.propose_many(leader, 10);
    cluster.ticks(10);
    for _ in 0..120 {
        let id = founders[rng.below(founders.len() as u64) as usize];
        let up = cluster.nodes[&id].replica.is_some();
        match rng.below(16) {
            0 if up => cluster.kill(id),
            1 if up => cluster.crash(id, rng.next_u64()),
            2 => cluster.isolate(id),
            3 | 4 => cluster.heal(),
            // Of an odd number, a voter that has seen nothing but its founding cannot warn the one that lost its disk.
            5 if up
                && unfed.is_none()
                && (!odd || cluster.running().iter().all(|id| cluster.status(*id).commit.0 > 10)) =>
            {
                let committed = cluster.running().iter().map(|id| cluster.status(*id).commit.0).max().unwrap_or(0);
                cluster.kill(id);
                // Nobody replaces a disk while its last words are still on the way.
                cluster.ticks(30);
                cluster.on_disk(id, MemDisk::new(), tune);
                if !odd {
                    cluster.forget_votes(id);
                }
                cluster.open(id, &voters(founders)).expect("founds anew");
                cluster.connect_all();
                unfed = Some((id, committed));
                lost += 1;
            }
            _ => {}
        }
        for id in founders {
            if cluster.nodes[id].replica.is_none() && rng.chance(15) {
                cluster.restart(*id);
                cluster.connect_all();
            }
        }
        if let Some((id, committed)) = unfed
            && cluster.nodes[&id].replica.is_some()
            && cluster.status(id).commit.0 >= committed
        {
            unfed = None;
        }
        if let Some(leader) = cluster.leader() {
            for _ in 0..rng.below(4) {
                cluster.propose(leader);
            }
        }
        for _ in 0..rng.below(30) {
            for id in cluster.running() {
                cluster.work(id);
            }
            if let Some(m) = cluster.network.pop_front() {
                cluster.deliver(&m);
            }
        }
        if rng.chance(70) {
            cluster.ticks(1);
        }
    }
    for id in founders {
        if cluster.nodes[id].replica.is_none() {
            cluster.restart(*id);
        }
    }
    cluster.heal();
    cluster.ticks(60);
    let leader = cluster.elect();
    cluster.propose_many(leader, 3);
    cluster.ticks(30);
    cluster.agreed();
    lost
}

#[test]
fn one_lost_disk_at_a_time_loses_nothing_that_was_acknowledged() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = number("CHRONIK_SEED").map_or(0..number("CHRONIK_SEEDS").unwrap_or(150), |seed| seed..seed + 1);
    let mut lost = 0;
    for seed in seeds {
        for founders in [&[1, 2, 3][..], &[1, 2, 3, 4]] {
            let outcome = std::panic::catch_unwind(|| run_with_lost_disks(seed, founders));
            lost += outcome.unwrap_or_else(|problem| {
                eprintln!("seed {seed} fails with founders {founders:?}");
                std::panic::resume_unwind(problem)
            });
        }
    }
    assert!(lost > 0);
}
