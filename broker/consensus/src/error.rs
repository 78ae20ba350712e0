//! One error type per operation.

use chronik_model::NodeId;

/// The replica's storage failed: nothing is promised after this, the process should stop serving metadata.
#[derive(Debug, Clone, thiserror::Error)]
#[error("raft storage failed while {action} {path}: {cause}")]
pub struct StorageFailed {
    /// What was being done.
    pub action: &'static str,
    /// To which file.
    pub path: String,
    /// What the disk said.
    pub cause: String,
    /// The disk has no space left: with more of it a restart goes on.
    pub full: bool,
}

/// Why a replica could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageFailed),
    /// A file is damaged where a power cut cannot have damaged it. Nothing was changed.
    #[error("{path} is corrupted at offset {offset}: {problem}")]
    Corrupted {
        /// The file.
        path: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The directory belongs to another node.
    #[error("{path} belongs to node {found}, not to node {expected}")]
    WrongNode {
        /// The directory.
        path: String,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        expected: NodeId,
    },
    /// Bootstrapping was asked for with voters that make no sense.
    #[error("bootstrap voters: {0}")]
    Voters(String),
    /// raft refused the recovered state.
    #[error("raft refused to start: {0}")]
    Raft(String),
}

/// A setting has a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}, accepted: {accepted}")]
pub struct ConfigError {
    /// Name of the setting.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What would do.
    pub accepted: &'static str,
}

/// Why a proposal was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Ask `leader`, or wait when nobody is known.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Not now: leadership is being handed over, or too much is uncommitted. Try again.
    #[error("dropped: leadership is being transferred or too many proposals are uncommitted")]
    Dropped,
    /// Larger than `max_proposal_bytes`; will never be accepted.
    #[error("{size} bytes, the limit is {limit}")]
    TooLarge {
        /// Of the proposal.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The storage failed; see [`StorageFailed`].
    #[error("the replica stopped after a storage failure")]
    Stopped,
}

/// Why a membership change was refused. Nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Ask `leader`.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Another change is not applied yet, or the leader is new and does not know.
    #[error("another membership change is in progress")]
    InProgress,
    /// Fewer live voters than a majority would be left.
    #[error("{live} of the {voters} voters after the change would be alive, {needed} are needed")]
    WouldLoseMajority {
        /// Voters after the change.
        voters: usize,
        /// Of them, heard of recently.
        live: usize,
        /// Majority.
        needed: usize,
    },
    /// A learner becomes a voter only when its log is nearly complete.
    #[error("node {node} lacks {lag} entries or has not answered recently")]
    LearnerNotCaughtUp {
        /// The learner.
        node: NodeId,
        /// Entries that it lacks.
        lag: u64,
    },
    /// Those who would be left to decide must nearly have what was decided so far.
    #[error("{caught_up} of the {voters} voters after the change have nearly the whole log, {needed} are needed")]
    VotersNotCaughtUp {
        /// Voters after the change.
        voters: usize,
        /// Of them, alive with a log that is nearly complete.
        caught_up: usize,
        /// Majority.
        needed: usize,
    },
    /// Not a member.
    #[error("node {0} is not a member")]
    UnknownNode(NodeId),
    /// Nothing to do.
    #[error("node {0} is a voter already")]
    AlreadyVoter(NodeId),
    /// Nothing to do.
    #[error("node {0} is a learner already")]
    AlreadyLearner(NodeId),
    /// A cluster without voters cannot be repaired.
    #[error("node {0} is the last voter")]
    LastVoter(NodeId),
    /// Hand over leadership first.
    #[error("node {0} leads: transfer leadership first")]
    IsLeader(NodeId),
    /// Node ids are positive.
    #[error("{0} is not a node id")]
    InvalidNode(NodeId),
    /// Leadership is being handed over, or too much is uncommitted. Try again.
    #[error("dropped: leadership is being transferred or too many proposals are uncommitted")]
    Dropped,
    /// The storage failed; see [`StorageFailed`].
    #[error("the replica stopped after a storage failure")]
    Stopped,
}

/// Why leadership is not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask `leader`.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Only voters lead.
    #[error("node {0} is not a voter")]
    NotVoter(NodeId),
    /// No other voter answered recently.
    #[error("no other voter is alive")]
    NoCandidate,
    /// The storage failed; see [`StorageFailed`].
    #[error("the replica stopped after a storage failure")]
    Stopped,
}

/// Why a read index was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too many reads wait already.
    #[error("{0} reads wait already")]
    TooMany(usize),
    /// The storage failed; see [`StorageFailed`].
    #[error("the replica stopped after a storage failure")]
    Stopped,
}

/// Why a state image was not taken over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotError {
    /// The image is not of an applied index, or an older one than in force.
    #[error("index {index} is outside {oldest}..={newest}")]
    OutOfRange {
        /// Of the image.
        index: u64,
        /// Image in force.
        oldest: u64,
        /// Applied.
        newest: u64,
    },
    /// Larger than `max_snapshot_bytes`.
    #[error("{size} bytes, the limit is {limit}")]
    TooLarge {
        /// Of the image.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The file could not be written (a full disk, say). The log goes on as before.
    #[error("not written: {0}")]
    NotWritten(String),
    /// The storage failed for good.
    #[error(transparent)]
    Failed(#[from] StorageFailed),
}
