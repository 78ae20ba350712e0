//! A shard over a log that is a list of batches.

use chronik_core::group::{
    GroupResponse, OffsetCommitPartition, OffsetCommitRequest, OffsetCommitTopic, OffsetFetchRequest,
};
use chronik_model::PartitionIndex;

use super::*;

const EPOCH: LeaderEpoch = LeaderEpoch(4);
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };

/// What an append comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Done,
    Waits,
    Refused(ErrorCode),
}

struct Log {
    batches: Vec<Bytes>,
    fate: Fate,
    waiting: Vec<Ticket>,
    answers: Vec<(u32, ErrorCode)>,
}

impl Log {
    fn new(fate: Fate) -> Self {
        Self { batches: Vec::new(), fate, waiting: Vec::new(), answers: Vec::new() }
    }

    /// What is in the log, as a leader would have written it.
    fn bytes(&self) -> Bytes {
        self.batches.iter().flat_map(|batch| batch.to_vec()).collect::<Vec<u8>>().into()
    }
}

impl GroupHost<u32> for Log {
    fn append(&mut self, _now: Now, epoch: LeaderEpoch, ticket: Ticket, batch: Bytes) -> Result<bool, ErrorCode> {
        assert_eq!(epoch, EPOCH);
        if let Fate::Refused(error) = self.fate {
            return Err(error);
        }
        // The leader gives the offset; one record per batch here, so it is the number of batches.
        let mut stored = batch.to_vec();
        stored[..8].copy_from_slice(&(self.batches.len() as i64).to_be_bytes());
        self.batches.push(stored.into());
        if self.fate == Fate::Waits {
            self.waiting.push(ticket);
        }
        Ok(self.fate == Fate::Waits)
    }

    fn reply(&mut self, token: u32, response: GroupResponse) {
        let GroupResponse::OffsetCommit(response) = response else { panic!("{response:?}") };
        self.answers.push((token, response[0].partitions[0].error));
    }
}

fn commit(topic: &str, offset: i64) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id: -1,
        member_id: String::new(),
        group_instance_id: None,
        retention_time_ms: None,
        topics: vec![OffsetCommitTopic {
            name: topic.into(),
            partitions: vec![OffsetCommitPartition {
                partition: PartitionIndex(0),
                offset: Offset(offset),
                leader_epoch: LeaderEpoch::NONE,
                metadata: None,
            }],
        }],
    }
}

fn committed(shard: &mut GroupShard<u32>) -> Vec<(String, i64)> {
    let request = OffsetFetchRequest { group_id: "g".into(), topics: None };
    let fetched = shard.query(NOW, |coordinator, _| coordinator.fetch_offsets(&request));
    assert_eq!(fetched.error, ErrorCode::None);
    fetched.topics.iter().map(|topic| (topic.name.to_string(), topic.partitions[0].offset.0)).collect()
}

fn loaded(log: &mut Log, exists: impl Fn(&TopicName) -> bool) -> GroupShard<u32> {
    let mut shard = GroupShard::new(EPOCH, GroupConfig::default());
    let mut loader = Loader::new(Offset(0), Offset(log.batches.len() as i64));
    while let Some((from, _)) = loader.wanted() {
        let from = usize::try_from(from.0).unwrap();
        let chunk: Vec<u8> = log.batches[from..].iter().take(2).flat_map(|batch| batch.to_vec()).collect();
        loader.take(&chunk.into(), |batch| assert_eq!(shard.replay(batch), 1)).unwrap();
    }
    shard.finish_load(log, NOW, exists);
    shard
}

#[test]
fn a_commit_is_answered_after_its_record_and_found_again_by_the_next_leader() {
    let mut log = Log::new(Fate::Waits);
    let mut shard = loaded(&mut log, |_| true);
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 1, commit("t", 10)));
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 2, commit("u", 20)));
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 3, commit("t", 30)));
    assert!(log.answers.is_empty());
    for (ticket, result) in log.waiting.clone().into_iter().zip([Ok(()), Ok(()), Err(ErrorCode::RequestTimedOut)]) {
        shard.on_appended(&mut log, NOW, ticket, result);
    }
    let refused = log.answers.pop().unwrap();
    assert_eq!(log.answers, [(1, ErrorCode::None), (2, ErrorCode::None)]);
    assert_eq!(refused.0, 3);
    assert_ne!(refused.1, ErrorCode::None);
    // What timed out is in the log all the same: the next leader takes it, as the client may not know better either.
    let mut next = loaded(&mut log, |_| true);
    assert_eq!(committed(&mut next), [("t".to_owned(), 30), ("u".to_owned(), 20)]);
}

