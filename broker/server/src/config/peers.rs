//! Who the other brokers are and how their addresses are found.
//!
//! Read once by [`super::Config::from_sources`]; [`crate::peer::discovery`] acts on it. Says nothing about membership
//! but the bootstrap voters, which count only while storage is empty.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use chronik_model::NodeId;

use super::source::Reader;

/// A peer of the static list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticPeer {
    /// Its node id.
    pub id: NodeId,
    /// Its Raft address, not yet normalised: `host`, `host:port`, `http://…`, `[v6]:port`.
    pub address: String,
}

/// Where addresses come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiscoverySource {
    /// A broker without peers.
    Alone,
    /// The list in the configuration.
    Static(Vec<StaticPeer>),
    /// SRV and A/AAAA records of a headless service.
    Service {
        /// Its name, such as `chronik-headless.ns.svc.cluster.local`.
        name: String,
        /// Name of the port in the SRV records (`_raft._tcp.<name>`).
        srv_port_name: String,
        /// Name of the pods without their ordinal, for a service that publishes no SRV records.
        pods: Option<String>,
    },
    /// The mounted `cluster.yaml`.
    File(PathBuf),
}

/// Peers and discovery.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Where addresses come from.
    pub source: DiscoverySource,
    /// A DNS server to ask instead of those of /etc/resolv.conf.
    pub dns_server: Option<SocketAddr>,
    /// Time one DNS question may take.
    pub dns_timeout_ms: u64,
    /// Voters of a cluster that does not exist yet; empty when `cluster.file` gives them.
    pub bootstrap_voters: BTreeSet<NodeId>,
    /// Whether this broker joins a cluster that exists and never founds one.
    pub join: bool,
}

impl PeersConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let list = r.parsed(
            "peers",
            "All founding brokers with their Raft addresses, this one included",
            None,
            "a list of id@host:port",
            |peers: &Vec<StaticPeer>| {
                peers.iter().map(|p| format!("{}@{}", p.id, p.address)).collect::<Vec<_>>().join(",")
            },
            parse_peers,
        );
        let service = r.text("discovery.service", "DNS name of the headless service of the brokers", "a DNS name");
        let port_name = r.text_or("discovery.srv.port.name", "Port name in the SRV records", "raft", "a port name");
        let pods = r.text(
            "discovery.pod.prefix",
            "Name of the pods without their ordinal, for a service without SRV records; unset = taken from the host name",
            "a name such as chronik",
        );
        let file = r.text("cluster.file", "The mounted cluster.yaml with voters and addresses", "a path");
        let given = usize::from(list.is_some()) + usize::from(service.is_some()) + usize::from(file.is_some());
        if given > 1 {
            r.problem("peers", "more than one source of peers", "one of peers, discovery.service, cluster.file");
        }
        let listed: BTreeSet<NodeId> = list.iter().flatten().map(|p| p.id).collect();
        let source = match (file, service, list) {
            (Some(path), ..) => DiscoverySource::File(path.into()),
            (None, Some(name), _) => DiscoverySource::Service { name, srv_port_name: port_name, pods },
            (None, None, Some(peers)) => DiscoverySource::Static(peers),
            (None, None, None) => DiscoverySource::Alone,
        };
        let dns_server = r.parsed(
            "discovery.dns.server",
            "DNS server to ask instead of those in /etc/resolv.conf",
            None,
            "ip:port",
            SocketAddr::to_string,
            |text| text.parse().ok(),
        );
        let dns_timeout_ms = r.number("discovery.dns.timeout.ms", "Time one DNS question may take", 2000, 50..=60_000);
        let join = r.flag("join", "Join a cluster that exists; never found one", false);
        let voters = r.parsed(
            "bootstrap.voters",
            "Voters of a cluster that does not exist yet; ignored once storage holds a membership",
            None,
            "a list of node ids",
            |ids: &BTreeSet<NodeId>| ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(","),
            parse_ids,
        );
        if join && voters.as_ref().is_some_and(|v| !v.is_empty()) {
            r.problem("bootstrap.voters", "given together with join=true", "nothing when join=true");
        }
        if let (DiscoverySource::Static(_), Some(voters)) = (&source, &voters)
            && let Some(missing) = voters.iter().find(|id| !listed.contains(id))
        {
            r.problem("bootstrap.voters", format!("voter {missing} is not in peers"), "ids that peers lists");
        }
        if matches!(source, DiscoverySource::Service { .. }) && !join && voters.as_ref().is_none_or(BTreeSet::is_empty)
        {
            r.problem(
                "bootstrap.voters",
                "not given, so this broker cannot found a cluster, and join is not set either",
                "the ids of the founding voters, or join=true",
            );
        }
        // A static list without voters means: all that are listed found the cluster.
        let bootstrap_voters = if join { BTreeSet::new() } else { voters.unwrap_or(listed) };
        Self { source, dns_server, dns_timeout_ms, bootstrap_voters, join }
    }
}

fn parse_ids(text: &str) -> Option<BTreeSet<NodeId>> {
    let parts = text.split([',', ' ']).map(str::trim).filter(|p| !p.is_empty());
    let ids: Vec<NodeId> = parts.map(|p| p.parse().ok().filter(|id| *id > 0).map(NodeId)).collect::<Option<_>>()?;
    let set: BTreeSet<NodeId> = ids.iter().copied().collect();
    (set.len() == ids.len()).then_some(set)
}

fn parse_peers(text: &str) -> Option<Vec<StaticPeer>> {
    let mut peers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (id, address) = part.split_once('@')?;
        let id = NodeId(id.trim().parse().ok().filter(|id| *id > 0)?);
        let address = address.trim().to_owned();
        crate::peer::directory::PeerAddress::parse(&address, 9192).ok()?;
        if peers.iter().any(|p: &StaticPeer| p.id == id) {
            return None;
        }
        peers.push(StaticPeer { id, address });
    }
    (!peers.is_empty()).then_some(peers)
}
