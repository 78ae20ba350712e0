//! Sections of the data plane: logs, topics, replication, client connections, groups.
//!
//! Called by [`super::Config::from_sources`] only. A section never looks at another section's keys.

use super::source::Reader;

const MS_DAY: u64 = 86_400_000;

/// When an acknowledged record has to be on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushPolicy {
    /// The operating system decides; acknowledged means held by all in-sync replicas (Kafka's default).
    Os,
    /// Every acknowledgement waits for fsync (group commit).
    EveryAck,
}

/// Defaults of the partition logs.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Age at which the active segment is rolled.
    pub segment_ms: u64,
    /// Age at which records may go; `None` keeps them.
    pub retention_ms: Option<u64>,
    /// Size of a partition above which old segments go; `None` is unlimited.
    pub retention_bytes: Option<u64>,
    /// Time between retention runs.
    pub retention_check_interval_ms: u64,
    /// Log bytes between two entries of the offset index.
    pub index_interval_bytes: u64,
    /// Largest record batch.
    pub message_max_bytes: u32,
    /// When acknowledged records are fsynced.
    pub flush: FlushPolicy,
    /// How long an idle producer id is remembered.
    pub producer_id_expiration_ms: u64,
}

impl LogConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        // Kafka's -1 means "no limit" for both retentions.
        fn limit(r: &mut Reader, key: &'static str, doc: &'static str, default: i64) -> Option<u64> {
            let value = r.number(key, doc, default, -1..=i64::MAX);
            u64::try_from(value).ok()
        }
        Self {
            segment_bytes: r.number("log.segment.bytes", "Size of a log segment", 1 << 30, 1 << 10..=2_147_483_647),
            segment_ms: r.number(
                "log.roll.ms",
                "Age at which the active segment is rolled",
                7 * MS_DAY,
                1..=u64::MAX / 2,
            ),
            retention_ms: limit(
                r,
                "log.retention.ms",
                "Age at which records may be deleted; -1 keeps them",
                604_800_000,
            ),
            retention_bytes: limit(
                r,
                "log.retention.bytes",
                "Size above which a partition loses old segments; -1 is unlimited",
                -1,
            ),
            retention_check_interval_ms: r.number(
                "log.retention.check.interval.ms",
                "Time between retention runs",
                300_000,
                10..=MS_DAY,
            ),
            index_interval_bytes: r.number(
                "log.index.interval.bytes",
                "Log bytes between two entries of the offset index",
                4096,
                1..=1 << 30,
            ),
            message_max_bytes: r.number("message.max.bytes", "Largest record batch", 1_048_588, 1 << 10..=1 << 30),
            flush: r
                .choice(
                    "flush",
                    "When an acknowledged record must be on disk: when the operating system likes, or before every ack",
                    &[("os", FlushPolicy::Os), ("every-ack", FlushPolicy::EveryAck)],
                )
                .unwrap_or(FlushPolicy::Os),
            producer_id_expiration_ms: r.number(
                "producer.id.expiration.ms",
                "How long an idle producer id is remembered",
                MS_DAY,
                1000..=u64::MAX / 2,
            ),
        }
    }
}

/// Defaults of new topics.
#[derive(Clone, Debug)]
pub struct TopicsConfig {
    /// Partitions of a topic that names none.
    pub num_partitions: i32,
    /// Replicas of a topic that names none; `None` = min(3, configured peers), resolved into [`super::Config`].
    pub default_replication_factor: Option<i16>,
    /// Least in-sync replicas; `None` = max(1, replication factor - 1) per topic.
    pub min_insync_replicas: Option<i32>,
    /// Whether Metadata requests may create topics.
    pub auto_create: bool,
    /// Whether an out-of-sync replica may lead when nobody else can.
    pub unclean_leader_election: bool,
}

