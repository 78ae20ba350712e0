//! ApiVersions: Negotiates versions and features. Its response always has header version 0.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(ApiVersions: ApiVersionsRequest => ApiVersionsResponse);

messages! {
    /// The request.
    struct ApiVersionsRequest {
        client_software_name: KString, in 3..;
        client_software_version: KString, in 3..;
    }

    /// The response.
    struct ApiVersionsResponse {
        error_code: i16;
        api_keys: Vec<ApiVersion>;
        throttle_time_ms: i32, in 1..;
        supported_features: Vec<SupportedFeatureKey>, in 3.., tag 0;
        finalized_features_epoch: i64 = -1, in 3.., tag 1;
        finalized_features: Vec<FinalizedFeatureKey>, in 3.., tag 2;
        zk_migration_ready: bool, in 3.., tag 3;
    }

    struct ApiVersion {
        api_key: i16;
        min_version: i16;
        max_version: i16;
    }

    struct SupportedFeatureKey {
        name: KString, in 3..;
        min_version: i16, in 3..;
        max_version: i16, in 3..;
    }

    struct FinalizedFeatureKey {
        name: KString, in 3..;
        max_version_level: i16, in 3..;
        min_version_level: i16, in 3..;
    }
}
