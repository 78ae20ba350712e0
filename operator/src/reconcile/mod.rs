//! One reconcile pass.
//!
//! Called by the controller for one ChronikCluster at a time, and by the simulator. Order: dereference (I/O), validate,
//! plan (one next step and its reason), build, then apply: children that never hurt, the step, orphans, status. What the
//! operator must remember is in the status and in the brokers' own state and is written before the act that relies on
//! it, so ending between any two calls does no harm. Never more than one disruptive act per pass. Time and randomness are
//! arguments.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::Gate;
use crate::ports::{Brokers, Key, Kube, KubeError, RebalanceLimits};

/// What the process knows and no object says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of brokers whose spec names none.
    pub broker_image: String,
    /// Limits of rebalancing calls.
    pub rebalance: RebalanceLimits,
}

/// Random values for a cluster that has none yet: drawn anew for every pass, used at most once.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// A cluster id.
    pub cluster_id: String,
    /// A control secret.
    pub token: String,
}

/// What a pass came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// When to look again, if nothing happens before.
    pub requeue_after: Duration,
    /// Writes to Kubernetes, events aside.
    pub writes: u32,
    /// Calls that changed something at the brokers.
    pub broker_calls: u32,
    /// Nothing to do and nothing to wait for.
    pub steady: bool,
    /// What holds something back, and since when.
    pub blocked: Vec<(Gate, Timestamp)>,
    /// What was done, for the log; None = nothing.
    pub step: Option<String>,
}

/// Why a pass ended early. The controller tries again later, with its own growing delay.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Kubernetes did not do what it was asked.
    #[error("{doing}: {error}")]
    Kube {
        /// What was being done.
        doing: String,
        /// Its answer.
        error: KubeError,
    },
}

impl Error {
    /// What was read was out of date; trying again soon is enough, nobody needs to be told.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube { error: KubeError::Conflict(_), .. })
    }
}

/// One pass. None = there is no such cluster, or it is being deleted.
pub async fn reconcile(
    kube: &impl Kube,
    brokers: &impl Brokers,
    key: &Key,
    now: Timestamp,
    fresh: &Fresh,
    settings: &Settings,
) -> Result<Option<Outcome>, Error>
