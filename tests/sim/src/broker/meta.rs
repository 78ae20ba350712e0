//! Propose and wait: the twin of the server's `driver/meta_client`.
//!
//! A proposal goes to the own quorum when this broker leads it, else to the leader. "No leader yet" waits; a lost answer is
//! asked for again under the same proposal id, until the deadline. A success is told only when the local state has
//! applied it too. Questions to peers live here as well: whatever becomes of one, it is told once.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_consensus::chunks::{Reassembler, SnapshotChunk};
use chronik_core::controller::{Command, CommandResult, Envelope, ProposalId};
use chronik_core::partition::IsrProposal;
use chronik_model::{LeaderEpoch, NodeId, RaftIndex};
use chronik_node::quorum::{Input, ProposeAnswer};

use super::alarms::{Alarm, AlarmId};
use super::host::Proposer;
use super::serve::Wish;
use super::{Broker, Key};
use crate::kernel::Ctx;
use crate::proto::{Address, Proposed, Reply, Request};

/// Pause before an attempt that failed for a reason that nothing announces the end of.
const RETRY_MS: u64 = 20;
/// Longest wait for one attempt at a remote leader.
const ATTEMPT_MS: u64 = 3_000;

/// Why a proposal has no result. Whether it was or will be applied is not known then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NoResult {
    TimedOut,
    Stopped,
    Refused(String),
}

/// What a proposal is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// This broker's registration.
    Register,
    /// The defaults of the cluster.
    Defaults,
    /// An in-sync set.
    Alter(Key, IsrProposal),
    /// How far a log goes; nobody waits to hear of it.
    Report,
    /// A block of producer ids.
    ProducerIds,
    /// A client waits.
    Client(Address, u64, Wish),
}

/// Where a proposal is.
#[derive(Debug)]
enum Where {
    /// Nobody leads.
    Nowhere,
    /// Tried again soon.
    Pausing(AlarmId),
    /// At the own quorum.
    Here,
    /// At this leader.
    There(NodeId, u64),
    /// Applied there; not yet here.
    Applied(RaftIndex, CommandResult),
}

#[derive(Debug)]
struct Proposal {
    envelope: Bytes,
    deadline: AlarmId,
    purpose: Purpose,
    place: Where,
}

/// Proposals that have no result yet, by number.
#[derive(Debug, Default)]
pub(super) struct Meta {
    proposals: BTreeMap<u64, Proposal>,
}

impl Meta {
    pub(super) fn waiting(&self) -> usize {
        self.proposals.len()
    }
}

/// A question to a peer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) peer: NodeId,
    pub(super) alarm: AlarmId,
    pub(super) about: About,
}

/// What the answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum About {
    Proposal(u64),
    Heartbeat,
    Join,
    Fetch(NodeId),
    Offsets(NodeId, Key, LeaderEpoch),
}

/// State images on their way, out and in.
#[derive(Default)]
pub(super) struct Images {
    pub(super) last: u64,
    pub(super) out: BTreeMap<NodeId, ImageOut>,
    pub(super) into: BTreeMap<NodeId, Reassembler>,
}

/// An image on its way to a peer.
pub(super) struct ImageOut {
    pub(super) number: u64,
    pub(super) alarm: AlarmId,
    pub(super) rest: Box<dyn Iterator<Item = SnapshotChunk> + Send>,
}

impl Broker {
    /// Proposes `command`; `purpose` gets the result.
    pub(super) fn propose(
        &mut self,
        ctx: &mut Ctx<'_>,
        command: impl Into<Command>,
        timeout_ms: u64,
        purpose: Purpose,
    ) {
        let sequence = chronik_node::quorum::Host::next_proposal(&mut self.host);
        let id = ProposalId { origin: self.node, incarnation: self.incarnation, sequence };
        let envelope = Bytes::from(Envelope::new(id, self.now.wall_ms, command).encode());
        let deadline = self.alarms.set(self.after(timeout_ms), Alarm::Deadline(sequence));
        self.meta.proposals.insert(sequence, Proposal { envelope, deadline, purpose, place: Where::Nowhere });
        self.attempt(ctx, sequence);
    }

    /// Makes the next attempt.
    pub(super) fn attempt(&mut self, ctx: &mut Ctx<'_>, sequence: u64) {
        let Some(proposal) = self.meta.proposals.get_mut(&sequence) else { return };
        let envelope = proposal.envelope.clone();
        match self.leadership.leader {
            None => proposal.place = Where::Nowhere,
            Some(leader) if leader == self.node => {
                proposal.place = Where::Here;
                self.tell_quorum(Input::Propose(envelope, Proposer::Own(sequence)));
            }
            Some(leader) => {
                let about = About::Proposal(sequence);
                let id = self.ask(ctx, leader, Request::Propose(envelope), ATTEMPT_MS, about);
                if let Some(proposal) = self.meta.proposals.get_mut(&sequence) {
                    proposal.place = Where::There(leader, id);
                }
            }
        }
    }

