//! ElectLeaders: the preferred replica leads again, or, on a person's word, one that may lack records.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_core::controller::{Command, CommandResult, ElectLeaders, ElectionOutcome, ElectionType, PartitionRef};
use chronik_model::{ErrorCode, PartitionIndex, TopicName};
use chronik_wire::messages::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};

use super::admin::propose;
use super::errors::Refusal;
use super::{Api, Call, Outcome, timeout_of};

/// Partitions named in one record of the metadata log.
const AT_ONCE: usize = 1000;

pub(super) fn handle(api: &Arc<Api>, _: &Call, request: ElectLeadersRequest) -> Outcome<ElectLeadersResponse> {
    let election = match request.election_type {
        0 => ElectionType::Preferred,
        1 => ElectionType::Unclean,
        _ => {
            let error_code = ErrorCode::InvalidRequest.code();
            return Outcome::Done(ElectLeadersResponse { error_code, ..ElectLeadersResponse::default() });
        }
    };
    let api = Arc::clone(api);
    let timeout = timeout_of(request.timeout_ms);
    Outcome::Ordered(Box::pin(async move {
        let named = request.topic_partitions.map(|topics| {
            let each = |topic: chronik_wire::messages::elect_leaders::TopicPartitions| {
                let name = TopicName::from(topic.topic.as_str());
                let partition = move |index| PartitionRef { topic: name.clone(), partition: PartitionIndex(index) };
                topic.partitions.into_iter().map(partition)
            };
            topics.into_iter().flat_map(each).collect::<Vec<_>>()
        });
        // In a command no partition means all of them; in a request it means none.
        let groups: Vec<Vec<PartitionRef>> = match named {
            None => vec![Vec::new()],
            Some(named) => named.chunks(AT_ONCE).map(<[_]>::to_vec).collect(),
        };
        let mut outcomes = Vec::new();
        for partitions in groups {
            let command = ElectLeaders { election, partitions: partitions.clone() };
            match elect(&api, command, timeout).await {
                Ok(elected) => outcomes.extend(elected),
                Err(refusal) if partitions.is_empty() => {
                    let error_code = refusal.code.code();
                    return ElectLeadersResponse { error_code, ..ElectLeadersResponse::default() };
                }
                Err(refusal) => outcomes.extend(partitions.into_iter().map(|one| ElectionOutcome {
                    topic: one.topic,
                    partition: one.partition,
                    code: refusal.code,
                    message: refusal.message.clone(),
                })),
            }
        }
        ElectLeadersResponse { replica_election_results: by_topic(outcomes), ..ElectLeadersResponse::default() }
    }))
}

async fn elect(
    api: &Arc<Api>,
    command: ElectLeaders,
    timeout: std::time::Duration,
) -> Result<Vec<ElectionOutcome>, Refusal> {
    match propose(api, Command::ElectLeaders(command), timeout).await? {
        CommandResult::Elections(outcomes) => Ok(outcomes),
        other => Err(Refusal::new(ErrorCode::UnknownServerError, format!("unexpected result {other:?}"))),
    }
}

fn by_topic(outcomes: Vec<ElectionOutcome>) -> Vec<ReplicaElectionResult> {
    let mut topics: BTreeMap<TopicName, Vec<PartitionResult>> = BTreeMap::new();
    for one in outcomes {
        let message = (!one.code.is_none()).then(|| match one.message {
            message if message.is_empty() => one.code.text().into(),
            message => message.into(),
        });
        topics.entry(one.topic).or_default().push(PartitionResult {
            partition_id: one.partition.0,
            error_code: one.code.code(),
            error_message: message,
        });
    }
    let result = |(topic, partition_result): (TopicName, _)| ReplicaElectionResult {
        topic: topic.as_str().into(),
        partition_result,
    };
    topics.into_iter().map(result).collect()
}
