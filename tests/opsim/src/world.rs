//! One world: Kubernetes, brokers, users and fate, and what operators are doing in it.
//!
//! [`crate::runner`] calls [`World::step`] and polls the operators in between; [`crate::client`] is how they reach it. Nothing here knows
//! how the operator decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_operator::api::{APPROVED_REVISION_ANNOTATION, ChronikCluster, RetentionPolicy};
use chronik_operator::ports::{Kind, ObjectRef};

use crate::brokers::{Brokers, Id};
use crate::judge::Judge;
use crate::kubernetes::{Cluster, NAME};
use crate::plan::{Action, Plan, rack};
use crate::rng::Rng;
use crate::trace::Trace;

/// A step of simulated time.
pub const STEP_MS: u64 = 500;

/// What an operator's pass has seen and done.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// When it began.
    pub began: u64,
    /// The object that it was shown.
    pub cluster: Option<ChronikCluster>,
    /// `spec.replicas` of the StatefulSet that it was shown.
    pub set_replicas: Option<i32>,
    /// Writes to Kubernetes, events included, and calls that changed something at the brokers.
    pub writes: u32,
    /// Disruptive acts.
    pub disruptions: u32,
    /// The pod that it deleted.
    pub restarted: Option<String>,
    /// It published an event about that.
    pub told: bool,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// What was decided beforehand.
    pub plan: Arc<Plan>,
    /// Now, in milliseconds.
    pub now: u64,
    /// Chance.
    pub rng: Rng,
    /// The story.
    pub trace: Trace,
    /// Kubernetes.
    pub kube: Cluster,
    /// The brokers.
    pub brokers: Brokers,
    /// Who says what was wrong.
    pub judge: Judge,
    /// Passes under way, by operator.
    pub passes: BTreeMap<usize, Pass>,
    /// Newest list that each operator was shown: a cache never goes back.
    pub shown: BTreeMap<(usize, &'static str), u64>,
    /// Faults may happen.
    pub hostile: bool,
    /// Somebody asked for the operator's death.
    pub kill_operator: bool,
    next_action: usize,
    recreate_at: Option<(u64, ChronikCluster)>,
}

impl World {
    /// The beginning.
    #[must_use]
    pub fn new(plan: Arc<Plan>, trace: bool) -> Self {
        let mut world = Self {
            now: 0,
            rng: Rng::new(plan.seed, 2),
            trace: Trace::new(trace),
            kube: Cluster::new(plan.expandable, plan.resize_ms),
            brokers: Brokers::new(plan.pace.clone(), plan.topics.clone()),
            judge: Judge::default(),
            passes: BTreeMap::new(),
            shown: BTreeMap::new(),
            hostile: true,
            kill_operator: false,
            next_action: 0,
            recreate_at: None,
            plan,
        };
        world.kube.zones.clone_from(&world.plan.zones);
        world.kube.create(world.plan.spec.clone());
        let replicas = world.plan.spec.replicas;
        world.tell("user", format_args!("creates a cluster of {replicas}"));
        world.kube.publish_lists();
        world
    }

    /// For the story.
    pub fn tell(&mut self, who: &str, what: std::fmt::Arguments<'_>) {
        self.trace.tell(self.now, who, what);
    }

    /// One step of time.
    pub fn step(&mut self) {
        self.now += STEP_MS;
        self.kube.now = self.now;
        self.act();
        self.kube.run_stateful_set(&mut self.rng);
        self.kube.run_kubelets(&mut self.brokers, &mut self.rng);
        self.kube.collect_garbage(&mut self.rng);
        for (name, uid) in self.kube.run_storage() {
            self.judge_lost_claim(&name, &uid);
            self.brokers.destroy(&uid);
        }
        for claim in self.kube.claims.values() {
            if let Some(volume) = self.brokers.volumes.get_mut(claim.uid()) {
                volume.capacity = claim.capacity();
            }
        }
        self.brokers.tick(self.now, STEP_MS, &mut self.rng);
        self.kube.publish_lists();
        self.retell();
        self.judge_step();
    }

