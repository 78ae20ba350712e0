//! Appends of a leader: admitted by the replica, written, counted, acknowledged or parked.

use bytes::Bytes;
use chronik_core::partition::AckState;
use chronik_core::partition::waiters::FetchPosition;
use chronik_log::AppendOrigin;
use chronik_model::{ErrorCode, LeaderEpoch, Offset};

use super::{HostedPartition, Outgoing, Ticket, Waiter, wake};
use crate::Now;

/// An append that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Whole batches.
    pub batches: &'a [Bytes],
    /// -1, 0 or 1.
    pub acks: i16,
    /// Whose batches they are.
    pub origin: AppendOrigin,
    /// Refused under any other leadership, if given.
    pub only_epoch: Option<LeaderEpoch>,
}

/// A produce that reached the log, or was found there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendOutcome {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Time the broker gave the records, -1 if the producer's stand.
    pub log_append_time: i64,
    /// Start of the log.
    pub log_start: Offset,
    /// Whether the acknowledgement is still to come through the ticket.
    pub waits: bool,
}

/// Kafka's code for a refused append and a sentence for people.
pub type Refusal = (ErrorCode, String);

fn refuse(code: ErrorCode) -> Refusal {
    (code, code.text().to_owned())
}

impl<A: Ticket, F: Waiter> HostedPartition<A, F> {
    /// Appends whole batches as leader. When the outcome is not known at once, `ticket` is called with the offset that
    /// the acknowledgement needs and gives the deadline (monotonic milliseconds) and the ticket to complete; `None` if
    /// nobody waits.
    ///
    /// # Errors
    /// What to answer. The records may be in the log all the same.
    pub fn append(
        &mut self,
        request: &Append<'_>,
        ticket: impl FnOnce(Offset) -> Option<(u64, A)>,
        now: Now,
        out: &mut Vec<Outgoing>,
    ) -> Result<AppendOutcome, Refusal> {
        let epoch = self.replica.check_append(request.acks).map_err(refuse)?;
        if request.only_epoch.is_some_and(|only| only != epoch) {
            return Err(refuse(ErrorCode::NotLeaderOrFollower));
        }
        let info = match self.log.append_as_leader(request.batches, epoch, now.wall_ms, request.origin) {
            Ok(info) => info,
            Err(error) => {
                self.after_error(&error, out);
                return Err((error.code(), error.to_string()));
            }
        };
        let required = info.last_offset.plus(1);
        if !info.duplicate {
            let log_end = self.log.log_end();
            let effects = self.replica.on_append(log_end, now.mono_ms);
            self.flush_wanted = true;
            self.run(effects, out);
            self.publish();
            wake(self.fetches.release(FetchPosition::LogEnd, log_end));
        }
        let waits = self.acknowledge(request.acks, required, ticket, now.mono_ms).map_err(refuse)?;
        Ok(AppendOutcome {
            base_offset: info.first_offset,
            log_append_time: info.log_append_time.unwrap_or(-1),
            log_start: info.log_start_offset,
            waits,
        })
    }

    /// Says yes or no at once where that is possible, and otherwise parks the ticket; true then.
    fn acknowledge(
        &mut self,
        acks: i16,
        required: Offset,
        ticket: impl FnOnce(Offset) -> Option<(u64, A)>,
        now_ms: u64,
    ) -> Result<bool, ErrorCode> {
        let durable = self.durable() >= required;
        let queue = match acks {
            -1 => match self.replica.ack_state(required) {
                AckState::Done if durable => return Ok(false),
                AckState::NotEnoughAfterAppend => return Err(ErrorCode::NotEnoughReplicasAfterAppend),
                AckState::NotLeader => return Err(ErrorCode::NotLeaderOrFollower),
                AckState::Done | AckState::Pending => &mut self.acks,
            },
            1 if !durable => &mut self.syncs,
            _ => return Ok(false),
        };
        let Some((deadline_ms, ticket)) = ticket(required) else { return Ok(false) };
        let parked = match queue.push(required, deadline_ms, ticket) {
            Ok(_) => Ok(()),
            Err(ticket) => {
                for expired in queue.expire(now_ms) {
                    expired.complete(ErrorCode::RequestTimedOut);
                }
                queue.push(required, deadline_ms, ticket).map(|_| ())
            }
        };
        // It is written, but nobody can wait for it any more: the client has to find out by a retry.
        if let Err(ticket) = parked {
            ticket.complete(ErrorCode::RequestTimedOut);
        }
        Ok(true)
    }
}
