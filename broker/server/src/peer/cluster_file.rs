//! The mounted `cluster.yaml`: an address book, and for those who found a cluster the voters and settings that it begins with.
//!
//! Read by [`super::discovery`] at start and again when it changes; only addresses are taken from a changed file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chronik_model::{ClusterId, DirectoryId, NodeId};
use serde::Deserialize;

use super::directory::PeerAddress;
use crate::config::listeners::{ExtraListener, unique};

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterFile {
    /// Identity of the cluster.
    pub cluster_id: Option<ClusterId>,
    /// Founding voters.
    pub bootstrap_voters: BTreeSet<NodeId>,
    /// Nobody who reads this file founds a cluster.
    pub join: bool,
    /// Data directories that the cluster has given up: a broker that starts on one of them begins anew.
    pub retired: BTreeSet<DirectoryId>,
    /// Raft addresses.
    pub peers: Vec<(NodeId, PeerAddress)>,
    /// What the founders make the cluster-wide defaults; of no use where `join` is set.
    pub cluster_defaults: BTreeMap<String, String>,
    /// Kafka listeners besides the first, of those that have any.
    pub listeners: BTreeMap<NodeId, Vec<ExtraListener>>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ClusterFileError {
    /// Its path.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    cluster_id: Option<String>,
    #[serde(default)]
    bootstrap_voters: Vec<i32>,
    #[serde(default)]
    join: bool,
    #[serde(default)]
    retired: Vec<String>,
    #[serde(default)]
    cluster_defaults: BTreeMap<String, String>,
    #[serde(default)]
    peers: Vec<Peer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    id: i32,
    host: String,
    raft_port: Option<u16>,
    ports: Option<Ports>,
    #[serde(default)]
    listeners: Vec<Listener>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listener {
    name: String,
    port: u16,
    advertised_host: Option<String>,
    advertised_port: Option<u16>,
}

#[derive(Deserialize)]
struct Ports {
    raft: Option<u16>,
}

impl ClusterFile {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it cannot be read or says something impossible; names the field.
    pub fn read(path: &Path, default_port: u16) -> Result<Self, ClusterFileError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ClusterFileError { file: file.clone(), problem: format!("cannot be read: {error}") })?;
        Self::parse(&text, default_port).map_err(|problem| ClusterFileError { file, problem })
    }

    /// Only the retired data directories, whatever else the file says.
    ///
    /// # Errors
    /// When it cannot be read, or says something of them that is not understood.
    pub fn read_retired(path: &Path) -> Result<BTreeSet<DirectoryId>, ClusterFileError> {
        let failed = |problem: String| ClusterFileError { file: path.display().to_string(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        Self::parse_retired(&text).map_err(failed)
    }

    /// Understands of the file's text only the retired data directories.
    ///
    /// # Errors
    /// What is said of them is not understood.
    pub fn parse_retired(text: &str) -> Result<BTreeSet<DirectoryId>, String> {
        let list: Retired = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        retired(&list.retired)
    }

    /// Understands the file's text.
    ///
    /// # Errors
    /// What is not understood or impossible; names the field.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let document: Document = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let id = |id: i32, field: &str| {
            if id > 0 { Ok(NodeId(id)) } else { Err(format!("{field}: {id} is not a node id; accepted: 1 and up")) }
        };
        let mut listeners = BTreeMap::new();
        let mut peers = Vec::with_capacity(document.peers.len());
        for peer in &document.peers {
            let port = peer.raft_port.or(peer.ports.as_ref().and_then(|p| p.raft)).unwrap_or(default_port);
            let address = PeerAddress::parse(&peer.host, port).map_err(|error| format!("peers.host: {error}"))?;
            let node = id(peer.id, "peers.id")?;
            if peers.iter().any(|(known, _)| *known == node) {
                return Err(format!("peers.id: {node} is listed twice"));
            }
            let own: Vec<ExtraListener> =
                peer.listeners.iter().map(|one| listener(one, &address)).collect::<Result<_, _>>()?;
            unique(&own).map_err(|problem| format!("peers.listeners: {problem}"))?;
            if !own.is_empty() {
                listeners.insert(node, own);
            }
            peers.push((node, address));
        }
        let voters = document.bootstrap_voters.iter().map(|v| id(*v, "bootstrapVoters"));
        Ok(Self {
            cluster_id: document.cluster_id.filter(|id| !id.is_empty()).map(ClusterId::from),
            bootstrap_voters: voters.collect::<Result<_, _>>()?,
            join: document.join,
            retired: retired(&document.retired)?,
            cluster_defaults: document.cluster_defaults,
            peers,
            listeners,
        })
    }
}

