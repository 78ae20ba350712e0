//! Each fault does what it says, and a disk without faults nothing of the kind.

use std::collections::BTreeSet;

use super::*;

const TEXT: &[u8] = b"what was there before and is durable";

fn disk_with(path: &str, content: &[u8]) -> (MemDisk, FileRef) {
    let disk = MemDisk::new();
    let file = disk.create(path).unwrap();
    file.append(&[content]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    (disk, file)
}

#[test]
fn a_killed_process_loses_nothing_and_its_handles_are_dead() {
    let (disk, file) = disk_with("a", TEXT);
    file.append(&[b"unsynced"]).unwrap();
    disk.create("b").unwrap().append(&[b"unnamed"]).unwrap();
    disk.kill();
    assert!(file.append(&[b"x"]).is_err());
    assert_eq!(disk.read("a").unwrap(), [TEXT, b"unsynced"].concat());
    assert_eq!(&disk.read("b").unwrap()[..], b"unnamed");
}

#[test]
fn a_process_that_stops_in_the_middle_changes_nothing_any_more_and_loses_nothing_that_it_wrote() {
    for power in [false, true] {
        let (disk, file) = disk_with("a", TEXT);
        disk.stop_at(Some(3));
        file.append(&[b"first"]).unwrap();
        assert_eq!((disk.is_stopped(), disk.stop_at(None)), (false, Some(2)));
        file.append(&[b", second"]).unwrap();
        disk.stop_at(Some(2));
        file.read_at(0, 1).unwrap();
        file.append(&[b", third"]).unwrap();
        // A sync that fails forgets what it should have kept; one that never happens does not.
        assert!(file.sync().is_err() && disk.is_stopped());
        assert!(file.append(&[b"x"]).is_err() && disk.create("b").is_err() && disk.remove_file("a").is_err());
        assert!(disk.sync_all().is_err() && file.read_at(0, 1).is_err());
        let whole = [TEXT, b"first, second, third"].concat();
        assert_eq!(disk.observe(|| disk.read("a")).unwrap(), whole);
        if power {
            disk.crash(1);
            assert!(disk.read("a").unwrap().starts_with(TEXT));
        } else {
            disk.kill();
            assert_eq!(disk.read("a").unwrap(), whole);
            let file = disk.open("a").unwrap();
            file.sync().unwrap();
            disk.crash(1);
            assert_eq!(disk.read("a").unwrap(), whole);
        }
        assert!(!disk.is_stopped());
        disk.create("b").unwrap();
    }
}

#[test]
fn a_power_loss_keeps_what_was_synced_and_any_blocks_of_the_rest() {
    let (mut nothing, mut everything, mut hole) = (false, false, false);
    for seed in 0..300 {
        let (disk, file) = disk_with("a", TEXT);
        let rest = vec![7_u8; 5 * 512];
        file.append(&[&rest]).unwrap();
        disk.crash(seed);
        let found = disk.read("a").unwrap();
        assert!(found.starts_with(TEXT), "seed {seed}");
        let rest = &found[TEXT.len()..];
        assert!(rest.iter().all(|byte| [0, 7].contains(byte)));
        nothing |= rest.is_empty();
        everything |= rest.len() == 5 * 512 && !rest.contains(&0);
        hole |= rest.iter().position(|b| *b == 0) < rest.iter().rposition(|b| *b == 7);
    }
    assert!(nothing && everything && hole, "{nothing} {everything} {hole}");
}

#[test]
fn an_unsynced_cut_is_made_lost_or_mixed_with_what_came_after() {
    let (mut cut, mut uncut) = (false, false);
    for seed in 0..200 {
        let (disk, file) = disk_with("a", TEXT);
        file.truncate(10).unwrap();
        file.append(&[b"new"]).unwrap();
        assert_eq!(disk.read("a").unwrap(), [&TEXT[..10], b"new"].concat());
        disk.crash(seed);
        let found = disk.read("a").unwrap();
        assert!(found.starts_with(&TEXT[..10]));
        cut |= found.len() < TEXT.len();
        uncut |= found.len() == TEXT.len();
        assert!(found.len() <= TEXT.len());
    }
    assert!(cut && uncut);
    let (disk, file) = disk_with("a", TEXT);
    file.truncate(10).unwrap();
    file.append(&[b"new"]).unwrap();
    file.sync().unwrap();
    disk.crash(0);
    assert_eq!(disk.read("a").unwrap(), [&TEXT[..10], b"new"].concat());
}

#[test]
fn any_interleaving_of_appends_cuts_and_syncs_survives_in_its_synced_form() {
    for seed in 0..500 {
        let mut rng = SplitMix64::new(seed);
        let (disk, file) = disk_with("a", b"");
        let (mut model, mut durable) = (Vec::new(), Vec::new());
        for step in 0..40_u8 {
            match rng.below(5) {
                0 | 1 => {
                    let bytes = vec![step; rng.below(1500) as usize];
                    file.append(&[&bytes]).unwrap();
                    model.extend_from_slice(&bytes);
                }
                2 => {
                    let len = rng.below(model.len() as u64 + 1) as usize;
                    file.truncate(len as u64).unwrap();
                    model.truncate(len);
                }
                3 => file.forget_clean_pages(rng.below(2_000)).unwrap(),
                _ => {
                    file.sync().unwrap();
                    durable.clone_from(&model);
                }
            }
            assert_eq!(disk.read("a").unwrap(), model, "seed {seed}");
        }
        file.sync().unwrap();
        file.append(&[b"lost or not"]).unwrap();
        disk.crash(seed);
        assert!(disk.read("a").unwrap().starts_with(&model), "seed {seed}");
        // What a failed sync left unsynced is certainly lost, whatever is synced later.
        let file = disk.open("a").unwrap();
        let whole = file.len() as usize;
        file.append(&[&[9; 700]]).unwrap();
        disk.inject(Fault::Fail(Operation::Sync, 1));
        assert!(file.sync().is_err());
        file.append(&[&[8; 700]]).unwrap();
        file.sync().unwrap();
        disk.crash(seed);
        let found = disk.read("a").unwrap();
        assert!(found[whole..whole + 700].iter().all(|byte| *byte == 0), "seed {seed}");
        assert!(found[whole + 700..].iter().all(|byte| *byte == 8) && found.len() == whole + 1400);
    }
}

#[test]
fn names_are_durable_only_after_a_sync_of_their_directory() {
    let (mut kept, mut lost) = (false, false);
    for seed in 0..100 {
        let disk = MemDisk::new();
        disk.create_dir("dir").unwrap();
        disk.sync_dir("").unwrap();
        disk.create("dir/old").unwrap().sync().unwrap();
        disk.sync_dir("dir").unwrap();
        disk.create("dir/new").unwrap().sync().unwrap();
        disk.rename("dir/old", "dir/renamed").unwrap();
        disk.crash(seed);
        assert!(disk.exists("dir/old").unwrap() != disk.exists("dir/renamed").unwrap(), "a rename is atomic");
        kept |= disk.exists("dir/new").unwrap();
        lost |= !disk.exists("dir/new").unwrap();
    }
    assert!(kept && lost);
}

#[test]
fn a_removed_directory_stays_removed_when_one_of_its_name_is_made_anew() {
    for seed in 0..50 {
        let disk = MemDisk::new();
        disk.create_dir("dir").unwrap();
        disk.create("dir/file").unwrap().append(&[b"of the old one"]).unwrap();
        disk.sync_all().unwrap();
        disk.remove_dir("dir").unwrap();
        disk.sync_dir("").unwrap();
        disk.create_dir("dir").unwrap();
        disk.sync_dir("").unwrap();
        disk.crash(seed);
        assert_eq!(disk.list("dir").unwrap(), Vec::new(), "seed {seed}");
        assert_eq!(disk.memory(), 0, "and takes no memory");
    }
}

#[test]
fn a_lying_sync_promises_what_a_power_loss_takes() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, file) = disk_with("a", TEXT);
        disk.inject(Fault::LyingSync);
        file.append(&[b"promised"]).unwrap();
        file.sync().unwrap();
        disk.kill();
        assert!(disk.read("a").unwrap().ends_with(b"promised"), "a kill takes nothing");
        disk.crash(seed);
        lost += u32::from(disk.read("a").unwrap() == TEXT);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn damage_to_what_is_durable_is_seen_at_once_and_stays() {
    let (disk, _) = disk_with("a", TEXT);
    disk.flip_bit("a", 3, 9).unwrap();
    assert!(disk.flip_bit("a", 1000, 0).is_err() && disk.flip_bit("b", 0, 0).is_err());
    disk.lose_end("a", 12).unwrap();
    let mut expected = TEXT[..12].to_vec();
    expected[3] ^= 2;
    assert_eq!(disk.read("a").unwrap(), expected);
    disk.crash(1);
    assert_eq!(disk.read("a").unwrap(), expected);
    assert_eq!(disk.files(), [("a".to_owned(), 12)]);
}

