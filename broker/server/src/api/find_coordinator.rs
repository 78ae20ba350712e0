//! FindCoordinator: the leader of the `__consumer_offsets` partition that a group hashes to.
//!
//! Makes the topic at first use. Coordinators of transactions and share groups do not exist: refused for good.

use std::sync::Arc;

use chronik_core::group::partition_for;
use chronik_model::{ErrorCode, PartitionIndex, TopicPartition};
use chronik_wire::KString;
use chronik_wire::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

use super::errors::Refusal;
use super::groups::{OFFSETS_TOPIC, ensure_offsets_topic};
use super::{Api, Call, Outcome, endpoints};
use crate::net::ConnectionInfo;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) fn handle(api: &Arc<Api>, call: &Call, request: FindCoordinatorRequest) -> Outcome<FindCoordinatorResponse> {
    let version = call.version;
    let keys = if version >= 4 { request.coordinator_keys } else { vec![request.key] };
    let refusal = match request.key_type {
        GROUP => None,
        TRANSACTION => Some(Refusal::new(
            ErrorCode::TransactionalIdAuthorizationFailed,
            "transactions are not supported by this broker yet",
        )),
        other => {
            Some(Refusal::new(ErrorCode::InvalidRequest, format!("coordinators of type {other} do not exist here")))
        }
    };
    if let Some(refusal) = refusal {
        return Outcome::Done(answer(version, keys.into_iter().map(|key| refused(key, &refusal)).collect()));
    }
    if api.meta.state().topic(OFFSETS_TOPIC).is_some() {
        let coordinators = keys.into_iter().map(|key| find(api, &call.connection, key)).collect();
        return Outcome::Done(answer(version, coordinators));
    }
    let (api, connection) = (Arc::clone(api), Arc::clone(&call.connection));
    Outcome::Ordered(Box::pin(async move {
        let made = ensure_offsets_topic(&api).await;
        let coordinators = keys.into_iter().map(|key| match &made {
            Ok(()) => find(&api, &connection, key),
            Err(refusal) => refused(key, &Refusal::new(ErrorCode::CoordinatorNotAvailable, refusal.message.clone())),
        });
        answer(version, coordinators.collect())
    }))
}

fn refused(key: KString, refusal: &Refusal) -> Coordinator {
    Coordinator {
        key,
        node_id: -1,
        host: "".into(),
        port: -1,
        error_code: refusal.code.code(),
        error_message: Some(refusal.message.as_str().into()),
    }
}

fn find(api: &Api, connection: &ConnectionInfo, key: KString) -> Coordinator {
    let state = api.meta.state();
    let found = state.topic(OFFSETS_TOPIC).and_then(|topic| {
        let count = i32::try_from(topic.partitions.len()).ok()?;
        let partition = PartitionIndex(partition_for(&key, count)?);
        let broker = state.leader(&TopicPartition::new(OFFSETS_TOPIC, partition))?;
        Some((broker.node, endpoints::of(broker, connection)?))
    });
    match found {
        Some((node, endpoint)) => Coordinator {
            key,
            node_id: node.0,
            host: endpoint.host.as_str().into(),
            port: i32::from(endpoint.port),
            error_code: ErrorCode::None.code(),
            error_message: None,
        },
        None => refused(key, &ErrorCode::CoordinatorNotAvailable.into()),
    }
}

fn answer(version: i16, mut coordinators: Vec<Coordinator>) -> FindCoordinatorResponse {
    if version >= 4 {
        return FindCoordinatorResponse { coordinators, ..FindCoordinatorResponse::default() };
    }
    let Some(only) = coordinators.pop() else { return FindCoordinatorResponse::default() };
    FindCoordinatorResponse {
        throttle_time_ms: 0,
        error_code: only.error_code,
        error_message: only.error_message,
        node_id: only.node_id,
        host: only.host,
        port: only.port,
        coordinators: Vec::new(),
    }
}
