//! The life of a broker in the metadata: registered (fenced), unfenced, shutting down, fenced, forgotten (R1, R11, R12).

use chronik_model::{BrokerEpoch, ErrorCode, NodeId, mutant};

use super::apply::{Change, Context, Outcome};
use super::command::{
    BeginControlledShutdown, Endpoint, FenceBroker, OfflineDirs, RegisterBroker, UnfenceBroker, UnregisterBroker,
};
use super::movement::SetCordon;
use super::partitions::Cause;
use super::rack::rack_at_registration;
use super::result::{CommandError, CommandResult};
use super::state::{Broker, MetadataState};

/// Longer texts in a registration are a mistake.
const MAX_TEXT: usize = 255;

/// Kafka listeners of one broker besides the first.
const MAX_LISTENERS: usize = 16;

fn invalid(message: impl Into<String>) -> CommandError {
    CommandError::new(ErrorCode::InvalidRegistration, message)
}

fn at(endpoint: &Endpoint) -> String {
    format!("{}:{}", endpoint.host, endpoint.port)
}

fn check_shape(command: &RegisterBroker) -> Result<(), CommandError> {
    if command.node.0 <= 0 {
        return Err(invalid(format!("node id {} is not positive", command.node)));
    }
    if command.directories.len() != 1 {
        return Err(invalid(format!("{} log directories; a broker has exactly one", command.directories.len())));
    }
    let endpoints = &command.endpoints;
    for (what, endpoint) in [
        ("kafka", &endpoints.kafka),
        ("replication", &endpoints.replication),
        ("control", &endpoints.control),
        ("admin", &endpoints.admin),
    ] {
        if endpoint.host.is_empty() || endpoint.host.len() > MAX_TEXT || endpoint.port == 0 {
            return Err(invalid(format!("the {what} endpoint needs a host of 1-{MAX_TEXT} bytes and a port")));
        }
    }
    if endpoints.listeners.len() > MAX_LISTENERS {
        return Err(invalid(format!("more than {MAX_LISTENERS} further Kafka listeners")));
    }
    for (position, listener) in endpoints.listeners.iter().enumerate() {
        let (name, at) = (&listener.name, &listener.advertised);
        if name.is_empty() || [name, &at.host].into_iter().any(|text| text.len() > MAX_TEXT) {
            return Err(invalid(format!("a further Kafka listener has a name and a host of at most {MAX_TEXT} bytes")));
        }
        if at.host.is_empty() || at.port == 0 {
            return Err(invalid(format!("the Kafka listener {name} needs a host and a port")));
        }
        if endpoints.listeners[..position].iter().any(|earlier| earlier.name == *name) {
            return Err(invalid(format!("two Kafka listeners are called {name}")));
        }
    }
    let long = |text: &String| text.len() > MAX_TEXT;
    if command.rack.as_ref().is_some_and(long) || long(&command.software_version) {
        return Err(invalid(format!("rack and software version are limited to {MAX_TEXT} bytes")));
    }
    Ok(())
}

impl MetadataState {
    /// The broker, if it is registered under `epoch`.
    pub(super) fn registered(&self, node: NodeId, epoch: BrokerEpoch) -> Result<&Broker, CommandError> {
        let Some(broker) = self.brokers.get(&node) else {
            let message = format!("broker {node} is not registered");
            return Err(CommandError::new(ErrorCode::BrokerIdNotRegistered, message));
        };
        if broker.epoch != epoch {
            let message = format!("broker {node} is registered with epoch {}, not {epoch}", broker.epoch);
            return Err(CommandError::new(ErrorCode::StaleBrokerEpoch, message));
        }
        Ok(broker)
    }

