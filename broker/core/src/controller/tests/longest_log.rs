//! KIP-966's recovery: who leads when nobody is left whose log is trusted.

use super::*;
use chronik_model::{LeaderEpoch, Offset};

/// What the broker would tell of t-0 now.
fn claim(cluster: &Cluster, node: i32, last_epoch: i32, log_end: i64) -> ReportLog {
    ReportLog {
        node: NodeId(node),
        broker_epoch: cluster.epoch(node),
        topic_id: Cluster::id("t"),
        partition: PartitionIndex(0),
        leader_epoch: cluster.p().leader_epoch,
        last_epoch: LeaderEpoch(last_epoch),
        log_end: Offset(log_end),
    }
}

impl Cluster {
    /// The broker tells where its log of t-0 ends.
    #[track_caller]
    pub(super) fn report(&mut self, node: i32, last_epoch: i32, log_end: i64) {
        let claim = claim(self, node, last_epoch, log_end);
        assert_eq!(self.accept(claim), CommandResult::Done);
    }

    pub(super) fn last_known(&self) -> Vec<i32> {
        self.p().last_known_elr.iter().map(|node| node.0).collect()
    }
}

/// 1 led alone, 3 was eligible; 3 was killed and has returned, then 1 lost its power and has returned.
fn distrusted() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.fence(2);
    cluster.fence(3);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![3]));
    cluster.revive(3);
    assert_eq!((cluster.view(), cluster.last_known()), ((Some(1), vec![1], vec![]), vec![3]));
    cluster.revive(1);
    cluster
}

#[test]
fn a_killed_replica_that_kept_everything_wins_over_the_leader_that_lost_its_power() {
    let mut cluster = distrusted();
    assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![]), vec![1, 3]), "both are asked first");
    cluster.restart(2);
    cluster.report(1, 0, 6);
    assert_eq!(cluster.p().leader, None, "3 has not told");
    assert_eq!(cluster.state.awaited(cluster.p()).collect::<Vec<_>>(), nodes(&[3]));
    cluster.report(3, 0, 15);
    assert_eq!((cluster.view(), cluster.last_known()), ((Some(3), vec![3], vec![]), vec![1]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovering);
    assert_eq!(cluster.p().reports, []);
    cluster.set_isr(&[3]);
    assert_eq!(cluster.last_known(), [1], "the high watermark still stands");
    cluster.set_isr(&[3, 2]);
    assert_eq!(cluster.last_known(), [], "it may move without 1");
}

#[test]
fn a_later_epoch_counts_more_than_a_longer_log_and_of_equals_the_assignment_decides() {
    for (reports, leader) in
        [([(4, 6), (3, 15)], 1), ([(3, 15), (4, 6)], 3), ([(4, 9), (4, 9)], 1), ([(-1, 0), (0, 1)], 3)]
    {
        let mut cluster = distrusted();
        for (node, (last_epoch, log_end)) in [1, 3].into_iter().zip(reports) {
            cluster.report(node, last_epoch, log_end);
        }
        assert_eq!(cluster.p().leader, Some(NodeId(leader)), "{reports:?}");
    }
}

#[test]
fn one_that_is_missing_is_waited_for_even_after_it_told() {
    let mut cluster = distrusted();
    cluster.report(3, 0, 15);
    cluster.fence(3);
    cluster.report(1, 0, 6);
    assert_eq!(cluster.p().leader, None);
    assert_eq!(cluster.state.awaited(cluster.p()).collect::<Vec<_>>(), nodes(&[3]));
    cluster.unfence(3);
    assert_eq!(cluster.p().leader, Some(NodeId(3)));
}

#[test]
fn what_was_told_under_an_earlier_registration_does_not_count() {
    let mut cluster = distrusted();
    let stale = claim(&cluster, 3, 0, 15);
    cluster.report(3, 0, 15);
    cluster.revive(3);
    assert_eq!(cluster.p().reports, []);
    cluster.refuse(stale, ErrorCode::StaleBrokerEpoch);
    cluster.report(1, 0, 6);
    assert_eq!(cluster.p().leader, None);
    cluster.report(3, 0, 2);
    assert_eq!(cluster.p().leader, Some(NodeId(1)));
}

#[test]
fn what_was_told_before_somebody_led_does_not_count() {
    let mut cluster = distrusted();
    let late = claim(&cluster, 3, 0, 15);
    cluster.report(3, 0, 7);
    cluster.report(1, 0, 8);
    assert_eq!(cluster.p().leader, Some(NodeId(1)));
    assert_eq!(cluster.accept(late), CommandResult::Done, "too late to tell anything");
    assert_eq!(cluster.changes, []);
    cluster.revive(1);
    assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![]), vec![1, 3]));
    cluster.refuse(late, ErrorCode::FencedLeaderEpoch);
    cluster.report(1, 1, 9);
    cluster.report(3, 1, 9);
    assert_eq!(cluster.p().leader, Some(NodeId(1)));
}

