//! What a replica tells of its log when nobody leads and nobody is trusted (KIP-966).

use chronik_model::ErrorCode;

use super::*;
use crate::LogReport;

/// Nobody leads epoch `leader_epoch`, and the logs of these are to be compared.
fn leaderless(leader_epoch: i32, partition_epoch: i32, last_known: &[i32]) -> PartitionState {
    let last_known_elr = last_known.iter().copied().map(NodeId).collect();
    PartitionState { last_known_elr, ..state(0, leader_epoch, partition_epoch, &[]) }
}

fn report(node: i32, broker_epoch: i64) -> LogReport {
    let (last_epoch, log_end) = (LeaderEpoch(5), Offset(7));
    LogReport { node: NodeId(node), broker_epoch: BrokerEpoch(broker_epoch), last_epoch, log_end }
}

fn claims(effects: &[Effect]) -> Vec<(i32, i64)> {
    let claim = |effect: &Effect| match effect {
        Effect::ReportLog(claim) => Some((claim.leader_epoch.0, claim.log_end.0)),
        _ => None,
    };
    effects.iter().filter_map(claim).collect()
}

#[test]
fn a_replica_tells_once_and_again_only_while_the_controller_does_not_know() {
    let mut asked = replica(2, 2, facts(7, 3, Some(5)));
    let effects = asked.apply_metadata(&leaderless(6, 60, &[1, 2]), all_up, 0);
    assert_eq!((&effects[0], claims(&effects)), (&Effect::NoLeader, vec![(6, 7)]));
    assert_eq!(asked.tick(REPORT_RETRY_MS - 1), []);
    assert_eq!(claims(&asked.tick(REPORT_RETRY_MS)), [(6, 7)]);
    // Another one told, and what is known of this one is of an earlier life.
    let mut told = leaderless(6, 61, &[1, 2]);
    told.reports = vec![report(1, 101), report(2, 50)];
    assert_eq!(asked.apply_metadata(&told, all_up, REPORT_RETRY_MS), []);
    assert_eq!(claims(&asked.tick(2 * REPORT_RETRY_MS)), [(6, 7)]);
    told.reports = vec![report(1, 101), report(2, 102)];
    told.partition_epoch.0 += 1;
    assert_eq!(asked.apply_metadata(&told, all_up, 2 * REPORT_RETRY_MS), []);
    assert_eq!(asked.tick(9 * REPORT_RETRY_MS), []);
}

#[test]
fn nobody_tells_who_is_not_asked_or_cannot_know() {
    let mut trusted = leaderless(6, 60, &[1, 2]);
    trusted.elr = vec![NodeId(3)];
    for state in [leaderless(6, 60, &[1, 3]), leaderless(6, 60, &[2]), trusted] {
        let mut replica = replica(2, 2, facts(7, 3, Some(5)));
        assert_eq!(claims(&replica.apply_metadata(&state, all_up, 0)), [], "{state:?}");
        assert_eq!(claims(&replica.tick(REPORT_RETRY_MS)), []);
    }
    let mut broken = replica(2, 2, facts(7, 3, Some(5)));
    assert_eq!(broken.fence_after_io_error(), [Effect::FailWaiters(ErrorCode::KafkaStorageError)]);
    assert_eq!(claims(&broken.apply_metadata(&leaderless(6, 60, &[1, 2]), all_up, 0)), []);
    assert_eq!(claims(&broken.tick(REPORT_RETRY_MS)), []);
}

#[test]
fn the_high_watermark_stands_still_while_a_distrusted_replica_is_remembered() {
    let mut alone = state(1, 5, 50, &[1]);
    alone.last_known_elr = vec![NodeId(3)];
    let mut leader = replica(1, 1, facts(0, 0, None));
    leader.apply_metadata(&alone, all_up, 0);
    assert_eq!(
        leader.check_append(-1),
        Err(ErrorCode::NotEnoughReplicas),
        "this leader still thinks that one is enough"
    );
    assert_eq!(leader.on_append(Offset(4), 0), []);
    alone.last_known_elr.clear();
    alone.partition_epoch.0 += 1;
    let effects = leader.apply_metadata(&alone, all_up, 0);
    assert!(effects.contains(&Effect::HighWatermark(Offset(4))), "{effects:?}");
}
