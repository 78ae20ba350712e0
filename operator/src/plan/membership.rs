//! The metadata quorum grows to its wanted number of voters: one caught-up learner at a time.
//!
//! Voters leave only with their brokers, in [`super::drain`]: the brokers know no way back from voter to learner.

use super::{Doing, Flow, Step, View, Wanted, list};
use crate::api::{Gate, Operation, OperationStep};
use crate::mutant;
use crate::observed::NodeId;
use crate::ports::QuorumChange;

/// Promotes a learner, if voters are missing among the brokers that stay.
pub(super) fn plan(wanted: &Wanted, view: &View) -> Flow {
    let Some((_, cluster)) = view.leader() else { return Flow::Continue };
    let stay = wanted.replicas.min(view.size());
    let stays = |node: &&NodeId| node.0 <= stay;
    let voters = cluster.voters.iter().filter(stays).count();
    if i32::try_from(voters).unwrap_or(i32::MAX) >= wanted.voters.min(stay) {
        return Flow::Continue;
    }
    let learners: Vec<NodeId> = cluster.learners.iter().filter(stays).copied().collect();
    let kind = match view.operation.as_ref().map(|op| op.kind) {
        Some(kind @ (Operation::ScaleUp | Operation::ScaleDown | Operation::Start)) => kind,
        _ => Operation::QuorumChange,
    };
    if learners.is_empty() {
        // Their brokers have not joined yet: the size waits for that.
        return Flow::Continue;
    }
    let fit = |node: &&NodeId| {
        let progress = cluster.progress.get(node);
        mutant!(PromoteLagging) || view.pod_ready(**node) && progress.is_some_and(|p| p.caught_up && p.recently_active)
    };
    match learners.iter().find(fit) {
        Some(node) => {
            let doing = Doing::of(kind, OperationStep::PromoteVoter, *node);
            let why = format!("{voters} of {} voters, and learner {node} is caught up", wanted.voters);
            Flow::Act(Step::Quorum(QuorumChange::Promote(*node)), doing, why)
        }
        None => {
            let message = format!("learners {} are not caught up yet", list(learners));
            Flow::Wait(Doing::new(kind, OperationStep::PromoteVoter).held(Gate::QuorumNotCaughtUp, message))
        }
    }
}
