//! R2: the compare-and-swap of the in-sync set.

use chronik_model::{LeaderEpoch, PartitionEpoch};

use super::*;

fn three() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster
}

#[test]
fn a_shrink_and_an_expand_change_the_version_only() {
    let mut cluster = three();
    cluster.set_isr(&[1, 3]);
    assert_eq!((cluster.p().leader_epoch.0, cluster.p().partition_epoch.0), (0, 1));
    cluster.set_isr(&[1, 3, 2]);
    assert_eq!((cluster.p().leader_epoch.0, cluster.p().partition_epoch.0), (0, 2));
    assert!(matches!(&cluster.changes[..], [Change::Partition { previous: Some(_), .. }]));
}

#[test]
fn the_checks_come_in_kafkas_order() {
    let mut cluster = three();
    cluster.set_isr(&[1, 2]);
    cluster.fence(3);
    let good = cluster.isr_change(&[1]);
    let with = |change: fn(&mut AlterPartition)| {
        let mut command = good.clone();
        change(&mut command);
        command
    };
    // Each case carries the faults of all the cases after it, so that the order shows.
    let member = |node| IsrMember { node: NodeId(node), broker_epoch: BrokerEpoch::NONE };
    let mut faults: AlterPartition = good.clone();
    faults.new_isr = vec![member(1), member(3)];
    cluster.refuse(faults.clone(), ErrorCode::IneligibleReplica);
    faults.new_isr = vec![member(2), member(3)];
    cluster.refuse(faults.clone(), ErrorCode::InvalidRequest);
    faults.partition_epoch = PartitionEpoch(0);
    cluster.refuse(faults.clone(), ErrorCode::InvalidUpdateVersion);
    faults.leader_epoch = LeaderEpoch(-1);
    cluster.refuse(faults.clone(), ErrorCode::FencedLeaderEpoch);
    faults.partition_epoch = PartitionEpoch(9);
    cluster.refuse(faults.clone(), ErrorCode::NotController);
    faults.partition = PartitionIndex(7);
    cluster.refuse(faults.clone(), ErrorCode::UnknownTopicOrPartition);
    faults.topic_id = Uuid::from_u128(1);
    cluster.refuse(faults.clone(), ErrorCode::UnknownTopicId);
    faults.broker_epoch = BrokerEpoch(0);
    cluster.refuse(faults.clone(), ErrorCode::StaleBrokerEpoch);
    faults.node = NodeId(8);
    cluster.refuse(faults, ErrorCode::BrokerIdNotRegistered);

    cluster.refuse(with(|c| c.leader_epoch = LeaderEpoch(5)), ErrorCode::NotController);
    cluster.refuse(with(|c| c.new_isr.push(c.new_isr[0])), ErrorCode::InvalidRequest);
    cluster.accept(good);
}

#[test]
fn only_the_leader_may_ask() {
    let mut cluster = three();
    let mut change = cluster.isr_change(&[1, 2]);
    change.node = NodeId(2);
    change.broker_epoch = cluster.epoch(2);
    cluster.refuse(change, ErrorCode::InvalidRequest);
}

#[test]
fn a_follower_that_rebooted_since_it_caught_up_is_not_let_in() {
    // KIP-903, KAFKA-15221
    let mut cluster = three();
    cluster.set_isr(&[1, 2]);
    let late = cluster.isr_change(&[1, 2, 3]);
    cluster.revive(3);
    let mut late = AlterPartition { partition_epoch: cluster.p().partition_epoch, ..late };
    cluster.refuse(late.clone(), ErrorCode::IneligibleReplica);
    late.new_isr[2].broker_epoch = cluster.epoch(3);
    cluster.accept(late);
}

#[test]
fn of_two_racing_changes_one_wins_and_a_retry_is_applied_once() {
    // KAFKA-12686, KAFKA-14010
    let mut cluster = three();
    let (shrink, other) = (cluster.isr_change(&[1, 2]), cluster.isr_change(&[1, 3]));
    let id = ProposalId { origin: NodeId(1), incarnation: Uuid::from_u128(50), sequence: 1 };
    let bytes = Envelope::new(id, 0, shrink).encode();
    let first = cluster.commit(bytes.clone());
    assert!(matches!(first, CommandResult::Partition(_)));
    cluster.refuse(other, ErrorCode::InvalidUpdateVersion);
    assert_eq!(cluster.commit(bytes), first, "the retry gets the old answer");
    assert_eq!(cluster.changes, []);
    assert_eq!(cluster.p().partition_epoch.0, 1);
}

#[test]
fn a_leader_of_the_past_is_fenced() {
    let mut cluster = three();
    let late = cluster.isr_change(&[1]);
    cluster.fence(1);
    cluster.restart(1);
    cluster.refuse(late.clone(), ErrorCode::StaleBrokerEpoch);
    let late = AlterPartition { broker_epoch: cluster.epoch(1), ..late };
    cluster.refuse(late, ErrorCode::FencedLeaderEpoch);
}

#[test]
fn a_recovering_leader_stays_alone_until_it_recovered_and_cannot_recover_twice() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.revive(1);
    cluster.fence(2);
    cluster.revive(2);
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovering);
    let leader = cluster.p().leader.unwrap().0;
    let mut both = cluster.isr_change(&[leader, 3 - leader]);
    both.recovery = LeaderRecovery::Recovering;
    cluster.refuse(both, ErrorCode::InvalidRequest);
    let version = cluster.p().partition_epoch.0;
    cluster.set_isr(&[leader]);
    assert_eq!((cluster.p().recovery, cluster.p().partition_epoch.0), (LeaderRecovery::Recovered, version + 1));
    let mut again = cluster.isr_change(&[leader]);
    again.recovery = LeaderRecovery::Recovering;
    cluster.refuse(again, ErrorCode::InvalidRequest);
}

#[test]
fn proposing_the_committed_set_again_shuts_out_an_earlier_proposal_that_is_still_on_its_way() {
    let mut cluster = three();
    cluster.set_isr(&[1, 2]);
    let lost = cluster.isr_change(&[1, 2, 3]);
    cluster.set_isr(&[1, 2]);
    assert_eq!((cluster.p().leader_epoch.0, cluster.p().partition_epoch.0), (0, 2));
    cluster.refuse(lost, ErrorCode::InvalidUpdateVersion);
}
