//! What is in `__consumer_offsets` and in the metadata of members: records of every version and of any bytes, sound ones and
//! sound ones with damage, load into a coordinator, which then serves. Records that are understood are written back as
//! records that mean the same, and the committed offsets are those of the last record that names them.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_core::group::{
    CommittedOffset, Effect, GroupConfig, GroupCoordinator, GroupMetadata, GroupRecord, GroupResponse,
    JoinGroupProtocol, JoinGroupRequest, MemberMetadata, Now, OffsetFetchRequest, SyncGroupRequest,
};
use chronik_fuzz::damage::damaged;
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_model::{LeaderEpoch, Offset, TopicPartition, Uuid};
use chronik_wire::messages::group_records as wire;
use libfuzzer_sys::fuzz_target;

fn blob<'a>(u: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    let most = u.len().min(400);
    let length = u.int_in_range(0..=most)?;
    u.bytes(length)
}

/// Keys of real types, often enough.
fn key(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if u.ratio(1, 4)? {
        return blob(u).map(<[u8]>::to_vec);
    }
    let mut key = vec![0, u.int_in_range(0..=3)?];
    for _ in 0..if key[1] == 2 { 1 } else { 2 } {
        let name = [b'a' + u.int_in_range(0..=3_u8)?];
        key.extend_from_slice(&[0, 1]);
        key.extend_from_slice(&name);
    }
    if key[1] != 2 {
        key.extend_from_slice(&i32::from(u.int_in_range(0..=3_u8)?).to_be_bytes());
    }
    Ok(key)
}

fn name(u: &mut Unstructured<'_>) -> Result<String> {
    if u.ratio(1, 12)? { u.arbitrary() } else { Ok(char::from(b'a' + u.int_in_range(0..=3_u8)?).to_string()) }
}

/// An instant that there may be, or any number.
fn time(u: &mut Unstructured<'_>) -> Result<i64> {
    if u.ratio(1, 8)? { u.arbitrary() } else { u.int_in_range(1_600_000_000_000..=1_800_000_000_000) }
}

fn committed(u: &mut Unstructured<'_>, version: i16) -> Result<CommittedOffset> {
    let expire_timestamp_ms = if version == 1 && u.arbitrary()? { Some(time(u)?) } else { None };
    Ok(CommittedOffset {
        offset: Offset(u.arbitrary()?),
        leader_epoch: if version >= 3 { LeaderEpoch(u.arbitrary()?) } else { LeaderEpoch::NONE },
        metadata: u.arbitrary()?,
        commit_timestamp_ms: time(u)?,
        expire_timestamp_ms: expire_timestamp_ms.filter(|time| *time != -1),
    })
}

fn member(u: &mut Unstructured<'_>, version: i16) -> Result<MemberMetadata> {
    let session_timeout_ms = if u.ratio(1, 8)? { u.arbitrary()? } else { 10_000 };
    let mut subscription = vec![0, 1, 0, 0, 0, 1, 0, 1, b'a' + u.int_in_range(0..=3_u8)?, 0, 0, 0, 0];
    if u.ratio(1, 4)? {
        subscription = blob(u)?.to_vec();
    }
    Ok(MemberMetadata {
        member_id: name(u)?,
        group_instance_id: if version >= 3 && u.arbitrary()? { Some(name(u)?) } else { None },
        client_id: name(u)?,
        client_host: name(u)?,
        rebalance_timeout_ms: if version >= 1 { u.arbitrary()? } else { session_timeout_ms },
        session_timeout_ms,
        subscription: Bytes::from(subscription),
        assignment: Bytes::copy_from_slice(blob(u)?),
    })
}

fn generation(u: &mut Unstructured<'_>, version: i16) -> Result<GroupMetadata> {
    let members = (0..u.int_in_range(0..=3)?).map(|_| member(u, version)).collect::<Result<Vec<_>>>()?;
    let leader = members.first().map(|member| member.member_id.clone()).filter(|_| u.ratio(7, 8).unwrap_or(true));
    Ok(GroupMetadata {
        protocol_type: (*u.choose(&["consumer", "", "connect"])?).to_owned(),
        generation: if u.ratio(1, 8)? { u.arbitrary()? } else { u.int_in_range(0..=9)? },
        protocol: if u.ratio(3, 4)? { Some("range".to_owned()) } else { None },
        leader,
        current_state_timestamp_ms: if version >= 2 { time(u)? } else { -1 },
        members,
    })
}

