"""Generations and rounds: the order of things, the verdict, and what is kept of a failure.

Called by `__main__` and by `test_soak.py`. A failure leaves its directory (history, broker logs, data) and says the seed,
the round, its actions, the rule, and the command that replays the sequence.
"""

import random
import shutil
import subprocess
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from harness import cost, kafka, netns, wait
from harness.judge import Judge

from . import checks, load, plan
from .nemesis import Nemesis
from .recorder import Recorder, encode
from .world import PREFIX, World

STANDING = {"t0": (3, {}), "t1": (6, {"segment.bytes": "1048576"}), "t2": (1, {})}
BULK_RECORDS = 400


class Failure(Exception):
    """A round that broke a promise; `reasons` says which."""

    def __init__(self, reasons):
        super().__init__("; ".join(reasons[:3]))
        self.reasons = reasons


class Soak:
    def __init__(self, directory, seed, minutes, only_generation=None, say=print):
        self.root, self.seed, self.minutes, self.only, self.say = Path(directory), seed, minutes, only_generation, say
        self.stop = threading.Event()
        self.rounds, self.totals = 0, Counter()

    def run(self):
        """Runs until the minutes are over; raises Failure."""
        self.say(f"soak seed {self.seed}, {self.minutes:g} minutes")
        deadline = time.monotonic() + 60 * self.minutes
        generation, number = 0, 0
        while time.monotonic() < deadline and not self.stop.is_set():
            generation += 1
            shape = plan.shape(self.seed, generation)
            if self.only and generation < self.only:
                number += shape.rounds
                continue
            number = self._generation(generation, number, shape, deadline)
            if self.only:
                break
        self.say(f"soak seed {self.seed}: {self.rounds} rounds, {self.totals['acked']} acknowledged, "
                 f"{self.totals['unknown']} unknown, nothing lost")

    def _generation(self, generation, number, shape, deadline):
        self.say(f"generation {generation}: {shape}")
        directory = self.root / f"g{generation}"
        self.root.mkdir(parents=True, exist_ok=True)
        record = Recorder(self.root / f"history-{generation}.jsonl")
        # Before there are any namespaces: who cleans up after a killed run finds them by this.
        (self.root / "prefix").write_text(netns.Network(shape.brokers, PREFIX).prefix)
        last = None
        try:
            with World(directory, shape, record) as world:
                state = Generation(self, world, Judge())
                try:
                    state.form()
                    for turn in range(shape.rounds):
                        number += 1
                        last = plan.actions(self.seed, number, shape)
                        state.round(last)
                        self.rounds += 1
                        if self.stop.is_set() or (time.monotonic() > deadline and not self.only):
                            break
                    state.end()
                    self.totals += state.judge.counts
                except Exception as error:
                    self._keep(directory, world, error, last, generation)
                    raise
            record.close()
            shutil.rmtree(directory, ignore_errors=True)
            (self.root / f"history-{generation}.jsonl").unlink()
            return number
        finally:
            record.close()

    def _keep(self, directory, world, error, last, generation):
        reasons = error.reasons if isinstance(error, Failure) else [f"{type(error).__name__}: {error}"]
        report = [f"FAILED: seed {self.seed}, generation {generation}, round {last.number if last else 'none (forming)'}"]
        report += [f"  {reason}" for reason in reasons[:20]]
        report += [f"  ({len(reasons) - 20} more)"] if len(reasons) > 20 else []
        report += ["actions of the round:"] + [f"  {a}" for a in (last.actions if last else ())]
        report += [f"kept: {self.root}", f"replay: make soak MINUTES={self.minutes:g} SEED={self.seed} GENERATION={generation}"]
        if not isinstance(error, (Failure, AssertionError)):
            report.append(traceback.format_exc())
        (self.root / "report.txt").write_text("\n".join(report) + "\n")
        for line in report:
            self.say(line)
        for broker in world.cluster.brokers.values():
            if broker.running:
                for path, name in (("/status?detail=true", "status.json"), ("/doctor?format=json", "doctor.json")):
                    try:
                        (broker.dir / name).write_text(broker.http(path, 10)[1])
                    except OSError:
                        pass
        world.cluster.kill_all()
        for node, image in world.cluster.images.items():
            kept = directory / f"broker-{node}" / "kept"
            subprocess.run(["cp", "-r", str(image.mount), str(kept)], check=False, capture_output=True)
            image.image.unlink(missing_ok=True)


