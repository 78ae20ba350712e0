//! Topics and the placement of their replicas.

use std::collections::BTreeSet;

use super::*;

fn placed(cluster: &mut Cluster, name: &str, partitions: i32, factor: i32) -> Vec<Vec<NodeId>> {
    let creation = CreateTopic { partitions, replication_factor: factor, ..Cluster::creation(name, &[]) };
    cluster.accept(creation);
    cluster.state.topic(name).unwrap().partitions.iter().map(|p| p.replicas.clone()).collect()
}

#[test]
fn a_topic_is_created_found_and_deleted_and_a_new_one_of_its_name_is_another() {
    let mut cluster = Cluster::of(3);
    let creation = CreateTopic { partitions: 2, replication_factor: 3, ..Cluster::creation("t", &[]) };
    let CommandResult::Created(created) = cluster.accept(creation.clone()) else { panic!("not created") };
    assert_eq!((created.partitions, created.replication_factor), (2, 3));
    assert_eq!(cluster.changes.len(), 3);
    assert_eq!(cluster.state.topic_by_id(Cluster::id("t")).unwrap().created_ms, 1_000);
    cluster.refuse(creation.clone(), ErrorCode::TopicAlreadyExists);
    cluster.accept(DeleteTopic { topic_id: created.topic_id });
    let gone = Change::TopicDeleted { name: "t".into(), id: created.topic_id, partitions: 2 };
    assert_eq!(cluster.changes, [gone]);
    cluster.refuse(DeleteTopic { topic_id: created.topic_id }, ErrorCode::UnknownTopicId);
    cluster.accept(CreateTopic { topic_id: Uuid::from_u128(77), ..creation });
    assert!(cluster.state.topic_by_id(created.topic_id).is_none());
}

#[test]
fn bad_names_numbers_and_assignments_are_refused_with_kafkas_codes() {
    let mut cluster = Cluster::of(2);
    cluster.accept(Cluster::creation("a.b", &[&[1]]));
    let sized = |name, partitions, replication_factor| CreateTopic {
        partitions,
        replication_factor,
        ..Cluster::creation(name, &[])
    };
    for (command, code) in [
        (sized("a/b", 1, 1), ErrorCode::InvalidTopicException),
        (sized("a_b", 1, 1), ErrorCode::InvalidTopicException),
        (sized("x", 0, 1), ErrorCode::InvalidPartitions),
        (sized("x", 1_000_000, 1), ErrorCode::InvalidPartitions),
        (sized("x", 1, 0), ErrorCode::InvalidReplicationFactor),
        (sized("x", 1, 3), ErrorCode::InvalidReplicationFactor),
        (CreateTopic { partitions: 5, ..Cluster::creation("x", &[&[1]]) }, ErrorCode::InvalidRequest),
        (Cluster::creation("x", &[&[1, 1]]), ErrorCode::InvalidReplicaAssignment),
        (Cluster::creation("x", &[&[]]), ErrorCode::InvalidReplicaAssignment),
        (Cluster::creation("x", &[&[1, 2], &[1]]), ErrorCode::InvalidReplicaAssignment),
        (Cluster::creation("x", &[&[9]]), ErrorCode::InvalidReplicaAssignment),
        (CreateTopic { topic_id: Uuid::ZERO, ..sized("x", 1, 1) }, ErrorCode::InvalidRequest),
    ] {
        cluster.refuse(command, code);
    }
}

#[test]
fn defaults_are_one_partition_and_three_replicas_or_as_many_as_there_are_brokers() {
    for (brokers, factor) in [(1, 1), (2, 2), (5, 3)] {
        let placement = placed(&mut Cluster::of(brokers), "t", -1, -1);
        assert_eq!((placement.len(), placement[0].len()), (1, factor));
    }
    let mut cluster = Cluster::of(3);
    cluster.set(ConfigResource::ClusterDefault, "num.partitions", "4");
    cluster.set(ConfigResource::ClusterDefault, "default.replication.factor", "2");
    let placement = placed(&mut cluster, "t", -1, -1);
    assert_eq!((placement.len(), placement[0].len()), (4, 2));
}

