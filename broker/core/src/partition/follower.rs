//! The follower's half: what to ask the leader for and what to do with its answer.
//!
//! The leader compares epochs on every fetch, so a follower that missed any number of leadership changes is led back to
//! the common prefix in as many steps as it takes (KIP-279), and only then receives records.

use chronik_model::{ErrorCode, LeaderEpoch, Offset, mutant};

use super::types::{EpochEnd, FetchReply, FollowerAction, FollowerProgress, FollowerRequest, LeaderMarks};
use super::{PartitionReplica, Role};

impl PartitionReplica {
    /// The next fetch; `None` when there is no leader to ask or the disk failed.
    #[must_use]
    pub fn follower_fetch_request(&self) -> Option<FollowerRequest> {
        if self.role != Role::Follower || self.io_fenced {
            return None;
        }
        Some(FollowerRequest {
            leader: self.leader()?,
            current_leader_epoch: self.leader_epoch(),
            fetch_offset: self.log_end,
            last_fetched_epoch: self.latest_epoch.unwrap_or(LeaderEpoch::NONE),
            log_start: self.log_start,
        })
    }

    /// What to do with an answer. `own_epoch_end` looks into this replica's epoch cache, like the leader's lookup in
    /// [`PartitionReplica::on_follower_fetch`]. Nothing changes here: the caller does it and reports.
    pub fn on_fetch_response(
        &self,
        reply: &FetchReply,
        own_epoch_end: impl FnOnce(LeaderEpoch) -> Option<EpochEnd>,
    ) -> FollowerAction {
        // An answer counts only for the request that would be sent now: a late or repeated one, of another leadership
        // (KAFKA-18991) or from before a truncation, would cut or extend another log than the one it was made for.
        let current = self.follower_fetch_request();
        let asked_in = if mutant!(AnswerOfAnyEpoch) { self.leader_epoch() } else { reply.request.current_leader_epoch };
        let answered = FollowerRequest { current_leader_epoch: asked_in, ..reply.request };
        let answers = |now: FollowerRequest| FollowerRequest { log_start: now.log_start, ..answered } == now;
        if !current.is_some_and(|now| answers(now) || mutant!(StaleAnswer)) {
            return FollowerAction::Drop;
        }
        let early = mutant!(MarksOfDivergence) && self.high_watermark < reply.marks.high_watermark.min(self.log_end);
        match (reply.error, reply.diverging) {
            (ErrorCode::None, Some(_)) if early => FollowerAction::Append(reply.marks),
            (ErrorCode::None, Some(end)) => self.on_divergence(end, own_epoch_end),
            (ErrorCode::None, None) => FollowerAction::Append(reply.marks),
            (ErrorCode::OffsetOutOfRange, _) if reply.marks.log_start > self.log_end => {
                FollowerAction::ResetTo { offset: reply.marks.log_start }
            }
            (ErrorCode::OffsetOutOfRange, _) => FollowerAction::AskLeaderOffsets,
            (error @ ErrorCode::FencedLeaderEpoch, _) => FollowerAction::AwaitMetadata(error),
            (error, _) => FollowerAction::Retry(error),
        }
    }

    /// The leader's earliest and latest offset, asked for after `AskLeaderOffsets` in `request_epoch`. Only a follower
    /// without usable epochs gets here with a log longer than the leader's: otherwise divergence is found first.
    #[must_use]
    pub fn on_leader_offsets(&self, request_epoch: LeaderEpoch, earliest: Offset, latest: Offset) -> FollowerAction {
        if self.role != Role::Follower || self.io_fenced || request_epoch != self.leader_epoch() {
            FollowerAction::Drop
        } else if earliest < Offset(0) || latest < earliest {
            FollowerAction::Retry(ErrorCode::UnknownServerError)
        } else if earliest > self.log_end {
            FollowerAction::ResetTo { offset: earliest }
        } else if latest < self.log_end {
            self.cut_at(latest)
        } else {
            FollowerAction::Retry(ErrorCode::OffsetOutOfRange)
        }
    }

    /// The records of an answer are in the log. `appended_epoch` is the epoch of the last of them, `None` when there
    /// were none: then the last fetched epoch stays as it is (KAFKA-15510). Move the start of the log as told.
    pub fn on_follower_append(
        &mut self,
        log_end: Offset,
        appended_epoch: Option<LeaderEpoch>,
        marks: LeaderMarks,
    ) -> FollowerProgress {
        assert!(self.is_follower() && !self.io_fenced, "replicated without following: {:?}", self.role);
        assert!(log_end >= self.log_end, "an append moved the log end from {} to {log_end}", self.log_end);
        self.log_end = log_end;
        if appended_epoch.is_some() || mutant!(EmptyAnswerForgetsEpoch) {
            self.latest_epoch = appended_epoch;
        }
        // A new leader's watermark may lag behind what an earlier one told; what was committed stays so.
        let before = self.high_watermark;
        let there =
            if mutant!(WatermarkBeforeRecords) { marks.high_watermark } else { marks.high_watermark.min(log_end) };
        self.high_watermark = before.max(there);
        let log_start = marks.log_start.min(self.high_watermark);
        let moved = log_start > self.log_start;
        if moved {
            self.log_start = log_start;
        }
        FollowerProgress {
            high_watermark: self.high_watermark,
            advanced: self.high_watermark > before,
            log_start: moved.then_some(log_start),
        }
    }

    /// The log was truncated or reset, and these are its facts now. The high watermark comes along (KAFKA-9491).
    pub fn on_truncated(&mut self, log_start: Offset, log_end: Offset, latest_epoch: Option<LeaderEpoch>) {
        assert!(!self.is_leader(), "a leader never truncates: log end {} to {log_end}", self.log_end);
        assert!(log_start <= log_end, "log start {log_start} is after log end {log_end}");
        self.log_start = log_start;
        self.log_end = log_end;
        self.latest_epoch = latest_epoch;
        self.high_watermark = self.high_watermark.clamp(log_start, log_end);
    }

    fn on_divergence(
        &self,
        leaders: EpochEnd,
        own_epoch_end: impl FnOnce(LeaderEpoch) -> Option<EpochEnd>,
    ) -> FollowerAction {
        if leaders.epoch < LeaderEpoch(0) || leaders.end_offset < Offset(0) {
            return FollowerAction::Retry(ErrorCode::UnknownServerError);
        }
        let own = own_epoch_end(leaders.epoch);
        let own_end = match (own, self.latest_epoch) {
            _ if mutant!(EndWithoutEpoch) => self.log_end,
            (Some(own), _) => own.end_offset,
            (None, Some(_)) => self.log_start, // All epochs here are newer than the one shared: nothing is shared.
            (None, None) => self.log_end,
        };
        let to = if mutant!(KeepLongerLog) { own_end } else { own_end.min(leaders.end_offset) };
        let latest_is_shared = self.latest_epoch.is_none_or(|latest| latest <= leaders.epoch);
        if to >= self.log_end && latest_is_shared {
            // Cutting there would change nothing, so asking again would go round for ever.
            return FollowerAction::Retry(ErrorCode::UnknownServerError);
        }
        self.cut_at(to.min(self.log_end))
    }

    fn cut_at(&self, to: Offset) -> FollowerAction {
        if to < self.log_start { FollowerAction::ResetTo { offset: to } } else { FollowerAction::Truncate { to } }
    }
}
