//! Every rule of the judge that a history or a state can be made for by hand: one that breaks it and nothing else is
//! reported under the number and in the words of that rule, and the same one without the flaw is not reported at all.

use std::collections::{BTreeMap, BTreeSet};

use chronik_consensus::MembershipChange;
use chronik_core::{LeaderRecovery, PartitionState};
use chronik_model::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex, TopicId, TopicPartition};

use super::history::{Audit, History, Outcome, Sent, print_of};
use super::judge::When::{AtEnd, Now};
use super::ledger::tests::batch;
use super::ledger::{Key, Ledger};
use super::logs::Logs;
use super::quorum::{Quorum, Seen};
use super::replica::{InSync, Marks};
use super::{Oracle, Violation, bounded, judge};
use crate::kernel::{Event, Kernel};
use crate::plan::{Plan, Shape};
use crate::runner;
use crate::trace::{Detail, Trace};
use crate::world::World;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn key() -> Key {
    (TopicId::from_u128(7), PartitionIndex(0))
}

fn tp() -> TopicPartition {
    TopicPartition::new("t0", 0)
}

/// Two records, `x` and `y`, committed by A in epoch 1.
fn commit(ledger: &mut Ledger) -> Result<(), Violation> {
    ledger.lead(A, 1, 0)?;
    ledger.commit(A, 1, &batch(0, 1, "x", Some((7, 0))), true, 0)?;
    ledger.commit(A, 1, &batch(1, 1, "y", Some((7, 1))), true, 0)
}

fn logs() -> Logs {
    let mut logs = Logs::default();
    commit(logs.both(key(), &tp(), A).0).expect("sound");
    logs
}

/// The same, and A is a replica that was seen with both.
fn held() -> Logs {
    let mut logs = logs();
    let (ledger, replica) = logs.both(key(), &tp(), A);
    let read = |_: i64, _: i64| vec![batch(0, 1, "x", Some((7, 0))), batch(1, 1, "y", Some((7, 1)))];
    replica.booted(A, 1, &Marks { end: 2, ..Marks::default() }, &read, ledger).expect("sound");
    logs
}

fn oracle() -> Oracle {
    Oracle { logs: logs(), ..Oracle::new() }
}

fn judged(oracle: &mut Oracle) -> Result<(), Violation> {
    oracle.at_end(&BTreeMap::new(), &mut Kernel::new(1, Trace::new(Detail::Hash)))
}

fn sent(value: &str) -> Sent {
    Sent {
        client: 1,
        tp: tp(),
        acks: -1,
        first: 0,
        count: 1,
        print: print_of(&batch(0, 1, value, Some((7, 0)))),
        invoked: 1,
        outcome: Outcome::Acked(Offset(0)),
        resolved: 2,
    }
}

fn state(version: i32, leader: NodeId, isr: &[NodeId]) -> PartitionState {
    PartitionState {
        replicas: vec![A, B, C],
        isr: isr.to_vec(),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        reports: Vec::new(),
        leader: Some(leader),
        leader_epoch: LeaderEpoch(version),
        partition_epoch: PartitionEpoch(version),
        recovery: LeaderRecovery::Recovered,
        adding: Vec::new(),
        removing: Vec::new(),
    }
}

fn changed(logs: &mut Logs, state: &PartitionState) -> Result<(), Violation> {
    logs.partition_changed(&tp().topic, key(), state, 0).map(|_| ())
}

/// What a history says after this was done to it.
fn told(act: impl FnOnce(&mut History)) -> Result<(), Violation> {
    let mut history = History::new();
    act(&mut history);
    history.take_broken().map_or(Ok(()), Err)
}

fn poll(history: &mut History, position: i64, mark: i64, base: i64) {
    let batches = vec![batch(base, 1, "x", None)];
    history.read(1, &tp(), None, LeaderEpoch(1), Offset(position), 0, mark, batches);
}

fn audit(seen: &[(i64, &str)], to: i64) -> Audit {
    let seen = seen.iter().map(|(base, value)| (*base, print_of(&batch(*base, 1, value, Some((7, *base as i32))))));
    Audit { from: 0, to, seen: seen.collect(), asked: 0, done: true }
}

