//! Histories of well-formed commands with senseless values: brokers and topics that do not exist, epochs of any age,
//! assignments that repeat a broker, settings of any text. The invariants hold after each, a broker that joins from a
//! snapshot anywhere in the history ends with the same hash, a retry changes nothing, and where the longest log decides who
//! leads it is the longest.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use chronik_core::controller::{
    AllocateProducerIds, AlterConfigs, AlterPartition, AlterReassignments, Assignment, BeginControlledShutdown,
    Command, ConfigChange, ConfigOp, ConfigResource, CreatePartitions, CreateTopic, DeleteTopic, ElectLeaders,
    ElectionType, Endpoint, Endpoints, Envelope, FenceBroker, IsrMember, METADATA_VERSION, MetadataState, MoveLeaders,
    NoOp, OfflineDirs, PartitionRef, ProposalId, RaiseMetadataVersion, Reassignment, RegisterBroker, RegisteredAs,
    ReportLog, SetBrokerRack, SetCordon, UnfenceBroker, UnregisterBroker, check_invariants,
};
use chronik_core::{LeaderRecovery, PartitionState};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_model::{
    BrokerEpoch, ClusterId, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex, RaftIndex, TopicName, Uuid,
};
use libfuzzer_sys::fuzz_target;

type U<'a> = Unstructured<'a>;

fn node(u: &mut U<'_>) -> Result<NodeId> {
    Ok(NodeId(if u.ratio(1, 30)? { u.arbitrary()? } else { u.int_in_range(1..=4)? }))
}

fn broker_epoch(u: &mut U<'_>, state: &MetadataState, node: NodeId) -> Result<BrokerEpoch> {
    let known = state.broker(node).map_or(BrokerEpoch::NONE, |broker| broker.epoch);
    Ok(if u.ratio(1, 15)? { BrokerEpoch(u.arbitrary()?) } else { known })
}

fn name(u: &mut U<'_>) -> Result<String> {
    if u.ratio(1, 12)? {
        return u.arbitrary();
    }
    Ok((*u.choose(&["a", "b", "c", "__consumer_offsets"])?).to_owned())
}

fn topic_id(u: &mut U<'_>, state: &MetadataState) -> Result<Uuid> {
    let known = state.topic(&name(u)?).map(|topic| topic.id);
    Ok(known.unwrap_or(Uuid::from_u128(u.int_in_range(0..=6_u8)?.into())))
}

fn assignments(u: &mut U<'_>) -> Result<Vec<Assignment>> {
    let mut out = Vec::new();
    if u.ratio(3, 4)? {
        return Ok(out);
    }
    for _ in 0..u.int_in_range(0..=3)? {
        let replicas = (0..u.int_in_range(0..=4)?).map(|_| node(u)).collect::<Result<_>>()?;
        out.push(Assignment { replicas });
    }
    Ok(out)
}

fn replicas(u: &mut U<'_>) -> Result<Vec<NodeId>> {
    if u.ratio(1, 6)? {
        return (0..u.int_in_range(0..=4)?).map(|_| node(u)).collect();
    }
    let first = u.int_in_range(0..=3)?;
    Ok((0..u.int_in_range(1..=3)?).map(|next| NodeId((first + next) % 4 + 1)).collect())
}

fn place(u: &mut U<'_>, state: &MetadataState) -> Result<(Uuid, PartitionIndex)> {
    let partition = PartitionIndex(if u.ratio(1, 20)? { u.arbitrary()? } else { u.int_in_range(0..=3)? });
    Ok((topic_id(u, state)?, partition))
}

/// Mostly of a replica whose log counts, in a partition that waits for it.
fn report_log(u: &mut U<'_>, state: &MetadataState, node: NodeId) -> Result<ReportLog> {
    let open = state.partitions().filter(|(_, _, known)| known.leader.is_none() && !known.last_known_elr.is_empty());
    let open: Vec<(Uuid, PartitionIndex)> = open.map(|(topic, partition, _)| (topic.id, partition)).collect();
    let (topic_id, partition) = if !open.is_empty() && u.ratio(9, 10)? { *u.choose(&open)? } else { place(u, state)? };
    let known = state.partition_by_id(topic_id, partition);
    let counted = known.map_or(&[][..], |known| &known.last_known_elr);
    let node = if !counted.is_empty() && u.ratio(9, 10)? { *u.choose(counted)? } else { node };
    let wild = u.ratio(1, 20)?;
    Ok(ReportLog {
        node,
        broker_epoch: broker_epoch(u, state, node)?,
        topic_id,
        partition,
        leader_epoch: match known {
            Some(known) if u.ratio(9, 10)? => known.leader_epoch,
            _ => LeaderEpoch(u.arbitrary()?),
        },
        last_epoch: LeaderEpoch(if wild { u.arbitrary()? } else { u.int_in_range(-1..=3)? }),
        log_end: Offset(if wild { u.arbitrary()? } else { u.int_in_range(0..=9)? }),
    })
}

