//! OffsetCommit: stores consumed positions; answered when they are replicated.
//!
//! Topics that do not exist are refused here and never reach the coordinator; v10 names topics by id.

use std::collections::BTreeMap;

use chronik_core::group::{
    GroupResponse, OffsetCommitPartition, OffsetCommitRequest as Commit, OffsetCommitTopic, TopicErrors,
};
use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName, Uuid};
use chronik_wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};

use super::{Api, Call, Outcome, owned};

/// One topic of the request with what is known of its fate before the coordinator speaks.
struct Topic {
    name: TopicName,
    id: Uuid,
    partitions: Vec<(i32, Option<ErrorCode>)>,
}

pub(super) fn handle(api: &Api, call: &Call, request: OffsetCommitRequest) -> Outcome<OffsetCommitResponse> {
    let (topics, commits) = resolve(api, call.version, &request.topics);
    if request.group_instance_id.is_some() && call.version < 7 {
        return Outcome::Done(answer(topics, &Err(ErrorCode::UnsupportedVersion)));
    }
    if commits.is_empty() && !topics.is_empty() {
        return Outcome::Done(answer(topics, &Ok(BTreeMap::new())));
    }
    let commit = Commit {
        group_id: request.group_id.to_string(),
        generation_id: request.generation_id_or_member_epoch,
        member_id: request.member_id.to_string(),
        group_instance_id: owned(request.group_instance_id.as_ref()),
        retention_time_ms: (request.retention_time_ms != -1).then_some(request.retention_time_ms),
        topics: commits,
    };
    let group_id = commit.group_id.clone();
    match api.groups.ask(&group_id, |coordinator, now, token| coordinator.commit_offsets(now, token, commit)) {
        Err(error) => Outcome::Done(answer(topics, &Err(error))),
        Ok(committed) => Outcome::Parked(Box::pin(async move {
            match committed.await {
                Ok(GroupResponse::OffsetCommit(errors)) => answer(topics, &Ok(by_partition(errors))),
                _ => answer(topics, &Err(ErrorCode::NotCoordinator)),
            }
        })),
    }
}

type Errors = BTreeMap<(TopicName, i32), ErrorCode>;

fn by_partition(topics: Vec<TopicErrors>) -> Errors {
    topics
        .into_iter()
        .flat_map(|topic| {
            let name = topic.name;
            topic.partitions.into_iter().map(move |one| ((name.clone(), one.partition.0), one.error))
        })
        .collect()
}

fn resolve(api: &Api, version: i16, topics: &[OffsetCommitRequestTopic]) -> (Vec<Topic>, Vec<OffsetCommitTopic>) {
    let state = api.meta.state();
    let mut known = Vec::with_capacity(topics.len());
    let mut commits = Vec::with_capacity(topics.len());
    for topic in topics {
        let found = if version >= 10 {
            state.topic_by_id(topic.topic_id).ok_or(ErrorCode::UnknownTopicId)
        } else {
            state.topic(topic.name.as_str()).ok_or(ErrorCode::UnknownTopicOrPartition)
        };
        let name = found.map_or_else(|_| TopicName::from(topic.name.as_str()), |found| found.name.clone());
        let count = found.map_or(0, |found| i32::try_from(found.partitions.len()).unwrap_or(i32::MAX));
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        let mut commit = Vec::with_capacity(topic.partitions.len());
        for one in &topic.partitions {
            let error = match found {
                Err(error) => Some(error),
                Ok(_) if !(0..count).contains(&one.partition_index) => Some(ErrorCode::UnknownTopicOrPartition),
                Ok(_) => None,
            };
            partitions.push((one.partition_index, error));
            if error.is_none() {
                commit.push(OffsetCommitPartition {
                    partition: PartitionIndex(one.partition_index),
                    offset: Offset(one.committed_offset),
                    leader_epoch: LeaderEpoch(one.committed_leader_epoch),
                    metadata: owned(one.committed_metadata.as_ref()),
                });
            }
        }
        if !commit.is_empty() {
            commits.push(OffsetCommitTopic { name: name.clone(), partitions: commit });
        }
        known.push(Topic { name, id: topic.topic_id, partitions });
    }
    (known, commits)
}

fn answer(topics: Vec<Topic>, committed: &Result<Errors, ErrorCode>) -> OffsetCommitResponse {
    let topics = topics
        .into_iter()
        .map(|topic| OffsetCommitResponseTopic {
            name: topic.name.as_str().into(),
            topic_id: topic.id,
            partitions: topic
                .partitions
                .into_iter()
                .map(|(partition_index, error)| {
                    let error = error.unwrap_or_else(|| match committed {
                        Err(error) => *error,
                        Ok(errors) => errors
                            .get(&(topic.name.clone(), partition_index))
                            .copied()
                            .unwrap_or(ErrorCode::UnknownServerError),
                    });
                    OffsetCommitResponsePartition { partition_index, error_code: error.code() }
                })
                .collect(),
        })
        .collect();
    OffsetCommitResponse { throttle_time_ms: 0, topics }
}
