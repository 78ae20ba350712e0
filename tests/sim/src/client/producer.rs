//! A producer: queues per partition, batches in flight in order, retries until the delivery timeout.
//!
//! Each partition has a producer id of its own when idempotent, so that giving one batch up disturbs no other partition.
//! As real clients do: the same bytes are sent again until an answer is certain; batches of one partition leave in order;
//! before the first one was acknowledged none overtakes it; an `OutOfOrderSequenceNumber` for a batch that is not the
//! oldest only means that an earlier one is still on its way. A batch given up takes every later one that was ever sent with
//! it (their sequences have a gap before them now), and the partition begins again with a new producer id.

use std::collections::VecDeque;

use bytes::Bytes;
use chronik_model::batch::{BatchBuilder, BatchHeader};
use chronik_model::{ErrorCode, NodeId, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition};

use super::ProducerConfig;
use super::conn::{Conn, Heard, Outcome as End, ROLE};
use crate::kernel::{Ctx, EPOCH_WALL_MS, Micros, Timer};
use crate::oracle::history::{History, Outcome, Sent, print_of};
use crate::proto::{ClientReply, ClientRequest, Packet};

/// Make the next batch.
const MAKE: u16 = ROLE;
/// Look at all partitions again.
const PUMP: u16 = ROLE + 1;
/// Batches of one partition that wait; more are not made.
const MOST_QUEUED: usize = 20;
/// What the protocol allows an idempotent producer.
const MOST_IN_FLIGHT: usize = 5;

#[derive(Debug)]
pub(super) enum Tag {
    /// A producer id for this lane.
    Id(usize),
    /// The batch of this number, in this lane.
    Batch(usize, u64),
}

#[derive(Debug)]
struct Batch {
    number: u64,
    count: u32,
    made: Micros,
    /// Made when it is sent for the first time: the sequence is known then.
    bytes: Option<Bytes>,
    /// Its place in the history, once sent.
    sent: Option<usize>,
    in_flight: bool,
}

/// One partition; its place in the list of lanes never changes.
#[derive(Debug)]
struct Lane {
    tp: TopicPartition,
    queue: VecDeque<Batch>,
    topic: Option<TopicId>,
    producer: Option<(i64, i16)>,
    asking: bool,
    sequence: i32,
    /// A batch under this producer id was acknowledged.
    begun: bool,
    not_before: Micros,
}

impl Lane {
    fn new(tp: TopicPartition) -> Self {
        Self {
            tp,
            queue: VecDeque::new(),
            topic: None,
            producer: None,
            asking: false,
            sequence: 0,
            begun: false,
            not_before: 0,
        }
    }

    /// What was ever sent and not answered is unknown for ever.
    fn give_up(&mut self, now: Micros, history: &mut History) {
        self.queue.retain(|batch| match batch.sent {
            Some(number) => {
                history.resolve(number, Outcome::Unknown, now);
                false
            }
            None => true,
        });
        self.producer = None;
        self.sequence = 0;
        self.begun = false;
    }

    fn give_up_old(&mut self, now: Micros, timeout: Micros, history: &mut History) {
        let old = |batch: &Batch| now.saturating_sub(batch.made) > timeout;
        while self.queue.front().is_some_and(|front| front.sent.is_none() && old(front)) {
            // Never sent: nothing was asked for, nothing is unknown.
            self.queue.pop_front();
        }
        if self.queue.front().is_some_and(old) {
            self.give_up(now, history);
        }
    }

