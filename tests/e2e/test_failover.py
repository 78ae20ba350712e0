"""Brokers die, freeze and lose their disks while real clients produce; no acknowledged record is lost."""

import os
import random
import time

import pytest
from harness import history, kafka, wait

ROUNDS = int(os.environ.get("CHRONIK_CHAOS_ROUNDS", "20"))


def leader_of(cluster, topic, partition=0):
    def known():
        leader = kafka.describe(cluster.bootstrap, topic)[partition].leader
        return leader if leader > 0 else None

    return wait.until(known, f"a leader of {topic}-{partition}")


def settle_and_check(cluster, topic, partitions, acked, compare=True):
    """All replicas in sync again, all acked records readable, all replicas identical."""
    kafka.full_isr(cluster.bootstrap, topic)
    records = kafka.read_all(cluster.bootstrap, topic, least=len(acked))
    history.check_nothing_lost(acked, records)
    if compare:
        for broker in cluster.running():
            broker.stop()
        assert history.check_replicas_identical(cluster, topic, range(partitions)) >= len(acked)
    return records


def chaos(cluster, rounds, seed, topic="chaos", partitions=3, **config):
    """Kills the leader of a random partition mid-stream, `rounds` times, then checks everything."""
    rng = random.Random(seed)
    print(f"chaos seed {seed}")
    kafka.create_topic(cluster.bootstrap, topic, partitions=partitions)
    load = history.Workload(cluster.bootstrap, topic, **config)
    load.start()
    load.wait_acks(100)
    for _ in range(rounds):
        victim = cluster[leader_of(cluster, topic, rng.randrange(partitions))]
        victim.kill()
        load.wait_acks(60)
        if rng.random() < 0.3:
            time.sleep(rng.random())
        victim.start()
        cluster.wait_ready(victim.id)
        kafka.full_isr(cluster.bootstrap, topic)
        load.wait_acks(30)
    acked = load.finish()
    print(f"{len(acked)} acknowledged, {len(load.failed)} unknown, longest gap {load.longest_gap:.2f} s")
    return settle_and_check(cluster, topic, partitions, acked), load


def test_chaos_twenty_leader_kills_lose_no_acknowledged_record(cluster):
    chaos(cluster, ROUNDS, seed=random.randrange(1 << 30))


def test_idempotent_producer_across_failovers_has_no_duplicates_and_no_gaps(cluster):
    records, load = chaos(cluster, 5, seed=random.randrange(1 << 30), **{"enable.idempotence": True})
    history.check_no_duplicates(records)
    history.check_order(records)
    assert len(records) == load.sent, f"{load.sent} sent, {len(records)} in the log"


def test_controller_that_leads_the_partitions_too_is_killed(cluster):
    kafka.create_topic(cluster.bootstrap, "t", partitions=6)
    load = history.Workload(cluster.bootstrap, "t")
    load.start()
    load.wait_acks()
    for _ in range(3):
        controller = cluster[cluster.raft_leader()]
        controller.kill()
        load.wait_acks()
        controller.start()
        cluster.wait_ready(controller.id)
        kafka.full_isr(cluster.bootstrap, "t")
    settle_and_check(cluster, "t", 6, load.finish())


def test_what_only_the_leader_holds_was_never_acknowledged(cluster):
    kafka.create_topic(cluster.bootstrap, "t", partitions=1)
    load = history.Workload(cluster.bootstrap, "t")
    load.start()
    for _ in range(3):
        load.wait_acks(100)
        leader = leader_of(cluster, "t")
        followers = [b for b in cluster.running() if b.id != leader]
        # The followers cannot copy anything, the leader goes on appending, and then dies with what only it holds.
        for broker in followers:
            broker.pause()
        time.sleep(0.8)
        cluster[leader].kill()
        for broker in followers:
            broker.resume()
        load.wait_acks(100)
        cluster[leader].start()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "t")
    settle_and_check(cluster, "t", 1, load.finish())


def test_sigterm_moves_leaders_without_one_failed_send(cluster):
    kafka.create_topic(cluster.bootstrap, "t", partitions=6)
    load = history.Workload(cluster.bootstrap, "t", retries=1000)
    load.start()
    load.wait_acks()
    for node in (1, 2, 3):
        assert cluster[node].stop() == 0
        load.wait_acks()
        cluster[node].start()
        cluster.wait_ready(node)
        kafka.full_isr(cluster.bootstrap, "t")
    acked = load.finish()
    assert load.failed == [], load.failed[:3]
    settle_and_check(cluster, "t", 6, acked)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_frozen_process_is_passed_over_and_comes_back(cluster, role):
    kafka.create_topic(cluster.bootstrap, "t", partitions=1)
    load = history.Workload(cluster.bootstrap, "t")
    load.start()
    load.wait_acks()
    leader = leader_of(cluster, "t")
    victim = cluster[leader if role == "leader" else leader % 3 + 1]
    victim.pause()
    try:
        load.wait_acks(100)
    finally:
        victim.resume()
    load.wait_acks()
    settle_and_check(cluster, "t", 1, load.finish())


def test_a_wiped_follower_is_filled_again(cluster):
    kafka.create_topic(cluster.bootstrap, "t", partitions=2)
    acked = kafka.produce(cluster.bootstrap, "t", [str(i) * 100 for i in range(2000)])
    victim = cluster[leader_of(cluster, "t") % 3 + 1]
    victim.kill()
    # The Raft voter keeps its vote; it is the log directory whose disk was replaced.
    import shutil

    shutil.rmtree(victim.data / "data")
    victim.start()
    cluster.wait_ready()
    acked |= kafka.produce(cluster.bootstrap, "t", ["after"] * 100)
    settle_and_check(cluster, "t", 2, acked)


def test_all_brokers_killed_at_once_come_back_with_everything(cluster):
    kafka.create_topic(cluster.bootstrap, "t", partitions=4)
    load = history.Workload(cluster.bootstrap, "t")
    load.start()
    for _ in range(3):
        load.wait_acks()
        cluster.kill_all()
        cluster.start().wait_ready()
    load.wait_acks()
    settle_and_check(cluster, "t", 4, load.finish())


def test_committed_offsets_survive_the_coordinators_death(cluster):
    from confluent_kafka import Consumer, TopicPartition

    kafka.create_topic(cluster.bootstrap, "t", partitions=3)
    config = {"bootstrap.servers": cluster.bootstrap, "group.id": "g", "enable.auto.commit": False}
    consumer = Consumer(config)
    offsets = [TopicPartition("t", p, 40 + p) for p in range(3)]
    wait.until(lambda: consumer.commit(offsets=offsets, asynchronous=False), "the commit")
    consumer.close()
    for node in (1, 2, 3):
        cluster[node].kill()
        consumer = Consumer(config)
        wanted = [TopicPartition("t", p) for p in range(3)]
        read = wait.until(lambda c=consumer, w=wanted: c.committed(w, timeout=30), "committed offsets")
        assert [p.offset for p in read] == [40, 41, 42], f"with broker {node} dead: {read}"
        consumer.close()
        cluster[node].start()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "__consumer_offsets")
