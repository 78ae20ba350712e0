//! What a peer's message must look like before raft sees it.
//!
//! raft trusts its peers: a message that no replica would send can make it panic or count votes twice. `check`
//! refuses those by a reason; the replica counts and drops them. It runs on every message, before `RawNode::step`.

use crate::mirror::{ConfState, MessageType, RaftMessage};

/// Above this an index or a term is nonsense, and sums would overflow.
const HIGHEST: u64 = 1 << 62;
const MAX_CONTEXT: usize = 1024;
/// More voters than anybody has.
const MAX_VOTERS: usize = 1024;

/// Why the message is refused, if it is.
pub(crate) fn check(m: &RaftMessage, me: u64) -> Result<MessageType, &'static str> {
    use MessageType as T;
    let Some(kind) = m.kind() else { return Err("unknown message type") };
    if m.to != me {
        return Err("addressed to another node");
    }
    if m.from == 0 || m.from == me {
        return Err("from nobody or from ourselves");
    }
    if [m.from, m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint, m.request_snapshot]
        .iter()
        .any(|number| *number > HIGHEST)
    {
        return Err("an index or a term is out of range");
    }
    if m.context.len() > MAX_CONTEXT {
        return Err("a context too long");
    }
    if !m.voters.is_empty() {
        voters(m, kind)?;
    }
    if m.term == 0 && kind != T::ReadIndex {
        return Err("no term");
    }
    match kind {
        T::Hup | T::Beat | T::Unreachable | T::SnapStatus | T::CheckQuorum => Err("a local message"),
        T::Propose | T::TransferLeader => Err("proposals and transfers are not forwarded by raft messages"),
        T::Append => entries(m).map(|()| kind),
        T::Snapshot => snapshot(m).map(|()| kind),
        T::ReadIndex | T::ReadIndexResp => match m.entries.as_slice() {
            [entry] if !entry.data.is_empty() && entry.data.len() <= MAX_CONTEXT => Ok(kind),
            _ => Err("a read index without its context"),
        },
        T::AppendResponse
        | T::RequestVote
        | T::RequestVoteResponse
        | T::Heartbeat
        | T::HeartbeatResponse
        | T::TimeoutNow
        | T::RequestPreVote
        | T::RequestPreVoteResponse => {
            if m.entries.is_empty() {
                Ok(kind)
            } else {
                Err("entries in a message without entries")
            }
        }
    }
}

fn voters(m: &RaftMessage, kind: MessageType) -> Result<(), &'static str> {
    if !matches!(kind, MessageType::RequestVote | MessageType::RequestPreVote) {
        return Err("voters in a message that asks for no vote");
    }
    let mut ids = m.voters.clone();
    ids.sort_unstable();
    if ids.len() > MAX_VOTERS || ids[0] == 0 || ids.windows(2).any(|pair| pair[0] == pair[1]) || !ids.contains(&m.from)
    {
        return Err("voters that no candidate has");
    }
    Ok(())
}

