//! Changes of existing partitions: AlterPartition (R2), elections (R10), and what the life of a broker does to all
//! partitions that it hosts.

use std::collections::BTreeSet;

use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, PartitionIndex, TopicName, mutant};

use super::apply::{Change, Context, Outcome};
use super::command::{AlterPartition, ElectLeaders, ElectionType, ReportLog};
use super::election::{Doubt, Preference, Transition};
use super::result::{CommandError, CommandResult, ElectionOutcome};
use super::state::{MetadataState, Topic, index_of};
use crate::{LeaderRecovery, LogReport, PartitionState};

/// Why partitions change, when it is not their leader who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// The broker cannot lead or be in sync any more; its log is still good.
    Lost(NodeId),
    /// The broker's log cannot be trusted any more: it may have lost its end.
    Distrusted(NodeId),
    /// The broker has another disk: its log is gone.
    Replaced(NodeId),
    /// The broker wants to stop and leaves where others can take over.
    Leaving(NodeId),
    /// The broker can be elected again.
    Returned(NodeId),
}

impl Cause {
    fn concerns(self, state: &PartitionState, active: &BTreeSet<NodeId>) -> bool {
        match self {
            Self::Lost(node) => state.isr.contains(&node),
            Self::Distrusted(node) => state.isr.contains(&node) || state.elr.contains(&node),
            Self::Replaced(node) => {
                [&state.isr, &state.elr, &state.last_known_elr].iter().any(|nodes| nodes.contains(&node))
            }
            Self::Leaving(node) => state.isr.contains(&node) && state.isr.iter().any(|other| active.contains(other)),
            Self::Returned(node) => state.leader.is_none() && state.replicas.contains(&node),
        }
    }

    fn leaver(self) -> Option<NodeId> {
        match self {
            Self::Lost(node) | Self::Distrusted(node) | Self::Replaced(node) | Self::Leaving(node) => Some(node),
            Self::Returned(_) => None,
        }
    }
}

fn changed(topic: &Topic, position: usize, state: PartitionState, previous: PartitionState) -> Change {
    Change::Partition {
        topic: topic.name.clone(),
        topic_id: topic.id,
        partition: index_of(position),
        state,
        previous: Some(previous),
    }
}

impl MetadataState {
    /// Changes every partition of `only` (or of all topics) as `decide` says.
    fn update(
        &mut self,
        context: &mut Context,
        only: Option<&TopicName>,
        decide: impl Fn(&Topic, &PartitionState) -> Option<PartitionState>,
    ) {
        let range = match only {
            Some(name) => self.topics.range_mut(name.clone()..=name.clone()),
            None => self.topics.range_mut::<TopicName, _>(..),
        };
        for (_, topic) in range {
            for position in 0..topic.partitions.len() {
                if let Some(next) = decide(topic, &topic.partitions[position]) {
                    let previous = std::mem::replace(&mut topic.partitions[position], next.clone());
                    context.changes.push(changed(topic, position, next, previous));
                }
            }
        }
    }

    /// Lets the partitions follow a change of a broker, which is already in the state.
    pub(super) fn follow_broker(&mut self, cause: Cause, context: &mut Context) {
        let active = self.active_brokers();
        let rules = self.partition_rules();
        self.update(context, None, |topic, state| {
            if !cause.concerns(state, &active) {
                return None;
            }
            let leaver = cause.leaver();
            Transition {
                active: &active,
                isr: state.isr.iter().copied().filter(|node| Some(*node) != leaver).collect(),
                min_isr: rules.min_isr(topic),
                unclean: rules.unclean(topic),
                doubt: match cause {
                    Cause::Distrusted(node) => Some(Doubt::Killed(node)),
                    Cause::Replaced(node) => Some(Doubt::Replaced(node)),
                    Cause::Lost(_) | Cause::Leaving(_) | Cause::Returned(_) => None,
                },
                preference: Preference::Keep,
                assigned: None,
            }
            .apply(state)
        });
    }

    /// Forgets what `node` told of its logs: it registers anew, and they may be others now.
    pub(super) fn forget_reports(&mut self, node: NodeId, context: &mut Context) {
        self.update(context, None, |_, state| {
            state.report_of(node)?;
            let mut next = state.clone();
            next.reports.retain(|report| report.node != node);
            next.partition_epoch.0 = next.partition_epoch.0.saturating_add(1);
            Some(next)
        });
    }

