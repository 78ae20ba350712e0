//! Every message of the Kafka protocol behind one function type.

use std::ops::RangeInclusive;

use bytes::Bytes;
use chronik_wire::messages::group_records;
use chronik_wire::{ApiKey, Message, Reader};

/// Deepest nesting of arrays in any message: each level may reserve as much as the bytes that remain.
const NESTING: usize = 6;

/// One message, its type erased.
#[derive(Clone, Debug)]
pub struct AnyMessage {
    /// Name of the type.
    pub name: &'static str,
    /// The API; `None` for the records of coordinators.
    pub key: Option<ApiKey>,
    /// Whether it is the request.
    pub request: bool,
    /// Versions.
    pub versions: RangeInclusive<i16>,
    /// Decodes and judges; whether it was accepted.
    pub check: fn(&Bytes, i16) -> bool,
}

/// Decoding reserves no more than the bytes allow; what was decoded encodes, and that decodes to the same.
fn check<M: Message + std::fmt::Debug + PartialEq>(bytes: &Bytes, version: i16) -> bool {
    let mut reader = Reader::new(bytes.clone());
    let decoded = M::decode(&mut reader, version);
    let most = bytes.len() * NESTING * 8;
    assert!(
        reader.reserved() <= most,
        "{} {version}: {} reserved for {} bytes",
        M::NAME,
        reader.reserved(),
        bytes.len()
    );
    let Ok(message) = decoded else { return false };
    assert!(reader.remaining() <= bytes.len());
    let encoded = message.to_encoded(version).expect("what was decoded encodes").into_bytes();
    let again = M::decode(&mut Reader::new(encoded.clone()), version).expect("what was encoded decodes");
    assert_eq!(message, again, "{} {version} changes on the way through its encoding", M::NAME);
    let twice = again.to_encoded(version).expect("it encoded before").into_bytes();
    assert_eq!(encoded, twice, "{} {version} has two encodings", M::NAME);
    true
}

fn any<M: Message + std::fmt::Debug + PartialEq>(key: Option<ApiKey>, request: bool) -> AnyMessage {
    AnyMessage { name: M::NAME, key, request, versions: M::VERSIONS, check: check::<M> }
}

macro_rules! every_message {
    ($($module:ident $request:ident $response:ident,)*) => {
        /// Every request, every response, every record value.
        #[must_use]
        pub fn every_message() -> Vec<AnyMessage> {
            use chronik_wire::{Request, messages};
            vec![
                $(
                    any::<messages::$module::$request>(Some(messages::$module::$request::KEY), true),
                    any::<<messages::$module::$request as Request>::Response>(
                        Some(messages::$module::$request::KEY),
                        false,
                    ),
                )*
                any::<group_records::OffsetCommitValue>(None, false),
                any::<group_records::GroupMetadataValue>(None, false),
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
#[must_use]
pub fn message(name: &str) -> Option<(usize, AnyMessage)> {
    every_message().into_iter().enumerate().find(|(_, message)| message.name == name)
}
