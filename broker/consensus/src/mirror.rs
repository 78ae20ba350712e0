//! Typed mirror of raft's own protocol buffers: what travels between brokers and what lies on disk.
//!
//! The field numbers are eraftpb's, so the bytes are the same; the decoder is prost, which bounds its recursion, and
//! not raft's protobuf 2 runtime. The transport encodes and decodes [`RaftMessage`] at the edge, the replica converts
//! it to raft's own type just before stepping, and storage writes [`Entry`], [`HardState`] and [`ConfState`].
//! Nothing here judges whether a message makes sense: that is `guard`'s work, before raft sees it.

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb;

/// Messages larger than this are refused before decoding.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What is wrong with bytes that should have been one of the messages of this module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// Not protocol buffers, or not these.
    #[error("undecodable: {0}")]
    Decode(String),
    /// An enumeration has a value that this version does not know.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// More bytes than [`MAX_MESSAGE_BYTES`].
    #[error("{0} bytes, more than the limit of {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
}

/// Mirror of `eraftpb.EntryType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum EntryType {
    /// A proposal, or empty after an election.
    Normal = 0,
    /// Carries a [`ConfChange`].
    ConfChange = 1,
    /// Carries a [`ConfChangeV2`].
    ConfChangeV2 = 2,
}

/// Mirror of `eraftpb.MessageType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum MessageType {
    /// Local.
    Hup = 0,
    /// Local.
    Beat = 1,
    /// Forwarded proposal: Chronik never sends one.
    Propose = 2,
    /// Entries, leader to follower.
    Append = 3,
    /// Answer to `Append` and to `Snapshot`.
    AppendResponse = 4,
    /// Vote request.
    RequestVote = 5,
    /// Vote.
    RequestVoteResponse = 6,
    /// Full state image, leader to follower.
    Snapshot = 7,
    /// Heartbeat, also carries read-index contexts.
    Heartbeat = 8,
    /// Answer to `Heartbeat`.
    HeartbeatResponse = 9,
    /// Local.
    Unreachable = 10,
    /// Local.
    SnapStatus = 11,
    /// Local.
    CheckQuorum = 12,
    /// Forwarded transfer request: Chronik never sends one.
    TransferLeader = 13,
    /// Leader tells its successor to campaign at once.
    TimeoutNow = 14,
    /// Follower asks for a read index.
    ReadIndex = 15,
    /// Answer to `ReadIndex`.
    ReadIndexResp = 16,
    /// Pre-vote request.
    RequestPreVote = 17,
    /// Pre-vote.
    RequestPreVoteResponse = 18,
}

/// Mirror of `eraftpb.Entry`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// What the data is.
    #[prost(enumeration = "EntryType", tag = "1")]
    pub entry_type: i32,
    /// Term of the leader that appended it.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Position in the log.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// The proposal.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// Unused by Chronik, carried for raft.
    #[prost(bytes = "bytes", tag = "6")]
    pub context: Bytes,
}

/// Mirror of `eraftpb.ConfState`: the members.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConfState {
    /// Who votes.
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// Who follows without a vote.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// Joint consensus: the outgoing voters.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Joint consensus: who becomes learner at its end.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// Joint consensus: leave without being told.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
    /// Chronik's own: the same voters as at the founding, and at no time others. `false` where nobody knows.
    #[prost(bool, tag = "100")]
    pub founding: bool,
}

/// Mirror of `eraftpb.SnapshotMetadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotMetadata {
    /// Members at `index`.
    #[prost(message, optional, tag = "1")]
    pub conf_state: Option<ConfState>,
    /// Last entry that the image contains.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// Its term.
    #[prost(uint64, tag = "3")]
    pub term: u64,
}

/// Mirror of `eraftpb.Snapshot`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// The application's image.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// What it stands for.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<SnapshotMetadata>,
}

