"""Scenario 1: from nothing to a cluster that clients in pods and outside use."""

import time

from harness import wait
from support.ask import ask
from support.ccl import Cluster

CLIENT = "local.test/chronik-client:dev"


def client_pod(namespace, bootstrap):
    """A franz-go client that produces, reads back in order and ends with 0."""
    container = {"name": "client", "image": CLIENT, "imagePullPolicy": "IfNotPresent", "args": ["-bootstrap", bootstrap, "-topic", "from-a-pod", "-count", "2000"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": namespace}, "spec": {"restartPolicy": "Never", "containers": [container]}}


def test_01_a_cluster_is_ready_and_serves_clients_in_other_pods(kube, cluster, load):
    begin = time.monotonic()
    cluster.apply()
    cluster.wait(lambda s: any(c["type"] == "Ready" and c["status"] == "True" for c in s.get("conditions", [])), "Ready")
    print(f"    applied to Ready: {time.monotonic() - begin:.1f} s")
    status = cluster.wait_settled(3)
    assert sorted(status["quorum"]["voters"]) == [1, 2, 3]
    assert sorted(status["bootstrap"]["voters"]) == [1, 2, 3] and status["bootstrap"]["completedAt"]
    kube.apply(client_pod(cluster.namespace, cluster.bootstrap()))
    phase = wait.until(lambda: (p := kube.get("pod", "client", cluster.namespace)["status"]["phase"]) in ("Succeeded", "Failed") and p, "the client's pod to end", 120)
    assert phase == "Succeeded", kube.logs(cluster.namespace, "client")
    with load(cluster) as producing:
        producing.wait_acks()


def test_01_clients_outside_reach_every_broker_over_node_ports(kube, cluster):
    listeners = [{"name": "kafka", "port": 9092, "type": "internal"}, {"name": "outside", "port": 9094, "type": "nodeport"}]
    cluster.apply(listeners=listeners)
    cluster.wait_settled(3)
    found = cluster.wait(lambda s: next((li for li in s.get("listeners", []) if li["name"] == "outside" and li.get("bootstrapServers")), None), "addresses of the listener")
    bootstrap = found["bootstrapServers"]
    brokers = ask(kube, bootstrap, "brokers", outside=True)
    assert sorted(brokers) == ["1", "2", "3"], brokers
    assert set(brokers.values()) == set(found["addresses"]), "clients are told what the status says"
    ask(kube, bootstrap, "create", "outside", 3, 3, outside=True)
    assert ask(kube, bootstrap, "produce", "outside", 500, "o", outside=True) == 500
    assert len(ask(kube, bootstrap, "read", "outside", outside=True)) == 500


def test_01_the_columns_and_events_say_what_happened(kube, cluster):
    cluster.apply()
    cluster.wait_settled(3)
    header, row = kube.kubectl("get", "ccl", "x", "-n", cluster.namespace, "-o", "wide").splitlines()
    for column in ("NAME", "READY", "VOTERS", "LEADER", "PHASE"):
        assert column in header, header
    assert "True" in row and "Running" in row, row
    assert kube.events(cluster.namespace, kind="ChronikCluster", name="x"), "events tell the story"
    described = kube.kubectl("describe", "ccl", "x", "-n", cluster.namespace)
    print(header, row, described[-1500:], sep="\n")


def test_01_the_chart_proves_itself(kube, operator, cluster):
    """`helm test` produces and consumes."""
    cluster.apply()
    cluster.wait_settled(3)
    operator.install(crds=False, **{"test.bootstrap": cluster.bootstrap()})
    kube.helm("test", operator.release, "-n", operator.namespace, timeout=300)


def test_13_two_clusters_live_in_one_namespace(kube, operator, namespace, load):
    del operator
    one, two = Cluster(kube, namespace, "one"), Cluster(kube, namespace, "two")
    one.apply()
    two.apply()
    one.wait_settled(3, timeout=240)
    two.wait_settled(3, timeout=240)
    assert one.status()["clusterId"] != two.status()["clusterId"]
    with load(one, "first") as first, load(two, "second") as second:
        two.patch(config={"log.retention.ms": "3600000"})
        two.wait_settled(3, timeout=240)
        first.wait_acks()
        second.wait_acks()
        assert all(p["metadata"]["labels"]["chronik.io/cluster"] == "one" for p in one.pods())
    kube.kubectl("delete", "ccl", "two", "-n", namespace)
    wait.until(lambda: not two.pods(), "the pods of the second cluster to be gone", 120)
    assert len(one.pods()) == 3
    one.wait_settled(3)
