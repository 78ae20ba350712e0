//! What this broker knows about itself and the cluster, in numbers.
//!
//! All of it is the applied metadata and facts of this moment, but for how far the members of the quorum are: that only
//! its leader knows, and it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use chronik_consensus::Config as RaftDefaults;
use chronik_core::PartitionState;
use chronik_core::controller::{Broker, MetadataState};
use chronik_model::NodeId;

use super::{ControlApi, proto};
use crate::admin::status::Status as StatusPage;

/// Longest wait for the leader's account of the members; less than who asks waits, or a leader that hangs would silence everybody.
const ASK_LEADER: Duration = Duration::from_secs(1);

impl ControlApi {
    pub(super) async fn describe_all(&self) -> proto::DescribeReply {
        let myself = self.describe_self();
        let shared = self.shared();
        let mut cluster = {
            let state = shared.state.read();
            describe_cluster(&state)
        };
        let leadership = *shared.leadership.borrow();
        cluster.leader_id = leadership.leader.map_or(0, |leader| leader.0);
        cluster.term = leadership.term;
        if let Some(status) = shared.status.load().as_ref() {
            cluster.voters = status.voters.iter().map(|node| node.0).collect();
            cluster.learners = status.learners.iter().map(|node| node.0).collect();
        }
        cluster.progress = self.progress(leadership.leader).await;
        proto::DescribeReply { self_: Some(myself), cluster: Some(cluster) }
    }

    fn describe_self(&self) -> proto::Self_ {
        let shared = self.shared();
        let ready = self.myself.readiness();
        let (free, total) = self.myself.space();
        proto::Self_ {
            node_id: shared.node.0,
            cluster_id: shared.cluster_id.read().as_ref().map(ToString::to_string).unwrap_or_default(),
            incarnation: shared.incarnation.to_string(),
            directory_id: self.directory.get().map(ToString::to_string).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: ready.is_ok(),
            not_ready_because: ready.err().unwrap_or_default(),
            disk_used_bytes: total.saturating_sub(free),
            disk_total_bytes: total,
            log_dir_offline: self.myself.log_dir_offline(),
            uptime_ms: u64::try_from(self.myself.uptime().as_millis()).unwrap_or(u64::MAX),
            data_bytes: self.myself.sizes().into_iter().map(|(_, _, bytes)| bytes).sum(),
        }
    }

    /// How far the members are, from the leader; nothing when it cannot be asked or leads no more.
    async fn progress(&self, leader: Option<NodeId>) -> Vec<proto::MemberProgress> {
        let shared = self.shared();
        let member = |node: NodeId, matched: u64, active: bool, last: u64| proto::MemberProgress {
            node_id: node.0,
            matched_index: matched,
            recently_active: active,
            caught_up: caught_up(matched, active, last),
        };
        match leader {
            None => Vec::new(),
            Some(leader) if leader == shared.node => {
                let status = shared.status.load();
                let Some(status) = status.as_ref() else { return Vec::new() };
                let last = status.last_index.0;
                status.peers.iter().map(|peer| member(peer.node, peer.matched.0, peer.recent_active, last)).collect()
            }
            Some(leader) => {
                let reply = match self.meta.control().status(leader, ASK_LEADER).await {
                    Ok(reply) => reply,
                    Err(error) => {
                        tracing::debug!(%leader, %error, "the leader does not say how far the members are");
                        return Vec::new();
                    }
                };
                let Ok(page) = StatusPage::parse(&reply.json) else { return Vec::new() };
                let (raft, last) = (&page.raft, page.raft.last_index);
                let peers = raft.progress.iter().filter(|_| raft.role == "leader");
                peers.map(|peer| member(NodeId(peer.node), peer.matched, peer.recent_active, last)).collect()
            }
        }
    }
}

/// As the quorum judges whom it promotes.
fn caught_up(matched: u64, active: bool, last: u64) -> bool {
    let most_lag = RaftDefaults::new(NodeId(1)).promote_max_lag;
    matched > 0 && active && last.saturating_sub(matched) <= most_lag
}

/// Numbers of one broker.
#[derive(Default)]
struct Load {
    replicas: i32,
    leaders: i32,
    out_of_sync: i32,
    blockers: i32,
    example: String,
}

