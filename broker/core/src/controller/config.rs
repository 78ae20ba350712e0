//! Dynamic settings: their checks, their layers, and what they come to for one topic.
//!
//! Layers, strongest first: the topic's own, this broker's, the default of all brokers, the built-in default. Everything
//! that the controller decides by (min.insync.replicas, unclean elections) has no per-broker layer, so that every broker
//! decides alike.

mod table;
pub mod throttle;

use std::collections::BTreeMap;

use chronik_model::{ErrorCode, NodeId, TopicName};

use super::apply::{Change, Context, Outcome};
use super::command::{AlterConfigs, ConfigChange, ConfigOp, ConfigResource};
use super::result::{CommandError, CommandResult};
use super::state::{MetadataState, Topic, is_internal};
use crate::effective_min_isr;
pub use table::{ConfigDef, ConfigKind};

/// Settings changed by one command; more is a mistake.
const MAX_CHANGES: usize = 1000;

/// Bytes of one value. What is stored lives in every snapshot, and "0001" with any number of zeros is a number too.
const MAX_VALUE: usize = 255;

/// Bytes of a list of replicas, which names each partition of a topic several times.
const MAX_REPLICAS_VALUE: usize = 64 * 1024;

/// Where a value comes from; the numbers are Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic = 1,
    /// Set on this broker.
    Broker = 2,
    /// Set as the default of all brokers.
    ClusterDefault = 3,
    /// Built in.
    Default = 5,
}

/// One layer's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigValue {
    /// Name of the setting in that layer.
    pub name: &'static str,
    /// The value; `None` when the default depends on the topic.
    pub value: Option<String>,
    /// The layer.
    pub source: ConfigSource,
}

/// One setting as DescribeConfigs shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigView {
    /// The setting.
    pub def: &'static ConfigDef,
    /// The value in force.
    pub effective: ConfigValue,
    /// All layers that have a value, strongest first; the first is in force.
    pub synonyms: Vec<ConfigValue>,
}

/// The settings of one topic as the broker uses them, parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// cleanup.policy holds `delete`.
    pub cleanup_delete: bool,
    /// cleanup.policy holds `compact` (internal topics only).
    pub cleanup_compact: bool,
    /// index.interval.bytes
    pub index_interval_bytes: i32,
    /// max.message.bytes
    pub max_message_bytes: i32,
    /// message.timestamp.after.max.ms
    pub timestamp_after_max_ms: i64,
    /// message.timestamp.before.max.ms
    pub timestamp_before_max_ms: i64,
    /// message.timestamp.type is LogAppendTime.
    pub log_append_time: bool,
    /// min.insync.replicas in force: never more than the replicas.
    pub min_insync_replicas: i32,
    /// retention.bytes, -1 = no limit.
    pub retention_bytes: i64,
    /// retention.ms, -1 = no limit.
    pub retention_ms: i64,
    /// segment.bytes
    pub segment_bytes: i32,
    /// segment.ms
    pub segment_ms: i64,
    /// unclean.leader.election.enable
    pub unclean_leader_election: bool,
}

/// Settings that topics have.
pub fn topic_configs() -> impl Iterator<Item = &'static ConfigDef> {
    table::TABLE.iter().filter(|def| !def.topic_name.is_empty())
}

/// Settings that brokers have.
pub fn broker_configs() -> impl Iterator<Item = &'static ConfigDef> {
    table::TABLE.iter().filter(|def| !def.broker_name.is_empty())
}

/// A setting by its name on topics or on brokers.
#[must_use]
pub fn config_def(name: &str) -> Option<&'static ConfigDef> {
    table::TABLE.iter().find(|def| !name.is_empty() && (def.topic_name == name || def.broker_name == name))
}

fn invalid(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorCode::InvalidConfig, message)
}

/// The setting called `name` on this kind of resource.
fn find(resource: &ConfigResource, name: &str) -> Result<&'static ConfigDef, CommandError> {
    let (on, def) = match resource {
        ConfigResource::Topic(_) => ("topic", topic_configs().find(|def| def.topic_name == name)),
        _ => ("broker", broker_configs().find(|def| def.broker_name == name)),
    };
    let def = def.ok_or_else(|| {
        let known: Vec<&str> = match resource {
            ConfigResource::Topic(_) => topic_configs().map(|def| def.topic_name).collect(),
            _ => broker_configs().map(|def| def.broker_name).collect(),
        };
        invalid(format!("there is no {on} setting '{name}'; there are {}", known.join(", ")))
    })?;
    if matches!(resource, ConfigResource::Broker(_)) && !def.per_broker {
        return Err(invalid(format!("{name} must be the same on all brokers: set it as the cluster default")));
    }
    Ok(def)
}

