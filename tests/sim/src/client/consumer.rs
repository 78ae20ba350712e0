//! A consumer without a group: all partitions of its topics, from the beginning. Also the auditor, which stops at the end
//! that it found.

use chronik_model::{NodeId, Offset, TopicPartition};

use super::ConsumerConfig;
use super::conn::{Conn, Heard};
use super::reader::{ReadTag, Reader};
use crate::kernel::{Ctx, Timer};
use crate::oracle::history::History;
use crate::proto::Packet;

#[derive(Debug)]
pub(super) struct Consumer {
    config: ConsumerConfig,
    pub(super) conn: Conn<ReadTag>,
    reader: Reader,
    audit: bool,
}

impl Consumer {
    pub(super) fn new(config: ConsumerConfig, id: u32, brokers: &[NodeId], audit: bool) -> Self {
        let reader = Reader::new(config.max_wait_ms, audit);
        Self { config, conn: Conn::new(id, brokers), reader, audit }
    }

    pub(super) fn stop(&mut self) {
        self.reader.stopped = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        if self.audit { self.reader.is_done() } else { self.reader.stopped && self.conn.waiting() == 0 }
    }

    /// What an auditor waits for, and how far it got; `None` before it knows the partitions.
    pub(super) fn unread(&self) -> Option<Vec<(TopicPartition, Offset)>> {
        self.reader.knows_any().then(|| self.reader.unread().map(|(tp, at)| (tp.clone(), at)).collect())
    }

    pub(super) fn describe(&self) -> String {
        let kind = if self.audit { "auditor" } else { "consumer" };
        format!("{kind} c{} [{}]", self.conn.id(), self.reader.describe())
    }

    pub(super) fn on_packet(&mut self, ctx: &mut Ctx<'_>, _from: NodeId, packet: Packet, history: &mut History) {
        let heard = self.conn.on_packet(ctx, packet);
        self.heard(ctx, heard, history);
    }

    pub(super) fn on_timer(&mut self, ctx: &mut Ctx<'_>, timer: Timer, history: &mut History) {
        let heard = self.conn.on_timer(ctx, timer);
        self.heard(ctx, heard, history);
    }

    fn heard(&mut self, ctx: &mut Ctx<'_>, heard: Heard<ReadTag>, history: &mut History) {
        match heard {
            Heard::End(tag, _, end) => self.reader.on_end(ctx, &mut self.conn, &tag, end, history),
            Heard::Metadata => self.reader.add(self.conn.partitions(&self.config.topics)),
            Heard::Nothing => {}
        }
        self.reader.pump(ctx, &mut self.conn, |tag| tag);
    }
}