    fn try_again_soon(&mut self, sequence: u64) {
        let pause = self.alarms.set(self.after(RETRY_MS), Alarm::Attempt(sequence));
        if let Some(proposal) = self.meta.proposals.get_mut(&sequence) {
            proposal.place = Where::Pausing(pause);
        }
    }

    /// Another role, term or leader: what waits for that is tried again, and what waits for another leader is given up.
    pub(super) fn retry_proposals(&mut self, ctx: &mut Ctx<'_>, other_leader: bool) {
        let leader = self.leadership.leader;
        let due: Vec<u64> = self
            .meta
            .proposals
            .iter()
            .filter(|(_, proposal)| match &proposal.place {
                Where::Nowhere => leader.is_some(),
                Where::Pausing(_) => true,
                // A leader that falls silent is replaced: the attempt ends as soon as that is known.
                Where::There(asked, _) => other_leader && leader != Some(*asked),
                Where::Here | Where::Applied(..) => false,
            })
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in due {
            match self.meta.proposals.get(&sequence).map(|proposal| &proposal.place) {
                Some(Where::Pausing(alarm)) => self.alarms.cancel(*alarm),
                Some(Where::There(_, id)) => {
                    if let Some(question) = self.asked.remove(id) {
                        self.alarms.cancel(question.alarm);
                    }
                }
                _ => {}
            }
            self.attempt(ctx, sequence);
        }
    }

    /// What the one asked says.
    pub(super) fn on_proposed(&mut self, ctx: &mut Ctx<'_>, proposer: Proposer, answer: ProposeAnswer) {
        match proposer {
            Proposer::Remote(to, id) => {
                let said = match answer {
                    ProposeAnswer::Applied(index, result) => Proposed::Applied(index, Box::new(result)),
                    ProposeAnswer::NotLeader(leader) => Proposed::NotLeader(leader),
                    ProposeAnswer::Dropped => Proposed::Dropped,
                    ProposeAnswer::Unknown | ProposeAnswer::Stopped => Proposed::Unknown,
                    ProposeAnswer::Refused(problem) => Proposed::Refused(problem),
                };
                self.reply(ctx, to, id, Reply::Proposed(said));
            }
            Proposer::Own(sequence) => {
                if !matches!(self.meta.proposals.get(&sequence).map(|proposal| &proposal.place), Some(Where::Here)) {
                    return;
                }
                match answer {
                    ProposeAnswer::Applied(index, result) => self.applied_there(ctx, sequence, index, result),
                    ProposeAnswer::NotLeader(_) => self.elsewhere(sequence),
                    ProposeAnswer::Dropped | ProposeAnswer::Unknown => self.try_again_soon(sequence),
                    ProposeAnswer::Refused(problem) => self.finish(ctx, sequence, Err(NoResult::Refused(problem))),
                    ProposeAnswer::Stopped => self.finish(ctx, sequence, Err(NoResult::Stopped)),
                }
            }
        }
    }

    /// What a remote leader says; `None` when the attempt came to nothing.
    pub(super) fn on_remote_proposed(&mut self, ctx: &mut Ctx<'_>, sequence: u64, answer: Option<Proposed>) {
        match answer {
            Some(Proposed::Applied(index, result)) => self.applied_there(ctx, sequence, index, *result),
            Some(Proposed::NotLeader(_)) => self.elsewhere(sequence),
            Some(Proposed::Refused(problem)) => self.finish(ctx, sequence, Err(NoResult::Refused(problem))),
            Some(Proposed::Dropped | Proposed::Unknown) | None => self.try_again_soon(sequence),
        }
    }

    fn elsewhere(&mut self, sequence: u64) {
        // Our own view will follow; what the other said may be ahead of it or behind.
        if self.leadership.leader.is_some() {
            self.try_again_soon(sequence);
        } else if let Some(proposal) = self.meta.proposals.get_mut(&sequence) {
            proposal.place = Where::Nowhere;
        }
    }

    fn applied_there(&mut self, ctx: &mut Ctx<'_>, sequence: u64, index: RaftIndex, result: CommandResult) {
        if self.quorum.applied() >= index {
            return self.finish(ctx, sequence, Ok(result));
        }
        if let Some(proposal) = self.meta.proposals.get_mut(&sequence) {
            proposal.place = Where::Applied(index, result);
        }
    }

