"""Clusters of real broker processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml

from . import wait

BROKER = os.environ.get("CHRONIK_BROKER", "chronik-broker")
CLUSTER_ID = "e2e-cluster"
# Below the ports that the system gives to connections (32768 and up): a client's could be one that a broker needs.
_next_port = [11000 + (os.getpid() * 40) % 16000]


def free_ports(count):
    """Ports nobody listens on now and no other cluster of this run was given."""
    ports = []
    while len(ports) < count:
        _next_port[0] += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", _next_port[0]))
                ports.append(_next_port[0])
            except OSError:
                pass
    return ports


def free_range(count):
    """The first of `count` such ports in a row."""
    while True:
        ports = free_ports(count)
        if ports[-1] - ports[0] == count - 1:
            return ports[0]


def get(url, timeout=20.0):
    """Body of a GET, also of one that answers 503 (health and doctor do)."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def undisturbed():
    """Interrupts wait until this is over: what was started in it is known to who has to end it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


class Broker:
    """One broker process: its configuration, its directory, its signals."""

    def __init__(self, cluster, node, host, ports, netns=None):
        self.cluster, self.id, self.host, self.netns = cluster, node, host, netns
        self.kafka_port, self.raft_port, self.replication_port, self.admin_port = ports
        self.dir = cluster.dir / f"broker-{node}"
        self.dir.mkdir(parents=True, exist_ok=True)
        self.data = self.dir / "data"
        self.log_path = self.dir / "broker.log"
        self.overrides = {}
        self.environment = {}
        self.process = None

    @property
    def kafka(self):
        return f"{self.host}:{self.kafka_port}"

    @property
    def admin(self):
        return f"{self.host}:{self.admin_port}"

    def write_config(self):
        config = {
            "cluster.id": CLUSTER_ID,
            "node.id": self.id,
            "data.dir": str(self.data),
            "bind.address": self.host,
            "advertised.host": self.host,
            "kafka.port": self.kafka_port,
            "raft.port": self.raft_port,
            "replication.port": self.replication_port,
            "admin.port": self.admin_port,
            "group.initial.rebalance.delay.ms": 0,
            **self.cluster.membership(self),
            **self.cluster.config,
            **self.overrides,
        }
        path = self.dir / "broker.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
        return path

    def start(self):
        """Starts the process; does not wait for anything."""
        assert self.process is None or self.process.poll() is not None, f"broker {self.id} runs already"
        command = [BROKER, "run", "--config", str(self.write_config())]
        if self.netns:
            command = ["nsenter", f"--net=/run/netns/{self.netns}", *command]
        with open(self.log_path, "ab") as log:
            log.write(b"---- start\n")
            log.flush()
            with undisturbed():
                self.process = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment}
                )
        return self

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL, and the process is gone when this returns."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=120):
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def wipe(self):
        """The disk is replaced by an empty one."""
        assert not self.running
        shutil.rmtree(self.data, ignore_errors=True)

    def http(self, path, timeout=20.0):
        return get(f"http://{self.admin}{path}", timeout)

    def http_json(self, path, timeout=20.0):
        code, body = self.http(path, timeout)
        assert code == 200, body
        return json.loads(body)

    def status(self):
        return self.http_json("/status")

    def ready(self):
        return self.running and self.http("/readyz")[0] == 200

    def doctor(self, timeout=60.0):
        """The doctor's findings, as a list of dicts."""
        _, body = self.http("/doctor?format=json", timeout)
        return json.loads(body)["findings"]

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Cluster:
    """Brokers that know each other by static peers (or whatever `membership` of a subclass says)."""

    def __init__(self, directory, brokers=3, network=None, **config):
        self.dir = Path(directory)
        self.config = config
        self.network = network
        self.bootstrap_voters = list(range(1, brokers + 1))
        self.brokers = {}
        for node in self.bootstrap_voters:
            self.add(node)

    def add(self, node):
        """Another broker, not started yet."""
        if self.network:
            host, ports, netns = self.network.address(node), (9092, 9192, 9292, 9392), self.network.host(node)
        else:
            host, ports, netns = "127.0.0.1", free_ports(4), None
        self.brokers[node] = Broker(self, node, host, ports, netns)
        return self.brokers[node]

    def membership(self, broker):
        """How `broker` finds its peers: configuration keys."""
        joins = broker.id not in self.bootstrap_voters
        return {
            "peers": [{"id": b.id, "host": b.host, "raft.port": b.raft_port} for b in self.brokers.values()],
            "bootstrap.voters": None if joins else self.bootstrap_voters,
            "join": joins,
        }

    def __getitem__(self, node):
        return self.brokers[node]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for broker in self.brokers.values():
            if broker.running:
                broker.signal(signal.SIGCONT)
                broker.signal(signal.SIGKILL)
                broker.process.wait()
        if kind is not None:
            for broker in self.brokers.values():
                print(f"==== log of broker {broker.id} (last 60 lines)")
                print("\n".join(broker.log().splitlines()[-60:]))

    def start(self):
        for broker in self.brokers.values():
            broker.start()
        return self

    def running(self):
        return [b for b in self.brokers.values() if b.running]

    def wait_ready(self, *nodes, timeout=120):
        for node in nodes or self.brokers:
            broker = self.brokers[node]
            wait.until(broker.ready, f"broker {node} to be ready", timeout)
        return self

    def kill_all(self):
        for broker in self.running():
            broker.signal(signal.SIGKILL)
        for broker in self.brokers.values():
            if broker.process:
                broker.process.wait()

    @property
    def bootstrap(self):
        return ",".join(b.kafka for b in self.brokers.values())

    def raft_leader(self, timeout=120):
        """The node that leads the metadata quorum, as a majority of running brokers agree."""

        def agreed():
            votes = {}
            for broker in self.running():
                try:
                    leader = broker.http_json("/status", 5.0)["raft"]["leader"]
                except OSError:
                    continue
                votes[leader] = votes.get(leader, 0) + 1
            leader, count = max(votes.items(), key=lambda item: item[1], default=(None, 0))
            return leader if leader and count > len(self.bootstrap_voters) // 2 else None

        return wait.until(agreed, "a leader that a majority agrees on", timeout)
