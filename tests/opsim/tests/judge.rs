//! Every rule of the judge, broken by hand: what cannot fail proves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_operator::api::{
    BlockedBy, BootstrapStatus, ChronikClusterSpec, ChronikClusterStatus, Gate, Operation, OperationStatus,
    OperationStep, RetentionPolicy, RolloutPolicy, ScaleDownPolicy, UpgradePolicy,
};
use chronik_operator::observed::NodeId;
use chronik_operator::ports::{FIELD_MANAGER, Kind, Object, ObjectRef, Propagation, QuorumChange};
use chronik_opsim::brokers::{ClusterFile, Partition, Process, Registration, Run, Topic, Volume};
use chronik_opsim::kubernetes::{Claim, timestamp};
use chronik_opsim::plan::Plan;
use chronik_opsim::world::{Pass, World};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

fn set_of(replicas: i32) -> Object {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: Some([("chronik.io/revision".to_owned(), "r1".to_owned())].into()),
            ..ObjectMeta::default()
        }),
        ..PodTemplateSpec::default()
    };
    let spec = StatefulSetSpec { replicas: Some(replicas), template, ..StatefulSetSpec::default() };
    Object::StatefulSet(Box::new(StatefulSet { metadata: named("x"), spec: Some(spec), status: None }))
}

fn process(run: Run) -> Process {
    Process {
        run,
        volume: String::new(),
        incarnation: "run".into(),
        version: "1".into(),
        faulty: false,
        unreachable_until: 0,
        token: String::new(),
        file: ClusterFile { bootstrap_voters: [1, 2, 3].into(), ..ClusterFile::default() },
        since: 0,
    }
}

/// Ten seconds old: three brokers that serve and vote, 1 leads, a StatefulSet at rest, and a pass that has just been shown all of it.
fn world() -> World {
    let mut plan = Plan::new(8);
    plan.spec = ChronikClusterSpec { replicas: 3, ..ChronikClusterSpec::default() };
    plan.actions.clear();
    plan.topics.clear();
    let mut world = World::new(Arc::new(plan), false);
    world.now = 10_000;
    world.kube.apply(FIELD_MANAGER, &set_of(3)).unwrap();
    at_rest(&mut world, 3);
    for id in 1..=3 {
        let (uid, directory) = (format!("claim-{id}"), format!("dir-{id}"));
        let process = Process { volume: uid.clone(), ..process(Run::Serving) };
        world.brokers.processes.insert(id, process);
        world.brokers.registered.insert(id, Registration { directory: directory.clone(), ..Registration::default() });
        world.brokers.homes.insert(id, uid.clone());
        let volume = Volume { directory, raft_index: 10, capacity: 10, ..Volume::default() };
        world.brokers.volumes.insert(uid, volume);
    }
    let quorum = &mut world.brokers.quorum;
    (quorum.voters, quorum.leader, quorum.last, quorum.committed) = ([1, 2, 3].into(), Some(1), 10, 10);
    world.judge_step();
    shown(&mut world);
    world
}

fn at_rest(world: &mut World, pods: i32) {
    let set = ObjectRef { kind: Kind::StatefulSet, name: "x".into() };
    let Some(Object::StatefulSet(set)) = world.kube.objects.get_mut(&set).map(|stored| &mut stored.object) else {
        panic!("there is a StatefulSet")
    };
    let observed_generation = set.metadata.generation;
    set.status = Some(StatefulSetStatus { observed_generation, replicas: pods, ..StatefulSetStatus::default() });
}

/// A pass begins.
fn shown(world: &mut World) {
    let pass = Pass { began: world.now, cluster: world.kube.cluster.clone(), ..Pass::default() };
    world.passes.insert(0, pass);
}

fn specified(world: &mut World, change: impl FnOnce(&mut ChronikClusterSpec)) {
    world.kube.edit(|cluster| change(&mut cluster.spec));
    shown(world);
}

/// Broker 3 has left the quorum and everything else, and two are wanted.
fn drained(world: &mut World) {
    specified(world, |spec| spec.replicas = 2);
    world.brokers.quorum.voters = [1, 2].into();
}

fn partition(world: &mut World, replicas: &[i32], acked: u64) {
    let topic = Topic { name: "t".into(), partitions: 1, replication: 1, min_isr: 1, internal: false, created: true };
    world.brokers.topics.push(topic);
    let isr: BTreeSet<i32> = replicas.iter().copied().collect();
    let leader = replicas.first().copied();
    let replicas = replicas.to_vec();
    world.brokers.partitions.push(Partition { topic: 0, number: 0, replicas, target: None, isr, leader, acked });
}

