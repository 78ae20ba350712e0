//! A whole frame as a connection reads it: length, header, and the body of whatever API and version the header names;
//! and the same bytes as an answer to a request of that API.
//! Nothing panics, and nothing is reserved that the bytes do not pay for.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use chronik_fuzz::memory::limited;
use chronik_fuzz::messages::{AnyMessage, every_message};
use chronik_fuzz::seeds;
use chronik_wire::frame::{PREFIX_BYTES, body_length};
use chronik_wire::{ApiKey, ApiTable, KString, Lookup, Reader, RequestHeader, ResponseHeader, Writer};
use libfuzzer_sys::fuzz_target;

const MAX_FRAME: usize = 1 << 20;

static TABLE: LazyLock<ApiTable<AnyMessage>> = LazyLock::new(|| {
    let requests = every_message().into_iter().filter(|message| message.request);
    requests.fold(ApiTable::new(), |table, message| table.with(message.key.expect("requests have one"), message))
});

/// Tagged fields that nobody knows are skipped, so a header has one encoding, which reads as it.
fn answered(frame: &[u8], key: ApiKey, version: i16) {
    let mut reader = Reader::new(Bytes::copy_from_slice(frame));
    let Ok(header) = ResponseHeader::decode(&mut reader, key, version) else { return };
    assert!(frame.starts_with(&header.correlation_id.to_be_bytes()) && reader.remaining() <= frame.len() - 4);
    let mut writer = Writer::new();
    header.encode(&mut writer, key, version);
    let encoded = writer.finish().expect("a header encodes").into_bytes();
    assert_eq!(ResponseHeader::decode(&mut Reader::new(encoded), key, version), Ok(header));
}

fuzz_target!(init: seeds::write(seeds::frames), |data: &[u8]| {
    let table = &*TABLE;
    limited(data.len() * 64 + (1 << 20), || {
        let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() else { return };
        let Ok(length) = body_length(*prefix, MAX_FRAME) else { return };
        assert!(length <= MAX_FRAME);
        // A stated length is often wrong; what is there is a frame all the same.
        let frame = Bytes::copy_from_slice(&rest[..length.min(rest.len())]);
        let mut reader = Reader::new(frame);
        let Ok(header) = RequestHeader::decode(&mut reader) else { return };
        let mut writer = Writer::new();
        header.encode(&mut writer);
        let encoded = writer.finish().expect("what was decoded encodes").into_bytes();
        assert_eq!(RequestHeader::decode(&mut Reader::new(encoded)).as_ref(), Ok(&header));
        let _ = header.client_id.as_ref().map(KString::as_str);
        if let Some(key) = ApiKey::from_i16(header.api_key) {
            answered(&rest[..length.min(rest.len())], key, header.api_version);
        }
        match table.lookup(header.api_key, header.api_version) {
            Lookup::Handled(entry) => {
                (entry.handler.check)(&reader.rest(), header.api_version);
            }
            Lookup::UnsupportedVersion(_) => {
                assert!(ApiKey::from_i16(header.api_key).is_some());
            }
            Lookup::UnknownApi => assert!(ApiKey::from_i16(header.api_key).is_none()),
        }
    });
});
