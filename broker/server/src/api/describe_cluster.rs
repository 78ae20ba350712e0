//! DescribeCluster: brokers and the cluster id.

use chronik_model::ErrorCode;
use chronik_wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

use super::{Api, Call, Outcome};

/// Endpoint type of brokers.
const BROKERS: i8 = 1;
/// Endpoint type of controllers, which have no Kafka listener here.
const CONTROLLERS: i8 = 2;

pub(super) fn handle(api: &Api, call: &Call, request: DescribeClusterRequest) -> Outcome<DescribeClusterResponse> {
    let mut response = DescribeClusterResponse { endpoint_type: request.endpoint_type, ..Default::default() };
    if call.version >= 1 && request.endpoint_type != BROKERS {
        let error = match request.endpoint_type {
            0 => ErrorCode::InvalidRequest,
            CONTROLLERS => ErrorCode::MismatchedEndpointType,
            _ => ErrorCode::UnsupportedEndpointType,
        };
        response.error_code = error.code();
        response.error_message = Some("only brokers can be described here, not controllers".into());
        return Outcome::Done(response);
    }
    let state = api.meta.state();
    response.cluster_id = state.cluster_id().map_or("", |id| id.as_str()).into();
    response.controller_id = super::metadata::controller_of(&state, api.meta.node());
    response.brokers = state
        .brokers()
        .filter(|broker| !broker.fenced || request.include_fenced_brokers)
        .filter_map(|broker| {
            let endpoint = super::endpoints::of(broker, &call.connection)?;
            Some(DescribeClusterBroker {
                broker_id: broker.node.0,
                host: endpoint.host.as_str().into(),
                port: i32::from(endpoint.port),
                rack: broker.rack.as_deref().map(Into::into),
                is_fenced: broker.fenced,
            })
        })
        .collect();
    Outcome::Done(response)
}
