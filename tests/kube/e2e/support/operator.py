"""The operator as a user installs it: `kubectl apply -f crds/`, `helm install`."""

import subprocess

from harness import wait

from .ccl import BROKER_IMAGE
from .kube import TOP

OPERATOR_IMAGE = "local.test/chronik-operator:dev"


class Operator:
    def __init__(self, kube, namespace="chronik-system", release="chronik"):
        self.kube, self.namespace, self.release = kube, namespace, release
        self.selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component=operator"

    def values(self, **extra):
        """`--set` arguments: images that are on the nodes already."""
        repository, _, tag = OPERATOR_IMAGE.rpartition(":")
        values = {"image.repository": repository, "image.tag": tag, "image.pullPolicy": "IfNotPresent", "broker.image": BROKER_IMAGE, **extra}
        return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]

    def install(self, crds=True, **extra):
        if crds:
            self.kube.kubectl("apply", "-f", TOP / "crds")
        self.kube.helm("upgrade", "--install", self.release, TOP / "charts" / "chronik", "-n", self.namespace, "--create-namespace", *self.values(**extra))
        self.wait_ready()
        return self

    def deployment(self):
        return self.kube.get("deployments", namespace=self.namespace, selector=f"app.kubernetes.io/instance={self.release}")[0]

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

    @property
    def user(self):
        account = self.deployment()["spec"]["template"]["spec"]["serviceAccountName"]
        return f"system:serviceaccount:{self.namespace}:{account}"

    def uninstall(self):
        self.kube.helm("uninstall", self.release, "-n", self.namespace, "--wait")
