//! Offset checkpoints: one small file per kind for all partitions of a log directory, replaced atomically.
//!
//! The server writes them from time to time and at shut-down: recovery points, high watermarks, log start offsets.
//! A checkpoint may be old, never torn. A missing or corrupt one costs a longer recovery, not data: the reader is told.

use std::collections::BTreeMap;
use std::io;

use chronik_model::{Offset, PartitionIndex, TopicPartition};

use crate::error::LogError;
use crate::log_dir::LogDir;
use crate::sealed::{seal, unseal};

const MAGIC: [u8; 4] = *b"ChOC";

/// Which offsets a checkpoint holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CheckpointKind {
    /// Everything below is durable.
    RecoveryPoint,
    /// High watermarks.
    HighWatermark,
    /// Log start offsets that are not at the beginning of a segment.
    LogStart,
}

impl CheckpointKind {
    /// The file, relative to the log directory.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::RecoveryPoint => "recovery-point-offset-checkpoint",
            Self::HighWatermark => "replication-offset-checkpoint",
            Self::LogStart => "log-start-offset-checkpoint",
        }
    }
}

/// Replaces the checkpoint, durably.
///
/// # Errors
/// The directory goes offline.
pub fn write_checkpoint(
    log_dir: &LogDir,
    kind: CheckpointKind,
    offsets: &BTreeMap<TopicPartition, Offset>,
) -> Result<(), LogError> {
    log_dir.check()?;
    let mut text = String::with_capacity(offsets.len() * 32);
    for (tp, offset) in offsets {
        text.push_str(&format!("{} {} {offset}\n", tp.topic, tp.partition));
    }
    let path = kind.file_name();
    log_dir.disk().write_atomic(path, &seal(MAGIC, 1, text.as_bytes())).map_err(log_dir.fatal("write", path))
}

/// Reads the checkpoint; empty when there is none yet.
///
/// # Errors
/// [`LogError::Corrupt`]: the caller goes on with an empty map after saying so, since every use of these offsets is
/// safe, only slower, without them.
pub fn read_checkpoint(log_dir: &LogDir, kind: CheckpointKind) -> Result<BTreeMap<TopicPartition, Offset>, LogError> {
    let path = kind.file_name();
    let sealed = match log_dir.disk().read(path) {
        Ok(sealed) => sealed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(LogError::io("read", path)(error)),
    };
    let corrupt = |reason: &str| LogError::Corrupt { path: path.to_owned(), reason: reason.to_owned() };
    let content = unseal(MAGIC, 1, &sealed).map_err(corrupt)?;
    let text = std::str::from_utf8(content).map_err(|_| corrupt("not text"))?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let topic = words.next()?;
        let partition = words.next()?.parse().ok()?;
        let offset = words.next()?.parse().ok()?;
        Some((TopicPartition::new(topic, PartitionIndex(partition)), Offset(offset)))
    };
    text.lines().map(|text| line(text).ok_or_else(|| corrupt("a line is malformed"))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::MemDisk;

    #[test]
    fn a_checkpoint_is_the_old_one_or_the_new_one_after_any_crash() {
        let tp = TopicPartition::new("topic", 3);
        let old = BTreeMap::from([(tp.clone(), Offset(10))]);
        let new = BTreeMap::from([(tp, Offset(20)), (TopicPartition::new("other", 0), Offset(1))]);
        for seed in 0..50 {
            let disk = MemDisk::new();
            let dir = LogDir::new(Arc::new(disk.clone()));
            let kind = CheckpointKind::RecoveryPoint;
            assert!(read_checkpoint(&dir, kind).unwrap().is_empty());
            write_checkpoint(&dir, kind, &old).unwrap();
            disk.crash(seed);
            assert_eq!(read_checkpoint(&dir, kind).unwrap(), old, "seed {seed}");
            write_checkpoint(&dir, kind, &new).unwrap();
            disk.crash(seed);
            assert_eq!(read_checkpoint(&dir, kind).unwrap(), new, "seed {seed}");
            disk.flip_bit(kind.file_name(), 12, 0).unwrap();
            assert!(matches!(read_checkpoint(&dir, kind), Err(LogError::Corrupt { .. })));
        }
    }
}
