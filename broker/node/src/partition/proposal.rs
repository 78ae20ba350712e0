//! A leader's proposal of an in-sync set as the controller's command, and the controller's word about it.

use chronik_core::PartitionState;
use chronik_core::controller::{AlterPartition, Command, CommandResult, IsrMember};
use chronik_core::partition::IsrProposal;
use chronik_model::{ErrorCode, PartitionIndex, TopicId};

/// The command for a proposal of partition `partition` of `topic_id`.
#[must_use]
pub fn alter_partition(topic_id: TopicId, partition: PartitionIndex, proposal: &IsrProposal) -> Command {
    Command::AlterPartition(AlterPartition {
        node: proposal.leader,
        broker_epoch: proposal.broker_epoch,
        topic_id,
        partition,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        new_isr: proposal
            .isr
            .iter()
            .map(|member| IsrMember { node: member.node, broker_epoch: member.broker_epoch })
            .collect(),
        recovery: proposal.recovery,
    })
}

/// What its result means for [`HostedPartition::on_alter_result`](super::HostedPartition::on_alter_result). Where
/// there is no result at all, the command may be committed still: say [`ErrorCode::RequestTimedOut`] then.
///
/// # Errors
/// The controller's refusal.
pub fn alter_outcome(result: CommandResult) -> Result<PartitionState, ErrorCode> {
    match result {
        CommandResult::Partition(state) => Ok(state),
        CommandResult::Error(error) => Err(error.code),
        _ => Err(ErrorCode::UnknownServerError),
    }
}
