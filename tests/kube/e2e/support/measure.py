"""What the operator costs and how long things take: the scenarios and `make figures` measure with the same code."""

import json
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from . import wait
from .watch import PodWatch

FIRST = Path(__file__).resolve().parent / "first_ack.py"


def time_to_ready(cluster, **spec):
    """Applies the object; seconds until its condition Ready is True, as `kubectl wait` sees it."""
    begin = time.monotonic()
    cluster.apply(**spec)
    cluster.kube.kubectl("wait", f"ccl/{cluster.name}", "-n", cluster.namespace, "--for=condition=Ready", "--timeout=300s", timeout=360)
    return time.monotonic() - begin


def time_to_usable(cluster, **spec):
    """As above, and seconds until a client that was there before has its first record acknowledged by all replicas of a new topic."""
    command = cluster.kube.inside(sys.executable, FIRST, cluster.bootstrap())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout.readline() == "there\n", "the client does not start"
            begin = time.monotonic()
            ready = time_to_ready(cluster, **spec)
            # The clock is the machine's: a moment of one process is a moment of the other.
            acked = float(client.stdout.readline()) - begin
        finally:
            client.kill()
    return ready, acked


@dataclass
class Restart:
    """A rolling restart: how long it took, who led the quorum when it was decided who is restarted last (more than one: leadership moved by
    itself), the pods in the order in which they ended, how many were missing at most, the client's verdict."""

    seconds: float
    leaders: set
    deleted: list
    most_missing: int
    verdict: dict


def rolling_restart(kube, cluster, load, around=None):
    """Changes a setting of a settled cluster of three under a client; `around` is a context manager that disturbs."""
    with load(cluster) as producing, PodWatch(kube, cluster.namespace, cluster.selector) as pods:
        pods.wait_whole()
        leaders = {cluster.wait(lambda s: (s.get("quorum") or {}).get("leaderId"), "a leader of the quorum")}

        def two_done():
            leader = (cluster.status().get("quorum") or {}).get("leaderId")
            if len(pods.deleted) < 2 and leader:
                leaders.add(leader)
            return len(pods.deleted) >= 2

        begin = time.monotonic()
        cluster.patch(config={"log.retention.check.interval.ms": "60000"})
        with around or nullcontext():
            wait.until(two_done, "two brokers to be restarted", 600, 0.2)
            cluster.wait_settled(3)
        seconds = time.monotonic() - begin
        producing.wait_acks()
        verdict = producing.finish()
    return Restart(seconds, leaders, pods.deleted, pods.most_missing, verdict)


@dataclass
class Passes:
    """Passes over a converged cluster: how many, the writes they caused, CPU and seconds of all of it, how often the operator was asked
    for its metrics, and the most memory that a replica holds."""

    count: int
    writes: list
    cpu_ms: float
    seconds: float
    asked: int
    resident_mib: float


def idle_passes(kube, operator, cluster, passes=100):
    """Wakes the operator `passes` times by an annotation that means nothing; each pass is awaited, so that none is merged with the next.

    A cluster whose quorum or brokers changed by themselves meanwhile was not converged: again.
    """
    for attempt in range(3):
        # What still settles (leaders that move back) settles now.
        wait.until(lambda: _quiet(kube, operator, 3), "the operator to have nothing left to write")
        said, ready, before = _said(cluster.status()), _readiness(kube, cluster), kube.writes(operator.user)
        assert len(before) > 5, "the audit log does count the operator's writes"
        first, begin = operator.passes(), time.monotonic()
        cpu, asked, changed = operator.metric("process_cpu_seconds_total"), operator.asked, False
        for number in range(passes):
            mark = f"tests.chronik.io/pass={attempt}-{number}"
            found = json.loads(kube.kubectl("annotate", "ccl", cluster.name, "-n", cluster.namespace, mark, "--overwrite", "-o", "json"))
            changed = changed or _said(found["status"]) != said
            wait.until(lambda n=number: operator.passes() > first + n, f"pass {number + 1}")
        count, asked = int(operator.passes() - first), operator.asked - asked
        cpu, seconds = 1000 * (operator.metric("process_cpu_seconds_total") - cpu), time.monotonic() - begin
        new = kube.writes(operator.user)[len(before):]
        if new and (changed or _said(cluster.status()) != said or _readiness(kube, cluster) != ready):
            print(f"    the brokers changed by themselves ({len(new)} writes): again")
            continue
        return Passes(count, new, cpu, seconds, asked, max(operator.metrics("process_resident_memory_bytes")) / 2**20)
    raise AssertionError("the cluster never stayed as it was")


def cpu_of_a_pass(operator, seen):
    """Milliseconds of CPU of one pass: what all of `seen` took, less what the same time with as many questions takes without them.

    The rest are the Lease of two replicas, their watches, and the questions. Passes that happen by themselves are counted.
    """
    first, begin, cpu, asked = operator.passes(), time.monotonic(), operator.metric("process_cpu_seconds_total"), operator.asked
    while (now := time.monotonic() - begin) < seen.seconds:
        if operator.asked - asked < seen.asked * now / seen.seconds:
            operator.passes()
        else:
            time.sleep(0.05)
    by_themselves = operator.passes() - first
    rest = 1000 * (operator.metric("process_cpu_seconds_total") - cpu)
    return (seen.cpu_ms - rest) / (seen.count - by_themselves)


def _said(status):
    """What the brokers alone decide, as far as the status shows it."""
    return json.dumps([status.get("quorum"), status.get("nodes"), status.get("conditions")], sort_keys=True)


def _readiness(kube, cluster):
    """Since when each pod is ready or not, and how often evictions had to wait: also a broker that was away or behind for a moment, on a machine
    that gave it no time, was not at rest.
    """
    pods = [c["lastTransitionTime"] for p in cluster.pods() for c in p["status"]["conditions"] if c["type"] == "Ready"]
    return pods, kube.get("pdb", cluster.name, cluster.namespace)["metadata"]["generation"]


def _quiet(kube, operator, seconds):
    before = len(kube.writes(operator.user))
    time.sleep(seconds)
    return len(kube.writes(operator.user)) == before


def said_version(log):
    """The version that a starting operator writes to its log."""
    found = re.search(r"chronik-operator starts.*?version\W+([0-9]+\.[0-9]+\.[0-9]+)", re.sub(r"\x1b\[[0-9;]*m", "", log))
    return found and found.group(1)
