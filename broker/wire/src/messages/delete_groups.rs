//! DeleteGroups: Deletes groups.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DeleteGroups: DeleteGroupsRequest => DeleteGroupsResponse);

messages! {
    /// The request.
    struct DeleteGroupsRequest {
        groups_names: Vec<KString>;
    }

    /// The response.
    struct DeleteGroupsResponse {
        throttle_time_ms: i32;
        results: Vec<DeletableGroupResult>;
    }

    struct DeletableGroupResult {
        group_id: KString;
        error_code: i16;
    }
}
