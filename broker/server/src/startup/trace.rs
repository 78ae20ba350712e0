//! The steps of a start, each with its duration, for `/status` and the log.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::admin::status::{Startup, Step};

#[derive(Debug)]
struct Running {
    name: &'static str,
    since: Instant,
    detail: String,
    ms: Option<u64>,
}

/// The steps so far; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StartupTrace {
    steps: Arc<Mutex<Vec<Running>>>,
}

impl StartupTrace {
    /// Ends the step under way and begins `name`.
    pub fn begin(&self, name: &'static str) {
        self.end();
        self.steps.lock().push(Running { name, since: Instant::now(), detail: String::new(), ms: None });
    }

    /// What the step under way found, or waits for.
    pub fn detail(&self, detail: impl Into<String>) {
        let detail = detail.into();
        if let Some(step) = self.steps.lock().last_mut().filter(|step| step.detail != detail) {
            tracing::debug!(step = step.name, detail, "start-up");
            step.detail = detail;
        }
    }

    /// Ends the step under way.
    pub fn end(&self) {
        if let Some(step) = self.steps.lock().last_mut().filter(|step| step.ms.is_none()) {
            let ms = u64::try_from(step.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            step.ms = Some(ms);
            tracing::info!(step = step.name, ms, detail = step.detail, "start-up step done");
        }
    }

    /// For the status page.
    #[must_use]
    pub fn show(&self) -> Startup {
        let steps = self.steps.lock();
        let show = |step: &Running| Step { name: step.name.to_owned(), ms: step.ms, detail: step.detail.clone() };
        let current = steps.last().filter(|step| step.ms.is_none()).map(|step| step.name.to_owned());
        Startup { current, steps: steps.iter().map(show).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_a_duration_when_the_next_begins() {
        let trace = StartupTrace::default();
        trace.begin("storage");
        assert_eq!(trace.show().current.as_deref(), Some("storage"));
        trace.begin("resolve");
        trace.detail("waiting for node 2");
        let shown = trace.show();
        assert!(shown.steps[0].ms.is_some() && shown.steps[1].ms.is_none());
        assert_eq!(shown.steps[1].detail, "waiting for node 2");
        trace.end();
        assert_eq!(trace.show().current, None);
    }
}
