"""Figures of this project alone: formation, failover, idle cost, CPU per GiB, the operator. Prints a table; asserts nothing.

CPU is what the kernel accounts to the broker processes, so the clients' own cost does not count. Times on a shared machine
are noisy: every figure is given as min / median / max over its runs, and the median decides whether it is over its aim.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time

import on_kubernetes
from harness import history, kafka, wait
from harness.cluster import Cluster

TICKS = os.sysconf("SC_CLK_TCK")
ROWS = []


def row(name, values, unit, aim, most=None):
    """`most` is the aim as a number; None where there is nothing to compare."""
    values = sorted(values)
    text = f"{values[0]:.3g} / {statistics.median(values):.3g} / {values[-1]:.3g} {unit}"
    judged = "" if most is None else "over" if statistics.median(values) > most else "ok"
    ROWS.append((name, text, len(values), aim, judged))
    print(f"  {name}: {text}  ({len(values)} runs; aim {aim}) {judged}", flush=True)


def skipped(name, needs, aim):
    ROWS.append((name, f"skipped: needs {needs}", 0, aim, ""))
    print(f"  {name}: skipped: needs {needs}", flush=True)


def cpu(cluster):
    """CPU seconds of all broker processes so far."""
    total = 0.0
    for broker in cluster.running():
        with open(f"/proc/{broker.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def rss(broker):
    with open(f"/proc/{broker.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


class FirstAck(threading.Thread):
    """Waits for the first acknowledgement of a record sent to an auto-created topic."""

    def __init__(self, bootstrap):
        super().__init__(daemon=True)
        self.bootstrap, self.at = bootstrap, None

    def run(self):
        client = kafka.producer(self.bootstrap, **{
            "retry.backoff.ms": 5, "retry.backoff.max.ms": 20, "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 20,
            "topic.metadata.refresh.fast.interval.ms": 10, "linger.ms": 0, "log_level": 0,
        })

        def delivered(error, _):
            if error is None and self.at is None:
                self.at = time.monotonic()

        client.produce("first", b"x", on_delivery=delivered)
        while self.at is None:
            client.poll(0.001)


def formation(brokers, runs):
    ready, acked = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as directory, Cluster(directory, brokers=brokers) as cluster:
            probe = FirstAck(cluster.bootstrap)
            begun = time.monotonic()
            cluster.start()
            wait.until(lambda: all(b.ready() for b in cluster.running()), "readiness", 60, 0.005)
            ready.append(time.monotonic() - begun)
            probe.start()
            probe.join(60)
            acked.append(probe.at - begun)
    return ready, acked


def succeeded(cluster, old, since):
    """Seconds from `since` until another broker says that it leads the partition."""

    def leads():
        for broker in cluster.running():
            if broker.id != old and any(p["topic"] == "t" and p["role"] == "leader"
                                        for p in json.loads(broker.http("/status?detail=true")[1])["partitions"]):
                return time.monotonic() - since
        return None

    return wait.until(leads, "a successor", 60, 0.001)


def failover(act, runs, partitions=1):
    """Longest pause between two acknowledgements while `act` takes the leader away, the failed sends, and how long the
    cluster itself took to have another leader."""
    gaps, failed, moved = [], 0, []
    with tempfile.TemporaryDirectory() as directory, Cluster(directory) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", partitions=partitions)
        for _ in range(runs):
            kafka.full_isr(cluster.bootstrap, "t")
            load = history.Workload(cluster.bootstrap, "t", rate=1000, **{"linger.ms": 0, "retry.backoff.ms": 5,
                                    "retry.backoff.max.ms": 20, "log_level": 0})
            load.start()
            load.wait_acks(300)
            load.longest_gap = 0.0
            victim = cluster[kafka.describe(cluster.bootstrap, "t")[0].leader]
            begun = time.monotonic()
            act(victim)
            moved.append(succeeded(cluster, victim.id, begun) * 1000)
            load.wait_acks(300)
            load.finish()
            gaps.append(load.longest_gap * 1000)
            failed += len(load.failed)
            victim.process.wait(60)
            victim.start()
            cluster.wait_ready(victim.id)
    return gaps, failed, moved


def idle(seconds):
    with tempfile.TemporaryDirectory() as directory, Cluster(directory) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t")
        time.sleep(3)
        before = cpu(cluster)
        time.sleep(seconds)
        share = 100 * (cpu(cluster) - before) / seconds / 3
        return share, [rss(b) for b in cluster.running()]


def produce_cost(brokers, replication, partitions, gib, consume):
    with tempfile.TemporaryDirectory() as directory, Cluster(directory, brokers=brokers) as cluster:
        cluster.start().wait_ready()
        kafka.create_topic(cluster.bootstrap, "t", partitions=partitions, replication=replication)
        records = int(gib * (1 << 20))
        before, begun = cpu(cluster), time.monotonic()
        kafka.java("org.apache.kafka.tools.ProducerPerformance", "--topic", "t", "--num-records", str(records), "--record-size",
                   "1024", "--throughput", "-1", "--bootstrap-server", cluster.bootstrap, "--command-property", "acks=all",
                   "batch.size=65536", "linger.ms=10", timeout=600)
        seconds = time.monotonic() - begun
        if consume:
            kafka.java("org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", cluster.bootstrap, "--topic", "t",
                       "--num-records", str(records), "--timeout", "60000", timeout=600)
        time.sleep(1)
        cost = (cpu(cluster) - before) / gib
        return cost, gib * 1024 / seconds, max(rss(b) for b in cluster.running())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each timing (default 5)")
    parser.add_argument("--gib", type=float, default=0.5, help="GiB produced per cost run (default 0.5)")
    parser.add_argument("--only", default="", help="comma-separated parts: formation,failover,idle,cost,operator")
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else ["formation", "failover", "idle", "cost", "operator"]
    if "formation" in parts:
        ready, acked = formation(3, options.runs)
        row("W10 three brokers: exec to all ready", ready, "s", "1.0, stretch 0.4", 1.0)
        row("W10 three brokers: exec to first RF=3 ack", acked, "s", "1.0, stretch 0.4", 1.0)
        ready, acked = formation(1, options.runs)
        row("W9 one broker: exec to ready", ready, "s", "0.1", 0.1)
        row("W9 one broker: exec to first ack", acked, "s", "0.1", 0.1)
    if "failover" in parts:
        gaps, _, moved = failover(lambda broker: broker.kill(), options.runs)
        row("W11 SIGKILL of the leader: another leads", moved, "ms", "-")
        row("W11 SIGKILL of the leader: pause between acks (librdkafka)", gaps, "ms", "p50 500", 500)
        gaps, failed, _ = failover(lambda broker: broker.stop(), options.runs)
        row(f"W11 SIGTERM of the leader: pause between acks ({failed} failed sends)", gaps, "ms", "50, 0 failed", 50 if not failed else 0)
    if "idle" in parts:
        share, memory = idle(20)
        row("W13 idle CPU per broker", [share], "% of a core", "0.1", 0.1)
        row("W13 idle RSS", memory, "MiB", "25", 25)
    if "cost" in parts:
        cost, speed, memory = zip(*[produce_cost(1, 1, 16, options.gib, False) for _ in range(3)])
        row("W1 RF=1 produce: broker CPU", cost, "CPU-s/GiB", "0.8", 0.8)
        row("W1 throughput (client included)", speed, "MiB/s", "-")
        cost, speed, memory = zip(*[produce_cost(3, 3, 16, options.gib, True) for _ in range(3)])
        row("W2 RF=3 acks=all + 1 consumer: CPU of 3 brokers", cost, "CPU-s/GiB", "3.5", 3.5)
        row("W2 throughput (client included)", speed, "MiB/s", "-")
        row("W13 RSS under load", memory, "MiB", "200", 200)
    if "operator" in parts:
        on_kubernetes.measure_or_skip(row, skipped, options.runs)
    print("\n| figure | min / median / max | runs | aim | |\n|---|---|---|---|---|")
    for name, text, count, aim, judged in ROWS:
        print(f"| {name} | {text} | {count} | {aim} | {judged} |")
    print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
