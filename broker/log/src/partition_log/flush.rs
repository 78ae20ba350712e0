//! Making the log durable, with the syncs outside the partition lock.
//!
//! Under the lock [`PartitionLog::prepare_flush`] lists the files; outside it [`FlushPlan::run`] (or a
//! [`Committer`](crate::Committer)) syncs them; under the lock again [`PartitionLog::complete_flush`] moves the recovery
//! point. A truncation in between makes the plan void.
//!
//! The recovery point that the server keeps in its checkpoint can be newer than a truncation. So every truncation first
//! writes a limit next to the log, which recovery obeys, until the log is durable up to the old point again. Recovery
//! that finds a limit also syncs first: the truncation may have been seen by this run without being durable.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chronik_model::{Offset, mutant};

use super::PartitionLog;
use crate::disk::{FileRef, parent};
use crate::error::LogError;
use crate::log_dir::LogDir;
use crate::sealed::{seal, unseal};
use crate::segment::segment_path;

const LIMIT_FILE: &str = "recovery-point-limit";
const LIMIT_MAGIC: [u8; 4] = *b"ChRL";

#[derive(Debug, Default)]
pub(super) struct FlushState {
    /// Which log a plan was made for: another of the same name may stand in its place by the time it ran. True once its
    /// files are being removed.
    retired: Arc<AtomicBool>,
    pub(super) recovery_point: Offset,
    /// Grows with every truncation.
    pub(super) generation: u64,
    names: u64,
    names_synced: u64,
    /// The limit in force and the offset from which on it is not needed.
    limit: Option<(Offset, Offset)>,
}

impl FlushState {
    pub(super) fn names_changed(&mut self) {
        self.names += 1;
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    pub(super) fn names_dirty(&self) -> bool {
        self.names != self.names_synced
    }
}

/// What has to be synced to make a log durable up to an offset.
#[derive(Debug, Clone)]
pub struct FlushPlan {
    log_dir: Arc<LogDir>,
    dir: Arc<str>,
    files: Vec<(Offset, FileRef)>,
    names: Option<u64>,
    up_to: Offset,
    generation: u64,
    retired: Arc<AtomicBool>,
}

impl FlushPlan {
    /// The log is durable below this offset once the plan ran.
    #[must_use]
    pub fn up_to(&self) -> Offset {
        self.up_to
    }

    /// Number of syncs that running it takes.
    #[must_use]
    pub fn syncs(&self) -> usize {
        self.files.len() + usize::from(self.names.is_some())
    }

    /// Syncs. Needs no lock.
    ///
    /// # Errors
    /// A sync failed: the directory is offline and nothing more is acknowledged.
    pub fn run(&self) -> Result<(), LogError> {
        self.log_dir.check()?;
        for (base, file) in &self.files {
            if mutant!(SkipLogSync) {
                break;
            }
            let synced = file.sync();
            let synced = if mutant!(RetryFailedSync) { synced.or_else(|_| file.sync()) } else { synced };
            synced.map_err(|error| {
                let path = segment_path(&self.dir, *base, "log");
                self.log_dir.fail("sync", &path, error)
            })?;
        }
        if self.names.is_some() && !mutant!(SkipDirSync) {
            // The directory of the log may be new itself, so its ancestors are synced too.
            let mut dir = &*self.dir;
            loop {
                match self.log_dir.disk().sync_dir(dir) {
                    // Deleted meanwhile: there is nothing left to be made durable.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && self.retired.load(Ordering::Acquire) => {
                        return Ok(());
                    }
                    done => done.map_err(self.log_dir.fatal("sync directory", dir))?,
                }
                if dir.is_empty() {
                    break;
                }
                dir = parent(dir);
            }
        }
        // A filesystem that is shut down while a sync is under way may drop the write-back and still answer success
        // (ext4); it refuses reads from then on. So all of the above counts only if it is up afterwards.
        if let Some((base, file)) = self.files.last() {
            file.read_at(0, 1).map_err(|error| {
                let path = segment_path(&self.dir, *base, "log");
                self.log_dir.fail("read after the sync of", &path, error)
            })?;
        }
        Ok(())
    }
}

impl PartitionLog {
    /// The files of this log are about to be removed: nothing of it has to be made durable any more, and a sync that is
    /// under way may find them gone. To be called before the first of them goes.
    pub fn retire(&self) {
        self.flush.retired.store(true, Ordering::Release);
    }

