//! The whole state as bytes, and back; and its hash, by which brokers compare what they hold.
//!
//! Called by the owner of the Raft replica when it compacts the log, sends a snapshot or installs one.

use std::collections::BTreeMap;

use chronik_model::{ClusterId, NodeId, RaftIndex, mutant};
use prost::Message as _;

use super::codec::{DecodeError, EntryProto, Field, record};
use super::recent::{RecentProposals, RecentProto};
use super::state::{Broker, BrokerProto, MetadataState, Topic, TopicProto};
use super::version::{METADATA_VERSION, OLDEST};

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the metadata snapshot: {0}")]
pub struct SnapshotError(#[from] DecodeError);

record! {
    NodeConfigs / NodeConfigsProto {
        node: NodeId => i32, [int32, tag = "1"];
        configs: BTreeMap<String, String> => Vec<EntryProto>, [message, repeated, tag = "2"];
    }
}

record! {
    Image / ImageProto {
        version: u32 => u32, [uint32, tag = "1"];
        applied: RaftIndex => u64, [uint64, tag = "2"];
        cluster_id: Option<ClusterId> => Option<String>, [string, optional, tag = "3"];
        brokers: Vec<Broker> => Vec<BrokerProto>, [message, repeated, tag = "4"];
        topics: Vec<Topic> => Vec<TopicProto>, [message, repeated, tag = "5"];
        cluster_configs: BTreeMap<String, String> => Vec<EntryProto>, [message, repeated, tag = "6"];
        broker_configs: Vec<NodeConfigs> => Vec<NodeConfigsProto>, [message, repeated, tag = "7"];
        next_producer_id: i64 => i64, [int64, tag = "8"];
        recent: RecentProposals => RecentProto, [message, required, tag = "9"];
    }
}

impl MetadataState {
    /// The whole state.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        self.image(true).encode_to_vec()
    }

    /// `evidence`: with what brokers said of their versions, which not everybody may know.
    fn image(&self, evidence: bool) -> ImageProto {
        let broker = |broker: &Broker| {
            let metadata_version = if evidence { broker.metadata_version } else { 0 };
            Broker { metadata_version, ..broker.clone() }.put()
        };
        let broker_configs = self
            .broker_configs
            .iter()
            .map(|(node, configs)| NodeConfigs { node: *node, configs: configs.clone() }.put())
            .collect();
        ImageProto {
            // Whoever understands what is in force must be able to read it.
            version: self.metadata_version(),
            applied: self.applied.put(),
            cluster_id: self.cluster_id.put(),
            brokers: self.brokers.values().map(broker).collect(),
            topics: self.topics.values().map(Field::put).collect(),
            cluster_configs: self.cluster_configs.put(),
            broker_configs,
            next_producer_id: self.next_producer_id,
            recent: self.recent.put(),
        }
    }

    /// The state of these bytes.
    ///
    /// # Errors
    /// When they are malformed or written by a newer version.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let proto = ImageProto::decode(bytes).map_err(DecodeError::from)?;
        if proto.version > METADATA_VERSION {
            return Err(DecodeError::Version { found: proto.version, newest: METADATA_VERSION }.into());
        }
        let image = Image::take(proto)?;
        Ok(Self {
            version: if image.version > OLDEST { image.version } else { 0 },
            cluster_id: image.cluster_id,
            applied: if mutant!(SnapshotForgetsApplied) { RaftIndex(0) } else { image.applied },
            names: image.topics.iter().map(|topic| (topic.id, topic.name.clone())).collect(),
            brokers: image.brokers.into_iter().map(|broker| (broker.node, broker)).collect(),
            topics: image.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect(),
            cluster_configs: image.cluster_configs,
            broker_configs: image.broker_configs.into_iter().map(|entry| (entry.node, entry.configs)).collect(),
            next_producer_id: image.next_producer_id,
            recent: if mutant!(SnapshotForgetsProposals) { RecentProposals::default() } else { image.recent },
        })
    }

    /// A fingerprint of the whole state (FNV-1a of its snapshot): equal on all brokers that applied the same index, of
    /// whatever release.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.image(false)
            .encode_to_vec()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }
}
