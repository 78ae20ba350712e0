//! The committed state of one partition, as the metadata log holds it and as replicas act on it.

use chronik_model::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionEpoch};

/// Whether the leader was elected from the in-sync set or has to be taken as it is (KIP-704).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LeaderRecovery {
    /// The log of the leader holds every acknowledged record.
    #[default]
    Recovered,
    /// The leader was elected uncleanly; it must be the only in-sync replica until it says otherwise.
    Recovering,
}

/// Where the log of a replica ended, as it told the controller while the partition had no leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogReport {
    /// The replica.
    pub node: NodeId,
    /// The registration under which it told so; another one may have another log.
    pub broker_epoch: BrokerEpoch,
    /// Epoch of its last record; [`LeaderEpoch::NONE`] without any.
    pub last_epoch: LeaderEpoch,
    /// Offset after its last record.
    pub log_end: Offset,
}

/// Committed state of one partition. A change of `leader_epoch` always changes `partition_epoch`; not the reverse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionState {
    /// Brokers that hold the partition, in preferred order.
    pub replicas: Vec<NodeId>,
    /// In-sync replicas; a subset of `replicas`.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas: out of sync, but holding every acknowledged record (KIP-966).
    pub elr: Vec<NodeId>,
    /// Those who left both sets above only because they restarted uncleanly, since the high watermark could last move
    /// (KIP-966). Each of them holds every acknowledged record unless its own disk lost some.
    pub last_known_elr: Vec<NodeId>,
    /// What members of `last_known_elr` told of their logs; only while there is no leader.
    pub reports: Vec<LogReport>,
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// Number of the leadership.
    pub leader_epoch: LeaderEpoch,
    /// Version of this state.
    pub partition_epoch: PartitionEpoch,
    /// How the leader came to lead.
    pub recovery: LeaderRecovery,
    /// Replicas being added by a reassignment.
    pub adding: Vec<NodeId>,
    /// Replicas being removed by a reassignment.
    pub removing: Vec<NodeId>,
}

impl PartitionState {
    /// Whether the longest log among several replicas decides who leads: nobody leads, and nobody is left whose log is
    /// trusted.
    #[must_use]
    pub fn awaits_reports(&self) -> bool {
        self.leader.is_none() && self.isr.is_empty() && self.elr.is_empty() && self.last_known_elr.len() > 1
    }

    /// What `node` told of its log in this time without a leader.
    #[must_use]
    pub fn report_of(&self, node: NodeId) -> Option<&LogReport> {
        self.reports.iter().find(|report| report.node == node)
    }
}

impl PartitionState {
    /// Whether a reassignment is under way.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that there were before the reassignment under way began; without one, the replicas.
    #[must_use]
    pub fn original_replicas(&self) -> Vec<NodeId> {
        self.replicas.iter().copied().filter(|node| !self.adding.contains(node)).collect()
    }

    /// The replicas that there will be when the reassignment under way is complete; without one, the replicas.
    #[must_use]
    pub fn target_replicas(&self) -> Vec<NodeId> {
        self.replicas.iter().copied().filter(|node| !self.removing.contains(node)).collect()
    }

    /// How many replicas it has, as its rules see it: until a reassignment is complete, those from before.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.replicas.iter().filter(|node| !self.adding.contains(node)).count()
    }

    /// min.insync.replicas in force, `configured` or by default. While replicas are being added nothing more is asked
    /// of those that are there already: the partition would be closed to writers until the copies are complete.
    #[must_use]
    pub fn min_isr(&self, configured: Option<usize>) -> usize {
        effective_min_isr(configured, self.replication_factor())
    }
}

/// min.insync.replicas in force for so many replicas: the configured one, by default all but one; never more than the
/// replicas.
#[must_use]
pub fn effective_min_isr(configured: Option<usize>, replicas: usize) -> usize {
    configured.unwrap_or_else(|| replicas.saturating_sub(1)).min(replicas).max(1)
}
