//! Small files that the broker believes or that an operator mounts: `partition.metadata`, the address book
//! `peers.json`, `cluster.yaml`, `broker.yaml`, the secret, the marker of a directory that is being retired. What was
//! written is read back; what is damaged is refused, or says something that may be said, and never takes the records of
//! one topic for those of another; a retired directory is moved aside whole, and no other.

#![no_main]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use arbitrary::{Result, Unstructured};
use chronik_broker::config::{Config, Sources};
use chronik_broker::control::secret::{bearer, secrets_in};
use chronik_broker::peer::cluster_file::ClusterFile;
use chronik_broker::peer::directory::{PeerAddress, read_book};
use chronik_broker::startup::retired::move_aside;
use chronik_fuzz::damage::{damaged, files, put, strike};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::{Disk, MemDisk};
use chronik_log::{AppendOrigin, LogConfig, LogDir, LogError};
use chronik_model::batch::BatchBuilder;
use chronik_model::{BrokerEpoch, ClusterId, LeaderEpoch, NodeId, Offset, TopicPartition, Uuid};
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
    for (id, address, _) in read_book(&damaged(u, text.as_bytes())?).iter().chain(&found) {
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
    mounted(&damaged(u, text.as_bytes())?);
    Ok(())
}

/// Any text as the mounted file. Its list of retired directories is understood whatever the rest says, and never otherwise.
fn mounted(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let retired = ClusterFile::parse_retired(&text);
    if let Ok(file) = ClusterFile::parse(&text, 9192) {
        sound_file(&file);
        assert_eq!(retired.as_ref(), Ok(&file.retired), "the list is understood in two ways");
    }
}

/// Every key of `broker.yaml`, with its value by default.
static KEYS: LazyLock<Vec<(&'static str, String)>> = LazyLock::new(|| {
    let mut sources = Sources::default();
    sources.add_pairs(["node.id=1"]).expect("a pair");
    let config = Config::from_sources(sources, "host").expect("one broker needs nothing else");
    config.effective.into_iter().map(|setting| (setting.key, setting.value)).collect()
});

/// Any text as the configuration of a broker: a configuration that can be, or every mistake by its name.
fn configured(bytes: &[u8]) {
    let mut sources = Sources::default();
    if let Err(problem) = sources.add_yaml("broker.yaml", &String::from_utf8_lossy(bytes)) {
        assert!(problem.key == "broker.yaml" && !problem.problem.is_empty());
        return;
    }
    let said = sources.file.clone();
    match Config::from_sources(sources, "chronik-3.chronik") {
        Ok(config) => {
            assert!(config.node_id.0 > 0 && !config.advertised_host.is_empty());
            assert!(config.default_replication_factor() >= 1 && config.offsets_replication_factor() >= 1);
            assert_eq!(config.effective.len(), KEYS.len(), "every key has a value in force");
            assert!(said.keys().all(|key| KEYS.iter().any(|(known, _)| known == key)), "an unknown key is accepted");
            assert!(!config.describe().is_empty());
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|one| !one.key.is_empty() && !one.problem.is_empty()));
        }
    }
}

fn broker_yaml(u: &mut Unstructured<'_>) -> Result<()> {
    const VALUES: [&str; 14] = [
        "1",
        "0",
        "-1",
        "auto",
        "true",
        "64MiB",
        "99999999999999999999GiB",
        "~",
        "{id: 1, host: a}",
        "[1@a:1, 3@b]",
        "[{id: 3, address: 'a:1'}]",
        "[{name: x, port: 9094, advertised.host: n}]",
        "'a b'",
        "\"\"",
    ];
    let mut text = String::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let (key, usual) = u.choose(&KEYS)?;
        let value = if u.arbitrary()? { usual.as_str() } else { *u.choose(&VALUES)? };
        // Nested maps and dotted keys mean the same.
        match key.split_once('.').filter(|_| u.ratio(1, 4).unwrap_or(false)) {
            Some((outer, inner)) => drop(writeln!(text, "{outer}:\n  {inner}: {value}")),
            None => drop(writeln!(text, "{key}: {value}")),
        }
    }
    configured(text.as_bytes());
    configured(&damaged(u, text.as_bytes())?);
    Ok(())
}

/// What may be a secret can be presented; nothing else is one.
fn secrets(text: &str) {
    match secrets_in(text) {
        Ok(found) => {
            assert!(!found.is_empty() && found.len() <= 8);
            for secret in &found {
                assert!(!secret.is_empty() && text.contains(secret.as_str()) && bearer(secret).is_ok());
            }
        }
        Err(problem) => assert!(!problem.is_empty()),
    }
}

