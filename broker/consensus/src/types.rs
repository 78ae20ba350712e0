//! Plain data that goes in and out of a replica: effects, tokens, status. No behaviour.

use bytes::Bytes;
use chronik_model::{NodeId, RaftIndex, Term};

use crate::mirror::RaftMessage;

/// What a replica is in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one. Learners are followers that never campaign.
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Replicates its log to the others.
    Leader,
}

impl Role {
    /// Lower-case name for logs and `/status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// Where a proposal was appended. It is committed exactly when the entry at `index` is applied with this `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalToken {
    /// Term of the proposing leader.
    pub term: Term,
    /// Index that the entry got.
    pub index: RaftIndex,
}

/// Names one linearizable read until it is answered; see `Replica::read_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// A read may be served from the local state once that has applied `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// Which read.
    pub token: ReadToken,
    /// From which applied index on.
    pub index: RaftIndex,
}

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Index of the entry that made it so.
    pub index: RaftIndex,
    /// Who votes, ascending.
    pub voters: Vec<NodeId>,
    /// Who follows without a vote, ascending.
    pub learners: Vec<NodeId>,
}

impl Membership {
    /// Voters and learners, ascending.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.voters.iter().chain(&self.learners).copied().collect();
        all.sort_unstable();
        all
    }
}

/// One change of the members. Only one is in progress at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new node follows the log without a vote.
    AddLearner(NodeId),
    /// A learner that has caught up gets a vote.
    Promote(NodeId),
    /// A voter follows the log without a vote from now on.
    Demote(NodeId),
    /// A voter or learner leaves.
    RemoveNode(NodeId),
}

/// One committed entry, in log order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its position.
    pub index: RaftIndex,
    /// Term of the leader that appended it.
    pub term: Term,
    /// What the application has to do with it.
    pub payload: Payload,
}

/// What a committed entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A proposal, to be applied.
    Command(Bytes),
    /// The empty entry of an election: nothing to apply, but the applied index moves.
    Empty,
    /// The members changed; already in force.
    Membership(Membership),
}

/// A full state image that replaces the application's state. Empty data is the state before the first command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateImage {
    /// Last entry that the image contains.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
    /// What the application gave to `Replica::provide_snapshot`.
    pub data: Bytes,
}

/// The role, the term or the known leader changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleChange {
    /// What this replica is now.
    pub role: Role,
    /// Whom it follows; itself when leading; `None` when nobody is known.
    pub leader: Option<NodeId>,
    /// Current term.
    pub term: Term,
}

/// What the host of the replica must do now, in the order of the fields. Everything promised here is durable.
#[derive(Debug, Default)]
pub struct Effects {
    /// To send, in order per receiver. Never contains snapshots.
    pub messages: Vec<RaftMessage>,
    /// State images to send in chunks ([`crate::chunks`]); report each with `Replica::report_snapshot`.
    pub snapshots: Vec<RaftMessage>,
    /// The role, the term or the known leader changed.
    pub role: Option<RoleChange>,
    /// Replace the application's state by this, before applying `committed`.
    pub install: Option<StateImage>,
    /// Apply these, in order.
    pub committed: Vec<CommittedEntry>,
    /// Reads that may be served once the state has applied their index.
    pub reads: Vec<ReadState>,
    /// The members changed (also told in `committed`, or by `install`).
    pub membership: Option<Membership>,
    /// The log is long enough to be compacted, or a peer needs a state image: call `Replica::provide_snapshot` with
    /// the state as of the last entry applied.
    pub snapshot_wanted: bool,
}

/// How replication to a peer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressKind {
    /// One message at a time until the peer's log position is known.
    Probe,
    /// Pipelined.
    Replicate,
    /// Waits for a state image to be installed.
    Snapshot,
}

impl ProgressKind {
    /// Lower-case name for logs and `/status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What the leader knows about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    /// Which member.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// Last index known to be the same on both.
    pub matched: RaftIndex,
    /// Next index to send.
    pub next: RaftIndex,
    /// How replication goes on.
    pub state: ProgressKind,
    /// Nothing is sent until the peer answers.
    pub paused: bool,
    /// Index of the image being sent, if any.
    pub pending_snapshot: Option<RaftIndex>,
    /// Answered within the last election timeout.
    pub recent_active: bool,
    /// Milliseconds since it last answered, at tick resolution; `None` when it never did in this term.
    pub silent_ms: Option<u64>,
}

/// The part of [`NodeStatus`] that costs nothing to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BriefStatus {
    /// Its role.
    pub role: Role,
    /// Current term.
    pub term: Term,
    /// Vote in this term.
    pub vote: Option<NodeId>,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Highest index known committed.
    pub commit: RaftIndex,
    /// Last index in the log.
    pub last_index: RaftIndex,
    /// Last index that is durable.
    pub persisted: RaftIndex,
}

/// Everything that a replica knows about itself; for `/status`, metrics and the doctor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// This node.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// Whether it votes.
    pub voter: bool,
    /// Current term.
    pub term: Term,
    /// Vote in this term.
    pub vote: Option<NodeId>,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Highest index known committed.
    pub commit: RaftIndex,
    /// Highest index handed out to be applied.
    pub applied: RaftIndex,
    /// First index in the log.
    pub first_index: RaftIndex,
    /// Last index in the log.
    pub last_index: RaftIndex,
    /// Last index that is durable.
    pub persisted: RaftIndex,
    /// Entries not durable yet.
    pub unstable_entries: usize,
    /// Last index of the state image in force.
    pub snapshot_index: RaftIndex,
    /// Bytes of entries in the log.
    pub log_bytes: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who follows without a vote.
    pub learners: Vec<NodeId>,
    /// Per member; empty unless leader.
    pub peers: Vec<PeerProgress>,
    /// Connected peers, as the transport said.
    pub connected: Vec<NodeId>,
    /// A membership change is appended but not applied.
    pub membership_change_pending: bool,
    /// Whom leadership is being handed to.
    pub transferring_to: Option<NodeId>,
    /// Ticks since the leader was last heard, or since the election began.
    pub election_elapsed: usize,
    /// Ticks after which this replica campaigns.
    pub election_timeout: usize,
    /// Elections (pre-vote rounds included) started by this replica since it was opened.
    pub elections_started: u64,
    /// Messages of peers refused because they make no sense.
    pub messages_refused: u64,
    /// Reads waiting for their index.
    pub pending_reads: usize,
    /// Last error worth a look, in one sentence.
    pub last_error: Option<String>,
    /// The replica stopped after a storage failure and promises nothing any more.
    pub failed: bool,
}
