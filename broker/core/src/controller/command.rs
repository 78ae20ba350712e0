//! What can be proposed to the metadata log. Built by any broker, carried in an [`Envelope`], judged only in
//! [`MetadataState::apply`](super::MetadataState::apply).
//!
//! Compatibility: fields are added with new tags. A new kind of command, or one whose meaning changes, comes with a new
//! metadata version; see [`RaiseMetadataVersion`].

use chronik_model::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex,
    TopicId, TopicName,
};
use prost::Message as _;

use super::codec::{DecodeError, EntryProto, Field, record};
use super::movement::{
    AlterReassignments, AlterReassignmentsProto, MoveLeaders, MoveLeadersProto, SetCordon, SetCordonProto,
};
use super::rack::{SetBrokerRack, SetBrokerRackProto};
use super::version::{RaiseMetadataVersion, RaiseMetadataVersionProto};
use crate::LeaderRecovery;

/// Version of the envelope that this broker writes, and the newest it reads.
const ENVELOPE_VERSION: u32 = 1;

/// How many producer ids one [`AllocateProducerIds`] hands out.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

record! {
    /// Identity of one proposal; a retry carries the same and is applied once.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub ProposalId / ProposalIdProto {
        /// The broker that proposes.
        origin: NodeId => i32, [int32, tag = "1"];
        /// The run of its process.
        incarnation: IncarnationId => Vec<u8>, [bytes = "vec", tag = "2"];
        /// Its number, growing within the run.
        sequence: u64 => u64, [uint64, tag = "3"];
    }
}

record! {
    /// A host and a port.
    pub Endpoint / EndpointProto {
        /// Name or address.
        host: String => String, [string, tag = "1"];
        /// TCP port.
        port: u16 => u32, [uint32, tag = "2"];
    }
}

record! {
    /// A further address for Kafka clients, such as one outside of Kubernetes. Who asks through it is told the addresses
    /// of the other brokers' listeners of the same name.
    pub KafkaListener / KafkaListenerProto {
        /// Its name, the same on every broker.
        name: String => String, [string, tag = "1"];
        /// What clients are told.
        advertised: Endpoint => EndpointProto, [message, required, tag = "2"];
    }
}

record! {
    /// Where a broker is reached.
    pub Endpoints / EndpointsProto {
        /// Kafka clients.
        kafka: Endpoint => EndpointProto, [message, required, tag = "1"];
        /// Followers that fetch.
        replication: Endpoint => EndpointProto, [message, required, tag = "2"];
        /// Raft and control (gRPC).
        control: Endpoint => EndpointProto, [message, required, tag = "3"];
        /// Admin HTTP.
        admin: Endpoint => EndpointProto, [message, required, tag = "4"];
        /// Further addresses for Kafka clients.
        listeners: Vec<KafkaListener> => Vec<KafkaListenerProto>, [message, repeated, tag = "5"];
    }
}

record! {
    /// A broker process announces itself (R1). Its epoch is the index of this record.
    pub RegisterBroker / RegisterBrokerProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// This run of its process.
        incarnation: IncarnationId => Vec<u8>, [bytes = "vec", tag = "2"];
        /// Its log directories. Exactly one for now.
        directories: Vec<DirectoryId> => Vec<Vec<u8>>, [bytes = "vec", repeated, tag = "3"];
        /// The cluster that it believes to belong to. The first registration names the cluster.
        cluster_id: ClusterId => String, [string, tag = "4"];
        /// Where it is reached.
        endpoints: Endpoints => EndpointsProto, [message, required, tag = "5"];
        /// Its rack or zone.
        rack: Option<String> => Option<String>, [string, optional, tag = "6"];
        /// The epoch found in the clean-shutdown file, [`BrokerEpoch::NONE`] without one (R11).
        previous_broker_epoch: BrokerEpoch => i64, [sint64, tag = "7"];
        /// Version of its software, for people.
        software_version: String => String, [string, tag = "8"];
        /// The newest metadata version that it understands.
        metadata_version: u32 => u32, [uint32, tag = "9"];
    }
}

record! {
    /// Forgets a broker that will not return. Refused while it is unfenced or hosts replicas.
    pub UnregisterBroker / UnregisterBrokerProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
    }
}

