//! Forming, failing over, never disturbing.

use chronik_consensus::mirror::{Entry, MessageType, RaftMessage};
use chronik_consensus::{Config, MembershipChange, Outcome, Role, Start, TransferError};
use chronik_model::NodeId;

use crate::harness::{Cluster, voters};

#[test]
fn three_nodes_started_in_any_order_lead_as_soon_as_two_are_connected() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut cluster = Cluster::new(7);
        cluster.add(order[0], &voters(&[1, 2, 3]));
        cluster.ticks(40);
        assert_eq!(cluster.leader(), None, "one of three never leads");
        let before = cluster.status(order[0]);
        assert_eq!(before.term.0, 5, "pre-vote keeps the term of a lonely node");
        cluster.add(order[1], &voters(&[1, 2, 3]));
        cluster.connect_all();
        let messages = cluster.pump();
        let leader = cluster.leader().expect("without a tick");
        assert_eq!(leader, order[0].min(order[1]), "the lowest connected voter");
        assert!(messages < 30, "{messages} messages");
        cluster.add(order[2], &voters(&[1, 2, 3]));
        cluster.connect_all();
        cluster.ticks(5);
        assert_eq!(cluster.leader(), Some(leader), "the third joins in silence");
        let term = cluster.status(leader).term;
        cluster.ticks(100);
        for id in [1, 2, 3] {
            assert_eq!(cluster.status(id).term, term);
            assert_eq!(cluster.status(id).leader, Some(NodeId(leader)));
        }
        cluster.propose_many(leader, 3);
        cluster.ticks(3);
        cluster.agreed();
    }
}

#[test]
fn a_single_broker_leads_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.add(1, &voters(&[1]));
    cluster.ticks(1);
    assert_eq!(cluster.leader(), Some(1));
    cluster.propose_many(1, 5);
    assert_eq!(cluster.acknowledged.len(), 5);
}

#[test]
fn without_any_news_of_connections_the_timeout_elects_a_leader() {
    let mut cluster = Cluster::new(3);
    for id in [1, 2, 3] {
        cluster.add(id, &voters(&[1, 2, 3]));
    }
    cluster.ticks(9);
    assert_eq!(cluster.leader(), None);
    cluster.elect();
}

#[test]
fn a_killed_leader_is_replaced_without_waiting_for_a_timeout() {
    for n in [3, 5] {
        for victim_at in 0..20 {
            let mut cluster = Cluster::formed(n, victim_at);
            cluster.ticks(20 + victim_at);
            let old = cluster.leader().expect("formed");
            cluster.propose_many(old, 2);
            cluster.kill(old);
            cluster.pump();
            cluster.ticks(1);
            let new = cluster.leader().unwrap_or_else(|| panic!("{n} nodes: no leader after a tick"));
            assert_ne!(new, old);
            cluster.propose_many(new, 2);
            cluster.restart(old);
            cluster.connect_all();
            cluster.ticks(5);
            assert_eq!(cluster.leader(), Some(new), "the old leader follows");
            cluster.agreed();
        }
    }
}

#[test]
fn a_voter_that_notices_the_leaders_death_late_makes_up_for_the_pre_vote_it_turned_down() {
    let mut cluster = Cluster::formed(3, 5);
    cluster.ticks(20);
    let old = cluster.leader().expect("formed");
    let [first, late] = [1, 2, 3].into_iter().filter(|id| *id != old).collect::<Vec<_>>()[..] else { unreachable!() };
    let node = cluster.nodes.get_mut(&old).expect("known");
    node.replica = None;
    node.disk.kill();
    cluster.replica(first).peer_lost(NodeId(old), true);
    cluster.pump();
    assert_eq!(cluster.leader(), None, "broker {late} still trusts the leader");
    cluster.replica(late).peer_lost(NodeId(old), true);
    cluster.pump();
    assert!(cluster.leader().is_some_and(|new| new != old), "no tick passed, and none is needed");
}

#[test]
fn a_leader_that_restarts_between_two_looks_is_replaced_at_once_too() {
    let mut cluster = Cluster::formed(3, 5);
    cluster.ticks(20);
    let old = cluster.leader().expect("formed");
    // The process dies and is back before anybody noticed: no refused connection, only a new greeting.
    let node = cluster.nodes.get_mut(&old).expect("known");
    node.replica = None;
    node.disk.kill();
    cluster.restart(old);
    cluster.connect_all();
    cluster.ticks(6);
    let new = cluster.leader().expect("well before the election timeout");
    cluster.propose_many(new, 1);
    cluster.ticks(3);
    cluster.agreed();
}

