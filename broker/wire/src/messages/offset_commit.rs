//! OffsetCommit: Commits the offsets of a group.

use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(OffsetCommit: OffsetCommitRequest => OffsetCommitResponse);

messages! {
    /// The request.
    struct OffsetCommitRequest {
        group_id: KString;
        generation_id_or_member_epoch: i32 = -1;
        member_id: KString;
        group_instance_id: Option<KString>, in 7.., null 7..;
        retention_time_ms: i64 = -1, in 2..=4;
        topics: Vec<OffsetCommitRequestTopic>;
    }

    struct OffsetCommitRequestTopic {
        name: KString, in 2..=9;
        topic_id: Uuid, in 10..;
        partitions: Vec<OffsetCommitRequestPartition>;
    }

    struct OffsetCommitRequestPartition {
        partition_index: i32;
        committed_offset: i64;
        committed_leader_epoch: i32 = -1, in 6..;
        committed_metadata: Option<KString>, null 2..;
    }

    /// The response.
    struct OffsetCommitResponse {
        throttle_time_ms: i32, in 3..;
        topics: Vec<OffsetCommitResponseTopic>;
    }

    struct OffsetCommitResponseTopic {
        name: KString, in 2..=9;
        topic_id: Uuid, in 10..;
        partitions: Vec<OffsetCommitResponsePartition>;
    }

    struct OffsetCommitResponsePartition {
        partition_index: i32;
        error_code: i16;
    }
}
