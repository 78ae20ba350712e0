"""What must hold after every round: health, everything read back, replicas alike, processes within their bounds.

Called by `runner` in this order: `healthy`, `writable`, (clients stop,) `drained`, `read_back`, `processes`, `at_rest`, `settled`, and
after a clean stop `replicas_alike`. All of them wait with generous bounds and raise `Unhealthy` with what was seen last.
"""

import re
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import ConfigResource, ConfigSource, ResourceType
from harness import cost, history, kafka, raw, wait

from . import load
from .recorder import decode

HEALTHY_WITHIN = 150
QUIET_WITHIN = 60
RSS_LIMIT = 600 << 20
FD_LIMIT = 1500
THREAD_LIMIT = 200


class Unhealthy(AssertionError):
    """Liveness: something did not come back in time."""


def _until(condition, what, timeout):
    """As `wait.until`, where a condition returns (True, _) or (False, why not)."""
    seen = [None]

    def ask():
        good, seen[0] = condition()
        return good

    try:
        wait.until(ask, what, timeout, 0.2)
    except wait.Timeout as error:
        raise Unhealthy(f"not within {timeout} s: {what}: {seen[0] or error}") from error


def views(world):
    """Every broker's own view of all partitions: node -> topic -> [Partition]."""
    seen = {}
    for node, (host, port) in world.kafka_addresses().items():
        connection = raw.Connection(host, port, 20.0)
        try:
            seen[node] = connection.metadata()
        finally:
            connection.close()
    return seen


def healthy(world, nemesis):
    """All ready, one leader, the same metadata everywhere, every replica in sync. Gives the seconds it took."""
    begun = time.monotonic()

    def now():
        nemesis.watch()
        if nemesis.failures:
            raise AssertionError("; ".join(nemesis.failures))
        statuses = {}
        for node, broker in world.cluster.brokers.items():
            if not broker.running:
                nemesis.start(node)
                return False, f"broker {node} was down"
            if nemesis.restart_if_offline(node):
                return False, f"broker {node} was offline"
            code, body = broker.http("/readyz")
            if code != 200:
                return False, f"broker {node} is not ready: {body.strip()}"
            statuses[node] = broker.status()
        leaders = {s["raft"]["leader"] for s in statuses.values()}
        hashes = {(s["raft"]["applied"], s["raft"]["metadata_hash"]) for s in statuses.values()}
        if len(leaders) != 1 or None in leaders or 0 in leaders:
            return False, f"leaders of the quorum: {leaders}"
        for applied in {a for a, _ in hashes}:
            if len({h for a, h in hashes if a == applied}) > 1:
                raise AssertionError(f"brokers differ in their metadata at index {applied}: {sorted(hashes)}")
        if len(hashes) != 1:
            return False, f"metadata not caught up: {sorted(hashes)}"
        by_node = views(world)
        first = next(iter(by_node.values()))
        for node, view in by_node.items():
            if view != first:
                return False, f"brokers {next(iter(by_node))} and {node} see other partitions"
        sick = [f"{t}-{p.index} leader {p.leader} isr {p.isr} of {p.replicas}" for t, ps in first.items() for p in ps
                if p.leader < 0 or set(p.isr) != set(p.replicas)]
        return not sick, f"{len(sick)} sick partitions: {sick[:4]}"

    _until(now, "the cluster to be healthy after all faults ended", HEALTHY_WITHIN)
    return time.monotonic() - begun


def writable(world, number):
    """A record to every partition of the standing topics is acknowledged by all."""
    record, missing = world.record, set()
    client = kafka.producer(world.bootstrap(), **{"message.timeout.ms": 60000, "log_level": 0, "client.id": f"probe{number}"})
    for topic, partitions in world.topics.items():
        for partition in range(partitions):
            name = f"probe{number}-{topic}-{partition}.0"
            missing.add(name)
            record("send", by="probe", topic=topic, partition=partition, value=name, acks=-1, idem=False)

            def outcome(error, message, name=name):
                record("sent", by="probe", value=name, ok=error is None, offset=message.offset() if error is None else None)
                if error is None:
                    missing.discard(name)

            client.produce(topic, load.encode(name), partition=partition, on_delivery=outcome)
    client.flush(90)
    if missing:
        raise Unhealthy(f"not writable after all faults ended: {sorted(missing)}")