/// Mirror of `eraftpb.HardState`: what a node must never forget.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HardState {
    /// Latest term seen.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Who got our vote in it, 0 for nobody.
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// Highest index known committed.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// Mirror of `eraftpb.ConfChange`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChange {
    /// Unused.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Add voter, remove, add learner.
    #[prost(enumeration = "ConfChangeType", tag = "2")]
    pub change_type: i32,
    /// Whom.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// Unused.
    #[prost(bytes = "bytes", tag = "4")]
    pub context: Bytes,
}

/// Mirror of `eraftpb.ConfChangeType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// Becomes a voter.
    AddNode = 0,
    /// Is a member no more.
    RemoveNode = 1,
    /// Becomes a learner.
    AddLearnerNode = 2,
}

/// Mirror of `eraftpb.ConfChangeSingle`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChangeSingle {
    /// Add voter, remove, add learner.
    #[prost(enumeration = "ConfChangeType", tag = "1")]
    pub change_type: i32,
    /// Whom.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// Mirror of `eraftpb.ConfChangeV2`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChangeV2 {
    /// Auto, implicit or explicit joint consensus.
    #[prost(int32, tag = "1")]
    pub transition: i32,
    /// All at once.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// Unused.
    #[prost(bytes = "bytes", tag = "3")]
    pub context: Bytes,
}

/// Mirror of `eraftpb.Message`: what one replica says to another.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftMessage {
    /// See [`MessageType`].
    #[prost(enumeration = "MessageType", tag = "1")]
    pub msg_type: i32,
    /// Receiver's id.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Sender's id.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// Sender's term.
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// Term of the entry at `index`.
    #[prost(uint64, tag = "5")]
    pub log_term: u64,
    /// Meaning depends on the type.
    #[prost(uint64, tag = "6")]
    pub index: u64,
    /// For `Append`; for read index, one entry carries the context.
    #[prost(message, repeated, tag = "7")]
    pub entries: Vec<Entry>,
    /// Commit index.
    #[prost(uint64, tag = "8")]
    pub commit: u64,
    /// For `Snapshot`.
    #[prost(message, optional, tag = "9")]
    pub snapshot: Option<Snapshot>,
    /// A refusal.
    #[prost(bool, tag = "10")]
    pub reject: bool,
    /// Where the follower's log may match.
    #[prost(uint64, tag = "11")]
    pub reject_hint: u64,
    /// Opaque.
    #[prost(bytes = "bytes", tag = "12")]
    pub context: Bytes,
    /// A follower wants a snapshot at least this new.
    #[prost(uint64, tag = "13")]
    pub request_snapshot: u64,
    /// Old form of `priority`.
    #[prost(uint64, tag = "14")]
    pub deprecated_priority: u64,
    /// Term of `commit`.
    #[prost(uint64, tag = "15")]
    pub commit_term: u64,
    /// Candidate's priority.
    #[prost(int64, tag = "16")]
    pub priority: i64,
    /// Chronik's own, in requests for votes: the voters by which the candidate counts, if the cluster was founded with just
    /// these and never had others (see `lost_disk`).
    #[prost(uint64, repeated, tag = "100")]
    pub voters: Vec<u64>,
}

impl RaftMessage {
    /// The bytes that travel.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    /// From bytes of a peer; entry data aliases `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, MirrorError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MirrorError::TooLarge(bytes.len()));
        }
        <Self as prost::Message>::decode(bytes).map_err(|e| MirrorError::Decode(e.to_string()))
    }

    /// Its type, when known.
    #[must_use]
    pub fn kind(&self) -> Option<MessageType> {
        MessageType::try_from(self.msg_type).ok()
    }

    /// Whether this is a full state image, which travels in chunks.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.kind() == Some(MessageType::Snapshot)
    }

    /// Bytes it takes on the wire.
    #[must_use]
    pub fn wire_size(&self) -> usize {
        self.encoded_len()
    }
}

fn unknown(field: &'static str) -> impl Fn(prost::UnknownEnumValue) -> MirrorError {
    move |e| MirrorError::UnknownValue { field, value: e.0 }
}

impl From<eraftpb::Entry> for Entry {
    fn from(e: eraftpb::Entry) -> Self {
        Self { entry_type: e.entry_type as i32, term: e.term, index: e.index, data: e.data, context: e.context }
    }
}

