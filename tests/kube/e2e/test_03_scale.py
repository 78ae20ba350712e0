"""Scenarios 3, 4 and 6: size. Voters and partitions follow; what would lose data is held back and explained."""

import random
import threading

import pytest
from harness import wait
from support.ask import ask


def replicas_by_broker(kube, cluster, topic):
    """How many replicas of the topic each broker holds."""
    counts = {}
    for partition in ask(kube, cluster.bootstrap(), "describe", topic).values():
        for broker in partition["replicas"]:
            counts[broker] = counts.get(broker, 0) + 1
    return counts


def grow_and_shrink(kube, cluster, producing):
    cluster.scale(5)
    cluster.wait_settled(5, timeout=400)
    assert sorted(cluster.status()["quorum"]["voters"]) == [1, 2, 3, 4, 5]
    counts = wait.until(
        lambda: len(c := replicas_by_broker(kube, cluster, "load")) == 5 and max(c.values()) - min(c.values()) <= 1 and c,
        "partitions to be spread over five brokers", 300, 1,
    )
    print(f"    replicas on five brokers: {counts}")
    producing.wait_acks()
    cluster.scale(3)
    cluster.wait_settled(3, timeout=600)
    assert sorted(cluster.status()["quorum"]["voters"]) == [1, 2, 3]
    assert set(replicas_by_broker(kube, cluster, "load")) == {1, 2, 3}
    assert [p["metadata"]["name"] for p in cluster.pods()] == ["x-0", "x-1", "x-2"]
    producing.wait_acks()


@pytest.mark.timeout(1500)
def test_03_voters_and_partitions_follow_from_three_to_five_to_three_and_to_five_again(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster, partitions=10) as producing:
        grow_and_shrink(kube, cluster, producing)
        # The retained disks of the removed brokers come back as those of new members.
        cluster.scale(5)
        cluster.wait_settled(5, timeout=400)
        producing.wait_acks()


@pytest.mark.timeout(1500)
def test_06_the_operator_dies_at_random_moments_while_the_size_changes(kube, cluster, operator, load):
    seed = random.randrange(1 << 32)
    print(f"    seed {seed}")
    chance, done = random.Random(seed), threading.Event()

    def killer():
        while not done.wait(chance.uniform(0.3, 6)):
            operator.kill()

    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster, partitions=8) as producing:
        thread = threading.Thread(target=killer, daemon=True)
        cluster.scale(5)
        thread.start()
        try:
            # A crash-looping pod is started again ever later; what matters is that each life starts from what is there.
            cluster.wait(lambda s: s.get("replicas") == 5, "five pods", 600)
        finally:
            done.set()
            thread.join(30)
        operator.restart()
        cluster.wait_settled(5, timeout=600)
        producing.wait_acks()
        cluster.scale(3)
        for _ in range(3):
            operator.restart(now=True)
        cluster.wait_settled(3, timeout=600)
        producing.wait_acks()


def test_06_an_upgrade_of_the_operator_restarts_no_broker(kube, cluster, operator, load):
    cluster.apply()
    cluster.wait_settled(3)
    before = {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.pods()}
    with load(cluster) as producing:
        operator.restart()
        cluster.wait_settled(3)
        producing.wait_acks()
    assert {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.pods()} == before


def test_04_a_scale_down_that_would_lose_replicas_is_held_and_explained(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster, replication=3) as producing:
        cluster.scale(1)
        held = cluster.wait_blocked("ReplicationFactorTooHigh", 180)
        print(f"    {held['message']}")
        assert "load" in held["message"], "the topic is named"
        condition = cluster.condition("ScaleDownBlocked")
        assert condition.get("status") == "True" and condition.get("reason") == "ReplicationFactorTooHigh", condition
        producing.wait_acks(400)
        assert cluster.get()["spec"]["replicas"] == 1, "the user's wish is never rewritten"
        assert len(cluster.pods()) == 3 and sorted(cluster.status()["quorum"]["voters"]) == [1, 2, 3]
        assert kube.events(cluster.namespace, kind="ChronikCluster", reason="ReplicationFactorTooHigh")
        cluster.scale(3)
        cluster.wait_settled(3)
        producing.wait_acks()
