//! Brokers of different releases in one cluster: which version of the rules is in force, and how it rises.
//!
//! A broker that does not know a kind of command leaves its state as it is and goes on. So that this is what all others do
//! too, one rule holds, and every release keeps to it:
//!
//! - The *metadata version in force* is part of the state. It begins with [`OLDEST`] and only rises, by a committed
//!   [`RaiseMetadataVersion`].
//! - A command of a kind, or with a meaning, that came with version v ([`Command::since`]) is refused with
//!   `UNSUPPORTED_VERSION` at apply while a lower version is in force. The refusal leaves nothing behind, not even its
//!   proposal id: it equals the skip of a broker that does not know the command.
//! - Each registration says how far its broker understands ([`METADATA_VERSION`] of its build). Whoever proposes a command
//!   that needs more than is in force first raises the version ([`MetadataState::raise_for`]), and may do so only when every
//!   registered broker, fenced or not, and every member of the quorum understands it. A broker that will not return must be
//!   unregistered first; a founder or learner that never registered holds the version back until it does, or leaves.
//! - What brokers said of their versions is evidence, not state: a snapshot made by an old broker has lost it. So
//!   apply does not judge by it. The raise names the registrations (broker and epoch) it was concluded from, and is refused
//!   unless these are exactly the registered ones: nobody has come since who may not understand it.
//! - A registration with a lower version than the one in force is refused. A broker whose log raises the version above
//!   what it understands stops ([`MetadataState::too_new`]); so does one that finds such a snapshot.
//! - Snapshots are written in the format of the version in force, so that everybody who may be in the cluster can read them:
//!   a field that an older broker would lose is filled only by commands of that version or a later one.
//!
//! What never happens: the version rises because of time or start order; it falls; a result depends on who applies.

use chronik_model::{BrokerEpoch, ErrorCode, NodeId};

use super::apply::Outcome;
use super::codec::record;
use super::command::Command;
use super::result::{CommandError, CommandResult};
use super::state::MetadataState;

/// The newest version that this build understands.
/// Version 2: when no trusted replica is left, the longest log is elected, not the last leader's.
/// Version 3: replicas are reassigned, brokers are cordoned, leaderships are handed over.
/// Version 4: a broker that does not know its rack is told.
pub const METADATA_VERSION: u32 = 4;

/// What everybody understands, also who registers without saying a version.
pub const OLDEST: u32 = 3;

record! {
    /// A broker and its registration.
    #[derive(Copy)]
    pub RegisteredAs / RegisteredAsProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its registration.
        broker_epoch: BrokerEpoch => i64, [sint64, tag = "2"];
    }
}

record! {
    /// From here on commands may need this version; see the module.
    pub RaiseMetadataVersion / RaiseMetadataVersionProto {
        /// The version.
        version: u32 => u32, [uint32, tag = "1"];
        /// All registered brokers, by id: the registrations that this was concluded from.
        brokers: Vec<RegisteredAs> => Vec<RegisteredAsProto>, [message, repeated, tag = "2"];
    }
}

impl Command {
    /// The version that introduced this command, or what it means today.
    #[must_use]
    pub fn since(&self) -> u32 {
        match self {
            Self::SetBrokerRack(_) => 4,
            // Judged by its own rule.
            Self::RaiseMetadataVersion(_) => OLDEST,
            Self::RegisterBroker(_)
            | Self::UnregisterBroker(_)
            | Self::FenceBroker(_)
            | Self::UnfenceBroker(_)
            | Self::BeginControlledShutdown(_)
            | Self::OfflineDirs(_)
            | Self::SetCordon(_)
            | Self::CreateTopic(_)
            | Self::DeleteTopic(_)
            | Self::CreatePartitions(_)
            | Self::AlterPartition(_)
            | Self::ElectLeaders(_)
            | Self::ReportLog(_)
            | Self::AlterReassignments(_)
            | Self::MoveLeaders(_)
            | Self::AlterConfigs(_)
            | Self::AllocateProducerIds(_)
            | Self::NoOp(_) => OLDEST,
        }
    }
}

fn unsupported(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorCode::UnsupportedVersion, message)
}

impl MetadataState {
    /// The version in force.
    #[must_use]
    pub fn metadata_version(&self) -> u32 {
        self.version.max(OLDEST)
    }

    /// Why this build must not go on with this state, if so: what follows it would only half understand.
    #[must_use]
    pub fn too_new(&self) -> Option<String> {
        let version = self.metadata_version();
        (version > METADATA_VERSION).then(|| {
            format!(
                "metadata version {version} is in force, and this broker understands {METADATA_VERSION}: upgrade it"
            )
        })
    }

    /// What has to be proposed before `command`; `None` when nothing has to. `members`: voters and learners of the quorum.
    ///
    /// # Errors
    /// Somebody does not understand `command` yet: it must not be proposed.
    pub fn raise_for(
        &self,
        command: &Command,
        members: &[NodeId],
    ) -> Result<Option<RaiseMetadataVersion>, CommandError> {
        let version = command.since();
        if self.metadata_version() >= version {
            return Ok(None);
        }
        let older = self.brokers.values().filter(|broker| broker.metadata_version.max(OLDEST) < version);
        let mut blockers: Vec<String> = older
            .map(|broker| format!("broker {} understands {}", broker.node, broker.metadata_version.max(OLDEST)))
            .collect();
        let strangers = members.iter().filter(|node| !self.brokers.contains_key(node));
        blockers.extend(strangers.map(|node| format!("member {node} of the quorum is not registered yet")));
        if !blockers.is_empty() {
            blockers.truncate(5);
            let message = format!(
                "{} needs metadata version {version} on every broker, and {}; upgrade, or unregister what will not return",
                command.name(),
                blockers.join(", ")
            );
            return Err(unsupported(message));
        }
        Ok(Some(RaiseMetadataVersion { version, brokers: self.registrations() }))
    }

    fn registrations(&self) -> Vec<RegisteredAs> {
        self.brokers.values().map(|broker| RegisteredAs { node: broker.node, broker_epoch: broker.epoch }).collect()
    }

    /// Refuses what must leave nothing behind, as some broker may not know it.
    pub(super) fn check_version(&self, command: &Command) -> Result<(), CommandError> {
        let (needed, in_force) = (command.since(), self.metadata_version());
        if needed > in_force {
            let name = command.name();
            return Err(unsupported(format!(
                "{name} needs metadata version {needed}, and {in_force} is in force: not every broker is known to understand it"
            )));
        }
        match command {
            Command::RaiseMetadataVersion(raise)
                if raise.version > in_force && (raise.brokers.is_empty() || raise.brokers != self.registrations()) =>
            {
                let message = "other brokers are registered than those that were known to understand it; ask again";
                Err(unsupported(message))
            }
            _ => Ok(()),
        }
    }

    /// [`MetadataState::check_version`] has accepted it. A version in force already is no news.
    pub(super) fn raise_metadata_version(&mut self, command: &RaiseMetadataVersion) -> Outcome {
        if command.version > self.metadata_version() {
            self.version = command.version;
        }
        Ok(CommandResult::Done)
    }

    /// A registration of a broker that does not understand what is in force is refused.
    pub(super) fn understands(&self, node: NodeId, version: u32) -> Result<(), CommandError> {
        let (understood, in_force) = (version.max(OLDEST), self.metadata_version());
        if understood >= in_force {
            return Ok(());
        }
        Err(unsupported(format!(
            "broker {node} understands metadata version {understood}, and this cluster uses {in_force}: start a newer release"
        )))
    }
}
