//! Topics: created, grown, deleted.

use std::collections::BTreeSet;

use chronik_model::{ErrorCode, LeaderEpoch, NodeId, PartitionEpoch, TopicName};

use super::apply::{Change, Context, Outcome};
use super::command::{Assignment, CreatePartitions, CreateTopic, DeleteTopic};
use super::config::check_topic_configs;
use super::result::{CommandError, CommandResult, CreatedTopic};
use super::state::{MetadataState, Topic, index_of};
use crate::{LeaderRecovery, PartitionState, effective_min_isr};

/// Partitions of one topic.
pub(super) const MAX_PARTITIONS: usize = 10_000;
/// Partitions of the cluster.
const MAX_CLUSTER_PARTITIONS: usize = 200_000;

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::new(code, message))
}

impl MetadataState {
    /// Where the partitions of the topic would go; for `validate_only`, and what apply itself decides by.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_create_topic(&self, command: &CreateTopic) -> Result<Vec<Vec<NodeId>>, CommandError> {
        let name = command.name.as_str();
        if let Some(problem) = TopicName::problem(name) {
            return refuse(ErrorCode::InvalidTopicException, format!("topic '{name}': {problem}"));
        }
        if self.topics.contains_key(name) {
            return refuse(ErrorCode::TopicAlreadyExists, format!("topic '{name}' exists already"));
        }
        // Metric names turn '.' into '_'.
        let flat = name.replace('.', "_");
        let twin =
            self.topics.keys().find(|other| name.contains(['.', '_']) && other.as_str().replace('.', "_") == flat);
        if let Some(twin) = twin {
            let message = format!("topic '{name}' differs from topic '{twin}' only by '.' and '_'");
            return refuse(ErrorCode::InvalidTopicException, message);
        }
        if command.topic_id.is_zero() || self.names.contains_key(&command.topic_id) {
            return refuse(ErrorCode::InvalidRequest, format!("topic id {} is not new", command.topic_id));
        }
        check_topic_configs(&command.name, &command.configs)?;
        if !command.assignments.is_empty() {
            return self.check_topic_assignments(command);
        }
        let partitions = match command.partitions {
            -1 => self.default_partitions(),
            given => given,
        };
        let partitions = self.check_partitions(partitions, 0)?;
        let factor = match command.replication_factor {
            -1 => self.default_replication_factor(),
            given => given,
        };
        let factor = match usize::try_from(factor) {
            Ok(factor) if factor > 0 => factor,
            _ => return refuse(ErrorCode::InvalidReplicationFactor, format!("replication factor {factor} is below 1")),
        };
        self.check_factor(factor)?;
        Ok(self.place(command.topic_id, partitions, factor))
    }

    /// Whether there are brokers enough to place so many replicas.
    fn check_factor(&self, factor: usize) -> Result<(), CommandError> {
        let (all, free) = (self.brokers.len(), self.uncordoned().count());
        if factor <= free {
            return Ok(());
        }
        let message = match all - free {
            0 => format!("replication factor {factor} is larger than the {all} brokers"),
            cordoned => format!(
                "replication factor {factor} is larger than the {free} brokers that may get replicas; {cordoned} of \
                 {all} brokers are cordoned"
            ),
        };
        refuse(ErrorCode::InvalidReplicationFactor, message)
    }

    fn check_topic_assignments(&self, command: &CreateTopic) -> Result<Vec<Vec<NodeId>>, CommandError> {
        let count = i32::try_from(command.assignments.len()).unwrap_or(i32::MAX);
        let factor = command.assignments[0].replicas.len();
        let fits = |given: i32, is: i32| given == -1 || given == is;
        if !fits(command.partitions, count)
            || !fits(command.replication_factor, i32::try_from(factor).unwrap_or(i32::MAX))
        {
            let message = "partitions and replication factor must be -1, or as the assignment says";
            return refuse(ErrorCode::InvalidRequest, message);
        }
        self.check_partitions(count, 0)?;
        self.check_assignments(&command.assignments, factor)
    }

    fn check_partitions(&self, wanted: i32, existing: usize) -> Result<usize, CommandError> {
        let wanted = match usize::try_from(wanted) {
            Ok(wanted) if wanted > 0 => wanted,
            _ => return refuse(ErrorCode::InvalidPartitions, format!("{wanted} partitions: at least 1 is needed")),
        };
        if wanted > MAX_PARTITIONS {
            let message = format!("{wanted} partitions: a topic has at most {MAX_PARTITIONS}");
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        if self.partition_count() + wanted.saturating_sub(existing) > MAX_CLUSTER_PARTITIONS {
            let message = format!("the cluster would have more than {MAX_CLUSTER_PARTITIONS} partitions");
            return refuse(ErrorCode::PolicyViolation, message);
        }
        Ok(wanted)
    }

    fn check_assignments(&self, assignments: &[Assignment], factor: usize) -> Result<Vec<Vec<NodeId>>, CommandError> {
        let bad = |message: String| refuse(ErrorCode::InvalidReplicaAssignment, message);
        for assignment in assignments {
            let unique: BTreeSet<NodeId> = assignment.replicas.iter().copied().collect();
            if assignment.replicas.is_empty() || unique.len() != assignment.replicas.len() {
                return bad("an assignment needs at least one broker, and each at most once".to_owned());
            }
            if assignment.replicas.len() != factor {
                return bad(format!("all partitions need {factor} replicas, one has {}", assignment.replicas.len()));
            }
            if let Some(unknown) = unique.iter().find(|node| !self.brokers.contains_key(node)) {
                return bad(format!("broker {unknown} of the assignment is not registered"));
            }
            let cordoned = |node: &&NodeId| self.brokers.get(*node).is_some_and(|broker| broker.cordoned);
            if let Some(cordoned) = unique.iter().find(cordoned) {
                return bad(format!("broker {cordoned} is cordoned: it gets no further replicas"));
            }
        }
        Ok(assignments.iter().map(|assignment| assignment.replicas.clone()).collect())
    }

    /// A partition without records: every replica holds all of them.
    fn new_partition(&self, replicas: Vec<NodeId>, min_isr: usize) -> PartitionState {
        let isr: Vec<NodeId> = replicas.iter().copied().filter(|node| self.is_active(*node)).collect();
        let elr = if isr.len() >= min_isr {
            Vec::new()
        } else {
            replicas.iter().copied().filter(|node| !isr.contains(node)).collect()
        };
        let leader = isr.first().copied();
        PartitionState {
            last_known_elr: Vec::new(),
            reports: Vec::new(),
            leader,
            replicas,
            isr,
            elr,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            recovery: LeaderRecovery::Recovered,
            adding: Vec::new(),
            removing: Vec::new(),
        }
    }

    pub(super) fn create_topic(&mut self, command: &CreateTopic, context: &mut Context) -> Outcome {
        let placement = self.check_create_topic(command)?;
        let rules = self.partition_rules();
        let own = command.configs.get("min.insync.replicas");
        let partitions: Vec<PartitionState> = placement
            .into_iter()
            .map(|replicas| {
                let min_isr = effective_min_isr(rules.min_isr_of(own), replicas.len());
                self.new_partition(replicas, min_isr)
            })
            .collect();
        let topic = Topic {
            id: command.topic_id,
            name: command.name.clone(),
            partitions,
            configs: command.configs.clone(),
            created_ms: context.wall_ms,
        };
        context.changes.push(Change::TopicCreated { name: topic.name.clone(), id: topic.id });
        announce(&topic, 0, context);
        let created = created(&topic);
        self.names.insert(topic.id, topic.name.clone());
        self.topics.insert(topic.name.clone(), topic);
        Ok(created)
    }

    /// Where the further partitions would go; for `validate_only`, and what apply itself decides by.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_create_partitions(&self, command: &CreatePartitions) -> Result<Vec<Vec<NodeId>>, CommandError> {
        let Some(topic) = self.topic_by_id(command.topic_id) else {
            return refuse(ErrorCode::UnknownTopicId, format!("no topic has the id {}", command.topic_id));
        };
        let existing = topic.partitions.len();
        let total = self.check_partitions(command.total, existing)?;
        if total <= existing {
            let message = format!("topic '{}' has {existing} partitions already; {total} is not more", topic.name);
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        let factor = topic.replication_factor();
        if command.assignments.is_empty() {
            self.check_factor(factor)?;
            return Ok(self.place(topic.id, total - existing, factor));
        }
        if command.assignments.len() != total - existing {
            let message = format!("{} assignments for {} partitions", command.assignments.len(), total - existing);
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        self.check_assignments(&command.assignments, factor)
    }

    pub(super) fn create_partitions(&mut self, command: &CreatePartitions, context: &mut Context) -> Outcome {
        let placement = self.check_create_partitions(command)?;
        let rules = self.partition_rules();
        let own = self.topic_by_id(command.topic_id).and_then(|topic| topic.configs.get("min.insync.replicas"));
        let new: Vec<PartitionState> = placement
            .into_iter()
            .map(|replicas| {
                let min_isr = effective_min_isr(rules.min_isr_of(own), replicas.len());
                self.new_partition(replicas, min_isr)
            })
            .collect();
        let name = self.names.get(&command.topic_id).cloned();
        let Some(topic) = name.and_then(|name| self.topics.get_mut(&name)) else {
            return refuse(ErrorCode::UnknownTopicId, format!("no topic has the id {}", command.topic_id));
        };
        let from = topic.partitions.len();
        topic.partitions.extend(new);
        announce(topic, from, context);
        Ok(created(topic))
    }

    pub(super) fn delete_topic(&mut self, command: &DeleteTopic, context: &mut Context) -> Outcome {
        let topic = self.names.remove(&command.topic_id).and_then(|name| self.topics.remove(&name));
        let Some(topic) = topic else {
            return refuse(ErrorCode::UnknownTopicId, format!("no topic has the id {}", command.topic_id));
        };
        let partitions = index_of(topic.partitions.len()).0;
        context.changes.push(Change::TopicDeleted { name: topic.name, id: topic.id, partitions });
        Ok(CommandResult::Done)
    }
}

fn announce(topic: &Topic, from: usize, context: &mut Context) {
    for (partition, state) in topic.iter().skip(from) {
        context.changes.push(Change::Partition {
            topic: topic.name.clone(),
            topic_id: topic.id,
            partition,
            state: state.clone(),
            previous: None,
        });
    }
}

fn created(topic: &Topic) -> CommandResult {
    CommandResult::Created(CreatedTopic {
        topic_id: topic.id,
        partitions: index_of(topic.partitions.len()).0,
        replication_factor: i32::try_from(topic.replication_factor()).unwrap_or(i32::MAX),
        configs: topic.configs.clone(),
    })
}
