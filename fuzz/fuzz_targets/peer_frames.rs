//! What brokers and operators send to the gRPC listener: any bytes as each message, and greetings that are right but for
//! a few fields. Who is let in said all that a peer has to say; questions are understood as they were asked, or refused.
//! The status that a peer tells about itself is JSON within: what is understood is written as it was read, and the doctor
//! has something to say about every one.

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use chronik_broker::admin::doctor::{Facts, diagnose};
use chronik_broker::admin::status::{
    Broker, Fetcher, Peer, PeerAnswer, ProbeFailure, Progress, Status, UnloadedGroups,
};
use chronik_broker::control::proto as operators;
use chronik_broker::driver::control::{Asked, asked_of, heartbeat_of};
use chronik_broker::peer::proto;
use chronik_broker::peer::transport::greeting::{PROTOCOL, check, ours};
use chronik_broker::peer::transport::{Identity, Position};
use chronik_consensus::MembershipChange;
use chronik_fuzz::damage::damaged;
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
        9 => {
            if let Some(reply) = decoded::<proto::StatusReply>(bytes) {
                status(&reply, 0);
            }
        }
        10 => drop(decoded::<proto::ProbeReply>(bytes)),
        11 => drop(decoded::<operators::DescribeReply>(bytes)),
        12 => drop(decoded::<operators::RebalanceRequest>(bytes)),
        13 => drop(decoded::<operators::ChangeQuorumRequest>(bytes)),
        14 => drop(decoded::<operators::AssignRackRequest>(bytes)),
        15 => drop(decoded::<operators::SetClusterDefaultRequest>(bytes)),
        16 => drop(decoded::<operators::Outcome>(bytes)),
        17 => drop(decoded::<operators::RebalanceReply>(bytes)),
        18 => drop(decoded::<operators::MoveLeadersReply>(bytes)),
        19 => drop(decoded::<operators::CordonRequest>(bytes)),
        20 => drop(decoded::<operators::MoveLeadersRequest>(bytes)),
        21 => drop(decoded::<operators::UnregisterRequest>(bytes)),
        22 => drop(decoded::<operators::DescribeRequest>(bytes)),
        23 => drop(decoded::<proto::ProbeRequest>(bytes)),
        24 => drop(decoded::<proto::StatusRequest>(bytes)),
        _ => drop(decoded::<proto::SnapshotReceipt>(bytes)),
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

/// Somebody's account of itself, as far as others look at it.
fn account(u: &mut Unstructured<'_>) -> Result<Status> {
    let roles = ["leader", "follower", "candidate", "learner", ""];
    let node = |u: &mut Unstructured<'_>| u.int_in_range(0..=4);
    let mut status = Status { node_id: node(u)?, uptime_ms: u.arbitrary()?, ..Status::default() };
    let raft = &mut status.raft;
    raft.role = (*u.choose(&roles)?).to_owned();
    raft.failure = u.ratio(1, 8)?.then(|| "disk".to_owned());
    raft.leader = if u.arbitrary()? { Some(node(u)?) } else { None };
    (raft.term, raft.commit, raft.elections) = (u.arbitrary()?, u.arbitrary()?, u.int_in_range(0..=2)?);
    (raft.last_index, raft.oldest_proposal_ms) = (u.arbitrary()?, u.arbitrary()?);
    raft.messages_in = if u.arbitrary()? { BTreeMap::from([("MsgAppend".to_owned(), 9)]) } else { BTreeMap::new() };
    for _ in 0..u.int_in_range(0..=3)? {
        raft.voters.push(node(u)?);
        raft.progress.push(Progress { node: node(u)?, matched: u.arbitrary()?, ..Progress::default() });
        status.peers.push(Peer {
            node: node(u)?,
            connected: u.arbitrary()?,
            dns_error: u.ratio(1, 4)?.then(|| "none".to_owned()),
            last_received_ms_ago: u.arbitrary()?,
            ..Peer::default()
        });
        status.brokers.push(Broker {
            node: node(u)?,
            fenced: u.arbitrary()?,
            epoch: u.arbitrary()?,
            ..Broker::default()
        });
        status.replication.awaited.push(node(u)?);
        status.replication.unloaded_groups.push(UnloadedGroups { partition: u.arbitrary()?, reason: u.arbitrary()? });
        status.replication.fetchers.push(Fetcher {
            leader: node(u)?,
            partitions: u.arbitrary()?,
            state: u.arbitrary()?,
        });
    }
    status.replication.leaderless = u.int_in_range(0..=1)?;
    status.replication.under_min_isr = u.int_in_range(0..=1)?;
    status.log_dir.state = (*u.choose(&["online", "offline"])?).to_owned();
    status.log_dir.reason = if u.arbitrary()? { Some(u.arbitrary()?) } else { None };
    (status.log_dir.free_bytes, status.log_dir.total_bytes) = (u.arbitrary()?, u.arbitrary()?);
    Ok(status)
}

