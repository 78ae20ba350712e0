//! What a person reads when a world failed.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::{Failure, Outcome};
use crate::plan::Plan;

/// Lines of the story that a report shows.
const SHOWN: usize = 60;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does something in which a panic is a result: it is kept for the report instead of being printed, and given back as text.
pub(crate) fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                return before(info);
            }
            let place =
                info.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
            let text = info.payload_as_str().unwrap_or("no text");
            PANICKED.set(Some(format!("{text}{place}")));
        }));
    });
    GUARDED.set(true);
    // What was half done is looked at for its story only.
    let result = catch_unwind(AssertUnwindSafe(act));
    GUARDED.set(false);
    result.map_err(|_payload| PANICKED.take().unwrap_or_else(|| "no text".to_owned()))
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
