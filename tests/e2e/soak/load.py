"""Clients under test: producers of all kinds, readers, a group, a committer, an administrator, and a probe of high watermarks.

Each is a thread with a name that stands in the history. `runner` starts them at the beginning of a round, stops the producers
when faults are healed, and joins all of them; a thread that died of an exception is a failure of the round.
"""

import logging
import random
import struct
import threading
import time
import traceback

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from harness import kafka, raw

from .recorder import decode, encode

QUICK = {
    "retry.backoff.ms": 20, "retry.backoff.max.ms": 300, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 300,
    "socket.timeout.ms": 10000, "socket.connection.setup.timeout.ms": 3000, "log_level": 0,
}
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class Client(threading.Thread):
    """A thread that works until it is told to stop."""

    def __init__(self, world, name):
        super().__init__(daemon=True, name=name)
        self.world, self.record = world, world.record
        self.stopping = threading.Event()
        self.failure, self.closing = None, False

    def run(self):
        try:
            self.work()
        except Exception:  # noqa: BLE001 - told by runner
            self.failure = f"{self.name}: {traceback.format_exc(limit=-3)}"

    def work(self):
        raise NotImplementedError

    def close(self, client):
        """Closes a consumer; `closing` tells that a thread which does not end is held up there, by librdkafka alone."""
        self.closing = True
        client.close()
        self.closing = False

    def config(self, **more):
        return {"bootstrap.servers": self.world.bootstrap_for_long(), "client.id": self.name, "error_cb": lambda _: None, **QUICK, **more}


class Loader(Client):
    """Produces numbered records to random partitions of `topics`."""

    def __init__(self, world, name, topics, rate, acks, idempotent=False, codec="none", linger=5,
                 patience=60000):
        super().__init__(world, name)
        self.topics, self.rate, self.acks, self.idempotent = topics, rate, acks, idempotent
        self.settings = {"acks": acks, "enable.idempotence": idempotent, "compression.type": codec, "linger.ms": linger,
                         "message.timeout.ms": patience, "request.timeout.ms": min(patience, 30000), "topic.metadata.refresh.interval.ms": 2000}
        self.lives, self.sent, self.acked = 0, 0, 0

    def _delivered(self, name):
        def outcome(error, message):
            if error is None:
                self.acked += 1
                self.record("sent", by=self.name, value=name, ok=True, offset=message.offset())
            else:
                self.record("sent", by=self.name, value=name, ok=False, error=error.name())

        return outcome

    def work(self):
        rng = random.Random(self.name)
        while not self.stopping.is_set():
            self.lives += 1
            self._live(f"{self.name}{'' if self.lives == 1 else f'b{self.lives}'}", rng)

    def _live(self, life, rng):
        """One producer, until told to stop or until it cannot go on."""
        told = {"debug": "eos", "log_level": 7, "logger": bumps(self.record, life)} if self.idempotent else {}
        client = Producer(self.config(**self.settings, **told))
        number, fatal = 0, None
        while not self.stopping.is_set() and fatal is None:
            topic, partition = rng.choice(self.topics)
            name = f"{life}.{number}"
            number += 1
            self.record("send", by=life, topic=topic, partition=partition, value=name, acks=self.acks, idem=self.idempotent)
            try:
                client.poll(0)
                client.produce(topic, encode(name), partition=partition, on_delivery=self._delivered(name))
                self.sent += 1
            except KafkaException as error:
                fatal = error.args[0]
            except BufferError:
                self.stopping.wait(0.2)
            self.stopping.wait(1 / self.rate)
        try:
            left = client.flush(90)
        except KafkaException as error:
            fatal, left = error.args[0], len(client)
        if fatal is not None and self.idempotent:
            # librdkafka cannot always rebuild a batch that it has to send again: its own doing, no broker said anything.
            own = "Unable to reconstruct MessageSet" in str(fatal)
            self.record("client-error" if own else "fatal", by=life, error=str(fatal))
            left = 0 if own else left
        if left:
            raise AssertionError(f"{left} records neither acknowledged nor failed")


def bumps(record, life):
    """A log of librdkafka that tells the history when the producer begins a new epoch. It does so with no record given up,
    too: when a batch is refused, those of the partition that were sent behind it are out of order. What was under way in
    other partitions is sent again as well, and of what was there already nobody can know in the new epoch."""
    class Bumps(logging.Handler):
        def emit(self, line):
            text = line.getMessage()
            if "epoch bump" in text:
                record("bumped", by=life, why=text[:200])

    log = logging.Logger(life, logging.DEBUG)
    log.addHandler(Bumps())
    return log