/// Begins, replaces and cancels moves.
fn alter_reassignments(u: &mut U<'_>, state: &MetadataState) -> Result<AlterReassignments> {
    let mut reassignments = Vec::new();
    for _ in 0..u.int_in_range(1..=2)? {
        let moving: Vec<(Uuid, PartitionIndex)> =
            state.reassigning_partitions().map(|(topic, partition, _)| (topic.id, partition)).collect();
        let cancels = u.ratio(1, 4)?;
        let known = !moving.is_empty() && (cancels || u.ratio(1, 4)?);
        let (topic_id, partition) = if known { *u.choose(&moving)? } else { place(u, state)? };
        let version = state.partition_by_id(topic_id, partition).map(|known| known.partition_epoch);
        let partition_epoch = match u.int_in_range(0..=9_u8)? {
            0..6 => None,
            6..9 => version,
            _ => Some(PartitionEpoch(u.arbitrary()?)),
        };
        let target = if cancels { None } else { Some(Assignment { replicas: replicas(u)? }) };
        reassignments.push(Reassignment { topic_id, partition, target, partition_epoch });
    }
    Ok(AlterReassignments { reassignments, keep_replication_factor: u.ratio(1, 4)? })
}

/// Mostly the next version, concluded from who is registered.
fn raise(u: &mut U<'_>, state: &MetadataState) -> Result<RaiseMetadataVersion> {
    let version =
        if u.ratio(1, 20)? { u.arbitrary()? } else { u.int_in_range(METADATA_VERSION - 1..=METADATA_VERSION)? };
    let registered =
        |broker: &chronik_core::controller::Broker| RegisteredAs { node: broker.node, broker_epoch: broker.epoch };
    let mut brokers: Vec<RegisteredAs> = state.brokers().map(registered).collect();
    if u.ratio(1, 8)? {
        brokers.truncate(u.int_in_range(0..=3)?);
    }
    Ok(RaiseMetadataVersion { version, brokers })
}

/// Where nobody else can lead, the longest of the logs that count does.
fn longest_leads(before: &PartitionState, told: &ReportLog, after: &PartitionState) {
    let Some(leader) = after.leader.filter(|_| before.awaits_reports()) else { return };
    let end = |node: NodeId| {
        if node == told.node {
            return Some((told.last_epoch, told.log_end));
        }
        before.report_of(node).map(|report| (report.last_epoch, report.log_end))
    };
    assert!(before.last_known_elr.contains(&leader), "{leader} leads, and its log does not count: {before:?}");
    for node in &before.last_known_elr {
        assert!(
            end(*node).is_some() && end(*node) <= end(leader),
            "{leader} leads, {node} has more: {before:?} {told:?}"
        );
    }
}

fn count(u: &mut U<'_>) -> Result<i32> {
    if u.ratio(1, 15)? { Ok(*u.choose(&[i32::MIN, -2, 60, i32::MAX])?) } else { u.int_in_range(-1..=4) }
}

fn setting(u: &mut U<'_>) -> Result<(String, String)> {
    const NAMES: [&str; 9] = [
        "min.insync.replicas",
        "retention.ms",
        "segment.bytes",
        "cleanup.policy",
        "unclean.leader.election.enable",
        "max.message.bytes",
        "message.timestamp.type",
        "compression.type",
        "default.replication.factor",
    ];
    const VALUES: [&str; 9] = ["1", "2", "3", "-1", "true", "false", "delete", "compact,delete", "LogAppendTime"];
    let name = if u.ratio(1, 10)? { u.arbitrary()? } else { (*u.choose(&NAMES)?).to_owned() };
    let value = if u.ratio(1, 10)? { u.arbitrary()? } else { (*u.choose(&VALUES)?).to_owned() };
    Ok((name, value))
}

fn directories(u: &mut U<'_>, node: NodeId) -> Result<Vec<Uuid>> {
    let usual = vec![Uuid::from_u128(1_000 + u128::from(node.0.unsigned_abs()))];
    if u.ratio(9, 10)? {
        return Ok(usual);
    }
    (0..u.int_in_range(0..=2)?).map(|_| Ok(Uuid::from_u128(u.int_in_range(1_000..=1_006_u16)?.into()))).collect()
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "host".to_owned(), port }
}

