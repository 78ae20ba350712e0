//! The follower's side: what to ask the leader, and what to do with its answers.

use bytes::Bytes;
use chronik_core::partition::waiters::FetchPosition;
use chronik_core::partition::{FetchReply, FollowerAction, FollowerRequest, LeaderMarks};
use chronik_log::LogError;
use chronik_model::{ErrorCode, LeaderEpoch, Offset};

use super::{HostedPartition, Outgoing, Ticket, Waiter, epoch_end, wake};

impl<A: Ticket, F: Waiter> HostedPartition<A, F> {
    /// What to ask the leader next. The fetch offset acknowledges all below it, so with durable acks there is nothing
    /// to ask before that is synced.
    #[must_use]
    pub fn follower_request(&self) -> Option<FollowerRequest> {
        let request = self.replica.follower_fetch_request()?;
        (self.durable() >= request.fetch_offset).then_some(request)
    }

    /// The leader's answer: appends, truncates, or says what else to do. What is returned is left to the fetcher.
    pub fn on_fetched(&mut self, reply: &FetchReply, records: &Bytes, out: &mut Vec<Outgoing>) -> FollowerAction {
        let log = &self.log;
        let action = self.replica.on_fetch_response(reply, |epoch| epoch_end(log, epoch));
        self.follow(action, records, out)
    }

    /// The leader's earliest and latest offset, asked for under `request_epoch`.
    pub fn on_leader_offsets(
        &mut self,
        request_epoch: LeaderEpoch,
        earliest: Offset,
        latest: Offset,
        out: &mut Vec<Outgoing>,
    ) -> FollowerAction {
        let action = self.replica.on_leader_offsets(request_epoch, earliest, latest);
        self.follow(action, &Bytes::new(), out)
    }

    fn follow(&mut self, mut action: FollowerAction, records: &Bytes, out: &mut Vec<Outgoing>) -> FollowerAction {
        let done = match action {
            FollowerAction::Append(marks) => match self.append_from_leader(marks, records) {
                Err(LogError::UnexpectedOffset { expected, found }) if found < expected => {
                    self.align(marks, records, found).map(|again| action = again)
                }
                done => done,
            },
            FollowerAction::Truncate { to } => {
                tracing::info!(partition = %self.tp, from = %self.log.log_end(), %to, "truncates to what the leader has");
                self.log.truncate_to(to).map(|end| {
                    self.replica.on_truncated(self.log.log_start(), end, self.log.latest_epoch());
                })
            }
            FollowerAction::ResetTo { offset } => {
                tracing::warn!(partition = %self.tp, from = %self.log.log_end(), to = %offset, "starts its log anew");
                self.log.truncate_fully_and_start_at(offset).map(|()| {
                    self.replica.on_truncated(offset, offset, None);
                })
            }
            FollowerAction::AskLeaderOffsets
            | FollowerAction::Drop
            | FollowerAction::Retry(_)
            | FollowerAction::AwaitMetadata(_) => Ok(()),
        };
        self.publish();
        match done {
            Ok(()) => action,
            Err(error) => {
                self.after_error(&error, out);
                if error.code() != ErrorCode::KafkaStorageError {
                    tracing::warn!(partition = %self.tp, %error, "records of the leader refused");
                }
                FollowerAction::Retry(error.code())
            }
        }
    }

    /// The leader's first batch contains our log end instead of beginning there. A log that was begun anew at the
    /// leader's log start, which deleted records may have put within a batch, takes that batch whole, as the leader has
    /// it (Kafka's UnexpectedAppendOffsetException). A log with records ends within a batch of the leader only if its
    /// tail is not what it was, after a disk that lied: it is cut there and fetched again.
    fn align(&mut self, marks: LeaderMarks, records: &Bytes, found: Offset) -> Result<FollowerAction, LogError> {
        let (start, end) = (self.log.log_start(), self.log.log_end());
        if start == end {
            self.log.truncate_fully_and_start_at(found)?;
            self.replica.on_truncated(found, found, None);
            self.append_from_leader(marks, records)?;
            return Ok(FollowerAction::Append(marks));
        }
        tracing::warn!(partition = %self.tp, from = %end, to = %found, "its end is not the leader's: cut, to be fetched again");
        let to = self.log.truncate_to(found)?;
        self.replica.on_truncated(self.log.log_start(), to, self.log.latest_epoch());
        Ok(FollowerAction::Truncate { to })
    }

    fn append_from_leader(&mut self, marks: LeaderMarks, records: &Bytes) -> Result<(), LogError> {
        let before = self.log.log_end();
        let end = if records.is_empty() { before } else { self.log.append_as_follower(records)? };
        let epoch = if end > before { self.log.latest_epoch() } else { None };
        let progress = self.replica.on_follower_append(end, epoch, marks);
        if let Some(log_start) = progress.log_start {
            self.log.set_log_start_offset(log_start)?;
        }
        if progress.advanced {
            wake(self.fetches.release(FetchPosition::HighWatermark, progress.high_watermark));
        }
        if end > before {
            self.flush_wanted = true;
        }
        Ok(())
    }
}
