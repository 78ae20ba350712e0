"""The first process in the namespaces of a run: starts every component, collects dead ones, and takes all with it when it ends.

Started by `up` through unshare(1) as `python3 -m local.init FOLDER BINARIES`. Order: mounts, networks, etcd and containerd,
API server, everything else. Writes inner.json (numbers of the processes), then `ready` or `failed`. Never touches a file
or a setting outside of its folder and its namespaces.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from . import config
from .api import Api
from .run import SERVICES, Run, wait

BEGIN = time.monotonic()
# kubelet insists on these and would set them for the whole machine; it finds them as it likes them.
WANTED_SYSCTLS = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
                  "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"}


def say(what):
    print(f"{what:<44} {time.monotonic() - BEGIN:6.2f} s", flush=True)


def sh(*command):
    subprocess.run([str(c) for c in command], check=True, stdin=subprocess.DEVNULL)


class Init:
    def __init__(self, run, binaries):
        self.run, self.binaries = run, binaries
        self.pids = {}
        self.commands = config.commands(run, binaries)
        for node in (1, 2):
            self.commands |= config.node_commands(run, binaries, node)

    def mounts(self):
        for path in ("/run", "/var/log", "/var/lib"):
            sh("mount", "-t", "tmpfs", "-o", "mode=755", "chronik-kube", path)
        # Clients that tests run in here find pods by name; components bring their own addresses.
        resolver = Path(os.path.realpath("/etc/resolv.conf"))
        resolver.parent.mkdir(parents=True, exist_ok=True)
        if not resolver.exists():
            resolver.touch()
        sh("mount", "--bind", self.run.dir / "conf" / "client-resolv.conf", resolver)
        masks = self.run.dir / "conf" / "sysctl"
        for name, value in WANTED_SYSCTLS.items():
            mask = masks / name
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.write_text(value + "\n")
            if Path("/proc/sys", name).exists():
                sh("mount", "--bind", mask, f"/proc/sys/{name}")

    def networks(self):
        """node 1 <-> host, node 1 <-> node 2. What has no route ends on a bridge without ports: nothing leaves."""
        run = self.run
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self.pids["node-2"] = holder.pid
        mine = os.readlink("/proc/self/ns/net")
        wait(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != mine, "the network of node 2", 60)
        one, two = [], self.enter(2)
        wait(lambda: Path("/proc/1/net/dev").read_text().find("eth0") >= 0, "the link to the host", 60)
        sh("ip", "link", "add", "to-node-2", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        for prefix, addresses, routes in (
            (one, {"eth0": f"{run.address(1)}/30", "to-node-2": f"{run.inner_gateway}/30"}, {config.PODS[2]: run.address(2)}),
            (two, {"eth0": f"{run.address(2)}/30"}, {config.PODS[1]: run.inner_gateway, f"{run.address(0)}/30": run.inner_gateway}),
        ):
            source = run.address(1) if prefix is one else run.address(2)
            sh(*prefix, "ip", "link", "set", "lo", "up")
            for link, address in addresses.items():
                sh(*prefix, "ip", "addr", "add", address, "dev", link)
                sh(*prefix, "ip", "link", "set", link, "up")
            sh(*prefix, "ip", "link", "add", "sink", "type", "bridge")
            sh(*prefix, "ip", "link", "set", "sink", "up")
            for destination, via in routes.items():
                sh(*prefix, "ip", "route", "add", _network(destination), "via", via)
            for destination in (SERVICES, "default"):
                sh(*prefix, "ip", "route", "add", destination, "dev", "sink", "src", source)
            sh(*prefix, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter")

    def enter(self, node):
        return [] if node == 1 else ["nsenter", f"--net=/proc/{self.pids['node-2']}/ns/net"]

    def start(self, name):
        node = int(name[-1]) if name[-1] in "12" else 1
        with open(self.run.dir / "log" / f"{name}.log", "ab") as log:
            command = ["nice", "-n", "5", *self.enter(node), *map(str, self.commands[name])]
            # containerd's children are containers: they must not inherit the lowered priority's log, only its niceness.
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.run.dir)
        self.pids[name] = process.pid

    def start_all(self):
        run = self.run
        for name in ("etcd", "containerd-1", "containerd-2"):
            self.start(name)
        wait(_etcd_healthy, "etcd", 120)
        say("etcd answers")
        self.start("kube-apiserver")
        for node in (1, 2):
            socket = run.socket(node)
            wait(lambda s=socket: s.exists() and not subprocess_fails("ctr", "-a", s, "version"), f"containerd of node {node}", 120)
        say("containerd answers")
        api = Api.of(run)
        wait(lambda: _ready(api), "the API server", 240)
        say("API server ready")
        for name in ("kube-controller-manager", "kube-scheduler", "coredns", "kubelet-1", "kubelet-2", "kube-proxy-1", "kube-proxy-2", "volumes"):
            self.start(name)
        wait(lambda: _nodes_ready(api), "two nodes to be Ready", 240, 0.1)
        say("two nodes Ready")
        wait(lambda: _exists(api, "/api/v1/namespaces/default/serviceaccounts/default"), "the default service account", 120)
        wait(lambda: _exists(api, "/apis/storage.k8s.io/v1/storageclasses/local-disk"), "the storage class", 120)
        say("default service account and storage class")
        (run.dir / "inner.json").write_text(json.dumps(self.pids))
        (run.dir / "ready").touch()

    def main(self):
        self.commands["volumes"] = [sys.executable, "-m", "local.volumes", self.run.dir]
        self.mounts()
        self.networks()
        say("namespaces, mounts and networks")
        starter = threading.Thread(target=self._start, daemon=True)
        starter.start()
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.1)
                continue
            name = next((n for n, p in self.pids.items() if p == pid), None)
            if name:
                self._fail(f"{name} ended with {os.waitstatus_to_exitcode(status)}; see {self.run.dir}/log/{name}.log")

    def _start(self):
        try:
            self.start_all()
        except Exception as error:  # noqa: BLE001 - whatever it is, `up` must hear of it
            self._fail(repr(error))

    def _fail(self, why):
        say(f"FAILED: {why}")
        with open(self.run.dir / "failed", "a", encoding="utf-8") as out:
            out.write(why + "\n")
        if not (self.run.dir / "ready").exists():
            os._exit(1)


def subprocess_fails(*command):
    """Runs a command through the shell of its own session; the reaper may collect it, so that its output decides."""
    return "Server:" not in subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.read()


def _network(destination):
    address, _, bits = destination.partition("/")
    return f"{address.rpartition('.')[0]}.0/{bits}" if bits == "30" else destination


def _etcd_healthy():
    try:
        return urllib.request.urlopen("http://127.0.0.1:2379/health", timeout=2).status == 200
    except OSError:
        return False


def _ready(api):
    try:
        return api.get("/readyz") == "ok"
    except Exception:  # noqa: BLE001 - refused, TLS not set up, 500 while hooks run: not ready
        return False


def _exists(api, path):
    try:
        return api.get(path)
    except Exception:  # noqa: BLE001
        return None


def _nodes_ready(api):
    ready = 0
    for node in (_exists(api, "/api/v1/nodes") or {}).get("items") or []:
        ready += any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    return ready == 2


if __name__ == "__main__":
    Init(Run(sys.argv[1]), sys.argv[2]).main()
