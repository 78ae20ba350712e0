//! DescribeConfigs: settings of topics and brokers with their layers.

use chronik_core::controller::{ConfigResource, ConfigView};
use chronik_model::ErrorCode;
use chronik_wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};

use super::errors::Refusal;
use super::{Api, Call, Outcome, configs};

pub(super) fn handle(api: &Api, _: &Call, request: DescribeConfigsRequest) -> Outcome<DescribeConfigsResponse> {
    let results = request
        .resources
        .iter()
        .map(|wanted| {
            let described = describe(api, wanted, request.include_synonyms, request.include_documentation);
            let (error_code, error_message, configs) = match described {
                Ok(configs) => (ErrorCode::None.code(), None, configs),
                Err(refusal) => (refusal.code.code(), Some(refusal.message.into()), Vec::new()),
            };
            DescribeConfigsResult {
                error_code,
                error_message,
                resource_type: wanted.resource_type,
                resource_name: wanted.resource_name.clone(),
                configs,
            }
        })
        .collect();
    Outcome::Done(DescribeConfigsResponse { throttle_time_ms: 0, results })
}

fn describe(
    api: &Api,
    wanted: &DescribeConfigsResource,
    synonyms: bool,
    documentation: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let state = api.meta.state();
    let views = match configs::resource(wanted.resource_type, &wanted.resource_name)? {
        ConfigResource::Topic(name) => {
            let topic = state.topic(name.as_str()).ok_or(ErrorCode::UnknownTopicOrPartition)?;
            state.describe_topic_configs(topic, Some(api.meta.node()))
        }
        ConfigResource::Broker(node) => {
            if state.broker(node).is_none() {
                let text = format!("broker {node} is not registered");
                return Err(Refusal::new(ErrorCode::InvalidRequest, text));
            }
            state.describe_broker_configs(Some(node))
        }
        ConfigResource::ClusterDefault => state.describe_broker_configs(None),
    };
    let keys = wanted.configuration_keys.as_ref().filter(|keys| !keys.is_empty());
    let chosen =
        views.into_iter().filter(|view| keys.is_none_or(|keys| keys.iter().any(|k| *k == view.effective.name)));
    Ok(chosen.map(|view| result(view, synonyms, documentation)).collect())
}

fn result(view: ConfigView, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: view.effective.name.into(),
        value: view.effective.value.map(Into::into),
        read_only: false,
        config_source: view.effective.source as i8,
        is_sensitive: false,
        synonyms: if synonyms {
            view.synonyms
                .into_iter()
                .map(|layer| DescribeConfigsSynonym {
                    name: layer.name.into(),
                    value: layer.value.map(Into::into),
                    source: layer.source as i8,
                })
                .collect()
        } else {
            Vec::new()
        },
        config_type: view.def.kind.kafka_type(),
        documentation: documentation.then(|| view.def.doc.into()),
    }
}
