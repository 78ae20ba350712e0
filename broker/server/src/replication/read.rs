//! Appends and reads of clients: planned under the partition's lock, read outside of it, delivered without it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chronik_core::partition::waiters::FetchWaiterKey;
use chronik_log::{AppendOrigin, LogError, ReadPlan};
use chronik_model::ErrorCode;
use chronik_node::partition::{AppendOutcome, FetchedPartition, Outgoing, ReadKind, Refusal};

use super::partition::Partition;
use super::throttle::Turn;
use super::waiters::{AckWait, FetchWait};
use super::{ReplicaManager, mono_ms};

/// How much may be read, and who waits if it is nothing.
pub(crate) type ReadBudget<'a> = chronik_node::partition::ReadBudget<'a, Arc<FetchWait>>;

impl Partition {
    /// Whether an append of one batch of `bytes` would be refused whatever is in it, so that nobody looks in vain.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn admits(&self, acks: i16, bytes: usize) -> Result<(), Refusal> {
        let hosted = self.lock();
        hosted.replica().check_append(acks).map_err(|code| (code, code.text().to_owned()))?;
        let max = hosted.log().config().max_message_bytes;
        if bytes > max {
            let error = LogError::MessageTooLarge { size: bytes, max };
            return Err((error.code(), error.to_string()));
        }
        Ok(())
    }
}

impl ReplicaManager {
    /// Appends a client's batches as leader; see [`Partition`].
    pub(crate) fn append(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        batches: &[Bytes],
        acks: i16,
        wait: Option<(&Arc<AckWait>, usize, u64)>,
    ) -> Result<AppendOutcome, Refusal> {
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
        let turn = match kind {
            ReadKind::Consumer(_) => Turn::Free,
            ReadKind::Follower(fetch) | ReadKind::FollowerAgain(fetch) => {
                self.throttles.leader_turn(partition, fetch.replica, mono_ms())
            }
        };
        let (partition_bytes, min_one) = match turn {
            Turn::Free => (budget.partition_bytes, budget.min_one),
            Turn::Some(bytes) => {
                let most = usize::try_from(bytes).unwrap_or(usize::MAX);
                (budget.partition_bytes.min(most), budget.min_one)
            }
            // Its position counts all the same; it looks again when the fetch has waited, or for new records.
            Turn::Later(_) => (0, false),
        };
        let budget = &ReadBudget { max_bytes: budget.max_bytes, partition_bytes, min_one, wait: budget.wait };
        let mut out = Vec::new();
        let planned = partition.plan(kind, budget, &mut out);
        if !out.is_empty() {
            self.deliver(partition, out);
        }
        let (mut fetched, plan) = planned;
        if let Some(plan) = plan {
            match plan.read() {
                Ok(records) => {
                    let counter = match kind {
                        ReadKind::Consumer(_) => &self.bytes_out,
                        ReadKind::Follower(_) | ReadKind::FollowerAgain(_) => &self.replicated_out,
                    };
                    counter.fetch_add(records.len() as u64, Ordering::Relaxed);
                    if turn != Turn::Free {
                        self.throttles.sent(records.len() as u64);
                    }
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
        self.lock().forget_fetch(key);
    }

    fn plan(
        self: &Arc<Self>,
        kind: ReadKind,
        budget: &ReadBudget<'_>,
        out: &mut Vec<Outgoing>,
    ) -> (FetchedPartition, Option<ReadPlan>) {
        let now_ms = mono_ms();
        let mut hosted = self.lock();
        let planned = hosted.plan(kind, budget, now_ms, out);
        if let (Some((wait, _)), Some(key)) = (budget.wait, planned.parked) {
            wait.entered(self, key);
        }
        (planned.answer, planned.read)
    }
}
