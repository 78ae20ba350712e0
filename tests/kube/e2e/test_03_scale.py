"""Scenarios 3 and 4: size. Voters and partitions follow; what would lose data is held back and explained."""

from support import wait
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
    assert sorted(cluster.wait_settled(5)["quorum"]["voters"]) == [1, 2, 3, 4, 5]
    counts = wait.until(
        lambda: len(c := replicas_by_broker(kube, cluster, "load")) == 5 and max(c.values()) - min(c.values()) <= 1 and c,
        "partitions to be spread over five brokers", interval=1,
    )
    print(f"    replicas on five brokers: {counts}")
    producing.wait_acks()
    cluster.scale(3)
    assert sorted(cluster.wait_settled(3)["quorum"]["voters"]) == [1, 2, 3]
    assert set(replicas_by_broker(kube, cluster, "load")) == {1, 2, 3}
    assert [p["metadata"]["name"] for p in cluster.pods()] == ["x-0", "x-1", "x-2"]
    producing.wait_acks()


def test_03_voters_and_partitions_follow_from_three_to_five_to_three_and_to_five_again(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster, partitions=10) as producing:
        grow_and_shrink(kube, cluster, producing)
        # The retained disks of the removed brokers come back as those of new members.
        cluster.scale(5)
        cluster.wait_settled(5)
        producing.wait_acks()


def test_04_a_scale_down_that_would_lose_replicas_is_held_and_explained(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster, replication=3) as producing:
        cluster.scale(1)
        held = cluster.wait_blocked("ReplicationFactorTooHigh")
        print(f"    {held['message']}")
        assert "load" in held["message"], "the topic is named"


        def condition():
            found = cluster.condition("ScaleDownBlocked")
            return found.get("status") == "True" and found.get("reason") == "ReplicationFactorTooHigh"

        wait.until(condition, "the condition that says so")
        producing.wait_acks(400)
        assert cluster.get()["spec"]["replicas"] == 1, "the user's wish is never rewritten"
        assert len(cluster.pods()) == 3
        status = cluster.wait(lambda s: s.get("quorum") and s, "what the brokers say of their quorum")
        assert sorted(status["quorum"]["voters"]) == [1, 2, 3]
        wait.until(lambda: kube.events(cluster.namespace, kind="ChronikCluster", reason="ReplicationFactorTooHigh"), "an event that says so")

        # A broker that does not answer for a moment is another reason, and then the time is another.
        def shown():
            held = cluster.wait_blocked("ReplicationFactorTooHigh")
            row = kube.kubectl("get", "ccl", "x", "-n", cluster.namespace, "-o", "wide")
            described = kube.kubectl("describe", "ccl", "x", "-n", cluster.namespace)
            return (all(part in row for part in ("Blocked", "ScaleDown", "ReplicationFactorTooHigh"))
                    and held["since"] in described and held["message"].split(";")[0][:40] in described)

        wait.until(shown, "columns and `describe` to tell what blocks, and since when", interval=1)
        cluster.scale(3)
        cluster.wait_settled(3)
        producing.wait_acks()
