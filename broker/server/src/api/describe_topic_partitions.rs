//! DescribeTopicPartitions: topics page by page, with the eligible leader replicas (KIP-966).

use std::collections::BTreeSet;

use chronik_core::controller::{MetadataState, Topic};
use chronik_model::{ErrorCode, NodeId, TopicName};
use chronik_wire::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};

use super::metadata::{ids, offline};
use super::{Api, Call, Outcome};
use crate::net::ConnectionInfo;

pub(super) fn handle(
    api: &Api,
    call: &Call,
    request: DescribeTopicPartitionsRequest,
) -> Outcome<DescribeTopicPartitionsResponse> {
    let state = api.meta.state();
    let asked = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut left = asked.clamp(1, api.config.max_partitions_per_page);
    let (from, first_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), usize::try_from(cursor.partition_index).unwrap_or(0)),
        None => (String::new(), 0),
    };
    let names: BTreeSet<String> = if request.topics.is_empty() {
        state.topics_from(&from).map(|topic| topic.name.as_str().to_owned()).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.to_string()).filter(|name| *name >= from).collect()
    };
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        let skip = if name == from { first_partition } else { 0 };
        if left == 0 {
            let partition_index = i32::try_from(skip).unwrap_or(0);
            response.next_cursor = Some(Cursor { topic_name: name.into(), partition_index });
            break;
        }
        let Some(topic) = state.topic(&name) else {
            response.topics.push(unknown(&name));
            continue;
        };
        let described = describe(&state, &call.connection, topic, skip, left);
        let next = skip + described.partitions.len();
        left -= described.partitions.len();
        response.topics.push(described);
        if next < topic.partitions.len() {
            let partition_index = i32::try_from(next).unwrap_or(0);
            response.next_cursor = Some(Cursor { topic_name: name.into(), partition_index });
            break;
        }
    }
    Outcome::Done(response)
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match TopicName::problem(name) {
        Some(_) => ErrorCode::InvalidTopicException,
        None => ErrorCode::UnknownTopicOrPartition,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(name.into()),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

fn describe(
    state: &MetadataState,
    connection: &ConnectionInfo,
    topic: &Topic,
    skip: usize,
    limit: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = topic
        .iter()
        .skip(skip)
        .take(limit)
        .map(|(index, partition)| DescribeTopicPartitionsResponsePartition {
            error_code: match partition.leader {
                Some(_) => ErrorCode::None.code(),
                None => ErrorCode::LeaderNotAvailable.code(),
            },
            partition_index: index.0,
            leader_id: partition.leader.unwrap_or(NodeId::NONE).0,
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: ids(&partition.replicas),
            isr_nodes: ids(&partition.isr),
            eligible_leader_replicas: Some(ids(&partition.elr)),
            last_known_elr: Some(ids(&partition.last_known_elr)),
            offline_replicas: offline(state, connection, partition),
        })
        .collect();
    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::None.code(),
        name: Some(topic.name.as_str().into()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions,
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}