fn audited(seen: &[(i64, &str)], to: i64) -> Result<(), Violation> {
    let mut oracle = oracle();
    *oracle.history.audit(&tp(), Some(key().0)) = audit(seen, to);
    judged(&mut oracle)
}

fn seen(term: u64, vote: NodeId, leads: bool, applied: u64) -> Seen {
    Seen { run: 1, term, vote: Some(vote), leads, applied }
}

fn quorum(first: (NodeId, Seen), second: (NodeId, Seen)) -> Result<(), Violation> {
    let mut quorum = Quorum::default();
    quorum.see(first.0, first.1)?;
    quorum.see(second.0, second.1).map(|_| ())
}

/// A leader with both records moves its watermark from one to two.
fn advance(told: i64, size: usize) -> Result<(), Violation> {
    let mut logs = Logs::default();
    let (ledger, replica) = logs.both(key(), &tp(), A);
    let all = [batch(0, 1, "x", None), batch(1, 1, "y", None)];
    let read = move |from: i64, to: i64| {
        all.iter().filter(|one| one.base_offset.0 >= from && one.base_offset.0 < to).copied().collect()
    };
    let marks = |mark| Marks { end: 2, high_watermark: mark, visible: mark, leads: Some(1), ..Marks::default() };
    let in_sync = |told, size| InSync { told: vec![(B, Some(told))], size, min: 2, changed: false };
    replica.booted(A, 1, &marks(1), &read, ledger)?;
    replica.changed(A, &marks(1), &read, ledger, &in_sync(2, 2), 0)?;
    replica.changed(A, &marks(2), &read, ledger, &in_sync(told, size), 0)
}

fn owners(second: &str) -> Result<(), Violation> {
    told(|history| {
        history.groups.synced("g", 1, "a", &[tp()], 0);
        history.groups.synced("g", 1, second, &[tp()], 1);
    })
}

fn commits(generation: i32, asked: i64) -> Result<(), Violation> {
    told(|history| {
        let groups = &mut history.groups;
        groups.synced("g", 1, "a", &[tp()], 0);
        for (offset, at) in [(5, 10), (6, 30)] {
            let number = groups.commit("g", 1, 1, vec![(tp(), Offset(offset))], at);
            groups.committed(number, |_| ErrorCode::None, at + 10);
        }
        groups.synced("g", 2, "b", &[tp()], 50);
        let number = groups.commit("g", 1, generation, vec![(tp(), Offset(6))], 60);
        groups.committed(number, |_| ErrorCode::None, 70);
        groups.fetched("g", &tp(), Offset(asked), 80, 90);
    })
}

/// A replica with two records, the first of which may have been missing at its start, says this next.
fn says(start: i64, next: &Marks) -> Result<(), Violation> {
    let mut logs = logs();
    let (ledger, replica) = logs.both(key(), &tp(), A);
    let all = [batch(0, 1, "x", Some((7, 0))), batch(1, 1, "y", Some((7, 1)))];
    let read = move |from: i64, to: i64| {
        all.iter().filter(|one| one.base_offset.0 >= from && one.base_offset.0 < to).copied().collect()
    };
    let none = InSync { told: Vec::new(), size: 0, min: 0, changed: true };
    let marks = Marks { start, end: 2, high_watermark: 2, visible: 2, ..Marks::default() };
    replica.booted(A, 1, &marks, &read, ledger)?;
    replica.changed(A, next, &read, ledger, &none, 0)
}

/// A log is found after a start that nobody has seen before.
fn found(log: &[chronik_model::batch::BatchHeader], before: i64) -> Result<(), Violation> {
    let mut logs = logs();
    let (ledger, replica) = logs.both(key(), &tp(), A);
    let seen = [batch(0, 1, "x", Some((7, 0))), batch(1, 1, "y", Some((7, 1)))];
    let marks = |end| Marks { end, ..Marks::default() };
    replica.booted(A, 1, &marks(before), &|_, to| seen.iter().take(to as usize).copied().collect(), ledger)?;
    replica.booted(A, 2, &marks(2), &|_, _| log.to_vec(), ledger)
}