impl TryFrom<Entry> for eraftpb::Entry {
    type Error = MirrorError;

    fn try_from(e: Entry) -> Result<Self, MirrorError> {
        let entry_type = match EntryType::try_from(e.entry_type).map_err(unknown("entry_type"))? {
            EntryType::Normal => eraftpb::EntryType::EntryNormal,
            EntryType::ConfChange => eraftpb::EntryType::EntryConfChange,
            EntryType::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
        };
        let mut out = Self::default();
        out.set_entry_type(entry_type);
        out.term = e.term;
        out.index = e.index;
        out.data = e.data;
        out.context = e.context;
        Ok(out)
    }
}

impl From<&eraftpb::ConfState> for ConfState {
    fn from(c: &eraftpb::ConfState) -> Self {
        Self {
            voters: c.voters.clone(),
            learners: c.learners.clone(),
            voters_outgoing: c.voters_outgoing.clone(),
            learners_next: c.learners_next.clone(),
            auto_leave: c.auto_leave,
            founding: false,
        }
    }
}

impl From<ConfState> for eraftpb::ConfState {
    fn from(c: ConfState) -> Self {
        Self {
            voters: c.voters,
            learners: c.learners,
            voters_outgoing: c.voters_outgoing,
            learners_next: c.learners_next,
            auto_leave: c.auto_leave,
            ..Self::default()
        }
    }
}

impl From<&eraftpb::HardState> for HardState {
    fn from(h: &eraftpb::HardState) -> Self {
        Self { term: h.term, vote: h.vote, commit: h.commit }
    }
}

impl From<HardState> for eraftpb::HardState {
    fn from(h: HardState) -> Self {
        Self { term: h.term, vote: h.vote, commit: h.commit, ..Self::default() }
    }
}

impl From<eraftpb::Snapshot> for Snapshot {
    fn from(mut s: eraftpb::Snapshot) -> Self {
        let meta = s.get_metadata();
        let metadata = SnapshotMetadata {
            conf_state: Some(ConfState::from(meta.get_conf_state())),
            index: meta.index,
            term: meta.term,
        };
        Self { data: s.take_data(), metadata: Some(metadata) }
    }
}

impl From<Snapshot> for eraftpb::Snapshot {
    fn from(s: Snapshot) -> Self {
        let mut out = Self { data: s.data, ..Self::default() };
        if let Some(m) = s.metadata {
            let meta = out.mut_metadata();
            meta.index = m.index;
            meta.term = m.term;
            meta.set_conf_state(m.conf_state.unwrap_or_default().into());
        }
        out
    }
}

impl From<eraftpb::Message> for RaftMessage {
    fn from(mut m: eraftpb::Message) -> Self {
        let snapshot = m.has_snapshot().then(|| m.take_snapshot().into());
        Self {
            msg_type: m.msg_type as i32,
            to: m.to,
            from: m.from,
            term: m.term,
            log_term: m.log_term,
            index: m.index,
            entries: m.take_entries().into_iter().map(Entry::from).collect(),
            commit: m.commit,
            snapshot,
            reject: m.reject,
            reject_hint: m.reject_hint,
            context: m.take_context(),
            request_snapshot: m.request_snapshot,
            deprecated_priority: m.deprecated_priority,
            commit_term: m.commit_term,
            priority: m.priority,
            voters: Vec::new(),
        }
    }
}

impl TryFrom<RaftMessage> for eraftpb::Message {
    type Error = MirrorError;