#[test]
fn an_append_that_is_refused_or_done_at_once_is_answered_at_once() {
    let mut log = Log::new(Fate::Done);
    let mut shard = loaded(&mut log, |_| true);
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 1, commit("t", 10)));
    log.fate = Fate::Refused(ErrorCode::NotLeaderOrFollower);
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 2, commit("t", 20)));
    assert_eq!(log.answers, [(1, ErrorCode::None), (2, ErrorCode::NotCoordinator)]);
    assert_eq!(committed(&mut shard), [("t".to_owned(), 10)]);
}

#[test]
fn nothing_is_served_before_the_load_and_after_the_end() {
    let mut log = Log::new(Fate::Waits);
    let mut shard = GroupShard::new(EPOCH, GroupConfig::default());
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 1, commit("t", 10)));
    assert_eq!(log.answers, [(1, ErrorCode::CoordinatorLoadInProgress)]);
    shard.finish_load(&mut log, NOW, |_| true);
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 2, commit("t", 10)));
    shard.end(&mut log);
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 3, commit("t", 10)));
    let late = log.waiting[0];
    shard.on_appended(&mut log, NOW, late, Ok(()));
    shard.tick(&mut log, NOW);
    assert_eq!(log.answers[1..], [(2, ErrorCode::NotCoordinator), (3, ErrorCode::NotCoordinator)]);
    assert_eq!(log.batches.len(), 1);
}

#[test]
fn offsets_of_a_topic_deleted_before_or_while_loading_are_dropped() {
    let mut log = Log::new(Fate::Done);
    let mut shard = loaded(&mut log, |_| true);
    for (token, topic) in [(1, "kept"), (2, "gone before"), (3, "gone meanwhile")] {
        shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, token, commit(topic, 5)));
    }
    let mut next = GroupShard::new(EPOCH, GroupConfig::default());
    Loader::new(Offset(0), Offset(3)).take(&log.bytes(), |batch| assert_eq!(next.replay(batch), 1)).unwrap();
    for _ in 0..3 {
        next.on_topic_deleted(&mut log, NOW, &"gone meanwhile".into());
    }
    assert!(
        matches!(&next.stage, Stage::Loading(deleted) if deleted.len() == 1),
        "a name is kept once: {:?}",
        next.stage
    );
    next.finish_load(&mut log, NOW, |name| name.as_str() != "gone before");
    assert_eq!(committed(&mut next), [("kept".to_owned(), 5)]);
    next.on_topic_deleted(&mut log, NOW, &"kept".into());
    assert_eq!(committed(&mut next), []);
    // And the log says so too.
    assert_eq!(committed(&mut replayed(&log)), []);
}

/// The log with batches of several records, whatever their number.
fn replayed(log: &Log) -> GroupShard<u32> {
    let mut shard = GroupShard::new(EPOCH, GroupConfig::default());
    for batch in &log.batches {
        shard.replay(&BatchRecords::open(batch, MAX_BATCH).unwrap());
    }
    shard.finish_load(&mut Log::new(Fate::Done), NOW, |_| true);
    shard
}

#[test]
fn a_load_that_gets_no_further_is_an_error_and_not_the_end() {
    let mut log = Log::new(Fate::Done);
    let mut shard = loaded(&mut log, |_| true);
    shard.ask(&mut log, NOW, |coordinator, now| coordinator.commit_offsets(now, 1, commit("t", 5)));
    let mut loader = Loader::new(Offset(0), Offset(1));
    assert_eq!(loader.take(&Bytes::new(), |_| {}), Err(ErrorCode::CorruptMessage));
    let mut damaged = log.bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut replayed = 0;
    assert_eq!(loader.take(&damaged.into(), |_| replayed += 1), Err(ErrorCode::CorruptMessage));
    assert_eq!((loader.wanted(), replayed), (Some((Offset(0), Offset(1))), 0));
}
