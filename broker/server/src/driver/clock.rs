//! The clocks of the edge. The pure crates get their times from here, as arguments.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of the monotonic clock since some moment before the first call.
#[must_use]
pub fn mono_ms() -> u64 {
    crate::replication::mono_ms()
}

/// Wall clock, milliseconds since 1970, as peers and the doctor see it.
///
/// `CHRONIK_TEST_CLOCK_OFFSET_MS` shifts it, so that tests can show a broker whose clock is wrong.
#[must_use]
pub fn wall_ms() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let offset = || std::env::var("CHRONIK_TEST_CLOCK_OFFSET_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    now.saturating_add(*OFFSET.get_or_init(offset))
}
