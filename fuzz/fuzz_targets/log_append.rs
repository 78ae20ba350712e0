//! Bytes of leaders and clients into a partition log: what is taken is stored as it is and found again after a
//! restart, what is refused changes nothing.

#![no_main]

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use bytes::{Bytes, BytesMut};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::MemDisk;
use chronik_log::{AppendOrigin, LogConfig, LogDir, OpenOptions, PartitionLog, split_batches};
use chronik_model::batch::{BatchBuilder, find_batch, set_base_offset, set_partition_leader_epoch};
use chronik_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "data/topic-0";

fn config() -> LogConfig {
    LogConfig { segment_bytes: 3_000, index_interval_bytes: 150, max_message_bytes: 2_500, ..LogConfig::default() }
}

fn open(disk: &MemDisk) -> PartitionLog {
    let log_dir = LogDir::new(Arc::new(disk.clone()));
    PartitionLog::open(&log_dir, DIR, config(), OpenOptions { now_ms: i64::MIN, ..OpenOptions::default() })
        .expect("a sound log opens")
        .0
}

/// Batches that follow `next`, with a byte changed and the checksum made right again now and then.
fn batches(u: &mut Unstructured<'_>, next: Offset, epoch: i32) -> Result<Bytes> {
    let mut run = BytesMut::new();
    let mut at = next;
    for _ in 0..u.int_in_range(1..=3)? {
        let mut builder = BatchBuilder::new(u.int_in_range(0..=2_000)?);
        if u.arbitrary()? {
            let (id, sequence) = (u.int_in_range(0..=2)?, u.int_in_range(0..=6)?);
            builder = builder.producer(ProducerId(id), ProducerEpoch(u.int_in_range(0..=1)?), sequence);
        }
        for _ in 0..u.int_in_range(1..=3)? {
            let value = vec![u.arbitrary()?; u.int_in_range(0..=300)?];
            builder.push(None, Some(&value));
        }
        let mut batch = BytesMut::from(&builder.build()[..]);
        set_base_offset(&mut batch, at);
        set_partition_leader_epoch(&mut batch, LeaderEpoch(epoch));
        at = find_batch(&batch).expect("it was just built").next_offset();
        if u.ratio(1, 4)? {
            let place = u.int_in_range(0..=batch.len() - 1)?;
            batch[place] = u.arbitrary()?;
            if u.arbitrary()? {
                let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
                batch[17..21].copy_from_slice(&crc.to_be_bytes());
            }
        }
        run.extend_from_slice(&batch);
    }
    if u.ratio(1, 6)? {
        run.truncate(u.int_in_range(0..=run.len())?);
    }
    Ok(run.freeze())
}

fn contents(log: &PartitionLog) -> Bytes {
    let mut found = BytesMut::new();
    let mut at = log.log_start();
    while at < log.log_end() {
        let bytes = log.read_bytes(at, 700, log.log_end()).expect("a sound log can be read");
        let parts = split_batches(&bytes).expect("reads give whole batches");
        let last = parts.last().expect("there is something below the log end");
        at = find_batch(last).expect("a sound batch").next_offset();
        found.extend_from_slice(&bytes);
    }
    found.freeze()
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let disk = MemDisk::new();
    let mut log = open(&disk);
    let mut expected = BytesMut::new();
    let mut epoch = 1;
    for _ in 0..24 {
        if u.is_empty() {
            break;
        }
        epoch += i32::from(u.ratio(1, 8)?);
        let end = log.log_end();
        let told = if u.ratio(1, 10)? { LeaderEpoch(u.int_in_range(-1..=3)?).0 } else { epoch };
        if u.arbitrary()? {
            let records = if u.ratio(1, 10)? {
                let most = u.len().min(300);
                Bytes::copy_from_slice(u.bytes(most)?)
            } else {
                batches(u, end, told)?
            };
            match log.append_as_follower(&records) {
                Ok(reached) => {
                    assert_eq!(reached, log.log_end());
                    let stored = log.read_bytes(end, usize::MAX, reached).expect("what was taken can be read");
                    assert!(records.starts_with(&stored), "a follower stored other bytes than it was sent");
                }
                Err(_) => assert_eq!(log.log_end(), end, "refused bytes moved the log end"),
            }
        } else {
            let from = Offset(u.int_in_range(-1..=4)?);
            let run = batches(u, from, -1)?;
            let Ok(parts) = split_batches(&run) else { continue };
            match log.append_as_leader(&parts, LeaderEpoch(told), 2_000, AppendOrigin::Client) {
                Ok(info) if !info.duplicate => {
                    assert_eq!(info.first_offset, end);
                    assert_eq!(log.log_end().0, info.last_offset.0 + 1);
                }
                Ok(_) | Err(_) => assert_eq!(log.log_end(), end, "what was not appended moved the log end"),
            }
        }
        if log.log_end() > end {
            expected.extend_from_slice(&log.read_bytes(end, usize::MAX, log.log_end()).expect("it was just stored"));
        }
        if u.ratio(1, 8)? {
            let before = (log.log_end(), log.producers().clone(), log.epochs().to_vec());
            drop(log);
            log = open(&disk);
            let after = (log.log_end(), log.producers().clone(), log.epochs().to_vec());
            assert_eq!(after, before, "the log is another one after a restart");
        }
        assert_eq!(contents(&log), expected, "the log is not what was appended");
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(32 << 20, || {
        let _ = run(&mut Unstructured::new(data));
    });
});
