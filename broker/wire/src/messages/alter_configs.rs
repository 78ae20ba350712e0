//! AlterConfigs: Replaces configurations (superseded by IncrementalAlterConfigs).

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(AlterConfigs: AlterConfigsRequest => AlterConfigsResponse);

messages! {
    /// The request.
    struct AlterConfigsRequest {
        resources: Vec<AlterConfigsResource>;
        validate_only: bool;
    }

    struct AlterConfigsResource {
        resource_type: i8;
        resource_name: KString;
        configs: Vec<AlterableConfig>;
    }

    struct AlterableConfig {
        name: KString;
        value: Option<KString>, null 0..;
    }

    /// The response.
    struct AlterConfigsResponse {
        throttle_time_ms: i32;
        responses: Vec<AlterConfigsResourceResponse>;
    }

    struct AlterConfigsResourceResponse {
        error_code: i16;
        error_message: Option<KString>, null 0..;
        resource_type: i8;
        resource_name: KString;
    }
}
