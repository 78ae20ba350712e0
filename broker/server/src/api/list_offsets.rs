//! ListOffsets: earliest, latest, by time, by largest time.
//!
//! Lookups by time read batches, so they run on the blocking pool. There is no tiered storage: the earliest local
//! offset is the earliest, and there is no latest tiered one.

use std::sync::Arc;

use chronik_model::{ErrorCode, LeaderEpoch, PartitionIndex, TopicPartition};
use chronik_wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

use super::{Api, Call, Outcome};
use crate::replication::{FoundOffset, Partition};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

pub(super) fn handle(api: &Arc<Api>, call: &Call, request: ListOffsetsRequest) -> Outcome<ListOffsetsResponse> {
    if request.replica_id >= 0 {
        return Outcome::Close("ListOffsets with a replica id is not accepted from clients".to_owned());
    }
    start(api, call.version, request, false)
}

/// For followers: "latest" is the log end.
pub(super) fn handle_follower(
    api: &Arc<Api>,
    call: &Call,
    request: ListOffsetsRequest,
) -> Outcome<ListOffsetsResponse> {
    start(api, call.version, request, true)
}

fn start(api: &Arc<Api>, version: i16, request: ListOffsetsRequest, follower: bool) -> Outcome<ListOffsetsResponse> {
    let reads = |p: &ListOffsetsPartition| p.timestamp >= 0 || p.timestamp == MAX_TIMESTAMP;
    let blocking = request.topics.iter().flat_map(|topic| &topic.partitions).any(reads);
    let api = Arc::clone(api);
    if !blocking {
        return Outcome::Done(answer(&api, version, &request, follower));
    }
    Outcome::Parked(Box::pin(async move {
        let looked = tokio::task::spawn_blocking(move || answer(&api, version, &request, follower)).await;
        looked.unwrap_or_else(|error| {
            tracing::error!(%error, "lookup by time failed");
            ListOffsetsResponse::default()
        })
    }))
}

fn answer(api: &Arc<Api>, version: i16, request: &ListOffsetsRequest, follower: bool) -> ListOffsetsResponse {
    let topics = request
        .topics
        .iter()
        .map(|topic| {
            let mut seen = std::collections::BTreeSet::new();
            let partitions = topic
                .partitions
                .iter()
                .map(|wanted| {
                    let found = if seen.insert(wanted.partition_index) {
                        look(api, version, &topic.name, wanted, follower)
                    } else {
                        Err(ErrorCode::InvalidRequest)
                    };
                    response(wanted.partition_index, found)
                })
                .collect();
            ListOffsetsTopicResponse { name: topic.name.clone(), partitions }
        })
        .collect();
    ListOffsetsResponse { throttle_time_ms: 0, topics }
}

fn response(partition_index: i32, found: Result<FoundOffset, ErrorCode>) -> ListOffsetsPartitionResponse {
    let (error, found) = match found {
        Ok(found) => (ErrorCode::None, found),
        Err(error) => (error, FoundOffset::NONE),
    };
    ListOffsetsPartitionResponse {
        partition_index,
        error_code: error.code(),
        timestamp: found.timestamp,
        offset: found.offset,
        leader_epoch: found.leader_epoch.0,
    }
}

/// The hosted partition of this name, or why it is not here.
pub(super) fn hosted(api: &Api, topic: &str, partition: i32) -> Result<Arc<Partition>, ErrorCode> {
    let tp = TopicPartition::new(topic, PartitionIndex(partition));
    match api.replicas.partition(&tp) {
        Some(partition) => Ok(partition),
        None if api.meta.state().partition(&tp).is_some() => Err(ErrorCode::NotLeaderOrFollower),
        None => Err(ErrorCode::UnknownTopicOrPartition),
    }
}

fn look(
    api: &Api,
    version: i16,
    topic: &str,
    wanted: &ListOffsetsPartition,
    follower: bool,
) -> Result<FoundOffset, ErrorCode> {
    let partition = hosted(api, topic, wanted.partition_index)?;
    let current = LeaderEpoch(wanted.current_leader_epoch);
    let since = |first: i16| if version >= first { Ok(()) } else { Err(ErrorCode::UnsupportedVersion) };
    let found = match wanted.timestamp {
        LATEST if follower => partition.end(current),
        LATEST => partition.latest(current),
        EARLIEST => partition.earliest(current),
        MAX_TIMESTAMP => since(7).and_then(|()| partition.max_timestamp(current)),
        EARLIEST_LOCAL => since(8).and_then(|()| partition.earliest(current)),
        LATEST_TIERED => since(9).and_then(|()| partition.latest(current)).map(|_| FoundOffset::NONE),
        EARLIEST_PENDING_UPLOAD => since(11).and_then(|()| partition.latest(current)).map(|_| FoundOffset::NONE),
        timestamp if timestamp >= 0 => partition.at_or_after(current, timestamp),
        _ => Err(ErrorCode::UnsupportedVersion),
    };
    match found {
        // Older clients do not know the newer code (KIP-207).
        Err(ErrorCode::OffsetNotAvailable) if version < 5 => Err(ErrorCode::LeaderNotAvailable),
        found => found,
    }
}
