//! When a pass is made over which cluster.
//!
//! Run by `main` while this replica leads. [`watches`] turns changes in Kubernetes into requests; kube's applier keeps at most
//! one pass per cluster and at most `concurrency` at a time under way, and comes back when a pass asked for it. A failed pass
//! is repeated after [`Backoffs`]' delay. Objects that this version cannot read are told so and touch nobody else.
//!
//! Two ways to end: `stop` lets the passes under way come to their end and begins no new one; dropping the future (leadership
//! is lost) ends them wherever they are, which `reconcile` is made for.

mod watches;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::{Client, Resource as _};
use kube_runtime::applier;
use kube_runtime::controller::{Action, Config, Error as ApplierError};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::api::ChronikCluster;
use crate::backoff::Backoffs;
use crate::broker_io::BrokerIo;
use crate::health::Health;
use crate::kube_io::KubeIo;
use crate::metrics::{ClusterLabels, Metrics, Outcome as PassOutcome, Pass};
use crate::ports::{Event, Key, KubeError};
use crate::reconcile::{self, Error, Fresh, Outcome, Settings};
use watches::Guarded;

/// An object that cannot be read is looked at again when it changes; this is for an API server that could not be told.
const UNREADABLE_AGAIN: Duration = Duration::from_secs(300);
/// The deletion of the cluster itself wakes sooner than that.
const ENDING_AGAIN: Duration = Duration::from_secs(5);
/// No pass asks for less; a pass that asked for nothing at all would otherwise spin.
const SOONEST: Duration = Duration::from_millis(50);

/// What a controller works with.
#[derive(Debug)]
pub struct Context {
    pub kube: KubeIo,
    pub brokers: BrokerIo,
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub backoffs: Backoffs<Key>,
    /// Generation of the unreadable objects that were told.
    told: Mutex<HashMap<Key, Option<i64>>>,
}

impl Context {
    pub fn new(kube: KubeIo, brokers: BrokerIo, settings: Settings, metrics: Arc<Metrics>, health: Health) -> Self {
        let (seed, _) = Uuid::new_v4().as_u64_pair();
        Self { kube, brokers, settings, metrics, health, backoffs: Backoffs::new(seed), told: Mutex::default() }
    }

    fn gone(&self, key: &Key) {
        self.metrics.forget(&labels(key));
        self.backoffs.forget(key);
        self.told.lock().remove(key);
    }
}

/// Makes passes until `stop` is set and those under way have ended. `namespace`: None = all.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    concurrency: u16,
    context: Arc<Context>,
    mut stop: watch::Receiver<bool>,
) {
    let (store, requests) = watches::requests(&client, namespace, Arc::clone(&context));
    let requests = requests.take_until(async move { drop(stop.wait_for(|stop| *stop).await) }.boxed());
    applier(
        |object, context| pass(object, context).boxed(),
        |object, _: &PassError, context| again(&object, &context),
        context,
        store,
        requests,
        Config::default().concurrency(concurrency),
    )
    .for_each(|ended| {
        // A request for an object that is gone by now, or a failed pass, which has been logged where it failed.
        if let Err(error @ (ApplierError::QueueError(_) | ApplierError::RunnerError(_))) = ended {
            tracing::error!(%error, "the queue of passes failed");
        }
        std::future::ready(())
    })
    .await;
}

#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("{0}")]
    Reconcile(#[from] Error),
    #[error("{0}")]
    Unreadable(KubeError),
}

