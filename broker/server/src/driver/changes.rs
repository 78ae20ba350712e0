//! Committed changes on their way from the Raft thread to the replica manager: in order, bounded, never blocking.
//!
//! The Raft thread pushes; one consumer takes everything that waits. When the consumer is too slow, the list is dropped and
//! it is told to look at the whole state instead, which is always right: the state is ahead of what was dropped.

use chronik_core::controller::Change;
use parking_lot::{Condvar, Mutex};

/// Most changes that wait.
const LIMIT: usize = 100_000;

/// What the consumer has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Act on these, in order.
    Changes(Vec<Change>),
    /// Compare with the whole state.
    Everything,
    /// No more will come.
    Closed,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    everything: bool,
    closed: bool,
}

/// The feed.
#[derive(Debug, Default)]
pub struct ChangeFeed {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

impl ChangeFeed {
    /// The state changed so.
    pub fn push(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.everything {
            return;
        }
        if waiting.changes.len() + changes.len() > LIMIT {
            waiting.changes = Vec::new();
            waiting.everything = true;
        } else {
            waiting.changes.extend(changes);
        }
        self.came.notify_one();
    }

    /// The whole state was replaced.
    pub fn replaced(&self) {
        let mut waiting = self.waiting.lock();
        waiting.changes = Vec::new();
        waiting.everything = true;
        self.came.notify_one();
    }

    /// Lets the consumer end.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.came.notify_one();
    }

    /// Waits for work. For a thread, not for a task.
    pub fn take(&self) -> Work {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                return Work::Closed;
            }
            if std::mem::take(&mut waiting.everything) {
                return Work::Everything;
            }
            if !waiting.changes.is_empty() {
                return Work::Changes(std::mem::take(&mut waiting.changes));
            }
            self.came.wait(&mut waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use chronik_model::NodeId;

    use super::*;

    #[test]
    fn changes_keep_their_order_and_a_slow_consumer_is_told_to_look_at_everything() {
        let feed = ChangeFeed::default();
        let change = |id| Change::Broker { node: NodeId(id) };
        feed.push(vec![change(1)]);
        feed.push(vec![change(2), change(3)]);
        assert_eq!(feed.take(), Work::Changes(vec![change(1), change(2), change(3)]));
        for _ in 0..=LIMIT {
            feed.push(vec![change(4)]);
        }
        feed.push(vec![change(5)]);
        assert_eq!(feed.take(), Work::Everything);
        feed.push(vec![change(6)]);
        assert_eq!(feed.take(), Work::Changes(vec![change(6)]));
        feed.push(vec![change(7)]);
        feed.replaced();
        assert_eq!(feed.take(), Work::Everything);
        feed.close();
        assert_eq!(feed.take(), Work::Closed);
    }
}
