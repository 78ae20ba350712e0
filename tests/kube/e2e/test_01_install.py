"""Scenario 1: from nothing to a cluster that clients in pods and outside use."""

import re
import textwrap

from support import wait
from support.ask import ask
from support.ccl import Cluster
from support.measure import time_to_ready

CLIENT = "local.test/chronik-client:dev"


def client_pod(namespace, bootstrap):
    """A franz-go client that produces, reads back in order and ends with 0."""
    container = {"name": "client", "image": CLIENT, "imagePullPolicy": "IfNotPresent", "args": ["-bootstrap", bootstrap, "-topic", "from-a-pod", "-count", "2000"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": namespace}, "spec": {"restartPolicy": "Never", "containers": [container]}}


def test_01_a_cluster_is_ready_and_serves_clients_in_other_pods(kube, cluster, load):
    print(f"    applied to Ready: {time_to_ready(cluster):.1f} s")
    status = cluster.wait_settled(3)
    assert sorted(status["quorum"]["voters"]) == [1, 2, 3]
    assert sorted(status["bootstrap"]["voters"]) == [1, 2, 3] and status["bootstrap"]["completedAt"]
    kube.apply(client_pod(cluster.namespace, cluster.bootstrap()))
    phase = wait.until(lambda: (p := kube.get("pod", "client", cluster.namespace)["status"]["phase"]) in ("Succeeded", "Failed") and p, "the client's pod to end")
    assert phase == "Succeeded", kube.logs(cluster.namespace, "client")
    with load(cluster) as producing:
        producing.wait_acks()


def test_01_clients_outside_reach_every_broker_over_node_ports(kube, cluster):
    listeners = [{"name": "kafka", "port": 9092, "type": "internal"}, {"name": "outside", "port": 9094, "type": "nodeport"}]
    cluster.apply(listeners=listeners)
    cluster.wait_settled(3)

    def outside(status):
        return next((li for li in status.get("listeners", []) if li["name"] == "outside" and len(li["addresses"]) == 3), None)

    found = cluster.wait(outside, "addresses of the listener")
    bootstrap = found["bootstrapServers"]

    # They have them from a mounted file, which kubelet refreshes when it likes.
    def told():
        brokers = ask(kube, bootstrap, "brokers", outside=True)
        return sorted(brokers) == ["1", "2", "3"] and set(brokers.values()) == set(found["addresses"])

    wait.until(told, f"clients to be told what the status says: {found}", interval=1)
    ask(kube, bootstrap, "create", "outside", 3, 3, outside=True)
    assert ask(kube, bootstrap, "produce", "outside", 500, "o", outside=True) == 500
    assert len(ask(kube, bootstrap, "read", "outside", outside=True)) == 500


def test_01_the_columns_and_events_say_what_happened(kube, cluster):
    cluster.apply()
    cluster.wait_settled(3)
    expected = {"NAME": "x", "READY": "True", "REPLICAS": "3", "DESIRED": "3", "VOTERS": "[1,2,3]", "PHASE": "Running"}

    def shown():
        header, row = kube.kubectl("get", "ccl", "x", "-n", cluster.namespace).splitlines()
        columns = dict(zip(header.split(), row.split(), strict=True))
        return expected.items() <= columns.items() and columns["LEADER"] in ("1", "2", "3")

    wait.until(shown, f"columns {expected} and a leader")
    assert "BLOCKED BY" in kube.kubectl("get", "ccl", "x", "-n", cluster.namespace, "-o", "wide")
    described = kube.kubectl("describe", "ccl", "x", "-n", cluster.namespace)
    for part in ("Ready", "Quorum Healthy", "Bootstrap Servers", "Cluster Id", "Events:"):
        assert part.replace(" ", "") in described.replace(" ", ""), described
    told = {e["reason"] for e in kube.events(cluster.namespace, kind="ChronikCluster", name="x")}
    print(f"    events: {sorted(told)}")
    assert told and described.partition("Events:")[2].count("\n") > 2, "events tell the story, and `describe` shows them"


def test_01_what_the_chart_says_at_its_end_can_be_followed(kube, operator):
    """NOTES.txt: its first cluster is accepted as it stands there, and what it names exists."""
    notes = kube.helm("get", "notes", operator.release, "-n", operator.namespace)
    manifest = re.search(r"<<END\n(.*?)\n *END\n", notes, re.DOTALL)
    assert manifest, notes
    said = kube.kubectl("apply", "--dry-run=server", "-f", "-", stdin=textwrap.dedent(manifest.group(1)))
    assert "chronikcluster.chronik.io/events created" in said
    for deployment in re.findall(r"logs deploy/(\S+)", notes):
        assert kube.kubectl("logs", f"deploy/{deployment}", "-n", operator.namespace)
    assert "describe ccl events" in notes and "logs deploy/" in notes, notes


def test_01_the_chart_proves_itself(kube, operator, cluster):
    """`helm test` produces and consumes."""
    cluster.apply()
    cluster.wait_settled(3)
    operator.install(crds=False, **{"test.bootstrap": cluster.bootstrap()})
    kube.helm("test", operator.release, "-n", operator.namespace)


def test_13_two_clusters_live_in_one_namespace(kube, operator, namespace, load):
    del operator
    one, two = Cluster(kube, namespace, "one"), Cluster(kube, namespace, "two")
    one.apply()
    two.apply()
    one.wait_settled(3)
    two.wait_settled(3)
    assert one.status()["clusterId"] != two.status()["clusterId"]
    with load(one, "first") as first, load(two, "second") as second:
        two.patch(config={"log.retention.check.interval.ms": "60000"})
        two.wait_settled(3)
        first.wait_acks()
        second.wait_acks()
        assert all(p["metadata"]["labels"]["chronik.io/cluster"] == "one" for p in one.pods())
    kube.delete("ccl", namespace, "two")
    wait.until(lambda: not two.pods(), "the pods of the second cluster to be gone")
    assert len(one.pods()) == 3
    one.wait_settled(3)
