//! "Why does nothing commit?" answered by testing each cause in order.
//!
//! [`examine`] asks every peer for its status, lets the pure rules of [`rules`] look at all answers, and asks once more
//! before it reports what may be a passing state. It works from any broker, also from one that is cut off: what cannot
//! be asked is a finding too. Called by `/doctor` and, through it, by the `doctor` subcommand.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use rules::diagnose;

use super::View;
use super::status::{PeerAnswer, ProbeFailure, Status};

/// Pause before a second look at what may be passing.
const SECOND_LOOK: Duration = Duration::from_millis(700);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name of the kind of finding.
    pub id: String,
    /// The broker it is about.
    pub node: i32,
    /// The other broker involved, if there is one.
    pub peer: Option<i32>,
    /// What is wrong, in one sentence.
    pub what: String,
    /// What to do, in one sentence.
    pub fix: String,
}

/// The doctor's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The broker that examined.
    pub node: i32,
    /// Brokers that answered, this one included.
    pub answered: Vec<i32>,
    /// What is wrong; the most fundamental cause first.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered: Vec<_> = self.answered.iter().map(ToString::to_string).collect();
        if self.findings.is_empty() {
            return writeln!(f, "healthy: brokers {} answered, nothing is wrong", answered.join(", "));
        }
        let things = if self.findings.len() == 1 { "finding" } else { "findings" };
        writeln!(
            f,
            "{} {things} (seen from broker {}; brokers {} answered)",
            self.findings.len(),
            self.node,
            answered.join(", ")
        )?;
        for finding in &self.findings {
            writeln!(f, "\n[{}] {}\n    -> {}", finding.id, finding.what, finding.fix)?;
        }
        Ok(())
    }
}

/// Everything the rules look at: this broker's status and what its peers answered.
#[derive(Debug)]
pub struct Facts {
    /// This broker.
    pub me: Status,
    /// Its peers.
    pub answers: BTreeMap<i32, Result<PeerAnswer, ProbeFailure>>,
}

/// Examines the cluster from this broker. A peer that does not answer within `timeout` counts as silent.
pub async fn examine(view: &dyn View, timeout: Duration) -> Report {
    let first = gather(view, timeout).await;
    let mut findings = diagnose(&first, None);
    let mut facts = first;
    if findings.iter().any(|finding| rules::may_pass(&finding.id)) {
        tokio::time::sleep(SECOND_LOOK).await;
        let second = gather(view, timeout).await;
        let again = diagnose(&second, Some(&facts));
        findings = again
            .into_iter()
            .filter(|f| {
                !rules::may_pass(&f.id)
                    || findings
                        .iter()
                        .any(|earlier| earlier.id == f.id && (earlier.node == f.node || rules::may_wander(&f.id)))
            })
            .collect();
        facts = second;
    }
    let mut answered: Vec<i32> = facts.answers.iter().filter(|(_, a)| a.is_ok()).map(|(node, _)| *node).collect();
    answered.push(facts.me.node_id);
    answered.sort_unstable();
    Report { node: facts.me.node_id, answered, findings }
}

async fn gather(view: &dyn View, timeout: Duration) -> Facts {
    let questions = view.peers().into_iter().map(|peer| async move {
        let answer = tokio::time::timeout(timeout, view.ask(peer)).await.unwrap_or_else(|_| {
            let known = view.status(false).peers.into_iter().find(|p| p.node == peer.0).and_then(|p| p.address);
            Err(known.map_or(ProbeFailure::Unregistered, |address| ProbeFailure::Silent { address }))
        });
        (peer.0, answer)
    });
    let answers = futures::future::join_all(questions).await.into_iter().collect();
    Facts { me: view.status(false), answers }
}
