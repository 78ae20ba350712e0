//! Committed offsets: who may commit, when a commit becomes visible, what is fetched, deleted and expired.

use std::collections::BTreeSet;

use chronik_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicName, TopicPartition, mutant};

use super::context::{Cx, Purpose, offsets_write_error};
use super::messages::{
    GroupResponse, GroupState, OffsetCommitPartition, OffsetCommitRequest, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchPartitionResponse, OffsetFetchTopicResponse, OffsetsRecord, PartitionError, Ticket, TopicErrors,
    TopicPartitions,
};
use super::records::{CommittedOffset, GroupRecord};
use super::state::{Group, StoredOffset};

/// An append is one batch, and a batch has a largest size.
const TOMBSTONES_PER_APPEND: usize = 1_000;

impl OffsetCommitRequest {
    /// The answer that refuses the whole commit: this error on every partition.
    #[must_use]
    pub fn refused(&self, error: ErrorCode) -> Vec<TopicErrors> {
        let partition = |asked: &OffsetCommitPartition| PartitionError { partition: asked.partition, error };
        let topics = self.topics.iter();
        topics
            .map(|topic| TopicErrors {
                name: topic.name.clone(),
                partitions: topic.partitions.iter().map(partition).collect(),
            })
            .collect()
    }
}

impl<T> Group<T> {
    /// Answers an OffsetCommit, or parks it until its records are in the log.
    pub(super) fn commit_offsets(&mut self, cx: &mut Cx<'_, T>, token: T, request: OffsetCommitRequest) {
        if let Err(error) = self.validate_commit(&request) {
            return cx.reply(token, GroupResponse::OffsetCommit(request.refused(error)));
        }
        if let Some(member) = self.members.get_mut(&request.member_id) {
            member.renew_session(cx.now);
        }
        let mut records = Vec::new();
        let mut accepted = Vec::new();
        let mut response = request.refused(ErrorCode::None);
        for (topic, answers) in request.topics.into_iter().zip(&mut response) {
            for (asked, answer) in topic.partitions.into_iter().zip(&mut answers.partitions) {
                let partition = TopicPartition { topic: topic.name.clone(), partition: asked.partition };
                match self.offset_record(cx, request.retention_time_ms, &partition, asked) {
                    Ok((record, committed)) => {
                        records.push(record);
                        accepted.push((partition, committed));
                    }
                    Err(error) => answer.error = error,
                }
            }
        }
        if records.is_empty() {
            return cx.reply(token, GroupResponse::OffsetCommit(response));
        }
        if mutant!(CommitBeforeReplicated) {
            let ticket = cx.append(records, Purpose::Background);
            self.offsets_stored(ticket, accepted, true);
            return cx.reply(token, GroupResponse::OffsetCommit(response));
        }
        let partitions: Vec<TopicPartition> = accepted.iter().map(|(partition, _)| partition.clone()).collect();
        let ticket = cx.append(records, Purpose::Offsets { group: self.identity(), token, response, accepted });
        self.pending_offsets.extend(partitions.into_iter().map(|partition| (partition, ticket)));
    }