    /// A replica tells how far its log goes, so that the longest one can be elected. Whoever asks too late, when there
    /// is a leader, has nothing to tell any more.
    pub(super) fn report_log(&mut self, command: &ReportLog, context: &mut Context) -> Outcome {
        let refuse = |code: ErrorCode, message: String| Err(CommandError::new(code, message));
        self.registered(command.node, command.broker_epoch)?;
        let Some(topic) = self.topic_by_id(command.topic_id) else {
            return refuse(ErrorCode::UnknownTopicId, format!("no topic has the id {}", command.topic_id));
        };
        let name = topic.name.clone();
        let Some(state) = topic.partition(command.partition) else {
            let message = format!("topic {name} has no partition {}", command.partition);
            return refuse(ErrorCode::UnknownTopicOrPartition, message);
        };
        if command.log_end.0 < 0 || command.last_epoch < LeaderEpoch::NONE {
            let message = format!("a log cannot end at {} in epoch {}", command.log_end, command.last_epoch);
            return refuse(ErrorCode::InvalidRequest, message);
        }
        if state.leader.is_some() {
            return Ok(CommandResult::Done);
        }
        if command.leader_epoch != state.leader_epoch {
            // Since then somebody led, and the log may have been cut to what that one had.
            let message = format!("the leader epoch is {}, not {}", state.leader_epoch, command.leader_epoch);
            return refuse(ErrorCode::FencedLeaderEpoch, message);
        }
        if !state.last_known_elr.contains(&command.node) {
            let message = format!("the log of broker {} does not count for {name}-{}", command.node, command.partition);
            return refuse(ErrorCode::InvalidRequest, message);
        }
        let report = LogReport {
            node: command.node,
            broker_epoch: command.broker_epoch,
            last_epoch: command.last_epoch,
            log_end: command.log_end,
        };
        if state.report_of(command.node) == Some(&report) {
            return Ok(CommandResult::Done);
        }
        let mut told = state.clone();
        told.reports.retain(|other| other.node != command.node);
        told.reports.push(report);
        let active = self.active_brokers();
        let rules = self.partition_rules();
        let transition = Transition {
            active: &active,
            isr: state.isr.clone(),
            min_isr: rules.min_isr(topic),
            unclean: false,
            doubt: None,
            preference: Preference::Keep,
            assigned: None,
        };
        let next = transition.apply(&told).unwrap_or_else(|| {
            told.partition_epoch.0 = told.partition_epoch.0.saturating_add(1);
            told
        });
        self.replace(&name, command.partition, next, context);
        Ok(CommandResult::Done)
    }

    /// R12: with a lower min.insync.replicas enough may be in sync to go on, and then who is out of sync misses what is
    /// acknowledged from now on. Where too few are in sync by the new one, too, nothing is acknowledged, and who was eligible
    /// stays so: to forget them, as Kafka does, may leave nobody who may ever lead. Partitions without a leader keep their
    /// candidates: nothing can be acknowledged there until one of them leads.
    pub(super) fn follow_min_isr(&mut self, only: Option<&TopicName>, context: &mut Context) {
        let active = self.active_brokers();
        let rules = self.partition_rules();
        self.update(context, only, |topic, state| {
            state.leader?;
            Transition {
                active: &active,
                isr: state.isr.clone(),
                min_isr: rules.min_isr(topic),
                unclean: false,
                doubt: None,
                preference: Preference::Keep,
                assigned: None,
            }
            .apply(state)
        });
    }

    /// Elects where there is no leader, after unclean elections were allowed.
    pub(super) fn follow_unclean(&mut self, only: Option<&TopicName>, context: &mut Context) {
        let active = self.active_brokers();
        let rules = self.partition_rules();
        self.update(context, only, |topic, state| {
            if state.leader.is_some() {
                return None;
            }
            Transition {
                active: &active,
                isr: state.isr.clone(),
                min_isr: rules.min_isr(topic),
                unclean: rules.unclean(topic),
                doubt: None,
                preference: Preference::Keep,
                assigned: None,
            }
            .apply(state)
        });
    }

