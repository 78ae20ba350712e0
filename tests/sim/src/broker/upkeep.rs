//! What happens by the clock, and the committer: ticks of leaders, checkpoints, retention, syncs, the end of the logs. The
//! twin of the server's `replication/maintenance`.

use chronik_log::{LogDirState, LogError};
use chronik_node::storage::Checkpoints;

use super::alarms::Alarm;
use super::{Broker, Key};
use crate::kernel::Ctx;

const TICK_MS: u64 = 1_000;

impl Broker {
    pub(super) fn begin_upkeep(&mut self) {
        self.replicas.next_checkpoint_ms = self.after(self.config.checkpoint_interval_ms);
        self.replicas.next_retention_ms = self.after(self.config.retention_interval_ms);
        self.alarms.set(self.now.mono_ms, Alarm::Maintenance);
    }

    fn is_offline(&self) -> bool {
        matches!(self.replicas.log_dir().state(), LogDirState::Offline { .. })
    }

    /// Once a second.
    pub(super) fn maintain(&mut self, ctx: &mut Ctx<'_>) {
        self.tick_partitions(ctx);
        let now_ms = self.now.mono_ms;
        let (checkpoint, retention) =
            (now_ms >= self.replicas.next_checkpoint_ms, now_ms >= self.replicas.next_retention_ms);
        if checkpoint || retention {
            if retention {
                self.retain(ctx);
            }
            // When this fails the directory is offline, and the next tick says so.
            if let Err(error) = self.sync_sealed().and_then(|()| self.write_checkpoints()) {
                ctx.note(|| format!("checkpoints not written: {error}"));
            }
            if checkpoint {
                self.replicas.next_checkpoint_ms = self.after(self.config.checkpoint_interval_ms);
            }
            if retention {
                self.replicas.next_retention_ms = self.after(self.config.retention_interval_ms);
            }
        }
        self.alarms.set(self.after(TICK_MS), Alarm::Maintenance);
    }

    fn tick_partitions(&mut self, ctx: &mut Ctx<'_>) {
        let (offline, now_ms) = (self.is_offline(), self.now.mono_ms);
        for key in self.replicas.keys() {
            let Some(partition) = self.replicas.by_id.get_mut(&key) else { continue };
            let mut out = Vec::new();
            if offline {
                partition.fence(&mut out);
            } else {
                partition.tick(now_ms, &mut out);
            }
            if !out.is_empty() {
                self.deliver(ctx, key, out);
            }
        }
    }

    fn retain(&mut self, ctx: &mut Ctx<'_>) {
        for key in self.replicas.keys() {
            let Some(partition) = self.replicas.by_id.get_mut(&key) else { continue };
            let mut out = Vec::new();
            partition.retain(self.now, &mut out);
            self.deliver(ctx, key, out);
        }
    }

    /// Makes logs durable that began a new segment since the last time.
    fn sync_sealed(&mut self) -> Result<(), LogError> {
        for partition in self.replicas.by_id.values_mut() {
            if let Some(plan) = partition.flush_if_rolled() {
                plan.run()?;
                partition.on_flushed(&plan);
            }
        }
        Ok(())
    }

    fn write_checkpoints(&mut self) -> Result<(), LogError> {
        let mut now = Checkpoints::default();
        for partition in self.replicas.by_id.values() {
            now.note(partition);
        }
        now.write(&self.replicas.written, self.replicas.log_dir())?;
        self.replicas.written = now;
        Ok(())
    }

    /// The end of the logs: no more appends, everything durable, checkpoints written.
    pub(super) fn settle_logs(&mut self) -> Result<(), LogError> {
        for partition in self.replicas.by_id.values_mut() {
            partition.settle()?;
        }
        self.replicas.written = Checkpoints::default();
        self.write_checkpoints()
    }

    /// With durable acks: takes down what has to be synced before it is acknowledged.
    pub(super) fn may_have_appended(&mut self, key: Key) {
        let Some(committer) = &self.replicas.committer else { return };
        let Some(partition) = self.replicas.by_id.get_mut(&key) else { return };
        if let Some(plan) = partition.take_flush() {
            committer.register(partition.tp().clone(), plan);
            self.replicas.flush_due = true;
        }
    }

    /// Syncs what is registered, or sees to it that it is done soon; then pulls what fetchers may ask for. True when that
    /// was something.
    pub(super) fn flush_and_pull(&mut self, ctx: &mut Ctx<'_>) -> bool {
        if self.replicas.flush_due && !self.replicas.flush_alarm {
            if self.config.flush_delay_ms == 0 {
                self.commit(ctx);
                return true;
            }
            self.replicas.flush_alarm = true;
            let at = self.after(self.config.flush_delay_ms);
            self.alarms.set(at, Alarm::Flush);
        }
        self.pull_all(ctx)
    }

    /// One round of the committer, and the acknowledgements that it releases.
    pub(super) fn commit(&mut self, ctx: &mut Ctx<'_>) {
        self.replicas.flush_due = false;
        self.replicas.flush_alarm = false;
        let Some(committer) = &self.replicas.committer else { return };
        match committer.run_once() {
            Ok(done) => {
                for committed in done {
                    let Some(key) = self.replicas.by_name.get(&committed.partition).copied() else { continue };
                    if let Some(partition) = self.replicas.by_id.get_mut(&key) {
                        partition.on_flushed(&committed.plan);
                        if partition.following().is_some() {
                            self.wants_to_pull(key);
                        }
                    }
                }
            }
            Err(error) => {
                ctx.note(|| format!("sync failed: nothing more is acknowledged: {error}"));
                self.tick_partitions(ctx);
            }
        }
    }
}
