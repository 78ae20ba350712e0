"""The operator as a user installs it: `kubectl apply -f crds/`, `helm install`."""

import os
import subprocess
from pathlib import Path

from . import wait
from .ccl import BROKER_IMAGE
from .kube import TOP

# Archives of the images under test; each program lies beside its own.
IMAGES = [Path(p) for p in os.environ.get("CHRONIK_IMAGES", "").split(":") if p]
OPERATOR_IMAGE = "local.test/chronik-operator:dev"
# The permission to read nodes, where the chart does not give it.
NODES = "chronik-nodes"


class Operator:
    def __init__(self, kube, namespace="chronik-system", release="chronik", **values):
        """`values` belong to the release: every `install` keeps them."""
        self.kube, self.namespace, self.release, self.kept = kube, namespace, release, values
        # How often its metrics were read: that costs it CPU, too.
        self.asked = 0
        self.selector = f"app.kubernetes.io/name=chronik-operator,app.kubernetes.io/instance={release}"

    def values(self, **extra):
        """`--set` arguments: images that are on the nodes already."""
        values = {"operator.replicas": 2, **self.kept}
        for key, image in (("operator.image", OPERATOR_IMAGE), ("broker.image", BROKER_IMAGE)):
            values[f"{key}.repository"], _, values[f"{key}.tag"] = image.rpartition(":")
        values |= extra
        return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]

    def install(self, crds=True, **extra):
        if crds:
            self.kube.kubectl("apply", "-f", TOP / "crds")
        self.kube.helm("upgrade", "--install", self.release, TOP / "charts" / "chronik", "-n", self.namespace, "--create-namespace", *self.values(**extra))
        self.wait_ready()
        return self

    def deployment(self):
        return self.kube.get("deployments", namespace=self.namespace, selector=self.selector)[0]

    def pods(self):
        return [p for p in self.kube.pods(self.namespace, self.selector) if "deletionTimestamp" not in p["metadata"]]

    def wait_ready(self, timeout=300):
        def ready():
            deployment = self.deployment()
            status, wanted = deployment["status"], deployment["spec"]["replicas"]
            return (status.get("observedGeneration") == deployment["metadata"]["generation"]
                    and status.get("readyReplicas", 0) == status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted)

        wait.until(ready, "the operator to be ready", timeout, 0.2)

    def kill(self):
        """SIGKILL to the process of every replica, which kubelet starts again; returns how many were killed."""
        killed = 0
        for pod in self.pods():
            try:
                self.kube.kill_container(self.namespace, pod["metadata"]["name"], pod["spec"]["containers"][0]["name"])
                killed += 1
            except (subprocess.CalledProcessError, KeyError, StopIteration, TypeError):
                # Between two lives there is no process to kill.
                continue
        return killed

    def metrics(self, name):
        """A counter or gauge of each replica, summed over its labels."""
        found = []
        self.asked += 1
        for pod in self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
            lines = self.kube.kubectl("get", "--raw", path).splitlines()
            found.append(sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name))
        return found

    def metric(self, name):
        """The same, summed over the replicas."""
        return sum(self.metrics(name))

    def passes(self):
        """Passes over clusters so far, of all replicas."""
        return self.metric("chronik_operator_passes_total")

    @property
    def user(self):
        account = self.deployment()["spec"]["template"]["spec"]["serviceAccountName"]
        return f"system:serviceaccount:{self.namespace}:{account}"

    def permit_nodes(self):
        """What the manual tells an administrator to do so that an operator with nothing more than a Role may read nodes."""
        account = self.user.removeprefix("system:serviceaccount:")
        self.kube.kubectl("create", "clusterrole", NODES, "--verb=get", "--resource=nodes")
        self.kube.kubectl("create", "clusterrolebinding", NODES, f"--clusterrole={NODES}", f"--serviceaccount={account}")

    def forbid_nodes(self):
        """Takes it back."""
        self.kube.kubectl("delete", "clusterrolebinding,clusterrole", NODES, "--ignore-not-found")

    def logs(self):
        return [self.kube.logs(self.namespace, pod["metadata"]["name"]) for pod in self.pods()]
