//! Says what an operator must never do, at the moment it does it.
//!
//! [`crate::client`] asks before each act, [`crate::world`] after each step. An operator cannot know what happened a moment ago: it is judged by what
//! had been so since before its pass began, and by the object that it was shown.
//!
//! The rules; `tests/judge.rs` breaks each of them by hand:
//! - paused or absent: nothing is written but the status; at most one disruptive act per pass;
//! - the StatefulSet grows only to what is wanted, shrinks by one, at rest, only by a drained broker that votes no more, never under
//!   `scaleDown.policy: Block`, and is deleted only around its pods; stopped, it goes to nothing at once;
//! - the budget of evictions is nothing while stopping a broker would harm (known since before the pass);
//! - a pod is deleted while no other that the operator stopped is away, while stopping it harms neither the quorum nor a partition (known since
//!   before the pass), not while it leads the quorum, not unapproved under a manual policy, and never without an event;
//! - only brokers that go are cordoned, removed from the quorum and forgotten; voters are caught up and as many as are wanted;
//! - claims and their records outlive everything but what the user said; acknowledged records and committed metadata are somewhere; a
//!   cluster is founded once, brokers are told so, and who it is never changes; what another controls is not applied;
//! - `since` and `startedAt` stay, what is well is left alone for a hundred passes, and in the end ([`crate::settled`]) the cluster is as
//!   specified or names what holds it.

mod frozen;

use std::collections::{BTreeMap, BTreeSet};

use chronik_operator::api::{
    APPROVED_REVISION_ANNOTATION, ChronikClusterStatus, RetentionPolicy, RolloutPolicy, UpgradePolicy,
};
use chronik_operator::ports::{Kind, Object, ObjectRef, Propagation, QuorumChange};

use crate::brokers::Id;
use crate::kubernetes::{NAME, revision};
use crate::world::{Pass, World};

/// What the judge remembers.
#[derive(Debug, Default)]
pub struct Judge {
    /// The first thing that was wrong.
    pub violation: Option<String>,
    /// Brokers that the operator stopped and that have not been ready since, and when.
    down: BTreeMap<Id, u64>,
    /// Replicas of the StatefulSet when it last existed.
    set_replicas: Option<i32>,
    deleted: Option<RetentionPolicy>,
    /// Uids of the claims that the operator deleted.
    let_go: BTreeSet<String>,
    refused_at: Option<u64>,
}

impl Judge {
    /// Somebody deleted the StatefulSet: how large it was no longer counts.
    pub const fn set_deleted(&mut self) {
        self.set_replicas = None;
    }

    /// The user deleted the ChronikCluster: what its objects did no longer counts.
    pub fn cluster_deleted(&mut self, disks: RetentionPolicy) {
        self.deleted = Some(disks);
        self.set_replicas = None;
        self.down.clear();
    }
}

fn ordinal(pod: &str) -> Option<i32> {
    pod.strip_prefix(NAME)?.strip_prefix('-')?.parse().ok()
}

impl World {
    fn wrong(&mut self, what: String) {
        self.tell("judge", format_args!("{what}"));
        self.judge.violation.get_or_insert(what);
    }

    fn pass(&mut self, operator: usize) -> Pass {
        self.passes.entry(operator).or_default().clone()
    }

    /// A call to the brokers; whether it counts as a write.
    pub fn count_call(&mut self, operator: usize, counts: bool) {
        if counts {
            self.passes.entry(operator).or_default().writes += 1;
        }
    }

    /// Paused means that nothing is changed.
    pub fn judge_paused(&mut self, operator: usize, what: &str) {
        match self.passes.entry(operator).or_default().cluster.as_ref().map(|cluster| cluster.spec.paused) {
            Some(true) => self.wrong(format!("the cluster is paused and the operator {what}")),
            Some(false) => {}
            None => self.wrong(format!("there is no cluster and the operator {what}")),
        }
    }

    /// Any write to Kubernetes but the status.
    pub fn judge_write(&mut self, operator: usize, what: &str) {
        self.passes.entry(operator).or_default().writes += 1;
        self.judge_paused(operator, what);
    }

    /// A claim was patched. Where classes cannot be read, one that cannot grow is asked now and then all the same.
    pub fn judge_patch(&mut self, operator: usize, refused: bool) {
        // A few times within moments are one time: nobody counts passes.
        let ago = self.judge.refused_at.map(|at| self.now.saturating_sub(at));
        let often = ago.is_some_and(|ago| (20_000..500_000).contains(&ago));
        if refused && ago.is_none_or(|ago| ago >= 20_000) {
            self.judge.refused_at = Some(self.now);
        }
        if !refused || often {
            self.passes.entry(operator).or_default().writes += 1;
        }
    }

