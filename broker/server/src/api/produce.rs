//! Produce: appends record batches and answers when the acknowledgement asked for is there.
//!
//! The batches are slices of the request's frame and go to the log as they are. The append happens in [`handle`], so
//! requests of one connection reach the log in their order; what waits is only the answer.
//!
//! The records are looked at once, before the partition is locked: the count in the header decides how many offsets are
//! given out, and what else would say whether it is true? Compressed ones are decompressed as a stream, not held, and
//! only when nothing else speaks against them: a few bytes may stand for seconds of work. What is more than a moment's
//! work is done with the worker given up, so that heartbeats and Raft messages of this process do not stand behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chronik_log::split_batches;
use chronik_model::batch::{BatchHeader, Compression, crc_matches};
use chronik_model::{ErrorCode, NodeId, PartitionIndex, TopicId, TopicName, TopicPartition};
use chronik_node::partition::Refusal;
use chronik_wire::compression::CompressionError;
use chronik_wire::messages::produce::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceResponse,
};
use chronik_wire::records::{RecordsError, verify};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::groups::OFFSETS_TOPIC;
use super::{Api, Call, Outcome};
use crate::replication::waiters::AckWait;
use crate::replication::{Partition, mono_ms};

/// Version 7 is the first whose clients may use zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
/// Version 10 is the first with leader hints (KIP-951).
const HINTS_FROM: i16 = 10;
/// Version 13 names topics by id (KIP-516).
const IDS_FROM: i16 = 13;

/// A batch may decompress to so much, however small it is: a producer's default batch of 16 KiB at a thousand to one,
/// which is as far as what people send is compressed.
const ALWAYS_DECOMPRESSED: usize = 16 << 20;
/// A larger one to so many times its size, up to [`ALWAYS_LARGE`], and to [`RATIO_BEYOND`] times its size after that:
/// the larger a batch, the less is it allowed to make of each byte. Kafka has no such bounds.
const RATIO: usize = 64;
/// See [`RATIO`].
const ALWAYS_LARGE: usize = 64 << 20;
/// See [`RATIO`].
const RATIO_BEYOND: usize = 16;
/// But never to more than a lookup by timestamp can open.
const MAX_DECOMPRESSED: usize = 256 << 20;
/// So much is decompressed in passing, in well under a millisecond with most codecs.
const IN_PASSING: usize = 256 << 10;
/// Larger compressed batches are not even tried in passing.
const PACKED_IN_PASSING: usize = 64 << 10;

/// Where each waiting partition is in the response.
type Place = (usize, usize);

pub(super) fn handle(api: &Arc<Api>, call: &Call, request: ProduceRequest) -> Outcome<ProduceResponse> {
    let version = call.version;
    let refused = if request.transactional_id.is_some() {
        Some((ErrorCode::TransactionalIdAuthorizationFailed, "transactions are not supported by this broker yet"))
    } else if !(-1..=1).contains(&request.acks) {
        Some((ErrorCode::InvalidRequiredAcks, ErrorCode::InvalidRequiredAcks.text()))
    } else {
        None
    };
    let wait = Arc::new(AckWait::default());
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let deadline_ms = mono_ms() + timeout_ms;
    let mut places: Vec<Place> = Vec::new();
    let mut response = ProduceResponse::default();
    for topic in &request.topic_data {
        let name = if version >= IDS_FROM {
            api.meta.state().topic_by_id(topic.topic_id).map(|found| found.name.clone())
        } else {
            Some(TopicName::from(topic.name.as_str()))
        };
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for data in &topic.partition_data {
            let place = (response.responses.len(), partitions.len());
            let one = match (&refused, &name) {
                (Some((code, text)), _) => failed(data.index, *code, text),
                (None, None) => failed(data.index, ErrorCode::UnknownTopicId, ErrorCode::UnknownTopicId.text()),
                (None, Some(name)) if name.as_str() == OFFSETS_TOPIC => {
                    let text = "only the broker writes to its internal topics";
                    failed(data.index, ErrorCode::InvalidTopicException, text)
                }
                (None, Some(name)) => {
                    let parked = Parked { wait: &wait, places: &mut places, place, deadline_ms };
                    let id = (version >= IDS_FROM).then_some(topic.topic_id);
                    append(api, version, request.acks, (name, id), data, parked)
                }
            };
            partitions.push(one);
        }
        response.responses.push(TopicProduceResponse {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partition_responses: partitions,
        });
    }
    if request.acks == 0 {
        // There is no answer to put an error into: closing the connection makes the client look again.
        let error = response.responses.iter().flat_map(|topic| &topic.partition_responses).find(|p| p.error_code != 0);
        return match error {
            None => Outcome::Silent,
            Some(p) => Outcome::Close(format!(
                "Produce with acks=0 failed with error {}: {}",
                p.error_code,
                p.error_message.as_deref().unwrap_or_default()
            )),
        };
    }
    if places.is_empty() {
        return Outcome::Done(finish(api, call, response));
    }
    let (api, call) = (Arc::clone(api), call.clone());
    Outcome::Parked(Box::pin(async move {
        let all = Arc::clone(&wait).all();
        let expired = tokio::time::timeout(Duration::from_millis(timeout_ms), all).await.is_err();
        let mut outcome: BTreeMap<usize, ErrorCode> = wait.results().into_iter().collect();
        for (index, (topic, partition)) in places.into_iter().enumerate() {
            let error = outcome.remove(&index).unwrap_or(if expired {
                ErrorCode::RequestTimedOut
            } else {
                ErrorCode::UnknownServerError
            });
            if !error.is_none() {
                let one = &mut response.responses[topic].partition_responses[partition];
                *one = failed(one.index, error, error.text());
            }
        }
        finish(&api, &call, response)
    }))
}