#[track_caller]
fn fails(what: &str, act: impl FnOnce(&mut World)) {
    let mut world = world();
    act(&mut world);
    let said = world.judge.violation.as_deref().unwrap_or("nothing");
    assert!(said.contains(what), "the judge says: {said}");
}

#[track_caller]
fn passes(act: impl FnOnce(&mut World)) {
    let mut world = world();
    act(&mut world);
    assert_eq!(world.judge.violation, None);
}

#[test]
fn a_paused_or_absent_cluster_is_left_alone() {
    fails("is paused", |world| {
        specified(world, |spec| spec.paused = true);
        world.judge_paused(0, "rebalances");
    });
    fails("there is no cluster", |world| {
        world.passes.insert(0, Pass::default());
        world.judge_write(0, "applies");
    });
    passes(|world| world.judge_write(0, "applies"));
}

#[test]
fn one_pass_disrupts_once() {
    fails("the second disruptive act", |world| {
        world.judge_delete_pod(0, "x-1");
        world.judge_delete_pod(0, "x-2");
    });
    passes(|world| world.judge_delete_pod(0, "x-1"));
}

#[test]
fn only_the_last_drained_broker_is_shrunk_away() {
    fails("shrinks from 3 to 1 at once", |world| {
        specified(world, |spec| spec.replicas = 1);
        world.judge_apply(0, &set_of(1));
    });
    fails("shrinks to 2, and 3 are wanted", |world| world.judge_apply(0, &set_of(2)));
    fails("with 1 replicas", |world| {
        drained(world);
        partition(world, &[3], 0);
        world.judge_apply(0, &set_of(2));
    });
    fails("is one of the voters", |world| {
        specified(world, |spec| spec.replicas = 2);
        world.judge_apply(0, &set_of(2));
    });
    passes(|world| {
        drained(world);
        world.judge_apply(0, &set_of(2));
    });
}

#[test]
fn a_stateful_set_shrinks_at_rest_and_only_where_that_is_allowed() {
    fails("has 4 pods", |world| {
        drained(world);
        at_rest(world, 4);
        world.judge_apply(0, &set_of(2));
    });
    fails("policy is Block", |world| {
        specified(world, |spec| spec.scale_down.policy = ScaleDownPolicy::Block);
        drained(world);
        world.judge_apply(0, &set_of(2));
    });
}

#[test]
fn nothing_grows_that_nobody_wants() {
    fails("grows from 3 to 4", |world| world.judge_apply(0, &set_of(4)));
    fails("is stopped and goes from 3 to 2", |world| {
        specified(world, |spec| spec.stopped = true);
        world.judge_apply(0, &set_of(2));
    });
    passes(|world| {
        specified(world, |spec| spec.stopped = true);
        world.judge_apply(0, &set_of(0));
    });
}

#[test]
fn a_stateful_set_is_deleted_around_its_pods() {
    let set = || ObjectRef { kind: Kind::StatefulSet, name: "x".into() };
    fails("deleted with its pods", |world| world.judge_delete(0, &set(), Propagation::Background));
    passes(|world| world.judge_delete(0, &set(), Propagation::Orphan));
}

#[test]
fn brokers_are_stopped_one_after_the_other_and_only_where_it_does_no_harm() {
    fails("it deletes the pod y-1", |world| world.judge_delete_pod(0, "y-1"));
    fails("has not been ready again", |world| {
        world.judge_delete_pod(0, "x-1");
        shown(world);
        world.judge_delete_pod(0, "x-2");
    });
    fails("is stopped although t-0", |world| {
        world.brokers.harmful_since.insert(2, (0, "t-0 has only [2] in sync".into()));
        world.judge_delete_pod(0, "x-1");
    });
    fails("while it leads the quorum", |world| world.judge_delete_pod(0, "x-0"));
    passes(|world| {
        world.judge_delete_pod(0, "x-1");
        world.judge_step();
        shown(world);
        world.judge_delete_pod(0, "x-2");
    });
}

#[test]
fn nobody_is_restarted_whom_a_person_has_to_approve() {
    for change in [(|spec| spec.rollout.policy = RolloutPolicy::Manual) as fn(&mut ChronikClusterSpec), |spec| {
        spec.upgrade_policy = UpgradePolicy::Manual
    }] {
        fails("nobody approved it", |world| {
            specified(world, change);
            world.judge_delete_pod(0, "x-1");
        });
        passes(|world| {
            specified(world, change);
            world.kube.edit(|cluster| {
                let annotations = cluster.metadata.annotations.get_or_insert_default();
                annotations.insert(chronik_operator::api::APPROVED_REVISION_ANNOTATION.into(), "r1".into());
            });
            shown(world);
            world.judge_delete_pod(0, "x-1");
        });
    }
}

