//! DescribeLogDirs: Sizes of log directories and of the replicas in them.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DescribeLogDirs: DescribeLogDirsRequest => DescribeLogDirsResponse);

messages! {
    /// The request.
    struct DescribeLogDirsRequest {
        topics: Option<Vec<DescribableLogDirTopic>>, null 1..;
    }

    struct DescribableLogDirTopic {
        topic: KString;
        partitions: Vec<i32>;
    }

    /// The response.
    struct DescribeLogDirsResponse {
        throttle_time_ms: i32;
        error_code: i16, in 3..;
        results: Vec<DescribeLogDirsResult>;
    }

    struct DescribeLogDirsResult {
        error_code: i16;
        log_dir: KString;
        topics: Vec<DescribeLogDirsTopic>;
        total_bytes: i64 = -1, in 4..;
        usable_bytes: i64 = -1, in 4..;
        is_cordoned: bool, in 5..;
    }

    struct DescribeLogDirsTopic {
        name: KString;
        partitions: Vec<DescribeLogDirsPartition>;
    }

    struct DescribeLogDirsPartition {
        partition_index: i32;
        partition_size: i64;
        offset_lag: i64;
        is_future_key: bool;
    }
}
