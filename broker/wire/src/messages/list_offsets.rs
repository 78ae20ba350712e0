//! ListOffsets: Looks offsets up by timestamp or by the special timestamps.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(ListOffsets: ListOffsetsRequest => ListOffsetsResponse);

messages! {
    /// The request.
    struct ListOffsetsRequest {
        replica_id: i32;
        isolation_level: i8, in 2..;
        topics: Vec<ListOffsetsTopic>;
        timeout_ms: i32, in 10..;
    }

    struct ListOffsetsTopic {
        name: KString;
        partitions: Vec<ListOffsetsPartition>;
    }

    struct ListOffsetsPartition {
        partition_index: i32;
        current_leader_epoch: i32 = -1, in 4..;
        timestamp: i64;
    }

    /// The response.
    struct ListOffsetsResponse {
        throttle_time_ms: i32, in 2..;
        topics: Vec<ListOffsetsTopicResponse>;
    }

    struct ListOffsetsTopicResponse {
        name: KString;
        partitions: Vec<ListOffsetsPartitionResponse>;
    }

    struct ListOffsetsPartitionResponse {
        partition_index: i32;
        error_code: i16;
        timestamp: i64 = -1;
        offset: i64 = -1;
        leader_epoch: i32 = -1, in 4..;
    }
}
