"""A Kubernetes cluster as the tests see it: kubectl and helm with one kubeconfig, and processes within the pods' network."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from . import wait

TOP = Path(__file__).resolve().parents[4]
# What a server says that is too busy to answer, and not that the answer is no.
BUSY = ("Unable to connect to the server", "TLS handshake timeout", "request timed out", "timed out waiting for the", "connection refused",
        "etcdserver:", "ServiceUnavailable", "TooManyRequests", "InternalError", "error trying to reach service", "unexpected EOF", "http2:")
# What comes to the same when it is done twice.
REPEATABLE = ("get", "apply", "patch", "scale", "label", "annotate")


class Refused(AssertionError):
    """kubectl or helm said no; `text` is what it said."""

    def __init__(self, command, text):
        self.text = text
        super().__init__(f"{' '.join(map(str, command))}:\n{text}")


class Kube:
    """`run` is the local cluster, or None for one that KUBECONFIG names."""

    def __init__(self, kubeconfig, programs=None, run=None):
        self.kubeconfig, self.programs, self.run = str(kubeconfig), programs, run

    def _program(self, name):
        found = str(self.programs / name) if self.programs else shutil.which(name)
        assert found, f"{name} is missing: KUBECONFIG is set, so it has to be on PATH"
        return found

    def _call(self, command, stdin=None, timeout=300):
        environment = {**os.environ, "KUBECONFIG": self.kubeconfig, "HELM_CACHE_HOME": "/tmp/chronik-helm", "HELM_CONFIG_HOME": "/tmp/chronik-helm",
                       "HELM_DATA_HOME": "/tmp/chronik-helm"}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
        if done.returncode:
            raise Refused(command, (done.stderr + done.stdout).strip())
        return done.stdout

    def kubectl(self, *arguments, stdin=None, timeout=300):
        command = [self._program("kubectl"), *map(str, arguments)]
        deadline = time.monotonic() + 60
        while True:
            try:
                return self._call(command, stdin, timeout)
            except Refused as error:
                if arguments[0] not in REPEATABLE or time.monotonic() > deadline or not any(sign in error.text for sign in BUSY):
                    raise
                time.sleep(0.5)

    def helm(self, *arguments, timeout=600):
        return self._call([self._program("helm"), *map(str, arguments)], timeout=timeout)

    def get(self, kind, name=None, namespace=None, selector=None):
        """One object, or the list of those that match; None when the one does not exist."""
        command = ["get", kind, "-o", "json"]
        command += [name] if name else []
        command += ["-n", namespace] if namespace else []
        command += ["-l", selector] if selector else []
        try:
            answer = json.loads(self.kubectl(*command))
        except Refused as error:
            if name and "NotFound" in error.text:
                return None
            raise
        return answer if name else answer["items"]

    def apply(self, *objects):
        """Applies objects on the server's side, as a user would."""
        text = "\n---\n".join(json.dumps(o) for o in objects)
        return self.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=tests", "-f", "-", stdin=text)

    def namespace(self, name):
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        wait.until(lambda: self.get("serviceaccount", "default", name), f"the default service account of {name}")
        return name

    def delete(self, kind, namespace, name=None, selector=None, timeout=300):
        """Deletes objects and waits until these are gone, whoever has their names by then.

        kubectl's own waiting is not used: it may overlook that a pod went and wait for the one that took its name.
        """
        found = self.get(kind, name, namespace, selector)
        objects = found if name is None else [found]
        uids = {o["metadata"]["uid"] for o in objects if o}
        assert uids, f"no {kind} to delete in {namespace}"
        self.kubectl("delete", kind, "-n", namespace, "--wait=false", *([name] if name else ["-l", selector]))

        def gone():
            left = self.get(kind, namespace=namespace, selector=selector)
            return not any(o["metadata"]["uid"] in uids for o in left)

        wait.until(gone, f"the deleted {kind} of {namespace} to be gone", timeout, 0.2)

    def delete_namespace(self, name, timeout=300):
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        wait.until(lambda: self.get("namespace", name) is None, f"namespace {name} to be gone", timeout, 0.3)

    def pods(self, namespace, selector=None):
        return self.get("pods", namespace=namespace, selector=selector)

    def wait_ready(self, namespace, selector, count, timeout=300):
        """`count` pods that match are Ready and none is going away."""

        def ready():
            pods = self.pods(namespace, selector)
            good = [p for p in pods if is_ready(p) and "deletionTimestamp" not in p["metadata"]]
            return good if len(good) == count == len(pods) else None

        return wait.until(ready, f"{count} ready pods of {selector} in {namespace}", timeout, 0.2)

    def events(self, namespace, **fields):
        """Events about an object, oldest first; `reason`, `kind`, `name` filter."""
        found = []
        for event in self.get("events", namespace=namespace):
            about = event.get("involvedObject") or event.get("regarding") or {}
            facts = {"reason": event.get("reason"), "kind": about.get("kind"), "name": about.get("name")}
            if all(facts[k] == v for k, v in fields.items()):
                found.append(event)
        return sorted(found, key=lambda e: e.get("eventTime") or e.get("lastTimestamp") or "")

    def logs(self, namespace, pod, previous=False):
        try:
            return self.kubectl("logs", "-n", namespace, pod, "--tail=2000", *(["--previous"] if previous else []))
        except Refused as error:
            return f"(no log: {error.text})"

    # What only the local cluster can do.

    def inside(self, *command, node=1):
        """A command line in the pods' network, where services have names; with a cluster of the user's, just here."""
        return self.run.inside(*command, node=node) if self.run else list(map(str, command))

    def address(self, node):
        """Address of a node that the tests' machine reaches."""
        if self.run:
            return self.run.address(node)
        return self.get("nodes")[node - 1]["status"]["addresses"][0]["address"]

    def link(self, up):
        """Cuts or restores the only link of node 2."""
        subprocess.run(self.run.inside("ip", "link", "set", "to-node-2", "up" if up else "down", node=1), check=True)
        if up:
            # The kernel forgets the routes of a link that goes down.
            from local.config import PODS

            route = ["ip", "route", "replace", PODS[2], "via", self.run.address(2)]
            subprocess.run(self.run.inside(*route, node=1), check=True)

    def kill_container(self, namespace, pod, container="broker"):
        """SIGKILL to the first process of a container, from its node."""
        if self.run is None:
            pytest.skip("processes of a cluster of yours are not killed")
        found = self.get("pod", pod, namespace)
        status = next(c for c in found["status"]["containerStatuses"] if c["name"] == container)
        name = status["containerID"].rpartition("/")[2]
        node = int(found["spec"]["nodeName"][-1])
        subprocess.run(["ctr", "-a", str(self.run.socket(node)), "-n", "k8s.io", "task", "kill", "--signal", "SIGKILL", name], check=True, capture_output=True)
        return name

    def writes(self, user):
        """Every write of `user` so far, from the API server's audit log: [(verb, resource, namespace, name)]. Leases are not counted."""
        found = []
        with open(self.run.dir / "audit.log", encoding="utf-8") as log:
            for line in log:
                if user not in line:
                    continue
                event = json.loads(line)
                about = event.get("objectRef", {})
                if event["user"]["username"] == user and about.get("resource") != "leases":
                    found.append((event["verb"], about.get("resource", "") + ("/" + about["subresource"] if "subresource" in about else ""),
                                  about.get("namespace"), about.get("name")))
        return found


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
