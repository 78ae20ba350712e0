//! Proposals applied lately, with their results: a retried proposal gets its old answer and is never applied twice.
//!
//! Part of the state and of the snapshot, so every broker forgets the same proposal at the same index. What is
//! forgotten leaves a floor behind: a proposal at or below the floor of its process is refused, not applied again.

use std::collections::{BTreeMap, VecDeque};

use chronik_model::{IncarnationId, NodeId, RaftIndex};

use super::codec::{DecodeError, Field, record};
use super::command::{ProposalId, ProposalIdProto};
use super::result::{CommandResult, CommandResultProto};

/// How many results are kept. A proposer gives up after seconds; this is many seconds of a busy cluster.
const RESULTS: usize = 2048;
/// How many bytes of results are kept, the newest one apart: one election of all partitions names each of them.
const RESULT_BYTES: usize = 4 << 20;
/// How many processes' floors are kept.
const FLOORS: usize = 1024;

/// What is known of a proposal id.
pub(super) enum Remembered<'a> {
    Result(&'a CommandResult),
    /// So old that its result is gone.
    Forgotten,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct RecentProposals {
    results: BTreeMap<ProposalId, CommandResult>,
    /// The keys of `results`, oldest first.
    order: VecDeque<ProposalId>,
    /// Sum of the results' weights; follows `results`.
    weight: usize,
    /// Per process: the greatest forgotten sequence, and the index at which it was forgotten.
    floors: BTreeMap<(NodeId, IncarnationId), (u64, RaftIndex)>,
}

impl RecentProposals {
    pub(super) fn find(&self, id: &ProposalId) -> Option<Remembered<'_>> {
        if let Some(result) = self.results.get(id) {
            return Some(Remembered::Result(result));
        }
        let (floor, _) = self.floors.get(&(id.origin, id.incarnation))?;
        (id.sequence <= *floor).then_some(Remembered::Forgotten)
    }

    fn keep(&mut self, id: ProposalId, result: CommandResult) {
        self.weight = self.weight.saturating_add(result.weight());
        self.results.insert(id, result);
        self.order.push_back(id);
    }

    pub(super) fn remember(&mut self, index: RaftIndex, id: ProposalId, result: CommandResult) {
        self.keep(id, result);
        while self.order.len() > RESULTS || (self.weight > RESULT_BYTES && self.order.len() > 1) {
            let Some(old) = self.order.pop_front() else { break };
            self.weight = self.weight.saturating_sub(self.results.remove(&old).map_or(0, |result| result.weight()));
            let floor = self.floors.entry((old.origin, old.incarnation)).or_insert((old.sequence, index));
            *floor = (floor.0.max(old.sequence), index);
            if self.floors.len() > FLOORS {
                let oldest = self.floors.iter().min_by_key(|(_, (_, index))| *index).map(|(process, _)| *process);
                if let Some(oldest) = oldest {
                    self.floors.remove(&oldest);
                }
            }
        }
    }
}

record! {
    pub(super) KeptResult / KeptResultProto {
        id: ProposalId => ProposalIdProto, [message, required, tag = "1"];
        result: CommandResult => CommandResultProto, [message, required, tag = "2"];
    }
}

record! {
    pub(super) Floor / FloorProto {
        origin: NodeId => i32, [int32, tag = "1"];
        incarnation: IncarnationId => Vec<u8>, [bytes = "vec", tag = "2"];
        sequence: u64 => u64, [uint64, tag = "3"];
        index: RaftIndex => u64, [uint64, tag = "4"];
    }
}

/// [`RecentProposals`] as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RecentProto {
    #[prost(message, repeated, tag = "1")]
    results: Vec<KeptResultProto>,
    #[prost(message, repeated, tag = "2")]
    floors: Vec<FloorProto>,
}

impl Field<RecentProto> for RecentProposals {
    fn put(&self) -> RecentProto {
        let kept = self.order.iter().filter_map(|id| {
            let result = self.results.get(id)?.clone();
            Some(KeptResult { id: *id, result }.put())
        });
        let floors = self.floors.iter().map(|((origin, incarnation), (sequence, index))| {
            Floor { origin: *origin, incarnation: *incarnation, sequence: *sequence, index: *index }.put()
        });
        RecentProto { results: kept.collect(), floors: floors.collect() }
    }

    fn take(proto: RecentProto) -> Result<Self, DecodeError> {
        let mut recent = Self::default();
        for kept in proto.results {
            let kept = KeptResult::take(kept)?;
            recent.keep(kept.id, kept.result);
        }
        for floor in proto.floors {
            let floor = Floor::take(floor)?;
            recent.floors.insert((floor.origin, floor.incarnation), (floor.sequence, floor.index));
        }
        Ok(recent)
    }
}
