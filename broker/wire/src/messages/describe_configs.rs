//! DescribeConfigs: Reads configurations.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(DescribeConfigs: DescribeConfigsRequest => DescribeConfigsResponse);

messages! {
    /// The request.
    struct DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource>;
        include_synonyms: bool;
        include_documentation: bool, in 3..;
    }

    struct DescribeConfigsResource {
        resource_type: i8;
        resource_name: KString;
        configuration_keys: Option<Vec<KString>>, null 1..;
    }

    /// The response.
    struct DescribeConfigsResponse {
        throttle_time_ms: i32;
        results: Vec<DescribeConfigsResult>;
    }

    struct DescribeConfigsResult {
        error_code: i16;
        error_message: Option<KString>, null 1..;
        resource_type: i8;
        resource_name: KString;
        configs: Vec<DescribeConfigsResourceResult>;
    }

    struct DescribeConfigsResourceResult {
        name: KString;
        value: Option<KString>, null 1..;
        read_only: bool;
        config_source: i8 = -1;
        is_sensitive: bool;
        synonyms: Vec<DescribeConfigsSynonym>;
        config_type: i8, in 3..;
        documentation: Option<KString>, in 3.., null 3..;
    }

    struct DescribeConfigsSynonym {
        name: KString;
        value: Option<KString>, null 1..;
        source: i8;
    }
}
