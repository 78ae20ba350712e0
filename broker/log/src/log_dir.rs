//! One log directory: its disk, whose it is, and whether it can still be trusted.
//!
//! Start-up order: [`LogDir::lock`], [`LogDir::claim`], [`LogDir::take_clean_shutdown`] (which deletes the marker
//! before any log is loaded), then the logs. Shut-down order: close every log, write the checkpoints,
//! [`LogDir::write_clean_shutdown`] last.
//!
//! The first failed write or sync takes the directory offline until the process restarts: after a failed fsync the
//! kernel forgets what was not written, so nothing later may be acknowledged. Reads go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chronik_model::{BrokerEpoch, ClusterId, DirectoryId, NodeId, mutant};
use parking_lot::Mutex;

use crate::disk::{Disk, DiskLock};
use crate::error::LogError;
use crate::sealed::{seal, unseal};

const IDENTITY_FILE: &str = "meta.properties";
const LOCK_FILE: &str = ".lock";
pub(crate) const CLEAN_SHUTDOWN_FILE: &str = "clean-shutdown";
const CLEAN_SHUTDOWN_MAGIC: [u8; 4] = *b"ChCS";

/// Whether a log directory takes writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogDirState {
    /// It does.
    Online,
    /// It does not, until the process restarts.
    Offline {
        /// The error that made it so.
        reason: String,
    },
}

/// Whose directory it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The broker.
    pub node_id: NodeId,
    /// The directory itself; a replaced, empty disk gets another.
    pub directory_id: DirectoryId,
}

/// A log directory; shared by all logs in it.
#[derive(Debug)]
pub struct LogDir {
    disk: Arc<dyn Disk>,
    offline: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl LogDir {
    /// The directory that `disk` is rooted at.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { disk, offline: AtomicBool::new(false), reason: Mutex::new(None) })
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn state(&self) -> LogDirState {
        match &*self.reason.lock() {
            None => LogDirState::Online,
            Some(reason) => LogDirState::Offline { reason: reason.clone() },
        }
    }

    /// Fails when the directory is offline.
    ///
    /// # Errors
    /// [`LogError::Offline`] with the reason.
    pub fn check(&self) -> Result<(), LogError> {
        if !self.offline.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(LogError::Offline(self.reason.lock().clone().unwrap_or_default()))
    }

    /// Takes the directory offline because `operation` on `path` failed; the first reason is kept.
    pub fn fail(&self, operation: &'static str, path: &str, source: io::Error) -> LogError {
        let error = LogError::Io { operation, path: path.to_owned(), source };
        let mut reason = self.reason.lock();
        if reason.is_none() && !mutant!(AppendAfterError) {
            tracing::error!(%error, "log directory goes offline");
            *reason = Some(error.to_string());
            self.offline.store(true, Ordering::Release);
        }
        error
    }

    /// For `map_err` on writes and syncs.
    pub(crate) fn fatal<'a>(&'a self, operation: &'static str, path: &'a str) -> impl FnOnce(io::Error) -> LogError {
        move |source| self.fail(operation, path, source)
    }

    /// Makes sure that no other process uses the directory while the lock lives.
    ///
    /// # Errors
    /// [`LogError::Locked`], naming the process if it is known.
    pub fn lock(&self) -> Result<DiskLock, LogError> {
        Ok(self.disk.lock(LOCK_FILE)?)
    }

    /// The identity stored in the directory, if it was claimed before.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the file cannot be understood: never taken for "no identity".
    pub fn identity(&self) -> Result<Option<Identity>, LogError> {
        let content = match self.disk.read(IDENTITY_FILE) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io("read", IDENTITY_FILE)(error)),
        };
        parse_identity(&content).map(Some)
    }

    /// Reads the identity and refuses a directory of another cluster or broker; an unclaimed directory is claimed
    /// with `fresh` as its id.
    ///
    /// # Errors
    /// [`LogError::WrongIdentity`]: nothing is changed then.
    pub fn claim(&self, cluster_id: &ClusterId, node_id: NodeId, fresh: DirectoryId) -> Result<Identity, LogError> {
        if let Some(found) = self.identity()? {
            if found.cluster_id != *cluster_id || found.node_id != node_id {
                return Err(LogError::WrongIdentity {
                    path: IDENTITY_FILE.to_owned(),
                    found: format!("node {} of cluster {}", found.node_id, found.cluster_id),
                    expected: format!("node {node_id} of cluster {cluster_id}"),
                });
            }
            return Ok(found);
        }
        let identity = Identity { cluster_id: cluster_id.clone(), node_id, directory_id: fresh };
        let text = identity_text(&identity);
        self.disk.write_atomic(IDENTITY_FILE, text.as_bytes()).map_err(self.fatal("write", IDENTITY_FILE))?;
        Ok(identity)
    }

    /// Writes that this run of the broker ended in order. The last act before the process ends.
    ///
    /// # Errors
    /// An offline directory: it did not end in order.
    pub fn write_clean_shutdown(&self, epoch: BrokerEpoch) -> Result<(), LogError> {
        self.check()?;
        let content = seal(CLEAN_SHUTDOWN_MAGIC, 1, &epoch.0.to_be_bytes());
        self.disk.write_atomic(CLEAN_SHUTDOWN_FILE, &content).map_err(self.fatal("write", CLEAN_SHUTDOWN_FILE))
    }

    /// The broker epoch of the last run if it ended in order. Deletes the marker, durably, so that a crash while
    /// loading is not taken for a clean end (KAFKA-10471).
    ///
    /// # Errors
    /// The marker cannot be read or removed.
    pub fn take_clean_shutdown(&self) -> Result<Option<BrokerEpoch>, LogError> {
        let content = match self.disk.read(CLEAN_SHUTDOWN_FILE) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The last run may have died between the removal and its sync: the marker must not come back.
                self.disk.sync_dir("").map_err(self.fatal("sync directory", CLEAN_SHUTDOWN_FILE))?;
                return Ok(None);
            }
            Err(error) => return Err(LogError::io("read", CLEAN_SHUTDOWN_FILE)(error)),
        };
        if !mutant!(KeepCleanMarker) && !mutant!(MarkerGoesLast) {
            self.disk.remove_file(CLEAN_SHUTDOWN_FILE).map_err(self.fatal("remove", CLEAN_SHUTDOWN_FILE))?;
        }
        self.disk.sync_dir("").map_err(self.fatal("sync directory", CLEAN_SHUTDOWN_FILE))?;
        let epoch = unseal(CLEAN_SHUTDOWN_MAGIC, 1, &content).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(epoch.map(|bytes| BrokerEpoch(i64::from_be_bytes(bytes))))
    }
}

