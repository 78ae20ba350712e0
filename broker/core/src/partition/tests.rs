//! Stories of the replica state machine: one per rule, one per bug that other brokers had, and a seeded random run of
//! three replicas, under a scripted controller and under the real one.

mod follower;
mod isr;
mod leader;
mod real_controller;
mod report;
mod sim;

use chronik_model::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionEpoch};

use super::*;
use crate::LeaderRecovery;

const LAG: u64 = DEFAULT_REPLICA_LAG_TIME_MAX_MS;

fn state(leader: i32, leader_epoch: i32, partition_epoch: i32, isr: &[i32]) -> PartitionState {
    PartitionState {
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        isr: isr.iter().copied().map(NodeId).collect(),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        reports: Vec::new(),
        leader: (leader > 0).then_some(NodeId(leader)),
        leader_epoch: LeaderEpoch(leader_epoch),
        partition_epoch: PartitionEpoch(partition_epoch),
        recovery: LeaderRecovery::Recovered,
        adding: Vec::new(),
        removing: Vec::new(),
    }
}

/// Broker n is registered with epoch 100 + n, unfenced.
fn all_up(node: NodeId) -> Option<BrokerStatus> {
    Some(BrokerStatus { epoch: BrokerEpoch(100 + i64::from(node.0)), fenced: false, shutting_down: false })
}

fn facts(log_end: i64, high_watermark: i64, latest_epoch: Option<i32>) -> LogFacts {
    LogFacts {
        log_end: Offset(log_end),
        log_start: Offset(0),
        high_watermark: Offset(high_watermark),
        latest_epoch: latest_epoch.map(LeaderEpoch),
    }
}

fn replica(me: i32, min_isr: usize, log: LogFacts) -> PartitionReplica {
    let config = ReplicaConfig { min_insync_replicas: Some(min_isr), ..ReplicaConfig::default() };
    PartitionReplica::new(NodeId(me), BrokerEpoch(100 + i64::from(me)), config, log)
}

/// Node 1 leads epoch 5, version 50, at time 0.
fn leader(min_isr: usize, log: LogFacts, isr: &[i32]) -> PartitionReplica {
    let mut leader = replica(1, min_isr, log);
    let effects = leader.apply_metadata(&state(1, 5, 50, isr), all_up, 0);
    assert_eq!(effects[0], Effect::BecomeLeader { epoch: LeaderEpoch(5), epoch_start: log.log_end });
    leader
}

/// Node 2 follows node 1 in epoch 5.
fn follower(log: LogFacts) -> PartitionReplica {
    let mut follower = replica(2, 1, log);
    let effects = follower.apply_metadata(&state(1, 5, 50, &[1, 2, 3]), all_up, 0);
    assert!(matches!(effects[..], [Effect::BecomeFollower { .. }]), "{effects:?}");
    follower
}

fn fetch_of(node: i32, offset: i64) -> FollowerFetch {
    FollowerFetch {
        replica: NodeId(node),
        replica_epoch: BrokerEpoch(100 + i64::from(node)),
        current_leader_epoch: LeaderEpoch(5),
        fetch_offset: Offset(offset),
        last_fetched_epoch: LeaderEpoch::NONE,
        log_start: Offset(0),
    }
}

/// An epoch cache as (epoch, start) with the log end: the lookup that both sides use.
fn cache(entries: &[(i32, i64)], log_end: i64) -> impl Fn(LeaderEpoch) -> Option<EpochEnd> {
    let entries = entries.to_vec();
    move |asked| {
        let after = entries.partition_point(|(epoch, _)| *epoch <= asked.0);
        let (epoch, _) = *entries.get(after.checked_sub(1)?)?;
        let end = entries.get(after).map_or(log_end, |(_, start)| *start);
        Some(EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end) })
    }
}

fn no_epochs(_: LeaderEpoch) -> Option<EpochEnd> {
    None
}

/// A fetch that must be served; gives its effects.
fn served(leader: &mut PartitionReplica, fetch: &FollowerFetch, now_ms: u64) -> Vec<Effect> {
    match leader.on_follower_fetch(fetch, no_epochs, now_ms) {
        FetchDecision::Read { effects, .. } => effects,
        refused => panic!("{fetch:?} is answered {refused:?}"),
    }
}

fn proposal(effects: &[Effect]) -> Option<&IsrProposal> {
    effects.iter().find_map(|effect| match effect {
        Effect::ProposeAlterPartition(proposal) => Some(proposal),
        _ => None,
    })
}

fn nodes(proposal: &IsrProposal) -> Vec<i32> {
    proposal.isr.iter().map(|member| member.node.0).collect()
}