fn failed(index: i32, code: ErrorCode, message: &str) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        error_code: code.code(),
        base_offset: -1,
        error_message: Some(message.into()),
        ..PartitionProduceResponse::default()
    }
}

/// Where an append that has to wait leaves its ticket.
struct Parked<'a> {
    wait: &'a Arc<AckWait>,
    places: &'a mut Vec<Place>,
    place: Place,
    deadline_ms: u64,
}

fn append(
    api: &Arc<Api>,
    version: i16,
    acks: i16,
    (topic, id): (&TopicName, Option<TopicId>),
    data: &PartitionProduceData,
    parked: Parked<'_>,
) -> PartitionProduceResponse {
    let tp = TopicPartition { topic: topic.clone(), partition: PartitionIndex(data.index) };
    let fail = |code: ErrorCode| failed(data.index, code, code.text());
    let hosted = match id {
        // By the id: under the name, the replica of a topic that was deleted a moment ago may still be here.
        Some(id) => api.replicas.partition_by_id(id, tp.partition),
        None => api.replicas.partition(&tp),
    };
    let Some(partition) = hosted else {
        let exists = api.meta.state().partition(&tp).is_some();
        return fail(if exists { ErrorCode::NotLeaderOrFollower } else { ErrorCode::UnknownTopicOrPartition });
    };
    let records = data.records.clone().unwrap_or_default();
    let batches = match split_batches(&records) {
        Ok(batches) if batches.len() == 1 => batches,
        Ok(_) => {
            return failed(data.index, ErrorCode::InvalidRecord, "a produce holds exactly one batch per partition");
        }
        Err(error) => return failed(data.index, error.code(), &error.to_string()),
    };
    let checked = precheck(version, &batches[0]).and_then(|header| {
        if header.compression() != Ok(Compression::None) {
            partition.admits(acks, batches[0].len())?;
        }
        check(&header, &batches[0])
    });
    let count = match checked {
        Ok(count) => count,
        Err((code, text)) => {
            let mut one = failed(data.index, code, &text);
            hint(version, &partition, &mut one);
            return one;
        }
    };
    let index = parked.places.len();
    let ticket = (acks != 0).then_some((parked.wait, index, parked.deadline_ms));
    match api.replicas.append(&partition, &batches, acks, ticket) {
        Ok(outcome) => {
            api.replicas.bytes_in.fetch_add(records.len() as u64, Ordering::Relaxed);
            api.replicas.records_in.fetch_add(count, Ordering::Relaxed);
            if outcome.waits {
                parked.places.push(parked.place);
            }
            PartitionProduceResponse {
                index: data.index,
                error_code: ErrorCode::None.code(),
                base_offset: outcome.base_offset.0,
                log_append_time_ms: outcome.log_append_time,
                log_start_offset: outcome.log_start.0,
                ..PartitionProduceResponse::default()
            }
        }
        Err((code, message)) => {
            let mut one = failed(data.index, code, &message);
            hint(version, &partition, &mut one);
            one
        }
    }
}

