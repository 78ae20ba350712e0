//! DeleteRecords: moves the start of logs forward and waits until all live replicas followed.
//!
//! Followers learn of it with their fetches, which also tell the leader how far they are: the wait looks at each of them
//! at the fetches' own pace.

use std::sync::Arc;
use std::time::Duration;

use chronik_model::{ErrorCode, Offset};
use chronik_wire::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};
use tokio::time::Instant;

use super::list_offsets::hosted;
use super::{Api, Call, Outcome, timeout_of};
use crate::replication::Partition;

/// Followers report their log start with a fetch, every 500 ms at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

type Moved = Result<(Arc<Partition>, Offset), ErrorCode>;

pub(super) fn handle(api: &Arc<Api>, _: &Call, request: DeleteRecordsRequest) -> Outcome<DeleteRecordsResponse> {
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        let deadline = Instant::now() + timeout_of(request.timeout_ms);
        let moving = tokio::task::spawn_blocking(move || {
            let topics = request.topics.into_iter().map(|topic| {
                let moved: Vec<(i32, Moved)> = topic
                    .partitions
                    .iter()
                    .map(|one| (one.partition_index, move_start(&api, &topic.name, one)))
                    .collect();
                (topic.name, moved)
            });
            topics.collect::<Vec<_>>()
        });
        let Ok(moved) = moving.await else { return DeleteRecordsResponse::default() };
        let mut topics = Vec::with_capacity(moved.len());
        for (name, partitions) in moved {
            let mut results = Vec::with_capacity(partitions.len());
            for (partition_index, moved) in partitions {
                let low = match moved {
                    Ok((partition, to)) => follow(&partition, to, deadline).await,
                    Err(error) => Err(error),
                };
                results.push(DeleteRecordsPartitionResult {
                    partition_index,
                    low_watermark: low.map_or(-1, |low| low.0),
                    error_code: low.err().unwrap_or(ErrorCode::None).code(),
                });
            }
            topics.push(DeleteRecordsTopicResult { name, partitions: results });
        }
        DeleteRecordsResponse { throttle_time_ms: 0, topics }
    }))
}

fn move_start(api: &Arc<Api>, topic: &str, wanted: &DeleteRecordsPartition) -> Moved {
    let partition = hosted(api, topic, wanted.partition_index)?;
    if !partition.deletes_old() {
        return Err(ErrorCode::PolicyViolation);
    }
    let to = api.replicas.delete_records(&partition, wanted.offset)?;
    Ok((partition, to))
}

async fn follow(partition: &Partition, to: Offset, deadline: Instant) -> Result<Offset, ErrorCode> {
    loop {
        match partition.low_watermark()? {
            Some(low) if low >= to => return Ok(low),
            _ if Instant::now() >= deadline => return Err(ErrorCode::RequestTimedOut),
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
