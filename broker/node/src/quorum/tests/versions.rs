//! Brokers that find more in their log, or in a snapshot, than they understand.

use chronik_core::controller::{OLDEST, RaiseMetadataVersion, RegisteredAs, SetBrokerRack};

use super::*;

fn raise(world: &World, leader: i32, version: u32) -> RaiseMetadataVersion {
    let state = world.nodes[&leader].quorum.state().read();
    let brokers = state.brokers().map(|b| RegisteredAs { node: b.node, broker_epoch: b.epoch }).collect();
    RaiseMetadataVersion { version, brokers }
}

#[test]
fn who_does_not_understand_the_version_in_force_stops_and_applies_nothing_after_it() {
    let (mut world, leader) = ready(3);
    let command = raise(&world, leader, METADATA_VERSION + 1);
    world.propose(leader, command);
    world.until("everybody stops", |world| world.nodes.values().all(|node| node.quorum.failure().is_some()));
    for node in world.nodes.values() {
        let failure = node.quorum.failure().unwrap().to_string();
        assert!(failure.contains("upgrade"), "{failure}");
        assert_eq!(node.quorum.state().read().metadata_version(), METADATA_VERSION + 1);
    }
}

#[test]
fn a_snapshot_by_somebody_who_does_not_understand_the_version_in_force_is_refused() {
    let (mut world, leader) = ready(1);
    let before = world.nodes[&leader].quorum.state().read().encode_snapshot();
    let command = raise(&world, leader, METADATA_VERSION);
    assert_eq!(world.run(leader, command), CommandResult::Done);
    assert_eq!(
        world.run(leader, SetBrokerRack { node: NodeId(leader), rack: Some("a".to_owned()) }),
        CommandResult::Done
    );
    let node = world.nodes.get_mut(&leader).unwrap();
    let failed = node.quorum.install(&mut node.host, RaftIndex(99), &before.into()).unwrap_err();
    assert!(failed.to_string().contains(&format!("version {OLDEST}")), "{failed}");
    assert_eq!(node.quorum.state().read().metadata_version(), METADATA_VERSION);
}