async fn pass(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, PassError> {
    let Some(key) = key_of(&object) else { return Ok(Action::await_change()) };
    let name = key.to_string();
    let began = Instant::now();
    context.health.pass_begins(&name, began);
    let result = match &object.0 {
        Ok(_) => Box::pin(reconciled(&key, &context, began)).await,
        Err(invalid) => unreadable(&key, &object, invalid, &context).await,
    };
    context.health.pass_ends(&name);
    result
}

async fn reconciled(key: &Key, context: &Context, began: Instant) -> Result<Action, PassError> {
    context.told.lock().remove(key);
    let now = jiff::Timestamp::now();
    let fresh = fresh();
    // A pass is a large state machine: on the heap, once.
    let work = reconcile::reconcile(&context.kube, &context.brokers, key, now, &fresh, &context.settings);
    let result = Box::pin(work).await;
    let took = began.elapsed();
    match result {
        Ok(None) => {
            context.gone(key);
            Ok(Action::await_change())
        }
        Ok(Some(outcome)) => {
            context.backoffs.forget(key);
            context.metrics.passed(&labels(key), &summary(&outcome, took));
            log(key, &outcome, took);
            Ok(Action::requeue(outcome.requeue_after.max(SOONEST)))
        }
        Err(error) if is_ending(&error) => {
            tracing::debug!(cluster = %key, %error, "the namespace is being deleted, the cluster will be");
            Ok(Action::requeue(ENDING_AGAIN))
        }
        Err(error) => {
            let kind = kind_of(&error);
            context.metrics.failed(kind);
            let failed =
                Pass { outcome: PassOutcome::Failed, took, writes: 0, steady: false, blocked: Default::default() };
            context.metrics.passed(&labels(key), &failed);
            if error.is_conflict() {
                tracing::debug!(cluster = %key, %error, "what was read is out of date");
            } else {
                tracing::warn!(cluster = %key, kind, %error, "the pass failed");
            }
            Err(error.into())
        }
    }
}

/// The object is not what this version of the operator takes a ChronikCluster to be: says so, once for each generation.
async fn unreadable(
    key: &Key,
    object: &Guarded,
    invalid: &InvalidObject,
    context: &Context,
) -> Result<Action, PassError> {
    let generation = invalid.metadata.generation;
    if context.told.lock().get(key) == Some(&generation) {
        return Ok(Action::await_change());
    }
    context.metrics.failed("unreadable");
    tracing::warn!(cluster = %key, error = invalid.error, "this version of the operator cannot read the object");
    let message = format!("this version of the operator cannot read the object: {}", invalid.error);
    let about: ObjectReference = object.object_ref(&());
    let event = Event {
        warning: true,
        reason: "Unreadable".to_owned(),
        action: "Validate".to_owned(),
        note: format!("{message}. Its brokers are left as they are."),
    };
    context.kube.tell(&about, &event).await;
    context.kube.tell_unreadable(key, generation, &message).await.map_err(PassError::Unreadable)?;
    context.told.lock().insert(key.clone(), generation);
    Ok(Action::requeue(UNREADABLE_AGAIN))
}

fn again(object: &Guarded, context: &Context) -> Action {
    key_of(object).map_or_else(Action::await_change, |key| Action::requeue(context.backoffs.failed(&key)))
}

fn key_of(object: &Guarded) -> Option<Key> {
    let meta = object.meta();
    Some(Key::new(meta.namespace.as_deref()?, meta.name.as_deref()?))
}

fn labels(key: &Key) -> ClusterLabels {
    ClusterLabels { namespace: key.namespace.clone(), cluster: key.name.clone() }
}

/// Two random UUIDs are 244 bits; one is what Kafka uses for the id of a cluster.
fn fresh() -> Fresh {
    Fresh {
        cluster_id: Uuid::new_v4().simple().to_string(),
        token: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
    }
}

fn summary(outcome: &Outcome, took: Duration) -> Pass {
    let ended = if outcome.steady && outcome.writes == 0 && outcome.broker_calls == 0 {
        PassOutcome::Steady
    } else if outcome.writes > 0 || outcome.broker_calls > 0 {
        PassOutcome::Acted
    } else {
        PassOutcome::Waiting
    };
    Pass {
        outcome: ended,
        took,
        writes: u64::from(outcome.writes),
        steady: outcome.steady,
        blocked: outcome.blocked.iter().map(|(gate, since)| (gate.to_string(), since.as_second())).collect(),
    }
}

/// In a namespace that is being deleted nothing can be created any more: no failure, and nothing to try again soon.
fn is_ending(error: &Error) -> bool {
    let Error::Kube { error, .. } = error;
    matches!(error, KubeError::Forbidden(message) if message.contains("because it is being terminated"))
}

fn kind_of(error: &Error) -> &'static str {
    match error {
        Error::Kube { error, .. } => match error {
            KubeError::NotFound(_) => "not_found",
            KubeError::Conflict(_) => "conflict",
            KubeError::Forbidden(_) => "forbidden",
            KubeError::Invalid(_) => "invalid",
            KubeError::Unavailable(_) => "unavailable",
        },
    }
}

fn log(key: &Key, outcome: &Outcome, took: Duration) {
    let blocked: Vec<_> = outcome.blocked.iter().map(|(gate, _)| gate.as_str()).collect();
    let (writes, calls, again) = (outcome.writes, outcome.broker_calls, outcome.requeue_after);
    match &outcome.step {
        Some(step) => tracing::info!(cluster = %key, step, writes, calls, ?blocked, ?took, "pass"),
        None => {
            tracing::debug!(cluster = %key, steady = outcome.steady, writes, calls, ?blocked, ?took, ?again, "pass")
        }
    }
}

/// How the applier's store names a cluster.
pub(crate) fn request_for(key: &Key) -> kube_runtime::reflector::ObjectRef<DeserializeGuard<ChronikCluster>> {
    kube_runtime::reflector::ObjectRef::new(&key.name).within(&key.namespace)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod summaries {
    use super::*;
    use crate::api::Gate;

    fn outcome(steady: bool, writes: u32, broker_calls: u32) -> Outcome {
        Outcome { requeue_after: Duration::from_secs(1), writes, broker_calls, steady, blocked: Vec::new(), step: None }
    }

    #[test]
    fn a_pass_is_steady_only_when_it_changed_nothing() {
        let ended = |o: &Outcome| summary(o, Duration::ZERO).outcome;
        assert_eq!(ended(&outcome(true, 0, 0)), PassOutcome::Steady);
        assert_eq!(ended(&outcome(true, 1, 0)), PassOutcome::Acted);
        assert_eq!(ended(&outcome(false, 0, 1)), PassOutcome::Acted);
        assert_eq!(ended(&outcome(false, 0, 0)), PassOutcome::Waiting);
    }

    #[test]
    fn gates_become_labels_with_the_second_since_when() {
        let since = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let outcome = Outcome { blocked: vec![(Gate::QuorumNotCaughtUp, since)], ..outcome(false, 0, 0) };
        let blocked = summary(&outcome, Duration::ZERO).blocked;
        assert_eq!(blocked.get("QuorumNotCaughtUp"), Some(&1_700_000_000));
    }

    #[test]
    fn a_namespace_that_is_being_deleted_is_no_failure() {
        let error = |text: &str| Error::Kube { doing: "applying".into(), error: KubeError::Forbidden(text.into()) };
        let said =
            "pods \"x\" is forbidden: unable to create new content in namespace n because it is being terminated";
        assert!(is_ending(&error(said)));
        assert!(!is_ending(&error("pods is forbidden: no such right")));
    }

    #[test]
    fn every_cluster_gets_another_id_and_secret() {
        let (a, b) = (fresh(), fresh());
        assert_ne!(a.cluster_id, b.cluster_id);
        assert_ne!(a.token, b.token);
        assert_eq!(a.token.len(), 64);
        assert!(a.cluster_id.len() <= 64 && a.cluster_id.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
