//! Brokers of different releases apply one log.

use super::*;

fn rack(node: i32) -> SetBrokerRack {
    SetBrokerRack { node: NodeId(node), rack: Some("a".to_owned()) }
}

impl Cluster {
    fn start_old(&mut self, node: i32) {
        let previous = self.epoch(node);
        let registration = RegisterBroker { metadata_version: 0, ..self.registration(node, previous) };
        self.accept(registration);
    }

    fn raise(&self, version: u32) -> RaiseMetadataVersion {
        let brokers = self.state.brokers().map(|b| RegisteredAs { node: b.node, broker_epoch: b.epoch }).collect();
        RaiseMetadataVersion { version, brokers }
    }
}

/// The state of a broker of the release before versions were told: it knows neither the kinds that came since nor the field
/// in the registration, and its snapshots hold nothing of either.
fn as_before(log: &[(RaftIndex, Vec<u8>)], restarts: bool) -> MetadataState {
    let mut state = MetadataState::new();
    for (index, bytes) in log {
        let mut envelope = Envelope::decode(bytes).unwrap();
        if let Command::RegisterBroker(registration) = &mut envelope.command {
            registration.metadata_version = 0;
        }
        let unknown = matches!(envelope.command, Command::RaiseMetadataVersion(_)) || envelope.command.since() > OLDEST;
        let bytes = if unknown { Vec::new() } else { envelope.encode() };
        state.apply(*index, &bytes);
        if restarts {
            state = MetadataState::decode_snapshot(&state.encode_snapshot()).unwrap();
        }
    }
    state
}

#[test]
fn while_one_broker_is_old_all_others_refuse_what_it_skips_and_their_states_are_the_same() {
    let mut cluster = Cluster::of(2);
    cluster.start_old(3);
    cluster.topic(&[&[1, 2, 3]]);
    let refusal = cluster.refuse(rack(1), ErrorCode::UnsupportedVersion);
    assert!(refusal.contains("needs metadata version 4"), "{refusal}");
    // Whatever somebody believes who proposes nevertheless.
    let raise = cluster.raise(4);
    let told = cluster.state.raise_for(&rack(1).into(), &[]).unwrap_err();
    assert!(told.code == ErrorCode::UnsupportedVersion && told.message.contains("broker 3 understands 3"), "{told}");
    cluster.fence(3);
    assert!(cluster.state.raise_for(&rack(1).into(), &[]).is_err(), "a fenced broker may come back");
    cluster.revive(3);
    cluster.refuse(raise, ErrorCode::UnsupportedVersion);
    for restarts in [false, true] {
        let old = as_before(&cluster.log, restarts);
        assert_eq!(old.hash(), cluster.state.hash());
        assert_eq!(old.topics, cluster.state.topics);
    }
}

#[test]
fn the_version_rises_when_every_broker_understands_it_and_old_ones_are_refused_from_then_on() {
    let mut cluster = Cluster::of(2);
    cluster.start_old(3);
    let members = nodes(&[1, 2, 3, 4]);
    let raise_for = |cluster: &Cluster| cluster.state.raise_for(&rack(1).into(), &members);
    assert!(raise_for(&cluster).is_err());
    cluster.start(3, BrokerEpoch::NONE);
    let told = raise_for(&cluster).unwrap_err();
    assert!(told.message.contains("member 4 of the quorum is not registered"), "{told}");
    cluster.start(4, BrokerEpoch::NONE);
    let raise = raise_for(&cluster).unwrap().expect("it has to rise");
    assert_eq!(raise.version, 4);

    // Somebody else registers in between, who may be old: nothing was raised, and nothing is left of the attempt.
    cluster.start_old(5);
    let stale = cluster.log.len();
    assert_eq!(cluster.propose_only(raise).ok().unwrap_err().code, ErrorCode::UnsupportedVersion);
    assert_eq!(as_before(&cluster.log, false).hash(), cluster.state.hash());
    assert_eq!(cluster.state.metadata_version(), OLDEST);
    cluster.fence(5);
    cluster.accept(UnregisterBroker { node: NodeId(5) });

    // The same proposal again, now that it may: a refusal was not remembered.
    let raise = raise_for(&cluster).unwrap().expect("it has to rise");
    let bytes = cluster.log[stale].1.clone();
    assert_eq!(cluster.propose_only(raise), CommandResult::Done);
    assert_eq!(cluster.state.metadata_version(), 4);
    assert_eq!(cluster.commit(bytes), CommandResult::Done, "late, and no news");
    assert_eq!(raise_for(&cluster), Ok(None));
    cluster.accept(rack(1));

    for node in [3, 6] {
        let registration = RegisterBroker { metadata_version: 3, ..cluster.registration(node, BrokerEpoch::NONE) };
        let refusal = cluster.refuse(registration, ErrorCode::UnsupportedVersion);
        assert!(refusal.contains("understands metadata version 3, and this cluster uses 4"), "{refusal}");
    }
    assert!(cluster.state.broker(NodeId(6)).is_none());
    let restored = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!((restored.metadata_version(), &restored), (4, &cluster.state));
}

#[test]
fn raising_to_what_is_in_force_leaves_the_state_that_a_snapshot_has() {
    let mut cluster = Cluster::of(1);
    let raise = RaiseMetadataVersion { version: OLDEST, brokers: Vec::new() };
    assert_eq!(cluster.propose_only(raise), CommandResult::Done);
    assert_eq!(MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).as_ref(), Ok(&cluster.state));
}

#[test]
fn snapshots_are_in_the_format_of_the_version_in_force_so_that_old_brokers_can_read_them() {
    let mut cluster = Cluster::of(1);
    assert_eq!(cluster.state.encode_snapshot()[..2], [0x08, OLDEST as u8]);
    cluster.accept(rack(1));
    assert_eq!(cluster.state.encode_snapshot()[..2], [0x08, 4]);
}

#[test]
fn a_broker_whose_log_raises_the_version_above_what_it_understands_knows_that_it_must_stop() {
    let mut cluster = Cluster::of(1);
    assert_eq!(cluster.state.too_new(), None);
    let raise = cluster.raise(METADATA_VERSION + 1);
    cluster.accept(raise);
    let problem = cluster.state.too_new().expect("it must stop");
    assert!(problem.contains("upgrade"), "{problem}");
    let error = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap_err();
    assert!(error.to_string().contains("newer"), "{error}");
}

#[test]
fn what_an_old_snapshot_lost_about_versions_changes_no_verdict() {
    let mut cluster = Cluster::of(2);
    // A broker that was upgraded last begins with the snapshot of its old life.
    let mut forgetful = as_before(&cluster.log, true);
    assert!(forgetful.raise_for(&rack(1).into(), &[]).is_err(), "it does not know");
    let since = cluster.log.len();
    cluster.accept(rack(1));
    cluster.restart(2);
    for (index, bytes) in &cluster.log[since..] {
        forgetful.apply(*index, bytes);
        assert_eq!(check_invariants(&forgetful), Ok(()));
    }
    assert_eq!(forgetful.hash(), cluster.state.hash());
    assert_eq!(forgetful.broker(NodeId(1)).and_then(|b| b.rack.as_deref()), Some("a"));
}
