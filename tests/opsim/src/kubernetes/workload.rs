//! The StatefulSet controller and the kubelets.
//!
//! The controller works only now and then, so that generations are observed late; it creates missing pods at the newest revision, ends those
//! beyond `replicas` all at once (Parallel), never replaces an outdated one (OnDelete), and adopts orphans that match. A kubelet runs the
//! broker's process as long as its pod is there, again and again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use chronik_operator::ports::{Kind, KubeError, Object, ObjectRef};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::{Claim, Cluster, NAME, NAMESPACE, timestamp};
use crate::brokers::{Brokers, ClusterFile, Process, Run, Volume};
use crate::rng::Rng;

/// Where the template has the settings of the broker's process.
const SETTINGS: &str = chronik_operator::build::names::SETTINGS;
const REVISION: &str = "controller-revision-hash";
/// A node that is silent for so long is unready, and so are its pods.
const NODE_GRACE_MS: u64 = 5_000;

/// A pod and what its kubelet does.
#[derive(Clone, Debug)]
pub struct PodState {
    /// As readers see it.
    pub pod: Pod,
    /// Its ordinal.
    pub ordinal: i32,
    /// The container may start then.
    pub start_at: u64,
    /// Its process was told to end.
    pub terminating: bool,
    /// How often its process ended by itself.
    pub crashes: u32,
    silent_since: Option<u64>,
}

impl PodState {
    /// Its template revision.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).map_or("", String::as_str)
    }

    /// It is shown as ready and is: there is nothing to do about it.
    fn runs_well(&self, brokers: &Brokers) -> bool {
        let id = self.ordinal + 1;
        self.silent_since.is_none()
            && self.pod.metadata.deletion_timestamp.is_none()
            && self.is_ready()
            && brokers.ready(id)
    }

    fn image(&self) -> &str {
        let container = self.pod.spec.as_ref().and_then(|spec| spec.containers.first());
        container.and_then(|c| c.image.as_deref()).unwrap_or_default()
    }

    /// The settings of the broker's process, as its template said.
    fn settings(&self) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(SETTINGS).map(String::as_str)
    }

    /// Whether its condition says so.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    }
}

fn revision_of(set: &StatefulSet) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&set.spec.as_ref().map(|spec| &spec.template)).unwrap_or_default().hash(&mut hasher);
    format!("{NAME}-{:010x}", hasher.finish() >> 24)
}

fn retains(set: &StatefulSet, deleted: bool) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let word = policy.and_then(|p| if deleted { p.when_deleted.as_deref() } else { p.when_scaled.as_deref() });
    word != Some("Delete")
}

fn is_controlled(meta: &ObjectMeta) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
}

fn set_owners(meta: &mut ObjectMeta, owners: Option<Vec<OwnerReference>>) -> bool {
    if meta.owner_references == owners {
        return false;
    }
    meta.owner_references = owners;
    true
}

