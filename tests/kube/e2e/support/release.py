"""The operator as a user installs it: `kubectl apply -f crds/`, `helm install`."""

import subprocess

from harness import wait

from .ccl import BROKER_IMAGE
from .kube import TOP

OPERATOR_IMAGE = "local.test/chronik-operator:dev"


class Operator:
    def __init__(self, kube, namespace="chronik-system", release="chronik"):
        self.kube, self.namespace, self.release = kube, namespace, release
        self.selector = f"app.kubernetes.io/name=chronik-operator,app.kubernetes.io/instance={release}"

    def values(self, **extra):
        """`--set` arguments: images that are on the nodes already."""
        values = {"operator.replicas": 2}
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

    def wait_ready(self, timeout=120):
        def ready():
            deployment = self.deployment()
            status, wanted = deployment["status"], deployment["spec"]["replicas"]
            return (status.get("observedGeneration") == deployment["metadata"]["generation"]
                    and status.get("readyReplicas", 0) == status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted)

        wait.until(ready, "the operator to be ready", timeout, 0.2)

    def kill(self):
        """SIGKILL to the process of every replica; kubelet starts it again."""
        for pod in self.pods():
            try:
                self.kube.kill_container(self.namespace, pod["metadata"]["name"], pod["spec"]["containers"][0]["name"])
            except (subprocess.CalledProcessError, KeyError, StopIteration, TypeError):
                # Between two lives there is no process to kill.
                continue

    def metric(self, name):
        """The sum of a counter or gauge over its labels and the replicas."""
        total = 0.0
        for pod in self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
            for line in self.kube.kubectl("get", "--raw", path).splitlines():
                if line.partition("{")[0].partition(" ")[0] == name:
                    total += float(line.rpartition(" ")[2])
        return total

    def passes(self):
        """Passes over clusters so far, of all replicas."""
        return self.metric("chronik_operator_passes_total")

    @property
    def user(self):
        account = self.deployment()["spec"]["template"]["spec"]["serviceAccountName"]
        return f"system:serviceaccount:{self.namespace}:{account}"

    def uninstall(self):
        self.kube.helm("uninstall", self.release, "-n", self.namespace, "--wait")

    def restart(self, now=False):
        """New pods; with `now` the old ones are killed without notice. Also forgets the waiting times of crash loops."""
        if now:
            self.kube.kubectl("delete", "pods", "-n", self.namespace, "-l", self.selector, "--force", "--grace-period=0")
        else:
            self.kube.kubectl("rollout", "restart", f"deployment/{self.deployment()['metadata']['name']}", "-n", self.namespace)
        self.wait_ready()
