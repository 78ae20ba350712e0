"""A ChronikCluster of a test: its object, its status, and waiting for what users wait for."""

import json

from . import wait

BROKER_IMAGE = "local.test/chronik-broker:dev"
# For topologySpreadConstraints of the cluster `x`: a broker on every node before there are two on one, without exception.
APART = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": "Honor",
         "labelSelector": {"matchLabels": {"chronik.io/cluster": "x"}}}


class Cluster:
    def __init__(self, kube, namespace, name="x"):
        self.kube, self.namespace, self.name = kube, namespace, name
        self.selector = f"chronik.io/cluster={name}"

    def manifest(self, **spec):
        spec = {"image": BROKER_IMAGE, "imagePullPolicy": "IfNotPresent", "storage": {"size": "1Gi"}, **spec}
        spec = {key: value for key, value in spec.items() if value is not None}
        return {"apiVersion": "chronik.io/v1alpha1", "kind": "ChronikCluster", "metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec}

    def apply(self, **spec):
        self.kube.apply(self.manifest(**spec))
        return self

    def patch(self, **spec):
        self.kube.kubectl("patch", "chronikcluster", self.name, "-n", self.namespace, "--type=merge", "-p", json.dumps({"spec": spec}))

    def scale(self, replicas):
        self.kube.kubectl("scale", f"chronikcluster/{self.name}", "-n", self.namespace, f"--replicas={replicas}")

    def get(self):
        return self.kube.get("chronikcluster", self.name, self.namespace)

    def status(self):
        return (self.get() or {}).get("status", {})

    def condition(self, kind):
        """A condition of the status: dict with status, reason, message; empty when there is none."""
        return next((c for c in self.status().get("conditions", []) if c["type"] == kind), {})

    def pods(self):
        return sorted(self.kube.pods(self.namespace, self.selector), key=lambda p: p["metadata"]["name"])

    def bootstrap(self):
        return f"{self.name}-bootstrap.{self.namespace}.svc:9092"

    def wait(self, condition, what, timeout=300):
        """Waits for something about the status; tells the last status when it does not come."""

        def check():
            return condition(self.status())

        try:
            return wait.until(check, what, timeout, 0.2)
        except wait.Timeout as error:
            raise wait.Timeout(f"{error}\nstatus: {self.summary()}") from None

    def summary(self):
        status = self.status()
        conditions = [f"{c['type']}={c['status']}({c.get('reason')}: {c.get('message')})" for c in status.get("conditions", [])]
        return {"phase": status.get("phase"), "operation": status.get("operation"), "quorum": status.get("quorum"),
                "replicas": status.get("replicas"), "ready": status.get("readyReplicas"), "conditions": conditions}

    def wait_settled(self, replicas, voters=None, timeout=600):
        """As asked for: observed, Ready, the right number of brokers and voters, nothing under way. Returns the status that says so."""
        voters = voters if voters is not None else min(5, replicas - 1 + replicas % 2)

        def settled(status):
            generation = self.get()["metadata"]["generation"]
            return (
                status.get("observedGeneration") == generation
                and status.get("phase") == "Running"
                and status.get("replicas") == status.get("readyReplicas") == status.get("updatedReplicas") == replicas
                and len((status.get("quorum") or {}).get("voters", [])) == voters
                and not status.get("operation")
                and status
            )

        return self.wait(settled, f"{self.name} to settle with {replicas} brokers and {voters} voters", timeout)

    def wait_blocked(self, gate, timeout=300):
        """The operation under way is held back by `gate`; returns the entry with its message."""

        def blocked(status):
            return next((b for b in (status.get("operation") or {}).get("blockedBy", []) if b["gate"] == gate), None)

        return self.wait(blocked, f"{self.name} to be held back by {gate}", timeout)
