//! The one thread that drives the metadata quorum: a clock, an inbox and a place to publish around [`Quorum`].
//!
//! Life of one round: wait for an input or the next deadline; hand over everything that waits; let the quorum have its
//! turn; publish. Started by `startup` after the gRPC server is up; ends on [`Input::Stop`].
//!
//! What never happens: a wait for anybody but the inbox and, inside the quorum, the disk. After a storage failure the
//! thread only hands over what still comes, to be refused, and the process stays for people to look at.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use chronik_consensus::Replica;
use chronik_core::controller::Liveness;
use chronik_log::disk::Disk;
use chronik_model::NodeId;
use chronik_node::quorum::{self, Now, Parts, Quorum};

use super::Shared;
use super::clock::{mono_ms, wall_ms};
use super::host::ServerHost;
use super::inbox::{Input, Inputs};
use crate::peer::transport::{PeerEvent, Transport};

/// Most inputs taken before the quorum gets its turn.
const BATCH: usize = 1024;
/// Longest wait, of a quorum that has stopped and wants no more turns.
const LONGEST_MS: u64 = 3_600_000;
/// Least time between two published accounts of the replica that say the same of roles and members.
const STATUS_MS: u64 = 50;

/// The thread's state.
pub struct RaftThread<D: Disk + Clone> {
    quorum: Quorum<D, ServerHost>,
    host: ServerHost,
    inputs: Inputs,
    pace: Pace,
}

/// When an account of the replica is published: some times per second, and at once when somebody may wait for what is new.
#[derive(Debug, Default)]
struct Pace {
    published_ms: u64,
    caught_up: Vec<NodeId>,
}

impl Pace {
    /// Whether to publish now. `urgent`: another role, term or members; `caught_up`: who has caught up now, which decides
    /// whether a promotion, demotion or restart may go on.
    fn is_due(&mut self, time_ms: u64, urgent: bool, caught_up: Vec<NodeId>) -> bool {
        let due = urgent || caught_up != self.caught_up || time_ms >= self.published_ms + STATUS_MS;
        if due {
            (self.published_ms, self.caught_up) = (time_ms, caught_up);
        }
        due
    }
}

impl<D: Disk + Clone> std::fmt::Debug for RaftThread<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftThread").field("quorum", &self.quorum).finish_non_exhaustive()
    }
}

fn now() -> Now {
    Now { mono_ms: mono_ms(), wall_ms: wall_ms() }
}

impl<D: Disk + Clone> RaftThread<D> {
    /// A thread for a recovered replica whose image is already in `shared.state`.
    #[must_use]
    pub fn new(
        replica: Replica<D>,
        shared: Arc<Shared>,
        transport: Transport,
        inputs: Inputs,
        liveness: Liveness,
    ) -> Self {
        let parts = Parts {
            replica,
            state: Arc::clone(&shared.state),
            applied: *shared.applied.borrow(),
            incarnation: shared.incarnation,
            liveness,
        };
        let mut host = ServerHost::new(shared, transport);
        let quorum = Quorum::new(parts, &mut host, now());
        Self { quorum, host, inputs, pace: Pace::default() }
    }

    /// Runs on the calling thread until [`Input::Stop`].
    pub fn run(mut self) {
        self.publish();
        while self.take_inputs() {
            // Why it stopped was published by then, and everybody who waited was answered.
            let _failed = self.quorum.turn(&mut self.host, now());
            self.publish();
        }
        self.host.shared.changes.close();
    }

    /// Hands over what waits, after waiting for it until the next turn is due; `false` when told to stop.
    fn take_inputs(&mut self) -> bool {
        let time = mono_ms();
        let wait_ms = self.quorum.wake_at(time).saturating_sub(time).min(LONGEST_MS);
        let first = if wait_ms == 0 {
            self.inputs.try_recv().ok()
        } else {
            match self.inputs.recv_timeout(Duration::from_millis(wait_ms)) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        };
        let mut next = first;
        for _ in 0..BATCH {
            let Some(input) = next else { return true };
            if !self.handle(input) {
                return false;
            }
            next = self.inputs.try_recv().ok();
        }
        next.is_none_or(|input| self.handle(input))
    }