/// The value of a committed offset as Kafka writes it in `version`.
fn offset_value(value: &CommittedOffset, version: i16, topic: u8) -> Bytes {
    let value = wire::OffsetCommitValue {
        offset: value.offset.0,
        leader_epoch: value.leader_epoch.0,
        metadata: value.metadata.as_str().into(),
        commit_timestamp: value.commit_timestamp_ms,
        expire_timestamp: value.expire_timestamp_ms.unwrap_or(-1),
        topic_id: Uuid::from_u128(if version >= 4 { topic.into() } else { 0 }),
    };
    wire::encode_value(&value, version).expect("short texts can be written")
}

/// The value of a group's metadata as Kafka writes it in `version`.
fn group_value(value: &GroupMetadata, version: i16) -> Bytes {
    let member = |member: &MemberMetadata| wire::MemberMetadata {
        member_id: member.member_id.as_str().into(),
        group_instance_id: member.group_instance_id.as_deref().map(Into::into),
        client_id: member.client_id.as_str().into(),
        client_host: member.client_host.as_str().into(),
        rebalance_timeout: member.rebalance_timeout_ms,
        session_timeout: member.session_timeout_ms,
        subscription: member.subscription.clone(),
        assignment: member.assignment.clone(),
    };
    let value = wire::GroupMetadataValue {
        protocol_type: value.protocol_type.as_str().into(),
        generation: value.generation,
        protocol: value.protocol.as_deref().map(Into::into),
        leader: value.leader.as_deref().map(Into::into),
        current_state_timestamp: value.current_state_timestamp_ms,
        members: value.members.iter().map(member).collect(),
    };
    wire::encode_value(&value, version).expect("short texts can be written")
}

/// A record as some version of Kafka writes it, key and value; it means what was written.
fn sound(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let version = u.int_in_range(0..=4)?;
    let (group_id, tombstone) = (name(u)?, u.ratio(1, 6)?);
    let (key, value, record);
    if u.arbitrary()? {
        let partition = TopicPartition::new(name(u)?, u.int_in_range(0..=2)?);
        let content = if tombstone { None } else { Some(committed(u, version)?) };
        key = wire::GroupRecordKey::Offset(wire::OffsetCommitKey {
            group: group_id.as_str().into(),
            topic: partition.topic.as_str().into(),
            partition: partition.partition.0,
        });
        let topic = u.int_in_range(0..=1)?;
        value = content.as_ref().map(|content| offset_value(content, version, topic));
        record = GroupRecord::Offset { group_id, partition, value: content };
    } else {
        let content = if tombstone { None } else { Some(generation(u, version)?) };
        key = wire::GroupRecordKey::Group(wire::GroupMetadataKey { group: group_id.as_str().into() });
        value = content.as_ref().map(|content| group_value(content, version));
        record = GroupRecord::Group { group_id, value: content };
    }
    let key = key.encode().expect("short texts can be written");
    assert_eq!(
        GroupRecord::decode(&key, value.as_deref()),
        Ok(record),
        "version {version} is understood as another record"
    );
    Ok((key.to_vec(), value.map(|value| value.to_vec())))
}

/// A record of the partition: sound, sound but for some damage, or any bytes.
fn record(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    match u.int_in_range(0..=5_u8)? {
        0 => Ok((key(u)?, if u.ratio(1, 8)? { None } else { Some(blob(u)?.to_vec()) })),
        1 | 2 => {
            let (mut key, mut value) = sound(u)?;
            match &mut value {
                Some(value) if u.ratio(7, 8)? => *value = damaged(u, value)?,
                _ => key = damaged(u, &key)?,
            }
            Ok((key, value))
        }
        _ => sound(u),
    }
}

type Offsets = BTreeMap<String, BTreeMap<TopicPartition, CommittedOffset>>;

/// What a record does to the committed offsets.
fn follow(known: &mut Offsets, record: &GroupRecord) {
    let GroupRecord::Offset { group_id, partition, value } = record else { return };
    let group = known.entry(group_id.clone()).or_default();
    match value {
        Some(value) => drop(group.insert(partition.clone(), value.clone())),
        None => drop(group.remove(partition)),
    }
}

