//! What the tests share: every message behind one function type, and the encodings that Kafka itself made.

#![allow(dead_code, reason = "each test program uses its part")]

use std::ops::RangeInclusive;

use bytes::Bytes;
use chronik_wire::messages::group_records;
use chronik_wire::{ApiKey, DecodeError, Message, Reader};

/// What decoding and encoding again gave.
#[derive(Debug)]
pub struct Decoded {
    /// The encoding of what was decoded.
    pub encoded: Bytes,
    /// Bytes behind the message.
    pub left: usize,
    /// Bytes reserved on the strength of claimed lengths.
    pub reserved: usize,
    /// For error messages.
    pub debug: String,
}

/// One message, its type erased.
pub struct AnyMessage {
    pub name: &'static str,
    pub key: Option<ApiKey>,
    pub versions: RangeInclusive<i16>,
    pub decode: fn(Bytes, i16) -> (Result<Decoded, DecodeError>, usize),
    pub decode_only: fn(Bytes, i16) -> Result<usize, DecodeError>,
    pub default: fn(i16) -> Bytes,
}

fn decode<M: Message + std::fmt::Debug + PartialEq>(
    bytes: Bytes,
    version: i16,
) -> (Result<Decoded, DecodeError>, usize) {
    let mut reader = Reader::new(bytes);
    let message = M::decode(&mut reader, version);
    let (left, reserved) = (reader.remaining(), reader.reserved());
    let decoded = message.map(|message| {
        let encoded = message.to_encoded(version).expect("what was decoded encodes").into_bytes();
        let again = M::decode(&mut Reader::new(encoded.clone()), version).expect("what was encoded decodes");
        assert_eq!(message, again, "{} version {version} changes on the way through its encoding", M::NAME);
        Decoded { encoded, left, reserved, debug: format!("{message:?}") }
    });
    (decoded, reserved)
}

fn decode_only<M: Message>(bytes: Bytes, version: i16) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bytes);
    M::decode(&mut reader, version).map(|_| reader.remaining())
}

fn default<M: Message>(version: i16) -> Bytes {
    M::default().to_encoded(version).expect("defaults encode").into_bytes()
}

fn any<M: Message + std::fmt::Debug + PartialEq>(key: Option<ApiKey>) -> AnyMessage {
    AnyMessage {
        name: M::NAME,
        key,
        versions: M::VERSIONS,
        decode: decode::<M>,
        decode_only: decode_only::<M>,
        default: default::<M>,
    }
}

macro_rules! every_message {
    ($($module:ident $request:ident $response:ident,)*) => {
        /// Every request, every response, every record value.
        pub fn every_message() -> Vec<AnyMessage> {
            use chronik_wire::{Request, messages};
            vec![
                $(
                    any::<messages::$module::$request>(Some(messages::$module::$request::KEY)),
                    any::<<messages::$module::$request as Request>::Response>(Some(messages::$module::$request::KEY)),
                )*
                any::<group_records::OffsetCommitValue>(None),
                any::<group_records::GroupMetadataValue>(None),
            ]
        }
    };
}

every_message! {
    produce ProduceRequest ProduceResponse,
    fetch FetchRequest FetchResponse,
    list_offsets ListOffsetsRequest ListOffsetsResponse,
    metadata MetadataRequest MetadataResponse,
    offset_commit OffsetCommitRequest OffsetCommitResponse,
    offset_fetch OffsetFetchRequest OffsetFetchResponse,
    find_coordinator FindCoordinatorRequest FindCoordinatorResponse,
    join_group JoinGroupRequest JoinGroupResponse,
    heartbeat HeartbeatRequest HeartbeatResponse,
    leave_group LeaveGroupRequest LeaveGroupResponse,
    sync_group SyncGroupRequest SyncGroupResponse,
    describe_groups DescribeGroupsRequest DescribeGroupsResponse,
    list_groups ListGroupsRequest ListGroupsResponse,
    api_versions ApiVersionsRequest ApiVersionsResponse,
    create_topics CreateTopicsRequest CreateTopicsResponse,
    delete_topics DeleteTopicsRequest DeleteTopicsResponse,
    delete_records DeleteRecordsRequest DeleteRecordsResponse,
    init_producer_id InitProducerIdRequest InitProducerIdResponse,
    offset_for_leader_epoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
    describe_configs DescribeConfigsRequest DescribeConfigsResponse,
    alter_configs AlterConfigsRequest AlterConfigsResponse,
    describe_log_dirs DescribeLogDirsRequest DescribeLogDirsResponse,
    create_partitions CreatePartitionsRequest CreatePartitionsResponse,
    delete_groups DeleteGroupsRequest DeleteGroupsResponse,
    elect_leaders ElectLeadersRequest ElectLeadersResponse,
    alter_partition_reassignments AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse,
    list_partition_reassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse,
    incremental_alter_configs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse,
    offset_delete OffsetDeleteRequest OffsetDeleteResponse,
    describe_cluster DescribeClusterRequest DescribeClusterResponse,
    list_config_resources ListConfigResourcesRequest ListConfigResourcesResponse,
    describe_topic_partitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
}

/// The message of this name.
pub fn message(name: &str) -> Option<AnyMessage> {
    every_message().into_iter().find(|message| message.name == name)
}

/// One encoding that Kafka made.
#[derive(Clone, Debug)]
pub struct Vector {
    pub message: String,
    pub version: i16,
    pub kind: String,
    pub bytes: Bytes,
}

/// All encodings of the data file that are messages, not record keys.
pub fn vectors() -> Vec<Vector> {
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (message, version, kind) = (word(), word().parse().expect("a version"), word());
        Vector { message, version, kind, bytes: unhex(&word()) }
    };
    let lines = include_str!("../data/kafka-4.3.0.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(parse).collect()
}

/// Bytes from hexadecimal digits.
pub fn unhex(digits: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}
