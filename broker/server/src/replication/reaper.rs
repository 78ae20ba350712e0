//! Deletes the files of removed replicas: one thread, as unlinking gigabytes may take seconds.
//!
//! The replica manager has renamed each directory durably before it puts it here, so whatever interrupts this thread,
//! the next start finds what is left and goes on. Started by [`ReplicaManager::start`](super::ReplicaManager::start); ends
//! with the manager, in the middle of its work if need be.
//!
//! What never happens: anybody waits for it; a directory under the name of a partition is touched.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use chronik_log::LogDir;
use chronik_node::storage::{self, Doomed};
use parking_lot::Mutex;

/// What is to be deleted. Holds at most one entry per removed replica.
pub(super) struct Reaper {
    queue: Mutex<Sender<Doomed>>,
    waiting: Mutex<Option<Receiver<Doomed>>>,
}

impl Default for Reaper {
    fn default() -> Self {
        let (queue, waiting) = channel();
        Self { queue: Mutex::new(queue), waiting: Mutex::new(Some(waiting)) }
    }
}

impl Reaper {
    /// To be deleted after what was put before.
    pub(super) fn put(&self, doomed: Doomed) {
        // Without the thread, which only a failing start leaves out, the next run deletes it.
        let _left = self.queue.lock().send(doomed);
    }

    /// Begins with what earlier runs left; only the first call counts.
    pub(super) fn start(&self, log_dir: &Arc<LogDir>) -> std::io::Result<()> {
        let Some(waiting) = self.waiting.lock().take() else { return Ok(()) };
        let log_dir = Arc::clone(log_dir);
        let thread = std::thread::Builder::new().name("reaper".to_owned());
        thread.spawn(move || {
            let left = storage::doomed(&log_dir).unwrap_or_else(|error| {
                tracing::error!(%error, "cannot look for removed replicas whose deletion was interrupted");
                Vec::new()
            });
            for doomed in left.into_iter().chain(waiting) {
                match doomed.unlink(&log_dir) {
                    Ok(()) => tracing::debug!(?doomed, "deleted"),
                    Err(error) => tracing::error!(?doomed, %error, "a removed replica is not deleted"),
                }
            }
        })?;
        Ok(())
    }
}
