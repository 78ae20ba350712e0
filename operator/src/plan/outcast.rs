//! A broker that had been emptied and left the quorum, and stays: another hand gave the StatefulSet more brokers before it was gone.
//!
//! What its disk remembers of the quorum is not true any more, so nobody feeds it, and a founder, or one that never heard of its removal, asks
//! nobody to be let in. Its directory is retired and then it is restarted, so that it begins as one that joins. It holds no replicas
//! and has no vote, so nothing is lost. Until it has joined it takes none ([`super::size`] leaves it cordoned), and whoever runs in a
//! retired directory does not become a member in between.

use super::{Doing, Flow, Step, View, Wanted, drain, list};
use crate::api::{Gate, Operation, OperationStep};
use crate::observed::NodeId;
use crate::ports::QuorumChange;

/// A process that has run for less may still ask to be let in by itself.
const JUST_STARTED_MS: u64 = 30_000;

/// Has it begin anew.
pub(super) fn plan(wanted: &Wanted, view: &View) -> Flow {
    let Some((_, cluster)) = view.leader().filter(|_| view.founded) else { return Flow::Continue };
    let size = view.size();
    let old = |node: &NodeId| {
        let known = cluster.brokers.get(node).filter(|b| b.replicas == 0 && !b.directory_id.is_empty())?;
        let runs = view.facts(*node).is_some_and(|facts| facts.myself.directory_id == known.directory_id);
        let retired = view.retired.contains(&known.directory_id);
        let member = cluster.voters.contains(node) || cluster.learners.contains(node);
        let wrong = !member || retired && cluster.learners.contains(node);
        // The last one goes, if it may.
        let stays = node.0 < size || node.0 <= wanted.replicas && !drain::must_finish(view, cluster, *node);
        (runs && wrong && stays).then(|| (*node, known.directory_id.clone(), member, retired))
    };
    let Some((node, directory, member, retired)) = view.members().find_map(|node| old(&node)) else {
        return Flow::Continue;
    };
    let doing = |step| Doing::of(Operation::Repair, step, node);
    if member {
        let why = format!("broker {node} runs in a directory that was retired");
        return Flow::Act(Step::Quorum(QuorumChange::Remove(node)), doing(OperationStep::RemoveFromQuorum), why);
    }
    let young = view.facts(node).is_none_or(|facts| facts.myself.uptime_ms < JUST_STARTED_MS);
    if young {
        // One that knows that it is out asks to be let in by itself.
        let message = format!("broker {node} has just been started and is no member of the quorum");
        return Flow::Wait(doing(OperationStep::AwaitQuorum).held(Gate::PodNotReady, message));
    }
    if !retired {
        let claim = view.claims.get(&node).filter(|c| !c.terminating).map(|c| c.uid.clone());
        let why = format!("broker {node} had left the quorum and stays: it begins anew on its disk");
        return Flow::Act(Step::Retire { node, directory, claim }, doing(OperationStep::RetireDisk), why);
    }
    let others: Vec<NodeId> = view.not_ready().into_iter().filter(|other| *other != node).collect();
    if view.member_away() || !others.is_empty() {
        let message = format!("pods of brokers {} are not ready", list(others));
        return Flow::Wait(doing(OperationStep::RestartPod).held(Gate::PodNotReady, message));
    }
    let Some(pod) = view.pods.get(&node) else { return Flow::Continue };
    // The restart would bring what nobody approved.
    if let Some(message) = wanted.restarts_held.as_ref().filter(|_| pod.revision != wanted.revision) {
        return Flow::Wait(doing(OperationStep::RestartPod).held(Gate::ManualApproval, message.clone()));
    }
    let why = format!("broker {node} had left the quorum and joins it again as a new one");
    Flow::Act(Step::Restart { node, uid: pod.uid.clone() }, doing(OperationStep::RestartPod), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Answer;
    use crate::plan::tests::{cluster, healthy, wanted};

    /// Broker 2 of four left the quorum, cordoned and empty, and runs on its old disk.
    fn left() -> View {
        let mut view = healthy(4);
        cluster(&mut view, |c| {
            c.voters.remove(&NodeId(2));
            if let Some(broker) = c.brokers.get_mut(&NodeId(2)) {
                (broker.cordoned, broker.replicas, broker.leaders) = (true, 0, 0);
            }
        });
        runs_in(&mut view, "dir-2", 60_000);
        view
    }

    fn runs_in(view: &mut View, directory: &str, uptime_ms: u64) {
        let Some(Answer::Known(facts)) = view.brokers.get_mut(&NodeId(2)) else { panic!("it answers") };
        (facts.myself.directory_id, facts.myself.uptime_ms) = (directory.to_owned(), uptime_ms);
    }

    fn next(view: &View, replicas: i32) -> Option<Step> {
        match plan(&wanted(replicas), view) {
            Flow::Act(step, ..) => Some(step),
            _ => None,
        }
    }

    #[test]
    fn it_begins_anew_on_a_retired_disk_and_takes_nothing_before_it_has_joined() {
        let mut view = left();
        let retire = Step::Retire { node: NodeId(2), directory: "dir-2".into(), claim: Some("claim-2".into()) };
        assert_eq!(next(&view, 4), Some(retire.clone()));
        assert_eq!(next(&view, 1), Some(retire), "it stands in the way of those that go before it");
        view.retired.insert("dir-2".into());
        let restart = Step::Restart { node: NodeId(2), uid: "pod-2".into() };
        assert_eq!(next(&view, 4), Some(restart));
        assert_eq!(super::super::plan(&wanted(4), &view).step, next(&view, 4).unwrap_or(Step::None));
        runs_in(&mut view, "dir-new", 1);
        assert_eq!(next(&view, 4), None, "it joins by itself");
        let waits = super::super::plan(&wanted(4), &view);
        assert!(!matches!(waits.step, Step::Uncordon(_)), "{waits:?}");
    }

    #[test]
    fn who_was_just_started_or_holds_replicas_or_is_finished_elsewhere_is_left_alone() {
        let mut young = left();
        runs_in(&mut young, "dir-2", 10_000);
        assert_eq!(next(&young, 4), None);
        let mut full = left();
        cluster(&mut full, |c| c.brokers.get_mut(&NodeId(2)).into_iter().for_each(|b| b.replicas = 1));
        assert_eq!(next(&full, 4), None);
        let mut last = left();
        let Some(set) = last.set.as_mut() else { panic!("there is a StatefulSet") };
        (set.replicas, set.status_replicas) = (2, 2);
        last.pods.retain(|node, _| node.0 <= 2);
        assert_eq!(next(&last, 1), None, "its removal is finished");
        assert_eq!(next(&healthy(4), 4), None);
    }

    #[test]
    fn who_was_let_in_on_a_retired_disk_leaves_again_before_it_votes() {
        let mut view = left();
        cluster(&mut view, |c| assert!(c.learners.insert(NodeId(2))));
        assert_eq!(next(&view, 4), None, "it has joined by itself");
        view.retired.insert("dir-2".into());
        assert_eq!(next(&view, 4), Some(Step::Quorum(QuorumChange::Remove(NodeId(2)))));
    }

    #[test]
    fn a_restart_that_would_bring_what_nobody_approved_waits() {
        let mut view = left();
        view.retired.insert("dir-2".into());
        let to =
            |revision: &str| Wanted { revision: revision.into(), restarts_held: Some("manual".into()), ..wanted(4) };
        let same = view.pods[&NodeId(2)].revision.clone();
        assert!(matches!(plan(&to(&same), &view), Flow::Act(Step::Restart { .. }, ..)), "it brings nothing");
        let Flow::Wait(doing) = plan(&to("another"), &view) else { panic!("it waits") };
        assert_eq!(doing.holds[0].gate, Gate::ManualApproval);
    }

    #[test]
    fn one_is_restarted_while_all_the_others_are_there() {
        let mut view = left();
        view.retired.insert("dir-2".into());
        view.pods.get_mut(&NodeId(3)).into_iter().for_each(|pod| pod.ready = false);
        assert_eq!(next(&view, 4), None);
    }
}
