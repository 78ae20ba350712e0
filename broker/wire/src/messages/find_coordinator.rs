//! FindCoordinator: Locates the coordinator of a group or transaction.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(FindCoordinator: FindCoordinatorRequest => FindCoordinatorResponse);

messages! {
    /// The request.
    struct FindCoordinatorRequest {
        key: KString, in 0..=3;
        key_type: i8, in 1..;
        coordinator_keys: Vec<KString>, in 4..;
    }

    /// The response.
    struct FindCoordinatorResponse {
        throttle_time_ms: i32, in 1..;
        error_code: i16, in 0..=3;
        error_message: Option<KString>, in 1..=3, null 1..=3;
        node_id: i32, in 0..=3;
        host: KString, in 0..=3;
        port: i32, in 0..=3;
        coordinators: Vec<Coordinator>, in 4..;
    }

    struct Coordinator {
        key: KString, in 4..;
        node_id: i32, in 4..;
        host: KString, in 4..;
        port: i32, in 4..;
        error_code: i16, in 4..;
        error_message: Option<KString>, in 4.., null 4..;
    }
}
