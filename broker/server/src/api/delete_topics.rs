//! DeleteTopics: by name, or by id from version 6 on.

use std::sync::Arc;

use chronik_core::controller::{Command, DeleteTopic};
use chronik_model::{ErrorCode, TopicId};
use chronik_wire::KString;
use chronik_wire::messages::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};

use super::admin::propose;
use super::errors::Refusal;
use super::{Api, Call, Outcome, timeout_of};

pub(super) fn handle(api: &Arc<Api>, call: &Call, request: DeleteTopicsRequest) -> Outcome<DeleteTopicsResponse> {
    let api = Arc::clone(api);
    let version = call.version;
    Outcome::Ordered(Box::pin(async move {
        let wanted: Vec<(Option<KString>, TopicId)> = if version >= 6 {
            request.topics.into_iter().map(|topic| (topic.name, topic.topic_id)).collect()
        } else {
            request.topic_names.into_iter().map(|name| (Some(name), TopicId::ZERO)).collect()
        };
        let timeout = timeout_of(request.timeout_ms);
        let answers = wanted.into_iter().map(|(name, id)| {
            let api = Arc::clone(&api);
            async move {
                let (name, id, found) = resolve(&api, name, id);
                let outcome = match found {
                    Ok(topic_id) => {
                        propose(&api, Command::DeleteTopic(DeleteTopic { topic_id }), timeout).await.map(|_| topic_id)
                    }
                    Err(refusal) => Err(refusal),
                };
                match outcome {
                    Ok(topic_id) => DeletableTopicResult { name, topic_id, error_code: 0, error_message: None },
                    Err(refusal) => DeletableTopicResult {
                        name,
                        topic_id: id,
                        error_code: refusal.code.code(),
                        error_message: Some(refusal.message.into()),
                    },
                }
            }
        });
        DeleteTopicsResponse { throttle_time_ms: 0, responses: futures::future::join_all(answers).await }
    }))
}

type Resolved = (Option<KString>, TopicId, Result<TopicId, Refusal>);

fn resolve(api: &Api, name: Option<KString>, id: TopicId) -> Resolved {
    let state = api.meta.state();
    match (name, id.is_zero()) {
        (Some(name), true) => match state.topic(&name) {
            Some(topic) => (Some(name), topic.id, Ok(topic.id)),
            None => (Some(name), id, Err(ErrorCode::UnknownTopicOrPartition.into())),
        },
        (None, false) => match state.topic_by_id(id) {
            Some(topic) => (Some(topic.name.as_str().into()), id, Ok(id)),
            None => (None, id, Err(ErrorCode::UnknownTopicId.into())),
        },
        (name, _) => {
            let text = "a topic is named either by its name or by its id";
            (name, id, Err(Refusal::new(ErrorCode::InvalidRequest, text)))
        }
    }
}
