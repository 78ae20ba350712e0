//! Everything that a broker waits for by the clock, in one ordered list, so that the kernel holds one timer per broker.

use std::collections::BTreeMap;

use chronik_model::{NodeId, PartitionIndex};

/// Who is woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alarm {
    /// An attempt of a proposal is over, or its pause is.
    Attempt(u64),
    /// A proposal's deadline.
    Deadline(u64),
    /// A question to a peer was not answered in time.
    Question(u64),
    /// The next step of joining, registering or reporting.
    Life,
    /// A stage of the stop took too long.
    Stage,
    /// Whether a stop is hopeless.
    Hope,
    /// A fetcher has something due.
    Fetcher(NodeId),
    /// A parked fetch has waited long enough.
    Fetch(u64),
    /// A produce has waited long enough.
    Produce(u64),
    /// Ticks, checkpoints, retention.
    Maintenance,
    /// The committer gets to work.
    Flush,
    /// Timers of a group coordinator, or its loading.
    Groups(PartitionIndex),
    /// A state image takes too long.
    Image(NodeId),
}

/// Names an alarm, to take it back.
pub(super) type AlarmId = (u64, u64);

/// The list.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    due: BTreeMap<AlarmId, Alarm>,
    sequence: u64,
    /// Time and number of the timer that the kernel holds.
    armed: Option<(u64, u64)>,
    generation: u64,
}

impl Alarms {
    /// Wakes at `at_ms`.
    pub(super) fn set(&mut self, at_ms: u64, alarm: Alarm) -> AlarmId {
        self.sequence += 1;
        let id = (at_ms, self.sequence);
        self.due.insert(id, alarm);
        id
    }

    /// Not any more.
    pub(super) fn cancel(&mut self, id: AlarmId) {
        self.due.remove(&id);
    }

    /// The same for a place that holds at most one.
    pub(super) fn clear(&mut self, place: &mut Option<AlarmId>) {
        if let Some(id) = place.take() {
            self.due.remove(&id);
        }
    }

    /// The next one that is due.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<Alarm> {
        let first = self.due.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        Some(first.remove())
    }

    /// The timer of this number fired; false when it is not the one that counts.
    pub(super) fn fired(&mut self, generation: u64) -> bool {
        let counts = self.armed.is_some_and(|(_, armed)| armed == generation);
        if counts {
            self.armed = None;
        }
        counts
    }

    /// The timer that is to be set now, if the one held is too late: when, and its number.
    pub(super) fn arm(&mut self, or_at_ms: u64) -> Option<(u64, u64)> {
        let next = self.due.first_key_value().map_or(or_at_ms, |((at_ms, _), _)| or_at_ms.min(*at_ms));
        if next == u64::MAX || self.armed.is_some_and(|(at_ms, _)| at_ms <= next) {
            return None;
        }
        self.generation += 1;
        self.armed = Some((next, self.generation));
        self.armed
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}