fn words(value: &str) -> Vec<&str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// Checks one value; `name` is what the user called it.
fn check_value(resource: &ConfigResource, def: &ConfigDef, name: &str, value: &str) -> Result<(), CommandError> {
    let most = if def.kind == ConfigKind::Replicas { MAX_REPLICAS_VALUE } else { MAX_VALUE };
    if value.len() > most {
        return Err(invalid(format!("the value of {name} has {} bytes; at most {most} are accepted", value.len())));
    }
    let wrong = |accepted: String| Err(invalid(format!("{name} = '{value}' is not accepted: it takes {accepted}")));
    match def.kind {
        ConfigKind::Bool if matches!(value, "true" | "false") => Ok(()),
        ConfigKind::Bool => wrong("true or false".to_owned()),
        ConfigKind::Int { min, max } | ConfigKind::Long { min, max } => match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => wrong(format!("a number from {min} to {max}")),
        },
        ConfigKind::Choice(accepted) if accepted.contains(&value) => Ok(()),
        ConfigKind::Choice(accepted) => wrong(accepted.join(" or ")),
        ConfigKind::List(accepted) => {
            let given = words(value);
            if given.is_empty() || given.iter().any(|word| !accepted.contains(word)) {
                return wrong(format!("one or more of {}", accepted.join(", ")));
            }
            let internal = matches!(resource, ConfigResource::Topic(topic) if is_internal(topic.as_str()));
            if given.contains(&"compact") && !internal {
                return Err(invalid(format!("{name} = '{value}': compaction is not implemented; it takes delete")));
            }
            Ok(())
        }
        ConfigKind::Replicas => throttle::check_replicas(value).or_else(wrong),
    }
}

/// Checks the settings of a topic that is to be created.
pub(super) fn check_topic_configs(name: &TopicName, configs: &BTreeMap<String, String>) -> Result<(), CommandError> {
    let resource = ConfigResource::Topic(name.clone());
    configs.iter().try_for_each(|(name, value)| {
        let def = find(&resource, name)?;
        check_value(&resource, def, name, value)
    })
}

/// What decides over partitions, taken out of the state so that it can be used while partitions change.
pub(super) struct PartitionRules {
    min_isr: Option<usize>,
    unclean: bool,
}

impl PartitionRules {
    /// min.insync.replicas as configured for `topic`.
    pub(super) fn min_isr(&self, topic: &Topic) -> Option<usize> {
        self.min_isr_of(topic.configs.get("min.insync.replicas"))
    }

    /// The same, for a topic with this setting of its own.
    pub(super) fn min_isr_of(&self, own: Option<&String>) -> Option<usize> {
        own.and_then(|value| value.parse::<usize>().ok()).or(self.min_isr)
    }

    /// Whether unclean elections are allowed in `topic`.
    pub(super) fn unclean(&self, topic: &Topic) -> bool {
        topic.configs.get("unclean.leader.election.enable").map_or(self.unclean, |value| value == "true")
    }
}

impl MetadataState {
    pub(super) fn partition_rules(&self) -> PartitionRules {
        PartitionRules {
            min_isr: self.cluster_configs.get("min.insync.replicas").and_then(|value| value.parse().ok()),
            unclean: self.cluster_configs.get("unclean.leader.election.enable").is_some_and(|value| value == "true"),
        }
    }

    /// min.insync.replicas in force for a topic: the configured one, never more than its replicas.
    #[must_use]
    pub fn min_insync_replicas(&self, topic: &Topic) -> usize {
        effective_min_isr(self.configured_min_isr(topic), topic.replication_factor())
    }

    /// min.insync.replicas as configured for a topic or for all of them; `None` = by each partition's replicas, see
    /// [`PartitionState::min_isr`](crate::PartitionState::min_isr).
    #[must_use]
    pub fn configured_min_isr(&self, topic: &Topic) -> Option<usize> {
        self.partition_rules().min_isr(topic)
    }

    /// Partitions of a topic created without saying how many.
    #[must_use]
    pub fn default_partitions(&self) -> i32 {
        self.cluster_configs.get("num.partitions").and_then(|value| value.parse().ok()).unwrap_or(1)
    }

    /// Settings that were given one value for all brokers.
    #[must_use]
    pub fn cluster_defaults(&self) -> &BTreeMap<String, String> {
        &self.cluster_configs
    }