fn secret_file(u: &mut Unstructured<'_>) -> Result<()> {
    let mut expected = Vec::new();
    let mut text = String::new();
    for _ in 0..u.int_in_range(1..=8)? {
        let length = u.int_in_range(1..=20)?;
        let secret = (0..length).map(|_| Ok(char::from(u.int_in_range(b'!'..=b'~')?))).collect::<Result<String>>()?;
        text.push_str(*u.choose(&["", "\n", "  ", "\t\n"])?);
        text.push_str(&secret);
        text.push_str(*u.choose(&["\n", "\r\n", " \n", "\n\n"])?);
        expected.push(secret);
    }
    assert_eq!(secrets_in(&text), Ok(expected), "{text:?}");
    secrets(&String::from_utf8_lossy(&damaged(u, text.as_bytes())?));
    Ok(())
}

/// The contents of all files but the marker, which comes and goes.
fn contents(disk: &MemDisk) -> Vec<Vec<u8>> {
    let passing = |path: &&String| *path != "retiring" && !path.ends_with(".tmp");
    let names = files(disk);
    let mut all: Vec<Vec<u8>> =
        names.iter().filter(passing).map(|path| disk.read(path).expect("files can be read").to_vec()).collect();
    all.sort();
    all
}

/// A directory that may be retired, or half moved aside, with a marker that may be damaged.
fn retire(u: &mut Unstructured<'_>) -> Result<()> {
    let disk = MemDisk::new();
    let dir = LogDir::new(Arc::new(disk.clone()));
    let id = |u: &mut Unstructured<'_>| Ok(Uuid::from_u128(u.int_in_range(1..=3_u8)?.into()));
    let own = id(u)?;
    if u.ratio(7, 8)? {
        dir.claim(&ClusterId::from("c"), NodeId(1), own).expect("an empty disk is claimed");
    }
    for path in ["raft", "data", "data/t-0"] {
        disk.create_dir(path).expect("a directory");
    }
    for (number, path) in ["raft/0.seg", "data/t-0/0.log", "founders", "peers.json", "retired-x"].iter().enumerate() {
        if u.ratio(3, 4)? {
            put(&disk, path, &[number as u8; 9]);
        }
    }
    if u.ratio(1, 4)? {
        dir.write_clean_shutdown(BrokerEpoch(3)).expect("the marker is written");
    }
    let marker = u.ratio(2, 3)?;
    if marker {
        let text = format!("{}\n", id(u)?);
        let bytes = if u.ratio(1, 3)? { damaged(u, text.as_bytes())? } else { text.into_bytes() };
        put(&disk, "retiring", &bytes);
    }
    if u.ratio(1, 6)? {
        let _ = strike(&disk, u)?;
    }
    disk.sync_all().expect("disks can be synced");
    let marker = disk.read("retiring").ok();
    let before = (files(&disk), contents(&disk));
    let listed: BTreeSet<Uuid> = if u.arbitrary()? { BTreeSet::from([id(u)?]) } else { BTreeSet::new() };
    let mine = dir.identity();
    match move_aside(&dir, &listed) {
        Ok(aside) => {
            let mine = mine.expect("an identity that cannot be read is refused").map(|identity| identity.directory_id);
            assert!(disk.read("retiring").is_err(), "the marker outlives the move");
            let named = marker.as_deref().map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
            // A marker moves what is half moved or what it names; the one of an earlier life moves nothing.
            let begun = named.is_some_and(|named| mine.is_none_or(|mine| mine.to_string() == named));
            let moved = begun || mine.is_some_and(|mine| listed.contains(&mine));
            let left = dir.identity().expect("it was readable").map(|identity| identity.directory_id);
            if moved {
                let inside = files(&disk).iter().all(|path| path.starts_with("retired-") || path.ends_with(".tmp"));
                assert!(aside && left.is_none() && inside, "it was not moved aside whole");
            } else {
                let rest: Vec<String> = before.0.iter().filter(|path| *path != "retiring").cloned().collect();
                let now: Vec<String> = files(&disk).into_iter().filter(|path| path != "retiring").collect();
                assert_eq!((left, now), (mine, rest), "a directory that is not retired was touched");
            }
            assert_eq!(
                move_aside(&dir, &listed).map_err(|error| error.to_string()),
                Ok(aside),
                "a second start differs"
            );
        }
        Err(LogError::Io { .. } | LogError::Offline(_) | LogError::Corrupt { .. }) => {
            assert_eq!(files(&disk), before.0, "what was refused was touched");
        }
        Err(error) => panic!("a directory that may be retired gives {error}"),
    }
    assert_eq!(contents(&disk), before.1, "something was deleted or changed");
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=11_u8)? {
        0 => partition(u)?,
        1 => book(u)?,
        2 => cluster(u)?,
        // Any text at all.
        3 => mounted(u.bytes(u.len())?),
        4 => read_book(u.bytes(u.len())?).iter().for_each(|(_, address, _)| sound_address(address)),
        5 => configured(u.bytes(u.len())?),
        6 => secrets(&String::from_utf8_lossy(u.bytes(u.len())?)),
        7 | 8 => broker_yaml(u)?,
        9 => secret_file(u)?,
        _ => retire(u)?,
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::small_files), |data: &[u8]| {
    limited(data.len() * 400 + (8 << 20), || {
        let _ = run(&mut Unstructured::new(data));
    });
});
