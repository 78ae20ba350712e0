//! One replica of three hears anything from its peers: well-formed messages that make no sense, messages of any bytes,
//! in every role and at any time. It refuses or takes them, and goes on; term and applied index never go back.

#![no_main]

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use chronik_consensus::mirror::{ConfState, Entry, MessageType, RaftMessage, Snapshot, SnapshotMetadata};
use chronik_consensus::{Config, MembershipChange, Replica, Start};
use chronik_fuzz::memory::limited;
use chronik_fuzz::seeds;
use chronik_log::disk::MemDisk;
use chronik_model::{NodeId, RaftIndex};
use libfuzzer_sys::fuzz_target;

type U<'a> = Unstructured<'a>;

fn config() -> Config {
    Config { compact_entries: 12, compact_keep_entries: 3, segment_bytes: 4 << 10, ..Config::new(NodeId(1)) }
}

fn near(u: &mut U<'_>, known: u64) -> Result<u64> {
    Ok(match u.int_in_range(0..=9_u8)? {
        0 => u.arbitrary()?,
        1 => 0,
        _ => (known + u.int_in_range(0..=4)?).saturating_sub(2),
    })
}

fn id(u: &mut U<'_>) -> Result<u64> {
    if u.ratio(1, 20)? { u.arbitrary() } else { u.int_in_range(1..=4) }
}

fn members(u: &mut U<'_>) -> Result<ConfState> {
    let mut state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    if u.ratio(1, 5)? {
        state.voters = (0..u.int_in_range(0..=4)?).map(|_| id(u)).collect::<Result<_>>()?;
        state.learners = (0..u.int_in_range(0..=2)?).map(|_| id(u)).collect::<Result<_>>()?;
        state.auto_leave = u.ratio(1, 8)?;
    }
    Ok(state)
}

fn entries(u: &mut U<'_>, index: u64, term: u64) -> Result<Vec<Entry>> {
    let mut out = Vec::new();
    let mut at = index;
    for _ in 0..u.int_in_range(0..=3)? {
        at = at.wrapping_add(1);
        let index = if u.ratio(1, 20)? { near(u, at)? } else { at };
        let kind = if u.ratio(1, 6)? { u.int_in_range(0..=3)? } else { 0 };
        let data =
            if kind == 0 { vec![u.arbitrary()?; u.int_in_range(0..=40)?] } else { u.bytes(u.len().min(6))?.to_vec() };
        let term = if u.ratio(1, 4)? { near(u, term)? } else { term };
        out.push(Entry { entry_type: kind, term, index, data: data.into(), context: Bytes::new() });
    }
    Ok(out)
}

fn message(u: &mut U<'_>, term: u64, last: u64, commit: u64) -> Result<RaftMessage> {
    let kind = u.int_in_range(0..=19)?;
    let msg_term = if u.ratio(1, 3)? { near(u, term)? } else { term };
    let index = near(u, last)?;
    let mut message = RaftMessage {
        msg_type: kind,
        to: if u.ratio(1, 30)? { id(u)? } else { 1 },
        from: id(u)?,
        term: msg_term,
        log_term: near(u, term)?,
        index,
        commit: near(u, commit)?,
        reject: u.ratio(1, 3)?,
        reject_hint: near(u, last)?,
        request_snapshot: if u.ratio(1, 12)? { near(u, last)? } else { 0 },
        commit_term: if u.ratio(1, 4)? { near(u, term)? } else { 0 },
        priority: if u.ratio(1, 20)? { u.arbitrary()? } else { 0 },
        ..RaftMessage::default()
    };
    if kind == MessageType::Append as i32 || u.ratio(1, 10)? {
        message.entries = entries(u, index, msg_term)?;
    }
    if u.ratio(1, 5)? || kind == MessageType::RequestVote as i32 {
        message.context = Bytes::copy_from_slice(u.bytes(u.len().min(16))?);
    }
    if kind == MessageType::Snapshot as i32 || u.ratio(1, 20)? {
        let conf_state = if u.ratio(1, 10)? { None } else { Some(members(u)?) };
        let metadata = SnapshotMetadata { conf_state, index: near(u, last)?, term: near(u, term)? };
        message.snapshot = Some(Snapshot { data: Bytes::from(vec![7; 20]), metadata: Some(metadata) });
    }
    Ok(message)
}

