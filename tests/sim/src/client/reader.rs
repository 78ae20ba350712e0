//! Reading partitions as a consumer does: one fetch under way per partition, position and epoch checked by the leader.
//!
//! Used by consumers, members of groups and auditors. A reader sends the leader epoch that it believes in and the epoch of
//! the last record that it read (KIP-320). It gives its position up only where its policy (earliest) says so, and tells the
//! history.

use std::collections::BTreeMap;

use chronik_model::batch::{BatchHeader, find_batch};
use chronik_model::{ErrorCode, LeaderEpoch, Offset, TopicId, TopicPartition};

use super::conn::{Conn, Outcome, ROLE};
use crate::kernel::{Ctx, Micros, Timer};
use crate::oracle::history::History;
use crate::proto::{ClientReply, ClientRequest, FetchedData};

/// Look at all partitions again.
pub(super) const PUMP: u16 = ROLE + 5;
const LIST_TIMEOUT_MS: u64 = 2_000;

/// A question of a reader.
#[derive(Clone, Debug)]
pub(super) struct ReadTag {
    round: u64,
    tp: TopicPartition,
    topic: Option<TopicId>,
    what: Question,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Earliest,
    Latest { asked: Micros },
    Fetch { position: Offset, epoch: LeaderEpoch, asked: Micros },
}

#[derive(Debug, Default)]
struct Cursor {
    topic: Option<TopicId>,
    position: Option<Offset>,
    last_epoch: Option<LeaderEpoch>,
    /// Where an audit ends.
    until: Option<Offset>,
    /// Nobody says where it ends: what is there is read before that is asked again.
    peeks: bool,
    done: bool,
    busy: bool,
    not_before: Micros,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Reader {
    max_wait_ms: u64,
    audit: bool,
    round: u64,
    cursors: BTreeMap<TopicPartition, Cursor>,
    pub(super) stopped: bool,
}

impl Reader {
    pub(super) fn new(max_wait_ms: u64, audit: bool) -> Self {
        Self { max_wait_ms, audit, round: 0, cursors: BTreeMap::new(), stopped: false }
    }

    /// Reads exactly these from now on; where no position is given, from the beginning.
    pub(super) fn assign(&mut self, partitions: Vec<(TopicPartition, Option<(Offset, LeaderEpoch)>)>) {
        self.round += 1;
        self.cursors.clear();
        for (tp, from) in partitions {
            let mut cursor = Cursor::default();
            if let Some((position, epoch)) = from {
                cursor.position = Some(position);
                cursor.last_epoch = Some(epoch);
            }
            self.cursors.insert(tp, cursor);
        }
    }

    /// Reads these too.
    pub(super) fn add(&mut self, partitions: Vec<TopicPartition>) {
        for tp in partitions {
            self.cursors.entry(tp).or_default();
        }
    }

    /// Next offset of each partition that has been read, and the epoch of the record before.
    pub(super) fn positions(&self) -> impl Iterator<Item = (&TopicPartition, Offset, LeaderEpoch)> {
        self.cursors
            .iter()
            .filter_map(|(tp, cursor)| Some((tp, cursor.position?, cursor.last_epoch.unwrap_or(LeaderEpoch::NONE))))
    }

    /// An audit has read everything.
    pub(super) fn is_done(&self) -> bool {
        !self.cursors.is_empty() && self.unread().next().is_none()
    }

    /// Whether there is anything to read.
    pub(super) fn knows_any(&self) -> bool {
        !self.cursors.is_empty()
    }

    /// What an audit has not read to its end, and where it is.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&TopicPartition, Offset)> {
        let open = self.cursors.iter().filter(|(_, cursor)| !cursor.done);
        open.map(|(tp, cursor)| (tp, cursor.position.unwrap_or(Offset(0))))
    }

    pub(super) fn describe(&self) -> String {
        let open: Vec<String> = self
            .cursors
            .iter()
            .filter(|(_, cursor)| !cursor.done)
            .map(|(tp, cursor)| format!("{tp}@{}", cursor.position.map_or(-1, |offset| offset.0)))
            .collect();
        open.join(" ")
    }

    /// Asks what can be asked.
    pub(super) fn pump<T>(&mut self, ctx: &mut Ctx<'_>, conn: &mut Conn<T>, wrap: fn(ReadTag) -> T) {
        if self.stopped {
            return;
        }
        conn.keep_fresh(ctx);
        let now = ctx.kernel.now;
        for (tp, cursor) in &mut self.cursors {
            if cursor.busy || cursor.done || cursor.not_before > now {
                continue;
            }
            if let Some(id) = conn.topic_id(&tp.topic) {
                let known = cursor.topic.replace(id);
                if known.is_some_and(|known| known != id) {
                    // Another topic of the same name: nothing read so far is of it.
                    *cursor = Cursor { topic: Some(id), ..Cursor::default() };
                }
            }
            let Some((leader, epoch)) = conn.leader(tp) else {
                conn.want_metadata(ctx);
                pause(ctx, cursor);
                continue;
            };
            if cursor.last_epoch.is_some_and(|last| last > epoch) {
                // It has read, or committed, what a later leader wrote: whoever is believed to lead is outdated (KIP-320).
                conn.want_metadata(ctx);
                pause(ctx, cursor);
                continue;
            }
            let (what, body, timeout_ms) = match cursor.position {
                None => (Question::Earliest, list(tp, true), LIST_TIMEOUT_MS),
                Some(_) if self.audit && cursor.until.is_none() && !cursor.peeks => {
                    (Question::Latest { asked: now }, list(tp, false), LIST_TIMEOUT_MS)
                }
                Some(position) => {
                    let what = Question::Fetch { position, epoch, asked: now };
                    let body = ClientRequest::Fetch {
                        tp: tp.clone(),
                        current_leader_epoch: epoch,
                        offset: position,
                        last_fetched_epoch: cursor.last_epoch.unwrap_or(LeaderEpoch::NONE),
                        max_wait_ms: self.max_wait_ms,
                    };
                    (what, body, self.max_wait_ms + LIST_TIMEOUT_MS)
                }
            };
            cursor.busy = true;
            let tag = ReadTag { round: self.round, tp: tp.clone(), topic: cursor.topic, what };
            conn.ask(ctx, leader, body, timeout_ms, wrap(tag));
        }
    }

