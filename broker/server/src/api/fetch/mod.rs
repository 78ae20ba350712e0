//! Fetch: consumers on the client listener, followers on the replication listener.
//!
//! One round reads every wanted partition. If that is less than `min_bytes` and nothing else is worth telling, the
//! fetch parks in the partitions' waiter lists and looks again when one of them advances, until `max_wait` is over.

pub(crate) mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chronik_core::partition::{ConsumerFetch, FollowerFetch};
use chronik_log::split_batches;
use chronik_model::batch::{BatchHeader, Compression};
use chronik_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicName, TopicPartition};
use chronik_wire::messages::fetch::{
    EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use tokio::time::Instant;

use self::session::{FetchContext, RoundResult, SessionRequest, TopicRef, Wanted};
use super::{Api, Call, Outcome};
use crate::net::ConnectionInfo;
use crate::replication::waiters::FetchWait;
use crate::replication::{FetchedPartition, Partition, ReadBudget, ReadKind, mono_ms};

/// Version 10 is the first whose clients can read zstd (KIP-110).
const ZSTD_FROM: i16 = 10;
/// Version 13 names topics by id (KIP-516).
const IDS_FROM: i16 = 13;
/// Version 16 brings the addresses of new leaders (KIP-951).
const HINTS_FROM: i16 = 16;
/// What a fetch may answer with even when peers hold all the memory there is for answers.
const LEAST_BYTES: usize = 64 * 1024;
/// No fetch waits longer.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Who fetches.
#[derive(Clone, Copy)]
enum Reader {
    Consumer,
    Follower { node: NodeId, epoch: BrokerEpoch },
}

/// A consumer's fetch; replica ids are refused on this listener.
pub(super) fn handle_consumer(api: &Arc<Api>, call: &Call, request: FetchRequest) -> Outcome<FetchResponse> {
    if request.replica_id >= 0 || request.replica_state.replica_id >= 0 {
        return Outcome::Close("a fetch with a replica id is not accepted from clients".to_owned());
    }
    start(api, call, request, Reader::Consumer)
}

/// A follower's fetch.
pub(super) fn handle_follower(api: &Arc<Api>, call: &Call, request: FetchRequest) -> Outcome<FetchResponse> {
    let node = NodeId(request.replica_state.replica_id);
    if node.0 < 0 {
        return Outcome::Close("a fetch without a replica id on the replication listener".to_owned());
    }
    let epoch = BrokerEpoch(request.replica_state.replica_epoch);
    start(api, call, request, Reader::Follower { node, epoch })
}

fn start(api: &Arc<Api>, call: &Call, request: FetchRequest, reader: Reader) -> Outcome<FetchResponse> {
    // The answer to an earlier fetch of this connection need not wait any more.
    let wait = Arc::new(FetchWait::default());
    if let Some(earlier) = call.connection.parked_fetch.lock().replace(Arc::downgrade(&wait)).and_then(|w| w.upgrade())
    {
        earlier.hurry();
    }
    let version = call.version;
    let by_id = version >= IDS_FROM;
    let cache = match reader {
        Reader::Consumer => &api.sessions,
        Reader::Follower { .. } => &api.follower_sessions,
    };
    let opened = cache.open(
        SessionRequest {
            id: if version >= 7 { request.session_id } else { 0 },
            epoch: if version >= 7 { request.session_epoch } else { -1 },
            by_id,
            follower: matches!(reader, Reader::Follower { .. }),
            wanted: wanted(&request, by_id),
            forgotten: forgotten(&request, by_id),
        },
        api.now_ms(),
    );
    let context = match opened {
        Ok(context) => context,
        Err(error) => {
            return Outcome::Done(FetchResponse { error_code: error.code(), ..FetchResponse::default() });
        }
    };
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(api.config.fetch_max_bytes);
    let fetch = Fetch {
        api: Arc::clone(api),
        version,
        reader,
        context,
        wait,
        connection: Arc::clone(&call.connection),
        max_bytes,
        // More than an answer may hold would be waited for in vain.
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
        deadline: Instant::now() + max_wait,
        deadline_ms: mono_ms() + u64::try_from(max_wait.as_millis()).unwrap_or(0),
    };
    let patient = !max_wait.is_zero() && fetch.min_bytes > 0 && !fetch.context.wanted.is_empty();
    let first = fetch.round(true, patient);
    if !patient || fetch.is_enough(&first) {
        return Outcome::Done(fetch.answer(first));
    }
    Outcome::Parked(Box::pin(fetch.park()))
}

fn topic_ref(by_id: bool, name: &str, id: chronik_model::TopicId) -> TopicRef {
    if by_id { TopicRef::Id(id) } else { TopicRef::Name(TopicName::from(name)) }
}

fn wanted(request: &FetchRequest, by_id: bool) -> Vec<Wanted> {
    request
        .topics
        .iter()
        .flat_map(|topic| {
            let named = topic_ref(by_id, &topic.topic, topic.topic_id);
            topic.partitions.iter().map(move |one| Wanted {
                topic: named.clone(),
                partition: PartitionIndex(one.partition),
                fetch_offset: one.fetch_offset,
                max_bytes: one.partition_max_bytes,
                current_leader_epoch: one.current_leader_epoch,
                last_fetched_epoch: one.last_fetched_epoch,
                log_start_offset: one.log_start_offset,
            })
        })
        .collect()
}

fn forgotten(request: &FetchRequest, by_id: bool) -> Vec<session::SessionKey> {
    request
        .forgotten_topics_data
        .iter()
        .flat_map(|topic| {
            let named = topic_ref(by_id, &topic.topic, topic.topic_id);
            topic.partitions.iter().map(move |index| (named.clone(), PartitionIndex(*index)))
        })
        .collect()
}

fn holds_zstd(records: &Bytes) -> bool {
    let is_zstd = |batch: &Bytes| BatchHeader::decode(batch).is_ok_and(|h| h.compression() == Ok(Compression::Zstd));
    split_batches(records).is_ok_and(|batches| batches.iter().any(is_zstd))
}

struct Fetch {
    api: Arc<Api>,
    version: i16,
    reader: Reader,
    context: FetchContext,
    wait: Arc<FetchWait>,
    connection: Arc<ConnectionInfo>,
    max_bytes: usize,
    min_bytes: usize,
    deadline: Instant,
    deadline_ms: u64,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.wait.leave();
    }
}

