//! The one way to change the metadata: apply a committed entry.
//!
//! Called by the owner of the Raft replica for each committed entry, in log order, once per index. A command is judged
//! and carried out here, completely or not at all.

use chronik_model::{ErrorCode, NodeId, PartitionIndex, RaftIndex, TopicId, TopicName, mutant};

use super::codec::DecodeError;
use super::command::{Command, Envelope, PRODUCER_ID_BLOCK, ProposalId};
use super::recent::Remembered;
use super::result::{CommandError, CommandResult};
use super::state::MetadataState;
use crate::PartitionState;

/// What one entry did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The proposal that waits for the result; `None` when the entry could not be read.
    pub id: Option<ProposalId>,
    /// What it came to.
    pub result: CommandResult,
    /// What is different now, in order. Empty for a refusal and for a repeated proposal.
    pub changes: Vec<Change>,
}

/// One difference that a broker may have to act upon. The state itself is in [`MetadataState`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant)] // Nearly all changes are of the large kind.
pub enum Change {
    /// The broker was registered, fenced, unfenced, cordoned or not any more, or changed its addresses.
    Broker {
        /// The broker.
        node: NodeId,
    },
    /// The broker is forgotten.
    BrokerRemoved {
        /// The broker.
        node: NodeId,
    },
    /// The topic is new; a [`Change::Partition`] follows for each partition.
    TopicCreated {
        /// Its name.
        name: TopicName,
        /// Its id.
        id: TopicId,
    },
    /// The topic is gone, and with it every replica.
    TopicDeleted {
        /// Its name.
        name: TopicName,
        /// Its id.
        id: TopicId,
        /// How many partitions it had.
        partitions: i32,
    },
    /// The partition is new or its committed state changed.
    Partition {
        /// Name of the topic.
        topic: TopicName,
        /// Id of the topic.
        topic_id: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// Its state now.
        state: PartitionState,
        /// Its state before; `None` when it is new.
        previous: Option<PartitionState>,
    },
    /// Settings of the topic changed.
    TopicConfig {
        /// Its name.
        name: TopicName,
    },
    /// Settings of one broker changed.
    BrokerConfig {
        /// The broker.
        node: NodeId,
    },
    /// The defaults of all brokers changed.
    ClusterConfig,
}

/// What a command needs besides the state, and what it leaves behind.
pub(super) struct Context {
    pub(super) index: RaftIndex,
    pub(super) wall_ms: i64,
    pub(super) changes: Vec<Change>,
}

pub(super) type Outcome = Result<CommandResult, CommandError>;

impl MetadataState {
    /// Applies the committed entry `bytes` at `index`.
    ///
    /// What cannot be read, or is of a newer version, is answered with an error and changes nothing but the applied
    /// index.
    pub fn apply(&mut self, index: RaftIndex, bytes: &[u8]) -> Applied {
        if bytes.is_empty() {
            // The entry by which a new Raft leader opens its term.
            self.applied = index;
            return Applied { id: None, result: CommandResult::Done, changes: Vec::new() };
        }
        match Envelope::decode(bytes) {
            Ok(envelope) => self.apply_envelope(index, &envelope),
            Err(error) => {
                self.applied = index;
                let code = match error {
                    DecodeError::Version { .. } | DecodeError::UnknownKind => ErrorCode::UnsupportedVersion,
                    DecodeError::Malformed(_) | DecodeError::Value(_) => ErrorCode::InvalidRequest,
                };
                let message = format!("the metadata command at index {index} cannot be read: {error}");
                let result = CommandResult::Error(CommandError::new(code, message));
                Applied { id: None, result, changes: Vec::new() }
            }
        }
    }

    /// Applies a decoded entry. A proposal that was applied before is answered with its old result.
    pub fn apply_envelope(&mut self, index: RaftIndex, envelope: &Envelope) -> Applied {
        self.applied = index;
        let id = envelope.id;
        match self.recent.find(&id).filter(|_| !mutant!(ApplyTwice)) {
            Some(Remembered::Result(result)) => {
                return Applied { id: Some(id), result: result.clone(), changes: Vec::new() };
            }
            Some(Remembered::Forgotten) => {
                let message = format!("proposal {} of broker {} came too late", id.sequence, id.origin);
                let result = CommandResult::Error(CommandError::new(ErrorCode::RequestTimedOut, message));
                return Applied { id: Some(id), result, changes: Vec::new() };
            }
            None => {}
        }
        if let Err(error) = self.check_version(&envelope.command) {
            return Applied { id: Some(id), result: CommandResult::Error(error), changes: Vec::new() };
        }
        let mut context = Context { index, wall_ms: envelope.wall_ms, changes: Vec::new() };
        let result = match self.execute(&envelope.command, &mut context) {
            Ok(result) => result,
            Err(error) => {
                debug_assert!(context.changes.is_empty(), "a refused command changed the state: {error}");
                CommandResult::Error(error)
            }
        };
        self.recent.remember(index, id, result.clone());
        Applied { id: Some(id), result, changes: context.changes }
    }

    fn execute(&mut self, command: &Command, context: &mut Context) -> Outcome {
        match command {
            Command::RegisterBroker(command) => self.register_broker(command, context),
            Command::UnregisterBroker(command) => self.unregister_broker(command, context),
            Command::FenceBroker(command) => self.fence_broker(command, context),
            Command::UnfenceBroker(command) => self.unfence_broker(command, context),
            Command::BeginControlledShutdown(command) => self.begin_controlled_shutdown(command, context),
            Command::OfflineDirs(command) => self.offline_dirs(command, context),
            Command::RaiseMetadataVersion(command) => self.raise_metadata_version(command),
            Command::SetBrokerRack(command) => self.set_broker_rack(command, context),
            Command::CreateTopic(command) => self.create_topic(command, context),
            Command::DeleteTopic(command) => self.delete_topic(command, context),
            Command::CreatePartitions(command) => self.create_partitions(command, context),
            Command::AlterPartition(command) => self.alter_partition(command, context),
            Command::ElectLeaders(command) => self.elect_leaders(command, context),
            Command::ReportLog(command) => self.report_log(command, context),
            Command::SetCordon(command) => self.set_cordon(*command, context),
            Command::AlterReassignments(command) => self.alter_reassignments(command, context),
            Command::MoveLeaders(command) => self.move_leaders(*command, context),
            Command::AlterConfigs(command) => self.alter_configs(command, context),
            Command::AllocateProducerIds(command) => {
                self.registered(command.node, command.broker_epoch)?;
                let first = self.next_producer_id;
                let next = first
                    .checked_add(PRODUCER_ID_BLOCK)
                    .ok_or_else(|| CommandError::new(ErrorCode::UnknownServerError, "all producer ids are used up"))?;
                self.next_producer_id = next;
                Ok(CommandResult::ProducerIds { first, count: PRODUCER_ID_BLOCK })
            }
            Command::NoOp(_) => Ok(CommandResult::Done),
        }
    }
}
