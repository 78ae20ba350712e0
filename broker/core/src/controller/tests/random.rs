//! Any history of commands: the invariants hold, no acknowledged record is lost, and every broker agrees.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::{LeaderEpoch, Offset};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Register {
        node: i32,
        clean: bool,
        new_disk: bool,
    },
    Fence(i32),
    Unfence(i32),
    Shutdown(i32),
    LoseDisk(i32),
    Unregister(i32),
    Create {
        topic: u8,
        partitions: i32,
        factor: i32,
    },
    Delete(u8),
    Grow(u8),
    Isr {
        topic: u8,
        partition: usize,
        members: u8,
        stale: bool,
        recovering: bool,
    },
    MinIsr {
        topic: Option<u8>,
        value: u8,
    },
    Elect,
    /// `order` is a number that stands for a choice of brokers in an order; none of them cancels.
    Reassign {
        topic: u8,
        partition: usize,
        order: usize,
        stale: bool,
    },
    Cordon {
        node: i32,
        cordoned: bool,
    },
    Rack {
        node: i32,
        rack: Option<u8>,
    },
    MoveLeaders(i32),
    Report {
        topic: u8,
        partition: usize,
        node: i32,
        epoch: i32,
        end: i64,
    },
    Retry(usize),
}

const BROKERS: i32 = 4;

