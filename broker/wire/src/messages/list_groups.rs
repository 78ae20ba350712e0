//! ListGroups: Lists the groups that a broker coordinates.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(ListGroups: ListGroupsRequest => ListGroupsResponse);

messages! {
    /// The request.
    struct ListGroupsRequest {
        states_filter: Vec<KString>, in 4..;
        types_filter: Vec<KString>, in 5..;
    }

    /// The response.
    struct ListGroupsResponse {
        throttle_time_ms: i32, in 1..;
        error_code: i16;
        groups: Vec<ListedGroup>;
    }

    struct ListedGroup {
        group_id: KString;
        protocol_type: KString;
        group_state: KString, in 4..;
        group_type: KString, in 5..;
    }
}
