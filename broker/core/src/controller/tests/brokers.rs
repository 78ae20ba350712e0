//! R1, R11, R12: the life of brokers.

use super::*;

#[test]
fn a_broker_starts_fenced_under_the_index_of_its_registration() {
    let mut cluster = Cluster::default();
    cluster.register(1, BrokerEpoch::NONE);
    let broker = cluster.state.broker(NodeId(1)).unwrap();
    assert_eq!((broker.epoch, broker.fenced, broker.is_active()), (BrokerEpoch(1), true, false));
    assert_eq!(cluster.state.cluster_id().unwrap().as_str(), "chronik");
    cluster.unfence(1);
    assert!(cluster.state.is_active(NodeId(1)));
    assert_eq!(cluster.state.alive_brokers().count(), 1);
}

#[test]
fn a_second_live_process_with_the_same_id_is_refused_and_both_addresses_named() {
    let mut cluster = Cluster::of(1);
    let mut intruder = cluster.registration(1, BrokerEpoch::NONE);
    intruder.directories = vec![Uuid::from_u128(99)];
    intruder.endpoints.kafka = Endpoint { host: "elsewhere".to_owned(), port: 1234 };
    let message = cluster.refuse(intruder.clone(), ErrorCode::DuplicateBrokerRegistration);
    assert!(message.contains("broker-1:9092") && message.contains("elsewhere:1234"), "{message}");
    cluster.fence(1);
    cluster.accept(intruder);
}

#[test]
fn the_holder_of_the_same_data_directory_takes_over_at_once() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    let old = cluster.epoch(1);
    cluster.register(1, BrokerEpoch::NONE);
    assert_eq!(cluster.view(), (Some(2), vec![2, 3], vec![]));
    assert!(cluster.changes.last() == Some(&Change::Broker { node: NodeId(1) }), "the registration comes last");
    cluster.refuse(UnfenceBroker { node: NodeId(1), broker_epoch: old }, ErrorCode::StaleBrokerEpoch);
}

#[test]
fn the_same_process_registering_again_keeps_its_epoch() {
    let mut cluster = Cluster::default();
    let mut registration = cluster.registration(1, BrokerEpoch::NONE);
    cluster.accept(registration.clone());
    cluster.unfence(1);
    registration.endpoints.kafka.port = 19092;
    assert_eq!(cluster.accept(registration), CommandResult::Registered(BrokerEpoch(1)));
    let broker = cluster.state.broker(NodeId(1)).unwrap();
    assert_eq!((broker.fenced, broker.endpoints.kafka.port), (false, 19092));
}

#[test]
fn a_broker_of_another_cluster_is_refused() {
    let mut cluster = Cluster::of(1);
    let mut stranger = cluster.registration(2, BrokerEpoch::NONE);
    stranger.cluster_id = "other".into();
    let message = cluster.refuse(stranger, ErrorCode::InconsistentClusterId);
    assert!(message.contains("other") && message.contains("chronik"), "{message}");
}

#[test]
fn a_registration_without_addresses_or_directory_is_refused() {
    let mut cluster = Cluster::default();
    let good = cluster.registration(1, BrokerEpoch::NONE);
    let mut no_port = good.clone();
    no_port.endpoints.replication.port = 0;
    let mut no_directory = good.clone();
    no_directory.directories.clear();
    let mut no_id = good;
    no_id.node = NodeId(0);
    for bad in [no_port, no_directory, no_id] {
        cluster.refuse(bad, ErrorCode::InvalidRegistration);
    }
    assert_eq!(cluster.state.cluster_id(), None);
}

#[test]
fn fencing_moves_the_leadership_and_bumps_the_leader_epoch_once() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3], &[2, 3, 1]]);
    cluster.fence(1);
    assert_eq!(cluster.view(), (Some(2), vec![2, 3], vec![]));
    assert_eq!(cluster.p().leader_epoch.0, 1);
    let other = cluster.state.topic("t").unwrap().partitions[1].clone();
    assert_eq!((other.leader_epoch.0, other.partition_epoch.0), (0, 1), "a shrink alone keeps the leadership");
    cluster.fence(1);
    assert_eq!(cluster.changes, [], "fenced already");
}

#[test]
fn after_an_unclean_shutdown_a_broker_leaves_every_in_sync_and_eligible_set() {
    // KAFKA-18106, KAFKA-18635
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3], &[2, 1, 3]]);
    cluster.fence(3);
    cluster.fence(2);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![2]));
    cluster.revive(2);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
    assert_eq!(cluster.state.topic("t").unwrap().partitions[1].elr, []);
}

#[test]
fn after_a_clean_shutdown_a_broker_stays_eligible() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.fence(3);
    cluster.fence(2);
    cluster.restart(2);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![2]));
}

