//! CreatePartitions: Adds partitions to topics.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(CreatePartitions: CreatePartitionsRequest => CreatePartitionsResponse);

messages! {
    /// The request.
    struct CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic>;
        timeout_ms: i32;
        validate_only: bool;
    }

    struct CreatePartitionsTopic {
        name: KString;
        count: i32;
        assignments: Option<Vec<CreatePartitionsAssignment>>, null 0..;
    }

    struct CreatePartitionsAssignment {
        broker_ids: Vec<i32>;
    }

    /// The response.
    struct CreatePartitionsResponse {
        throttle_time_ms: i32;
        results: Vec<CreatePartitionsTopicResult>;
    }

    struct CreatePartitionsTopicResult {
        name: KString;
        error_code: i16;
        error_message: Option<KString>, null 0..;
    }
}