fn served(coordinator: &GroupCoordinator<u32>, known: &Offsets) {
    for (group_id, expected) in known {
        let fetched = coordinator.fetch_offsets(&OffsetFetchRequest { group_id: group_id.clone(), topics: None });
        let found: Vec<(TopicPartition, Offset, LeaderEpoch, String)> = fetched
            .topics
            .into_iter()
            .flat_map(|topic| {
                let name = topic.name;
                topic.partitions.into_iter().map(move |one| {
                    let partition = TopicPartition { topic: name.clone(), partition: one.partition };
                    (partition, one.offset, one.leader_epoch, one.metadata)
                })
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(partition, one)| (partition.clone(), one.offset, one.leader_epoch, one.metadata.clone()))
            .collect();
        assert_eq!(found, expected, "other offsets of {group_id:?} than those that were committed");
    }
}

fn again(record: &GroupRecord) {
    let written = match record {
        GroupRecord::Offset { group_id, partition, value } => GroupRecord::offset(group_id, partition, value.as_ref()),
        GroupRecord::Group { group_id, value } => GroupRecord::group(group_id, value.as_ref()),
        GroupRecord::Unknown(_) => return,
    };
    let Ok(written) = written else { return };
    let mut read = GroupRecord::decode(&written.key, written.value.as_deref()).expect("what is written can be read");
    let mut expected = record.clone();
    // A commit with its own retention is written in a version without leader epoch.
    for record in [&mut read, &mut expected] {
        if let GroupRecord::Offset { value: Some(value), .. } = record
            && value.expire_timestamp_ms.is_some()
        {
            value.leader_epoch = chronik_model::LeaderEpoch::NONE;
        }
    }
    assert_eq!(read, expected);
}

/// Does what the effects ask for; every append succeeds.
fn settle(coordinator: &mut GroupCoordinator<u32>, now: Now, effects: Vec<Effect<u32>>) -> Vec<GroupResponse> {
    let mut responses = Vec::new();
    let mut open = effects;
    while let Some(effect) = open.pop() {
        match effect {
            Effect::Reply { response, .. } => responses.push(response),
            Effect::Append { ticket, records } => {
                for record in &records {
                    GroupRecord::decode(&record.key, record.value.as_deref()).expect("it reads what it writes");
                }
                open.extend(coordinator.append_done(now, ticket, Ok(())));
            }
        }
    }
    responses
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut coordinator: GroupCoordinator<u32> = GroupCoordinator::new(GroupConfig::default());
    let mut now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let mut known = Offsets::new();
    while u.ratio(3, 4)? && !u.is_empty() {
        let (key, value) = record(u)?;
        let read = GroupRecord::decode(&key, value.as_deref());
        if let Ok(record) = &read {
            again(record);
            follow(&mut known, record);
        }
        let loaded = coordinator.load_record(&key, value.as_deref());
        assert_eq!(loaded.is_ok(), read.is_ok(), "what can be read is loaded");
    }
    let effects = coordinator.finish_load(now);
    served(&coordinator, &known);
    settle(&mut coordinator, now, effects);
    for token in 0..4 {
        let group_id = char::from(b'a' + u.int_in_range(0..=3_u8)?).to_string();
        let join = JoinGroupRequest {
            group_id: group_id.clone(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            member_id: String::new(),
            group_instance_id: u.ratio(1, 4)?.then(|| "static".to_owned()),
            protocol_type: "consumer".to_owned(),
            protocols: vec![JoinGroupProtocol { name: "range".to_owned(), metadata: Bytes::copy_from_slice(blob(u)?) }],
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            require_known_member_id: false,
            supports_skipping_assignment: false,
            fresh_member_id: format!("member-{token}"),
        };
        let effects = coordinator.join(now, token, join);
        let mut responses = settle(&mut coordinator, now, effects);
        for _ in 0..3 {
            now.mono_ms += 4_000;
            let effects = coordinator.tick(now);
            responses.extend(settle(&mut coordinator, now, effects));
        }
        for response in responses {
            let GroupResponse::Join(joined) = response else { continue };
            let sync = SyncGroupRequest {
                group_id: group_id.clone(),
                generation_id: joined.generation_id,
                member_id: joined.member_id.clone(),
                group_instance_id: None,
                protocol_type: None,
                protocol_name: None,
                assignments: vec![(joined.member_id.clone(), Bytes::copy_from_slice(blob(u)?))],
            };
            let effects = coordinator.sync(now, token, sync);
            settle(&mut coordinator, now, effects);
        }
        let _ = coordinator.describe_groups(&[group_id]);
    }
    now.mono_ms += 100_000_000;
    now.wall_ms = now.wall_ms.saturating_add(u.arbitrary()?);
    let effects = coordinator.tick(now);
    settle(&mut coordinator, now, effects);
    coordinator.unload();
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(data.len() * 64 + (8 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
