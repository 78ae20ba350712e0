//! What holds for any view whatsoever, most of them of broken clusters.

use super::tests::{NEW, cluster, doing, healthy, wanted};
use super::*;
use crate::observed::Answer;

/// A small generator of numbers; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// Any view at all, most of them of broken clusters.
fn any(dice: &mut Dice) -> (Wanted, View) {
    let size = 1 + i32::try_from(dice.roll(6)).unwrap();
    let mut view = healthy(size);
    let mut to = wanted(1 + i32::try_from(dice.roll(6)).unwrap());
    to.stopped = dice.one_in(20);
    to.never_shrink = dice.one_in(20);
    if dice.one_in(2) {
        to.revision = NEW.into();
    }
    let set = view.set.as_mut().unwrap();
    set.observed = !dice.one_in(8);
    set.terminating = dice.one_in(20);
    for pod in view.pods.values_mut() {
        pod.ready = !dice.one_in(6);
        pod.down = !pod.ready && dice.one_in(2);
        pod.terminating = dice.one_in(12);
        if dice.one_in(3) {
            pod.revision = NEW.into();
        }
    }
    for answer in view.brokers.values_mut() {
        if dice.one_in(8) {
            *answer = Answer::Unknown("?".into());
        }
    }
    for node in 1..=size {
        let (cordoned, replicas) = (dice.one_in(6), i32::try_from(dice.roll(3)).unwrap());
        let (blockers, fenced) = (i32::from(dice.one_in(6)), dice.one_in(8));
        let (active, caught_up, voter) = (!dice.one_in(6), !dice.one_in(6), node == 1 || !dice.one_in(3));
        let learner = !voter && dice.one_in(2);
        cluster(&mut view, |c| {
            let b = c.brokers.get_mut(&NodeId(node)).unwrap();
            (b.cordoned, b.replicas, b.restart_blockers, b.fenced) = (cordoned, replicas, blockers, fenced);
            let p = c.progress.get_mut(&NodeId(node)).unwrap();
            (p.recently_active, p.caught_up) = (active, caught_up);
            if !voter {
                c.voters.remove(&NodeId(node));
            }
            if learner {
                c.learners.insert(NodeId(node));
            }
        });
    }
    let factor = i32::try_from(dice.roll(4)).unwrap();
    cluster(&mut view, |c| c.max_replication_factor = factor);
    if size > 1 && dice.one_in(4) {
        // A pod that was told to end and has not: of a drained broker, or of one that another hand took away.
        view.set.as_mut().unwrap().replicas = size - 1;
        view.pods.get_mut(&NodeId(size)).unwrap().terminating = true;
    }
    to.delete_disks = dice.one_in(2);
    if dice.one_in(8) {
        (to.voters, to.most_voters) = (1, 1);
    }
    if dice.one_in(2) {
        doing(&mut view, Operation::ScaleDown, OperationStep::VerifyEmpty, Some(size));
    }
    if dice.one_in(10) {
        view.set = None;
    }
    view.founded = !dice.one_in(20);
    (to, view)
}

#[test]
fn whatever_is_seen_no_broker_that_holds_anything_is_taken_away() {
    let (mut shrunk, mut demoted) = (0, 0);
    let mut dice = Dice(42);
    for _ in 0..40_000 {
        let (to, view) = any(&mut dice);
        let next = plan(&to, &view);
        assert_eq!(next, plan(&to, &view), "the same view, another plan");
        match &next.step {
            Step::Resize { from: Some(from), to: size } if size < from && !to.stopped => {
                shrunk += 1;
                assert_eq!(*size, from - 1);
                let (_, cluster) = view.leader().expect("shrunk without a leader");
                let victim = NodeId(*from);
                assert!(!cluster.voters.contains(&victim) && !cluster.learners.contains(&victim), "{view:?}");
                assert_eq!(cluster.brokers[&victim].replicas, 0, "{view:?}");
                assert!(view.settled(), "{view:?}");
            }
            Step::Quorum(QuorumChange::Remove(node)) if node.0 <= view.size() => {
                let (leader, cluster) = view.leader().unwrap();
                assert!(cluster.brokers[node].cordoned && cluster.brokers[node].replicas == 0 && *node != leader);
                assert!(cluster.max_replication_factor <= to.replicas);
            }
            Step::Quorum(QuorumChange::Demote(node)) => {
                demoted += 1;
                let (leader, cluster) = view.leader().unwrap();
                let left: Vec<NodeId> = cluster.voters.iter().copied().filter(|v| v != node).collect();
                assert!(cluster.voters.contains(node) && *node != leader && !left.is_empty(), "{view:?}");
                let fit = |v: &NodeId| {
                    *v == leader || cluster.progress.get(v).is_some_and(|p| p.recently_active && p.caught_up)
                };
                assert!(left.iter().all(fit), "{view:?}");
                assert!(left.len() >= usize::try_from(to.voters.min(view.size())).unwrap(), "{view:?}");
            }
            Step::DeleteClaim { node, .. } => {
                assert!(to.delete_disks && *node > NodeId(view.size()) && !view.pods.contains_key(node));
            }
            Step::Unregister(node) => assert!(!view.pods.contains_key(node), "{view:?}"),
            _ => {}
        }
    }
    assert!(shrunk > 20 && demoted > 20, "only {shrunk} and {demoted} of the views came to that");
}

#[test]
fn whatever_is_seen_a_broker_that_serves_is_only_restarted_when_nobody_else_is_down() {
    let mut rolled = 0;
    let mut dice = Dice(43);
    for _ in 0..40_000 {
        let (to, view) = any(&mut dice);
        let next = plan(&to, &view);
        let Step::Restart { node, uid } = &next.step else { continue };
        let pod = &view.pods[node];
        assert_eq!(uid, &pod.uid);
        assert!(pod.revision != to.revision && to.restarts_held.is_none());
        assert!(view.members().all(|n| view.pods.get(&n).is_some_and(|p| !p.terminating)), "{view:?}");
        if pod.ready {
            rolled += 1;
            assert!(view.members().all(|n| view.pod_ready(n)), "{view:?}");
            let (_, cluster) = view.leader().unwrap();
            assert_eq!(cluster.brokers[node].restart_blockers, 0);
        }
    }
    assert!(rolled > 20, "only {rolled} of the views came to that");
}

#[test]
fn whatever_is_seen_what_waits_is_shown_the_same_way_as_long_as_nothing_else_changes() {
    let mut dice = Dice(44);
    let mut several = 0;
    for _ in 0..40_000 {
        let (to, mut view) = any(&mut dice);
        let mut kinds = Vec::new();
        for _ in 0..4 {
            let next = plan(&to, &view);
            if next.step != Step::None {
                break;
            }
            several += usize::from(next.waiting.len() > 1);
            let Some(d) = next.doing else { break };
            doing(&mut view, d.kind, d.step, d.node.map(|n| n.0));
            kinds.push(d.kind);
        }
        // The first may end what was shown before.
        assert!(kinds.windows(2).skip(1).all(|two| two[0] == two[1]), "{kinds:?} {view:?}");
    }
    assert!(several > 1000, "only {several}");
}
