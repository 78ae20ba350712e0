//! Small files that the broker believes or that an operator mounts: `partition.metadata`, the address book
//! `peers.json`, `cluster.yaml`. What was written is read back; what is damaged is refused, or says something that may
//! be said, and never takes the records of one topic for those of another.

#![no_main]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use chronik_broker::peer::cluster_file::ClusterFile;
use chronik_broker::peer::directory::{PeerAddress, read_book};
use chronik_fuzz::damage::{put, strike};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::{Disk, MemDisk};
use chronik_log::{AppendOrigin, LogConfig, LogDir, LogError};
use chronik_model::batch::BatchBuilder;
use chronik_model::{LeaderEpoch, NodeId, Offset, TopicPartition, Uuid};
use chronik_node::storage::{Checkpoints, open};
use libfuzzer_sys::fuzz_target;

const FILE: &str = "data/topic-0/partition.metadata";
const NOW: i64 = 1_700_000_000_000;

/// A partition with a record is closed, its directory is damaged, and it is opened as the same topic or another of its name.
fn partition(u: &mut Unstructured<'_>) -> Result<()> {
    let disk = MemDisk::new();
    let dir = LogDir::new(Arc::new(disk.clone()));
    let (tp, topic) = (TopicPartition::new("topic", 0), Uuid::from_u128(u.arbitrary()?));
    let begin = |dir: &Arc<LogDir>, topic, at| {
        open(dir, &tp, topic, LogConfig::default(), false, &mut Checkpoints::default(), at)
    };
    let mut first = begin(&dir, topic, NOW).expect("an empty disk opens");
    let mut batch = BatchBuilder::new(NOW);
    batch.push_at(NOW, None, Some(b"value"));
    first
        .log
        .append_as_leader(&[batch.build()], LeaderEpoch(1), NOW, AppendOrigin::Client)
        .expect("a batch is appended");
    drop(first);
    disk.sync_all().expect("disks can be synced");
    let written = disk.read(FILE).expect("it was written");
    let whole = begin(&dir, topic, NOW + 5).expect("a sound disk opens");
    assert_eq!((whole.created_ms, whole.log.log_end()), (NOW, Offset(1)));
    drop(whole);
    if u.ratio(1, 3)? {
        put(&disk, FILE, u.bytes(u.len().min(100))?);
    } else {
        for _ in 0..u.int_in_range(0..=3)? {
            let _ = strike(&disk, u)?;
        }
    }
    let left = disk.read(FILE).ok();
    let wanted = if u.ratio(1, 4)? { Uuid::from_u128(u.arbitrary()?) } else { topic };
    match begin(&dir, wanted, NOW + 9) {
        Ok(opened) => {
            assert!(opened.log.log_end() <= Offset(1) && opened.high_watermark <= opened.log.log_end());
            let named = left.as_deref().map(|bytes| String::from_utf8_lossy(bytes).contains(&wanted.to_string()));
            if named != Some(true) {
                assert_eq!(opened.log.log_end(), Offset(0), "records of another topic, or of nobody knows which");
            }
            if wanted == topic && left.as_deref() == Some(&written[..]) {
                assert_eq!(opened.created_ms, NOW);
            }
        }
        Err(LogError::Io { .. } | LogError::Offline(_) | LogError::Corrupt { .. }) => {}
        Err(error) => panic!("a damaged directory gives {error}"),
    }
    Ok(())
}

fn host(u: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(*u.choose(&["a", "b.c.d", "10.0.0.1", "fe80::1", "[fe80::1]", "HOST.", "x:7", "https://y:8/"])?)
}

/// Flips, cuts, repeats and inserts in a text.
fn damaged(u: &mut Unstructured<'_>, text: &str) -> Result<Vec<u8>> {
    let disk = MemDisk::new();
    put(&disk, "file", text.as_bytes());
    for _ in 0..u.int_in_range(1..=3)? {
        let _ = strike(&disk, u)?;
    }
    let mut bytes = disk.read("file").map(|bytes| bytes.to_vec()).unwrap_or_default();
    if u.ratio(1, 3)? {
        let at = u.int_in_range(0..=bytes.len())?;
        let length = u.len().min(30);
        let more = u.bytes(length)?.to_vec();
        bytes.splice(at..at, more);
    }
    Ok(bytes)
}

