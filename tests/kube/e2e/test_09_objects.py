"""What the manual shows is accepted and works; what has to be refused is refused, with the words that a user needs."""

import os
import subprocess

import pytest
from support import wait
from support.ccl import Cluster
from support.kube import TOP

# examples/production.yaml wants nodes with labels that no test cluster has: it is only shown to the API server.
RUNNING = {"minimal": ("events", 3), "single": ("scratch", 1), "durable": ("ledger", 3), "nodeport": ("edge", 3)}


def test_09_examples_and_objects_are_accepted_or_refused_as_they_say(kube, operator):
    del operator
    path = f"{kube.programs}:{os.environ['PATH']}" if kube.programs else os.environ["PATH"]
    environment = {**os.environ, "KUBECONFIG": kube.kubeconfig, "PATH": path}
    done = subprocess.run([TOP / "tests/chart/objects.sh"], env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", RUNNING)
def test_09_an_example_becomes_a_cluster_that_serves(kube, operator, namespace, example):
    del operator
    name, brokers = RUNNING[example]
    kube.kubectl("apply", "-n", namespace, "-f", TOP / "examples" / f"{example}.yaml")
    cluster = Cluster(kube, namespace, name)
    # Not `Running`: a disk that is not a claim is the machine's own, and how full that one is is not about the example.
    cluster.wait(lambda s: s.get("replicas") == s.get("readyReplicas") == brokers and not s.get("operation"), f"{brokers} brokers")
    wait.until(lambda: cluster.condition("Ready").get("status") == "True", f"{name} to be Ready")
    image = cluster.pods()[0]["spec"]["containers"][0]["image"]
    # As in the manual, but for `--rm -i`: whoever attaches late does not see what was said before.
    kube.kubectl("run", "probe", "-n", namespace, "--restart=Never", f"--image={image}", "--", "probe", "--bootstrap", cluster.bootstrap())
    phase = wait.until(lambda: (p := kube.get("pod", "probe", namespace)["status"]["phase"]) in ("Succeeded", "Failed") and p, "the probe to end")
    said = kube.logs(namespace, "probe")
    assert phase == "Succeeded" and said.count("read back") == brokers, said
