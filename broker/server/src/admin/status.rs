//! The types behind `/status`; also what brokers tell each other when a doctor asks, so every field has a default and
//! an older or newer peer's answer can still be read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything one broker knows about itself and its peers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Software version.
    pub version: String,
    /// The cluster's id, once known.
    pub cluster_id: Option<String>,
    /// This broker.
    pub node_id: i32,
    /// Identity of this run of the process.
    pub incarnation: String,
    /// Where clients reach this broker.
    pub kafka_address: String,
    /// `starting`, `ready`, `not ready` or `stopping`.
    pub state: String,
    /// Why it is not ready, if so.
    pub not_ready_because: Option<String>,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// Wall clock, milliseconds since 1970.
    pub wall_clock_ms: i64,
    /// Start-up steps.
    pub startup: Startup,
    /// The metadata quorum as this broker sees it.
    pub raft: Raft,
    /// Connections to peers.
    pub peers: Vec<Peer>,
    /// Registered brokers, from the committed metadata.
    pub brokers: Vec<Broker>,
    /// The log directory.
    pub log_dir: LogDir,
    /// Partitions in numbers.
    pub replication: Replication,
    /// One entry per hosted partition; only with `?detail=true`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<Partition>,
    /// The process.
    pub process: Process,
}

impl Status {
    /// Understands what a peer sent.
    ///
    /// # Errors
    /// It is no status.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// As it is sent to peers.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Start-up, step by step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Startup {
    /// The step under way; `None` when all are done.
    pub current: Option<String>,
    /// Steps begun, in order.
    pub steps: Vec<Step>,
}

/// One start-up step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// How long it took, in milliseconds; `None` while it runs.
    pub ms: Option<u64>,
    /// What came of it or what it waits for.
    pub detail: String,
}

/// The Raft replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Raft {
    /// `leader`, `follower`, `candidate`, `pre-candidate` or `learner`.
    pub role: String,
    /// Whether the replica works; otherwise what stopped it.
    pub failure: Option<String>,
    /// Current term.
    pub term: u64,
    /// Vote in this term.
    pub vote: Option<i32>,
    /// The leader this broker follows.
    pub leader: Option<i32>,
    /// Highest committed index.
    pub commit: u64,
    /// Highest applied index.
    pub applied: u64,
    /// First index in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Entries not yet on disk.
    pub unstable_entries: u64,
    /// Proposals waiting for their result.
    pub pending_proposals: u64,
    /// Age of the oldest waiting proposal in milliseconds.
    pub oldest_proposal_ms: u64,
    /// Voters.
    pub voters: Vec<i32>,
    /// Learners.
    pub learners: Vec<i32>,
    /// Campaigns this replica started.
    pub elections: u64,
    /// Leader changes seen.
    pub leader_changes: u64,
    /// Replication progress per peer; only the leader has it.
    pub progress: Vec<Progress>,
    /// Messages sent by type.
    pub messages_out: BTreeMap<String, u64>,
    /// Messages received by type.
    pub messages_in: BTreeMap<String, u64>,
    /// Committed entries applied since the start.
    pub entries_applied: u64,
    /// Hash of the metadata image at `applied`.
    pub metadata_hash: Option<String>,
}

/// Progress of one peer, as its leader tracks it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The peer.
    pub node: i32,
    /// Highest index known to be on it.
    pub matched: u64,
    /// Next index to send.
    pub next: u64,
    /// `probe`, `replicate` or `snapshot`.
    pub state: String,
    /// Whether sending is paused.
    pub paused: bool,
    /// Index of the snapshot under way, 0 when none.
    pub pending_snapshot: u64,
    /// Whether it answered within the last election timeout.
    pub recent_active: bool,
}

/// The connection to one peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// The peer.
    pub node: i32,
    /// Its registered address; `None` when nothing was registered.
    pub address: Option<String>,
    /// The name that DNS has to know, for peers found by name.
    pub dns_name: Option<String>,
    /// Why the name does not resolve, if so.
    pub dns_error: Option<String>,
    /// Whether our stream to it is up.
    pub connected: bool,
    /// Why not, if not.
    pub last_error: Option<String>,
    /// Milliseconds since anything was received from it; `None` when nothing ever was.
    pub last_received_ms_ago: Option<u64>,
    /// Milliseconds since anything was sent to it.
    pub last_sent_ms_ago: Option<u64>,
    /// Messages sent.
    pub sent: u64,
    /// Messages received.
    pub received: u64,
    /// Messages dropped because the queue was full or the peer away.
    pub dropped: u64,
    /// Messages in the queue.
    pub queued: u64,
    /// Times the stream was made.
    pub connects: u64,
}

