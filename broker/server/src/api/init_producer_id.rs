//! InitProducerId: ids for idempotent producers, out of blocks that the metadata log hands to brokers.
//!
//! Transactions do not exist: a transactional id is refused with the error that every client takes as final, rather
//! than one that it would retry for ever.

use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{AllocateProducerIds, Command, CommandResult};
use chronik_model::ErrorCode;
use chronik_wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tokio::sync::Mutex;

use super::errors::Refusal;
use super::{Api, Call, Outcome, admin};

const BLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The block that ids are taken from.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    /// Next id and the end of the block.
    block: Mutex<(i64, i64)>,
}

pub(super) fn handle(api: &Arc<Api>, _: &Call, request: InitProducerIdRequest) -> Outcome<InitProducerIdResponse> {
    let refused = |code: ErrorCode| InitProducerIdResponse {
        throttle_time_ms: 0,
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
    };
    if request.transactional_id.is_some() {
        return Outcome::Done(refused(ErrorCode::TransactionalIdAuthorizationFailed));
    }
    let api = Arc::clone(api);
    Outcome::Ordered(Box::pin(async move {
        match next(&api).await {
            Ok(producer_id) => {
                InitProducerIdResponse { throttle_time_ms: 0, error_code: 0, producer_id, producer_epoch: 0 }
            }
            Err(refusal) => {
                tracing::info!(error = %refusal.message, "no producer id");
                // Clients retry on this one; the state of this broker's own registration is none of their business.
                refused(match refusal.code {
                    ErrorCode::RequestTimedOut
                    | ErrorCode::NotController
                    | ErrorCode::StaleBrokerEpoch
                    | ErrorCode::BrokerIdNotRegistered => ErrorCode::CoordinatorLoadInProgress,
                    code => code,
                })
            }
        }
    }))
}

async fn next(api: &Arc<Api>) -> Result<i64, Refusal> {
    let mut block = api.producer_ids.block.lock().await;
    if block.0 >= block.1 {
        let command = AllocateProducerIds { node: api.meta.node(), broker_epoch: api.meta.broker_epoch() };
        match admin::propose(api, Command::AllocateProducerIds(command), BLOCK_TIMEOUT).await? {
            CommandResult::ProducerIds { first, count } => *block = (first, first + count),
            other => {
                return Err(Refusal::new(ErrorCode::UnknownServerError, format!("unexpected result {other:?}")));
            }
        }
    }
    let id = block.0;
    block.0 += 1;
    Ok(id)
}
