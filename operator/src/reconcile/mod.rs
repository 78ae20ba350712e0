//! One reconcile pass.
//!
//! Called by the controller for one ChronikCluster at a time, and by the simulator. Order: dereference (I/O), validate,
//! plan (one next step and its reason), build, then apply: children that never hurt, the step, orphans, status. What the
//! operator must remember is in the status and in the brokers' own state and is written before the act that relies on
//! it, so ending between any two calls does no harm. Never more than one disruptive act per pass. Time and randomness are
//! arguments.

mod act;
mod children;
mod identity;
mod observe;
mod racks;
mod settings;

use std::time::Duration;

use jiff::Timestamp;

use crate::api::{
    APPROVED_REVISION_ANNOTATION, ChronikCluster, ChronikClusterStatus, ConditionType, Gate, RetentionPolicy,
    RolloutPolicy, ScaleDownPolicy, StorageType, UpgradePolicy,
};
use crate::build;
use crate::mutant;
use crate::observed::{Observed, Told};
use crate::plan::{self, Doing, Hold, Plan, Step, View, Wanted};
use crate::ports::{Brokers, Event, Expansion, Key, Kube, KubeError};
use crate::quantity;
use crate::status_of;
use crate::validate::validate;

/// What the process knows and no object says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of brokers whose spec names none.
    pub broker_image: String,
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

/// Names what was being done when Kubernetes refused.
fn doing(what: impl Into<String>) -> impl FnOnce(KubeError) -> Error {
    let doing = what.into();
    move |error| Error::Kube { doing, error }
}

/// Everything of one pass that changes while it runs.
struct Pass<'a, K: Kube, B: Brokers> {
    kube: &'a K,
    brokers: &'a B,
    key: &'a Key,
    settings: &'a Settings,
    uid: String,
    resource_version: String,
    observed: Observed,
    /// As it is in Kubernetes.
    written: ChronikClusterStatus,
    /// Identity, founders, retired disks, rebalancing as they shall be.
    status: ChronikClusterStatus,
    token: crate::ports::Token,
    racks: Option<Told>,
    told_settings: Option<Told>,
    writes: u32,
    broker_calls: u32,
}

/// One pass. None = there is no such cluster, or it is being deleted.
///
/// # Errors
/// When Kubernetes does not answer, or refuses something that the rest relies on.
pub async fn reconcile(
    kube: &impl Kube,
    brokers: &impl Brokers,
    key: &Key,
    now: Timestamp,
    fresh: &Fresh,
    settings: &Settings,
) -> Result<Option<Outcome>, Error> {
    let cluster = kube.cluster(key).await.map_err(doing("reading the ChronikCluster"))?;
    let Some(cluster) = cluster.filter(|c| c.metadata.deletion_timestamp.is_none()) else { return Ok(None) };
    let now = status_of::whole_second(now);
    let children = kube.children(key).await.map_err(doing("listing the children"))?;
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let token = observe::token(key, &uid, &children, fresh);
    let written = cluster.status.clone().unwrap_or_default();
    let mut pass = Pass {
        kube,
        brokers,
        key,
        settings,
        uid,
        resource_version: cluster.metadata.resource_version.clone().unwrap_or_default(),
        status: written.clone(),
        written,
        token,
        racks: None,
        told_settings: None,
        observed: Observed {
            cluster,
            children,
            brokers: Default::default(),
            expansion: Expansion::Unknown,
            growth_refused: None,
        },
        writes: 0,
        broker_calls: 0,
    };
    pass.run(now, fresh).await.map(Some)
}

