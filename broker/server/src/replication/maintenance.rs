//! What happens by the clock: ticks of leaders, checkpoints, retention; the committer's thread; the end.
//!
//! One task, the thread of [`super::reaper`] and, with durable acks, one more, all started once by [`ReplicaManager::start`]. Disk work of the task
//! runs on the blocking pool.

use std::sync::Arc;
use std::time::Duration;

use chronik_log::{Committer, LogError};
use chronik_node::storage::Checkpoints;
use tokio::time::{Instant, MissedTickBehavior};

use super::ReplicaManager;
use super::partition::Partition;

const TICK: Duration = Duration::from_secs(1);

impl ReplicaManager {
    /// Starts the periodic work; call it once.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        self.reaper.start(&self.log_dir)?;
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
        let mut written = Checkpoints::default();
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
            let done = tokio::task::spawn_blocking(move || manager.maintain(retention, &last));
            match done.await {
                Ok(Ok(Some(now_written))) => written = now_written,
                Ok(Ok(None)) => return,
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

    /// One round of what is done from time to time; `None` when the shutdown has begun, which does it for the last time.
    pub(super) fn maintain(
        self: &Arc<Self>,
        retention: bool,
        last: &Checkpoints,
    ) -> Result<Option<Checkpoints>, LogError> {
        let _alone = self.maintaining.lock();
        if *self.stop.borrow() {
            return Ok(None);
        }
        if retention {
            self.retain();
        }
        self.sync_sealed()?;
        self.write_checkpoints(last).map(Some)
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
        self.partitions().iter().try_for_each(|partition| partition.sync_if_rolled())
    }

    /// Writes those checkpoints that differ from `last`.
    fn write_checkpoints(&self, last: &Checkpoints) -> Result<Checkpoints, LogError> {
        let mut now = Checkpoints::default();
        for partition in self.partitions() {
            partition.checkpoint(&mut now);
        }
        now.write(last, &self.log_dir)?;
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
        // A round that began before writes the same files, and older offsets.
        let _alone = self.maintaining.lock();
        for partition in self.partitions() {
            partition.settle()?;
        }
        self.write_checkpoints(&Checkpoints::default())?;
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
                let mut out = Vec::new();
                partition.sync_now(&mut out);
                manager.deliver(&partition, out);
            }
        }
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "sync of replicated records failed");
    }
}
