//! OffsetFetch: reads committed positions, of one group before v8, of several from then on, by topic id in v10.

use chronik_core::group::{OffsetFetchRequest as Fetch, OffsetFetchResponse as Fetched, TopicPartitions};
use chronik_model::{ErrorCode, PartitionIndex, TopicName, Uuid};
use chronik_wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};

use super::{Api, Call, Outcome};

pub(super) fn handle(api: &Api, call: &Call, request: OffsetFetchRequest) -> Outcome<OffsetFetchResponse> {
    if call.version >= 8 {
        let groups = request.groups.iter().map(|group| of_group(api, call.version, group)).collect();
        return Outcome::Done(OffsetFetchResponse { groups, ..OffsetFetchResponse::default() });
    }
    Outcome::Done(single(api, call.version, &request))
}

fn ask(api: &Api, group_id: &str, topics: Option<Vec<TopicPartitions>>) -> Fetched {
    let fetch = Fetch { group_id: group_id.to_owned(), topics };
    api.groups
        .query(group_id, |coordinator, _| coordinator.fetch_offsets(&fetch))
        .unwrap_or_else(|error| Fetched { error, topics: Vec::new() })
}

fn single(api: &Api, version: i16, request: &OffsetFetchRequest) -> OffsetFetchResponse {
    let topics = request.topics.as_ref().map(|topics| {
        topics
            .iter()
            .map(|topic| TopicPartitions {
                name: TopicName::from(topic.name.as_str()),
                partitions: topic.partition_indexes.iter().copied().map(PartitionIndex).collect(),
            })
            .collect::<Vec<_>>()
    });
    let fetched = ask(api, &request.group_id, topics);
    let mut response = OffsetFetchResponse { error_code: fetched.error.code(), ..OffsetFetchResponse::default() };
    if version < 2 && !fetched.error.is_none() {
        // No place for an error of the group: every partition says it.
        response.topics = request
            .topics
            .iter()
            .flatten()
            .map(|topic| OffsetFetchResponseTopic {
                name: topic.name.clone(),
                partitions: topic
                    .partition_indexes
                    .iter()
                    .map(|partition_index| OffsetFetchResponsePartition {
                        partition_index: *partition_index,
                        committed_offset: -1,
                        metadata: Some("".into()),
                        error_code: fetched.error.code(),
                        ..OffsetFetchResponsePartition::default()
                    })
                    .collect(),
            })
            .collect();
        return response;
    }
    response.topics = fetched
        .topics
        .into_iter()
        .map(|topic| OffsetFetchResponseTopic {
            name: topic.name.as_str().into(),
            partitions: topic
                .partitions
                .into_iter()
                .map(|one| OffsetFetchResponsePartition {
                    partition_index: one.partition.0,
                    committed_offset: one.offset.0,
                    committed_leader_epoch: one.leader_epoch.0,
                    metadata: Some(one.metadata.into()),
                    error_code: ErrorCode::None.code(),
                })
                .collect(),
        })
        .collect();
    response
}

fn of_group(api: &Api, version: i16, group: &OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let by_id = version >= 10;
    let mut unknown = Vec::new();
    let topics = group.topics.as_ref().map(|topics| {
        let state = api.meta.state();
        topics
            .iter()
            .filter_map(|topic| {
                let name = if by_id {
                    match state.topic_by_id(topic.topic_id) {
                        Some(found) => found.name.clone(),
                        None => {
                            unknown.push(refused(topic.topic_id, &topic.partition_indexes));
                            return None;
                        }
                    }
                } else {
                    TopicName::from(topic.name.as_str())
                };
                let partitions = topic.partition_indexes.iter().copied().map(PartitionIndex).collect();
                Some(TopicPartitions { name, partitions })
            })
            .collect::<Vec<_>>()
    });
    let fetched = ask(api, &group.group_id, topics);
    let state = api.meta.state();
    let mut topics: Vec<_> = fetched
        .topics
        .into_iter()
        .filter_map(|topic| {
            let topic_id = state.topic(topic.name.as_str()).map_or(Uuid::ZERO, |found| found.id);
            // An offset of a deleted topic has no id to be named by.
            if by_id && topic_id.is_zero() {
                return None;
            }
            let partitions = topic
                .partitions
                .into_iter()
                .map(|one| OffsetFetchResponsePartitions {
                    partition_index: one.partition.0,
                    committed_offset: one.offset.0,
                    committed_leader_epoch: one.leader_epoch.0,
                    metadata: Some(one.metadata.into()),
                    error_code: ErrorCode::None.code(),
                })
                .collect();
            Some(OffsetFetchResponseTopics { name: topic.name.as_str().into(), topic_id, partitions })
        })
        .collect();
    if fetched.error.is_none() {
        topics.append(&mut unknown);
    }
    OffsetFetchResponseGroup { group_id: group.group_id.clone(), topics, error_code: fetched.error.code() }
}

fn refused(topic_id: Uuid, partitions: &[i32]) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics {
        topic_id,
        partitions: partitions
            .iter()
            .map(|partition_index| OffsetFetchResponsePartitions {
                partition_index: *partition_index,
                committed_offset: -1,
                metadata: Some("".into()),
                error_code: ErrorCode::UnknownTopicId.code(),
                ..OffsetFetchResponsePartitions::default()
            })
            .collect(),
        ..OffsetFetchResponseTopics::default()
    }
}
