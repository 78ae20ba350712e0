"""Scenario 12: an operator that may do nothing outside of one namespace manages clusters there like any other."""

import json

import pytest
from support import wait
from support.ccl import Cluster
from support.load import Load
from support.release import Operator


@pytest.fixture
def confined(kube, operator):
    """A second operator in a namespace of its own, without any ClusterRole; the first one is scaled away meanwhile."""
    name = operator.deployment()["metadata"]["name"]
    replicas = operator.deployment()["spec"]["replicas"]
    kube.kubectl("scale", f"deployment/{name}", "-n", operator.namespace, "--replicas=0")
    namespace = kube.namespace("t-confined")
    confined = Operator(kube, namespace, "confined", **{"watch.namespaced": "true"})
    try:
        yield confined.install(crds=False)
    finally:
        try:
            confined.forbid_nodes()
            kube.delete_namespace(namespace)
        finally:
            # Whatever happened here, the other tests need the first one.
            kube.kubectl("scale", f"deployment/{name}", "-n", operator.namespace, f"--replicas={replicas}")
            operator.wait_ready()


def test_12_everything_works_with_roles_of_one_namespace(kube, confined, tmp_path):
    bindings = json.loads(kube.kubectl("get", "clusterrolebindings", "-o", "json"))["items"]
    mine = [b["metadata"]["name"] for b in bindings if any(s.get("namespace") == confined.namespace for s in b.get("subjects") or [])]
    assert not mine, f"no rights in the whole cluster: {mine}"
    cluster = Cluster(kube, confined.namespace)
    cluster.apply(storage={"size": "512Mi"})
    cluster.wait_settled(3)
    # Every node has this label, and nobody may read it: that is said and keeps nothing else from being done.
    cluster.patch(rack={"topologyKey": "kubernetes.io/hostname"})
    cluster.wait(lambda _: cluster.condition("RacksAssigned").get("reason") == "NodesForbidden", "racks that nobody can assign")
    wait.until(lambda: kube.events(confined.namespace, kind="ChronikCluster", reason="RacksNodesForbidden"), "an event that says so")
    with Load(kube, tmp_path, cluster.bootstrap(), replication=3) as producing:
        cluster.patch(config={"log.retention.check.interval.ms": "60000"})
        cluster.wait_settled(3)
        cluster.scale(4)
        cluster.wait_settled(4, voters=3)
        cluster.scale(3)
        cluster.wait_settled(3)
        cluster.patch(storage={"size": "1Gi"})
        cluster.wait(lambda s: (s.get("storage") or {}).get("actual") == "1Gi", "grown disks")
        kube.delete("pods", confined.namespace, selector=cluster.selector)
        cluster.wait_settled(3)
        producing.wait_acks()
        # What the manual tells an administrator to do; the brokers have their racks a minute later.
        confined.permit_nodes()
        cluster.scale(1)
        cluster.wait_blocked("ReplicationFactorTooHigh")
        cluster.scale(3)
        cluster.wait_settled(3)
        producing.wait_acks()
    cluster.wait(lambda _: cluster.condition("RacksAssigned").get("status") == "True", "racks that the operator may assign now")
    cluster.patch(stopped=True)
    cluster.wait(lambda s: s.get("phase") == "Stopped", "Stopped")
    wait.until(lambda: not cluster.pods(), "no pods")
    cluster.patch(stopped=False)
    cluster.wait_settled(3)
    kube.delete("ccl", confined.namespace, "x")
    wait.until(lambda: not cluster.pods() and not kube.get("statefulset", namespace=confined.namespace), "the children to be gone")
    # That of the broker that was scaled away, too.
    assert len(kube.get("pvc", namespace=confined.namespace)) == 4, "the disks are left"
