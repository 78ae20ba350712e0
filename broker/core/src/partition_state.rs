//! The committed state of one partition, as the metadata log holds it and as replicas act on it.

use chronik_model::{LeaderEpoch, NodeId, PartitionEpoch};

/// Whether the leader was elected from the in-sync set or has to be taken as it is (KIP-704).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LeaderRecovery {
    /// The log of the leader holds every acknowledged record.
    #[default]
    Recovered,
    /// The leader was elected uncleanly; it must be the only in-sync replica until it says otherwise.
    Recovering,
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
    /// The last leader known when both sets above became empty (KIP-966).
    pub last_known_leader: Option<NodeId>,
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