fn command(u: &mut U<'_>, state: &MetadataState) -> Result<Command> {
    let node = node(u)?;
    let broker_epoch = broker_epoch(u, state, node)?;
    Ok(match u.int_in_range(0..=36_u8)? {
        0..3 => RegisterBroker {
            node,
            incarnation: Uuid::from_u128(u.int_in_range(0..=200_u8)?.into()),
            directories: directories(u, node)?,
            cluster_id: ClusterId::from(if u.ratio(1, 30)? { "other" } else { "cluster" }),
            endpoints: Endpoints {
                kafka: endpoint(1),
                replication: endpoint(2),
                control: endpoint(3),
                admin: endpoint(u.arbitrary()?),
                listeners: Vec::new(),
            },
            rack: if u.arbitrary()? { Some(u.int_in_range(0..=2_u8)?.to_string()) } else { None },
            previous_broker_epoch: if u.arbitrary()? { broker_epoch } else { BrokerEpoch::NONE },
            software_version: String::new(),
            metadata_version: if u.ratio(1, 8)? { u.int_in_range(0..=METADATA_VERSION)? } else { METADATA_VERSION },
        }
        .into(),
        3..6 => UnfenceBroker { node, broker_epoch }.into(),
        6 => FenceBroker { node, broker_epoch, reason: String::new() }.into(),
        7 => UnregisterBroker { node }.into(),
        8 => BeginControlledShutdown { node, broker_epoch }.into(),
        9 => OfflineDirs { node, broker_epoch, directories: directories(u, node)? }.into(),
        10..12 => CreateTopic {
            name: TopicName::from(name(u)?),
            topic_id: Uuid::from_u128(u.int_in_range(0..=6_u8)?.into()),
            partitions: count(u)?,
            replication_factor: count(u)?,
            assignments: assignments(u)?,
            configs: if u.ratio(1, 3)? { BTreeMap::from([setting(u)?]) } else { BTreeMap::new() },
        }
        .into(),
        12 => DeleteTopic { topic_id: topic_id(u, state)? }.into(),
        13 => CreatePartitions { topic_id: topic_id(u, state)?, total: count(u)?, assignments: assignments(u)? }.into(),
        14..18 => {
            let (topic_id, partition) = place(u, state)?;
            let known = state.partition_by_id(topic_id, partition);
            let leader =
                known.and_then(|known| known.leader).filter(|_| u.ratio(9, 10).unwrap_or(true)).unwrap_or(node);
            let mut new_isr = Vec::new();
            for member in known.map_or(&[][..], |known| &known.replicas) {
                if *member == leader || u.arbitrary()? {
                    let epoch = state.broker(*member).map_or(BrokerEpoch::NONE, |broker| broker.epoch);
                    new_isr.push(IsrMember { node: *member, broker_epoch: epoch });
                }
            }
            if u.ratio(1, 15)? {
                new_isr.push(IsrMember { node, broker_epoch });
            }
            AlterPartition {
                node: leader,
                broker_epoch: state.broker(leader).map_or(broker_epoch, |broker| broker.epoch),
                topic_id,
                partition,
                leader_epoch: known.map_or(LeaderEpoch(u.int_in_range(-2..=5)?), |known| known.leader_epoch),
                partition_epoch: match known {
                    Some(known) if u.ratio(9, 10)? => known.partition_epoch,
                    _ => PartitionEpoch(u.arbitrary()?),
                },
                new_isr,
                recovery: if u.ratio(1, 6)? { LeaderRecovery::Recovering } else { LeaderRecovery::Recovered },
            }
            .into()
        }
        18 => {
            let election = if u.arbitrary()? { ElectionType::Preferred } else { ElectionType::Unclean };
            let mut partitions = Vec::new();
            for _ in 0..u.int_in_range(0..=2)? {
                let partition = PartitionIndex(u.int_in_range(-1..=4)?);
                partitions.push(PartitionRef { topic: TopicName::from(name(u)?), partition });
            }
            ElectLeaders { election, partitions }.into()
        }
        19..21 => {
            let resource = match u.int_in_range(0..=2_u8)? {
                0 => ConfigResource::Topic(TopicName::from(name(u)?)),
                1 => ConfigResource::Broker(node),
                _ => ConfigResource::ClusterDefault,
            };
            let mut changes = Vec::new();
            for _ in 0..u.int_in_range(0..=2)? {
                let (name, value) = setting(u)?;
                let op = *u.choose(&[ConfigOp::Set, ConfigOp::Delete, ConfigOp::Append, ConfigOp::Subtract])?;
                changes.push(ConfigChange { name, op, value: if u.ratio(1, 8)? { None } else { Some(value) } });
            }
            AlterConfigs { resource, changes, replace: u.ratio(1, 6)? }.into()
        }
        21 => AllocateProducerIds { node, broker_epoch }.into(),
        22..27 => report_log(u, state, node)?.into(),
        27..31 => alter_reassignments(u, state)?.into(),
        31 => MoveLeaders { node }.into(),
        32 => SetCordon { node, cordoned: u.arbitrary()? }.into(),
        33..35 => {
            let rack = if u.ratio(1, 10)? { Some(u.arbitrary()?) } else { *u.choose(&[None, Some("0"), Some("1")])? };
            SetBrokerRack { node, rack: rack.map(str::to_owned) }.into()
        }
        35 => raise(u, state)?.into(),
        _ => NoOp {}.into(),
    })
}

