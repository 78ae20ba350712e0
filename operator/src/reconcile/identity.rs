//! Identity of a cluster whose status has none: a new one, or that of the disks that an earlier one left.
//!
//! Disks are marked with their cluster's id once it is founded. Where they are, nobody founds: their brokers know who they are.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::Fresh;
use crate::api::BootstrapStatus;
use crate::observed::{NodeId, Observed, is_ours};
use crate::plan::View;
use crate::ports::{Key, Kind};

pub(super) struct Identity {
    pub(super) cluster_id: String,
    pub(super) bootstrap: BootstrapStatus,
    pub(super) retired: Vec<String>,
}

/// Why there is none.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum NoIdentity {
    /// Somebody has to decide.
    Wrong(String),
    /// It passes within seconds.
    Yet(String),
}

/// The identity, or why there can be none.
pub(super) fn identity(key: &Key, observed: &Observed, fresh: &Fresh, now: Timestamp) -> Result<Identity, NoIdentity> {
    let spec = &observed.cluster.spec;
    let view = View::of(observed, &Default::default(), now);
    let doomed = doomed(key, observed);
    if !doomed.is_empty() {
        let names = doomed.join(", ");
        return Err(NoIdentity::Yet(format!("the disks {names} are deleted with an earlier cluster")));
    }
    let disks = || view.claims.values().filter(|claim| !claim.terminating);
    // Those that removed brokers left say nothing: nobody starts on their data.
    let live = || view.claims.iter().filter(|(_, c)| !c.terminating && c.cluster_id.is_some() && c.retired.is_empty());
    let left: BTreeSet<&String> = live().filter_map(|(_, claim)| claim.cluster_id.as_ref()).collect();
    let retired: BTreeSet<String> = disks().flat_map(|claim| claim.retired.iter().cloned()).collect();
    let retired: Vec<String> = retired.into_iter().collect();
    let voters: Vec<i32> = (1..=spec.voters()).collect();
    if left.len() > 1 {
        let ids = left.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(NoIdentity::Wrong(format!("the disks named data-{}-* are of different clusters: {ids}", key.name)));
    }
    let Some(cluster_id) = left.into_iter().next() else {
        return Ok(Identity {
            cluster_id: fresh.cluster_id.clone(),
            bootstrap: BootstrapStatus { voters, completed_at: None },
            retired,
        });
    };
    let highest = live().map(|(node, _)| node.0).max().unwrap_or(0);
    let (found, voters_then) = (count(live()), spec.voters_among(highest));
    if found <= voters_then / 2 {
        let missing: Vec<String> = (1..=highest)
            .map(NodeId)
            .filter(|node| !view.claims.contains_key(node))
            .map(|node| node.claim(&key.name))
            .collect();
        return Err(NoIdentity::Wrong(format!(
            "of the disks of the earlier cluster {cluster_id} only {found} are left, too few for a majority of its {voters_then} voters: bring \
             back {}, or delete the others as well to begin with an empty cluster",
            missing.join(", ")
        )));
    }
    if let Some(missing) = (1..=highest).map(NodeId).find(|node| !view.claims.contains_key(node)) {
        tracing::warn!(cluster = %key, disk = %missing.claim(&key.name), "a disk of the earlier cluster is missing; its broker joins empty");
    }
    Ok(Identity {
        cluster_id: cluster_id.clone(),
        bootstrap: BootstrapStatus { voters, completed_at: Some(Time(now)) },
        retired,
    })
}

