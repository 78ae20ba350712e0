//! One struct per subsystem, each read and validated by its own `read`.
//!
//! Called by [`super::Config::from_sources`] only. A section never looks at another section's keys.

use std::net::IpAddr;

use super::listeners::{self, ExtraListener};
use super::source::Reader;

/// Ports and addresses of this broker.
#[derive(Clone, Debug)]
pub struct ListenersConfig {
    /// Address all listeners bind to.
    pub bind: IpAddr,
    /// Kafka clients.
    pub kafka_port: u16,
    /// Raft and control gRPC.
    pub raft_port: u16,
    /// Followers' fetches.
    pub replication_port: u16,
    /// Admin HTTP.
    pub admin_port: u16,
    /// Host that clients and peers are told; resolved in [`super::Config::from_sources`] when not given.
    pub advertised_host: Option<String>,
    /// Kafka port that clients are told, when it differs (port mapping).
    pub advertised_kafka_port: Option<u16>,
    /// Further Kafka listeners, besides those of the mounted `cluster.yaml`.
    pub extra: Vec<ExtraListener>,
}

impl ListenersConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let ports = 1..=u16::MAX;
        let any = IpAddr::from([0, 0, 0, 0]);
        let config = Self {
            bind: r
                .parsed(
                    "bind.address",
                    "Address all listeners bind to",
                    Some(any),
                    "an IP address",
                    IpAddr::to_string,
                    |t| t.trim_start_matches('[').trim_end_matches(']').parse().ok(),
                )
                .unwrap_or(any),
            kafka_port: r.number("kafka.port", "Port for Kafka clients", 9092, ports.clone()),
            raft_port: r.number("raft.port", "Port for Raft and control gRPC", 9192, ports.clone()),
            replication_port: r.number("replication.port", "Port for followers' fetches", 9292, ports.clone()),
            admin_port: r.number("admin.port", "Port for admin HTTP", 9392, ports.clone()),
            advertised_host: r.text(
                "advertised.host",
                "Host name that clients and peers are told",
                "a host name or IP",
            ),
            advertised_kafka_port: r.optional_number(
                "advertised.kafka.port",
                "Kafka port that clients are told",
                ports,
            ),
            extra: r
                .parsed(
                    "kafka.listeners",
                    "Further Kafka listeners; who asks through one is told the brokers' addresses for that one",
                    Some(Vec::new()),
                    listeners::ACCEPTED,
                    |all| listeners::show(all),
                    listeners::parse,
                )
                .unwrap_or_default(),
        };
        let mut seen = vec![config.kafka_port, config.raft_port, config.replication_port, config.admin_port];
        seen.extend(config.extra.iter().map(|listener| listener.port));
        seen.sort_unstable();
        if seen.windows(2).any(|pair| pair[0] == pair[1]) {
            r.problem("kafka.port", "two listeners have the same port", "a port of its own for each");
        }
        config
    }
}

/// Timing and limits of the metadata quorum and its transport.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Length of a Raft tick.
    pub tick_ms: u64,
    /// Ticks without a leader before an election.
    pub election_tick: usize,
    /// Ticks between heartbeats.
    pub heartbeat_tick: usize,
    /// Most bytes of entries in one message.
    pub max_size_per_msg: u64,
    /// Most appends in flight per follower.
    pub max_inflight_msgs: usize,
    /// Log bytes after which a snapshot is taken and the log compacted.
    pub compact_bytes: u64,
    /// Most messages waiting for one peer.
    pub peer_queue_messages: usize,
    /// Largest gRPC message.
    pub max_frame_bytes: usize,
    /// Size of one snapshot piece.
    pub snapshot_chunk_bytes: usize,
    /// Time to establish a connection to a peer.
    pub connect_timeout_ms: u64,
    /// HTTP/2 keepalive interval.
    pub keepalive_ms: u64,
}

