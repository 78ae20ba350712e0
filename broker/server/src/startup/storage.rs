//! Step 2: the data directory. Locked, identified, never wiped.
//!
//! Called once, before any socket is opened. A directory of another cluster or node is refused before anything in it is
//! touched. What a fresh directory becomes (founder or joiner, of which cluster) is decided here, once, and written down.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

use chronik_log::disk::{Disk, DiskLock, RealDisk};
use chronik_log::{LogDir, LogError};
use chronik_model::{BrokerEpoch, ClusterId, DirectoryId, NodeId, Uuid};

use super::retired;
use crate::config::{Config, DiscoverySource};
use crate::peer::cluster_file::ClusterFile;

/// The data directory of this broker.
#[derive(Debug)]
pub struct Storage {
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// Its state.
    pub log_dir: Arc<LogDir>,
    /// Nobody else uses it.
    pub lock: DiskLock,
    /// Its id; drawn, but not yet written, when a joiner does not know its cluster.
    pub directory: DirectoryId,
    /// The cluster it belongs to; `None` for a joiner that was told nothing.
    pub cluster_id: Option<ClusterId>,
    /// Whether an identity was found: this is a restart.
    pub restart: bool,
    /// The voters that this broker was founded with, or is to be founded with; empty for a joiner.
    pub founders: Vec<NodeId>,
    /// The cluster-wide defaults that the mounted file gives to founders.
    pub defaults: BTreeMap<String, String>,
    /// The epoch in the clean-shutdown marker, which is gone now (R11).
    pub clean_shutdown: Option<BrokerEpoch>,
}

/// Why the storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory itself.
    #[error("data.dir {path}: {problem}")]
    Directory {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Lock, identity or marker.
    #[error("data.dir {path}: {source}")]
    Log {
        /// Its path.
        path: String,
        /// What is wrong.
        source: LogError,
    },
    /// The mounted file.
    #[error(transparent)]
    ClusterFile(#[from] crate::peer::cluster_file::ClusterFileError),
}

impl StorageError {
    /// Whether the directory belongs to somebody else or is damaged; trying again does not help.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::Log { source: LogError::WrongIdentity { .. } | LogError::Corrupt { .. }, .. })
    }
}

/// Opens the data directory of `config`.
///
/// # Errors
/// When it cannot be used; nothing in it was changed then.
pub fn open(config: &Config) -> Result<Storage, StorageError> {
    let path = config.data_dir.display().to_string();
    let io = |error: std::io::Error| StorageError::Directory { path: path.clone(), problem: error.to_string() };
    let log = |source: LogError| StorageError::Log { path: path.clone(), source };
    std::fs::create_dir_all(&config.data_dir).map_err(io)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&config.data_dir).map_err(io)?);
    let log_dir = LogDir::new(Arc::clone(&disk));
    let lock = log_dir.lock().map_err(log)?;
    let file = match &config.peers.source {
        DiscoverySource::File(file) => Some(ClusterFile::read(file, config.listeners.raft_port)),
        _ => None,
    };
    // Without the list nobody knows whether the cluster has given this disk up, and whoever goes on all the same lives a life
    // that is over. It is mounted together with the process: better to wait for a file that can be read.
    let retired = match (&config.peers.source, &file) {
        (DiscoverySource::File(_), Some(Ok(file))) => file.retired.clone(),
        (DiscoverySource::File(path), Some(Err(_))) => ClusterFile::read_retired(path).inspect_err(|problem| {
            tracing::error!(%problem, "whether this disk was retired cannot be known: not starting on it");
        })?,
        _ => BTreeSet::new(),
    };
    let begins_anew = retired::move_aside(&log_dir, &retired).map_err(log)?;
    let identity = log_dir.identity().map_err(log)?;
    let configured = |file: Option<&ClusterFile>| {
        config.cluster_id.clone().or_else(|| file.and_then(|file| file.cluster_id.clone()))
    };
    if let Some(found) = identity {
        // A restart depends on nothing else of the mounted file; what is readable must agree.
        if let Some(Err(problem)) = &file {
            tracing::error!(%problem, "the mounted file is not used: this broker goes on with what it knows");
        }
        let readable = file.as_ref().and_then(|file| file.as_ref().ok());
        let expected = configured(readable).unwrap_or_else(|| found.cluster_id.clone());
        let claimed = log_dir.claim(&expected, config.node_id, found.directory_id).map_err(log)?;
        let founders = log_dir.founders().map_err(log)?;
        let clean_shutdown = log_dir.take_clean_shutdown().map_err(log)?;
        // Until all founders have joined, one that starts again still founds.
        let founding = readable.filter(|file| !config.peers.join && !file.join);
        let defaults = founding.map(|file| file.cluster_defaults.clone()).unwrap_or_default();
        return Ok(Storage {
            disk,
            log_dir,
            lock,
            directory: claimed.directory_id,
            cluster_id: Some(claimed.cluster_id),
            restart: true,
            founders,
            defaults,
            clean_shutdown,
        });
    }
    let file = file.transpose()?;
    let voters = match &file {
        Some(file) if !config.peers.join && !file.join => &file.bootstrap_voters,
        Some(_) => &BTreeSet::new(),
        None => &config.peers.bootstrap_voters,
    };
    // A cluster that retired this disk exists.
    let founds = !begins_anew && !config.peers.join && voters.contains(&config.node_id);
    let founders: Vec<NodeId> = if founds { voters.iter().copied().collect() } else { Vec::new() };
    let cluster_id = configured(file.as_ref()).or_else(|| founds.then(|| derived_cluster_id(config, voters)));
    let directory = Uuid(*uuid::Uuid::new_v4().as_bytes());
    if founds {
        // Before the identity: a crash in between leaves a fresh directory, which is decided about again.
        log_dir.write_founders(&founders).map_err(log)?;
    }
    if let Some(cluster_id) = &cluster_id {
        log_dir.claim(cluster_id, config.node_id, directory).map_err(log)?;
    }
    let defaults = file.filter(|_| founds).map(|file| file.cluster_defaults).unwrap_or_default();
    let restart = false;
    Ok(Storage { disk, log_dir, lock, directory, cluster_id, restart, founders, defaults, clean_shutdown: None })
}

