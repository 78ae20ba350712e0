//! DeleteRecords: Advances the log start of partitions.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DeleteRecords: DeleteRecordsRequest => DeleteRecordsResponse);

messages! {
    /// The request.
    struct DeleteRecordsRequest {
        topics: Vec<DeleteRecordsTopic>;
        timeout_ms: i32;
    }

    struct DeleteRecordsTopic {
        name: KString;
        partitions: Vec<DeleteRecordsPartition>;
    }

    struct DeleteRecordsPartition {
        partition_index: i32;
        offset: i64;
    }

    /// The response.
    struct DeleteRecordsResponse {
        throttle_time_ms: i32;
        topics: Vec<DeleteRecordsTopicResult>;
    }

    struct DeleteRecordsTopicResult {
        name: KString;
        partitions: Vec<DeleteRecordsPartitionResult>;
    }

    struct DeleteRecordsPartitionResult {
        partition_index: i32;
        low_watermark: i64;
        error_code: i16;
    }
}