def _reader(world):
    return Consumer({
        "bootstrap.servers": world.bootstrap(), "group.id": "final", "enable.auto.commit": False, "auto.offset.reset": "error",
        "fetch.wait.max.ms": 50, "check.crcs": True, "log_level": 0, "error_cb": lambda _: None,
    })


def read_back(world, exists):
    """Every record of every standing topic and of every topic that should exist, into the history."""
    consumer = _reader(world)
    try:
        for topic, partitions in {**world.topics, **exists}.items():
            for partition in range(partitions):
                marks = wait.until(lambda t=topic, p=partition: consumer.get_watermark_offsets(TopicPartition(t, p), timeout=10),
                                   f"watermarks of {topic}-{partition}")
                _read_partition(world, consumer, topic, partition, *marks)
    finally:
        consumer.close()


def _read_partition(world, consumer, topic, partition, start, end):
    values, deadline = [], time.monotonic() + 90
    consumer.assign([TopicPartition(topic, partition, start)])
    while len(values) < end - start:
        if time.monotonic() > deadline:
            raise Unhealthy(f"{topic}-{partition}: {len(values)} records of [{start}, {end}) could be read in 90 s")
        for message in consumer.consume(2000, 0.3):
            if message.error():
                continue
            if message.offset() != start + len(values) and message.offset() < end:
                raise AssertionError(f"{topic}-{partition}: offset {message.offset()} where {start + len(values)} is next")
            if message.offset() < end:
                values.append(decode(message.value()))
    world.record("final", topic=topic, partition=partition, start=start, end=end, values=values)


def drained(world, groups, members):
    """Groups came to the end of all partitions and committed that; the committed offsets stand in the history. A member that
    died would keep its partitions for long (its client goes on heartbeating): then there is nothing to wait for."""
    ends, consumer = {}, _reader(world)
    try:
        for topic, partitions in world.topics.items():
            for partition in range(partitions):
                _, high = wait.until(lambda t=topic, p=partition: consumer.get_watermark_offsets(TopicPartition(t, p), timeout=10),
                                     "watermarks")
                ends[(topic, partition)] = high
    finally:
        consumer.close()
    for group, topics in groups.items():
        reader = Consumer({"bootstrap.servers": world.bootstrap(), "group.id": group, "log_level": 0, "error_cb": lambda _: None})
        wanted = [TopicPartition(t, p) for (t, p) in ends if t in topics]
        try:
            def there(reader=reader, wanted=wanted):
                dead = [m.failure for m in members if m.failure]
                if dead:
                    raise AssertionError("; ".join(dead))
                behind = {f"{c.topic}-{c.partition}": (c.offset, ends[(c.topic, c.partition)])
                          for c in reader.committed(wanted, timeout=10) if c.offset < ends[(c.topic, c.partition)]}
                owners = [m.told() for m in members]
                return not behind, f"committed and end: {dict(list(behind.items())[:4])}; members: {'; '.join(owners)}"

            _until(there, f"group {group} to read everything", 120)
        finally:
            reader.close()


def committed_offsets(world, registers):
    """Looks at every committed offset; `registers` holds (group, topic, partition)."""
    for group in sorted({g for g, _, _ in registers}):
        consumer = Consumer({"bootstrap.servers": world.bootstrap(), "group.id": group, "log_level": 0, "error_cb": lambda _: None})
        try:
            for _, topic, partition in sorted(r for r in registers if r[0] == group):
                asked = wait.until(lambda c=consumer, g=group, t=topic, p=partition: load.look(world, c, g, t, p),
                                   f"the offset of {group} {topic}-{partition}")
                assert asked
        finally:
            consumer.close()


