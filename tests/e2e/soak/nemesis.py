"""Does to brokers what `plan` drew, and undoes it.

`runner` calls `Nemesis.run` with a round's actions while clients work, then `Nemesis.heal`. Each action has a beginning and an
end, both on one time line and in one thread. What a step finds already so (a dead broker to kill) it leaves so. A step that is
the point of its action says whether it did anything: `done` counts what was done, `undone` what found nothing to do.
Everything begun and ended stands in the history as `fault`.
"""

import resource
import signal
import socket
import time
from collections import Counter
from pathlib import Path

from harness import raw

from . import rot

MEMORY_LIMIT = 400 << 20
# Exit codes of the README that a broker may end with when its disk was taken from under it.
DISK_TROUBLE_CODES = (0, 65, 75)
# The one with which it refuses files that it does not understand.
REFUSED = 65
# How long a damage waits for the others to hold everything.
OTHERS_WITHIN = 4


class Nemesis:
    def __init__(self, world, stop):
        self.world, self.cluster, self.network, self.record = world, world.cluster, world.network, world.record
        self.stop = stop
        self.down, self.started, self.log_length = {}, {}, {}
        self.stopping_brokers = {}
        self.disk_trouble, self.starved, self.failures = set(), set(), []
        self.rotten, self.done, self.undone = {}, Counter(), Counter()
        self.resolved, self.sockets, self.limits = {}, {}, {}

    # -- the time line

    def begin_round(self):
        """Troubles of the round before are over."""
        for noted in (self.disk_trouble, self.starved, self.rotten, self.done, self.undone):
            noted.clear()

    def run(self, actions):
        begun = time.monotonic()
        line = []
        for index, action in enumerate(actions):
            line.append((action.at, index, "begin", action))
            line.append((action.at + action.seconds, index, "end", action))
        for at, index, phase, action in sorted(line, key=lambda step: step[:2]):
            while (left := begun + at - time.monotonic()) > 0 and not self.stop.is_set():
                self.watch()
                self.stop.wait(min(left, 0.5))
            if self.stop.is_set():
                return
            self._step(index, phase, action)

    def _step(self, index, phase, action):
        name = action.kind.replace("-", "_")
        if phase == "begin":
            self.resolved[index] = tuple(self._resolve(n) for n in action.nodes)
        nodes = self.resolved[index]
        self.record("fault", phase=phase, kind=action.kind, nodes=nodes, args=action.args)
        handler = getattr(self, f"_{phase}_{name}", None) or getattr(self, f"_{phase}_default", None)
        did = handler(nodes, action.args)
        if did is not None:
            (self.done if did else self.undone)[action.kind] += 1
        if did is False:
            self.record("fault", phase="nothing", kind=action.kind, nodes=nodes, args={})

    def _resolve(self, node):
        """Node ids of roles; nobody in the role means anybody."""
        if isinstance(node, int):
            return node
        role, _, place = node.partition(":")
        for broker in self.cluster.running():
            try:
                if role == "controller":
                    leader = broker.http_json("/status", 1.0)["raft"]["leader"]
                else:
                    topic, _, partition = place.partition("/")
                    connection = raw.Connection(broker.host, broker.kafka_port, 1.0)
                    try:
                        leader = connection.metadata()[topic][int(partition)].leader
                    finally:
                        connection.close()
            except (OSError, LookupError, AssertionError, ValueError):
                continue
            if leader in self.cluster.brokers:
                return leader
        return min(self.cluster.brokers)

    # -- processes

    def watch(self):
        """Brokers that ended by themselves."""
        for node, broker in self.cluster.brokers.items():
            if broker.process is None or broker.running or node in self.down or node in self.stopping_brokers:
                continue
            code = broker.process.returncode
            self.down[node] = "ended by itself"
            self.record("ended", node=node, code=code)
            if node in self.rotten and code == REFUSED:
                self._refused(node)
                continue
            if node not in self.disk_trouble or code not in DISK_TROUBLE_CODES:
                self.failures.append(f"broker {node} ended by itself with {code}")

    def kill(self, node):
        broker = self.cluster[node]
        self.watch()
        if not broker.running:
            return False
        self.down[node] = "killed"
        self.stopping_brokers.pop(node, None)
        broker.kill()
        return True

    def start(self, node):
        """Whether it was started now."""
        broker = self.cluster[node]
        self.watch()
        if node in self.stopping_brokers:
            self._await_stop(node)
        if broker.running:
            return False
        if broker.environment.pop("WIPED", None):
            broker.wipe()
        self.log_length[node] = len(broker.log())
        broker.start()
        self.started[node] = time.monotonic()
        self.down.pop(node, None)
        return True

    def term(self, node):
        broker = self.cluster[node]
        if not broker.running or node in self.stopping_brokers:
            return False
        self.stopping_brokers[node] = time.monotonic()
        broker.signal(signal.SIGCONT)
        broker.signal(signal.SIGTERM)
        return True

    def _await_stop(self, node, limit=90):
        """The end of a broker that was asked to stop: in time, and with the right code."""
        broker, begun = self.cluster[node], self.stopping_brokers.get(node, time.monotonic())
        # A pause that began after the request holds up neither the end nor, below, its being forced.
        broker.signal(signal.SIGCONT)
        while broker.running and time.monotonic() < begun + limit:
            time.sleep(0.05)
        self.stopping_brokers.pop(node, None)
        self.down[node] = "stopped"
        if broker.running:
            self.failures.append(f"broker {node} does not stop within {limit} s of SIGTERM")
            broker.signal(signal.SIGABRT)
            broker.signal(signal.SIGCONT)
            broker.process.wait()
        code = broker.process.returncode
        self.record("stopped", node=node, code=code, seconds=round(time.monotonic() - begun, 3))
        if node in self.rotten and code == REFUSED:
            self._refused(node)
            return
        if code == -signal.SIGTERM and begun - self.started.get(node, 0.0) < 3:
            return  # the signal came before the process could handle any
        if code != 0 and not ((node in self.disk_trouble or node in self.starved) and code in DISK_TROUBLE_CODES):
            self.failures.append(f"broker {node} ended with {code} after SIGTERM")

    def _begin_default(self, nodes, _):
        return any([self.kill(node) for node in nodes])

    def _end_default(self, nodes, _):
        for node in nodes:
            self.start(node)

    def _begin_term(self, nodes, _):
        return self.term(nodes[0])

    def _begin_rolling(self, nodes, _):
        did = False
        for node in nodes:
            did |= self.term(node)
            self.start(node)
            self.stop.wait(1.0)
        return did

    def _begin_pause(self, nodes, _):
        running = [self.cluster[node] for node in nodes if self.cluster[node].running]
        for broker in running:
            broker.pause()
        return bool(running)

    def _end_pause(self, nodes, _):
        for node in nodes:
            if self.cluster[node].running:
                self.cluster[node].resume()

    _begin_pause_many, _end_pause_many = _begin_pause, _end_pause

    def _stopped(self, nodes, _):
        """The beginning of what is done while the broker is down."""
        self.kill(nodes[0])

    _begin_clock = _begin_move = _stopped

    def _end_clock(self, nodes, args):
        """Its wall clock differs by this from now on; a process does not see it jump, the others and its files do."""
        # Somebody may have started it meanwhile.
        self.kill(nodes[0])
        self.cluster[nodes[0]].environment["CHRONIK_TEST_CLOCK_OFFSET_MS"] = str(args["offset_ms"])
        return self.start(nodes[0])

    def _end_move(self, nodes, _):
        self.kill(nodes[0])
        self.world.move(nodes[0])
        return self.start(nodes[0])

    # -- disks

    def _begin_power(self, nodes, _):
        for node in nodes:
            self.disk_trouble.add(node)
            self.cluster.images[node].power_cut()
        for node in nodes:
            self.kill(node)
        return True

    def _end_power(self, nodes, _):
        for node in nodes:
            # A broker that was started meanwhile works on a disk without power.
            self.kill(node)
            self.cluster.images[node].power_on()
            self.start(node)

    _begin_power_all, _end_power_all = _begin_power, _end_power

    def _begin_full(self, nodes, _):
        self.disk_trouble.add(nodes[0])
        return self.cluster.images[nodes[0]].reserve() is not None

    def _end_full(self, nodes, _):
        self.cluster.images[nodes[0]].release()
        self.restart_if_offline(nodes[0])

    def restart_if_offline(self, node):
        """What cures a log directory that was taken offline."""
        broker = self.cluster[node]
        try:
            asked = broker.running and node not in self.stopping_brokers
            status = broker.http_json("/status", 2.0) if asked else None
        except (OSError, AssertionError, ValueError):
            return False
        if status and (status["log_dir"]["state"] == "offline" or status["raft"]["failure"]):
            self.disk_trouble.add(node)
            self.record("fault", phase="cure", kind="offline", nodes=[node], args={"reason": status["log_dir"]["reason"]})
            self.term(node)
            self.start(node)
            return True
        return False

    def _begin_wipe(self, nodes, _):
        self.kill(nodes[0])
        self.cluster[nodes[0]].environment["WIPED"] = "1"
        return True

    def _begin_rot(self, nodes, args):
        """Damages a file, if all that was acknowledged is with others: who loses the end of a log loses what only it had."""
        node = nodes[0]
        broker = self.cluster[node]
        self.kill(node)
        if "WIPED" in broker.environment or not self._others_hold_everything(node):
            return False
        what = rot.damage(broker.data, **args)
        if what:
            self.rotten[node] = what
            self.record("fault", phase="rotten", kind="rot", nodes=nodes, args=what)
        return bool(what)

    def _others_hold_everything(self, node):
        """Whether all others soon have applied the same metadata and are in sync for whatever they replicate."""
        deadline = time.monotonic() + OTHERS_WITHIN
        others = [broker for n, broker in self.cluster.brokers.items() if n != node]
        while time.monotonic() < deadline and not self.stop.is_set():
            self.watch()
            try:
                if all(broker.running for broker in others) and self._in_sync(others):
                    return True
            except (OSError, LookupError, AssertionError, ValueError):
                pass
            self.stop.wait(0.3)
        return False

    @staticmethod
    def _in_sync(brokers):
        status = [broker.http_json("/status", 1.0)["raft"] for broker in brokers]
        if len({(s["leader"], s["term"], s["applied"], s["metadata_hash"]) for s in status}) > 1:
            return False
        nodes = {broker.id for broker in brokers}
        connection = raw.Connection(brokers[0].host, brokers[0].kafka_port, 1.0)
        try:
            partitions = [p for ps in connection.metadata().values() for p in ps]
        finally:
            connection.close()
        return status[0]["leader"] in nodes and all(p.leader in nodes and nodes & set(p.replicas) <= set(p.isr) for p in partitions)

    def _refused(self, node):
        """A broker does not start on what its disk has left: with words that tell which file, and for good, so that who operates it
        gives it an empty disk."""
        what, said = self.rotten.pop(node), self.cluster[node].log()[self.log_length.get(node, 0):]
        if Path(what["file"]).name not in said and what["file"].split("/")[0] + "/" not in said:
            self.failures.append(f"broker {node} refuses its disk and does not name {what['file']}: {said[-600:]}")
        self.done["rot-refused"] += 1
        self.cluster[node].environment["WIPED"] = "1"
        self.record("fault", phase="cure", kind="wipe", nodes=[node], args=what)

    # -- starvation

    def _begin_fds(self, nodes, args):
        broker = self.cluster[nodes[0]]
        if not self._serves(broker):
            return False  # one that only starts may end with 75, and be started again
        pid = broker.process.pid
        try:
            now = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self.limits[nodes[0]] = (pid, resource.prlimit(pid, resource.RLIMIT_NOFILE))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (now + args["spare"], self.limits[nodes[0]][1][1]))
        except (OSError, ProcessLookupError):
            self.limits.pop(nodes[0], None)
            return False
        # A write for which there is no descriptor takes the log directory offline, and then no stop is a clean one.
        self.starved.add(nodes[0])
        self.sockets.setdefault(nodes[0], []).extend(self._connections(broker, 20))
        return True

    @staticmethod
    def _serves(broker):
        try:
            return broker.running and broker.http("/readyz", 1.0)[0] == 200
        except OSError:
            return False

    def _end_fds(self, nodes, _):
        pid, limit = self.limits.pop(nodes[0], (None, None))
        try:
            if pid:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        except (OSError, ProcessLookupError):
            pass  # it died meanwhile
        self._hang_up(nodes[0])
        self.restart_if_offline(nodes[0])

    def _begin_memory(self, nodes, _):
        broker = self.cluster[nodes[0]]
        if not broker.running:
            return False
        self.world.limits[nodes[0]].set(broker.process.pid, MEMORY_LIMIT)
        slow = self._connections(broker, 60)
        frame = b"".join(raw.fetch_frame("bulk", range(3), 50 << 20, i) for i in range(4))
        for connection in slow:
            try:
                connection.sendall(frame)
            except OSError:
                pass
        self.sockets.setdefault(nodes[0], []).extend(slow)
        return True

    def _end_memory(self, nodes, _):
        self._hang_up(nodes[0])
        self.world.limits[nodes[0]].lift()

    def _connections(self, broker, count):
        made = []
        for _ in range(count):
            try:
                made.append(socket.create_connection((broker.host, broker.kafka_port), 0.5))
            except OSError:
                break
        return made

    def _hang_up(self, node):
        for connection in self.sockets.pop(node, []):
            connection.close()

    # -- cables

    def _heal_network(self, *_):
        self.network.heal()

    _end_isolate = _end_oneway = _end_bridge = _end_ring = _end_hide = _end_lose = _end_slow = _end_reset = _heal_network

    def _cut(self, node, peer):
        self.network.cut_address(node, self.cluster[peer].host)

    def _cut_both(self, node, peer):
        self._cut(node, peer)
        self._cut(peer, node)

    def _begin_isolate(self, nodes, _):
        for peer in self.cluster.brokers:
            if peer != nodes[0]:
                self._cut_both(nodes[0], peer)
        return True

    def _begin_oneway(self, nodes, _):
        self._cut(nodes[0], nodes[1])
        return True

    def _begin_bridge(self, nodes, _):
        """Two halves that see each other through the first node only."""
        rest = nodes[1:]
        left, right = rest[:len(rest) // 2], rest[len(rest) // 2:]
        for a in left:
            for b in right:
                self._cut_both(a, b)
        return True

    def _begin_ring(self, nodes, _):
        """Every node sees its two neighbours on a ring only; of three, each hears its successor but not its predecessor."""
        if len(nodes) == 3:
            for a, b in zip(nodes, nodes[1:] + nodes[:1]):
                self._cut(a, b)
            return True
        for i, a in enumerate(nodes):
            for j, b in enumerate(nodes):
                if i < j and (j - i) % len(nodes) not in (1, len(nodes) - 1):
                    self._cut_both(a, b)
        return True

    def _begin_hide(self, nodes, _):
        self.network.hide(nodes[0])
        return True

    def _begin_lose(self, nodes, args):
        self.network.lose(nodes[0], args["fraction"])
        return True

    def _begin_slow(self, nodes, args):
        self.network.slow(nodes[0], args["delay_ms"], args["kbit"])
        return True

    def _begin_reset(self, nodes, args):
        self.network.refuse(nodes[0], args["port"])
        return True

    # -- the end of a round

    def heal(self):
        """Every fault ends and every broker runs."""
        self.record("fault", phase="heal", kind="all", nodes=sorted(self.cluster.brokers), args={})
        self.network.heal()
        for node, broker in self.cluster.brokers.items():
            if node in self.limits:
                self._end_fds((node,), {})
            self._hang_up(node)
            self.world.limits[node].lift()
            self.cluster.images[node].release()
            if broker.running:
                broker.signal(signal.SIGCONT)
        for node in list(self.stopping_brokers):
            self._await_stop(node)
        for node in self.cluster.brokers:
            self.start(node)

    def stop_all(self):
        """All brokers end cleanly, one after another."""
        for node in self.cluster.brokers:
            self.term(node)
            self._await_stop(node)
