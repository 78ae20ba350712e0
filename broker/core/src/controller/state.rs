//! The metadata image and the questions asked of it.
//!
//! Handlers read it under a shared lock; only [`MetadataState::apply`] changes it. Every collection is ordered, so that
//! two brokers walk it alike.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, NodeId, PartitionIndex, RaftIndex, TopicId, TopicName,
    TopicPartition,
};

use super::codec::{EntryProto, PartitionStateProto, record};
use super::command::{Endpoints, EndpointsProto};
use super::recent::RecentProposals;
use crate::PartitionState;

record! {
    /// A registered broker.
    pub Broker / BrokerProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// The run of its process.
        incarnation: IncarnationId => Vec<u8>, [bytes = "vec", tag = "2"];
        /// Index of its registration.
        epoch: BrokerEpoch => i64, [sint64, tag = "3"];
        /// Its log directories.
        directories: Vec<DirectoryId> => Vec<Vec<u8>>, [bytes = "vec", repeated, tag = "4"];
        /// Those of them that failed.
        offline_dirs: Vec<DirectoryId> => Vec<Vec<u8>>, [bytes = "vec", repeated, tag = "5"];
        /// Where it is reached.
        endpoints: Endpoints => EndpointsProto, [message, required, tag = "6"];
        /// Its rack or zone.
        rack: Option<String> => Option<String>, [string, optional, tag = "7"];
        /// Neither leads nor is in any in-sync set.
        fenced: bool => bool, [bool, tag = "8"];
        /// Wants to stop, since this index.
        shutting_down: Option<RaftIndex> => Option<u64>, [uint64, optional, tag = "9"];
        /// Version of its software.
        software_version: String => String, [string, tag = "10"];
        /// Gets no replicas that it does not have already; see [`SetCordon`](super::SetCordon).
        cordoned: bool => bool, [bool, tag = "11"];
        /// Whether its rack was assigned, rather than configured; see [`SetBrokerRack`](super::SetBrokerRack).
        rack_assigned: bool => bool, [bool, tag = "12"];
        /// The newest metadata version that it understands; 0 when it did not say, or an old broker's snapshot lost it.
        /// Evidence, and no part of [`MetadataState::hash`]; see [`RaiseMetadataVersion`](super::RaiseMetadataVersion).
        metadata_version: u32 => u32, [uint32, tag = "13"];
    }
}

impl Broker {
    /// Whether it may be elected and join in-sync sets.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && self.shutting_down.is_none() && self.offline_dirs.is_empty()
    }
}

record! {
    /// A topic with its partitions.
    pub Topic / TopicProto {
        /// Its id.
        id: TopicId => Vec<u8>, [bytes = "vec", tag = "1"];
        /// Its name.
        name: TopicName => String, [string, tag = "2"];
        /// Partitions 0..
        partitions: Vec<PartitionState> => Vec<PartitionStateProto>, [message, repeated, tag = "3"];
        /// The settings it overrides.
        configs: BTreeMap<String, String> => Vec<EntryProto>, [message, repeated, tag = "4"];
        /// When it was created, by the proposer's clock, ms since 1970.
        created_ms: i64 => i64, [sint64, tag = "5"];
    }
}

impl Topic {
    /// The state of one partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionIndex) -> Option<&PartitionState> {
        usize::try_from(partition.0).ok().and_then(|index| self.partitions.get(index))
    }

    /// Each partition with its index.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionIndex, &PartitionState)> {
        // A topic holds far fewer partitions than i32::MAX (`topics::MAX_PARTITIONS`).
        self.partitions.iter().enumerate().map(|(index, state)| (index_of(index), state))
    }

    /// Replicas of its first partition: what Kafka's tools call the topic's replication factor.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.partitions.first().map_or(0, PartitionState::replication_factor)
    }

    /// Whether the brokers keep their own state in it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(self.name.as_str())
    }
}

/// Whether a topic of this name holds the brokers' own state.
pub(super) fn is_internal(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state")
}

pub(super) fn index_of(position: usize) -> PartitionIndex {
    PartitionIndex(i32::try_from(position).unwrap_or(i32::MAX))
}

/// All metadata of the cluster as of one index of the Raft log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetadataState {
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) applied: RaftIndex,
    /// Metadata version in force; 0 when it was never raised.
    pub(super) version: u32,
    pub(super) brokers: BTreeMap<NodeId, Broker>,
    pub(super) topics: BTreeMap<TopicName, Topic>,
    /// Names by id; follows `topics`.
    pub(super) names: BTreeMap<TopicId, TopicName>,
    pub(super) cluster_configs: BTreeMap<String, String>,
    pub(super) broker_configs: BTreeMap<NodeId, BTreeMap<String, String>>,
    pub(super) next_producer_id: i64,
    pub(super) recent: RecentProposals,
}