def configurations(world, registers):
    """Looks at configurations that were changed; `registers` holds (topic, key)."""
    client = kafka.admin(world.bootstrap())
    for topic, key in sorted(registers):
        began = time.monotonic()
        resource = ConfigResource(ResourceType.TOPIC, topic)
        ask = lambda r=resource: client.describe_configs([r])[r].result(90)  # noqa: E731
        entry = wait.until(ask, f"the settings of {topic}")[key]
        # What the brokers' own files say is not what the topic was given.
        own = int(entry.source) == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        world.record("look", register=f"config {topic} {key}", began=began, value=entry.value if own else None)


def settled(world):
    """Every replica holds all its leader holds: nothing more comes, so that the files can be compared."""
    def now():
        ends = {}
        for broker in world.cluster.running():
            for p in broker.http_json("/status?detail=true")["partitions"]:
                ends.setdefault((p["topic"], p["partition"]), {})[broker.id] = p["log_end"]
        differing = {place: by for place, by in ends.items() if len(set(by.values())) > 1}
        return not differing, f"log ends: {dict(list(differing.items())[:3])}"

    _until(now, "all replicas to hold the same", 60)


def replicas_alike(world, placement):
    """Stopped brokers: every replica of a partition holds the same batches, from offset 0 on, as nobody deletes records;
    `placement` is topic -> [Partition]. Gives records."""
    compared = 0
    for topic, partitions in placement.items():
        for p in partitions:
            logs = {n: history.batches(world.cluster[n].data / "data" / f"{topic}-{p.index}") for n in p.replicas}
            for n, log in logs.items():
                history.check_sequences(f"{topic}-{p.index} on broker {n}", log)
                assert not log or log[0][0] == 0, f"{topic}-{p.index}: the log of broker {n} begins at {log[0][0]}"
            first, *others = logs
            for n in others:
                for mine, theirs in zip(logs[first], logs[n]):
                    assert mine == theirs, f"{topic}-{p.index}: brokers {first} and {n} differ at {mine[:2]} and {theirs[:2]}"
                assert len(logs[first]) == len(logs[n]), \
                    f"{topic}-{p.index}: {first} has {len(logs[first])} batches, {n} has {len(logs[n])}"
            compared += logs[first][-1][1] if logs[first] else 0
    return compared


def at_rest(world, growth, clients_hang):
    """Nobody asks for anything any more: for some seconds nobody does anything either, and nothing grows from round to round.
    Gives the looks at all brokers."""
    limits = cost.Limits.of(world.shape.brokers, world.shape.config["replica.fetch.wait.max.ms"])
    try:
        looks = cost.quiet(world.cluster.running(), limits.with_clients() if clients_hang else limits, QUIET_WITHIN)
    except cost.Restless as error:
        raise Unhealthy(str(error)) from error
    grown = growth.note(looks)
    if grown:
        raise Unhealthy("; ".join(grown))
    return looks


PANIC = re.compile(r"panicked at|internal error: entered unreachable|assertion .* failed|stack overflow|memory allocation of")


def processes(world, seen):
    """No panic in any log (from where `seen` stopped reading); memory, descriptors and threads within bounds."""
    for node, broker in world.cluster.brokers.items():
        text = broker.log()
        fresh, seen[node] = text[seen.get(node, 0):], len(text)
        found = PANIC.search(fresh)
        assert not found, f"broker {node}: {fresh[max(0, found.start() - 200):found.end() + 600]}"
        if broker.running:
            process = broker.status()["process"]
            for name, limit in (("rss_bytes", RSS_LIMIT), ("open_fds", FD_LIMIT), ("threads", THREAD_LIMIT)):
                assert process[name] <= limit, f"broker {node}: {name} is {process[name]}, more than {limit}"
