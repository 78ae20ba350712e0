//! What is in `__consumer_offsets` and in the metadata of members: records of any bytes load into a coordinator, which
//! then serves. Records that are understood are written back as records that mean the same.

#![no_main]

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_core::group::{
    Effect, GroupConfig, GroupCoordinator, GroupRecord, GroupResponse, JoinGroupProtocol, JoinGroupRequest, Now,
    SyncGroupRequest,
};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
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
    while u.ratio(3, 4)? && !u.is_empty() {
        let key = key(u)?;
        let value = if u.ratio(1, 8)? { None } else { Some(blob(u)?) };
        if let Ok(record) = GroupRecord::decode(&key, value) {
            again(&record);
        }
        let _ = coordinator.load_record(&key, value);
    }
    let effects = coordinator.finish_load(now);
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