impl RaftConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let config = Self {
            tick_ms: r.number("raft.tick.ms", "Length of a Raft tick", 100, 10..=10_000),
            election_tick: r.number("raft.election.ticks", "Ticks without a leader before an election", 10, 3..=1000),
            heartbeat_tick: r.number("raft.heartbeat.ticks", "Ticks between the leader's heartbeats", 3, 1..=100),
            max_size_per_msg: r.number(
                "raft.max.size.per.msg",
                "Most bytes of entries in one append message",
                1 << 20,
                1 << 10..=32 << 20,
            ),
            max_inflight_msgs: r.number(
                "raft.max.inflight.msgs",
                "Most appends in flight per follower",
                256,
                1..=65_536,
            ),
            compact_bytes: r.number(
                "raft.compact.bytes",
                "Log bytes after which the metadata log is compacted into a snapshot",
                16 << 20,
                4 << 10..=16 << 30,
            ),
            peer_queue_messages: r.number(
                "raft.peer.queue.messages",
                "Most Raft messages waiting for one peer; more are dropped and counted",
                1024,
                16..=1 << 20,
            ),
            max_frame_bytes: r.number(
                "raft.max.frame.bytes",
                "Largest message accepted from a peer",
                64 << 20,
                64 << 10..=1 << 30,
            ),
            snapshot_chunk_bytes: r.number(
                "raft.snapshot.chunk.bytes",
                "Size of one piece of a snapshot on the wire",
                512 << 10,
                1 << 10..=16 << 20,
            ),
            connect_timeout_ms: r.number("raft.connect.timeout.ms", "Time to connect to a peer", 1000, 50..=60_000),
            keepalive_ms: r.number("raft.keepalive.ms", "HTTP/2 keepalive interval", 2000, 100..=600_000),
        };
        if config.heartbeat_tick >= config.election_tick {
            r.problem("raft.heartbeat.ticks", "not below raft.election.ticks", "less than raft.election.ticks");
        }
        let worst = config.max_size_per_msg + (64 << 10);
        if (config.max_frame_bytes as u64) < worst || config.max_frame_bytes < config.snapshot_chunk_bytes + (1 << 10) {
            r.problem(
                "raft.max.frame.bytes",
                "too small for what peers send",
                "more than raft.max.size.per.msg + 64KiB and more than raft.snapshot.chunk.bytes + 1KiB",
            );
        }
        config
    }
}

/// Registration, sessions, starting and stopping.
#[derive(Clone, Debug)]
pub struct LifecycleConfig {
    /// Time between heartbeats to the Raft leader.
    pub heartbeat_interval_ms: u64,
    /// Silence after which a broker is fenced.
    pub session_timeout_ms: u64,
    /// How long a first boot waits for every voter's name.
    pub first_boot_wait_ms: u64,
    /// How long a stop waits for leaderships to move.
    pub controlled_shutdown_timeout_ms: u64,
    /// How long open connections may finish their requests.
    pub drain_timeout_ms: u64,
}

impl LifecycleConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let config = Self {
            heartbeat_interval_ms: r.number(
                "broker.heartbeat.interval.ms",
                "Time between a broker's heartbeats to the Raft leader",
                500,
                10..=60_000,
            ),
            session_timeout_ms: r.number(
                "broker.session.timeout.ms",
                "Silence after which a broker is fenced",
                3000,
                1..=600_000,
            ),
            first_boot_wait_ms: r.number(
                "first.boot.wait.ms",
                "How long a first boot waits for the names of all voters before it goes on with a majority",
                10_000,
                0..=600_000,
            ),
            controlled_shutdown_timeout_ms: r.number(
                "controlled.shutdown.timeout.ms",
                "How long a stop waits for leaderships to move away",
                15_000,
                0..=600_000,
            ),
            drain_timeout_ms: r.number(
                "shutdown.drain.timeout.ms",
                "How long open connections may finish their requests at shutdown",
                2000,
                0..=600_000,
            ),
        };
        if config.session_timeout_ms < config.heartbeat_interval_ms.saturating_mul(2) {
            r.problem(
                "broker.session.timeout.ms",
                "less than two heartbeat intervals",
                "at least 2 x broker.heartbeat.interval.ms",
            );
        }
        config
    }
}

/// How events are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TracingFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Events.
#[derive(Clone, Debug)]
pub struct TracingConfig {
    /// Filter per component, as `info,chronik_broker::peer=debug`.
    pub filter: String,
    /// Form of a line.
    pub format: TracingFormat,
}

impl TracingConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let filter = r.text_or(
            "tracing.filter",
            "Which events are written, per component; can be changed at run time",
            "info",
            "directives such as info,chronik_broker::peer=debug",
        );
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&filter) {
            r.problem("tracing.filter", error.to_string(), "directives such as info,chronik_broker::peer=debug");
        }
        let formats = [("text", TracingFormat::Text), ("json", TracingFormat::Json)];
        let format = r.choice("tracing.format", "Form of a line of events", &formats).unwrap_or(TracingFormat::Text);
        Self { filter, format }
    }
}