#[test]
fn replicas_and_leaders_are_spread_evenly_over_many_topics() {
    let mut cluster = Cluster::of(3);
    for topic in 0..12 {
        placed(&mut cluster, &format!("one-{topic}"), 1, 1);
    }
    placed(&mut cluster, "many", 9, 2);
    for node in nodes(&[1, 2, 3]) {
        assert_eq!(cluster.state.partitions_led_by(node).count(), 7, "leaderships of {node}");
        let hosted = cluster.state.partitions_hosted_by(node).count();
        assert!((9..=11).contains(&hosted), "{node} hosts {hosted} of 30");
    }
}

#[test]
fn racks_are_kept_apart_and_live_brokers_come_first() {
    let mut cluster = Cluster::default();
    for (node, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")] {
        let registration = cluster.registration(node, BrokerEpoch::NONE);
        cluster.accept(RegisterBroker { rack: Some(rack.to_owned()), ..registration });
        cluster.unfence(node);
    }
    let rack = |node: &NodeId| match node.0 {
        1 | 2 => 'a',
        3 | 4 => 'b',
        _ => 'c',
    };
    for replicas in placed(&mut cluster, "racks", 10, 3) {
        assert_eq!(replicas.iter().map(rack).collect::<BTreeSet<_>>().len(), 3, "{replicas:?}");
    }
    cluster.fence(5);
    for replicas in placed(&mut cluster, "live", 10, 4) {
        assert!(!replicas.contains(&NodeId(5)), "{replicas:?}");
    }
    for replicas in placed(&mut cluster, "all", 2, 5) {
        assert_eq!(replicas.last(), Some(&NodeId(5)), "a fenced broker only for want of others");
    }
    let all = cluster.state.topic("all").unwrap();
    assert!(all.partitions.iter().all(|p| p.isr.len() == 4 && p.leader != Some(NodeId(5))));
}

#[test]
fn a_topic_created_while_every_broker_is_fenced_gets_a_leader_with_the_first_that_returns() {
    let mut cluster = Cluster::of(2);
    cluster.fence(1);
    cluster.fence(2);
    cluster.topic(&[&[1, 2]]);
    assert_eq!(cluster.view(), (None, vec![], vec![1, 2]));
    cluster.restart(2);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![]));
}

#[test]
fn partitions_are_added_behind_the_existing_ones_and_never_removed() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2]]);
    let before = cluster.p().clone();
    let grow = |total, assignments: &[&[i32]]| CreatePartitions {
        topic_id: Cluster::id("t"),
        total,
        assignments: assignments.iter().map(|replicas| Assignment { replicas: nodes(replicas) }).collect(),
    };
    cluster.refuse(grow(1, &[]), ErrorCode::InvalidPartitions);
    cluster.refuse(grow(3, &[&[1, 2]]), ErrorCode::InvalidReplicaAssignment);
    cluster.refuse(grow(2, &[&[1, 2, 3]]), ErrorCode::InvalidReplicaAssignment);
    cluster.accept(grow(2, &[&[3, 1]]));
    cluster.accept(grow(4, &[]));
    let topic = cluster.state.topic("t").unwrap();
    assert_eq!((&topic.partitions[0], topic.partitions.len()), (&before, 4));
    assert_eq!(topic.partitions[1].replicas, nodes(&[3, 1]));
    assert_eq!(cluster.changes.len(), 2);
}

#[test]
fn a_check_answers_as_apply_would_and_changes_nothing() {
    let cluster = Cluster::of(3);
    let creation = CreateTopic { partitions: 3, replication_factor: 2, ..Cluster::creation("t", &[]) };
    let before = cluster.state.hash();
    let promised = cluster.state.check_create_topic(&creation).unwrap();
    assert_eq!(cluster.state.hash(), before);
    let mut cluster = cluster;
    assert_eq!(placed(&mut cluster, "t", 3, 2), promised);
    assert_eq!(cluster.state.check_create_topic(&creation).unwrap_err().code, ErrorCode::TopicAlreadyExists);
}
