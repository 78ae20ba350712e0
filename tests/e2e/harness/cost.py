"""What a cluster costs that has nothing to do: processor time, requests, descriptors, memory, unrest in the quorum.

The soak asks after every round, once faults and load have ended (`quiet`, `Growth`); so does `test_cost.py`. Histories of
clients show none of this: a broker may keep every promise and burn a core for ever.
Bounds are many times what an idle broker was seen to need, and say nothing about how fast the machine is: the time of a process
does not pass while others run.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

CLOSE_WAIT = "08"
MB = 1 << 20


class Sample(NamedTuple):
    """One look at one broker; `requests` and those after it are counters since its start."""

    node: int
    pid: int
    at: float
    cpu: float
    rss: int
    threads: int
    files: int
    files_on_disk: int
    deleted: int
    sockets: int
    close_wait: int
    term: int
    leader: int
    requests: dict
    raft: float
    applied: float
    elections: float
    connects: float


class Limits(NamedTuple):
    """Most that one broker of a quiet cluster may need. Rates are per second."""

    cpu: float
    fetches: float
    others: float
    raft: float
    applied: float
    connects: float
    threads: int
    sockets: int
    close_wait: int
    deleted: int

    @classmethod
    def of(cls, brokers, fetch_wait_ms=500):
        """Every other broker asks once per `fetch_wait_ms`, and hears five heartbeats per second."""
        others = max(1, brokers - 1)
        threads = 30 + 2 * (os.cpu_count() or 1)
        return cls(cpu=0.25, fetches=20 + others * 5 * 1000 / fetch_wait_ms, others=20, raft=100 * others, applied=5,
                   connects=1, threads=threads, sockets=60 + 20 * others, close_wait=5, deleted=64)

    def with_clients(self):
        """Somebody outside still asks: nothing is said about requests."""
        return self._replace(fetches=float("inf"), others=float("inf"), sockets=1 << 20)


class Restless(AssertionError):
    """Who goes on doing what, and how much."""


def metrics(text):
    """The samples of a scrape."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid):
    """What the descriptors of a process point to."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass  # closed meanwhile
    return links


def in_close_wait(pid, links):
    """Sockets of a process whose other side has hung up long ago, and which it does not close."""
    own = {link[len("socket:["):-1] for link in links if link.startswith("socket:[")}
    found = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            found += fields[3] == CLOSE_WAIT and fields[9] in own
    return found


def sample(broker):
    """Looks at a running broker."""
    pid = broker.process.pid
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    raft, seen = broker.status()["raft"], metrics(broker.http("/metrics")[1])

    def family(prefix):
        return {name: value for name, value in seen.items() if name.startswith(prefix)}

    links = descriptors(pid)
    files = [link for link in links if link.startswith("/") and not link.startswith("/dev/")]
    api = "chronik_kafka_requests_total"
    return Sample(
        node=broker.id, pid=pid, at=time.monotonic(), cpu=cpu_seconds(pid), rss=int(status["VmRSS"].split()[0]) << 10,
        threads=int(status["Threads"]), files=len(files), files_on_disk=sum(len(f) for _, _, f in os.walk(broker.data)),
        deleted=sum(link.endswith(" (deleted)") for link in files),
        sockets=sum(link.startswith("socket:[") for link in links), close_wait=in_close_wait(pid, links),
        term=raft["term"], leader=raft["leader"] or 0,
        requests={name[len(api) + 6:-2]: value for name, value in family(api).items()},
        raft=sum(family("chronik_raft_messages_").values()), applied=seen["chronik_raft_applied_index"],
        elections=seen["chronik_raft_elections_total"], connects=sum(family("chronik_peer_connects_total").values()),
    )


def excess(before, after, limits):
    """What one broker did between two looks beyond the limits, in words."""
    who, seconds, found = f"broker {after.node}", max(after.at - before.at, 0.001), []
    if before.pid != after.pid:
        return [f"{who}: process {before.pid} became {after.pid}"]

    def rate(what, difference, limit):
        if difference / seconds > limit:
            found.append(f"{who}: {difference / seconds:.1f} {what} per second, at most {limit:g}")

    def most_of(what, value, limit):
        if value > limit:
            found.append(f"{who}: {value} {what}, at most {limit}")

    share = (after.cpu - before.cpu) / seconds
    if share > limits.cpu:
        found.append(f"{who}: {100 * share:.0f} % of a core, at most {100 * limits.cpu:g} %")
    asked = {api: count - before.requests.get(api, 0) for api, count in after.requests.items()}
    rate("Fetch requests", asked.pop("Fetch", 0), limits.fetches)
    most = max(asked.items(), key=lambda one: one[1], default=("none", 0))
    rate(f"requests other than Fetch (most: {most[0]})", sum(asked.values()), limits.others)
    rate("messages of the quorum", after.raft - before.raft, limits.raft)
    rate("changes of the metadata", after.applied - before.applied, limits.applied)
    rate("new connections to other brokers", after.connects - before.connects, limits.connects)
    most_of("threads", after.threads, limits.threads)
    most_of("sockets", after.sockets, limits.sockets)
    most_of("sockets in CLOSE_WAIT", after.close_wait, limits.close_wait)
    most_of("deleted files still open", after.deleted, limits.deleted)
    most_of("open files", after.files - after.deleted, after.files_on_disk + 64)
    for what in ("term", "leader", "elections"):
        if getattr(before, what) != getattr(after, what):
            found.append(f"{who}: {what} of the quorum went from {getattr(before, what):g} to {getattr(after, what):g}")
    return found


def quiet(brokers, limits, within=60.0, window=4.0):
    """Waits until for `window` seconds on end nobody exceeds the limits; gives the last looks. Who never comes to rest is named."""
    deadline = time.monotonic() + within
    before = [sample(broker) for broker in brokers]
    while True:
        time.sleep(window)
        after = [sample(broker) for broker in brokers]
        found = [reason for one, other in zip(before, after) for reason in excess(one, other, limits)]
        if not found:
            return after
        if time.monotonic() > deadline:
            raise Restless(f"not quiet within {within:.0f} s of the end of all work: {'; '.join(found)}")
        before = after


# Quantity: what it may grow by from one quiet moment to the next, time after time.
STEPS = {"rss": 24 * MB, "threads": 2, "sockets": 3}
MOMENTS = 4


class Growth:
    """What grows at every quiet moment in the life of a process grows without bound."""

    def __init__(self):
        self._seen = {}

    def note(self, samples):
        """Remembers the looks of one quiet moment; gives what grew too often."""
        found = []
        for one in samples:
            life = self._seen.setdefault((one.node, one.pid), [])
            life.append(one)
            for what, step in STEPS.items():
                values = [getattr(look, what) for look in life[-MOMENTS:]]
                if len(values) == MOMENTS and all(b - a > step for a, b in zip(values, values[1:])):
                    found.append(f"broker {one.node}: {what} grew from one quiet moment to the next: {values}")
        return found