fn entries(m: &RaftMessage) -> Result<(), &'static str> {
    if (m.index == 0) != (m.log_term == 0) {
        // For an index that it does not have, raft takes 0 as the term: it would find that the logs agree there.
        return Err("an index without its term");
    }
    let (mut index, mut term) = (m.index, m.log_term);
    for entry in &m.entries {
        if entry.index != index + 1 {
            return Err("entries with a gap");
        }
        if entry.term < term || entry.term == 0 || entry.term > m.term {
            return Err("entries whose terms go backwards or beyond the leader's");
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn snapshot(m: &RaftMessage) -> Result<(), &'static str> {
    let Some(metadata) = m.snapshot.as_ref().and_then(|s| s.metadata.as_ref()) else {
        return Err("a snapshot without metadata");
    };
    if metadata.index == 0 || metadata.index > HIGHEST || metadata.term == 0 || metadata.term > m.term {
        return Err("a snapshot of no index or of a term beyond the leader's");
    }
    match &metadata.conf_state {
        Some(members) if sound(members) => Ok(()),
        _ => Err("a snapshot whose members contradict each other"),
    }
}

fn sound(members: &ConfState) -> bool {
    let mut all: Vec<u64> = members.voters.iter().chain(&members.learners).copied().collect();
    all.sort_unstable();
    !members.voters.is_empty()
        && all.iter().all(|id| *id != 0)
        && all.windows(2).all(|pair| pair[0] != pair[1])
        // Chronik changes one member at a time and is never in joint consensus.
        && members.voters_outgoing.is_empty()
        && members.learners_next.is_empty()
        && !members.auto_leave
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mirror::{Entry, Snapshot, SnapshotMetadata};

    fn message(kind: MessageType) -> RaftMessage {
        RaftMessage { msg_type: kind as i32, from: 1, to: 2, term: 3, ..RaftMessage::default() }
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: Bytes::from_static(b"x"), ..Entry::default() }
    }

    fn refused(m: &RaftMessage) -> bool {
        check(m, 2).is_err()
    }

    #[test]
    fn what_replicas_say_passes() {
        assert!(!refused(&message(MessageType::Heartbeat)));
        let append = RaftMessage {
            index: 4,
            log_term: 2,
            entries: vec![entry(5, 2), entry(6, 3)],
            ..message(MessageType::Append)
        };
        assert!(!refused(&append));
        let read = RaftMessage { term: 0, entries: vec![entry(0, 0)], ..message(MessageType::ReadIndex) };
        assert!(!refused(&read));
    }

    #[test]
    fn what_would_harm_raft_is_refused() {
        assert!(refused(&RaftMessage { msg_type: 99, ..message(MessageType::Heartbeat) }));
        assert!(refused(&RaftMessage { to: 3, ..message(MessageType::Heartbeat) }));
        assert!(refused(&RaftMessage { from: 2, ..message(MessageType::Heartbeat) }));
        assert!(refused(&RaftMessage { from: 0, ..message(MessageType::Heartbeat) }));
        assert!(refused(&RaftMessage { term: 0, ..message(MessageType::Heartbeat) }));
        assert!(refused(&RaftMessage { commit: u64::MAX, ..message(MessageType::Heartbeat) }));
        assert!(refused(&RaftMessage { reject_hint: u64::MAX, ..message(MessageType::AppendResponse) }));
        for local in [MessageType::Hup, MessageType::Beat, MessageType::CheckQuorum, MessageType::SnapStatus] {
            assert!(refused(&message(local)), "{local:?}");
        }
        assert!(refused(&RaftMessage { entries: vec![entry(1, 1)], ..message(MessageType::Propose) }));
        assert!(refused(&RaftMessage {
            index: 4,
            log_term: 3,
            entries: vec![entry(6, 3)],
            ..message(MessageType::Append)
        }));
        assert!(refused(&RaftMessage {
            index: 4,
            log_term: 3,
            entries: vec![entry(5, 4)],
            ..message(MessageType::Append)
        }));
        assert!(refused(&RaftMessage {
            index: 4,
            log_term: 3,
            entries: vec![entry(5, 2)],
            ..message(MessageType::Append)
        }));
        assert!(refused(&RaftMessage { index: 4, entries: vec![entry(5, 3)], ..message(MessageType::Append) }));
        assert!(refused(&RaftMessage { log_term: 3, ..message(MessageType::Append) }));
        assert!(refused(&message(MessageType::ReadIndex)));
        assert!(refused(&message(MessageType::Snapshot)));
        for (voters, learners) in [(vec![], vec![1]), (vec![1, 1], vec![]), (vec![1], vec![1]), (vec![0], vec![])] {
            let members = ConfState { voters, learners, ..ConfState::default() };
            let metadata = SnapshotMetadata { conf_state: Some(members), index: 9, term: 3 };
            let snapshot = Some(Snapshot { data: Bytes::new(), metadata: Some(metadata) });
            assert!(refused(&RaftMessage { snapshot, ..message(MessageType::Snapshot) }));
        }
        for auto_leave in [false, true] {
            let members = ConfState { voters: vec![1, 2], auto_leave, ..ConfState::default() };
            let metadata = SnapshotMetadata { conf_state: Some(members), index: 9, term: 3 };
            let snapshot = Some(Snapshot { data: Bytes::new(), metadata: Some(metadata) });
            let leaving = RaftMessage { snapshot, ..message(MessageType::Snapshot) };
            assert_eq!(refused(&leaving), auto_leave, "raft panics when it cannot restore just these members");
        }
    }
}
