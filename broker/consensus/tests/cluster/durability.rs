//! Crashes at every write, torn tails, corruption, full disks.

use chronik_consensus::{Config, MembershipChange, OpenError, Role, Start};
use chronik_log::disk::{Disk, Fault, MemDisk, Operation, RealDisk};
use chronik_model::NodeId;

use crate::harness::{Cluster, voters};

fn small(config: &mut Config) {
    config.compact_entries = 20;
    config.compact_keep_entries = 5;
    config.segment_bytes = 4 << 10;
}

#[test]
fn a_restart_keeps_term_vote_and_log() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    cluster.propose_many(leader, 5);
    for id in [1, 2, 3] {
        let before = cluster.status(id);
        cluster.kill(id);
        cluster.restart(id);
        let after = cluster.status(id);
        assert_eq!((after.term, after.vote), (before.term, before.vote), "node {id}");
        assert_eq!(after.last_index, before.last_index);
        assert_eq!(after.role, Role::Follower);
        cluster.connect_all();
        cluster.elect();
        cluster.ticks(5);
    }
    cluster.agreed();
}

/// Forms, proposes, compacts and changes members while the disk of `victim` fails at its n-th such operation; then the
/// power goes. Returns whether the failure happened.
fn fail_at(victim: i32, operation: Operation, n: u64, seed: u64) -> bool {
    let mut cluster = Cluster::new(seed);
    for id in [1, 2, 3] {
        cluster.add_with(id, &voters(&[1, 2, 3]), small);
    }
    cluster.nodes[&victim].disk.inject(Fault::Fail(operation, n));
    cluster.connect_all();
    let mut failed = false;
    for round in 0..130 {
        cluster.ticks(1);
        failed |= cluster.status(victim).failed;
        if let Some(leader) = cluster.leader()
            && cluster.status(leader).failed
        {
            break;
        }
        if let Some(leader) = cluster.leader() {
            cluster.propose(leader);
            if round == 30 {
                let _ = cluster.replica(leader).change_membership(MembershipChange::AddLearner(NodeId(4)));
            }
        }
        cluster.pump();
    }
    cluster.pump();
    if failed {
        assert!(!cluster.replica(victim).has_ready() || cluster.replica(victim).ready(|_| {}).is_err());
    }
    cluster.crash(victim, seed);
    cluster.restart(victim);
    cluster.network.clear();
    cluster.connect_all();
    cluster.elect();
    cluster.ticks(30);
    let leader = cluster.elect();
    cluster.propose_many(leader, 2);
    cluster.ticks(5);
    cluster.agreed();
    failed
}

#[test]
fn a_disk_that_fails_at_any_write_and_then_loses_power_forgets_nothing_promised() {
    for operation in [Operation::Append, Operation::Sync, Operation::SyncDir, Operation::Namespace] {
        let mut happened = 0;
        let last = if matches!(operation, Operation::Append | Operation::Sync) { 70 } else { 25 };
        for n in 1..last {
            for victim in [1, 3] {
                happened += u32::from(fail_at(victim, operation, n, n * 31 + victim as u64));
            }
        }
        // Directories are synced for images too, whose failure is no failure of the replica.
        let least = if matches!(operation, Operation::Append | Operation::Sync) { 50 } else { 1 };
        assert!(happened >= least, "{operation:?} failed a replica {happened} times");
    }
}

#[test]
fn after_a_storage_failure_nothing_is_promised_any_more() {
    let mut cluster = Cluster::formed(1, 1);
    cluster.propose_many(1, 1);
    cluster.nodes[&1].disk.inject(Fault::Fail(Operation::Sync, 1));
    cluster.propose(1).expect("appended in memory");
    cluster.pump();
    assert_eq!(cluster.acknowledged.len(), 1);
    let status = cluster.status(1);
    assert!(status.failed);
    let said = status.last_error.unwrap_or_default();
    assert!(said.contains("syncing raft/log-"), "{said}");
    cluster.nodes[&1].disk.heal();
    assert_eq!(cluster.propose(1), None, "for ever");
    assert!(cluster.replica(1).read_index().is_err());
    assert!(cluster.replica(1).ready(|_| {}).is_err());
}

