//! IncrementalAlterConfigs: sets, deletes, appends to and subtracts from single settings (KIP-339).

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_core::controller::{AlterConfigs, Command, ConfigChange, ConfigOp};
use chronik_model::ErrorCode;
use chronik_wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::admin::propose_or_try;
use super::errors::Refusal;
use super::{Api, Call, Outcome, configs, owned, timeout_of};

pub(super) fn handle(
    api: &Arc<Api>,
    _: &Call,
    request: IncrementalAlterConfigsRequest,
) -> Outcome<IncrementalAlterConfigsResponse> {
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        let mut seen = BTreeSet::new();
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in &request.resources {
            let first = seen.insert((resource.resource_type, resource.resource_name.clone()));
            let outcome = match command(resource, first) {
                Ok(command) => {
                    propose_or_try(&api, command, timeout_of(30_000), request.validate_only).await.map(|_| ())
                }
                Err(refusal) => Err(refusal),
            };
            let refusal = outcome.err();
            responses.push(AlterConfigsResourceResponse {
                error_code: refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
                error_message: refusal.map(|refusal| refusal.message.into()),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
        }
        IncrementalAlterConfigsResponse { throttle_time_ms: 0, responses }
    }))
}

fn command(resource: &AlterConfigsResource, first: bool) -> Result<Command, Refusal> {
    if !first {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "the resource is named more than once in the request"));
    }
    let changes = resource
        .configs
        .iter()
        .map(|config| {
            let op = ConfigOp::from_code(config.config_operation).ok_or_else(|| {
                let text = format!("unknown operation {} on {}", config.config_operation, config.name);
                Refusal::new(ErrorCode::InvalidRequest, text)
            })?;
            Ok(ConfigChange { name: config.name.to_string(), op, value: owned(config.value.as_ref()) })
        })
        .collect::<Result<_, Refusal>>()?;
    let resource = configs::resource(resource.resource_type, &resource.resource_name)?;
    Ok(Command::AlterConfigs(AlterConfigs { resource, changes, replace: false }))
}
