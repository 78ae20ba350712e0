//! CreateTopics: proposes each topic; the state machine validates, places replicas and names the defaults it used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_core::controller::{Assignment, Command, CommandResult, CreateTopic, CreatedTopic};
use chronik_model::{ErrorCode, NodeId, TopicId, TopicName};
use chronik_wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};

use super::admin::propose_or_try;
use super::errors::Refusal;
use super::{Api, Call, Outcome, timeout_of};

/// "Dynamic topic configuration" as a config source of Kafka.
const TOPIC_CONFIG: i8 = 1;

pub(super) fn handle(api: &Arc<Api>, _: &Call, request: CreateTopicsRequest) -> Outcome<CreateTopicsResponse> {
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        let mut seen = BTreeSet::new();
        let twice: BTreeSet<_> =
            request.topics.iter().map(|t| t.name.clone()).filter(|name| !seen.insert(name.clone())).collect();
        let timeout = timeout_of(request.timeout_ms);
        let answers = request.topics.iter().map(|topic| {
            let (api, duplicate) = (Arc::clone(&api), twice.contains(&topic.name));
            async move {
                if duplicate {
                    let text = "the topic is named more than once in the request";
                    return result(topic, Err(Refusal::new(ErrorCode::InvalidRequest, text)));
                }
                let outcome = match command(topic) {
                    Ok(command) => propose_or_try(&api, command, timeout, request.validate_only).await,
                    Err(refusal) => Err(refusal),
                };
                result(topic, outcome)
            }
        });
        CreateTopicsResponse { throttle_time_ms: 0, topics: futures::future::join_all(answers).await }
    }))
}

/// A topic id that no topic has: random, and not one of the reserved small numbers.
pub(super) fn fresh_topic_id() -> TopicId {
    TopicId::from_u128(uuid::Uuid::new_v4().as_u128())
}

fn command(topic: &CreatableTopic) -> Result<Command, Refusal> {
    if !topic.assignments.is_empty() && (topic.num_partitions != -1 || topic.replication_factor != -1) {
        let text = "with a replica assignment, partitions and replication factor must be -1";
        return Err(Refusal::new(ErrorCode::InvalidRequest, text));
    }
    let mut by_index = BTreeMap::new();
    for assignment in &topic.assignments {
        let replicas = assignment.broker_ids.iter().copied().map(NodeId).collect();
        if by_index.insert(assignment.partition_index, Assignment { replicas }).is_some() {
            let text = format!("partition {} is assigned twice", assignment.partition_index);
            return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
        }
    }
    if by_index.keys().enumerate().any(|(position, index)| i32::try_from(position) != Ok(*index)) {
        let text = "partitions of a replica assignment must be consecutive and start at 0";
        return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
    }
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            let text = format!("null value of the configuration {}", config.name);
            return Err(Refusal::new(ErrorCode::InvalidConfig, text));
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    Ok(Command::CreateTopic(CreateTopic {
        name: TopicName::from(topic.name.as_str()),
        topic_id: fresh_topic_id(),
        partitions: topic.num_partitions,
        replication_factor: i32::from(topic.replication_factor),
        assignments: by_index.into_values().collect(),
        configs,
    }))
}

fn result(topic: &CreatableTopic, outcome: Result<CommandResult, Refusal>) -> CreatableTopicResult {
    let name = topic.name.clone();
    match outcome {
        Ok(CommandResult::Created(CreatedTopic { topic_id, partitions, replication_factor, configs })) => {
            CreatableTopicResult {
                name,
                topic_id,
                error_code: ErrorCode::None.code(),
                error_message: None,
                num_partitions: partitions,
                replication_factor: i16::try_from(replication_factor).unwrap_or(-1),
                configs: Some(
                    configs
                        .into_iter()
                        .map(|(name, value)| CreatableTopicConfigs {
                            name: name.into(),
                            value: Some(value.into()),
                            read_only: false,
                            config_source: TOPIC_CONFIG,
                            is_sensitive: false,
                        })
                        .collect(),
                ),
                topic_config_error_code: ErrorCode::None.code(),
            }
        }
        Ok(other) => {
            refused(name, &Refusal::new(ErrorCode::UnknownServerError, format!("unexpected result {other:?}")))
        }
        Err(refusal) => refused(name, &refusal),
    }
}

fn refused(name: chronik_wire::KString, refusal: &Refusal) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: refusal.code.code(),
        error_message: Some(refusal.message.as_str().into()),
        configs: Some(Vec::new()),
        ..CreatableTopicResult::default()
    }
}
