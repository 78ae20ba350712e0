//! Which leader epoch began at which offset (KIP-101): what divergence between replicas is found with.
//!
//! The partition log assigns an epoch before the first record of it is served, also when no record follows
//! (KAFKA-7415), and the file is synced each time (KAFKA-16541). Entries grow in both epoch and offset; the cache is cut
//! wherever the log is cut, at both ends.

use std::io;

use chronik_model::{LeaderEpoch, Offset, mutant};

use crate::error::LogError;
use crate::log_dir::LogDir;
use crate::sealed::{seal, unseal};

pub(crate) const FILE: &str = "leader-epoch-checkpoint";
const MAGIC: [u8; 4] = *b"ChLE";

/// The start of one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Offset of its first record.
    pub start_offset: Offset,
}

/// Largest epoch not above the one asked for, and where it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    /// The epoch found.
    pub epoch: LeaderEpoch,
    /// Offset after its last record.
    pub end_offset: Offset,
}

/// The epochs of one log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LeaderEpochs {
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    /// `None` when the file is missing or corrupt: the caller rebuilds it from the batches.
    pub(crate) fn load(log_dir: &LogDir, dir: &str) -> Result<Option<Self>, LogError> {
        let path = format!("{dir}/{FILE}");
        match log_dir.disk().read(&path) {
            Ok(sealed) => Ok(unseal(MAGIC, 1, &sealed).ok().and_then(Self::decode)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::io("read", &path)(error)),
        }
    }

    pub(crate) fn store(&self, log_dir: &LogDir, dir: &str) -> Result<(), LogError> {
        let path = format!("{dir}/{FILE}");
        let mut text = String::new();
        for entry in &self.entries {
            text.push_str(&format!("{} {}\n", entry.epoch, entry.start_offset));
        }
        let sealed = seal(MAGIC, 1, text.as_bytes());
        if mutant!(EpochsWithoutSync) {
            return log_dir.disk().write_hint(&path, &sealed).map_err(log_dir.fatal("write", &path));
        }
        log_dir.disk().write_atomic(&path, &sealed).map_err(log_dir.fatal("write", &path))
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let mut entries: Vec<EpochEntry> = Vec::new();
        for line in std::str::from_utf8(content).ok()?.lines() {
            let (epoch, offset) = line.split_once(' ')?;
            let entry =
                EpochEntry { epoch: LeaderEpoch(epoch.parse().ok()?), start_offset: Offset(offset.parse().ok()?) };
            if entries.last().is_some_and(|last| !grows(last, &entry)) {
                return None;
            }
            entries.push(entry);
        }
        Some(Self { entries })
    }

    pub(crate) fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// Notes that `epoch` begins at `start_offset`; true when that is news that must be stored. Epochs without records
    /// at the same offset are replaced.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if self.latest().is_some_and(|latest| latest >= epoch) || epoch < LeaderEpoch(0) {
            return false;
        }
        self.entries.retain(|entry| entry.start_offset < start_offset);
        self.entries.push(EpochEntry { epoch, start_offset });
        true
    }

    /// Where the largest epoch not above `asked` ends, in a log that ends at `log_end`. `None`: no such epoch.
    pub(crate) fn end_offset(&self, asked: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let after = self.entries.partition_point(|entry| entry.epoch <= asked);
        let found = self.entries.get(after.checked_sub(1)?)?;
        let end_offset = self.entries.get(after).map_or(log_end, |next| next.start_offset);
        Some(EpochEnd { epoch: found.epoch, end_offset })
    }

    /// The epoch that records at `offset` must have; `None` before the first entry.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// The log now ends at `end`: epochs that would begin there or later are gone.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start_offset < end);
        self.entries.len() != before
    }

    /// The log now begins at `start`: the epoch that holds `start` begins there.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let after = self.entries.partition_point(|entry| entry.start_offset <= start);
        let Some(holds) = after.checked_sub(1) else { return false };
        if self.entries[holds].start_offset == start && holds == 0 {
            return false;
        }
        self.entries.drain(..holds);
        self.entries[0].start_offset = start;
        true
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

fn grows(last: &EpochEntry, next: &EpochEntry) -> bool {
    last.epoch < next.epoch && last.start_offset < next.start_offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut cache = LeaderEpochs::default();
        for (epoch, offset) in entries {
            assert!(cache.assign(LeaderEpoch(*epoch), Offset(*offset)));
        }
        cache
    }

    fn end(cache: &LeaderEpochs, epoch: i32) -> Option<(i32, i64)> {
        cache.end_offset(LeaderEpoch(epoch), Offset(100)).map(|end| (end.epoch.0, end.end_offset.0))
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next_known_one() {
        let cache = cache(&[(1, 0), (3, 10), (7, 50)]);
        assert_eq!(end(&cache, 0), None);
        assert_eq!(end(&cache, 1), Some((1, 10)));
        assert_eq!(end(&cache, 5), Some((3, 50)), "the largest epoch not above the one asked for");
        assert_eq!(end(&cache, 9), Some((7, 100)), "the last epoch ends with the log");
    }

    #[test]
    fn epochs_never_go_back_and_one_without_records_gives_way() {
        let mut cache = cache(&[(1, 0), (3, 10)]);
        assert!(!cache.assign(LeaderEpoch(3), Offset(20)));
        assert!(!cache.assign(LeaderEpoch(2), Offset(20)));
        assert!(cache.assign(LeaderEpoch(4), Offset(10)));
        assert_eq!(end(&cache, 3), Some((1, 10)));
    }

    #[test]
    fn it_is_cut_with_the_log_at_both_ends() {
        let mut cache = cache(&[(1, 0), (3, 10), (7, 50)]);
        assert!(cache.truncate_from_end(Offset(50)));
        assert_eq!(cache.latest(), Some(LeaderEpoch(3)));
        assert!(cache.truncate_from_start(Offset(20)));
        assert_eq!(cache.entries(), &[EpochEntry { epoch: LeaderEpoch(3), start_offset: Offset(20) }]);
        assert!(!cache.truncate_from_start(Offset(20)));
    }
}