fn identity_text(identity: &Identity) -> String {
    let body = format!(
        "version=1\ncluster.id={}\nnode.id={}\ndirectory.id={}\n",
        identity.cluster_id, identity.node_id, identity.directory_id
    );
    format!("{body}crc={:08x}\n", checksum(&body))
}

fn checksum(body: &str) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, body.as_bytes()) as u32
}

fn parse_identity(content: &[u8]) -> Result<Identity, LogError> {
    let corrupt = |reason: &str| LogError::Corrupt { path: IDENTITY_FILE.to_owned(), reason: reason.to_owned() };
    let text = std::str::from_utf8(content).map_err(|_| corrupt("not text"))?;
    let (body, crc) =
        text.strip_suffix('\n').and_then(|text| text.rsplit_once("crc=")).ok_or_else(|| corrupt("no checksum line"))?;
    if u32::from_str_radix(crc, 16) != Ok(checksum(body)) {
        return Err(corrupt("checksum mismatch"));
    }
    let value = |key: &str| {
        let mut lines = body.lines().filter_map(|line| line.split_once('='));
        lines.find(|(found, _)| *found == key).map(|(_, value)| value).ok_or_else(|| corrupt("a key is missing"))
    };
    if value("version")? != "1" {
        return Err(corrupt("of a version that this release does not know"));
    }
    Ok(Identity {
        cluster_id: ClusterId::from(value("cluster.id")?),
        node_id: NodeId(value("node.id")?.parse().map_err(|_| corrupt("node.id is not a number"))?),
        directory_id: value("directory.id")?.parse().map_err(|_| corrupt("directory.id is not an id"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, MemDisk, Operation};

    fn dir(disk: &MemDisk) -> Arc<LogDir> {
        LogDir::new(Arc::new(disk.clone()))
    }

    #[test]
    fn a_claimed_directory_is_kept_by_its_owner_and_refused_to_others_even_after_a_crash() {
        let disk = MemDisk::new();
        let cluster = ClusterId::from("one");
        let claimed = dir(&disk).claim(&cluster, NodeId(1), DirectoryId::from_u128(7)).unwrap();
        disk.crash(0);
        assert_eq!(dir(&disk).claim(&cluster, NodeId(1), DirectoryId::from_u128(8)).unwrap(), claimed);
        for (cluster, node) in [("two", 1), ("one", 2)] {
            let refused = dir(&disk).claim(&ClusterId::from(cluster), NodeId(node), DirectoryId::from_u128(9));
            assert!(matches!(refused, Err(LogError::WrongIdentity { .. })));
        }
        disk.flip_bit(IDENTITY_FILE, 20, 1).unwrap();
        assert!(matches!(dir(&disk).identity(), Err(LogError::Corrupt { .. })));
    }

    #[test]
    fn the_clean_shutdown_marker_is_taken_once() {
        for seed in 0..20 {
            let disk = MemDisk::new();
            assert_eq!(dir(&disk).take_clean_shutdown().unwrap(), None);
            dir(&disk).write_clean_shutdown(BrokerEpoch(42)).unwrap();
            disk.crash(seed);
            assert_eq!(dir(&disk).take_clean_shutdown().unwrap(), Some(BrokerEpoch(42)));
            disk.crash(seed);
            assert_eq!(dir(&disk).take_clean_shutdown().unwrap(), None, "seed {seed}");
        }
    }

    #[test]
    fn a_marker_whose_removal_was_cut_short_does_not_come_back() {
        for seed in 0..20 {
            let disk = MemDisk::new();
            dir(&disk).write_clean_shutdown(BrokerEpoch(42)).unwrap();
            disk.inject(Fault::Fail(Operation::SyncDir, 1));
            assert!(dir(&disk).take_clean_shutdown().is_err());
            disk.kill();
            assert_eq!(dir(&disk).take_clean_shutdown().unwrap(), None);
            disk.crash(seed);
            assert_eq!(dir(&disk).take_clean_shutdown().unwrap(), None, "seed {seed}");
        }
    }

    #[test]
    fn a_second_process_is_told_who_holds_the_lock() {
        let disk = MemDisk::new();
        let lock = dir(&disk).lock().unwrap();
        let refused = dir(&disk).lock().unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(lock);
        dir(&disk).lock().unwrap();
    }

    #[test]
    fn an_offline_directory_never_says_that_it_ended_in_order() {
        let disk = MemDisk::new();
        let dir = dir(&disk);
        disk.inject(Fault::Fail(Operation::Sync, 1));
        assert!(dir.write_clean_shutdown(BrokerEpoch(1)).is_err());
        assert!(matches!(dir.write_clean_shutdown(BrokerEpoch(1)), Err(LogError::Offline(_))));
        assert!(matches!(dir.state(), LogDirState::Offline { .. }));
        assert_eq!(dir.take_clean_shutdown().unwrap(), None);
    }
}