impl MetadataState {
    /// The empty state, before the first command.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Identity of the cluster, known from the first registration on.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.cluster_id.as_ref()
    }

    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> RaftIndex {
        self.applied
    }

    /// The producer id that the next block starts with.
    #[must_use]
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// A broker, fenced or not.
    #[must_use]
    pub fn broker(&self, node: NodeId) -> Option<&Broker> {
        self.brokers.get(&node)
    }

    /// All registered brokers, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    /// The brokers that clients are told of: unfenced ones.
    pub fn alive_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// The brokers that may be given replicas.
    pub(super) fn uncordoned(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| !broker.cordoned)
    }

    /// Partitions whose replicas are being reassigned.
    pub fn reassigning_partitions(&self) -> impl Iterator<Item = (&Topic, PartitionIndex, &PartitionState)> {
        self.partitions().filter(|(_, _, state)| state.is_reassigning())
    }

    /// Whether the broker may be elected and join in-sync sets (R2).
    #[must_use]
    pub fn is_active(&self, node: NodeId) -> bool {
        self.brokers.get(&node).is_some_and(Broker::is_active)
    }

    /// Whether `node` may be in an in-sync set under `epoch` ([`BrokerEpoch::NONE`] = any).
    #[must_use]
    pub fn is_eligible(&self, node: NodeId, epoch: BrokerEpoch) -> bool {
        self.brokers
            .get(&node)
            .is_some_and(|broker| broker.is_active() && (epoch == BrokerEpoch::NONE || epoch == broker.epoch))
    }

    pub(super) fn active_brokers(&self) -> BTreeSet<NodeId> {
        self.brokers.values().filter(|broker| broker.is_active()).map(|broker| broker.node).collect()
    }

    /// Which brokers a partition without a leader waits for: the eligible ones that are away, or, when none is left,
    /// those whose logs are to be compared and that are away or have not told of theirs.
    pub fn awaited<'a>(&'a self, partition: &'a PartitionState) -> impl Iterator<Item = NodeId> + use<'a> {
        let members = match () {
            () if partition.leader.is_some() => &[][..],
            () if partition.elr.is_empty() => &partition.last_known_elr,
            () => &partition.elr,
        };
        let silent = |node: NodeId| partition.awaits_reports() && partition.report_of(node).is_none();
        members.iter().copied().filter(move |node| !self.is_active(*node) || silent(*node))
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// Topics whose name comes at or after `name`; for answers that come in pages.
    pub fn topics_from<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Topic> + use<'a> {
        self.topics.range(TopicName::from(name)..).map(|(_, topic)| topic)
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Topic> {
        self.names.get(&id).and_then(|name| self.topics.get(name))
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, tp: &TopicPartition) -> Option<&PartitionState> {
        self.topics.get(&tp.topic).and_then(|topic| topic.partition(tp.partition))
    }

    /// One partition by topic id.
    #[must_use]
    pub fn partition_by_id(&self, id: TopicId, partition: PartitionIndex) -> Option<&PartitionState> {
        self.topic_by_id(id).and_then(|topic| topic.partition(partition))
    }

    /// The live leader of a partition.
    #[must_use]
    pub fn leader(&self, tp: &TopicPartition) -> Option<&Broker> {
        self.partition(tp).and_then(|partition| partition.leader).and_then(|node| self.broker(node))
    }

    /// Every partition of the cluster.
    pub fn partitions(&self) -> impl Iterator<Item = (&Topic, PartitionIndex, &PartitionState)> {
        self.topics.values().flat_map(|topic| topic.iter().map(move |(index, state)| (topic, index, state)))
    }

    /// Partitions that `node` leads.
    pub fn partitions_led_by(&self, node: NodeId) -> impl Iterator<Item = (&Topic, PartitionIndex, &PartitionState)> {
        self.partitions().filter(move |(_, _, state)| state.leader == Some(node))
    }

    /// Partitions of which `node` holds a replica.
    pub fn partitions_hosted_by(
        &self,
        node: NodeId,
    ) -> impl Iterator<Item = (&Topic, PartitionIndex, &PartitionState)> {
        self.partitions().filter(move |(_, _, state)| state.replicas.contains(&node))
    }

    /// How many partitions exist.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|topic| topic.partitions.len()).sum()
    }
}
