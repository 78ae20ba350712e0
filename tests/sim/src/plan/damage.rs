//! Damage to files of a disk whose process is down.

use chronik_log::disk::{MemDisk, SplitMix64};

use super::{Damage, Target};

/// Damages one file of the kind, chosen by the seed. What was done, or nothing when there is no such file.
pub(super) fn spoil(disk: &MemDisk, target: Target, damage: Damage, seed: u64) -> Option<String> {
    let mut random = SplitMix64::new(seed);
    let wanted = |path: &str| match target {
        // Damage to the marks only makes them say less, and would be none.
        Target::Raft => path.starts_with("raft/") && path != "raft/synced",
        Target::Partition => !path.starts_with("raft/") && path.ends_with(".log"),
    };
    let files: Vec<(String, u64)> = disk.files().into_iter().filter(|(path, len)| *len > 0 && wanted(path)).collect();
    let (path, len) = files.get(random.below(files.len() as u64) as usize)?;
    let at = random.below(*len);
    let (done, result) = match damage {
        Damage::Flip => {
            let bit = random.below(8) as u8;
            (format!("{path}: bit {bit} of byte {at} of {len} flips"), disk.flip_bit(path, at, bit))
        }
        Damage::LoseEnd => (format!("{path}: {len} bytes become {at}"), disk.lose_end(path, at)),
    };
    result.ok().map(|()| done)
}