    fn try_from(m: RaftMessage) -> Result<Self, MirrorError> {
        use eraftpb::MessageType as R;
        let msg_type = match MessageType::try_from(m.msg_type).map_err(unknown("msg_type"))? {
            MessageType::Hup => R::MsgHup,
            MessageType::Beat => R::MsgBeat,
            MessageType::Propose => R::MsgPropose,
            MessageType::Append => R::MsgAppend,
            MessageType::AppendResponse => R::MsgAppendResponse,
            MessageType::RequestVote => R::MsgRequestVote,
            MessageType::RequestVoteResponse => R::MsgRequestVoteResponse,
            MessageType::Snapshot => R::MsgSnapshot,
            MessageType::Heartbeat => R::MsgHeartbeat,
            MessageType::HeartbeatResponse => R::MsgHeartbeatResponse,
            MessageType::Unreachable => R::MsgUnreachable,
            MessageType::SnapStatus => R::MsgSnapStatus,
            MessageType::CheckQuorum => R::MsgCheckQuorum,
            MessageType::TransferLeader => R::MsgTransferLeader,
            MessageType::TimeoutNow => R::MsgTimeoutNow,
            MessageType::ReadIndex => R::MsgReadIndex,
            MessageType::ReadIndexResp => R::MsgReadIndexResp,
            MessageType::RequestPreVote => R::MsgRequestPreVote,
            MessageType::RequestPreVoteResponse => R::MsgRequestPreVoteResponse,
        };
        let mut out = Self::default();
        out.set_msg_type(msg_type);
        out.to = m.to;
        out.from = m.from;
        out.term = m.term;
        out.log_term = m.log_term;
        out.index = m.index;
        let entries: Vec<eraftpb::Entry> =
            m.entries.into_iter().map(eraftpb::Entry::try_from).collect::<Result<_, _>>()?;
        out.set_entries(entries.into());
        out.commit = m.commit;
        if let Some(snapshot) = m.snapshot {
            out.set_snapshot(snapshot.into());
        }
        out.reject = m.reject;
        out.reject_hint = m.reject_hint;
        out.context = m.context;
        out.request_snapshot = m.request_snapshot;
        out.deprecated_priority = m.deprecated_priority;
        out.commit_term = m.commit_term;
        out.priority = m.priority;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use super::*;

    fn full() -> RaftMessage {
        let entry = |index, kind: EntryType| Entry {
            entry_type: kind as i32,
            term: 3,
            index,
            data: Bytes::from_static(b"data"),
            context: Bytes::from_static(b"ctx"),
        };
        let conf_state = ConfState {
            voters: vec![1, 2, 300],
            learners: vec![4],
            voters_outgoing: vec![1, 2],
            learners_next: vec![2],
            auto_leave: true,
            founding: false,
        };
        let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: 7, term: 2 };
        RaftMessage {
            msg_type: MessageType::Snapshot as i32,
            to: 1,
            from: 2,
            term: 3,
            log_term: 4,
            index: 5,
            entries: vec![entry(6, EntryType::Normal), entry(7, EntryType::ConfChange)],
            commit: 8,
            snapshot: Some(Snapshot { data: Bytes::from_static(b"image"), metadata: Some(metadata) }),
            reject: true,
            reject_hint: 9,
            context: Bytes::from_static(b"context"),
            request_snapshot: 10,
            deprecated_priority: 11,
            commit_term: 12,
            priority: -13,
            voters: Vec::new(),
        }
    }

    #[test]
    fn the_bytes_are_those_of_rafts_own_codec_in_both_directions() {
        for msg_type in 0..=18 {
            let message = RaftMessage { msg_type, ..full() };
            let theirs = eraftpb::Message::try_from(message.clone()).expect("known type");
            let bytes = Bytes::from(theirs.write_to_bytes().expect("encodes"));
            assert_eq!(RaftMessage::decode(bytes), Ok(message.clone()), "theirs to ours");
            let mut read = eraftpb::Message::default();
            read.merge_from_bytes(&message.encode()).expect("decodes");
            assert_eq!(read, theirs, "ours to theirs");
            assert_eq!(RaftMessage::from(theirs), message, "by fields");
        }
    }

    #[test]
    fn unknown_enumeration_values_and_broken_bytes_are_errors() {
        let unknown = RaftMessage { msg_type: 99, ..full() };
        assert_eq!(
            eraftpb::Message::try_from(unknown),
            Err(MirrorError::UnknownValue { field: "msg_type", value: 99 })
        );
        let bytes = full().encode();
        assert!(matches!(RaftMessage::decode(bytes.slice(..bytes.len() - 3)), Err(MirrorError::Decode(_))));
    }
}