/// What the header of a batch alone says against its being produced with this version.
fn precheck(version: i16, batch: &[u8]) -> Result<BatchHeader, Refusal> {
    let plain = |code: ErrorCode| (code, code.text().to_owned());
    let header = BatchHeader::decode(batch).map_err(|_| plain(ErrorCode::CorruptMessage))?;
    if header.is_transactional() {
        return Err(plain(ErrorCode::InvalidTxnState));
    }
    if version < ZSTD_FROM && header.compression() == Ok(Compression::Zstd) {
        return Err(plain(ErrorCode::UnsupportedCompressionType));
    }
    Ok(header)
}

/// To how much a batch of `packed` bytes may decompress.
fn limit(packed: usize) -> usize {
    let small = packed.saturating_mul(RATIO).clamp(ALWAYS_DECOMPRESSED, ALWAYS_LARGE);
    packed.saturating_mul(RATIO_BEYOND).clamp(small, MAX_DECOMPRESSED)
}

/// Number of records of a batch, which is what its header says.
fn check(header: &BatchHeader, batch: &[u8]) -> Result<u64, Refusal> {
    let verified = match header.compression() {
        // Walking over them takes less than receiving them did.
        Ok(Compression::None) => verify(batch, MAX_DECOMPRESSED),
        _ if batch.len() > PACKED_IN_PASSING => aside(|| verify(batch, limit(batch.len()))),
        _ => match verify(batch, IN_PASSING) {
            Err(RecordsError::Compression(CompressionError::TooLarge { .. })) => {
                aside(|| verify(batch, limit(batch.len())))
            }
            done => done,
        },
    };
    verified.map_err(|error| {
        let code = match &error {
            // Damaged on the way, which a producer repairs by sending it again; an invalid record it gives up.
            _ if crc_matches(batch).is_err() => ErrorCode::CorruptMessage,
            RecordsError::Batch(_) | RecordsError::Compression(CompressionError::Malformed { .. }) => {
                ErrorCode::CorruptMessage
            }
            RecordsError::Compression(CompressionError::TooLarge { .. }) => ErrorCode::MessageTooLarge,
            RecordsError::Record(_) | RecordsError::Count { .. } => ErrorCode::InvalidRecord,
        };
        (code, error.to_string())
    })?;
    Ok(u64::try_from(header.record_count).unwrap_or(0))
}

/// Works with the runtime's worker given up to other tasks. The task that asks waits, so that what its connection sent
/// keeps its order.
fn aside<R>(work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn hint(version: i16, partition: &Partition, response: &mut PartitionProduceResponse) {
    if version >= HINTS_FROM && response.error_code == ErrorCode::NotLeaderOrFollower.code() {
        let (leader, epoch) = partition.leader();
        let leader_id = leader.unwrap_or(NodeId::NONE).0;
        response.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch: epoch.0 };
    }
}

