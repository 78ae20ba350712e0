//! OffsetFetch: Reads the committed offsets of groups.

use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(OffsetFetch: OffsetFetchRequest => OffsetFetchResponse);

messages! {
    /// The request.
    struct OffsetFetchRequest {
        group_id: KString, in 1..=7;
        topics: Option<Vec<OffsetFetchRequestTopic>>, in 1..=7, null 2..=7;
        groups: Vec<OffsetFetchRequestGroup>, in 8..;
        require_stable: bool, in 7..;
    }

    struct OffsetFetchRequestTopic {
        name: KString, in 1..=7;
        partition_indexes: Vec<i32>, in 1..=7;
    }

    struct OffsetFetchRequestGroup {
        group_id: KString, in 8..;
        member_id: Option<KString>, in 9.., null 9..;
        member_epoch: i32 = -1, in 9..;
        topics: Option<Vec<OffsetFetchRequestTopics>>, in 8.., null 8..;
    }

    struct OffsetFetchRequestTopics {
        name: KString, in 8..=9;
        topic_id: Uuid, in 10..;
        partition_indexes: Vec<i32>, in 8..;
    }

    /// The response.
    struct OffsetFetchResponse {
        throttle_time_ms: i32, in 3..;
        topics: Vec<OffsetFetchResponseTopic>, in 1..=7;
        error_code: i16, in 2..=7;
        groups: Vec<OffsetFetchResponseGroup>, in 8..;
    }

    struct OffsetFetchResponseTopic {
        name: KString, in 1..=7;
        partitions: Vec<OffsetFetchResponsePartition>, in 1..=7;
    }

    struct OffsetFetchResponsePartition {
        partition_index: i32, in 1..=7;
        committed_offset: i64, in 1..=7;
        committed_leader_epoch: i32 = -1, in 5..=7;
        metadata: Option<KString>, in 1..=7, null 1..=7;
        error_code: i16, in 1..=7;
    }

    struct OffsetFetchResponseGroup {
        group_id: KString, in 8..;
        topics: Vec<OffsetFetchResponseTopics>, in 8..;
        error_code: i16, in 8..;
    }

    struct OffsetFetchResponseTopics {
        name: KString, in 8..=9;
        topic_id: Uuid, in 10..;
        partitions: Vec<OffsetFetchResponsePartitions>, in 8..;
    }

    struct OffsetFetchResponsePartitions {
        partition_index: i32, in 8..;
        committed_offset: i64, in 8..;
        committed_leader_epoch: i32 = -1, in 8..;
        metadata: Option<KString>, in 8.., null 8..;
        error_code: i16, in 8..;
    }
}
