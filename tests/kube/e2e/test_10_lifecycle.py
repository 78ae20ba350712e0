"""Scenarios 10 and 11: pause, stop, delete, and a converged cluster that nobody writes to."""

import time

import pytest
from harness import wait
from support.ask import ask


def test_10_a_paused_cluster_is_left_alone_until_it_is_resumed(kube, cluster, load):
    cluster.apply()
    cluster.wait_settled(3)
    with load(cluster) as producing:
        cluster.patch(paused=True)
        cluster.wait(lambda s: s.get("phase") == "Paused", "Paused")
        before = {p["metadata"]["uid"] for p in cluster.pods()}
        cluster.patch(config={"log.retention.ms": "7200000"})
        cluster.wait(lambda s: s.get("observedGeneration") == cluster.get()["metadata"]["generation"], "the change to be seen")
        producing.wait_acks(500)
        assert {p["metadata"]["uid"] for p in cluster.pods()} == before
        cluster.patch(paused=False)
        cluster.wait_settled(3, timeout=300)
        assert not {p["metadata"]["uid"] for p in cluster.pods()} & before
        producing.wait_acks()


def test_10_a_stopped_cluster_starts_again_with_everything(kube, cluster):
    cluster.apply()
    cluster.wait_settled(3)
    ask(kube, cluster.bootstrap(), "create", "kept", 3, 3)
    ask(kube, cluster.bootstrap(), "produce", "kept", 300, "k")
    cluster.patch(stopped=True)
    cluster.wait(lambda s: s.get("phase") == "Stopped", "Stopped", 180)
    wait.until(lambda: not cluster.pods(), "no pods", 120)
    cluster.patch(stopped=False)
    cluster.wait_settled(3)
    assert len(ask(kube, cluster.bootstrap(), "read", "kept")) == 300


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_10_deleting_a_cluster_keeps_or_deletes_its_disks_as_asked(kube, cluster, policy):
    cluster.apply(storage={"size": "512Mi", "retention": {"whenDeleted": policy}})
    cluster.wait_settled(3)
    kube.kubectl("delete", "ccl", "x", "-n", cluster.namespace, "--timeout=90s")
    wait.until(lambda: not cluster.pods() and not kube.get("statefulset", namespace=cluster.namespace), "the children to be gone", 120)
    if policy == "Delete":
        wait.until(lambda: not kube.get("pvc", namespace=cluster.namespace), "the claims to be gone", 120)
    else:
        assert len(kube.get("pvc", namespace=cluster.namespace)) == 3


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
    # What still settles (leaders that move back) settles now.
    wait.until(lambda: quiet(kube, operator, 3), "the operator to have nothing left to write", 120)
    before, passes = kube.writes(operator.user), operator.passes()
    assert len(before) > 5, "the audit log does count the operator's writes"
    for number in range(100):
        # An annotation that means nothing wakes the operator; the pass is awaited, so that none is merged with the next.
        kube.kubectl("annotate", "ccl", "x", "-n", cluster.namespace, f"tests.chronik.io/pass={number}", "--overwrite")
        wait.until(lambda n=number: operator.passes() > passes + n, f"pass {number + 1}", 30)
    new = kube.writes(operator.user)[len(before):]
    resident = operator.metric("process_resident_memory_bytes") / len(operator.pods()) / 2**20
    print(f"    {operator.passes() - passes:.0f} passes, {len(new)} writes; each replica of the operator has {resident:.1f} MiB")
    assert new == [], f"{len(new)} writes, the first: {new[:5]}"


def quiet(kube, operator, seconds):
    before = len(kube.writes(operator.user))
    time.sleep(seconds)
    return len(kube.writes(operator.user)) == before