    /// R2: the checks in Kafka's order, then the change.
    pub(super) fn alter_partition(&mut self, command: &AlterPartition, context: &mut Context) -> Outcome {
        let refuse = |code: ErrorCode, message: String| Err(CommandError::new(code, message));
        self.registered(command.node, command.broker_epoch)?;
        let Some(topic) = self.topic_by_id(command.topic_id) else {
            return refuse(ErrorCode::UnknownTopicId, format!("no topic has the id {}", command.topic_id));
        };
        let name = topic.name.clone();
        let Some(state) = topic.partition(command.partition) else {
            let message = format!("topic {name} has no partition {}", command.partition);
            return refuse(ErrorCode::UnknownTopicOrPartition, message);
        };
        let (leader_epoch, partition_epoch) = (command.leader_epoch, command.partition_epoch);
        if leader_epoch > state.leader_epoch || partition_epoch > state.partition_epoch {
            let message = format!(
                "{name}-{} is at leader epoch {} and partition epoch {}, behind the proposed {leader_epoch} and \
                 {partition_epoch}",
                command.partition, state.leader_epoch, state.partition_epoch
            );
            return refuse(ErrorCode::NotController, message);
        }
        if leader_epoch < state.leader_epoch {
            let message = format!("the leader epoch is {}, not {leader_epoch}", state.leader_epoch);
            return refuse(ErrorCode::FencedLeaderEpoch, message);
        }
        if state.leader != Some(command.node) {
            let message = format!("broker {} does not lead {name}-{}", command.node, command.partition);
            return refuse(ErrorCode::InvalidRequest, message);
        }
        if partition_epoch < state.partition_epoch && !mutant!(IgnorePartitionEpoch) {
            let message = format!("the partition epoch is {}, not {partition_epoch}", state.partition_epoch);
            return refuse(ErrorCode::InvalidUpdateVersion, message);
        }
        self.check_new_isr(command, state)?;

        let active = self.active_brokers();
        let rules = self.partition_rules();
        let mut isr: Vec<NodeId> = command.new_isr.iter().map(|member| member.node).collect();
        if !active.contains(&command.node) && isr.iter().any(|node| active.contains(node)) {
            // The leader only waited for somebody to take over before it stops.
            isr.retain(|node| *node != command.node);
        }
        let transition = Transition {
            active: &active,
            isr,
            min_isr: rules.min_isr(topic),
            unclean: false,
            doubt: None,
            preference: Preference::Keep,
            assigned: None,
        };
        let mut before = state.clone();
        before.recovery = command.recovery;
        let next = match transition.apply(&before) {
            Some(next) => next,
            // Also without any change the version moves: a leader that lost track of an earlier proposal proposes the
            // committed set again, to be sure that the earlier one can no longer be accepted.
            None => {
                before.partition_epoch.0 = before.partition_epoch.0.saturating_add(1);
                before
            }
        };
        self.replace(&name, command.partition, next.clone(), context);
        Ok(CommandResult::Partition(next))
    }

    fn check_new_isr(&self, command: &AlterPartition, state: &PartitionState) -> Result<(), CommandError> {
        let refuse = |code: ErrorCode, message: String| Err(CommandError::new(code, message));
        let members: BTreeSet<NodeId> = command.new_isr.iter().map(|member| member.node).collect();
        if members.len() != command.new_isr.len() {
            return refuse(ErrorCode::InvalidRequest, "the new in-sync set names a broker twice".to_owned());
        }
        if let Some(stranger) = members.iter().find(|node| !state.replicas.contains(node)) {
            return refuse(ErrorCode::InvalidRequest, format!("broker {stranger} is not a replica of the partition"));
        }
        if !members.contains(&command.node) {
            let message = format!("the new in-sync set lacks the leader, broker {}", command.node);
            return refuse(ErrorCode::InvalidRequest, message);
        }
        if command.recovery == LeaderRecovery::Recovering {
            if members.len() > 1 {
                let message = "a leader that is recovering must be the only in-sync replica".to_owned();
                return refuse(ErrorCode::InvalidRequest, message);
            }
            if state.recovery == LeaderRecovery::Recovered {
                return refuse(ErrorCode::InvalidRequest, "a recovered leader cannot recover again".to_owned());
            }
        }
        for member in &command.new_isr {
            let Some(broker) = self.broker(member.node) else {
                return refuse(ErrorCode::IneligibleReplica, format!("broker {} is not registered", member.node));
            };
            let problem = if broker.fenced && !mutant!(AdmitFenced) {
                "is fenced"
            } else if ![BrokerEpoch::NONE, broker.epoch].contains(&member.broker_epoch) && !mutant!(StaleBrokerEpoch) {
                "has registered again since it caught up"
            } else if mutant!(AdmitLeaving) || (broker.fenced && mutant!(AdmitFenced)) {
                continue;
            } else if !broker.is_active() && member.node != command.node {
                // The leader itself may stop soon; it must be able to hand over to whom it lets in.
                "is shutting down or has lost its disk"
            } else {
                continue;
            };
            return refuse(ErrorCode::IneligibleReplica, format!("broker {} {problem}", member.node));
        }
        Ok(())
    }

