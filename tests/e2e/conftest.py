"""Fixtures: a directory and clusters per test; nothing survives a test."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import kafka  # noqa: E402
from harness.cluster import Cluster  # noqa: E402


@pytest.fixture
def cluster(tmp_path):
    """Three started brokers, all ready."""
    with Cluster(tmp_path) as three:
        three.start().wait_ready()
        yield three


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Three brokers for tests that break nothing."""
    with Cluster(tmp_path_factory.mktemp("shared")) as three:
        three.start().wait_ready()
        yield three


@pytest.fixture
def topic(request):
    """A topic name of the test's own."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:80]


def pytest_collection_modifyitems(config, items):
    """In CI nothing may be skipped: what a test needs and the machine lacks is then an error."""
    del config, items
    if os.environ.get("CI"):
        for command in ("kcat", "java", "ip", "iptables", "mkfs.ext4"):
            assert any((Path(d) / command).exists() for d in os.environ["PATH"].split(":")), f"CI needs {command}"
        assert (kafka.CACHE / "franz" / "franz").exists(), "CI needs the franz-go client"