impl TopicsConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let auto_or_number = |text: &str| match text {
            "auto" => Some(None),
            number => number.parse().ok().filter(|n| (1..=99).contains(n)).map(Some),
        };
        let show = |value: &Option<i16>| value.map_or_else(|| "auto".to_owned(), |n| n.to_string());
        Self {
            num_partitions: r.number("num.partitions", "Partitions of a topic that names none", 1, 1..=10_000),
            default_replication_factor: r
                .parsed(
                    "default.replication.factor",
                    "Replicas of a topic that names none; auto = min(3, configured peers)",
                    Some(None),
                    "auto, 1 to 99",
                    show,
                    auto_or_number,
                )
                .flatten(),
            min_insync_replicas: r.optional_number(
                "min.insync.replicas",
                "Least in-sync replicas for acks=all; unset = replication factor - 1, at least 1",
                1..=99,
            ),
            auto_create: r.flag("auto.create.topics.enable", "Whether a Metadata request may create a topic", true),
            unclean_leader_election: r.flag(
                "unclean.leader.election.enable",
                "Whether a replica that may lack acknowledged records may lead when nobody else can",
                false,
            ),
        }
    }
}

/// Replication between brokers.
#[derive(Clone, Debug)]
pub struct ReplicationConfig {
    /// Time after which a follower that lags leaves the in-sync set.
    pub lag_time_max_ms: u64,
    /// Longest wait of a follower's fetch at the leader.
    pub fetch_wait_max_ms: u64,
    /// Most bytes of one partition in one follower fetch.
    pub fetch_max_bytes_per_partition: u32,
    /// Most bytes of one follower fetch.
    pub fetch_response_max_bytes: u32,
    /// Longest pause of a fetcher after an error.
    pub fetch_backoff_ms: u64,
    /// Time without an answer after which a replication connection is given up.
    pub socket_timeout_ms: u64,
    /// Time between high-watermark checkpoints.
    pub high_watermark_checkpoint_interval_ms: u64,
}

impl ReplicationConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let config = Self {
            lag_time_max_ms: r.number(
                "replica.lag.time.max.ms",
                "Time after which a follower that lags leaves the in-sync set",
                30_000,
                100..=MS_DAY,
            ),
            fetch_wait_max_ms: r.number(
                "replica.fetch.wait.max.ms",
                "Longest wait of a follower's fetch at the leader",
                500,
                1..=60_000,
            ),
            fetch_max_bytes_per_partition: r.number(
                "replica.fetch.max.bytes",
                "Most bytes of one partition in one follower fetch",
                1 << 20,
                1 << 10..=1 << 30,
            ),
            fetch_response_max_bytes: r.number(
                "replica.fetch.response.max.bytes",
                "Most bytes of one follower fetch",
                10 << 20,
                1 << 10..=1 << 30,
            ),
            fetch_backoff_ms: r.number(
                "replica.fetch.backoff.ms",
                "Longest pause of a fetcher after an error",
                1000,
                1..=60_000,
            ),
            socket_timeout_ms: r.number(
                "replica.socket.timeout.ms",
                "Time without an answer after which a replication connection is given up",
                5000,
                100..=600_000,
            ),
            high_watermark_checkpoint_interval_ms: r.number(
                "replica.high.watermark.checkpoint.interval.ms",
                "Time between high-watermark checkpoints",
                5000,
                10..=600_000,
            ),
        };
        if config.fetch_wait_max_ms >= config.lag_time_max_ms {
            r.problem(
                "replica.fetch.wait.max.ms",
                "not below replica.lag.time.max.ms",
                "less than replica.lag.time.max.ms",
            );
        }
        config
    }
}

/// Limits of client connections.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Largest request frame.
    pub request_max_bytes: u32,
    /// Most connections in all.
    pub max_connections: usize,
    /// Most connections from one address.
    pub max_connections_per_ip: usize,
    /// Idle time after which a connection is closed.
    pub connections_max_idle_ms: u64,
    /// Most bytes of unanswered requests in all connections.
    pub queued_max_bytes: u64,
    /// Most bytes of unanswered requests and unsent answers of one connection.
    pub connection_queued_max_bytes: u64,
    /// Most unanswered requests of one connection.
    pub connection_queued_max_requests: usize,
    /// Most bytes of records in one fetch response.
    pub fetch_max_bytes: u32,
    /// Most incremental fetch sessions.
    pub max_fetch_sessions: usize,
}

