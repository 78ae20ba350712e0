//! What clients were told against what was committed; and the last judgement over a whole run.
//!
//! The rules are those of Jepsen's queue workload. A write that was acknowledged with acks=all is committed by then, at the
//! offset that was said, and stays until the end. What a reader is given is committed by then. What a reader has read never
//! turns out not to be there. At the end every replica in sync holds every committed record with its bytes, and the auditor
//! has seen each. A [`ledger::Cut`](super::ledger::Cut), retention and the deletion of the topic excuse; nothing else does.

use std::collections::BTreeMap;

use chronik_model::batch::BatchHeader;
use chronik_model::{NodeId, Offset, TopicPartition};

use super::history::{Audit, News, Outcome, Sent};
use super::ledger::{Key, Ledger};
use super::logs::Logs;
use super::watch::read_batches;
use super::{Oracle, Violation, history};
use crate::broker::PartitionView;
use crate::kernel::{Kernel, Micros};
use crate::world::Host;

fn ms(at: Micros) -> u64 {
    at / 1_000
}

/// When an acknowledgement is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    /// As it arrives.
    Now,
    /// When everything that was under way has come to its end.
    AtEnd,
}

/// A write that was acknowledged must be committed where it was said to be.
pub(super) fn acked(logs: &Logs, sent: &Sent, base: Offset, when: When) -> Result<(), Violation> {
    if sent.acks != -1 || logs.lives(&sent.tp).any(|(_, ledger)| ledger.ever(base.0, sent.print)) {
        return Ok(());
    }
    // One event may commit it and take the topic away: nobody saw the watermark then.
    if logs.lives(&sent.tp).any(|(_, ledger)| ledger.deleted.is_some_and(|at| at >= sent.invoked)) {
        return Ok(());
    }
    // Or take the replica away, when the others had it already: then the next leader commits it, and the end of the run asks.
    let left = |ledger: &Ledger| ledger.left.is_some_and(|at| at >= sent.invoked);
    if when == When::Now && logs.lives(&sent.tp).any(|(_, ledger)| left(ledger)) {
        return Ok(());
    }
    let found: Vec<String> = logs
        .lives(&sent.tp)
        .map(|(id, ledger)| {
            let there = match ledger.entry(base.0) {
                Some(entry) => format!("another batch (epoch {}, committed at {} ms)", entry.epoch, ms(entry.at)),
                None => "nothing".to_owned(),
            };
            format!(
                "topic {id} has {there} committed at {base}, its committed end is {}; {}",
                ledger.end(),
                ledger.story()
            )
        })
        .collect();
    let text = format!(
        "lost write: {} sent by c{} at {} ms was acknowledged (acks=all) at {} ms as {} offset {base}, and is not committed: {}",
        sent.name(),
        sent.client,
        ms(sent.invoked),
        ms(sent.resolved),
        sent.tp,
        if found.is_empty() { "no such partition was seen".to_owned() } else { found.join("; ") }
    );
    Err(Violation { invariant: 1, text })
}

/// What a reader is given is committed.
pub(super) fn read(
    logs: &Logs,
    name: impl Fn(&BatchHeader) -> String,
    client: u32,
    tp: &TopicPartition,
    batch: &BatchHeader,
) -> Result<(), Violation> {
    let base = batch.base_offset.0;
    let print = history::print_of(batch);
    if logs.lives(tp).any(|(_, ledger)| ledger.ever(base, print)) {
        return Ok(());
    }
    let beyond = logs.lives(tp).all(|(_, ledger)| base >= ledger.end());
    let stories: Vec<String> = logs
        .lives(tp)
        .map(|(_, ledger)| match ledger.entry(base) {
            Some(entry) => format!(
                "committed there is a batch of epoch {} with checksum {:08x} since {} ms; {}",
                entry.epoch,
                entry.crc,
                ms(entry.at),
                ledger.story()
            ),
            None => format!("committed end {}; {}", ledger.end(), ledger.story()),
        })
        .collect();
    let text = format!(
        "c{client} was given {} at {tp} offset {base} (epoch {}), which {}: {}",
        name(batch),
        batch.partition_leader_epoch,
        if beyond { "was not committed" } else { "is not what was committed: inconsistent offsets" },
        stories.join("; ")
    );
    Err(Violation { invariant: if beyond { 4 } else { 3 }, text })
}

/// What a reader has read does not turn out not to be there.
pub(super) fn lost(
    logs: &Logs,
    deleted: bool,
    client: u32,
    tp: &TopicPartition,
    position: Offset,
    end: Option<Offset>,
    at: Micros,
) -> Result<(), Violation> {
    let mut lives = logs.lives(tp).map(|(_, ledger)| ledger).peekable();
    let excused =
        |ledger: &Ledger| !ledger.cuts.is_empty() || position.0 < ledger.log_start || ledger.deleted.is_some();
    if deleted || lives.peek().is_none() || lives.any(excused) {
        return Ok(());
    }
    let ledger: Vec<String> =
        logs.lives(tp).map(|(_, ledger)| format!("committed end {}; {}", ledger.end(), ledger.story())).collect();
    let told = end.map_or_else(|| "that is out of range".to_owned(), |end| format!("its log leaves theirs at {end}"));
    let text = format!(
        "c{client} had read {tp} up to {position}, and at {} ms was told {told}: {}",
        ms(at),
        ledger.join("; ")
    );
    Err(Violation { invariant: 1, text })
}

