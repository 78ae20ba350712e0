//! Waiting as data: requests that wait for a watermark are entries in the partition's lists, not tasks.
//!
//! A produce request makes one [`AckWait`] and leaves an [`AckTicket`] in each partition it wrote to; the partition
//! completes tickets when its high watermark passes or its leadership ends. A fetch makes one [`FetchWait`] and leaves
//! it with each partition it read; any advance wakes it, and it leaves the lists when it is answered or gone. The lists
//! themselves are `chronik-core`'s. The request's own future holds the deadline; tickets of a produce that is gone are
//! dropped when their own deadline passes.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use chronik_core::partition::waiters::FetchWaiterKey;
use chronik_model::{ErrorCode, Offset};
use chronik_node::partition::{Ticket, Waiter};
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::partition::Partition;

/// The acknowledgements that one request waits for.
#[derive(Debug, Default)]
pub struct AckWait {
    open: AtomicUsize,
    results: Mutex<Vec<(usize, ErrorCode)>>,
    waker: AtomicWaker,
}

/// One acknowledgement, held by a partition until it is known.
#[derive(Debug)]
pub struct AckTicket {
    wait: Weak<AckWait>,
    index: usize,
    required: Offset,
}

impl AckWait {
    /// A ticket for the `index`th partition of the request, complete when the high watermark reaches `required`.
    #[must_use]
    pub fn ticket(self: &Arc<Self>, index: usize, required: Offset) -> AckTicket {
        self.open.fetch_add(1, Ordering::AcqRel);
        AckTicket { wait: Arc::downgrade(self), index, required }
    }

    /// The errors known so far, by index of the ticket.
    #[must_use]
    pub fn results(&self) -> Vec<(usize, ErrorCode)> {
        self.results.lock().clone()
    }

    /// Completes when all tickets are.
    pub fn all(self: Arc<Self>) -> AllAcks {
        AllAcks(self)
    }
}

impl Ticket for AckTicket {
    fn required(&self) -> Offset {
        self.required
    }

    /// Tells the request how it ended. A ticket that is dropped instead stays open until the request's deadline.
    fn complete(self, error: ErrorCode) {
        let Some(wait) = self.wait.upgrade() else { return };
        wait.results.lock().push((self.index, error));
        if wait.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            wait.waker.wake();
        }
    }
}

/// Future of [`AckWait::all`].
#[derive(Debug)]
pub struct AllAcks(Arc<AckWait>);

impl Future for AllAcks {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.open.load(Ordering::Acquire) == 0 {
            return Poll::Ready(());
        }
        self.0.waker.register(cx.waker());
        if self.0.open.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A fetch that waits for more.
#[derive(Debug, Default)]
pub struct FetchWait {
    woken: AtomicBool,
    hurried: AtomicBool,
    waker: AtomicWaker,
    places: Mutex<Vec<(Weak<Partition>, FetchWaiterKey)>>,
}

impl FetchWait {
    /// Remembers one partition's list that it is in.
    pub(super) fn entered(&self, partition: &Arc<Partition>, key: FetchWaiterKey) {
        self.places.lock().push((Arc::downgrade(partition), key));
    }

    /// Takes it out of all lists that it is still in: a fetch that is answered must not fill the lists of idle partitions
    /// until its deadline. Locks each partition, so no partition may be locked.
    pub fn leave(&self) {
        let places = std::mem::take(&mut *self.places.lock());
        for (partition, key) in places {
            if let Some(partition) = partition.upgrade() {
                partition.forget_fetch(key);
            }
        }
    }

    /// Wakes the fetch.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Wakes the fetch and makes it answer with what there is: the next request of its connection has come.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether it has to answer now.
    #[must_use]
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire)
    }

    /// Completes at the next wake, or at once when one came since the last time.
    pub fn woken(self: &Arc<Self>) -> Woken {
        Woken(Arc::clone(self))
    }
}

impl Waiter for FetchWait {
    fn wake(&self) {
        Self::wake(self);
    }
}

/// Future of [`FetchWait::woken`].
#[derive(Debug)]
pub struct Woken(Arc<FetchWait>);

impl Future for Woken {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        if self.0.woken.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_woken_when_its_last_ticket_completes_and_learns_each_error() {
        let wait = Arc::new(AckWait::default());
        let (first, second) = (wait.ticket(0, Offset(1)), wait.ticket(1, Offset(1)));
        first.complete(ErrorCode::None);
        let waiting = tokio::spawn(Arc::clone(&wait).all());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        second.complete(ErrorCode::NotLeaderOrFollower);
        waiting.await.unwrap();
        assert_eq!(wait.results(), [(0, ErrorCode::None), (1, ErrorCode::NotLeaderOrFollower)]);
    }

    #[tokio::test]
    async fn a_wake_between_two_waits_is_not_lost() {
        let wait = Arc::new(FetchWait::default());
        wait.wake();
        wait.woken().await;
    }

    #[tokio::test]
    async fn a_hurried_fetch_does_not_wait_again() {
        let wait = Arc::new(FetchWait::default());
        assert!(!wait.is_hurried());
        wait.hurry();
        wait.woken().await;
        assert!(wait.is_hurried());
    }
}