/// The number of decimals that are written of a floating-point number is not ours to judge.
fn text(status: &Status) -> String {
    let mut status = status.clone();
    status.process.cpu_seconds = 0.0;
    status.to_json()
}

/// What a peer says of itself, and of its clock when we asked at `asked_ms` by ours.
fn status(reply: &proto::StatusReply, asked_ms: i64) -> Option<Status> {
    let answer = PeerAnswer::new(&reply.json, reply.wall_ms, asked_ms, Duration::from_millis(7)).ok()?;
    let again = Status::parse(&answer.status.to_json()).expect("what was written is understood");
    assert_eq!(text(&again), text(&answer.status), "a status changes on the way through its text");
    let me = Status { node_id: 1, ..Status::default() };
    let skewed = answer.clock_offset_ms.unsigned_abs() > 10_000;
    let read = answer.status.clone();
    let (before, facts) = (
        Facts { me: again, answers: BTreeMap::from([(3, Err(ProbeFailure::Unregistered))]) },
        Facts { me, answers: BTreeMap::from([(2, Ok(answer))]) },
    );
    let found = diagnose(&facts, Some(&before));
    assert!(found.iter().all(|one| !one.id.is_empty() && !one.what.is_empty() && !one.fix.is_empty()));
    assert!(!skewed || found.iter().any(|one| one.id == "clock_skew"), "a clock that is wrong is not named");
    let _ = diagnose(&before, None);
    Some(read)
}

/// A status is told, and something may happen to it on its way.
fn told(u: &mut Unstructured<'_>) -> Result<()> {
    let sent = account(u)?;
    let (wall_ms, asked_ms) = (u.arbitrary()?, u.arbitrary()?);
    let json = sent.to_json();
    let read = status(&proto::StatusReply { json: json.clone(), wall_ms }, asked_ms);
    assert_eq!(read.as_ref().map(text), Some(text(&sent)), "a status is understood as another one");
    let json = String::from_utf8_lossy(&damaged(u, json.as_bytes())?).into_owned();
    let _ = status(&proto::StatusReply { json, wall_ms }, asked_ms);
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let choice = u.int_in_range(0..=39_u8)?;
    match choice {
        // Any text at all: the rest of the input.
        36 => {
            let json = String::from_utf8_lossy(u.bytes(u.len())?).into_owned();
            let _ = status(&proto::StatusReply { json, wall_ms: 0 }, 0);
            return Ok(());
        }
        37..=39 => return told(u),
        _ => {}
    }
    let (me, mine) = (identity(u)?, position(u)?);
    match choice {
        kind @ 0..=25 => any_bytes(kind, u.bytes(u.len())?, &me, &mine),
        26..=28 => asked(&proto::MembershipRequest {
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

fuzz_target!(init: seeds::write(seeds::peer_frames), |data: &[u8]| {
    limited(data.len() * 1024 + (2 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
