//! Configuration: one YAML file, every key overridable by the environment and by `--set`.
//!
//! Read once by `main` before anything else runs; immutable afterwards and shared as `Arc<Config>`. Every mistake names
//! the key and what is accepted; all mistakes are reported at once and the process exits with
//! [`EXIT_CONFIG`]. `chronik-broker config` prints every key with its effective value, its source and its meaning.
//!
//! **Cluster id.** `cluster.id` or the `clusterId` of `cluster.yaml` wins. Without either, founding brokers that share a
//! static list or a service name derive the same id from it and from the bootstrap voters (so that they agree before
//! they talk); a broker alone draws a random one at bootstrap; a joiner takes the id of the cluster that lets it in.
//! Whatever it was, the identity file in the data directory holds it from then on, and a different configured id is
//! refused.

mod data;
pub mod listeners;
mod peers;
mod sections;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chronik_model::{ClusterId, NodeId};

pub use data::{FlushPolicy, GroupsConfig, LogConfig, NetConfig, ReplicationConfig, TopicsConfig};
pub use peers::{DiscoverySource, PeersConfig, StaticPeer};
pub use sections::{LifecycleConfig, ListenersConfig, RaftConfig, TracingConfig, TracingFormat};
pub use source::{Effective, Problem, Reader, Source, Sources, variable_of};

/// Exit code for a mistake in the configuration or on the command line (`EX_USAGE`).
pub const EXIT_CONFIG: u8 = 64;
/// Exit code for a data directory that belongs to another cluster or node, or is damaged (`EX_DATAERR`).
pub const EXIT_IDENTITY: u8 = 65;
/// Exit code when this process was superseded by another one with the same node id.
pub const EXIT_SUPERSEDED: u8 = 66;
/// Exit code for a fault that a restart may cure, such as a port in use (`EX_TEMPFAIL`).
pub const EXIT_TEMPORARY: u8 = 75;

/// Everything a broker is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// This broker's id, always positive.
    pub node_id: NodeId,
    /// The cluster's id, when it was configured.
    pub cluster_id: Option<ClusterId>,
    /// The file with the secret that operators and brokers share.
    pub control_secret_file: Option<PathBuf>,
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Failure domain of this broker.
    pub rack: Option<String>,
    /// Host that clients and peers are told; never empty.
    pub advertised_host: String,
    /// Ports and addresses.
    pub listeners: ListenersConfig,
    /// Peers, discovery, bootstrap.
    pub peers: PeersConfig,
    /// The metadata quorum.
    pub raft: RaftConfig,
    /// Sessions, start and stop.
    pub lifecycle: LifecycleConfig,
    /// Partition logs.
    pub log: LogConfig,
    /// New topics.
    pub topics: TopicsConfig,
    /// Replication.
    pub replication: ReplicationConfig,
    /// Client connections.
    pub net: NetConfig,
    /// Consumer groups.
    pub groups: GroupsConfig,
    /// Events.
    pub tracing: TracingConfig,
    /// Every key with its value, for people.
    pub effective: Vec<Effective>,
}

/// The configuration cannot be used; one line per mistake.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|p| format!("configuration error: {p}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

