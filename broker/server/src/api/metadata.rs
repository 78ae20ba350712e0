//! Metadata: brokers, topics, leaders; creates missing topics when the client and the configuration allow it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chronik_core::PartitionState;
use chronik_core::controller::{Broker, Command, CreateTopic, MetadataState, Topic};
use chronik_model::{ErrorCode, NodeId, PartitionIndex, TopicName, Uuid};
use chronik_wire::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use futures::StreamExt;

use super::{Api, Call, Outcome, admin, endpoints};
use crate::net::ConnectionInfo;

/// How long an answer waits for the failover of a leader that is probably dead. Clients ask the moment their connection
/// breaks; told the dead leader once more, they come back only after a backoff of hundreds of milliseconds.
const FAILOVER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a Metadata request waits for a topic that it makes.
const AUTO_CREATE_TIMEOUT: Duration = Duration::from_secs(5);
/// Topics that one request may make; about the others it is told to ask again. A request has room for many thousands of
/// names, and each is a record of the metadata log for ever.
const MAX_AUTO_CREATED: usize = 100;
/// Of these, how many are proposed at the same time.
const CREATED_AT_ONCE: usize = 16;

/// Version 6 has an error for leaders that lack the listener.
const LISTENER_NOT_FOUND_FROM: i16 = 6;

/// Who asks: in which version, and by which listener.
struct Asker {
    version: i16,
    connection: Arc<ConnectionInfo>,
}

pub(super) fn handle(api: &Arc<Api>, call: &Call, request: MetadataRequest) -> Outcome<MetadataResponse> {
    let version = call.version;
    let asker = Asker { version, connection: Arc::clone(&call.connection) };
    // Version 0 has no null: an empty list means all topics.
    let wanted = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let missing = match &wanted {
        Some(topics) if request.allow_auto_topic_creation && api.config.auto_create_topics => missing(api, topics),
        _ => Vec::new(),
    };
    if missing.is_empty() {
        let doubt = doubtful_leaders(api, wanted.as_deref());
        if doubt.is_empty() {
            return Outcome::Done(answer(api, &asker, wanted.as_deref(), &BTreeMap::new()));
        }
        let api = Arc::clone(api);
        return Outcome::Parked(Box::pin(async move {
            api.meta.decided(doubt, FAILOVER_TIMEOUT).await;
            answer(&api, &asker, wanted.as_deref(), &BTreeMap::new())
        }));
    }
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        let mut missing = missing;
        let later = missing.split_off(missing.len().min(MAX_AUTO_CREATED));
        let created = futures::stream::iter(missing).map(|name| {
            let api = Arc::clone(&api);
            async move { create(&api, name.clone()).await.err().map(|error| (name, error)) }
        });
        let failed = created.buffer_unordered(CREATED_AT_ONCE).filter_map(std::future::ready).collect::<Vec<_>>().await;
        let postponed = later.into_iter().map(|name| (name, ErrorCode::LeaderNotAvailable));
        answer(&api, &asker, wanted.as_deref(), &failed.into_iter().chain(postponed).collect())
    }))
}

/// Leaders of what is asked that probably died a moment ago.
fn doubtful_leaders(api: &Api, wanted: Option<&[MetadataRequestTopic]>) -> Vec<NodeId> {
    let mut doubt = api.meta.in_doubt();
    if let (false, Some(wanted)) = (doubt.is_empty(), wanted) {
        let state = api.meta.state();
        let topics = wanted.iter().filter_map(|topic| match &topic.name {
            Some(name) => state.topic(name),
            None => state.topic_by_id(topic.topic_id),
        });
        let leaders: Vec<NodeId> =
            topics.flat_map(|topic| topic.iter().filter_map(|(_, partition)| partition.leader)).collect();
        doubt.retain(|node| leaders.contains(node));
    }
    doubt
}

fn missing(api: &Api, topics: &[MetadataRequestTopic]) -> Vec<TopicName> {
    let state = api.meta.state();
    let names = topics.iter().filter_map(|topic| topic.name.as_ref());
    names
        .filter(|name| state.topic(name).is_none() && TopicName::problem(name).is_none())
        .map(|name| TopicName::from(name.as_str()))
        .collect()
}

async fn create(api: &Arc<Api>, name: TopicName) -> Result<(), ErrorCode> {
    if name.as_str() == super::groups::OFFSETS_TOPIC {
        return super::groups::ensure_offsets_topic(api).await.map_err(|refusal| refusal.code);
    }
    let command = CreateTopic {
        name: name.clone(),
        topic_id: super::create_topics::fresh_topic_id(),
        partitions: -1,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: BTreeMap::new(),
    };
    match admin::propose(api, Command::CreateTopic(command), AUTO_CREATE_TIMEOUT).await {
        Ok(_) => Ok(()),
        // Somebody else was faster.
        Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => Ok(()),
        Err(refusal) => {
            tracing::info!(topic = %name, error = %refusal.message, "automatic topic creation failed");
            Err(match refusal.code {
                // Kafka says so while brokers are missing or the quorum is slow: clients retry.
                ErrorCode::InvalidReplicationFactor | ErrorCode::RequestTimedOut | ErrorCode::NotController => {
                    ErrorCode::LeaderNotAvailable
                }
                code => code,
            })
        }
    }
}

