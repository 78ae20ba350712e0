//! Racks that brokers are told, as they do not know them.

use super::*;

fn tell(node: i32, rack: Option<&str>) -> SetBrokerRack {
    SetBrokerRack { node: NodeId(node), rack: rack.map(str::to_owned) }
}

impl Cluster {
    fn rack(&self, node: i32) -> Option<&str> {
        self.state.broker(NodeId(node)).and_then(|broker| broker.rack.as_deref())
    }
}

#[test]
fn an_assigned_rack_outlives_restarts_fences_snapshots_and_a_new_disk() {
    let mut cluster = Cluster::of(2);
    cluster.accept(tell(1, Some("a")));
    assert_eq!(cluster.changes, [Change::Broker { node: NodeId(1) }]);
    cluster.restart(1);
    cluster.fence(1);
    cluster.revive(1);
    assert_eq!(cluster.rack(1), Some("a"));
    cluster.state = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    cluster.fence(1);
    let mut elsewhere = cluster.registration(1, BrokerEpoch::NONE);
    elsewhere.directories = vec![Uuid::from_u128(77)];
    cluster.accept(elsewhere.clone());
    assert_eq!(cluster.rack(1), Some("a"), "after the snapshot it is still one that was assigned");
    elsewhere.endpoints.kafka.port += 1;
    cluster.accept(elsewhere);
    assert_eq!(cluster.rack(1), Some("a"), "the same process again");
    assert_eq!(cluster.rack(2), None);
}

#[test]
fn a_rack_is_assigned_anew_and_taken_back_and_asking_twice_changes_nothing() {
    let mut cluster = Cluster::of(1);
    for rack in [Some("a"), Some("b"), None] {
        cluster.accept(tell(1, rack));
        assert_eq!(cluster.rack(1), rack);
        cluster.accept(tell(1, rack));
        assert_eq!(cluster.changes, [], "nothing is different");
    }
    cluster.restart(1);
    assert_eq!(cluster.rack(1), None);
}

#[test]
fn the_rack_that_a_broker_is_configured_with_wins() {
    let mut cluster = Cluster::of(1);
    cluster.accept(tell(1, Some("told")));
    let previous = cluster.epoch(1);
    let registration = cluster.registration(1, previous);
    cluster.accept(RegisterBroker { rack: Some("own".to_owned()), ..registration });
    assert_eq!(cluster.rack(1), Some("own"));
    for rack in [Some("told"), None] {
        let message = cluster.refuse(tell(1, rack), ErrorCode::PolicyViolation);
        assert!(message.contains("own") && message.contains("broker.rack"), "{message}");
    }
    cluster.accept(tell(1, Some("own")));
    cluster.restart(1);
    assert_eq!(cluster.rack(1), None, "it was never assigned, and is no longer configured");
}

#[test]
fn racks_without_a_broker_or_a_name_are_refused() {
    let mut cluster = Cluster::of(1);
    cluster.refuse(tell(9, Some("a")), ErrorCode::BrokerIdNotRegistered);
    cluster.refuse(tell(1, Some("")), ErrorCode::InvalidRequest);
    cluster.refuse(tell(1, Some(&"x".repeat(256))), ErrorCode::InvalidRequest);
    assert_eq!(cluster.rack(1), None);
}

#[test]
fn new_partitions_are_spread_over_assigned_racks() {
    let mut cluster = Cluster::of(4);
    for (node, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        cluster.accept(tell(node, Some(rack)));
    }
    cluster.accept(CreateTopic {
        name: "spread".into(),
        topic_id: Cluster::id("spread"),
        partitions: 12,
        replication_factor: 2,
        assignments: Vec::new(),
        configs: BTreeMap::new(),
    });
    for partition in &cluster.state.topic("spread").unwrap().partitions {
        let in_a = partition.replicas.iter().filter(|node| node.0 <= 2).count();
        assert_eq!(in_a, 1, "{:?}", partition.replicas);
    }
}
