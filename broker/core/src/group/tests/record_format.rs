//! The bytes of the records, written out by hand from Kafka's message definitions.

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn offset_value(expire_timestamp_ms: Option<i64>, leader_epoch: i32) -> CommittedOffset {
    CommittedOffset {
        offset: Offset(258),
        leader_epoch: LeaderEpoch(leader_epoch),
        metadata: "hi".into(),
        commit_timestamp_ms: 1_700_000_000_000,
        expire_timestamp_ms,
    }
}

fn group_value(version: i16) -> GroupMetadata {
    GroupMetadata {
        protocol_type: "consumer".into(),
        generation: 5,
        protocol: Some("range".into()),
        leader: Some("m1".into()),
        current_state_timestamp_ms: if version >= 2 { 1_700_000_000_000 } else { -1 },
        members: vec![MemberMetadata {
            member_id: "m1".into(),
            group_instance_id: (version >= 3).then(|| "i1".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: if version >= 1 { 60_000 } else { 10_000 },
            session_timeout_ms: 10_000,
            subscription: Bytes::from_static(&[1, 2]),
            assignment: Bytes::from_static(&[3]),
        }],
    }
}

const OFFSET_KEY: &str = "0001 0001 67 0001 74 00000003";
const GROUP_KEY: &str = "0002 0001 67";

#[test]
fn a_committed_offset_has_kafkas_bytes() {
    let partition = chronik_model::TopicPartition::new("t", 3);
    let record = GroupRecord::offset("g", &partition, Some(&offset_value(None, 7))).unwrap();
    assert_eq!(record.key, hex(OFFSET_KEY));
    let value = "0003 0000000000000102 00000007 0002 6869 0000018bcfe56800";
    assert_eq!(record.value.unwrap(), hex(value));
    let record = GroupRecord::offset("g", &partition, Some(&offset_value(Some(1_700_000_000_001), -1))).unwrap();
    let value = "0001 0000000000000102 0002 6869 0000018bcfe56800 0000018bcfe56801";
    assert_eq!(record.value.unwrap(), hex(value));
    assert_eq!(GroupRecord::offset("g", &partition, None).unwrap().value, None);
}

#[test]
fn every_version_of_a_committed_offset_is_read() {
    let values = [
        ("0000 0000000000000102 0002 6869 0000018bcfe56800", offset_value(None, -1)),
        ("0001 0000000000000102 0002 6869 0000018bcfe56800 ffffffffffffffff", offset_value(None, -1)),
        ("0001 0000000000000102 0002 6869 0000018bcfe56800 0000000000000009", offset_value(Some(9), -1)),
        ("0002 0000000000000102 0002 6869 0000018bcfe56800", offset_value(None, -1)),
        ("0003 0000000000000102 00000007 0002 6869 0000018bcfe56800", offset_value(None, 7)),
        ("0004 0000000000000102 00000007 03 6869 0000018bcfe56800 00", offset_value(None, 7)),
        // With a tagged field this broker does not know: tag 0, two bytes.
        ("0004 0000000000000102 00000007 03 6869 0000018bcfe56800 01 00 02 abcd", offset_value(None, 7)),
    ];
    for key in [OFFSET_KEY, "0000 0001 67 0001 74 00000003"] {
        for (bytes, expected) in &values {
            let partition = chronik_model::TopicPartition::new("t", 3);
            let read = GroupRecord::decode(&hex(key), Some(&hex(bytes))).unwrap();
            assert_eq!(read, GroupRecord::Offset { group_id: "g".into(), partition, value: Some(expected.clone()) });
        }
    }
}

#[test]
fn a_group_has_kafkas_bytes() {
    let record = GroupRecord::group("g", Some(&group_value(3))).unwrap();
    assert_eq!(record.key, hex(GROUP_KEY));
    let value = "0003 0008 636f6e73756d6572 00000005 0005 72616e6765 0002 6d31 0000018bcfe56800 00000001
        0002 6d31 0002 6931 0001 63 0002 2f68 0000ea60 00002710 00000002 0102 00000001 03";
    assert_eq!(record.value.unwrap(), hex(value));
    let empty = GroupMetadata { protocol: None, leader: None, members: vec![], ..group_value(3) };
    let record = GroupRecord::group("g", Some(&empty)).unwrap();
    let value = "0003 0008 636f6e73756d6572 00000005 ffff ffff 0000018bcfe56800 00000000";
    assert_eq!(record.value.unwrap(), hex(value));
}

#[test]
fn every_version_of_a_group_is_read() {
    let head = "0008 636f6e73756d6572 00000005 0005 72616e6765 0002 6d31";
    let time = "0000018bcfe56800";
    let client = "0001 63 0002 2f68";
    let rest = "00002710 00000002 0102 00000001 03";
    let values = [
        (0, format!("0000 {head} 00000001 0002 6d31 {client} {rest}")),
        (1, format!("0001 {head} 00000001 0002 6d31 {client} 0000ea60 {rest}")),
        (2, format!("0002 {head} {time} 00000001 0002 6d31 {client} 0000ea60 {rest}")),
        (3, format!("0003 {head} {time} 00000001 0002 6d31 0002 6931 {client} 0000ea60 {rest}")),
        (
            4,
            format!(
                "0004 09 636f6e73756d6572 00000005 06 72616e6765 03 6d31 {time} 02
                 03 6d31 03 6931 02 63 03 2f68 0000ea60 00002710 03 0102 02 03 00 00"
            ),
        ),
    ];
    for (version, bytes) in values {
        let read = GroupRecord::decode(&hex(GROUP_KEY), Some(&hex(&bytes))).unwrap();
        assert_eq!(read, GroupRecord::Group { group_id: "g".into(), value: Some(group_value(version)) }, "v{version}");
    }
}

#[test]
fn lengths_that_lie_are_refused_before_memory_is_reserved() {
    let many_members = hex("0003 0000 00000005 ffff ffff 0000000000000000 7fffffff");
    assert_eq!(GroupRecord::decode(&hex(GROUP_KEY), Some(&many_members)), Err(RecordError::Length));
    let negative = hex("0003 fffe");
    assert_eq!(GroupRecord::decode(&hex(GROUP_KEY), Some(&negative)), Err(RecordError::Length));
    let endless_varint = hex("0004 ffffffffffff");
    assert_eq!(GroupRecord::decode(&hex(GROUP_KEY), Some(&endless_varint)), Err(RecordError::Length));
    assert_eq!(GroupRecord::decode(&hex("0002 0001 67 00"), None), Err(RecordError::Trailing));
    assert_eq!(GroupRecord::decode(&hex("0002 0001 ff"), None), Err(RecordError::Text));
    assert_eq!(GroupRecord::decode(&[], None), Err(RecordError::Truncated));
    assert_eq!(GroupRecord::group(&"x".repeat(40_000), None), Err(RecordError::TooLong));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(key in any::<Vec<u8>>(), kind in 0u8..3, value in any::<Vec<u8>>(), version in 0u8..5) {
        let _ = GroupRecord::decode(&key, Some(&value));
        let keys = [hex("0000 0001 67 0001 74 00000003"), hex(OFFSET_KEY), hex(GROUP_KEY)];
        let mut versioned = vec![0, version];
        versioned.extend(value);
        let _ = GroupRecord::decode(&keys[usize::from(kind)], Some(&versioned));
    }

    #[test]
    fn what_is_written_is_read_back(
        names in proptest::collection::vec(".{0,20}", 5),
        numbers in any::<(i32, i64, i32, i32)>(),
        blobs in proptest::collection::vec(any::<Vec<u8>>(), 0..4),
        stated in any::<bool>(),
    ) {
        let member = |blob: Vec<u8>| MemberMetadata {
            member_id: names[0].clone(),
            group_instance_id: stated.then(|| names[1].clone()),
            client_id: names[2].clone(),
            client_host: names[3].clone(),
            rebalance_timeout_ms: numbers.2,
            session_timeout_ms: numbers.3,
            subscription: Bytes::from(blob.clone()),
            assignment: Bytes::from(blob),
        };
        let value = GroupMetadata {
            protocol_type: names[4].clone(),
            generation: numbers.0,
            protocol: stated.then(|| names[0].clone()),
            leader: stated.then(|| names[2].clone()),
            current_state_timestamp_ms: numbers.1,
            members: blobs.into_iter().map(member).collect(),
        };
        let record = GroupRecord::group(&names[0], Some(&value)).unwrap();
        let read = GroupRecord::decode(&record.key, record.value.as_deref()).unwrap();
        prop_assert_eq!(read, GroupRecord::Group { group_id: names[0].clone(), value: Some(value) });
    }
}
