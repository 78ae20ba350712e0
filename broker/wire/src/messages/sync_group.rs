//! SyncGroup: Distributes the leader's assignment to the members of a classic group.

use bytes::Bytes;

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(SyncGroup: SyncGroupRequest => SyncGroupResponse);

messages! {
    /// The request.
    struct SyncGroupRequest {
        group_id: KString;
        generation_id: i32;
        member_id: KString;
        group_instance_id: Option<KString>, in 3.., null 3..;
        protocol_type: Option<KString>, in 5.., null 5..;
        protocol_name: Option<KString>, in 5.., null 5..;
        assignments: Vec<SyncGroupRequestAssignment>;
    }

    struct SyncGroupRequestAssignment {
        member_id: KString;
        assignment: Bytes;
    }

    /// The response.
    struct SyncGroupResponse {
        throttle_time_ms: i32, in 1..;
        error_code: i16;
        protocol_type: Option<KString>, in 5.., null 5..;
        protocol_name: Option<KString>, in 5.., null 5..;
        assignment: Bytes;
    }
}
