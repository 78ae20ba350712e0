//! Stories about the controller. Every command goes through its encoded form, and the invariants are checked after it.

mod alter_partition;
mod brokers;
mod configs;
mod elections;
mod liveness;
mod longest_log;
mod rack;
mod random;
mod reassign;
mod replay;
mod topics;
mod versions;

use std::collections::BTreeMap;

use chronik_model::{BrokerEpoch, ErrorCode, NodeId, PartitionIndex, RaftIndex, TopicId, Uuid};

use super::*;
use crate::{LeaderRecovery, PartitionState};

/// A controller and what was committed to it.
#[derive(Default)]
struct Cluster {
    state: MetadataState,
    log: Vec<(RaftIndex, Vec<u8>)>,
    sequence: u64,
    incarnations: u128,
    changes: Vec<Change>,
}

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn endpoint(node: i32, port: u16) -> Endpoint {
    Endpoint { host: format!("broker-{node}"), port }
}

impl Cluster {
    /// `count` live brokers.
    fn of(count: i32) -> Self {
        let mut cluster = Self::default();
        for node in 1..=count {
            cluster.start(node, BrokerEpoch::NONE);
        }
        cluster
    }

    /// As the server does: the metadata version is raised first where the command needs it.
    fn propose(&mut self, command: impl Into<Command>) -> CommandResult {
        let command = command.into();
        if let Ok(Some(raise)) = self.state.raise_for(&command, &[]) {
            self.propose_only(raise);
        }
        self.propose_only(command)
    }

    fn propose_only(&mut self, command: impl Into<Command>) -> CommandResult {
        self.sequence += 1;
        let id = ProposalId { origin: NodeId(1), incarnation: Uuid::from_u128(7), sequence: self.sequence };
        self.commit(Envelope::new(id, 1_000, command).encode())
    }

    fn commit(&mut self, bytes: Vec<u8>) -> CommandResult {
        let index = RaftIndex(self.state.applied().0 + 1);
        let applied = self.state.apply(index, &bytes);
        self.log.push((index, bytes));
        self.changes = applied.changes;
        check_invariants(&self.state).unwrap();
        assert_eq!(CommandResult::decode(&applied.result.encode()).as_ref(), Ok(&applied.result));
        applied.result
    }

    #[track_caller]
    fn accept(&mut self, command: impl Into<Command>) -> CommandResult {
        self.propose(command).ok().unwrap()
    }

    #[track_caller]
    fn refuse(&mut self, command: impl Into<Command>, code: ErrorCode) -> String {
        let before = self.state.topics.clone();
        let error = self.propose(command).ok().unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert_eq!(self.changes, [], "a refusal changes nothing");
        assert_eq!(self.state.topics, before, "a refusal changes nothing");
        error.message
    }

    fn registration(&mut self, node: i32, previous: BrokerEpoch) -> RegisterBroker {
        self.incarnations += 1;
        RegisterBroker {
            node: NodeId(node),
            incarnation: Uuid::from_u128(self.incarnations),
            directories: vec![Uuid::from_u128(1000 + node.unsigned_abs() as u128)],
            cluster_id: "chronik".into(),
            endpoints: Endpoints {
                kafka: endpoint(node, 9092),
                replication: endpoint(node, 9292),
                control: endpoint(node, 9192),
                admin: endpoint(node, 9392),
                listeners: Vec::new(),
            },
            rack: None,
            previous_broker_epoch: previous,
            software_version: "test".to_owned(),
            metadata_version: METADATA_VERSION,
        }
    }

    fn epoch(&self, node: i32) -> BrokerEpoch {
        self.state.broker(NodeId(node)).map_or(BrokerEpoch::NONE, |broker| broker.epoch)
    }

    fn register(&mut self, node: i32, previous: BrokerEpoch) {
        let registration = self.registration(node, previous);
        let result = self.accept(registration);
        assert_eq!(result, CommandResult::Registered(BrokerEpoch(self.state.applied().0 as i64)));
    }

    fn unfence(&mut self, node: i32) {
        let broker_epoch = self.epoch(node);
        self.accept(UnfenceBroker { node: NodeId(node), broker_epoch });
    }

    fn start(&mut self, node: i32, previous: BrokerEpoch) {
        self.register(node, previous);
        self.unfence(node);
    }

    /// The broker is gone and was noticed.
    fn fence(&mut self, node: i32) {
        let broker_epoch = self.epoch(node);
        self.accept(FenceBroker { node: NodeId(node), broker_epoch, reason: "test".to_owned() });
    }

    /// Returns after a clean shutdown.
    fn restart(&mut self, node: i32) {
        let previous = self.epoch(node);
        self.start(node, previous);
    }

    /// Returns after `kill -9`.
    fn revive(&mut self, node: i32) {
        self.start(node, BrokerEpoch::NONE);
    }

    fn id(name: &str) -> TopicId {
        Uuid::from_u128(name.bytes().fold(1_u128, |id, byte| id.wrapping_mul(257) + u128::from(byte)))
    }

    fn creation(name: &str, assignments: &[&[i32]]) -> CreateTopic {
        CreateTopic {
            name: name.into(),
            topic_id: Self::id(name),
            partitions: -1,
            replication_factor: -1,
            assignments: assignments.iter().map(|replicas| Assignment { replicas: nodes(replicas) }).collect(),
            configs: BTreeMap::new(),
        }
    }

    /// A topic `t` whose partitions have these replicas.
    #[track_caller]
    fn topic(&mut self, assignments: &[&[i32]]) {
        self.accept(Self::creation("t", assignments));
    }

    fn p(&self) -> &PartitionState {
        self.first("t")
    }

    /// Partition 0 of a topic.
    fn first(&self, topic: &str) -> &PartitionState {
        self.state.topic(topic).and_then(|topic| topic.partition(PartitionIndex(0))).unwrap()
    }

    /// The leader of t-0 proposes this in-sync set with all its current epochs.
    fn isr_change(&self, isr: &[i32]) -> AlterPartition {
        let p = self.p();
        let leader = p.leader.unwrap();
        AlterPartition {
            node: leader,
            broker_epoch: self.epoch(leader.0),
            topic_id: Self::id("t"),
            partition: PartitionIndex(0),
            leader_epoch: p.leader_epoch,
            partition_epoch: p.partition_epoch,
            new_isr: isr.iter().map(|n| IsrMember { node: NodeId(*n), broker_epoch: self.epoch(*n) }).collect(),
            recovery: LeaderRecovery::Recovered,
        }
    }

    #[track_caller]
    fn set_isr(&mut self, isr: &[i32]) {
        let change = self.isr_change(isr);
        self.accept(change);
    }

    /// leader, in-sync set, eligible leaders of t-0.
    fn view(&self) -> (Option<i32>, Vec<i32>, Vec<i32>) {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        (self.p().leader.map(|node| node.0), ids(&self.p().isr), ids(&self.p().elr))
    }

    fn set(&mut self, resource: ConfigResource, name: &str, value: &str) -> CommandResult {
        self.propose(alter(resource, name, ConfigOp::Set, Some(value)))
    }
}

fn alter(resource: ConfigResource, name: &str, op: ConfigOp, value: Option<&str>) -> AlterConfigs {
    let change = ConfigChange { name: name.to_owned(), op, value: value.map(str::to_owned) };
    AlterConfigs { resource, changes: vec![change], replace: false }
}

fn on_topic() -> ConfigResource {
    ConfigResource::Topic("t".into())
}
