"""What a seed does: cluster shapes and timed actions, drawn before anything runs, so that a seed replays the same sequence.

Called by `runner`. The fault budget is kept here: any process may be killed, frozen, cut off or starved at any time, but what a
disk holds is lost on one victim per round only (power cut, wipe, rot, full disk), except in durable mode, where all may lose power
at once, and then nobody's disk is lost. Between rounds all replicas are in sync again, so the next round may have another victim.
"""

import random
from typing import NamedTuple

from . import rot

ROLES = ("controller", "leader:t0/0", "leader:t1/1", "leader:__consumer_offsets/0")
"""Brokers by what they do at the moment; resolved when the action begins."""


class Shape(NamedTuple):
    """A cluster of one generation."""

    brokers: int
    voters: int
    durable: bool
    named: bool
    rounds: int
    config: dict
    cooperative: bool

    def __str__(self):
        kind = "durable" if self.durable else "os flush"
        return f"{self.brokers} brokers, {self.voters} voters, {kind}, {'DNS' if self.named else 'static'}"


class Action(NamedTuple):
    """At `at` seconds into the round, `kind` begins; it ends `seconds` later."""

    at: float
    kind: str
    nodes: tuple
    seconds: float
    args: dict

    def __str__(self):
        nodes = ",".join(map(str, self.nodes))
        more = " ".join(f"{k}={v}" for k, v in self.args.items())
        return f"{self.at:5.1f}s +{self.seconds:.1f}s {self.kind} {nodes} {more}".rstrip()


class Round(NamedTuple):
    number: int
    seconds: float
    victim: int
    actions: tuple
    stop_cleanly: bool


def shape(seed, generation):
    """The cluster of a generation."""
    rng = random.Random(f"{seed}/shape/{generation}")
    brokers = rng.choices((3, 4, 5), (8, 2, 2))[0]
    durable = rng.random() < 0.25
    config = {
        "flush": "every-ack" if durable else "os",
        "replica.lag.time.max.ms": rng.choice((2000, 5000, 10000)),
        "replica.fetch.wait.max.ms": rng.choice((100, 500)),
        "log.segment.bytes": rng.choice((1 << 20, 8 << 20, 1 << 30)),
        "raft.compact.bytes": rng.choice((64 << 10, 1 << 20)),
        "queued.max.request.bytes": 64 << 20,
        "log.retention.ms": -1,
        # Producers would bring deleted topics back.
        "auto.create.topics.enable": False,
        "offsets.topic.num.partitions": 4,
    }
    voters = 3 if brokers == 4 else rng.choice((3, 5)) if brokers == 5 else 3
    return Shape(brokers, voters, durable, rng.random() < 0.4, rng.randint(2, 5), config, rng.random() < 0.5)


# kind: (weight, shortest, longest). Network kinds follow one another, all others may overlap.
KINDS = {
    "kill": (10, 0.0, 8.0), "kill-many": (4, 0.2, 6.0), "kill-all": (3, 0.0, 3.0), "term": (5, 0.0, 6.0), "rolling": (2, 1.0, 3.0),
    "pause": (7, 0.2, 8.0), "pause-many": (3, 0.2, 4.0), "clock": (3, 0.0, 2.0), "fds": (3, 2.0, 8.0), "memory": (2, 4.0, 10.0),
    "power": (4, 0.2, 5.0), "full": (2, 2.0, 8.0), "wipe": (2, 0.2, 5.0), "rot": (5, 0.2, 5.0), "power-all": (5, 0.2, 2.0), "move": (2, 0.5, 4.0),
    "isolate": (4, 1.0, 12.0), "oneway": (4, 1.0, 12.0), "bridge": (3, 2.0, 12.0), "ring": (3, 2.0, 12.0), "hide": (2, 1.0, 10.0),
    "lose": (3, 2.0, 10.0), "slow": (3, 2.0, 10.0), "reset": (2, 1.0, 6.0),
}
NETWORK = ("isolate", "oneway", "bridge", "ring", "hide", "lose", "slow", "reset")
DISK_LOSS = ("power", "full", "wipe", "rot")


def allowed(shape_, victim, all_lose_power):
    """Kinds this round may use."""
    del victim
    kinds = set(KINDS)
    if all_lose_power:
        kinds -= {"wipe", "rot"}
    else:
        kinds -= {"power-all"}
    if not shape_.named:
        kinds -= {"move"}
    if shape_.brokers < 4:
        kinds -= {"ring"} if shape_.brokers < 3 else set()
    return kinds


def actions(seed, number, shape_):
    """The actions of a round, in order of their beginnings. Swarm style: each round uses some kinds only."""
    rng = random.Random(f"{seed}/round/{number}")
    nodes = list(range(1, shape_.brokers + 1))
    victim = rng.choice(nodes)
    seconds = rng.uniform(12, 40)
    possible = sorted(allowed(shape_, victim, shape_.durable and rng.random() < 0.7))
    kinds = rng.sample(possible, min(len(possible), rng.randint(2, 7)))
    pace = rng.choice((1.0, 2.5, 5.0))
    drawn, now, network_free, disk_free = [], rng.uniform(1.0, 3.0), 0.0, 0.0
    while now < seconds:
        kind = rng.choices(kinds, [KINDS[k][0] for k in kinds])[0]
        _, shortest, longest = KINDS[kind]
        action = _action(rng, kind, nodes, victim, now, rng.uniform(shortest, min(longest, max(shortest, seconds - now))))
        if kind in NETWORK and now < network_free or kind in DISK_LOSS and now < disk_free:
            now += pace / 4
            continue
        drawn.append(action)
        if kind in NETWORK:
            network_free = now + action.seconds
        if kind in DISK_LOSS:
            disk_free = now + action.seconds + 4
        now += rng.expovariate(1 / pace)
    return Round(number, seconds, victim, tuple(drawn), rng.random() < 0.4)


def _action(rng, kind, nodes, victim, at, seconds):
    someone = rng.choice(nodes) if rng.random() < 0.5 else rng.choice(ROLES)
    others = rng.sample(nodes, len(nodes))
    who, args = (someone,), {}
    if kind in DISK_LOSS:
        who = (victim,)
    elif kind in ("kill-all", "power-all", "rolling", "bridge", "ring"):
        who = tuple(others)
    elif kind in ("kill-many", "pause-many"):
        who = tuple(others[:rng.randint(2, max(2, len(nodes) - 1))])
    elif kind == "oneway":
        who = tuple(others[:2])
    if kind == "clock":
        args["offset_ms"] = rng.choice((-1, 1)) * rng.choice((500, 5_000, 60_000, 3_600_000))
    elif kind == "lose":
        args["fraction"] = round(rng.choice((0.02, 0.1, 0.3)), 3)
    elif kind == "slow":
        args |= {"delay_ms": rng.choice((20, 100, 400)), "kbit": rng.choice((512, 2048, 8192))}
    elif kind == "fds":
        args["spare"] = rng.choice((0, 1, 3, 10))
    elif kind == "rot":
        args |= {"target": rng.choice(sorted(rot.TARGETS)), "how": rng.choice(rot.HOW), "seed": rng.randrange(1 << 32)}
    elif kind == "reset":
        args["port"] = rng.choice((9092, 9192, 9292))
    return Action(round(at, 2), kind, who, round(seconds, 2), args)
