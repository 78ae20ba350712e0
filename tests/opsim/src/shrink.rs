//! Makes the plan of a failure smaller: an action, a fault or a wish that it fails without is left out.
//!
//! Called by `chronik-opsim shrink`. A smaller plan counts only if it fails in the same way, numbers aside; the first failure that one
//! meets on the way may be another one.

use crate::plan::Plan;

/// Most plans that are tried.
const MOST_TRIES: usize = 600;

/// A failure without its numbers.
fn way(failure: &str) -> String {
    failure.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Plans with one thing less; the order stays as things go.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        plan
    };
    let mut all = vec![
        with(&|p| p.kills = 0),
        with(&|p| p.errors = 0),
        with(&|p| p.lost_answers = 0),
        with(&|p| p.late_errors = 0),
        with(&|p| p.conflicts = 0),
        with(&|p| p.refusals = 0),
        with(&|p| p.stale_ms = 0),
        with(&|p| p.pace.view_lag_ms = 0),
        with(&|p| p.two_operators = false),
        with(&|p| p.spec.rack = None),
        with(&|p| p.spec.raft.voters = None),
        with(&|p| (p.may_read_classes, p.may_read_nodes, p.expandable) = (true, true, true)),
    ];
    all.retain(|other| other.to_string() != plan.to_string());
    let topics = if plan.topics.len() > 1 { 0..plan.topics.len() } else { 0..0 };
    all.extend(topics.map(|at| with(&|p| drop(p.topics.remove(at)))));
    all.extend((0..plan.actions.len()).map(|at| with(&|p| drop(p.actions.remove(at)))));
    all
}

/// The smallest plan that was found to fail like this one; None when it does not fail. `fails` runs a plan and says what was wrong.
pub fn shrink(plan: &Plan, fails: impl Fn(&Plan) -> Option<String>) -> Option<(Plan, String)> {
    let mut failure = fails(plan)?;
    let (mut best, way_of_all) = (plan.clone(), way(&failure));
    let (mut at, mut found) = (0, false);
    for _ in 0..MOST_TRIES {
        let tried = smaller(&best).into_iter().nth(at);
        match tried {
            Some(tried) => match fails(&tried).filter(|other| way(other) == way_of_all) {
                Some(same) => (best, failure, found) = (tried, same, true),
                None => at += 1,
            },
            // What was needed before may not be any more.
            None if found => (at, found) = (0, false),
            None => break,
        }
    }
    Some((best, failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let mut plan = Plan::new(1);
        (plan.kills, plan.conflicts, plan.two_operators) = (10, 10, true);
        plan.actions = (0..6).map(|at| (at * 1000, Action::Kill(i32::try_from(at).unwrap_or(0)))).collect();
        let needs = |plan: &Plan, broker| plan.actions.iter().any(|(_, action)| *action == Action::Kill(broker));
        let fails = |plan: &Plan| {
            let both = needs(plan, 2) && needs(plan, 5) && plan.conflicts > 0;
            both.then(|| format!("after {} actions", plan.actions.len()))
        };
        let (small, failure) = shrink(&plan, fails).unwrap();
        assert_eq!(failure, "after 2 actions");
        assert_eq!((small.kills, small.conflicts, small.two_operators), (0, 10, false));
        assert_eq!(small.topics.len(), 1);
        let fine = shrink(&small, |_| None);
        assert!(fine.is_none(), "what does not fail cannot be made smaller");
    }
}
