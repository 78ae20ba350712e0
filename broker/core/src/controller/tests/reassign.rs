//! Reassignments, cordons and hand-overs of leaderships.

use chronik_model::PartitionEpoch;

use super::*;

impl Cluster {
    fn wanted(target: Option<&[i32]>) -> Reassignment {
        Reassignment {
            topic_id: Self::id("t"),
            partition: PartitionIndex(0),
            target: target.map(|ids| Assignment { replicas: nodes(ids) }),
            partition_epoch: None,
        }
    }

    fn outcome(&mut self, wanted: Reassignment, keep_replication_factor: bool) -> (ErrorCode, String) {
        let before = self.state.topics.clone();
        let command = AlterReassignments { reassignments: vec![wanted], keep_replication_factor };
        let CommandResult::Reassignments(outcomes) = self.accept(command) else { panic!("no outcomes") };
        assert_eq!(outcomes.len(), 1);
        if outcomes[0].code != ErrorCode::None {
            assert_eq!(self.state.topics, before, "a refusal changes nothing");
        }
        (outcomes[0].code, outcomes[0].message.clone())
    }

    #[track_caller]
    fn reassign(&mut self, target: &[i32]) {
        assert_eq!(self.outcome(Self::wanted(Some(target)), false), (ErrorCode::None, String::new()));
    }

    #[track_caller]
    fn refuse_target(&mut self, target: Option<&[i32]>, code: ErrorCode) -> String {
        let (refused, message) = self.outcome(Self::wanted(target), false);
        assert_eq!(refused, code, "{message}");
        message
    }

    #[track_caller]
    fn cancel(&mut self) {
        assert_eq!(self.outcome(Self::wanted(None), false), (ErrorCode::None, String::new()));
    }

    /// replicas, adding, removing of t-0.
    fn assignment(&self) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let p = self.p();
        (ids(&p.replicas), ids(&p.adding), ids(&p.removing))
    }

    fn cordon(&mut self, node: i32, cordoned: bool) {
        assert_eq!(self.accept(SetCordon { node: NodeId(node), cordoned }), CommandResult::Done);
    }

    fn kill(&mut self, node: i32) {
        self.fence(node);
    }
}

#[test]
fn a_reassignment_is_complete_when_every_added_replica_is_in_sync_and_the_leader_moves_with_it() {
    let mut cluster = Cluster::of(5);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.reassign(&[3, 4, 5]);
    assert_eq!(cluster.assignment(), (vec![3, 4, 5, 1, 2], vec![4, 5], vec![1, 2]));
    assert_eq!(cluster.view(), (Some(1), vec![1, 2, 3], vec![]), "nobody is in sync by being wanted");
    assert_eq!(cluster.p().leader_epoch.0, 0, "the leadership goes on");
    assert_eq!(cluster.state.reassigning_partitions().count(), 1);
    assert_eq!(cluster.p().min_isr(None), 2, "as many as before are asked for");

    cluster.set_isr(&[1, 2, 3, 4]);
    assert_eq!(cluster.assignment(), (vec![3, 4, 5, 1, 2], vec![4, 5], vec![1, 2]));
    cluster.set_isr(&[1, 2, 3, 4, 5]);
    assert_eq!(cluster.assignment(), (vec![3, 4, 5], vec![], vec![]));
    assert_eq!(cluster.view(), (Some(3), vec![3, 4, 5], vec![]));
    assert_eq!(cluster.p().leader_epoch.0, 1);
    assert_eq!(cluster.state.reassigning_partitions().count(), 0);
}

