//! Heartbeat: Keeps a member of a classic group alive.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(Heartbeat: HeartbeatRequest => HeartbeatResponse);

messages! {
    /// The request.
    struct HeartbeatRequest {
        group_id: KString;
        generation_id: i32;
        member_id: KString;
        group_instance_id: Option<KString>, in 3.., null 3..;
    }

    /// The response.
    struct HeartbeatResponse {
        throttle_time_ms: i32, in 1..;
        error_code: i16;
    }
}
