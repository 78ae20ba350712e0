//! DescribeCluster: Describes the brokers of the cluster.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DescribeCluster: DescribeClusterRequest => DescribeClusterResponse);

messages! {
    /// The request.
    struct DescribeClusterRequest {
        include_cluster_authorized_operations: bool;
        endpoint_type: i8 = 1, in 1..;
        include_fenced_brokers: bool, in 2..;
    }

    /// The response.
    struct DescribeClusterResponse {
        throttle_time_ms: i32;
        error_code: i16;
        error_message: Option<KString>, null 0..;
        endpoint_type: i8 = 1, in 1..;
        cluster_id: KString;
        controller_id: i32 = -1;
        brokers: Vec<DescribeClusterBroker>;
        cluster_authorized_operations: i32 = i32::MIN;
    }

    struct DescribeClusterBroker {
        broker_id: i32;
        host: KString;
        port: i32;
        rack: Option<KString>, null 0..;
        is_fenced: bool, in 2..;
    }
}