#[test]
fn a_restart_is_told() {
    fails("no event says so", |world| {
        world.passes.entry(0).or_default().restarted = Some("x-1".into());
        world.judge_told(0);
    });
    passes(|world| {
        let pass = world.passes.entry(0).or_default();
        (pass.restarted, pass.told) = (Some("x-1".into()), true);
        world.judge_told(0);
    });
}

#[test]
fn only_brokers_that_go_are_cordoned_and_forgotten() {
    fails("broker 2 of 3 is cordoned", |world| world.judge_cordon(0, 2, true));
    fails("is forgotten and is there", |world| world.judge_unregister(0, 2));
    passes(|world| {
        world.judge_cordon(0, 2, false);
        world.judge_cordon(0, 4, true);
        world.judge_unregister(0, 4);
    });
}

#[test]
fn the_quorum_gets_the_voters_that_are_wanted_and_fit() {
    let promote = |id| QuorumChange::Promote(NodeId(id));
    fails("is to go and becomes a voter", |world| world.judge_quorum(0, promote(4)));
    fails("has not caught up", |world| {
        world.brokers.lagging_since.insert(3, 0);
        world.judge_quorum(0, promote(3));
    });
    fails("3 voters become more", |world| {
        specified(world, |spec| spec.replicas = 4);
        world.brokers.quorum.learners = [4].into();
        world.judge_quorum(0, promote(4));
    });
    fails("voter 2 of 3 is removed", |world| world.judge_quorum(0, QuorumChange::Remove(NodeId(2))));
    let demote = |id| QuorumChange::Demote(NodeId(id));
    fails("voter 2 of 3 becomes a learner", |world| world.judge_quorum(0, demote(2)));
    passes(|world| {
        world.brokers.quorum.voters = [1, 2].into();
        world.brokers.quorum.learners = [3].into();
        world.judge_quorum(0, promote(3));
    });
    passes(|world| {
        specified(world, |spec| spec.raft.voters = Some(1));
        world.judge_quorum(0, demote(2));
    });
}

fn held(gate: Gate, since: u64, began: u64) -> ChronikClusterStatus {
    let held = BlockedBy { gate, message: "m".into(), since: Time(timestamp(since)) };
    let operation = OperationStatus {
        kind: Operation::ScaleDown,
        step: OperationStep::MoveReplicas,
        node_id: Some(3),
        started_at: Time(timestamp(began)),
        blocked_by: vec![held],
    };
    ChronikClusterStatus { operation: Some(operation), ..ChronikClusterStatus::default() }
}

fn founded() -> ChronikClusterStatus {
    let bootstrap = BootstrapStatus { voters: vec![1, 2, 3], completed_at: Some(Time(timestamp(0))) };
    ChronikClusterStatus {
        cluster_id: Some("c".into()),
        bootstrap: Some(bootstrap),
        retired: vec!["dir-9".into()],
        ..ChronikClusterStatus::default()
    }
}

fn says(world: &mut World, before: ChronikClusterStatus, after: &ChronikClusterStatus) {
    world.kube.edit(|cluster| cluster.status = Some(before));
    let version = world.kube.cluster.as_ref().and_then(|c| c.metadata.resource_version.clone()).unwrap_or_default();
    world.judge_status(0, &version, after);
}

#[test]
fn what_the_status_says_about_the_past_stays() {
    let gate = Gate::ReplicasNotMoved;
    fails("has held since", |world| says(world, held(gate, 0, 0), &held(gate, 5_000, 0)));
    fails("began at", |world| says(world, held(gate, 0, 0), &held(gate, 0, 5_000)));
    passes(|world| says(world, held(gate, 0, 0), &held(gate, 0, 0)));
}

#[test]
fn who_the_cluster_is_stays() {
    fails("becomes Some(\"d\")", |world| {
        says(world, founded(), &ChronikClusterStatus { cluster_id: Some("d".into()), ..founded() });
    });
    fails("the founding was", |world| {
        let bootstrap = Some(BootstrapStatus { voters: vec![1], completed_at: Some(Time(timestamp(0))) });
        says(world, founded(), &ChronikClusterStatus { bootstrap, ..founded() });
    });
    fails("the founding was", |world| {
        let bootstrap = Some(BootstrapStatus { voters: vec![1, 2, 3], completed_at: None });
        says(world, founded(), &ChronikClusterStatus { bootstrap, ..founded() });
    });
    fails("was retired and is no more", |world| {
        says(world, founded(), &ChronikClusterStatus { retired: Vec::new(), ..founded() });
    });
    passes(|world| says(world, founded(), &founded()));
}

