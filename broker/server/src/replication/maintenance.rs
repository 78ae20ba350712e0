//! What happens by the clock: ticks of leaders, checkpoints, retention; the committer's thread; the end.
//!
//! One task and, with durable acks, one thread, both started once by [`ReplicaManager::start`]. Disk work of the task
//! runs on the blocking pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chronik_log::{CheckpointKind, Committer, LogError, write_checkpoint};
use chronik_model::{Offset, TopicPartition};
use tokio::time::{Instant, MissedTickBehavior};

use super::partition::Partition;
use super::{ReplicaManager, mono_ms, wall_ms};

const TICK: Duration = Duration::from_secs(1);

type Offsets = BTreeMap<TopicPartition, Offset>;

/// The checkpoints as they are on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    high_watermark: Offsets,
    recovery_point: Offsets,
    log_start: Offsets,
}

impl ReplicaManager {
    /// Starts the periodic work; call it once.
    ///
    /// # Errors
    /// The committer's thread cannot be started.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        if let Some(committer) = &self.committer {
            let (manager, committer) = (Arc::downgrade(self), Arc::clone(committer));
            let work = Arc::clone(&self.committer_work);
            std::thread::Builder::new().name("committer".to_owned()).spawn(move || {
                loop {
                    {
                        let mut pending = work.0.lock();
                        while !*pending {
                            work.1.wait(&mut pending);
                        }
                        *pending = false;
                    }
                    let Some(manager) = manager.upgrade() else { return };
                    commit(&manager, &committer);
                    if *manager.stop.borrow() {
                        return;
                    }
                }
            })?;
        }
        self.runtime.spawn(Arc::clone(self).periodic());
        Ok(())
    }

    async fn periodic(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut next_checkpoint, mut next_retention) =
            (Instant::now() + self.config.checkpoint_interval, Instant::now() + self.config.retention_interval);
        let mut written = Written::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.tick();
            let now = Instant::now();
            let (checkpoint, retention) = (now >= next_checkpoint, now >= next_retention);
            if !checkpoint && !retention {
                continue;
            }
            let manager = Arc::clone(&self);
            let last = written.clone();
            let done = tokio::task::spawn_blocking(move || {
                if retention {
                    manager.retain();
                }
                manager.sync_sealed()?;
                manager.write_checkpoints(&last)
            });
            match done.await {
                Ok(Ok(now_written)) => written = now_written,
                // The directory is offline and said so itself.
                Ok(Err(error)) => tracing::debug!(%error, "checkpoints not written"),
                Err(error) => tracing::error!(%error, "maintenance failed"),
            }
            if checkpoint {
                next_checkpoint = Instant::now() + self.config.checkpoint_interval;
            }
            if retention {
                next_retention = Instant::now() + self.config.retention_interval;
            }
        }
    }

    fn tick(self: &Arc<Self>) {
        let offline = self.offline_reason().is_some();
        for partition in self.partitions() {
            let mut out = Vec::new();
            if offline {
                partition.fence(&mut out);
            } else {
                partition.tick(&mut out);
            }
            if !out.is_empty() {
                self.deliver(&partition, out);
            }
        }
    }

    /// Deletes what the retention settings do not keep.
    fn retain(self: &Arc<Self>) {
        for partition in self.partitions() {
            let mut out = Vec::new();
            partition.retain(&mut out);
            self.deliver(&partition, out);
        }
    }

    /// Makes logs durable that began a new segment since the last time, so that recovery after a crash scans little more
    /// than the last one.
    fn sync_sealed(self: &Arc<Self>) -> Result<(), LogError> {
        for partition in self.partitions() {
            let plan = {
                let mut inner = partition.inner.lock();
                let segments = inner.log.segment_count();
                if std::mem::replace(&mut inner.flushed_segments, segments) >= segments {
                    continue;
                }
                inner.log.prepare_flush()
            };
            if let Some(plan) = plan {
                plan.run()?;
                partition.on_flushed(&plan);
            }
        }
        Ok(())
    }

    /// Writes those checkpoints that differ from `last`.
    fn write_checkpoints(&self, last: &Written) -> Result<Written, LogError> {
        let mut now = Written::default();
        for partition in self.partitions() {
            let inner = partition.inner.lock();
            now.high_watermark.insert(partition.tp.clone(), inner.replica.high_watermark());
            now.recovery_point.insert(partition.tp.clone(), inner.log.recovery_point());
            now.log_start.insert(partition.tp.clone(), inner.log.log_start());
        }
        let write = |kind, now: &Offsets, last: &Offsets| {
            if now == last { Ok(()) } else { write_checkpoint(&self.log_dir, kind, now) }
        };
        write(CheckpointKind::RecoveryPoint, &now.recovery_point, &last.recovery_point)?;
        write(CheckpointKind::LogStart, &now.log_start, &last.log_start)?;
        write(CheckpointKind::HighWatermark, &now.high_watermark, &last.high_watermark)?;
        Ok(now)
    }

    /// Ends the data plane in order: no more appends, every log durable, checkpoints written. Blocks on the disk.
    ///
    /// # Errors
    /// The disk failed: the shutdown is not clean, and the marker must not be written.
    pub fn shutdown(&self) -> Result<(), LogError> {
        self.stop.send_replace(true);
        *self.committer_work.0.lock() = true;
        self.committer_work.1.notify_all();
        for partition in self.partitions() {
            let mut inner = partition.inner.lock();
            // A fetcher or a group may be about to append still: the marker would vouch for what was never synced.
            let effects = inner.replica.fence_after_io_error();
            partition.run(&mut inner, effects, mono_ms(), &mut Vec::new());
            inner.log.settle()?;
        }
        self.write_checkpoints(&Written::default())?;
        Ok(())
    }
}

