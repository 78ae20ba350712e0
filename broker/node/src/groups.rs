//! One coordinator of groups on one led partition of `__consumer_offsets`: loaded from its log, then writing to it.
//!
//! The owner makes a [`GroupShard`] for every new leadership of such a partition, runs a [`Loader`] over the log as it
//! was then, waits until all of that is committed ([`HostedPartition::await_committed`] at [`Loader::end`]), calls
//! [`GroupShard::finish_load`], and from then on [`GroupShard::tick`] at each
//! [`GroupShard::next_deadline`] and [`GroupShard::on_appended`] for every append that [`GroupHost::append`] said waits,
//! in the order of the appends. Requests come through [`GroupShard::ask`] and [`GroupShard::query`] at any time; while
//! loading they are refused by the coordinator. [`GroupShard::end`] is the end of the leadership.
//!
//! Effects are carried out in their order, and what follows from an append that is done at once comes before what was
//! to come after it. What never happens: a reply that depends on a record leaves before [`GroupHost`] said that the
//! record is on all in-sync replicas; a shard of an old leader epoch appends under a new one, as every append names its
//! epoch; a shard serves from records that another leader may not have, so that a generation could begin again.
//!
//! [`HostedPartition::await_committed`]: crate::partition::HostedPartition::await_committed

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use chronik_core::group::{Effect, GroupConfig, GroupCoordinator, GroupResponse, Ticket};
use chronik_log::split_batches;
use chronik_model::batch::{BatchBuilder, crc_matches};
use chronik_model::{ErrorCode, LeaderEpoch, Offset, TopicName};
use chronik_wire::records::BatchRecords;

use crate::Now;

/// `offsets.commit.timeout.ms`: how long an append may wait for its acknowledgement.
pub const APPEND_TIMEOUT_MS: u64 = 5_000;
/// Bytes to read at once while loading.
pub const LOAD_CHUNK: usize = 1024 * 1024;
/// Decompressed bytes of one batch while loading; what we wrote is not compressed at all.
const MAX_BATCH: usize = 64 * 1024 * 1024;

/// Where a shard runs: who appends for it and who answers.
pub trait GroupHost<T> {
    /// Appends one batch with acks=all as leader of `epoch` and of no other. True if the acknowledgement is still to
    /// come; its outcome then goes to [`GroupShard::on_appended`] with `ticket`, exactly once unless the shard ends.
    ///
    /// # Errors
    /// It is not written, or written and not acknowledged.
    fn append(&mut self, now: Now, epoch: LeaderEpoch, ticket: Ticket, batch: Bytes) -> Result<bool, ErrorCode>;

    /// Answers a request.
    fn reply(&mut self, token: T, response: GroupResponse);
}

/// See the module documentation. `T` is what a request waits with.
#[derive(Debug)]
pub struct GroupShard<T> {
    epoch: LeaderEpoch,
    coordinator: GroupCoordinator<T>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// With the topics that were deleted since it began.
    Loading(BTreeSet<TopicName>),
    Serving,
    Ended,
}

impl<T> GroupShard<T> {
    /// The shard of a leadership that has just begun.
    #[must_use]
    pub fn new(epoch: LeaderEpoch, config: GroupConfig) -> Self {
        Self { epoch, coordinator: GroupCoordinator::new(config), stage: Stage::Loading(BTreeSet::new()) }
    }