#[test]
fn a_full_disk_does_not_stop_the_quorum_while_the_reserve_lasts_and_a_failed_image_is_no_failure() {
    let mut cluster = Cluster::formed_with(1, 1, |config| {
        config.compact_entries = 20;
        config.compact_keep_entries = 5;
        config.segment_bytes = 1 << 20;
    });
    // Every image needs a new file; the third operation from now on it fails.
    cluster.nodes[&1].disk.inject(Fault::Fail(Operation::Namespace, 1));
    cluster.propose_many(1, 30);
    let status = cluster.status(1);
    assert!(!status.failed, "{:?}", status.last_error);
    assert!(status.last_error.unwrap_or_default().contains("state image"));
    cluster.ticks(120);
    cluster.propose_many(1, 1);
    assert!(cluster.status(1).snapshot_index.0 > 20, "tried again later");
}

#[test]
fn a_disk_without_space_is_told_apart_from_a_broken_one() {
    for (fault, full) in [(Fault::SpaceLeft(10), true), (Fault::Fail(Operation::Append, 1), false)] {
        let mut cluster = Cluster::formed(1, 1);
        cluster.nodes[&1].disk.inject(fault);
        for _ in 0..3 {
            let _stopped = cluster.propose(1);
            cluster.pump();
        }
        let failure = cluster.replica(1).failure().expect("it stopped").clone();
        assert_eq!(failure.full, full, "{failure}");
    }
}

fn log_files(disk: &MemDisk) -> Vec<String> {
    let listed = disk.list("raft").expect("listed");
    listed.into_iter().map(|f| f.name).filter(|n| n.starts_with("log-")).collect()
}

