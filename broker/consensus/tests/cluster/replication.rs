//! Entries, images, reads, and peers that misbehave or forget.

use bytes::Bytes;
use chronik_consensus::mirror::{Entry, MessageType, RaftMessage};
use chronik_consensus::{Config, Outcome, ProgressKind, ProposeError, Role, Start};
use chronik_model::{NodeId, RaftIndex};

use crate::harness::{Cluster, voters};

fn small(config: &mut Config) {
    config.compact_entries = 50;
    config.compact_keep_entries = 10;
}

#[test]
fn a_proposal_is_acknowledged_once_a_majority_has_it_and_followers_say_who_leads() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    let follower = if leader == 1 { 2 } else { 1 };
    let refused = cluster.replica(follower).propose(Bytes::from_static(b"x"));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(NodeId(leader)) }));
    let number = cluster.propose(leader).expect("leads");
    assert!(!cluster.acknowledged.contains(&number));
    cluster.pump();
    assert!(cluster.acknowledged.contains(&number));
    let huge = Bytes::from(vec![0; (1 << 20) + 1]);
    let refused = cluster.replica(leader).propose(huge);
    assert_eq!(refused, Err(ProposeError::TooLarge { size: (1 << 20) + 1, limit: 1 << 20 }));
}

#[test]
fn many_proposals_share_one_fsync() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    let before = cluster.nodes[&leader].disk.syncs();
    for _ in 0..100 {
        cluster.propose(leader).expect("leads");
    }
    cluster.work(leader);
    assert_eq!(cluster.nodes[&leader].disk.syncs() - before, 1);
    cluster.pump();
    assert_eq!(cluster.acknowledged.len(), 100);
}