fn run(u: &mut U<'_>) -> Result<()> {
    let disk = MemDisk::new();
    let voters = if u.ratio(1, 8)? { vec![NodeId(1)] } else { vec![NodeId(1), NodeId(2), NodeId(3)] };
    let start = if u.ratio(1, 8)? { Start::Join } else { Start::Bootstrap { voters } };
    let mut now = 1_000;
    let open = |now| Replica::open(config(), disk.clone(), "raft", &start, now).expect("a sound log opens").0;
    let mut replica = open(now);
    let (mut term, mut applied) = (0, 0);
    for _ in 0..120 {
        if u.is_empty() {
            break;
        }
        let status = replica.status();
        match u.int_in_range(0..=29_u8)? {
            0..16 => replica.step(message(u, status.term.0, status.last_index.0, status.commit.0)?),
            16 => {
                let most = u.len().min(80);
                if let Ok(mut message) = RaftMessage::decode(Bytes::copy_from_slice(u.bytes(most)?)) {
                    message.to = 1;
                    replica.step(message);
                }
            }
            17..21 => {
                now += u.int_in_range(0..=1_500)?;
                replica.tick(now);
            }
            21 => replica.campaign(),
            22 => {
                let _ = replica.propose(Bytes::from(vec![1; u.int_in_range(1..=30)?]));
            }
            23 => {
                let node = NodeId(u.int_in_range(0..=5)?);
                let change = match u.int_in_range(0..=2_u8)? {
                    0 => MembershipChange::AddLearner(node),
                    1 => MembershipChange::Promote(node),
                    _ => MembershipChange::RemoveNode(node),
                };
                let _ = replica.change_membership(change);
            }
            24 => {
                let _ = replica.read_index();
            }
            25 => {
                let to = if u.arbitrary()? { Some(NodeId(u.int_in_range(0..=4)?)) } else { None };
                let _ = replica.transfer_leader(to);
            }
            26 => {
                let hint = if u.arbitrary()? { Some(NodeId(u.int_in_range(1..=4)?)) } else { None };
                replica.peer_connected(NodeId(u.int_in_range(1..=4)?), hint);
            }
            27 => replica.peer_lost(NodeId(u.int_in_range(1..=4)?), u.arbitrary()?),
            28 => replica.report_snapshot(NodeId(u.int_in_range(1..=4)?), u.arbitrary()?),
            _ => {
                drop(replica);
                replica = open(now);
                applied = 0;
            }
        }
        if u.ratio(1, 4)? {
            // Several inputs may come before the next round.
            continue;
        }
        let mut rounds = 0;
        while replica.has_ready() {
            rounds += 1;
            assert!(rounds < 100, "it never comes to rest: {:?}", replica.status());
            let effects = replica.ready(drop).expect("the disk does not fail");
            if let Some(image) = effects.install {
                // At the same index when a leader contradicts what is committed, which raft does not notice.
                assert!(image.index.0 >= applied, "an older image was installed");
                applied = image.index.0;
            }
            for entry in &effects.committed {
                assert!(applied == 0 || entry.index.0 == applied + 1, "{} applied after {applied}", entry.index);
                applied = entry.index.0;
            }
            if effects.snapshot_wanted && applied > 0 {
                let _ = replica.provide_snapshot(RaftIndex(applied), &Bytes::from_static(b"state"));
            }
        }
        let now_term = replica.status().term.0;
        assert!(now_term >= term, "term {now_term} after {term}");
        term = now_term;
    }
    Ok(())
}

fuzz_target!(init: seeds::write(seeds::random), |data: &[u8]| {
    limited(64 << 20, || {
        let _ = run(&mut Unstructured::new(data));
    });
});
