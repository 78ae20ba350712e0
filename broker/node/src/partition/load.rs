//! A coordinator of groups that waits until all it loaded is committed.
//!
//! A new leader holds what the leaders before it committed, and maybe more. Until its high watermark has passed the end
//! that it found, a coordinator must not answer from that: another leader may never have heard of it.

use chronik_model::{ErrorCode, LeaderEpoch, mutant};

use super::{HostedPartition, Ticket, Waiter};

impl<A: Ticket, F: Waiter> HostedPartition<A, F> {
    /// Completes the ticket, without an error, once everything below its offset is committed and, with durable
    /// acknowledgements, on the local disk: at once if it is. With an error if the leadership of `epoch` is over, or
    /// ends, or the disk fails. No deadline: it is the leadership that ends it. One may wait; a later one replaces it.
    pub fn await_committed(&mut self, epoch: LeaderEpoch, ticket: A) {
        if self.replica.is_io_fenced() {
            return ticket.complete(ErrorCode::KafkaStorageError);
        }
        if self.led_epoch() != Some(epoch) {
            return ticket.complete(ErrorCode::NotLeaderOrFollower);
        }
        if let Some(earlier) = self.loading.replace(ticket) {
            earlier.complete(ErrorCode::NotLeaderOrFollower);
        }
        self.release_loading();
    }

    pub(super) fn release_loading(&mut self) {
        let visible = self.visible();
        let reached = |ticket: &mut A| ticket.required() <= visible || mutant!(CoordinateUncommitted);
        if let Some(ticket) = self.loading.take_if(reached) {
            ticket.complete(ErrorCode::None);
        }
    }
}
