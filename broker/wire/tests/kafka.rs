//! Against what others make of the protocol: the encodings of Apache Kafka 4.3.0 itself, and the kafka-protocol crate.

mod common;

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use chronik_wire::messages::group_records::GroupRecordKey;
use common::{Vector, every_message, message, vectors};
use kafka_protocol::messages::{ApiKey as TheirKey, RequestKind, ResponseKind};

fn is_key(vector: &Vector) -> bool {
    vector.message.ends_with("Key")
}

#[test]
fn every_message_reads_and_writes_what_kafka_wrote_in_every_version() {
    let mut seen = BTreeSet::new();
    for vector in vectors().iter().filter(|vector| !is_key(vector)) {
        let Vector { message: name, version, kind, bytes } = vector;
        let any = message(name).unwrap_or_else(|| panic!("no message {name}"));
        let (decoded, _) = (any.decode)(bytes.clone(), *version);
        let decoded = decoded.unwrap_or_else(|error| panic!("{name} version {version} {kind}: {error}"));
        assert_eq!(decoded.left, 0, "{name} version {version} {kind}: {}", decoded.debug);
        assert_eq!(decoded.encoded, bytes, "{name} version {version} {kind}: {}", decoded.debug);
        seen.insert((name.clone(), *version, kind.clone()));
    }
    for any in every_message() {
        for version in any.versions {
            for kind in ["full", "empty"] {
                assert!(seen.contains(&(any.name.into(), version, kind.into())), "{} {version} {kind}", any.name);
            }
        }
    }
}

#[test]
fn the_keys_of_group_records_are_kafkas() {
    for vector in vectors().iter().filter(|vector| is_key(vector)) {
        let record_type: i16 = if vector.message == "OffsetCommitKey" { 1 } else { 2 };
        let bytes = Bytes::from([&record_type.to_be_bytes(), &vector.bytes[..]].concat());
        let key = GroupRecordKey::decode(bytes.clone()).unwrap();
        assert_eq!(key.encode().unwrap(), bytes, "{key:?}");
    }
}

/// Decodes and encodes with the other implementation; `None` when it does not have the version.
fn theirs(name: &str, key: i16, version: i16, bytes: &Bytes) -> Option<(Bytes, usize)> {
    let key = TheirKey::try_from(key).ok()?;
    let range = key.valid_versions();
    if version < range.min || version > range.max {
        return None;
    }
    let (mut input, mut output) = (bytes.clone(), BytesMut::new());
    let result = if name.ends_with("Request") {
        RequestKind::decode(key, &mut input, version).and_then(|request| request.encode(&mut output, version))
    } else {
        ResponseKind::decode(key, &mut input, version).and_then(|response| response.encode(&mut output, version))
    };
    match result {
        // Its table claims a few versions that its structs do not have.
        Err(error) if format!("{error:?}").contains("specified version not supported") => return None,
        result => result.unwrap_or_else(|error| panic!("{name} version {version}: {error}")),
    }
    Some((output.freeze(), input.len()))
}

#[test]
fn another_implementation_reads_what_we_write_and_we_read_what_it_writes() {
    let mut compared = 0;
    for vector in vectors().iter().filter(|vector| !is_key(vector)) {
        let Vector { message: name, version, kind, bytes } = vector;
        let any = message(name).unwrap_or_else(|| panic!("no message {name}"));
        let Some(key) = any.key else { continue };
        let context = format!("{name} version {version} {kind}");
        for ours in [(any.decode)(bytes.clone(), *version).0.expect(&context).encoded, (any.default)(*version)] {
            let Some((encoded, left)) = theirs(name, key.as_i16(), *version, &ours) else { continue };
            assert_eq!(left, 0, "{context}: they leave bytes of ours unread");
            let back = (any.decode)(encoded.clone(), *version).0.expect(&context);
            assert_eq!((back.left, &back.encoded), (0, &ours), "{context}: {}", back.debug);
            assert_eq!(encoded, ours, "{context}: {}", back.debug);
            compared += 1;
        }
    }
    assert!(compared > 1200, "only {compared} encodings could be compared");
}
