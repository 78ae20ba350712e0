//! Reads: which offsets may be read, and whether the reader's log is still a prefix of ours.

use chronik_model::{ErrorCode, LeaderEpoch, Offset, mutant};

use super::types::{ConsumerFetch, EpochEnd, FetchDecision};
use super::{PartitionReplica, Role};

impl PartitionReplica {
    /// A consumer fetches: it never gets a record at or above the high watermark. Between the watermark and the log end
    /// there is nothing to read and no error. `epoch_end` is as in [`PartitionReplica::on_follower_fetch`].
    pub fn consumer_fetch(
        &self,
        fetch: &ConsumerFetch,
        epoch_end: impl FnOnce(LeaderEpoch) -> Option<EpochEnd>,
    ) -> FetchDecision {
        let checked = self
            .check_reader(fetch)
            .and_then(|()| self.check_position(fetch.fetch_offset, fetch.last_fetched_epoch, epoch_end));
        match checked {
            // The leader may well have it; this follower does not yet (KIP-392).
            Err(ErrorCode::OffsetOutOfRange) if !self.is_leader() && fetch.fetch_offset > self.log_end => {
                FetchDecision::Error(ErrorCode::OffsetNotAvailable)
            }
            Err(error) => FetchDecision::Error(error),
            Ok(Some(end)) => {
                FetchDecision::Diverging { end, high_watermark: self.high_watermark, log_start: self.log_start }
            }
            Ok(None) => FetchDecision::Read {
                from: fetch.fetch_offset,
                until: if mutant!(ServeUncommitted) {
                    self.log_end
                } else {
                    self.high_watermark.max(fetch.fetch_offset)
                },
                high_watermark: self.high_watermark,
                log_start: self.log_start,
                effects: Vec::new(),
            },
        }
    }

    /// The end that consumers may know (ListOffsets LATEST, and the bound of a lookup by timestamp): the high watermark.
    ///
    /// # Errors
    /// `OffsetNotAvailable` while a new leader's watermark has not reached its epoch start, because it might be lower
    /// than what the previous leader showed; otherwise as [`PartitionReplica::check_leader`].
    pub fn latest_offset(&self, current_leader_epoch: LeaderEpoch) -> Result<Offset, ErrorCode> {
        self.check_leader(current_leader_epoch)?;
        match &self.role {
            Role::Leader(leadership) if self.high_watermark >= leadership.epoch_start => Ok(self.high_watermark),
            Role::Leader(_) => Err(ErrorCode::OffsetNotAvailable),
            Role::Idle | Role::Follower => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Whether this replica leads the epoch that a client believes in.
    ///
    /// # Errors
    /// `FencedLeaderEpoch`, `UnknownLeaderEpoch`, `NotLeaderOrFollower`, `KafkaStorageError`.
    pub fn check_leader(&self, current_leader_epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        self.check_leader_epoch(current_leader_epoch)?;
        if !self.is_leader() {
            Err(ErrorCode::NotLeaderOrFollower)
        } else if self.io_fenced {
            Err(ErrorCode::KafkaStorageError)
        } else {
            Ok(())
        }
    }

    /// Compares an epoch of a request with ours; [`LeaderEpoch::NONE`] is not compared.
    pub(super) fn check_leader_epoch(&self, asked: LeaderEpoch) -> Result<(), ErrorCode> {
        let known = self.leader_epoch();
        if asked == LeaderEpoch::NONE || asked == known || mutant!(IgnoreLeaderEpoch) {
            Ok(())
        } else if asked < known {
            Err(ErrorCode::FencedLeaderEpoch)
        } else {
            Err(ErrorCode::UnknownLeaderEpoch)
        }
    }

    /// Checks a position against our log. `Some` when the reader has records that we do not: the largest epoch that both
    /// may share and where it ends here. Too small an offset wins over divergence (KAFKA-12996).
    pub(super) fn check_position(
        &self,
        fetch_offset: Offset,
        last_fetched_epoch: LeaderEpoch,
        epoch_end: impl FnOnce(LeaderEpoch) -> Option<EpochEnd>,
    ) -> Result<Option<EpochEnd>, ErrorCode> {
        if fetch_offset < self.log_start {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if last_fetched_epoch >= LeaderEpoch(0) && !mutant!(NoDivergenceCheck) {
            // Epochs older than any known one ended where this log begins.
            let end = epoch_end(last_fetched_epoch)
                .unwrap_or(EpochEnd { epoch: last_fetched_epoch, end_offset: self.log_start });
            let other_epoch = end.epoch < last_fetched_epoch && !mutant!(EndWithoutEpoch);
            if other_epoch || end.end_offset < fetch_offset {
                return Ok(Some(end));
            }
        }
        if fetch_offset > self.log_end { Err(ErrorCode::OffsetOutOfRange) } else { Ok(None) }
    }

    fn check_reader(&self, fetch: &ConsumerFetch) -> Result<(), ErrorCode> {
        if fetch.from_follower && self.is_follower() {
            self.check_leader_epoch(fetch.current_leader_epoch)?;
            if self.io_fenced { Err(ErrorCode::KafkaStorageError) } else { Ok(()) }
        } else {
            self.check_leader(fetch.current_leader_epoch)
        }
    }
}
