//! ListPartitionReassignments: which partitions move, from where to where. What is not moving is left out, as Kafka does.

use chronik_core::controller::Topic;
use chronik_model::PartitionIndex;
use chronik_wire::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, OngoingPartitionReassignment,
    OngoingTopicReassignment,
};

use super::metadata::ids;
use super::{Api, Call, Outcome};

pub(super) fn handle(
    api: &Api,
    _: &Call,
    request: ListPartitionReassignmentsRequest,
) -> Outcome<ListPartitionReassignmentsResponse> {
    let state = api.meta.state();
    let topics = match &request.topics {
        None => state.topics().filter_map(|topic| ongoing(topic, |_| true)).collect(),
        Some(named) => named
            .iter()
            .filter_map(|wanted| ongoing(state.topic(&wanted.name)?, |at| wanted.partition_indexes.contains(&at.0)))
            .collect(),
    };
    Outcome::Done(ListPartitionReassignmentsResponse { topics, ..ListPartitionReassignmentsResponse::default() })
}

fn ongoing(topic: &Topic, wanted: impl Fn(PartitionIndex) -> bool) -> Option<OngoingTopicReassignment> {
    let partitions: Vec<_> = topic
        .iter()
        .filter(|(index, partition)| partition.is_reassigning() && wanted(*index))
        .map(|(index, partition)| OngoingPartitionReassignment {
            partition_index: index.0,
            replicas: ids(&partition.replicas),
            adding_replicas: ids(&partition.adding),
            removing_replicas: ids(&partition.removing),
        })
        .collect();
    (!partitions.is_empty()).then(|| OngoingTopicReassignment { name: topic.name.as_str().into(), partitions })
}