    /// A question of this reader ended.
    pub(super) fn on_end<T>(
        &mut self,
        ctx: &mut Ctx<'_>,
        conn: &mut Conn<T>,
        tag: &ReadTag,
        end: Outcome,
        history: &mut History,
    ) {
        let audit = self.audit;
        let Some(cursor) = self.cursors.get_mut(&tag.tp).filter(|_| tag.round == self.round) else { return };
        cursor.busy = false;
        cursor.peeks = matches!(tag.what, Question::Latest { .. });
        if cursor.topic != tag.topic {
            return;
        }
        match (tag.what, end) {
            (Question::Earliest, Outcome::Reply(ClientReply::Offset(Ok(offset)))) => {
                cursor.position = Some(offset);
                cursor.last_epoch = None;
                if audit {
                    let audit = history.audit(&tag.tp, tag.topic);
                    (audit.from, audit.to) = (offset.0, offset.0);
                }
            }
            (Question::Latest { asked }, Outcome::Reply(ClientReply::Offset(Ok(offset)))) => {
                cursor.until = Some(offset);
                cursor.done = cursor.position.is_some_and(|position| position >= offset);
                let audit = history.audit(&tag.tp, tag.topic);
                (audit.asked, audit.done) = (asked, cursor.done);
            }
            (Question::Fetch { position, epoch, asked }, Outcome::Reply(ClientReply::Fetched(data))) => {
                let fetch = Fetch { client: conn.id(), tag, position, epoch, asked, audit };
                if fetch.on_data(ctx, cursor, &data, history) {
                    conn.hint(&tag.tp, data.leader);
                    conn.want_metadata(ctx);
                    pause(ctx, cursor);
                }
            }
            _ => {
                conn.want_metadata(ctx);
                pause(ctx, cursor);
            }
        }
    }
}

fn list(tp: &TopicPartition, earliest: bool) -> ClientRequest {
    ClientRequest::ListOffsets { tp: tp.clone(), earliest }
}

fn pause(ctx: &mut Ctx<'_>, cursor: &mut Cursor) {
    let wait = 50 + ctx.kernel.streams.workload.below(150);
    cursor.not_before = ctx.kernel.now + wait * 1_000;
    ctx.timer(wait, Timer { kind: PUMP, key: 0 });
}

struct Fetch<'a> {
    client: u32,
    tag: &'a ReadTag,
    position: Offset,
    epoch: LeaderEpoch,
    asked: Micros,
    audit: bool,
}

impl Fetch<'_> {
    /// True when something is wrong and a pause is due.
    fn on_data(&self, ctx: &mut Ctx<'_>, cursor: &mut Cursor, data: &FetchedData, history: &mut History) -> bool {
        let (tp, topic, now) = (&self.tag.tp, self.tag.topic, ctx.kernel.now);
        match data.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                history.read_lost(self.client, tp, topic, self.position, None, now);
                history.reset(now, self.client, tp, self.position, Offset(-1), "out of range, from the beginning");
                ctx.note(|| format!("{tp} at {} is out of range: from the beginning", self.position));
                cursor.position = None;
                return true;
            }
            _ => return true,
        }
        if let Some(end) = data.diverging {
            history.read_lost(self.client, tp, topic, self.position, Some(end.end_offset), now);
            history.reset(now, self.client, tp, self.position, end.end_offset, "the leader's log leaves ours");
            ctx.note(|| format!("{tp} at {} diverges: back to {}", self.position, end.end_offset));
            cursor.position = Some(self.position.min(end.end_offset));
            cursor.last_epoch = Some(end.epoch);
            return true;
        }
        let batches = match split(&data.records) {
            Ok(batches) => batches,
            Err(why) => {
                history.read_garbage(self.client, tp, self.position, &why);
                return true;
            }
        };
        if let Some(last) = batches.last() {
            cursor.position = Some(self.position.max(last.next_offset()));
            cursor.last_epoch = Some(last.partition_leader_epoch);
        }
        if self.audit {
            let audit = history.audit(tp, topic);
            for batch in &batches {
                audit.seen.insert(batch.base_offset.0, crate::oracle::history::print_of(batch));
            }
            audit.to = audit.to.max(cursor.position.map_or(0, |offset| offset.0));
            cursor.done = cursor.until.is_some_and(|until| cursor.position.is_some_and(|at| at >= until));
            audit.done = cursor.done;
        }
        let mark = data.high_watermark;
        history.read(self.client, tp, topic, self.epoch, self.position, self.asked, mark, batches);
        false
    }
}

/// The batches of an answer, each checked with its checksum.
pub(super) fn split(records: &[u8]) -> Result<Vec<BatchHeader>, String> {
    let mut rest = records;
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let header = find_batch(rest).map_err(|error| error.to_string())?;
        rest = &rest[header.total_bytes..];
        batches.push(header);
    }
    Ok(batches)
}
