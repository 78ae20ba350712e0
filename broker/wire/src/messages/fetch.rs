//! Fetch: Reads record batches: consumers and followers.

use bytes::Bytes;
use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(Fetch: FetchRequest => FetchResponse);

messages! {
    /// The request.
    struct FetchRequest {
        replica_id: i32 = -1, in 4..=14;
        max_wait_ms: i32;
        min_bytes: i32;
        max_bytes: i32 = i32::MAX;
        isolation_level: i8;
        session_id: i32, in 7..;
        session_epoch: i32 = -1, in 7..;
        topics: Vec<FetchTopic>;
        forgotten_topics_data: Vec<ForgottenTopic>, in 7..;
        rack_id: KString, in 11..;
        cluster_id: Option<KString>, in 12.., null 12.., tag 0;
        replica_state: ReplicaState, in 15.., tag 1;
    }

    struct ReplicaState {
        replica_id: i32 = -1, in 15..;
        replica_epoch: i64 = -1, in 15..;
    }

    struct FetchTopic {
        topic: KString, in 4..=12;
        topic_id: Uuid, in 13..;
        partitions: Vec<FetchPartition>;
    }

    struct FetchPartition {
        partition: i32;
        current_leader_epoch: i32 = -1, in 9..;
        fetch_offset: i64;
        last_fetched_epoch: i32 = -1, in 12..;
        log_start_offset: i64 = -1, in 5..;
        partition_max_bytes: i32;
        replica_directory_id: Uuid, in 17.., tag 0;
        high_watermark: i64 = i64::MAX, in 18.., tag 1;
    }

    struct ForgottenTopic {
        topic: KString, in 7..=12;
        topic_id: Uuid, in 13..;
        partitions: Vec<i32>, in 7..;
    }

    /// The response.
    struct FetchResponse {
        throttle_time_ms: i32;
        error_code: i16, in 7..;
        session_id: i32, in 7..;
        responses: Vec<FetchableTopicResponse>;
        node_endpoints: Vec<NodeEndpoint>, in 16.., tag 0;
    }

    struct FetchableTopicResponse {
        topic: KString, in 4..=12;
        topic_id: Uuid, in 13..;
        partitions: Vec<PartitionData>;
    }

    struct PartitionData {
        partition_index: i32;
        error_code: i16;
        high_watermark: i64;
        last_stable_offset: i64 = -1;
        log_start_offset: i64 = -1, in 5..;
        aborted_transactions: Option<Vec<AbortedTransaction>>, null 4..;
        preferred_read_replica: i32 = -1, in 11..;
        /// Never null in a response: librdkafka does not survive it (KAFKA-18646).
        records: Option<Bytes> = Some(Bytes::new()), null 4..;
        diverging_epoch: EpochEndOffset, in 12.., tag 0;
        current_leader: LeaderIdAndEpoch, in 12.., tag 1;
        snapshot_id: SnapshotId, in 12.., tag 2;
    }

    struct EpochEndOffset {
        epoch: i32 = -1, in 12..;
        end_offset: i64 = -1, in 12..;
    }

    struct LeaderIdAndEpoch {
        leader_id: i32 = -1, in 12..;
        leader_epoch: i32 = -1, in 12..;
    }

    struct SnapshotId {
        end_offset: i64 = -1;
        epoch: i32 = -1;
    }

    struct AbortedTransaction {
        producer_id: i64;
        first_offset: i64;
    }

    struct NodeEndpoint {
        node_id: i32, in 16..;
        host: KString, in 16..;
        port: i32, in 16..;
        rack: Option<KString>, in 16.., null 16..;
    }
}