    /// A disruptive act: at most one per pass.
    fn disrupt(&mut self, operator: usize, what: &str) {
        let pass = self.passes.entry(operator).or_default();
        pass.disruptions += 1;
        if pass.disruptions > 1 {
            self.wrong(format!("the second disruptive act of one pass: it {what}"));
        }
    }

    /// Children are applied.
    pub fn judge_apply(&mut self, operator: usize, object: &Object) {
        self.judge_write(operator, &format!("applies {}", object.reference()));
        self.judge_owner(operator, object);
        self.judge_address_book(operator, object);
        let Object::StatefulSet(set) = object else { return };
        let Some(new) = set.spec.as_ref().and_then(|spec| spec.replicas) else { return };
        let pass = self.pass(operator);
        let Some(cluster) = pass.cluster else { return };
        let conflicts = self.kube.stateful_set().is_some_and(|live| {
            let (wanted, live) = (&set.metadata, &live.metadata);
            wanted.uid.is_some() && wanted.uid != live.uid
                || wanted.resource_version.is_some() && wanted.resource_version != live.resource_version
        });
        if conflicts {
            return;
        }
        let old = self.judge.set_replicas.unwrap_or(0);
        self.judge.set_replicas = Some(new);
        if cluster.spec.stopped || new == old {
            if cluster.spec.stopped && new != 0 && new != old {
                self.wrong(format!("the cluster is stopped and goes from {old} to {new} replicas"));
            }
            return;
        }
        // One that is made anew may have to take brokers along that still hold data, and so may one that somebody else shrank.
        let there = self.kube.stateful_set().is_some();
        let counts = self.brokers.replica_counts();
        let returns = self.brokers.quorum.is_member(new) || counts.get(&new).is_some_and(|held| *held > 0);
        if there && new > old && old > 0 && new > cluster.spec.replicas && !returns {
            self.wrong(format!("the StatefulSet grows from {old} to {new}, and {} are wanted", cluster.spec.replicas));
        }
        if new < old {
            self.disrupt(operator, "shrinks");
            self.judge_shrink(old, new, cluster.spec.replicas);
            self.judge_at_rest(operator, old);
        }
    }

    fn judge_shrink(&mut self, old: i32, new: i32, wanted: i32) {
        if new != old - 1 {
            return self.wrong(format!("the StatefulSet shrinks from {old} to {new} at once"));
        }
        let victim = old;
        // Once it has left the quorum, its removal is finished whatever is wanted by then.
        if new < wanted && self.brokers.quorum.is_member(victim) {
            return self.wrong(format!("the StatefulSet shrinks to {new}, and {wanted} are wanted"));
        }
        let held = self.brokers.replica_counts().get(&victim).copied().unwrap_or(0);
        if held > 0 {
            return self.wrong(format!("broker {victim} is shrunk away with {held} replicas"));
        }
        if self.brokers.quorum.voters.contains(&victim) {
            let voters = &self.brokers.quorum.voters;
            self.wrong(format!("broker {victim} is shrunk away and is one of the voters {voters:?}"));
        }
    }

    /// Children are deleted.
    pub fn judge_delete(&mut self, operator: usize, object: &ObjectRef, propagation: Propagation) {
        self.judge_write(operator, &format!("deletes {object}"));
        if object.kind == Kind::StatefulSet && propagation != Propagation::Orphan {
            self.wrong("the StatefulSet is deleted with its pods".into());
        }
    }

    /// A pod is deleted that exists and was not told to end before.
    pub fn judge_delete_pod(&mut self, operator: usize, name: &str) {
        self.judge_write(operator, &format!("deletes pod {name}"));
        let Some(id) = ordinal(name).map(|n| n + 1) else { return self.wrong(format!("it deletes the pod {name}")) };
        let pass = self.pass(operator);
        if !self.brokers.serves(id) {
            return;
        }
        self.disrupt(operator, "deletes a pod");
        if let Some((other, since)) = self.judge.down.iter().find(|(other, _)| **other != id) {
            let since = since / 1000;
            self.wrong(format!("broker {id} is stopped while {other}, stopped at {since} s, has not been ready again"));
        }
        if let Some((since, why)) = self.brokers.harmful_since.get(&id).cloned()
            && since < pass.began
        {
            self.wrong(format!("broker {id} is stopped although {why} (for {} ms)", self.now - since));
        }
        self.judge_order(id, &pass);
        self.judge_manual(name, &pass);
        self.judge.down.insert(id, self.now);
    }