record! {
    /// Takes a broker out of every in-sync set and leadership.
    pub FenceBroker / FenceBrokerProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
        /// Why, for people.
        reason: String => String, [string, tag = "3"];
    }
}

record! {
    /// Lets a broker lead and join in-sync sets.
    pub UnfenceBroker / UnfenceBrokerProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
    }
}

record! {
    /// Moves leaderships away from a broker that wants to stop (R12).
    pub BeginControlledShutdown / BeginControlledShutdownProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
    }
}

record! {
    /// Log directories of a broker failed (R12). They return only with a new registration.
    pub OfflineDirs / OfflineDirsProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
        /// The failed directories.
        directories: Vec<DirectoryId> => Vec<Vec<u8>>, [bytes = "vec", repeated, tag = "3"];
    }
}

record! {
    /// The replicas of one partition, in preferred order.
    pub Assignment / AssignmentProto {
        /// The brokers.
        replicas: Vec<NodeId> => Vec<i32>, [int32, repeated, tag = "1"];
    }
}

record! {
    /// Creates a topic.
    pub CreateTopic / CreateTopicProto {
        /// Its name.
        name: TopicName => String, [string, tag = "1"];
        /// Its new random id, chosen by the proposer.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "2"];
        /// How many partitions; -1 = the cluster's default, or as many as `assignments`.
        partitions: i32 => i32, [sint32, tag = "3"];
        /// How many replicas each; -1 = the cluster's default, or as `assignments` say.
        replication_factor: i32 => i32, [sint32, tag = "4"];
        /// Replicas of partitions 0.. when the user placed them; empty to let the controller place them.
        assignments: Vec<Assignment> => Vec<AssignmentProto>, [message, repeated, tag = "5"];
        /// Settings of the topic.
        configs: std::collections::BTreeMap<String, String> => Vec<EntryProto>, [message, repeated, tag = "6"];
    }
}

record! {
    /// Deletes a topic.
    pub DeleteTopic / DeleteTopicProto {
        /// Its id.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "1"];
    }
}

record! {
    /// Adds partitions to a topic.
    pub CreatePartitions / CreatePartitionsProto {
        /// The topic.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "1"];
        /// How many partitions it shall have in all.
        total: i32 => i32, [sint32, tag = "2"];
        /// Replicas of the new partitions when the user placed them.
        assignments: Vec<Assignment> => Vec<AssignmentProto>, [message, repeated, tag = "3"];
    }
}

record! {
    /// One member of a proposed in-sync set.
    #[derive(Copy)]
    pub IsrMember / IsrMemberProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// The registration under which it caught up; [`BrokerEpoch::NONE`] = do not check.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
    }
}

record! {
    /// A leader changes the in-sync set of its partition; compare-and-swap on both epochs (R2).
    pub AlterPartition / AlterPartitionProto {
        /// The leader.
        node: NodeId => i32, [int32, tag = "1"];
        /// The leader's registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
        /// The topic.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "3"];
        /// The partition of it.
        partition: PartitionIndex => i32, [int32, tag = "4"];
        /// The leadership under which it acts.
        leader_epoch: LeaderEpoch => i32, [sint32, tag = "5"];
        /// The state it wants to replace.
        partition_epoch: PartitionEpoch => i32, [sint32, tag = "6"];
        /// The new in-sync set.
        new_isr: Vec<IsrMember> => Vec<IsrMemberProto>, [message, repeated, tag = "7"];
        /// Whether the leader has recovered from an unclean election.
        recovery: LeaderRecovery => i32, [int32, tag = "8"];
    }
}

record! {
    /// A replica that left the eligible ones by an unclean restart tells how far its log goes, while the partition has
    /// no leader and the longest log decides (KIP-966).
    #[derive(Copy)]
    pub ReportLog / ReportLogProto {
        /// The replica.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
        /// The topic.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "3"];
        /// The partition of it.
        partition: PartitionIndex => i32, [int32, tag = "4"];
        /// The epoch without a leader in which it was looked at: only in that one the log stands still.
        leader_epoch: LeaderEpoch => i32, [sint32, tag = "5"];
        /// Epoch of its last record; [`LeaderEpoch::NONE`] without any.
        last_epoch: LeaderEpoch => i32, [sint32, tag = "6"];
        /// Offset after its last record.
        log_end: Offset => i64, [sint64, tag = "7"];
    }
}