/// The "controller" that clients send administrative requests to: any live broker forwards them, this one is nearest.
pub(super) fn controller_of(state: &MetadataState, me: NodeId) -> i32 {
    let alive = |node: NodeId| state.broker(node).is_some_and(|broker| !broker.fenced);
    if alive(me) { me.0 } else { state.alive_brokers().next().map_or(-1, |broker| broker.node.0) }
}

fn answer(
    api: &Api,
    asker: &Asker,
    wanted: Option<&[MetadataRequestTopic]>,
    failed: &BTreeMap<TopicName, ErrorCode>,
) -> MetadataResponse {
    let state = api.meta.state();
    let topics = match wanted {
        None => state.topics().map(|topic| describe(&state, asker, topic)).collect(),
        Some(wanted) => wanted.iter().map(|topic| find(&state, asker, topic, failed)).collect(),
    };
    // A broker that died a moment ago stays in the list for some seconds. librdkafka forgets a broker that is gone from it
    // while it moves that broker's partitions to their new leaders, and then stalls until its next refresh.
    let lately_lost = api.meta.lately_lost();
    // After all were gone nobody is unfenced for a moment. From an empty list librdkafka learns to forget everybody, and may find
    // nobody again: then those who are registered, of whom the one that answers is one.
    let nobody = state.alive_brokers().next().is_none();
    MetadataResponse {
        brokers: state
            .brokers()
            .filter(|broker| nobody || !broker.fenced || lately_lost.contains(&broker.node))
            .filter_map(|broker| {
                let endpoint = endpoints::of(broker, &asker.connection)?;
                Some(MetadataResponseBroker {
                    node_id: broker.node.0,
                    host: endpoint.host.as_str().into(),
                    port: i32::from(endpoint.port),
                    rack: broker.rack.as_deref().map(Into::into),
                })
            })
            .collect(),
        cluster_id: state.cluster_id().map(|id| id.as_str().into()),
        controller_id: controller_of(&state, api.meta.node()),
        topics,
        ..MetadataResponse::default()
    }
}

fn find(
    state: &MetadataState,
    asker: &Asker,
    wanted: &MetadataRequestTopic,
    failed: &BTreeMap<TopicName, ErrorCode>,
) -> MetadataResponseTopic {
    let refused = |error: ErrorCode| MetadataResponseTopic {
        error_code: error.code(),
        name: wanted.name.clone(),
        topic_id: wanted.topic_id,
        ..MetadataResponseTopic::default()
    };
    match &wanted.name {
        Some(name) => match state.topic(name) {
            Some(topic) => describe(state, asker, topic),
            None if TopicName::problem(name).is_some() => refused(ErrorCode::InvalidTopicException),
            None => refused(failed.get(name.as_str()).copied().unwrap_or(ErrorCode::UnknownTopicOrPartition)),
        },
        None if wanted.topic_id == Uuid::ZERO => refused(ErrorCode::InvalidRequest),
        None => match state.topic_by_id(wanted.topic_id) {
            Some(topic) => describe(state, asker, topic),
            None => refused(ErrorCode::UnknownTopicId),
        },
    }
}

fn describe(state: &MetadataState, asker: &Asker, topic: &Topic) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code: ErrorCode::None.code(),
        name: Some(topic.name.as_str().into()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: topic.iter().map(|(index, partition)| describe_partition(state, asker, index, partition)).collect(),
        ..MetadataResponseTopic::default()
    }
}

/// Ids as the wire has them.
pub(super) fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Replicas on brokers that are not alive, or that the asker cannot reach.
pub(super) fn offline(state: &MetadataState, connection: &ConnectionInfo, partition: &PartitionState) -> Vec<i32> {
    let reached = |broker: &Broker| !broker.fenced && endpoints::of(broker, connection).is_some();
    let alive = |node: &NodeId| state.broker(*node).is_some_and(reached);
    partition.replicas.iter().filter(|node| !alive(node)).map(|node| node.0).collect()
}

fn describe_partition(
    state: &MetadataState,
    asker: &Asker,
    index: PartitionIndex,
    partition: &PartitionState,
) -> MetadataResponsePartition {
    // A leader that lacks the listener cannot be reached by the asker; old clients know no error for that.
    let reached = partition
        .leader
        .filter(|leader| state.broker(*leader).is_none_or(|broker| endpoints::of(broker, &asker.connection).is_some()));
    let error = match (partition.leader, reached) {
        (Some(_), Some(_)) => ErrorCode::None,
        (Some(_), None) if asker.version >= LISTENER_NOT_FOUND_FROM => ErrorCode::ListenerNotFound,
        _ => ErrorCode::LeaderNotAvailable,
    };
    MetadataResponsePartition {
        error_code: error.code(),
        partition_index: index.0,
        leader_id: reached.unwrap_or(NodeId::NONE).0,
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: ids(&partition.replicas),
        isr_nodes: ids(&partition.isr),
        offline_replicas: offline(state, &asker.connection, partition),
    }
}
