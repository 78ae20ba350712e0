//! DescribeGroups: Describes classic groups.

use bytes::Bytes;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DescribeGroups: DescribeGroupsRequest => DescribeGroupsResponse);

messages! {
    /// The request.
    struct DescribeGroupsRequest {
        groups: Vec<KString>;
        include_authorized_operations: bool, in 3..;
    }

    /// The response.
    struct DescribeGroupsResponse {
        throttle_time_ms: i32, in 1..;
        groups: Vec<DescribedGroup>;
    }

    struct DescribedGroup {
        error_code: i16;
        error_message: Option<KString>, in 6.., null 6..;
        group_id: KString;
        group_state: KString;
        protocol_type: KString;
        protocol_data: KString;
        members: Vec<DescribedGroupMember>;
        authorized_operations: i32 = i32::MIN, in 3..;
    }

    struct DescribedGroupMember {
        member_id: KString;
        group_instance_id: Option<KString>, in 4.., null 4..;
        client_id: KString;
        client_host: KString;
        member_metadata: Bytes;
        member_assignment: Bytes;
    }
}