#[test]
fn a_replaced_disk_never_becomes_the_truth() {
    // KAFKA-14139's class: the broker that led last comes back empty, claiming a clean shutdown.
    let mut cluster = Cluster::of(1);
    cluster.topic(&[&[1]]);
    cluster.fence(1);
    let mut registration = cluster.registration(1, cluster.epoch(1));
    registration.directories = vec![Uuid::from_u128(99)];
    cluster.accept(registration);
    cluster.unfence(1);
    assert_eq!(cluster.view(), (None, vec![], vec![]));
    assert_eq!(cluster.last_known(), []);
}

#[test]
fn a_failed_disk_takes_the_broker_out_of_its_partitions_until_it_registers_again() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    let (node, broker_epoch) = (NodeId(1), cluster.epoch(1));
    let unknown = OfflineDirs { node, broker_epoch, directories: vec![Uuid::from_u128(5)] };
    cluster.refuse(unknown, ErrorCode::LogDirNotFound);
    cluster.accept(OfflineDirs { node, broker_epoch, directories: vec![Uuid::from_u128(1001)] });
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![]));
    let change = cluster.isr_change(&[2, 1]);
    cluster.refuse(change, ErrorCode::IneligibleReplica);
    cluster.restart(1);
    cluster.set_isr(&[2, 1]);
}

#[test]
fn controlled_shutdown_moves_leaderships_and_keeps_the_last_replica_serving() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3], &[2, 1, 3]]);
    cluster.accept(Cluster::creation("alone", &[&[1]]));
    let begin = BeginControlledShutdown { node: NodeId(1), broker_epoch: cluster.epoch(1) };
    let result = cluster.accept(begin.clone());
    assert_eq!(result, CommandResult::ShuttingDown(cluster.state.applied()));
    assert_eq!(cluster.view(), (Some(2), vec![2, 3], vec![]));
    let (alone, other) = (cluster.first("alone"), &cluster.state.topic("t").unwrap().partitions[1]);
    assert_eq!((alone.leader, &alone.isr), (Some(NodeId(1)), &nodes(&[1])));
    assert_eq!((other.leader, &other.isr), (Some(NodeId(2)), &nodes(&[2, 3])));
    assert_eq!(cluster.accept(begin), result, "asking again changes nothing");
    let change = cluster.isr_change(&[2, 3, 1]);
    cluster.refuse(change, ErrorCode::IneligibleReplica);
    cluster.fence(1);
    let epoch = cluster.epoch(1);
    cluster.refuse(UnfenceBroker { node: NodeId(1), broker_epoch: epoch }, ErrorCode::InvalidRequest);
    cluster.restart(1);
    assert_eq!(cluster.first("alone").leader, Some(NodeId(1)));
}

#[test]
fn a_leader_that_waits_to_stop_hands_over_to_whom_it_lets_in() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.set_isr(&[1]);
    cluster.accept(BeginControlledShutdown { node: NodeId(1), broker_epoch: cluster.epoch(1) });
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![]));
}

#[test]
fn a_dead_broker_can_be_forgotten_but_not_a_live_one() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.fence(3);
    cluster.fence(2);
    cluster.refuse(UnregisterBroker { node: NodeId(1) }, ErrorCode::InvalidRequest);
    cluster.refuse(UnregisterBroker { node: NodeId(9) }, ErrorCode::BrokerIdNotRegistered);
    let message = cluster.refuse(UnregisterBroker { node: NodeId(2) }, ErrorCode::PolicyViolation);
    assert!(message.contains("1 replicas"), "{message}");
    cluster.accept(DeleteTopic { topic_id: Cluster::id("t") });
    cluster.accept(UnregisterBroker { node: NodeId(2) });
    assert!(cluster.state.broker(NodeId(2)).is_none());
}

#[test]
fn a_broker_that_is_forgotten_cannot_return_empty_and_lead_as_the_last_known() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.set_isr(&[1]);
    cluster.register(1, BrokerEpoch::NONE);
    assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![]), vec![1]));
    // Forgetting the broker would forget which disk it had, and with it that the next one is another.
    cluster.refuse(UnregisterBroker { node: NodeId(1) }, ErrorCode::PolicyViolation);
    let mut empty = cluster.registration(1, BrokerEpoch::NONE);
    empty.directories = vec![Uuid::from_u128(77)];
    cluster.accept(empty);
    cluster.unfence(1);
    assert_eq!(cluster.view(), (None, vec![], vec![]));
}

#[test]
fn producer_id_blocks_never_overlap() {
    let mut cluster = Cluster::of(2);
    let take = |node: i32, epoch| AllocateProducerIds { node: NodeId(node), broker_epoch: epoch };
    let (one, two) = (cluster.epoch(1), cluster.epoch(2));
    assert_eq!(cluster.accept(take(1, one)), CommandResult::ProducerIds { first: 0, count: 1000 });
    assert_eq!(cluster.accept(take(2, two)), CommandResult::ProducerIds { first: 1000, count: 1000 });
    cluster.refuse(take(2, one), ErrorCode::StaleBrokerEpoch);
    assert_eq!(cluster.state.next_producer_id(), 2000);
}