    /// What has to be synced to make the whole log durable; `None` when it is.
    #[must_use]
    pub fn prepare_flush(&self) -> Option<FlushPlan> {
        if self.flush.retired.load(Ordering::Acquire) {
            return None;
        }
        let names = self.flush.names_dirty().then_some(self.flush.names);
        let dirty = self.segments.iter().filter(|segment| segment.end > self.flush.recovery_point);
        let files: Vec<_> = dirty.map(|segment| (segment.base, Arc::clone(&segment.file))).collect();
        if files.is_empty() && names.is_none() {
            return None;
        }
        Some(FlushPlan {
            log_dir: Arc::clone(&self.log_dir),
            dir: Arc::from(self.dir.as_str()),
            files,
            names,
            up_to: self.log_end(),
            generation: self.flush.generation,
            retired: Arc::clone(&self.flush.retired),
        })
    }

    /// Moves the recovery point after a plan ran without error, and returns it.
    pub fn complete_flush(&mut self, plan: &FlushPlan) -> Offset {
        if Arc::ptr_eq(&plan.retired, &self.flush.retired) && plan.generation == self.flush.generation {
            self.flush.recovery_point = self.flush.recovery_point.max(plan.up_to);
            if let Some(names) = plan.names {
                self.flush.names_synced = self.flush.names_synced.max(names);
            }
        }
        if let Some((_, needed_to)) = self.flush.limit
            && self.flush.recovery_point >= needed_to
        {
            // If the removal fails or is lost, the next recovery only scans more.
            let _ = self.log_dir.disk().remove_file(&self.limit_path());
            self.flush.limit = None;
        }
        self.flush.recovery_point
    }

    /// Makes the log durable, inline, and returns the recovery point.
    ///
    /// # Errors
    /// As [`FlushPlan::run`].
    pub fn flush(&mut self) -> Result<Offset, LogError> {
        self.log_dir.check()?;
        match self.prepare_flush() {
            None => Ok(self.flush.recovery_point),
            Some(plan) => {
                plan.run()?;
                Ok(self.complete_flush(&plan))
            }
        }
    }

    /// Ends the log in order: everything durable, indexes and producer state written so that the next start scans
    /// nothing. Returns the recovery point for the checkpoint.
    ///
    /// # Errors
    /// As [`FlushPlan::run`].
    pub fn close(mut self) -> Result<Offset, LogError> {
        self.settle()
    }

    /// What [`PartitionLog::close`] does, for an owner that cannot give the log away.
    ///
    /// # Errors
    /// As [`FlushPlan::run`].
    pub fn settle(&mut self) -> Result<Offset, LogError> {
        self.flush()?;
        if self.flush.retired.load(Ordering::Acquire) {
            return Ok(self.flush.recovery_point);
        }
        self.active().store_index(&self.log_dir, &self.dir);
        self.store_snapshot();
        Ok(self.flush.recovery_point)
    }

    fn limit_path(&self) -> String {
        format!("{}/{LIMIT_FILE}", self.dir)
    }

    /// Lowers the recovery point to `offset`, durably, before bytes above it change. `checkpointed` is what a
    /// checkpoint may say meanwhile.
    pub(super) fn lower_recovery_point(&mut self, offset: Offset, checkpointed: Offset) -> Result<(), LogError> {
        self.flush.generation += 1;
        let old = self.flush.limit;
        let needed_to = old.map_or(checkpointed, |(_, needed_to)| needed_to.max(checkpointed));
        self.flush.recovery_point = self.flush.recovery_point.min(offset);
        if old.is_some_and(|(limit, needed)| limit <= offset && needed == needed_to) {
            return Ok(());
        }
        let limit = old.map_or(offset, |(limit, _)| limit.min(offset));
        let mut content = [0; 16];
        content[..8].copy_from_slice(&limit.0.to_be_bytes());
        content[8..].copy_from_slice(&needed_to.0.to_be_bytes());
        let path = self.limit_path();
        let sealed = seal(LIMIT_MAGIC, 1, &content);
        self.log_dir.disk().write_atomic(&path, &sealed).map_err(self.log_dir.fatal("write", &path))?;
        self.flush.limit = Some((limit, needed_to));
        Ok(())
    }

    /// Reads the limit when the log is opened. A limit that cannot be read limits to 0.
    pub(super) fn load_limit(&mut self, checkpointed: Offset) -> Result<(), LogError> {
        let path = self.limit_path();
        let read = match self.log_dir.disk().read(&path) {
            Ok(sealed) => unseal(LIMIT_MAGIC, 1, &sealed).ok().and_then(|content| {
                let (limit, needed_to) = content.split_at_checked(8)?;
                let number = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes).map(Offset);
                Some((number(limit)?, number(needed_to)?))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.flush.recovery_point = checkpointed;
                return Ok(());
            }
            Err(error) => return Err(LogError::io("read", &path)(error)),
        };
        let (limit, needed_to) = read.unwrap_or((Offset(0), checkpointed));
        self.flush.limit = Some((limit, needed_to));
        self.flush.recovery_point = checkpointed.min(limit);
        Ok(())
    }
}