impl Cluster {
    /// One look of the StatefulSet controller.
    pub fn run_stateful_set(&mut self, rng: &mut Rng) {
        if !rng.chance(700) {
            return;
        }
        let work = (self.lists.objects.changes(), self.lists.pods.changes(), self.lists.claims.changes());
        let all_seen = work.0.is_some() && work.1.is_some() && work.2.is_some();
        if all_seen && work == self.worked_off {
            return;
        }
        self.worked_off = work;
        let Some(set) = self.stateful_set().cloned() else { return };
        if set.metadata.deletion_timestamp.is_some() {
            return;
        }
        let Some(spec) = set.spec.as_ref() else { return };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1);
        let generation = set.metadata.generation.unwrap_or(0);
        let known = self.revision.take().filter(|(of, at, _)| *of == uid && *at == generation);
        let revision = known.map_or_else(|| revision_of(&set), |(_, _, revision)| revision);
        self.revision = Some((uid.clone(), generation, revision.clone()));
        self.adopt(&set, &uid);
        let claim = spec.volume_claim_templates.as_ref().and_then(|templates| templates.first());
        let matched = ObjectMeta { labels: spec.selector.match_labels.clone(), ..ObjectMeta::default() };
        for ordinal in 0..replicas {
            let name = format!("{NAME}-{ordinal}");
            if self.pods.contains_key(&name) {
                continue;
            }
            let claim_name = format!("data-{name}");
            let leaving = |claim: &Claim| claim.claim.metadata.deletion_timestamp.is_some();
            match (self.claims.get(&claim_name), claim) {
                (Some(old), _) if leaving(old) => continue,
                (None, Some(template)) => self.create_claim(&claim_name, template, &matched),
                _ => {}
            }
            self.create_pod(&set, &uid, ordinal, &name, &revision, rng);
        }
        let beyond: Vec<String> = self
            .pods
            .values()
            .filter(|state| state.ordinal >= replicas && state.pod.metadata.deletion_timestamp.is_none())
            .filter(|state| state.pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid))
            .map(|state| format!("{NAME}-{}", state.ordinal))
            .collect();
        for name in beyond {
            self.tell(format!("pod {name} is beyond {replicas} replicas"));
            self.terminate_pod(&name);
        }
        self.own_claims(&set, &uid, replicas);
        self.report(&set, &revision);
    }

    fn adopt(&mut self, set: &StatefulSet, uid: &str) {
        let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
        let mut adopted = Vec::new();
        for (name, state) in &mut self.pods {
            let labels = state.pod.metadata.labels.clone().unwrap_or_default();
            let matches = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            if matches && !is_controlled(&state.pod.metadata) && state.pod.metadata.deletion_timestamp.is_none() {
                let owner = Self::owner("StatefulSet", uid, NAME);
                state.pod.metadata.owner_references.get_or_insert_default().push(owner);
                adopted.push(format!("pod {name} is adopted"));
            }
        }
        if !adopted.is_empty() {
            self.lists.pods.dirty = true;
            self.told.extend(adopted);
        }
    }

    /// The retention policy is owner references: to the set for whenDeleted, to the pod for whenScaled.
    fn own_claims(&mut self, set: &StatefulSet, uid: &str, replicas: i32) {
        let with_set = (!retains(set, true)).then(|| vec![Self::owner("StatefulSet", uid, NAME)]);
        let mut changed = false;
        for (name, claim) in &mut self.claims {
            let Some(pod) = name.strip_prefix("data-") else { continue };
            let Some(ordinal) = pod.strip_prefix(&format!("{NAME}-")).and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let condemned = ordinal >= replicas && !retains(set, false);
            let owners = match self.pods.get(pod) {
                Some(state) if condemned => {
                    let uid = state.pod.metadata.uid.as_deref().unwrap_or_default();
                    Some(vec![Self::owner("Pod", uid, pod)])
                }
                // Its pod is gone; the owner reference that it has decides.
                None => continue,
                Some(_) => with_set.clone(),
            };
            changed |= set_owners(&mut claim.claim.metadata, owners);
        }
        self.lists.claims.dirty |= changed;
    }

    fn create_pod(&mut self, set: &StatefulSet, uid: &str, ordinal: i32, name: &str, revision: &str, rng: &mut Rng) {
        let Some(template) = set.spec.as_ref().map(|spec| &spec.template) else { return };
        let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(REVISION.to_owned(), revision.to_owned());
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.to_owned());
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels),
            annotations: template.metadata.as_ref().and_then(|meta| meta.annotations.clone()),
            uid: Some(self.uid()),
            resource_version: Some(self.version()),
            creation_timestamp: Some(Time(timestamp(self.now))),
            owner_references: Some(vec![Self::owner("StatefulSet", uid, NAME)]),
            ..ObjectMeta::default()
        };
        let status = PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() };
        let pod = Pod { metadata, spec: template.spec.clone(), status: Some(status) };
        let start_at = self.now + rng.between(300, 2500);
        let state = PodState { pod, ordinal, start_at, terminating: false, crashes: 0, silent_since: None };
        self.pods.insert(name.to_owned(), state);
        self.lists.pods.dirty = true;
        self.tell(format!("pod {name} is created at {revision}"));
    }

    fn report(&mut self, set: &StatefulSet, revision: &str) {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mine = |state: &&PodState| state.pod.metadata.owner_references.iter().flatten().any(|o| o.uid == uid);
        let count = |test: &dyn Fn(&PodState) -> bool| {
            i32::try_from(self.pods.values().filter(mine).filter(|state| test(state)).count()).unwrap_or(i32::MAX)
        };
        let old = set.status.clone().unwrap_or_default();
        let status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: Some(count(&PodState::is_ready)),
            available_replicas: Some(count(&PodState::is_ready)),
            current_replicas: old.current_replicas,
            updated_replicas: Some(count(&|state| state.revision() == revision)),
            current_revision: old.current_revision.or_else(|| Some(revision.to_owned())),
            update_revision: Some(revision.to_owned()),
            ..StatefulSetStatus::default()
        };
        if set.status.as_ref() == Some(&status) {
            return;
        }
        let version = self.version();
        let reference = ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() };
        if let Some(Object::StatefulSet(live)) = self.objects.get_mut(&reference).map(|stored| &mut stored.object) {
            live.status = Some(status);
            live.metadata.resource_version = Some(version);
            self.lists.objects.dirty = true;
        }
    }

    /// Deletes exactly that pod.
    ///
    /// # Errors
    /// When it is absent or another.
    pub fn delete_pod(&mut self, name: &str, uid: &str) -> Result<(), KubeError> {
        let Some(state) = self.pods.get(name) else { return Err(KubeError::NotFound(name.into())) };
        if state.pod.metadata.uid.as_deref() != Some(uid) {
            return Err(KubeError::Conflict(format!("{name} is another pod now")));
        }
        self.terminate_pod(name);
        Ok(())
    }

    /// Adds an owner to exactly that pod.
    ///
    /// # Errors
    /// When it is absent or another.
    pub fn own_pod(&mut self, name: &str, uid: &str, owner: &OwnerReference) -> Result<(), KubeError> {
        let version = self.version();
        let Some(state) = self.pods.get_mut(name) else { return Err(KubeError::NotFound(name.into())) };
        let meta = &mut state.pod.metadata;
        if meta.uid.as_deref() != Some(uid) {
            return Err(KubeError::Conflict(format!("{name} is another pod now")));
        }
        let owners = meta.owner_references.get_or_insert_default();
        owners.retain(|other| other.uid != owner.uid);
        owners.push(owner.clone());
        meta.resource_version = Some(version);
        self.lists.pods.dirty = true;
        Ok(())
    }

    /// Whoever deletes it.
    pub fn terminate_pod(&mut self, name: &str) {
        let now = timestamp(self.now);
        if let Some(state) = self.pods.get_mut(name)
            && state.pod.metadata.deletion_timestamp.is_none()
        {
            state.pod.metadata.deletion_timestamp = Some(Time(now));
            self.lists.pods.dirty = true;
        }
    }

    /// One look of every kubelet.
    pub fn run_kubelets(&mut self, brokers: &mut Brokers, rng: &mut Rng) {
        let now = self.now;
        self.nodes_down.retain(|_, until| *until > now);
        let idle = |state: &PodState| !self.nodes_down.contains_key(&state.ordinal) && state.runs_well(brokers);
        let busy: Vec<String> =
            self.pods.iter().filter(|(_, state)| !idle(state)).map(|(name, _)| name.clone()).collect();
        for name in busy {
            self.schedule(&name, rng);
            let Some(mut state) = self.pods.get(&name).cloned() else { continue };
            let id = state.ordinal + 1;
            if self.nodes_down.contains_key(&state.ordinal) {
                let since = *state.silent_since.get_or_insert(now);
                brokers.kill(id);
                let lost = since + NODE_GRACE_MS <= now;
                if lost {
                    self.show(&mut state, brokers);
                }
                self.pods.insert(name, state);
                continue;
            }
            state.silent_since = None;
            if state.pod.metadata.deletion_timestamp.is_some() {
                if !brokers.processes.contains_key(&id) {
                    self.pods.remove(&name);
                    self.lists.pods.dirty = true;
                    self.tell(format!("pod {name} is gone"));
                    continue;
                }
                if !state.terminating {
                    state.terminating = true;
                    brokers.terminate(now, id, rng);
                }
            } else {
                self.run_container(&name, &mut state, brokers, rng);
            }
            self.show(&mut state, brokers);
            self.pods.insert(name, state);
        }
    }

    /// A pod gets a node a while after it was made: mostly the one where its disk is.
    fn schedule(&mut self, name: &str, rng: &mut Rng) {
        let nodes = self.zones.len();
        let Some(state) = self.pods.get_mut(name) else { return };
        let Some(spec) = state.pod.spec.as_mut().filter(|spec| spec.node_name.is_none()) else { return };
        if rng.chance(300) || nodes == 0 {
            return;
        }
        let elsewhere = if rng.chance(150) { rng.below(7) } else { 0 };
        let at = usize::try_from(u64::try_from(state.ordinal).unwrap_or(0) + elsewhere).unwrap_or(0) % nodes;
        spec.node_name = Some(format!("node-{at}"));
        self.lists.pods.dirty = true;
    }

    fn run_container(&mut self, name: &str, state: &mut PodState, brokers: &mut Brokers, rng: &mut Rng) {
        let (now, id) = (self.now, state.ordinal + 1);
        match brokers.processes.get(&id).map(|process| process.run.clone()) {
            Some(Run::Crashed(why)) => {
                brokers.kill(id);
                state.crashes += 1;
                state.start_at = now + rng.between(2_000, 8_000);
                self.tell(format!("pod {name} crashes: {why}"));
            }
            Some(_) => {}
            None if state.image().contains("bad") => {}
            None => {
                if state.start_at > now {
                    return;
                }
                let Some(claim) = self.claims.get(&format!("data-{name}")) else { return };
                let (uid, capacity) = (claim.uid().to_owned(), claim.capacity());
                let Some(file) = self.cluster_file() else { return };
                let faulty = state.settings().is_some_and(|text| text.contains("sim.crash"));
                brokers.volumes.entry(uid.clone()).or_insert_with(|| Volume { used: 1, capacity, ..Volume::default() });
                let process = Process {
                    run: Run::Joining,
                    volume: uid,
                    incarnation: format!("run-{:08x}", rng.draw() >> 32),
                    version: state.image().to_owned(),
                    faulty,
                    unreachable_until: 0,
                    file,
                    token: self.token().unwrap_or_default(),
                    since: now,
                };
                brokers.start(now, id, process, rng);
            }
        }
    }

    /// `cluster.yaml` as the operator wrote it.
    #[must_use]
    pub fn cluster_file(&self) -> Option<ClusterFile> {
        super::read_cluster_file(self.config("cluster.yaml")?)
    }

    /// What readers see of a pod.
    fn show(&mut self, state: &mut PodState, brokers: &Brokers) {
        let id = state.ordinal + 1;
        let node_lost = state.silent_since.is_some();
        let process = brokers.processes.get(&id);
        let ready = !node_lost && process.is_some() && brokers.ready(id) && !state.terminating;
        let waiting = match process {
            None if state.image().contains("bad") => Some("ImagePullBackOff"),
            None if state.crashes > 0 => Some("CrashLoopBackOff"),
            None => Some("ContainerCreating"),
            Some(_) => None,
        };
        let previous = state.pod.status.clone().unwrap_or_default();
        let ever_ran = previous.phase.as_deref() == Some("Running");
        let running = ContainerStateRunning { started_at: process.map(|p| Time(timestamp(p.since))) };
        let container = ContainerStatus {
            name: "broker".to_owned(),
            ready,
            restart_count: i32::try_from(state.crashes).unwrap_or(i32::MAX),
            image: state.image().to_owned(),
            started: Some(process.is_some()),
            state: Some(ContainerState {
                running: waiting.is_none().then_some(running),
                waiting: waiting.map(|reason| ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }),
                terminated: None,
            }),
            ..ContainerStatus::default()
        };
        let transition = previous
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready" && (c.status == "True") == ready)
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or_else(|| Time(timestamp(self.now)));
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            last_transition_time: Some(transition),
            ..PodCondition::default()
        };
        let status = PodStatus {
            phase: Some(if ever_ran || process.is_some() { "Running" } else { "Pending" }.to_owned()),
            pod_ip: process.map(|_| format!("10.1.0.{id}")).or(previous.pod_ip.clone()),
            conditions: Some(vec![condition]),
            container_statuses: Some(vec![container]),
            ..PodStatus::default()
        };
        if previous != status {
            state.pod.status = Some(status);
            state.pod.metadata.resource_version = Some(self.version());
            self.lists.pods.dirty = true;
        }
    }
}