#[test]
fn an_idle_cluster_does_not_touch_the_disk() {
    let mut cluster = Cluster::formed(3, 1);
    cluster.ticks(10);
    let before: Vec<u64> = cluster.nodes.values().map(|n| n.disk.syncs()).collect();
    cluster.ticks(100);
    let after: Vec<u64> = cluster.nodes.values().map(|n| n.disk.syncs()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_proposal_overwritten_by_another_leader_is_reported_as_lost() {
    // No check_quorum: the cut-off leader believes in itself until it hears of the next one.
    let mut cluster = Cluster::formed_with(3, 3, |config| config.check_quorum = false);
    let old = cluster.leader().expect("formed");
    cluster.isolate(old);
    let lost = cluster.propose(old).expect("believes to lead");
    cluster.pump();
    cluster.ticks(45);
    let new = cluster.leader().expect("elected");
    assert_ne!(new, old);
    cluster.propose_many(new, 3);
    cluster.heal();
    cluster.ticks(10);
    assert!(matches!(cluster.nodes[&old].outcomes.get(&lost), Some(Outcome::Unknown | Outcome::Lost)));
    cluster.agreed();
    let data = Bytes::from(format!("proposal {lost}"));
    assert!(cluster.nodes.values().all(|n| !n.state.contains(&data)), "never committed");
}

#[test]
fn the_log_is_compacted_and_a_follower_that_missed_it_gets_the_image() {
    let mut cluster = Cluster::formed_with(3, 1, small);
    let leader = cluster.leader().expect("formed");
    let sleeper = if leader == 3 { 2 } else { 3 };
    cluster.kill(sleeper);
    cluster.propose_many(leader, 300);
    let status = cluster.status(leader);
    assert!(status.snapshot_index.0 > 200, "{}", status.snapshot_index);
    assert!(status.last_index.0 - status.first_index.0 <= 61, "{status:?}");
    cluster.restart(sleeper);
    cluster.connect_all();
    cluster.ticks(10);
    assert_eq!(cluster.nodes[&sleeper].images_installed, 1);
    cluster.agreed();
    let peer = cluster.status(leader).peers.into_iter().find(|p| p.node == NodeId(sleeper)).expect("a member");
    assert_eq!(peer.state, ProgressKind::Replicate);
    assert_eq!(peer.matched, cluster.status(leader).last_index);
    // And all of it is found again.
    for id in [1, 2, 3] {
        cluster.kill(id);
        cluster.restart(id);
    }
    cluster.connect_all();
    cluster.elect();
    cluster.ticks(5);
    cluster.agreed();
}

#[test]
fn old_segments_and_images_are_removed() {
    let mut cluster = Cluster::formed_with(1, 1, |config| {
        small(config);
        config.segment_bytes = 16 << 10;
    });
    for _ in 0..2_000 {
        cluster.propose_many(1, 1);
    }
    let files = chronik_log::disk::Disk::list(&cluster.nodes[&1].disk, "raft").expect("listed");
    let images = files.iter().filter(|f| f.name.starts_with("image-")).count();
    let segments = files.iter().filter(|f| f.name.starts_with("log-")).count();
    assert_eq!(images, 1, "{files:?}");
    assert!((1..=2).contains(&segments), "{files:?}");
}

#[test]
fn reads_are_answered_by_leader_and_followers_with_an_index_that_covers_what_was_acknowledged() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    cluster.propose_many(leader, 5);
    let committed = cluster.status(leader).commit;
    for id in [1, 2, 3] {
        let token = cluster.replica(id).read_index().expect("room");
        cluster.pump();
        let answer = cluster.nodes[&id].reads.iter().find(|r| r.token == token).copied().expect("answered");
        assert!(answer.index >= committed, "node {id}");
        assert_eq!(cluster.status(id).pending_reads, 0);
    }
}

#[test]
fn a_read_asked_before_there_is_a_leader_is_answered_when_there_is_one() {
    let mut cluster = Cluster::new(1);
    cluster.add(1, &voters(&[1, 2, 3]));
    cluster.add(2, &voters(&[1, 2, 3]));
    let first = cluster.replica(1).read_index().expect("room");
    let second = cluster.replica(2).read_index().expect("room");
    cluster.ticks(5);
    assert!(cluster.nodes[&1].reads.is_empty());
    cluster.connect_all();
    cluster.ticks(4);
    assert_eq!(cluster.nodes[&1].reads.iter().map(|r| r.token).collect::<Vec<_>>(), vec![first]);
    assert_eq!(cluster.nodes[&2].reads.iter().map(|r| r.token).collect::<Vec<_>>(), vec![second]);
}

#[test]
fn a_leader_cut_off_from_its_majority_answers_no_read() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    cluster.propose_many(leader, 1);
    cluster.isolate(leader);
    let token = cluster.replica(leader).read_index().expect("room");
    cluster.ticks(60);
    assert!(cluster.nodes[&leader].reads.is_empty());
    cluster.replica(leader).forget_read(token);
    assert_eq!(cluster.status(leader).pending_reads, 0);
}

#[test]
fn a_voter_that_lost_its_disk_is_fed_again_and_both_sides_say_so() {
    let mut cluster = Cluster::formed_with(3, 1, small);
    let leader = cluster.leader().expect("formed");
    cluster.propose_many(leader, 20);
    cluster.ticks(2);
    let wiped = if leader == 3 { 2 } else { 3 };
    cluster.kill(wiped);
    cluster.nodes.remove(&wiped);
    cluster.add(wiped, &voters(&[1, 2, 3]));
    cluster.connect_all();
    cluster.ticks(10);
    cluster.agreed();
    let said = cluster.status(wiped).last_error.unwrap_or_default();
    assert!(said.contains("lost its data"), "{said}");
    let said = cluster.status(leader).last_error.unwrap_or_default();
    assert!(said.contains(&format!("node {wiped} acknowledged")), "{said}");
}

/// The end of what is left may be of a leader that was deposed, and the log that replaced it is what was lost.
#[test]
fn a_voter_whose_log_lost_its_end_does_not_take_the_rest_for_committed() {
    let mut cluster = Cluster::formed(3, 1);
    let deposed = cluster.leader().expect("formed");
    cluster.propose_many(deposed, 3);
    cluster.ticks(4);
    cluster.isolate(deposed);
    cluster.propose(deposed);
    cluster.ticks(4);
    let earlier = cluster.nodes[&deposed].disk.snapshot();
    cluster.ticks(60);
    let leader = (1..=3).find(|id| *id != deposed && cluster.status(*id).role == Role::Leader).expect("elected");
    cluster.propose_many(leader, 5);
    cluster.heal();
    cluster.ticks(10);
    cluster.agreed();

    cluster.kill(deposed);
    cluster.on_disk(deposed, earlier, |_| {});
    cluster.restart(deposed);
    let (term, commit) = (cluster.status(leader).term.0, cluster.status(leader).commit.0);
    cluster.replica(deposed).step(RaftMessage {
        msg_type: MessageType::Heartbeat as i32,
        from: leader as u64,
        to: deposed as u64,
        term,
        commit,
        ..RaftMessage::default()
    });
    cluster.pump();
    cluster.connect_all();
    cluster.ticks(10);
    cluster.agreed();
}

