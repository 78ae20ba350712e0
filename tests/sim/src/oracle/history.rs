//! What the clients did and saw: every invocation and every result, with simulated times.
//!
//! Clients write it, the oracle reads it. What a client can judge alone (a poll that skipped, a watermark that went back
//! under its eyes) is judged here at once; what needs the brokers' logs waits in [`History::news`] for the oracle, which
//! takes it after the next event. An outcome that is not known stays [`Outcome::Unknown`]: it may have happened, or may
//! still happen.

use std::collections::{BTreeMap, VecDeque};

use chronik_model::batch::BatchHeader;
use chronik_model::{ErrorCode, LeaderEpoch, Offset, TopicId, TopicName, TopicPartition};

use super::Violation;
use super::groups::Groups;
use super::racks::Racks;
use crate::kernel::Micros;

/// Identifies the content of a batch wherever it lies: what a leader assigns (offset, epoch) does not count.
#[must_use]
pub fn print_of(header: &BatchHeader) -> u64 {
    let parts = [
        u64::from(header.crc),
        header.total_bytes as u64,
        header.base_timestamp as u64,
        header.producer_id.0 as u64,
        header.base_sequence as u64,
    ];
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, part| {
        let mixed = (hash ^ part).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^ (mixed >> 31)
    })
}

/// How a produce ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Not yet.
    Open,
    /// Acknowledged at this offset.
    Acked(Offset),
    /// It was certainly not written.
    Failed(ErrorCode),
    /// Nobody knows.
    Unknown,
}

/// One batch of a producer, over all its attempts.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Who.
    pub client: u32,
    /// Where to.
    pub tp: TopicPartition,
    /// 0, 1 or -1.
    pub acks: i16,
    /// Number of its first record at this client.
    pub first: u64,
    /// Number of records.
    pub count: u32,
    /// See [`print_of`].
    pub print: u64,
    /// When it was sent for the first time.
    pub invoked: Micros,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub resolved: Micros,
}

impl Sent {
    /// Its records as their values name them.
    #[must_use]
    pub fn name(&self) -> String {
        let last = self.first + u64::from(self.count.max(1)) - 1;
        if self.count <= 1 {
            format!("c{}-{}", self.client, self.first)
        } else {
            format!("c{0}-{1}..c{0}-{last}", self.client, self.first)
        }
    }
}

/// What the oracle has to compare with the logs.
#[derive(Clone, Debug)]
pub enum News {
    /// The batch of this number in [`History::sent`] was acknowledged.
    Acked(usize),
    /// A reader was given these batches.
    Read {
        /// Who.
        client: u32,
        /// From where.
        tp: TopicPartition,
        /// What the reader took the topic for.
        topic: Option<TopicId>,
        /// When it asked.
        asked: Micros,
        /// Headers, in order.
        batches: Vec<BatchHeader>,
        /// High watermark of the answer.
        high_watermark: i64,
    },
    /// A reader was told that its position is beyond the log, or that its log leaves the leader's at this offset.
    Lost {
        /// Who.
        client: u32,
        /// Where.
        tp: TopicPartition,
        /// What the reader took the topic for.
        topic: Option<TopicId>,
        /// The position that it had read up to.
        position: Offset,
        /// What it was told.
        end: Option<Offset>,
        /// When.
        at: Micros,
    },
}