#[test]
fn losing_a_connection_that_is_not_refused_disturbs_nobody() {
    let mut cluster = Cluster::formed(3, 9);
    let leader = cluster.leader().expect("formed");
    let term = cluster.status(leader).term;
    for id in [1, 2, 3] {
        for other in [1, 2, 3] {
            if id != other {
                cluster.replica(id).peer_lost(NodeId(other), false);
                cluster.replica(id).peer_connected(NodeId(other), None);
            }
        }
    }
    cluster.ticks(50);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.status(leader).term, term);
}

#[test]
fn a_follower_that_wrongly_believes_the_leader_gone_does_not_disturb_it() {
    let mut cluster = Cluster::formed(3, 9);
    cluster.ticks(10);
    let leader = cluster.leader().expect("formed");
    let term = cluster.status(leader).term;
    let follower = if leader == 3 { 2 } else { 3 };
    cluster.replica(follower).peer_lost(NodeId(leader), true);
    cluster.ticks(30);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.status(leader).term, term);
    assert_eq!(cluster.status(follower).leader, Some(NodeId(leader)));
}

#[test]
fn a_partitioned_leader_steps_down_and_its_proposals_are_reported() {
    let mut cluster = Cluster::formed(3, 11);
    let old = cluster.leader().expect("formed");
    cluster.propose_many(old, 1);
    cluster.isolate(old);
    let lost = cluster.propose(old).expect("still leads in its own eyes");
    cluster.pump();
    cluster.ticks(45);
    assert_ne!(cluster.status(old).role, Role::Leader, "check_quorum");
    assert_eq!(cluster.nodes[&old].outcomes.get(&lost), Some(&Outcome::Unknown));
    let new = cluster.leader().expect("the majority elected");
    assert_ne!(new, old);
    cluster.propose_many(new, 3);
    cluster.heal();
    cluster.ticks(5);
    cluster.agreed();
    assert!(!cluster.acknowledged.contains(&lost));
    assert_eq!(cluster.leader(), Some(new), "coming back disturbs nobody");
}

#[test]
fn leadership_is_handed_over_within_one_exchange() {
    let mut cluster = Cluster::formed(3, 2);
    cluster.ticks(5);
    let old = cluster.leader().expect("formed");
    let to = cluster.replica(old).transfer_leader(None).expect("somebody is there");
    cluster.pump();
    assert_eq!(cluster.leader(), Some(to.0));
    let back = cluster.replica(to.0).transfer_leader(Some(NodeId(old))).expect("named");
    cluster.pump();
    assert_eq!(cluster.leader(), Some(back.0));
    assert_eq!(cluster.replica(to.0).transfer_leader(None), Err(TransferError::NotLeader { leader: Some(back) }));
    assert_eq!(cluster.replica(back.0).transfer_leader(Some(NodeId(9))), Err(TransferError::NotVoter(NodeId(9))));
}

#[test]
fn a_thread_that_was_not_scheduled_for_seconds_reads_its_messages_before_it_campaigns() {
    let mut cluster = Cluster::formed(3, 4);
    let leader = cluster.leader().expect("formed");
    let term = cluster.status(leader).term;
    for _ in 0..20 {
        cluster.now_ms += 5_000;
        for id in [3, 2, 1] {
            let now_ms = cluster.now_ms;
            cluster.replica(id).tick(now_ms);
        }
        cluster.pump();
    }
    assert_eq!(cluster.status(leader).term, term);
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut cluster = Cluster::new(seed);
        for id in [1, 2, 3] {
            cluster.add(id, &voters(&[1, 2, 3]));
        }
        let mut trace = Vec::new();
        for step in 0..300u64 {
            cluster.ticks(1);
            if step % 60 == 30
                && let Some(leader) = cluster.leader()
            {
                cluster.isolate(leader);
            }
            if step % 60 == 59 {
                cluster.cut.clear();
            }
            trace.push([1, 2, 3].map(|id| (cluster.status(id).term, cluster.status(id).role)));
        }
        trace
    };
    assert_eq!(run(1), run(1));
    assert!((2..6).any(|seed| run(seed) != run(1)), "the seed matters");
}

