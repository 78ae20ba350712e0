//! Growing disks. Comes first and asks for nothing to be healthy: a full disk is cured by this alone.

use super::{Doing, Flow, Step, View, Wanted};
use crate::api::{Gate, Operation, OperationStep};
use crate::ports::Expansion;

const KIND: Operation = Operation::StorageGrowth;

/// Grows claims one after the other, then makes the StatefulSet anew, as its claim template cannot change.
pub(super) fn plan(wanted: &Wanted, view: &View) -> Flow {
    let Some(size) = wanted.storage else { return Flow::Continue };
    let claims = || view.members().filter_map(|node| Some((node, view.claims.get(&node).filter(|c| !c.terminating)?)));
    // Kubernetes refuses to grow a claim without a volume.
    if let Some((node, claim)) = claims().find(|(_, claim)| claim.requested < size && claim.capacity > 0) {
        let doing = Doing::of(KIND, OperationStep::GrowVolumes, node);
        if let Some(why) = &view.growth_refused {
            return Flow::Wait(doing.held(Gate::KubernetesRefused, why.clone()));
        }
        if view.expansion == Expansion::Refused {
            return Flow::Wait(doing.held(
                Gate::StorageClassNotExpandable,
                format!("the storage class of {} does not allow expansion", node.claim(&wanted.name)),
            ));
        }
        let step = Step::GrowClaim { node, uid: claim.uid.clone(), size: wanted.storage_text.clone() };
        return Flow::Act(step, doing, format!("disk of broker {node} grows to {}", wanted.storage_text));
    }
    if let Some(set) = &view.set
        && set.claim_size.is_some_and(|template| template < size)
        && !set.terminating
    {
        let doing = Doing::new(KIND, OperationStep::RecreateStatefulSet);
        // Made anew in the middle of a change of its size, it could bring back a pod that just left.
        if !view.members_settled() && !view.pods.is_empty() {
            return Flow::Wait(doing.held(Gate::StatefulSetNotObserved, "the StatefulSet's pods are on their way"));
        }
        let why = format!("new brokers get disks of {}; running pods stay", wanted.storage_text);
        return Flow::Act(Step::RecreateSet { uid: set.uid.clone() }, doing, why);
    }
    match claims().find(|(_, claim)| claim.capacity > 0 && claim.capacity < claim.requested) {
        Some((node, _)) => Flow::Wait(
            Doing::of(KIND, OperationStep::GrowVolumes, node)
                .held(Gate::StorageResizePending, format!("{} has not grown yet", node.claim(&wanted.name))),
        ),
        None => Flow::Continue,
    }
}
