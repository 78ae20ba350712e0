//! From frames to handlers and back; the tables of what is handled.

use std::sync::Arc;

use bytes::Bytes;
use chronik_wire::messages as m;
use chronik_wire::{ApiKey, ApiTable, DecodeError, Lookup, Message, Reader, Request, RequestHeader, encode_response};

use super::{Api, Call, Outcome};
use crate::net::{ConnectionInfo, Response, Service, Started};

/// Decodes the body of a request and runs it.
pub(crate) type Handler = fn(&Arc<Api>, &Call, Reader) -> Result<Started, DecodeError>;

macro_rules! handler {
    ($request:ty, $handle:path) => {
        |api, call, mut reader| {
            let request = <$request as Message>::decode(&mut reader, call.version)?;
            Ok(started::<<$request as Request>::Response>(call, $handle(api, call, request)))
        }
    };
}

/// What clients may ask. Each API in all versions that have messages: advertised = implemented.
pub(crate) fn client_table() -> ApiTable<Handler> {
    let mut table = ApiTable::new();
    let mut add = |key: ApiKey, handler: Handler| table = std::mem::take(&mut table).with(key, handler);
    add(ApiKey::Produce, handler!(m::produce::ProduceRequest, super::produce::handle));
    add(ApiKey::Fetch, handler!(m::fetch::FetchRequest, super::fetch::handle_consumer));
    add(ApiKey::ListOffsets, handler!(m::list_offsets::ListOffsetsRequest, super::list_offsets::handle));
    add(ApiKey::Metadata, handler!(m::metadata::MetadataRequest, super::metadata::handle));
    add(ApiKey::OffsetCommit, handler!(m::offset_commit::OffsetCommitRequest, super::offset_commit::handle));
    add(ApiKey::OffsetFetch, handler!(m::offset_fetch::OffsetFetchRequest, super::offset_fetch::handle));
    add(
        ApiKey::FindCoordinator,
        handler!(m::find_coordinator::FindCoordinatorRequest, super::find_coordinator::handle),
    );
    add(ApiKey::JoinGroup, handler!(m::join_group::JoinGroupRequest, super::join_group::handle));
    add(ApiKey::Heartbeat, handler!(m::heartbeat::HeartbeatRequest, super::heartbeat::handle));
    add(ApiKey::LeaveGroup, handler!(m::leave_group::LeaveGroupRequest, super::leave_group::handle));
    add(ApiKey::SyncGroup, handler!(m::sync_group::SyncGroupRequest, super::sync_group::handle));
    add(ApiKey::DescribeGroups, handler!(m::describe_groups::DescribeGroupsRequest, super::describe_groups::handle));
    add(ApiKey::ListGroups, handler!(m::list_groups::ListGroupsRequest, super::list_groups::handle));
    add(ApiKey::ApiVersions, handler!(m::api_versions::ApiVersionsRequest, super::api_versions::handle));
    add(ApiKey::CreateTopics, handler!(m::create_topics::CreateTopicsRequest, super::create_topics::handle));
    add(ApiKey::DeleteTopics, handler!(m::delete_topics::DeleteTopicsRequest, super::delete_topics::handle));
    add(ApiKey::DeleteRecords, handler!(m::delete_records::DeleteRecordsRequest, super::delete_records::handle));
    add(ApiKey::InitProducerId, handler!(m::init_producer_id::InitProducerIdRequest, super::init_producer_id::handle));
    add(
        ApiKey::OffsetForLeaderEpoch,
        handler!(m::offset_for_leader_epoch::OffsetForLeaderEpochRequest, super::offset_for_leader_epoch::handle),
    );
    add(
        ApiKey::DescribeConfigs,
        handler!(m::describe_configs::DescribeConfigsRequest, super::describe_configs::handle),
    );
    add(ApiKey::AlterConfigs, handler!(m::alter_configs::AlterConfigsRequest, super::alter_configs::handle));
    add(
        ApiKey::DescribeLogDirs,
        handler!(m::describe_log_dirs::DescribeLogDirsRequest, super::describe_log_dirs::handle),
    );
    add(
        ApiKey::CreatePartitions,
        handler!(m::create_partitions::CreatePartitionsRequest, super::create_partitions::handle),
    );
    add(ApiKey::DeleteGroups, handler!(m::delete_groups::DeleteGroupsRequest, super::delete_groups::handle));
    add(ApiKey::ElectLeaders, handler!(m::elect_leaders::ElectLeadersRequest, super::elect_leaders::handle));
    add(
        ApiKey::AlterPartitionReassignments,
        handler!(
            m::alter_partition_reassignments::AlterPartitionReassignmentsRequest,
            super::alter_partition_reassignments::handle
        ),
    );
    add(
        ApiKey::ListPartitionReassignments,
        handler!(
            m::list_partition_reassignments::ListPartitionReassignmentsRequest,
            super::list_partition_reassignments::handle
        ),
    );
    add(
        ApiKey::IncrementalAlterConfigs,
        handler!(
            m::incremental_alter_configs::IncrementalAlterConfigsRequest,
            super::incremental_alter_configs::handle
        ),
    );
    add(ApiKey::OffsetDelete, handler!(m::offset_delete::OffsetDeleteRequest, super::offset_delete::handle));
    add(
        ApiKey::DescribeCluster,
        handler!(m::describe_cluster::DescribeClusterRequest, super::describe_cluster::handle),
    );
    add(
        ApiKey::ListConfigResources,
        handler!(m::list_config_resources::ListConfigResourcesRequest, super::list_config_resources::handle),
    );
    add(
        ApiKey::DescribeTopicPartitions,
        handler!(
            m::describe_topic_partitions::DescribeTopicPartitionsRequest,
            super::describe_topic_partitions::handle
        ),
    );
    table
}

