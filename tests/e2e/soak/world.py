"""One generation: brokers in network namespaces, each on an ext4 image of its own, and everything that must be gone afterwards.

`runner` opens a `World` per generation. Whatever it makes is under its directory or named with its prefix, so that
`leftovers` can remove it even after the runner itself was killed.
"""

import os
import signal
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

from harness import dns, netns, wait
from harness.cluster import Cluster
from harness.disk import Image

PREFIX = "cks"
SERVICE = "chronik-headless.soak.svc.cluster.test"
IMAGE_MEGABYTES = 768
CGROUPS = Path("/sys/fs/cgroup")


class SoakCluster(Cluster):
    """Brokers that join by static peers or by the name of a headless service."""

    def __init__(self, directory, shape, network):
        self.shape, self.stack = shape, ExitStack()
        super().__init__(directory, brokers=shape.brokers, network=network, **shape.config)
        self.bootstrap_voters = list(range(1, shape.voters + 1))
        self.images = {}
        for node, broker in self.brokers.items():
            self.images[node] = self.stack.enter_context(Image(broker.dir, IMAGE_MEGABYTES))
            broker.data = self.images[node].mount / "data"

    def membership(self, broker):
        if not self.shape.named:
            return super().membership(broker)
        joins = broker.id not in self.bootstrap_voters
        return {
            "discovery.service": SERVICE, "discovery.dns.server": f"{self.network.address(254)}:53",
            "bootstrap.voters": None if joins else self.bootstrap_voters, "join": joins,
        }

    def __exit__(self, kind, *rest):
        super().__exit__(None, *rest)
        self.stack.close()


class MemoryLimit:
    """The memory cgroup of one broker; version 1 and 2."""

    def __init__(self, name):
        one = CGROUPS / "memory"
        self.version = 1 if one.is_dir() else 2
        self.path = (one if self.version == 1 else CGROUPS) / name
        self.key = "memory.limit_in_bytes" if self.version == 1 else "memory.max"

    def set(self, pid, limit):
        self.path.mkdir(exist_ok=True)
        (self.path / self.key).write_text(str(limit))
        (self.path / "cgroup.procs").write_text(str(pid))

    def lift(self):
        if not self.path.exists():
            return
        (self.path / self.key).write_text("-1" if self.version == 1 else "max")
        for pid in (self.path / "cgroup.procs").read_text().split():
            try:
                (self.path.parent / "cgroup.procs").write_text(pid)
            except OSError:
                pass  # it ended meanwhile
        self.path.rmdir()


class World:
    """A cluster with its network, disks, names and limits; the calling thread is inside the hub meanwhile."""

    def __init__(self, directory, shape, record):
        self.dir, self.shape, self.record = directory, shape, record
        self.topics = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def __enter__(self):
        self.dir.mkdir(parents=True)
        with self._stack as stack:
            self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
            stack.callback(os.close, self._home)
            self.network = stack.enter_context(netns.Network(self.shape.brokers, PREFIX))
            stack.callback(netns.enter_descriptor, self._home)
            netns.enter(self.network.hub)
            self.zone = stack.enter_context(dns.Server(self.network.address(254), 53)).zone
            self.cluster = stack.enter_context(SoakCluster(self.dir, self.shape, self.network))
            self.limits = {}
            for node in self.cluster.brokers:
                self.limits[node] = MemoryLimit(f"{self.network.prefix}m{node}")
                stack.callback(self.limits[node].lift)
            self.publish()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def publish(self):
        """Tells DNS where the brokers are."""
        names = {node: f"chronik-{node - 1}.{SERVICE}" for node in self.cluster.brokers}
        for node, name in names.items():
            self.zone.set_host(name, self.cluster[node].host)
        self.zone.set_service(SERVICE, [(name, 9192) for name in names.values()])

    def move(self, node):
        """Another address for a broker that does not run."""
        broker = self.cluster[node]
        octet = self._other(broker)
        self.network.change_address(node, octet)
        broker.host = self.network.address(octet)
        self.publish()

    @staticmethod
    def _other(broker):
        """The address it moves to and back."""
        octet = int(broker.host.rpartition(".")[2])
        return octet + 100 if octet < 100 else octet - 100

    def bootstrap(self):
        return self.cluster.bootstrap

    def bootstrap_for_long(self):
        """For a client that outlives moves: when all brokers move before it hears of any, it knows nobody but whom it began with."""
        others = [f"{self.network.address(self._other(b))}:{b.kafka_port}" for b in self.cluster.brokers.values()]
        return ",".join([self.cluster.bootstrap, *others])

    def kafka_addresses(self):
        return {node: (b.host, b.kafka_port) for node, b in self.cluster.brokers.items()}


def leftovers(directory):
    """Removes what a killed runner left: processes of ours, mounts, namespaces, cgroups. Says what it removed."""
    removed = []
    marker = f"{directory}/"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"run" in words and any(w.startswith(marker.encode()) and w.endswith(b"broker.yaml") for w in words):
            os.kill(int(path.parent.name), signal.SIGKILL)
            removed.append(f"process {path.parent.name}")
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in [m for m in mounts if m.startswith(marker)]:
        subprocess.run(["umount", "-l", mount], check=False)
        removed.append(mount)
    prefix = Path(directory, "prefix")
    if prefix.exists():
        name = prefix.read_text().strip()
        for host in Path("/run/netns").glob(f"{name}[hn]*"):
            subprocess.run(["ip", "netns", "del", host.name], check=False)
            removed.append(f"namespace {host.name}")
        for root in (CGROUPS / "memory", CGROUPS):
            for group in root.glob(f"{name}m*"):
                wait.until(lambda g=group: g.rmdir() is None, f"{group} to be empty", 30)
                removed.append(f"cgroup {group.name}")
    return removed
