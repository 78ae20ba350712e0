//! What other processes ask of this one: the twin of the server's `driver/control`, and of the streams that carry state
//! images.

use chronik_consensus::chunks::{Reassembler, SnapshotChunk, split};
use chronik_consensus::mirror::RaftMessage;
use chronik_consensus::{Membership, MembershipChange, MembershipError};
use chronik_core::controller::HeartbeatReply;
use chronik_model::NodeId;
use chronik_node::quorum::Input;

use super::Broker;
use super::alarms::Alarm;
use super::host::{Proposer, Reporter};
use super::meta::ImageOut;
use crate::kernel::Ctx;
use crate::proto::{Address, ChunkTaken, HeartbeatAnswer, MembershipRefusal, Packet, Reply, Request};

/// An image whose next piece is not taken within this time is given up.
const IMAGE_PATIENCE_MS: u64 = 5_000;
/// Bytes of an image that a receiver accepts.
const MAX_IMAGE: usize = 64 << 20;

impl Broker {
    pub(super) fn on_request(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, body: Request) {
        match body {
            Request::Propose(envelope) => self.tell_quorum(Input::Propose(envelope, Proposer::Remote(from, id))),
            Request::Heartbeat(heartbeat, incarnation) => {
                let reporter = Reporter::Remote(from, id, heartbeat.node, incarnation);
                self.tell_quorum(Input::Heartbeat(heartbeat, reporter));
            }
            Request::Membership(change) => self.change_members(ctx, from, id, change),
            // Until its listeners are open nobody listens there.
            _ if !self.listens() => ctx.send(from, Packet::Refused { id }),
            Request::FollowerFetch { partitions, max_wait_ms } => {
                self.serve_follower(ctx, from, id, partitions, max_wait_ms);
            }
            Request::LeaderOffsets(topic, partition, epoch) => {
                let offsets = self.leader_offsets((topic, partition), epoch);
                self.reply(ctx, from, id, Reply::LeaderOffsets(offsets));
            }
            Request::Client(request) => self.serve_client(ctx, from, id, request),
        }
    }

    fn change_members(&mut self, ctx: &mut Ctx<'_>, from: Address, id: u64, change: MembershipChange) {
        if matches!(change, MembershipChange::AddLearner(node) if node.0 <= 0) {
            let refusal = MembershipRefusal::Refused("not a node id".to_owned());
            return self.reply(ctx, from, id, Reply::Membership(Err(refusal)));
        }
        self.tell_quorum(Input::Membership(change, (from, id)));
    }

    pub(super) fn answer_membership(
        &mut self,
        ctx: &mut Ctx<'_>,
        to: Address,
        id: u64,
        answer: Result<Membership, MembershipError>,
    ) {
        let cluster_id = self.cluster_id.clone();
        let answer = match answer {
            Ok(membership) => Ok((membership, cluster_id)),
            Err(error) => match error {
                MembershipError::NotLeader { leader } => Err(MembershipRefusal::NotLeader(leader)),
                // What was asked for is so already: a repeated question gets the answer of the first.
                MembershipError::AlreadyLearner(_) | MembershipError::AlreadyVoter(_) => {
                    Ok((self.quorum.replica().membership().clone(), cluster_id))
                }
                MembershipError::InProgress
                | MembershipError::LearnerNotCaughtUp { .. }
                | MembershipError::VotersNotCaughtUp { .. }
                | MembershipError::Dropped
                | MembershipError::Stopped => Err(MembershipRefusal::Retry(error.to_string())),
                MembershipError::WouldLoseMajority { .. }
                | MembershipError::UnknownNode(_)
                | MembershipError::LastVoter(_)
                | MembershipError::IsLeader(_)
                | MembershipError::InvalidNode(_) => Err(MembershipRefusal::Refused(error.to_string())),
            },
        };
        self.reply(ctx, to, id, Reply::Membership(answer));
    }

