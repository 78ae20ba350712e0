//! What produces and fetches wait with: entries in a list that the broker looks at before its event is over.

use std::collections::VecDeque;
use std::sync::Arc;

use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex};
use chronik_node::partition::{HostedPartition, Ticket, Waiter};
use parking_lot::Mutex;

/// A hosted partition of a simulated broker.
pub type SimPartition = HostedPartition<AckTicket, FetchWake>;

/// Somebody who has not to wait any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// A produce of this number ended so.
    Produce(u64, ErrorCode),
    /// An append of the group coordinator of this partition and epoch, of this number, ended so.
    Group(PartitionIndex, LeaderEpoch, u64, ErrorCode),
    /// What the group coordinator of this partition and epoch loaded is committed, or will not be.
    Loaded(PartitionIndex, LeaderEpoch, ErrorCode),
    /// A parked fetch of this number may find something.
    Fetch(u64),
}

/// Who has been woken and was not looked at yet; shared by all partitions of a broker.
#[derive(Clone, Debug, Default)]
pub(super) struct WokenList(Arc<Mutex<VecDeque<Woken>>>);

impl WokenList {
    pub(super) fn next(&self) -> Option<Woken> {
        self.0.lock().pop_front()
    }

    pub(super) fn put(&self, woken: Woken) {
        self.0.lock().push_back(woken);
    }

    pub(super) fn ticket(&self, required: Offset, asker: Asker) -> AckTicket {
        AckTicket { required, asker, list: self.clone() }
    }

    pub(super) fn fetch(&self, id: u64) -> FetchWake {
        FetchWake { id, list: self.clone() }
    }
}

/// What an acknowledgement is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Produce(u64),
    Group(PartitionIndex, LeaderEpoch, u64),
    Loading(PartitionIndex, LeaderEpoch),
}

/// An acknowledgement that is awaited.
#[derive(Debug)]
pub struct AckTicket {
    required: Offset,
    asker: Asker,
    list: WokenList,
}

impl Ticket for AckTicket {
    fn required(&self) -> Offset {
        self.required
    }

    fn complete(self, error: ErrorCode) {
        self.list.put(match self.asker {
            Asker::Produce(id) => Woken::Produce(id, error),
            Asker::Group(partition, epoch, number) => Woken::Group(partition, epoch, number, error),
            Asker::Loading(partition, epoch) => Woken::Loaded(partition, epoch, error),
        });
    }
}

/// A fetch that waits for more.
#[derive(Clone, Debug)]
pub struct FetchWake {
    id: u64,
    list: WokenList,
}

impl Waiter for FetchWake {
    fn wake(&self) {
        self.list.put(Woken::Fetch(self.id));
    }
}