#[test]
fn a_misdirected_write_damages_another_place_once_and_shows_after_power_was_lost() {
    let (mut elsewhere, mut own) = (false, false);
    for seed in 0..50 {
        let (disk, file) = disk_with("a", &[1; 4096]);
        let other = disk.create("b").unwrap();
        other.append(&[&[2; 4096]]).unwrap();
        disk.sync_all().unwrap();
        disk.inject(Fault::Misdirect { nth: 2, seed });
        for byte in [3, 4, 5] {
            file.append(&[&[byte; 512]]).unwrap();
            file.sync().unwrap();
        }
        let good = [vec![1; 4096], vec![3; 512], vec![4; 512], vec![5; 512]].concat();
        disk.kill();
        assert_eq!(disk.read("a").unwrap(), good, "the cache does not know");
        disk.crash(seed);
        let (a, b) = (disk.read("a").unwrap(), disk.read("b").unwrap());
        assert_eq!((a.len(), b.len()), (good.len(), 4096));
        let wrong = |found: &[u8], good: &[u8]| found.iter().zip(good).filter(|(f, g)| f != g).count();
        let place = 4096 + 512..4096 + 1024;
        if b.contains(&4) {
            elsewhere = true;
            assert_eq!((wrong(&b, &[2; 4096]), wrong(&a, &good)), (512, 512), "seed {seed}");
            assert!(a[place].iter().all(|byte| *byte == 0));
        } else {
            own = true;
            assert!(wrong(&a, &good) >= 512 || a[place].iter().all(|byte| *byte == 4), "seed {seed}");
        }
    }
    assert!(elsewhere && own);
}

