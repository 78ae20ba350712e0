//! The balancer: which replicas should move so that cordoned brokers get empty and the others are even.
//!
//! The control service asks [`plan`] again and again, begins the first few of its moves, and asks again when they are
//! done. In this order: cordoned brokers lose their replicas; no two replicas of a partition share a rack while racks
//! suffice; brokers hold equally many replicas (a difference of one at most, where that is possible); brokers are the
//! preferred leader of equally many partitions; the preferred ones lead.
//!
//! Only brokers that live and are not cordoned get anything. A broker that is merely dead keeps what it has: it may come
//! back. A partition under reassignment is left alone and counted, unless it is being moved to a cordoned broker.
//!
//! What never happens: two replicas of a partition on one broker; a move that makes no replica count more even, no rack
//! better and no cordoned broker emptier; another answer to the same question. Applying moves, all or only the first few at
//! a time, comes to an end: each step makes the pair (what is wrong, how uneven) smaller.

mod leaders;
mod replicas;
#[cfg(test)]
mod tests;
mod work;

use std::fmt;

use chronik_model::{NodeId, PartitionEpoch, PartitionIndex, TopicId, TopicName};

use work::Work;

/// A registered broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broker {
    /// Its id.
    pub node: NodeId,
    /// Its failure domain.
    pub rack: Option<String>,
    /// It may lead and be in sync now.
    pub live: bool,
    /// It shall get nothing and lose what it has.
    pub cordoned: bool,
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its topic.
    pub topic: TopicName,
    /// The topic's id.
    pub topic_id: TopicId,
    /// Its index in the topic.
    pub partition: PartitionIndex,
    /// Version of its state.
    pub epoch: PartitionEpoch,
    /// All its replicas, in preferred order, those being added and removed included.
    pub replicas: Vec<NodeId>,
    /// Those in sync.
    pub isr: Vec<NodeId>,
    /// Its leader.
    pub leader: Option<NodeId>,
    /// Replicas that a reassignment adds.
    pub adding: Vec<NodeId>,
    /// Replicas that a reassignment removes.
    pub removing: Vec<NodeId>,
    /// Its size, if known; of several possible partitions the smallest is moved.
    pub bytes: Option<u64>,
}

/// What there is to balance. Brokers and partitions in any order, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    /// Registered brokers.
    pub brokers: Vec<Broker>,
    /// Partitions.
    pub partitions: Vec<Partition>,
}

/// Other replicas, or another order of the same ones, for one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// The topic.
    pub topic: TopicName,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The state that was looked at: the move is meant for no other.
    pub epoch: PartitionEpoch,
    /// The replicas it has, or is about to have.
    pub from: Vec<NodeId>,
    /// The replicas it should have, in preferred order.
    pub to: Vec<NodeId>,
}

impl Move {
    /// Replicas that have to be copied.
    pub fn copies(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.to.iter().copied().filter(|node| !self.from.contains(node))
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
        write!(f, "{}-{}: {} -> {}", self.topic, self.partition, list(&self.from), list(&self.to))
    }
}

/// A partition that its preferred leader could lead and does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Election {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
}

/// What stands in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// So many replicas need more brokers than are left.
    ReplicationFactorTooHigh {
        /// A topic with such partitions.
        topic: TopicName,
        /// Replicas of its partitions.
        replication_factor: usize,
        /// Brokers that are not cordoned.
        brokers: usize,
    },
    /// There are enough brokers, but not enough of them live.
    BrokersNotAlive {
        /// A topic with such partitions.
        topic: TopicName,
        /// Brokers that are not cordoned and not alive.
        brokers: Vec<NodeId>,
    },
    /// The reassignment under way adds a broker that is not alive, and waits for it.
    AddedNotAlive {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// The broker.
        broker: NodeId,
    },
    /// Nobody leads the partition: there is nobody to copy from.
    NoLeader {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
    },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReplicationFactorTooHigh { topic, replication_factor, brokers } => write!(
                f,
                "ReplicationFactorTooHigh: topic {topic} has {replication_factor} replicas, and only {brokers} \
                 brokers are not cordoned"
            ),
            Self::BrokersNotAlive { topic, brokers } => {
                let list = brokers.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "BrokersNotAlive: replicas of topic {topic} need brokers that are not alive ({list})")
            }
            Self::AddedNotAlive { topic, partition, broker } => {
                write!(f, "BrokersNotAlive: {topic}-{partition} is being moved to broker {broker}, which is not alive")
            }
            Self::NoLeader { topic, partition } => {
                write!(f, "NoLeader: nobody leads {topic}-{partition}, so it cannot be copied")
            }
        }
    }
}

/// What should be done, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Partitions under reassignment, which were left alone.
    pub in_flight: usize,
    /// Partitions that need other replicas; those that empty cordoned brokers first.
    pub moves: Vec<Move>,
    /// Partitions that need only another order, for even leaderships; costs no copying. To be looked at when there are
    /// neither moves nor reassignments under way.
    pub reorders: Vec<Move>,
    /// Partitions whose preferred leader should be elected. To be looked at when there is nothing above.
    pub elections: Vec<Election>,
    /// Partitions that cannot leave a cordoned broker now.
    pub stuck: usize,
    /// Why not, and which reassignments cannot end; one per topic.
    pub blocked: Vec<Blocked>,
}

impl Plan {
    /// Nothing is to be done and nothing is under way. What is blocked is not counted.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.in_flight == 0 && self.moves.is_empty() && self.reorders.is_empty() && self.elections.is_empty()
    }
}

/// What should be done with `cluster`.
#[must_use]
pub fn plan(cluster: &Cluster) -> Plan {
    let mut work = Work::new(cluster);
    let (stuck, blocked) = work.empty_cordoned();
    work.part_racks();
    work.even_replicas();
    work.even_leaders();
    let (moves, reorders) = work.moves();
    Plan { in_flight: work.in_flight(), moves, reorders, elections: work.elections(), stuck, blocked }
}
