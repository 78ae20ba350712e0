"""The history: every invocation and result with a monotonic time, in a file of JSON lines and handed on to the judge.

`load`, `nemesis` and `checks` write from many threads; `runner` drains at the end of a round. An event's place in the history is
its place in time: both are settled under one lock.
"""

import itertools
import json
import threading
import time
from zlib import crc32


class Recorder:
    def __init__(self, path):
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._lock = threading.Lock()
        self._new = []
        self._ids = itertools.count()

    def __call__(self, op, **fields):
        with self._lock:
            event = {"t": round(time.monotonic(), 6), "op": op, **fields}
            self._new.append(event)
            self._file.write(json.dumps(event, separators=(",", ":")) + "\n")
        return event

    def next_id(self):
        return next(self._ids)

    def drain(self):
        """Events since the last drain."""
        with self._lock:
            new, self._new = self._new, []
            self._file.flush()
        return new

    def close(self):
        self._file.close()


def encode(name):
    """The bytes of the record called `name`: the name, and a length and content that follow from it."""
    digest = crc32(name.encode())
    if name.startswith("bulk"):
        length = 60_000
    else:
        length = (0, 20, 100, 300, 300, 1000, 1000, 9000)[digest % 8]
    pattern = f"{digest:08x}"
    return f"{name}|".encode() + (pattern * (length // 8 + 1))[:length].encode()


def decode(raw):
    """The name of a record; bytes that nobody sent get a name that nobody sent."""
    name = raw.split(b"|", 1)[0].decode(errors="replace")
    return name if encode(name) == raw else f"damaged {raw[:60]!r}"