    /// Puts what the parts told into the story.
    pub fn retell(&mut self) {
        for what in std::mem::take(&mut self.kube.told) {
            self.trace.tell(self.now, "kube", format_args!("{what}"));
        }
        for what in std::mem::take(&mut self.brokers.told) {
            self.trace.tell(self.now, "brokers", format_args!("{what}"));
        }
    }

    /// Whether everything that was planned has happened.
    #[must_use]
    pub fn planned_all(&self) -> bool {
        self.next_action == self.plan.actions.len() && self.recreate_at.is_none()
    }

    fn act(&mut self) {
        if self.recreate_at.as_ref().is_some_and(|(at, _)| *at <= self.now)
            && let Some((at, cluster)) = self.recreate_at.take()
        {
            let wiped = cluster.spec.storage.retention.when_deleted == RetentionPolicy::Delete;
            if wiped {
                self.kube.clear_what_is_left();
            }
            if wiped && !(self.kube.claims.is_empty() && self.kube.objects.is_empty() && self.kube.pods.is_empty()) {
                self.recreate_at = Some((at, cluster));
                return;
            }
            if wiped {
                self.brokers = Brokers::new(self.plan.pace.clone(), self.plan.topics.clone());
            }
            self.tell("user", format_args!("creates the cluster again"));
            self.kube.create(cluster.spec);
        }
        let plan = Arc::clone(&self.plan);
        while let Some((at, action)) = plan.actions.get(self.next_action)
            && *at <= self.now
        {
            self.next_action += 1;
            self.perform(action);
        }
    }

