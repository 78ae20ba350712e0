//! Whole frames: the gathering writer, headers, strings that do not fit, unknown tagged fields.

use bytes::{Bytes, BytesMut};
use chronik_wire::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use chronik_wire::messages::fetch::{FetchResponse, FetchableTopicResponse, NodeEndpoint, PartitionData};
use chronik_wire::messages::group_records::{self, OffsetCommitValue};
use chronik_wire::messages::metadata::MetadataRequest;
use chronik_wire::messages::produce::ProduceResponse;
use chronik_wire::{
    ApiKey, DecodeReason, EncodeError, KString, Message, Reader, RequestHeader, ResponseHeader, encode_request,
    encode_response,
};

fn fetch_response(sizes: &[usize]) -> (FetchResponse, Vec<Bytes>) {
    let payloads: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![*size as u8; *size])).collect();
    let partition = |(index, records): (usize, &Bytes)| PartitionData {
        partition_index: index as i32,
        records: Some(records.clone()),
        ..PartitionData::default()
    };
    let partitions = payloads.iter().enumerate().map(partition).collect();
    let topic = FetchableTopicResponse { topic: "orders".into(), partitions, ..Default::default() };
    let endpoint = NodeEndpoint { node_id: 3, host: "h".into(), port: 9092, rack: None };
    let response = FetchResponse { responses: vec![topic], node_endpoints: vec![endpoint], ..Default::default() };
    (response, payloads)
}

