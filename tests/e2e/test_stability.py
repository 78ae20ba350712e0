"""A busy machine is not a dead broker: no elections under full load."""

import os
import subprocess
import time

from harness import history, kafka


def elections(cluster):
    return {b.id: (b.status()["raft"]["term"], b.status()["raft"]["leader"]) for b in cluster.running()}


def loaded(cluster, minutes):
    kafka.create_topic(cluster.bootstrap, "t", partitions=6)
    before = elections(cluster)
    epochs = {p: m.leader for p, m in kafka.describe(cluster.bootstrap, "t").items()}
    cores = os.cpu_count() or 2
    burn = subprocess.Popen(["stress-ng", "--quiet", "--cpu", str(cores * 2), "--vm", "1", "--vm-bytes", "256m",
                             "--timeout", f"{int(minutes * 60)}s"])
    load = history.Workload(cluster.bootstrap, "t", rate=200)
    load.start()
    try:
        burn.wait(minutes * 60 + 60)
    finally:
        if burn.poll() is None:
            burn.terminate()
            burn.wait()
    acked = load.finish()
    assert elections(cluster) == before, "an election under load"
    assert {p: m.leader for p, m in kafka.describe(cluster.bootstrap, "t").items()} == epochs, "a partition moved"
    history.check_nothing_lost(acked, kafka.read_all(cluster.bootstrap, "t"))


def test_no_election_while_the_machine_is_fully_loaded(cluster):
    loaded(cluster, float(os.environ.get("CHRONIK_LOAD_MINUTES", "2")))


def test_no_election_while_idle(cluster):
    before = elections(cluster)
    time.sleep(15)  # dozens of election timeouts
    assert elections(cluster) == before