    /// Does one of the plan's actions, where it makes sense.
    pub fn perform(&mut self, action: &Action) {
        self.tell("fate", format_args!("{action:?}"));
        let now = self.now;
        match action {
            Action::Scale(n) => self.kube.edit(|c| c.spec.replicas = *n),
            Action::Configure(n) => self.kube.edit(|c| {
                // Some are the cluster's and restart nobody; they leave the specification again, too.
                let name = if n % 3 == 0 { "log.retention.ms" } else { "log.retention.check.interval.ms" };
                c.spec.config.insert(name.into(), n.to_string());
                if n % 5 == 0 {
                    c.spec.config.remove("log.retention.ms");
                }
            }),
            Action::ConfigureBadly => self.kube.edit(|c| {
                c.spec.config.insert("sim.crash".into(), "true".into());
                c.spec.config.insert("num.partitions".into(), "bad".into());
            }),
            Action::Image(n) => self.kube.edit(|c| c.spec.image = Some(format!("local.test/broker:{n}"))),
            Action::ImageBadly => self.kube.edit(|c| c.spec.image = Some("local.test/broker:bad".into())),
            Action::Mend => self.kube.edit(|c| {
                c.spec.config.remove("sim.crash");
                c.spec.config.remove("num.partitions");
                c.spec.image = c.spec.image.take().filter(|image| !image.contains("bad"));
            }),
            Action::Grow(gib) => self.kube.edit(|c| {
                let larger = crate::kubernetes::gibibytes(&c.spec.storage.size) < *gib;
                if larger {
                    c.spec.storage.size = Plan::size(*gib);
                }
            }),
            Action::Pause => self.kube.edit(|c| c.spec.paused = true),
            Action::Resume => self.kube.edit(|c| c.spec.paused = false),
            Action::Stop => self.kube.edit(|c| c.spec.stopped = true),
            Action::Start => self.kube.edit(|c| c.spec.stopped = false),
            Action::Recreate(seconds) => self.delete_cluster(*seconds),
            Action::DeletePod(ordinal) => self.kube.terminate_pod(&format!("{NAME}-{ordinal}")),
            Action::Kill(ordinal) => {
                let restarted = now + self.rng.between(500, 2_500);
                if self.brokers.kill(ordinal + 1)
                    && let Some(pod) = self.kube.pods.get_mut(&format!("{NAME}-{ordinal}"))
                {
                    pod.crashes += 1;
                    pod.start_at = restarted;
                }
            }
            Action::NodeLost(ordinal, seconds) => drop(self.kube.nodes_down.insert(*ordinal, now + seconds * 1000)),
            Action::Unreachable(ordinal, seconds) => {
                if let Some(process) = self.brokers.processes.get_mut(&(ordinal + 1)) {
                    process.unreachable_until = now + seconds * 1000;
                }
            }
            Action::Fill(ordinal) => {
                let uid = self.kube.claims.get(&format!("data-{NAME}-{ordinal}")).map(|claim| claim.uid().to_owned());
                if self.plan.expandable
                    && let Some(volume) = uid.and_then(|uid| self.brokers.volumes.get_mut(&uid))
                {
                    volume.used = volume.capacity;
                }
            }
            Action::Annotate => {
                let service = ObjectRef { kind: Kind::Service, name: format!("{NAME}-bootstrap") };
                self.kube.annotate(&service, "example.com/team", "a");
                let set = ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() };
                self.kube.annotate(&set, "example.com/team", "b");
            }
            Action::RolloutRestart => self.kube.rollout_restart(now),
            Action::KillOperator => self.kill_operator = true,
            Action::Approve => self.approve(),
            Action::Topic(topic) => self.brokers.topics.push(topic.clone()),
            Action::ScaleSet(replicas) => self.kube.scale_set(*replicas),
            Action::DeleteSet => {
                if self.kube.delete_set() {
                    self.judge.set_deleted();
                }
            }
            Action::DeleteChild(which) => self.kube.delete_child(*which),
            Action::Unlabel(which) => self.kube.unlabel(*which),
            Action::Redirect => self.kube.redirect(),
            Action::Rack(label) => self.kube.edit(|c| c.spec.rack = rack(*label)),
            Action::Label(node, zone) => {
                if let Some(label) = self.kube.zones.get_mut(*node) {
                    *label = *zone;
                }
            }
            Action::Voters(voters) => self.kube.edit(|c| c.spec.raft.voters = *voters),
        }
    }

    fn approve(&mut self) {
        self.kube.edit(|c| {
            let template = c.status.as_ref().and_then(|status| status.template.as_ref());
            if let Some(revision) = template.and_then(|template| template.pending_revision.clone()) {
                let annotations = c.metadata.annotations.get_or_insert_default();
                annotations.insert(APPROVED_REVISION_ANNOTATION.to_owned(), revision);
            }
        });
    }

    fn delete_cluster(&mut self, seconds: u64) {
        if self.recreate_at.is_some() {
            return;
        }
        if let Some(cluster) = self.kube.cluster.clone() {
            self.judge.cluster_deleted(cluster.spec.storage.retention.when_deleted);
            if cluster.spec.storage.retention.when_deleted == RetentionPolicy::Delete {
                self.brokers.doomed = true;
            }
            self.recreate_at = Some((self.now + seconds * 1000, cluster));
            self.kube.delete_cluster();
        }
    }

    /// Faults end: users mend what they broke, fate has no more ideas.
    pub fn calm_down(&mut self) {
        self.hostile = false;
        self.tell("fate", format_args!("faults end"));
        self.kube.nodes_down.clear();
        for process in self.brokers.processes.values_mut() {
            process.unreachable_until = 0;
        }
        let spec = self.kube.cluster.as_ref().map(|cluster| cluster.spec.clone());
        let Some(spec) = spec else { return };
        if spec.paused {
            self.perform(&Action::Resume);
        }
        if spec.config.contains_key("sim.crash") || spec.image.as_deref().is_some_and(|image| image.contains("bad")) {
            self.perform(&Action::Mend);
        }
        if self.brokers.volumes.values().any(crate::brokers::Volume::almost_full) {
            let size = crate::kubernetes::gibibytes(&spec.storage.size);
            self.perform(&Action::Grow(size + 20));
        }
    }

    /// Whether `id` belongs to the cluster as its user wants it.
    #[must_use]
    pub fn wanted(&self, id: Id) -> bool {
        self.kube.cluster.as_ref().is_some_and(|cluster| id <= cluster.spec.replicas)
    }
}
