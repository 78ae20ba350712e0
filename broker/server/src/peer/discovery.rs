//! Keeps the peer directory filled and fresh (M2): static list, headless service, or mounted file.
//!
//! `startup` calls [`Discovery::wait_for_voters`] once on a first boot and spawns [`Discovery::run`]; a restart with an
//! identity on disk never waits. [`super::transport`] calls [`Discovery::kick`] when a connection fails. Only addresses
//! are learned here, never members. A peer whose name cannot be resolved stays registered: the transport goes on trying.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chronik_model::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::cluster_file::ClusterFile;
use super::directory::{Origin, PeerAddress, PeerDirectory};
use super::dns::{DnsError, Resolver, ServiceTarget};
use crate::config::listeners::ExtraListener;
use crate::config::{DiscoverySource, PeersConfig, pod_ordinal};

/// Pause between two looks at DNS while names are missing. DNS tells nobody about changes, so this has to ask again.
const RETRY: Duration = Duration::from_millis(200);
/// Bounds of the time between two looks when all is well, whatever the records' TTL.
const REFRESH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Pause after a look that failed: a joiner knows nobody until one succeeds.
const FAILED: Duration = Duration::from_secs(1);
/// How often a mounted file is looked at.
const FILE_CHECK: Duration = Duration::from_secs(2);
/// How many lower ordinals a broker without SRV records looks for, to find somebody who takes it in.
const MOST_LOWER_ORDINALS: i32 = 32;
/// Least time between two looks caused by failing connections.
const KICK_PAUSE: Duration = Duration::from_millis(500);

/// What discovery knows, for `/status` and the doctor.
#[derive(Clone, Default, Debug, serde::Serialize)]
pub struct DiscoveryStatus {
    /// Where addresses come from: `alone`, `static`, `service …`, `file …`.
    pub source: String,
    /// The last look as a whole failed for this reason.
    pub last_error: Option<String>,
    /// Peers whose names do not resolve, and why.
    pub unresolved: BTreeMap<i32, String>,
    /// Looks so far.
    pub refreshes: u64,
}

/// Result of waiting for names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waited {
    /// Voters whose names resolve.
    pub found: BTreeSet<NodeId>,
    /// The others, with the reason.
    pub missing: BTreeMap<NodeId, String>,
}

/// Finds peers.
#[derive(Debug)]
pub struct Discovery {
    source: DiscoverySource,
    me: NodeId,
    voters: BTreeSet<NodeId>,
    default_port: u16,
    directory: Arc<PeerDirectory>,
    resolver: Resolver,
    status: Mutex<DiscoveryStatus>,
    file_time: Mutex<Option<SystemTime>>,
    kicked: Notify,
    listeners: watch::Sender<Vec<ExtraListener>>,
}

impl Discovery {
    /// Discovery for broker `me`; static peers are registered at once.
    #[must_use]
    pub fn new(
        config: &PeersConfig,
        me: NodeId,
        default_port: u16,
        directory: Arc<PeerDirectory>,
        resolver: Resolver,
    ) -> Self {
        let source = match &config.source {
            DiscoverySource::Alone => "alone".to_owned(),
            DiscoverySource::Static(_) => "static".to_owned(),
            DiscoverySource::Service { name, .. } => format!("service {name}"),
            DiscoverySource::File(path) => format!("file {}", path.display()),
        };
        if let DiscoverySource::Static(list) = &config.source {
            for peer in list {
                match PeerAddress::parse(&peer.address, default_port) {
                    Ok(address) => drop(directory.register(peer.id, &address, Origin::Configured)),
                    Err(error) => tracing::error!(peer = %peer.id, %error, "peer not registered"),
                }
            }
        }
        Self {
            source: config.source.clone(),
            me,
            voters: config.bootstrap_voters.clone(),
            default_port,
            directory,
            resolver,
            status: Mutex::new(DiscoveryStatus { source, ..DiscoveryStatus::default() }),
            file_time: Mutex::default(),
            kicked: Notify::new(),
            listeners: watch::Sender::default(),
        }
    }

