//! The story of a world: a hash of everything that happened, the last lines, and the whole text where somebody wants it.
//!
//! The hash covers every packet that arrives (who, when, what kind, which request) and every timer of a broker in order, and what is
//! left on the disks and in the metadata in the end. Lines are only made when they are kept.

use std::collections::VecDeque;
use std::fmt::Write as _;

use crate::kernel::Micros;
use crate::proto::{Address, Packet, Reply, Request};

/// Lines kept for the report of a failure.
const LAST: usize = 400;

/// How much of the story is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Only the hash.
    Hash,
    /// The last lines, for the report of a failure.
    Last,
    /// Everything, packets too.
    Whole,
}

/// The story.
#[derive(Debug)]
pub struct Trace {
    detail: Detail,
    hash: u64,
    lines: VecDeque<String>,
}

impl Trace {
    /// A story that begins.
    #[must_use]
    pub fn new(detail: Detail) -> Self {
        Self { detail, hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new() }
    }

    /// Mixes a number into the hash.
    pub fn mix(&mut self, value: u64) {
        // FNV-1a over words, then a multiply-xorshift so that neighbouring words spread.
        let mut hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
        self.hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }

    /// Mixes bytes into the hash.
    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0_u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much is kept.
    #[must_use]
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// The lines kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Something worth telling happened.
    pub fn note(&mut self, now: Micros, who: Address, text: impl FnOnce() -> String) {
        self.mix(now);
        if self.detail == Detail::Hash {
            return;
        }
        let text = text();
        self.keep(format!("{:>10.3} {who:<4} {text}", now as f64 / 1000.0));
    }

    /// Something happened to the world, not to a process.
    pub fn world(&mut self, now: Micros, text: impl FnOnce() -> String) {
        self.mix(now);
        if self.detail != Detail::Hash {
            let text = text();
            self.keep(format!("{:>10.3} **** {text}", now as f64 / 1000.0));
        }
    }

    /// A packet arrives.
    pub(crate) fn packet(&mut self, now: Micros, from: Address, to: Address, packet: &Packet) {
        self.mix(now);
        self.mix(code(from) << 32 | code(to));
        match packet {
            Packet::Raft(message) => {
                self.mix(message.term);
                self.mix(message.index);
                self.mix(message.msg_type as u64);
            }
            Packet::Chunk(_) => self.mix(1 << 60),
            Packet::Request { id, .. } => self.mix(2 << 60 | id),
            Packet::Reply { id, .. } => self.mix(3 << 60 | id),
            Packet::Receipt { transfer, .. } => self.mix(4 << 60 | transfer),
            Packet::Refused { id } => self.mix(5 << 60 | id),
        }
        if self.detail == Detail::Whole {
            let line = format!("{:>10.3} {to:<4} <- {from} {}", now as f64 / 1000.0, describe(packet));
            self.keep(line);
        }
    }

    pub(crate) fn lost(&mut self, now: Micros, from: Address, to: Address, packet: &Packet) {
        if self.detail == Detail::Whole {
            self.keep(format!("{:>10.3} {from:<4} -> {to} lost: {}", now as f64 / 1000.0, describe(packet)));
        }
    }

    fn keep(&mut self, line: String) {
        if self.detail == Detail::Last && self.lines.len() == LAST {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

fn code(address: Address) -> u64 {
    match address {
        Address::Broker(node) => u64::from(node.0.unsigned_abs()),
        Address::Client(id) => 1 << 20 | u64::from(id),
    }
}

/// One packet in one line.
#[must_use]
pub fn describe(packet: &Packet) -> String {
    let mut out = String::new();
    let _infallible = match packet {
        Packet::Raft(m) => write!(
            out,
            "raft {} term={} index={} log_term={} commit={} entries={}{}",
            m.msg_type,
            m.term,
            m.index,
            m.log_term,
            m.commit,
            m.entries.len(),
            if m.reject { " reject" } else { "" }
        ),
        Packet::Chunk(_) => write!(out, "state image chunk"),
        Packet::Request { id, body } => match &**body {
            Request::Propose(envelope) => write!(out, "#{id} propose {} bytes", envelope.len()),
            other => write!(out, "#{id} {other:?}"),
        },
        Packet::Reply { id, body } => match &**body {
            Reply::FollowerFetch(parts) => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|(_, p, d)| {
                        format!("{p}:{:?} hw={} {}B div={:?}", d.error, d.high_watermark, d.records.len(), d.diverging)
                    })
                    .collect();
                write!(out, "#{id} fetched {}", parts.join(" "))
            }
            other => write!(out, "#{id} {other:?}"),
        },
        Packet::Receipt { taken, .. } => write!(out, "state image chunk taken: {taken:?}"),
        Packet::Refused { id } => write!(out, "#{id} refused"),
    };
    if out.len() > 400 {
        let mut end = 400;
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
    }
    out
}