#[test]
fn a_misdirected_write_never_replaces_what_begins_as_it_does() {
    for seed in 0..50 {
        let (disk, file) = disk_with("a", &[7; 512]);
        disk.create("b").unwrap().append(&[&[7; 512]]).unwrap();
        disk.sync_all().unwrap();
        disk.inject(Fault::Misdirect { nth: 1, seed });
        file.append(&[&[7; 8], &[9; 504]]).unwrap();
        file.sync().unwrap();
        disk.crash(seed);
        assert_eq!(disk.read("b").unwrap()[..], [7; 512], "seed {seed}");
        assert_eq!(disk.read("a").unwrap()[..512], [7; 512], "seed {seed}");
    }
}

#[test]
fn a_full_disk_tears_an_append_and_has_room_again_when_files_go() {
    let (disk, file) = disk_with("a", TEXT);
    let full = TEXT.len() as u64 + 5;
    disk.set_capacity(full);
    let refused = file.append(&[b"123", b"456"]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.space().unwrap(), DiskSpace { total: full, free: 0 });
    assert!(disk.read("a").unwrap().ends_with(b"12345"));
    assert!(file.preallocate(full + 1).is_err());
    let other = disk.create("b").unwrap();
    assert!(other.append(&[b"1"]).is_err());
    disk.remove_file("a").unwrap();
    assert!(other.append(&[b"1"]).is_err(), "an open file keeps its space");
    drop(file);
    other.append(&[b"1"]).unwrap();
    let undone = |seed| {
        let after = disk.snapshot();
        after.crash(seed);
        after.exists("a").unwrap()
    };
    assert!((0..20).any(undone), "a removal that was not durable may be undone");
}

