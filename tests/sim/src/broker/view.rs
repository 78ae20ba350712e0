//! What an observer outside the world may look at. Nothing here changes anything.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use chronik_consensus::{NodeStatus, Role};
use chronik_core::controller::MetadataState;
use chronik_log::{LogDirState, LogError};
use chronik_model::{
    BrokerEpoch, IncarnationId, LeaderEpoch, NodeId, Offset, PartitionIndex, RaftIndex, Term, TopicId, TopicPartition,
};
use parking_lot::RwLock;

use super::waiters::SimPartition;
use super::{Broker, BrokerConfig};

/// The quorum's replica in a few words.
#[derive(Clone, Copy, Debug)]
pub struct QuorumView<'a> {
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub vote: Option<NodeId>,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// What it knows to be committed.
    pub commit: RaftIndex,
    /// What is applied to the metadata.
    pub applied: RaftIndex,
    /// Who votes.
    pub voters: &'a [NodeId],
    /// Who follows without a vote.
    pub learners: &'a [NodeId],
    /// It promises nothing any more.
    pub failed: bool,
}

/// A hosted partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionView<'a>(pub &'a SimPartition);

impl<'a> PartitionView<'a> {
    /// Topic and index.
    #[must_use]
    pub fn tp(self) -> &'a TopicPartition {
        self.0.tp()
    }

    /// Id of its topic.
    #[must_use]
    pub fn topic_id(self) -> TopicId {
        self.0.topic_id()
    }

    /// The epoch that it leads or follows in.
    #[must_use]
    pub fn leader_epoch(self) -> LeaderEpoch {
        self.0.replica().leader_epoch()
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(self) -> bool {
        self.0.replica().is_leader()
    }

    /// What it knows to be on all in-sync replicas.
    #[must_use]
    pub fn high_watermark(self) -> Offset {
        self.0.replica().high_watermark()
    }

    /// Offset of the next record.
    #[must_use]
    pub fn log_end(self) -> Offset {
        self.0.log().log_end()
    }

    /// First offset.
    #[must_use]
    pub fn log_start(self) -> Offset {
        self.0.log().log_start()
    }

    /// Whole batches from `from` on, below `bound`, about `max_bytes` of them and at least one.
    ///
    /// # Errors
    /// The log or the disk does not have them.
    pub fn read(self, from: Offset, max_bytes: usize, bound: Offset) -> Result<Bytes, LogError> {
        let plan = self.0.log().read(from, max_bytes, bound, true)?;
        plan.read().map_err(|source: io::Error| LogError::Io {
            operation: "look at",
            path: self.tp().to_string(),
            source,
        })
    }
}

impl Broker {
    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// Its id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This run of its process.
    #[must_use]
    pub fn incarnation(&self) -> IncarnationId {
        self.incarnation
    }

    /// The metadata as it has applied it.
    #[must_use]
    pub fn metadata(&self) -> &Arc<RwLock<MetadataState>> {
        &self.state
    }

    /// The quorum's replica in a few words; cheap.
    #[must_use]
    pub fn quorum(&self) -> QuorumView<'_> {
        let replica = self.quorum.replica();
        let brief = replica.brief();
        let members = replica.membership();
        QuorumView {
            role: brief.role,
            term: brief.term,
            vote: brief.vote,
            leader: brief.leader,
            commit: brief.commit,
            applied: self.quorum.applied(),
            voters: &members.voters,
            learners: &members.learners,
            failed: self.failure.is_some(),
        }
    }

    /// The quorum's replica in all words.
    #[must_use]
    pub fn quorum_status(&self) -> NodeStatus {
        self.quorum.status()
    }

    /// Whether it is the one that decides which brokers live.
    #[must_use]
    pub fn drives_liveness(&self) -> bool {
        self.quorum.drives_liveness()
    }

    /// All hosted partitions, by topic id and index.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionView<'_>> {
        self.replicas.by_id.values().map(PartitionView)
    }

    /// One hosted partition.
    #[must_use]
    pub fn partition(&self, topic: TopicId, partition: PartitionIndex) -> Option<&SimPartition> {
        self.replicas.by_id.get(&(topic, partition))
    }

    /// Whether the registration of this process is committed, as far as it knows.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.epoch != BrokerEpoch::NONE
    }

    /// The epoch of its registration.
    #[must_use]
    pub fn broker_epoch(&self) -> BrokerEpoch {
        self.epoch
    }

    /// Whether it takes requests of clients and followers.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.listens()
    }

    /// Whether it is on its way out.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.life.wants_shutdown || self.life.stage > super::life::Stage::Serving
    }

    /// Whether its log directory can be trusted.
    #[must_use]
    pub fn log_dir_state(&self) -> LogDirState {
        self.replicas.log_dir().state()
    }

    /// Whether it did not come to an end with what one event asked of it: a real one would keep a core busy for nothing.
    #[must_use]
    pub fn turns_in_circles(&self) -> bool {
        self.circles
    }

    /// Everything that waits for something: proposals, questions, requests, alarms. Bounded in a healthy process.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let parked: usize = self.replicas.by_id.values().map(|p| p.waiting().0 + p.waiting().1).sum();
        self.meta.waiting() + self.asked.len() + self.serving.waiting() + self.alarms.len() + parked
    }
}
