//! Commands that move replicas and leaderships: reassignments (KIP-455), cordons, hand-overs.

use chronik_model::{NodeId, PartitionEpoch, PartitionIndex, TopicId};

use super::codec::record;
use super::command::{Assignment, AssignmentProto};

record! {
    /// What shall become of the replicas of one partition.
    pub Reassignment / ReassignmentProto {
        /// The topic.
        topic_id: TopicId => Vec<u8>, [bytes = "vec", tag = "1"];
        /// The partition of it.
        partition: PartitionIndex => i32, [int32, tag = "2"];
        /// The brokers that shall hold it, in preferred order; `None` cancels the reassignment that is under way.
        target: Option<Assignment> => Option<AssignmentProto>, [message, optional, tag = "3"];
        /// Only if the partition is at this version: whoever decided by an older one decides anew.
        partition_epoch: Option<PartitionEpoch> => Option<i32>, [sint32, optional, tag = "4"];
    }
}

record! {
    /// Begins, replaces and cancels reassignments (KIP-455). Each partition is judged on its own.
    pub AlterReassignments / AlterReassignmentsProto {
        /// The partitions.
        reassignments: Vec<Reassignment> => Vec<ReassignmentProto>, [message, repeated, tag = "1"];
        /// Refuse those that would change how many replicas a partition has (KIP-860).
        keep_replication_factor: bool => bool, [bool, tag = "2"];
    }
}

record! {
    /// Cordons a broker, or ends that: a cordoned one gets no replicas that it does not have already. It stays cordoned
    /// over restarts and registrations.
    #[derive(Copy)]
    pub SetCordon / SetCordonProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
        /// Whether it is cordoned from now on.
        cordoned: bool => bool, [bool, tag = "2"];
    }
}

record! {
    /// Hands the leaderships of a broker to other in-sync replicas, as far as there are any. The broker stays in sync
    /// and may be elected again.
    #[derive(Copy)]
    pub MoveLeaders / MoveLeadersProto {
        /// The broker.
        node: NodeId => i32, [int32, tag = "1"];
    }
}
