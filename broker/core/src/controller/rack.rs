//! The rack of a broker that does not know it: on Kubernetes a pod learns only after it was scheduled in which zone it runs.
//!
//! An operator finds it out and proposes [`SetBrokerRack`]. A broker that is configured with a rack (`broker.rack`) knows
//! better, always: then nothing is assigned, and registering with one ends what was assigned. An assigned rack stays over
//! restarts and registrations until it is assigned anew or the broker is forgotten.

use chronik_model::{ErrorCode, NodeId};

use super::apply::{Change, Context, Outcome};
use super::codec::record;
use super::command::RegisterBroker;
use super::result::{CommandError, CommandResult};
use super::state::{Broker, MetadataState};

/// Longer names are a mistake.
const MAX_RACK: usize = 255;

record! {
    /// Says in which rack or zone a broker is that does not say so itself.
    pub SetBrokerRack / SetBrokerRackProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Its rack; `None` = no longer known.
        rack: Option<String> => Option<String>, [string, optional, tag = "2"];
    }
}

/// The rack of a broker that registers, and whether it was assigned.
pub(super) fn rack_at_registration(command: &RegisterBroker, known: Option<&Broker>) -> (Option<String>, bool) {
    match known {
        Some(known) if command.rack.is_none() && known.rack_assigned => (known.rack.clone(), true),
        _ => (command.rack.clone(), false),
    }
}

impl MetadataState {
    pub(super) fn set_broker_rack(&mut self, command: &SetBrokerRack, context: &mut Context) -> Outcome {
        let SetBrokerRack { node, rack } = command;
        let Some(broker) = self.brokers.get_mut(node) else {
            let message = format!("broker {node} is not registered");
            return Err(CommandError::new(ErrorCode::BrokerIdNotRegistered, message));
        };
        if broker.rack == *rack {
            return Ok(CommandResult::Done);
        }
        if let Some(own) = broker.rack.as_ref().filter(|_| !broker.rack_assigned) {
            let message = format!("broker {node} is configured with rack {own} (broker.rack) and gets no other");
            return Err(CommandError::new(ErrorCode::PolicyViolation, message));
        }
        if rack.as_ref().is_some_and(|rack| rack.is_empty() || rack.len() > MAX_RACK) {
            let message = format!("a rack has a name of 1-{MAX_RACK} bytes");
            return Err(CommandError::new(ErrorCode::InvalidRequest, message));
        }
        broker.rack.clone_from(rack);
        broker.rack_assigned = rack.is_some();
        context.changes.push(Change::Broker { node: *node });
        Ok(CommandResult::Done)
    }
}