    /// The leader of the quorum goes last, and does not lead any more when it goes.
    fn judge_order(&mut self, id: Id, pass: &Pass) {
        let quorum = &self.brokers.quorum;
        let leads = quorum.leader == Some(id) && self.brokers.leader_since < pass.began;
        if leads && quorum.voters.len() > 1 {
            self.wrong(format!("broker {id} is stopped while it leads the quorum"));
        }
    }

    /// Under a manual policy no healthy pod is replaced that was not approved.
    fn judge_manual(&mut self, name: &str, pass: &Pass) {
        let Some(cluster) = &pass.cluster else { return };
        let spec = &cluster.spec;
        if spec.rollout.policy != RolloutPolicy::Manual && spec.upgrade_policy != UpgradePolicy::Manual {
            return;
        }
        let approved = cluster.metadata.annotations.as_ref().and_then(|a| a.get(APPROVED_REVISION_ANNOTATION));
        let template = self.kube.template_revision();
        // One that has the template already gets nothing new by it.
        let same =
            self.kube.pods.get(name).is_some_and(|pod| revision(pod.pod.metadata.annotations.as_ref()) == template);
        if approved.cloned() != template && !same {
            self.wrong(format!("pod {name} is restarted and nobody approved it"));
        }
    }

    /// Cordons.
    pub fn judge_cordon(&mut self, operator: usize, id: Id, cordoned: bool) {
        self.judge_paused(operator, "cordons");
        if let Some(cluster) = self.pass(operator).cluster
            && cordoned
            && id <= cluster.spec.replicas
        {
            self.wrong(format!("broker {id} of {} is cordoned", cluster.spec.replicas));
        }
    }

    /// Members of the quorum.
    pub fn judge_quorum(&mut self, operator: usize, change: QuorumChange) {
        self.judge_paused(operator, "changes the quorum");
        let pass = self.pass(operator);
        let Some(cluster) = pass.cluster else { return };
        let (wanted, voters) = (cluster.spec.replicas, cluster.spec.voters());
        let quorum = self.brokers.quorum.clone();
        let votes = i32::try_from(quorum.voters.len()).unwrap_or(i32::MAX);
        let staying = i32::try_from(quorum.voters.iter().filter(|id| **id <= wanted).count()).unwrap_or(i32::MAX);
        match change {
            QuorumChange::Promote(node) => {
                let since = self.brokers.lagging_since.get(&node.0).copied();
                if node.0 > wanted {
                    self.wrong(format!("broker {node} is to go and becomes a voter"));
                } else if since.is_some_and(|since| since < pass.began) {
                    self.wrong(format!("learner {node} becomes a voter and has not caught up"));
                } else if quorum.learners.contains(&node.0) && staying >= voters {
                    self.wrong(format!("{staying} voters become more, and {voters} are wanted"));
                }
            }
            QuorumChange::Remove(node) if quorum.voters.contains(&node.0) => {
                if node.0 <= wanted && votes <= voters {
                    self.wrong(format!(
                        "voter {node} of {votes} is removed, and {voters} are wanted of {wanted} brokers"
                    ));
                }
            }
            QuorumChange::Demote(node) if quorum.voters.contains(&node.0) => {
                let replicas = pass.set_replicas.unwrap_or(0).max(wanted);
                let most = cluster.spec.voters_among(replicas);
                if votes <= most {
                    self.wrong(format!("voter {node} of {votes} becomes a learner, and {most} are wanted"));
                } else if node.0 <= wanted && staying <= voters.min(replicas) {
                    self.wrong(format!(
                        "voter {node} stays and becomes a learner, and so are only {staying} of {voters}"
                    ));
                }
            }
            QuorumChange::Remove(_) | QuorumChange::Demote(_) | QuorumChange::TransferLeader(_) => {}
        }
    }

    /// A broker is forgotten.
    pub fn judge_unregister(&mut self, operator: usize, id: Id) {
        self.judge_paused(operator, "unregisters a broker");
        let there = self.kube.stateful_set().and_then(|set| set.spec.as_ref()?.replicas).is_some_and(|n| id <= n);
        if there && self.brokers.serves(id) {
            self.wrong(format!("broker {id} is forgotten and is there"));
        }
    }

