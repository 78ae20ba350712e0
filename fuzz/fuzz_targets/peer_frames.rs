//! What brokers and operators send to the gRPC listener: any bytes as each message, and greetings that are right but for
//! a few fields. Who is let in said all that a peer has to say; questions are understood as they were asked, or refused.

#![no_main]

use arbitrary::{Result, Unstructured};
use chronik_broker::control::proto as operators;
use chronik_broker::driver::control::{Asked, asked_of, heartbeat_of};
use chronik_broker::peer::proto;
use chronik_broker::peer::transport::greeting::{PROTOCOL, check, ours};
use chronik_broker::peer::transport::{Identity, Position};
use chronik_consensus::MembershipChange;
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_model::{ClusterId, NodeId, Uuid};
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// Decodes; what was decoded encodes, and that decodes to the same.
fn decoded<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(&message.encode_to_vec()[..]).expect("what was encoded decodes");
    assert!(again == message, "a message changes on the way through its encoding: {message:?}");
    Some(message)
}

fn judge(hello: &proto::Hello, me: &Identity, cluster: Option<&ClusterId>, position: &Position, meant: Option<NodeId>) {
    let Ok(greeting) = check(me, cluster, position, hello, meant) else { return };
    assert_eq!(
        (hello.protocol, hello.node_id, &hello.incarnation[..]),
        (PROTOCOL, greeting.node.0, &greeting.incarnation.0[..])
    );
    assert!(greeting.node.0 > 0 && meant.is_none_or(|meant| meant == greeting.node));
    assert!(hello.expected_node == 0 || hello.expected_node == me.node.0, "it meant somebody else");
    assert!(greeting.node != me.node || greeting.incarnation == me.incarnation, "two of us");
    if let (Some(ours), Some(theirs)) = (cluster, &greeting.cluster_id) {
        assert_eq!(ours, theirs);
    }
    let (mine, theirs) = (&position.bootstrap_voters, &greeting.position.bootstrap_voters);
    assert!(mine.is_empty() || theirs.is_empty() || mine == theirs, "founded with others");
    assert!(greeting.position.leader.is_none_or(|leader| leader.0 > 0));
}

fn asked(request: &proto::MembershipRequest) {
    match asked_of(request) {
        Ok(Asked::Learner(node, address)) => {
            assert!(node.0 > 0 && node.0 == request.node && address.port() > 0 && !address.host().is_empty());
        }
        Ok(Asked::Change(change)) => {
            let (MembershipChange::AddLearner(node)
            | MembershipChange::Promote(node)
            | MembershipChange::Demote(node)
            | MembershipChange::RemoveNode(node)) = change;
            assert!(node.0 == request.node && !matches!(change, MembershipChange::AddLearner(_)));
        }
        Ok(Asked::Transfer(to)) => assert!(to.is_none_or(|to| to.0 > 0 && to.0 == request.node)),
        Err(problem) => assert!(!problem.is_empty()),
    }
}

fn any_bytes(kind: u8, bytes: &[u8], me: &Identity, position: &Position) {
    let cluster = ClusterId::from("c");
    let greeted = |hello: &proto::Hello| judge(hello, me, Some(&cluster), position, None);
    match kind {
        0 => {
            if let Some(proto::frame::Kind::Hello(hello)) = decoded::<proto::Frame>(bytes).and_then(|frame| frame.kind)
            {
                greeted(&hello);
            }
        }
        1 => {
            if let Some(proto::reply::Kind::Hello(hello)) = decoded::<proto::Reply>(bytes).and_then(|reply| reply.kind)
            {
                greeted(&hello);
            }
        }
        2 => {
            if let Some(hello) = decoded::<proto::SnapshotChunk>(bytes).and_then(|chunk| chunk.hello) {
                greeted(&hello);
            }
        }
        3 => {
            if let Some(request) = decoded::<proto::HeartbeatRequest>(bytes) {
                let heartbeat = heartbeat_of(&request);
                assert_eq!((heartbeat.node.0, heartbeat.broker_epoch.0), (request.node, request.broker_epoch));
                assert!(heartbeat.offline_dirs.len() <= request.offline_directories.len());
            }
        }
        4 => {
            if let Some(request) = decoded::<proto::MembershipRequest>(bytes) {
                asked(&request);
            }
        }
        5 => drop(decoded::<proto::ProposeRequest>(bytes)),
        6 => drop(decoded::<proto::ProposeReply>(bytes)),
        7 => drop(decoded::<proto::HeartbeatReply>(bytes)),
        8 => drop(decoded::<proto::MembershipReply>(bytes)),
        9 => drop(decoded::<proto::StatusReply>(bytes)),
        10 => drop(decoded::<proto::ProbeReply>(bytes)),
        11 => drop(decoded::<operators::DescribeReply>(bytes)),
        12 => drop(decoded::<operators::RebalanceRequest>(bytes)),
        13 => drop(decoded::<operators::ChangeQuorumRequest>(bytes)),
        14 => drop(decoded::<operators::AssignRackRequest>(bytes)),
        15 => drop(decoded::<operators::SetClusterDefaultRequest>(bytes)),
        16 => drop(decoded::<operators::Outcome>(bytes)),
        17 => drop(decoded::<operators::RebalanceReply>(bytes)),
        _ => drop(decoded::<operators::MoveLeadersReply>(bytes)),
    }
}