    /// Replicas of a topic created without saying how many.
    #[must_use]
    pub fn default_replication_factor(&self) -> i32 {
        let configured = self.cluster_configs.get("default.replication.factor").and_then(|value| value.parse().ok());
        configured.unwrap_or_else(|| i32::try_from(self.uncordoned().count().clamp(1, 3)).unwrap_or(3))
    }

    fn layers(
        &self,
        def: &'static ConfigDef,
        topic: Option<(&BTreeMap<String, String>, usize)>,
        node: Option<NodeId>,
    ) -> Vec<ConfigValue> {
        let mut layers = Vec::new();
        let mut push = |name, value: Option<&String>, source| {
            if let Some(value) = value {
                layers.push(ConfigValue { name, value: Some(value.clone()), source });
            }
        };
        if let Some((configs, _)) = topic {
            push(def.topic_name, configs.get(def.topic_name), ConfigSource::Topic);
        }
        // Some settings are of topics only.
        let has_broker_layers = !def.broker_name.is_empty();
        let default_name = if has_broker_layers { def.broker_name } else { def.topic_name };
        let of_node = node.and_then(|node| self.broker_configs.get(&node)).filter(|_| has_broker_layers);
        push(def.broker_name, of_node.and_then(|configs| configs.get(def.broker_name)), ConfigSource::Broker);
        push(def.broker_name, self.cluster_configs.get(def.broker_name), ConfigSource::ClusterDefault);
        let default = match (def.default, def.broker_name, topic) {
            (Some(default), _, _) => Some(default.to_owned()),
            (None, "min.insync.replicas", Some((_, replicas))) => Some(replicas.saturating_sub(1).max(1).to_string()),
            (None, "default.replication.factor", _) => Some(self.default_replication_factor().to_string()),
            (None, _, _) => None,
        };
        layers.push(ConfigValue { name: default_name, value: default, source: ConfigSource::Default });
        layers
    }

    fn view(
        &self,
        def: &'static ConfigDef,
        topic: Option<(&BTreeMap<String, String>, usize)>,
        node: Option<NodeId>,
    ) -> ConfigView {
        let synonyms = self.layers(def, topic, node);
        let effective = ConfigValue {
            name: if topic.is_some() { def.topic_name } else { def.broker_name },
            ..synonyms[0].clone() // `layers` ends with the default, so it is never empty.
        };
        ConfigView { def, effective, synonyms }
    }

    /// Every setting of a topic, as broker `node` sees it.
    #[must_use]
    pub fn describe_topic_configs(&self, topic: &Topic, node: Option<NodeId>) -> Vec<ConfigView> {
        self.describe_new_topic_configs(&topic.configs, topic.replication_factor(), node)
    }

    /// Every setting of a topic with these overrides and so many replicas.
    #[must_use]
    pub fn describe_new_topic_configs(
        &self,
        overrides: &BTreeMap<String, String>,
        replicas: usize,
        node: Option<NodeId>,
    ) -> Vec<ConfigView> {
        topic_configs().map(|def| self.view(def, Some((overrides, replicas)), node)).collect()
    }

    /// Every dynamic setting of one broker, or with `None` the defaults of all.
    #[must_use]
    pub fn describe_broker_configs(&self, node: Option<NodeId>) -> Vec<ConfigView> {
        broker_configs().map(|def| self.view(def, None, node)).collect()
    }