/// What a configuration belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ConfigResource {
    /// A topic.
    Topic(TopicName),
    /// One broker.
    Broker(NodeId),
    /// The default of all brokers.
    ClusterDefault,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConfigResourceProto {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    topic: String,
    #[prost(int32, tag = "3")]
    node: i32,
}

impl Field<ConfigResourceProto> for ConfigResource {
    fn put(&self) -> ConfigResourceProto {
        match self {
            Self::Topic(name) => ConfigResourceProto { kind: 1, topic: name.put(), node: 0 },
            Self::Broker(node) => ConfigResourceProto { kind: 2, topic: String::new(), node: node.0 },
            Self::ClusterDefault => ConfigResourceProto { kind: 3, topic: String::new(), node: 0 },
        }
    }
    fn take(proto: ConfigResourceProto) -> Result<Self, DecodeError> {
        match proto.kind {
            1 => Ok(Self::Topic(TopicName::from(proto.topic))),
            2 => Ok(Self::Broker(NodeId(proto.node))),
            3 => Ok(Self::ClusterDefault),
            _ => Err(DecodeError::Value("a configuration resource")),
        }
    }
}

/// What to do with one setting (KIP-339); the numbers are Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigOp {
    /// Give it this value.
    Set,
    /// Return to the default.
    Delete,
    /// Add to a list.
    Append,
    /// Take from a list.
    Subtract,
}

impl ConfigOp {
    /// By Kafka's number.
    #[must_use]
    pub fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

impl Field<i32> for ConfigOp {
    fn put(&self) -> i32 {
        match self {
            Self::Set => 0,
            Self::Delete => 1,
            Self::Append => 2,
            Self::Subtract => 3,
        }
    }
    fn take(proto: i32) -> Result<Self, DecodeError> {
        i8::try_from(proto).ok().and_then(Self::from_code).ok_or(DecodeError::Value("a configuration operation"))
    }
}

record! {
    /// One change of one setting.
    pub ConfigChange / ConfigChangeProto {
        /// The setting.
        name: String => String, [string, tag = "1"];
        /// What to do.
        op: ConfigOp => i32, [int32, tag = "2"];
        /// The value; not looked at by DELETE.
        value: Option<String> => Option<String>, [string, optional, tag = "3"];
    }
}

record! {
    /// Changes settings of one resource: all of the changes or none.
    pub AlterConfigs / AlterConfigsProto {
        /// What they belong to.
        resource: ConfigResource => ConfigResourceProto, [message, required, tag = "1"];
        /// The changes.
        changes: Vec<ConfigChange> => Vec<ConfigChangeProto>, [message, repeated, tag = "2"];
        /// Forget every setting of the resource first (the old AlterConfigs replaces).
        replace: bool => bool, [bool, tag = "3"];
    }
}

record! {
    /// Takes the next block of [`PRODUCER_ID_BLOCK`] producer ids.
    pub AllocateProducerIds / AllocateProducerIdsProto {
        /// The broker that will hand them out.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
    }
}

/// Which leader to elect; the numbers are Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectionType {
    /// The first of the assignment.
    Preferred,
    /// Any live replica, if there is no leader; may lose acknowledged records.
    Unclean,
}

impl Field<i32> for ElectionType {
    fn put(&self) -> i32 {
        match self {
            Self::Preferred => 0,
            Self::Unclean => 1,
        }
    }
    fn take(proto: i32) -> Result<Self, DecodeError> {
        match proto {
            0 => Ok(Self::Preferred),
            1 => Ok(Self::Unclean),
            _ => Err(DecodeError::Value("an election type")),
        }
    }
}

record! {
    /// One partition by topic name.
    pub PartitionRef / PartitionRefProto {
        /// The topic.
        topic: TopicName => String, [string, tag = "1"];
        /// The partition.
        partition: PartitionIndex => i32, [int32, tag = "2"];
    }
}

record! {
    /// Elects leaders on request, or for balance.
    pub ElectLeaders / ElectLeadersProto {
        /// How.
        election: ElectionType => i32, [int32, tag = "1"];
        /// Where; empty = every partition that needs it.
        partitions: Vec<PartitionRef> => Vec<PartitionRefProto>, [message, repeated, tag = "2"];
    }
}

