//! How an operator reaches the world: the ports, with an await before and after whatever happens.
//!
//! Between the two nothing but the scheduler runs, so a pass that is dropped at an await dies before the write, or after it and before
//! its answer. Faults are drawn here, and every act is shown to the judge before it happens.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use chronik_operator::api::{ChronikCluster, ChronikClusterStatus};
use chronik_operator::observed::{BrokerFacts, NodeId};
use chronik_operator::ports::{
    BrokerAddress, BrokerError, Brokers, Children, ClaimPatch, Event, Expansion, Key, Kind, Kube, KubeError,
    LeadersMoved, Object, ObjectRef, Propagation, QuorumChange, RebalanceFacts, RebalanceLimits,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::kubernetes::{NAME, Versions};
use crate::plan::Plan;
use crate::world::World;

/// The world, for everybody who is in it.
pub type Shared = Arc<Mutex<World>>;

/// Locks the world.
pub fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One operator's connections.
#[derive(Clone, Debug)]
pub struct Client {
    world: Shared,
    operator: usize,
}

/// What happens to a call: whether it is done, and what is answered if not what came of it.
struct Fault<E> {
    done: bool,
    answer: Option<E>,
}

struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Client {
    /// Of this operator.
    #[must_use]
    pub const fn new(world: Shared, operator: usize) -> Self {
        Self { world, operator }
    }

    /// Every part of the drawing happens only where the plan has a rate for it.
    fn happens(world: &mut World, rate: impl FnOnce(&Plan) -> u64) -> bool {
        let rate = if world.hostile { rate(&world.plan) } else { 0 };
        rate > 0 && world.rng.chance(rate)
    }

    fn kube_fault(world: &mut World, write: bool) -> Fault<KubeError> {
        let unavailable = |why: &str| Some(KubeError::Unavailable(why.into()));
        if Self::happens(world, |plan| plan.errors) {
            Fault { done: false, answer: unavailable("timed out") }
        } else if write && Self::happens(world, |plan| plan.lost_answers) {
            Fault { done: true, answer: unavailable("timed out") }
        } else if write && Self::happens(world, |plan| plan.late_errors) {
            let why = if world.rng.chance(500) { "429 too many requests" } else { "500 etcdserver: request timed out" };
            Fault { done: true, answer: unavailable(why) }
        } else if write && Self::happens(world, |plan| plan.conflicts) {
            // One that happened and was sent once more on the way finds its own change.
            let answer = Some(KubeError::Conflict("the object has been modified".into()));
            Fault { done: world.rng.chance(500), answer }
        } else {
            Fault { done: true, answer: None }
        }
    }

    fn broker_fault(world: &mut World, change: bool) -> Fault<BrokerError> {
        let lost = || Some(BrokerError::Unreachable("no answer".into()));
        if Self::happens(world, |plan| plan.errors) {
            Fault { done: false, answer: lost() }
        } else if Self::happens(world, |plan| plan.lost_answers) {
            Fault { done: true, answer: lost() }
        } else if change && Self::happens(world, |plan| plan.refusals) {
            let done = world.rng.chance(500);
            let why = if done { "not committed in time" } else { "the leader is overloaded" };
            Fault { done, answer: Some(BrokerError::Retry(why.into())) }
        } else {
            Fault { done: true, answer: None }
        }
    }

    async fn kube<T>(&self, write: bool, act: impl FnOnce(&mut World) -> Result<T, KubeError>) -> Result<T, KubeError> {
        Pause(false).await;
        let answer = {
            let world = &mut *lock(&self.world);
            let fault = Self::kube_fault(world, write);
            let answer = fault.done.then(|| act(world));
            world.retell();
            if let Some(error) = fault.answer.as_ref().filter(|_| write) {
                let done = if fault.done { "happens and" } else { "does not happen and" };
                world.tell("kube", format_args!("a call of operator {} {done} is answered: {error}", self.operator));
            }
            match (fault.answer, answer) {
                (None, Some(answer)) => answer,
                (error, _) => Err(error.unwrap_or_else(|| KubeError::Unavailable("timed out".into()))),
            }
        };
        Pause(false).await;
        answer
    }

    /// A call that only asks.
    async fn ask<T>(
        &self,
        at: &BrokerAddress,
        act: impl FnOnce(&mut World, i32) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        self.call(at, false, act).await
    }

    /// A call that may change something.
    async fn broker<T>(
        &self,
        at: &BrokerAddress,
        act: impl FnOnce(&mut World, i32) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        self.call(at, true, act).await
    }

    async fn call<T>(
        &self,
        at: &BrokerAddress,
        change: bool,
        act: impl FnOnce(&mut World, i32) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        Pause(false).await;
        let answer = {
            let world = &mut *lock(&self.world);
            let id = at.node.0;
            let token = world.kube.token();
            let process = world.brokers.processes.get(&id);
            let known = process.is_some_and(|p| p.token == at.token.0) || token.as_ref() == Some(&at.token.0);
            if known {
                let fault = Self::broker_fault(world, change);
                let answer = fault.done.then(|| act(world, id));
                world.retell();
                if let Some(error) = fault.answer.as_ref().filter(|_| change) {
                    let done = if fault.done { "done" } else { "not done" };
                    world.tell("brokers", format_args!("what operator {} asks is {done}: {error}", self.operator));
                }
                match (fault.answer, answer) {
                    (None, Some(answer)) => answer,
                    (error, _) => Err(error.unwrap_or_else(|| BrokerError::Unreachable("no answer".into()))),
                }
            } else {
                Err(BrokerError::Refused("the secret is wrong".into()))
            }
        };
        Pause(false).await;
        answer
    }

    /// What the operator's cache shows: never older than it showed before.
    fn cached<T>(&self, world: &mut World, what: &'static str, of: impl Fn(&World) -> &Versions<T>) -> Option<Arc<T>> {
        let stale = if world.hostile { world.plan.stale_ms } else { 0 };
        let lag = if stale > 0 && world.rng.chance(400) { world.rng.below(stale + 1) } else { 0 };
        let floor = world.shown.get(&(self.operator, what)).copied().unwrap_or(0);
        let until = world.now.saturating_sub(lag).max(floor);
        let (at, list) = of(world).at(until)?;
        world.shown.insert((self.operator, what), at.max(floor));
        Some(list)
    }

    fn labelled(meta: &ObjectMeta) -> bool {
        meta.labels.as_ref().is_some_and(|labels| labels.get("chronik.io/cluster").is_some_and(|name| name == NAME))
    }
}

impl Kube for Client {
    async fn cluster(&self, key: &Key) -> Result<Option<ChronikCluster>, KubeError> {
        debug_assert_eq!(key.name, NAME);
        self.kube(false, |world| {
            let shown = self.cached(world, "cluster", |world| &world.kube.lists.cluster);
            let cluster = shown.and_then(|cluster| cluster.as_ref().clone());
            world.passes.entry(self.operator).or_default().cluster.clone_from(&cluster);
            Ok(cluster)
        })
        .await
    }

    async fn children(&self, _key: &Key) -> Result<Children, KubeError> {
        self.kube(false, |world| {
            let objects = self.cached(world, "objects", |world| &world.kube.lists.objects);
            let pods = self.cached(world, "pods", |world| &world.kube.lists.pods);
            let claims = self.cached(world, "claims", |world| &world.kube.lists.claims);
            let control = ObjectRef { kind: Kind::Secret, name: format!("{NAME}-control") };
            let set = ObjectRef { kind: Kind::StatefulSet, name: NAME.to_owned() };
            let shown = |o: &&Object| Self::labelled(o.meta()) || [&control, &set].contains(&&o.reference());
            let objects: Vec<Object> = objects.iter().flat_map(|list| list.iter()).filter(shown).cloned().collect();
            let replicas = objects.iter().find_map(|object| match object {
                Object::StatefulSet(set) => set.spec.as_ref().and_then(|spec| spec.replicas),
                _ => None,
            });
            world.passes.entry(self.operator).or_default().set_replicas = replicas;
            let pods = pods.iter().flat_map(|list| list.iter()).filter(|p| Self::labelled(&p.metadata)).cloned();
            let claims = claims.iter().flat_map(|list| list.iter()).filter(|c| Self::labelled(&c.metadata)).cloned();
            Ok(Children { objects, pods: pods.collect(), claims: claims.collect() })
        })
        .await
    }

    async fn meta(&self, _key: &Key, object: &ObjectRef) -> Result<Option<ObjectMeta>, KubeError> {
        self.kube(false, |world| Ok(world.kube.objects.get(object).map(|stored| stored.object.meta().clone()))).await
    }

    async fn expansion(&self, _class: Option<&str>) -> Result<Expansion, KubeError> {
        self.kube(false, |world| {
            Ok(match (world.plan.may_read_classes, world.kube.expandable) {
                (false, _) => Expansion::Unknown,
                (true, true) => Expansion::Allowed,
                (true, false) => Expansion::Refused,
            })
        })
        .await
    }

    async fn node_label(&self, node: &str, label: &str) -> Result<Option<String>, KubeError> {
        self.kube(false, |world| {
            if world.plan.may_read_nodes {
                Ok(world.kube.node_label(node, label))
            } else {
                Err(KubeError::Forbidden("nodes cannot be read with a Role only".into()))
            }
        })
        .await
    }

    async fn apply(&self, _key: &Key, object: &Object) -> Result<(), KubeError> {
        self.kube(true, |world| {
            world.judge_apply(self.operator, object);
            let result = world.kube.apply(crate::kubernetes::Cluster::operator(), object);
            let reference = object.reference();
            world.tell(
                "operator",
                format_args!("{} applies {reference}{}: {result:?}", self.operator, replicas(object)),
            );
            result.map(drop)
        })
        .await
    }

    async fn delete(&self, _: &Key, object: &ObjectRef, uid: &str, propagation: Propagation) -> Result<(), KubeError> {
        self.kube(true, |world| {
            world.judge_delete(self.operator, object, propagation);
            let result = world.kube.delete(object, uid, propagation);
            world.tell("operator", format_args!("{} deletes {object} ({propagation:?}): {result:?}", self.operator));
            result
        })
        .await
    }

    async fn delete_pod(&self, _key: &Key, name: &str, uid: &str) -> Result<(), KubeError> {
        self.kube(true, |world| {
            let there = world.kube.pods.get(name).is_some_and(|state| {
                state.pod.metadata.uid.as_deref() == Some(uid) && state.pod.metadata.deletion_timestamp.is_none()
            });
            if there {
                world.judge_delete_pod(self.operator, name);
            }
            let result = world.kube.delete_pod(name, uid);
            if there && result.is_ok() {
                world.passes.entry(self.operator).or_default().restarted = Some(name.to_owned());
            }
            world.tell("operator", format_args!("{} deletes pod {name}: {result:?}", self.operator));
            result
        })
        .await
    }

    async fn own_pod(&self, _: &Key, name: &str, uid: &str, owner: &OwnerReference) -> Result<(), KubeError> {
        self.kube(true, |world| {
            world.judge_write(self.operator, &format!("owns pod {name}"));
            let result = world.kube.own_pod(name, uid, owner);
            world.tell("operator", format_args!("{} owns pod {name}: {result:?}", self.operator));
            result
        })
        .await
    }

    async fn delete_claim(&self, _: &Key, name: &str, uid: &str) -> Result<(), KubeError> {
        self.kube(true, |world| {
            world.judge_delete_claim(self.operator, name, uid);
            let result = world.kube.delete_claim(name, uid);
            world.tell("operator", format_args!("{} deletes {name}: {result:?}", self.operator));
            result
        })
        .await
    }

    async fn patch_claim(&self, _key: &Key, name: &str, uid: &str, patch: &ClaimPatch) -> Result<(), KubeError> {
        self.kube(true, |world| {
            world.judge_paused(self.operator, "patches a claim");
            let result = world.kube.patch_claim(name, uid, patch);
            world.judge_patch(self.operator, result.is_err());
            world.tell("operator", format_args!("{} patches {name} with {patch:?}: {result:?}", self.operator));
            result.map(drop)
        })
        .await
    }

    async fn apply_status(
        &self,
        _key: &Key,
        uid: &str,
        resource_version: &str,
        status: &ChronikClusterStatus,
    ) -> Result<String, KubeError> {
        self.kube(true, |world| {
            world.judge_status(self.operator, resource_version, status);
            let changed = world.kube.status_changes(status);
            let result = world.kube.set_status(uid, resource_version, status);
            if !matches!(result, Ok((_, false))) {
                let operation = status.operation.as_ref().map(|o| {
                    let gates: Vec<String> =
                        o.blocked_by.iter().map(|b| format!("{}: {}", b.gate, b.message)).collect();
                    format!("{:?}/{:?} {:?} {gates:?}", o.kind, o.step, o.node_id)
                });
                let (phase, done) = (status.phase, result.as_ref().map(drop));
                world.tell(
                    "operator",
                    format_args!(
                        "{} says {phase:?} {} {changed}: {done:?}",
                        self.operator,
                        operation.unwrap_or_default()
                    ),
                );
            }
            result.map(|(version, _)| version)
        })
        .await
    }

    async fn publish(&self, _cluster: &ChronikCluster, event: &Event) {
        lock(&self.world).passes.entry(self.operator).or_default().told |= event.reason == "RestartingBroker";
        let _nobody_learns = self
            .kube(true, |world| {
                world.passes.entry(self.operator).or_default().writes += 1;
                world.tell("operator", format_args!("{} event {}: {}", self.operator, event.reason, event.note));
                Ok(())
            })
            .await;
    }
}

fn replicas(object: &Object) -> String {
    match object {
        Object::StatefulSet(set) => {
            format!(" replicas {}", set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default())
        }
        _ => String::new(),
    }
}

impl Brokers for Client {
    async fn describe(&self, at: &BrokerAddress) -> Result<BrokerFacts, BrokerError> {
        self.ask(at, |world, id| {
            let facts = world.brokers.describe(world.now, id, &mut world.rng);
            facts.ok_or_else(|| BrokerError::Unreachable("no answer".into()))
        })
        .await
    }

    async fn cordon(&self, at: &BrokerAddress, node: NodeId, cordoned: bool) -> Result<(), BrokerError> {
        self.broker(at, |world, id| {
            world.judge_cordon(self.operator, node.0, cordoned);
            let result = world.brokers.cordon(world.now, id, node.0, cordoned);
            world.tell("operator", format_args!("{} cordon {node} {cordoned}: {result:?}", self.operator));
            world.count_call(self.operator, true);
            result.map(drop)
        })
        .await
    }

    async fn rebalance(&self, at: &BrokerAddress, limits: RebalanceLimits) -> Result<RebalanceFacts, BrokerError> {
        self.broker(at, |world, id| {
            world.judge_paused(self.operator, "rebalances");
            let result = world.brokers.rebalance(world.now, id, limits);
            world.count_call(self.operator, matches!(result, Ok((_, true))));
            if !matches!(result, Ok((_, false))) {
                world.tell("operator", format_args!("{} rebalances: {result:?}", self.operator));
            }
            result.map(|(facts, _)| facts)
        })
        .await
    }

    async fn move_leaders(&self, at: &BrokerAddress, node: NodeId) -> Result<LeadersMoved, BrokerError> {
        self.broker(at, |world, id| {
            world.judge_paused(self.operator, "moves leaders");
            let result = world.brokers.move_leaders(world.now, id, node.0);
            world.tell("operator", format_args!("{} moves leaders off {node}: {result:?}", self.operator));
            world.count_call(self.operator, true);
            result
        })
        .await
    }

    async fn change_quorum(&self, at: &BrokerAddress, change: QuorumChange) -> Result<(), BrokerError> {
        self.broker(at, |world, id| {
            world.judge_quorum(self.operator, change);
            let result = world.brokers.change_quorum(world.now, id, change, &mut world.rng);
            world.tell("operator", format_args!("{} {change:?}: {result:?}", self.operator));
            world.count_call(self.operator, true);
            result.map(drop)
        })
        .await
    }

    async fn unregister(&self, at: &BrokerAddress, node: NodeId) -> Result<(), BrokerError> {
        self.broker(at, |world, id| {
            world.judge_unregister(self.operator, node.0);
            let result = world.brokers.unregister(world.now, id, node.0);
            world.tell("operator", format_args!("{} unregisters {node}: {result:?}", self.operator));
            world.count_call(self.operator, true);
            result.map(drop)
        })
        .await
    }

    async fn set_default(&self, at: &BrokerAddress, name: &str, value: Option<&str>) -> Result<(), BrokerError> {
        self.broker(at, |world, id| {
            world.judge_paused(self.operator, "sets a default");
            let result = world.brokers.set_default(world.now, id, name, value);
            world.tell("operator", format_args!("{} sets {name} to {value:?}: {result:?}", self.operator));
            world.count_call(self.operator, !matches!(result, Ok(false)));
            result.map(drop)
        })
        .await
    }

    async fn assign_rack(&self, at: &BrokerAddress, node: NodeId, rack: Option<&str>) -> Result<(), BrokerError> {
        self.broker(at, |world, id| {
            world.judge_paused(self.operator, "assigns a rack");
            let result = world.brokers.assign_rack(world.now, id, node.0, rack.unwrap_or_default());
            world.tell("operator", format_args!("{} assigns rack {rack:?} to {node}: {result:?}", self.operator));
            world.count_call(self.operator, true);
            result.map(drop)
        })
        .await
    }
}
