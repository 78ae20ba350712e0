//! What happened, for people, and its hash, by which two runs of one seed are compared.
//!
//! Every part of the world tells its events here. The hash covers all of them; the last few are kept for a failure's report, all
//! of them only when the story was asked for.

use std::collections::VecDeque;
use std::fmt::Write as _;

const KEPT: usize = 120;

/// The story of one world.
#[derive(Debug)]
pub struct Trace {
    lines: VecDeque<String>,
    all: bool,
    hash: u64,
    count: u64,
}

impl Trace {
    /// Keeps the last lines, or `all`.
    #[must_use]
    pub fn new(all: bool) -> Self {
        Self { lines: VecDeque::new(), all, hash: 0xcbf2_9ce4_8422_2325, count: 0 }
    }

    /// Something happened at `now` (milliseconds).
    pub fn tell(&mut self, now: u64, who: &str, what: std::fmt::Arguments<'_>) {
        let mut line = String::with_capacity(96);
        let _infallible = write!(line, "{:>5}.{:03} {who:<8} {what}", now / 1000, now % 1000);
        for byte in line.as_bytes() {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.count += 1;
        if !self.all && self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Of everything told.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What was kept, one event per line.
    #[must_use]
    pub fn story(&self) -> String {
        self.lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }
}