impl Fetch {
    async fn park(self) -> FetchResponse {
        loop {
            let expired = tokio::time::timeout_at(self.deadline, self.wait.woken()).await.is_err();
            self.wait.leave();
            let last = expired || self.wait.is_hurried();
            let round = self.round(false, !last);
            if last || self.is_enough(&round) {
                return self.answer(round);
            }
        }
    }

    /// Reads every wanted partition once.
    fn round(&self, first: bool, park: bool) -> Vec<FetchedPartition> {
        // Where many peers have not taken their answers yet, what comes now is small.
        let mut left = self.max_bytes.min(self.connection.answers.left().max(LEAST_BYTES));
        let mut total = 0;
        let mut fetched = Vec::with_capacity(self.context.wanted.len());
        for wanted in &self.context.wanted {
            let budget = ReadBudget {
                max_bytes: left,
                partition_bytes: usize::try_from(wanted.max_bytes).unwrap_or(0),
                // KIP-74: progress is possible even if the first batch is larger than every limit.
                min_one: total == 0,
                wait: (park && total < self.min_bytes).then_some((&self.wait, self.deadline_ms)),
            };
            let mut one = match self.find(wanted) {
                Ok(partition) => self.api.replicas.read(&partition, self.kind(wanted, first), &budget),
                Err(error) => FetchedPartition::refused(error),
            };
            if self.version < ZSTD_FROM && holds_zstd(&one.records) {
                one = FetchedPartition::refused(ErrorCode::UnsupportedCompressionType);
            }
            total += one.records.len();
            left = left.saturating_sub(one.records.len());
            fetched.push(one);
        }
        fetched
    }

