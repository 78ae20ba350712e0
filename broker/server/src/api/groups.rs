//! What the handlers of consumer groups share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{Command, CreateTopic};
use chronik_model::{ErrorCode, TopicName};

use super::errors::Refusal;
use super::{Api, Call, admin};

/// The topic that holds groups and committed offsets.
pub(super) const OFFSETS_TOPIC: &str = crate::replication::OFFSETS_TOPIC;

const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The client's address as Kafka prints it.
pub(super) fn host_of(call: &Call) -> String {
    format!("/{}", call.connection.peer.ip())
}

/// Makes the topic of groups unless it exists.
pub(super) async fn ensure_offsets_topic(api: &Arc<Api>) -> Result<(), Refusal> {
    if api.meta.state().topic(OFFSETS_TOPIC).is_some() {
        return Ok(());
    }
    let configs = [("cleanup.policy", "compact"), ("segment.bytes", "104857600"), ("compression.type", "producer")];
    let command = CreateTopic {
        name: TopicName::from(OFFSETS_TOPIC),
        topic_id: super::create_topics::fresh_topic_id(),
        partitions: api.config.offsets_partitions,
        replication_factor: api.config.offsets_replication_factor,
        assignments: Vec::new(),
        configs: configs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
    };
    match admin::propose(api, Command::CreateTopic(command), CREATE_TIMEOUT).await {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => Ok(()),
        Err(refusal) => {
            tracing::warn!(error = %refusal.message, "cannot create {OFFSETS_TOPIC}");
            Err(refusal)
        }
    }
}
