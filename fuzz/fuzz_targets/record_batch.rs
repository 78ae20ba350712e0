//! Record batches as clients and leaders send them: header, checksum, count, compression, records. The first byte says
//! how much of a sound batch is built around the rest, so that the checks behind the checksum are reached.

#![no_main]

use bytes::{BufMut, Bytes, BytesMut};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::{AppendOrigin, LogConfig, split_batches, validate_batch};
use chronik_model::batch::{BatchHeader, Compression, HEADER_BYTES, crc_matches, find_batch, records};
use chronik_wire::compression::compress;
use chronik_wire::records::{BatchRecords, verify};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 256 << 10;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Length, magic and checksum that fit the bytes.
fn seal(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A batch around `payload`, which is compressed as `attributes` say; claims `count` records.
fn around(payload: &[u8], codec: usize, count: i32) -> BytesMut {
    let packed = compress(CODECS[codec], payload).expect("memory does not fail");
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + packed.len());
    batch.put_bytes(0, 21);
    batch.put_i16(codec as i16);
    batch.put_i32(count - 1);
    batch.put_i64(1_000);
    batch.put_i64(2_000);
    batch.put_i64(-1);
    batch.put_i16(-1);
    batch.put_i32(-1);
    batch.put_i32(count);
    batch.put_slice(&packed);
    seal(&mut batch);
    batch
}

fn judge(bytes: &Bytes) {
    let header = BatchHeader::decode(bytes);
    if let Ok(header) = &header {
        let _ = (header.last_offset(), header.next_offset(), header.last_sequence(), header.timestamp_type());
        assert!(header.total_bytes >= HEADER_BYTES);
    }
    if let Ok(found) = find_batch(bytes) {
        assert_eq!(Ok(found), header);
        crc_matches(&bytes[..found.total_bytes]).expect("a batch that was found has its checksum");
    }
    if let Ok(parts) = split_batches(bytes) {
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), bytes.len());
    }
    let opened = BatchRecords::open(bytes, LIMIT);
    if let Ok(opened) = &opened {
        assert!(opened.bytes.len() <= LIMIT);
        let read = opened.records().take_while(Result::is_ok).count();
        assert!(read <= opened.header.record_count as usize);
        let _ = opened.timestamps().last();
        let _ = opened.first_at_or_after(1_500);
    }
    let config = LogConfig { max_message_bytes: 128 << 10, ..LogConfig::default() };
    let taken = validate_batch(bytes, &config, 2_000, AppendOrigin::Client);
    if let (Ok(header), Ok(())) = (taken, verify(bytes, LIMIT)) {
        // A leader gives out as many offsets as the header says: each must have its record.
        let opened = opened.expect("what a leader takes can be opened");
        let deltas: Vec<i32> =
            opened.records().map(|record| record.expect("what a leader takes can be read").offset_delta).collect();
        assert!(deltas.into_iter().eq(0..=header.last_offset_delta), "{header:?}");
    }
}

fuzz_target!(init: seeds::write(seeds::batches), |data: &[u8]| {
    let Some((mode, body)) = data.split_first() else { return };
    limited(48 << 20, || match mode % 4 {
        0 => judge(&Bytes::copy_from_slice(body)),
        1 => {
            let mut bytes = body.to_vec();
            seal(&mut bytes);
            judge(&bytes.into());
        }
        2 => {
            let Some((count, payload)) = body.split_first() else { return };
            let count = i32::from(*count) + 1;
            judge(&around(payload, usize::from(mode >> 2) % CODECS.len(), count).freeze());
        }
        _ => {
            let mut payload = body;
            let whole = records(body, i32::MAX).take_while(Result::is_ok).count();
            if whole == 0 {
                payload = &[];
            }
            let batch = around(payload, usize::from(mode >> 2) % CODECS.len(), whole.max(1) as i32).freeze();
            let opened = BatchRecords::open(&batch, LIMIT.max(payload.len())).expect("it was just made");
            assert_eq!(opened.bytes, payload, "the records changed on the way");
            judge(&batch);
        }
    });
});
