"""The client that produces through every scenario and proves at the end that nothing acknowledged was lost."""

import json
import subprocess
import sys
from pathlib import Path

from . import wait

CLIENT = Path(__file__).resolve().parent / "client.py"


class Load:
    """A context manager: producing begins at once, `finish` judges. Leaving the block without `finish` judges, too."""

    def __init__(self, kube, directory, bootstrap, topic="load", *, partitions=6, replication=3, rate=200, create=True, config=None, outside=False):
        self.out = Path(directory) / f"{topic}.json"
        self.log = open(Path(directory) / f"{topic}.log", "ab")  # noqa: SIM115 - closed with the process
        settings = {"bootstrap": bootstrap, "topic": topic, "out": str(self.out), "partitions": partitions, "replication": replication,
                    "rate": rate, "create": create, "config": config or {}}
        command = [sys.executable, str(CLIENT), json.dumps(settings)]
        self.command = command if outside else kube.inside(*command)
        self.process, self.result = None, None

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, text=True)
        try:
            self.wait_acks(20)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None and self.result is None:
                self.finish()
        finally:
            self._kill()

    def _kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def facts(self):
        return json.loads(self.out.read_text()) if self.out.exists() else {"acked": 0, "error": None}

    def acked(self):
        facts = self.facts()
        assert not facts["error"], f"the client failed: {facts['error']}"
        assert self.process.poll() is None, f"the client ended with {self.process.returncode}; see {self.log.name}"
        return facts["acked"]

    def wait_acks(self, more=200, timeout=300):
        """Producing goes on: `more` further records are acknowledged."""
        target = self.acked() + more
        wait.until(lambda: self.acked() >= target, f"{more} more acknowledged records", timeout, 0.1)

    def finish(self):
        """Stops producing, reads everything back; returns the verdict: acked, failed, gap (longest pause between two acks, seconds)."""
        self.process.stdin.write("stop\n")
        self.process.stdin.flush()
        code = self.process.wait(900)
        self.result = self.facts()
        assert code == 0 and self.result.get("verdict") == "ok", f"judged: {self.result}"
        print(f"    load: {self.result['acked']} acknowledged and read back, {self.result['failed']} failed, longest pause {self.result['gap']:.2f} s")
        return self.result
