//! LeaveGroup: Takes members out of a classic group.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(LeaveGroup: LeaveGroupRequest => LeaveGroupResponse);

messages! {
    /// The request.
    struct LeaveGroupRequest {
        group_id: KString;
        member_id: KString, in 0..=2;
        members: Vec<MemberIdentity>, in 3..;
    }

    struct MemberIdentity {
        member_id: KString, in 3..;
        group_instance_id: Option<KString>, in 3.., null 3..;
        reason: Option<KString>, in 5.., null 5..;
    }

    /// The response.
    struct LeaveGroupResponse {
        throttle_time_ms: i32, in 1..;
        error_code: i16;
        members: Vec<MemberResponse>, in 3..;
    }

    struct MemberResponse {
        member_id: KString, in 3..;
        group_instance_id: Option<KString>, in 3.., null 3..;
        error_code: i16, in 3..;
    }
}