impl<K: Kube, B: Brokers> Pass<'_, K, B> {
    async fn run(&mut self, now: Timestamp, fresh: &Fresh) -> Result<Outcome, Error> {
        let mut problems = validate(&self.observed.cluster.spec);
        let quiet = self.observed.cluster.spec.paused && !mutant!(IgnorePaused) || !problems.is_empty();
        if self.status.cluster_id.is_none() && !quiet {
            match identity::identity(self.key, &self.observed, fresh, now) {
                Ok(identity) => {
                    self.status.cluster_id = Some(identity.cluster_id);
                    self.status.bootstrap = Some(identity.bootstrap);
                    self.status.retired = identity.retired;
                    // Who the founders are must be known for good before the first of them may exist.
                    self.write_status(self.status.clone()).await?;
                }
                Err(identity::NoIdentity::Wrong(problem)) => problems.push(problem),
                Err(identity::NoIdentity::Yet(why)) => {
                    tracing::info!(cluster = %self.key, why, "it begins when they are gone");
                    return Ok(self.later());
                }
            }
        }
        self.observed.brokers = observe::brokers(self.brokers, self.key, &self.observed.children, &self.token).await;
        if !problems.is_empty() || quiet {
            return self.look_only(now, &problems).await;
        }
        let (mut view, mut wanted) = self.look(now);
        if observe::must_grow(&wanted, &view) {
            let class = self.observed.cluster.spec.storage.storage_class.clone();
            self.observed.expansion =
                self.kube.expansion(class.as_deref()).await.map_err(doing("reading the storage class"))?;
            if self.observed.expansion == Expansion::Unknown {
                self.observed.growth_refused = self.refused_lately(now);
            }
            (view, wanted) = self.look(now);
        }
        self.racks = self.assign_racks(&view).await;
        self.apply_settings(&view).await?;
        let mut plan = plan::plan(&wanted, &view);
        if matches!(plan.step, Step::GrowClaim { .. })
            && let Err(error) = self.grow(&plan.step).await
        {
            // Whoever refuses to grow a disk, or cannot answer, must not keep everything else from being done.
            if matches!(error, KubeError::Conflict(_) | KubeError::NotFound(_)) {
                return Err(doing("growing a claim")(error));
            }
            self.observed.growth_refused = Some(error.to_string());
            (view, wanted) = self.look(now);
            plan = plan::plan(&wanted, &view);
        }
        if let Some(hold) = self.refused_setting().filter(|_| plan.doing.is_none()) {
            push_hold(&mut plan, hold);
        }
        self.remember(&plan, &view);
        let ahead = self.next_status(&wanted, &view, &plan, &[], now);
        if act::is_new(&plan, self.written.operation.as_ref()) || act::relies_on(&self.written, &ahead) {
            self.write_status(ahead).await?;
        }
        let applied = self.apply_children(&wanted, &view, &plan).await;
        if let Ok(Some(hold)) = &applied {
            push_hold(&mut plan, hold.clone());
        }
        let may_act = matches!(applied, Ok(None)) || !act::needs_children(&plan.step);
        let marked = self.mark_claims(&view).await;
        let acted = if may_act { self.act(&mut plan, &wanted, &view, now).await } else { Ok(None) };
        if let Some(hold) = acted.as_ref().err().and_then(children::hold_of) {
            push_hold(&mut plan, hold);
        }
        let status = self.next_status(&wanted, &view, &plan, &[], now);
        let blocked =
            status.operation.iter().flat_map(|op| op.blocked_by.iter().map(|b| (b.gate, b.since.0))).collect();
        self.tell(&plan, &status, acted.as_ref().ok().and_then(Option::as_ref)).await;
        let steady = plan.doing.is_none() && self.writes == 0;
        self.write_status(status).await?;
        applied?;
        marked?;
        let step = acted?;
        Ok(Outcome {
            requeue_after: plan.again,
            writes: self.writes,
            broker_calls: self.broker_calls,
            steady,
            blocked,
            step,
        })
    }

    /// Paused, or a specification that cannot be obeyed: the status and nothing else.
    async fn look_only(&mut self, now: Timestamp, problems: &[String]) -> Result<Outcome, Error> {
        let (view, wanted) = self.look(now);
        let gate = if problems.is_empty() { Gate::Paused } else { Gate::SpecInvalid };
        let nothing = Plan {
            step: Step::None,
            why: String::new(),
            doing: None,
            waiting: Vec::new(),
            again: Duration::from_secs(60),
        };
        let status = self.next_status(&wanted, &view, &nothing, problems, now);
        let valid_before =
            self.written.conditions.iter().all(|c| c.type_ != ConditionType::SpecValid.as_str() || c.status != "False");
        if valid_before && !problems.is_empty() {
            let note = format!("{}. {}", problems.join("; "), gate.remedy());
            let (reason, action) = (gate.as_str().to_owned(), "Validate".to_owned());
            self.kube.publish(&self.observed.cluster, &Event { warning: true, reason, action, note }).await;
        }
        let condition = if problems.is_empty() { "Paused" } else { "SpecValid" };
        let since = status.conditions.iter().find(|c| c.type_ == condition).map_or(now, |c| c.last_transition_time.0);
        self.write_status(status).await?;
        Ok(Outcome {
            requeue_after: nothing.again,
            writes: self.writes,
            broker_calls: self.broker_calls,
            // Nothing is under way, and it is not as wanted either.
            steady: false,
            blocked: vec![(gate, since)],
            step: None,
        })
    }

    /// Nothing can be done or told yet.
    fn later(&self) -> Outcome {
        Outcome {
            requeue_after: Duration::from_secs(1),
            writes: self.writes,
            broker_calls: self.broker_calls,
            steady: false,
            blocked: Vec::new(),
            step: None,
        }
    }

    fn look(&self, now: Timestamp) -> (View, Wanted) {
        let view = View::of(&self.observed, &self.status, now);
        let mut wanted = wanted(&self.observed.cluster);
        let advertised = observe::advertised(self.key, &self.observed);
        let brokers = plan::brokers(&wanted, &view);
        let image = self.image();
        wanted.revision = build::revision(&self.build_input(brokers, &image, &advertised));
        wanted.restarts_held = restarts_held(&self.observed.cluster, &wanted.revision);
        (view, wanted)
    }

    /// Where classes cannot be read, only asking tells whether a disk can grow; one that was refused is asked again every ten minutes.
    fn refused_lately(&self, now: Timestamp) -> Option<String> {
        if Some(self.written.observed_generation) != self.observed.cluster.metadata.generation {
            return None;
        }
        // The condition and not the change under way: that may be another one.
        let (blocked, refused) = (ConditionType::StorageGrowthBlocked.as_str(), Gate::KubernetesRefused.as_str());
        let held = self.written.conditions.iter().find(|c| c.type_ == blocked && c.reason == refused)?;
        let age = now.duration_since(held.last_transition_time.0).as_secs();
        (age < 600 || age % 600 >= 15).then(|| held.message.clone())
    }

    fn image(&self) -> String {
        self.observed.cluster.spec.image_or(&self.settings.broker_image)
    }

    /// What has to be in the status before the act, beyond where it is.
    fn remember(&mut self, plan: &Plan, view: &View) {
        match plan.step {
            Step::Resize { from: Some(from), to } if from > 0 && to > from && view.founded => {
                self.status.rebalance = Some(crate::api::RebalanceStatus::default());
            }
            Step::Uncordon(_) => self.status.rebalance = Some(crate::api::RebalanceStatus::default()),
            _ => {}
        }
    }

    fn next_status(
        &self,
        wanted: &Wanted,
        view: &View,
        plan: &Plan,
        problems: &[String],
        now: Timestamp,
    ) -> ChronikClusterStatus {
        debug_assert_eq!(view.now, now);
        let advertised = observe::advertised(self.key, &self.observed);
        let input = status_of::Input {
            namespace: &self.key.namespace,
            generation: self.observed.cluster.metadata.generation.unwrap_or_default(),
            spec: &self.observed.cluster.spec,
            problems,
            wanted,
            view,
            doing: plan.doing.as_ref(),
            waiting: &plan.waiting,
            advertised: &advertised,
            racks: self.racks.as_ref(),
            settings: self.told_settings.as_ref(),
        };
        let mut last = self.status.clone();
        last.operation.clone_from(&self.written.operation);
        last.conditions.clone_from(&self.written.conditions);
        status_of::status(&input, &last)
    }

    /// Writes the status, if it differs from the one in Kubernetes.
    async fn write_status(&mut self, status: ChronikClusterStatus) -> Result<(), Error> {
        if status == self.written && !mutant!(WriteEveryPass) {
            return Ok(());
        }
        let version = self
            .kube
            .apply_status(self.key, &self.uid, &self.resource_version, &status)
            .await
            .map_err(doing("writing the status"))?;
        self.resource_version = version;
        self.written = status;
        self.writes += 1;
        Ok(())
    }

    /// Events: what was done, and what newly holds something back for longer than a moment.
    async fn tell(&self, plan: &Plan, status: &ChronikClusterStatus, acted: Option<&String>) {
        let cluster = &self.observed.cluster;
        if let (Some(note), Some(doing)) = (acted, &plan.doing)
            && act::is_worth_telling(&plan.step, doing, cluster.status.as_ref().and_then(|s| s.operation.as_ref()))
        {
            let reason = act::reason(&plan.step).to_owned();
            let event = Event { warning: false, reason, action: format!("{:?}", doing.kind), note: note.clone() };
            self.kube.publish(cluster, &event).await;
        }
        self.tell_of_racks().await;
        let before = cluster.status.as_ref().and_then(|s| s.operation.as_ref());
        for blocked in status.operation.iter().flat_map(|op| &op.blocked_by) {
            let known = before.is_some_and(|op| op.blocked_by.iter().any(|b| b.gate == blocked.gate));
            if !known && !plan::passes_soon(blocked.gate) {
                let event = Event {
                    warning: true,
                    reason: blocked.gate.as_str().to_owned(),
                    action: status.operation.as_ref().map_or("Wait", |op| op.kind.as_str()).to_owned(),
                    note: format!("{}. {}", blocked.message, blocked.gate.remedy()),
                };
                self.kube.publish(cluster, &event).await;
            }
        }
    }
}