class Reader(Client):
    """Reads partitions by assignment, from their beginnings or from where it is told."""

    def __init__(self, world, name, positions):
        super().__init__(world, name)
        self.positions = positions

    def work(self):
        client = Consumer(self.config(**{
            "group.id": self.name, "enable.auto.commit": False, "auto.offset.reset": "error", "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 50, "topic.metadata.refresh.interval.ms": 2000, "check.crcs": True,
        }))
        for (topic, partition), offset in self.positions.items():
            self.record("assign", by=self.name, assignment=1, topic=topic, partition=partition, offset=offset)
        client.assign([TopicPartition(t, p, o) for (t, p), o in self.positions.items()])
        while not self.stopping.is_set():
            tell_reads(self, client.consume(500, 0.3), lambda _: 1)
        self.close(client)


def tell_reads(client, messages, assignment_of, **more):
    """Records runs of consecutive records of one partition as one event each."""
    run = None
    for message in messages:
        if message.error():
            if message.error().code() not in TRANSIENT:
                client.record("client-error", by=client.name, error=str(message.error()))
            if message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                client.record("fatal", by=client.name, error=f"reader: {message.error()}")
            continue
        place = (message.topic(), message.partition())
        if run and run[0] == place and run[1] + len(run[2]) == message.offset():
            run[2].append(decode(message.value()))
            continue
        _flush(client, run, assignment_of, more)
        run = (place, message.offset(), [decode(message.value())])
    _flush(client, run, assignment_of, more)


def _flush(client, run, assignment_of, more):
    if run:
        (topic, partition), offset, values = run
        client.record("read", by=client.name, assignment=assignment_of((topic, partition)), topic=topic, partition=partition,
                      offset=offset, values=values, **more)


# librdkafka (issue 5586) never asks again for the offsets of partitions whose OffsetFetch was answered with NOT_COORDINATOR, and
# never reads them. Who uses it has to begin anew.
FORGOTTEN = "Failed to fetch committed offsets for 0 partition(s)"
# It may lose every broker for good ("no broker available for coordinator query"): seen with brokers that for a moment told it of nobody,
# which ours no longer do, and after its own re-bootstrap (KIP-899). A consumer that hears of nothing for so many seconds begins anew,
# and says so, as its supervisor would see to.
SILENCE = 30
TRANSIENT = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT}