#[test]
fn a_late_refusal_never_moves_next_to_what_is_matched_already() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    cluster.propose_many(leader, 10);
    let peer = if leader == 3 { 2 } else { 3 };
    let term = cluster.status(leader).term.0;
    // Back to probing, as after a lost connection; then a refusal of what is matched, as a late one would be.
    cluster.isolate(peer);
    cluster.propose(leader);
    cluster.replica(leader).peer_lost(NodeId(peer), false);
    let progress = |cluster: &Cluster| {
        cluster.status(leader).peers.into_iter().find(|p| p.node == NodeId(peer)).expect("a member")
    };
    let matched = progress(&cluster).matched;
    assert_eq!(progress(&cluster).state, ProgressKind::Probe);
    assert_eq!(progress(&cluster).next.0, matched.0 + 1);
    cluster.replica(leader).step(RaftMessage {
        msg_type: MessageType::AppendResponse as i32,
        from: peer as u64,
        to: leader as u64,
        term,
        index: matched.0,
        reject: true,
        reject_hint: matched.0,
        log_term: term,
        ..RaftMessage::default()
    });
    let after = progress(&cluster);
    assert_eq!(after.matched, matched);
    assert!(after.next > matched, "next {} <= matched {matched}", after.next);
    cluster.cut.clear();
    cluster.ticks(10);
    cluster.agreed();
}

#[test]
fn nonsense_of_a_peer_is_counted_and_harms_nothing() {
    let mut cluster = Cluster::formed(3, 1);
    let leader = cluster.leader().expect("formed");
    let peer = if leader == 3 { 2 } else { 3 };
    let term = cluster.status(leader).term.0;
    let base = RaftMessage { from: peer as u64, to: leader as u64, term, ..RaftMessage::default() };
    let with = |kind: MessageType| RaftMessage { msg_type: kind as i32, ..base.clone() };
    let nonsense = [
        with(MessageType::Hup),
        with(MessageType::Propose),
        with(MessageType::ReadIndex),
        with(MessageType::Snapshot),
        RaftMessage { term: 0, ..with(MessageType::RequestVote) },
        RaftMessage { index: 1 << 40, ..with(MessageType::AppendResponse) },
        RaftMessage { reject: true, reject_hint: u64::MAX, ..with(MessageType::AppendResponse) },
        RaftMessage { entries: vec![Entry { index: 3, term, ..Entry::default() }], ..with(MessageType::Append) },
        RaftMessage { msg_type: 77, ..base.clone() },
    ];
    let count = nonsense.len() as u64;
    for m in nonsense {
        cluster.replica(leader).step(m);
    }
    assert_eq!(cluster.status(leader).messages_refused, count);
    cluster.propose_many(leader, 3);
    assert_eq!(cluster.acknowledged.len(), 3);
}

#[test]
fn a_learner_follows_a_single_voter_through_its_restarts() {
    let mut cluster = Cluster::new(1);
    cluster.add(1, &voters(&[1]));
    cluster.ticks(1);
    cluster.add(2, &Start::Join);
    cluster.connect_all();
    cluster.change(1, chronik_consensus::MembershipChange::AddLearner(NodeId(2)));
    for round in 0..10 {
        cluster.propose_many(1, 3);
        cluster.ticks(4);
        cluster.agreed();
        cluster.crash(1, round);
        cluster.restart(1);
        cluster.connect_all();
        cluster.elect();
    }
    assert_eq!(cluster.acknowledged.len(), 30);
    assert!(cluster.status(2).applied > RaftIndex(30));
}
