//! Events that users read in `kubectl describe`: each said once, repetitions counted.
//!
//! Called by [`super::KubeIo`] for a pass. A pass that waits says the same in every pass; the API server hears it once, and
//! once in half an hour after that, as a series. [`Book`] decides that and is bounded; what it has forgotten is said anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use uuid::Uuid;

use crate::ports::Event;

const CONTROLLER: &str = "chronik.io/chronik-operator";
/// Between two counts of the same event. API servers forget events after an hour.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// Not repeated for this long: if it comes again, it is news.
const FORGET: Duration = Duration::from_secs(50 * 60);
const MOST: usize = 1024;
/// What the API server accepts.
const LONGEST_NOTE: usize = 1000;
const LONGEST_REASON: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Said {
    uid: String,
    warning: bool,
    reason: String,
    note: String,
}

#[derive(Debug)]
struct Entry {
    /// Of the object of kind Event.
    name: String,
    count: i32,
    published: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    New,
    Again { name: String, count: i32 },
    Silent,
}

#[derive(Debug, Default)]
struct Book(HashMap<Said, Entry>);

impl Book {
    fn judge(&mut self, said: &Said, now: Instant) -> Verdict {
        self.0.retain(|_, entry| now.saturating_duration_since(entry.published) < FORGET);
        let Some(entry) = self.0.get_mut(said) else { return Verdict::New };
        entry.count = entry.count.saturating_add(1);
        if now.saturating_duration_since(entry.published) < AGAIN {
            return Verdict::Silent;
        }
        entry.published = now;
        Verdict::Again { name: entry.name.clone(), count: entry.count }
    }

    fn published(&mut self, said: Said, name: String, now: Instant) {
        if self.0.len() >= MOST
            && let Some(oldest) = self.0.iter().min_by_key(|(_, entry)| entry.published).map(|(said, _)| said.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(said, Entry { name, count: 1, published: now });
    }
}

/// Publishes events.
pub struct Recorder {
    client: Client,
    instance: String,
    book: Mutex<Book>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Recorder {
    pub fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: cut(instance, LONGEST_REASON), book: Mutex::default() }
    }

    pub async fn publish(&self, about: &ObjectReference, event: &Event) -> kube::Result<()> {
        let said = Said {
            uid: about.uid.clone().unwrap_or_default(),
            warning: event.warning,
            reason: cut(&event.reason, LONGEST_REASON),
            note: cut(&event.note, LONGEST_NOTE),
        };
        let api: Api<KubeEvent> = Api::namespaced(self.client.clone(), about.namespace.as_deref().unwrap_or("default"));
        let verdict = self.book.lock().judge(&said, Instant::now());
        match verdict {
            Verdict::Silent => Ok(()),
            Verdict::Again { name, count } => {
                let observed = MicroTime(jiff::Timestamp::now());
                let body = json!({ "series": { "count": count, "lastObservedTime": observed } });
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
                    // Forgotten by the API server: said anew.
                    Err(kube::Error::Api(status)) if status.code == 404 => self.create(&api, about, event, said).await,
                    other => other.map(drop),
                }
            }
            Verdict::New => self.create(&api, about, event, said).await,
        }
    }

    async fn create(
        &self,
        api: &Api<KubeEvent>,
        about: &ObjectReference,
        event: &Event,
        said: Said,
    ) -> kube::Result<()> {
        let name = format!("{}.{}", cut(about.name.as_deref().unwrap_or("chronik"), 200), Uuid::new_v4().simple());
        let object = KubeEvent {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            regarding: Some(about.clone()),
            action: Some(cut(&event.action, LONGEST_REASON))
                .filter(|action| !action.is_empty())
                .or_else(|| Some("Reconcile".to_owned())),
            reason: Some(said.reason.clone()),
            note: Some(said.note.clone()),
            type_: Some(if said.warning { "Warning" } else { "Normal" }.to_owned()),
            event_time: Some(MicroTime(jiff::Timestamp::now())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..KubeEvent::default()
        };
        api.create(&PostParams::default(), &object).await?;
        self.book.lock().published(said, name, Instant::now());
        Ok(())
    }
}

/// At most that many bytes, ending at a character.
fn cut(text: &str, longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(note: &str) -> Said {
        Said { uid: "u".into(), warning: true, reason: "R".into(), note: note.into() }
    }

    #[test]
    fn the_same_is_said_once_and_counted_twice_an_hour() {
        let (mut book, start) = (Book::default(), Instant::now());
        assert_eq!(book.judge(&said("a"), start), Verdict::New);
        book.published(said("a"), "x.1".into(), start);
        for second in 1..100 {
            assert_eq!(book.judge(&said("a"), start + Duration::from_secs(second)), Verdict::Silent);
        }
        assert_eq!(book.judge(&said("b"), start), Verdict::New, "another note is news");
        assert_eq!(book.judge(&said("a"), start + AGAIN), Verdict::Again { name: "x.1".into(), count: 101 });
        assert_eq!(book.judge(&said("a"), start + AGAIN), Verdict::Silent);
    }

    #[test]
    fn what_was_not_published_is_tried_again() {
        let (mut book, start) = (Book::default(), Instant::now());
        assert_eq!(book.judge(&said("a"), start), Verdict::New);
        assert_eq!(book.judge(&said("a"), start), Verdict::New);
    }

    #[test]
    fn the_book_is_bounded_and_forgets() {
        let (mut book, start) = (Book::default(), Instant::now());
        for n in 0..MOST + 10 {
            book.published(said(&n.to_string()), n.to_string(), start + Duration::from_millis(n as u64));
        }
        assert_eq!(book.0.len(), MOST);
        assert_eq!(book.judge(&said("0"), start + Duration::from_secs(60)), Verdict::New, "the oldest was dropped");
        assert_eq!(book.judge(&said("1000"), start + FORGET + Duration::from_secs(60)), Verdict::New);
        assert!(book.0.is_empty());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 10), "abc");
    }
}
