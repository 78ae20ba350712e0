"""A real client in a process of its own, within the pods' network: creates a topic, produces until told to stop, reads all back.

Started by `load.Load`, one JSON object of settings as its only argument. Writes its progress to a file four times a second.
The line `stop` on its input ends producing; it then judges what was acknowledged and writes the verdict.
"""

import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "e2e"))

from harness import history, kafka, wait  # noqa: E402


def main():
    settings = json.loads(sys.argv[1])
    bootstrap, topic, out = settings["bootstrap"], settings["topic"], Path(settings["out"])

    def write(**facts):
        out.with_suffix(".new").write_text(json.dumps(facts))
        out.with_suffix(".new").replace(out)

    try:
        if settings["create"]:
            wait.until(lambda: kafka.admin(bootstrap).list_topics(timeout=5).brokers, "brokers", 300)
            create = {"partitions": settings["partitions"], "replication": settings["replication"], "config": settings["config"]}
            kafka.create_topic(bootstrap, topic, **create)
        load = history.Workload(bootstrap, topic, rate=settings["rate"], **{"enable.idempotence": True})
        load.start()
        stop = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
        while not stop.wait(0.25):
            write(acked=len(load.acked), failed=len(load.failed), error=load.error, gap=load.longest_gap, at=time.time())
        acked = load.finish()
        records = kafka.read_all(bootstrap, topic, 400)
        history.check_nothing_lost(acked, records)
        history.check_no_duplicates(records)
        history.check_order(records)
        write(acked=len(acked), failed=len(load.failed), failures=load.failed[:3] and [str(f[1]) for f in load.failed[:3]],
              read=len(records), gap=load.longest_gap, verdict="ok", error=None)
    except BaseException as error:
        write(acked=0, failed=0, error=f"{type(error).__name__}: {error}", verdict="failed")
        raise


main()
