//! First inputs, made anew by each build so that they are never out of date: a target writes them before it starts when
//! `CHRONIK_FUZZ_SEEDS` names a directory. Targets that build something from their input get random bytes of useful
//! length, the others what clients and brokers really send.

use std::path::Path;

use bytes::Bytes;
use chronik_core::controller::{
    AllocateProducerIds, Command, CreateTopic, Endpoint, Endpoints, Envelope, METADATA_VERSION, MetadataState,
    ProposalId, RegisterBroker, UnfenceBroker,
};
use chronik_log::disk::SplitMix64;
use chronik_model::batch::{BatchBuilder, Compression, HEADER_BYTES};
use chronik_model::{BrokerEpoch, ClusterId, NodeId, ProducerEpoch, ProducerId, RaftIndex, TopicName, Uuid};
use chronik_wire::compression::compress;

use crate::messages::message;

/// Writes the seeds, when asked to.
pub fn write(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(dir) = std::env::var_os("CHRONIK_FUZZ_SEEDS") else { return };
    for (number, seed) in seeds().into_iter().enumerate() {
        std::fs::write(Path::new(&dir).join(format!("seed-{number:04}")), seed).expect("seeds can be written");
    }
}

/// Bytes without meaning, long enough for a story.
#[must_use]
pub fn random() -> Vec<Vec<u8>> {
    let mut rng = SplitMix64::new(7);
    (0..24).map(|number| (0..150 * (number + 1)).map(|_| rng.next_u64() as u8).collect()).collect()
}

/// What operators mount and brokers remember, for the target `small_files`, which takes the last byte for its choice, and
/// stories without meaning.
#[must_use]
pub fn small_files() -> Vec<Vec<u8>> {
    let yaml = "clusterId: abc\nbootstrapVoters: [1, 2]\njoin: false\nretired: [AAAAAAAAAAAAAAAAAAAABw]\npeers:\n- {id: 1, host: a.b, \
                ports: {kafka: 9092, raft: 7}}\n- {id: 2, host: c, raftPort: 8, listeners: [{name: x, port: 9094, \
                advertisedHost: n, advertisedPort: 30094}]}\n- &three {id: 3, host: d}\n";
    let book = r#"[{"id":1,"address":"a:9192","ip":"10.0.0.1"},{"id":2,"address":"[fe80::1]:7","ip":null}]"#;
    let mut out = random();
    out.extend([[yaml.as_bytes(), &[3]].concat(), [book.as_bytes(), &[4]].concat()]);
    out
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len() / 2).filter_map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()).collect()
}

/// What Kafka's own classes wrote, in the form of the target `wire_message`.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    let text = include_str!("../../broker/wire/tests/data/kafka-4.3.0.txt");
    let seed = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let (which, any) = message(words.first()?)?;
        let version = words.get(1)?.parse::<i16>().ok()? - any.versions.start();
        Some([vec![which as u8, version as u8], unhex(words.get(3)?)].concat())
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(seed).collect()
}

/// What real clients sent.
#[must_use]
pub fn frames() -> Vec<Vec<u8>> {
    let text = include_str!("../../broker/wire/tests/data/clients.txt");
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| Some(unhex(line.split(' ').nth(3)?))).collect()
}

fn batch(records: i64) -> Bytes {
    let mut builder = BatchBuilder::new(1_000).producer(ProducerId(7), ProducerEpoch(0), 3);
    for number in 0..records {
        builder.push_at(1_000 + number, Some(b"key"), Some(format!("value {number}").as_bytes()));
    }
    builder.build()
}

/// Batches and their records, for each way in which the target `record_batch` uses them.
#[must_use]
pub fn batches() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for count in [1, 2, 9] {
        let batch = batch(count);
        out.push([&[0], &batch[..]].concat());
        out.push([&[1], &batch[..]].concat());
        for codec in 0..5 {
            out.push([&[2 | codec << 2, count as u8 - 1], &batch[HEADER_BYTES..]].concat());
            out.push([&[3 | codec << 2], &batch[HEADER_BYTES..]].concat());
        }
    }
    out
}

/// Compressed bytes of every codec, for the target `decompress`.
#[must_use]
pub fn compressed() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (number, codec) in codecs.into_iter().enumerate() {
        for text in [&b""[..], b"a", &[7; 3_000], b"the quick brown fox jumps over the lazy dog"] {
            let packed = compress(codec, text).expect("memory does not fail");
            out.push([&[number as u8, 0], text].concat());
            out.push([&[number as u8, 1], &packed[..]].concat());
        }
    }
    out.push([&[1, 1], &snappy_raw()[..]].concat());
    out
}

/// Snappy without Java's framing, as some clients send it: length 5, one literal.
fn snappy_raw() -> Vec<u8> {
    vec![5, 4 << 2, b'h', b'e', b'l', b'l', b'o']
}

fn cluster() -> Vec<Command> {
    let endpoint = || Endpoint { host: "host".to_owned(), port: 9092 };
    let register = RegisterBroker {
        node: NodeId(1),
        incarnation: Uuid::from_u128(1),
        directories: vec![Uuid::from_u128(2)],
        cluster_id: ClusterId::from("cluster"),
        endpoints: Endpoints {
            kafka: endpoint(),
            replication: endpoint(),
            control: endpoint(),
            admin: endpoint(),
            listeners: Vec::new(),
        },
        rack: None,
        previous_broker_epoch: BrokerEpoch::NONE,
        software_version: String::new(),
        metadata_version: METADATA_VERSION,
    };
    let create = CreateTopic {
        name: TopicName::from("a"),
        topic_id: Uuid::from_u128(3),
        partitions: 2,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: [("min.insync.replicas".to_owned(), "2".to_owned())].into(),
    };
    vec![
        register.into(),
        UnfenceBroker { node: NodeId(1), broker_epoch: BrokerEpoch(1) }.into(),
        create.into(),
        AllocateProducerIds { node: NodeId(1), broker_epoch: BrokerEpoch(1) }.into(),
    ]
}

/// A small history of commands, and the snapshot after each, for the target `metadata_command`.
#[must_use]
pub fn commands() -> Vec<Vec<u8>> {
    let mut state = MetadataState::new();
    let (mut history, mut out) = (Vec::new(), Vec::new());
    for (number, command) in cluster().into_iter().enumerate() {
        let id = ProposalId { origin: NodeId(1), incarnation: Uuid::from_u128(1), sequence: number as u64 };
        let bytes = Envelope::new(id, 1_000, command).encode();
        let result = state.apply(RaftIndex(number as u64 + 1), &bytes).result.encode();
        let image = state.encode_snapshot();
        for blob in [&bytes, &result, &image] {
            out.push([&(blob.len() as u16).to_le_bytes()[..], blob].concat());
        }
        history.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        history.extend_from_slice(&bytes);
        out.push(history.clone());
    }
    out
}
