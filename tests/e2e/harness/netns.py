"""Network namespaces joined by a bridge, so that brokers can be cut off from each other as cables would.

The bridge lives in a hub namespace; every broker gets a namespace of its own with one veth into it. Tests run inside the
hub (see `inside`), so no packet of theirs ever reaches the machine's own network.
"""

import ctypes
import os
import subprocess
import threading

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


def enter(name):
    """Moves the calling thread (and all it starts) into namespace `name`."""
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        enter_descriptor(fd)
    finally:
        os.close(fd)


def enter_descriptor(fd):
    """Moves the calling thread into the network namespace that `fd` is open on."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def inside(name, function, *args):
    """Runs `function` in a thread of its own inside namespace `name` and returns or raises what it did."""
    outcome = {}

    def body():
        try:
            enter(name)
            outcome["value"] = function(*args)
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            outcome["error"] = error

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


class Network:
    """A hub and `count` hosts, 10.99.0.1 to 10.99.0.count, hub 10.99.0.254."""

    def __init__(self, count, prefix="ck"):
        self.prefix = f"{prefix}{os.getpid() % 100000}"
        self.hub = f"{self.prefix}h"
        self.count = count

    def host(self, index):
        """Namespace of host `index`, from 1."""
        return f"{self.prefix}n{index}"

    @staticmethod
    def address(index):
        return f"10.99.0.{index}"

    def __enter__(self):
        _run("ip", "netns", "add", self.hub)
        self._in(self.hub, "ip", "link", "add", "br0", "type", "bridge")
        self._in(self.hub, "ip", "addr", "add", f"{self.address(254)}/24", "dev", "br0")
        self._in(self.hub, "ip", "link", "set", "br0", "up")
        self._in(self.hub, "ip", "link", "set", "lo", "up")
        for index in range(1, self.count + 1):
            self.add_host(index)
        return self

    def add_host(self, index):
        name, port = self.host(index), f"p{index}"
        _run("ip", "netns", "add", name)
        self._in(self.hub, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._in(self.hub, "ip", "link", "set", port, "master", "br0", "up")
        self._in(name, "ip", "link", "set", "lo", "up")
        self._in(name, "ip", "addr", "add", f"{self.address(index)}/24", "dev", "eth0")
        self._in(name, "ip", "link", "set", "eth0", "up")

    def __exit__(self, *_):
        for name in [self.host(i) for i in range(1, self.count + 1)] + [self.hub]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    @staticmethod
    def _in(name, *command):
        _run("nsenter", f"--net=/run/netns/{name}", *command)

    def change_address(self, index, last_octet):
        """Gives host `index` another address, as a pod that moved gets."""
        name = self.host(index)
        self._in(name, "ip", "addr", "flush", "dev", "eth0")
        self._in(name, "ip", "addr", "add", f"{self.address(last_octet)}/24", "dev", "eth0")

    def cut(self, index, peer):
        """Packets from `peer` no longer reach host `index` (one way)."""
        self._in(self.host(index), "iptables", "-A", "INPUT", "-s", self.address(peer), "-j", "DROP")

    def cut_both(self, index, peer):
        """Nothing passes between the two hosts any more."""
        self.cut(index, peer)
        self.cut(peer, index)

    def isolate(self, index):
        """Host `index` is cut from all other hosts, but not from the hub, so that its admin port still answers."""
        for peer in range(1, self.count + 1):
            if peer != index:
                self.cut_both(index, peer)

    def refuse(self, index, port):
        """Connections to `port` of host `index` are refused, as a wrong port is."""
        self._in(self.host(index), "iptables", "-A", "INPUT", "-p", "tcp", "--dport", str(port), "-j", "REJECT",
                 "--reject-with", "tcp-reset")

    def cut_address(self, index, address):
        """Packets from `address` no longer reach host `index`."""
        self._in(self.host(index), "iptables", "-A", "INPUT", "-s", address, "-j", "DROP")

    def hide(self, index):
        """Clients in the hub no longer reach host `index`; the other hosts do."""
        self.cut_address(index, self.address(254))

    def lose(self, index, fraction):
        """A part of the packets that other hosts and the hub send to host `index` is lost."""
        self._in(self.host(index), "iptables", "-A", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random",
                 "--probability", f"{fraction:.3f}", "-j", "DROP")

    def slow(self, index, delay_ms, kbit):
        """What host `index` sends is late: by `delay_ms` where the kernel has netem, else by a queue in front of `kbit`/s."""
        inside = ["nsenter", f"--net=/run/netns/{self.host(index)}", "tc", "qdisc", "replace", "dev", "eth0", "root"]
        netem = [*inside, "netem", "delay", f"{delay_ms}ms", f"{delay_ms // 3}ms"]
        if subprocess.run(netem, check=False, capture_output=True).returncode != 0:
            _run(*inside, "tbf", "rate", f"{kbit}kbit", "burst", "16kb", "latency", f"{4 * delay_ms}ms")

    def heal(self):
        """All cables back, and fast."""
        for index in range(1, self.count + 1):
            self._in(self.host(index), "iptables", "-F")
            tc = ["nsenter", f"--net=/run/netns/{self.host(index)}", "tc", "qdisc", "del", "dev", "eth0", "root"]
            subprocess.run(tc, check=False, capture_output=True)