    /// The local state has applied more.
    pub(super) fn proposals_applied(&mut self, ctx: &mut Ctx<'_>) {
        let applied = self.quorum.applied();
        let done: Vec<u64> = self
            .meta
            .proposals
            .iter()
            .filter(|(_, proposal)| matches!(proposal.place, Where::Applied(index, _) if index <= applied))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in done {
            let place = self.meta.proposals.get_mut(&sequence);
            let place = place.map(|proposal| std::mem::replace(&mut proposal.place, Where::Nowhere));
            if let Some(Where::Applied(_, result)) = place {
                self.finish(ctx, sequence, Ok(result));
            }
        }
    }

    pub(super) fn proposal_expired(&mut self, ctx: &mut Ctx<'_>, sequence: u64) {
        self.finish(ctx, sequence, Err(NoResult::TimedOut));
    }

    fn finish(&mut self, ctx: &mut Ctx<'_>, sequence: u64, result: Result<CommandResult, NoResult>) {
        let Some(proposal) = self.meta.proposals.remove(&sequence) else { return };
        self.alarms.cancel(proposal.deadline);
        match proposal.place {
            Where::Pausing(alarm) => self.alarms.cancel(alarm),
            Where::There(_, id) => {
                if let Some(question) = self.asked.remove(&id) {
                    self.alarms.cancel(question.alarm);
                }
            }
            Where::Nowhere | Where::Here | Where::Applied(..) => {}
        }
        match &result {
            Ok(CommandResult::Error(error)) => {
                ctx.note(|| format!("refused {:?}: {error}", Short(&proposal.purpose)));
            }
            Err(why) => ctx.note(|| format!("no result of {:?}: {why:?}", Short(&proposal.purpose))),
            Ok(_) => {}
        }
        match proposal.purpose {
            Purpose::Register => self.on_registered(ctx, result),
            Purpose::Defaults => self.defaults_settled(ctx),
            Purpose::Alter(key, proposal) => self.on_altered(ctx, key, &proposal, result),
            Purpose::Report => {}
            Purpose::ProducerIds => self.on_producer_ids(ctx, result),
            Purpose::Client(to, id, wish) => self.wish_settled(ctx, to, id, wish, result),
        }
    }

    /// An answer arrives, or the word that nobody listens.
    pub(super) fn on_reply(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, body: Option<Reply>) {
        let known = self.asked.get(&id).is_some_and(|question| from == Address::Broker(question.peer));
        if !known {
            return;
        }
        let Some(question) = self.asked.remove(&id) else { return };
        self.alarms.cancel(question.alarm);
        self.question_ended(ctx, id, question, body);
    }

    /// No answer in time.
    pub(super) fn question_failed(&mut self, ctx: &mut Ctx<'_>, id: u64) {
        let Some(question) = self.asked.remove(&id) else { return };
        self.question_ended(ctx, id, question, None);
    }

    /// The connections to a peer broke: nothing that it was asked is answered any more.
    pub(super) fn peer_lost(&mut self, ctx: &mut Ctx<'_>, peer: NodeId) {
        let lost: Vec<u64> =
            self.asked.iter().filter(|(_, question)| question.peer == peer).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(question) = self.asked.remove(&id) {
                self.alarms.cancel(question.alarm);
                self.question_ended(ctx, id, question, None);
            }
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "a question is used up")]
    fn question_ended(&mut self, ctx: &mut Ctx<'_>, id: u64, question: Question, body: Option<Reply>) {
        let peer = question.peer;
        match question.about {
            About::Proposal(sequence) => {
                let answer = if let Some(Reply::Proposed(answer)) = body { Some(answer) } else { None };
                self.on_remote_proposed(ctx, sequence, answer);
            }
            About::Heartbeat => {
                let answer = if let Some(Reply::Heartbeat(answer)) = body { answer } else { None };
                self.on_beat_answered(ctx, answer);
            }
            About::Join => {
                let answer = if let Some(Reply::Membership(answer)) = body { Some(answer) } else { None };
                self.on_join_answered(ctx, peer, answer);
            }
            About::Fetch(leader) => {
                let answer = if let Some(Reply::FollowerFetch(answer)) = body { Some(answer) } else { None };
                self.on_pulled(ctx, leader, id, answer);
            }
            About::Offsets(leader, key, epoch) => {
                let answer = if let Some(Reply::LeaderOffsets(answer)) = body { answer.ok() } else { None };
                self.on_offsets_learned(ctx, leader, key, epoch, answer);
            }
        }
    }
}

struct Short<'a>(&'a Purpose);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Purpose::Alter((topic, partition), proposal) => {
                let isr: Vec<String> = proposal.isr.iter().map(|member| member.node.to_string()).collect();
                write!(f, "in-sync set [{}] of {topic}-{partition} at {}", isr.join(" "), proposal.partition_epoch)
            }
            other => write!(f, "{other:?}"),
        }
    }
}
