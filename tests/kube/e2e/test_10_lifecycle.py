"""Scenarios 10 and 11: pause, stop, delete, and a converged cluster that nobody writes to."""

import time

import pytest
from support import wait
from support.ask import ask
from support.measure import idle_passes


def test_10_a_paused_cluster_is_left_alone_until_it_is_resumed(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster) as producing:
        cluster.patch(paused=True)
        cluster.wait(lambda s: s.get("phase") == "Paused", "Paused")
        before = {p["metadata"]["uid"] for p in cluster.pods()}
        cluster.patch(config={"log.retention.check.interval.ms": "60000"})
        cluster.wait(lambda s: s.get("observedGeneration") == cluster.get()["metadata"]["generation"], "the change to be seen")
        producing.wait_acks(500)
        assert {p["metadata"]["uid"] for p in cluster.pods()} == before
        cluster.patch(paused=False)
        cluster.wait_settled(3)
        assert not {p["metadata"]["uid"] for p in cluster.pods()} & before
        producing.wait_acks()


def test_10_a_stopped_cluster_starts_again_with_everything(cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster) as producing:
        cluster.patch(stopped=True)
        cluster.wait(lambda s: s.get("phase") == "Stopped", "Stopped")
        wait.until(lambda: not cluster.pods(), "no pods")
        cluster.patch(stopped=False)
        cluster.wait_settled(3)
        producing.wait_acks()


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_10_deleting_a_cluster_keeps_or_deletes_its_disks_as_asked(kube, cluster, policy):
    cluster.apply(storage={"size": "512Mi", "retention": {"whenDeleted": policy}})
    first = cluster.wait_settled(3)
    ask(kube, cluster.bootstrap(), "create", "kept", 3, 3)
    ask(kube, cluster.bootstrap(), "produce", "kept", 300, "k")
    kube.delete("ccl", cluster.namespace, "x")
    wait.until(lambda: not cluster.pods() and not kube.get("statefulset", namespace=cluster.namespace), "the children to be gone")
    if policy == "Delete":
        wait.until(lambda: not kube.get("pvc", namespace=cluster.namespace), "the claims to be gone")
        return
    assert len(kube.get("pvc", namespace=cluster.namespace)) == 3
    # A new object of the same name goes on with these disks.
    cluster.apply(storage={"size": "512Mi", "retention": {"whenDeleted": policy}})
    assert cluster.wait_settled(3)["clusterId"] == first["clusterId"]
    assert sorted(ask(kube, cluster.bootstrap(), "read", "kept")) == sorted(f"k-{n}" for n in range(300))


def test_10_deleting_the_namespace_ends_within_a_minute(kube, cluster):
    cluster.apply()
    cluster.wait_settled(3)
    begin = time.monotonic()
    kube.delete_namespace(cluster.namespace, 120)
    took = time.monotonic() - begin
    print(f"    gone after {took:.1f} s")
    assert took < 60


def test_11_a_converged_cluster_causes_no_write_in_a_hundred_passes(kube, cluster, operator):
    if kube.run is None:
        pytest.skip("the audit log of a cluster of yours is not read")
    cluster.apply()
    cluster.wait_settled(3)
    seen = idle_passes(kube, operator, cluster)
    print(f"    {seen.count} passes, {len(seen.writes)} writes, {seen.cpu_ms / seen.count:.2f} ms CPU each, questions and Lease included; a replica has {seen.resident_mib:.1f} MiB")
    assert seen.count >= 100
    assert seen.writes == [], f"{len(seen.writes)} writes, the first: {seen.writes[:5]}"