#[test]
fn replicas_that_are_only_removed_go_at_once_and_those_who_read_from_them_notice() {
    let mut cluster = Cluster::of(4);
    cluster.topic(&[&[1, 2, 3, 4]]);
    cluster.reassign(&[1, 2, 3]);
    assert_eq!(cluster.assignment(), (vec![1, 2, 3], vec![], vec![]));
    assert_eq!(cluster.view(), (Some(1), vec![1, 2, 3], vec![]));
    assert_eq!(cluster.p().leader_epoch.0, 1, "with a replica the leader epoch goes");
    cluster.reassign(&[2, 3]);
    assert_eq!(cluster.view(), (Some(2), vec![2, 3], vec![]), "the leader moves when it is removed");
    cluster.reassign(&[3, 2]);
    assert_eq!(cluster.assignment(), (vec![3, 2], vec![], vec![]), "another order is a reassignment, too");
    assert_eq!((cluster.p().leader, cluster.p().leader_epoch.0), (Some(NodeId(2)), 2));
}

#[test]
fn a_reassignment_waits_until_enough_of_those_who_stay_are_in_sync() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.set(on_topic(), "min.insync.replicas", "2");
    cluster.kill(2);
    cluster.reassign(&[1, 2]);
    assert_eq!(cluster.assignment(), (vec![1, 2, 3], vec![], vec![3]), "broker 1 alone would be too few");
    assert_eq!(cluster.view(), (Some(1), vec![1, 3], vec![]));
    cluster.restart(2);
    cluster.set_isr(&[1, 2, 3]);
    assert_eq!(cluster.assignment(), (vec![1, 2], vec![], vec![]));

    // Less is asked for: nothing is missing any more.
    cluster.kill(2);
    cluster.reassign(&[1, 3]);
    cluster.set_isr(&[1, 3]);
    assert_eq!(cluster.assignment(), (vec![1, 3], vec![], vec![]));
    cluster.kill(3);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![3]));
    cluster.reassign(&[1, 2]);
    assert_eq!(cluster.assignment(), (vec![1, 2, 3], vec![2], vec![3]));
    cluster.restart(2);
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.view(), (Some(1), vec![1, 2], vec![]));
    assert_eq!(cluster.assignment(), (vec![1, 2], vec![], vec![]));
}

/// Of three replicas two have to be in sync, of two only one: broker 3 is eligible until another has what it has.
#[test]
fn fewer_replicas_do_not_give_up_whoever_holds_what_more_were_asked_for() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.kill(2);
    cluster.kill(3);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![3]));
    cluster.reassign(&[1, 2]);
    assert_eq!(cluster.assignment(), (vec![1, 2, 3], vec![], vec![3]));
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![3]));
    cluster.restart(2);
    cluster.set_isr(&[1, 2]);
    assert_eq!(cluster.assignment(), (vec![1, 2], vec![], vec![]));
    cluster.reassign(&[1]);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]), "one replica is what was asked for");
}

#[test]
fn a_lower_min_insync_replicas_may_be_all_that_a_reassignment_waits_for() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster.set(on_topic(), "min.insync.replicas", "2");
    cluster.kill(2);
    cluster.reassign(&[1, 2]);
    cluster.set(on_topic(), "min.insync.replicas", "1");
    assert_eq!(cluster.assignment(), (vec![1, 2], vec![], vec![]));
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
}

#[test]
fn a_further_replica_does_not_raise_what_is_asked_of_writers_before_it_is_in_sync() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1]]);
    cluster.set(on_topic(), "min.insync.replicas", "2");
    cluster.reassign(&[2, 3]);
    assert_eq!(cluster.p().min_isr(Some(2)), 1);
    cluster.set_isr(&[1, 2]);
    cluster.set_isr(&[1]);
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]), "nobody else has to have what broker 1 acknowledges");
    cluster.set_isr(&[1, 2]);
    cluster.set_isr(&[1, 2, 3]);
    assert_eq!(cluster.view(), (Some(2), vec![2, 3], vec![]));
    assert_eq!(cluster.p().min_isr(Some(2)), 2);
}

#[test]
fn a_cancelled_reassignment_leaves_what_was_there_before() {
    let mut cluster = Cluster::of(5);
    cluster.topic(&[&[1, 2, 3]]);
    assert!(cluster.refuse_target(None, ErrorCode::NoReassignmentInProgress).contains("t-0"));
    cluster.reassign(&[4, 5]);
    cluster.set_isr(&[1, 2, 4]);
    cluster.cancel();
    assert_eq!(cluster.assignment(), (vec![1, 2, 3], vec![], vec![]));
    assert_eq!(cluster.view(), (Some(1), vec![1, 2], vec![]), "whoever was late is late still");
    assert_eq!(cluster.p().leader_epoch.0, 1);
    cluster.refuse_target(None, ErrorCode::NoReassignmentInProgress);
}

