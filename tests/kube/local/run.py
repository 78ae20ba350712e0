"""One run of the local Kubernetes: its folder, its identity, and whether it still lives.

`up` creates a Run under a lock, `init` reads it, `down` ends it. The folder holds everything the run ever writes. Processes
are known by pid and start time, so that a number the kernel gave to somebody else is never signalled.
"""

import json
import os
import subprocess
import time
from pathlib import Path

BASE = Path(os.environ.get("CHRONIK_KUBE_RUNS", "/var/tmp"))
PREFIX = "chronik-kube-"
SERVICES = "10.96.0.0/16"


def start_time(pid):
    """When a process began, in clock ticks since boot; None when there is none (or only its remains)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] in "ZX" else int(stat[19])


def alive(pid, started):
    return bool(pid) and start_time(pid) == started


class Run:
    """The facts of one run; `save` writes them to run.json."""

    def __init__(self, directory):
        self.dir = Path(directory)
        self.facts = json.loads((self.dir / "run.json").read_text()) if (self.dir / "run.json").exists() else {}

    @classmethod
    def create(cls, name, owner):
        """A new folder and a network nobody on this machine uses. `owner` is the pid that the run may not outlive, or None."""
        run = cls(BASE / (PREFIX + name))
        run.dir.mkdir(parents=True)
        run.dir.chmod(0o755)
        taken = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
        number = next(n for n in range(1, 250) if f" 10.243.{n}." not in taken)
        run.facts = {
            "name": name,
            "owner": owner,
            "owner_started": start_time(owner) if owner else None,
            "number": number,
            "link": f"ck-{name}"[:13],
        }
        for sub in ("pki", "conf", "log", "etcd", "volumes"):
            (run.dir / sub).mkdir()
        run.save()
        return run

    @classmethod
    def all(cls):
        return [cls(path) for path in sorted(BASE.glob(PREFIX + "*")) if path.is_dir()]

    def save(self):
        temporary = self.dir / "run.json.new"
        temporary.write_text(json.dumps(self.facts, indent=1))
        temporary.replace(self.dir / "run.json")

    def stale(self):
        """Nobody will end this run any more: its processes are gone, or the test that owned it is."""
        owner = self.facts.get("owner")
        if owner and not alive(owner, self.facts.get("owner_started")):
            return True
        return not self.running()

    def running(self):
        return alive(self.facts.get("pid"), self.facts.get("started"))

    @property
    def name(self):
        return self.facts.get("name", self.dir.name.removeprefix(PREFIX))

    @property
    def cgroup(self):
        return PREFIX + self.name

    @property
    def kubeconfig(self):
        return self.dir / "kubeconfig"

    def address(self, node):
        """Node 1 is one hop from the host, node 2 is behind it."""
        return {0: f"10.243.{self.facts['number']}.1", 1: f"10.243.{self.facts['number']}.2", 2: f"10.243.{self.facts['number']}.6"}[node]

    @property
    def inner_gateway(self):
        return f"10.243.{self.facts['number']}.5"

    def node_dir(self, node):
        return self.dir / f"node-{node}"

    def socket(self, node):
        """containerd's socket; short, because the path of a socket may have 107 characters."""
        return self.node_dir(node) / "containerd.sock"

    def init_pid(self):
        """The first process in the namespaces, as seen from the host."""
        outer = self.facts["pid"]
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0]) if children else None

    def inside(self, *command, node=1, mount=True):
        """`command`, to be run in the namespaces of a node."""
        pid = self.init_pid()
        enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        if node == 2:
            enter = ["nsenter", f"--net=/proc/{self.host_pid(self.facts_of_init()['node-2'])}/ns/net"]
        if mount:
            enter.append(f"--mount=/proc/{pid}/ns/mnt")
        return [*enter, "--", *map(str, command)]

    def facts_of_init(self):
        return json.loads((self.dir / "inner.json").read_text())

    def host_pid(self, inner):
        """The host's number of a process that the run knows by its number in the PID namespace."""
        for pid in self.processes():
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
            except (OSError, StopIteration):
                continue
            if int(numbers[-1]) == inner:
                return pid
        raise LookupError(f"process {inner} of {self.name} is gone")

    def processes(self):
        """Host pids of everything in the run's PID namespace, containers included."""
        space, found = self.facts.get("pid_namespace"), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "ns/pid") == space:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def wait(condition, what, timeout, pause=0.05):
    """Waits until `condition` gives something true and returns it."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(pause)
