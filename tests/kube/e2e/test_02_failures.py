"""Scenarios 2 and 7: pods, processes and nodes that go away by themselves. The operator has nothing to decide, and must not."""

import json

import pytest
from support import wait
from support.ask import ask
from support.ccl import APART
from support.kube import BUSY, Refused


@pytest.fixture
def three(cluster):
    cluster.apply()
    cluster.wait_settled(3)
    return cluster


def identities(status):
    return {n["id"]: n.get("identity") for n in status.get("nodes", [])}


def voters(status):
    """None while nobody answers."""
    return sorted((status.get("quorum") or {}).get("voters", [])) or None


def wait_back(kube, cluster):
    """The pods themselves are ready; the status may be older than what was just done to them."""
    kube.wait_ready(cluster.namespace, cluster.selector, 3)
    return cluster.wait_settled(3)


def test_02_a_deleted_pod_comes_back_with_its_identity(kube, three, load):
    before = identities(three.status())
    with load(three) as producing:
        kube.delete("pods", three.namespace, "x-1")
        status = wait_back(kube, three)
        producing.wait_acks()
    assert identities(status) == before and all(before.values())
    assert voters(status) == [1, 2, 3], "membership does not follow pods"


def test_02_all_pods_deleted_at_once_come_back_with_every_record(kube, three, load):
    before = three.status()["clusterId"]
    with load(three) as producing:
        kube.delete("pods", three.namespace, selector=three.selector)
        wait_back(kube, three)
        producing.wait_acks()
    assert three.status()["clusterId"] == before


def test_02_a_drain_waits_until_replicas_are_in_sync_again(kube, three, load):
    """The budget for evictions is 0 from when a broker goes until everything is in sync, which is later than Ready."""

    def budget():
        """How often it was changed, and what it is."""
        found = kube.get("pdb", "x", three.namespace)
        return found["metadata"]["generation"], found["spec"]["maxUnavailable"]

    def evict(pod):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": three.namespace}}
        try:
            kube.kubectl("create", "--raw", f"/api/v1/namespaces/{three.namespace}/pods/{pod}/eviction", "-f", "-", stdin=json.dumps(body))
        except Refused as error:
            assert any(sign in error.text for sign in ("disruption budget", *BUSY)), error.text
            return False
        return True

    with load(three) as producing:
        for pod in ("x-0", "x-1", "x-2"):
            old = kube.get("pod", pod, three.namespace)["metadata"]["uid"]
            wait.until(lambda: budget()[1] == 1, "the budget when all is well")
            before = budget()[0]
            wait.until(lambda pod=pod: evict(pod), f"{pod} to be evicted")
            in_sync = ask(kube, three.bootstrap(), "describe", "load")
            assert all(len(p["isr"]) >= 2 for p in in_sync.values()), f"a broker was evicted while replicas were behind: {in_sync}"
            # From 1 to 0, and back: whoever looks too late sees that it was changed.
            wait.until(lambda before=before: budget()[0] > before, "a budget of 0 while a broker is away")
            wait.until(lambda pod=pod, old=old: (kube.get("pod", pod, three.namespace) or {"metadata": {}})["metadata"].get("uid", old) != old, f"another {pod}")
            wait.until(lambda before=before: budget()[0] > before + 1 and budget()[1] == 1, "the budget when all is well")
            in_sync = ask(kube, three.bootstrap(), "describe", "load")
            assert all(len(p["isr"]) == 3 for p in in_sync.values()), f"the budget came back while replicas were behind: {in_sync}"
        wait_back(kube, three)
        producing.wait_acks()


def test_02_a_killed_process_is_started_again(kube, three, load):
    with load(three) as producing:
        for ordinal in range(3):
            name = f"x-{ordinal}"
            restarts = kube.get("pod", name, three.namespace)["status"]["containerStatuses"][0]["restartCount"]
            kube.kill_container(three.namespace, name)

            def again(name=name, restarts=restarts):
                return kube.get("pod", name, three.namespace)["status"]["containerStatuses"][0]["restartCount"] > restarts

            wait.until(again, f"{name} to be started again")
            wait_back(kube, three)
            producing.wait_acks()


def test_07_a_lost_node_costs_no_record_and_no_member(kube, cluster, load):
    if kube.run is None:
        pytest.skip("links of a cluster of yours are not cut")
    three = cluster.apply(topologySpreadConstraints=[APART])
    three.wait_settled(3)
    on_two = [p["metadata"]["name"] for p in three.pods() if p["spec"]["nodeName"] == "node-2"]
    assert len(on_two) in (1, 2), "brokers are spread over both nodes"
    with load(three) as producing:
        kube.link(up=False)
        try:
            # With two of three away nobody has a quorum: the third one must not claim to be ready.
            left = 2 if len(on_two) == 1 else 0
            three.wait(lambda s: s.get("readyReplicas") == left, "the lost brokers to be noticed")
            assert three.get()["spec"]["replicas"] == 3
            assert three.wait(voters, "what the brokers say of their quorum") == [1, 2, 3], "nobody is removed because a node is away"
            if len(on_two) == 1:
                producing.wait_acks()
        finally:
            kube.link(up=True)
        assert voters(wait_back(kube, three)) == [1, 2, 3]
        producing.wait_acks()
