//! Group commit: many partitions made durable together, for `flush: every-ack`.
//!
//! Appenders register the [`FlushPlan`] of their log, under the partition lock or after it; one thread of the server
//! calls [`Committer::run_once`] whenever there is work, and tells each partition how far it is durable. What was
//! registered before the call is covered by it. A plan of a partition replaces its earlier one, since a plan always
//! reaches from the recovery point to the log end. A failed sync takes the directory offline and completes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_model::TopicPartition;
use parking_lot::Mutex;

use crate::error::LogError;
use crate::log_dir::LogDir;
use crate::partition_log::FlushPlan;

/// From this many files on, one sync of the filesystem before theirs makes theirs cheap.
const SYNC_ALL_FROM: usize = 8;

/// A partition that became durable further; hand the plan to
/// [`PartitionLog::complete_flush`](crate::PartitionLog::complete_flush).
#[derive(Debug, Clone)]
pub struct Committed {
    /// The partition.
    pub partition: TopicPartition,
    /// What was synced; [`FlushPlan::up_to`] is the offset.
    pub plan: FlushPlan,
}

/// Gathers what is dirty in one log directory and syncs it together.
#[derive(Debug)]
pub struct Committer {
    log_dir: Arc<LogDir>,
    dirty: Mutex<BTreeMap<TopicPartition, FlushPlan>>,
}

impl Committer {
    /// A committer of the logs in `log_dir`.
    #[must_use]
    pub fn new(log_dir: Arc<LogDir>) -> Self {
        Self { log_dir, dirty: Mutex::default() }
    }

    /// Adds a partition to the next round. True if there was nothing to do before: then wake the thread.
    pub fn register(&self, partition: TopicPartition, plan: FlushPlan) -> bool {
        let mut dirty = self.dirty.lock();
        let idle = dirty.is_empty();
        dirty.insert(partition, plan);
        idle
    }

    /// Forgets a partition that was deleted.
    pub fn forget(&self, partition: &TopicPartition) {
        self.dirty.lock().remove(partition);
    }

    /// Whether a round has something to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.dirty.lock().is_empty()
    }

    /// Syncs everything registered so far and returns what became durable.
    ///
    /// # Errors
    /// The first failed sync: nothing of this round may be acknowledged, and the directory is offline.
    pub fn run_once(&self) -> Result<Vec<Committed>, LogError> {
        let round = std::mem::take(&mut *self.dirty.lock());
        if round.is_empty() {
            return Ok(Vec::new());
        }
        self.log_dir.check()?;
        let files: usize = round.values().map(FlushPlan::syncs).sum();
        if files >= SYNC_ALL_FROM {
            // One transaction for all of them. Its success says nothing: on a filesystem that was shut down underneath,
            // kernels answer it without having written anything. What counts is the word about each file.
            self.log_dir.disk().sync_all().map_err(self.log_dir.fatal("sync", "filesystem"))?;
        }
        for plan in round.values() {
            plan.run()?;
        }
        Ok(round.into_iter().map(|(partition, plan)| Committed { partition, plan }).collect())
    }
}
