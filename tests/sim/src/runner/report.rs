//! What a person reads when a world failed.

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Once;

use super::{Failure, Outcome};
use crate::plan::Plan;

/// Lines of the story that a report shows.
const SHOWN: usize = 60;

thread_local! {
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of worlds are kept for the report instead of being printed at once.
pub(crate) fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place =
                info.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
            let text = info.payload_as_str().unwrap_or("no text");
            PANICKED.set(Some(format!("{text}{place}")));
        }));
    });
}

/// What the last panic of this thread said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let plain = || {
        payload.downcast_ref::<String>().cloned().or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
    };
    PANICKED.take().or_else(plain).unwrap_or_else(|| "no text".to_owned())
}

/// The report of a failed plan: seed, shape, invariant, last events, and how to see it again.
#[must_use]
pub fn failure(plan: &Plan, failure: &Failure, outcome: &Outcome, again: &str) -> String {
    let mut out = String::new();
    let lines = &outcome.lines;
    let from = lines.len().saturating_sub(SHOWN);
    let _infallible = write!(
        out,
        "seed {} FAILED at {:.3} s: {failure}\n\n{}\n{} steps, {} declined; {} events; hash {:016x}\n\nlast events:\n",
        plan.seed,
        outcome.simulated as f64 / 1e6,
        plan.shape,
        plan.steps.len(),
        outcome.declined,
        outcome.events,
        outcome.hash,
    );
    for line in &lines[from..] {
        out.push_str(line);
        out.push('\n');
    }
    let _infallible = write!(out, "\n{failure}\nreplay: {again}\nwhole story: {again} --trace\n");
    out
}

/// Everything that was kept of a story.
#[must_use]
pub fn story(outcome: &Outcome) -> String {
    let mut out = outcome.lines.join("\n");
    out.push('\n');
    out
}