/// Claims that go with a StatefulSet that is not there any more, or is another cluster's and goes with that: nobody may have deleted them
/// yet, and their data does not count.
fn doomed<'a>(key: &Key, observed: &'a Observed) -> Vec<&'a str> {
    let uid = observed.cluster.metadata.uid.as_deref().unwrap_or_default();
    let stays = |meta: &ObjectMeta| meta.deletion_timestamp.is_none() && is_ours(meta, uid, &key.name);
    let sets = observed.children.objects.iter();
    let sets = sets.filter(|object| object.kind() == Kind::StatefulSet && stays(object.meta()));
    let alive: BTreeSet<&str> = sets.filter_map(|set| set.meta().uid.as_deref()).collect();
    let gone = |owner: &&OwnerReference| owner.kind == "StatefulSet" && !alive.contains(owner.uid.as_str());
    let claims = observed.children.claims.iter().map(|claim| &claim.metadata);
    let doomed = claims.filter(|meta| meta.owner_references.iter().flatten().any(|owner| gone(&owner)));
    doomed.filter_map(|meta| meta.name.as_deref()).collect()
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{ChronikCluster, ChronikClusterSpec};
    use crate::ports::{Children, Expansion, Object};

    /// Of a cluster of three, with these disks: ordinal, whose they are, and what was retired on them.
    fn found(disks: &[(i32, &str, &str)]) -> Result<(String, bool, Vec<String>), String> {
        identified(disks, &json!([]))
    }

    /// The same, with disks that have these owners.
    fn identified(disks: &[(i32, &str, &str)], owners: &Value) -> Result<(String, bool, Vec<String>), String> {
        beside(disks, owners, Vec::new())
    }

    /// The same, beside other children.
    fn beside(
        disks: &[(i32, &str, &str)],
        owners: &Value,
        objects: Vec<Object>,
    ) -> Result<(String, bool, Vec<String>), String> {
        let claims = disks.iter().map(|(ordinal, cluster, retired)| {
            let annotations = json!({ "chronik.io/cluster-id": cluster, "chronik.io/retired": retired });
            let name = format!("data-x-{ordinal}");
            let metadata = json!({ "name": name, "annotations": annotations, "ownerReferences": owners });
            serde_json::from_value::<PersistentVolumeClaim>(json!({ "metadata": metadata })).unwrap()
        });
        let observed = Observed {
            cluster: ChronikCluster::new("x", ChronikClusterSpec::default()),
            children: Children { claims: claims.collect(), objects, ..Children::default() },
            brokers: Default::default(),
            expansion: Expansion::Unknown,
            growth_refused: None,
        };
        let fresh = Fresh { cluster_id: "fresh".into(), token: String::new() };
        let identity = identity(&Key::new("n", "x"), &observed, &fresh, Timestamp::UNIX_EPOCH);
        let identity = identity.map_err(|none| match none {
            NoIdentity::Wrong(why) => why,
            NoIdentity::Yet(why) => format!("not yet: {why}"),
        })?;
        Ok((identity.cluster_id, identity.bootstrap.completed_at.is_some(), identity.retired))
    }

    #[test]
    fn a_cluster_goes_on_with_the_disks_that_an_earlier_one_left() {
        assert_eq!(found(&[]), Ok(("fresh".into(), false, vec![])));
        let left = [(0, "old", ""), (1, "old", ""), (2, "old", "")];
        assert_eq!(found(&left), Ok(("old".into(), true, vec![])));
        assert_eq!(found(&left[1..]), Ok(("old".into(), true, vec![])), "two of three voters know everything");
        let problem = found(&left[2..]).unwrap_err();
        assert!(problem.contains("only 1 are left") && problem.contains("data-x-0, data-x-1"), "{problem}");
        assert!(found(&[(0, "old", ""), (1, "other", "")]).unwrap_err().contains("of different clusters"));
    }

    #[test]
    fn what_removed_brokers_left_founds_nothing_and_keeps_nobody_from_founding() {
        let leftovers = [(3, "old", "d3"), (4, "old", "d4")];
        assert_eq!(found(&leftovers), Ok(("fresh".into(), false, vec!["d3".into(), "d4".into()])));
    }

    #[test]
    fn nobody_goes_on_with_disks_that_are_about_to_be_deleted() {
        let disks = [(0, "old", ""), (1, "old", ""), (2, "old", "")];
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x", "uid": "s" }]);
        let expected =
            Err("not yet: the disks data-x-0, data-x-1, data-x-2 are deleted with an earlier cluster".to_owned());
        assert_eq!(identified(&disks, &owner), expected, "the StatefulSet is gone");
        let set = |owner: &str| {
            let owner = json!([{ "apiVersion": "chronik.io/v1alpha1", "kind": "ChronikCluster", "name": "x", "uid": owner, "controller": true }]);
            let meta = json!({ "name": "x", "uid": "s", "ownerReferences": owner });
            vec![Object::StatefulSet(serde_json::from_value(json!({ "metadata": meta })).unwrap())]
        };
        assert_eq!(
            beside(&disks, &owner, set("an earlier one")),
            expected,
            "it is there still, and goes with its cluster"
        );
        assert_eq!(beside(&disks, &owner, set("")), Ok(("old".into(), true, vec![])), "our own");
    }
}