fn register(node: NodeId, incarnation: u8) -> RegisterBroker {
    RegisterBroker {
        node,
        incarnation: Uuid::from_u128(incarnation.into()),
        directories: vec![Uuid::from_u128(1_000 + u128::from(node.0.unsigned_abs()))],
        cluster_id: ClusterId::from("cluster"),
        endpoints: Endpoints {
            kafka: endpoint(1),
            replication: endpoint(2),
            control: endpoint(3),
            admin: endpoint(4),
            listeners: Vec::new(),
        },
        rack: None,
        previous_broker_epoch: BrokerEpoch::NONE,
        software_version: String::new(),
        metadata_version: METADATA_VERSION,
    }
}

/// A cluster with a topic, whose brokers may have been killed one after the other: who leads then is the question.
fn beginning(u: &mut U<'_>) -> Result<Vec<Command>> {
    let mut out: Vec<Command> = Vec::new();
    for node in (1..=3).map(NodeId) {
        out.push(register(node, 201).into());
        out.push(UnfenceBroker { node, broker_epoch: BrokerEpoch(2 * i64::from(node.0) - 1) }.into());
    }
    let create = CreateTopic {
        name: TopicName::from("a"),
        topic_id: Uuid::from_u128(1),
        partitions: u.int_in_range(1..=2)?,
        replication_factor: u.int_in_range(2..=3)?,
        assignments: Vec::new(),
        configs: BTreeMap::new(),
    };
    out.push(create.into());
    let killed = u.int_in_range(0..=4)?;
    for number in 0..killed {
        let node = NodeId(u.int_in_range(1..=3)?);
        out.push(register(node, 202 + number).into());
    }
    Ok(out)
}

fn run(u: &mut U<'_>) -> Result<()> {
    let mut state = MetadataState::new();
    let mut planned = if u.arbitrary()? { beginning(u)? } else { Vec::new() }.into_iter();
    let mut joined: Option<MetadataState> = None;
    let mut last: Option<Vec<u8>> = None;
    for index in 1..=80_u64 {
        if u.is_empty() {
            break;
        }
        let retry = last.as_ref().filter(|_| u.ratio(1, 20).unwrap_or(false)).cloned();
        let retried = retry.is_some();
        let mut told = None;
        let bytes = match retry {
            Some(bytes) => bytes,
            None => {
                let id = ProposalId { origin: NodeId(1), incarnation: Uuid::from_u128(1), sequence: index };
                let next = planned.next();
                let next = if let Some(next) = next { next } else { command(u, &state)? };
                let envelope = Envelope::new(id, u.int_in_range(0..=1 << 40)?, next);
                if let Command::ReportLog(report) = &envelope.command {
                    let known = state.partition_by_id(report.topic_id, report.partition).cloned();
                    told = known.map(|known| (*report, known));
                }
                let bytes = envelope.encode();
                assert_eq!(Envelope::decode(&bytes).as_ref(), Ok(&envelope), "a command changes in its encoding");
                bytes
            }
        };
        let applied = state.apply(RaftIndex(index), &bytes);
        assert!(!retried || applied.changes.is_empty(), "a retry changed something: {:?}", applied.changes);
        check_invariants(&state).unwrap_or_else(|broken| panic!("after {index} commands: {broken}"));
        if let Some((report, before)) = told
            && let Some(after) = state.partition_by_id(report.topic_id, report.partition)
        {
            longest_leads(&before, &report, after);
        }
        if state.too_new().is_some() {
            assert!(
                MetadataState::decode_snapshot(&state.encode_snapshot()).is_err(),
                "it reads what is too new for it"
            );
            return Ok(());
        }
        match &mut joined {
            Some(other) => {
                assert_eq!(other.apply(RaftIndex(index), &bytes), applied, "two brokers judge differently");
                assert!(*other == state, "two brokers differ after {index} commands");
            }
            None if u.ratio(1, 10)? => {
                let image = state.encode_snapshot();
                let other = MetadataState::decode_snapshot(&image).expect("a snapshot can be read");
                assert_eq!(other, state, "the snapshot is another state");
                joined = Some(other);
            }
            None => {}
        }
        last = Some(bytes);
    }
    if let Some(other) = joined {
        assert_eq!(other.hash(), state.hash(), "equal states have different hashes");
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(data.len() * 200 + (32 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