/// Fills hints in that are missing, and the addresses of the leaders that are named.
fn finish(api: &Api, call: &Call, mut response: ProduceResponse) -> ProduceResponse {
    if call.version < HINTS_FROM {
        return response;
    }
    let state = api.meta.state();
    let mut leaders = std::collections::BTreeSet::new();
    for topic in &mut response.responses {
        let name = match topic.name.as_str() {
            "" => state.topic_by_id(topic.topic_id).map(|found| found.name.clone()),
            name => Some(TopicName::from(name)),
        };
        for one in &mut topic.partition_responses {
            if one.error_code != ErrorCode::NotLeaderOrFollower.code() {
                continue;
            }
            if one.current_leader.leader_id < 0
                && let Some(name) = &name
                && let Some(known) = state.partition(&TopicPartition::new(name.clone(), one.index))
            {
                one.current_leader = LeaderIdAndEpoch {
                    leader_id: known.leader.unwrap_or(NodeId::NONE).0,
                    leader_epoch: known.leader_epoch.0,
                };
            }
            leaders.insert(one.current_leader.leader_id);
        }
    }
    response.node_endpoints = leaders
        .into_iter()
        .filter_map(|leader| state.broker(NodeId(leader)))
        .filter_map(|broker| {
            let endpoint = super::endpoints::of(broker, &call.connection)?;
            Some(NodeEndpoint {
                node_id: broker.node.0,
                host: endpoint.host.as_str().into(),
                port: i32::from(endpoint.port),
                rack: broker.rack.as_deref().map(Into::into),
            })
        })
        .collect();
    response
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use chronik_model::batch::{BatchBuilder, BatchError, HEADER_BYTES};
    use chronik_wire::compression::compress;

    use super::*;

    fn check(batch: &[u8]) -> Result<u64, ErrorCode> {
        let checked = precheck(9, batch).and_then(|header| super::check(&header, batch));
        checked.map_err(|(code, _)| code)
    }

    fn compressed(claimed: i32, payload: &[u8]) -> Bytes {
        let mut builder = BatchBuilder::new(1_000);
        builder.push(None, Some(payload));
        builder.push(None, Some(b"two"));
        let plain = builder.build();
        let packed = compress(Compression::Lz4, &plain[HEADER_BYTES..]).unwrap();
        let mut batch = BytesMut::from(&plain[..HEADER_BYTES]);
        batch.extend_from_slice(&packed);
        let length = batch.len() as i32 - 12;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[22] = 3;
        batch[23..27].copy_from_slice(&(claimed - 1).to_be_bytes());
        batch[57..61].copy_from_slice(&claimed.to_be_bytes());
        let Err(BatchError::Crc { computed, .. }) = crc_matches(&batch) else { panic!("it was another batch") };
        batch[17..21].copy_from_slice(&computed.to_be_bytes());
        batch.freeze()
    }

    #[test]
    fn a_compressed_batch_is_not_believed_about_its_number_of_records() {
        assert_eq!(check(&compressed(2, b"one")), Ok(2));
        for claimed in [1, 3, i32::MAX] {
            assert_eq!(check(&compressed(claimed, b"one")), Err(ErrorCode::InvalidRecord), "{claimed}");
        }
    }

    #[test]
    fn records_damaged_on_the_way_are_corrupt_so_that_the_producer_sends_them_again() {
        let mut builder = BatchBuilder::new(1_000);
        builder.push(None, Some(b"one"));
        let sent = builder.build();
        assert_eq!(check(&sent), Ok(1));
        for byte in HEADER_BYTES..sent.len() {
            let mut arrived = sent.to_vec();
            arrived[byte] ^= 0x10;
            let refused = check(&arrived);
            // What the records do not give away, the log's look at the checksum does.
            assert!(matches!(refused, Ok(1) | Err(ErrorCode::CorruptMessage)), "{byte}: {refused:?}");
        }
    }

    #[test]
    fn a_small_batch_that_decompresses_to_very_much_is_refused() {
        let bomb = compressed(2, &vec![0; ALWAYS_DECOMPRESSED]);
        assert!(bomb.len() * RATIO < 2 * ALWAYS_DECOMPRESSED, "{}", bomb.len());
        let bomb = compressed(2, &vec![0; 2 * ALWAYS_DECOMPRESSED]);
        assert_eq!(check(&bomb), Err(ErrorCode::MessageTooLarge));
        // A producer's batch of the default size, a thousand to one.
        assert_eq!(check(&compressed(2, &vec![0; ALWAYS_DECOMPRESSED - 1000])), Ok(2));
    }

    #[test]
    fn what_a_batch_may_decompress_to_grows_with_it_ever_more_slowly() {
        const MIB: usize = 1 << 20;
        let sizes = [1, 256 << 10, MIB, 4 * MIB, 8 * MIB, usize::MAX];
        assert_eq!(sizes.map(|size| limit(size) / MIB), [16, 16, 64, 64, 128, 256]);
    }

    #[test]
    fn nobody_on_the_worker_waits_for_a_large_batch_to_be_looked_at() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let batch = compressed(2, &vec![0; 12 << 20]);
        let looking = async move {
            let other = tokio::spawn(std::future::ready(()));
            let checked = check(&batch);
            (checked, other.is_finished())
        };
        assert_eq!(runtime.block_on(runtime.spawn(looking)).unwrap(), (Ok(2), true));
    }
}
