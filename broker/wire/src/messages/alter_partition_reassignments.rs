//! AlterPartitionReassignments: Moves partitions to other replicas, or takes that back.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(AlterPartitionReassignments: AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse);

messages! {
    /// The request.
    struct AlterPartitionReassignmentsRequest {
        timeout_ms: i32 = 60000;
        allow_replication_factor_change: bool = true, in 1..;
        topics: Vec<ReassignableTopic>;
    }

    struct ReassignableTopic {
        name: KString;
        partitions: Vec<ReassignablePartition>;
    }

    struct ReassignablePartition {
        partition_index: i32;
        replicas: Option<Vec<i32>>, null 0..;
    }

    /// The response.
    struct AlterPartitionReassignmentsResponse {
        throttle_time_ms: i32;
        allow_replication_factor_change: bool = true, in 1..;
        error_code: i16;
        error_message: Option<KString>, null 0..;
        responses: Vec<ReassignableTopicResponse>;
    }

    struct ReassignableTopicResponse {
        name: KString;
        partitions: Vec<ReassignablePartitionResponse>;
    }

    struct ReassignablePartitionResponse {
        partition_index: i32;
        error_code: i16;
        error_message: Option<KString>, null 0..;
    }
}