/// B takes over in epoch 2 with so many records of two.
fn takes_over(end: i64) -> Result<(), Violation> {
    let mut logs = logs();
    let (ledger, replica) = logs.both(key(), &tp(), B);
    let all = [batch(0, 1, "x", Some((7, 0))), batch(1, 1, "y", Some((7, 1)))];
    let read = move |from: i64, to: i64| {
        all.iter().filter(|one| one.base_offset.0 >= from && one.base_offset.0 < to).copied().collect()
    };
    let none = InSync { told: Vec::new(), size: 0, min: 0, changed: true };
    let marks = Marks { end, ..Marks::default() };
    replica.booted(B, 1, &marks, &read, ledger)?;
    replica.changed(B, &Marks { leads: Some(2), ..marks }, &read, ledger, &none, 0)
}

/// A quorum of these voters and learners becomes one of those after this was asked.
fn members(
    asked: &[MembershipChange],
    before: (&[NodeId], &[NodeId]),
    after: (&[NodeId], &[NodeId]),
) -> Result<(), Violation> {
    let mut quorum = Quorum::default();
    quorum.members(A, 1, before.0, before.1)?;
    asked.iter().for_each(|change| quorum.wanted(*change));
    quorum.members(A, 2, after.0, after.1)
}

/// A partition that is refused records: three brokers, one of which left for good, though as many stay as are said to have
/// to be in sync. Where all three have to be, or are there, nothing is wrong.
fn settles(late: bool) -> Result<(), Violation> {
    if late { three(false, 1) } else { three(false, 10_000_000).and(three(true, 10_000_000)) }
}

/// Three brokers, the last of which left for good or did not, with a partition that needs them all, and so much time to recover.
fn three(left: bool, recovery: u64) -> Result<(), Violation> {
    let mut shape = Shape { topics: 1, min_insync: 3, recovery, ..Shape::calm(3) };
    shape.workload.idempotent_producers = 1;
    shape.workload.pause_ms = 500;
    let mut world = runner::build(&Plan { seed: 1, shape, steps: Vec::new() }, Detail::Hash);
    world.run_until(4_000_000)?;
    if left {
        world.budget.gone.insert(C);
    }
    runner::settle(&mut world, &[tp().topic])
}

/// Three brokers, the first of which reaches the others or does not, have ten seconds to be well.
fn gathers(apart: bool) -> Result<(), Violation> {
    let shape = Shape { recovery: 10_000_000, ..Shape::calm(3) };
    let mut world =
        World::new(1, Detail::Hash, Oracle::new(), Plan { seed: 1, shape: shape.clone(), steps: Vec::new() });
    for node in shape.founders() {
        world.add_host(runner::broker_config(&shape, node));
        world.kernel.after(1, Event::Boot(node));
    }
    if apart {
        for (one, other) in [(A, B), (B, A), (A, C), (C, A)] {
            world.cut(one, other);
        }
    }
    runner::wait(&mut world, shape.recovery, |world| crate::survey::complaints(world, &BTreeSet::new()))
}

