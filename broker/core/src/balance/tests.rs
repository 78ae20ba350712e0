//! Stories, and what holds for every cluster whatever it looks like.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn ids(nodes: &[i32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn broker(node: i32) -> Broker {
    Broker { node: NodeId(node), rack: None, live: true, cordoned: false }
}

fn partition(topic: &str, index: i32, replicas: &[i32]) -> Partition {
    Partition {
        topic: topic.into(),
        topic_id: TopicId::from_u128(1),
        partition: PartitionIndex(index),
        epoch: PartitionEpoch(7),
        replicas: ids(replicas),
        isr: ids(replicas),
        leader: replicas.first().copied().map(NodeId),
        adding: Vec::new(),
        removing: Vec::new(),
        bytes: None,
    }
}

fn cluster(brokers: &[i32], partitions: &[&[i32]]) -> Cluster {
    Cluster {
        brokers: brokers.iter().copied().map(broker).collect(),
        partitions: (0..).zip(partitions).map(|(index, replicas)| partition("t", index, replicas)).collect(),
    }
}

fn shown(moves: &[Move]) -> Vec<String> {
    moves.iter().map(Move::to_string).collect()
}

fn cordon(cluster: &mut Cluster, node: i32) {
    for broker in cluster.brokers.iter_mut().filter(|broker| broker.node == NodeId(node)) {
        broker.cordoned = true;
    }
}

/// Makes a move, all at once.
fn apply(cluster: &mut Cluster, change: &Move) {
    let live: BTreeSet<NodeId> = cluster.brokers.iter().filter(|b| b.live).map(|b| b.node).collect();
    for partition in &mut cluster.partitions {
        if (&partition.topic, partition.partition) == (&change.topic, change.partition) {
            partition.replicas.clone_from(&change.to);
            partition.isr = change.to.iter().copied().filter(|node| live.contains(node)).collect();
            if partition.leader.is_some_and(|leader| !change.to.contains(&leader)) {
                partition.leader = partition.isr.first().copied();
            }
            (partition.adding, partition.removing) = (Vec::new(), Vec::new());
        }
    }
}

fn elect(cluster: &mut Cluster, election: &Election) {
    for partition in &mut cluster.partitions {
        if (&partition.topic, partition.partition) == (&election.topic, election.partition) {
            partition.leader = partition.replicas.first().copied();
        }
    }
}

fn counts(cluster: &Cluster) -> BTreeMap<NodeId, (usize, usize)> {
    let mut counts: BTreeMap<NodeId, (usize, usize)> = cluster.brokers.iter().map(|b| (b.node, (0, 0))).collect();
    for partition in &cluster.partitions {
        for (position, node) in partition.replicas.iter().enumerate() {
            let count = counts.entry(*node).or_default();
            count.0 += 1;
            count.1 += usize::from(position == 0);
        }
    }
    counts
}

/// Makes plans and the first `at_a_time` steps of each until nothing is left; the number of copies it took.
fn balance(cluster: &mut Cluster, at_a_time: usize) -> usize {
    let mut copies = 0;
    for _ in 0..2_000 {
        let plan = plan(cluster);
        if plan.moves.is_empty() && plan.reorders.is_empty() && plan.elections.is_empty() {
            return copies;
        }
        for change in plan.moves.iter().take(at_a_time) {
            copies += change.copies().count();
            apply(cluster, change);
        }
        if plan.moves.is_empty() {
            plan.reorders.iter().take(at_a_time).for_each(|change| apply(cluster, change));
            if plan.reorders.is_empty() {
                plan.elections.iter().take(at_a_time).for_each(|election| elect(cluster, election));
            }
        }
    }
    panic!("no end: {cluster:?}");
}

#[test]
fn an_even_cluster_is_left_alone() {
    let cluster = cluster(&[1, 2, 3], &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    assert_eq!(plan(&cluster), Plan::default());
    assert!(plan(&cluster).is_done());
}

#[test]
fn a_new_broker_gets_its_share_and_not_more_than_that_is_copied() {
    let mut cluster = cluster(&[1, 2, 3, 4], &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 3, 2]]);
    let first = plan(&cluster);
    assert_eq!(first.moves.len(), 3, "{:?}", shown(&first.moves));
    assert_eq!(balance(&mut cluster, 1), 3);
    assert!(counts(&cluster).values().all(|count| *count == (3, 1)), "{:?}", counts(&cluster));
}

