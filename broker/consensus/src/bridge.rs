//! raft's slog events as tracing events of target `raft`.
//!
//! A level lower than raft's own: what raft calls info happens at every election and is DEBUG here; the host logs
//! the few things a person must see.

use std::fmt;

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, o};

#[derive(Debug)]
struct ToTracing;

/// The logger to give to raft.
pub(crate) fn logger() -> Logger {
    Logger::root(ToTracing, o!())
}

#[derive(Default)]
struct Pairs(String);

impl slog::Serializer for Pairs {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        use fmt::Write as _;
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let enabled = match record.level() {
            Level::Critical | Level::Error => tracing::enabled!(target: "raft", tracing::Level::ERROR),
            Level::Warning => tracing::enabled!(target: "raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => tracing::enabled!(target: "raft", tracing::Level::TRACE),
        };
        if !enabled {
            return Ok(());
        }
        let mut pairs = Pairs::default();
        // Formatting into a string cannot fail; a lost pair is no reason to lose the event.
        let _ = record.kv().serialize(record, &mut pairs);
        let _ = values.serialize(record, &mut pairs);
        let (message, pairs) = (record.msg(), pairs.0.as_str());
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{message}{pairs}"),
            Level::Warning => tracing::warn!(target: "raft", "{message}{pairs}"),
            Level::Info => tracing::debug!(target: "raft", "{message}{pairs}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{message}{pairs}"),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => tracing::enabled!(target: "raft", tracing::Level::ERROR),
            Level::Warning => tracing::enabled!(target: "raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => tracing::enabled!(target: "raft", tracing::Level::TRACE),
        }
    }
}