/// A cluster id that founders agree on before they talk: made of what all of them are configured with. A broker alone
/// has nobody to agree with and draws one.
fn derived_cluster_id(config: &Config, voters: &BTreeSet<NodeId>) -> ClusterId {
    let peers: Vec<String> = match &config.peers.source {
        DiscoverySource::Alone => return Uuid(*uuid::Uuid::new_v4().as_bytes()).to_string().into(),
        DiscoverySource::Static(list) => list.iter().map(|peer| format!("{}@{}", peer.id, peer.address)).collect(),
        DiscoverySource::Service { name, .. } => vec![name.clone()],
        DiscoverySource::File(path) => vec![path.display().to_string()],
    };
    let half = |salt: u64| {
        // SipHash with fixed keys: the same on every broker of one release, and it only has to agree once.
        let ids: Vec<i32> = voters.iter().map(|id| id.0).collect();
        let mut sorted = peers.clone();
        sorted.sort_unstable();
        BuildHasherDefault::<DefaultHasher>::default().hash_one(Input(salt, ids, sorted))
    };
    Uuid::from_u128(u128::from(half(1)) << 64 | u128::from(half(2))).to_string().into()
}

#[derive(Hash)]
struct Input(u64, Vec<i32>, Vec<String>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn config(dir: &std::path::Path, yaml: &str) -> Config {
        let mut sources = Sources::default();
        sources.add_yaml("t", &format!("data.dir: {}\n{yaml}", dir.display())).unwrap();
        Config::from_sources(sources, "host").unwrap()
    }

    #[test]
    fn founders_derive_the_same_cluster_id_and_find_it_again() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let open_as = |id: usize, peers: &str| {
            open(&config(dirs[id - 1].path(), &format!("node.id: {id}\npeers: {peers}"))).unwrap()
        };
        let (one, two) = (open_as(1, "[1@a:1, 2@b:2]"), open_as(2, "[2@b:2, 1@a:1]"));
        assert!(one.cluster_id.is_some());
        assert_eq!(one.cluster_id, two.cluster_id);
        assert_eq!(one.founders, [NodeId(1), NodeId(2)]);
        let (cluster, directory) = (one.cluster_id.clone(), one.directory);
        drop(one);
        // Voters and peers of a restart come from the disk, whatever the configuration says now.
        let again = open(&config(dirs[0].path(), "node.id: 1\npeers: [1@a:1]")).unwrap();
        assert!(again.restart);
        assert_eq!(
            (again.cluster_id, again.directory, again.founders),
            (cluster, directory, vec![NodeId(1), NodeId(2)])
        );
    }

    #[test]
    fn the_directory_of_another_cluster_or_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&config(dir.path(), "node.id: 1\ncluster.id: one")).unwrap());
        for yaml in ["node.id: 1\ncluster.id: two", "node.id: 2\ncluster.id: one"] {
            let error = open(&config(dir.path(), yaml)).unwrap_err();
            assert!(error.is_identity(), "{error}");
            assert!(error.to_string().contains("one"), "{error}");
        }
        assert!(open(&config(dir.path(), "node.id: 1")).is_ok());
    }

    #[test]
    fn a_list_of_founders_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "node.id: 1\npeers: [1@a:1, 2@b:2, 3@c:3]";
        drop(open(&config(dir.path(), yaml)).unwrap());
        let file = dir.path().join("founders");
        let mut bytes = std::fs::read(&file).unwrap();
        let comma = bytes.iter().rposition(|byte| *byte == b',').unwrap();
        bytes[comma - 1] ^= 0x40;
        std::fs::write(&file, bytes).unwrap();
        let error = open(&config(dir.path(), yaml)).unwrap_err();
        assert!(error.is_identity() && error.to_string().contains("founders"), "{error}");
    }

    #[test]
    fn a_joiner_founds_nothing_and_waits_to_be_told_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "node.id: 4\njoin: true\npeers: [1@a:1]";
        let storage = open(&config(dir.path(), yaml)).unwrap();
        assert_eq!((storage.cluster_id.clone(), storage.founders.len()), (None, 0));
        drop(storage);
        assert!(!open(&config(dir.path(), yaml)).unwrap().restart);
    }

    #[test]
    fn a_retired_directory_is_moved_aside_and_its_broker_begins_as_a_joiner() {
        let dir = tempfile::tempdir().unwrap();
        let book = dir.path().join("cluster.yaml");
        let data = dir.path().join("data");
        let start = |retired: &str| {
            let text =
                format!("clusterId: c\nbootstrapVoters: [1]\npeers: [{{id: 1, host: a}}]\nretired: [{retired}]\n");
            std::fs::write(&book, text).unwrap();
            open(&config(&data, &format!("node.id: 1\ncluster.file: {}", book.display()))).unwrap()
        };
        let first = start("");
        assert_eq!(first.founders, [NodeId(1)]);
        let old = first.directory;
        drop(first);
        assert!(start(&Uuid([9; 16]).to_string()).restart, "it is another's");
        let anew = start(&old.to_string());
        assert!(!anew.restart && anew.founders.is_empty(), "whoever was retired founds nothing");
        assert_eq!(anew.cluster_id, Some(ClusterId::from("c")));
        assert_ne!(anew.directory, old);
        assert!(data.join(format!("retired-{old}/meta.properties")).exists());
        assert!(!data.join("founders").exists());
        let new = anew.directory;
        drop(anew);
        let again = start(&old.to_string());
        assert!(again.restart && again.founders.is_empty());
        assert_eq!(again.directory, new);
    }

    #[test]
    fn a_restart_waits_for_the_list_of_retired_disks_and_for_nothing_else_of_the_mounted_file() {
        let dir = tempfile::tempdir().unwrap();
        let book = dir.path().join("cluster.yaml");
        let data = dir.path().join("data");
        let whole = "clusterId: c\nbootstrapVoters: [1]\npeers: [{id: 1, host: a}]\n";
        let open_with = |text: Option<&str>| {
            match text {
                Some(text) => std::fs::write(&book, text).unwrap(),
                None => std::fs::remove_file(&book).unwrap(),
            }
            open(&config(&data, &format!("node.id: 1\ncluster.file: {}", book.display())))
        };
        let old = open_with(Some(whole)).unwrap().directory;
        for unreadable in [Some("retired: [not an id]\n"), Some("peers: ["), Some("retired: 7\n"), None] {
            let error = open_with(unreadable).unwrap_err();
            assert!(matches!(error, StorageError::ClusterFile(_)) && !error.is_identity(), "{unreadable:?}: {error}");
            assert!(error.to_string().contains("cluster.yaml"), "{error}");
        }
        // What else is wrong in it keeps nobody down, and hides no retirement.
        let strange = "clusterId: c\npeers: [{id: 0, host: a}]\n";
        assert!(open_with(Some(strange)).unwrap().restart);
        let anew = open_with(Some(&format!("{strange}retired: [{old}]\n")));
        assert!(matches!(anew, Err(StorageError::ClusterFile(_))), "who begins anew needs the whole file: {anew:?}");
        assert!(data.join(format!("retired-{old}/meta.properties")).exists());
    }

    #[test]
    fn two_processes_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "node.id: 1");
        let _first = open(&config).unwrap();
        let error = open(&config).unwrap_err();
        assert!(!error.is_identity() && error.to_string().contains("locked"), "{error}");
    }
}
