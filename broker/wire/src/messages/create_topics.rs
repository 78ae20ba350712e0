//! CreateTopics: Creates topics.

use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(CreateTopics: CreateTopicsRequest => CreateTopicsResponse);

messages! {
    /// The request.
    struct CreateTopicsRequest {
        topics: Vec<CreatableTopic>;
        timeout_ms: i32 = 60000;
        validate_only: bool;
    }

    struct CreatableTopic {
        name: KString;
        num_partitions: i32;
        replication_factor: i16;
        assignments: Vec<CreatableReplicaAssignment>;
        configs: Vec<CreatableTopicConfig>;
    }

    struct CreatableReplicaAssignment {
        partition_index: i32;
        broker_ids: Vec<i32>;
    }

    struct CreatableTopicConfig {
        name: KString;
        value: Option<KString>, null 2..;
    }

    /// The response.
    struct CreateTopicsResponse {
        throttle_time_ms: i32;
        topics: Vec<CreatableTopicResult>;
    }

    struct CreatableTopicResult {
        name: KString;
        topic_id: Uuid, in 7..;
        error_code: i16;
        error_message: Option<KString>, null 2..;
        num_partitions: i32 = -1, in 5..;
        replication_factor: i16 = -1, in 5..;
        configs: Option<Vec<CreatableTopicConfigs>>, in 5.., null 5..;
        topic_config_error_code: i16, in 5.., tag 0;
    }

    struct CreatableTopicConfigs {
        name: KString, in 5..;
        value: Option<KString>, in 5.., null 5..;
        read_only: bool, in 5..;
        config_source: i8 = -1, in 5..;
        is_sensitive: bool, in 5..;
    }
}