    /// The settings of a topic as broker `node` uses them.
    #[must_use]
    pub fn topic_config(&self, topic: &Topic, node: Option<NodeId>) -> TopicConfig {
        let of_topic = Some((&topic.configs, topic.replication_factor()));
        let text = |name: &str| {
            let def = topic_configs().find(|def| def.topic_name == name);
            def.and_then(|def| self.layers(def, of_topic, node).into_iter().next()).and_then(|layer| layer.value)
        };
        // Values were checked when they were set; what is not a number all the same is as good as unlimited.
        let long = |name: &str| text(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(i64::MAX);
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let policy = text("cleanup.policy").unwrap_or_default();
        TopicConfig {
            cleanup_delete: words(&policy).contains(&"delete"),
            cleanup_compact: words(&policy).contains(&"compact"),
            index_interval_bytes: int("index.interval.bytes"),
            max_message_bytes: int("max.message.bytes"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            log_append_time: text("message.timestamp.type").is_some_and(|value| value == "LogAppendTime"),
            min_insync_replicas: i32::try_from(self.min_insync_replicas(topic)).unwrap_or(i32::MAX),
            retention_bytes: long("retention.bytes"),
            retention_ms: long("retention.ms"),
            segment_bytes: int("segment.bytes"),
            segment_ms: long("segment.ms"),
            unclean_leader_election: text("unclean.leader.election.enable").is_some_and(|value| value == "true"),
        }
    }

    /// What the settings of the resource would be; for `validate_only`, and what apply itself decides by.
    ///
    /// # Errors
    /// The refusal, naming the setting and the values it takes.
    pub fn check_alter_configs(&self, command: &AlterConfigs) -> Result<BTreeMap<String, String>, CommandError> {
        let resource = &command.resource;
        if command.changes.len() > MAX_CHANGES {
            return Err(invalid(format!("more than {MAX_CHANGES} changes at once")));
        }
        let current = match resource {
            ConfigResource::Topic(name) => match self.topics.get(name) {
                Some(topic) => Some(&topic.configs),
                None => {
                    let message = format!("there is no topic {name}");
                    return Err(CommandError::new(ErrorCode::UnknownTopicOrPartition, message));
                }
            },
            ConfigResource::Broker(node) if !self.brokers.contains_key(node) => {
                let message = format!("broker {node} is not registered");
                return Err(CommandError::new(ErrorCode::BrokerIdNotRegistered, message));
            }
            ConfigResource::Broker(node) => self.broker_configs.get(node),
            ConfigResource::ClusterDefault => Some(&self.cluster_configs),
        };
        let mut configs = if command.replace { BTreeMap::new() } else { current.cloned().unwrap_or_default() };
        for (position, change) in command.changes.iter().enumerate() {
            if command.changes[..position].iter().any(|earlier| earlier.name == change.name) {
                let message = format!("{} is changed twice", change.name);
                return Err(CommandError::new(ErrorCode::InvalidRequest, message));
            }
            self.alter_one(resource, change, &mut configs)?;
        }
        Ok(configs)
    }

    fn alter_one(
        &self,
        resource: &ConfigResource,
        change: &ConfigChange,
        configs: &mut BTreeMap<String, String>,
    ) -> Result<(), CommandError> {
        let name = &change.name;
        let def = find(resource, name)?;
        let given = || change.value.as_deref().ok_or_else(|| invalid(format!("{name} needs a value")));
        let value = match change.op {
            ConfigOp::Delete => {
                configs.remove(name);
                return Ok(());
            }
            ConfigOp::Set => given()?.trim().to_owned(),
            ConfigOp::Append | ConfigOp::Subtract => {
                if !matches!(def.kind, ConfigKind::List(_) | ConfigKind::Replicas) {
                    return Err(invalid(format!("{name} is not a list: it can only be set or deleted")));
                }
                let in_force = configs.get(name).cloned().or_else(|| {
                    let node = if let ConfigResource::Broker(node) = resource { Some(*node) } else { None };
                    self.layers(def, None, node).into_iter().next().and_then(|layer| layer.value)
                });
                let in_force = in_force.unwrap_or_default();
                let mut list = words(&in_force);
                let given = words(given()?);
                if change.op == ConfigOp::Append {
                    given.into_iter().for_each(|word| {
                        if !list.contains(&word) {
                            list.push(word);
                        }
                    });
                } else {
                    list.retain(|word| !given.contains(word));
                }
                list.join(",")
            }
        };
        check_value(resource, def, name, &value)?;
        configs.insert(name.clone(), value);
        Ok(())
    }

    pub(super) fn alter_configs(&mut self, command: &AlterConfigs, context: &mut Context) -> Outcome {
        let configs = self.check_alter_configs(command)?;
        let differs = |old: &BTreeMap<String, String>, name: &str| old.get(name) != configs.get(name);
        let (old, only, change) = match &command.resource {
            ConfigResource::Topic(name) => {
                let Some(topic) = self.topics.get_mut(name) else { return Ok(CommandResult::Done) };
                let old = std::mem::replace(&mut topic.configs, configs.clone());
                (old, Some(name.clone()), Change::TopicConfig { name: name.clone() })
            }
            ConfigResource::Broker(node) => {
                let old = self.broker_configs.insert(*node, configs.clone()).unwrap_or_default();
                if configs.is_empty() {
                    self.broker_configs.remove(node);
                }
                (old, None, Change::BrokerConfig { node: *node })
            }
            ConfigResource::ClusterDefault => {
                (std::mem::replace(&mut self.cluster_configs, configs.clone()), None, Change::ClusterConfig)
            }
        };
        if old == configs {
            return Ok(CommandResult::Done);
        }
        context.changes.push(change);
        if differs(&old, "min.insync.replicas") {
            self.follow_min_isr(only.as_ref(), context);
        }
        if differs(&old, "unclean.leader.election.enable") {
            self.follow_unclean(only.as_ref(), context);
        }
        Ok(CommandResult::Done)
    }
}
