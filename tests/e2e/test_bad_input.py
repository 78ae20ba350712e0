"""Wrong configuration and hostile bytes."""

import os
import socket
import struct
import subprocess

import pytest
from harness import kafka, wait
from harness.cluster import BROKER


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no.such.key: 1", ["no.such.key"]),
        ("node.id: zero", ["node.id"]),
        ("node.id: 0", ["node.id", "1"]),
        ("kafka.port: 99999", ["kafka.port", "65535"]),
        ("flush: sometimes", ["flush", "every-ack"]),
        ("broker.session.timeout.ms: 10", ["broker.session.timeout.ms", "broker.heartbeat.interval.ms"]),
        ("raft.election.ticks: 1", ["raft.election.ticks"]),
        ("bootstrap.voters: [1, 1]", ["bootstrap.voters"]),
        ("peers: [{id: 1, host: a}]\nbootstrap.voters: [1, 2]", ["bootstrap.voters", "2"]),
        ("peers: [{id: 1, host: 'x', raft.port: 0}]", ["peers"]),
        ("node.id: [", ["broker.yaml"]),
    ],
)
def test_a_configuration_mistake_names_the_key_and_ends_with_64(tmp_path, line, words):
    config = tmp_path / "broker.yaml"
    base = {"cluster.id": "cluster.id: c", "data.dir": f"data.dir: {tmp_path}/d", "node.id": "node.id: 1"}
    base.pop(line.split(":")[0], None)
    config.write_text("\n".join([*base.values(), line]) + "\n")
    done = subprocess.run([BROKER, "run", "--config", str(config)], capture_output=True, text=True, timeout=90, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 64, f"exit {done.returncode}: {output}"
    for word in words:
        assert word in output, f"{word!r} is not in: {output}"


def test_an_environment_variable_overrides_and_is_checked_like_the_file(tmp_path):
    config = tmp_path / "broker.yaml"
    config.write_text(f"cluster.id: c\nnode.id: 1\ndata.dir: {tmp_path}/d\n")
    done = subprocess.run([BROKER, "run", "--config", str(config)], capture_output=True, text=True, timeout=90, check=False,
                          env={**os.environ, "CHRONIK_NUM_PARTITIONS": "many"})
    assert done.returncode == 64
    assert "num.partitions" in done.stdout + done.stderr


def exchange(address, payload, timeout=60):
    """Sends raw bytes; returns everything that comes back until the broker closes or, having answered, goes silent."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout) as peer:
        peer.sendall(payload)
        received = b""
        try:
            while chunk := peer.recv(65536):
                received += chunk
                peer.settimeout(3)
            return received, True
        except TimeoutError:
            return received, False
        except ConnectionResetError:
            return received, True


def frame(key, version, body=b"", correlation=7, client=b"t"):
    head = struct.pack(">hhih", key, version, correlation, len(client)) + client
    return struct.pack(">i", len(head + body)) + head + body


HOSTILE = {
    "negative frame size": struct.pack(">i", -5),
    "gigantic frame": struct.pack(">i", 0x7FFFFFFF) + b"x" * 100,
    "an http request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown api": frame(4711, 0),
    "unsupported version": frame(0, 99),
    "produce v0": frame(0, 0, b"\0" * 20),
    "empty header": struct.pack(">i", 0),
    "header cut short": struct.pack(">i", 3) + b"abc",
    "metadata with two billion topics": frame(3, 1, struct.pack(">i", 0x7FFFFFFF)),
    "metadata body cut short": frame(3, 1, struct.pack(">i", 3) + b"\0\1a"),
    "fetch of a replica on the client listener": frame(1, 4, struct.pack(">iiiib", 2, 100, 1, 1000, 0) + struct.pack(">i", 0)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_frames_close_the_connection_and_nothing_else(shared, what):
    broker = shared[1]
    received, closed = exchange(broker.kafka, HOSTILE[what])
    assert closed or received, f"{what}: no answer and no close"
    assert broker.running, broker.log()[-2000:]
    assert "panicked" not in broker.log()
    kafka.kcat("-b", broker.kafka, "-L")


def test_an_unknown_apiversions_version_is_answered_with_version_zero(shared):
    host, port = shared[1].kafka.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall(frame(18, 99, b"\0"))
        stream = peer.makefile("rb")
        body = stream.read(struct.unpack(">i", stream.read(4))[0])
    correlation, error, count = struct.unpack_from(">ihi", body)
    assert (correlation, error) == (7, 35)
    assert count > 20


def test_random_garbage_from_many_connections_leaves_the_broker_standing(shared):
    import random

    rng = random.Random(4711)
    broker = shared[2]
    memory = broker.status()["process"]["rss_bytes"]
    for _ in range(300):
        size = rng.randrange(1, 400)
        garbage = rng.randbytes(size)
        if rng.random() < 0.7:
            garbage = struct.pack(">ihh", size + 4, rng.randrange(0, 76), rng.randrange(0, 14)) + garbage
        host, port = broker.kafka.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            peer.sendall(garbage)
    assert broker.running and "panicked" not in broker.log()
    wait.until(lambda: broker.ready(), "readiness")
    assert broker.status()["process"]["rss_bytes"] < memory + (100 << 20)


def test_requests_of_one_connection_are_answered_in_order(shared):
    host, port = shared[1].kafka.rsplit(":", 1)
    metadata, versions = (3, 1, struct.pack(">i", 0)), (18, 0, b"")
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        kinds = [metadata, versions] * 50
        peer.sendall(b"".join(frame(*kind, correlation=i) for i, kind in enumerate(kinds)))
        stream = peer.makefile("rb")
        for i in range(len(kinds)):
            size = struct.unpack(">i", stream.read(4))[0]
            assert struct.unpack(">i", stream.read(size)[:4])[0] == i
