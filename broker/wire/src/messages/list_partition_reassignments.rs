//! ListPartitionReassignments: Lists the partitions that move to other replicas.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(ListPartitionReassignments: ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse);

messages! {
    /// The request.
    struct ListPartitionReassignmentsRequest {
        timeout_ms: i32 = 60000;
        topics: Option<Vec<ListPartitionReassignmentsTopics>>, null 0..;
    }

    struct ListPartitionReassignmentsTopics {
        name: KString;
        partition_indexes: Vec<i32>;
    }

    /// The response.
    struct ListPartitionReassignmentsResponse {
        throttle_time_ms: i32;
        error_code: i16;
        error_message: Option<KString>, null 0..;
        topics: Vec<OngoingTopicReassignment>;
    }

    struct OngoingTopicReassignment {
        name: KString;
        partitions: Vec<OngoingPartitionReassignment>;
    }

    struct OngoingPartitionReassignment {
        partition_index: i32;
        replicas: Vec<i32>;
        adding_replicas: Vec<i32>;
        removing_replicas: Vec<i32>;
    }
}
