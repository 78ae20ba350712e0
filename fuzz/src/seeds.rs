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

/// A status, for the target `peer_frames`, and stories without meaning.
#[must_use]
pub fn peer_frames() -> Vec<Vec<u8>> {
    let json = r#"{"version":"1","cluster_id":"c","node_id":2,"raft":{"role":"leader","term":3,"leader":2,"commit":40,"last_index":41,
        "oldest_proposal_ms":9000,"voters":[1,2,3],"progress":[{"node":1,"matched":7,"state":"probe"}],"messages_in":{"MsgAppend":9}},
        "peers":[{"node":1,"address":"a:1","connected":true,"last_received_ms_ago":100}],"brokers":[{"node":1,"epoch":5,"fenced":true}],
        "log_dir":{"state":"offline","reason":"os error 28","free_bytes":1,"total_bytes":1000},"process":{"cpu_seconds":0.5},
        "replication":{"unloaded_groups":[{"partition":7,"reason":"rot"}],"fetchers":[{"leader":1,"state":"connected"}]}}"#;
    let mut out = random();
    out.extend([[&[36], json.as_bytes()].concat(), [&[36], &b"{}"[..]].concat()]);
    out.extend((0..40).map(|choice| [&[choice], &[1; 400][..]].concat()));
    out
}

/// What operators mount and brokers remember, for the target `small_files`, which takes the first byte for its choice, and
/// stories without meaning.
#[must_use]
pub fn small_files() -> Vec<Vec<u8>> {
    let yaml = "clusterId: abc\nbootstrapVoters: [1, 2]\njoin: false\nretired: [AAAAAAAAAAAAAAAAAAAABw]\npeers:\n- {id: 1, host: a.b, \
                ports: {kafka: 9092, raft: 7}}\n- {id: 2, host: c, raftPort: 8, listeners: [{name: x, port: 9094, \
                advertisedHost: n, advertisedPort: 30094}]}\n- &three {id: 3, host: d}\n";
    let book = r#"[{"id":1,"address":"a:9192","ip":"10.0.0.1"},{"id":2,"address":"[fe80::1]:7","ip":null}]"#;
    let mut out = random();
    let settings = "node.id: 2\npeers: [{id: 1, host: a, raft.port: 9192}, {id: 2, address: 'b:1'}]\nkafka:\n  port: 9093\n  listeners: [{name: x, port: \
                    9094, advertised.host: n, advertised.port: 30094}]\nlog.retention.ms: 5\nlog.segment.bytes: 64MiB\n";
    out.extend([[&[3], yaml.as_bytes()].concat(), [&[4], book.as_bytes()].concat()]);
    out.extend([[&[5], settings.as_bytes()].concat(), [&[6], &b"new\r\n\nold"[..]].concat()]);
    out.extend((0..12).map(|choice| [&[choice], &[1; 400][..]].concat()));
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