fn sound_address(address: &PeerAddress) {
    assert!(address.port() > 0 && !address.host().is_empty());
    let again = PeerAddress::parse(&address.to_string(), 1).expect("an address that is shown is understood");
    assert_eq!((again.host(), again.port()), (address.host(), address.port()));
}

fn book(u: &mut Unstructured<'_>) -> Result<()> {
    let (mut text, mut expected) = ("[".to_owned(), Vec::new());
    for id in 1..=u.int_in_range(0..=4)? {
        let host = host(u)?;
        let comma = if id == 1 { "" } else { "," };
        let _ = write!(text, "{comma}{{\"id\":{id},\"address\":\"{host}\",\"ip\":\"10.0.0.{id}\"}}");
        expected.push(NodeId(id));
    }
    text.push(']');
    let ids = |found: &[(NodeId, PeerAddress, _)]| found.iter().map(|(id, _, _)| *id).collect::<Vec<_>>();
    let found: Vec<(NodeId, PeerAddress, Option<std::net::IpAddr>)> = read_book(text.as_bytes());
    assert_eq!(ids(&found), expected);
    for (id, address, _) in read_book(&damaged(u, &text)?).iter().chain(&found) {
        assert!(id.0 > 0);
        sound_address(address);
    }
    Ok(())
}

fn sound_file(file: &ClusterFile) {
    assert!(file.bootstrap_voters.iter().all(|id| id.0 > 0));
    assert!(file.cluster_id.as_ref().is_none_or(|id| !id.as_str().is_empty()));
    let ids: BTreeSet<NodeId> = file.peers.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), file.peers.len(), "one id, two addresses");
    for (id, address) in &file.peers {
        assert!(id.0 > 0);
        sound_address(address);
    }
    for (id, listeners) in &file.listeners {
        assert!(ids.contains(id) && !listeners.is_empty());
        assert!(listeners.iter().all(|one| one.port > 0 && one.advertised_port > 0 && !one.name.is_empty()));
    }
}

fn cluster(u: &mut Unstructured<'_>) -> Result<()> {
    let voters: BTreeSet<i32> =
        u.arbitrary_iter::<u8>()?.take(4).map(|id| Ok(i32::from(id?) + 1)).collect::<Result<_>>()?;
    let list: Vec<String> = voters.iter().map(i32::to_string).collect();
    let (join, directory) = (u.arbitrary::<bool>()?, Uuid::from_u128(u.arbitrary()?));
    let mut text =
        format!("clusterId: c\nbootstrapVoters: [{}]\njoin: {join}\nretired: [{directory}]\n", list.join(", "));
    text.push_str("clusterDefaults: {retention.ms: '5'}\npeers:\n");
    let peers = u.int_in_range(1..=3)?;
    for id in 1..=peers {
        let _ = writeln!(
            text,
            "- {{id: {id}, host: '{}', raftPort: {}, listeners: [{{name: x, port: 9}}]}}",
            host(u)?,
            id + 8
        );
    }
    let whole = ClusterFile::parse(&text, 9192).unwrap_or_else(|problem| panic!("{problem}: {text}"));
    assert_eq!((whole.bootstrap_voters.iter().map(|id| id.0).collect(), whole.join), (voters, join));
    assert_eq!((whole.peers.len(), whole.retired.first()), (peers as usize, Some(&directory)));
    sound_file(&whole);
    if let Ok(file) = ClusterFile::parse(&String::from_utf8_lossy(&damaged(u, &text)?), 9192) {
        sound_file(&file);
    }
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=4_u8)? {
        0 => partition(u),
        1 => book(u),
        2 => cluster(u),
        // Any text at all.
        3 => {
            if let Ok(file) = ClusterFile::parse(&String::from_utf8_lossy(u.bytes(u.len())?), 9192) {
                sound_file(&file);
            }
            Ok(())
        }
        _ => {
            read_book(u.bytes(u.len())?).iter().for_each(|(_, address, _)| sound_address(address));
            Ok(())
        }
    }
}

fuzz_target!(init: seeds::write(seeds::small_files), |data: &[u8]| {
    limited(data.len() * 400 + (8 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
