//! DescribeTopicPartitions: Describes topics page by page.

use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DescribeTopicPartitions: DescribeTopicPartitionsRequest => DescribeTopicPartitionsResponse);

messages! {
    /// The request.
    struct DescribeTopicPartitionsRequest {
        topics: Vec<TopicRequest>;
        response_partition_limit: i32 = 2000;
        cursor: Option<Cursor>, null 0..;
    }

    struct TopicRequest {
        name: KString;
    }

    struct Cursor {
        topic_name: KString;
        partition_index: i32;
    }

    /// The response.
    struct DescribeTopicPartitionsResponse {
        throttle_time_ms: i32;
        topics: Vec<DescribeTopicPartitionsResponseTopic>;
        next_cursor: Option<Cursor>, null 0..;
    }

    struct DescribeTopicPartitionsResponseTopic {
        error_code: i16;
        name: Option<KString>, null 0..;
        topic_id: Uuid;
        is_internal: bool;
        partitions: Vec<DescribeTopicPartitionsResponsePartition>;
        topic_authorized_operations: i32 = i32::MIN;
    }

    struct DescribeTopicPartitionsResponsePartition {
        error_code: i16;
        partition_index: i32;
        leader_id: i32;
        leader_epoch: i32 = -1;
        replica_nodes: Vec<i32>;
        isr_nodes: Vec<i32>;
        eligible_leader_replicas: Option<Vec<i32>>, null 0..;
        last_known_elr: Option<Vec<i32>>, null 0..;
        offline_replicas: Vec<i32>;
    }
}