#[test]
fn only_a_replica_whose_log_counts_may_tell() {
    let mut cluster = distrusted();
    cluster.revive(2);
    let good = claim(&cluster, 1, 0, 6);
    for (bad, code) in [
        (claim(&cluster, 2, 9, 99), ErrorCode::InvalidRequest),
        (ReportLog { log_end: Offset(-1), ..good }, ErrorCode::InvalidRequest),
        (ReportLog { last_epoch: LeaderEpoch(-2), ..good }, ErrorCode::InvalidRequest),
        (ReportLog { topic_id: Cluster::id("u"), ..good }, ErrorCode::UnknownTopicId),
        (ReportLog { partition: PartitionIndex(1), ..good }, ErrorCode::UnknownTopicOrPartition),
        (ReportLog { node: NodeId(9), ..good }, ErrorCode::BrokerIdNotRegistered),
    ] {
        cluster.refuse(bad, code);
    }
    cluster.accept(good);
    let version = cluster.p().partition_epoch;
    cluster.accept(good);
    assert_eq!(cluster.p().partition_epoch, version, "told already");
}

#[test]
fn a_replaced_disk_is_not_waited_for() {
    let mut cluster = distrusted();
    cluster.report(3, 0, 15);
    cluster.fence(1);
    let mut registration = cluster.registration(1, BrokerEpoch::NONE);
    registration.directories = vec![Uuid::from_u128(99)];
    cluster.accept(registration);
    assert_eq!((cluster.view(), cluster.last_known()), ((Some(3), vec![3], vec![]), vec![]));
}

#[test]
fn an_eligible_replica_that_may_still_return_is_better_than_any_report() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.accept(alter(on_topic(), "min.insync.replicas", ConfigOp::Set, Some("3")));
    cluster.fence(1);
    cluster.fence(2);
    cluster.fence(3);
    assert_eq!(cluster.view(), (None, vec![], vec![1, 2, 3]));
    cluster.revive(1);
    cluster.revive(2);
    cluster.report(1, 0, 5);
    cluster.report(2, 0, 5);
    assert_eq!((cluster.view(), cluster.last_known()), ((None, vec![], vec![3]), vec![1, 2]));
    assert_eq!(cluster.state.awaited(cluster.p()).collect::<Vec<_>>(), nodes(&[3]));
    cluster.restart(3);
    assert_eq!((cluster.view(), cluster.last_known()), ((Some(3), vec![3], vec![]), vec![1, 2]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovered);
}

#[test]
fn an_unclean_election_waits_for_nobody_and_forgets_the_others() {
    let mut cluster = distrusted();
    cluster.fence(3);
    let wanted = PartitionRef { topic: "t".into(), partition: PartitionIndex(0) };
    cluster.accept(ElectLeaders { election: ElectionType::Unclean, partitions: vec![wanted] });
    assert_eq!((cluster.view(), cluster.last_known()), ((Some(1), vec![1], vec![]), vec![]));
    assert_eq!(cluster.p().recovery, LeaderRecovery::Recovering);
}

#[test]
fn another_min_isr_forgets_the_distrusted_ones_of_a_partition_that_is_led() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.fence(2);
    cluster.fence(3);
    cluster.revive(3);
    assert_eq!(cluster.last_known(), [3]);
    cluster.accept(alter(on_topic(), "min.insync.replicas", ConfigOp::Set, Some("1")));
    assert_eq!((cluster.view(), cluster.last_known()), ((Some(1), vec![1], vec![]), vec![]), "R12");
}

#[test]
fn reports_are_part_of_the_snapshot_and_of_results() {
    let mut cluster = distrusted();
    cluster.report(3, 2, 1 << 40);
    let restored = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!(restored, cluster.state);
    assert_eq!(restored.topic("t").unwrap().partitions[0].reports.len(), 1);
    let result = CommandResult::Partition(cluster.p().clone());
    assert_eq!(CommandResult::decode(&result.encode()), Ok(result));
}

#[test]
fn the_last_known_leader_of_an_older_snapshot_is_the_one_that_is_waited_for() {
    use crate::controller::codec::{Field as _, PartitionStateProto};
    use prost::Message as _;

    let mut cluster = Cluster::of(1);
    cluster.topic(&[&[1]]);
    cluster.register(1, BrokerEpoch::NONE);
    let mut new = cluster.p().clone();
    new.last_known_elr.clear();
    // Tag 4, as version 1 wrote it.
    let old = [new.put().encode_to_vec(), vec![0x20, 1]].concat();
    let read = PartitionState::take(PartitionStateProto::decode(&old[..]).unwrap()).unwrap();
    assert_eq!(&read, cluster.p());
    assert_eq!(read.last_known_elr, nodes(&[1]));
    new.elr = nodes(&[1]);
    let old = [new.put().encode_to_vec(), vec![0x20, 1]].concat();
    let read = PartitionState::take(PartitionStateProto::decode(&old[..]).unwrap()).unwrap();
    assert_eq!((read.elr, read.last_known_elr), (nodes(&[1]), vec![]));
}
