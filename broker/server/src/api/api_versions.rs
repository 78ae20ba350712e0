//! ApiVersions: the table of handlers, as it is.
//!
//! No features are finalized: announcing `transaction.version` or `group.version` would make clients use protocols
//! that are not implemented.

use chronik_model::ErrorCode;
use chronik_wire::ApiTable;
use chronik_wire::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};

use super::service::Handler;
use super::{Api, Call, Outcome};

pub(super) fn handle(api: &Api, call: &Call, request: ApiVersionsRequest) -> Outcome<ApiVersionsResponse> {
    if call.version >= 3 {
        let (name, version) = (request.client_software_name, request.client_software_version);
        if !is_software(&name) || !is_software(&version) {
            let error_code = ErrorCode::InvalidRequest.code();
            return Outcome::Done(ApiVersionsResponse { error_code, ..ApiVersionsResponse::default() });
        }
        *call.connection.software.lock() = Some((name.to_string(), version.to_string()));
    }
    Outcome::Done(ApiVersionsResponse {
        error_code: ErrorCode::None.code(),
        api_keys: keys(&api.table),
        finalized_features_epoch: if call.version >= 3 { 0 } else { -1 },
        ..ApiVersionsResponse::default()
    })
}

/// The answer to a version that is not known, in the format of version 0.
pub(super) fn unsupported(table: &ApiTable<Handler>) -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: keys(table),
        ..ApiVersionsResponse::default()
    }
}

fn keys(table: &ApiTable<Handler>) -> Vec<ApiVersion> {
    table
        .entries()
        .map(|entry| ApiVersion {
            api_key: entry.key.as_i16(),
            min_version: entry.advertised_min_version(),
            max_version: entry.max_version(),
        })
        .collect()
}

/// Kafka's rule for client software names and versions (KIP-511).
fn is_software(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().next_back())
}