impl Config {
    /// Reads `file` (when given), the environment of this process and `pairs` of the command line.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load<'a>(file: Option<&Path>, pairs: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| {
                let accepted = "a readable YAML file".to_owned();
                ConfigError(vec![Problem { key: name.clone(), problem: format!("cannot be read: {error}"), accepted }])
            })?;
            sources.add_yaml(&name, &text).map_err(|p| ConfigError(vec![p]))?;
        }
        sources.add_environment(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        );
        sources.add_pairs(pairs).map_err(|p| ConfigError(vec![p]))?;
        Self::from_sources(sources, &host_name())
    }

    /// Interprets `sources` on a machine (a pod) named `host_name`.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn from_sources(sources: Sources, host_name: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(sources);
        let r = &mut reader;
        let node_id = r.parsed(
            "node.id",
            "This broker's id; auto or unset = pod ordinal + 1",
            None,
            "auto, or 1 to 2147483647",
            |id: &NodeIdSetting| id.to_string(),
            NodeIdSetting::parse,
        );
        let cluster_id = r.parsed(
            "cluster.id",
            "The cluster's id; unset = derived from the founding peers, see the manual",
            None,
            "1 to 64 letters, digits, '-' and '_'",
            String::clone,
            |text| is_cluster_id(text).then(|| text.to_owned()),
        );
        let control_secret_file = r.text(
            "control.secret.file",
            "File with the secret that operators and brokers share; unset = the control service answers nobody",
            "a path",
        );
        let data_dir = r.text_or("data.dir", "Directory of everything durable", "./chronik-data", "a path");
        let rack = r.text("broker.rack", "Failure domain of this broker", "any text");
        let listeners = ListenersConfig::read(r);
        let peers = PeersConfig::read(r);
        let raft = RaftConfig::read(r);
        let lifecycle = LifecycleConfig::read(r);
        let log = LogConfig::read(r);
        let topics = TopicsConfig::read(r);
        let replication = ReplicationConfig::read(r);
        let net = NetConfig::read(r);
        let groups = GroupsConfig::read(r);
        let tracing = TracingConfig::read(r);

        let automatic = node_id == Some(NodeIdSetting::Auto);
        let node_id = match node_id {
            Some(NodeIdSetting::Id(id)) => Some(id),
            // Said in so many words, it holds wherever the peers come from.
            Some(NodeIdSetting::Auto) => pod_ordinal(host_name).map(|ordinal| NodeId(ordinal + 1)),
            None => node_id_of_pod(host_name, &peers.source),
        };
        if automatic && node_id.is_none() {
            r.problem(
                "node.id",
                format!("is auto, but the host name '{host_name}' does not end in a number"),
                "a whole number from 1, or a host name such as chronik-0",
            );
        } else if node_id.is_none() {
            r.problem(
                "node.id",
                format!("not given, and the host name '{host_name}' does not end in a pod ordinal"),
                "a whole number from 1; with discovery.service or cluster.file the pod ordinal + 1 is taken",
            );
        }
        if let (Some(id), DiscoverySource::Static(list)) = (node_id, &peers.source)
            && !peers.join
            && !list.iter().any(|p| p.id == id)
        {
            r.problem("peers", format!("this broker ({id}) is not listed"), "a list that has this broker's node.id");
        }
        let advertised_host = advertised_host(&listeners, &peers.source, node_id, host_name);
        let (effective, problems) = reader.finish();
        match node_id {
            Some(node_id) if problems.is_empty() => Ok(Self {
                node_id,
                cluster_id: cluster_id.map(ClusterId::from),
                control_secret_file: control_secret_file.map(PathBuf::from),
                data_dir: data_dir.into(),
                rack,
                advertised_host,
                listeners,
                peers: alone_votes_for_itself(peers, node_id),
                raft,
                lifecycle,
                log,
                topics,
                replication,
                net,
                groups,
                tracing,
                effective,
            }),
            _ => Err(ConfigError(problems)),
        }
    }

    /// `default.replication.factor` with `auto` resolved: min(3, brokers that are configured).
    #[must_use]
    pub fn default_replication_factor(&self) -> i16 {
        self.topics.default_replication_factor.unwrap_or_else(|| {
            let configured = match &self.peers.source {
                DiscoverySource::Alone => 1,
                DiscoverySource::Static(list) => list.len(),
                DiscoverySource::Service { .. } | DiscoverySource::File(_) => match self.peers.bootstrap_voters.len() {
                    0 => 3,
                    voters => voters,
                },
            };
            i16::try_from(configured.min(3)).unwrap_or(3)
        })
    }

    /// Replication factor of the offsets topic.
    #[must_use]
    pub fn offsets_replication_factor(&self) -> i16 {
        self.groups.offsets_replication_factor.unwrap_or_else(|| self.default_replication_factor())
    }

    /// The Kafka port that clients are told.
    #[must_use]
    pub fn advertised_kafka_port(&self) -> u16 {
        self.listeners.advertised_kafka_port.unwrap_or(self.listeners.kafka_port)
    }

    /// The effective configuration as YAML with the meaning of each key, for `chronik-broker config`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for e in &self.effective {
            let value = serde_yaml::to_string(&e.value).unwrap_or_default();
            text.push_str(&format!("# {} ({}; {})\n# accepted: {}\n", e.doc, e.source, variable_of(e.key), e.accepted));
            if e.value.is_empty() {
                text.push_str(&format!("#{}:\n", e.key));
            } else {
                text.push_str(&format!("{}: {}\n", e.key, value.trim_end().trim_matches('\'')));
            }
        }
        text
    }
}

fn is_cluster_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn alone_votes_for_itself(mut peers: PeersConfig, node_id: NodeId) -> PeersConfig {
    if peers.source == DiscoverySource::Alone && peers.bootstrap_voters.is_empty() && !peers.join {
        peers.bootstrap_voters = BTreeSet::from([node_id]);
    }
    peers
}

/// The name of this machine; in a pod, the pod's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The ordinal in which a StatefulSet's pod name ends.
#[must_use]
pub fn pod_ordinal(name: &str) -> Option<i32> {
    let (_, ordinal) = name.split('.').next()?.rsplit_once('-')?;
    ordinal.parse().ok().filter(|n| (0..i32::MAX).contains(n))
}

/// What `node.id` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NodeIdSetting {
    /// By the host name.
    Auto,
    /// This one.
    Id(NodeId),
}

impl NodeIdSetting {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            number => number.parse().ok().filter(|id| *id > 0).map(|id| Self::Id(NodeId(id))),
        }
    }
}

impl std::fmt::Display for NodeIdSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

fn node_id_of_pod(host_name: &str, source: &DiscoverySource) -> Option<NodeId> {
    match source {
        DiscoverySource::Service { .. } | DiscoverySource::File(_) => pod_ordinal(host_name).map(|n| NodeId(n + 1)),
        DiscoverySource::Alone | DiscoverySource::Static(_) => None,
    }
}

fn advertised_host(
    listeners: &ListenersConfig,
    source: &DiscoverySource,
    node_id: Option<NodeId>,
    host_name: &str,
) -> String {
    if let Some(host) = &listeners.advertised_host {
        return host.clone();
    }
    let own = match source {
        DiscoverySource::Static(list) => list.iter().find(|p| Some(p.id) == node_id).and_then(|p| {
            crate::peer::directory::PeerAddress::parse(&p.address, listeners.raft_port)
                .ok()
                .map(|a| a.host().to_owned())
        }),
        DiscoverySource::Service { name, .. } => {
            Some(format!("{}.{name}", host_name.split('.').next().unwrap_or(host_name)))
        }
        DiscoverySource::Alone | DiscoverySource::File(_) => None,
    };
    own.unwrap_or_else(|| match (source, listeners.bind.is_unspecified()) {
        (_, false) => listeners.bind.to_string(),
        (DiscoverySource::File(_), true) => host_name.to_owned(),
        (_, true) => "localhost".to_owned(),
    })
}

#[cfg(test)]
mod tests;
