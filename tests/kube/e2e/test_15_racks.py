"""Racks: brokers are told the zone of the node that they run on, clients see it, replicas keep apart, and nobody is restarted for it."""

import itertools

import pytest
from support import wait
from support.ask import ask
from support.ccl import APART

# Nobody's but this test's: what schedules pods or knows a node again by its labels does not notice.
LABEL = "tests.chronik.io/rack"


@pytest.fixture
def labels(kube, operator):
    """`labels(node, rack)`: gives a node the label, or takes it away with None. At the end no node has it."""
    confined = "watch.namespaced" in operator.kept
    if confined:
        operator.permit_nodes()

    def label(node, rack):
        kube.kubectl("label", "node", node, f"{LABEL}={rack}" if rack else f"{LABEL}-", "--overwrite")

    yield label
    kube.kubectl("label", "nodes", "--all", f"{LABEL}-")
    if confined:
        operator.forbid_nodes()


def nodes(cluster):
    """The node of each broker, by its id."""
    return {int(p["metadata"]["name"].rpartition("-")[2]) + 1: p["spec"]["nodeName"] for p in cluster.pods()}


def uids(cluster):
    return {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.pods()}


def racks(kube, cluster):
    """What a Kafka client is told."""
    return {int(broker): rack for broker, rack in ask(kube, cluster.bootstrap(), "racks").items()}


def placed(kube, cluster, topic, zones):
    """Racks of the replicas of each partition, when broker n is in rack zones[n]."""
    return [{zones[broker] for broker in partition["replicas"]} for partition in ask(kube, cluster.bootstrap(), "describe", topic).values()]


def wait_racks(kube, cluster, wanted):
    wait.until(lambda: racks(kube, cluster) == wanted, f"clients to be told {wanted}", interval=1)


def test_15_brokers_have_the_racks_of_their_nodes_and_nobody_is_restarted_for_it(kube, cluster, labels, load):
    cluster.apply(topologySpreadConstraints=[APART])
    cluster.wait_settled(3)
    at, before = nodes(cluster), uids(cluster)
    if len(set(at.values())) < 2:
        pytest.skip("brokers of a cluster of yours can run on one node only")
    rack_of = dict(zip(dict.fromkeys([*at.values(), *(n["metadata"]["name"] for n in kube.get("nodes"))]), itertools.cycle("ab")))
    zones = {broker: rack_of[node] for broker, node in at.items()}
    # Of three brokers two are in one rack, and nobody knows yet: their topic has all its replicas there.
    crowded = next(rack for rack in "ab" if list(zones.values()).count(rack) > 1)
    pair = [broker for broker, rack in zones.items() if rack == crowded][:2]
    ask(kube, cluster.bootstrap(), "place", "load", *[",".join(map(str, pair))] * 4)

    late = next(node for node in at.values() if rack_of[node] != crowded)
    for node in rack_of.keys() - {late}:
        labels(node, rack_of[node])
    with load(cluster, create=False) as producing:
        # A node without the label is named; the others have their racks all the same.
        cluster.patch(rack={"topologyKey": LABEL})
        missing = cluster.wait(lambda _: (c := cluster.condition("RacksAssigned")).get("reason") == "LabelMissing" and c, "the node without the label to be named")
        assert missing["status"] == "False" and late in missing["message"] and LABEL in missing["message"], missing
        wait.until(lambda: kube.events(cluster.namespace, kind="ChronikCluster", reason="RacksLabelMissing"), "an event that says so")
        wait_racks(kube, cluster, {broker: None if at[broker] == late else rack for broker, rack in zones.items()})
        # Labels are read again after a minute.
        labels(late, rack_of[late])
        cluster.wait(lambda _: cluster.condition("RacksAssigned").get("status") == "True", "all racks to be assigned")
        wait_racks(kube, cluster, zones)

        # New partitions spread; those that exist stay until replicas move for another reason, as to a new broker.
        ask(kube, cluster.bootstrap(), "create", "spread", 12, 2)
        assert placed(kube, cluster, "spread", zones) == [{"a", "b"}] * 12
        assert placed(kube, cluster, "load", zones) == [{crowded}] * 4
        cluster.scale(4)
        cluster.wait_settled(4, voters=3)
        zones = {broker: rack_of[node] for broker, node in nodes(cluster).items()}
        wait_racks(kube, cluster, zones)
        for topic, partitions in (("spread", 12), ("load", 4)):
            wait.until(lambda t=topic, p=partitions: placed(kube, cluster, t, zones) == [{"a", "b"}] * p, f"the replicas of {topic} in both racks", interval=1)
        producing.wait_acks()

        cluster.patch(rack=None)
        wait_racks(kube, cluster, dict.fromkeys(zones))
        cluster.wait(lambda _: not cluster.condition("RacksAssigned"), "nothing to be said about racks any more")
        cluster.wait_settled(4, voters=3)
        producing.wait_acks()
    assert before.items() <= uids(cluster).items(), "no pod was made anew"
    restarts = {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"] for p in cluster.pods()}
    assert set(restarts.values()) == {0}, restarts
