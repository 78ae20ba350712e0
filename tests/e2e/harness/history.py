"""What was acknowledged, and whether it is still there: the judge of every chaos test."""

import struct
import threading
import time

from . import kafka


class Workload(threading.Thread):
    """Produces numbered records with acks=all until stopped, remembering what was acknowledged where.

    A record whose delivery failed has an unknown outcome: it may be in the log or not, but never twice when the producer
    is idempotent.
    """

    def __init__(self, bootstrap, topic, name="w", rate=400, **config):
        super().__init__(daemon=True)
        self.bootstrap, self.topic, self.label, self.rate = bootstrap, topic, name, rate
        self.config = config
        self.acked, self.failed, self.sent = {}, [], 0
        self.longest_gap, self._last_ack = 0.0, None
        self._stop_asked = threading.Event()
        self.error = None

    def _delivered(self, error, message):
        if error is not None:
            self.failed.append((message.value(), str(error)))
            return
        now = time.monotonic()
        if self._last_ack is not None:
            self.longest_gap = max(self.longest_gap, now - self._last_ack)
        self._last_ack = now
        position = (message.partition(), message.offset())
        if message.offset() is None:
            # The answer was lost, and librdkafka knows from the success of a later batch that this one is in the log, not where.
            position = (message.partition(), None, message.value())
        previous = self.acked.setdefault(position, message.value())
        if previous != message.value():
            self.error = f"{position} was acknowledged for {previous!r} and for {message.value()!r}"

    def run(self):
        try:
            client = kafka.producer(self.bootstrap, **self.config)
            while not self._stop_asked.is_set():
                value = f"{self.label}-{self.sent}".encode()
                try:
                    client.produce(self.topic, value, key=str(self.sent % 16).encode(), on_delivery=self._delivered)
                    self.sent += 1
                except BufferError:
                    client.poll(0.05)
                client.poll(0)
                time.sleep(1 / self.rate)
            left = client.flush(150)
            if left:
                self.error = f"{left} records neither acknowledged nor failed"
        except Exception as error:  # noqa: BLE001 - raised again by finish()
            self.error = repr(error)

    def finish(self):
        """Stops producing, waits for every outcome and returns what was acknowledged."""
        self._stop_asked.set()
        self.join(200)
        assert not self.is_alive(), "the producer hangs"
        assert self.error is None, self.error
        assert self.acked, "nothing was acknowledged at all"
        return self.acked

    def wait_acks(self, more=50, timeout=180):
        """Waits until `more` further records are acknowledged."""
        from . import wait

        target = len(self.acked) + more
        wait.until(lambda: len(self.acked) >= target or self.error, f"{more} more acknowledgements", timeout)
        assert self.error is None, self.error


def check_nothing_lost(acked, records):
    """Every acknowledged record is read exactly at its offset; one whose offset nobody was told, somewhere in its partition."""
    read = {(partition, None, value) for (partition, _), value in records.items()}
    unplaced = {position: value for position, value in acked.items() if position[1] is None}
    gone = [value for position, value in unplaced.items() if position not in read]
    assert not gone, f"{len(gone)} of {len(acked)} acknowledged records lost, first {sorted(gone)[:3]}"
    acked = {position: value for position, value in acked.items() if position not in unplaced}
    lost = {position: value for position, value in acked.items() if position not in records}
    assert not lost, f"{len(lost)} of {len(acked)} acknowledged records lost, first {sorted(lost.items())[:3]}"
    changed = {p: (v, records[p]) for p, v in acked.items() if records[p] != v}
    assert not changed, f"{len(changed)} acknowledged records changed, first {sorted(changed.items())[:3]}"


def check_no_duplicates(records):
    """No value stands in the log twice (idempotent producers, invariant 6)."""
    seen = {}
    for position, value in records.items():
        assert value not in seen, f"{value!r} is at {seen[value]} and at {position}"
        seen[value] = position


def check_order(records, label="w"):
    """Per partition, the numbers of one producer only grow."""
    last = {}
    for (partition, offset), value in sorted(records.items()):
        name, _, number = value.decode().rpartition("-")
        if name != label:
            continue
        assert int(number) > last.get(partition, -1), f"{value!r} at {partition}/{offset} comes after {last[partition]}"
        last[partition] = int(number)


def batches(directory):
    """Raw batches of a partition directory in order: [(base offset, next offset, bytes)]."""
    found = []
    for path in sorted(directory.glob("*.log")):
        data, at = path.read_bytes(), 0
        while at + 61 <= len(data):
            base, length = struct.unpack_from(">qi", data, at)
            if length <= 0 or at + 12 + length > len(data):
                break
            delta = struct.unpack_from(">i", data, at + 23)[0]
            found.append((base, base + delta + 1, data[at:at + 12 + length]))
            at += 12 + length
    return found


def check_sequences(name, log):
    """The batches of a log: offsets are dense, and every (producer, epoch, sequence) is there once and in order.

    The first batch of a producer may carry any sequence, as in Kafka: when the first of several that are on their way meets
    a broker that does not lead yet, the next one finds a leader that knows nothing of the producer. That a record before it is
    missing is seen in the history, and so is the order of what was sent (`judge`).
    """
    known, end = {}, None
    for base, next_, raw in log:
        assert end is None or base == end, f"{name}: a batch begins at {base}, the one before ends at {end}"
        end = next_
        producer, epoch, sequence = struct.unpack_from(">qhi", raw, 43)
        if producer < 0 or struct.unpack_from(">h", raw, 21)[0] & 0x20:
            continue
        if producer in known:
            last, expected = known[producer]
            assert epoch >= last, f"{name}@{base}: producer {producer} has epoch {epoch} after {last}"
            expected = expected if epoch == last else 0
            assert sequence == expected, f"{name}@{base}: producer {producer} epoch {epoch} has sequence {sequence}, not {expected}"
        known[producer] = (epoch, (sequence + next_ - base) & 0x7FFFFFFF)


def check_replicas_identical(cluster, topic, partitions):
    """All replicas of stopped brokers hold the same bytes as far as all of them reach; returns the records compared."""
    compared = 0
    for partition in partitions:
        logs = {b.id: batches(b.data / "data" / f"{topic}-{partition}") for b in cluster.brokers.values()}
        end = min((log[-1][1] if log else 0) for log in logs.values())
        cut = {node: [raw for _, next_, raw in log if next_ <= end] for node, log in logs.items()}
        first = next(iter(cut))
        for node, raw in cut.items():
            assert raw == cut[first], f"{topic}-{partition}: brokers {first} and {node} differ below offset {end}"
        compared += end
    return compared
