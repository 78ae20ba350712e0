//! The one table of settings that exist. What is not here does not exist: it is refused when set and not described.

use super::throttle;

/// What values a setting takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigKind {
    /// `true` or `false`.
    Bool,
    /// A 32-bit number in this range.
    Int {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A 64-bit number in this range.
    Long {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Some of these words, separated by commas.
    List(&'static [&'static str]),
    /// `*`, or `partition:broker` pairs separated by commas.
    Replicas,
}

impl ConfigKind {
    /// Kafka's number of the type in DescribeConfigs (KIP-569).
    #[must_use]
    pub fn kafka_type(self) -> i8 {
        match self {
            Self::Bool => 1,
            Self::Choice(_) => 2,
            Self::Int { .. } => 3,
            Self::Long { .. } => 5,
            Self::List(_) | Self::Replicas => 7,
        }
    }
}

/// One setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigDef {
    /// Its name on a topic; empty when topics do not have it.
    pub topic_name: &'static str,
    /// Its name on a broker and as the default of all brokers; empty when brokers do not have it.
    pub broker_name: &'static str,
    /// What values it takes.
    pub kind: ConfigKind,
    /// The value when nobody set it; `None` when it depends on the topic.
    pub default: Option<&'static str>,
    /// Whether one broker may differ from the others.
    pub per_broker: bool,
    /// What it does.
    pub doc: &'static str,
}

const MAX_LONG: &str = "9223372036854775807";
const ANY_LONG: i64 = i64::MAX;
const ANY_INT: i64 = i32::MAX as i64;

const fn topic(
    topic_name: &'static str,
    broker_name: &'static str,
    kind: ConfigKind,
    default: Option<&'static str>,
    per_broker: bool,
    doc: &'static str,
) -> ConfigDef {
    ConfigDef { topic_name, broker_name, kind, default, per_broker, doc }
}

pub(super) const TABLE: &[ConfigDef] = &[
    topic(
        "cleanup.policy",
        "log.cleanup.policy",
        ConfigKind::List(&["delete", "compact"]),
        Some("delete"),
        false,
        "What happens to old records. Only 'delete' is implemented.",
    ),
    topic(
        "compression.type",
        "compression.type",
        ConfigKind::Choice(&["producer"]),
        Some("producer"),
        false,
        "How records are compressed at rest: 'producer' keeps what the producer sent.",
    ),
    topic(
        "flush.messages",
        "log.flush.interval.messages",
        // Nothing counts records between two syncs, so no other value is accepted.
        ConfigKind::Long { min: ANY_LONG, max: ANY_LONG },
        Some(MAX_LONG),
        false,
        "The log is never forced to disk by a count of records. Whether every acknowledgement waits for the disk is set \
         in the broker's configuration file.",
    ),
    topic(
        "index.interval.bytes",
        "log.index.interval.bytes",
        ConfigKind::Int { min: 0, max: ANY_INT },
        Some("4096"),
        true,
        "Bytes of records between two entries of the offset index.",
    ),
    topic(
        "max.message.bytes",
        "message.max.bytes",
        ConfigKind::Int { min: 0, max: ANY_INT },
        Some("1048588"),
        false,
        "The largest record batch accepted, compressed.",
    ),
    topic(
        "message.timestamp.after.max.ms",
        "log.message.timestamp.after.max.ms",
        ConfigKind::Long { min: 0, max: ANY_LONG },
        Some("3600000"),
        false,
        "How far in the future a record's timestamp may be.",
    ),
    topic(
        "message.timestamp.before.max.ms",
        "log.message.timestamp.before.max.ms",
        ConfigKind::Long { min: 0, max: ANY_LONG },
        Some(MAX_LONG),
        false,
        "How far in the past a record's timestamp may be.",
    ),
    topic(
        "message.timestamp.type",
        "log.message.timestamp.type",
        ConfigKind::Choice(&["CreateTime", "LogAppendTime"]),
        Some("CreateTime"),
        false,
        "Whether a record keeps the producer's timestamp or gets the broker's.",
    ),
    topic(
        "min.insync.replicas",
        "min.insync.replicas",
        ConfigKind::Int { min: 1, max: ANY_INT },
        None,
        false,
        "How many in-sync replicas acks=all needs. Unset: one less than the replicas, at least 1.",
    ),
    topic(
        "retention.bytes",
        "log.retention.bytes",
        ConfigKind::Long { min: -1, max: ANY_LONG },
        Some("-1"),
        true,
        "The size from which a partition's oldest segments are deleted; -1 = no limit.",
    ),
    topic(
        "retention.ms",
        "log.retention.ms",
        ConfigKind::Long { min: -1, max: ANY_LONG },
        Some("604800000"),
        true,
        "The age from which a partition's segments are deleted; -1 = no limit.",
    ),
    topic(
        "segment.bytes",
        "log.segment.bytes",
        ConfigKind::Int { min: 1024, max: ANY_INT },
        Some("1073741824"),
        true,
        "The size of a segment file.",
    ),
    topic(
        "segment.ms",
        "log.roll.ms",
        ConfigKind::Long { min: 1, max: ANY_LONG },
        Some("604800000"),
        true,
        "The age from which a segment is closed although it is not full.",
    ),
    topic(
        "unclean.leader.election.enable",
        "unclean.leader.election.enable",
        ConfigKind::Bool,
        Some("false"),
        false,
        "Whether a replica that may lack acknowledged records may lead when no other can.",
    ),
    topic(
        "",
        "default.replication.factor",
        ConfigKind::Int { min: 1, max: 1000 },
        None,
        false,
        "Replicas of a topic created without saying how many. Unset: three, or as many as there are brokers.",
    ),
    topic(
        "",
        "num.partitions",
        ConfigKind::Int { min: 1, max: 10_000 },
        Some("1"),
        false,
        "Partitions of a topic created without saying how many.",
    ),
    topic(
        throttle::LEADER_REPLICAS,
        "",
        ConfigKind::Replicas,
        Some(""),
        false,
        "Replicas, by the broker that leads, whose copying is limited by leader.replication.throttled.rate.",
    ),
    topic(
        throttle::FOLLOWER_REPLICAS,
        "",
        ConfigKind::Replicas,
        Some(""),
        false,
        "Replicas, by the broker that follows, whose copying is limited by follower.replication.throttled.rate.",
    ),
    topic(
        "",
        throttle::LEADER_RATE,
        ConfigKind::Long { min: 1, max: ANY_LONG },
        Some(MAX_LONG),
        true,
        "Bytes per second that a leader sends to out-of-sync replicas which their topics list as throttled.",
    ),
    topic(
        "",
        throttle::FOLLOWER_RATE,
        ConfigKind::Long { min: 1, max: ANY_LONG },
        Some(MAX_LONG),
        true,
        "Bytes per second that a broker copies of out-of-sync replicas which their topics list as throttled.",
    ),
    topic(
        "",
        throttle::REASSIGNMENT_RATE,
        ConfigKind::Long { min: 1, max: ANY_LONG },
        Some(MAX_LONG),
        true,
        "Bytes per second that a broker copies of the replicas which reassignments add on it, until they are in sync.",
    ),
    topic(
        "",
        "replica.alter.log.dirs.io.max.bytes.per.second",
        // A broker has one log directory, so nothing is ever moved between two.
        ConfigKind::Long { min: ANY_LONG, max: ANY_LONG },
        Some(MAX_LONG),
        true,
        "Nothing is copied between log directories of one broker: it has only one.",
    ),
];
