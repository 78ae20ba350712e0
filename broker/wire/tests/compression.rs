//! Compression: every codec there and back, within the limit, and never a panic on damage.

use bytes::Bytes;
use chronik_model::batch::Compression;
use chronik_wire::compression::{CompressionError, compress, decompress};
use proptest::prelude::*;

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn text() -> Vec<u8> {
    (0..20_000_u32).flat_map(|number| number.to_string().into_bytes()).collect()
}

#[test]
fn what_is_compressed_decompresses() {
    for codec in CODECS {
        for input in [vec![], vec![7], text(), vec![0; 300_000]] {
            let compressed = compress(codec, &input).unwrap();
            assert_eq!(decompress(codec, &compressed, input.len()).unwrap(), input, "{codec:?}");
        }
        assert!(codec == Compression::None || compress(codec, &text()).unwrap().len() < text().len());
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    for codec in CODECS {
        let bomb = compress(codec, &vec![0; 10 << 20]).unwrap();
        let refused = decompress(codec, &bomb, 1 << 20);
        assert!(matches!(refused, Err(CompressionError::TooLarge { limit }) if limit == 1 << 20), "{codec:?}");
    }
}

#[test]
fn snappy_without_framing_is_read_too() {
    let raw = snap::raw::Encoder::new().compress_vec(&text()).unwrap();
    assert_eq!(decompress(Compression::Snappy, &raw.into(), 1 << 20).unwrap(), text());
}

#[test]
fn a_snappy_block_that_claims_more_than_it_can_hold_is_refused() {
    // A claim of 256 MiB in five bytes.
    let claim = Bytes::from_static(&[0x80, 0x80, 0x80, 0x80, 0x01]);
    assert!(decompress(Compression::Snappy, &claim, 1 << 30).is_err());
}

#[test]
fn concatenated_gzip_members_are_all_read() {
    let two = [compress(Compression::Gzip, b"one").unwrap(), compress(Compression::Gzip, b"two").unwrap()].concat();
    assert_eq!(&decompress(Compression::Gzip, &two.into(), 100).unwrap()[..], b"onetwo");
}

#[test]
fn what_is_cut_short_is_refused() {
    for codec in &CODECS[1..] {
        let whole = compress(*codec, &text()).unwrap();
        for length in [1, whole.len() / 2, whole.len() - 5] {
            assert!(decompress(*codec, &whole.slice(..length), 1 << 20).is_err(), "{codec:?} cut to {length}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for codec in CODECS {
            let mut bytes = compress(codec, &text()[..4_000]).unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(output) = decompress(codec, &bytes.into(), 1 << 20) {
                prop_assert!(output.len() <= 1 << 20);
            }
        }
    }
}