#[test]
fn a_cordoned_broker_gets_empty_and_urgent_moves_come_first() {
    let mut cluster = cluster(&[1, 2, 3, 4, 5], &[&[1, 2, 3], &[2, 3, 4], &[3, 4, 5], &[4, 5, 1], &[5, 1, 2]]);
    cordon(&mut cluster, 5);
    let first = plan(&cluster);
    assert!(first.moves.iter().all(|change| change.from.contains(&NodeId(5))), "{:?}", shown(&first.moves));
    assert_eq!(balance(&mut cluster, 2), 3);
    assert_eq!(counts(&cluster)[&NodeId(5)], (0, 0));
}

#[test]
fn what_cannot_leave_a_cordoned_broker_is_told_with_its_topic() {
    let mut cluster = cluster(&[1, 2, 3], &[&[1, 2, 3], &[2, 3]]);
    cluster.partitions[1].topic = "small".into();
    cordon(&mut cluster, 3);
    let plan = plan(&cluster);
    let blocked = Blocked::ReplicationFactorTooHigh { topic: "t".into(), replication_factor: 3, brokers: 2 };
    assert_eq!((plan.stuck, &plan.blocked[..]), (1, &[blocked][..]));
    assert_eq!(shown(&plan.moves), ["small-1: 2,3 -> 2,1"], "what can leave leaves");
    assert!(plan.blocked[0].to_string().contains("topic t has 3 replicas, and only 2"));
}