fn with_log() -> Cluster {
    let mut cluster = Cluster::formed(1, 1);
    cluster.propose_many(1, 10);
    cluster.kill(1);
    cluster
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let mut lost = 0;
    for cut in 1..40 {
        let disk = with_log().nodes[&1].disk.clone();
        let path = format!("raft/{}", log_files(&disk)[0]);
        let file = disk.open(&path).expect("open");
        file.truncate(file.len() - cut).expect("cut");
        // It was never confirmed.
        disk.remove_file("raft/synced").expect("removed");
        disk.kill();
        let mut cluster = Cluster::new(1);
        cluster.on_disk(1, disk, |_| {});
        cluster.open(1, &voters(&[1])).unwrap_or_else(|e| panic!("cut by {cut}: {e}"));
        cluster.ticks(20);
        assert_eq!(cluster.leader(), Some(1), "cut by {cut}");
        let commands = cluster.nodes[&1].state.len();
        assert!(commands == 9 || commands == 10, "{commands} commands, cut by {cut}");
        lost += 10 - commands;
        cluster.propose_many(1, 5);
        cluster.kill(1);
        cluster.restart(1);
        cluster.ticks(20);
        assert_eq!(cluster.nodes[&1].state.len(), commands + 5, "what follows the cut is found again");
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn a_log_that_lost_an_end_which_was_durable_is_refused_and_not_changed() {
    let mut refused = 0;
    for cut in 1..400 {
        let cluster = with_log();
        let disk = cluster.nodes[&1].disk.clone();
        let path = format!("raft/{}", log_files(&disk)[0]);
        let left = disk.read(&path).expect("read").len() as u64 - cut;
        disk.lose_end(&path, left).expect("cut");
        let mut cluster = Cluster::new(1);
        cluster.on_disk(1, disk.clone(), |_| {});
        match cluster.open(1, &voters(&[1])) {
            Err(OpenError::Corrupted { path: at, problem, .. }) => {
                assert_eq!(at, path);
                assert!(problem.contains("lost its end"), "{problem}");
                assert_eq!(disk.read(&path).expect("read").len() as u64, left, "untouched");
                refused += 1;
            }
            // Padding carries nothing.
            Ok(()) => assert!(cut < 8, "cut by {cut}"),
            Err(other) => panic!("cut by {cut}: {other}"),
        }
    }
    assert!(refused >= 392, "{refused}");
}

#[test]
fn real_files_that_lost_an_end_which_was_durable_are_refused() {
    let root = std::env::temp_dir().join(format!("chronik-lost-end-{}", std::process::id()));
    let open = || {
        let disk = RealDisk::open(&root).expect("a directory");
        chronik_consensus::Replica::open(Config::new(NodeId(1)), disk, "raft", &voters(&[1]), 0)
    };
    let (mut replica, _) = open().expect("an empty disk");
    // More than the marks' file takes before it begins anew.
    for number in 0..5_000_u32 {
        if replica.is_leader() {
            replica.propose(number.to_be_bytes().to_vec().into()).expect("it leads");
        }
        while replica.has_ready() {
            replica.ready(drop).expect("the disk does not fail");
        }
    }
    let last = replica.status().last_index;
    assert!(last.0 > 4_900, "{last:?}");
    drop(replica);
    let (replica, _) = open().expect("a sound log");
    assert!(replica.status().last_index >= last, "with the election of the lone voter");
    drop(replica);

    let raft = root.join("raft");
    let listed = std::fs::read_dir(&raft).expect("listed").map(|entry| entry.expect("listed").path());
    let newest = listed.filter(|path| path.to_string_lossy().contains("log-")).max().expect("a log");
    let file = std::fs::OpenOptions::new().write(true).open(&newest).expect("open");
    file.set_len(file.metadata().expect("known").len() - 300).expect("cut");
    let Err(OpenError::Corrupted { problem, .. }) = open().map(drop) else { panic!("accepted") };
    assert!(problem.contains("lost its end") && problem.contains("removing raft/synced accepts the loss"), "{problem}");
    // Who removes the marks accepts the loss.
    std::fs::remove_file(raft.join("synced")).expect("removed");
    let (replica, _) = open().expect("what is left is sound");
    assert!(replica.status().last_index < last);
    drop(replica);
    std::fs::remove_dir_all(&root).expect("removed");
}

#[test]
fn a_start_makes_the_marks_durable_where_there_were_none() {
    for seed in 0..20 {
        let mut cluster = with_log();
        let disk = cluster.nodes[&1].disk.clone();
        // Written by a version that had no marks.
        disk.remove_file("raft/synced").expect("removed");
        cluster.restart(1);
        cluster.crash(1, seed);
        let path = format!("raft/{}", log_files(&disk)[0]);
        let left = disk.read(&path).expect("read").len() as u64 - 300;
        disk.lose_end(&path, left).expect("cut");
        let Err(OpenError::Corrupted { problem, .. }) = cluster.open(1, &voters(&[1])) else {
            panic!("seed {seed}: accepted")
        };
        assert!(problem.contains("lost its end"), "{problem}");
    }
}

#[test]
fn a_log_that_is_gone_is_missed_and_nothing_is_founded_in_its_place() {
    let mut cluster = with_log();
    let disk = cluster.nodes[&1].disk.clone();
    for name in log_files(&disk) {
        disk.remove_file(&format!("raft/{name}")).expect("removed");
    }
    for entry in disk.list("raft").expect("listed") {
        if entry.name.starts_with("image-") {
            disk.remove_file(&format!("raft/{}", entry.name)).expect("removed");
        }
    }
    let Err(OpenError::Corrupted { path, .. }) = cluster.open(1, &voters(&[1])) else { panic!("founded anew") };
    assert_eq!(path, "raft/synced");
}

#[test]
fn an_end_that_was_never_confirmed_is_not_missed_after_a_power_cut() {
    for seed in 0..100 {
        let mut cluster = Cluster::formed_with(1, seed, small);
        cluster.propose_many(1, 3 + seed as usize);
        cluster.nodes[&1].disk.inject(Fault::Fail(Operation::Sync, 1));
        cluster.propose(1).expect("appended in memory");
        cluster.pump();
        let promised = cluster.acknowledged.len();
        cluster.crash(1, seed);
        cluster.restart(1);
        cluster.ticks(20);
        assert!(cluster.nodes[&1].state.len() >= promised, "seed {seed}");
    }
}

#[test]
fn a_voter_whose_log_forgot_that_others_vote_does_not_lead_alone() {
    for seed in 0..20 {
        let mut cluster = Cluster::formed(1, seed);
        cluster.propose_many(1, 3);
        let disk = cluster.nodes[&1].disk.clone();
        let path = format!("raft/{}", log_files(&disk)[0]);
        let alone = disk.read(&path).expect("read").len() as u64;
        for id in [2, 3] {
            cluster.add(id, &Start::Join);
            cluster.connect_all();
            cluster.change(1, MembershipChange::AddLearner(NodeId(id)));
            cluster.ticks(10);
            cluster.change(1, MembershipChange::Promote(NodeId(id)));
            cluster.ticks(10);
        }
        cluster.propose_many(1, 3);
        // Also when what was not synced is gone with the power.
        cluster.crash(1, seed);
        disk.lose_end(&path, alone).expect("cut");
        let Err(OpenError::Corrupted { path: at, problem, .. }) = cluster.open(1, &voters(&[1])) else {
            panic!("seed {seed}: it leads alone")
        };
        assert_eq!(at, path);
        assert!(problem.contains("lost its end"), "{problem}");
    }
}

#[test]
fn damage_in_the_middle_is_refused_with_file_and_offset_and_nothing_is_changed() {
    let cluster = with_log();
    let disk = cluster.nodes[&1].disk.clone();
    let path = format!("raft/{}", log_files(&disk)[0]);
    let before = disk.read(&path).expect("read");
    let len = before.len() as u64;
    for byte in (32..len - 64).step_by(7) {
        disk.flip_bit(&path, byte, 3).expect("flipped");
        let mut cluster = Cluster::new(1);
        cluster.on_disk(1, disk.clone(), |_| {});
        match cluster.open(1, &voters(&[1])) {
            Err(OpenError::Corrupted { path: at, offset, problem }) => {
                assert_eq!(at, path);
                assert!(offset <= byte && byte < offset + 120, "{offset} for byte {byte}: {problem}");
            }
            // Padding between frames carries nothing.
            Ok(()) => assert_eq!(before[byte as usize], 0, "byte {byte} was accepted"),
            Err(other) => panic!("byte {byte}: {other}"),
        }
        disk.flip_bit(&path, byte, 3).expect("flipped back");
    }
    assert_eq!(disk.read(&path).expect("read")[..], before[..], "untouched");
}

#[test]
fn a_damaged_or_missing_image_is_refused_by_name() {
    let mut cluster = Cluster::formed_with(1, 1, small);
    cluster.propose_many(1, 60);
    cluster.kill(1);
    let disk = cluster.nodes[&1].disk.clone();
    let listed = disk.list("raft").expect("listed");
    let image = listed.iter().find(|f| f.name.starts_with("image-")).expect("an image");
    let path = format!("raft/{}", image.name);
    disk.flip_bit(&path, 100, 0).expect("flipped");
    let Err(OpenError::Corrupted { path: named, .. }) = cluster.open(1, &voters(&[1])) else { panic!("accepted") };
    assert_eq!(named, path);
    disk.remove_file(&path).expect("removed");
    let Err(OpenError::Corrupted { path: named, problem, .. }) = cluster.open(1, &voters(&[1])) else {
        panic!("accepted")
    };
    assert_eq!(named, path);
    assert!(problem.contains("missing"), "{problem}");
}

#[test]
fn a_missing_segment_is_refused() {
    let mut cluster = Cluster::formed(1, 1);
    cluster.propose_many(1, 1_500);
    cluster.kill(1);
    let disk = cluster.nodes[&1].disk.clone();
    let files = log_files(&disk);
    assert!(files.len() >= 3, "{files:?}");
    disk.remove_file(&format!("raft/{}", files[1])).expect("removed");
    let Err(OpenError::Corrupted { path, problem, .. }) = cluster.open(1, &voters(&[1])) else { panic!("accepted") };
    assert_eq!(path, format!("raft/{}", files[2]));
    assert!(problem.contains("missing"), "{problem}");
}

#[test]
fn the_log_of_another_node_is_refused() {
    let cluster = with_log();
    let disk = cluster.nodes[&1].disk.clone();
    let opened = chronik_consensus::Replica::open(Config::new(NodeId(2)), disk, "raft", &voters(&[2]), 0);
    let Err(OpenError::WrongNode { found, expected, .. }) = opened else { panic!("accepted") };
    assert_eq!((found, expected), (NodeId(1), NodeId(2)));
}

#[test]
fn bootstrap_voters_that_make_no_sense_are_refused() {
    for (ids, word) in [(&[][..], "none"), (&[2, 3], "not among"), (&[1, 1], "twice"), (&[1, 0], "1 or more")] {
        let opened = chronik_consensus::Replica::open(Config::new(NodeId(1)), MemDisk::new(), "raft", &voters(ids), 0);
        let Err(OpenError::Voters(problem)) = opened else { panic!("{ids:?} accepted") };
        assert!(problem.contains(word), "{problem}");
    }
}

#[test]
fn a_power_cut_during_bootstrap_leaves_nothing_or_everything() {
    for operation in [Operation::Append, Operation::Sync, Operation::SyncDir, Operation::Namespace] {
        for n in 1..6 {
            for seed in 0..20 {
                let disk = MemDisk::new();
                disk.inject(Fault::Fail(operation, n));
                let open = |disk: &MemDisk| {
                    chronik_consensus::Replica::open(Config::new(NodeId(1)), disk.clone(), "raft", &voters(&[1]), 0)
                };
                let first = open(&disk).map(|_| ());
                disk.crash(seed);
                let (replica, recovered) = open(&disk).unwrap_or_else(|e| panic!("{operation:?} {n} {seed}: {e}"));
                assert_eq!(recovered.membership.voters, vec![NodeId(1)], "{first:?}");
                assert_eq!(recovered.image.map(|i| i.index.0), Some(5));
                assert_eq!(recovered.term.0, 5);
                assert_eq!(replica.status().voters, vec![NodeId(1)]);
            }
        }
    }
}

#[test]
fn entries_since_the_image_are_told_again_after_a_restart() {
    let mut cluster = Cluster::formed_with(1, 1, small);
    cluster.propose_many(1, 50);
    let state = cluster.nodes[&1].state.clone();
    cluster.kill(1);
    cluster.restart(1);
    assert!(cluster.nodes[&1].state.len() < state.len());
    assert!(cluster.nodes[&1].applied > 5, "from the image on");
    cluster.ticks(20);
    assert_eq!(cluster.nodes[&1].state, state);
}

#[test]
fn what_a_restart_found_unsynced_is_durable_before_anything_builds_on_it() {
    for seed in 0..30 {
        let mut cluster = Cluster::formed(1, 1);
        cluster.propose_many(1, 1);
        // Written, then killed before the sync: the kernel still has the bytes.
        cluster.nodes[&1].disk.inject(Fault::LyingSync);
        cluster.propose_many(1, 20);
        cluster.kill(1);
        cluster.nodes[&1].disk.heal();
        cluster.restart(1);
        let found = cluster.status(1).last_index;
        cluster.crash(1, seed);
        cluster.restart(1);
        assert_eq!(cluster.status(1).last_index, found, "seed {seed}");
    }
}

#[test]
fn bytes_of_a_failed_sync_are_not_taken_for_durable_by_the_next_run() {
    for seed in 0..30 {
        let mut cluster = Cluster::formed(1, 1);
        cluster.propose_many(1, 3);
        let disk = cluster.nodes[&1].disk.clone();
        disk.inject(Fault::Fail(Operation::Sync, 1));
        disk.inject(Fault::Fail(Operation::Truncate, 1));
        cluster.propose(1).expect("appended in memory");
        cluster.pump();
        assert!(cluster.status(1).failed);
        cluster.kill(1);
        cluster.restart(1);
        let found = cluster.status(1).last_index;
        cluster.crash(1, seed);
        cluster.restart(1);
        assert_eq!(cluster.status(1).last_index, found, "seed {seed}");
    }
}

#[test]
fn the_only_batch_of_the_only_segment_left_is_never_taken_for_a_torn_beginning() {
    let mut cluster = Cluster::formed(1, 1);
    cluster.propose_many(1, 1);
    cluster.kill(1);
    let disk = cluster.nodes[&1].disk.clone();
    // As after a compaction that began a segment and removed all before it.
    let path = format!("raft/{}", log_files(&disk)[0]);
    let later = "raft/log-0000000000000007.seg";
    let content = disk.read(&path).expect("read");
    disk.remove_file(&path).expect("removed");
    for damaged in [&content[..40], &content[..20]] {
        disk.create(later).and_then(|file| file.append(&[damaged])).expect("written");
        let Err(OpenError::Corrupted { path, .. }) = cluster.open(1, &voters(&[1])) else { panic!("founded anew") };
        assert_eq!(path, later);
        disk.read(later).expect("untouched");
    }
}

#[test]
fn a_state_image_without_a_log_is_refused_and_no_cluster_is_founded_over_it() {
    let mut cluster = Cluster::formed_with(1, 1, small);
    cluster.propose_many(1, 60);
    cluster.kill(1);
    let disk = cluster.nodes[&1].disk.clone();
    for name in log_files(&disk) {
        disk.remove_file(&format!("raft/{name}")).expect("removed");
    }
    let Err(OpenError::Corrupted { path, .. }) = cluster.open(1, &voters(&[1])) else { panic!("founded anew") };
    assert!(path.contains("image-"), "{path}");
}
