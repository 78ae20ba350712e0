"""A busy machine is not a dead broker: no elections under full load."""

import os
import subprocess
import threading
import time

import pytest
from harness import history, kafka

# A voter campaigns after ten ticks of 100 ms at the earliest. Who hears nothing for half of that because the whole machine stood
# still may do so rightly.
STOOD_STILL = 0.5


class Stalls(threading.Thread):
    """Measures for how long a thread that only sleeps did not get on: the longest such time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.longest, self._over = 0.0, threading.Event()

    def run(self):
        last = time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()


def elections(cluster):
    return {b.id: (b.status()["raft"]["term"], b.status()["raft"]["leader"]) for b in cluster.running()}


def leaders(cluster):
    return {p: m.leader for p, m in kafka.describe(cluster.bootstrap, "t").items()}


def steady(cluster, look, work):
    """Nothing that `look` sees changes while `work` is done; said of a machine that went on meanwhile, which gets three chances."""
    for _ in range(3):
        before = look(cluster)
        with Stalls() as stalls:
            work()
            after = look(cluster)
        if after == before:
            return
        print(f"{before} became {after}; a thread stood still for up to {stalls.longest:.2f} s")
        assert stalls.longest > STOOD_STILL, f"{before} became {after}, and the machine did not stand still"
        cluster.wait_ready()
    pytest.fail("the machine stood still three times: nothing can be said about elections here")


def everything(cluster):
    return elections(cluster), leaders(cluster)


def loaded(cluster, minutes):
    kafka.create_topic(cluster.bootstrap, "t", partitions=6)
    kafka.full_isr(cluster.bootstrap, "t")
    load = history.Workload(cluster.bootstrap, "t", rate=200)
    load.start()

    def burn():
        cores = os.cpu_count() or 2
        command = ["stress-ng", "--quiet", "--cpu", str(cores * 2), "--vm", "1", "--vm-bytes", "256m", "--timeout", f"{int(minutes * 60)}s"]
        process = subprocess.Popen(command)
        try:
            process.wait(minutes * 60 + 120)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    steady(cluster, everything, burn)
    acked = load.finish()
    history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))


def test_no_election_while_the_machine_is_fully_loaded(cluster):
    loaded(cluster, float(os.environ.get("CHRONIK_LOAD_MINUTES", "2")))


def test_no_election_while_idle(cluster):
    steady(cluster, elections, lambda: time.sleep(15))  # dozens of election timeouts
