//! Kafka listeners besides `kafka.port`: `kafka.listeners` here, or `peers[].listeners` of the mounted `cluster.yaml`.
//!
//! Each has a name that is the same on every broker: a client that asks through one is told the addresses of the others
//! of that name. Parsed by [`super::sections`] and by [`crate::peer::cluster_file`]; bound by `startup::listeners`.

use chronik_core::controller::{Endpoint, KafkaListener};

use crate::peer::directory::PeerAddress;

/// What the text form of one listener looks like.
pub(crate) const ACCEPTED: &str = "a list of name:port or name:port@advertised-host:advertised-port";

/// One further Kafka listener of this broker.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ExtraListener {
    /// Its name, the same on every broker.
    pub name: String,
    /// The port that it binds.
    pub port: u16,
    /// The host that clients are told; `None` = as for the first listener.
    pub advertised_host: Option<String>,
    /// The port that clients are told.
    pub advertised_port: u16,
}

impl ExtraListener {
    /// Checks one listener. `address` is what clients are told: a host, or a host and a port.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(name: &str, port: u16, address: Option<&str>) -> Result<Self, String> {
        let well_named = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if name.is_empty() || name.len() > 63 || !well_named(name) {
            return Err(format!("'{name}' is not a listener's name: 1 to 63 letters, digits, '-' and '_'"));
        }
        if port == 0 {
            return Err(format!("listener {name} has no port"));
        }
        let advertised = address.map(|text| PeerAddress::parse(text, port)).transpose();
        let advertised = advertised.map_err(|error| format!("listener {name}: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            port,
            advertised_port: advertised.as_ref().map_or(port, PeerAddress::port),
            advertised_host: advertised.map(|address| address.host().to_owned()),
        })
    }

    /// As the registration has it.
    #[must_use]
    pub fn registered(&self, default_host: &str) -> KafkaListener {
        let host = self.advertised_host.clone().unwrap_or_else(|| default_host.to_owned());
        KafkaListener { name: self.name.clone(), advertised: Endpoint { host, port: self.advertised_port } }
    }

    fn show(&self) -> String {
        match &self.advertised_host {
            None => format!("{}:{}", self.name, self.port),
            Some(host) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                format!("{}:{}@{host}:{}", self.name, self.port, self.advertised_port)
            }
        }
    }
}

/// The text form of a list.
pub(super) fn show(listeners: &[ExtraListener]) -> String {
    listeners.iter().map(ExtraListener::show).collect::<Vec<_>>().join(",")
}

/// Reads the text form of a list.
pub(super) fn parse(text: &str) -> Option<Vec<ExtraListener>> {
    let mut listeners: Vec<ExtraListener> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (own, address) = entry.split_once('@').map_or((entry, None), |(own, address)| (own, Some(address)));
        let (name, port) = own.split_once(':')?;
        let listener = ExtraListener::new(name.trim(), port.trim().parse().ok()?, address).ok()?;
        listeners.push(listener);
    }
    unique(&listeners).ok().map(|()| listeners)
}

/// Refuses two listeners of one name or one port.
pub(crate) fn unique(listeners: &[ExtraListener]) -> Result<(), String> {
    for (position, one) in listeners.iter().enumerate() {
        for other in &listeners[..position] {
            if one.name == other.name {
                return Err(format!("two Kafka listeners are called {}", one.name));
            }
            if one.port == other.port {
                return Err(format!("the Kafka listeners {} and {} have the same port", other.name, one.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_and_shown() {
        for text in ["outside:9094", "outside:9094@node1.example:30094", "a:1@[2001:db8::1]:2,b:2"] {
            assert_eq!(show(&parse(text).unwrap()), text);
        }
        let host_only = parse("outside:9094@node1").unwrap();
        assert_eq!(
            host_only[0].registered("x"),
            KafkaListener { name: "outside".into(), advertised: Endpoint { host: "node1".into(), port: 9094 } }
        );
        assert_eq!(parse("outside:9094").unwrap()[0].registered("me").advertised.host, "me");
        for bad in ["outside", "outside:0", ":9094", "out side:1", "a:1,a:2", "a:1,b:1", "a:1@", "a:1@h:0", "a:70000"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
