//! The metadata quorum gets its wanted number of voters, one at a time: caught-up learners become voters, surplus voters learners.
//!
//! [`promote`] comes before changes of the size, which need the voters; [`demote`] comes last of all: too many voters harm nobody. Voters whose
//! brokers go leave in [`super::drain`], and as long as these brokers are there, there may be as many voters as befits them: a removal
//! that is held back must not have cost the quorum anything. Neither part ever undoes what the other did.

use std::collections::BTreeSet;

use super::{Doing, Flow, Step, View, Wanted, list};
use crate::api::{Gate, Operation, OperationStep, largest_odd_at_most};
use crate::mutant;
use crate::observed::NodeId;
use crate::ports::QuorumChange;

fn count(nodes: usize) -> i32 {
    i32::try_from(nodes).unwrap_or(i32::MAX)
}

/// Promotes a learner, if voters are missing among the brokers that stay.
pub(super) fn promote(wanted: &Wanted, view: &View) -> Flow {
    let Some((_, cluster)) = view.leader() else { return Flow::Continue };
    let stay = wanted.replicas.min(view.size());
    let stays = |node: &&NodeId| node.0 <= stay;
    // Also one whose pod another hand took away: it returns, or leaves the quorum first.
    let voters = cluster.voters.iter().filter(|node| node.0 <= wanted.replicas).count();
    if count(voters) >= wanted.voters.min(stay) {
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

/// Makes a surplus voter a learner: of those whose brokers go first, then of all the one with the highest id, and not the leader.
pub(super) fn demote(wanted: &Wanted, view: &View) -> Flow {
    let Some((leader, cluster)) = view.leader().filter(|_| view.founded) else { return Flow::Continue };
    let voters = &cluster.voters;
    let most = largest_odd_at_most(wanted.most_voters.min(view.size().max(wanted.replicas)));
    if count(voters.len()) <= most || voters.iter().any(|node| node.0 > view.size()) {
        return Flow::Continue;
    }
    let (staying, going): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        voters.iter().copied().partition(|node| node.0 <= wanted.replicas);
    // Those who stay may only become fewer than they are while they are too many: what is missing would be promoted again.
    let spare = count(staying.len()) > wanted.voters.min(view.size());
    let pool = || going.iter().rev().chain(staying.iter().rev().filter(|_| spare)).filter(|node| **node != leader);
    let fit =
        |node: &NodeId| *node == leader || cluster.progress.get(node).is_some_and(|p| p.recently_active && p.caught_up);
    let unfit: Vec<NodeId> = voters.iter().copied().filter(|node| !fit(node)).collect();
    let step = OperationStep::DemoteVoter;
    // All the others have to be fit; if just one is not, it is the one that can be spared.
    let Some(node) = pool().find(|node| unfit.iter().all(|other| other == *node)).copied() else {
        let doing = Doing::new(Operation::QuorumChange, step);
        if !unfit.is_empty() {
            let message = format!("{} voters are too many, and {} are not caught up", voters.len(), list(unfit));
            return Flow::Wait(doing.held(Gate::QuorumNotCaughtUp, message));
        }
        // The leader is the only one left that has to go.
        let Some(heir) = staying.first().copied().filter(|_| going.contains(&leader)) else { return Flow::Continue };
        let doing = Doing::of(Operation::QuorumChange, OperationStep::TransferLeader, leader);
        let why = format!("broker {leader} leads the quorum and is to be no voter of it");
        return Flow::Act(Step::Quorum(QuorumChange::TransferLeader(Some(heir))), doing, why);
    };
    let why = format!("{} voters, and {most} are enough", voters.len());
    Flow::Act(Step::Quorum(QuorumChange::Demote(node)), Doing::of(Operation::QuorumChange, step, node), why)
}