    /// A topic that was deleted and made again knows nothing of our sequences.
    fn follow(&mut self, id: Option<TopicId>, now: Micros, history: &mut History) {
        let Some(id) = id else { return };
        let known = self.topic.replace(id);
        if known.is_some_and(|known| known != id) {
            self.give_up(now, history);
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Producer {
    config: ProducerConfig,
    pub(super) conn: Conn<Tag>,
    lanes: Vec<Lane>,
    next: u64,
    stopped: bool,
}

impl Producer {
    pub(super) fn new(mut config: ProducerConfig, id: u32, brokers: &[NodeId]) -> Self {
        config.in_flight = config.in_flight.clamp(1, MOST_IN_FLIGHT);
        if config.idempotent {
            config.acks = -1;
        }
        Self { config, conn: Conn::new(id, brokers), lanes: Vec::new(), next: 0, stopped: false }
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stopped && self.lanes.iter().all(|lane| lane.queue.is_empty())
    }

    pub(super) fn describe(&self) -> String {
        let waiting: Vec<String> = self
            .lanes
            .iter()
            .filter(|lane| !lane.queue.is_empty())
            .map(|lane| format!("{}: {} batches", lane.tp, lane.queue.len()))
            .collect();
        format!("producer c{} acks={} [{}]", self.conn.id(), self.config.acks, waiting.join(", "))
    }

    pub(super) fn on_packet(&mut self, ctx: &mut Ctx<'_>, _from: NodeId, packet: Packet, history: &mut History) {
        let heard = self.conn.on_packet(ctx, packet);
        self.heard(ctx, heard, history);
    }

    pub(super) fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer, history: &mut History) {
        match timer.kind {
            MAKE => self.make(ctx),
            PUMP => {}
            _ => {
                let begins = timer.kind == 0;
                let heard = self.conn.on_timer(ctx, timer);
                if begins {
                    self.make_later(ctx);
                }
                return self.heard(ctx, heard, history);
            }
        }
        self.pump(ctx, history);
    }

    fn heard(&mut self, ctx: &mut Ctx<'_>, heard: Heard<Tag>, history: &mut History) {
        match heard {
            Heard::End(Tag::Id(lane), _, end) => self.on_id(ctx, lane, &end),
            Heard::End(Tag::Batch(lane, number), _, end) => self.on_produced(ctx, lane, number, &end, history),
            Heard::Metadata => {
                for lane in &mut self.lanes {
                    lane.follow(self.conn.topic_id(&lane.tp.topic), ctx.kernel.now, history);
                }
            }
            Heard::Nothing => return,
        }
        self.pump(ctx, history);
    }

    fn make_later(&mut self, ctx: &mut Ctx<'_>) {
        let every = self.config.every_ms.max(1);
        let wait = every / 2 + ctx.kernel.streams.workload.below(every) + 1;
        ctx.timer(wait, Timer { kind: MAKE, key: 0 });
    }

    fn make(&mut self, ctx: &mut Ctx<'_>) {
        if self.stopped {
            return;
        }
        self.make_later(ctx);
        self.conn.keep_fresh(ctx);
        let partitions = self.conn.partitions(&self.config.topics);
        if partitions.is_empty() {
            return self.conn.want_metadata(ctx);
        }
        let random = &mut ctx.kernel.streams.workload;
        let tp = &partitions[random.below(partitions.len() as u64) as usize];
        let count = if random.chance(70) { 1 } else { 1 + random.below(self.config.max_records.max(1)) };
        let place = match self.lanes.iter().position(|lane| lane.tp == *tp) {
            Some(place) => place,
            None => {
                self.lanes.push(Lane::new(tp.clone()));
                self.lanes.len() - 1
            }
        };
        let lane = &mut self.lanes[place];
        if lane.queue.len() >= MOST_QUEUED {
            return;
        }
        let made = ctx.kernel.now;
        let batch = Batch { number: self.next, count: count as u32, made, bytes: None, sent: None, in_flight: false };
        lane.queue.push_back(batch);
        self.next += count;
    }

    /// Gives up what is too old and sends what may be sent.
    fn pump(&mut self, ctx: &mut Ctx<'_>, history: &mut History) {
        let timeout = self.config.delivery_timeout_ms * 1_000;
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            if lane.queue.is_empty() {
                continue;
            }
            lane.give_up_old(ctx.kernel.now, timeout, history);
            let window = if self.config.idempotent && !lane.begun { 1 } else { self.config.in_flight };
            let waits = lane.queue.iter().take(window).any(|batch| !batch.in_flight);
            if waits && lane.not_before <= ctx.kernel.now {
                self.send_lane(ctx, at, history);
            }
        }
    }

    fn send_lane(&mut self, ctx: &mut Ctx<'_>, place: usize, history: &mut History) {
        let Some(lane) = self.lanes.get_mut(place) else { return };
        lane.follow(self.conn.topic_id(&lane.tp.topic), ctx.kernel.now, history);
        if lane.queue.is_empty() {
            return;
        }
        if self.config.idempotent && lane.producer.is_none() {
            if !lane.asking {
                lane.asking = true;
                let broker = self.conn.any_broker(ctx);
                let tag = Tag::Id(place);
                self.conn.ask(ctx, broker, ClientRequest::InitProducerId, self.config.request_timeout_ms, tag);
            }
            return;
        }
        let Some((leader, _)) = self.conn.leader(&lane.tp) else {
            self.conn.want_metadata(ctx);
            return later(ctx, lane);
        };
        // Following the topic may have begun it anew.
        let window = if self.config.idempotent && !lane.begun { 1 } else { self.config.in_flight };
        let mut at = 0;
        while at < window && at < lane.queue.len() {
            let batch = &mut lane.queue[at];
            if batch.in_flight {
                at += 1;
                continue;
            }
            let bytes = match &batch.bytes {
                Some(bytes) => bytes.clone(),
                None => {
                    let now_ms = ctx.kernel.now / 1_000;
                    let (bytes, next) = seal(self.conn.id(), batch, lane.producer, lane.sequence, now_ms);
                    lane.sequence = next;
                    batch.bytes = Some(bytes.clone());
                    batch.sent =
                        note_sent(history, self.conn.id(), &lane.tp, self.config.acks, batch, &bytes, ctx.kernel.now);
                    bytes
                }
            };
            let number = batch.number;
            let timeout_ms = self.config.request_timeout_ms;
            let body = ClientRequest::Produce { tp: lane.tp.clone(), acks: self.config.acks, timeout_ms, batch: bytes };
            if self.config.acks == 0 {
                let sent = batch.sent;
                lane.queue.remove(at);
                if let Some(sent) = sent {
                    history.resolve(sent, Outcome::Unknown, ctx.kernel.now);
                }
                self.conn.tell(ctx, leader, body);
            } else {
                batch.in_flight = true;
                // The broker's own timeout comes first, if the broker lives.
                self.conn.ask(ctx, leader, body, timeout_ms + 500, Tag::Batch(place, number));
                at += 1;
            }
        }
    }

    fn on_id(&mut self, ctx: &mut Ctx<'_>, lane: usize, end: &End) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        lane.asking = false;
        if let End::Reply(ClientReply::ProducerId(Ok(id))) = end {
            lane.producer = Some(*id);
            lane.sequence = 0;
            lane.begun = false;
        } else {
            later(ctx, lane);
        }
    }

    fn on_produced(&mut self, ctx: &mut Ctx<'_>, lane: usize, number: u64, end: &End, history: &mut History) {
        let now = ctx.kernel.now;
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let Some(at) = lane.queue.iter().position(|batch| batch.number == number) else { return };
        lane.queue[at].in_flight = false;
        let (error, base) = match end {
            End::Reply(ClientReply::Produced { error, base_offset }) => (*error, *base_offset),
            End::Reply(_) | End::Refused => (ErrorCode::BrokerNotAvailable, -1),
            End::TimedOut => (ErrorCode::RequestTimedOut, -1),
        };
        if error.is_none() {
            lane.begun = true;
            if let Some(sent) = lane.queue.remove(at).and_then(|batch| batch.sent) {
                history.resolve(sent, Outcome::Acked(Offset(base)), now);
            }
            return;
        }
        let fatal = match error {
            // Of the oldest one: the log has a gap that no retry fills.
            ErrorCode::OutOfOrderSequenceNumber => at == 0,
            ErrorCode::InvalidProducerEpoch | ErrorCode::UnknownProducerId => true,
            ErrorCode::MessageTooLarge
            | ErrorCode::RecordListTooLarge
            | ErrorCode::InvalidRequiredAcks
            | ErrorCode::CorruptMessage
            | ErrorCode::InvalidRecord
            | ErrorCode::InvalidTimestamp => true,
            _ => false,
        };
        if fatal {
            ctx.note(|| format!("gives up batch {number} of {}: {error:?}", lane.tp));
            lane.give_up(now, history);
        }
        self.conn.want_metadata(ctx);
        later(ctx, lane);
    }
}

fn later(ctx: &mut Ctx<'_>, lane: &mut Lane) {
    let pause = 20 + ctx.kernel.streams.workload.below(80);
    lane.not_before = ctx.kernel.now + pause * 1_000;
    ctx.timer(pause, Timer { kind: PUMP, key: 0 });
}

fn seal(client: u32, batch: &Batch, producer: Option<(i64, i16)>, sequence: i32, now_ms: u64) -> (Bytes, i32) {
    let mut builder = BatchBuilder::new(EPOCH_WALL_MS + i64::try_from(now_ms).unwrap_or(0));
    let mut next = sequence;
    if let Some((id, epoch)) = producer {
        builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
        next = sequence.wrapping_add(batch.count as i32);
    }
    for record in 0..u64::from(batch.count) {
        let value = format!("c{client}-{}", batch.number + record);
        builder.push(None, Some(value.as_bytes()));
    }
    (builder.build(), next)
}

fn note_sent(
    history: &mut History,
    client: u32,
    tp: &TopicPartition,
    acks: i16,
    batch: &Batch,
    bytes: &[u8],
    now: Micros,
) -> Option<usize> {
    let header = BatchHeader::decode(bytes).ok()?;
    Some(history.send(Sent {
        client,
        tp: tp.clone(),
        acks,
        first: batch.number,
        count: batch.count,
        print: print_of(&header),
        invoked: now,
        outcome: Outcome::Open,
        resolved: 0,
    }))
}
