"""The local Kubernetes itself, before any operator: what the scenarios rely on is there, and real brokers run in it."""

import json
import subprocess

import pytest
from support import wait
from support.load import Load

BROKER = "local.test/chronik-broker:dev"


def stateful_set(namespace, replicas=3):
    """A cluster of brokers as a person would write it by hand."""
    labels = {"app": "plain"}
    peers = [{"id": n + 1, "host": f"plain-{n}.plain.{namespace}.svc"} for n in range(replicas)]
    cluster = {"clusterId": "plain", "bootstrapVoters": [p["id"] for p in peers], "join": False, "peers": peers}
    settings = {"data.dir": "/var/lib/chronik", "cluster.file": "/etc/chronik/cluster.yaml", "bind.address": "0.0.0.0"}
    field = lambda path: {"valueFrom": {"fieldRef": {"fieldPath": path}}}  # noqa: E731
    container = {
        "name": "broker",
        "image": BROKER,
        "imagePullPolicy": "IfNotPresent",
        "args": ["run", "--config", "/etc/chronik/broker.yaml"],
        "env": [{"name": "POD_NAME", **field("metadata.name")}, {"name": "CHRONIK_ADVERTISED_HOST", "value": f"$(POD_NAME).plain.{namespace}.svc"}],
        "ports": [{"name": "kafka", "containerPort": 9092}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9392}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/chronik"}, {"name": "config", "mountPath": "/etc/chronik"}],
    }
    pod = {
        "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels}}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "plain"}}],
    }
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "512Mi"}}}}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain", "namespace": namespace},
         "data": {"broker.yaml": json.dumps(settings), "cluster.yaml": json.dumps(cluster)}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain", "namespace": namespace},
         "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels, "ports": [{"name": "kafka", "port": 9092}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain-bootstrap", "namespace": namespace},
         "spec": {"type": "NodePort", "selector": labels, "ports": [{"name": "kafka", "port": 9092}]}},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "plain", "namespace": namespace},
         "spec": {"serviceName": "plain", "replicas": replicas, "podManagementPolicy": "Parallel", "selector": {"matchLabels": labels},
                  "template": {"metadata": {"labels": labels}, "spec": pod}, "volumeClaimTemplates": [claim]}},
    ]


def on_node(pods, node):
    return [p for p in pods if p["spec"]["nodeName"].endswith(str(node))]


def test_brokers_of_a_plain_stateful_set_form_serve_and_survive_the_loss_of_a_pod(kube, namespace, tmp_path):
    kube.apply(*stateful_set(namespace))
    pods = kube.wait_ready(namespace, "app=plain", 3)
    assert on_node(pods, 1) and on_node(pods, 2), "the pods are on two nodes"
    with Load(kube, tmp_path, f"plain-bootstrap.{namespace}.svc:9092") as load:
        load.wait_acks()
        # The same name comes back with its disk.
        kube.delete("pods", namespace, "plain-1")
        kube.wait_ready(namespace, "app=plain", 3)
        load.wait_acks()
        restarts = lambda: kube.get("pod", "plain-2", namespace)["status"]["containerStatuses"][0]["restartCount"]  # noqa: E731
        before = restarts()
        kube.kill_container(namespace, "plain-2")
        wait.until(lambda: restarts() > before, "the container to be started again")
        kube.wait_ready(namespace, "app=plain", 3)
        load.wait_acks()


def test_claims_are_real_disks_that_grow_while_they_are_used(kube, namespace):
    kube.apply(*stateful_set(namespace, replicas=1))
    kube.wait_ready(namespace, "app=plain", 1)

    def blocks():
        claim = kube.get("pvc", "data-plain-0", namespace)
        volume = kube.get("pv", claim["spec"]["volumeName"])
        if kube.run is None:
            return claim["status"]["capacity"]["storage"], None
        out = subprocess.run(kube.inside("stat", "-f", "-c", "%b", volume["spec"]["local"]["path"]), capture_output=True, text=True, check=True).stdout
        return claim["status"]["capacity"]["storage"], int(out)

    before = blocks()
    assert before[0] == "512Mi"
    kube.kubectl("patch", "pvc", "data-plain-0", "-n", namespace, "--type=merge", "-p", '{"spec":{"resources":{"requests":{"storage":"1Gi"}}}}')
    after = wait.until(lambda: (now := blocks())[0] == "1Gi" and now, "the claim to have grown")
    assert before[1] is None or after[1] > 1.8 * before[1]


def test_a_node_behind_a_cut_link_is_lost_and_comes_back(kube):
    if kube.run is None:
        pytest.skip("links of a cluster of yours are not cut")

    def ready():
        nodes = {n["metadata"]["name"]: n for n in kube.get("nodes")}
        return any(c["type"] == "Ready" and c["status"] == "True" for c in nodes["node-2"]["status"]["conditions"])

    wait.until(ready, "node 2 to be ready", interval=0.5)
    kube.link(up=False)
    try:
        wait.until(lambda: not ready(), "node 2 to be lost", interval=0.5)
    finally:
        kube.link(up=True)
    wait.until(ready, "node 2 to be back", interval=0.5)


def test_a_node_port_is_reached_from_the_machine(kube, namespace, tmp_path):
    """Only the bootstrap connection: which addresses brokers tell is the operator's part."""
    kube.apply(*stateful_set(namespace, replicas=1))
    kube.wait_ready(namespace, "app=plain", 1)
    port = kube.get("service", "plain-bootstrap", namespace)["spec"]["ports"][0]["nodePort"]
    from harness import kafka

    def brokers():
        return [kafka.admin(f"{kube.address(node)}:{port}").list_topics(timeout=5).brokers for node in (1, 2)]

    assert all(len(b) == 1 for b in wait.until(brokers, "metadata over both nodes"))