/// One round of the committer, and the acknowledgements that it releases.
fn commit(manager: &Arc<ReplicaManager>, committer: &Committer) {
    match committer.run_once() {
        Ok(done) => {
            for committed in done {
                if let Some(partition) = manager.partition(&committed.partition) {
                    partition.on_flushed(&committed.plan);
                }
            }
        }
        Err(error) => {
            tracing::error!(%error, "sync failed: nothing more is acknowledged");
            manager.tick();
        }
    }
}

/// Syncs the appends of followers before they are acknowledged by the next fetch.
pub(super) async fn synced(committer: &Arc<Committer>, manager: &Arc<ReplicaManager>, partitions: &[Arc<Partition>]) {
    // The thread may be in a round that began before these appends; a round of our own covers them for certain, and
    // takes what else has gathered with it.
    let (committer, manager) = (Arc::clone(committer), Arc::clone(manager));
    let partitions = partitions.to_vec();
    let done = tokio::task::spawn_blocking(move || {
        commit(&manager, &committer);
        for partition in partitions {
            if !partition.is_synced() && manager.offline_reason().is_none() {
                partition.sync_now();
            }
        }
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "sync of replicated records failed");
    }
}

impl Partition {
    fn retain(&self, out: &mut Vec<super::partition::Outgoing>) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.replica.is_io_fenced() {
            return;
        }
        inner.log.expire_producers(wall_ms());
        if !inner.deletes_old || !inner.replica.is_leader() {
            return;
        }
        match inner.log.apply_retention(wall_ms(), inner.replica.high_watermark()) {
            Ok(report) => {
                let effects = inner.replica.on_log_start(inner.log.log_start());
                self.run(inner, effects.into_iter().collect(), mono_ms(), out);
                self.publish(inner);
                if report.segments > 0 {
                    tracing::info!(partition = %self.tp, segments = report.segments, bytes = report.bytes, "retention");
                }
            }
            Err(error) => self.after_error(inner, &error, out),
        }
    }
}