    /// The Kafka listeners that the mounted file gives this broker besides the first, as of the last look.
    #[must_use]
    pub fn listeners(&self) -> watch::Receiver<Vec<ExtraListener>> {
        self.listeners.subscribe()
    }

    /// What is known, for people.
    #[must_use]
    pub fn status(&self) -> DiscoveryStatus {
        self.status.lock().clone()
    }

    /// A connection failed: look again soon.
    pub fn kick(&self) {
        self.kicked.notify_one();
    }

    /// Waits until the names of all `voters` resolve; from `wait` on, a majority is enough. Never gives up: a founding
    /// broker without a majority of names has nothing else to do.
    pub async fn wait_for_voters(&self, voters: &BTreeSet<NodeId>, wait: Duration) -> Waited {
        let begin = Instant::now();
        let mut complained = false;
        loop {
            self.refresh().await;
            let waited = self.resolve_all(voters).await;
            if waited.missing.is_empty() {
                return waited;
            }
            if begin.elapsed() >= wait {
                if waited.found.len() * 2 > voters.len() {
                    tracing::warn!(missing = ?waited.missing, "going on with a majority of the voters' names");
                    return waited;
                }
                if !complained {
                    complained = true;
                    tracing::error!(missing = ?waited.missing, "waiting for the names of a majority of the voters");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn resolve_all(&self, voters: &BTreeSet<NodeId>) -> Waited {
        let checks = voters.iter().map(|id| async move {
            if *id == self.me {
                return (*id, Ok(()));
            }
            let result = match self.directory.get(*id) {
                Err(error) => Err(error.to_string()),
                Ok(address) => self.resolver.addresses(address.host()).await.map(drop).map_err(|e| e.to_string()),
            };
            (*id, result)
        });
        let mut waited = Waited { found: BTreeSet::new(), missing: BTreeMap::new() };
        for (id, result) in futures::future::join_all(checks).await {
            match result {
                Ok(()) => drop(waited.found.insert(id)),
                Err(problem) => drop(waited.missing.insert(id, problem)),
            }
        }
        let mut status = self.status.lock();
        status.unresolved = waited.missing.iter().map(|(id, problem)| (id.0, problem.clone())).collect();
        waited
    }

    /// Tells whether `peer`'s name resolved when a connection was made.
    pub fn resolved(&self, peer: NodeId, result: Result<(), &DnsError>) {
        let mut status = self.status.lock();
        match result {
            Ok(()) => drop(status.unresolved.remove(&peer.0)),
            Err(error) => drop(status.unresolved.insert(peer.0, error.to_string())),
        }
    }

    /// Refreshes until the task is dropped: when records expire, when the file changes, when connections fail.
    pub async fn run(self: Arc<Self>) {
        loop {
            let pause = self.refresh().await;
            let Some(pause) = pause else { return };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.kicked.notified() => tokio::time::sleep(KICK_PAUSE).await,
            }
        }
    }

    /// One look; how long to wait until the next, `None` when there is nothing to look at.
    pub async fn refresh(&self) -> Option<Duration> {
        let (result, pause) = match &self.source {
            DiscoverySource::Alone | DiscoverySource::Static(_) => return None,
            DiscoverySource::File(path) => (self.refresh_file(path.clone()).await, FILE_CHECK),
            DiscoverySource::Service { name, srv_port_name, pods } => {
                match self.resolver.service(srv_port_name, name).await {
                    Ok((targets, ttl)) => {
                        self.register_targets(&targets);
                        (Ok(()), ttl.clamp(REFRESH.0, REFRESH.1))
                    }
                    Err(error @ DnsError::Missing(_)) if self.by_pod_names(name, pods.as_deref()).await => {
                        tracing::debug!(%error, "peers found by the names of their pods");
                        (Ok(()), REFRESH.0)
                    }
                    Err(error) => (Err(error.to_string()), FAILED),
                }
            }
        };
        let mut status = self.status.lock();
        status.refreshes += 1;
        let problem = result.err();
        if problem != status.last_error
            && let Some(problem) = &problem
        {
            tracing::warn!(source = %status.source, %problem, "peers could not be looked up");
        }
        status.last_error = problem;
        Some(pause)
    }

    /// A service without SRV records still gives each pod an address under `<pods>-<ordinal>.<service>`. Registers every
    /// voter and every lower ordinal whose name resolves; whether there was another one than this broker.
    async fn by_pod_names(&self, service: &str, pods: Option<&str>) -> bool {
        let host = crate::config::host_name();
        let own = id_of_target(&host).map(|(_, pods)| pods);
        let Some(pods) = pods.or(own) else { return false };
        let lower = (1..=self.me.0.min(MOST_LOWER_ORDINALS)).map(NodeId);
        let candidates: BTreeSet<NodeId> = self.voters.iter().copied().chain(lower).collect();
        let name = |id: NodeId| format!("{pods}-{}.{service}", id.0 - 1);
        let mut published = BTreeSet::new();
        for id in candidates {
            if self.resolver.addresses(&name(id)).await.is_ok() {
                published.insert(id);
            }
        }
        let found = published.iter().any(|id| *id != self.me);
        if found {
            // A voter whose pod is not published yet will have its name.
            for id in published.union(&self.voters) {
                self.register(*id, &name(*id), self.default_port);
            }
        }
        found
    }

    fn register_targets(&self, targets: &[ServiceTarget]) {
        let mut published = BTreeSet::new();
        let mut pattern = None;
        for target in targets {
            let Some((id, pods)) = id_of_target(&target.host) else {
                tracing::debug!(host = target.host, "a target of the service has no ordinal in its name");
                continue;
            };
            published.insert(id);
            let domain = target.host.split_once('.').map_or("", |(_, domain)| domain);
            pattern.get_or_insert_with(|| (pods.to_owned(), domain.to_owned(), target.port));
            self.register(id, &target.host, target.port);
        }
        // A voter whose pod is not published yet will have the name that its ordinal gives it.
        if let Some((pods, domain, port)) = pattern {
            for id in self.voters.iter().filter(|id| !published.contains(id) && self.directory.get(**id).is_err()) {
                self.register(*id, &format!("{pods}-{}.{domain}", id.0 - 1), port);
            }
        }
    }

    fn register(&self, id: NodeId, host: &str, port: u16) {
        let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match PeerAddress::parse(&text, self.default_port) {
            Ok(address) => drop(self.directory.register(id, &address, Origin::Configured)),
            Err(error) => tracing::warn!(peer = %id, %error, "peer not registered"),
        }
    }

    async fn refresh_file(&self, path: PathBuf) -> Result<(), String> {
        let port = self.default_port;
        let seen = *self.file_time.lock();
        let read = move || {
            let time = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
            if time.is_some() && time == seen {
                return Ok(None);
            }
            ClusterFile::read(&path, port).map(|file| Some((time, file)))
        };
        let result = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
        if let Some((time, file)) = result.map_err(|error| error.to_string())? {
            for (id, address) in file.peers {
                self.directory.register(id, &address, Origin::Configured);
            }
            let own = file.listeners.get(&self.me).cloned().unwrap_or_default();
            self.listeners.send_if_modified(|known| {
                let changed = *known != own;
                *known = own;
                changed
            });
            *self.file_time.lock() = time;
        }
        Ok(())
    }
}

/// Node id and pod name prefix of an SRV target such as `chronik-2.chronik-headless.ns.svc.cluster.local`.
fn id_of_target(host: &str) -> Option<(NodeId, &str)> {
    let pod = host.split('.').next()?;
    let ordinal = pod_ordinal(pod)?;
    Some((NodeId(ordinal.checked_add(1)?), pod.rsplit_once('-')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(source: DiscoverySource, voters: &[i32]) -> Discovery {
        let config = PeersConfig {
            source,
            dns_server: None,
            dns_timeout_ms: 100,
            bootstrap_voters: voters.iter().map(|id| NodeId(*id)).collect(),
            join: false,
        };
        // Nobody listens on the discard port: a question would fail, and none is asked for IP addresses.
        let resolver = Resolver::new(Some(([127, 0, 0, 1], 9).into()), Duration::from_millis(100)).unwrap();
        Discovery::new(&config, NodeId(1), 9192, Arc::new(PeerDirectory::default()), resolver)
    }

    fn service() -> DiscoverySource {
        DiscoverySource::Service { name: "chronik-headless.ns.svc".into(), srv_port_name: "raft".into(), pods: None }
    }

    fn known(discovery: &Discovery) -> Vec<String> {
        discovery.directory.all().iter().map(|(id, address)| format!("{id}={address}")).collect()
    }

    #[test]
    fn the_ordinal_of_a_target_gives_the_node_id() {
        assert_eq!(id_of_target("my-cluster-0.svc.ns"), Some((NodeId(1), "my-cluster")));
        assert_eq!(id_of_target("my-cluster-11"), Some((NodeId(12), "my-cluster")));
        assert_eq!(id_of_target("10-0-0-x.svc"), None);
        assert_eq!(id_of_target("web.svc-1"), None);
    }

    #[tokio::test]
    async fn voters_that_are_not_published_yet_are_registered_under_the_name_they_will_have() {
        let discovery = discovery(service(), &[1, 2, 3]);
        let target = |host: &str| ServiceTarget { host: host.into(), port: 7 };
        discovery.register_targets(&[target("c-0.h.ns.svc"), target("c-4.h.ns.svc"), target("stranger.h")]);
        assert_eq!(known(&discovery), ["1=c-0.h.ns.svc:7", "2=c-1.h.ns.svc:7", "3=c-2.h.ns.svc:7", "5=c-4.h.ns.svc:7"]);
    }

    #[tokio::test]
    async fn after_a_failed_look_the_next_comes_soon() {
        let discovery = discovery(service(), &[]);
        let pause = discovery.refresh().await.unwrap();
        assert!(discovery.status().last_error.is_some());
        assert!(pause <= Duration::from_secs(1), "{pause:?}");
    }

    #[tokio::test]
    async fn all_static_addresses_are_found_without_asking_dns() {
        let peer = |id, address: &str| crate::config::StaticPeer { id: NodeId(id), address: address.into() };
        let discovery = discovery(DiscoverySource::Static(vec![peer(1, "127.0.0.1:1"), peer(2, "[::1]:2")]), &[1, 2]);
        let waited = discovery.wait_for_voters(&BTreeSet::from([NodeId(1), NodeId(2)]), Duration::ZERO).await;
        assert!(waited.missing.is_empty(), "{waited:?}");
    }

    #[tokio::test]
    async fn after_the_deadline_a_majority_is_enough_and_the_missing_voter_is_named() {
        let peer = |id, address: &str| crate::config::StaticPeer { id: NodeId(id), address: address.into() };
        let discovery =
            discovery(DiscoverySource::Static(vec![peer(1, "127.0.0.1:1"), peer(3, "127.0.0.1:3")]), &[1, 2, 3]);
        let voters = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        let waited = discovery.wait_for_voters(&voters, Duration::from_millis(1)).await;
        assert_eq!(waited.found, BTreeSet::from([NodeId(1), NodeId(3)]));
        assert_eq!(waited.missing[&NodeId(2)], "peer 2 has no registered address");
        assert!(discovery.status().unresolved.contains_key(&2));
    }

    #[tokio::test]
    async fn only_addresses_of_a_changed_file_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.yaml");
        std::fs::write(&path, "peers: [{id: 2, host: a}]").unwrap();
        let discovery = discovery(DiscoverySource::File(path.clone()), &[]);
        discovery.refresh().await;
        assert_eq!(known(&discovery), ["2=a:9192"]);
        std::fs::write(&path, "bootstrapVoters: [9]\npeers: [{id: 2, host: b, raftPort: 5}, {id: 3, host: c}]")
            .unwrap();
        std::fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(9))
            .unwrap();
        discovery.refresh().await;
        assert_eq!(known(&discovery), ["2=b:5", "3=c:9192"]);
        std::fs::write(&path, "peers: 3").unwrap();
        discovery.refresh().await;
        assert!(discovery.status().last_error.unwrap().contains("peers"));
        assert_eq!(known(&discovery), ["2=b:5", "3=c:9192"]);
    }
}
