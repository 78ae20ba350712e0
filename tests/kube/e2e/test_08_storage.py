"""Scenario 8: disks grow while they are used, and a full one is cured by growing it alone."""

import subprocess

import pytest
from support import wait


def test_08_claims_grow_and_new_brokers_get_the_new_size(kube, cluster, load):
    cluster.apply(storage={"size": "512Mi"})
    cluster.wait_settled(3)
    pods = {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.pods()}
    with load(cluster) as producing:
        cluster.patch(storage={"size": "1Gi"})

        def sizes():
            return [c["status"]["capacity"]["storage"] for c in kube.get("pvc", namespace=cluster.namespace)]

        wait.until(lambda: sizes() == ["1Gi"] * 3, "three grown claims")
        cluster.wait_settled(3)
        producing.wait_acks()
        template = kube.get("statefulset", "x", cluster.namespace)["spec"]["volumeClaimTemplates"][0]
        assert template["spec"]["resources"]["requests"]["storage"] == "1Gi"
        assert {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.pods()} == pods, "nobody was restarted for it"


def test_08_a_full_disk_is_cured_by_raising_the_size_alone(kube, cluster, load):
    if kube.run is None:
        pytest.skip("disks of a cluster of yours are not filled")
    cluster.apply(storage={"size": "512Mi"}, config={"log.segment.bytes": "16777216"})
    cluster.wait_settled(3)
    with load(cluster) as producing:
        claim = kube.get("pvc", "data-x-0", cluster.namespace)
        mount = kube.get("pv", claim["spec"]["volumeName"])["spec"]["local"]["path"]
        fill = f"fallocate -l $(($(stat -f -c '%a * %S' {mount}))) {mount}/ballast; head -c 1G /dev/zero >{mount}/rest; true"
        subprocess.run(kube.inside("sh", "-c", fill), check=True, capture_output=True)
        cluster.wait(lambda s: s.get("readyReplicas") == 2, "the broker without room to stop")
        producing.wait_acks()
        cluster.patch(storage={"size": "1Gi"})
        wait.until(lambda: kube.get("pvc", "data-x-0", cluster.namespace)["status"]["capacity"]["storage"] == "1Gi", "the claim to grow")
        cluster.wait_settled(3)
        producing.wait_acks()


def test_08_a_size_that_shrinks_is_refused(kube, cluster):
    cluster.apply(storage={"size": "512Mi"})
    try:
        cluster.patch(storage={"size": "400Mi"})
    except AssertionError as error:
        assert "storage.size can only grow" in str(error)
    else:
        raise AssertionError("a smaller size was accepted")
