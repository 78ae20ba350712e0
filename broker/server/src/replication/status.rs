//! What the status page and the metrics show of the data plane.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::{Groups, ReplicaManager};

/// One hosted partition.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    pub topic_id: String,
    /// "leader", "follower" or "none".
    pub role: &'static str,
    pub leader: i32,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    pub isr: Vec<i32>,
    pub replicas: Vec<i32>,
    pub high_watermark: i64,
    pub log_end: i64,
    pub log_start: i64,
    pub size_bytes: u64,
    /// A disk error ended its service.
    pub offline: bool,
    /// Whether a change of the in-sync set is on its way.
    pub isr_change_pending: bool,
    /// Produces and fetches that wait.
    pub waiting: usize,
}

/// One fetcher.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct FetcherStatus {
    pub leader: i32,
    pub partitions: usize,
    pub state: String,
    pub fetches: u64,
    pub bytes: u64,
}

/// One led partition of the groups' topic.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct GroupShardStatus {
    pub partition: i32,
    pub leader_epoch: i32,
    pub loading: bool,
    pub failed: Option<String>,
    pub groups: usize,
}

/// Everything of [`ReplicaManager`] and [`Groups`] at one moment.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ReplicationSnapshot {
    pub partitions: Vec<PartitionStatus>,
    pub fetchers: Vec<FetcherStatus>,
    pub groups: Vec<GroupShardStatus>,
    pub bytes_in: u64,
    pub records_in: u64,
    pub bytes_out: u64,
    pub replicated_in: u64,
    pub replicated_out: u64,
    /// Why the log directory is offline.
    pub offline: Option<String>,
}

impl ReplicaManager {
    /// The state now; `groups` if they run.
    #[must_use]
    pub fn snapshot(&self, groups: Option<&Arc<Groups>>) -> ReplicationSnapshot {
        let mut partitions: Vec<_> = self.partitions().iter().map(|partition| partition.status()).collect();
        partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        ReplicationSnapshot {
            partitions,
            fetchers: self.fetchers.status(),
            groups: groups.map(|groups| groups.status()).unwrap_or_default(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            records_in: self.records_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            replicated_in: self.replicated_in.load(Ordering::Relaxed),
            replicated_out: self.replicated_out.load(Ordering::Relaxed),
            offline: self.offline_reason(),
        }
    }
}

impl super::Partition {
    /// The state now.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        let hosted = self.lock();
        let replica = hosted.replica();
        let (produces, fetches) = hosted.waiting();
        let committed = replica.committed();
        let ids = |nodes: &[chronik_model::NodeId]| nodes.iter().map(|node| node.0).collect();
        PartitionStatus {
            topic: self.tp.topic.to_string(),
            partition: self.tp.partition.0,
            topic_id: self.topic_id.to_string(),
            role: if replica.is_leader() {
                "leader"
            } else if replica.is_follower() {
                "follower"
            } else {
                "none"
            },
            leader: replica.leader().map_or(-1, |leader| leader.0),
            leader_epoch: replica.leader_epoch().0,
            partition_epoch: replica.partition_epoch().map_or(-1, |epoch| epoch.0),
            isr: committed.map(|state| ids(&state.isr)).unwrap_or_default(),
            replicas: committed.map(|state| ids(&state.replicas)).unwrap_or_default(),
            high_watermark: replica.high_watermark().0,
            log_end: replica.log_end().0,
            log_start: replica.log_start().0,
            size_bytes: hosted.log().size(),
            offline: replica.is_io_fenced(),
            isr_change_pending: replica.has_pending_proposal(),
            waiting: produces + fetches,
        }
    }
}