/// What an auditor saw of one partition.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Where it began.
    pub from: i64,
    /// Up to where it has read.
    pub to: i64,
    /// Base offset and print of what it saw.
    pub seen: BTreeMap<i64, u64>,
    /// When it asked for the end.
    pub asked: Micros,
    /// It has read to the end that it was told then.
    pub done: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct History {
    /// All batches, in the order of their first attempts.
    pub sent: Vec<Sent>,
    /// By content.
    pub by_print: BTreeMap<u64, usize>,
    /// Groups.
    pub groups: Groups,
    /// Racks of brokers.
    pub racks: Racks,
    /// What auditors saw, by topic id and partition.
    pub audits: BTreeMap<(TopicPartition, Option<TopicId>), Audit>,
    /// When the deletion of a topic was first asked for.
    pub deletions: BTreeMap<TopicName, Vec<Micros>>,
    /// Batches read by consumers.
    pub batches_read: u64,
    /// Positions that clients gave up by their policy: who, where, from, to, why.
    pub resets: Vec<(Micros, u32, TopicPartition, Offset, Offset, &'static str)>,
    news: VecDeque<News>,
    broken: Option<Violation>,
    /// Highest watermark told to a client under one leader epoch.
    marks: BTreeMap<(u32, TopicPartition, Option<TopicId>, LeaderEpoch), i64>,
}

impl History {
    /// Nothing happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch is sent for the first time; the number names it from now on.
    pub fn send(&mut self, sent: Sent) -> usize {
        let number = self.sent.len();
        if let Some(other) = self.by_print.insert(sent.print, number) {
            let (a, b) = (self.sent[other].name(), sent.name());
            self.broken(0, || format!("the workload made two batches that look alike: {a} and {b}"));
        }
        self.sent.push(sent);
        number
    }

    /// How it ended; said once.
    pub fn resolve(&mut self, number: usize, outcome: Outcome, now: Micros) {
        let Some(sent) = self.sent.get_mut(number) else { return };
        sent.outcome = outcome;
        sent.resolved = now;
        if matches!(outcome, Outcome::Acked(_)) {
            self.news.push_back(News::Acked(number));
        }
    }

    /// A reader at `position` was given `batches` by the leader of `epoch`.
    #[allow(clippy::too_many_arguments, reason = "one observation")]
    pub fn read(
        &mut self,
        client: u32,
        tp: &TopicPartition,
        topic: Option<TopicId>,
        epoch: LeaderEpoch,
        position: Offset,
        asked: Micros,
        high_watermark: i64,
        batches: Vec<BatchHeader>,
    ) {
        let mark = self.marks.entry((client, tp.clone(), topic, epoch)).or_insert(high_watermark);
        let before = std::mem::replace(mark, (*mark).max(high_watermark));
        if high_watermark < before {
            self.broken(4, || {
                format!(
                    "c{client} was told high watermark {high_watermark} of {tp} by the leader of epoch {epoch}, and \
                     {before} before"
                )
            });
        }
        let mut next = position.0;
        for (number, batch) in batches.iter().enumerate() {
            let (base, end) = (batch.base_offset.0, batch.next_offset().0);
            let fits = if number == 0 { base <= next && next < end } else { base == next };
            if !fits {
                let name = self.name_of(batch);
                self.broken(5, || {
                    format!("c{client} polled {tp} at {next} and was given {name} at {base}..{end}: a poll skip")
                });
            }
            if end > high_watermark {
                let name = self.name_of(batch);
                self.broken(4, || {
                    format!(
                        "c{client} was given {name} at {base}..{end} of {tp} above the high watermark {high_watermark}"
                    )
                });
            }
            next = end;
        }
        self.batches_read += batches.len() as u64;
        if !batches.is_empty() {
            self.news.push_back(News::Read { client, tp: tp.clone(), topic, asked, batches, high_watermark });
        }
    }

    /// A reader was given bytes that are no batches.
    pub fn read_garbage(&mut self, client: u32, tp: &TopicPartition, position: Offset, why: &str) {
        self.broken(1, || format!("c{client} polled {tp} at {position} and was given damaged records: {why}"));
    }

    /// A reader was told that what it has read is not there.
    pub fn read_lost(
        &mut self,
        client: u32,
        tp: &TopicPartition,
        topic: Option<TopicId>,
        position: Offset,
        end: Option<Offset>,
        at: Micros,
    ) {
        self.news.push_back(News::Lost { client, tp: tp.clone(), topic, position, end, at });
    }

    /// A client gives up its position, as its policy says.
    pub fn reset(&mut self, at: Micros, client: u32, tp: &TopicPartition, from: Offset, to: Offset, why: &'static str) {
        self.resets.push((at, client, tp.clone(), from, to, why));
    }

    /// The audit of one partition.
    pub fn audit(&mut self, tp: &TopicPartition, topic: Option<TopicId>) -> &mut Audit {
        self.audits.entry((tp.clone(), topic)).or_default()
    }

    /// The deletion of a topic is asked for.
    pub fn delete_topic(&mut self, name: &TopicName, at: Micros) {
        self.deletions.entry(name.clone()).or_default().push(at);
    }

    /// Batches acknowledged.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Acked(_))).count()
    }

    /// The records of a batch as their values name them.
    #[must_use]
    pub fn name_of(&self, header: &BatchHeader) -> String {
        match self.by_print.get(&print_of(header)).and_then(|number| self.sent.get(*number)) {
            Some(sent) => sent.name(),
            None => format!("a batch with checksum {:08x} that no client sent", header.crc),
        }
    }

    pub(super) fn next_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    pub(super) fn take_broken(&mut self) -> Option<Violation> {
        self.broken.take().or_else(|| self.groups.take_broken())
    }

    fn broken(&mut self, invariant: u8, text: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(Violation { invariant, text: text() });
        }
    }
}