    /// `false` when told to stop.
    fn handle(&mut self, input: Input) -> bool {
        let input = match input {
            Input::Message(message) => quorum::Input::Message(message),
            Input::Peer(event) => match self.news(event) {
                Some(input) => input,
                None => return true,
            },
            Input::Propose(envelope, reply) => quorum::Input::Propose(envelope, reply),
            Input::ReadIndex(reply) => quorum::Input::ReadIndex(reply),
            Input::Membership(change, reply) => quorum::Input::Membership(change, reply),
            Input::Transfer(to, reply) => quorum::Input::Transfer(to, reply),
            Input::Heartbeat(heartbeat, reply) => quorum::Input::Heartbeat(heartbeat, reply),
            Input::Stop => return false,
        };
        self.quorum.handle(&mut self.host, now(), input);
        true
    }

    /// What the quorum has to know of news of a peer.
    fn news(&mut self, event: PeerEvent) -> Option<quorum::Input<ServerHost>> {
        let shared = &self.host.shared;
        match event {
            PeerEvent::Connected(peer, greeting) => {
                *shared.twin.lock() = None;
                shared.lost.lock().remove(&peer);
                Some(quorum::Input::PeerConnected { peer, leader: greeting.position.leader })
            }
            PeerEvent::Lost(peer) => {
                shared.lost.lock().entry(peer).or_insert_with(mono_ms);
                shared.contact.disconnected(peer, mono_ms());
                Some(quorum::Input::PeerLost(peer))
            }
            // A refusal by an address that never worked may be a wrong address: it says nothing about the process.
            PeerEvent::Unreachable { peer, refused, was_connected } => {
                Some(quorum::Input::PeerUnreachable { peer, gone: refused && was_connected })
            }
            PeerEvent::SnapshotSent { peer, ok } => Some(quorum::Input::SnapshotSent { peer, delivered: ok }),
            PeerEvent::Heard(_) => None,
            PeerEvent::Duplicate { peer, message } => {
                tracing::warn!(told_by = %peer, "{message}");
                shared.twin_seen(message);
                None
            }
        }
    }

    fn publish(&mut self) {
        let time = mono_ms();
        let urgent = std::mem::take(&mut self.host.publish_now);
        if !self.pace.is_due(time, urgent, self.quorum.replica().caught_up()) {
            return;
        }
        let counters = &self.host.shared.counters;
        let (waiting, oldest) = self.quorum.waiting();
        counters.entries_applied.store(self.quorum.commands_applied(), Ordering::Relaxed);
        counters.pending_proposals.store(waiting as u64, Ordering::Relaxed);
        counters.oldest_proposal_ms.store(oldest.unwrap_or(0), Ordering::Relaxed);
        self.host.shared.status.store(Some(Arc::new(self.quorum.status())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_published_at_once_when_a_member_has_caught_up_or_no_longer() {
        let mut pace = Pace::default();
        let (one, both) = (vec![NodeId(2)], vec![NodeId(2), NodeId(3)]);
        assert!(pace.is_due(1_000, true, Vec::new()), "the role changed");
        assert!(!pace.is_due(1_001, false, Vec::new()));
        assert!(pace.is_due(1_002, false, one.clone()));
        assert!(!pace.is_due(1_003, false, one.clone()));
        assert!(pace.is_due(1_004, false, both));
        assert!(pace.is_due(1_005, false, one.clone()), "it fell silent");
        assert!(!pace.is_due(1_004 + STATUS_MS, false, one.clone()));
        assert!(pace.is_due(1_005 + STATUS_MS, false, one), "some times per second in any case");
    }
}