class Generation:
    """The rounds of one cluster."""

    def __init__(self, soak, world, judge):
        self.soak, self.world, self.judge, self.record = soak, world, judge, world.record
        self.nemesis = Nemesis(world, soak.stop)
        self.group_topics = list(STANDING)
        self.groups = {"g": self.group_topics}
        self.read_to, self.logs_seen = {}, {}
        self.registers = set()
        self.growth, self.hanging = cost.Growth(), []
        self.compared = False

    def form(self):
        """A formed cluster with its standing topics and enough data for slow readers."""
        world = self.world
        world.cluster.start().wait_ready(timeout=150)
        for topic, (partitions, config) in {**STANDING, "bulk": (3, {})}.items():
            wait.until(lambda t=topic, p=partitions, c=config: made(world.bootstrap(), t, p, c), f"topic {topic}", 150)
            self.record("created", topic=topic, ok=True)
            # What a topic was created with is what is seen until a change of it succeeds.
            for key, value in config.items():
                number = self.record.next_id()
                self.record("write", id=number, register=f"config {topic} {key}", value=value)
                self.record("wrote", id=number, ok=True)
            world.topics[topic] = partitions
        client = kafka.producer(world.bootstrap(), **{"log_level": 0})
        for number in range(BULK_RECORDS):
            name, partition = f"bulk.{number}", number % 3
            self.record("send", by="bulk", topic="bulk", partition=partition, value=name, acks=-1, idem=False)

            def outcome(error, message, name=name):
                self.record("sent", by="bulk", value=name, ok=error is None, offset=message.offset() if error is None else None)

            client.produce("bulk", encode(name), partition=partition, on_delivery=outcome)
            client.poll(0)
        if client.flush(120):
            raise Failure(["the bulk records could not be produced on a healthy cluster"])
        for topic in self.group_topics:
            for partition in range(world.topics[topic]):
                self.record("begin", group="g", topic=topic, partition=partition, offset=0)
        checks.healthy(world, self.nemesis)

    def _clients(self, round_):
        """Producers, and everybody else; drawn from the round's number so that a replay has the same."""
        world, rng, n = self.world, random.Random(f"{self.soak.seed}/clients/{round_.number}"), round_.number
        places = [(t, p) for t in STANDING for p in range(STANDING[t][0])]
        producers = []
        for label, acks, idempotent, rate in (("i", -1, True, 150), ("j", -1, True, 60), ("a", -1, False, 120), ("o", 1, False, 40),
                                              ("z", 0, False, 20)):
            some = rng.sample(places, rng.randint(1, len(places)))
            producers.append(load.Loader(world, f"{label}{n}", some, rate * rng.choice((0.3, 1, 1.5)), acks, idempotent,
                                         rng.choice(load.CODECS), rng.choice((0, 2, 20)), rng.choice((2500, 10000, 60000))))
        members = [load.Member(world, f"m{n}-{i}", "g", self.group_topics, world.shape.cooperative) for i in range(rng.randint(1, 3))]
        start = {place: self.read_to.get(place, 0) for place in places}
        others = [
            load.Reader(world, f"tail{n}", start),
            load.Reader(world, f"old{n}", {place: 0 for place in rng.sample(places, 3)}),
            load.Committer(world, f"c{n}", "reg", "t2", [0], 1000 * n),
            load.Committer(world, f"d{n}", "reg2", "t0", [0, 1, 2], 1000 * n),
            load.Probe(world, f"w{n}"),
        ]
        administrators = [load.Administrator(world, f"x{n}", rng.choice((1.0, 4.0)))]
        return producers, administrators, members, others

    def round(self, round_):
        begun = time.monotonic()
        nemesis, world = self.nemesis, self.world
        nemesis.begin_round()
        producers, administrators, members, others = self._clients(round_)
        everybody = [*producers, *administrators, *members, *others]
        try:
            for client in everybody:
                client.start()
            nemesis.run(round_.actions)
            nemesis.heal()
            healthy = checks.healthy(world, nemesis)
            checks.writable(world, round_.number)
            self._join([*producers, *administrators])
            checks.drained(world, self.groups, members)
            self._join([*members, *others])
            self._verify()
            self._rest()
        finally:
            self._abandon(everybody)
        stopped = self._restart() if round_.stop_cleanly else ""
        self.compared = round_.stop_cleanly
        what = _counted(nemesis.done) + (f" (nothing to do for {_counted(nemesis.undone)})" if nemesis.undone else "")
        acked, unknown = (self.judge.counts[k] for k in ("acked", "unknown"))
        self.soak.say(f"round {round_.number} ok: {time.monotonic() - begun:.0f} s, {what}; {acked} acked, {unknown} unknown, "
                      f"healthy in {healthy:.1f} s{stopped}")

    def _join(self, clients):
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(150)
        for client in clients:
            if client.is_alive() and client.closing:
                # All brokers are healthy and have nothing to tell a client that leaves: its own doing, as other such hangs of its.
                self.record("client-error", by=client.name, error="close() did not return")
                self.soak.say(f"client {client.name}: close() did not return in 150 s")
                self.hanging.append(client)
        reasons = [c.failure or f"{c.name} hangs" for c in clients if c.failure or c.is_alive() and not c.closing]
        if reasons:
            raise Failure(reasons)

    @staticmethod
    def _abandon(clients):
        """After a failure nobody waits long for clients."""
        for client in clients:
            client.stopping.set()
        deadline = time.monotonic() + 10
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))

    def _verify(self):
        """Everything is read back and judged."""
        world = self.world
        checks.healthy(world, self.nemesis)
        fresh = self.record.drain()
        self.judge.feed_all(fresh)
        seen = checks.views(world)
        placement = next(iter(seen.values()))
        self.record("exists", topics=sorted(placement))
        passing = self.judge.created - self.judge.maybe_deleted - set(world.topics)
        checks.read_back(world, {t: len(placement[t]) for t in sorted(passing) if t in placement})
        writes = {r for r in self.judge.registers}
        checks.committed_offsets(world, {(g, *_place(p)) for g, p in (r.split(" ")[1:] for r in writes if r.startswith("offset "))})
        checks.configurations(world, {tuple(r.split(" ")[1:]) for r in writes if r.startswith("config ")})
        checks.processes(world, self.logs_seen)
        fresh = self.record.drain()
        self.judge.feed_all(fresh)
        self.read_to = {(e["topic"], e["partition"]): e["end"] for e in fresh if e["op"] == "final" and e["topic"] in STANDING}
        reasons = [str(v) for v in self.judge.verdict()] + self.nemesis.failures
        if reasons:
            raise Failure(reasons)

    def _rest(self):
        """Nothing is left to do, so nobody may do anything."""
        self.hanging = [client for client in self.hanging if client.is_alive()]
        looks = checks.at_rest(self.world, self.growth, bool(self.hanging))
        for look in looks:
            self.record("rest", **look._asdict())

    def end(self):
        """The last thing of every generation: what the files hold is compared, if the last round did not do it."""
        if not self.compared:
            self.soak.say(f"stopped{self._stop_and_compare()}")

    def _restart(self):
        """A clean stop of all, the files compared, and on again."""
        compared = self._stop_and_compare()
        for node in self.world.cluster.brokers:
            self.nemesis.start(node)
        checks.healthy(self.world, self.nemesis)
        return compared

    def _stop_and_compare(self):
        checks.settled(self.world)
        placement = next(iter(checks.views(self.world).values()))
        self.nemesis.stop_all()
        if self.nemesis.failures:
            raise Failure(self.nemesis.failures)
        return f", {checks.replicas_alike(self.world, placement)} records alike on all replicas"


def made(bootstrap, topic, partitions, config):
    """Whether the topic is there: made now, or by an attempt whose answer was late."""
    try:
        kafka.create_topic(bootstrap, topic, partitions, 3, config)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    return True


def _counted(kinds):
    return " ".join(f"{kind}{f'x{count}' if count > 1 else ''}" for kind, count in sorted(kinds.items()))


def _place(text):
    topic, _, partition = text.rpartition("/")
    return topic, int(partition)