/// What was acknowledged since broker 3 joined is on 1 and 3 alone: 3 may go when somebody else has it.
#[test]
fn an_added_replica_that_is_in_sync_goes_only_when_enough_others_are() {
    for target in [None, Some(&[2, 1][..])] {
        let mut cluster = Cluster::of(4);
        cluster.topic(&[&[1, 2]]);
        cluster.set(on_topic(), "min.insync.replicas", "2");
        cluster.reassign(&[3, 4]);
        cluster.set_isr(&[1, 2, 3]);
        cluster.kill(2);
        let refused = cluster.refuse_target(target, ErrorCode::InvalidReplicaAssignment);
        assert!(refused.contains("broker 3 is in sync and cannot be dropped from t-0 yet"), "{refused}");
        assert_eq!(cluster.view(), (Some(1), vec![1, 3], vec![]));
        cluster.restart(2);
        cluster.set_isr(&[1, 2, 3]);
        match target {
            None => cluster.cancel(),
            Some(target) => cluster.reassign(target),
        }
        assert!(!cluster.p().is_reassigning());
        assert_eq!(cluster.p().isr, [1, 2].map(NodeId));
    }
}

#[test]
fn a_reassignment_is_not_cancelled_when_only_added_replicas_are_in_sync() {
    let mut cluster = Cluster::of(4);
    cluster.topic(&[&[1, 2]]);
    cluster.reassign(&[3, 4]);
    cluster.set_isr(&[1, 3]);
    cluster.kill(1);
    assert_eq!(cluster.view(), (Some(3), vec![3], vec![]));
    assert!(cluster.refuse_target(None, ErrorCode::InvalidReplicaAssignment).contains("broker 3"));
    cluster.refuse_target(Some(&[1, 4]), ErrorCode::InvalidReplicaAssignment);
    cluster.kill(3);
    assert_eq!(cluster.view(), (None, vec![], vec![3]));
    cluster.refuse_target(None, ErrorCode::InvalidReplicaAssignment);
    cluster.restart(1);
    assert_eq!(cluster.p().leader, None, "broker 3 alone has everything");
    cluster.restart(3);
    cluster.set_isr(&[3, 1]);
    cluster.cancel();
    assert_eq!((cluster.assignment().0, cluster.view()), (vec![1, 2], (Some(1), vec![1], vec![])));
}

#[test]
fn a_new_reassignment_replaces_the_one_under_way_and_remembers_what_was_there_first() {
    let mut cluster = Cluster::of(6);
    cluster.topic(&[&[1, 2]]);
    cluster.reassign(&[3, 4]);
    cluster.set_isr(&[1, 2, 3]);
    cluster.reassign(&[4, 5]);
    assert_eq!(cluster.assignment(), (vec![4, 5, 1, 2], vec![4, 5], vec![1, 2]));
    assert_eq!(cluster.view(), (Some(1), vec![1, 2], vec![]), "broker 3 is not wanted any more");
    cluster.reassign(&[5, 6, 1]);
    assert_eq!(cluster.assignment(), (vec![5, 6, 1, 2], vec![5, 6], vec![2]));
    let before = cluster.p().clone();
    cluster.reassign(&[5, 6, 1]);
    assert_eq!(*cluster.p(), before, "asked for again, nothing changes");
    cluster.reassign(&[2, 1]);
    assert_eq!(cluster.assignment(), (vec![2, 1], vec![], vec![]), "back to the brokers of the beginning");
}