#[test]
fn a_dead_broker_keeps_what_it_has_and_is_waited_for_when_it_is_needed() {
    let mut cluster = cluster(&[1, 2, 3, 4], &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    cluster.brokers[3].live = false;
    assert!(plan(&cluster).is_done());
    cordon(&mut cluster, 3);
    let blocked = plan(&cluster).blocked;
    assert_eq!(blocked, [Blocked::BrokersNotAlive { topic: "t".into(), brokers: ids(&[4]) }]);
    cluster.brokers[3].live = true;
    cluster.brokers[2].live = false;
    assert_eq!(balance(&mut cluster, 3), 3, "a dead broker that is cordoned is replaced");
    assert_eq!(counts(&cluster)[&NodeId(3)], (0, 0));
}

#[test]
fn a_partition_without_a_leader_stays_and_is_told() {
    let mut cluster = cluster(&[1, 2, 3], &[&[1, 2]]);
    cluster.partitions[0].leader = None;
    cordon(&mut cluster, 1);
    let plan = plan(&cluster);
    assert_eq!(plan.blocked, [Blocked::NoLeader { topic: "t".into(), partition: PartitionIndex(0) }]);
    assert!(plan.moves.is_empty());
}

#[test]
fn a_reassignment_is_left_alone_unless_it_goes_to_a_cordoned_broker() {
    let mut cluster = cluster(&[1, 2, 3, 4], &[&[1, 2, 4, 3]]);
    (cluster.partitions[0].adding, cluster.partitions[0].removing) = (ids(&[4]), ids(&[3]));
    cluster.partitions[0].isr = ids(&[1, 2, 3]);
    let untouched = plan(&cluster);
    assert_eq!((untouched.in_flight, untouched.moves.len(), untouched.blocked.len()), (1, 0, 0));
    cluster.brokers[3].live = false;
    let waits = Blocked::AddedNotAlive { topic: "t".into(), partition: PartitionIndex(0), broker: NodeId(4) };
    assert_eq!(plan(&cluster).blocked, [waits]);
    cordon(&mut cluster, 4);
    let turned = plan(&cluster);
    assert_eq!((turned.in_flight, shown(&turned.moves)), (0, vec!["t-0: 1,2,4 -> 1,2,3".to_owned()]));
}

#[test]
fn replicas_part_from_a_shared_rack_and_never_meet_in_one_again() {
    let mut cluster = cluster(&[1, 2, 3, 4], &[&[1, 2], &[1, 2], &[3, 4], &[3, 4]]);
    for (broker, rack) in cluster.brokers.iter_mut().zip(["a", "a", "b", "b"]) {
        broker.rack = Some(rack.into());
    }
    assert_eq!(balance(&mut cluster, 1), 4);
    for partition in &cluster.partitions {
        let racks: BTreeSet<bool> = partition.replicas.iter().map(|node| node.0 <= 2).collect();
        assert_eq!(racks.len(), 2, "{partition:?}");
    }
    assert!(counts(&cluster).values().all(|count| *count == (2, 1)), "{:?}", counts(&cluster));
}

#[test]
fn leaderships_get_even_by_another_order_and_then_the_preferred_are_elected() {
    let mut cluster = cluster(&[1, 2, 3], &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
    let first = plan(&cluster);
    assert_eq!((first.moves.len(), first.reorders.len(), first.elections.len()), (0, 2, 0));
    assert_eq!(balance(&mut cluster, 1), 0);
    assert!(counts(&cluster).values().all(|count| *count == (3, 1)));
    assert!(cluster.partitions.iter().all(|p| p.leader == p.replicas.first().copied()));
}

#[test]
fn a_chain_evens_what_no_single_move_can() {
    // Nothing of broker 1 may go to 3 (rack a is 2's partner), but something of 1 to 2 and of 2 to 3.
    let mut cluster = cluster(&[1, 2, 3, 4], &[&[1, 4], &[1, 4], &[1, 4], &[2, 4], &[2]]);
    for (broker, rack) in cluster.brokers.iter_mut().zip(["a", "a", "b", "b"]) {
        broker.rack = Some(rack.into());
    }
    balance(&mut cluster, 1);
    let counts = counts(&cluster);
    let (most, least) =
        (counts.values().map(|count| count.0).max().unwrap(), counts.values().map(|count| count.0).min().unwrap());
    assert!(most - least <= 1, "{counts:?}");
}

fn any_cluster(racks: bool, dead: bool) -> impl Strategy<Value = Cluster> {
    (1_usize..8).prop_flat_map(move |n| {
        let brokers = prop::collection::vec((0_u8..4, 0_u8..6, 0_u8..5), n);
        let list: Vec<i32> = (1..=i32::try_from(n).unwrap()).collect();
        let assignment = (1..=n.min(4)).prop_flat_map(move |factor| {
            (Just(list.clone()).prop_shuffle().prop_map(move |ids| ids[..factor].to_vec()), 0_u8..20, 0_u8..12)
        });
        (brokers, prop::collection::vec(assignment, 0..40)).prop_map(move |(brokers, partitions)| {
            let brokers: Vec<Broker> = (1..)
                .zip(brokers)
                .map(|(node, (rack, live, cordoned))| Broker {
                    node: NodeId(node),
                    rack: (racks && rack > 0).then(|| rack.to_string()),
                    live: !dead || live > 0,
                    cordoned: cordoned == 0,
                })
                .collect();
            let alive: BTreeSet<NodeId> = brokers.iter().filter(|b| b.live).map(|b| b.node).collect();
            let partitions = (0..).zip(partitions).map(|(index, (replicas, leaderless, flight))| {
                let mut p = partition(["a", "b", "c"][index as usize % 3], index, &replicas);
                p.isr.retain(|node| alive.contains(node));
                p.leader = p.isr.get(usize::from(leaderless) % p.isr.len().max(1)).copied();
                if dead && leaderless == 0 {
                    p.leader = None;
                }
                if dead && flight == 0 && replicas.len() > 1 {
                    (p.adding, p.removing) = (p.replicas[..1].to_vec(), p.replicas[1..2].to_vec());
                }
                p
            });
            Cluster { partitions: partitions.collect(), brokers }
        })
    })
}

fn conflicts(cluster: &Cluster, replicas: &[NodeId]) -> usize {
    let rack = |node: &NodeId| cluster.brokers.iter().find(|b| b.node == *node).and_then(|b| b.rack.clone());
    let racks: Vec<String> = replicas.iter().filter_map(rack).collect();
    (0..racks.len()).map(|n| racks[..n].iter().filter(|rack| **rack == racks[n]).count()).sum()
}

/// What a plan may never say.
fn check(cluster: &Cluster, plan: &Plan) {
    let targets: BTreeSet<NodeId> = cluster.brokers.iter().filter(|b| b.live && !b.cordoned).map(|b| b.node).collect();
    let cordoned: BTreeSet<NodeId> = cluster.brokers.iter().filter(|b| b.cordoned).map(|b| b.node).collect();
    let dead: BTreeSet<NodeId> = cluster.brokers.iter().filter(|b| !b.live && !b.cordoned).map(|b| b.node).collect();
    for change in plan.moves.iter().chain(&plan.reorders) {
        let unique: BTreeSet<NodeId> = change.to.iter().copied().collect();
        assert_eq!(unique.len(), change.to.len(), "{change}: twice on one broker");
        assert_eq!(change.to.len(), change.from.len(), "{change}: another replication factor");
        assert!(change.copies().all(|node| targets.contains(&node)), "{change}: not a target");
        let lost = change.from.iter().filter(|node| !change.to.contains(node));
        assert!(lost.clone().all(|node| !dead.contains(node)), "{change}: a dead broker lost its replica");
        if !change.from.iter().any(|node| cordoned.contains(node)) {
            assert!(conflicts(cluster, &change.to) <= conflicts(cluster, &change.from), "{change}: racks got worse");
        }
        let of = cluster.partitions.iter().find(|p| (&p.topic, p.partition) == (&change.topic, change.partition));
        let of = of.unwrap();
        assert!(of.leader.is_some(), "{change}: nobody to copy from");
        let misled = of.adding.iter().any(|node| cordoned.contains(node));
        assert!(misled || (of.adding.is_empty() && of.removing.is_empty()), "{change}: in flight");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cluster_comes_to_rest_whatever_is_applied_at_a_time(
        cluster in any_cluster(true, true), at_a_time in 1_usize..6,
    ) {
        let first = plan(&cluster);
        check(&cluster, &first);
        let planned: usize = first.moves.iter().map(|change| change.copies().count()).sum();
        let mut after = cluster.clone();
        let copied = balance(&mut after, at_a_time);
        // Where racks, dead brokers and reassignments stand in the way, a plan made half way may find another way round.
        prop_assert!(
            copied <= planned + cluster.brokers.len(),
            "planned {planned}, copied {copied} by {at_a_time}: {:?}", shown(&first.moves)
        );
        let last = plan(&after);
        check(&after, &last);
        prop_assert!(last.moves.is_empty() && last.reorders.is_empty());
        // A replica that is still on a cordoned broker has a reason to.
        let cordoned: BTreeSet<NodeId> = after.brokers.iter().filter(|b| b.cordoned).map(|b| b.node).collect();
        let in_flight = |p: &Partition| !p.adding.is_empty() || !p.removing.is_empty();
        for p in after.partitions.iter().filter(|p| !in_flight(p)) {
            if p.replicas.iter().any(|node| cordoned.contains(node)) {
                prop_assert!(last.stuck > 0 && !last.blocked.is_empty(), "{p:?} is stuck without a reason");
            }
        }
    }

    #[test]
    fn the_same_cluster_gets_the_same_plan_in_whatever_order_it_is_told(cluster in any_cluster(true, true)) {
        let mut mirrored = cluster.clone();
        mirrored.brokers.reverse();
        mirrored.partitions.reverse();
        prop_assert_eq!(plan(&cluster), plan(&mirrored));
    }

    #[test]
    fn without_racks_the_counts_differ_by_one_at_most_and_no_copy_is_wasted(cluster in any_cluster(false, false)) {
        let free: Vec<NodeId> = cluster.brokers.iter().filter(|b| !b.cordoned).map(|b| b.node).collect();
        if free.is_empty() || !plan(&cluster).blocked.is_empty() {
            return Ok(());
        }
        let before = counts(&cluster);
        let mut after = cluster.clone();
        let copied = balance(&mut after, 1_000);
        let loads: Vec<usize> = free.iter().map(|node| counts(&after)[node].0).collect();
        let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
        prop_assert!(most - least <= 1, "{loads:?}");
        // No plan can do with less: what is on cordoned brokers and what is above the average has to go, what is below
        // has to come. Where the replicas of one partition stand in each other's way, a chain takes one more.
        let total: usize = loads.iter().sum();
        let (floor, ceiling) = (total / free.len(), total.div_ceil(free.len()));
        let leaves: usize = before.iter().filter(|(node, _)| !free.contains(node)).map(|(_, count)| count.0).sum();
        let above: usize = free.iter().map(|node| before[node].0.saturating_sub(ceiling)).sum();
        let below: usize = free.iter().map(|node| floor.saturating_sub(before[node].0)).sum();
        let needed = (leaves + above).max(below);
        prop_assert!(copied >= needed);
        let most_factor = cluster.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(0);
        if leaves == 0 || most_factor == 1 {
            prop_assert_eq!(copied, needed);
        } else {
            prop_assert!(copied <= needed + free.len(), "{} copied, {} needed", copied, needed);
        }
    }
}