#[test]
fn a_joiner_without_members_never_campaigns() {
    let mut cluster = Cluster::new(1);
    cluster.add(4, &Start::Join);
    cluster.ticks(100);
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.status(4).elections_started, 0);
    assert_eq!(cluster.status(4).term.0, 0);
}

/// Node 1 leads, node 2 lags behind, node 3 acknowledged what node 2 has not got; then 3 loses its disk.
fn wiped_voter(seed: u64) -> Cluster {
    let mut cluster = Cluster::formed(3, seed);
    assert_eq!(cluster.elect(), 1);
    cluster.propose_many(1, 2);
    cluster.isolate(2);
    cluster.propose_many(1, 5);
    assert_eq!(cluster.acknowledged.len(), 7);
    cluster.kill(3);
    cluster.on_disk(3, chronik_log::disk::MemDisk::new(), |_| {});
    cluster
}

#[test]
fn a_founder_that_lost_its_disk_gives_no_vote_to_one_who_lacks_what_it_acknowledged() {
    let mut cluster = wiped_voter(1);
    cluster.kill(1);
    cluster.open(3, &voters(&[1, 2, 3])).expect("founded anew");
    cluster.heal();
    cluster.ticks(100);
    assert_eq!(cluster.leader(), None, "entries that were acknowledged would be lost");
    let said = cluster.status(3).last_error.unwrap_or_default();
    assert!(said.contains("storage is fresh"), "{said}");
    cluster.restart(1);
    cluster.connect_all();
    cluster.elect();
    cluster.ticks(20);
    cluster.agreed();
}

#[test]
fn a_founder_that_lost_its_disk_votes_again_once_it_was_fed() {
    let mut cluster = wiped_voter(1);
    cluster.open(3, &voters(&[1, 2, 3])).expect("founded anew");
    cluster.heal();
    cluster.ticks(20);
    cluster.agreed();
    cluster.kill(1);
    cluster.elect();
    cluster.ticks(20);
    cluster.agreed();
}

#[test]
fn a_founder_that_lost_its_disk_gives_no_vote_while_it_is_fed() {
    while_it_is_fed(false);
}

#[test]
fn a_founder_that_lost_its_disk_does_not_lead_while_it_is_fed_whatever_it_has_by_then() {
    while_it_is_fed(true);
}

/// Node 3 lost its disk, and its leader dies when it has a little again, or more than node 2.
fn while_it_is_fed(more: bool) {
    let mut cluster = Cluster::formed_with(3, 1, |config| {
        config.max_size_per_msg = 1 << 10;
        config.max_inflight_msgs = 1;
    });
    assert_eq!(cluster.elect(), 1);
    cluster.propose_many(1, 100);
    cluster.isolate(2);
    cluster.propose_many(1, 200);
    cluster.kill(3);
    cluster.on_disk(3, chronik_log::disk::MemDisk::new(), |_| {});
    cluster.open(3, &voters(&[1, 2, 3])).expect("founded anew");
    cluster.connect_all();
    while cluster.status(3).last_index.0 <= if more { cluster.status(2).last_index.0 } else { 5 } {
        if cluster.network.is_empty() {
            cluster.now_ms += crate::harness::TICK_MS;
            let now_ms = cluster.now_ms;
            cluster.replica(1).tick(now_ms);
        }
        cluster.work(1);
        cluster.work(3);
        if let Some(m) = cluster.network.pop_front() {
            cluster.deliver(&m);
        }
    }
    assert_eq!(cluster.status(3).last_index > cluster.status(2).last_index, more);
    assert!(cluster.status(3).last_index < cluster.status(1).last_index, "not all");
    cluster.kill(1);
    cluster.heal();
    cluster.ticks(100);
    assert_eq!(cluster.leader(), None, "entries that were acknowledged would be lost");
    cluster.restart(1);
    cluster.connect_all();
    cluster.elect();
    cluster.ticks(20);
    cluster.agreed();
}