    pub(super) fn register_broker(&mut self, command: &RegisterBroker, context: &mut Context) -> Outcome {
        check_shape(command)?;
        if let Some(cluster) = self.cluster_id.as_ref().filter(|cluster| **cluster != command.cluster_id) {
            let message = format!(
                "broker {} belongs to cluster {}, but this is cluster {cluster}",
                command.node, command.cluster_id
            );
            return Err(CommandError::new(ErrorCode::InconsistentClusterId, message));
        }
        self.understands(command.node, command.metadata_version)?;
        let existing = self.brokers.get(&command.node).cloned();
        if let Some(old) = &existing {
            if old.incarnation == command.incarnation {
                return Ok(self.register_again(command, context));
            }
            // The lock on a data directory is held by one process: who holds it now proves that the old one is gone.
            let same_disk = old.directories.iter().any(|directory| command.directories.contains(directory));
            if !old.fenced && !same_disk {
                let message = format!(
                    "broker id {} is in use by the broker at {}, which is alive; the one at {} is refused: give it \
                     another id, or stop the first",
                    command.node,
                    at(&old.endpoints.kafka),
                    at(&command.endpoints.kafka)
                );
                return Err(CommandError::new(ErrorCode::DuplicateBrokerRegistration, message));
            }
        }
        if self.cluster_id.is_none() {
            self.cluster_id = Some(command.cluster_id.clone());
        }
        let epoch = match &existing {
            Some(old) if mutant!(ReuseBrokerEpoch) => old.epoch,
            _ => BrokerEpoch(i64::try_from(context.index.0).unwrap_or(i64::MAX)),
        };
        let (rack, rack_assigned) = rack_at_registration(command, existing.as_ref());
        let broker = Broker {
            node: command.node,
            incarnation: command.incarnation,
            epoch,
            directories: command.directories.clone(),
            offline_dirs: Vec::new(),
            endpoints: command.endpoints.clone(),
            rack,
            fenced: true,
            shutting_down: None,
            software_version: command.software_version.clone(),
            cordoned: existing.as_ref().is_some_and(|old| old.cordoned),
            rack_assigned,
            metadata_version: command.metadata_version,
        };
        self.brokers.insert(command.node, broker);
        if let Some(old) = existing {
            let node = command.node;
            self.forget_reports(node, context);
            self.follow_broker(Cause::Lost(node), context);
            let new_disk = !old.directories.iter().all(|directory| command.directories.contains(directory));
            if mutant!(TrustUncleanRestart) {
                // Keeps whatever it had.
            } else if new_disk {
                self.follow_broker(Cause::Replaced(node), context);
            } else if command.previous_broker_epoch != old.epoch {
                self.follow_broker(Cause::Distrusted(node), context);
            }
        }
        // Last, so that whoever sees the new registration has seen the old one leave (R11).
        context.changes.push(Change::Broker { node: command.node });
        Ok(CommandResult::Registered(epoch))
    }

    /// The same process again, perhaps with other addresses: keeps its epoch and its place.
    fn register_again(&mut self, command: &RegisterBroker, context: &mut Context) -> CommandResult {
        let Some(broker) = self.brokers.get_mut(&command.node) else { return CommandResult::Done };
        let (rack, assigned) = rack_at_registration(command, Some(broker));
        broker.rack_assigned = assigned;
        broker.metadata_version = command.metadata_version;
        if broker.endpoints != command.endpoints || broker.rack != rack {
            broker.endpoints.clone_from(&command.endpoints);
            broker.rack = rack;
            context.changes.push(Change::Broker { node: command.node });
        }
        CommandResult::Registered(broker.epoch)
    }

    pub(super) fn unregister_broker(&mut self, command: &UnregisterBroker, context: &mut Context) -> Outcome {
        let node = command.node;
        match self.brokers.get(&node) {
            None => {
                let message = format!("broker {node} is not registered");
                return Err(CommandError::new(ErrorCode::BrokerIdNotRegistered, message));
            }
            Some(broker) if !broker.fenced => {
                let message = format!("broker {node} is alive; stop it before forgetting it");
                return Err(CommandError::new(ErrorCode::InvalidRequest, message));
            }
            Some(_) => {}
        }
        // Its replicas would stay in the assignments for ever, and a new process under this id could bring an empty
        // disk without anybody noticing that it is another one (R12): the old directories are forgotten with it.
        let hosted = self.partitions_hosted_by(node).count();
        if hosted > 0 {
            let message = format!(
                "broker {node} still hosts {hosted} replicas; move them to other brokers, or delete their topics, first"
            );
            return Err(CommandError::new(ErrorCode::PolicyViolation, message));
        }
        self.brokers.remove(&node);
        self.broker_configs.remove(&node);
        context.changes.push(Change::BrokerRemoved { node });
        Ok(CommandResult::Done)
    }

