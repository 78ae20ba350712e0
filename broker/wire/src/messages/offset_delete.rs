//! OffsetDelete: Deletes committed offsets.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(OffsetDelete: OffsetDeleteRequest => OffsetDeleteResponse);

messages! {
    /// The request.
    struct OffsetDeleteRequest {
        group_id: KString;
        topics: Vec<OffsetDeleteRequestTopic>;
    }

    struct OffsetDeleteRequestTopic {
        name: KString;
        partitions: Vec<OffsetDeleteRequestPartition>;
    }

    struct OffsetDeleteRequestPartition {
        partition_index: i32;
    }

    /// The response.
    struct OffsetDeleteResponse {
        error_code: i16;
        throttle_time_ms: i32;
        topics: Vec<OffsetDeleteResponseTopic>;
    }

    struct OffsetDeleteResponseTopic {
        name: KString;
        partitions: Vec<OffsetDeleteResponsePartition>;
    }

    struct OffsetDeleteResponsePartition {
        partition_index: i32;
        error_code: i16;
    }
}
