//! From the brokers' messages to what a pass knows, and back. An empty oneof is an error, never a success.

use crate::observed::{BrokerFacts, ClusterFacts, MemberFacts, NodeId, RegisteredFacts, SelfFacts};
use crate::ports::{BrokerError, LeadersMoved, QuorumChange, RebalanceFacts};

/// The generated client.
#[allow(missing_debug_implementations, clippy::all, clippy::pedantic, unused_qualifications)]
pub(super) mod pb {
    tonic::include_proto!("chronik.control.v1");
}

/// None = a part is missing.
pub(super) fn facts(reply: pb::DescribeReply) -> Option<BrokerFacts> {
    Some(BrokerFacts { myself: myself(reply.self_?), cluster: cluster(reply.cluster?) })
}

fn myself(said: pb::Self_) -> SelfFacts {
    SelfFacts {
        node: said.node_id,
        cluster_id: said.cluster_id,
        incarnation: said.incarnation,
        directory_id: said.directory_id,
        version: said.version,
        ready: said.ready,
        not_ready_because: said.not_ready_because,
        disk_used_bytes: said.disk_used_bytes,
        disk_total_bytes: said.disk_total_bytes,
        data_bytes: said.data_bytes,
        log_dir_offline: said.log_dir_offline,
        uptime_ms: said.uptime_ms,
    }
}

fn cluster(said: pb::Cluster) -> ClusterFacts {
    ClusterFacts {
        leader: (said.leader_id > 0).then_some(NodeId(said.leader_id)),
        term: said.term,
        applied_index: said.applied_index,
        voters: said.voters.into_iter().map(NodeId).collect(),
        learners: said.learners.into_iter().map(NodeId).collect(),
        progress: said.progress.iter().map(member).collect(),
        brokers: said.brokers.into_iter().map(registered).collect(),
        partitions: said.partitions,
        offline_partitions: said.offline_partitions,
        under_replicated_partitions: said.under_replicated_partitions,
        under_min_isr_partitions: said.under_min_isr_partitions,
        reassigning_partitions: said.reassigning_partitions,
        max_replication_factor: said.max_replication_factor,
        max_replication_factor_topic: said.max_replication_factor_topic,
        max_internal_replication_factor: said.max_internal_replication_factor,
        live_brokers: said.live_brokers,
        defaults: said.cluster_defaults.into_iter().collect(),
    }
}

fn member(said: &pb::MemberProgress) -> (NodeId, MemberFacts) {
    let facts = MemberFacts {
        matched_index: said.matched_index,
        recently_active: said.recently_active,
        caught_up: said.caught_up,
    };
    (NodeId(said.node_id), facts)
}

fn registered(said: pb::Broker) -> (NodeId, RegisteredFacts) {
    let facts = RegisteredFacts {
        epoch: said.epoch,
        fenced: said.fenced,
        cordoned: said.cordoned,
        rack: said.rack,
        version: said.version,
        incarnation: said.incarnation,
        directory_id: said.directory_id,
        replicas: said.replicas,
        leaders: said.leaders,
        out_of_sync: said.out_of_sync,
        restart_blockers: said.restart_blockers,
        restart_blocker_example: said.restart_blocker_example,
        in_controlled_shutdown: said.in_controlled_shutdown,
    };
    (NodeId(said.node_id), facts)
}

pub(super) fn outcome(said: pb::Outcome) -> Result<(), BrokerError> {
    match said.outcome {
        Some(pb::outcome::Outcome::Done(_)) => Ok(()),
        Some(pb::outcome::Outcome::Refused(why)) => Err(BrokerError::Refused(why)),
        Some(pb::outcome::Outcome::Retry(why)) => Err(BrokerError::Retry(why)),
        None => Err(empty()),
    }
}

pub(super) fn rebalanced(said: pb::RebalanceReply) -> Result<RebalanceFacts, BrokerError> {
    match said.outcome {
        Some(pb::rebalance_reply::Outcome::Progress(progress)) => Ok(RebalanceFacts {
            in_flight: progress.in_flight,
            remaining: progress.remaining,
            bytes_remaining: progress.bytes_remaining,
            leaders_moved: progress.leaders_moved,
            blocked: progress.blocked,
            moves: progress.moves,
        }),
        Some(pb::rebalance_reply::Outcome::Refused(why)) => Err(BrokerError::Refused(why)),
        Some(pb::rebalance_reply::Outcome::Retry(why)) => Err(BrokerError::Retry(why)),
        None => Err(empty()),
    }
}

pub(super) fn leaders_moved(said: pb::MoveLeadersReply) -> Result<LeadersMoved, BrokerError> {
    match said.outcome {
        Some(pb::move_leaders_reply::Outcome::Left(left)) => Ok(LeadersMoved { moved: left.moved, left: left.left }),
        Some(pb::move_leaders_reply::Outcome::Refused(why)) => Err(BrokerError::Refused(why)),
        Some(pb::move_leaders_reply::Outcome::Retry(why)) => Err(BrokerError::Retry(why)),
        None => Err(empty()),
    }
}

pub(super) fn quorum_change(change: QuorumChange) -> pb::ChangeQuorumRequest {
    use pb::change_quorum_request::Kind;
    let (kind, node) = match change {
        QuorumChange::Promote(node) => (Kind::Promote, node.0),
        QuorumChange::Remove(node) => (Kind::Remove, node.0),
        QuorumChange::Demote(node) => (Kind::Demote, node.0),
        QuorumChange::TransferLeader(node) => (Kind::TransferLeader, node.map_or(0, |node| node.0)),
    };
    pb::ChangeQuorumRequest { kind: kind.into(), node_id: node }
}

/// It is not known what the broker did.
fn empty() -> BrokerError {
    BrokerError::Unreachable("its answer says nothing".to_owned())
}