/// A log holds everything that was committed from its start on, and nothing else there.
pub(super) fn complete(node: NodeId, ledger: &Ledger, start: i64, log: &[BatchHeader]) -> Result<(), Violation> {
    let held: BTreeMap<i64, &BatchHeader> = log.iter().map(|header| (header.base_offset.0, header)).collect();
    for (base, entry) in ledger.entries_from(start) {
        if held.get(&base).is_some_and(|header| ledger.holds(header)) {
            continue;
        }
        let found = held.get(&base).map_or_else(
            || "nothing".to_owned(),
            |header| format!("epoch {} checksum {:08x}", header.partition_leader_epoch, header.crc),
        );
        let text = format!(
            "{}: at the end in-sync b{node} has {found} at {base}, committed at {} ms was epoch {} checksum {:08x}; {}",
            ledger.tp,
            ms(entry.at),
            entry.epoch,
            entry.crc,
            ledger.story()
        );
        return Err(Violation { invariant: 1, text });
    }
    Ok(())
}

/// The auditor has seen everything that was committed between where it began and where it ended.
pub(super) fn audited(ledger: &Ledger, audit: &Audit, name: impl Fn(u64) -> String) -> Result<(), Violation> {
    for (base, entry) in ledger.entries_from(audit.from) {
        if entry.next > audit.to || ledger.may_miss(base, entry.print) {
            continue;
        }
        let text = match audit.seen.get(&base) {
            Some(print) if *print == entry.print => continue,
            Some(print) => format!("was given {} instead of {}", name(*print), name(entry.print)),
            None => format!("was not given {}", name(entry.print)),
        };
        let text = format!(
            "{}: the auditor {text} at {base}, committed at {} ms; {}",
            ledger.tp,
            ms(entry.at),
            ledger.story()
        );
        return Err(Violation { invariant: 1, text });
    }
    Ok(())
}

impl Oracle {
    /// Judges what clients were told since the last event.
    pub(super) fn take_news(&mut self) -> Result<(), Violation> {
        if let Some(broken) = self.history.take_broken() {
            return Err(broken);
        }
        while let Some(news) = self.history.next_news() {
            match news {
                News::Acked(number) => {
                    let Some(sent) = self.history.sent.get(number) else { continue };
                    if let Outcome::Acked(base) = sent.outcome {
                        acked(&self.logs, sent, base, When::Now)?;
                    }
                }
                News::Read { client, tp, batches, .. } => {
                    for batch in &batches {
                        read(&self.logs, |header| self.history.name_of(header), client, &tp, batch)?;
                    }
                }
                News::Lost { client, tp, position, end, at, .. } => {
                    let deleted = self.history.deletions.contains_key(&tp.topic);
                    lost(&self.logs, deleted, client, &tp, position, end, at)?;
                }
            }
        }
        Ok(())
    }

    /// The last judgement, when all is quiet: logs, states and the audit against everything that was committed.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn at_end(&mut self, hosts: &BTreeMap<NodeId, Host>, kernel: &mut Kernel) -> Result<(), Violation> {
        self.now = kernel.now;
        self.take_news()?;
        for (node, host) in hosts {
            let Some(broker) = &host.process else { continue };
            let state = broker.metadata().read();
            self.quorum.compare_whole(*node, &state)?;
            for known in state.brokers() {
                self.history.racks.see(known.node, known.rack.as_deref())?;
            }
            drop(state);
            for partition in broker.partitions() {
                self.judge_log(*node, host, partition)?;
            }
        }
        let name = |print: u64| {
            let sent = self.history.by_print.get(&print).and_then(|number| self.history.sent.get(*number));
            sent.map_or_else(
                || "a batch that no client sent".to_owned(),
                |sent| format!("{} ({:?} at {} ms)", sent.name(), sent.outcome, ms(sent.resolved)),
            )
        };
        for ((tp, topic), audit) in &self.history.audits {
            let ledger = topic.and_then(|id| self.logs.ledger(&(id, tp.partition)));
            if let Some(ledger) = ledger {
                audited(ledger, audit, name)?;
                if audit.done {
                    self.judge_end(tp, ledger, audit)?;
                }
            }
        }
        self.judge_acked()
    }

    fn judge_log(&self, node: NodeId, host: &Host, partition: PartitionView<'_>) -> Result<(), Violation> {
        let key: Key = (partition.topic_id(), partition.tp().partition);
        let (Some(ledger), Some(state)) = (self.logs.ledger(&key), self.logs.state(&key)) else { return Ok(()) };
        let judged = state.isr.contains(&node) && ledger.deleted.is_none() && !partition.0.replica().is_io_fenced();
        // What rots where nobody looks is only asked for when it leads.
        let rots = self.logs.replica(&key, node).is_some_and(|replica| replica.damaged) && state.leader != Some(node);
        if !judged || rots {
            return Ok(());
        }
        let (start, end) = (partition.log_start().0, partition.log_end().0);
        complete(node, ledger, start, &read_batches(host, partition, start, end, true))
    }

    /// The audit reached the end of what was committed when it asked for the end. A request that the network held up may be
    /// written and committed later.
    fn judge_end(&self, tp: &TopicPartition, ledger: &Ledger, audit: &Audit) -> Result<(), Violation> {
        let end = ledger.end_at(audit.asked);
        if audit.to >= end || ledger.deleted.is_some() {
            return Ok(());
        }
        let text =
            format!("{tp}: the auditor found the end at {} and {end} was committed; {}", audit.to, ledger.story());
        Err(Violation { invariant: 1, text })
    }

    /// Every acknowledged write is still committed, or excused.
    fn judge_acked(&self) -> Result<(), Violation> {
        for sent in &self.history.sent {
            let Outcome::Acked(base) = sent.outcome else { continue };
            if sent.acks == -1 {
                acked(&self.logs, sent, base, When::AtEnd)?;
            }
        }
        Ok(())
    }
}
