//! ListConfigResources: topics and brokers (KIP-1142); version 0 lists client metrics resources, of which there are none.

use chronik_model::ErrorCode;
use chronik_wire::messages::list_config_resources::{
    ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};

use super::configs::{BROKER, TOPIC};
use super::{Api, Call, Outcome};

/// Kafka's types that exist but have no resources here: client metrics and groups.
const EMPTY_TYPES: [i8; 2] = [16, 32];

pub(super) fn handle(
    api: &Api,
    call: &Call,
    request: ListConfigResourcesRequest,
) -> Outcome<ListConfigResourcesResponse> {
    let mut response = ListConfigResourcesResponse::default();
    if call.version == 0 {
        return Outcome::Done(response);
    }
    let known = |kind: &i8| [TOPIC, BROKER].contains(kind) || EMPTY_TYPES.contains(kind);
    if !request.resource_types.iter().all(known) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return Outcome::Done(response);
    }
    let asked = |kind: i8| request.resource_types.is_empty() || request.resource_types.contains(&kind);
    let state = api.meta.state();
    if asked(TOPIC) {
        response.config_resources.extend(
            state.topics().map(|t| ConfigResource { resource_name: t.name.as_str().into(), resource_type: TOPIC }),
        );
    }
    if asked(BROKER) {
        response.config_resources.extend(
            state.brokers().map(|b| ConfigResource { resource_name: b.node.to_string().into(), resource_type: BROKER }),
        );
    }
    Outcome::Done(response)
}
