//! Carrying out the one step of a pass.
//!
//! Each step names exactly the object that was looked at, by uid, so that acting on old knowledge fails instead of hitting something
//! else. What a broker answers becomes part of what the status says; it never ends the pass.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Error, Pass, doing, observe, push_hold};
use crate::api::{
    BootstrapStatus, ChronikClusterStatus, Gate, Operation, OperationStatus, OperationStep, RebalanceStatus,
};
use crate::build::{self, names};
use crate::observed::NodeId;
use crate::plan::{self, Doing, Hold, Plan, Step, View, Wanted};
use crate::ports::{
    BrokerAddress, BrokerError, Brokers, ClaimPatch, Kind, Kube, KubeError, ObjectRef, Propagation, RebalanceLimits,
};
use crate::quantity;

/// Most retired disks that are remembered; their claims remember, too.
const MAX_RETIRED: usize = 512;

/// Whether the change is at another place than the status says, so that the status has to be written first.
pub(super) fn is_new(plan: &Plan, last: Option<&OperationStatus>) -> bool {
    let at = plan.doing.as_ref().map(|d| (d.kind, d.step, d.node.map(|n| n.0)));
    plan.step != Step::None && at != last.map(|op| (op.kind, op.step, op.node_id))
}

/// Whether the act relies on something that the status does not say yet.
pub(super) fn relies_on(written: &ChronikClusterStatus, ahead: &ChronikClusterStatus) -> bool {
    written.rebalance.is_none() && ahead.rebalance.is_some()
}

/// Whether the act makes pods out of the children: these must be as wanted first. A pod deleted while the StatefulSet still has, or for ever
/// keeps, the old template comes back as it was, and would be deleted again. Everything else may be just what is needed.
pub(super) const fn needs_children(step: &Step) -> bool {
    matches!(step, Step::Resize { .. } | Step::Restart { .. })
}

/// Whether users are told: not about the same thing in every pass.
pub(super) fn is_worth_telling(step: &Step, doing: &Doing, last: Option<&OperationStatus>) -> bool {
    match step {
        Step::None => false,
        Step::Rebalance | Step::MoveLeaders(_) => {
            last.map(|op| (op.kind, op.node_id)) != Some((doing.kind, doing.node.map(|n| n.0)))
                || last.is_some_and(|op| !matches!(op.step, OperationStep::MoveReplicas | OperationStep::MoveLeaders))
        }
        _ => true,
    }
}

/// The reason of the event.
pub(super) const fn reason(step: &Step) -> &'static str {
    match step {
        Step::None => "Nothing",
        Step::Resize { .. } => "Resizing",
        Step::RecreateSet { .. } => "RecreatingStatefulSet",
        Step::GrowClaim { .. } => "GrowingVolume",
        Step::CompleteBootstrap => "Founded",
        Step::Restart { .. } => "RestartingBroker",
        Step::Cordon(_) => "CordoningBroker",
        Step::Uncordon(_) => "UncordoningBroker",
        Step::Rebalance => "MovingReplicas",
        Step::MoveLeaders(_) => "MovingLeaders",
        Step::Quorum(_) => "ChangingQuorum",
        Step::Retire { .. } => "RetiringVolume",
        Step::DeleteClaim { .. } => "DeletingVolume",
        Step::Unregister(_) => "ForgettingBroker",
    }
}

