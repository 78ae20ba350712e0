//! OffsetDelete: forgets committed offsets of topics that the group does not consume.

use chronik_core::group::{
    GroupResponse, OffsetDeleteRequest as Delete, OffsetDeleteResponse as Deleted, TopicPartitions,
};
use chronik_model::{ErrorCode, PartitionIndex, TopicName};
use chronik_wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

use super::{Api, Call, Outcome};

pub(super) fn handle(api: &Api, _: &Call, request: OffsetDeleteRequest) -> Outcome<OffsetDeleteResponse> {
    let refused = |error: ErrorCode| OffsetDeleteResponse { error_code: error.code(), ..Default::default() };
    let delete = Delete {
        group_id: request.group_id.to_string(),
        topics: request
            .topics
            .iter()
            .map(|topic| TopicPartitions {
                name: TopicName::from(topic.name.as_str()),
                partitions: topic.partitions.iter().map(|one| PartitionIndex(one.partition_index)).collect(),
            })
            .collect(),
    };
    let group_id = delete.group_id.clone();
    match api.groups.ask(&group_id, |coordinator, now, token| coordinator.delete_offsets(now, token, delete)) {
        Err(error) => Outcome::Done(refused(error)),
        Ok(answer) => Outcome::Parked(Box::pin(async move {
            match answer.await {
                Ok(GroupResponse::OffsetDelete(deleted)) => to_wire(deleted),
                _ => refused(ErrorCode::NotCoordinator),
            }
        })),
    }
}

fn to_wire(deleted: Deleted) -> OffsetDeleteResponse {
    OffsetDeleteResponse {
        error_code: deleted.error.code(),
        throttle_time_ms: 0,
        topics: deleted
            .topics
            .into_iter()
            .map(|topic| OffsetDeleteResponseTopic {
                name: topic.name.as_str().into(),
                partitions: topic
                    .partitions
                    .into_iter()
                    .map(|one| OffsetDeleteResponsePartition {
                        partition_index: one.partition.0,
                        error_code: one.error.code(),
                    })
                    .collect(),
            })
            .collect(),
    }
}
