//! Two or three replicas of one partition over disks in memory, without any server: what is written, replicated,
//! acknowledged, and when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use chronik_core::partition::{ConsumerFetch, FetchReply, FollowerAction, FollowerFetch, LeaderMarks, ReplicaConfig};
use chronik_core::{LeaderRecovery, PartitionState};
use chronik_log::disk::{Disk, Fault, MemDisk, Operation};
use chronik_log::{AppendOrigin, LogConfig, LogDir};
use chronik_model::PartitionEpoch;
use chronik_model::batch::BatchBuilder;

use super::*;
use crate::Now;
use crate::storage::{self, Checkpoints, Opened};

const TOPIC: TopicId = chronik_model::Uuid([7; 16]);

type Answers = Rc<RefCell<Vec<(Offset, ErrorCode)>>>;

#[derive(Debug)]
struct Ack {
    required: Offset,
    answers: Answers,
    /// With acks=all: where its records must be shown by the time it is acknowledged.
    shown: Option<Arc<Published>>,
}

impl Ticket for Ack {
    fn required(&self) -> Offset {
        self.required
    }

    fn complete(self, error: ErrorCode) {
        if let Some(shown) = self.shown.filter(|_| error.is_none()) {
            assert!(shown.high_watermark() >= self.required, "acknowledged, but not shown");
        }
        self.answers.borrow_mut().push((self.required, error));
    }
}

#[derive(Clone, Debug, Default)]
struct Poll(Rc<Cell<usize>>);