    pub(super) fn answer_heartbeat(&mut self, ctx: &mut Ctx<'_>, reporter: Reporter, answer: Option<HeartbeatReply>) {
        let (node, incarnation) = match reporter {
            Reporter::Own => (self.node, self.incarnation),
            Reporter::Remote(_, _, node, incarnation) => (node, incarnation),
        };
        let answer = answer.map(|reply| {
            let registered = self.state.read().broker(node).map(|broker| broker.incarnation);
            HeartbeatAnswer {
                reply,
                other_process: registered.is_some_and(|registered| registered != incarnation),
                applied: self.quorum.applied(),
            }
        });
        match reporter {
            Reporter::Own => self.on_beat_answered(ctx, answer),
            Reporter::Remote(to, id, ..) => self.reply(ctx, to, id, Reply::Heartbeat(answer)),
        }
    }

    /// Sends a state image in pieces, each when the one before was taken, as a stream does; one image at a time.
    pub(super) fn send_image(&mut self, ctx: &mut Ctx<'_>, message: RaftMessage) {
        let peer = chronik_node::quorum::node_of(message.to);
        if !self.host.links.contains(&peer) || self.images.out.contains_key(&peer) {
            return self.tell_quorum(Input::SnapshotSent { peer, delivered: false });
        }
        self.images.last += 1;
        let number = self.images.last;
        ctx.note(|| format!("sends a state image to b{peer}"));
        let rest = Box::new(split(message, number, self.config.raft.chunk_bytes));
        let alarm = self.alarms.set(self.after(IMAGE_PATIENCE_MS), Alarm::Image(peer));
        self.images.out.insert(peer, ImageOut { number, alarm, rest });
        self.send_piece(ctx, peer);
    }

    fn send_piece(&mut self, ctx: &mut Ctx<'_>, peer: NodeId) {
        let Some(image) = self.images.out.get_mut(&peer) else { return };
        let Some(chunk) = image.rest.next() else { return };
        self.alarms.cancel(image.alarm);
        image.alarm = self.alarms.set(self.now.mono_ms + IMAGE_PATIENCE_MS, Alarm::Image(peer));
        ctx.send(Address::Broker(peer), Packet::Chunk(Box::new(chunk)));
    }

    fn image_ended(&mut self, peer: NodeId, delivered: bool) {
        if let Some(image) = self.images.out.remove(&peer) {
            self.alarms.cancel(image.alarm);
            self.tell_quorum(Input::SnapshotSent { peer, delivered });
        }
    }

    pub(super) fn image_expired(&mut self, peer: NodeId) {
        self.image_ended(peer, false);
    }

    /// The link broke: what was on its way is lost in both directions.
    pub(super) fn image_lost(&mut self, peer: NodeId) {
        self.images.into.remove(&peer);
        self.image_ended(peer, false);
    }

    pub(super) fn on_receipt(&mut self, ctx: &mut Ctx<'_>, from: Address, transfer: u64, taken: ChunkTaken) {
        let Address::Broker(peer) = from else { return };
        if self.images.out.get(&peer).is_none_or(|image| image.number != transfer) {
            return;
        }
        match taken {
            ChunkTaken::More => self.send_piece(ctx, peer),
            ChunkTaken::Whole => self.image_ended(peer, true),
            ChunkTaken::Refused => self.image_ended(peer, false),
        }
    }

    pub(super) fn on_chunk(&mut self, ctx: &mut Ctx<'_>, from: Address, chunk: SnapshotChunk) {
        let Address::Broker(peer) = from else { return };
        let transfer = chunk.transfer;
        let into = self.images.into.entry(peer).or_insert_with(|| Reassembler::new(MAX_IMAGE));
        let taken = match into.push(chunk) {
            Ok(None) => ChunkTaken::More,
            Ok(Some(message)) => {
                self.tell_quorum(Input::Message(message));
                ChunkTaken::Whole
            }
            Err(error) => {
                ctx.note(|| format!("state image of b{peer} refused: {error}"));
                ChunkTaken::Refused
            }
        };
        ctx.send(from, Packet::Receipt { transfer, taken });
    }
}
