//! CreatePartitions: grows topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_core::controller::{Assignment, Command, CreatePartitions};
use chronik_model::{ErrorCode, NodeId};
use chronik_wire::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};

use super::admin::propose_or_try;
use super::errors::Refusal;
use super::{Api, Call, Outcome, timeout_of};

pub(super) fn handle(api: &Arc<Api>, _: &Call, request: CreatePartitionsRequest) -> Outcome<CreatePartitionsResponse> {
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        let timeout = timeout_of(request.timeout_ms);
        let mut seen = BTreeSet::new();
        let mut results = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let outcome = if seen.insert(topic.name.clone()) {
                match command(&api, topic) {
                    Ok(command) => propose_or_try(&api, command, timeout, request.validate_only).await.map(|_| ()),
                    Err(refusal) => Err(refusal),
                }
            } else {
                Err(Refusal::new(ErrorCode::InvalidRequest, "the topic is named more than once in the request"))
            };
            let (code, message) = match outcome {
                Ok(()) => (ErrorCode::None, None),
                Err(refusal) => (refusal.code, Some(refusal.message.into())),
            };
            results.push(CreatePartitionsTopicResult {
                name: topic.name.clone(),
                error_code: code.code(),
                error_message: message,
            });
        }
        CreatePartitionsResponse { throttle_time_ms: 0, results }
    }))
}

fn command(api: &Api, topic: &CreatePartitionsTopic) -> Result<Command, Refusal> {
    let state = api.meta.state();
    let found = state.topic(&topic.name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let assignments = topic
        .assignments
        .iter()
        .flatten()
        .map(|one| Assignment { replicas: one.broker_ids.iter().copied().map(NodeId).collect() })
        .collect();
    Ok(Command::CreatePartitions(CreatePartitions { topic_id: found.id, total: topic.count, assignments }))
}
