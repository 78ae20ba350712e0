//! ElectLeaders: Elects preferred leaders, or unclean ones.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(ElectLeaders: ElectLeadersRequest => ElectLeadersResponse);

messages! {
    /// The request.
    struct ElectLeadersRequest {
        election_type: i8, in 1..;
        topic_partitions: Option<Vec<TopicPartitions>>, null 0..;
        timeout_ms: i32 = 60000;
    }

    struct TopicPartitions {
        topic: KString;
        partitions: Vec<i32>;
    }

    /// The response.
    struct ElectLeadersResponse {
        throttle_time_ms: i32;
        error_code: i16, in 1..;
        replica_election_results: Vec<ReplicaElectionResult>;
    }

    struct ReplicaElectionResult {
        topic: KString;
        partition_result: Vec<PartitionResult>;
    }

    struct PartitionResult {
        partition_id: i32;
        error_code: i16;
        error_message: Option<KString>, null 0..;
    }
}
