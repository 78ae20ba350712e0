"""Waiting for conditions of Kubernetes: as `harness.wait`, with the patience that two busy cores need. A wait that succeeds costs nothing more."""

from harness import wait
from harness.wait import Timeout

__all__ = ["Timeout", "until"]


def until(condition, what, timeout=300.0, interval=0.1):
    return wait.until(condition, what, timeout, interval)
