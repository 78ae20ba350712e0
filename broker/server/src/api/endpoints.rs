//! Which address of a broker a client is told: that of the listener by which it asked.

use chronik_core::controller::{Broker, Endpoint};

use crate::net::ConnectionInfo;

/// The address of `broker` for who asked by `connection`; `None` when the broker lacks that listener.
pub(super) fn of<'a>(broker: &'a Broker, connection: &ConnectionInfo) -> Option<&'a Endpoint> {
    let Some(name) = &connection.listener else { return Some(&broker.endpoints.kafka) };
    broker.endpoints.listeners.iter().find(|one| *one.name == **name).map(|one| &one.advertised)
}
