//! ListConfigResources: Lists resources that have configurations.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(ListConfigResources: ListConfigResourcesRequest => ListConfigResourcesResponse);

messages! {
    /// The request.
    struct ListConfigResourcesRequest {
        resource_types: Vec<i8>, in 1..;
    }

    /// The response.
    struct ListConfigResourcesResponse {
        throttle_time_ms: i32;
        error_code: i16;
        config_resources: Vec<ConfigResource>;
    }

    struct ConfigResource {
        resource_name: KString;
        resource_type: i8 = 16, in 1..;
    }
}
