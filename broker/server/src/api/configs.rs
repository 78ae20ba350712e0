//! What the configuration APIs share: resources by Kafka's numbers.

use chronik_core::controller::ConfigResource;
use chronik_model::{ErrorCode, NodeId, TopicName};

use super::errors::Refusal;

/// Kafka's number of topics among config resources.
pub(super) const TOPIC: i8 = 2;
/// Kafka's number of brokers among config resources.
pub(super) const BROKER: i8 = 4;

/// The resource of a type and name; an empty broker name is the default of all brokers.
pub(super) fn resource(kind: i8, name: &str) -> Result<ConfigResource, Refusal> {
    match kind {
        TOPIC => match TopicName::problem(name) {
            None => Ok(ConfigResource::Topic(TopicName::from(name))),
            Some(problem) => Err(Refusal::new(ErrorCode::InvalidTopicException, problem)),
        },
        BROKER if name.is_empty() => Ok(ConfigResource::ClusterDefault),
        BROKER => name
            .parse()
            .map(|id| ConfigResource::Broker(NodeId(id)))
            .map_err(|_| Refusal::new(ErrorCode::InvalidRequest, format!("{name:?} is not a broker id"))),
        other => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!(
                "config resources of type {other} do not exist here; there are topics ({TOPIC}) and brokers ({BROKER})"
            ),
        )),
    }
}
