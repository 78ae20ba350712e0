//! JoinGroup: Joins a classic group.

use bytes::Bytes;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(JoinGroup: JoinGroupRequest => JoinGroupResponse);

messages! {
    /// The request.
    struct JoinGroupRequest {
        group_id: KString;
        session_timeout_ms: i32;
        rebalance_timeout_ms: i32 = -1, in 1..;
        member_id: KString;
        group_instance_id: Option<KString>, in 5.., null 5..;
        protocol_type: KString;
        protocols: Vec<JoinGroupRequestProtocol>;
        reason: Option<KString>, in 8.., null 8..;
    }

    struct JoinGroupRequestProtocol {
        name: KString;
        metadata: Bytes;
    }

    /// The response.
    struct JoinGroupResponse {
        throttle_time_ms: i32, in 2..;
        error_code: i16;
        generation_id: i32 = -1;
        protocol_type: Option<KString>, in 7.., null 7..;
        protocol_name: Option<KString>, null 7..;
        leader: KString;
        skip_assignment: bool, in 9..;
        member_id: KString;
        members: Vec<JoinGroupResponseMember>;
    }

    struct JoinGroupResponseMember {
        member_id: KString;
        group_instance_id: Option<KString>, in 5.., null 5..;
        metadata: Bytes;
    }
}