/// Adds a reason why the plan did not come about.
fn push_hold(plan: &mut Plan, hold: Hold) {
    let again = Duration::from_secs(if plan::passes_soon(hold.gate) { 2 } else { 10 });
    match &mut plan.doing {
        Some(doing) => doing.holds.push(hold),
        None => {
            plan.doing = Some(Doing {
                kind: crate::api::Operation::Repair,
                step: crate::api::OperationStep::ApplyObjects,
                node: None,
                holds: vec![hold],
            });
        }
    }
    plan.again = again;
}

/// The specification with every default resolved, but for the revision.
fn wanted(cluster: &ChronikCluster) -> Wanted {
    let spec = &cluster.spec;
    let persistent = spec.storage.kind == StorageType::Persistent;
    Wanted {
        name: cluster.metadata.name.clone().unwrap_or_default(),
        replicas: spec.replicas,
        voters: spec.voters(),
        most_voters: spec.most_voters(),
        stopped: spec.stopped,
        revision: String::new(),
        restarts_held: None,
        storage: quantity::whole(&spec.storage.size).filter(|_| persistent),
        storage_text: spec.storage.size.0.clone(),
        delete_disks: spec.storage.retention.when_scaled == RetentionPolicy::Delete,
        never_shrink: spec.scale_down.policy == ScaleDownPolicy::Block,
        drain_timeout: spec.rollout.drain_timeout.into(),
        recover_timeout: spec.rollout.recover_timeout.into(),
        scale_down_timeout: spec.scale_down.timeout.into(),
    }
}

/// Under a manual policy no broker is restarted before a person has approved exactly this revision.
fn restarts_held(cluster: &ChronikCluster, revision: &str) -> Option<String> {
    let spec = &cluster.spec;
    let field = if spec.rollout.policy == RolloutPolicy::Manual {
        "rollout.policy"
    } else if spec.upgrade_policy == UpgradePolicy::Manual {
        "upgradePolicy"
    } else {
        return None;
    };
    let approved = cluster.metadata.annotations.as_ref().and_then(|a| a.get(APPROVED_REVISION_ANNOTATION));
    (approved.map(String::as_str) != Some(revision))
        .then(|| format!("spec.{field} is Manual and revision {revision} is not approved"))
}
