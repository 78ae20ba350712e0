//! Moves of replicas and leaderships on request: reassignments (KIP-455) and hand-overs.
//!
//! A reassignment begins, is replaced and is cancelled here. It ends in [`Transition`], as part of whatever change lets
//! the in-sync set be large enough: mostly an AlterPartition by which the last added replica joins.
//!
//! What never happens: a broker that is registered nowhere, or that is cordoned and does not hold the partition yet,
//! becomes a replica; a replica that is known to hold every acknowledged record is dropped while fewer in-sync ones than
//! have to be are left.

use std::collections::BTreeSet;

use chronik_model::{ErrorCode, NodeId, mutant};

use super::apply::{Context, Outcome};
use super::election::{Assigned, Preference, Transition};
use super::movement::{AlterReassignments, MoveLeaders, Reassignment};
use super::result::{CommandError, CommandResult, ReassignmentOutcome};
use super::state::{MetadataState, Topic};
use crate::PartitionState;

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl MetadataState {
    pub(super) fn alter_reassignments(&mut self, command: &AlterReassignments, context: &mut Context) -> Outcome {
        let outcomes = command.reassignments.iter().map(|wanted| {
            let outcome = self.reassign(wanted, command.keep_replication_factor, context);
            let (code, message) = match outcome {
                Ok(()) => (ErrorCode::None, String::new()),
                Err(error) => (error.code, error.message),
            };
            ReassignmentOutcome { topic_id: wanted.topic_id, partition: wanted.partition, code, message }
        });
        Ok(CommandResult::Reassignments(outcomes.collect()))
    }

    fn reassign(
        &mut self,
        wanted: &Reassignment,
        keep_factor: bool,
        context: &mut Context,
    ) -> Result<(), CommandError> {
        let Some(topic) = self.topic_by_id(wanted.topic_id) else {
            return refuse(ErrorCode::UnknownTopicId, format!("no topic has the id {}", wanted.topic_id));
        };
        let name = topic.name.clone();
        let Some(state) = topic.partition(wanted.partition) else {
            let message = format!("topic {name} has no partition {}", wanted.partition);
            return refuse(ErrorCode::UnknownTopicOrPartition, message);
        };
        if let Some(expected) = wanted.partition_epoch.filter(|expected| *expected != state.partition_epoch) {
            let message = format!("the partition epoch is {}, not {expected}", state.partition_epoch);
            return refuse(ErrorCode::InvalidUpdateVersion, message);
        }
        let assigned = match &wanted.target {
            Some(target) => {
                self.check_target(state, &target.replicas, keep_factor)?;
                Assigned::towards(state, &target.replicas)
            }
            None if !state.is_reassigning() => {
                let message = format!("no reassignment of {name}-{} is under way", wanted.partition);
                return refuse(ErrorCode::NoReassignmentInProgress, message);
            }
            None => Assigned::towards(state, &state.original_replicas()),
        };
        let mut isr: Vec<NodeId> = state.isr.iter().copied().filter(|node| assigned.replicas.contains(node)).collect();
        let holds =
            |node: &NodeId| [&state.isr, &state.elr, &state.last_known_elr].iter().any(|all| all.contains(node));
        let dropped = state.replicas.iter().find(|node| holds(node) && !assigned.replicas.contains(node));
        if let Some(dropped) = dropped.filter(|_| isr.is_empty()) {
            let message = format!(
                "broker {dropped} cannot be dropped from {name}-{}: no other replica is in sync",
                wanted.partition
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        // What was acknowledged since an added replica joined may be on no other disk than on those in sync.
        let least = state.min_isr(self.partition_rules().min_isr(topic));
        let lost = state.isr.iter().find(|node| !assigned.replicas.contains(node));
        if let Some(dropped) = lost.filter(|_| isr.len() < least) {
            let message = format!(
                "broker {dropped} is in sync and cannot be dropped from {name}-{} yet: without it {} would be, and {least} have to",
                wanted.partition,
                isr.len()
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        if mutant!(CancelTrustsAll) && wanted.target.is_none() && !isr.is_empty() {
            isr.clone_from(&assigned.replicas);
        }
        let next = self.moved(topic, state, isr, Some(assigned), Preference::Keep);
        if let Some(next) = next {
            self.replace(&name, wanted.partition, next, context);
        }
        Ok(())
    }

    fn check_target(&self, state: &PartitionState, target: &[NodeId], keep_factor: bool) -> Result<(), CommandError> {
        let bad = |message: String| refuse(ErrorCode::InvalidReplicaAssignment, message);
        let unique: BTreeSet<NodeId> = target.iter().copied().collect();
        if target.is_empty() || unique.len() != target.len() {
            return bad("an assignment needs at least one broker, and each at most once".to_owned());
        }
        for node in target {
            let Some(broker) = self.broker(*node) else {
                return bad(format!("broker {node} of the assignment is not registered"));
            };
            // As for a broker whose directories are all cordoned (KIP-1066).
            if broker.cordoned && !state.replicas.contains(node) {
                return bad(format!("broker {node} is cordoned: it gets no further replicas"));
            }
        }
        let factor = state.replication_factor();
        if keep_factor && target.len() != factor {
            let message = format!("the partition has {factor} replicas, the assignment {}", target.len());
            return refuse(ErrorCode::InvalidReplicationFactor, message);
        }
        Ok(())
    }

    /// Hands over what the broker leads. It stays in sync, so that an election may give it back.
    pub(super) fn move_leaders(&mut self, command: MoveLeaders, context: &mut Context) -> Outcome {
        let node = command.node;
        if self.broker(node).is_none() {
            return refuse(ErrorCode::BrokerIdNotRegistered, format!("broker {node} is not registered"));
        }
        let led: Vec<_> = self.partitions_led_by(node).map(|(topic, index, _)| (topic.name.clone(), index)).collect();
        let (mut moved, mut left) = (0, 0);
        for (name, index) in led {
            let found = self.topic(name.as_str()).and_then(|topic| Some((topic, topic.partition(index)?)));
            let Some((topic, state)) = found else { continue };
            let next = self.moved(topic, state, state.isr.clone(), None, Preference::Away(node));
            match next.filter(|next| next.leader != Some(node)) {
                Some(next) => {
                    self.replace(&name, index, next, context);
                    moved += 1;
                }
                None => left += 1,
            }
        }
        Ok(CommandResult::LeadersMoved { moved, left })
    }

    fn moved(
        &self,
        topic: &Topic,
        state: &PartitionState,
        isr: Vec<NodeId>,
        assigned: Option<Assigned>,
        preference: Preference,
    ) -> Option<PartitionState> {
        let rules = self.partition_rules();
        Transition {
            active: &self.active_brokers(),
            isr,
            min_isr: rules.min_isr(topic),
            unclean: false,
            doubt: None,
            preference,
            assigned,
        }
        .apply(state)
    }
}
