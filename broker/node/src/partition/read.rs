//! Reads for fetches: what may be read is planned here, the plan is run by the caller without any lock.

use bytes::Bytes;
use chronik_core::partition::waiters::{FetchPosition, FetchWaiterKey};
use chronik_core::partition::{ConsumerFetch, EpochEnd, FetchDecision, FollowerFetch};
use chronik_log::ReadPlan;
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, mutant};

use super::{HostedPartition, Outgoing, Ticket, Waiter, epoch_end};

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadKind {
    /// A consumer: below the high watermark.
    Consumer(ConsumerFetch),
    /// A follower: everything; its position counts as its progress.
    Follower(FollowerFetch),
    /// A follower whose parked fetch is looked at again: its progress is known already.
    FollowerAgain(FollowerFetch),
}

/// The answer to one partition of a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedPartition {
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

    fn answered(high_watermark: Offset, log_start: Offset, diverging: Option<EpochEnd>) -> Self {
        Self {
            error: ErrorCode::None,
            high_watermark: high_watermark.0,
            log_start: log_start.0,
            diverging,
            records: Bytes::new(),
            leader: None,
        }
    }
}

/// How much may be read, and who waits if it is nothing.
#[derive(Clone, Copy, Debug)]
pub struct ReadBudget<'a, F> {
    /// Bytes left for the whole answer.
    pub max_bytes: usize,
    /// Bytes for this partition.
    pub partition_bytes: usize,
    /// Whether the first batch comes even if it is larger.
    pub min_one: bool,
    /// Woken when there is more, with the deadline of the fetch. Registered only where it could help.
    pub wait: Option<(&'a F, u64)>,
}

/// The answer so far, and what is left to do for it.
#[derive(Debug)]
pub struct Planned {
    /// Everything but the records.
    pub answer: FetchedPartition,
    /// Where the records are, if there are any.
    pub read: Option<ReadPlan>,
    /// The place of the waiter, if it was parked: for [`HostedPartition::forget_fetch`].
    pub parked: Option<FetchWaiterKey>,
}

impl Planned {
    fn done(answer: FetchedPartition) -> Self {
        Self { answer, read: None, parked: None }
    }
}

impl<A: Ticket, F: Waiter> HostedPartition<A, F> {
    /// Decides about one partition of a fetch. A follower's position counts as its progress here.
    pub fn plan(&mut self, kind: ReadKind, budget: &ReadBudget<'_, F>, now_ms: u64, out: &mut Vec<Outgoing>) -> Planned
    where
        F: Clone,
    {
        let log = &self.log;
        let decision = match kind {
            ReadKind::Consumer(fetch) => self.replica.consumer_fetch(&fetch, |epoch| epoch_end(log, epoch)),
            ReadKind::Follower(fetch) => self.replica.on_follower_fetch(&fetch, |epoch| epoch_end(log, epoch), now_ms),
            ReadKind::FollowerAgain(fetch) => match self.replica.check_leader(fetch.current_leader_epoch) {
                Err(error) => FetchDecision::Error(error),
                Ok(()) => FetchDecision::Read {
                    from: fetch.fetch_offset,
                    until: self.replica.log_end(),
                    high_watermark: self.replica.high_watermark(),
                    log_start: self.replica.log_start(),
                    effects: Vec::new(),
                },
            },
        };
        match decision {
            FetchDecision::Error(error) => {
                let mut refused = FetchedPartition::refused(error);
                // A follower out of range needs to know where the log begins.
                if error == ErrorCode::OffsetOutOfRange {
                    refused.log_start = self.replica.log_start().0;
                    refused.high_watermark = self.visible().0;
                }
                refused.leader = self.replica.leader().map(|leader| (leader, self.replica.leader_epoch()));
                Planned::done(refused)
            }
            FetchDecision::Diverging { end, log_start, .. } => {
                Planned::done(FetchedPartition::answered(self.visible(), log_start, Some(end)))
            }
            FetchDecision::Read { from, until, log_start, effects, .. } => {
                self.run(effects, out);
                let consumer = matches!(kind, ReadKind::Consumer(_));
                let bounded = consumer && !mutant!(ServeUncommitted);
                let until = if bounded { until.min(self.visible()).max(from) } else { until };
                let most = budget.partition_bytes.min(budget.max_bytes);
                let read = if from >= until || (most == 0 && !budget.min_one) {
                    None
                } else {
                    match self.log.read(from, most, until, budget.min_one) {
                        Ok(plan) => Some(plan).filter(|plan| !plan.is_empty()),
                        Err(error) => {
                            tracing::warn!(partition = %self.tp, %error, "read refused");
                            return Planned::done(FetchedPartition::refused(error.code()));
                        }
                    }
                };
                let parked = budget.wait.and_then(|(wait, deadline_ms)| {
                    let position = if consumer { FetchPosition::HighWatermark } else { FetchPosition::LogEnd };
                    if self.fetches.next_deadline().is_some_and(|due| due < now_ms) {
                        drop(self.fetches.expire(now_ms));
                    }
                    // Over the limit nobody wakes it, and it answers at its deadline.
                    self.fetches.push(position, until.max(from).plus(1), deadline_ms, wait.clone()).ok()
                });
                // What the effects moved counts already.
                Planned { answer: FetchedPartition::answered(self.visible(), log_start, None), read, parked }
            }
        }
    }

    /// Reads whole batches below `bound`, regardless of the high watermark: for the broker's own topics.
    ///
    /// # Errors
    /// Kafka's code for what the log says.
    pub fn plan_log(&self, from: Offset, max_bytes: usize, bound: Offset) -> Result<ReadPlan, ErrorCode> {
        self.log.read(from, max_bytes, bound, true).map_err(|error| error.code())
    }
}