    /// The leadership that it belongs to.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Whether it is not loaded yet.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        matches!(self.stage, Stage::Loading(_))
    }

    /// Whether its leadership is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// The coordinator, to look at.
    #[must_use]
    pub fn coordinator(&self) -> &GroupCoordinator<T> {
        &self.coordinator
    }

    /// When [`Self::tick`] has something to do next (monotonic milliseconds).
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.coordinator.next_deadline()
    }

    /// Takes what one batch of the log says, while loading; how many records it has.
    pub fn replay(&mut self, batch: &BatchRecords) -> u64 {
        let mut count = 0;
        if batch.header.is_control() || !self.is_loading() {
            return count;
        }
        for record in batch.records().map_while(Result::ok) {
            count += 1;
            if let Err(error) = self.coordinator.load_record(record.key.unwrap_or_default(), record.value) {
                tracing::warn!(%error, "group record skipped");
            }
        }
        count
    }

    /// The log was replayed, and all of it is committed: serves from now on. `exists` says whether there is a topic of this name.
    pub fn finish_load(&mut self, host: &mut impl GroupHost<T>, now: Now, exists: impl Fn(&TopicName) -> bool) {
        let Stage::Loading(deleted) = &mut self.stage else { return };
        let mut gone = std::mem::take(deleted);
        self.stage = Stage::Serving;
        let mut effects = self.coordinator.finish_load(now);
        // Deletions that were committed while nobody led this partition, or while it was loading.
        gone.extend(self.coordinator.committed_topics().into_iter().filter(|name| !exists(name)));
        if !gone.is_empty() {
            let gone: Vec<_> = gone.into_iter().collect();
            effects.extend(self.coordinator.topic_deleted(now, &gone));
        }
        self.run(host, now, effects);
    }

    /// A request that is answered through its token.
    pub fn ask(
        &mut self,
        host: &mut impl GroupHost<T>,
        now: Now,
        operation: impl FnOnce(&mut GroupCoordinator<T>, Now) -> Vec<Effect<T>>,
    ) {
        let effects = operation(&mut self.coordinator, now);
        self.run(host, now, effects);
    }

    /// A request that is answered at once.
    pub fn query<R>(&mut self, now: Now, operation: impl FnOnce(&mut GroupCoordinator<T>, Now) -> R) -> R {
        operation(&mut self.coordinator, now)
    }

    /// Deadlines that have passed.
    pub fn tick(&mut self, host: &mut impl GroupHost<T>, now: Now) {
        if matches!(self.stage, Stage::Serving) {
            let effects = self.coordinator.tick(now);
            self.run(host, now, effects);
        }
    }

    /// What became of an append that had to wait.
    pub fn on_appended(
        &mut self,
        host: &mut impl GroupHost<T>,
        now: Now,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
    ) {
        if matches!(self.stage, Stage::Serving) {
            let effects = self.coordinator.append_done(now, ticket, result);
            self.run(host, now, effects);
        }
    }

    /// A topic was deleted: what groups committed for it is dropped, so that a new topic of the name is read from its
    /// beginning.
    pub fn on_topic_deleted(&mut self, host: &mut impl GroupHost<T>, now: Now, name: &TopicName) {
        match &mut self.stage {
            Stage::Loading(deleted) => {
                deleted.insert(name.clone());
            }
            Stage::Serving => {
                let effects = self.coordinator.topic_deleted(now, std::slice::from_ref(name));
                self.run(host, now, effects);
            }
            Stage::Ended => {}
        }
    }

    /// The leadership is over: everybody who waits is sent away, and nothing is appended any more.
    pub fn end(&mut self, host: &mut impl GroupHost<T>) {
        self.stage = Stage::Ended;
        for effect in self.coordinator.unload() {
            if let Effect::Reply { token, response } = effect {
                host.reply(token, response);
            }
        }
    }

    fn run(&mut self, host: &mut impl GroupHost<T>, now: Now, effects: Vec<Effect<T>>) {
        let mut left = VecDeque::from(effects);
        while let Some(effect) = left.pop_front() {
            match effect {
                Effect::Reply { token, response } => host.reply(token, response),
                Effect::Append { ticket, records } => {
                    let mut batch = BatchBuilder::new(now.wall_ms);
                    for record in &records {
                        batch.push(Some(&record.key), record.value.as_deref());
                    }
                    let result = match host.append(now, self.epoch, ticket, batch.build()) {
                        Ok(true) => continue,
                        Ok(false) => Ok(()),
                        Err(code) => Err(code),
                    };
                    // What follows from it comes before what was to come after it.
                    for effect in self.coordinator.append_done(now, ticket, result).into_iter().rev() {
                        left.push_front(effect);
                    }
                }
            }
        }
    }
}

/// Goes through the log of a partition as it was when the leadership began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loader {
    from: Offset,
    end: Offset,
}

impl Loader {
    /// A loader of `start .. end`.
    #[must_use]
    pub fn new(start: Offset, end: Offset) -> Self {
        Self { from: start, end }
    }

    /// Where it ends. What is below must be committed before anybody is served from it.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// What to read next: from where, and below what. `None` when everything was.
    #[must_use]
    pub fn wanted(&self) -> Option<(Offset, Offset)> {
        (self.from < self.end).then_some((self.from, self.end))
    }

    /// Whole batches from where it wanted them; each is given to `replay`.
    ///
    /// # Errors
    /// One of them is not what was written, or they bring it no further: a shard without part of its records, or with
    /// others, must not serve. Consumers would start over, or far ahead.
    pub fn take(&mut self, records: &Bytes, mut replay: impl FnMut(&BatchRecords)) -> Result<(), ErrorCode> {
        let before = self.from;
        for bytes in &split_batches(records).map_err(|error| error.code())? {
            // Nobody else looks: the log checks what it is given, not what it reads, and no client checks these.
            let opened = crc_matches(bytes).map_err(Into::into).and_then(|()| BatchRecords::open(bytes, MAX_BATCH));
            let batch = opened.map_err(|error| {
                tracing::error!(offset = %self.from, %error, "group batch cannot be trusted");
                ErrorCode::CorruptMessage
            })?;
            self.from = self.from.max(batch.header.next_offset());
            replay(&batch);
        }
        if self.from == before { Err(ErrorCode::CorruptMessage) } else { Ok(()) }
    }
}
