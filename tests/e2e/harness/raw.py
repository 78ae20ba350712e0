"""The few Kafka requests that a judge sends by itself, to one given broker: no client library hides from it who answered.

Old, rigid versions on purpose: Metadata 7, ListOffsets 4, Fetch 4, ElectLeaders 1. One request at a time per `Connection`.
"""

import socket
import struct
from typing import NamedTuple

LATEST, EARLIEST = -1, -2
PREFERRED, UNCLEAN = 0, 1


class Partition(NamedTuple):
    index: int
    leader: int
    epoch: int
    replicas: tuple
    isr: tuple


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return value[0] if len(value) == 1 else value

    def text(self):
        length = self.take("h")
        if length < 0:
            return None
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def array(self, item):
        return [item() for _ in range(max(0, self.take("i")))]


def _text(value):
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw


def _array(items):
    items = list(items)
    return struct.pack(">i", len(items)) + b"".join(items)


def fetch_frame(topic, partitions, max_bytes, correlation=0):
    """A Fetch of `partitions` from their start, framed: for readers that never read the answer."""
    asked = _array(struct.pack(">iqi", p, 0, max_bytes) for p in partitions)
    body = struct.pack(">iiiib", -1, 100, 1, max_bytes, 0) + _array([_text(topic) + asked])
    return _frame(1, 4, correlation, body)


def _frame(key, version, correlation, body):
    payload = struct.pack(">hhi", key, version, correlation) + _text("judge") + body
    return struct.pack(">i", len(payload)) + payload


class Connection:
    """One connection to one broker; any OSError means that the broker did not answer."""

    def __init__(self, host, port, timeout=2.0):
        self.socket = socket.create_connection((host, port), timeout)
        self.correlation = 0

    def close(self):
        self.socket.close()

    def _receive(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed by the broker")
            data += piece
        return bytes(data)

    def _call(self, key, version, body):
        self.correlation += 1
        self.socket.sendall(_frame(key, version, self.correlation, body))
        length, correlation = struct.unpack(">ii", self._receive(8))
        payload = self._receive(length - 4)
        if correlation != self.correlation:
            raise ConnectionError(f"answer {correlation} to request {self.correlation}")
        return _Reader(payload)

    def brokers(self):
        """Ids of the brokers that this broker tells clients of."""
        r = self._call(3, 7, struct.pack(">i", -1) + b"\0")
        r.take("i")
        return [node for node, *_ in r.array(lambda: (r.take("i"), r.text(), r.take("i"), r.text()))]

    def metadata(self):
        """Topic -> [Partition], as this broker sees it."""
        r = self._call(3, 7, struct.pack(">i", -1) + b"\0")
        r.take("i")
        r.array(lambda: (r.take("i"), r.text(), r.take("i"), r.text()))
        r.text()
        r.take("i")

        def partition():
            _, index, leader, epoch = r.take("hiii")
            replicas, isr, _ = (tuple(r.array(lambda: r.take("i"))) for _ in range(3))
            return Partition(index, leader, epoch, replicas, isr)

        def topic():
            r.take("h")
            name = r.text()
            r.take("b")
            return name, sorted(r.array(partition))

        return dict(r.array(topic))

    def offsets(self, wanted, timestamp=LATEST):
        """`wanted` is {topic: [(partition, leader epoch)]}; gives {(topic, partition): (error, offset)}.

        A broker that leads in another epoch than the one asked refuses, so an answer is of exactly that epoch.
        """
        topics = (_text(name) + _array(struct.pack(">iiq", p, epoch, timestamp) for p, epoch in partitions)
                  for name, partitions in wanted.items())
        r = self._call(2, 4, struct.pack(">ib", -1, 0) + _array(topics))
        r.take("i")

        def topic():
            name = r.text()
            return [((name, index), (error, offset)) for index, error, _, offset, _ in r.array(lambda: r.take("ihqqi"))]

        return dict(pair for answers in r.array(topic) for pair in answers)

    def elect(self, kind, places, timeout_ms=60000):
        """ElectLeaders 1 of `places` [(topic, partition)]; gives {(topic, partition): error}."""
        topics = {}
        for topic, partition in places:
            topics.setdefault(topic, []).append(partition)
        asked = _array(_text(name) + _array(struct.pack(">i", p) for p in partitions) for name, partitions in topics.items())
        r = self._call(43, 1, struct.pack(">b", kind) + asked + struct.pack(">i", timeout_ms))
        _, error = r.take("ih")
        if error:
            raise ConnectionError(f"ElectLeaders was refused altogether with {error}")

        def topic():
            name = r.text()
            return [((name, index), code) for index, code, _ in r.array(lambda: (*r.take("ih"), r.text()))]

        return dict(pair for answers in r.array(topic) for pair in answers)
