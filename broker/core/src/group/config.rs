//! Settings of the coordinator, and the two clocks it is told about.

/// Settings of a [`GroupCoordinator`](super::GroupCoordinator), named after Kafka's broker settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`: how long the first rebalance of an empty group waits for more members.
    pub initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`: members of one group.
    pub max_size: usize,
    /// Member ids of one group that were handed out and have not joined yet.
    pub max_pending_members: usize,
    /// Groups of this partition; a new group beyond it is refused with `PolicyViolation`.
    pub max_groups: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: u64,
    /// `offset.metadata.max.bytes`: longest metadata text of a committed offset.
    pub max_offset_metadata: usize,
    /// How long a member that never got its first answer is kept.
    pub new_member_join_timeout_ms: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 30 * 60_000,
            max_size: 10_000,
            max_pending_members: 10_000,
            max_groups: 100_000,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_interval_ms: 600_000,
            max_offset_metadata: 4_096,
            new_member_join_timeout_ms: 300_000,
        }
    }
}

/// The time of an event: timers run on the monotonic clock, timestamps in records are wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub mono_ms: u64,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

impl Now {
    /// The monotonic time `ms` from now.
    pub(super) fn after(self, ms: u64) -> u64 {
        self.mono_ms.saturating_add(ms)
    }
}