impl Waiter for Poll {
    fn wake(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// One broker with its disk and its replica of the partition.
struct Node {
    me: NodeId,
    disk: MemDisk,
    log_dir: Arc<LogDir>,
    partition: HostedPartition<Ack, Poll>,
    out: Vec<Outgoing>,
    answers: Answers,
}

fn up(node: NodeId) -> Option<BrokerStatus> {
    Some(BrokerStatus { epoch: BrokerEpoch(100 + i64::from(node.0)), fenced: false, shutting_down: false })
}

fn led_by(leader: i32, leader_epoch: i32, isr: &[i32]) -> PartitionState {
    PartitionState {
        replicas: vec![NodeId(1), NodeId(2)],
        isr: isr.iter().copied().map(NodeId).collect(),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        reports: Vec::new(),
        leader: (leader > 0).then_some(NodeId(leader)),
        leader_epoch: LeaderEpoch(leader_epoch),
        partition_epoch: PartitionEpoch(leader_epoch * 10),
        recovery: LeaderRecovery::Recovered,
        adding: Vec::new(),
        removing: Vec::new(),
    }
}

fn batch(values: &[&str]) -> Bytes {
    let mut batch = BatchBuilder::new(1_000);
    for value in values {
        batch.push(None, Some(value.as_bytes()));
    }
    batch.build()
}

impl Node {
    fn start(me: i32, durability: Durability) -> Self {
        Self::start_on(me, durability, MemDisk::new())
    }

    fn start_on(me: i32, durability: Durability, disk: MemDisk) -> Self {
        let log_dir = LogDir::new(Arc::new(disk.clone()));
        let mut checkpoints = Checkpoints::read(&log_dir);
        let tp = TopicPartition::new("t", 0);
        let settings = Settings {
            log: LogConfig::default(),
            replica: ReplicaConfig { min_insync_replicas: Some(1), ..ReplicaConfig::default() },
            deletes_old: true,
        };
        let Opened { log, high_watermark, created_ms } =
            storage::open(&log_dir, &tp, TOPIC, settings.log, false, &mut checkpoints, 1_000).unwrap();
        let partition = HostedPartition::new(Parts {
            tp,
            topic_id: TOPIC,
            me: NodeId(me),
            broker_epoch: BrokerEpoch(100 + i64::from(me)),
            log,
            high_watermark,
            created_ms,
            settings,
            durability,
            max_waiters: 10,
        });
        Self { me: NodeId(me), disk, log_dir, partition, out: Vec::new(), answers: Answers::default() }
    }

    fn apply(&mut self, state: &PartitionState) {
        self.partition.apply(state, up, 0, &mut self.out);
        self.partition.replica().check_invariants().unwrap();
    }

    fn produce(&mut self, acks: i16, values: &[&str]) -> Result<AppendOutcome, ErrorCode> {
        let batches = [batch(values)];
        let request = Append { batches: &batches, acks, origin: AppendOrigin::Client, only_epoch: None };
        let answers = Rc::clone(&self.answers);
        let shown = (acks == -1).then(|| Arc::clone(self.partition.published()));
        let ticket = |required| Some((60_000, Ack { required, answers, shown }));
        let now = Now { mono_ms: 0, wall_ms: 1_000 };
        let outcome = self.partition.append(&request, ticket, now, &mut self.out);
        self.partition.replica().check_invariants().unwrap();
        outcome.map_err(|(code, _)| code)
    }

    /// Runs the sync that is wanted; false if none is.
    fn sync(&mut self) -> bool {
        let Some(plan) = self.partition.take_flush() else { return false };
        match plan.run() {
            Ok(()) => self.partition.on_flushed(&plan),
            Err(error) => self.partition.on_flush_failed(&error, &mut self.out),
        }
        true
    }

    /// What a consumer at `from` gets: error, high watermark, records; `poll` waits for more.
    fn consume(&mut self, from: i64, poll: &Poll) -> (ErrorCode, i64, Bytes) {
        let fetch = ConsumerFetch {
            current_leader_epoch: LeaderEpoch::NONE,
            fetch_offset: Offset(from),
            last_fetched_epoch: LeaderEpoch::NONE,
            from_follower: false,
        };
        let budget =
            ReadBudget { max_bytes: 1 << 20, partition_bytes: 1 << 20, min_one: true, wait: Some((poll, 60_000)) };
        let planned = self.partition.plan(ReadKind::Consumer(fetch), &budget, 0, &mut self.out);
        let records = planned.read.map(|plan| plan.read().unwrap()).unwrap_or_default();
        (planned.answer.error, planned.answer.high_watermark, records)
    }

    fn ends(&self) -> (i64, i64) {
        (self.partition.replica().high_watermark().0, self.partition.log().log_end().0)
    }

    fn stored(&self) -> Bytes {
        self.partition.plan_log(Offset(0), 1 << 20, self.partition.log().log_end()).unwrap().read().unwrap()
    }
}

/// One fetch of `follower` from `leader`; what the follower made of the answer, `None` if it may not ask yet.
fn pull(follower: &mut Node, leader: &mut Node) -> Option<FollowerAction> {
    let request = follower.partition.follower_request()?;
    assert_eq!(request.leader, leader.me);
    let fetch = FollowerFetch {
        replica: follower.me,
        replica_epoch: up(follower.me).unwrap().epoch,
        current_leader_epoch: request.current_leader_epoch,
        fetch_offset: request.fetch_offset,
        last_fetched_epoch: request.last_fetched_epoch,
        log_start: request.log_start,
    };
    let budget = ReadBudget { max_bytes: 1 << 20, partition_bytes: 1 << 20, min_one: true, wait: None::<(&Poll, u64)> };
    let planned = leader.partition.plan(ReadKind::Follower(fetch), &budget, 0, &mut leader.out);
    let records = planned.read.map(|plan| plan.read().unwrap()).unwrap_or_default();
    let reply = FetchReply {
        request,
        error: planned.answer.error,
        diverging: planned.answer.diverging,
        marks: LeaderMarks {
            high_watermark: Offset(planned.answer.high_watermark),
            log_start: Offset(planned.answer.log_start),
        },
    };
    let action = follower.partition.on_fetched(&reply, &records, &mut follower.out);
    for node in [&*follower, &*leader] {
        node.partition.replica().check_invariants().unwrap();
    }
    Some(action)
}

fn pair(durability: Durability) -> (Node, Node) {
    let (mut one, mut two) = (Node::start(1, durability), Node::start(2, durability));
    one.apply(&led_by(1, 1, &[1, 2]));
    two.apply(&led_by(1, 1, &[1, 2]));
    (one, two)
}

#[test]
fn an_append_is_acknowledged_and_shown_when_the_follower_that_holds_it_says_so() {
    let (mut leader, mut follower) = pair(Durability::Os);
    let poll = Poll::default();
    assert_eq!(leader.consume(0, &poll), (ErrorCode::None, 0, Bytes::new()));
    let outcome = leader.produce(-1, &["a", "b"]).unwrap();
    assert_eq!((outcome.base_offset, outcome.waits), (Offset(0), true));
    // The first answer brings the records; only the next request says that they arrived.
    assert!(matches!(pull(&mut follower, &mut leader), Some(FollowerAction::Append(_))));
    assert_eq!((leader.ends(), follower.ends()), ((0, 2), (0, 2)));
    assert!(leader.answers.borrow().is_empty());
    assert_eq!(leader.consume(0, &poll).2, Bytes::new());
    assert_eq!(poll.0.get(), 0);
    pull(&mut follower, &mut leader);
    assert_eq!(*leader.answers.borrow(), [(Offset(2), ErrorCode::None)]);
    assert_eq!((leader.ends(), follower.ends()), ((2, 2), (2, 2)));
    assert_eq!(poll.0.get(), 2, "both fetches that waited look again");
    assert_eq!(leader.partition.published().high_watermark(), Offset(2));
    assert_eq!(leader.consume(0, &poll), (ErrorCode::None, 2, leader.stored()));
    assert_eq!(leader.stored(), follower.stored());
    // acks=1 waits for nobody.
    assert!(!leader.produce(1, &["c"]).unwrap().waits);
}

#[test]
fn a_leader_that_is_replaced_answers_its_waiters_and_cuts_what_the_new_one_does_not_have() {
    let (mut old, mut new) = pair(Durability::Os);
    old.produce(-1, &["both"]).unwrap();
    pull(&mut new, &mut old);
    pull(&mut new, &mut old);
    old.produce(-1, &["only here", "and this"]).unwrap();
    assert_eq!((old.ends(), new.ends()), ((1, 3), (1, 1)));

    for node in [&mut new, &mut old] {
        node.apply(&led_by(2, 2, &[1, 2]));
    }
    assert_eq!(
        *old.answers.borrow(),
        [(Offset(1), ErrorCode::None), (Offset(3), ErrorCode::NotLeaderOrFollower)],
        "what was replicated was acknowledged, the rest is not"
    );
    assert_eq!(old.produce(-1, &["x"]), Err(ErrorCode::NotLeaderOrFollower));
    assert!(old.out.contains(&Outgoing::RoleChanged));
    assert_eq!((old.partition.following(), new.partition.led_epoch()), (Some(NodeId(2)), Some(LeaderEpoch(2))));
    new.produce(-1, &["instead"]).unwrap();

    assert_eq!(pull(&mut old, &mut new), Some(FollowerAction::Truncate { to: Offset(1) }));
    assert_eq!(old.ends(), (1, 1));
    pull(&mut old, &mut new);
    pull(&mut old, &mut new);
    assert_eq!((old.ends(), new.ends()), ((2, 2), (2, 2)));
    assert_eq!(old.stored(), new.stored());
    assert_eq!(*new.answers.borrow(), [(Offset(2), ErrorCode::None)]);
}

#[test]
fn durable_acknowledgements_wait_for_the_sync_here_and_at_the_follower() {
    let (mut leader, mut follower) = pair(Durability::EveryAck);
    assert!(leader.sync() && follower.sync(), "what was found is synced first");
    let poll = Poll::default();
    leader.produce(-1, &["a"]).unwrap();
    assert!(leader.produce(1, &["b"]).unwrap().waits, "acks=1 waits for the local disk");
    pull(&mut follower, &mut leader);
    assert_eq!(pull(&mut follower, &mut leader), None, "its next request would acknowledge what is not on its disk");
    assert!(!follower.partition.is_synced());
    assert!(follower.sync());
    assert!(follower.partition.is_synced() && !follower.sync());
    pull(&mut follower, &mut leader);
    assert_eq!(leader.ends(), (2, 2));
    assert!(leader.answers.borrow().is_empty(), "replicated, but not on the leader's disk");
    assert_eq!(leader.consume(0, &poll), (ErrorCode::None, 0, Bytes::new()));
    assert_eq!(leader.partition.published().high_watermark(), Offset(0));

    assert!(leader.sync());
    assert_eq!(*leader.answers.borrow(), [(Offset(1), ErrorCode::None), (Offset(2), ErrorCode::None)]);
    assert_eq!(poll.0.get(), 1);
    assert_eq!(leader.consume(0, &poll).1, 2);
    // And that was true: power goes out everywhere.
    for (mut node, me) in [(leader, 1), (follower, 2)] {
        let stored = node.stored();
        node.partition.end_service(0);
        node.disk.crash(3);
        assert_eq!(Node::start_on(me, Durability::EveryAck, node.disk.clone()).stored(), stored);
    }
}

/// A leader that is alone in sync commits by itself, but a power cut could take from it what it has not synced.
#[test]
fn a_follower_is_told_no_watermark_that_a_power_cut_of_the_leader_could_take_back() {
    let (mut leader, mut follower) = (Node::start(1, Durability::EveryAck), Node::start(2, Durability::EveryAck));
    for node in [&mut leader, &mut follower] {
        node.apply(&led_by(1, 1, &[1]));
        assert!(node.sync());
    }
    leader.produce(-1, &["a"]).unwrap();
    assert!(leader.answers.borrow().is_empty());
    for synced in [false, true] {
        if synced {
            assert!(leader.sync());
        }
        for _ in 0..2 {
            pull(&mut follower, &mut leader);
            follower.sync();
        }
        assert_eq!((leader.ends(), follower.ends()), ((1, 1), (i64::from(synced), 1)));
    }
}

#[test]
fn a_new_leader_has_what_it_holds_synced_though_nobody_appends_so_that_consumers_see_it() {
    let (mut leader, mut follower) = pair(Durability::EveryAck);
    assert!(leader.sync() && follower.sync());
    leader.produce(-1, &["a"]).unwrap();
    pull(&mut follower, &mut leader);
    // Its word comes after a truncation, or finds nobody: the plan achieves nothing.
    drop(follower.partition.take_flush().unwrap());
    follower.apply(&led_by(2, 2, &[2]));
    let poll = Poll::default();
    assert_eq!(follower.ends(), (1, 1));
    assert_eq!(follower.consume(0, &poll), (ErrorCode::None, 0, Bytes::new()));
    assert!(follower.sync());
    assert_eq!(poll.0.get(), 1);
    assert_eq!(follower.consume(0, &poll), (ErrorCode::None, 1, follower.stored()));
    follower.apply(&led_by(2, 3, &[2]));
    assert!(!follower.sync(), "nothing is left to sync");
}

#[test]
fn a_failed_write_ends_the_service_of_the_partition_and_tells_everybody() {
    let (mut leader, mut follower) = pair(Durability::Os);
    leader.produce(-1, &["a"]).unwrap();
    pull(&mut follower, &mut leader);
    pull(&mut follower, &mut leader);
    leader.produce(-1, &["parked"]).unwrap();
    let poll = Poll::default();
    leader.consume(1, &poll);
    leader.out.clear();
    leader.disk.inject(Fault::Fail(Operation::Append, 1));
    assert_eq!(leader.produce(-1, &["b"]), Err(ErrorCode::KafkaStorageError));
    assert_eq!(leader.answers.borrow().last(), Some(&(Offset(2), ErrorCode::KafkaStorageError)));
    assert_eq!((leader.out.as_slice(), poll.0.get()), ([Outgoing::RoleChanged].as_slice(), 1));
    // The disk takes writes again, this log does not.
    leader.disk.heal();
    assert_eq!(leader.produce(-1, &["c"]), Err(ErrorCode::KafkaStorageError));
    assert_eq!(leader.consume(0, &poll).0, ErrorCode::KafkaStorageError);
    assert!(leader.log_dir.check().is_err());
    assert_eq!(pull(&mut follower, &mut leader), Some(FollowerAction::Retry(ErrorCode::KafkaStorageError)));
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_ends_the_service() {
    let mut leader = Node::start(1, Durability::EveryAck);
    leader.apply(&led_by(1, 1, &[1]));
    leader.sync();
    leader.produce(-1, &["a"]).unwrap();
    leader.produce(1, &["b"]).unwrap();
    leader.disk.inject(Fault::Fail(Operation::Sync, 1));
    assert!(leader.sync());
    let failed: Vec<_> = leader.answers.borrow().iter().map(|(_, error)| *error).collect();
    assert_eq!(failed, [ErrorCode::KafkaStorageError, ErrorCode::KafkaStorageError]);
    assert_eq!(leader.partition.visible(), Offset(0));
    assert_eq!(leader.partition.following(), None);
    assert_eq!(leader.produce(0, &["c"]), Err(ErrorCode::KafkaStorageError));
}

#[test]
fn checkpoints_bring_the_high_watermark_and_a_log_start_that_was_moved_back() {
    let mut leader = Node::start(1, Durability::Os);
    leader.apply(&led_by(1, 1, &[1]));
    for value in ["a", "b", "c"] {
        leader.produce(-1, &[value]).unwrap();
    }
    assert_eq!(leader.partition.delete_records(9, &mut leader.out), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(leader.partition.delete_records(2, &mut leader.out), Ok(Offset(2)));
    leader.partition.settle().unwrap();
    let mut checkpoints = Checkpoints::default();
    checkpoints.note(&leader.partition);
    checkpoints.write(&Checkpoints::default(), &leader.log_dir).unwrap();
    assert_eq!(leader.produce(1, &["late"]), Err(ErrorCode::KafkaStorageError), "nothing comes behind the last sync");
    leader.disk.kill();
    let again = Node::start_on(1, Durability::Os, leader.disk.clone());
    assert_eq!((again.ends(), again.partition.published().log_start()), ((3, 3), Offset(2)));
}

#[test]
fn a_log_whose_change_failed_half_way_does_not_end_in_order() {
    let mut leader = Node::start(1, Durability::Os);
    leader.apply(&led_by(1, 1, &[1]));
    leader.produce(1, &["a"]).unwrap();
    // A read that fails while the log is cut stops this replica and leaves the directory in service.
    let effects = leader.partition.replica.fence_after_io_error();
    leader.partition.run(effects, &mut Vec::new());
    assert!(leader.log_dir.check().is_ok());
    assert!(matches!(leader.partition.settle(), Err(LogError::Offline(_))));
}

#[test]
fn a_directory_of_another_topic_of_the_name_is_set_aside_and_only_its_own_deletion_removes_it() {
    let node = Node::start(1, Durability::Os);
    let (tp, other) = (TopicPartition::new("t", 0), chronik_model::Uuid([8; 16]));
    let dir = chronik_log::partition_dir(&tp);
    storage::remove(&node.log_dir, &tp, other).unwrap();
    assert!(node.disk.exists(&dir).unwrap(), "it is not the deleted topic's");
    let mut checkpoints = Checkpoints::default();
    checkpoints.note(&node.partition);
    let Opened { log, .. } =
        storage::open(&node.log_dir, &tp, other, LogConfig::default(), false, &mut checkpoints, 1_000).unwrap();
    assert_eq!(log.log_end(), Offset(0));
    assert!(node.disk.exists(&format!("{dir}.{TOPIC}.stray")).unwrap());
    storage::remove(&node.log_dir, &tp, other).unwrap();
    assert!(!node.disk.exists(&dir).unwrap());
}

#[test]
fn a_follower_begins_at_a_log_start_within_a_batch() {
    let (mut leader, mut follower) = pair(Durability::Os);
    leader.produce(1, &["a", "b", "c"]).unwrap();
    leader.produce(1, &["d"]).unwrap();
    // The follower's disk is replaced; meanwhile records up to the middle of a batch are deleted.
    pull(&mut follower, &mut leader);
    pull(&mut follower, &mut leader);
    leader.partition.delete_records(1, &mut leader.out).unwrap();
    let mut follower = Node::start(2, Durability::Os);
    follower.apply(&led_by(1, 1, &[1]));
    let action = pull(&mut follower, &mut leader);
    assert!(matches!(action, Some(FollowerAction::ResetTo { offset: Offset(1) })), "{action:?}");
    let action = pull(&mut follower, &mut leader);
    assert!(matches!(action, Some(FollowerAction::Append(_))), "{action:?}");
    assert_eq!((follower.partition.log().log_start(), follower.partition.log().log_end()), (Offset(1), Offset(4)));
    let tail = |node: &Node| node.partition.plan_log(Offset(1), 1 << 20, Offset(4)).unwrap().read().unwrap();
    assert_eq!(tail(&leader), tail(&follower));
}

#[test]
fn a_tail_that_ends_within_a_batch_of_the_leader_is_cut_and_fetched_again() {
    let (mut leader, mut follower) = pair(Durability::Os);
    for node in [&mut leader, &mut follower] {
        let batches = [batch(&["a"])];
        node.partition.log.append_as_leader(&batches, LeaderEpoch(1), 1_000, AppendOrigin::Client).unwrap();
    }
    // What a power cut left of the leader's batch of three says that it has one record.
    let torn = [batch(&["torn"])];
    follower.partition.log.append_as_leader(&torn, LeaderEpoch(1), 1_000, AppendOrigin::Client).unwrap();
    let whole = [batch(&["b", "c", "d"])];
    leader.partition.log.append_as_leader(&whole, LeaderEpoch(1), 1_000, AppendOrigin::Client).unwrap();
    for node in [&mut leader, &mut follower] {
        let (disk, me) = (node.disk.clone(), node.me.0);
        *node = Node::start_on(me, Durability::Os, disk);
        node.apply(&led_by(1, 1, &[1]));
    }
    assert!(matches!(pull(&mut follower, &mut leader), Some(FollowerAction::Truncate { to: Offset(1) })));
    assert!(matches!(pull(&mut follower, &mut leader), Some(FollowerAction::Append(_))));
    assert_eq!(follower.partition.log().log_end(), Offset(4));
    assert_eq!(leader.stored(), follower.stored());
}

/// Waits for all that `node` has; the answer goes to its answers.
fn await_all(node: &mut Node, epoch: i32) {
    let required = node.partition.log().log_end();
    let shown = Some(Arc::clone(node.partition.published()));
    let ticket = Ack { required, answers: Rc::clone(&node.answers), shown };
    node.partition.await_committed(LeaderEpoch(epoch), ticket);
}

#[test]
fn what_a_new_leader_found_is_waited_for_until_all_in_sync_hold_it() {
    let (mut old, mut new) = pair(Durability::Os);
    old.produce(1, &["committed"]).unwrap();
    pull(&mut new, &mut old);
    pull(&mut new, &mut old);
    old.produce(1, &["found"]).unwrap();
    pull(&mut new, &mut old);
    assert_eq!(new.ends(), (1, 2));
    for node in [&mut new, &mut old] {
        node.apply(&led_by(2, 2, &[1, 2]));
    }
    await_all(&mut new, 1);
    assert_eq!(new.answers.take(), [(Offset(2), ErrorCode::NotLeaderOrFollower)], "that leadership is not this one");
    await_all(&mut new, 2);
    assert!(new.answers.borrow().is_empty(), "the other one may never have had it");
    await_all(&mut new, 2);
    assert_eq!(new.answers.take(), [(Offset(2), ErrorCode::NotLeaderOrFollower)], "one at a time");
    pull(&mut old, &mut new);
    assert_eq!(new.ends(), (2, 2));
    assert_eq!(new.answers.take(), [(Offset(2), ErrorCode::None)]);
    await_all(&mut new, 2);
    assert_eq!(new.answers.take(), [(Offset(2), ErrorCode::None)], "at once");
}

#[test]
fn who_waits_for_what_was_found_hears_of_the_sync_the_end_of_the_leadership_and_a_failed_disk() {
    let found = |isr: &[i32]| {
        let (mut old, mut new) = pair(Durability::EveryAck);
        assert!(old.sync() && new.sync());
        old.produce(1, &["found"]).unwrap();
        pull(&mut new, &mut old);
        new.apply(&led_by(2, 2, isr));
        await_all(&mut new, 2);
        assert!(new.answers.borrow().is_empty());
        new
    };
    let mut alone = found(&[2]);
    assert_eq!(alone.ends(), (1, 1));
    assert!(alone.sync());
    assert_eq!(alone.answers.take(), [(Offset(1), ErrorCode::None)]);

    let mut deposed = found(&[1, 2]);
    deposed.apply(&led_by(1, 3, &[1, 2]));
    assert_eq!(deposed.answers.take(), [(Offset(1), ErrorCode::NotLeaderOrFollower)]);

    let mut failed = found(&[1, 2]);
    failed.partition.fence(&mut failed.out);
    assert_eq!(failed.answers.take(), [(Offset(1), ErrorCode::KafkaStorageError)]);
    await_all(&mut failed, 2);
    assert_eq!(failed.answers.take(), [(Offset(1), ErrorCode::KafkaStorageError)]);
}
