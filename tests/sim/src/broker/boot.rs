//! From an empty or known disk to a running process, in production's order: lock, identity (or what a fresh directory
//! becomes, decided once and written down), the marker of a clean end taken away, the replica of the metadata recovered.
//! Everything else waits for others and happens in `life`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use chronik_consensus::{OpenError, Replica, Start};
use chronik_core::controller::{Liveness, MetadataState};
use chronik_log::disk::{Disk, DiskLock, MemDisk};
use chronik_log::{LogDir, LogError};
use chronik_model::{BrokerEpoch, ClusterId, DirectoryId, NodeId};
use chronik_node::Now;
use chronik_node::quorum::{Leadership, Parts, Quorum, restore};
use parking_lot::RwLock;

use super::host::SimHost;
use super::life::Life;
use super::{Broker, BrokerConfig, meta, replicas, serve};
use crate::kernel::Ctx;

const FOUNDERS_FILE: &str = "founders";

/// Why a process did not come up.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BootError {
    /// The storage is somebody else's or damaged where no crash damages it: trying again does not help.
    #[error("storage refused: {0}")]
    Refused(String),
    /// Worth another try.
    #[error("{0}")]
    Temporary(String),
}

impl BootError {
    fn of_log(error: &LogError) -> Self {
        match error {
            LogError::WrongIdentity { .. } | LogError::Corrupt { .. } => Self::Refused(error.to_string()),
            _ => Self::Temporary(error.to_string()),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    fn of_disk(error: io::Error) -> Self {
        Self::Temporary(error.to_string())
    }

    fn of_replica(error: &OpenError) -> Self {
        match error {
            OpenError::WrongNode { .. } | OpenError::Corrupted { .. } => Self::Refused(error.to_string()),
            _ => Self::Temporary(error.to_string()),
        }
    }
}

struct Storage {
    log_dir: Arc<LogDir>,
    lock: DiskLock,
    directory: DirectoryId,
    cluster_id: Option<ClusterId>,
    claimed: bool,
    founders: Vec<NodeId>,
    clean_shutdown: Option<BrokerEpoch>,
}

fn open_storage(ctx: &mut Ctx<'_>, config: &BrokerConfig, disk: &MemDisk) -> Result<Storage, BootError> {
    let log_dir = LogDir::new(Arc::new(disk.clone()));
    let failed = |error: LogError| BootError::of_log(&error);
    let lock = log_dir.lock().map_err(failed)?;
    let identity = log_dir.identity().map_err(failed)?;
    if let Some(found) = identity {
        let expected = config.cluster_id.clone().unwrap_or_else(|| found.cluster_id.clone());
        let claimed = log_dir.claim(&expected, config.node, found.directory_id).map_err(failed)?;
        let founders = read_founders(disk).map_err(BootError::of_disk)?;
        let clean_shutdown = log_dir.take_clean_shutdown().map_err(failed)?;
        return Ok(Storage {
            log_dir,
            lock,
            directory: claimed.directory_id,
            cluster_id: Some(claimed.cluster_id),
            claimed: true,
            founders,
            clean_shutdown,
        });
    }
    let founders = if config.founds() { config.voters.clone() } else { Vec::new() };
    let directory = ctx.uuid();
    if !founders.is_empty() {
        // Before the identity: a crash in between leaves a fresh directory, which is decided about again.
        let text: Vec<String> = founders.iter().map(NodeId::to_string).collect();
        disk.write_atomic(FOUNDERS_FILE, text.join(",").as_bytes()).map_err(BootError::of_disk)?;
    }
    if let Some(cluster_id) = &config.cluster_id {
        log_dir.claim(cluster_id, config.node, directory).map_err(failed)?;
    }
    let (cluster_id, claimed) = (config.cluster_id.clone(), config.cluster_id.is_some());
    Ok(Storage { log_dir, lock, directory, cluster_id, claimed, founders, clean_shutdown: None })
}

fn read_founders(disk: &MemDisk) -> io::Result<Vec<NodeId>> {
    match disk.read(FOUNDERS_FILE) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.split(',').filter_map(|id| id.trim().parse().ok()).map(NodeId).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Broker {
    /// A process starts on `disk`.
    ///
    /// # Errors
    /// Why it does not.
    pub fn boot(ctx: &mut Ctx<'_>, config: &BrokerConfig, disk: &MemDisk) -> Result<Self, BootError> {
        let storage = open_storage(ctx, config, disk)?;
        let incarnation = ctx.uuid();
        let now = Now { mono_ms: ctx.mono_ms(), wall_ms: ctx.wall_ms() };
        let bits = incarnation.as_u128();
        // Both are random; taking different halves keeps them apart.
        let (seed, high) = (bits as u64, (bits >> 64) as u64);
        let start = match &storage.founders {
            voters if voters.is_empty() => Start::Join,
            voters => Start::Bootstrap { voters: voters.clone() },
        };
        let opened = Replica::open(config.replica(seed, high), disk.clone(), "raft", &start, now.mono_ms);
        let (replica, recovered) = opened.map_err(|error| BootError::of_replica(&error))?;
        let state = Arc::new(RwLock::new(MetadataState::new()));
        let applied = restore(&recovered, &state).map_err(BootError::Refused)?;
        ctx.note(|| {
            let clean = storage.clean_shutdown.map_or_else(|| "no".to_owned(), |epoch| format!("epoch {epoch}"));
            let voters = super::ids(&recovered.membership.voters);
            let last = replica.status().last_index;
            format!("boots: term {} voters {voters} image {applied} log end {last} clean stop {clean}", recovered.term)
        });
        let parts = Parts {
            replica,
            state: Arc::clone(&state),
            applied,
            incarnation,
            liveness: Liveness::new(config.liveness),
        };
        let mut host = SimHost::default();
        let quorum = Quorum::new(parts, &mut host, now);
        let config = Arc::new(config.clone());
        let clean = storage.clean_shutdown.is_some();
        let mut broker = Self {
            node: config.node,
            incarnation,
            directory: storage.directory,
            cluster_id: storage.cluster_id,
            _lock: storage.lock,
            now,
            alarms: super::Alarms::default(),
            quorum,
            host,
            state,
            leadership: Leadership { leader: None, term: 0, role: chronik_consensus::Role::Follower },
            touched: true,
            quorum_wake: now.mono_ms,
            circles: false,
            failure: None,
            epoch: BrokerEpoch::NONE,
            life: Life::new(storage.founders.is_empty(), storage.claimed, storage.clean_shutdown),
            meta: meta::Meta::default(),
            asked: BTreeMap::new(),
            // Answers to questions of an earlier run must not be taken for answers to ours.
            next_request: ctx.run << 40,
            images: meta::Images::default(),
            replicas: replicas::Replicas::new(storage.log_dir, clean, config.every_ack),
            fetchers: BTreeMap::new(),
            serving: serve::Serving::default(),
            shards: BTreeMap::new(),
            config,
        };
        broker.begin_life(ctx);
        broker.pump(ctx);
        Ok(broker)
    }
}
