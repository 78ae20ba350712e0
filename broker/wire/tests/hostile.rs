//! What a hostile peer can send: claimed lengths, cut and random bytes. Nothing panics, nothing is paid in advance.

mod common;

use bytes::Bytes;
use chronik_wire::{DecodeReason, KString, Reader, RequestHeader};
use common::{every_message, message, vectors};
use proptest::prelude::*;

/// Room in advance is bounded by what remains at each level of nesting; no message nests arrays deeper than this.
const NESTING: usize = 6;

#[test]
fn a_claimed_length_never_reserves_more_than_the_frame_has() {
    // Wherever a length may stand, in either form, claim the largest there is.
    let fixed = i32::MAX.to_be_bytes();
    let almost = 0x00ff_ffff_i32.to_be_bytes();
    let compact = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let modest = [0xff, 0xff, 0x03];
    let (mut tried, mut refused) = (0, 0);
    for vector in vectors().iter().filter(|vector| !vector.message.ends_with("Key")) {
        let any = message(&vector.message).expect("a message");
        for at in 0..=vector.bytes.len() {
            for (claim, width) in [(&fixed[..], 4), (&almost, 4), (&compact, 1), (&modest, 1)] {
                let tail = vector.bytes.get(at + width..).unwrap_or_default();
                let bytes = Bytes::from([&vector.bytes[..at], claim, tail].concat());
                let length = bytes.len();
                let (decoded, reserved) = (any.decode)(bytes, vector.version);
                let most = length * NESTING * 8;
                assert!(reserved <= most, "{} {}: {reserved} of {length} at {at}", vector.message, vector.version);
                tried += 1;
                refused += usize::from(decoded.is_err());
            }
        }
    }
    assert!(tried > 100_000 && refused > tried / 4, "{refused} of {tried} were refused");
}

#[test]
fn more_elements_than_bytes_are_refused_by_name() {
    let any = message("MetadataRequest").expect("a message");
    let error = (any.decode_only)(Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]), 1).unwrap_err();
    assert_eq!(error.field, "MetadataRequest.topics");
    assert_eq!(error.reason, DecodeReason::Elements { claimed: i32::MAX as usize, have: 0 });
    let error = (any.decode_only)(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]), 12).unwrap_err();
    assert_eq!(error.reason, DecodeReason::Elements { claimed: u32::MAX as usize - 1, have: 0 });
}

#[test]
fn every_prefix_of_every_message_is_refused() {
    for vector in vectors().iter().filter(|vector| !vector.message.ends_with("Key")) {
        let any = message(&vector.message).expect("a message");
        for length in 0..vector.bytes.len() {
            let cut = (any.decode_only)(vector.bytes.slice(..length), vector.version);
            assert!(cut.is_err(), "{} {} cut to {length} bytes", vector.message, vector.version);
        }
    }
}

#[test]
fn bytes_behind_a_message_are_left_alone() {
    for vector in vectors().iter().filter(|vector| !vector.message.ends_with("Key")) {
        let any = message(&vector.message).expect("a message");
        let bytes = Bytes::from([&vector.bytes[..], &[1, 2, 3]].concat());
        assert_eq!((any.decode_only)(bytes, vector.version), Ok(3), "{} {}", vector.message, vector.version);
    }
}

#[test]
fn versions_outside_of_the_range_are_refused_both_ways() {
    for any in every_message() {
        for version in [any.versions.start() - 1, any.versions.end() + 1, i16::MIN, i16::MAX] {
            let error = (any.decode_only)(Bytes::from_static(&[0; 64]), version).unwrap_err();
            assert_eq!((error.field, error.reason), (any.name, DecodeReason::Version(version)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic_in_any_message_and_version(
        bytes in prop::collection::vec(prop_oneof![3 => 0_u8..6, 1 => any::<u8>()], 0..200),
    ) {
        let bytes = Bytes::from(bytes);
        for any in every_message() {
            for version in any.versions.clone() {
                let (_, reserved) = (any.decode)(bytes.clone(), version);
                prop_assert!(reserved <= bytes.len() * NESTING * 8);
            }
        }
        let _ = RequestHeader::decode(&mut Reader::new(bytes));
    }

    #[test]
    fn flipped_bytes_of_real_messages_never_panic(
        pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let vectors: Vec<_> = vectors().into_iter().filter(|vector| !vector.message.ends_with("Key")).collect();
        let vector = pick.get(&vectors);
        let any = message(&vector.message).expect("a message");
        let mut bytes = vector.bytes.to_vec();
        let at = at.index(bytes.len().max(1));
        if let Some(target) = bytes.get_mut(at) {
            *target = byte;
        }
        let _ = (any.decode)(bytes.into(), vector.version);
    }

    #[test]
    fn a_string_is_its_text_whatever_the_text(text in ".*") {
        let string = KString::from(text.clone());
        prop_assert_eq!(string.as_str(), text.as_str());
        prop_assert_eq!(KString::from_utf8(Bytes::from(text.clone())).unwrap(), KString::from(text.as_str()));
    }
}