    /// Changes the broker, if it is registered under `epoch`; `false` from `change` means that nothing is to be done.
    fn alter_broker(
        &mut self,
        node: NodeId,
        epoch: BrokerEpoch,
        context: &mut Context,
        change: impl FnOnce(&mut Broker) -> bool,
    ) -> Result<bool, CommandError> {
        self.registered(node, epoch)?;
        let altered = self.brokers.get_mut(&node).is_some_and(change);
        if altered {
            context.changes.push(Change::Broker { node });
        }
        Ok(altered)
    }

    pub(super) fn fence_broker(&mut self, command: &FenceBroker, context: &mut Context) -> Outcome {
        let fenced = self.alter_broker(command.node, command.broker_epoch, context, |broker| {
            !std::mem::replace(&mut broker.fenced, true)
        })?;
        if fenced {
            self.follow_broker(Cause::Lost(command.node), context);
        }
        Ok(CommandResult::Done)
    }

    pub(super) fn unfence_broker(&mut self, command: &UnfenceBroker, context: &mut Context) -> Outcome {
        let broker = self.registered(command.node, command.broker_epoch)?;
        if broker.fenced && (broker.shutting_down.is_some() || !broker.offline_dirs.is_empty()) {
            let message = format!("broker {} is shutting down or has lost its disk", command.node);
            return Err(CommandError::new(ErrorCode::InvalidRequest, message));
        }
        let unfenced = self.alter_broker(command.node, command.broker_epoch, context, |broker| {
            std::mem::replace(&mut broker.fenced, false)
        })?;
        if unfenced {
            self.follow_broker(Cause::Returned(command.node), context);
        }
        Ok(CommandResult::Done)
    }

    pub(super) fn begin_controlled_shutdown(
        &mut self,
        command: &BeginControlledShutdown,
        context: &mut Context,
    ) -> Outcome {
        let index = context.index;
        let mut since = index;
        let begun = self.alter_broker(command.node, command.broker_epoch, context, |broker| {
            since = broker.shutting_down.unwrap_or(index);
            broker.shutting_down.replace(since).is_none()
        })?;
        if begun {
            self.follow_broker(Cause::Leaving(command.node), context);
        }
        Ok(CommandResult::ShuttingDown(since))
    }

    pub(super) fn set_cordon(&mut self, command: SetCordon, context: &mut Context) -> Outcome {
        let SetCordon { node, cordoned } = command;
        let Some(broker) = self.brokers.get_mut(&node) else {
            let message = format!("broker {node} is not registered");
            return Err(CommandError::new(ErrorCode::BrokerIdNotRegistered, message));
        };
        if std::mem::replace(&mut broker.cordoned, cordoned) != cordoned {
            context.changes.push(Change::Broker { node });
        }
        Ok(CommandResult::Done)
    }

    pub(super) fn offline_dirs(&mut self, command: &OfflineDirs, context: &mut Context) -> Outcome {
        let broker = self.registered(command.node, command.broker_epoch)?;
        if let Some(unknown) = command.directories.iter().find(|directory| !broker.directories.contains(directory)) {
            let message = format!("broker {} has no log directory {unknown}", command.node);
            return Err(CommandError::new(ErrorCode::LogDirNotFound, message));
        }
        let lost = self.alter_broker(command.node, command.broker_epoch, context, |broker| {
            let before = broker.offline_dirs.len();
            for directory in &command.directories {
                if !broker.offline_dirs.contains(directory) {
                    broker.offline_dirs.push(*directory);
                }
            }
            broker.offline_dirs.len() > before
        })?;
        if lost {
            self.follow_broker(Cause::Lost(command.node), context);
        }
        Ok(CommandResult::Done)
    }
}
