//! The log of a replica is built, damaged and opened again. It opens with a beginning of what was committed, or it is
//! refused with the name of the file; never with other entries, another image or a hole.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_consensus::{Config, MembershipChange, OpenError, Payload, Replica, Start};
use chronik_fuzz::damage::{Wound, files, strike};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::MemDisk;
use chronik_model::{NodeId, RaftIndex};
use libfuzzer_sys::fuzz_target;

fn config() -> Config {
    Config { compact_entries: 9, compact_keep_entries: 3, segment_bytes: 4 << 10, ..Config::new(NodeId(1)) }
}

fn start() -> Start {
    Start::Bootstrap { voters: vec![NodeId(1)] }
}

/// What the application saw.
#[derive(Default, Debug)]
struct Seen {
    commands: BTreeMap<u64, Bytes>,
    images: BTreeMap<u64, Bytes>,
    applied: u64,
}

fn settle(replica: &mut Replica<MemDisk>, seen: &mut Seen) {
    let mut rounds = 0;
    while replica.has_ready() {
        rounds += 1;
        assert!(rounds < 100, "it never comes to rest");
        let effects = replica.ready(drop).expect("the disk does not fail");
        assert!(effects.install.is_none(), "a lone voter has nobody to get an image from");
        for entry in effects.committed {
            assert!(seen.applied == 0 || entry.index.0 == seen.applied + 1, "{} after {}", entry.index, seen.applied);
            seen.applied = entry.index.0;
            if let Payload::Command(data) = entry.payload {
                seen.commands.insert(entry.index.0, data);
            }
        }
        if effects.snapshot_wanted {
            let image = Bytes::from(format!("state at {} of {} commands", seen.applied, seen.commands.len()));
            if replica.provide_snapshot(RaftIndex(seen.applied), &image).is_ok() {
                seen.images.insert(seen.applied, image);
            }
        }
    }
}

fn build(disk: &MemDisk, u: &mut Unstructured<'_>) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut now = 1_000;
    let (mut replica, _) = Replica::open(config(), disk.clone(), "raft", &start(), now).expect("an empty disk");
    settle(&mut replica, &mut seen);
    for number in 0..u.int_in_range(1..=40_u32)? {
        match u.int_in_range(0..=9_u8)? {
            0 => {
                let node = NodeId(u.int_in_range(2..=4)?);
                let change = if u.arbitrary()? {
                    MembershipChange::AddLearner(node)
                } else {
                    MembershipChange::RemoveNode(node)
                };
                let _ = replica.change_membership(change);
            }
            1 => {
                drop(replica);
                let image = seen.images.keys().next_back().copied();
                let reopened = Replica::open(config(), disk.clone(), "raft", &start(), now).expect("a sound log");
                replica = reopened.0;
                seen.applied = reopened.1.image.map_or(0, |image| image.index.0);
                assert!(image.is_none_or(|image| image <= seen.applied), "an image was forgotten");
            }
            2 => {
                now += 500;
                replica.tick(now);
            }
            _ => {
                let mut data = number.to_be_bytes().to_vec();
                data.resize(u.int_in_range(4..=900)?, number as u8);
                let _ = replica.propose(data.into());
            }
        }
        if u.ratio(3, 4)? {
            settle(&mut replica, &mut seen);
        }
    }
    settle(&mut replica, &mut seen);
    Ok(seen)
}

fn judge(replica: &mut Replica<MemDisk>, image: Option<(u64, Bytes)>, truth: &Seen, wounds: &[Wound]) {
    let mut found = Seen::default();
    if let Some((index, data)) = &image {
        found.applied = *index;
        // The image that a founder starts from is empty.
        let expected = truth.images.get(index).cloned().unwrap_or_default();
        assert_eq!(*data, expected, "the image of {index} is another one: {wounds:?}");
    }
    settle(replica, &mut found);
    let from = image.map_or(0, |(index, _)| index);
    for (index, data) in &found.commands {
        let expected = truth.commands.get(index);
        assert_eq!(Some(data), expected, "command {index} is another one: {wounds:?}");
    }
    if let Some(last) = found.commands.keys().next_back() {
        let between = truth.commands.range(from + 1..=*last).map(|(index, _)| index);
        assert!(between.eq(found.commands.keys()), "commands are missing in between: {wounds:?}");
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let disk = MemDisk::new();
    let truth = build(&disk, u)?;
    disk.kill();
    let mut wounds = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        wounds.extend(strike(&disk, u)?);
    }
    let left = files(&disk);
    match Replica::open(config(), disk.clone(), "raft", &start(), 1_000_000) {
        Ok((mut replica, recovered)) => {
            let image = recovered.image.map(|image| (image.index.0, image.data));
            if wounds.is_empty() {
                assert_eq!(
                    image.as_ref().map(|(index, _)| *index).filter(|index| *index > 5),
                    truth.images.keys().next_back().copied(),
                    "the newest image is not in force"
                );
            }
            judge(&mut replica, image, &truth, &wounds);
            let mut found = Seen { applied: replica.status().applied.0, ..Seen::default() };
            for tick in 1..=100 {
                replica.tick(1_000_000 + tick * 100);
                settle(&mut replica, &mut found);
            }
            let status = replica.status();
            replica
                .propose(Bytes::from_static(b"one more"))
                .unwrap_or_else(|_| panic!("it does not lead: {status:?}, {wounds:?}"));
            settle(&mut replica, &mut found);
            drop(replica);
            Replica::open(config(), disk, "raft", &start(), 1_000_000)
                .unwrap_or_else(|error| panic!("what was opened cannot be opened again: {error}: {wounds:?}"));
        }
        Err(OpenError::Corrupted { path, problem, .. }) => {
            assert!(!wounds.is_empty(), "an undamaged log is refused: {path}: {problem}");
            // A log that lost its end names the image before, which was removed when the next one was there.
            let known = left.contains(&path) || wounds.iter().any(|wound| wound.path == path);
            assert!(
                known || path == "raft" || path.starts_with("raft/image-"),
                "{path} is named, which nobody touched: {problem}: {wounds:?}"
            );
        }
        Err(error) => panic!("a damaged log gives {error}: {wounds:?}"),
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(64 << 20, || {
        let _ = run(&mut Unstructured::new(data));
    });
});