    fn find(&self, wanted: &Wanted) -> Result<Arc<Partition>, ErrorCode> {
        let (found, exists) = match &wanted.topic {
            TopicRef::Id(id) => {
                let found = self.api.replicas.partition_by_id(*id, wanted.partition);
                if found.is_none() && self.api.meta.state().topic_by_id(*id).is_none() {
                    return Err(ErrorCode::UnknownTopicId);
                }
                let exists = found.is_some() || self.api.meta.state().partition_by_id(*id, wanted.partition).is_some();
                (found, exists)
            }
            TopicRef::Name(name) => {
                let tp = TopicPartition { topic: name.clone(), partition: wanted.partition };
                let found = self.api.replicas.partition(&tp);
                let exists = found.is_some() || self.api.meta.state().partition(&tp).is_some();
                (found, exists)
            }
        };
        match found {
            Some(partition) => Ok(partition),
            None if exists => Err(ErrorCode::NotLeaderOrFollower),
            None => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }

    fn kind(&self, wanted: &Wanted, first: bool) -> ReadKind {
        let current_leader_epoch = LeaderEpoch(wanted.current_leader_epoch);
        let (fetch_offset, last_fetched_epoch) = (Offset(wanted.fetch_offset), LeaderEpoch(wanted.last_fetched_epoch));
        match self.reader {
            // Followers serve no consumers yet: no preferred replica is ever named (KIP-392).
            Reader::Consumer => ReadKind::Consumer(ConsumerFetch {
                current_leader_epoch,
                fetch_offset,
                last_fetched_epoch,
                from_follower: false,
            }),
            Reader::Follower { node, epoch } => {
                let fetch = FollowerFetch {
                    replica: node,
                    replica_epoch: epoch,
                    current_leader_epoch,
                    fetch_offset,
                    last_fetched_epoch,
                    log_start: Offset(wanted.log_start_offset),
                };
                if first { ReadKind::Follower(fetch) } else { ReadKind::FollowerAgain(fetch) }
            }
        }
    }

    /// Whether there is something that the reader should know at once.
    fn is_enough(&self, fetched: &[FetchedPartition]) -> bool {
        let bytes: usize = fetched.iter().map(|one| one.records.len()).sum();
        bytes >= self.min_bytes.max(1) || fetched.iter().any(|one| !one.error.is_none() || one.diverging.is_some())
    }

    fn answer(&self, fetched: Vec<FetchedPartition>) -> FetchResponse {
        let results: Vec<_> = fetched
            .iter()
            .map(|one| RoundResult {
                has_records: !one.records.is_empty(),
                has_error: !one.error.is_none(),
                must_send: one.diverging.is_some(),
                high_watermark: one.high_watermark,
                log_start_offset: one.log_start,
            })
            .collect();
        let named = self.context.close_round(&results);
        let mut response = FetchResponse { session_id: self.context.session_id(), ..FetchResponse::default() };
        let mut leaders = std::collections::BTreeSet::new();
        for ((wanted, one), _) in self.context.wanted.iter().zip(fetched).zip(named).filter(|(_, named)| *named) {
            let data = self.partition_data(wanted, one);
            if data.current_leader.leader_id >= 0 {
                leaders.insert(data.current_leader.leader_id);
            }
            let (topic, topic_id) = match &wanted.topic {
                TopicRef::Name(name) => (name.as_str().into(), chronik_model::TopicId::ZERO),
                TopicRef::Id(id) => ("".into(), *id),
            };
            match response.responses.last_mut().filter(|last| last.topic == topic && last.topic_id == topic_id) {
                Some(last) => last.partitions.push(data),
                None => response.responses.push(FetchableTopicResponse { topic, topic_id, partitions: vec![data] }),
            }
        }
        if self.version >= HINTS_FROM && !leaders.is_empty() {
            let state = self.api.meta.state();
            let brokers = leaders.into_iter().filter_map(|leader| state.broker(NodeId(leader)));
            response.node_endpoints = brokers
                .filter_map(|broker| {
                    let endpoint = super::endpoints::of(broker, &self.connection)?;
                    Some(NodeEndpoint {
                        node_id: broker.node.0,
                        host: endpoint.host.as_str().into(),
                        port: i32::from(endpoint.port),
                        rack: broker.rack.as_deref().map(Into::into),
                    })
                })
                .collect();
        }
        response
    }

    fn partition_data(&self, wanted: &Wanted, one: FetchedPartition) -> PartitionData {
        let moved = matches!(one.error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
        let known = || {
            let state = self.api.meta.state();
            let partition = match &wanted.topic {
                TopicRef::Id(id) => state.partition_by_id(*id, wanted.partition),
                TopicRef::Name(name) => {
                    state.partition(&TopicPartition { topic: name.clone(), partition: wanted.partition })
                }
            };
            partition.and_then(|partition| Some((partition.leader?, partition.leader_epoch)))
        };
        let leader = if moved && self.version >= 12 { one.leader.or_else(known) } else { None };
        PartitionData {
            partition_index: wanted.partition.0,
            error_code: one.error.code(),
            high_watermark: one.high_watermark,
            // No transactions: everything below the watermark is decided.
            last_stable_offset: one.high_watermark,
            log_start_offset: one.log_start,
            aborted_transactions: Some(Vec::new()),
            preferred_read_replica: -1,
            // Never null: librdkafka breaks on it (KAFKA-18646).
            records: Some(if one.error.is_none() { one.records } else { Bytes::new() }),
            diverging_epoch: one.diverging.map_or_else(EpochEndOffset::default, |end| EpochEndOffset {
                epoch: end.epoch.0,
                end_offset: end.end_offset.0,
            }),
            current_leader: leader.map_or_else(LeaderIdAndEpoch::default, |(leader, epoch)| LeaderIdAndEpoch {
                leader_id: leader.0,
                leader_epoch: epoch.0,
            }),
            ..PartitionData::default()
        }
    }
}
