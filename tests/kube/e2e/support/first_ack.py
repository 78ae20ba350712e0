"""A client that is there before its cluster: says `there`, then when a record of a new topic was first acknowledged by all replicas.

Started by `measure.time_to_usable` within the pods' network, with `bootstrap.servers` as its only argument.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "e2e"))

from harness import kafka  # noqa: E402


def main():
    hasty = {"retry.backoff.ms": 5, "retry.backoff.max.ms": 20, "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 20, "linger.ms": 0,
             "topic.metadata.refresh.fast.interval.ms": 10, "message.timeout.ms": 300000, "log_level": 0,
             # The address of a Service may be known before it leads anywhere: what was sent then is lost.
             "socket.connection.setup.timeout.ms": 1000}
    client, acked = kafka.producer(sys.argv[1], **hasty), []
    client.produce("first", b"x", on_delivery=lambda error, _: acked.append(time.monotonic()) if error is None else sys.exit(str(error)))
    print("there", flush=True)
    while not acked:
        client.poll(0.005)
    print(acked[0], flush=True)


main()