/// The number of a rule, what its report says, and a history or state that has its flaw or not.
type Case = (u8, &'static str, fn(bool) -> Result<(), Violation>);

const CASES: &[Case] = &[
    (0, "look alike", |flaw| {
        told(|history| {
            history.send(sent("x"));
            history.send(sent(if flaw { "x" } else { "y" }));
        })
    }),
    (1, "lost write", |flaw| judge::acked(&logs(), &sent("x"), Offset(i64::from(flaw) * 2), Now)),
    (1, "lost write", |flaw| {
        let mut oracle = oracle();
        oracle.history.send(sent(if flaw { "never committed" } else { "x" }));
        judged(&mut oracle)
    }),
    (1, "was told that is out of range", |flaw| {
        let mut logs = logs();
        if !flaw {
            logs.both(key(), &tp(), A).0.cut(0, 0);
        }
        judge::lost(&logs, false, 1, &tp(), Offset(2), None, 0)
    }),
    (1, "and is not committed", |flaw| {
        judge::acked(&logs(), &sent(if flaw { "other" } else { "x" }), Offset(0), AtEnd)
    }),
    (1, "has nothing at 1", |flaw| {
        let held = [batch(0, 1, "x", Some((7, 0))), batch(1, 1, "y", Some((7, 1)))];
        let logs = logs();
        let ledger = logs.ledger(&key()).expect("made above");
        judge::complete(B, ledger, 0, &held[..2 - usize::from(flaw)])
    }),
    (1, "damaged records", |flaw| {
        told(|history| {
            if flaw {
                history.read_garbage(1, &tp(), Offset(0), "no magic");
            }
        })
    }),
    (1, "the auditor was not given", |flaw| {
        let all = [(0, "x"), (1, "y")];
        audited(&all[..2 - usize::from(flaw)], 2)
    }),
    (1, "the auditor was given", |flaw| audited(&[(0, "x"), (1, if flaw { "z" } else { "y" })], 2)),
    (1, "the auditor found the end at 1", |flaw| audited(&[(0, "x"), (1, "y")], 2 - i64::from(flaw))),
    (1, "the auditor found the end at 2", |flaw| {
        let mut oracle = oracle();
        let (ledger, _) = oracle.logs.both(key(), &tp(), A);
        ledger.commit(A, 1, &batch(2, 1, "z", Some((7, 2))), true, 5)?;
        let seen = audit(&[(0, "x"), (1, "y")], 2);
        *oracle.history.audit(&tp(), Some(key().0)) = Audit { asked: 4 + u64::from(flaw), ..seen };
        judged(&mut oracle)
    }),
    (1, "past in-sync b2", |flaw| advance(2 - i64::from(flaw), 2)),
    (1, "with 1 in sync where 2 are needed", |flaw| advance(2, 2 - usize::from(flaw))),
    (2, "both lead the quorum", |flaw| quorum((A, seen(4, A, true, 0)), (B, seen(5 - u64::from(flaw), B, true, 0)))),
    (2, "voted for", |flaw| quorum((A, seen(4, A, false, 0)), (A, seen(4, if flaw { B } else { A }, false, 0)))),
    (2, "the term of b1 goes back", |flaw| {
        quorum((A, seen(4, A, false, 0)), (A, seen(5 - 2 * u64::from(flaw), A, false, 0)))
    }),
    (2, "two leaders in epoch 1", |flaw| logs().both(key(), &tp(), A).0.lead(B, 2 - i32::from(flaw), 0)),
    (2, "the committed state goes back", |flaw| {
        let mut logs = Logs::default();
        changed(&mut logs, &state(3, A, &[A, B]))?;
        changed(&mut logs, &state(if flaw { 2 } else { 4 }, A, &[A, B]))
    }),
    (2, "another leader in the same epoch", |flaw| {
        let mut logs = Logs::default();
        changed(&mut logs, &state(3, A, &[A, B]))?;
        let mut next = state(4, B, &[A, B]);
        next.leader_epoch = LeaderEpoch(4 - i32::from(flaw));
        changed(&mut logs, &next)
    }),
    (3, "another replica had", |flaw| {
        let mut ledger = Ledger::new(tp(), true);
        ledger.note(A, &batch(0, 1, "x", None))?;
        ledger.note(B, &batch(0, 1, if flaw { "z" } else { "x" }, None)).map(|_| ())
    }),
    (3, "below its high watermark b2 has", |flaw| {
        let other = batch(0, 1, if flaw { "z" } else { "x" }, Some((7, 0)));
        logs().both(key(), &tp(), A).0.compare(B, &other)
    }),
    (3, "after epoch 1", |flaw| {
        let next = batch(2, 1 - i32::from(flaw), "z", None);
        logs().both(key(), &tp(), A).0.commit(A, 2, &next, true, 0)
    }),
    (3, "inconsistent offsets", |flaw| {
        let other = batch(0, 1, if flaw { "z" } else { "x" }, Some((7, 0)));
        judge::read(&logs(), |_| "it".to_owned(), 1, &tp(), &other)
    }),
    (4, "which was not committed", |flaw| {
        let base = if flaw { 2 } else { 0 };
        judge::read(&logs(), |_| "it".to_owned(), 1, &tp(), &batch(base, 1, "x", Some((7, 0))))
    }),
    (4, "above the high watermark", |flaw| told(|history| poll(history, 0, 1 - i64::from(flaw), 0))),
    (4, "and 5 before", |flaw| {
        told(|history| {
            poll(history, 0, 5, 0);
            poll(history, 1, 5 - i64::from(flaw), 1);
        })
    }),
    (5, "a poll skip", |flaw| told(|history| poll(history, 0, 9, i64::from(flaw)))),
    (5, "offsets are not dense", |flaw| {
        let next = batch(2 + i64::from(flaw), 1, "z", None);
        logs().both(key(), &tp(), A).0.commit(A, 1, &next, true, 0)
    }),
    (6, "again at offset 2", |flaw| {
        let next = batch(2, 1, "z", Some((7, 2 - i32::from(flaw))));
        logs().both(key(), &tp(), A).0.commit(A, 1, &next, true, 0)
    }),
    (6, "with a gap at offset 2", |flaw| {
        let next = batch(2, 1, "z", Some((7, 2 + i32::from(flaw))));
        logs().both(key(), &tp(), A).0.commit(A, 1, &next, true, 0)
    }),
    (8, "nobody asked for these replicas", |flaw| {
        let mut logs = Logs::default();
        changed(&mut logs, &state(1, A, &[A, B]))?;
        if !flaw {
            logs.assignment_wanted(key(), &[A, B]);
        }
        changed(&mut logs, &PartitionState { replicas: vec![A, B], ..state(2, A, &[A, B]) })
    }),
    (8, "is elected and lacks some", |flaw| {
        let mut logs = held();
        changed(&mut logs, &state(1, A, &[A]))?;
        changed(&mut logs, &state(2, if flaw { B } else { A }, &[A, B]))
    }),
    (9, "has two owners", |flaw| owners(if flaw { "b" } else { "a" })),
    (9, "for generation 1", |flaw| commits(2 - i32::from(flaw), 6)),
    (9, "says offset 5", |flaw| commits(2, 6 - i64::from(flaw))),
    (10, "applied 9 and then 8", |flaw| quorum((A, seen(4, A, false, 9)), (A, seen(4, A, false, 9 - u64::from(flaw))))),
    (10, "nobody asked for it", |flaw| {
        let mut logs = held();
        changed(&mut logs, &state(1, A, &[A, B, C]))?;
        logs.topics_are(|_| !flaw, |_| false, 0).map(|_| ())
    }),
    (11, "the log of b1 vanished", |flaw| {
        let mut logs = held();
        changed(&mut logs, &state(1, A, &[A, B, C]))?;
        if !flaw {
            logs.topics_are(|_| false, |_| true, 0)?;
        }
        logs.vanished(&key(), A, 9)
    }),
    (11, "it stopped in order, and ends at 1", |flaw| {
        let mut logs = Logs::default();
        let (ledger, replica) = logs.both(key(), &tp(), A);
        let all = [batch(0, 1, "x", None), batch(1, 1, "y", None)];
        let read = move |from: i64, to: i64| {
            all.iter().filter(|one| one.base_offset.0 >= from && one.base_offset.0 < to).copied().collect()
        };
        replica.booted(A, 1, &Marks { end: 2, ..Marks::default() }, &read, ledger)?;
        replica.ended = super::replica::Ended::Settled;
        replica.booted(A, 2, &Marks { end: 2 - i64::from(flaw), ..Marks::default() }, &read, ledger)
    }),
    (1, "leads epoch 2 and holds only 1 of 2", |flaw| takes_over(2 - i64::from(flaw))),
    (4, "the high watermark of b1 goes back", |flaw| {
        let high_watermark = 2 - i64::from(flaw);
        says(0, &Marks { end: 2, high_watermark, visible: high_watermark, ..Marks::default() })
    }),
    (5, "has log start 0, high watermark 3, log end 2", |flaw| {
        says(0, &Marks { end: 2, high_watermark: 2 + i64::from(flaw), visible: 2, ..Marks::default() })
    }),
    (5, "the log start of b1 goes back", |flaw| {
        says(i64::from(flaw), &Marks { end: 2, high_watermark: 2, visible: 2, ..Marks::default() })
    }),
    (5, "the log of b1 begins at 1, and nobody deleted", |flaw| {
        says(0, &Marks { start: i64::from(flaw), end: 2, high_watermark: 2, visible: 2, ..Marks::default() })
    }),
    (5, "goes on with 2 after 1", |flaw| {
        found(&[batch(0, 1, "x", Some((7, 0))), batch(1 + i64::from(flaw), 1, "y", Some((7, 1)))], 2)
    }),
    (11, "that nobody ever had there", |flaw| {
        let other = if flaw { batch(1, 2, "z", None) } else { batch(1, 1, "y", Some((7, 1))) };
        found(&[batch(0, 1, "x", Some((7, 0))), other], 2)
    }),
    (8, "nobody who may lead holds them", |flaw| {
        let mut logs = held();
        changed(&mut logs, &state(1, A, &[A]))?;
        let without = PartitionState { leader: None, ..state(2, A, &[if flaw { B } else { A }]) };
        changed(&mut logs, &without)
    }),
    (10, "have different members at index 1", |flaw| {
        let mut quorum = Quorum::default();
        quorum.members(A, 1, &[A, B], &[C])?;
        quorum.members(B, 1, if flaw { &[A, B, C] } else { &[A, B] }, if flaw { &[] } else { &[C] })
    }),
    (10, "nobody votes in the quorum", |flaw| {
        let asked = [MembershipChange::Demote(A)];
        members(&asked, (&[A, B], &[]), if flaw { (&[], &[A, B]) } else { (&[B], &[A]) })
    }),
    (10, "b2 is no member any more and nobody asked", |flaw| {
        members(&[MembershipChange::RemoveNode(B)][usize::from(flaw)..], (&[A, B], &[]), (&[A], &[]))
    }),
    (10, "b2 has no vote any more and nobody asked", |flaw| {
        members(&[MembershipChange::Demote(B)][usize::from(flaw)..], (&[A, B], &[]), (&[A], &[B]))
    }),
    (10, "b2 votes and nobody asked", |flaw| {
        members(&[MembershipChange::Promote(B)][usize::from(flaw)..], (&[A], &[B]), (&[A, B], &[]))
    }),
    (10, "which nobody assigned last", |flaw| {
        let mut racks = super::racks::Racks::default();
        racks.asked(1, A, Some("x".to_owned()), 1);
        racks.done(1, 2);
        racks.see(A, if flaw { None } else { Some("x") })
    }),
    (12, "3 is the bound", |flaw| bounded("things wait", 3 + usize::from(flaw), 3)),
    (13, "takes no record", settles),
    (13, "the last fault: b1 ", gathers),
];

#[test]
fn each_rule_reports_its_flaw_by_name_and_nothing_when_it_is_not_there() {
    let mut wrong = Vec::new();
    for (number, words, case) in CASES {
        match case(true) {
            Err(found) if found.invariant == *number && found.text.contains(words) => {}
            other => wrong.push(format!("invariant {number} ({words}) with its flaw: {other:?}")),
        }
        if let Err(found) = case(false) {
            wrong.push(format!("invariant {number} ({words}) without its flaw: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With three that have to be in sync one leaves for good, and the leader hands over while it has records above its watermark.
#[test]
fn what_nobody_can_read_to_its_end_is_read_to_its_watermark() {
    let mut shape = Shape { topics: 1, min_insync: 3, ..Shape::calm(3) };
    // The second does not wait for the others.
    shape.workload.plain_producers = 2;
    shape.workload.pause_ms = 100;
    let mut world = runner::build(&Plan { seed: 1, shape, steps: Vec::new() }, Detail::Hash);
    world.run_until(6_000_000).expect("all is well");
    let leader =
        crate::survey::partitions(&world).first().and_then(|known| known.state.leader).expect("it has a leader");
    let leaves = [A, B, C].into_iter().find(|node| *node != leader).expect("there are three");
    world.budget.gone.insert(leaves);
    world.kill(leaves);
    world.run_until(20_000_000).expect("it is refused records");
    world.kill(leader);
    world.run_until(21_000_000).expect("nobody decides");
    runner::settle(&mut world, &[tp().topic]).expect("it is as well as it can be");
    let known = crate::survey::partitions(&world).into_iter().find(|known| known.tp == tp()).expect("it is there");
    let most = crate::survey::shows_at_most(&world, &known, &world.budget.gone);
    let audit = world.oracle.history.audits.values().next().expect("it was read");
    assert_eq!((audit.done, Some(Offset(audit.to))), (false, most), "{:?}", known.state);
    assert!(audit.to > 0);
}