    /// Preferred or unclean elections; with no partitions named, wherever one is needed.
    pub(super) fn elect_leaders(&mut self, command: &ElectLeaders, context: &mut Context) -> Outcome {
        let mut outcomes = Vec::new();
        if command.partitions.is_empty() {
            let all: Vec<(TopicName, PartitionIndex)> =
                self.partitions().map(|(topic, index, _)| (topic.name.clone(), index)).collect();
            for (topic, partition) in all {
                let (code, message) = self.elect_one(&topic, partition, command.election, context);
                if code != ErrorCode::ElectionNotNeeded {
                    outcomes.push(ElectionOutcome { topic, partition, code, message });
                }
            }
        } else {
            for wanted in &command.partitions {
                let (code, message) = self.elect_one(&wanted.topic, wanted.partition, command.election, context);
                outcomes.push(ElectionOutcome {
                    topic: wanted.topic.clone(),
                    partition: wanted.partition,
                    code,
                    message,
                });
            }
        }
        Ok(CommandResult::Elections(outcomes))
    }

    fn elect_one(
        &mut self,
        name: &TopicName,
        partition: PartitionIndex,
        election: ElectionType,
        context: &mut Context,
    ) -> (ErrorCode, String) {
        let Some((topic, state)) = self.topic(name.as_str()).and_then(|t| Some((t, t.partition(partition)?))) else {
            return (ErrorCode::UnknownTopicOrPartition, format!("there is no partition {name}-{partition}"));
        };
        let preferred = state.replicas.first().copied();
        let needed = match election {
            ElectionType::Preferred => state.leader != preferred,
            ElectionType::Unclean => state.leader.is_none(),
        };
        if !needed {
            return (ErrorCode::ElectionNotNeeded, String::new());
        }
        let active = self.active_brokers();
        let rules = self.partition_rules();
        let next = Transition {
            active: &active,
            isr: state.isr.clone(),
            min_isr: rules.min_isr(topic),
            unclean: election == ElectionType::Unclean || rules.unclean(topic),
            doubt: None,
            preference: match election {
                ElectionType::Preferred => Preference::Preferred,
                ElectionType::Unclean => Preference::Keep,
            },
            assigned: None,
        }
        .apply(state);
        match (next, election) {
            (Some(next), ElectionType::Preferred) if next.leader != preferred => {
                (ErrorCode::PreferredLeaderNotAvailable, "the preferred leader is not in sync".to_owned())
            }
            (Some(next), _) if next.leader.is_some() => {
                self.replace(name, partition, next, context);
                (ErrorCode::None, String::new())
            }
            (_, ElectionType::Preferred) => {
                (ErrorCode::PreferredLeaderNotAvailable, "the preferred leader is not in sync".to_owned())
            }
            (_, ElectionType::Unclean) => (ErrorCode::EligibleLeadersNotAvailable, "no replica is alive".to_owned()),
        }
    }

    pub(super) fn replace(
        &mut self,
        name: &TopicName,
        partition: PartitionIndex,
        next: PartitionState,
        context: &mut Context,
    ) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let Ok(position) = usize::try_from(partition.0) else { return };
        let Some(slot) = topic.partitions.get_mut(position) else { return };
        let previous = std::mem::replace(slot, next.clone());
        context.changes.push(changed(topic, position, next, previous));
    }
}