/// A registered broker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Broker {
    /// Its id.
    pub node: i32,
    /// Where clients reach it.
    pub kafka_address: String,
    /// Where its admin port is.
    pub admin_address: String,
    /// Broker epoch.
    pub epoch: i64,
    /// Whether it is fenced.
    pub fenced: bool,
    /// Whether it is shutting down.
    pub shutting_down: bool,
    /// Failure domain.
    pub rack: Option<String>,
    /// Whether its log directory is offline.
    pub log_dir_offline: bool,
}

/// The log directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogDir {
    /// Its path.
    pub path: String,
    /// `online` or `offline`.
    pub state: String,
    /// Why it is offline.
    pub reason: Option<String>,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
}

/// Partitions in numbers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Replication {
    /// Topics of the cluster.
    pub topics: u64,
    /// Partitions of the cluster.
    pub partitions: u64,
    /// Partitions of the cluster without a leader.
    pub leaderless: u64,
    /// Brokers that these partitions wait for, because they may hold records that nobody else has.
    pub awaited: Vec<i32>,
    /// Partitions of the cluster with fewer in-sync replicas than replicas.
    pub under_replicated: u64,
    /// Partitions of the cluster with fewer in-sync replicas than `min.insync.replicas`.
    pub under_min_isr: u64,
    /// Partitions this broker leads.
    pub leading: u64,
    /// Partitions this broker follows.
    pub following: u64,
    /// Largest number of records by which a follower of ours lags.
    pub max_lag: u64,
    /// Bytes of records produced to this broker since its start.
    pub bytes_in: u64,
    /// Records produced to this broker since its start.
    pub records_in: u64,
    /// Bytes of records consumers fetched from this broker since its start.
    pub bytes_out: u64,
    /// Bytes of records fetched from other brokers since the start.
    pub replication_bytes_in: u64,
    /// State of each fetcher.
    pub fetchers: Vec<Fetcher>,
    /// Groups this broker coordinates.
    pub groups: u64,
    /// Partitions of the groups' topic that this broker leads and cannot load.
    pub unloaded_groups: Vec<UnloadedGroups>,
    /// Client connections.
    pub connections: u64,
}

/// A partition of the groups' topic whose records cannot be read; the groups in it are not served.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnloadedGroups {
    /// Its index.
    pub partition: i32,
    /// What is wrong.
    pub reason: String,
}

/// One fetcher.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fetcher {
    /// The leader it pulls from.
    pub leader: i32,
    /// Partitions it pulls.
    pub partitions: u64,
    /// `connected` or what went wrong.
    pub state: String,
}

/// One hosted partition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Topic name.
    pub topic: String,
    /// Index.
    pub partition: i32,
    /// `leader`, `follower` or `offline`.
    pub role: String,
    /// The leader.
    pub leader: Option<i32>,
    /// Leader epoch.
    pub leader_epoch: i32,
    /// In-sync replicas.
    pub isr: Vec<i32>,
    /// Replicas.
    pub replicas: Vec<i32>,
    /// High watermark.
    pub high_watermark: i64,
    /// Log end offset.
    pub log_end: i64,
    /// Log start offset.
    pub log_start: i64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// The process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Resident memory.
    pub rss_bytes: u64,
    /// CPU time used, seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Threads.
    pub threads: u64,
}

/// What a peer answered when asked for its status.
#[derive(Clone, Debug)]
pub struct PeerAnswer {
    /// Its status.
    pub status: Status,
    /// Its wall clock minus ours, corrected by half the round trip, in milliseconds.
    pub clock_offset_ms: i64,
    /// How long the question took, in milliseconds.
    pub round_trip_ms: u64,
}

impl PeerAnswer {
    /// What a peer answered, with the clock that it named, to a question that was asked at `asked_ms` by our clock.
    ///
    /// # Errors
    /// It is no status.
    pub fn new(json: &str, wall_ms: i64, asked_ms: i64, round_trip: Duration) -> Result<Self, serde_json::Error> {
        let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
        Ok(Self {
            status: Status::parse(json)?,
            clock_offset_ms: wall_ms.saturating_sub(asked_ms.saturating_add(half)),
            round_trip_ms: u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// Why a peer could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// No address is registered.
    #[error("no address is registered for it")]
    Unregistered,
    /// The name does not resolve.
    #[error("{name} does not resolve: {error}")]
    Name {
        /// The name.
        name: String,
        /// What DNS said.
        error: String,
    },
    /// The connection was refused: nobody listens there.
    #[error("{address} refuses connections")]
    Refused {
        /// Where it was tried.
        address: String,
    },
    /// No answer in time.
    #[error("{address} does not answer")]
    Silent {
        /// Where it was tried.
        address: String,
    },
    /// Somebody answered who is not this peer.
    #[error("{address}: {error}")]
    Other {
        /// Where it was tried.
        address: String,
        /// What went wrong.
        error: String,
    },
}