impl<K: Kube, B: Brokers> Pass<'_, K, B> {
    /// Asks one claim to grow.
    pub(super) async fn grow(&mut self, step: &Step) -> Result<(), KubeError> {
        let Step::GrowClaim { node, uid, size } = step else { return Ok(()) };
        let patch = ClaimPatch { size: Some(size.clone()), annotations: Vec::new() };
        self.kube.patch_claim(self.key, &node.claim(&self.key.name), uid, &patch).await?;
        self.writes += 1;
        Ok(())
    }

    /// Does the step. Answers what was done, for the log.
    pub(super) async fn act(
        &mut self,
        plan: &mut Plan,
        wanted: &Wanted,
        view: &View,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        let step = plan.step.clone();
        match &step {
            Step::None => return Ok(None),
            // Done before anything else was decided.
            Step::GrowClaim { .. } => {}
            Step::Resize { to, .. } => {
                if let Some(hold) = self.resize(wanted, view, *to).await? {
                    push_hold(plan, hold);
                    return Ok(None);
                }
            }
            Step::RecreateSet { uid } => {
                self.own_pods(uid).await?;
                let set = ObjectRef { kind: Kind::StatefulSet, name: self.key.name.clone() };
                self.kube
                    .delete(self.key, &set, uid, Propagation::Orphan)
                    .await
                    .map_err(doing("deleting the StatefulSet around its pods"))?;
                self.writes += 1;
            }
            Step::CompleteBootstrap => {
                let voters = self.status.bootstrap.as_ref().map(|b| b.voters.clone()).unwrap_or_default();
                self.status.bootstrap = Some(BootstrapStatus { voters, completed_at: Some(Time(now)) });
            }
            Step::Restart { node, uid } => {
                let pod = node.pod(&self.key.name);
                self.kube.delete_pod(self.key, &pod, uid).await.map_err(doing(format!("restarting {pod}")))?;
                self.writes += 1;
            }
            Step::Retire { node, directory, claim } => {
                if let Some(uid) = claim {
                    let marked = view.claims.get(node).map(|c| c.retired.clone()).unwrap_or_default();
                    let mut all: Vec<String> = marked.into_iter().filter(|id| id != directory).collect();
                    all.push(directory.clone());
                    self.annotate(*node, uid, names::RETIRED, all.join(",")).await?;
                }
                self.status.retired.push(directory.clone());
                let surplus = self.status.retired.len().saturating_sub(MAX_RETIRED);
                self.status.retired.drain(..surplus);
            }
            Step::DeleteClaim { node, uid } => {
                let claim = node.claim(&self.key.name);
                match self.kube.delete_claim(self.key, &claim, uid).await {
                    Ok(()) => self.writes += 1,
                    Err(KubeError::NotFound(_)) => {}
                    Err(error) => return Err(doing(format!("deleting {claim}"))(error)),
                }
            }
            Step::Cordon(_)
            | Step::Uncordon(_)
            | Step::Rebalance
            | Step::MoveLeaders(_)
            | Step::Quorum(_)
            | Step::Unregister(_) => {
                let Some(at) = self.leader_address(view) else { return Ok(None) };
                self.broker_calls += 1;
                if let Err(error) = self.ask(&at, &step, plan).await {
                    let gate = match error {
                        BrokerError::Unreachable(_) => Gate::BrokerStateUnknown,
                        BrokerError::Refused(_) | BrokerError::Retry(_) => Gate::BrokerRefused,
                    };
                    push_hold(plan, Hold { gate, message: error.to_string() });
                    return Ok(None);
                }
            }
        }
        Ok(Some(format!("{}: {}", reason(&step), plan.why)))
    }

    /// Whoever deletes the cluster while its StatefulSet is made anew must not leave pods to nobody: the cluster becomes their second owner,
    /// and Kubernetes takes them along, also when no operator runs any more.
    async fn own_pods(&mut self, set: &str) -> Result<(), Error> {
        let owner = build::pod_owner(&self.key.name, &self.uid);
        for pod in &self.observed.children.pods {
            let owned = |uid: &str| pod.metadata.owner_references.iter().flatten().any(|o| o.uid == uid);
            let (Some(name), Some(uid)) = (&pod.metadata.name, &pod.metadata.uid) else { continue };
            if !owned(set) || owned(&self.uid) {
                continue;
            }
            match self.kube.own_pod(self.key, name, uid, &owner).await {
                Ok(()) => self.writes += 1,
                Err(KubeError::NotFound(_)) => {}
                Err(error) => return Err(doing(format!("owning pod {name}"))(error)),
            }
        }
        Ok(())
    }

    /// Marks disks with the cluster whose data they have. One that refuses the mark is only logged: a later cluster of this name would
    /// not know the disk, and that must not stop anything now.
    pub(super) async fn mark_claims(&mut self, view: &View) -> Result<(), Error> {
        let id = self.status.cluster_id.clone().unwrap_or_default();
        for (node, uid) in plan::unmarked(view) {
            match self.annotate(node, &uid, names::CLUSTER_ID, id.clone()).await {
                Err(Error::Kube { doing, error: error @ (KubeError::Invalid(_) | KubeError::Forbidden(_)) }) => {
                    tracing::warn!(cluster = %self.key, %error, "{doing}");
                }
                other => other?,
            }
        }
        Ok(())
    }

    async fn annotate(&mut self, node: NodeId, uid: &str, name: &str, value: String) -> Result<(), Error> {
        let claim = node.claim(&self.key.name);
        let patch = ClaimPatch { size: None, annotations: vec![(name.to_owned(), value)] };
        match self.kube.patch_claim(self.key, &claim, uid, &patch).await {
            Ok(()) => {
                self.writes += 1;
                Ok(())
            }
            // A disk that is gone needs no mark.
            Err(KubeError::NotFound(_)) => Ok(()),
            Err(error) => Err(doing(format!("marking {claim}"))(error)),
        }
    }

    pub(super) fn leader_address(&self, view: &View) -> Option<BrokerAddress> {
        let (leader, _) = view.leader()?;
        let name = leader.pod(&self.key.name);
        let pod = self.observed.children.pods.iter().find(|p| p.metadata.name.as_ref() == Some(&name))?;
        observe::address(self.key, leader, pod, &self.token)
    }

    fn limits(&self) -> RebalanceLimits {
        // How fast brokers copy is a setting of the whole cluster.
        RebalanceLimits { max_in_flight: self.observed.cluster.spec.rebalance.max_in_flight }
    }

    async fn ask(&mut self, at: &BrokerAddress, step: &Step, plan: &mut Plan) -> Result<(), BrokerError> {
        match step {
            Step::Cordon(node) => self.brokers.cordon(at, *node, true).await,
            Step::Uncordon(node) => self.brokers.cordon(at, *node, false).await,
            Step::Quorum(change) => self.brokers.change_quorum(at, *change).await,
            Step::Unregister(node) => self.brokers.unregister(at, *node).await,
            Step::Rebalance => {
                let facts = self.brokers.rebalance(at, self.limits()).await?;
                let done = facts.in_flight == 0 && facts.remaining == 0 && facts.blocked.is_empty();
                let draining = plan.doing.as_ref().is_some_and(|d| d.kind == Operation::ScaleDown);
                if !facts.blocked.is_empty() {
                    push_hold(plan, Hold { gate: Gate::ReplicasNotMoved, message: facts.blocked.clone() });
                }
                // While a broker is being emptied, balanced only means that nothing can be begun now.
                self.status.rebalance = (!done || draining).then(|| RebalanceStatus {
                    in_flight: facts.in_flight,
                    remaining: facts.remaining,
                    // It changes all the time, and each write of the status asks for the next pass.
                    bytes_remaining: i64::try_from(quantity::coarse(facts.bytes_remaining)).unwrap_or(i64::MAX),
                    blocked: Some(facts.blocked).filter(|text| !text.is_empty()),
                });
                Ok(())
            }
            Step::MoveLeaders(node) => {
                let moved = self.brokers.move_leaders(at, *node).await?;
                if moved.left > 0 && moved.moved > 0 {
                    let message = format!("broker {node} still leads {} partitions", moved.left);
                    push_hold(plan, Hold { gate: Gate::LeadersNotMoved, message });
                } else if let Some(doing) = plan.doing.as_mut().filter(|d| d.kind == Operation::RollingRestart) {
                    // Nothing more can be moved: the restart is next.
                    doing.step = OperationStep::RestartPod;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_made_and_made_anew_only_of_children_that_are_as_wanted() {
        let (node, uid) = (NodeId(1), "u".to_owned());
        assert!(needs_children(&Step::Restart { node, uid: uid.clone() }));
        assert!(needs_children(&Step::Resize { from: Some(3), to: 5 }));
        for cure in [Step::RecreateSet { uid }, Step::Rebalance, Step::Uncordon(node), Step::CompleteBootstrap] {
            assert!(!needs_children(&cure), "{cure:?}");
        }
    }
}
