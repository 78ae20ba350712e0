//! Events: where they are written, and the switch for them at run time.
//!
//! `main` calls [`start`] once, before anything else; [`Switch::set`] is behind the admin port. Text for people, JSON for
//! collectors, always on stdout, one line per event.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{TracingConfig, TracingFormat};

/// Changes the filter of a running process.
#[derive(Clone, Debug)]
pub struct Switch {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl Switch {
    /// Filters by `directives` from now on.
    ///
    /// # Errors
    /// What is wrong with them; the filter stays as it was.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())?;
        tracing::info!(directives, "event filter changed");
        Ok(())
    }
}

/// Starts writing events.
///
/// # Errors
/// When the filter is malformed, or events are written already.
pub fn start(config: &TracingConfig) -> Result<Switch, String> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| error.to_string())?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.format {
        TracingFormat::Text => registry.with(fmt::layer().with_ansi(false)).try_init(),
        TracingFormat::Json => registry.with(fmt::layer().json()).try_init(),
    };
    started.map_err(|error| error.to_string())?;
    Ok(Switch { handle })
}
