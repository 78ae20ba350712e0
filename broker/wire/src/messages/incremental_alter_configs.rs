//! IncrementalAlterConfigs: Changes single configurations.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(IncrementalAlterConfigs: IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse);

messages! {
    /// The request.
    struct IncrementalAlterConfigsRequest {
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
        config_operation: i8;
        value: Option<KString>, null 0..;
    }

    /// The response.
    struct IncrementalAlterConfigsResponse {
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
