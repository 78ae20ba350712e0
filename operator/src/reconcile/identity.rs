//! Identity of a cluster whose status has none: a new one, or that of the disks that an earlier one left.
//!
//! Disks are marked with their cluster's id once it is founded. Where they are, nobody founds: their brokers know who they are.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Fresh;
use crate::api::BootstrapStatus;
use crate::observed::{NodeId, Observed};
use crate::plan::View;
use crate::ports::Key;

pub(super) struct Identity {
    pub(super) cluster_id: String,
    pub(super) bootstrap: BootstrapStatus,
    pub(super) retired: Vec<String>,
}

/// The identity, or why there can be none.
pub(super) fn identity(key: &Key, observed: &Observed, fresh: &Fresh, now: Timestamp) -> Result<Identity, String> {
    let spec = &observed.cluster.spec;
    let view = View::of(observed, &Default::default(), now);
    let disks = || view.claims.values().filter(|claim| !claim.terminating);
    let left: BTreeSet<&String> = disks().filter_map(|claim| claim.cluster_id.as_ref()).collect();
    let voters: Vec<i32> = (1..=spec.voters()).collect();
    if left.len() > 1 {
        let ids = left.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(format!("the disks named data-{}-* are of different clusters: {ids}", key.name));
    }
    let Some(cluster_id) = left.into_iter().next() else {
        return Ok(Identity {
            cluster_id: fresh.cluster_id.clone(),
            bootstrap: BootstrapStatus { voters, completed_at: None },
            retired: Vec::new(),
        });
    };
    let live = view.claims.iter().filter(|(_, c)| !c.terminating && c.cluster_id.is_some() && c.retired.is_empty());
    let highest = live.map(|(node, _)| node.0).max().unwrap_or(0);
    if let Some(missing) = (1..=highest).map(NodeId).find(|node| !view.claims.contains_key(node)) {
        tracing::warn!(cluster = %key, disk = %missing.claim(&key.name), "a disk of the earlier cluster is missing; its broker joins empty");
    }
    let retired: BTreeSet<String> = disks().flat_map(|claim| claim.retired.iter().cloned()).collect();
    Ok(Identity {
        cluster_id: cluster_id.clone(),
        bootstrap: BootstrapStatus { voters, completed_at: Some(Time(now)) },
        retired: retired.into_iter().collect(),
    })
}
