"""Every change of a cluster's pods, in the order in which the API server tells them."""

import json
import subprocess
import threading

from . import wait
from .kube import is_ready


class PodWatch:
    """A context manager; afterwards `most_missing` and `deleted` tell what happened meanwhile.

    Missing is a pod that was taken away and whose successor has not been ready yet. One that fails its probes for a moment, because the
    machine gives it no time, was taken away by nobody.
    """

    def __init__(self, kube, namespace, selector):
        self.list = lambda: kube.pods(namespace, selector)
        self.command = [kube._program("kubectl"), "--kubeconfig", kube.kubeconfig, "get", "pods", "-n", namespace, "-l", selector, "-w", "-o", "json",
                        "--output-watch-events"]
        self.ready, self.uids, self.deleted, self.most_missing, self.whole = {}, {}, [], 0, False
        self.missing, self.served = {}, set()

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self

    def wait_whole(self):
        """The watch has seen all pods as they are now, and they are ready: what comes is not missed, what was has been seen."""

        def seen():
            uids = {p["metadata"]["name"]: p["metadata"]["uid"] for p in self.list()}
            return uids and dict(self.uids) == uids and all(self.ready.values())

        wait.until(seen, "the watch to have seen all pods")

    def __exit__(self, kind, *_):
        if kind is None:
            self.wait_whole()
        self.process.kill()
        self.process.wait()
        self.thread.join(10)

    def _read(self):
        decoder, buffer = json.JSONDecoder(), ""
        for line in self.process.stdout:
            buffer += line
            if not line.rstrip().endswith("}"):
                continue
            while buffer.strip():
                try:
                    event, end = decoder.raw_decode(buffer.lstrip())
                except ValueError:
                    break
                buffer = buffer.lstrip()[end:]
                self._take(event["type"], event["object"])

    def _take(self, kind, pod):
        name = pod["metadata"]["name"]
        if kind == "DELETED":
            self.ready[name], self.missing[name] = False, True
            self.uids.pop(name, None)
            self.deleted.append(name)
        else:
            uid, ends = pod["metadata"]["uid"], "deletionTimestamp" in pod["metadata"]
            self.uids[name] = uid
            self.ready[name] = is_ready(pod) and not ends
            if self.ready[name]:
                self.served.add(uid)
            self.missing[name] = ends or uid not in self.served
        # Only what was once whole can miss something: the first events list the pods one by one.
        self.whole = self.whole or all(self.ready.values())
        if self.whole:
            self.most_missing = max(self.most_missing, sum(self.missing.values()))