fn describe_cluster(state: &MetadataState) -> proto::Cluster {
    let mut cluster = proto::Cluster {
        applied_index: state.applied().0,
        cluster_defaults: state.cluster_defaults().iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        ..proto::Cluster::default()
    };
    let mut loads: BTreeMap<NodeId, Load> = BTreeMap::new();
    for topic in state.topics() {
        let configured = state.configured_min_isr(topic);
        let mut factor = 0;
        for (index, partition) in topic.iter() {
            let least = partition.min_isr(configured);
            cluster.partitions += 1;
            cluster.offline_partitions += i32::from(partition.leader.is_none());
            cluster.under_replicated_partitions += i32::from(is_under_replicated(partition));
            cluster.under_min_isr_partitions += i32::from(partition.isr.len() < least);
            cluster.reassigning_partitions += i32::from(partition.is_reassigning());
            factor = factor.max(partition.target_replicas().len());
            for node in &partition.replicas {
                let load = loads.entry(*node).or_default();
                load.replicas += 1;
                load.leaders += i32::from(partition.leader == Some(*node));
                load.out_of_sync += i32::from(!partition.isr.contains(node));
                if blocks_restart(partition, *node, least) {
                    load.blockers += 1;
                    if load.example.is_empty() {
                        let isr: Vec<String> = partition.isr.iter().map(NodeId::to_string).collect();
                        let isr = isr.join(", ");
                        load.example = format!("{}-{index}: in sync are {isr}; {least} must be", topic.name);
                    }
                }
            }
        }
        let factor = i32::try_from(factor).unwrap_or(i32::MAX);
        if topic.is_internal() {
            cluster.max_internal_replication_factor = cluster.max_internal_replication_factor.max(factor);
        } else if factor > cluster.max_replication_factor {
            cluster.max_replication_factor = factor;
            cluster.max_replication_factor_topic = topic.name.to_string();
        }
    }
    cluster.brokers = state.brokers().map(|broker| describe_broker(broker, loads.remove(&broker.node))).collect();
    cluster.live_brokers = cluster.brokers.iter().map(|broker| i32::from(!broker.fenced)).sum();
    cluster
}

/// Replicas that are only being added do not count: nothing is missing while they are copied.
fn is_under_replicated(partition: &PartitionState) -> bool {
    partition.original_replicas().iter().any(|node| !partition.isr.contains(node))
}

/// Whether the partition would fall below its minimum, or have no leader, if `node` stopped. One that is whole and yet not
/// replicated more than its minimum asks for can never spare anybody, and does not count.
fn blocks_restart(partition: &PartitionState, node: NodeId, least: usize) -> bool {
    let in_sync = partition.isr.len();
    partition.isr.contains(&node) && in_sync <= least && in_sync < partition.replication_factor()
}

fn describe_broker(broker: &Broker, load: Option<Load>) -> proto::Broker {
    let load = load.unwrap_or_default();
    let control = &broker.endpoints.control;
    proto::Broker {
        node_id: broker.node.0,
        epoch: broker.epoch.0,
        fenced: broker.fenced,
        cordoned: broker.cordoned,
        rack: broker.rack.clone().unwrap_or_default(),
        version: broker.software_version.clone(),
        incarnation: broker.incarnation.to_string(),
        directory_id: broker.directories.first().map(ToString::to_string).unwrap_or_default(),
        replicas: load.replicas,
        leaders: load.leaders,
        out_of_sync: load.out_of_sync,
        restart_blockers: load.blockers,
        restart_blocker_example: load.example,
        in_controlled_shutdown: broker.shutting_down.is_some(),
        control_address: format!("{}:{}", control.host, control.port),
    }
}

#[cfg(test)]
mod tests {
    use chronik_core::LeaderRecovery;
    use chronik_model::{LeaderEpoch, PartitionEpoch};

    use super::*;

    fn partition(replicas: &[i32], isr: &[i32], adding: &[i32]) -> PartitionState {
        let ids = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        PartitionState {
            replicas: ids(replicas),
            isr: ids(isr),
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            reports: Vec::new(),
            leader: ids(isr).first().copied(),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            recovery: LeaderRecovery::Recovered,
            adding: ids(adding),
            removing: Vec::new(),
        }
    }

    #[test]
    fn a_broker_may_not_stop_when_what_is_left_would_not_take_writes() {
        let blocks = |replicas: &[i32], isr: &[i32], node: i32, least: usize| {
            blocks_restart(&partition(replicas, isr, &[]), NodeId(node), least)
        };
        assert!(!blocks(&[1, 2, 3], &[1, 2, 3], 1, 2), "all are in sync");
        assert!(blocks(&[1, 2, 3], &[1, 2], 1, 2), "one would be left of two");
        assert!(!blocks(&[1, 2, 3], &[1, 2], 3, 2), "it is not in sync anyway");
        assert!(!blocks(&[1, 2], &[1, 2], 1, 2), "such a topic would block for ever");
        assert!(blocks(&[1, 2], &[1], 1, 2), "the other one is still catching up");
        assert!(!blocks(&[1], &[1], 1, 1), "such a topic would block for ever");
        assert!(blocks(&[1, 2, 3], &[1], 1, 1), "nobody else could lead");
    }

    #[test]
    fn a_partition_is_not_under_replicated_by_replicas_that_are_only_being_added() {
        assert!(!is_under_replicated(&partition(&[1, 2, 4, 3], &[1, 2, 3], &[4])));
        assert!(is_under_replicated(&partition(&[1, 2, 4, 3], &[1, 2], &[4])));
    }

    #[test]
    fn a_member_is_caught_up_as_the_quorum_judges_it() {
        assert!(caught_up(100, true, 100));
        assert!(!caught_up(0, true, 3), "one that has nothing lags whatever the numbers say");
        assert!(!caught_up(100, false, 100));
        assert!(!caught_up(100, true, 100_000));
    }
}