#[test]
fn brokers_are_told_who_founded_and_that_nobody_founds_again() {
    let book = |voters: &str, join: bool| {
        let text = format!("{{\"clusterId\": \"c\", \"bootstrapVoters\": {voters}, \"join\": {join}}}");
        let data = Some([("cluster.yaml".to_owned(), text)].into());
        Object::ConfigMap(Box::new(ConfigMap { metadata: named("x-config"), data, ..ConfigMap::default() }))
    };
    let told = |world: &mut World, object: &Object| {
        world.kube.edit(|cluster| cluster.status = Some(founded()));
        shown(world);
        world.judge_apply(0, object);
    };
    fails("brokers are told {1, 2}", |world| told(world, &book("[1, 2]", true)));
    fails("may found another", |world| told(world, &book("[1, 2, 3]", false)));
    fails("cannot be read", |world| told(world, &book("[", true)));
    passes(|world| told(world, &book("[1, 2, 3]", true)));
}

#[test]
fn what_another_controls_is_not_applied() {
    let service = |owner: &str| {
        let owner = OwnerReference { uid: owner.into(), controller: Some(true), ..OwnerReference::default() };
        let metadata = ObjectMeta { owner_references: Some(vec![owner]), ..named("x-bootstrap") };
        Object::Service(Box::new(Service { metadata, ..Service::default() }))
    };
    let applied = |world: &mut World, owner: &str| {
        world.kube.apply("another", &service(owner)).unwrap();
        let reference = service(owner).reference();
        let uid = world.kube.objects.get(&reference).and_then(|stored| stored.object.meta().uid.clone());
        let mut object = service(owner);
        object.meta_mut().uid = uid;
        world.judge_apply(0, &object);
    };
    fails("belongs to Some(\"another\")", |world| applied(world, "another"));
    passes(|world| {
        let mine = world.kube.cluster.as_ref().and_then(|c| c.metadata.uid.clone()).unwrap();
        applied(world, &mine);
    });
}

/// The disk of a fourth broker, which is gone.
fn claim(world: &mut World) {
    let metadata = ObjectMeta { uid: Some("c".into()), ..named("data-x-3") };
    let claim = PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() };
    world.kube.claims.insert("data-x-3".into(), Claim { claim, grown_at: None });
}

#[test]
fn disks_stay_unless_they_are_to_go() {
    fails("claim data-x-1 is gone", |world| world.judge_lost_claim("data-x-1", "c"));
    fails("went with the cluster", |world| {
        world.kube.delete_cluster();
        world.judge_lost_claim("data-x-1", "c");
    });
    fails("was to be retained", |world| {
        claim(world);
        world.judge_delete_claim(0, "data-x-3", "c");
    });
    fails("claim data-x-3 is deleted, and 4 brokers are there", |world| {
        claim(world);
        world.kube.apply("another", &set_of(4)).unwrap();
        specified(world, |spec| spec.storage.retention.when_scaled = RetentionPolicy::Delete);
        world.judge_delete_claim(0, "data-x-3", "c");
    });
    passes(|world| {
        claim(world);
        specified(world, |spec| spec.storage.retention.when_scaled = RetentionPolicy::Delete);
        world.judge_delete_claim(0, "data-x-3", "c");
    });
    passes(|world| {
        world.judge.cluster_deleted(RetentionPolicy::Delete);
        world.kube.delete_cluster();
        world.judge_lost_claim("data-x-1", "c");
    });
}

#[test]
fn acknowledged_records_are_somewhere() {
    fails("nobody of [2] holds 5 acknowledged records", |world| {
        partition(world, &[2], 5);
        world.brokers.destroy("claim-2");
        world.judge_step();
    });
    passes(|world| {
        partition(world, &[2], 0);
        world.brokers.destroy("claim-2");
        world.judge_step();
    });
}

#[test]
fn a_cluster_is_founded_once_and_its_metadata_is_kept() {
    fails("founded a second cluster", |world| {
        world.brokers.foundings = 1;
        let quorum = &mut world.brokers.quorum;
        (quorum.leader, quorum.voters) = (None, BTreeSet::new());
        world.brokers.processes.values_mut().for_each(|process| process.run = Run::Founding);
        world.step();
    });
    fails("committed metadata is lost", |world| {
        (world.brokers.quorum.leader, world.brokers.quorum.committed) = (None, 100);
        (0..10).for_each(|_| world.step());
    });
}

#[test]
fn in_the_end_every_child_is_there() {
    let world = world();
    let missing = world.unsettled_children().unwrap_or_default();
    assert!(missing.contains("does not exist"), "{missing}");
}