    fn validate_commit(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let instance_id = request.group_instance_id.as_deref();
        match self.state {
            GroupState::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            // An administrator, or a consumer that assigns itself.
            GroupState::Empty if request.generation_id < 0 => return Ok(()),
            _ => {}
        }
        if request.generation_id >= 0 || !request.member_id.is_empty() || instance_id.is_some() {
            self.validate_member(&request.member_id, instance_id)?;
            if request.generation_id != self.generation && !mutant!(StaleGeneration) {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else {
            // Only members commit for a group that has some.
            return Err(ErrorCode::UnknownMemberId);
        }
        match self.state {
            // The member knows of the new generation and has no business with partitions before it is assigned some.
            GroupState::CompletingRebalance => Err(ErrorCode::RebalanceInProgress),
            // In PreparingRebalance too: what was read so far can be committed before rejoining.
            _ => Ok(()),
        }
    }

    fn offset_record(
        &self,
        cx: &Cx<'_, T>,
        retention_ms: Option<i64>,
        partition: &TopicPartition,
        asked: OffsetCommitPartition,
    ) -> Result<(OffsetsRecord, CommittedOffset), ErrorCode> {
        let metadata = asked.metadata.unwrap_or_default();
        // Kafka counts the UTF-16 units of its strings.
        if metadata.encode_utf16().count() > cx.config.max_offset_metadata {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        let committed = CommittedOffset {
            offset: asked.offset,
            leader_epoch: asked.leader_epoch,
            metadata,
            commit_timestamp_ms: cx.now.wall_ms,
            expire_timestamp_ms: retention_ms.map(|retention| cx.now.wall_ms.saturating_add(retention)),
        };
        let record = GroupRecord::offset(&self.id, partition, Some(&committed));
        record.map(|record| (record, committed)).map_err(|_| ErrorCode::InvalidCommitOffsetSize)
    }

    /// Makes written offsets visible.
    pub(super) fn offsets_stored(
        &mut self,
        ticket: Ticket,
        accepted: Vec<(TopicPartition, CommittedOffset)>,
        written: bool,
    ) {
        for (partition, committed) in accepted {
            if self.pending_offsets.get(&partition) == Some(&ticket) {
                self.pending_offsets.remove(&partition);
            }
            // Appends may be reported out of order; in the log the later one wins.
            let newest = self.offsets.get(&partition).is_none_or(|stored| stored.ticket <= ticket);
            if written && newest {
                self.offsets.insert(partition, StoredOffset { committed, ticket });
            }
        }
    }

    /// Committed offsets of the partitions asked for, or of all.
    pub(super) fn fetch_offsets(&self, topics: Option<&[TopicPartitions]>) -> Vec<OffsetFetchTopicResponse> {
        if let Some(topics) = topics {
            let fetch = |topic: &TopicPartitions| OffsetFetchTopicResponse {
                name: topic.name.clone(),
                partitions: topic.partitions.iter().map(|index| self.fetch_offset(&topic.name, *index)).collect(),
            };
            return topics.iter().map(fetch).collect();
        }
        let mut all: Vec<OffsetFetchTopicResponse> = Vec::new();
        // The map is ordered by topic.
        for partition in self.offsets.keys().filter(|_| self.state != GroupState::Dead) {
            let fetched = self.fetch_offset(&partition.topic, partition.partition);
            match all.last_mut() {
                Some(last) if last.name == partition.topic => last.partitions.push(fetched),
                _ => all.push(OffsetFetchTopicResponse { name: partition.topic.clone(), partitions: vec![fetched] }),
            }
        }
        all
    }

    fn fetch_offset(&self, topic: &TopicName, partition: PartitionIndex) -> OffsetFetchPartitionResponse {
        let stored = self.offsets.get(&TopicPartition { topic: topic.clone(), partition });
        match stored.filter(|_| self.state != GroupState::Dead) {
            Some(stored) => OffsetFetchPartitionResponse {
                partition,
                offset: stored.committed.offset,
                leader_epoch: stored.committed.leader_epoch,
                metadata: stored.committed.metadata.clone(),
            },
            None => OffsetFetchPartitionResponse::none(partition),
        }
    }

    /// Answers an OffsetDelete, or parks it until the tombstones are in the log.
    pub(super) fn delete_offsets(&mut self, cx: &mut Cx<'_, T>, token: T, request: OffsetDeleteRequest) {
        let error = match self.state {
            GroupState::Dead => ErrorCode::CoordinatorNotAvailable,
            GroupState::Empty => ErrorCode::None,
            _ if self.is_consumer_group() => ErrorCode::None,
            _ => ErrorCode::NonEmptyGroup,
        };
        if error != ErrorCode::None {
            let response = OffsetDeleteResponse { error, topics: Vec::new() };
            return cx.reply(token, GroupResponse::OffsetDelete(response));
        }
        let mut removing = Vec::new();
        let mut topics = Vec::new();
        for TopicPartitions { name, partitions } in request.topics {
            let read = self.state != GroupState::Empty && self.is_subscribed(name.as_str());
            let error = if read { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            if !read {
                let partition = |index: &PartitionIndex| TopicPartition { topic: name.clone(), partition: *index };
                removing.extend(partitions.iter().map(partition));
            }
            let partitions = partitions.into_iter().map(|partition| PartitionError { partition, error }).collect();
            topics.push(TopicErrors { name, partitions });
        }
        removing
            .retain(|partition| self.offsets.contains_key(partition) || self.pending_offsets.contains_key(partition));
        let response = OffsetDeleteResponse { error: ErrorCode::None, topics };
        let records = self.tombstones(&removing);
        if records.is_empty() {
            return cx.reply(token, GroupResponse::OffsetDelete(response));
        }
        cx.append(records, Purpose::DeleteOffsets { group: self.identity(), token, response, removing });
    }

    pub(super) fn tombstones(&self, partitions: &[TopicPartition]) -> Vec<OffsetsRecord> {
        // A name that cannot be encoded was never written.
        partitions.iter().filter_map(|partition| GroupRecord::offset(&self.id, partition, None).ok()).collect()
    }

    /// The tombstones of these offsets are in the log; what was committed after them stays.
    pub(super) fn offsets_deleted(&mut self, ticket: Ticket, removing: &[TopicPartition]) {
        for partition in removing {
            if self.offsets.get(partition).is_some_and(|stored| stored.ticket < ticket) {
                self.offsets.remove(partition);
            }
        }
    }

    /// Drops what was committed for these topics. What is visible goes at once; a commit that is still being written
    /// goes when the tombstone, which is behind it in the log, is written.
    pub(super) fn forget_topics(&mut self, cx: &mut Cx<'_, T>, names: &[TopicName]) {
        if self.state == GroupState::Dead {
            return; // Its obituary has all tombstones already.
        }
        let mut removing: BTreeSet<TopicPartition> = BTreeSet::new();
        for partition in self.offsets.keys().chain(self.pending_offsets.keys()) {
            if names.contains(&partition.topic) {
                removing.insert(partition.clone());
            }
        }
        self.offsets.retain(|partition, _| !removing.contains(partition));
        let removing: Vec<TopicPartition> = removing.into_iter().collect();
        for some in removing.chunks(TOMBSTONES_PER_APPEND) {
            let records = self.tombstones(some);
            if !records.is_empty() {
                cx.append(records, Purpose::ForgetOffsets { group: self.identity(), removing: some.to_vec() });
            }
        }
    }

    /// Drops offsets past their retention (KIP-211) and says what to write. Whether the group is gone altogether is
    /// the second value.
    pub(super) fn expire_offsets(&mut self, cx: &Cx<'_, T>) -> (Vec<OffsetsRecord>, bool) {
        if self.state == GroupState::Dead {
            return (Vec::new(), false);
        }
        let now = cx.now.wall_ms;
        let retention = cx.config.offsets_retention_ms;
        let expired = |partition: &TopicPartition, stored: &StoredOffset| {
            let committed = &stored.committed;
            let since = match (self.state, &self.protocol_type) {
                // Nobody is there: the time runs from when the last member left.
                (GroupState::Empty, Some(_)) => self.state_since_ms.unwrap_or(committed.commit_timestamp_ms),
                (GroupState::Empty, None) => committed.commit_timestamp_ms,
                // Members are there: only what they no longer read, and never while they rebalance.
                (GroupState::Stable, _)
                    if self.subscribed.is_some() && !self.is_subscribed(partition.topic.as_str()) =>
                {
                    committed.commit_timestamp_ms
                }
                _ => return false,
            };
            match committed.expire_timestamp_ms {
                Some(expire) => now >= expire,
                None => now.saturating_sub(since) >= retention,
            }
        };
        let gone = self
            .offsets
            .iter()
            .filter(|(partition, stored)| !self.pending_offsets.contains_key(*partition) && expired(partition, stored));
        let gone: Vec<TopicPartition> = gone.map(|(partition, _)| partition.clone()).collect();
        let mut records = self.tombstones(&gone);
        for partition in &gone {
            self.offsets.remove(partition);
        }
        let dead = self.state == GroupState::Empty && self.is_unused();
        if dead && self.recorded {
            records.extend(GroupRecord::group(&self.id, None));
        }
        (records, dead)
    }

    /// Everything that removing this group from the log takes.
    pub(super) fn obituary(&self) -> Vec<OffsetsRecord> {
        let mut partitions: Vec<TopicPartition> = self.offsets.keys().cloned().collect();
        partitions.extend(self.pending_offsets.keys().filter(|pending| !self.offsets.contains_key(*pending)).cloned());
        let mut records = self.tombstones(&partitions);
        if self.recorded {
            records.extend(GroupRecord::group(&self.id, None));
        }
        records
    }
}

impl OffsetFetchPartitionResponse {
    /// Nothing is committed.
    #[must_use]
    pub fn none(partition: PartitionIndex) -> Self {
        Self { partition, offset: Offset(-1), leader_epoch: LeaderEpoch::NONE, metadata: String::new() }
    }
}

/// The answer of a commit whose write failed: the partitions that were to be written did not make it.
pub(super) fn failed_commit(response: &mut [TopicErrors], error: ErrorCode) {
    let error = offsets_write_error(error);
    for partition in response.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if partition.error == ErrorCode::None {
            partition.error = error;
        }
    }
}