/// What followers may ask.
pub(crate) fn replication_table() -> ApiTable<Handler> {
    let offsets: Handler =
        handler!(m::offset_for_leader_epoch::OffsetForLeaderEpochRequest, super::offset_for_leader_epoch::handle);
    let list: Handler = handler!(m::list_offsets::ListOffsetsRequest, super::list_offsets::handle_follower);
    let fetch: Handler = handler!(m::fetch::FetchRequest, super::fetch::handle_follower);
    ApiTable::new()
        .with_versions(ApiKey::Fetch, 17..=18, fetch)
        .with(ApiKey::ListOffsets, list)
        .with(ApiKey::OffsetForLeaderEpoch, offsets)
}

fn started<M: Message + Send + 'static>(call: &Call, outcome: Outcome<M>) -> Started {
    let (key, version, correlation_id) = (call.key, call.version, call.header.correlation_id);
    let encode = move |response: &M| respond(key, version, correlation_id, response);
    match outcome {
        Outcome::Done(response) => Started::Answered(encode(&response)),
        Outcome::Ordered(future) => Started::Ordered(Box::pin(async move { encode(&future.await) })),
        Outcome::Parked(future) => Started::Parked(Box::pin(async move { encode(&future.await) })),
        Outcome::Silent => Started::Answered(Response::Silent),
        Outcome::Close(reason) => Started::Answered(Response::Close(reason)),
    }
}

fn respond<M: Message>(key: ApiKey, version: i16, correlation_id: i32, response: &M) -> Response {
    match encode_response(key, version, correlation_id, response) {
        Ok(encoded) => Response::Frame(encoded.pieces),
        Err(error) => Response::Close(format!("the {} response cannot be encoded: {error}", key.name())),
    }
}

fn dispatch(api: &Arc<Api>, table: &ApiTable<Handler>, connection: &Arc<ConnectionInfo>, frame: Bytes) -> Started {
    let close = |reason: String| Started::Answered(Response::Close(reason));
    let mut reader = Reader::new(frame);
    let header = match RequestHeader::decode(&mut reader) {
        Ok(header) => header,
        Err(error) => return close(format!("malformed request header: {error}")),
    };
    let (key, version) = (header.api_key, header.api_version);
    match table.lookup(key, version) {
        Lookup::Handled(entry) => {
            api.metrics.count(entry.key);
            let call = Call { key: entry.key, version, header, connection: Arc::clone(connection) };
            match (entry.handler)(api, &call, reader) {
                Ok(started) => started,
                Err(error) => close(format!("malformed {} v{version} request: {error}", entry.key.name())),
            }
        }
        Lookup::UnsupportedVersion(entry) if entry.key == ApiKey::ApiVersions => {
            // The only API whose clients may not know yet which versions exist.
            let response = super::api_versions::unsupported(table);
            Started::Answered(respond(entry.key, 0, header.correlation_id, &response))
        }
        Lookup::UnsupportedVersion(entry) => close(format!("{} v{version} is not supported", entry.key.name())),
        Lookup::UnknownApi => close(format!("API key {key} v{version} is not supported here")),
    }
}

/// Answers clients.
#[allow(missing_debug_implementations)]
pub struct KafkaService(pub Arc<Api>);

impl Service for KafkaService {
    fn start(&self, connection: &Arc<ConnectionInfo>, frame: Bytes) -> Started {
        dispatch(&self.0, &self.0.table, connection, frame)
    }
}

/// Answers followers.
#[allow(missing_debug_implementations)]
pub struct ReplicationService(pub Arc<Api>);

impl Service for ReplicationService {
    fn start(&self, connection: &Arc<ConnectionInfo>, frame: Bytes) -> Started {
        dispatch(&self.0, &self.0.replication_table, connection, frame)
    }
}
