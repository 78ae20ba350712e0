//! Questions about offsets, and the start of the log moved by request or by retention.

use chronik_core::partition::EpochEnd;
use chronik_model::{ErrorCode, LeaderEpoch, Offset};

use super::{HostedPartition, Outgoing, Ticket, Waiter, epoch_end};
use crate::Now;

/// An offset that was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    /// The offset, -1 if there is none.
    pub offset: i64,
    /// Time of its record, -1 if it was not looked for by time.
    pub timestamp: i64,
    /// Its leader epoch.
    pub leader_epoch: LeaderEpoch,
}

impl FoundOffset {
    /// Nothing was found.
    pub const NONE: Self = Self { offset: -1, timestamp: -1, leader_epoch: LeaderEpoch::NONE };
}

impl<A: Ticket, F: Waiter> HostedPartition<A, F> {
    /// First offset of the log; only the leader says it.
    ///
    /// # Errors
    /// Does not lead, or not `current`.
    pub fn earliest(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        self.replica.check_leader(current)?;
        let start = self.log.log_start();
        let before = self.log.epochs().iter().take_while(|entry| entry.start_offset <= start);
        let leader_epoch = before.last().map_or(LeaderEpoch::NONE, |entry| entry.epoch);
        Ok(FoundOffset { offset: start.0, timestamp: -1, leader_epoch })
    }

    /// The end that consumers may know.
    ///
    /// # Errors
    /// Does not lead, or not `current`, or does not know it yet.
    pub fn latest(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        let offset = self.replica.latest_offset(current)?.min(self.visible());
        // Right after a restart it may be lower than what was shown before.
        if self.log.epochs().last().is_some_and(|newest| offset < newest.start_offset) {
            return Err(ErrorCode::OffsetNotAvailable);
        }
        Ok(FoundOffset { offset: offset.0, timestamp: -1, leader_epoch: self.replica.leader_epoch() })
    }

    /// The log end, for followers.
    ///
    /// # Errors
    /// Does not lead, or not `current`.
    pub fn end(&self, current: LeaderEpoch) -> Result<FoundOffset, ErrorCode> {
        self.replica.check_leader(current)?;
        Ok(FoundOffset { offset: self.replica.log_end().0, timestamp: -1, leader_epoch: self.replica.leader_epoch() })
    }

    /// Where `epoch` ends here.
    ///
    /// # Errors
    /// Does not lead, or not `current`.
    pub fn end_of_epoch(&self, current: LeaderEpoch, epoch: LeaderEpoch) -> Result<Option<EpochEnd>, ErrorCode> {
        self.replica.check_leader(current)?;
        if epoch == self.replica.leader_epoch() {
            return Ok(Some(EpochEnd { epoch, end_offset: self.replica.log_end() }));
        }
        if epoch > self.replica.leader_epoch() || epoch == LeaderEpoch::NONE {
            return Ok(None);
        }
        Ok(epoch_end(&self.log, epoch))
    }

    /// The smallest log start of the live replicas.
    ///
    /// # Errors
    /// Does not lead.
    pub fn low_watermark(&self) -> Result<Option<Offset>, ErrorCode> {
        self.replica.check_leader(LeaderEpoch::NONE)?;
        Ok(self.replica.low_watermark())
    }

    /// Moves the start of a led log to `offset`, or with -1 to the high watermark; returns where to.
    ///
    /// # Errors
    /// Does not lead, or the offset is not one that consumers can see.
    pub fn delete_records(&mut self, offset: i64, out: &mut Vec<Outgoing>) -> Result<Offset, ErrorCode> {
        self.replica.check_leader(LeaderEpoch::NONE)?;
        let high_watermark = self.visible();
        let to = if offset == -1 { high_watermark } else { Offset(offset) };
        if to < Offset(0) || to > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if to > self.log.log_start() {
            if let Err(error) = self.log.set_log_start_offset(to) {
                self.after_error(&error, out);
                return Err(error.code());
            }
            let effects = self.replica.on_log_start(to);
            self.run(effects.into_iter().collect(), out);
            self.publish();
        }
        Ok(to)
    }

    /// Forgets producers that were silent for long and, as leader, deletes what the retention settings do not keep.
    pub fn retain(&mut self, now: Now, out: &mut Vec<Outgoing>) {
        if self.replica.is_io_fenced() {
            return;
        }
        self.log.expire_producers(now.wall_ms);
        if !self.deletes_old || !self.replica.is_leader() {
            return;
        }
        match self.log.apply_retention(now.wall_ms, self.replica.high_watermark()) {
            Ok(report) => {
                let effects = self.replica.on_log_start(self.log.log_start());
                self.run(effects.into_iter().collect(), out);
                self.publish();
                if report.segments > 0 {
                    tracing::info!(partition = %self.tp, segments = report.segments, bytes = report.bytes, "retention");
                }
            }
            Err(error) => self.after_error(&error, out),
        }
    }
}