fn identity(u: &mut Unstructured<'_>) -> Result<Identity> {
    Ok(Identity {
        node: NodeId(u.int_in_range(1..=4)?),
        incarnation: Uuid([u.int_in_range(0..=3)?; 16]),
        address: "a:1".to_owned(),
        kafka_address: "a:2".to_owned(),
    })
}

fn position(u: &mut Unstructured<'_>) -> Result<Position> {
    let voters = if u.ratio(1, 4)? { Vec::new() } else { (1..=u.int_in_range(1..=5)?).map(NodeId).collect() };
    let leader = u.int_in_range(0..=3)?;
    Ok(Position {
        term: u.arbitrary()?,
        leader: (leader > 0).then_some(NodeId(leader)),
        commit: u.arbitrary()?,
        bootstrap_voters: voters,
    })
}

/// One broker greets another, and something happens to the greeting on its way.
fn greeting(u: &mut Unstructured<'_>) -> Result<()> {
    let clusters = [None, Some(ClusterId::from("c")), Some(ClusterId::from("d"))];
    let (me, them) = (identity(u)?, identity(u)?);
    let (mine, theirs) = (position(u)?, position(u)?);
    let (my_cluster, their_cluster) = (u.choose(&clusters)?.as_ref(), u.choose(&clusters)?.as_ref());
    let mut hello = ours(&them, their_cluster, &theirs, u.arbitrary::<bool>()?.then_some(me.node));
    let meant = u.arbitrary::<bool>()?.then_some(them.node);
    let one_cluster = my_cluster.is_none() || their_cluster.is_none() || my_cluster == their_cluster;
    let founders = (&mine.bootstrap_voters, &theirs.bootstrap_voters);
    let one_founding = founders.0.is_empty() || founders.1.is_empty() || founders.0 == founders.1;
    let two_of_us = me.node == them.node && me.incarnation != them.incarnation;
    let fits = one_cluster && one_founding && !two_of_us;
    let found = check(&me, my_cluster, &mine, &hello, meant);
    assert_eq!(found.is_ok(), fits, "{me:?} {my_cluster:?} {mine:?} about {hello:?}: {found:?}");
    if let Ok(found) = found {
        assert_eq!((found.node, found.incarnation, found.position), (them.node, them.incarnation, theirs));
    }
    for _ in 0..u.int_in_range(0..=3)? {
        match u.int_in_range(0..=6_u8)? {
            0 => hello.node_id = u.arbitrary()?,
            1 => hello.incarnation.truncate(u.int_in_range(0..=16)?),
            2 => hello.protocol = u.arbitrary()?,
            3 => hello.expected_node = u.arbitrary()?,
            4 => hello.bootstrap_voters = u.arbitrary()?,
            5 => hello.leader = u.arbitrary()?,
            _ => hello.cluster_id = u.arbitrary()?,
        }
    }
    judge(&hello, &me, my_cluster, &mine, meant);
    let mut bytes = proto::Frame { kind: Some(proto::frame::Kind::Hello(hello)) }.encode_to_vec();
    if !bytes.is_empty() && u.arbitrary()? {
        let at = u.int_in_range(0..=bytes.len() - 1)?;
        bytes[at] ^= 1 << u.int_in_range(0..=7_u8)?;
    }
    any_bytes(0, &bytes, &me, &mine);
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let (me, mine) = (identity(u)?, position(u)?);
    match u.int_in_range(0..=23_u8)? {
        kind @ 0..=18 => any_bytes(kind, u.bytes(u.len())?, &me, &mine),
        19..=20 => asked(&proto::MembershipRequest {
            cluster_id: String::new(),
            kind: u.int_in_range(-1..=7)?,
            node: u.arbitrary()?,
            timeout_ms: u.arbitrary()?,
            address: u.arbitrary()?,
        }),
        _ => greeting(u)?,
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(data.len() * 128 + (1 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