#[test]
fn large_records_are_gathered_without_a_copy_and_the_bytes_are_the_same() {
    let (response, payloads) = fetch_response(&[10, 5_000, 0, 100_000, 4_096, 4_095]);
    for version in ApiKey::Fetch.versions() {
        let encoded = encode_response(ApiKey::Fetch, version, 77, &response).unwrap();
        assert_eq!(encoded.len, encoded.pieces.iter().map(Bytes::len).sum::<usize>());
        let shared: Vec<_> = [1, 3, 4].iter().map(|at| payloads[*at].as_ptr()).collect();
        let gathered: Vec<_> = encoded.pieces.iter().map(|piece| piece.as_ptr()).collect();
        assert!(shared.iter().all(|payload| gathered.contains(payload)), "a payload was copied");
        assert_eq!(encoded.pieces.len(), 7);

        let bytes = encoded.clone().into_bytes();
        assert_eq!(i32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        let mut reader = Reader::new(bytes.slice(4..));
        let header = ResponseHeader::decode(&mut reader, ApiKey::Fetch, version).unwrap();
        assert_eq!(header.correlation_id, 77);
        let back = FetchResponse::decode(&mut reader, version).unwrap();
        assert_eq!(reader.remaining(), 0);
        let records: Vec<_> = back.responses[0].partitions.iter().map(|p| p.records.clone().unwrap()).collect();
        assert_eq!(records, payloads);
    }
}

#[test]
fn a_partial_write_goes_on_where_it_stopped() {
    let (response, _) = fetch_response(&[10, 5_000, 6_000]);
    let encoded = encode_response(ApiKey::Fetch, 17, 1, &response).unwrap();
    let whole = encoded.clone().into_bytes();
    for step in [1, 7, 4_096, 5_000, 20_000] {
        let (mut rest, mut written) = (encoded.clone(), BytesMut::new());
        while rest.len > 0 {
            let flat: Vec<u8> = rest.io_slices().iter().flat_map(|slice| slice.to_vec()).take(step).collect();
            written.extend_from_slice(&flat);
            rest.advance(flat.len());
            assert_eq!(rest.len, whole.len() - written.len());
        }
        assert!(rest.pieces.is_empty());
        assert_eq!(written, whole);
    }
}

#[test]
fn strings_and_records_are_slices_of_the_frame() {
    let (response, _) = fetch_response(&[5_000]);
    let bytes = response.to_encoded(12).unwrap().into_bytes();
    let back = FetchResponse::decode(&mut Reader::new(bytes.clone()), 12).unwrap();
    let inside = |part: &Bytes| bytes.as_ptr_range().contains(&part.as_ptr());
    assert!(inside(back.responses[0].topic.as_bytes()));
    assert!(inside(back.responses[0].partitions[0].records.as_ref().unwrap()));
}

#[test]
fn an_api_versions_request_from_the_future_is_still_understood_up_to_its_body() {
    let header = RequestHeader {
        api_key: ApiKey::ApiVersions.as_i16(),
        api_version: 99,
        correlation_id: 5,
        client_id: Some("new".into()),
    };
    let mut writer = chronik_wire::Writer::new();
    header.encode(&mut writer);
    let mut reader = Reader::new(writer.finish().unwrap().into_bytes());
    assert_eq!(RequestHeader::decode(&mut reader).unwrap(), header);
    let api_keys = vec![ApiVersion { api_key: 18, min_version: 0, max_version: 4 }];
    let answer = ApiVersionsResponse { error_code: 35, api_keys, ..Default::default() };
    let bytes = encode_response(ApiKey::ApiVersions, 0, 5, &answer).unwrap().into_bytes();
    assert_eq!(bytes[..], [0, 0, 0, 16, 0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
}

#[test]
fn the_response_header_of_api_versions_never_has_tagged_fields() {
    let bytes = encode_response(ApiKey::ApiVersions, 4, 9, &ApiVersionsResponse::default()).unwrap().into_bytes();
    // Length, correlation id, error, no keys, throttle time, no tagged fields.
    assert_eq!(bytes[..], [0, 0, 0, 12, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn unknown_tagged_fields_are_skipped_and_known_ones_must_fill_their_size() {
    // Two empty strings, then tagged fields: number 9 with three bytes.
    let request = Bytes::from_static(&[1, 1, 1, 9, 3, 7, 7, 7]);
    assert_eq!(ApiVersionsRequest::decode(&mut Reader::new(request), 3), Ok(ApiVersionsRequest::default()));
    // Offset, leader epoch, metadata, timestamp, then the topic id (tag 0) with 17 bytes.
    let mut value = vec![0; 8 + 4];
    value.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 17]);
    value.extend([7; 17]);
    let error = OffsetCommitValue::decode(&mut Reader::new(value.into()), 4).unwrap_err();
    assert_eq!(error.reason, DecodeReason::TaggedSize(1));
}

#[test]
fn tagged_fields_with_defaults_take_no_bytes() {
    let empty = ProduceResponse::default().to_encoded(10).unwrap().into_bytes();
    assert_eq!(empty[..], [1, 0, 0, 0, 0, 0]);
}

#[test]
fn null_is_refused_where_the_version_has_none_and_written_as_empty() {
    let null = Bytes::from_static(&[0xff; 4]);
    let error = MetadataRequest::decode(&mut Reader::new(null.clone()), 0).unwrap_err();
    assert_eq!((error.field, error.reason), ("MetadataRequest.topics", DecodeReason::Null));
    assert_eq!(MetadataRequest::decode(&mut Reader::new(null), 1).unwrap().topics, None);
    let all = MetadataRequest { topics: None, ..Default::default() };
    assert_eq!(all.to_encoded(0).unwrap().into_bytes()[..], [0; 4]);
    assert_eq!(all.to_encoded(1).unwrap().into_bytes()[..], [0xff; 4]);
}

#[test]
fn fields_that_a_version_lacks_take_kafkas_default() {
    let request = MetadataRequest::decode(&mut Reader::new(Bytes::from_static(&[0; 4])), 0).unwrap();
    assert!(request.allow_auto_topic_creation);
}

#[test]
fn a_string_that_does_not_fit_is_an_error_not_a_broken_frame() {
    let request = ApiVersionsRequest { client_software_name: "x".repeat(40_000).into(), ..Default::default() };
    assert_eq!(request.to_encoded(3), Err(EncodeError::StringLength(40_000)));
    assert_eq!(request.to_encoded(99), Err(EncodeError::Version(99)));
    let name = encode_request(3, 1, Some("x".repeat(40_000).into()), &ApiVersionsRequest::default());
    assert_eq!(name, Err(EncodeError::StringLength(40_000)));
}

#[test]
fn strings_that_are_not_utf8_are_refused_by_name() {
    let bytes = Bytes::from_static(&[3, 0xff, 0xfe, 1, 0]);
    let error = ApiVersionsRequest::decode(&mut Reader::new(bytes), 3).unwrap_err();
    assert_eq!((error.field, error.reason), ("ApiVersionsRequest.client_software_name", DecodeReason::Utf8));
}

#[test]
fn group_records_carry_their_version_in_front() {
    let value = OffsetCommitValue { offset: 42, metadata: KString::from("m"), ..Default::default() };
    for version in OffsetCommitValue::VERSIONS {
        let bytes = group_records::encode_value(&value, version).unwrap();
        assert_eq!(bytes[..2], version.to_be_bytes());
        assert_eq!(group_records::decode_value::<OffsetCommitValue>(bytes).unwrap(), value);
    }
    let future = Bytes::from_static(&[0, 9, 0, 0]);
    assert!(group_records::decode_value::<OffsetCommitValue>(future).is_err());
}
