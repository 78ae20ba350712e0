"""Waiting for conditions. Tests never assert on elapsed time; they wait, with deadlines generous enough for a busy machine."""

import time


class Timeout(AssertionError):
    """A condition that did not come true in time; carries what was seen last."""


def until(condition, what, timeout=120.0, interval=0.05):
    """Calls `condition` until it returns something true and returns that; exceptions count as "not yet"."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever went wrong is reported if it lasts
            last = error
        if time.monotonic() > deadline:
            raise Timeout(f"waited {timeout:.0f} s in vain for: {what}; last seen: {last!r}")
        time.sleep(interval)
