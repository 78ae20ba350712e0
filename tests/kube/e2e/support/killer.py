"""kill -9 of the operator at random moments, while something is under way that it drives."""

import threading


class Killer:
    """A context manager: kills every replica's process again and again, at most `most` times, so that the rest is certain to end."""

    def __init__(self, operator, chance, most=10):
        self.operator, self.chance, self.most = operator, chance, most
        self.kills, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        # The first one soon: before the operator can have finished anything that takes pods.
        pause = self.chance.uniform(0, 1)
        while self.kills < self.most and not self.done.wait(pause):
            self.kills += bool(self.operator.kill())
            pause = self.chance.uniform(0.2, 2)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.done.set()
        self.thread.join(60)
        if kind is None:
            assert self.kills, "the operator was never killed"
            print(f"    the operator was killed {self.kills} times")
            self.operator.wait_ready()
