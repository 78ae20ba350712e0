//! DescribeLogDirs: the one log directory of this broker and what is in it.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::ErrorCode;
use chronik_wire::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};

use super::{Api, Call, Outcome};

/// Name of the log directory; there is one per broker, and its place is the operator's business.
const LOG_DIR: &str = "data";

pub(super) fn handle(api: &Api, _: &Call, request: DescribeLogDirsRequest) -> Outcome<DescribeLogDirsResponse> {
    let wanted: Option<BTreeSet<(String, i32)>> = request.topics.map(|topics| {
        topics.iter().flat_map(|t| t.partitions.iter().map(|index| (t.topic.to_string(), *index))).collect()
    });
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for status in api.replicas.partitions().iter().map(|partition| partition.status()) {
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&(status.topic.clone(), status.partition))) {
            continue;
        }
        topics.entry(status.topic).or_default().push(DescribeLogDirsPartition {
            partition_index: status.partition,
            partition_size: i64::try_from(status.size_bytes).unwrap_or(i64::MAX),
            offset_lag: (status.high_watermark - status.log_end).max(0),
            is_future_key: false,
        });
    }
    let space = api.replicas.log_dir().disk().space().ok();
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let error = if api.replicas.offline_reason().is_some() { ErrorCode::KafkaStorageError } else { ErrorCode::None };
    let result = DescribeLogDirsResult {
        error_code: error.code(),
        log_dir: LOG_DIR.into(),
        topics: topics
            .into_iter()
            .map(|(name, partitions)| DescribeLogDirsTopic { name: name.into(), partitions })
            .collect(),
        total_bytes: space.map_or(-1, |space| bytes(space.total)),
        usable_bytes: space.map_or(-1, |space| bytes(space.free)),
        is_cordoned: false,
    };
    Outcome::Done(DescribeLogDirsResponse { throttle_time_ms: 0, error_code: 0, results: vec![result] })
}