#[test]
fn a_single_operation_fails_at_its_count_and_a_dead_disk_always() {
    let (disk, file) = disk_with("a", TEXT);
    disk.inject(Fault::Fail(Operation::Read, 2));
    file.read_at(0, 1).unwrap();
    assert!(file.read_at(0, 1).is_err());
    file.read_at(0, 1).unwrap();
    disk.inject(Fault::Dead);
    for _ in 0..2 {
        assert!(file.append(&[b"x"]).is_err() && file.sync().is_err() && file.read_at(0, 1).is_err());
        assert!(disk.create("b").is_err() && disk.sync_dir("").is_err() && disk.sync_all().is_err());
    }
    disk.heal();
    file.append(&[b"x"]).unwrap();
}

#[test]
fn a_wiped_disk_is_empty_and_nobody_holds_anything_on_it() {
    let (disk, file) = disk_with("a", TEXT);
    let _lock = disk.lock("lock").unwrap();
    disk.set_capacity(1000);
    disk.wipe();
    assert!(file.append(&[b"x"]).is_err());
    disk.lock("lock").unwrap();
    assert_eq!((disk.files(), disk.memory()), (Vec::new(), 0));
    assert_eq!(disk.space().unwrap().total, 1000);
}

#[test]
fn a_snapshot_goes_its_own_way() {
    let (disk, file) = disk_with("a", TEXT);
    file.append(&[b"unsynced"]).unwrap();
    let copy = disk.snapshot();
    file.truncate(0).unwrap();
    assert_eq!(copy.read("a").unwrap(), [TEXT, b"unsynced"].concat());
    let mut outcomes = BTreeSet::new();
    for seed in 0..30 {
        let again = copy.snapshot();
        again.crash(seed);
        outcomes.insert(again.read("a").unwrap());
    }
    assert!(outcomes.len() > 1 && outcomes.iter().all(|found| found.starts_with(TEXT)));
}

#[test]
fn work_is_counted_until_it_is_taken() {
    let (disk, file) = disk_with("a", TEXT);
    let expected = Cost { appends: 1, written: TEXT.len() as u64, syncs: 2, changes: 1, ..Cost::default() };
    assert_eq!(disk.take_cost(), expected);
    file.read_at(0, 5).unwrap();
    assert_eq!(disk.take_cost(), Cost { reads: 1, read: 5, ..Cost::default() });
    assert_eq!(disk.take_cost(), Cost::default());
}

#[test]
fn files_that_come_and_go_leave_no_memory_behind() {
    let disk = MemDisk::new();
    for round in 0..1000_u32 {
        disk.write_atomic("checkpoint", &round.to_be_bytes()).unwrap();
        let path = format!("segment-{round}");
        disk.create(&path).unwrap().append(&[&[0; 100]]).unwrap();
        disk.remove_file(&path).unwrap();
        disk.sync_dir("").unwrap();
        assert!(disk.memory() < 500, "round {round}: {}", disk.memory());
    }
    assert_eq!(disk.space().unwrap().total - disk.space().unwrap().free, 4);
}

#[test]
fn an_observer_brings_no_fault_nearer_and_does_no_work() {
    let (disk, file) = disk_with("a", TEXT);
    let _ = disk.take_cost();
    disk.inject(Fault::Fail(Operation::Read, 1));
    assert_eq!(disk.observe(|| file.read_at(0, TEXT.len())).unwrap(), TEXT);
    assert_eq!(disk.take_cost(), Cost::default());
    assert!(file.read_at(0, TEXT.len()).is_err(), "it was still to come");
}

#[test]
fn a_directory_of_a_name_that_was_free_only_for_the_process_is_not_mixed_with_the_old_one() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let disk = MemDisk::new();
        disk.create_dir("d").unwrap();
        disk.write_atomic("d/name", b"old").unwrap();
        disk.write_atomic("d/log", b"old").unwrap();
        disk.sync_all().unwrap();
        disk.inject(Fault::LyingSync);
        disk.rename("d", "gone").unwrap();
        disk.create_dir("d").unwrap();
        disk.write_atomic("d/name", b"new").unwrap();
        disk.write_atomic("d/log", b"new").unwrap();
        disk.crash(seed);
        let read = |path: &str| disk.read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (name, log) = (read("d/name"), read("d/log"));
        assert!(!(name.as_deref() == Some("new") && log.as_deref() == Some("old")), "seed {seed}: mixed");
        outcomes.insert((name, log));
    }
    assert!(outcomes.len() > 2, "{outcomes:?}");
}