    /// `since` stays while a gate holds.
    pub fn judge_status(&mut self, operator: usize, version: &str, status: &ChronikClusterStatus) {
        self.passes.entry(operator).or_default().writes += 1;
        // One that is out of date will be refused.
        let Some(live) = &self.kube.cluster else { return };
        if live.metadata.resource_version.as_deref() != Some(version) {
            return;
        }
        let stored = live.status.clone();
        if let Some(stored) = &stored {
            self.judge_identity(stored, status);
        }
        let before = stored.and_then(|status| status.operation);
        let (Some(old), Some(new)) = (before, &status.operation) else { return };
        if old.kind != new.kind || old.node_id != new.node_id {
            return;
        }
        for held in &new.blocked_by {
            let earlier = old.blocked_by.iter().find(|earlier| earlier.gate == held.gate);
            if let Some(earlier) = earlier
                && earlier.since != held.since
            {
                self.wrong(format!("{} has held since {:?} and now says {:?}", held.gate, earlier.since, held.since));
            }
        }
        if old.kind == new.kind
            && old.node_id == new.node_id
            && old.started_at != new.started_at
            && old.step == new.step
        {
            self.wrong(format!("{:?} began at {:?} and now says {:?}", new.kind, old.started_at, new.started_at));
        }
    }

    /// A claim is deleted that exists.
    pub fn judge_delete_claim(&mut self, operator: usize, name: &str, uid: &str) {
        self.judge_write(operator, &format!("deletes claim {name}"));
        let there = self.kube.claims.get(name).is_some_and(|claim| claim.uid() == uid);
        let Some(cluster) = self.pass(operator).cluster.filter(|_| there) else { return };
        if cluster.spec.storage.retention.when_scaled != RetentionPolicy::Delete {
            return self.wrong(format!("claim {name} is deleted and was to be retained"));
        }
        let replicas = self.kube.stateful_set().and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
        let id = name.strip_prefix("data-").and_then(ordinal).map_or(0, |n| n + 1);
        if id <= replicas || self.brokers.quorum.is_member(id) || self.brokers.serves(id) {
            self.wrong(format!("claim {name} is deleted, and {replicas} brokers are there"));
        }
        self.judge.let_go.insert(uid.to_owned());
    }

    /// A claim is gone, whoever deleted it.
    pub fn judge_lost_claim(&mut self, name: &str, uid: &str) {
        let Some(id) = name.strip_prefix("data-").and_then(ordinal).map(|n| n + 1) else { return };
        if self.judge.deleted == Some(RetentionPolicy::Delete) {
            return;
        }
        // What the plan deleted was judged then, and may end after the cluster.
        if self.kube.cluster.is_none() && !self.judge.let_go.contains(uid) {
            return self.wrong(format!("claim {name} went with the cluster and should have been retained"));
        }
        let held = self.brokers.replica_counts().get(&id).copied().unwrap_or(0);
        if held > 0 || self.brokers.quorum.voters.contains(&id) {
            self.wrong(format!("claim {name} is gone with {held} replicas, voters {:?}", self.brokers.quorum.voters));
        }
    }

    /// After each step.
    pub fn judge_step(&mut self) {
        if let Some(damage) = self.brokers.damage.clone()
            && self.judge.violation.is_none()
        {
            self.wrong(damage);
        }
        let ready: Vec<Id> = self.judge.down.keys().copied().filter(|id| self.brokers.ready(*id)).collect();
        for id in ready {
            self.judge.down.remove(&id);
        }
        // Not that of a cluster which was deleted, and which is on its way out.
        let cluster = self.kube.cluster.as_ref().and_then(|cluster| cluster.metadata.uid.clone());
        let set = self.kube.stateful_set().filter(|set| {
            let owners = set.metadata.owner_references.as_deref().unwrap_or_default();
            owners.is_empty() || owners.iter().any(|owner| Some(&owner.uid) == cluster.as_ref())
        });
        if let Some(replicas) = set.and_then(|set| set.spec.as_ref()?.replicas) {
            self.judge.set_replicas = Some(replicas);
            self.judge.down.retain(|id, _| *id <= replicas);
        }
        if self.kube.cluster.is_some() && self.brokers.quorum.leader.is_some() {
            self.judge.deleted = None;
        }
    }
}
