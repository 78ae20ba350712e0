//! Produce: Appends record batches to partitions.

use bytes::Bytes;
use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(Produce: ProduceRequest => ProduceResponse);

messages! {
    /// The request.
    struct ProduceRequest {
        transactional_id: Option<KString>, null 3..;
        acks: i16;
        timeout_ms: i32;
        topic_data: Vec<TopicProduceData>;
    }

    struct TopicProduceData {
        name: KString, in 3..=12;
        topic_id: Uuid, in 13..;
        partition_data: Vec<PartitionProduceData>;
    }

    struct PartitionProduceData {
        index: i32;
        records: Option<Bytes>, null 3..;
    }

    /// The response.
    struct ProduceResponse {
        responses: Vec<TopicProduceResponse>;
        throttle_time_ms: i32;
        node_endpoints: Vec<NodeEndpoint>, in 10.., tag 0;
    }

    struct TopicProduceResponse {
        name: KString, in 3..=12;
        topic_id: Uuid, in 13..;
        partition_responses: Vec<PartitionProduceResponse>;
    }

    struct PartitionProduceResponse {
        index: i32;
        error_code: i16;
        base_offset: i64;
        log_append_time_ms: i64 = -1;
        log_start_offset: i64 = -1, in 5..;
        record_errors: Vec<BatchIndexAndErrorMessage>, in 8..;
        error_message: Option<KString>, in 8.., null 8..;
        current_leader: LeaderIdAndEpoch, in 10.., tag 0;
    }

    struct BatchIndexAndErrorMessage {
        batch_index: i32, in 8..;
        batch_index_error_message: Option<KString>, in 8.., null 8..;
    }

    struct LeaderIdAndEpoch {
        leader_id: i32 = -1, in 10..;
        leader_epoch: i32 = -1, in 10..;
    }

    struct NodeEndpoint {
        node_id: i32, in 10..;
        host: KString, in 10..;
        port: i32, in 10..;
        rack: Option<KString>, in 10.., null 10..;
    }
}
