//! DeleteTopics: Deletes topics.

use chronik_model::Uuid;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DeleteTopics: DeleteTopicsRequest => DeleteTopicsResponse);

messages! {
    /// The request.
    struct DeleteTopicsRequest {
        topics: Vec<DeleteTopicState>, in 6..;
        topic_names: Vec<KString>, in 1..=5;
        timeout_ms: i32;
    }

    struct DeleteTopicState {
        name: Option<KString>, in 6.., null 6..;
        topic_id: Uuid, in 6..;
    }

    /// The response.
    struct DeleteTopicsResponse {
        throttle_time_ms: i32;
        responses: Vec<DeletableTopicResult>;
    }

    struct DeletableTopicResult {
        name: Option<KString>, null 6..;
        topic_id: Uuid, in 6..;
        error_code: i16;
        error_message: Option<KString>, in 5.., null 5..;
    }
}
