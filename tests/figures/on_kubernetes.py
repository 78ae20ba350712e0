"""Figures of the operator on a Kubernetes of two nodes: KUBECONFIG's, or one that exists while they are measured.

Called by figures.py with its `row` and `skipped`. Measures with the code of the scenarios (tests/kube/e2e/support/measure.py).
"""

import itertools
import os
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from local import down, up
from support import measure
from support.ccl import Cluster
from support.kube import TOP, Kube
from support.load import Load
from support.release import Operator

READY = ("operator: ChronikCluster applied to READY, images present", "s", "5", 5)
USABLE = ("operator: applied to the first RF=3 acks=all record of a waiting client", "s", "5", 5)
CPU = ("operator: CPU of a pass over a converged cluster", "ms", "5", 5)
ALL = ("operator: the same with metrics, watches and the Lease of both replicas, per pass", "ms", "-", None)
WRITES = ("operator: writes to the API server in 100 such passes", "writes", "0", 0)
RSS = ("operator: RSS after them, the larger of two replicas", "MiB", "30", 30)
ROLL = ("operator: rolling restart of three brokers under load, changed setting to settled", "s", "30", 30)
FAILED = ("operator: sends that failed meanwhile", "failed", "0", 0)
NUMBERS = itertools.count(1)


@contextmanager
def kubernetes():
    if os.environ.get("KUBECONFIG"):
        yield Kube(os.environ["KUBECONFIG"])
        return
    built = subprocess.run([TOP / "tests/tools/kube.sh", "images"], check=True, stdout=subprocess.PIPE, text=True).stdout
    run = up.start(f"f{os.getpid()}", owner=os.getpid(), images=[Path(p) for p in built.split()])
    try:
        yield Kube(run.kubeconfig, up.binaries(), run)
    finally:
        left = down.end(run)
        if left:
            print("left on this machine: " + "; ".join(left))


@contextmanager
def fresh(kube):
    """A cluster object of a namespace of its own, not applied yet."""
    namespace = kube.namespace(f"figures-{next(NUMBERS)}")
    try:
        yield Cluster(kube, namespace)
    finally:
        kube.delete_namespace(namespace)


def measure_all(kube, row, skipped, runs):
    operator = Operator(kube).install()
    times = []
    for _ in range(runs):
        with fresh(kube) as cluster:
            times.append(measure.time_to_usable(cluster))
    for facts, values in zip((READY, USABLE), zip(*times, strict=True), strict=True):
        row(facts[0], values, *facts[1:])
    with fresh(kube) as cluster:
        cluster.apply()
        cluster.wait_settled(3)
        if kube.run is None:
            for facts in (CPU, ALL, WRITES, RSS):
                skipped(facts[0], "the local Kubernetes and its audit log", facts[2])
        else:
            seen = measure.idle_passes(kube, operator, cluster)
            cpu = measure.cpu_of_a_pass(operator, seen)
            for facts, value in ((CPU, cpu), (ALL, seen.cpu_ms / seen.count), (WRITES, len(seen.writes)), (RSS, seen.resident_mib)):
                row(facts[0], [value], *facts[1:])
    seconds, failed = [], []
    for _ in range(min(runs, 3)):
        with fresh(kube) as cluster, tempfile.TemporaryDirectory() as directory:
            cluster.apply()
            cluster.wait_settled(3)
            seen = measure.rolling_restart(kube, cluster, lambda c, d=directory: Load(kube, d, c.bootstrap()))
            seconds.append(seen.seconds)
            failed.append(seen.verdict["failed"])
    row(ROLL[0], seconds, *ROLL[1:])
    row(FAILED[0], failed, *FAILED[1:])


def measure_or_skip(row, skipped, runs):
    """Rows for all figures; the other figures of the table do not fail because there is no Kubernetes."""
    needs = "root or KUBECONFIG"
    if os.environ.get("KUBECONFIG") or os.geteuid() == 0:
        with ExitStack() as stack:
            try:
                kube = stack.enter_context(kubernetes())
            except (subprocess.CalledProcessError, up.Failed, OSError) as error:
                needs = f"a Kubernetes that starts ({str(error).splitlines()[0]})"
            else:
                measure_all(kube, row, skipped, runs)
                return
    for facts in (READY, USABLE, CPU, ALL, WRITES, RSS, ROLL, FAILED):
        skipped(facts[0], needs, facts[2])