#[test]
fn a_wrong_target_is_refused_for_its_partition_alone() {
    let mut cluster = Cluster::of(3);
    cluster.accept(Cluster::creation("t", &[&[1, 2], &[1, 2]]));
    for target in [&[][..], &[1, 1], &[1, 9], &[-1]] {
        cluster.refuse_target(Some(target), ErrorCode::InvalidReplicaAssignment);
    }
    let stale = Reassignment { partition_epoch: Some(PartitionEpoch(7)), ..Cluster::wanted(Some(&[3])) };
    assert_eq!(cluster.outcome(stale.clone(), false).0, ErrorCode::InvalidUpdateVersion);
    let strange = Reassignment { topic_id: Uuid::from_u128(5), ..stale.clone() };
    assert_eq!(cluster.outcome(strange, false).0, ErrorCode::UnknownTopicId);
    let beyond = Reassignment { partition: PartitionIndex(2), ..stale };
    assert_eq!(cluster.outcome(beyond, false).0, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(cluster.outcome(Cluster::wanted(Some(&[3])), true).0, ErrorCode::InvalidReplicationFactor);
    assert_eq!(cluster.outcome(Cluster::wanted(Some(&[2, 3])), true).0, ErrorCode::None);

    let other = Reassignment { partition: PartitionIndex(1), ..Cluster::wanted(Some(&[2, 3])) };
    let both = vec![Cluster::wanted(Some(&[8])), other];
    let command = AlterReassignments { reassignments: both, keep_replication_factor: false };
    let CommandResult::Reassignments(outcomes) = cluster.accept(command) else { panic!("no outcomes") };
    let codes: Vec<_> = outcomes.iter().map(|outcome| (outcome.partition.0, outcome.code)).collect();
    assert_eq!(codes, [(0, ErrorCode::InvalidReplicaAssignment), (1, ErrorCode::None)]);
    assert_eq!(cluster.state.reassigning_partitions().count(), 2);
}

#[test]
fn who_compares_the_version_moves_what_it_looked_at() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2]]);
    let seen = cluster.p().partition_epoch;
    let wanted = Reassignment { partition_epoch: Some(seen), ..Cluster::wanted(Some(&[1, 3])) };
    assert_eq!(cluster.outcome(wanted.clone(), true).0, ErrorCode::None);
    assert_eq!(cluster.outcome(wanted, true).0, ErrorCode::InvalidUpdateVersion, "it is another version now");
}

#[test]
fn a_broker_is_forgotten_only_after_its_replicas_have_gone_elsewhere() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2]]);
    cluster.kill(2);
    cluster.reassign(&[1, 3]);
    cluster.refuse(UnregisterBroker { node: NodeId(2) }, ErrorCode::PolicyViolation);
    cluster.set_isr(&[1, 3]);
    cluster.accept(UnregisterBroker { node: NodeId(2) });
}

#[test]
fn a_topic_is_deleted_while_it_is_reassigned() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2]]);
    cluster.reassign(&[1, 3]);
    cluster.accept(DeleteTopic { topic_id: Cluster::id("t") });
    cluster.refuse_target(None, ErrorCode::UnknownTopicId);
}

#[test]
fn without_a_leader_replicas_that_were_there_before_come_before_those_that_are_added() {
    let mut cluster = Cluster::of(4);
    cluster.topic(&[&[1, 2]]);
    cluster.set_isr(&[1]);
    cluster.reassign(&[3, 4]);
    cluster.kill(1);
    assert_eq!(cluster.view(), (None, vec![], vec![1]));
    let wanted = vec![PartitionRef { topic: "t".into(), partition: PartitionIndex(0) }];
    cluster.accept(ElectLeaders { election: ElectionType::Unclean, partitions: wanted });
    assert_eq!(cluster.view(), (Some(2), vec![2], vec![]));
}

#[test]
fn an_election_that_brings_back_the_one_who_stays_completes_a_reassignment() {
    let mut cluster = Cluster::of(2);
    cluster.topic(&[&[1, 2]]);
    cluster.set_isr(&[1]);
    cluster.kill(1);
    cluster.reassign(&[1]);
    assert_eq!(cluster.assignment(), (vec![1, 2], vec![], vec![2]), "nobody leads");
    cluster.restart(1);
    assert_eq!(cluster.assignment(), (vec![1], vec![], vec![]));
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![]));
}