impl NetConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            request_max_bytes: r.number(
                "socket.request.max.bytes",
                "Largest request accepted",
                104_857_600,
                1 << 10..=1 << 30,
            ),
            max_connections: r.number("max.connections", "Most client connections", 16_384, 1..=1 << 20),
            max_connections_per_ip: r.number(
                "max.connections.per.ip",
                "Most client connections from one address",
                16_384,
                1..=1 << 20,
            ),
            connections_max_idle_ms: r.number(
                "connections.max.idle.ms",
                "Idle time after which a connection is closed",
                600_000,
                1000..=MS_DAY,
            ),
            queued_max_bytes: r.number(
                "queued.max.request.bytes",
                "Most bytes of unanswered requests of all connections, and as many of answers not yet taken",
                256 << 20,
                1 << 20..=1 << 40,
            ),
            connection_queued_max_bytes: r.number(
                "connection.queued.max.bytes",
                "Most bytes of unanswered requests and unsent answers of one connection",
                64 << 20,
                1 << 16..=1 << 32,
            ),
            connection_queued_max_requests: r.number(
                "connection.queued.max.requests",
                "Most unanswered requests of one connection",
                128,
                1..=65_536,
            ),
            fetch_max_bytes: r.number(
                "fetch.max.bytes",
                "Most bytes of records in one fetch answer",
                57_671_680,
                1 << 10..=1 << 30,
            ),
            max_fetch_sessions: r.number(
                "max.incremental.fetch.session.cache.slots",
                "Most incremental fetch sessions",
                1000,
                0..=1 << 20,
            ),
        }
    }
}

/// Consumer groups.
#[derive(Clone, Debug)]
pub struct GroupsConfig {
    /// Partitions of `__consumer_offsets`.
    pub offsets_partitions: i32,
    /// Replicas of `__consumer_offsets`; `None` = as `default.replication.factor`.
    pub offsets_replication_factor: Option<i16>,
    /// How long offsets of an empty group are kept.
    pub offsets_retention_ms: u64,
    /// Shortest session a member may ask for.
    pub min_session_timeout_ms: i32,
    /// Longest session a member may ask for.
    pub max_session_timeout_ms: i32,
    /// Wait for more members when an empty group gets its first.
    pub initial_rebalance_delay_ms: i32,
    /// Most members of a group.
    pub max_size: usize,
    /// Most bytes of the text committed with an offset.
    pub offset_metadata_max_bytes: usize,
}

impl GroupsConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let minutes: u64 = r.number(
            "offsets.retention.minutes",
            "How long offsets of an empty group are kept",
            10_080,
            1..=i32::MAX as u64,
        );
        Self {
            offsets_partitions: r.number(
                "offsets.topic.num.partitions",
                "Partitions of the offsets topic; fixed once it exists",
                16,
                1..=1000,
            ),
            offsets_replication_factor: r.optional_number(
                "offsets.topic.replication.factor",
                "Replicas of the offsets topic; unset = default.replication.factor",
                1..=99,
            ),
            offsets_retention_ms: minutes * 60_000,
            min_session_timeout_ms: r.number(
                "group.min.session.timeout.ms",
                "Shortest session a group member may ask for",
                6000,
                1..=i32::MAX,
            ),
            max_session_timeout_ms: r.number(
                "group.max.session.timeout.ms",
                "Longest session a group member may ask for",
                1_800_000,
                1..=i32::MAX,
            ),
            initial_rebalance_delay_ms: r.number(
                "group.initial.rebalance.delay.ms",
                "Wait for more members when an empty group gets its first",
                3000,
                0..=600_000,
            ),
            max_size: r.number("group.max.size", "Most members of a group", 10_000, 1..=i32::MAX as usize),
            offset_metadata_max_bytes: r.number(
                "offset.metadata.max.bytes",
                "Most bytes of the text committed with an offset",
                4096,
                0..=1 << 20,
            ),
        }
    }
}