/// The image is older than what is committed, and the leader dies before it sends what is behind.
#[test]
fn a_founder_that_lost_its_disk_is_not_fed_with_a_state_image_alone() {
    let tune: fn(&mut Config) = |config| {
        config.compact_entries = 40;
        config.compact_keep_entries = 2;
    };
    let mut cluster = Cluster::formed_with(3, 1, tune);
    assert_eq!(cluster.elect(), 1);
    cluster.propose_many(1, 60);
    cluster.isolate(2);
    cluster.propose_many(1, 15);
    let committed = cluster.status(1).commit;
    cluster.kill(3);
    cluster.on_disk(3, chronik_log::disk::MemDisk::new(), tune);
    cluster.open(3, &voters(&[1, 2, 3])).expect("founded anew");
    cluster.connect(1, 3);
    while cluster.nodes[&3].images_installed == 0 {
        if cluster.network.is_empty() {
            cluster.now_ms += crate::harness::TICK_MS;
            let now_ms = cluster.now_ms;
            cluster.replica(1).tick(now_ms);
        }
        cluster.work(1);
        cluster.work(3);
        if let Some(m) = cluster.network.pop_front() {
            cluster.deliver(&m);
        }
    }
    assert!(cluster.status(3).commit < committed && cluster.status(2).last_index < committed);
    cluster.kill(1);
    cluster.network.clear();
    cluster.heal();
    cluster.ticks(100);
    assert_eq!(cluster.leader(), None, "entries that were acknowledged would be lost");
    cluster.restart(1);
    cluster.connect_all();
    cluster.elect();
    cluster.ticks(30);
    cluster.agreed();
}

/// Of 4 founders 2 get entries before they meet the others again, which saw a later term and voted for nobody in it.
#[test]
fn founders_that_never_got_an_entry_help_to_elect_one_that_has() {
    let founders = [1, 2, 3, 4];
    let mut cluster = Cluster::new(1);
    for id in founders {
        cluster.add(id, &voters(&founders));
    }
    cluster.connect_all();
    while cluster.leader().is_none() {
        for id in founders {
            cluster.work(id);
        }
        let message = cluster.network.pop_front().expect("an election is going on");
        cluster.deliver(&message);
    }
    let leader = cluster.leader().expect("elected");
    assert_eq!(leader, 1);
    cluster.cut.extend([(1, 3), (1, 4)]);
    cluster.propose(leader);
    cluster.pump();
    let has_more = |cluster: &Cluster| founders.map(|id| cluster.status(id).last_index.0 > 5);
    assert_eq!(has_more(&cluster), [true, true, false, false]);
    for id in [3, 4] {
        cluster.replica(id).step(RaftMessage {
            msg_type: MessageType::RequestPreVoteResponse as i32,
            from: 2,
            to: id as u64,
            term: 9,
            reject: true,
            ..RaftMessage::default()
        });
        cluster.work(id);
        assert_eq!(cluster.status(id).term.0, 9);
    }
    assert_eq!(has_more(&cluster), [true, true, false, false]);
    cluster.heal();
    cluster.ticks(30);
    let leader = cluster.elect();
    cluster.propose_many(leader, 3);
    cluster.ticks(30);
    cluster.agreed();
}

/// A joiner made an even number of founders odd, or an odd one even, which a founder that lost its disk does not know.
#[test]
fn a_founder_that_lost_its_disk_trusts_nobody_who_counts_by_other_voters() {
    for founders in [&[1, 2][..], &[1, 2, 3], &[1, 2, 3, 4]] {
        let count = founders.len() as i32;
        let (lost, joiner) = (count, count + 1);
        let mut cluster = Cluster::formed(count, 1);
        assert_eq!(cluster.elect(), 1);
        cluster.add(joiner, &Start::Join);
        cluster.connect_all();
        cluster.change(1, MembershipChange::AddLearner(NodeId(joiner)));
        cluster.ticks(5);
        cluster.change(1, MembershipChange::Promote(NodeId(joiner)));
        cluster.ticks(5);
        // Committed by the leader, by the one whose disk is lost then, and by no more than it takes.
        let behind: Vec<i32> = (2..=joiner).filter(|id| *id != lost).take(founders.len() / 2).collect();
        for id in &behind {
            assert!(cluster.status(*id).voters.contains(&NodeId(joiner)));
            cluster.isolate(*id);
        }
        cluster.propose_many(1, 5);
        assert_eq!(cluster.acknowledged.len(), 5);
        cluster.kill(lost);
        cluster.on_disk(lost, chronik_log::disk::MemDisk::new(), |_| {});
        cluster.kill(1);
        cluster.open(lost, &voters(founders)).expect("founded anew");
        cluster.heal();
        if count == 4 {
            cluster.isolate(joiner);
        }
        cluster.ticks(100);
        assert_eq!(cluster.leader(), None, "{founders:?}: entries that were acknowledged may be lost");
        let said = cluster.status(lost).last_error.unwrap_or_default();
        assert!(said.contains("storage is fresh"), "{founders:?}: {said}");
        cluster.restart(1);
        cluster.heal();
        cluster.elect();
        cluster.ticks(30);
        cluster.agreed();
    }
}

