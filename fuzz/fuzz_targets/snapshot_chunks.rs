//! Chunks of state images: sound transfers that are cut, repeated, reordered, mixed and damaged, and chunks of any
//! bytes. What comes out was sent as a whole, or nothing comes out; memory grows with what arrived.

#![no_main]

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_consensus::chunks::{Reassembler, SnapshotChunk, split};
use chronik_consensus::mirror::{ConfState, MessageType, RaftMessage, Snapshot, SnapshotMetadata};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

const LIMIT: usize = 4096;

fn message(number: u64, image: &[u8]) -> RaftMessage {
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: 9 + number, term: 3 };
    RaftMessage {
        msg_type: MessageType::Snapshot as i32,
        to: 2,
        from: 1,
        term: 3,
        snapshot: Some(Snapshot { data: Bytes::copy_from_slice(image), metadata: Some(metadata) }),
        ..RaftMessage::default()
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut sent = Vec::new();
    let mut chunks: Vec<SnapshotChunk> = Vec::new();
    for number in 0..u.int_in_range(1..=3_u64)? {
        let length = u.int_in_range(0..=LIMIT + 4)?;
        let fill: u8 = u.arbitrary()?;
        let image: Vec<u8> = (0..length).map(|at| fill.wrapping_add(at as u8)).collect();
        let message = message(number, &image);
        chunks.extend(split(message.clone(), number, u.int_in_range(100..=3_000)?));
        sent.push(message);
    }
    let mut reassembler = Reassembler::new(LIMIT);
    let mut tampered = false;
    let mut at = 0;
    while at < chunks.len() && !u.is_empty() {
        let mut chunk = chunks[at].clone();
        match u.int_in_range(0..=19_u8)? {
            0 => at = at.saturating_sub(1),
            1 => at += 2,
            2 => at = u.int_in_range(0..=chunks.len())?,
            3 => {
                let mut bytes = chunk.encode_to_vec();
                let place = u.int_in_range(0..=bytes.len() - 1)?;
                bytes[place] ^= 1 << u.int_in_range(0..=7_u8)?;
                let Ok(other) = SnapshotChunk::decode(&bytes[..]) else { continue };
                // What no checksum covers: the message around the image.
                tampered |= other.message != chunk.message;
                chunk = other;
                at += 1;
            }
            4 => {
                let most = u.len().min(200);
                let length = u.int_in_range(0..=most)?;
                let bytes = u.bytes(length)?;
                let Ok(other) = SnapshotChunk::decode(bytes) else { continue };
                tampered = true;
                chunk = other;
            }
            _ => at += 1,
        }
        if let Ok(Some(whole)) = reassembler.push(chunk) {
            let image = &whole.snapshot.as_ref().expect("an image").data;
            assert!(image.len() <= LIMIT);
            assert!(tampered || sent.contains(&whole), "an image came out that nobody sent: {whole:?}");
        }
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(data.len() * 8 + (1 << 20), || {
        if let Ok(chunk) = SnapshotChunk::decode(data) {
            let _ = Reassembler::new(LIMIT).push(chunk);
        }
        let _ = run(&mut Unstructured::new(data));
    });
});