class Member(Client):
    """A member of a consumer group that commits what it was given."""

    def __init__(self, world, name, group, topics, cooperative):
        super().__init__(world, name)
        self.group, self.topics, self.cooperative = group, topics, cooperative
        self.assignments, self.next, self.fresh, self.generation = {}, {}, {}, -1
        self.commits, self.seen = {}, {}
        self.heard = time.monotonic()

    def told(self):
        """What it owns and how far it came, for people."""
        owned = ", ".join(f"{t}-{p} read to {self.seen.get((t, p))}" for t, p in sorted(dict(self.assignments)))
        return f"{self.name} generation {self.generation}: {owned or 'nothing'}"

    def _current_generation(self, client):
        """Of the group metadata that librdkafka hands to transactions: `CGMDv2:`, generation, group, member."""
        return struct.unpack_from("=i", client.consumer_group_metadata(), 7)[0]

    def _assigned(self, client, partitions):
        self.heard = time.monotonic()
        self.generation = self._current_generation(client)
        places = [(p.topic, p.partition) for p in partitions]
        owned = sorted({*places, *self.assignments})
        event = self.record("own", group=self.group, generation=self.generation, member=self.name, partitions=owned)
        for place in places:
            self.assignments[place] = self.record.next_id()
            self.fresh[place] = event["t"]
            self.record("assign", by=self.name, assignment=self.assignments[place], topic=place[0], partition=place[1], offset=None)
        if self.cooperative:
            client.incremental_assign(partitions)

    def _revoked(self, client, partitions):
        self._commit(client)
        for p in partitions:
            self._forget((p.topic, p.partition))
        if self.cooperative:
            client.incremental_unassign(partitions)

    def _lost(self, client, partitions):
        for p in partitions:
            self._forget((p.topic, p.partition))
        if self.cooperative:
            client.incremental_unassign(partitions)

    def _forget(self, place):
        for table in (self.assignments, self.next, self.fresh):
            table.pop(place, None)

    def _commit(self, client):
        offsets, era = [], [self.group, self.generation]
        for (topic, partition), offset in self.next.items():
            number = self.record.next_id()
            self.record("write", id=number, register=f"offset {self.group} {topic}/{partition}", value=offset, era=era)
            self.commits.setdefault((topic, partition, offset), []).append((number, time.monotonic()))
            offsets.append(TopicPartition(topic, partition, offset))
        if not offsets:
            return
        self.next.clear()
        try:
            client.commit(offsets=offsets, asynchronous=True)
        except KafkaException:
            pass  # unknown, as every commit that nobody answers

    def _committed(self, error, partitions):
        if error is None:
            self.heard = time.monotonic()
        for p in partitions or ():
            for number, begun in self.commits.pop((p.topic, p.partition, p.offset), ()):
                self.record("wrote", id=number, ok=True if error is None and p.error is None and sent_once(begun) else None)

    def work(self):
        while not self.stopping.is_set():
            self._live()

    def _live(self):
        """One consumer, until told to stop or until it is stuck."""
        client = Consumer(self.config(**{
            "group.id": self.group, "enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100,
            "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "max.poll.interval.ms": 300000,
            "topic.metadata.refresh.interval.ms": 2000,
            "partition.assignment.strategy": "cooperative-sticky" if self.cooperative else "range",
            "on_commit": self._committed, "debug": "cgrp", "log_level": 7, "logger": client_log(self.world.dir),
        }))
        client.subscribe(self.topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self.heard = committed = time.monotonic()
        stuck = False
        while not self.stopping.is_set() and not stuck:
            messages = client.consume(200, 0.2)
            if any(not m.error() for m in messages):
                self.heard = time.monotonic()
            silent = time.monotonic() - self.heard > SILENCE
            stuck = silent or any(m.error() and FORGOTTEN in m.error().str() for m in messages)
            if silent:
                print(f"{self.name} heard nothing for {SILENCE} s and begins anew", flush=True)
            # What was taken from us within this very call is no longer ours to commit.
            good = [m for m in messages if not m.error() and (m.topic(), m.partition()) in self.assignments]
            for message in good:
                place = (message.topic(), message.partition())
                began = self.fresh.pop(place, None)
                if began is not None:
                    # Where a fresh owner begins is what it was told to be committed; 0 also when nothing was.
                    offset = message.offset()
                    self.record("look", register=f"offset {self.group} {place[0]}/{place[1]}", began=began, value=offset or None)
                self.next[place] = self.seen[place] = message.offset() + 1
            tell_reads(self, messages, lambda place: self.assignments.get(place, -1), group=self.group)
            if time.monotonic() - committed > 0.7:
                self._commit(client)
                committed = time.monotonic()
        self._commit(client)
        self.close(client)
        for place in list(self.assignments):
            self._forget(place)


def sent_once(begun):
    """Whether a commit cannot have been sent twice. A client that repeats it after its time-out leaves a copy on the way, in a
    socket or in a packet that is sent again, which may still set the offset later: with any broker."""
    return time.monotonic() - begun < QUICK["socket.timeout.ms"] / 1000 - 1


def client_log(directory):
    """Where what clients say of themselves goes, to be read after a failure."""
    log = logging.getLogger(f"clients {directory}")
    if not log.handlers:
        handler = logging.FileHandler(directory / "clients.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.propagate = False
    return log


class Committer(Client):
    """Commits ever higher offsets for a group without members and reads them back.

    librdkafka at times drops a commit together with the broker connection that carried it and tells nobody (a synchronous one then
    waits for ever). That is its own doing as long as a fresh client is answered once all brokers are healthy, which is required.
    """

    def __init__(self, world, name, group, topic, partitions, start):
        super().__init__(world, name)
        self.group, self.topic, self.partitions, self.value = group, topic, partitions, start

    def work(self):
        rng = random.Random(self.name)
        while not self.stopping.is_set():
            self._live(rng, self.stopping.is_set)
        for _ in range(3):
            if self._live(rng, lambda: True):
                return
        raise AssertionError("three fresh clients in a row got no answer to a commit, and all brokers are healthy")

    def _live(self, rng, ended):
        """One client, until `ended` or until it lost a commit. Ends with a commit; says whether that was answered."""
        answers = []

        def committed(error, places):
            answers.append(error or next((place.error for place in places or () if place.error), None))

        client = Consumer(self.config(**{"group.id": self.group, "enable.auto.commit": False, "on_commit": committed}))
        answered = True
        while answered and not ended():
            if rng.random() < 0.6:
                answered = self._commit(client, rng.choice(self.partitions), answers)
            else:
                look(self, client, self.group, self.topic, rng.choice(self.partitions))
            self.stopping.wait(0.1)
        answered = answered and self._commit(client, rng.choice(self.partitions), answers)
        self.close(client)
        return answered

    def _commit(self, client, partition, answers):
        self.value += 1
        number = self.record.next_id()
        self.record("write", id=number, register=f"offset {self.group} {self.topic}/{partition}", value=self.value)
        answers.clear()
        begun = time.monotonic()
        deadline = begun + 45
        try:
            client.commit(offsets=[TopicPartition(self.topic, partition, self.value)], asynchronous=True)
            while not answers and time.monotonic() < deadline:
                client.consume(1, 0.05)
        except KafkaException as error:
            answers.append(error)
        if not answers:
            self.record("client-error", by=self.name, error="a commit was never answered")
        # `is`: comparing a KafkaError with None leaves an exception pending that kills the thread at its next call.
        self.record("wrote", id=number, ok=True if answers and answers[0] is None and sent_once(begun) else None)
        return bool(answers)


def look(client, consumer, group, topic, partition, timeout=10):
    """Reads a committed offset into the history; says whether it was answered."""
    began = time.monotonic()
    try:
        answer = consumer.committed([TopicPartition(topic, partition)], timeout=timeout)[0]
    except KafkaException:
        return False
    if answer.error is not None:
        return False
    value = answer.offset if answer.offset >= 0 else None
    client.record("look", register=f"offset {group} {topic}/{partition}", began=began, value=value)
    return True


class Administrator(Client):
    """Creates topics, fills them, deletes some of them, and changes configurations."""

    def __init__(self, world, name, pace):
        super().__init__(world, name)
        self.pace = pace

    def work(self):
        client = kafka.AdminClient(self.config())
        producer = Producer(self.config(**{"acks": "all", "message.timeout.ms": 20000}))
        rng = random.Random(self.name)
        mine, turn = [], 0
        while not self.stopping.is_set():
            turn += 1
            draw = rng.random()
            if draw < 0.35:
                topic = f"{self.name}-{turn}"
                if self._create(client, topic, rng.randint(1, 3)):
                    mine.append(topic)
                    self._fill(producer, topic)
            elif draw < 0.55 and mine:
                self._drop(client, mine.pop(rng.randrange(len(mine))))
            else:
                self._configure(client, rng.choice(("t0", "t1")), rng.choice(("segment.bytes", "max.message.bytes")),
                                rng.choice((1 << 20, 2 << 20, 4 << 20, 16 << 20)))
            producer.poll(0)
            self.stopping.wait(rng.expovariate(1 / self.pace))
        left = producer.flush(60)
        if left:
            raise AssertionError(f"{left} records neither acknowledged nor failed")

    def _create(self, client, topic, partitions):
        self.record("create", topic=topic)
        try:
            client.create_topics([NewTopic(topic, partitions, 3)], operation_timeout=10, request_timeout=12)[topic].result(20)
            ok = True
        except (KafkaException, TimeoutError):
            ok = None
        self.record("created", topic=topic, ok=ok)
        return ok

    def _fill(self, producer, topic):
        for number in range(20):
            name = f"{topic}.{number}"
            self.record("send", by=topic, topic=topic, partition=0, value=name, acks=-1, idem=False)

            def outcome(error, message, name=name):
                self.record("sent", by=self.name, value=name, ok=error is None, offset=message.offset() if error is None else None)

            producer.produce(topic, encode(name), partition=0, on_delivery=outcome)

    def _drop(self, client, topic):
        self.record("delete", topic=topic)
        try:
            client.delete_topics([topic], operation_timeout=10, request_timeout=12)[topic].result(20)
            ok = True
        except (KafkaException, TimeoutError):
            ok = None
        self.record("deleted", topic=topic, ok=ok)

    def _configure(self, client, topic, key, value):
        number = self.record.next_id()
        entry = ConfigEntry(key, str(value), incremental_operation=AlterConfigOpType.SET)
        self.record("write", id=number, register=f"config {topic} {key}", value=str(value))
        try:
            resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
            client.incremental_alter_configs([resource], request_timeout=10)[resource].result(15)
            ok = True
        except (KafkaException, TimeoutError):
            ok = None
        self.record("wrote", id=number, ok=ok)


class Probe(Client):
    """Asks every broker, one after another, for the high watermarks of what it thinks it leads."""

    def work(self):
        connections = {}
        while not self.stopping.is_set():
            for node, (host, port) in self.world.kafka_addresses().items():
                try:
                    if node not in connections:
                        connections[node] = raw.Connection(host, port, timeout=1.0)
                    self._ask(node, connections[node])
                except (OSError, struct.error):
                    broken = connections.pop(node, None)
                    if broken:
                        broken.close()
                if self.stopping.is_set():
                    break
            self.stopping.wait(0.2)
        for connection in connections.values():
            connection.close()

    def _ask(self, node, connection):
        wanted = {}
        for topic, partitions in connection.metadata().items():
            led = [(p.index, p.epoch) for p in partitions if p.leader == node]
            if led and topic in self.world.topics:
                wanted[topic] = led
        if not wanted:
            return
        epochs = {(t, p): epoch for t, partitions in wanted.items() for p, epoch in partitions}
        for (topic, partition), (error, offset) in connection.offsets(wanted).items():
            if error == 0:
                self.record("mark", broker=node, topic=topic, partition=partition, epoch=epochs[(topic, partition)], offset=offset)
