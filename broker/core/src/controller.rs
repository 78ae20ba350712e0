//! The metadata controller: one pure state machine that every broker replays from the metadata Raft log, and the
//! liveness rules that only the Raft leader runs.
//!
//! Life of a decision: any broker builds a [`Command`], wraps it in an [`Envelope`] and proposes it to Raft. When the
//! entry is committed, every broker calls [`MetadataState::apply`] with it, in log order. All validation happens there
//! (compare-and-swap on epochs included), so that every broker reaches the same verdict; the proposer gets the
//! [`CommandResult`], the replica manager of each broker the list of [`Change`]s.
//!
//! [`Liveness`] turns heartbeats, refused connections and the passing of time into commands to propose; it never
//! changes the state itself.
//!
//! What never happens here: I/O, reading a clock, randomness, iteration over an unordered collection, a panic on what
//! came from the log. Two brokers that applied the same index have the same [`MetadataState::hash`].

mod apply;
mod brokers;
mod codec;
mod command;
mod config;
mod election;
mod invariants;
mod liveness;
mod movement;
mod partitions;
mod placement;
mod rack;
mod reassign;
mod recent;
mod result;
mod snapshot;
mod state;
mod topics;
mod version;

#[cfg(test)]
mod tests;

pub use apply::{Applied, Change};
pub use codec::DecodeError;
pub use command::{
    AllocateProducerIds, AlterConfigs, AlterPartition, Assignment, BeginControlledShutdown, Command, ConfigChange,
    ConfigOp, ConfigResource, CreatePartitions, CreateTopic, DeleteTopic, ElectLeaders, ElectionType, Endpoint,
    Endpoints, Envelope, FenceBroker, IsrMember, KafkaListener, NoOp, OfflineDirs, PRODUCER_ID_BLOCK, PartitionRef,
    ProposalId, RegisterBroker, ReportLog, UnfenceBroker, UnregisterBroker,
};
pub use config::throttle;
pub use config::{
    ConfigDef, ConfigKind, ConfigSource, ConfigValue, ConfigView, TopicConfig, broker_configs, config_def,
    topic_configs,
};
pub use invariants::check_invariants;
pub use liveness::{Heartbeat, HeartbeatReply, Liveness, LivenessConfig};
pub use movement::{AlterReassignments, MoveLeaders, Reassignment, SetCordon};
pub use rack::SetBrokerRack;
pub use result::{CommandError, CommandResult, CreatedTopic, ElectionOutcome, ReassignmentOutcome};
pub use snapshot::SnapshotError;
pub use state::{Broker, MetadataState, Topic};
pub use version::{METADATA_VERSION, OLDEST, RaiseMetadataVersion, RegisteredAs};