fn step() -> impl Strategy<Value = Step> {
    let node = 1..=BROKERS;
    let topic = 0..3u8;
    prop_oneof![
        4 => (node.clone(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(node, clean, new_disk)| Step::Register { node, clean, new_disk }),
        4 => node.clone().prop_map(Step::Fence),
        6 => node.clone().prop_map(Step::Unfence),
        1 => node.clone().prop_map(Step::Shutdown),
        1 => node.clone().prop_map(Step::LoseDisk),
        1 => node.prop_map(Step::Unregister),
        3 => (topic.clone(), 1..4i32, 1..=BROKERS)
            .prop_map(|(topic, partitions, factor)| Step::Create { topic, partitions, factor }),
        1 => topic.clone().prop_map(Step::Delete),
        1 => topic.clone().prop_map(Step::Grow),
        12 => (topic.clone(), 0..3usize, any::<u8>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
            |(topic, partition, members, stale, recovering)| Step::Isr { topic, partition, members, stale, recovering }
        ),
        2 => (prop::option::of(topic.clone()), 1..4u8).prop_map(|(topic, value)| Step::MinIsr { topic, value }),
        1 => Just(Step::Elect),
        8 => (topic.clone(), 0..3usize, 0..orders().len(), prop::bool::weighted(0.1))
            .prop_map(|(topic, partition, order, stale)| Step::Reassign { topic, partition, order, stale }),
        1 => (1..=BROKERS, any::<bool>()).prop_map(|(node, cordoned)| Step::Cordon { node, cordoned }),
        1 => (1..=BROKERS, prop::option::of(0..2u8)).prop_map(|(node, rack)| Step::Rack { node, rack }),
        1 => (1..=BROKERS).prop_map(Step::MoveLeaders),
        6 => (topic, 0..3usize, 1..=BROKERS, 0..2i32, 0..4i64)
            .prop_map(|(topic, partition, node, epoch, end)| Step::Report { topic, partition, node, epoch, end }),
        1 => any::<usize>().prop_map(Step::Retry),
    ]
}

/// Every list of different brokers, the empty one too.
fn orders() -> Vec<Vec<NodeId>> {
    let mut orders = vec![Vec::new()];
    let mut at = 0;
    while at < orders.len() {
        for node in (1..=BROKERS).map(NodeId) {
            if !orders[at].contains(&node) {
                let longer = orders[at].iter().copied().chain([node]).collect();
                orders.push(longer);
            }
        }
        at += 1;
    }
    orders
}

fn name(topic: u8) -> String {
    format!("topic-{topic}")
}

/// Who holds every acknowledged record of a partition, at worst.
type Holders = BTreeMap<(TopicId, i32), BTreeSet<NodeId>>;

struct Run {
    cluster: Cluster,
    holders: Holders,
    /// The last thing told of each log in its broker's registration.
    told: BTreeMap<((TopicId, i32), NodeId), (i32, i64)>,
    /// What each reassignment under way is to end with.
    goals: BTreeMap<(TopicId, i32), Vec<NodeId>>,
    topics: u128,
}

impl Run {
    fn command(&mut self, step: &Step) -> Option<Command> {
        let state = &self.cluster.state;
        let at = |node: i32| (NodeId(node), self.cluster.epoch(node));
        Some(match *step {
            Step::Register { node, clean, new_disk } => {
                let previous = if clean { self.cluster.epoch(node) } else { BrokerEpoch::NONE };
                let mut registration = self.cluster.registration(node, previous);
                if new_disk {
                    registration.directories = vec![Uuid::from_u128(self.cluster.incarnations << 64)];
                } else if let Some(broker) = self.cluster.state.broker(NodeId(node)) {
                    registration.directories.clone_from(&broker.directories);
                }
                registration.into()
            }
            Step::Fence(node) => {
                let (node, broker_epoch) = at(node);
                FenceBroker { node, broker_epoch, reason: String::new() }.into()
            }
            Step::Unfence(node) => {
                let (node, broker_epoch) = at(node);
                UnfenceBroker { node, broker_epoch }.into()
            }
            Step::Shutdown(node) => {
                let (node, broker_epoch) = at(node);
                BeginControlledShutdown { node, broker_epoch }.into()
            }
            Step::LoseDisk(node) => {
                let (node, broker_epoch) = at(node);
                let directories = state.broker(node)?.directories.clone();
                OfflineDirs { node, broker_epoch, directories }.into()
            }
            Step::Unregister(node) => UnregisterBroker { node: NodeId(node) }.into(),
            Step::Create { topic, partitions, factor } => {
                self.topics += 1;
                let topic_id = Uuid::from_u128(self.topics);
                let mut creation = Cluster::creation(&name(topic), &[]);
                creation.topic_id = topic_id;
                creation.partitions = partitions;
                creation.replication_factor = factor;
                creation.into()
            }
            Step::Delete(topic) => DeleteTopic { topic_id: state.topic(&name(topic))?.id }.into(),
            Step::Grow(topic) => {
                let topic = state.topic(&name(topic))?;
                let total = topic.partitions.len() as i32 + 1;
                CreatePartitions { topic_id: topic.id, total, assignments: vec![] }.into()
            }
            Step::Isr { topic, partition, members, stale, recovering } => {
                let topic = state.topic(&name(topic))?;
                let partition_state = topic.partitions.get(partition)?;
                let leader = partition_state.leader?;
                let chosen = partition_state.replicas.iter().copied();
                let chosen = chosen.filter(|node| *node == leader || members & (1 << node.0) != 0);
                let mut partition_epoch = partition_state.partition_epoch;
                partition_epoch.0 -= i32::from(stale);
                AlterPartition {
                    node: leader,
                    broker_epoch: self.cluster.epoch(leader.0),
                    topic_id: topic.id,
                    partition: PartitionIndex(partition as i32),
                    leader_epoch: partition_state.leader_epoch,
                    partition_epoch,
                    new_isr: chosen.map(|n| IsrMember { node: n, broker_epoch: self.cluster.epoch(n.0) }).collect(),
                    recovery: if recovering { LeaderRecovery::Recovering } else { LeaderRecovery::Recovered },
                }
                .into()
            }
            Step::MinIsr { topic, value } => {
                let resource = topic.map_or(ConfigResource::ClusterDefault, |t| ConfigResource::Topic(name(t).into()));
                alter(resource, "min.insync.replicas", ConfigOp::Set, Some(&value.to_string())).into()
            }
            Step::Reassign { topic, partition, order, stale } => {
                let topic = state.topic(&name(topic))?;
                let mut partition_epoch = topic.partitions.get(partition)?.partition_epoch;
                partition_epoch.0 -= i32::from(stale);
                let target = Some(Assignment { replicas: orders()[order].clone() });
                let wanted = Reassignment {
                    topic_id: topic.id,
                    partition: PartitionIndex(partition as i32),
                    target: target.filter(|target| !target.replicas.is_empty()),
                    partition_epoch: Some(partition_epoch),
                };
                AlterReassignments { reassignments: vec![wanted], keep_replication_factor: false }.into()
            }
            Step::Cordon { node, cordoned } => SetCordon { node: NodeId(node), cordoned }.into(),
            Step::Rack { node, rack } => {
                SetBrokerRack { node: NodeId(node), rack: rack.map(|rack| rack.to_string()) }.into()
            }
            Step::MoveLeaders(node) => MoveLeaders { node: NodeId(node) }.into(),
            Step::Elect => ElectLeaders { election: ElectionType::Preferred, partitions: vec![] }.into(),
            Step::Report { topic, partition, node, epoch, end } => {
                let topic = state.topic(&name(topic))?;
                let partition_state = topic.partitions.get(partition)?;
                ReportLog {
                    node: NodeId(node),
                    broker_epoch: self.cluster.epoch(node),
                    topic_id: topic.id,
                    partition: PartitionIndex(partition as i32),
                    leader_epoch: partition_state.leader_epoch,
                    last_epoch: LeaderEpoch(epoch),
                    log_end: Offset(end),
                }
                .into()
            }
            Step::Retry(_) => return None,
        })
    }

    fn take(&mut self, step: &Step) {
        if let Step::Retry(which) = step {
            if !self.cluster.log.is_empty() {
                let bytes = self.cluster.log[which % self.cluster.log.len()].1.clone();
                self.cluster.commit(bytes);
                assert_eq!(self.cluster.changes, [], "a retry changes nothing");
            }
            return;
        }
        let Some(command) = self.command(step) else { return };
        let caught_up = matches!(command, Command::AlterPartition(_));
        let registered = if let Command::RegisterBroker(c) = &command { Some(c.clone()) } else { None };
        let old = registered.as_ref().and_then(|c| self.cluster.state.broker(c.node).cloned());
        let node = registered.as_ref().map(|command| command.node);
        let told = if let Command::ReportLog(told) = &command { Some(*told) } else { None };
        let goal = self.goal(&command);
        let result = self.cluster.propose(command);
        if let (Some((key, goal)), CommandResult::Reassignments(outcomes)) = (goal, &result)
            && outcomes[0].code == ErrorCode::None
        {
            self.goals.insert(key, goal);
        }
        if let (Some(told), CommandResult::Done) = (told, &result) {
            let key = ((told.topic_id, told.partition.0), told.node);
            self.told.insert(key, (told.last_epoch.0, told.log_end.0));
        }
        if let (Some(node), CommandResult::Registered(_)) = (node, &result) {
            self.told.retain(|(_, other), _| *other != node);
        }
        let changes = std::mem::take(&mut self.cluster.changes);
        if let (Some(command), CommandResult::Registered(_)) = (registered, result) {
            let trusted = old
                .is_none_or(|old| old.epoch == command.previous_broker_epoch && old.directories == command.directories);
            if !trusted {
                self.holders.values_mut().for_each(|holders| {
                    holders.remove(&command.node);
                });
            }
        }
        for change in changes {
            self.follow(change, caught_up, node);
        }
        for (topic, index, state) in self.cluster.state.partitions() {
            // With enough replicas in sync, records may be acknowledged that nobody else has.
            if state.isr.len() >= state.min_isr(self.cluster.state.configured_min_isr(topic)) {
                self.holders.insert((topic.id, index.0), state.isr.iter().copied().collect());
            }
        }
    }

    /// What the partition is to end with, if `command` is accepted.
    fn goal(&self, command: &Command) -> Option<((TopicId, i32), Vec<NodeId>)> {
        let Command::AlterReassignments(command) = command else { return None };
        let wanted = command.reassignments.first()?;
        let state = self.cluster.state.partition_by_id(wanted.topic_id, wanted.partition)?;
        let goal = wanted.target.as_ref().map_or_else(|| state.original_replicas(), |target| target.replicas.clone());
        Some(((wanted.topic_id, wanted.partition.0), goal))
    }

    /// Whoever is new among the replicas was not cordoned, and what they are on the way to is what was asked for.
    fn check_assignment(&self, key: (TopicId, i32), state: &PartitionState, previous: Option<&PartitionState>) {
        let before = previous.map_or(&[][..], |previous| &previous.replicas);
        for node in state.replicas.iter().filter(|node| !before.contains(node)) {
            assert!(!self.cluster.state.broker(*node).unwrap().cordoned, "{previous:?} -> {state:?}");
        }
        match self.goals.get(&key) {
            Some(goal) => assert_eq!(state.target_replicas(), *goal, "{previous:?} -> {state:?}"),
            None => assert!(previous.is_none_or(|previous| previous.replicas == state.replicas), "{state:?}"),
        }
    }

    fn follow(&mut self, change: Change, caught_up: bool, registered: Option<NodeId>) {
        let Change::Partition { topic_id, partition, state, previous, .. } = change else { return };
        let key = (topic_id, partition.0);
        self.check_assignment(key, &state, previous.as_ref());
        let Some(previous) = previous else {
            self.holders.insert(key, state.replicas.iter().copied().collect());
            return;
        };
        assert!(state.partition_epoch.0 > previous.partition_epoch.0, "{previous:?} -> {state:?}");
        let led_on = state.leader == previous.leader;
        let dropped = previous.replicas.iter().any(|node| !state.replicas.contains(node));
        assert_eq!(
            state.leader_epoch.0,
            previous.leader_epoch.0 + i32::from(!led_on || dropped),
            "{previous:?} -> {state:?}"
        );
        let holders = self.holders.entry(key).or_default();
        if caught_up {
            holders.extend(state.isr.iter().copied());
        }
        // Whoever is no replica any more deletes what it had.
        holders.retain(|node| state.replicas.contains(node));
        match state.leader {
            Some(leader) if !led_on && state.recovery == LeaderRecovery::Recovering && previous.isr.is_empty() => {
                // Elected as it is; only one of those that were distrusted may be, only when nobody better can return, and
                // only one with the longest log of all of them.
                if !holders.contains(&leader) {
                    let member = |node: &&NodeId| state.last_known_elr.contains(*node) || **node == leader;
                    let members: Vec<NodeId> = state.replicas.iter().filter(member).copied().collect();
                    let told = &self.told;
                    let end = |node: &NodeId| told.get(&(key, *node)).copied();
                    let known = |node: &NodeId| previous.last_known_elr.contains(node) || registered == Some(*node);
                    assert!(members.iter().all(known), "{previous:?} -> {state:?}");
                    let alone = members.len() == 1;
                    let most = members.iter().map(end).max().flatten();
                    assert!(alone || members.iter().all(|node| end(node).is_some()), "{previous:?} -> {state:?}");
                    assert!(alone || end(&leader) == most, "{previous:?} -> {state:?}");
                }
                *holders = BTreeSet::from([leader]);
            }
            Some(leader) if !led_on => {
                assert!(holders.contains(&leader), "acknowledged records are lost: {previous:?} -> {state:?}");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants_and_acknowledged_records_and_replays_alike(
        steps in prop::collection::vec(step(), 1..120),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut run = Run { cluster: Cluster::of(BROKERS), holders: Holders::new(), told: BTreeMap::new(), goals: BTreeMap::new(), topics: 0 };
        let cut = cut.index(steps.len());
        let mut snapshot = (run.cluster.state.encode_snapshot(), run.cluster.log.len());
        for (position, step) in steps.iter().enumerate() {
            run.take(step);
            if position == cut {
                snapshot = (run.cluster.state.encode_snapshot(), run.cluster.log.len());
            }
        }
        let mut restored = MetadataState::decode_snapshot(&snapshot.0).unwrap();
        for (index, bytes) in &run.cluster.log[snapshot.1..] {
            restored.apply(*index, bytes);
        }
        prop_assert_eq!(restored.hash(), run.cluster.state.hash());
        prop_assert_eq!(restored, run.cluster.state);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut state = MetadataState::new();
        state.apply(RaftIndex(1), &bytes);
        let _ = MetadataState::decode_snapshot(&bytes);
        let _ = CommandResult::decode(&bytes);
        prop_assert_eq!(state.applied(), RaftIndex(1));
    }
}
