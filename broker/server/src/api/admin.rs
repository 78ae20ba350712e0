//! What the administrative handlers share: propose and unwrap, or try a command without proposing it.

use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{Command, CommandResult, Envelope, ProposalId};
use chronik_model::{IncarnationId, NodeId};

use super::Api;
use super::errors::Refusal;

/// Proposes `command`; a refusal by the state machine is an error.
pub(crate) async fn propose(api: &Arc<Api>, command: Command, timeout: Duration) -> Result<CommandResult, Refusal> {
    let result = api.meta.propose(command, timeout).await?;
    Ok(result.ok()?)
}

/// Proposes, or with `validate_only` finds out what the proposal would come to on a copy of the state.
pub(crate) async fn propose_or_try(
    api: &Arc<Api>,
    command: Command,
    timeout: Duration,
    validate_only: bool,
) -> Result<CommandResult, Refusal> {
    if !validate_only {
        return propose(api, command, timeout).await;
    }
    let mut copy = api.meta.state().clone();
    let id = ProposalId { origin: NodeId::NONE, incarnation: IncarnationId::ZERO, sequence: u64::MAX };
    let index = chronik_model::RaftIndex(copy.applied().0 + 1);
    Ok(copy.apply_envelope(index, &Envelope::new(id, crate::replication::wall_ms(), command)).result.ok()?)
}