#[test]
fn a_cordoned_broker_gets_no_further_replicas_and_keeps_those_it_has() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[3, 1]]);
    cluster.cordon(3, true);
    cluster.cordon(3, true);
    assert_eq!(cluster.changes, [], "it is cordoned already");
    let mut creation = Cluster::creation("u", &[]);
    (creation.partitions, creation.replication_factor) = (6, 2);
    cluster.accept(creation.clone());
    assert_eq!(cluster.state.partitions_hosted_by(NodeId(3)).count(), 1);
    assert_eq!(cluster.state.default_replication_factor(), 2);
    (creation.name, creation.topic_id, creation.replication_factor) = ("v".into(), Cluster::id("v"), 3);
    let message = cluster.refuse(creation, ErrorCode::InvalidReplicationFactor);
    assert!(message.contains("1 of 3 brokers are cordoned"), "{message}");
    let message = cluster.refuse(Cluster::creation("v", &[&[1, 3]]), ErrorCode::InvalidReplicaAssignment);
    assert!(message.contains("broker 3 is cordoned"), "{message}");
    let grow = CreatePartitions { topic_id: Cluster::id("t"), total: 4, assignments: vec![] };
    cluster.accept(grow);
    assert_eq!(cluster.state.partitions_hosted_by(NodeId(3)).count(), 1);

    cluster.reassign(&[2, 3]);
    cluster.cancel();
    cluster.reassign(&[3, 1]);
    cluster.reassign(&[1]);
    let message = cluster.refuse_target(Some(&[1, 3]), ErrorCode::InvalidReplicaAssignment);
    assert!(message.contains("broker 3 is cordoned"), "{message}");
    cluster.cordon(3, false);
    cluster.reassign(&[1, 3]);
}

#[test]
fn a_cordon_outlasts_restarts_and_ends_with_the_registration() {
    let mut cluster = Cluster::of(2);
    cluster.cordon(2, true);
    cluster.revive(2);
    assert!(cluster.state.broker(NodeId(2)).unwrap().cordoned);
    let restored = MetadataState::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert!(restored.broker(NodeId(2)).unwrap().cordoned);
    cluster.fence(2);
    cluster.accept(UnregisterBroker { node: NodeId(2) });
    cluster.start(2, BrokerEpoch::NONE);
    assert!(!cluster.state.broker(NodeId(2)).unwrap().cordoned);
    cluster.refuse(SetCordon { node: NodeId(9), cordoned: true }, ErrorCode::BrokerIdNotRegistered);
}

#[test]
fn leaderships_are_handed_to_whoever_is_in_sync_and_may_be_given_back() {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3], &[2, 1, 3]]);
    cluster.accept(Cluster::creation("u", &[&[1]]));
    let result = cluster.accept(MoveLeaders { node: NodeId(1) });
    assert_eq!(result, CommandResult::LeadersMoved { moved: 1, left: 1 });
    assert_eq!(cluster.view(), (Some(2), vec![1, 2, 3], vec![]), "it stays in sync");
    assert_eq!(cluster.p().leader_epoch.0, 1);
    let result = cluster.accept(MoveLeaders { node: NodeId(1) });
    assert_eq!(result, CommandResult::LeadersMoved { moved: 0, left: 1 });
    assert_eq!(cluster.changes, []);
    cluster.refuse(MoveLeaders { node: NodeId(7) }, ErrorCode::BrokerIdNotRegistered);

    cluster.accept(ElectLeaders { election: ElectionType::Preferred, partitions: vec![] });
    assert_eq!(cluster.view(), (Some(1), vec![1, 2, 3], vec![]));
    cluster.set_isr(&[1]);
    let result = cluster.accept(MoveLeaders { node: NodeId(1) });
    assert_eq!(result, CommandResult::LeadersMoved { moved: 0, left: 2 });
    assert_eq!(cluster.view(), (Some(1), vec![1], vec![2, 3]), "nobody else is in sync");
}