record! {
    /// Changes nothing; proves that the log moves.
    pub NoOp / NoOpProto {}
}

macro_rules! commands {
    ($($variant:ident / $proto:ident = $tag:literal;)*) => {
        /// Everything that can be proposed.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[allow(clippy::large_enum_variant)] // Short-lived; boxing the registration would only hide it.
        pub enum Command {
            $(#[doc = concat!("See [`", stringify!($variant), "`].")] $variant($variant),)*
        }

        #[derive(Clone, PartialEq, prost::Oneof)]
        #[allow(clippy::large_enum_variant)] // As above.
        pub(super) enum CommandProto {
            $(#[prost(message, tag = $tag)] $variant($proto),)*
        }

        impl Field<CommandProto> for Command {
            fn put(&self) -> CommandProto {
                match self { $(Self::$variant(command) => CommandProto::$variant(command.put()),)* }
            }
            fn take(proto: CommandProto) -> Result<Self, DecodeError> {
                Ok(match proto { $(CommandProto::$variant(command) => Self::$variant(Field::take(command)?),)* })
            }
        }

        $(impl From<$variant> for Command {
            fn from(command: $variant) -> Self { Self::$variant(command) }
        })*

        impl Command {
            /// Name of the kind, for logs and metrics.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)* }
            }
        }
    };
}

commands! {
    RegisterBroker / RegisterBrokerProto = "10";
    UnregisterBroker / UnregisterBrokerProto = "11";
    FenceBroker / FenceBrokerProto = "12";
    UnfenceBroker / UnfenceBrokerProto = "13";
    BeginControlledShutdown / BeginControlledShutdownProto = "14";
    OfflineDirs / OfflineDirsProto = "15";
    SetCordon / SetCordonProto = "16";
    SetBrokerRack / SetBrokerRackProto = "17";
    RaiseMetadataVersion / RaiseMetadataVersionProto = "18";
    CreateTopic / CreateTopicProto = "20";
    DeleteTopic / DeleteTopicProto = "21";
    CreatePartitions / CreatePartitionsProto = "22";
    AlterPartition / AlterPartitionProto = "23";
    ElectLeaders / ElectLeadersProto = "24";
    ReportLog / ReportLogProto = "25";
    AlterReassignments / AlterReassignmentsProto = "26";
    MoveLeaders / MoveLeadersProto = "27";
    AlterConfigs / AlterConfigsProto = "30";
    AllocateProducerIds / AllocateProducerIdsProto = "40";
    NoOp / NoOpProto = "50";
}

#[derive(Clone, PartialEq, prost::Message)]
struct EnvelopeProto {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, required, tag = "2")]
    id: ProposalIdProto,
    #[prost(sint64, tag = "3")]
    wall_ms: i64,
    #[prost(
        oneof = "CommandProto",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24, 25, 26, 27, 30, 40, 50"
    )]
    command: Option<CommandProto>,
}

/// A command as it lies in the metadata log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Identity of the proposal.
    pub id: ProposalId,
    /// The proposer's wall clock, ms since 1970.
    pub wall_ms: i64,
    /// What is proposed.
    pub command: Command,
}

impl Envelope {
    /// Wraps `command`.
    pub fn new(id: ProposalId, wall_ms: i64, command: impl Into<Command>) -> Self {
        Self { id, wall_ms, command: command.into() }
    }

    /// The bytes to propose to Raft.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        EnvelopeProto {
            version: ENVELOPE_VERSION,
            id: self.id.put(),
            wall_ms: self.wall_ms,
            command: Some(self.command.put()),
        }
        .encode_to_vec()
    }

    /// The envelope of these bytes.
    ///
    /// # Errors
    /// When they are malformed, of a newer version or of an unknown kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let proto = EnvelopeProto::decode(bytes)?;
        if proto.version > ENVELOPE_VERSION {
            return Err(DecodeError::Version { found: proto.version, newest: ENVELOPE_VERSION });
        }
        let command = Field::take(proto.command.ok_or(DecodeError::UnknownKind)?)?;
        Ok(Self { id: Field::take(proto.id)?, wall_ms: proto.wall_ms, command })
    }
}
