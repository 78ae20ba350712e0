//! Labels of the nodes that brokers run on, for their racks.
//!
//! The one thing that is remembered between passes: the zone of a node practically never changes, and a cluster at rest should not
//! ask for each of its nodes again and again. An answer is a minute old at most, also that of an API server that forbids to ask; what failed
//! otherwise is not remembered. Nothing but the racks relies on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ports::KubeError;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(60);
/// More answers than this are not kept.
const MOST: usize = 4096;

type Answer = Result<Option<String>, KubeError>;

/// Answers of the last minute, by node and label.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<BTreeMap<(String, String), (Instant, Answer)>>);

impl Answers {
    pub(super) fn get(&self, node: &str, label: &str, now: Instant) -> Option<Answer> {
        let all = self.0.lock();
        let (at, answer) = all.get(&(node.to_owned(), label.to_owned()))?;
        (now.saturating_duration_since(*at) < FRESH).then(|| answer.clone())
    }

    pub(super) fn keep(&self, node: &str, label: &str, now: Instant, answer: &Answer) {
        if !matches!(answer, Ok(_) | Err(KubeError::Forbidden(_))) {
            return;
        }
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        }
        if all.len() < MOST {
            all.insert((node.to_owned(), label.to_owned()), (now, answer.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_a_minute_and_no_more_than_fit() {
        let (answers, begin) = (Answers::default(), Instant::now());
        answers.keep("n", "zone", begin, &Ok(Some("a".into())));
        assert_eq!(answers.get("n", "zone", begin + FRESH / 2), Some(Ok(Some("a".into()))));
        assert_eq!(answers.get("n", "rack", begin), None);
        assert_eq!(answers.get("n", "zone", begin + FRESH), None);
        for node in 0..MOST + 10 {
            answers.keep(&node.to_string(), "zone", begin, &Ok(None));
        }
        assert_eq!(answers.0.lock().len(), MOST);
        answers.keep("later", "zone", begin + FRESH, &Ok(None));
        assert_eq!(answers.0.lock().len(), 1, "the old ones made room");
    }

    #[test]
    fn that_asking_is_forbidden_is_kept_and_what_may_go_better_is_not() {
        let (answers, now) = (Answers::default(), Instant::now());
        answers.keep("a", "zone", now, &Err(KubeError::Forbidden("no".into())));
        answers.keep("b", "zone", now, &Err(KubeError::Unavailable("later".into())));
        assert!(answers.get("a", "zone", now).is_some());
        assert_eq!(answers.get("b", "zone", now), None);
    }
}