#[derive(Deserialize)]
struct Retired {
    #[serde(default)]
    retired: Vec<String>,
}

fn retired(ids: &[String]) -> Result<BTreeSet<DirectoryId>, String> {
    let accepted = "as meta.properties and the control service show them";
    let id = |id: &String| {
        id.parse().map_err(|_| format!("retired: '{id}' is not a directory id; accepted: ids {accepted}"))
    };
    ids.iter().map(id).collect()
}

fn listener(listener: &Listener, peer: &PeerAddress) -> Result<ExtraListener, String> {
    let host = listener.advertised_host.as_deref().unwrap_or_else(|| peer.host());
    let problem = |problem| format!("peers.listeners: {problem}");
    let found = ExtraListener::new(&listener.name, listener.port, Some(host)).map_err(problem)?;
    let stated = found.advertised_port;
    Ok(ExtraListener { advertised_port: listener.advertised_port.filter(|port| *port != 0).unwrap_or(stated), ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_file_is_understood() {
        let text = "clusterId: abc\nbootstrapVoters: [1, 2]\njoin: false\nclusterDefaults: {a.b: '3'}\npeers:\n\
                    - {id: 1, host: a.b, ports: {kafka: 9092, raft: 7}}\n- {id: 2, host: c, raftPort: 8}\n- {id: 3, host: d}\n";
        let file = ClusterFile::parse(text, 9192).unwrap();
        assert_eq!(file.cluster_id, Some(ClusterId::from("abc")));
        assert_eq!(file.bootstrap_voters, BTreeSet::from([NodeId(1), NodeId(2)]));
        let shown: Vec<String> = file.peers.iter().map(|(id, a)| format!("{id}={a}")).collect();
        assert_eq!(shown, ["1=a.b:7", "2=c:8", "3=d:9192"]);
        assert_eq!(file.cluster_defaults, BTreeMap::from([("a.b".to_owned(), "3".to_owned())]));
    }

    #[test]
    fn listeners_have_the_address_that_clients_are_told() {
        let text = "peers: [{id: 1, host: a, listeners: [{name: x, port: 9094, advertisedHost: n, advertisedPort: 30094}]},\
                    {id: 2, host: b, listeners: [{name: x, port: 9094}]}, {id: 3, host: c}]";
        let file = ClusterFile::parse(text, 9192).unwrap();
        let shown = |id: i32| {
            let of = file.listeners.get(&NodeId(id)).map(|all| all.iter().map(|one| one.registered("-")));
            of.into_iter().flatten().map(|one| format!("{}:{}", one.advertised.host, one.advertised.port)).collect()
        };
        let all: Vec<Vec<String>> = (1..=3).map(shown).collect();
        assert_eq!(all, [vec!["n:30094".to_owned()], vec!["b:9094".to_owned()], vec![]]);
    }

    #[test]
    fn mistakes_name_the_field() {
        for (text, word) in [
            ("bootstrapVoters: [0]", "bootstrapVoters"),
            ("peers: [{id: 1, host: ''}]", "peers.host"),
            ("peers: [{id: 1, host: a}, {id: 1, host: b}]", "listed twice"),
            ("peers: 3", "peers"),
            ("retired: [broker-3]", "retired"),
            ("peers: [{id: 1, host: a, listeners: [{name: x, port: 0}]}]", "peers.listeners"),
            ("peers: [{id: 1, host: a, listeners: [{name: x, port: 1}, {name: x, port: 2}]}]", "peers.listeners"),
            ("peers: [{id: 1, host: a, listeners: [{name: x, port: 1, advertisedHost: 'a b'}]}]", "peers.listeners"),
        ] {
            let error = ClusterFile::parse(text, 1).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
