//! Counters and the state of each peer, for `/status`, metrics and the doctor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use chronik_consensus::mirror::{MessageType, RaftMessage};

/// Names as in eraftpb, which everybody who knows raft-rs or etcd reads.
const TYPES: [(&str, MessageType); 19] = [
    ("MsgHup", MessageType::Hup),
    ("MsgBeat", MessageType::Beat),
    ("MsgPropose", MessageType::Propose),
    ("MsgAppend", MessageType::Append),
    ("MsgAppendResponse", MessageType::AppendResponse),
    ("MsgRequestVote", MessageType::RequestVote),
    ("MsgRequestVoteResponse", MessageType::RequestVoteResponse),
    ("MsgSnapshot", MessageType::Snapshot),
    ("MsgHeartbeat", MessageType::Heartbeat),
    ("MsgHeartbeatResponse", MessageType::HeartbeatResponse),
    ("MsgUnreachable", MessageType::Unreachable),
    ("MsgSnapStatus", MessageType::SnapStatus),
    ("MsgCheckQuorum", MessageType::CheckQuorum),
    ("MsgTransferLeader", MessageType::TransferLeader),
    ("MsgTimeoutNow", MessageType::TimeoutNow),
    ("MsgReadIndex", MessageType::ReadIndex),
    ("MsgReadIndexResp", MessageType::ReadIndexResp),
    ("MsgRequestPreVote", MessageType::RequestPreVote),
    ("MsgRequestPreVoteResponse", MessageType::RequestPreVoteResponse),
];

/// Name of a message's type, for logs and counters.
pub(super) fn type_name(message: &RaftMessage) -> &'static str {
    usize::try_from(message.msg_type).ok().and_then(|i| TYPES.get(i)).map_or("unknown", |(name, _)| name)
}

/// Messages by type, and those dropped.
#[derive(Debug, Default)]
pub(super) struct Counters {
    by_type: [AtomicU64; TYPES.len()],
    dropped: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, message: &RaftMessage) {
        if let Some(counter) = usize::try_from(message.msg_type).ok().and_then(|i| self.by_type.get(i)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn by_type(&self) -> BTreeMap<&'static str, u64> {
        let counts = TYPES.iter().zip(&self.by_type).map(|((name, _), count)| (*name, count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// A peer's own stream to us.
#[derive(Clone, Debug, serde::Serialize)]
pub struct InboundStatus {
    /// The address it announces.
    pub address: String,
    /// Where it connected from.
    pub remote: String,
    /// This run of its process.
    pub incarnation: String,
    /// Age of the stream.
    pub age_ms: u64,
    /// Time since something arrived on it.
    pub silent_ms: u64,
}

/// Everything about one peer.
#[derive(Clone, Default, Debug, serde::Serialize)]
pub struct LinkStatus {
    /// The peer.
    pub peer: i32,
    /// Its registered address; `null` when there is none.
    pub address: Option<String>,
    /// `idle`, `connecting`, `connected` or `down`.
    pub state: &'static str,
    /// Time in that state.
    pub state_ms: u64,
    /// Why the last attempt failed, or the last stream broke.
    pub last_error: Option<String>,
    /// Kind of the last error: `unregistered`, `dns`, `refused`, `timeout`, `socket`, `protocol`, `wrong_cluster`,
    /// `wrong_node`, `duplicate_node`, `voters_differ`.
    pub last_error_kind: Option<&'static str>,
    /// The socket address in use.
    pub remote: Option<String>,
    /// Streams established so far.
    pub connects: u64,
    /// Time since a message was sent; `null` = never.
    pub last_sent_ms_ago: Option<u64>,
    /// Messages waiting.
    pub queued: usize,
    /// Messages dropped on the way out, because the peer was not connected or its queue was full.
    pub send_dropped: u64,
    /// Messages dropped on arrival, because the Raft thread had no room.
    pub receive_dropped: u64,
    /// Messages sent, by type.
    pub sent: BTreeMap<&'static str, u64>,
    /// Messages received, by type.
    pub received: BTreeMap<&'static str, u64>,
    /// The peer's term when it last greeted us.
    pub peer_term: Option<u64>,
    /// The leader that the peer knew then.
    pub peer_leader: Option<i32>,
    /// The voters that the peer was founded with.
    pub peer_bootstrap_voters: Vec<i32>,
    /// The run of its process.
    pub peer_incarnation: Option<String>,
    /// The peer's own stream to us, if it has one.
    pub inbound: Option<InboundStatus>,
}
