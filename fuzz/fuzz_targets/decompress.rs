//! Compressed records: a bomb stops at the limit, damage is an error, and what was compressed comes back. The first
//! byte names the codec, the second says whether the rest is compressed bytes or is to be compressed first.

#![no_main]

use bytes::Bytes;
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_model::batch::Compression;
use chronik_wire::compression::{compress, decompress};
use libfuzzer_sys::fuzz_target;

const CODECS: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const LIMIT: usize = 256 << 10;

fuzz_target!(init: seeds::write(seeds::compressed), |data: &[u8]| {
    let [codec, mode, body @ ..] = data else { return };
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    // A decoder may hold its window and a block (LZ4: up to 4 MiB each) besides the output.
    limited(4 * LIMIT + (24 << 20), || match mode % 4 {
        0 => {
            let packed = compress(codec, body).expect("memory does not fail");
            assert_eq!(decompress(codec, &packed, body.len()).expect("it fits"), body, "{codec:?}");
            if let Some(less) = body.len().checked_sub(1) {
                assert!(decompress(codec, &packed, less).is_err(), "{codec:?} went over its limit");
            }
        }
        mode => {
            let limit = if mode == 1 { LIMIT } else { body.len().min(LIMIT) };
            if let Ok(output) = decompress(codec, &Bytes::copy_from_slice(body), limit) {
                assert!(output.len() <= limit, "{codec:?} gave {} of at most {limit} bytes", output.len());
            }
        }
    });
});
