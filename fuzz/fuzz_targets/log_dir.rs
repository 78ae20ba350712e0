//! The small files of a log directory with any content: identity, founders, clean-shutdown marker, checkpoints. Each is
//! read whole or refused; what was written is read back.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use chronik_fuzz::damage::{files, put, strike};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::MemDisk;
use chronik_log::{
    CheckpointKind, LogDir, LogError, list_partitions, parse_partition_dir, read_checkpoint, write_checkpoint,
};
use chronik_model::{BrokerEpoch, ClusterId, NodeId, Offset, TopicPartition, Uuid};
use libfuzzer_sys::fuzz_target;

const KINDS: [CheckpointKind; 3] =
    [CheckpointKind::RecoveryPoint, CheckpointKind::HighWatermark, CheckpointKind::LogStart];

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let disk = MemDisk::new();
    let open = || LogDir::new(Arc::new(disk.clone()));
    let cluster = ClusterId::from("cluster");
    let claimed = open().claim(&cluster, NodeId(3), Uuid::from_u128(u.arbitrary()?)).expect("an empty disk is claimed");
    let founders: Vec<NodeId> = (0..u.int_in_range(1..=5)?).map(|number| NodeId(number * number * 7 + 1)).collect();
    open().write_founders(&founders).expect("founders are written");
    assert_eq!(open().founders().ok().as_ref(), Some(&founders));
    let mut offsets = BTreeMap::new();
    for partition in 0..u.int_in_range(0..=5)? {
        let offset = Offset(u.int_in_range(0..=i64::MAX)?);
        offsets.insert(TopicPartition::new("topic", partition), offset);
    }
    for kind in KINDS {
        write_checkpoint(&open(), kind, &offsets).expect("a checkpoint is written");
        assert_eq!(read_checkpoint(&open(), kind).ok().as_ref(), Some(&offsets));
    }
    let epoch = BrokerEpoch(u.arbitrary()?);
    open().write_clean_shutdown(epoch).expect("a marker is written");
    let mut wounds = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        wounds.extend(strike(&disk, u)?);
    }
    // Chosen bytes may carry a right checksum: then they are believed.
    let forged = u.ratio(1, 3)?;
    if forged {
        let all = files(&disk);
        if !all.is_empty() {
            put(&disk, &u.choose(&all)?.clone(), u.bytes(u.len())?);
        }
    }
    for name in files(&disk) {
        let _ = parse_partition_dir(&name);
    }
    match open().identity() {
        Ok(Some(found)) => assert!(forged || found == claimed, "an identity was invented: {wounds:?}"),
        Ok(None) | Err(LogError::Corrupt { .. }) => {}
        Err(error) => panic!("a damaged identity gives {error}"),
    }
    match open().founders() {
        // A missing file is that of a joiner.
        Ok(found) => {
            assert!(forged || found == founders || found.is_empty(), "founders {found:?} were invented: {wounds:?}");
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]) && found.iter().all(|id| id.0 > 0));
        }
        Err(LogError::Corrupt { .. }) => {}
        Err(error) => panic!("damaged founders give {error}"),
    }
    for kind in KINDS {
        match read_checkpoint(&open(), kind) {
            // A missing file is no checkpoint.
            Ok(found) => {
                assert!(forged || found == offsets || found.is_empty(), "{kind:?} gives {found:?}: {wounds:?}")
            }
            Err(LogError::Corrupt { .. }) => {}
            Err(error) => panic!("a damaged checkpoint gives {error}"),
        }
    }
    let found = open().take_clean_shutdown().expect("a marker can be taken");
    assert!(forged || found.is_none_or(|found| found == epoch), "a marker of {found:?} was invented: {wounds:?}");
    assert_eq!(open().take_clean_shutdown().expect("a marker can be taken"), None, "a marker was taken twice");
    list_partitions(&open()).expect("the directory lists");
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(data.len() * 16 + (4 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