/// Of a founding pair one loses its disk while the other restarts with a change in its log that nobody committed.
#[test]
fn only_a_change_of_voters_that_waits_takes_the_trust_of_an_emptied_founder() {
    for promotes in [false, true] {
        let mut cluster = Cluster::formed(2, 1);
        assert_eq!(cluster.elect(), 1);
        cluster.add(3, &Start::Join);
        cluster.connect_all();
        let (joins, votes) = (MembershipChange::AddLearner(NodeId(3)), MembershipChange::Promote(NodeId(3)));
        if promotes {
            cluster.change(1, joins);
            cluster.ticks(5);
        }
        cluster.kill(2);
        cluster.change(1, if promotes { votes } else { joins });
        let waits = cluster.status(1);
        assert!(waits.last_index.0 > waits.commit.0, "not committed");
        cluster.kill(1);
        cluster.on_disk(2, chronik_log::disk::MemDisk::new(), |_| {});
        cluster.open(2, &voters(&[1, 2])).expect("founded anew");
        cluster.restart(1);
        cluster.connect_all();
        cluster.ticks(100);
        assert_eq!(cluster.leader(), (!promotes).then_some(1));
    }
}

#[test]
fn whoever_was_fed_with_a_state_image_knows_that_the_founders_are_the_voters_still() {
    let mut cluster = Cluster::formed_with(2, 1, |config| {
        config.compact_entries = 10;
        config.compact_keep_entries = 2;
    });
    assert_eq!(cluster.elect(), 1);
    cluster.propose_many(1, 50);
    for (lost, left) in [(2, 1), (1, 2)] {
        cluster.kill(lost);
        cluster.kill(left);
        let disk = chronik_log::disk::MemDisk::new();
        cluster.on_disk(lost, disk, |config| {
            config.compact_entries = 10;
            config.compact_keep_entries = 2;
        });
        cluster.open(lost, &voters(&[1, 2])).expect("founded anew");
        cluster.restart(left);
        cluster.connect_all();
        assert_eq!(cluster.elect(), left);
        cluster.ticks(20);
        assert!(cluster.nodes[&lost].images_installed > 0);
        cluster.agreed();
    }
}

#[test]
fn of_two_voters_one_may_lose_its_disk_while_the_other_restarts() {
    let mut cluster = Cluster::formed(2, 1);
    let leader = cluster.elect();
    cluster.propose_many(leader, 5);
    cluster.kill(1);
    cluster.kill(2);
    cluster.on_disk(2, chronik_log::disk::MemDisk::new(), |_| {});
    cluster.open(2, &voters(&[1, 2])).expect("founded anew");
    cluster.restart(1);
    cluster.connect_all();
    assert_eq!(cluster.elect(), 1);
    cluster.ticks(20);
    cluster.agreed();
}

#[test]
fn a_node_that_is_no_voter_does_not_campaign_however_often_it_is_told_to() {
    let mut cluster = Cluster::new(1);
    cluster.add(4, &Start::Join);
    for _ in 0..3 {
        cluster.replica(4).campaign();
    }
    assert_eq!((cluster.status(4).role, cluster.status(4).term.0), (Role::Follower, 0));
}

#[test]
fn votes_that_nobody_asked_for_do_not_make_a_leader_of_entries_that_are_not_durable() {
    let mut cluster = Cluster::new(1);
    cluster.add(1, &voters(&[1, 2, 3]));
    let message =
        |kind: MessageType, term| RaftMessage { msg_type: kind as i32, to: 1, from: 2, term, ..RaftMessage::default() };
    let entry = Entry { term: 6, index: 6, data: b"x".to_vec().into(), ..Entry::default() };
    let append = RaftMessage { index: 5, log_term: 5, entries: vec![entry], ..message(MessageType::Append, 6) };
    let replica = cluster.replica(1);
    replica.step(append);
    replica.step(message(MessageType::TimeoutNow, 6));
    replica.campaign();
    for term in 6..10 {
        replica.step(message(MessageType::RequestPreVoteResponse, term));
        replica.step(message(MessageType::RequestVoteResponse, term));
    }
    assert_ne!(cluster.status(1).role, Role::Leader);
}
