//! What a replica has to say to the controller as the controller's commands, and the controller's word about it.

use chronik_core::PartitionState;
use chronik_core::controller::{AlterPartition, Command, CommandResult, IsrMember, ReportLog};
use chronik_core::partition::{IsrProposal, LogClaim};
use chronik_model::{ErrorCode, LeaderEpoch, PartitionIndex, TopicId};

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

/// The command by which a replica of partition `partition` of `topic_id` tells how far its log goes; `last_epoch` is
/// that of its last record.
#[must_use]
pub fn report_log(topic_id: TopicId, partition: PartitionIndex, claim: &LogClaim, last_epoch: LeaderEpoch) -> Command {
    Command::ReportLog(ReportLog {
        node: claim.node,
        broker_epoch: claim.broker_epoch,
        topic_id,
        partition,
        leader_epoch: claim.leader_epoch,
        last_epoch,
        log_end: claim.log_end,
    })
}
