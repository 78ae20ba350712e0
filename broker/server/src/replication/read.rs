//! Reads for fetches: plan under the partition's lock, read outside of it, and wait where there is nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chronik_core::partition::waiters::{FetchPosition, FetchWaiterKey};
use chronik_core::partition::{ConsumerFetch, EpochEnd, FetchDecision, FollowerFetch};
use chronik_log::{AppendOrigin, ReadPlan};
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset};

use super::partition::{AppendOutcome, Outgoing, Partition, epoch_end};
use super::waiters::{AckWait, FetchWait};
use super::{ReplicaManager, mono_ms};

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadKind {
    /// A consumer: below the high watermark.
    Consumer(ConsumerFetch),
    /// A follower: everything; its position counts as its progress.
    Follower(FollowerFetch),
    /// A follower whose parked fetch is looked at again: its progress is known already.
    FollowerAgain(FollowerFetch),
}

/// The answer to one partition of a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FetchedPartition {
    /// Error; then only the leader fields say something.
    pub error: ErrorCode,
    /// High watermark, -1 on error.
    pub high_watermark: i64,
    /// Log start, -1 on error.
    pub log_start: i64,
    /// Where the reader's log leaves this one.
    pub diverging: Option<EpochEnd>,
    /// Whole batches, maybe none.
    pub records: Bytes,
    /// The leader as known here, for errors about leadership (KIP-951).
    pub leader: Option<(NodeId, LeaderEpoch)>,
}

impl FetchedPartition {
    /// A refusal.
    #[must_use]
    pub fn refused(error: ErrorCode) -> Self {
        Self { error, high_watermark: -1, log_start: -1, diverging: None, records: Bytes::new(), leader: None }
    }
}

/// How much may be read, and who waits if it is nothing.
pub(crate) struct ReadBudget<'a> {
    /// Bytes left for the whole answer.
    pub max_bytes: usize,
    /// Bytes for this partition.
    pub partition_bytes: usize,
    /// Whether the first batch comes even if it is larger.
    pub min_one: bool,
    /// Woken when there is more, with the deadline of the fetch. Registered only where it could help.
    pub wait: Option<(&'a Arc<FetchWait>, u64)>,
}

impl ReplicaManager {
    /// Appends a client's batches as leader; see [`Partition`].
    pub(crate) fn append(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        batches: &[Bytes],
        acks: i16,
        wait: Option<(&Arc<AckWait>, usize, u64)>,
    ) -> Result<AppendOutcome, (ErrorCode, String)> {
        let mut out = Vec::new();
        let appended = partition.append(batches, acks, AppendOrigin::Client, None, wait, &mut out);
        if !out.is_empty() {
            self.deliver(partition, out);
        }
        appended
    }

    /// Reads one partition for a fetch.
    pub(crate) fn read(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        kind: ReadKind,
        budget: &ReadBudget<'_>,
    ) -> FetchedPartition {
        let mut out = Vec::new();
        let planned = partition.plan(kind, budget, &mut out);
        if !out.is_empty() {
            self.deliver(partition, out);
        }
        let (mut fetched, plan) = planned;
        if let Some(plan) = plan.filter(|plan| !plan.is_empty()) {
            match plan.read() {
                Ok(records) => {
                    let counter = match kind {
                        ReadKind::Consumer(_) => &self.bytes_out,
                        ReadKind::Follower(_) | ReadKind::FollowerAgain(_) => &self.replicated_out,
                    };
                    counter.fetch_add(records.len() as u64, Ordering::Relaxed);
                    fetched.records = records;
                }
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    // Truncated between plan and read: the reader comes again and learns the new state.
                    tracing::debug!(partition = %partition.tp, "log was cut while it was read");
                }
                Err(error) => {
                    tracing::error!(partition = %partition.tp, %error, "read failed");
                    return FetchedPartition::refused(ErrorCode::KafkaStorageError);
                }
            }
        }
        fetched
    }
}

impl Partition {
    /// A fetch does not wait here any more.
    pub(super) fn forget_fetch(&self, key: FetchWaiterKey) {
        drop(self.inner.lock().fetches.cancel(key));
    }

    fn plan(
        self: &Arc<Self>,
        kind: ReadKind,
        budget: &ReadBudget<'_>,
        out: &mut Vec<Outgoing>,
    ) -> (FetchedPartition, Option<ReadPlan>) {
        let now = mono_ms();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let log = &inner.log;
        let decision = match kind {
            ReadKind::Consumer(fetch) => inner.replica.consumer_fetch(&fetch, |epoch| epoch_end(log, epoch)),
            ReadKind::Follower(fetch) => inner.replica.on_follower_fetch(&fetch, |epoch| epoch_end(log, epoch), now),
            ReadKind::FollowerAgain(fetch) => match inner.replica.check_leader(fetch.current_leader_epoch) {
                Err(error) => FetchDecision::Error(error),
                Ok(()) => FetchDecision::Read {
                    from: fetch.fetch_offset,
                    until: inner.replica.log_end(),
                    high_watermark: inner.replica.high_watermark(),
                    log_start: inner.replica.log_start(),
                    effects: Vec::new(),
                },
            },
        };
        let answer = |high_watermark: Offset, log_start: Offset, diverging| FetchedPartition {
            error: ErrorCode::None,
            high_watermark: high_watermark.0,
            log_start: log_start.0,
            diverging,
            records: Bytes::new(),
            leader: None,
        };
        match decision {
            FetchDecision::Error(error) => {
                let mut refused = FetchedPartition::refused(error);
                // A follower out of range needs to know where the log begins.
                if error == ErrorCode::OffsetOutOfRange {
                    refused.log_start = inner.replica.log_start().0;
                    refused.high_watermark = inner.replica.high_watermark().0;
                }
                refused.leader = inner.replica.leader().map(|leader| (leader, inner.replica.leader_epoch()));
                (refused, None)
            }
            FetchDecision::Diverging { end, high_watermark, log_start } => {
                (answer(high_watermark, log_start, Some(end)), None)
            }
            FetchDecision::Read { from, until, high_watermark, log_start, effects } => {
                self.run(inner, effects, now, out);
                let consumer = matches!(kind, ReadKind::Consumer(_));
                let until = if consumer { until.min(self.visible(inner)).max(from) } else { until };
                let most = budget.partition_bytes.min(budget.max_bytes);
                let plan = if from >= until || (most == 0 && !budget.min_one) {
                    None
                } else {
                    match inner.log.read(from, most, until, budget.min_one) {
                        Ok(plan) => Some(plan),
                        Err(error) => {
                            tracing::warn!(partition = %self.tp, %error, "read refused");
                            return (FetchedPartition::refused(error.code()), None);
                        }
                    }
                };
                if let Some((wait, deadline)) = budget.wait {
                    let position = match kind {
                        ReadKind::Consumer(_) => FetchPosition::HighWatermark,
                        ReadKind::Follower(_) | ReadKind::FollowerAgain(_) => FetchPosition::LogEnd,
                    };
                    if inner.fetches.next_deadline().is_some_and(|due| due < now) {
                        drop(inner.fetches.expire(now));
                    }
                    let wake_at = until.max(from).plus(1);
                    // Over the limit nobody wakes it, and it answers at its deadline.
                    if let Ok(key) = inner.fetches.push(position, wake_at, deadline, Arc::clone(wait)) {
                        wait.entered(self, key);
                    }
                }
                // What the effects moved counts already.
                let high_watermark =
                    if consumer { self.visible(inner) } else { high_watermark.max(inner.replica.high_watermark()) };
                (answer(high_watermark, log_start, None), plan)
            }
        }
    }
}
