"""Clusters form in any order, survive restarts of each and of all, and grow without anybody's help."""

import contextlib
import itertools
import time

import pytest
from harness import history, kafka, raw, wait
from harness.cluster import Cluster


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3]))[::2])
def test_brokers_started_seconds_apart_in_any_order_form_one_cluster(tmp_path, order):
    with Cluster(tmp_path) as cluster:
        for node in order:
            cluster[node].start()
            time.sleep(1.5)  # the staggering is what is tested
        cluster.wait_ready()
        assert cluster.raft_leader() in order
        kafka.create_topic(cluster.bootstrap, "t", partitions=3)
        acked = kafka.produce(cluster.bootstrap, "t", [str(i) for i in range(30)])
        assert kafka.read_all(cluster.bootstrap, "t") == acked


def test_two_of_three_brokers_serve_when_one_never_comes(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster[1].start()
        cluster[3].start()
        cluster.wait_ready(1, 3)
        bootstrap = f"{cluster[1].kafka},{cluster[3].kafka}"
        kafka.create_topic(bootstrap, "t", partitions=2, replication=2)
        acked = kafka.produce(bootstrap, "t", ["a", "b", "c"])
        assert kafka.read_all(bootstrap, "t") == acked


def test_one_broker_of_three_is_alive_but_not_ready(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster[1].start()
        wait.until(lambda: cluster[1].http("/healthz")[0] == 200, "liveness")
        time.sleep(3)  # long enough for a wrong broker to elect itself
        code, body = cluster[1].http("/readyz")
        assert code == 503, body
        assert cluster[1].status()["raft"]["leader"] in (None, 0)


def test_a_single_broker_leads_itself(tmp_path):
    with Cluster(tmp_path, brokers=1) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", replication=1)
        acked = kafka.produce(cluster.bootstrap, "t", ["x"] * 10)
        cluster[1].kill()
        cluster[1].start()
        cluster.wait_ready()
        wait.until(lambda: kafka.read_all(cluster.bootstrap, "t") == acked, "the records after kill and restart")


def test_restart_of_each_broker_and_then_of_all_at_once_keeps_everything(cluster):
    kafka.create_topic(cluster.bootstrap, "t", partitions=4)
    acked = kafka.produce(cluster.bootstrap, "t", [f"0-{i}" for i in range(200)])
    for node in (1, 2, 3):
        assert cluster[node].stop() == 0
        cluster[node].start()
        cluster.wait_ready()
        kafka.full_isr(cluster.bootstrap, "t")
        acked |= kafka.produce(cluster.bootstrap, "t", [f"{node}-{i}" for i in range(50)])
    term = cluster[1].status()["raft"]["term"]
    cluster.kill_all()
    cluster.start().wait_ready()
    acked |= kafka.produce(cluster.bootstrap, "t", [f"all-{i}" for i in range(50)])
    history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))
    assert cluster[1].status()["raft"]["term"] >= term, "a restart forgot the term"
    for broker in cluster.running():
        assert broker.stop() == 0
    cluster.start().wait_ready()
    history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))


def test_after_all_were_gone_no_client_is_told_that_there_are_no_brokers(cluster):
    """From an empty list librdkafka learns to forget every broker it knows."""
    kafka.create_topic(cluster.bootstrap, "t")
    for _ in range(3):
        cluster.kill_all()
        cluster.start()
        told, deadline = {}, time.monotonic() + 120
        while {len(told.get(node, ())) for node in (1, 2, 3)} != {3}:
            assert time.monotonic() < deadline, told
            for broker in cluster.running():
                try:
                    with contextlib.closing(raw.Connection(broker.host, broker.kafka_port)) as connection:
                        told[broker.id] = connection.brokers()
                except OSError:
                    continue
                assert told[broker.id], f"broker {broker.id} says that there is none"
        cluster.wait_ready()


def test_a_fourth_broker_joins_as_a_learner_and_serves(cluster):
    broker = cluster.add(4)
    broker.start()
    cluster.wait_ready(4)
    raft = lambda: broker.status()["raft"]  # noqa: E731
    wait.until(lambda: sorted(raft()["voters"]) == [1, 2, 3] and 4 in raft()["learners"], "three voters and a learner")
    kafka.create_topic(cluster.bootstrap, "wide", partitions=4, replication=4)
    acked = kafka.produce(cluster.bootstrap, "wide", [str(i) for i in range(40)])
    assert kafka.read_all(broker.kafka, "wide") == acked
    broker.kill()
    broker.start()
    cluster.wait_ready(4)
    kafka.full_isr(cluster.bootstrap, "wide", 4)


def test_start_up_steps_are_shown_with_their_durations(cluster):
    steps = [step["name"] for step in cluster[2].status()["startup"]["steps"]]
    assert len(steps) >= 8, steps
    for broker in cluster.running():
        done = lambda b=broker: all(s["ms"] is not None for s in b.status()["startup"]["steps"])  # noqa: E731
        wait.until(done, f"every step of broker {broker.id} to have ended")
