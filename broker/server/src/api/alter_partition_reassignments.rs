//! AlterPartitionReassignments: partitions get other replicas, or a move under way is taken back (KIP-455).

use std::sync::Arc;

use chronik_core::controller::{AlterReassignments, Assignment, Command, CommandResult, Reassignment};
use chronik_model::{ErrorCode, NodeId, PartitionIndex};
use chronik_wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartitionResponse,
    ReassignableTopicResponse,
};

use super::admin::propose;
use super::errors::Refusal;
use super::{Api, Call, Outcome, timeout_of};

/// Partitions in one record of the metadata log. Each is judged on its own, so several records are as good as one.
const AT_ONCE: usize = 500;

pub(super) fn handle(
    api: &Arc<Api>,
    _: &Call,
    request: AlterPartitionReassignmentsRequest,
) -> Outcome<AlterPartitionReassignmentsResponse> {
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        let timeout = timeout_of(request.timeout_ms);
        let allowed = request.allow_replication_factor_change;
        // Where in the response each proposed partition is.
        let mut wanted: Vec<((usize, usize), Reassignment)> = Vec::new();
        let mut responses = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let topic_id = api.meta.state().topic(&topic.name).map(|found| found.id);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for one in topic.partitions {
                let (partition, place) = (PartitionIndex(one.partition_index), (responses.len(), partitions.len()));
                let error = if let Some(topic_id) = topic_id {
                    let replicas = one.replicas.map(|replicas| replicas.into_iter().map(NodeId).collect());
                    let target = replicas.map(|replicas| Assignment { replicas });
                    wanted.push((place, Reassignment { topic_id, partition, target, partition_epoch: None }));
                    None
                } else {
                    Some(Refusal::from(ErrorCode::UnknownTopicOrPartition))
                };
                partitions.push(response(partition, error));
            }
            responses.push(ReassignableTopicResponse { name: topic.name, partitions });
        }
        for group in wanted.chunks(AT_ONCE) {
            let reassignments = group.iter().map(|(_, one)| one.clone()).collect();
            let command = AlterReassignments { reassignments, keep_replication_factor: !allowed };
            let outcomes = reassign(&api, command, timeout).await;
            for (position, ((topic, partition), wanted)) in group.iter().enumerate() {
                let error = match &outcomes {
                    Ok(outcomes) => outcomes.get(position).cloned().flatten(),
                    Err(refusal) => Some(refusal.clone()),
                };
                if let Some(slot) = responses.get_mut(*topic).and_then(|topic| topic.partitions.get_mut(*partition)) {
                    *slot = response(wanted.partition, error);
                }
            }
        }
        AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: allowed,
            responses,
            ..AlterPartitionReassignmentsResponse::default()
        }
    }))
}

/// One refusal or none for each partition, in their order.
async fn reassign(
    api: &Arc<Api>,
    command: AlterReassignments,
    timeout: std::time::Duration,
) -> Result<Vec<Option<Refusal>>, Refusal> {
    let outcomes = match propose(api, Command::AlterReassignments(command), timeout).await? {
        CommandResult::Reassignments(outcomes) => outcomes,
        other => return Err(Refusal::new(ErrorCode::UnknownServerError, format!("unexpected result {other:?}"))),
    };
    let refusal = |code, message| match code {
        ErrorCode::None => None,
        // Named by its name, it is gone by now.
        ErrorCode::UnknownTopicId => Some(Refusal::from(ErrorCode::UnknownTopicOrPartition)),
        code => Some(Refusal::new(code, message)),
    };
    Ok(outcomes.into_iter().map(|one| refusal(one.code, one.message)).collect())
}

fn response(partition: PartitionIndex, error: Option<Refusal>) -> ReassignablePartitionResponse {
    ReassignablePartitionResponse {
        partition_index: partition.0,
        error_code: error.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
        error_message: error.map(|refusal| refusal.message.into()),
    }
}
