//! Frames that real clients sent: headers, bodies and records are read, and written again to the same bytes.

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use chronik_model::batch::find_batch;
use chronik_wire::messages::produce::ProduceRequest;
use chronik_wire::records::BatchRecords;
use chronik_wire::{ApiKey, Message, Reader, RequestHeader, Writer, frame};
use common::{message, unhex};

struct Captured {
    client: String,
    api: String,
    version: i16,
    frame: Bytes,
}

fn captured() -> Vec<Captured> {
    let parse = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let [client, api, version, frame] = words[..] else { panic!("not a capture: {line}") };
        let version = version.parse().expect("a version");
        Captured { client: client.into(), api: api.into(), version, frame: unhex(frame) }
    };
    include_str!("data/clients.txt").lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

/// The header and a reader of the body.
fn open(captured: &Captured) -> (RequestHeader, Reader) {
    let (prefix, body) = captured.frame.split_first_chunk().expect("a frame");
    assert_eq!(frame::body_length(*prefix, frame::DEFAULT_MAX_BYTES), Ok(body.len()));
    let mut reader = Reader::new(captured.frame.slice(frame::PREFIX_BYTES..));
    (RequestHeader::decode(&mut reader).expect("a header"), reader)
}

#[test]
fn requests_of_real_clients_are_read_and_written_again_byte_by_byte() {
    let all = captured();
    for sent in &all {
        let (header, reader) = open(sent);
        let key = ApiKey::from_i16(header.api_key).expect("a known API");
        assert_eq!((key.name(), header.api_version), (&*sent.api, sent.version), "{}", sent.client);
        assert!(header.client_id.as_ref().is_some_and(|id| !id.is_empty()), "{header:?}");
        let any = message(&format!("{}Request", sent.api)).expect("a message");
        let decoded = (any.decode)(reader.rest(), sent.version).0.expect(&sent.api);
        assert_eq!(decoded.left, 0, "{} {} {}: {}", sent.client, sent.api, sent.version, decoded.debug);
        let mut writer = Writer::new();
        header.encode(&mut writer);
        let mut again = BytesMut::from(&sent.frame[..frame::PREFIX_BYTES]);
        again.put(writer.finish().unwrap().into_bytes());
        again.put(decoded.encoded);
        assert_eq!(again, sent.frame, "{} {} {}: {}", sent.client, sent.api, sent.version, decoded.debug);
    }
    assert!(all.len() > 20);
}

#[test]
fn records_that_real_clients_compressed_are_read() {
    let mut codecs = Vec::new();
    for sent in captured().iter().filter(|sent| sent.api == "Produce") {
        let (header, mut reader) = open(sent);
        let request = ProduceRequest::decode(&mut reader, header.api_version).unwrap();
        let batch = request.topic_data[0].partition_data[0].records.clone().expect("records");
        let header = find_batch(&batch).expect("a batch with a matching checksum");
        let records = BatchRecords::open(&batch, 1 << 20).unwrap();
        let read: Vec<_> = records.timestamps().map(Result::unwrap).collect();
        assert_eq!(read.len(), header.record_count as usize);
        assert!(read.len() >= 10, "{}", sent.client);
        for (index, (offset, timestamp)) in read.iter().enumerate() {
            assert_eq!((offset.0, *timestamp), (index as i64, 1_700_000_000_000 + index as i64 * 1000));
        }
        assert!(records.records().all(|record| record.unwrap().value.unwrap().starts_with(b"value value")));
        let found = records.first_at_or_after(1_700_000_003_500).unwrap().unwrap();
        assert_eq!((found.0.0, found.1), (4, 1_700_000_004_000));
        assert_eq!(records.first_at_or_after(i64::MAX).unwrap(), None);
        assert!(BatchRecords::open(&batch, 40).is_err(), "{}: the limit was not kept", sent.client);
        codecs.push(format!("{:?}", header.compression().unwrap()));
    }
    for codec in ["None", "Gzip", "Snappy", "Lz4", "Zstd"] {
        assert!(codecs.iter().filter(|seen| *seen == codec).count() >= 2, "{codec} in {codecs:?}");
    }
}
